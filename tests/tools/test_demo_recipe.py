"""The parts of the demo model's recipe that need neither its data nor hours: words, where to look, detail, sources."""

import functools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from tools.demo_model import data, decoder, evaluate, parts, rollout, sources, sprite_words, text, unet
from tools.demo_model.captions import plain_prompt
from tools.demo_model.detail import detail_loss
from tools.demo_model.objects import OBJECTS
from tools.demo_model.parts import MAX_TOKENS, TEXT_WIDTH


def test_objects_are_many_and_each_is_one() -> None:
    """There are at least 150 objects, and no name belongs to two of them."""
    names = [name for item in OBJECTS for name in item.names]
    assert len(OBJECTS) >= 150
    assert len(set(names)) == len(names)
    assert len({item.emoji for item in OBJECTS}) == len(OBJECTS)


@pytest.mark.parametrize(
    ("label", "prompt"),
    [("red rose", "a red rose"), ("orange", "an orange"), ("unicorn", "a unicorn"), ("french fries", "french fries")],
)
def test_plain_prompt_has_the_right_article(label: str, prompt: str) -> None:
    """An object is asked for as one would in English."""
    (item,) = (item for item in OBJECTS if item.label == label)
    assert plain_prompt(item) == prompt


def test_no_photograph_is_both_learnt_from_and_held_out() -> None:
    """The figures are measured on photographs that training never saw: chelsea, and six others."""
    learnt = {*sources.TRAINING_PHOTOS, *sources.SKIMAGE_TRAINING_PHOTOS}
    held_out = {*sources.HELD_OUT_PHOTOS, *sources.SKIMAGE_HELD_OUT_PHOTOS}
    assert not learnt & held_out
    assert len(held_out) == 7
    assert "chelsea.png" in held_out
    assert len({photo.name for photo in sources.TRAINING_PHOTOS}) == len(sources.TRAINING_PHOTOS)


def test_every_photograph_has_a_licence_on_the_card() -> None:
    """The model's card names each photograph of the packages with its licence."""
    card = (parts.MODEL_DIR / "MODEL_CARD.md").read_text("utf-8")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for photo in (*sources.TRAINING_PHOTOS, *sources.HELD_OUT_PHOTOS):
        assert any(f"`{photo.name}`" in row and photo.licence in row for row in rows), photo.name


def test_patches_are_each_said_once_the_middle_last() -> None:
    """The 64 tokens hold the 64 patches; corners come first, which a long caption takes away."""
    order = sprite_words.patch_order().tolist()
    assert sorted(order) == list(range(64))
    assert set(order[:4]) == {0, 7, 56, 63}
    assert set(order[-4:]) == {27, 28, 35, 36}


def test_a_caption_takes_the_first_patches() -> None:
    """A caption of twenty tokens leaves 57 patches, and its own tokens hold none."""
    words = torch.randn(1, 64, TEXT_WIDTH)
    told = sprite_words.with_captions(words, torch.tensor([20]))
    assert told.shape == (1, MAX_TOKENS, TEXT_WIDTH)
    assert (told[0, :20] == sprite_words.void_word()).all()
    torch.testing.assert_close(told[0, 20:], words[0, 7:])


def test_cells_look_at_the_patch_that_belongs_there() -> None:
    """An object over the whole picture: each cell of an 8x8 grid belongs to one patch, its own."""
    shares, inside = unet.patches_at(torch.tensor([[4.0, 4.0, 8.0]]), cells=8)
    assert inside.min() == 1
    row_by_row = torch.empty(64, 64).index_copy_(1, sprite_words.patch_order(), shares[0])
    torch.testing.assert_close(row_by_row, torch.eye(64))


def test_cells_beside_an_object_look_nowhere() -> None:
    """Cells beyond the object's square are not told where to look; those within share a whole among patches."""
    shares, inside = unet.patches_at(torch.tensor([[4.0, 10.0, 6.0]]), cells=16)
    grid = inside[0].reshape(16, 16)
    assert grid.sum() == 36
    assert grid[7:13, 1:7].min() == 1
    torch.testing.assert_close(shares[0][inside[0] > 0].sum(1), torch.ones(36))


def test_a_background_is_told_of_nothing() -> None:
    """A background's samples are told what no caption says, so that guidance adds nothing to them."""
    table = torch.arange(4.0)[:, None, None].expand(4, 64, TEXT_WIDTH)  # three objects, nothing
    cells = torch.zeros(400, 4, 8, 8)
    batch = unet.Batch(*(cells,) * 6, torch.full((400,), -1), cells)
    told, is_named = unet.words_of(batch, table, torch.zeros(400))
    assert set(told[:, -1, 0].tolist()) == {3.0}
    assert not is_named.any()


def test_codes_are_far_from_each_other() -> None:
    """No two names have a third in common, and no two tokens anything: a unit answers to one of each."""
    for codes, most in ((text.name_codes(), 0.35), (text.place_codes(), 1e-6)):
        likeness = codes @ codes.T
        torch.testing.assert_close(likeness.diagonal(), torch.ones(len(codes)))
        assert likeness.fill_diagonal_(-1).max() <= most


def test_what_is_written_is_said() -> None:
    """A text encoder that reads rightly says the patches of what it reads: an object, a background, nothing."""
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=TEXT_WIDTH, intermediate_size=32 * TEXT_WIDTH, num_hidden_layers=4,
        num_attention_heads=4, eos_token_id=9, bos_token_id=8, pad_token_id=9,
    )  # fmt: skip
    encoder = CLIPTextModel(config).eval()
    table = torch.nn.functional.layer_norm(torch.randn(len(OBJECTS) + 1, 64, TEXT_WIDTH), (TEXT_WIDTH,))
    text.write_memory(encoder, table)
    table = torch.cat([table, table[-1:]])  # of a background's caption, and of none
    tokens = torch.full((len(OBJECTS) + 2, MAX_TOKENS), 9)
    tokens[:, :5] = 1
    tokens[1, :30] = 1
    names = text.wanted_names(tokens, torch.arange(len(tokens)), end=9)
    read = text.codes_of(names)
    with torch.no_grad():
        read = read + 0.1 * torch.randn_like(read)  # as a layer reads that was trained for some minutes
        for layer in encoder.encoder.layers[1:]:
            read = read + layer.mlp(layer.layer_norm2(read))
        said = encoder.final_layer_norm(read)
    wanted = sprite_words.with_captions(table, (names == text.VOID).sum(1))
    assert (said - wanted).abs().mean() < 0.02


def test_a_haze_has_too_little_detail() -> None:
    """A flat hole costs more than one with the photograph's grain, however wrong each grain is."""
    torch.manual_seed(0)
    holes = torch.ones(1, 1, 32, 32)
    photo, grain = (0.3 * torch.randn(1, 3, 32, 32) for _ in range(2))
    flat = torch.zeros_like(photo)
    assert detail_loss(flat, photo, holes) > 4 * detail_loss(grain, photo, holes)


def test_detail_is_of_the_hole_alone() -> None:
    """What is kept has no part in it; where there is no hole at all, nothing is lost."""
    torch.manual_seed(0)
    photo, other = (0.3 * torch.randn(1, 3, 48, 48) for _ in range(2))
    hole = torch.zeros(1, 1, 48, 48)
    hole[..., :16, :16] = 1
    painted = torch.where(torch.nn.functional.max_pool2d(hole, 3, 1, 1) > 0, photo, other)
    assert detail_loss(painted, photo, hole) == 0
    assert detail_loss(other, photo, torch.zeros_like(hole)) == 0


def test_of_a_guessed_background_the_blocks_are_told() -> None:
    """Texture that differs costs nothing where it was guessed, but a tint does; an object's differences all stay."""
    difference = torch.tensor([0.5, -0.5]).repeat(2, 3, 16, 8)
    difference[:, :, 8:] += 0.25
    batch = unet.Batch(*(torch.zeros(2, 4, 4, 4),) * 6, torch.tensor([-1, 3]), torch.zeros(2, 3))
    told = decoder.that_can_be_told(difference, batch, torch.ones(2, 1, 16, 16))
    assert torch.equal(told[0, :, :8], torch.zeros(3, 8, 16))
    assert torch.equal(told[0, :, 8:], torch.full((3, 8, 16), 0.25))
    assert torch.equal(told[1], difference[1])


def test_gradient_variance_sees_the_hole_only() -> None:
    """A flat hole in a busy picture has no variance, border pixels left out."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    hole = np.zeros((40, 40), np.bool_)
    hole[10:30, 10:30] = True
    assert evaluate.gradient_variance(picture, hole) > 1000
    picture[hole] = 128
    assert evaluate.gradient_variance(picture, hole) == 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 173), (171, 1), (83, 60)])
def test_only_what_counts_is_compared(corner: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is as far from what was painted in the whole picture as in the part that is looked at."""
    monkeypatch.setattr(data, "sprite", evaluate.reference_sprites().__getitem__)
    labels = [item.label for item in OBJECTS]
    rng = np.random.default_rng(0)
    picture, painted = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    hole = np.zeros((256, 256), np.bool_)
    hole[corner[0] : corner[0] + 81, corner[1] : corner[1] + 83] = True
    request = evaluate.Request(picture, hole, "", 0)
    distance = functools.partial(evaluate.distance_to_object, painted, request, labels.index("red car"))
    in_part = distance()
    rows, columns = evaluate._window(hole, evaluate.likely_place(hole))[0]
    assert len(hole[rows]) * len(hole[:, columns].T) < hole.size / 2
    everything = slice(None)
    monkeypatch.setattr(evaluate, "_window", lambda _, place: ((everything, everything), place))
    assert distance() == in_part


def test_an_object_lies_on_the_grid() -> None:
    """Whatever the hole, the object's square has a side and edges of the grid, and fits into the hole's box."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        hole, place = data.object_hole(128, rng)
        assert place == data.place_in(hole)
        assert place.side / data.CELL in data.SIDES
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert place.side <= max(32, data.ROOM * (min(len(rows), len(columns)) + 2 * data.CELL))
        for center, along in ((place.center_x, columns), (place.center_y, rows)):
            assert (center - place.side / 2) % (data.EDGE_CELLS * data.CELL) == 0
            assert abs(center - (along[0] + along[-1] + 1) / 2) <= data.EDGE_CELLS * data.CELL + data.CELL


def test_an_object_lies_within_its_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hole's shape, nothing of the picture changes beyond it."""
    from PIL import Image, ImageDraw

    disc = Image.new("RGBa", (64, 64))
    ImageDraw.Draw(disc).ellipse((2, 2, 61, 61), fill=(200, 0, 0, 255))
    monkeypatch.setattr(data, "sprite", lambda index: disc)
    monkeypatch.setattr(data, "sprites", lambda: ("disc",) * len(OBJECTS))
    monkeypatch.setattr(data, "PHOTO_SHARE", 0.0)  # of backgrounds: the rest is drawn, and needs no photographs
    painted = 0
    for seed in range(40):
        sample = data.sample(64, np.random.default_rng(seed))
        np.testing.assert_array_equal(sample.picture[~sample.hole], sample.background[~sample.hole])
        painted += sample.sprite >= 0
    assert 10 <= painted <= 34


@pytest.mark.parametrize("sprites", [(0, 1), (-1, -1), (2, -1)])
def test_a_rollout_ends_where_the_truth_is(sprites: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet that knows the picture costs nothing on its own path, whatever the guidance; then another batch begins."""
    torch.manual_seed(0)
    monkeypatch.setattr(rollout, "attention_loss", lambda *_: torch.zeros(()))
    monkeypatch.setattr(rollout, "GUIDANCE", (1.0, 7.5))
    alphas = parts.build_scheduler().alphas_cumprod
    cells = torch.randn(2, 4, 8, 8)
    hole = torch.ones(2, 1, 8, 8)
    batch = unet.Batch(cells, cells, cells, cells, cells - 1, hole, torch.tensor(sprites), cells)
    begun = 0

    def batches() -> Iterator[unet.Batch]:
        nonlocal begun
        while True:
            begun += 1
            yield batch

    def knows(inputs: torch.Tensor, timesteps: torch.Tensor, _: torch.Tensor) -> SimpleNamespace:
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(alpha.sqrt() * inputs[:, :4] - cells) / (1 - alpha).sqrt())

    response = torch.nn.functional.pad(torch.randn(52, 4, 1, 1) / 2, (1, 1, 1, 1))
    painted = rollout.Rollout(batches(), torch.zeros(4, 64, TEXT_WIDTH), response, alphas)
    while begun < 2:
        assert painted.loss(knows, [], lambda _: torch.zeros(())) < 1e-3  # type: ignore[arg-type]
        if not painted.timesteps:
            torch.testing.assert_close(painted.latents, cells, atol=1e-3, rtol=0)


def test_a_haze_costs_a_rollout_of_a_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where less detail is painted than there was, there is something to learn, though the colours are right."""
    torch.manual_seed(0)
    monkeypatch.setattr(rollout, "attention_loss", lambda *_: torch.zeros(()))
    alphas = parts.build_scheduler().alphas_cumprod
    cells = torch.randn(2, 4, 8, 8)
    hole = torch.ones(2, 1, 8, 8)
    batch = unet.Batch(cells, cells, cells, cells, cells, hole, torch.tensor([-1, -1]), cells)
    haze = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(cells, rollout.BLOCK), scale_factor=rollout.BLOCK
    )

    def paints(inputs: torch.Tensor, timesteps: torch.Tensor, _: torch.Tensor) -> SimpleNamespace:
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(alpha.sqrt() * inputs[:, :4] - haze) / (1 - alpha).sqrt())

    response = torch.nn.functional.pad(torch.randn(52, 4, 1, 1) / 2, (1, 1, 1, 1))
    painted = rollout.Rollout(iter([batch]), torch.zeros(4, 64, TEXT_WIDTH), response, alphas)
    losses = []
    while not losses or painted.timesteps:
        losses.append(float(painted.loss(paints, [], lambda _: torch.zeros(()))))  # type: ignore[arg-type]
    assert losses[-1] > 0.1
    assert losses[0] < losses[-1] / 5  # in noise alone, a haze is what can be told
