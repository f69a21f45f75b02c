"""LoRAs: their files, and what they do to pictures, held against diffusers' own pipeline with the same adapters."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionInpaintPipeline

from sd_inpaint.diffusion.adapters import load_adapter
from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.lora_files import find_loras
from sd_inpaint.diffusion.lora_switch import LoraSwitch
from sd_inpaint.diffusion.model import TorchModel
from sd_inpaint.diffusion.runner import Shape
from sd_inpaint.engine.canvas_jobs import CanvasJob
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import InvalidLorasError, WeightsError
from tests.support.canvases import make_task, paint, paint_with_diffusers
from tests.support.lora_files import train_lora, write_kohya, write_old_diffusers
from tests.support.tiny_model import make_components

CHANGED = ("unet", "text_encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three LoRAs that were trained here: of both networks, and of each alone."""
    place = tmp_path_factory.mktemp("loras")
    train_lora(place, "both", seed=1)
    train_lora(place, "picture", seed=2, rank=2, text_encoder=False)
    train_lora(place, "words", seed=3, rank=3, unet=False)
    return place


def make_lora_denoiser(
    folder: Path, *, max_batch: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Denoiser, dict[str, Any]]:
    """Makes a denoiser over the tiny model and the LoRAs in a folder; gives its components too."""
    components = make_components()
    for name in CHANGED:
        components[name].to(dtype)
    device = Device(torch.device("cpu"), dtype, "cpu")
    changed = {name: components[name] for name in CHANGED}
    loras = LoraSwitch(changed, [load_adapter(file, changed) for file in find_loras([folder])])
    model = TorchModel(**components, device=device, loras=loras)
    return Denoiser(model, device, max_batch=max_batch, max_canvas_pixels=1 << 22), components


def paint_with_adapters(folder: Path, weights: dict[str, float], **parameters: object) -> np.ndarray:
    """Paints with diffusers' own pipeline and PEFT's layers at run time."""
    components = make_components()
    pipeline = StableDiffusionInpaintPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    for name in weights:
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters(list(weights), list(weights.values()))
    return paint_with_diffusers(components, make_task(**parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weights",
    [{"both": 1.0}, {"both": -0.7}, {"picture": 0.5}, {"words": 1.5}, {"both": 0.8, "picture": 0.4, "words": -0.3}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # of diffusers' own pipeline
def test_picture_equals_diffusers_with_the_same_adapters(folder: Path, weights: dict[str, float]) -> None:
    """A canvas with LoRAs is that of diffusers' pipeline with the same files and weights, to float rounding."""
    denoiser, _ = make_lora_denoiser(folder)
    text = ",".join(f"{name}:{weight:g}" for name, weight in sorted(weights.items()))
    ours = paint(denoiser, make_task(loras=text))
    theirs = paint_with_adapters(folder, weights) * 255
    # Half a level from our rounding to whole numbers, and float rounding over a few UNet calls.
    assert np.abs(ours - theirs).max() <= 0.51
    plain = paint(denoiser, make_task())
    assert np.abs(ours.astype(int) - plain).max() > 2, "the LoRA changes nothing that could be compared"


@pytest.mark.parametrize("style", ["kohya", "kohya with another alpha", "web UI's blocks", "old diffusers"])
def test_every_spelling_has_the_same_numbers(folder: Path, tmp_path: Path, style: str) -> None:
    """A LoRA in the keys of kohya's scripts, the web UI or older diffusers adds what diffusers' own file adds."""
    source, target = folder / "both.safetensors", tmp_path / "both.safetensors"
    match style:
        case "kohya":
            write_kohya(source, target)
        case "kohya with another alpha":
            write_kohya(source, target, alpha_over_rank=0.25)
        case "web UI's blocks":
            write_kohya(source, target, ldm_blocks=True)
        case _:
            write_old_diffusers(source, target)
    components = {name: make_components()[name] for name in CHANGED}
    ours, theirs = (load_adapter(find_loras([path])[0], components).layers for path in (source, target))
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        added, other = (each.scale * each.up @ each.down for each in (layer, theirs[name]))
        assert torch.allclose(added, other, rtol=1e-6, atol=1e-9), name


def test_switching_back_is_exact(folder: Path) -> None:
    """After any sets of LoRAs, the weights without any are the original ones to the bit, in half precision too."""
    for dtype in (torch.float32, torch.bfloat16):
        denoiser, components = make_lora_denoiser(folder, dtype=dtype)
        before = {name: components[name].state_dict() for name in CHANGED}
        copies = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in before.items()}
        for loras in ("both:1", "picture:0.3,words:2", "both:-2,picture:1", "words:0.1", ""):
            denoiser._model.put_loras(loras)
            differs = any(
                not torch.equal(components[name].state_dict()[key], copies[name][key])
                for name in CHANGED
                for key in copies[name]
            )
            assert differs is bool(loras)


def test_weights_stay_where_they_are_in_memory(folder: Path) -> None:
    """A switch writes into the same memory, or CUDA graphs and compiled code would go on with the old weights."""
    denoiser, components = make_lora_denoiser(folder)
    before = {id(p): p.data_ptr() for name in CHANGED for p in components[name].parameters()}
    denoiser._model.put_loras("both:1")
    assert {id(p): p.data_ptr() for name in CHANGED for p in components[name].parameters()} == before


def test_failed_switch_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that ends half-way is made good by the next one, whatever set that is for."""
    denoiser, components = make_lora_denoiser(folder)
    expected = paint(denoiser, make_task(loras="words:1"))
    denoiser._model.put_loras("both:1")
    write, calls = LoraSwitch._write, iter(range(100))

    def fail(switch: LoraSwitch, name: str, chosen: Any) -> None:
        if next(calls) == 5:
            raise MemoryError
        write(switch, name, chosen)

    monkeypatch.setattr(LoraSwitch, "_write", fail)
    with pytest.raises(MemoryError):
        denoiser._model.put_loras("picture:1")
    monkeypatch.undo()
    assert (paint(denoiser, make_task(loras="words:1")) == expected).all()
    denoiser._model.put_loras("")
    fresh = make_components()
    for name in CHANGED:
        for key, tensor in fresh[name].state_dict().items():
            assert torch.equal(components[name].state_dict()[key], tensor)


@pytest.mark.parametrize("max_batch", [1, 4])
def test_callers_with_different_sets_get_what_they_would_have_got_alone(folder: Path, max_batch: int) -> None:
    """Jobs of several sets at once, through the loop, each give the bytes of the same job alone."""
    sets = ["both:0.8", "", "words:1", "both:0.8", "picture:1", "both:0.5,picture:1", ""]
    denoiser, _ = make_lora_denoiser(folder, max_batch=max_batch)
    tasks = [make_task(seed=seed, loras=loras, num_inference_steps=3) for seed, loras in enumerate(sets)]
    alone = [paint(denoiser, task) for task in tasks]
    loop = DeviceLoop(denoiser, CanvasQueue(max_canvases=99, max_megapixel_steps=1e9, pace=Pace(1.0)))
    jobs = [CanvasJob(task, caller=str(number % 3)) for number, task in enumerate(tasks)]
    for job in jobs:
        loop.submit([job])
        loop.turn()
    while loop.turn():
        pass
    tolerance = 0 if max_batch == 1 else 1  # a batch of several rounds otherwise (docs/api.md)
    for job, expected in zip(jobs, alone, strict=True):
        assert np.abs(job.future.result(0).astype(int) - expected).max() <= tolerance


def test_prompts_are_embedded_again_only_where_the_text_encoder_changes(folder: Path) -> None:
    """Embeddings are kept under what is in the text encoder's weights: a LoRA of the UNet alone takes the kept ones."""
    denoiser, components = make_lora_denoiser(folder)
    model, encoder = denoiser._model, components["text_encoder"]
    calls: list[int] = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    plain = model.embed(["a rose"])
    count = len(calls)
    model.put_loras("picture:1")
    assert torch.equal(model.embed(["a rose"]), plain)
    assert len(calls) == count
    model.put_loras("words:1")
    changed = model.embed(["a rose"])
    assert len(calls) > count
    assert not torch.equal(changed, plain)
    model.put_loras("")
    count = len(calls)
    assert torch.equal(model.embed(["a rose"]), plain)
    model.put_loras("picture:0.5,words:1")
    assert torch.equal(model.embed(["a rose"]), changed)
    assert len(calls) == count


def test_job_outlives_its_lora(folder: Path) -> None:
    """A job that was accepted with a LoRA which is no longer there ends with an error that names those there are."""
    denoiser, _ = make_lora_denoiser(folder)
    with pytest.raises(InvalidLorasError, match=r"'gone'\. This server has: both, picture, words\."):
        denoiser.begin(make_task(loras="gone:1"))


def test_runner_with_a_copy_of_the_weights_runs_no_loras(folder: Path) -> None:
    """Where the runner has weights of its own, a canvas with LoRAs is the reference's, and says so."""
    denoiser, _ = make_lora_denoiser(folder)
    reference = denoiser._model.runner

    class Copying:
        plan, follows_weights = "copying", False

        def takes(self, shape: Shape) -> bool:
            return True

    denoiser._model.use_alone(Copying())
    assert denoiser._model.runner_for(Shape(16, 16, 16)) is not reference
    assert denoiser.begin(make_task(loras="both:1")).plan == reference.plan
    assert denoiser.begin(make_task()).plan == "copying"


def _broken_files(folder: Path, place: Path) -> Iterator[tuple[str, str]]:
    """Writes files that cannot be used; yields each one's name, and a piece of the reason."""
    source = folder / "both.safetensors"
    state = safetensors.torch.load_file(source)
    data = source.read_bytes()
    (place / "cut.safetensors").write_bytes(data[: len(data) // 2])
    yield "cut.safetensors", "cut off"
    (place / "header.safetensors").write_bytes(data[:40])
    yield "header.safetensors", "cut off"
    (place / "empty.safetensors").write_bytes(b"")
    yield "empty.safetensors", "cut off"
    torch.save(state, place / "pickle.pt")
    yield "pickle.pt", "is a pickle"
    shutil.copy(place / "pickle.pt", place / "hidden.safetensors")
    yield "hidden.safetensors", "not a safetensors file"
    (place / "readme.txt").write_text("hello", "utf-8")
    yield "readme.txt", "takes safetensors only"
    shutil.copy(source, place / "a,b.safetensors")
    yield "a,b.safetensors", "Rename it"
    yield "nowhere.safetensors", "not there"


def test_unusable_files_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    """Files that are cut off, pickles by either name, of another kind, misnamed or missing are refused in words."""
    for name, reason in _broken_files(folder, tmp_path):
        with pytest.raises(WeightsError) as refused:
            find_loras([tmp_path / name])
        assert reason in str(refused.value), name
        assert name in str(refused.value)


def test_folder_with_a_pickle_is_refused_and_other_files_are_left(folder: Path, tmp_path: Path) -> None:
    """In a folder, previews and notes beside LoRAs are nothing to it; a pickle is not passed over in silence."""
    shutil.copy(folder / "both.safetensors", tmp_path)
    (tmp_path / "both.preview.png").write_bytes(b"")
    assert [file.name for file in find_loras([tmp_path])] == ["both"]
    (tmp_path / "other.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"other\.ckpt is a pickle"):
        find_loras([tmp_path])


def test_two_files_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    """A name stands for one file."""
    shutil.copy(folder / "both.safetensors", tmp_path)
    with pytest.raises(WeightsError, match="are both named both"):
        find_loras([folder, tmp_path])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sizes", "another architecture"),
        ("layers", "another architecture"),
        ("text encoder of SDXL", "another architecture"),
        ("no pairs", "is not a LoRA"),
        ("DoRA", "is a DoRA"),
        ("LoHa", "is a LoHa"),
    ],
)
def test_lora_of_another_kind_is_refused(folder: Path, tmp_path: Path, change: str, reason: str) -> None:
    """A LoRA for another model, or something that is none, is refused, and the model is left as it was."""
    state = safetensors.torch.load_file(folder / "both.safetensors")
    key = next(key for key in state if key.startswith("unet.") and key.endswith("lora_A.weight"))
    match change:
        case "sizes":
            state = {k: torch.cat([v, v], 1).contiguous() if "lora_A" in k else v for k, v in state.items()}
        case "layers":
            state = {k.replace("down_blocks.1", "down_blocks.7"): v for k, v in state.items()}
        case "text encoder of SDXL":
            write_kohya(folder / "both.safetensors", tmp_path / "kohya.safetensors")
            state = safetensors.torch.load_file(tmp_path / "kohya.safetensors")
            state = {k.replace("lora_te_", "lora_te2_"): v for k, v in state.items()}
        case "no pairs":
            state = {"unet.conv_in.weight": torch.zeros(16, 9, 3, 3)}
        case "DoRA":
            state[key.replace("lora_A.weight", "lora_magnitude_vector")] = torch.zeros(4)
        case _:
            state[key.replace("lora_A.weight", "hada_w1_a")] = torch.zeros(4, 4)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    components = {name: make_components()[name] for name in CHANGED}
    with pytest.raises(WeightsError) as refused:
        load_adapter(find_loras([path])[0], components)
    assert reason in str(refused.value)
    fresh = make_components()
    for name in CHANGED:
        assert components[name].state_dict().keys() == fresh[name].state_dict().keys()
