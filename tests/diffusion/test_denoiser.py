"""The numbered steps, held against diffusers' own pipeline on the same components."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.devices import Device
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import InvalidOutputError, OutOfMemoryError
from sd_inpaint.schema import SchedulerName, SoftMask
from tests.support.canvases import GOLDEN, make_task, paint, paint_with_diffusers
from tests.support.tiny_model import make_components, make_denoiser, make_fitting_vae


@pytest.fixture(scope="module")
def components() -> dict[str, object]:
    """Real classes at tiny size: two levels, stride 4, native size 64."""
    return make_components()


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 128), (8, 8), (72, 56)], ids=str)
@pytest.mark.parametrize(("steps", "guidance_scale"), [(1, 7.5), (4, 1.0), (5, 7.5), (3, 20.0)])
def test_canvas_equals_diffusers(
    components: dict[str, object], size: tuple[int, int], steps: int, guidance_scale: float
) -> None:
    """In float32 on the CPU the painted canvas is that of diffusers' pipeline, to float rounding."""
    hole = (0, 0, size[0] // 8 * 4, size[1] // 8 * 4)
    task = make_task(size, hole, num_inference_steps=steps, guidance_scale=guidance_scale, negative_prompt="blurry")
    ours = paint(make_denoiser(components), task)
    theirs = paint_with_diffusers(components, task) * 255
    # Half a level from our rounding to whole numbers, and float rounding over a few UNet calls.
    assert np.abs(ours - theirs).max() <= 0.51


@pytest.mark.parametrize("scheduler", list(SchedulerName))
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_scheduler_equals_diffusers(
    components: dict[str, object], scheduler: SchedulerName, strength: float
) -> None:
    """With every sampler, at full and at half strength, the canvas is that of diffusers' pipeline."""
    task = make_task(scheduler=scheduler, strength=strength, num_inference_steps=6)
    ours = paint(make_denoiser(components), task)
    assert np.abs(ours - paint_with_diffusers(components, task) * 255).max() <= 0.51


@pytest.mark.parametrize("hole", [(16, 8, 48, 40), (0, 0, 64, 64)], ids=["box", "everything"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_decoder_that_is_shown_what_is_kept_equals_diffusers(
    components: dict[str, object], hole: tuple[int, int, int, int], strength: float
) -> None:
    """With an AsymmetricAutoencoderKL the canvas is that of diffusers' pipeline too."""
    fitting = components | {"vae": make_fitting_vae()}
    task = make_task(hole=hole, strength=strength)
    ours = paint(make_denoiser(fitting), task)
    assert np.abs(ours - paint_with_diffusers(fitting, task) * 255).max() <= 0.51


def test_decoder_is_shown_what_is_kept_and_nothing_of_the_hole(components: dict[str, object]) -> None:
    """An AsymmetricAutoencoderKL sees the pixels around the hole, and not those in it, which are to be painted over."""
    denoiser = make_denoiser(components | {"vae": make_fitting_vae()})
    task, other_hole, other_kept = make_task(), make_task(), make_task()
    other_hole.image[8:40, 16:48] = 255
    other_kept.image[40:, :] = 255
    diffusion = denoiser.begin(task)
    while diffusion.step < diffusion.steps:
        denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
    inside = (slice(8, 40), slice(16, 48))
    painted, same, changed = (
        denoiser.finish(dataclasses.replace(diffusion, task=each))[inside] for each in (task, other_hole, other_kept)
    )
    assert (painted == same).all()
    assert (painted != changed).any()


def test_rim_is_shown_to_the_decoder_and_to_nothing_else(components: dict[str, object]) -> None:
    """Pixels of the hole that are kept in part are the decoder's to see; the UNet paints them as all of the hole."""
    denoiser = make_denoiser(components | {"vae": make_fitting_vae()})
    task = make_task(num_inference_steps=1)
    rim = np.zeros((64, 64), np.bool_)
    rim[8:40, 16] = True
    plain, rimmed = denoiser.begin(task), denoiser.begin(dataclasses.replace(task, rim=rim))
    assert torch.equal(plain.masked_latents, rimmed.masked_latents)
    assert torch.equal(plain.hole, rimmed.hole)
    assert (plain.hidden - rimmed.hidden).sum() == 32
    first, second = (denoiser.finish(each) for each in (plain, rimmed))
    assert (first[8:40, 16] != second[8:40, 16]).any()


def test_decoder_is_shown_nothing_where_colours_are_matched(components: dict[str, object]) -> None:
    """color_match measures what the decoder gets wrong outside the hole, where one that was told would err less."""
    vae = make_fitting_vae()
    denoiser = make_denoiser(components | {"vae": vae})
    diffusion = denoiser.begin(make_task(num_inference_steps=1, color_match=True))
    denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
    with torch.inference_mode():
        unseeing = vae.decode(diffusion.latents / vae.config.scaling_factor).sample[0].permute(1, 2, 0).numpy()
    assert np.abs((unseeing * 0.5 + 0.5).clip(0, 1) * 255 - denoiser.finish(diffusion)).max() <= 0.51


@pytest.mark.parametrize("size", [(4, 4), (192, 4), (8, 12)], ids=str)
def test_decoder_that_is_shown_what_is_kept_takes_the_smallest_canvas(
    components: dict[str, object], size: tuple[int, int]
) -> None:
    """Canvases of a single cell's side, too small for diffusers to show them to a decoder, are painted all the same."""
    task = make_task(size, hole=(0, 0, 4, 4), num_inference_steps=1)
    assert paint(make_denoiser(components | {"vae": make_fitting_vae()}), task).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decoder_that_is_shown_what_is_kept_can_be_precise(components: dict[str, object], dtype: torch.dtype) -> None:
    """Half precision decodes to about the same, in float32 where that is asked for, and stays what it was."""
    vae = make_fitting_vae().to(dtype)
    model = make_denoiser(components | {"vae": vae})._model
    generator = torch.Generator().manual_seed(3)
    latents, pictures = torch.randn(1, 4, 8, 8, generator=generator), torch.rand(1, 3, 32, 32, generator=generator)
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 8:20, 8:20] = 1
    half, precise, tiled = (
        model.decode(latents, pictures, hole, runner=model.runner, precise=precise, low_memory=low_memory)
        for precise, low_memory in ((False, False), (True, False), (False, True))
    )
    assert vae.dtype is dtype
    assert half.dtype is precise.dtype is torch.float32
    assert torch.equal(half, tiled)
    assert (half - precise).abs().max() < (0.1 if dtype is torch.bfloat16 else 1e-6)


def test_hole_edge_off_the_grid_takes_the_whole_cell(components: dict[str, object]) -> None:
    """A cell with a single hole pixel is hole; diffusers' nearest neighbour would call it known."""
    task = make_task(hole=(17, 9, 18, 10))
    diffusion = make_denoiser(components).begin(task)
    assert diffusion.hole.sum() == 1
    assert diffusion.hole[0, 0, 9 // 4, 17 // 4] == 1


def test_grey_below_half_is_not_hole(components: dict[str, object]) -> None:
    """The model's mask channel is the thresholded mask: it never sees a grey."""
    task = make_task()
    task.mask[:] = np.where(task.mask == 255, 128, 127)
    diffusion = make_denoiser(components).begin(task)
    assert set(diffusion.hole.unique().tolist()) == {0.0, 1.0}
    assert diffusion.hole.sum() == 8 * 8


def test_jobs_in_a_batch_equal_jobs_alone(components: dict[str, object]) -> None:
    """Jobs that share UNet calls, at their own steps, prompts, guidance and samplers, come out as they do alone."""
    denoiser = make_denoiser(components)
    tasks = [
        make_task(seed=1, num_inference_steps=3),
        make_task(seed=2, num_inference_steps=5, guidance_scale=1.0, prompt="sky"),
        make_task(seed=3, num_inference_steps=4, scheduler="euler_a", negative_prompt="blurry"),
        make_task(seed=4, num_inference_steps=2, scheduler="pndm", strength=0.5),
    ]
    alone = [paint(denoiser, task) for task in tasks]
    waiting = [denoiser.begin(task) for task in tasks]
    running, done = waiting[:2], {}
    while running:
        for diffusion, prediction in zip(running, denoiser.predict(running), strict=True):
            denoiser.advance(diffusion, prediction)
        for diffusion in [d for d in running if d.step == d.steps]:
            done[id(diffusion.task)] = denoiser.finish(diffusion)
        running = [d for d in waiting if d.step < d.steps]
    for task, expected in zip(tasks, alone, strict=True):
        # A batch sums in another order than a single row: rounding of 1e-6, amplified by a few steps, may turn a level.
        assert np.abs(done[id(task)].astype(int) - expected).max() <= 1


def test_same_seed_same_bytes_and_other_seed_another_picture(components: dict[str, object]) -> None:
    """A seed decides the picture, to the byte."""
    denoiser = make_denoiser(components)
    first, again, other = (paint(denoiser, make_task(seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("seed", [0, 42, 2**63, 2**64 - 1])
def test_every_seed_in_bounds_is_usable(components: dict[str, object], seed: int) -> None:
    """PyTorch takes each seed that the schema lets through."""
    make_denoiser(components).begin(make_task(seed=seed))


def test_prompt_and_negative_prompt_matter(components: dict[str, object]) -> None:
    """Another prompt, or another negative one, gives another picture."""
    denoiser = make_denoiser(components)
    base = paint(denoiser, make_task())
    assert (paint(denoiser, make_task(prompt="a blue car")) != base).any()
    assert (paint(denoiser, make_task(negative_prompt="blurry")) != base).any()


def test_negative_prompt_costs_nothing_without_guidance(components: dict[str, object]) -> None:
    """At guidance 1.0 there is one row for the UNet, and the negative prompt has no say."""
    denoiser = make_denoiser(components)
    plain = denoiser.begin(make_task(guidance_scale=1.0))
    assert plain.embeddings.shape[0] == 1
    first, second = (
        paint(denoiser, make_task(guidance_scale=1.0, negative_prompt=negative)) for negative in ("", "blurry")
    )
    assert (first == second).all()


def test_preview_comes_to_look_like_the_result(components: dict[str, object]) -> None:
    """The preview has one pixel a latent cell."""
    denoiser = make_denoiser(components)
    diffusion = denoiser.begin(make_task((96, 64)))
    preview = denoiser.preview(diffusion, denoiser.predict([diffusion])[0])
    assert preview.shape == (16, 24, 3)
    assert preview.dtype == np.uint8


def test_picture_that_is_not_a_number_is_decoded_in_float32_then_refused(components: dict[str, object]) -> None:
    """NaN in the latents never becomes a picture: the decoder is tried again precisely, then it is an error."""
    denoiser = make_denoiser(components)
    diffusion = denoiser.begin(make_task())
    diffusion.latents = diffusion.latents * float("nan")
    with pytest.raises(InvalidOutputError):
        denoiser.finish(diffusion)


def test_decoder_that_overflows_is_rescued_by_float32(
    components: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decode that gives NaN in half precision and a picture in float32 gives the picture."""
    denoiser = make_denoiser(components)
    diffusion = denoiser.begin(make_task())
    decode = denoiser._model.decode
    asked: list[bool] = []

    def overflow(*tensors: torch.Tensor, precise: bool, **options: object) -> torch.Tensor:
        asked.append(precise)
        picture = decode(*tensors, precise=precise, **options)
        return picture if precise else picture * float("nan")

    monkeypatch.setattr(denoiser._model, "decode", overflow)
    assert denoiser.finish(diffusion).shape == (64, 64, 3)
    assert asked == [False, True]


@pytest.mark.parametrize(
    "failure",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_is_named(
    components: dict[str, object], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Every allocator's way to say so becomes the one error that the loop knows."""
    denoiser = make_denoiser(components)
    diffusion = denoiser.begin(make_task())

    def fail(*args: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(denoiser._model, "denoise", fail)
    with pytest.raises(OutOfMemoryError):
        denoiser.predict([diffusion])


def test_lean_way_gives_the_same_picture(components: dict[str, object]) -> None:
    """Row by row instead of all at once changes rounding only; canvases under a tile are decoded as ever."""
    denoiser = make_denoiser(components)
    task = make_task()
    diffusion = denoiser.begin(task, low_memory=True)
    while diffusion.step < diffusion.steps:
        denoiser.advance(diffusion, denoiser.predict([diffusion], low_memory=True)[0])
    lean = denoiser.finish(diffusion, low_memory=True)
    assert np.abs(lean.astype(int) - paint(denoiser, task)).max() <= 1


def make_soft_task(greys: list[int], **parameters: object) -> CanvasTask:
    """Makes a canvas whose mask is vertical stripes of grey, each 16 pixels wide."""
    task = make_task((16 * len(greys), 64), (0, 0, 1, 1), soft_mask="strength", num_inference_steps=10, **parameters)
    task.mask[:] = np.repeat(np.array(greys, np.uint8), 16)[None]
    return task


def test_grey_holds_a_cell_back_until_its_turn(components: dict[str, object]) -> None:
    """Under a strength mask a cell follows the noised input until only its strength's share of the steps is left."""
    denoiser = make_denoiser(components)
    diffusion = denoiser.begin(make_soft_task([0, 102, 255]))
    assert diffusion.known is not None
    while diffusion.step < diffusion.steps - 1:
        denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
        timestep = diffusion.timesteps[diffusion.step : diffusion.step + 1]
        held = diffusion.scheduler.add_noise(diffusion.known.latents, diffusion.known.noise, timestep)
        same = (diffusion.latents == held)[0, 0].all(0)
        left = (10 - diffusion.step) / 10
        assert same[:4].all()
        assert same[4:8].all() == (left > 0.4 + 1e-6)
        assert not same[8:].all()


def test_strength_mask_of_black_and_white_is_the_plain_one(components: dict[str, object]) -> None:
    """Without greys there is nothing to hold back, and the canvas is the same to the byte."""
    denoiser = make_denoiser(components)
    task = make_task()
    soft = CanvasTask(task.image, task.mask, task.parameters.model_copy(update={"soft_mask": SoftMask.STRENGTH}), 7)
    assert (paint(denoiser, task) == paint(denoiser, soft)).all()


@pytest.mark.parametrize("scheduler", list(SchedulerName))
def test_every_scheduler_takes_a_strength_mask(components: dict[str, object], scheduler: SchedulerName) -> None:
    """Whatever the sampler and the overall strength, a soft mask comes to an end with a picture."""
    canvas = paint(make_denoiser(components), make_soft_task([64, 128, 255], scheduler=scheduler, strength=0.7))
    assert canvas.shape == (64, 48, 3)


def test_faint_mask_is_hole_all_the_same(components: dict[str, object]) -> None:
    """A mask that nowhere reaches half-grey still has the model paint what it touches."""
    task = make_task()
    task.mask[:] = task.mask // 3
    assert make_denoiser(components).begin(task).hole.sum() == 8 * 8


def test_prompts_of_different_lengths_share_a_batch(components: dict[str, object]) -> None:
    """A prompt of several chunks beside a short one changes neither."""
    denoiser = make_denoiser(components)
    tasks = [make_task(seed=1), make_task(seed=2, prompt="a very long prompt " * 5)]
    alone = [denoiser.predict([denoiser.begin(task)])[0] for task in tasks]
    together = denoiser.predict([denoiser.begin(task) for task in tasks])
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_sizes_come_from_the_model(components: dict[str, object]) -> None:
    """Stride and native size are those of the loaded components, whatever they are."""
    denoiser = make_denoiser(components)
    assert (denoiser.limits.stride, denoiser.limits.native_size) == (4, 64)
    other = make_denoiser(make_components(vae_levels=4, sample_size=8))
    assert (other.limits.stride, other.limits.native_size) == (8, 64)


def test_golden_canvas(components: dict[str, object]) -> None:
    """The picture of one fixed task is the recorded one; golden/README.md says which program made it, and how."""
    golden = json.loads(GOLDEN.read_text("utf-8"))
    canvas = paint(make_denoiser(components), make_task(**golden["task"]))
    small = canvas.reshape(8, 8, 8, 8, 3).mean((1, 3)).round(1)
    difference = np.abs(small - np.array(golden["block_means"]))
    # Another CPU sums in another order: means of 64 pixels may then move by a fraction of a level.
    assert difference.max() <= 0.5, f"largest {difference.max():.2f}, mean {difference.mean():.3f}"


def test_a_prediction_is_done_when_it_is_given(components: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is waited for after the UNet's call: what the loop times is the work, not the asking for it."""
    denoiser = make_denoiser(components)
    order = []
    monkeypatch.setattr(Device, "wait", lambda device: order.append("wait"))
    denoise = denoiser._model.denoise
    monkeypatch.setattr(denoiser._model, "denoise", lambda *a, **k: (order.append("unet"), denoise(*a, **k))[1])
    denoiser.predict([denoiser.begin(make_task())])
    assert order == ["unet", "wait"]
