"""``scripts/models full-size``: the real thing's size, without the real thing's weights."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from sd_inpaint.diffusion import weights
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import WeightsError
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tests.support.repository import ROOT
from tools.bench import full_size

UNET_PARAMETERS = 859_535_364
"""Stable Diffusion 1.5's inpainting UNet: the 859,520,964 of the text-to-image one, and five more input channels.

Source: the shapes in stable-diffusion-v1-5/stable-diffusion-inpainting, unet/diffusion_pytorch_model.fp16.safetensors.
"""


TINY = {
    "unet": full_size.UNET | {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 32, "layers_per_block": 1},
    "vae": full_size.VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    "text_encoder": full_size.TEXT_ENCODER
    | {
        "vocab_size": 4000,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
"""The real configs at a size that is written within a second."""


@pytest.mark.parametrize("scheduler", full_size.SCHEDULERS)
def test_diffusers_own_pipeline_loads_and_paints_with_it(tmp_path: Path, scheduler: str) -> None:
    """Its index names the classes that it is made of, so that diffusers reads the folder as it reads any other."""
    full_size.write(tmp_path / "tiny", scheduler=scheduler, **TINY)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(
        tmp_path / "tiny", variant="fp16", dtype=torch.float32, local_files_only=True
    )
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        listed = json.loads((tmp_path / "tiny" / "model_index.json").read_text("utf-8"))[name][1]
        assert type(getattr(pipeline, name)).__name__ == listed
    assert type(pipeline.scheduler) is full_size.SCHEDULERS[scheduler][0]
    pipeline.set_progress_bar_config(disable=True)
    grey = Image.new("RGB", (64, 64), "grey")
    (painted,) = pipeline(
        "a rose", grey, Image.new("L", (64, 64), 255), width=64, height=64, num_inference_steps=1
    ).images
    assert painted.size == (64, 64)


def test_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    """Whoever writes it again has the same bytes; another seed gives other weights."""
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        full_size.write(tmp_path / name, seed=seed, **TINY)
    one, again, other = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "again", "other")
    )
    assert one == again
    assert one.keys() == other.keys()
    assert one != other


def test_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    """Nothing of the caller's is overwritten."""
    (tmp_path / "mine").write_text("mine", "ascii")
    with pytest.raises(WeightsError, match="is not empty"):
        full_size.write(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_benchmarks_write_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written where it is missing, again where that broke off, and not where it is whole."""
    folder = tmp_path / "build" / "model"
    monkeypatch.setattr(full_size, "FOLDER", folder)
    monkeypatch.setattr(full_size, "write", functools.partial(full_size.write, **TINY))
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "half").write_bytes(b"")
    assert full_size.for_benchmarks() == folder
    assert not (folder / "unet" / "half").exists()
    written = (folder / "model_index.json").stat().st_mtime_ns
    assert full_size.for_benchmarks() == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_has_the_real_size_and_paints(tmp_path: Path) -> None:
    """It loads as the real model does, at the real shapes, and paints a picture in float32 on the CPU."""
    folder = tmp_path / "full"
    command = [sys.executable, "-m", "tools.bench.full_size", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    assert "2.13 GB" in done.stdout
    assert {path.name for path in folder.rglob("*.safetensors")} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        # Else where OpenVINO is the faster, a conversion would begin beside and outlive the test by a minute.
        settings = Settings(_env_file=None, model=str(folder), device="cpu", dtype="float32", backend="torch")  # type: ignore[call-arg]
        denoiser = weights.load(settings)
        assert (denoiser.limits.native_size, denoiser.limits.stride) == (512, 8)
        side = denoiser.limits.native_size // 2  # which takes a quarter of the time
        mask = np.zeros((side, side), np.uint8)
        mask[64:192, 64:192] = 255
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        parameters = InpaintParameters(prompt="a rose", num_inference_steps=1, guidance_scale=1.0)
        diffusion = denoiser.begin(CanvasTask(image, mask, parameters, 42))
        while diffusion.step < diffusion.steps:
            denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
        painted = denoiser.finish(diffusion)
    finally:
        torch.set_num_threads(threads)
    assert painted.shape == (side, side, 3)
    assert painted.std() > 1
    unet = sum(np.prod(shape) for shape in _shapes(folder / "unet").values())
    assert unet == UNET_PARAMETERS


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(folder / "diffusion_pytorch_model.fp16.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no dict
