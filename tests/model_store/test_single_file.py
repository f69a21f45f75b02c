"""``scripts/models import FILE``: a checkpoint in one file becomes a model in the store, or is refused, with why."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from sd_inpaint.diffusion import weights
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import WeightsError
from sd_inpaint.model_store.single_file import convert
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tests.support.hub import models
from tests.support.ldm import TEXT_ENCODER, UNET, VAE, single_file
from tests.support.repository import ROOT
from tests.support.tiny_model import make_tokenizer

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, with an untrained autoencoder of the class that checkpoints hold; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(
        ROOT / "src" / "sd_inpaint" / "demo_model", folder, ignore=shutil.ignore_patterns("vae", "*.md", "SHA256SUMS")
    )
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 80),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=96,
        scaling_factor=1.0,
    )
    vae.half().save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}), "utf-8")
    return folder


@pytest.fixture(scope="module")
def tensors(whole: Path) -> dict[str, torch.Tensor]:
    """The model's, under a checkpoint's names; not to be changed."""
    return single_file(whole)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model in diffusers' layout."""
    loaded = {part: load_file(next((folder / part).glob("*.safetensors"))) for part in PARTS}
    return {f"{part} {name}": value for part, held in loaded.items() for name, value in held.items()}


def check_same(folder: Path, whole: Path) -> None:
    """Asserts that a folder has the model's weights, to the bit and in its number format."""
    expected, found = weights_of(whole), weights_of(folder)
    assert expected.keys() == found.keys()
    assert all(found[name].dtype == value.dtype for name, value in expected.items())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def paint(model: str) -> np.ndarray:
    """What a model paints into a grey square."""
    denoiser = weights.load(Settings(_env_file=None, model=model, device="cpu"))  # type: ignore[call-arg]  # at run time
    mask = np.zeros((96, 96), np.uint8)
    mask[24:72, 24:72] = 255
    parameters = InpaintParameters(prompt="a rose", num_inference_steps=2)
    diffusion = denoiser.begin(CanvasTask(np.full((96, 96, 3), 128, np.uint8), mask, parameters, 42))
    while diffusion.step < diffusion.steps:
        denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
    return np.asarray(denoiser.finish(diffusion))


@pytest.mark.slow
def test_checkpoint_paints_what_its_folder_paints(
    tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported from one file, the model has the same weights, paints the same bytes, and names the file."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    file = tmp_path / "checkpoint.safetensors"
    save_file(tensors, file)
    done = models(None, tmp_path, "import", file, "--config-from", whole)
    assert (done.returncode, done.stderr) == (0, "")
    tag = done.stdout.split()[0]
    stored = tmp_path / "home" / "models" / "sd-inpaint" / tag.partition(":")[2]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (stored / "model.yaml").read_text("utf-8")
    check_same(stored, whole)
    assert np.array_equal(paint(tag), paint(str(whole)))


def test_same_file_gives_the_same_model(tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path) -> None:
    """Every file of the model is the same to the byte when it is made again elsewhere, so that its version is."""
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    made: list[dict[Path, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "another"):
        convert(tmp_path / "checkpoint.safetensors", whole, folder, allow_pickle=False)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert made[0] == made[1]


@pytest.mark.slow
def test_pickle_needs_leave(
    tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .ckpt is taken only where the operator has said that pickles may be, with the setting that the service has."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    file = tmp_path / "checkpoint.ckpt"
    torch.save({"state_dict": tensors, "global_step": 7}, file)
    with pytest.raises(WeightsError, match="SD_INPAINT_ALLOW_PICKLE=true"):
        convert(file, whole, tmp_path / "model", allow_pickle=False)
    command = ("import", file, "--config-from", whole, "--version", "pickled")
    done = models(None, tmp_path, *command, SD_INPAINT_ALLOW_PICKLE="true")
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "home" / "models" / "sd-inpaint" / "pickled", whole)


class Code:
    """Something that a pickle of numbers has no need of."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Would make a file where it is unpickled."""
        return Path.touch, (Path("was-run"),)


def test_no_code_of_a_pickle_is_run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with leave a pickle that would call something is refused, and calls nothing."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "callbacks": Code()}, "bad.ckpt")
    with pytest.raises(WeightsError, match="holds more than numbers"):
        convert(tmp_path / "bad.ckpt", whole, tmp_path / "model", allow_pickle=True)
    assert not Path("was-run").exists()


def without(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Leaves out what begins so."""
    return lambda held: {name: value for name, value in held.items() if not name.startswith(prefix)}


FIRST = f"{UNET}input_blocks.0.0.weight"
OTHERS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "text to image": (lambda held: held | {FIRST: held[FIRST][:, :4].clone()}, "takes 4 channels, not 9"),
    "edits by words": (lambda held: held | {FIRST: held[FIRST][:, :8].clone()}, "takes 8 channels, not 9"),
    "XL": (lambda held: held | {"conditioner.embedders.1.model.x": torch.zeros(1)}, "is Stable Diffusion XL"),
    "2": (lambda held: held | {"cond_stage_model.model.x": torch.zeros(1)}, "is Stable Diffusion 2"),
    "LoRA": (lambda held: {"lora_unet_down.weight": torch.zeros(1)}, "is a LoRA"),
    "one part": (lambda held: {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "one part of a model"),
    "something else": (lambda held: {"weight": torch.zeros(1)}, "holds no UNet of Stable Diffusion"),
    "no VAE": (without(VAE), "holds no VAE"),
    "no text encoder": (without("cond_stage_model."), "holds no text encoder"),
    "a tensor short": (without(f"{UNET}middle_block.1.proj_in.bias"), "lacks tensors of its UNet or its VAE"),
    "a layer short": (without(f"{TEXT_ENCODER}encoder.layers.1."), "lacks 16 tensors of its text encoder"),
    "other sizes": (lambda held: held | {f"{VAE}encoder.conv_in.bias": torch.zeros(7)}, "does not fit the configs"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_checkpoints_are_told(tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path, name: str) -> None:
    """What is no whole checkpoint of Stable Diffusion 1.x for inpainting is refused by what it is."""
    change, reason = OTHERS[name]
    save_file(change(tensors), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=reason) as caught:
        convert(tmp_path / "other.safetensors", whole, tmp_path / "model", allow_pickle=False)
    assert len(str(caught.value).splitlines()) == 2
    assert "other.safetensors" in str(caught.value)


FILES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut off": ("cut.safetensors", lambda data: data[:-1000], "damaged, cut off, or no safetensors"),
    "cut in its head": ("cut.safetensors", lambda data: data[:100], "damaged, cut off, or no safetensors"),
    "empty": ("empty.safetensors", lambda data: b"", "damaged, cut off, or no safetensors"),
    "a page": ("page.safetensors", lambda data: b"<html>Not found</html>" * 50, "damaged, cut off, or no safetensors"),
    "no pickle": ("no.ckpt", lambda data: data, "damaged, cut off, or holds more"),
    "a picture": ("picture.png", lambda data: data, "neither a folder nor a file that can be imported"),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_told(tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path, name: str) -> None:
    """A file that is cut off, or is not what it is called, is refused in two lines."""
    called, change, reason = FILES[name]
    save_file(tensors, tmp_path / "whole.safetensors")
    (tmp_path / called).write_bytes(change((tmp_path / "whole.safetensors").read_bytes()))
    with pytest.raises(WeightsError, match=reason) as caught:
        convert(tmp_path / called, whole, tmp_path / "model", allow_pickle=True)
    assert len(str(caught.value).splitlines()) == 2


def test_tokenizer_has_to_come_from_somewhere(tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path) -> None:
    """No checkpoint has one: without a model that has, or with another one than the checkpoint's, it is a sentence."""
    file = tmp_path / "checkpoint.safetensors"
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="--config-from FOLDER"):
        convert(file, None, tmp_path / "model", allow_pickle=False)
    other = Path(shutil.copytree(whole, tmp_path / "other", ignore=shutil.ignore_patterns("tokenizer")))
    make_tokenizer().save_pretrained(other / "tokenizer")
    with pytest.raises(WeightsError, match=r"tokenizer has [\d,]+ tokens, and the checkpoint's text encoder 1,647"):
        convert(file, other, tmp_path / "model", allow_pickle=False)


def test_configs_are_those_of_stable_diffusion_where_none_are_given(
    tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path
) -> None:
    """A tokenizer is enough: then a checkpoint is read as Stable Diffusion 1.5, which the demo model is not."""
    shutil.copytree(whole / "tokenizer", tmp_path / "words" / "tokenizer")
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    with pytest.raises(WeightsError, match="does not fit the configs"):
        convert(tmp_path / "checkpoint.safetensors", tmp_path / "words", tmp_path / "model", allow_pickle=False)
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text("utf-8"))
    assert (config["in_channels"], config["block_out_channels"], config["cross_attention_dim"]) == (
        9,
        [320, 640, 1280, 1280],
        768,
    )


def test_autoencoder_of_another_class_is_not_a_checkpoints(
    tensors: dict[str, torch.Tensor], whole: Path, tmp_path: Path
) -> None:
    """Where the tokenizer comes from a model with a swapped autoencoder, the file's is read as Stable Diffusion's."""
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    shutil.copyfile(ROOT / "src" / "sd_inpaint" / "demo_model" / "vae" / "config.json", other / "vae" / "config.json")
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    with pytest.raises(WeightsError, match="does not fit the configs"):  # it is smaller than Stable Diffusion 1.5's
        convert(tmp_path / "checkpoint.safetensors", other, tmp_path / "model", allow_pickle=False)
    assert json.loads((tmp_path / "model" / "vae" / "config.json").read_text("utf-8"))["block_out_channels"][0] == 128
