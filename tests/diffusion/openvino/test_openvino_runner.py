"""OpenVINO computes what torch computes."""

import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.devices import cpu_has_bfloat16
from sd_inpaint.diffusion.openvino.agreement import check_agreement
from sd_inpaint.diffusion.openvino.converter import convert_in_place
from sd_inpaint.diffusion.openvino.openvino_runner import OpenVinoRunner
from sd_inpaint.diffusion.runner import EagerRunner, RunnerFailedError
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.schema import InpaintParameters, SchedulerName
from tests.support.tiny_model import make_components, make_denoiser

FLOAT32_TOLERANCE = 1e-4
"""Of the output's standard deviation: the same formulas in another order; 1e-5 is met."""

BFLOAT16_TOLERANCE = 0.05
"""Likewise, root mean square: bfloat16 has 8 bits; torch's own differs from float32 as much (1.2% at full size)."""


@pytest.fixture(scope="module")
def runner(converted: Path, components: dict[str, Any]) -> OpenVinoRunner:
    """The tiny model's UNet by OpenVINO."""
    return OpenVinoRunner(converted, components["vae"], torch.float32)


def make_call(rows: int, height: int, width: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random arguments; Euler's timesteps are fractions."""
    generator = torch.Generator().manual_seed(rows * height * width)
    sample = torch.randn(rows, 9, height, width, generator=generator)
    return sample, torch.full((rows,), 980.25), torch.randn(rows, tokens, 32, generator=generator)


@pytest.mark.parametrize(
    ("rows", "height", "width", "tokens"),
    [(2, 16, 16, 16), (1, 16, 24, 16), (3, 8, 10, 16), (2, 17, 11, 16), (2, 16, 16, 48), (1, 2, 2, 1)],
    ids=["native", "one row", "three rows", "odd sides", "long prompt", "one cell, one token"],
)
def test_every_shape_agrees_with_torch(
    runner: OpenVinoRunner, components: dict[str, Any], rows: int, height: int, width: int, tokens: int
) -> None:
    """One compiled model takes any canvas, number of rows and prompt, and gives what torch gives."""
    call = make_call(rows, height, width, tokens)
    with torch.inference_mode():
        expected = EagerRunner(components["unet"], components["vae"]).predict_noise(*call)
    found = runner.predict_noise(*call)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


def test_same_call_gives_the_same_bytes(runner: OpenVinoRunner) -> None:
    """A result is the caller's own, and calls of other shapes in between change nothing."""
    call = make_call(2, 16, 16, 16)
    first = runner.predict_noise(*call)
    before = first.clone()
    runner.predict_noise(*make_call(1, 8, 8, 16))
    runner.predict_noise(*make_call(1, 2, 2, 1))
    assert torch.equal(runner.predict_noise(*call), before)
    assert torch.equal(first, before)


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16")
def test_bfloat16_is_within_its_rounding(model_folder: Path, components: dict[str, Any], tmp_path: Path) -> None:
    """In bfloat16 the result is float32's, but for the rounding; the plan says the format."""
    model = convert_in_place(model_folder / "unet", tmp_path / "conversions", torch.bfloat16)
    runner = OpenVinoRunner(model, components["vae"], torch.bfloat16)
    call = make_call(2, 16, 16, 16)
    with torch.inference_mode():
        expected = EagerRunner(components["unet"], components["vae"]).predict_noise(*call)
    sample, timesteps, embeddings = call
    error = (runner.predict_noise(sample, timesteps, embeddings.bfloat16()) - expected).square().mean().sqrt()
    assert 0 < error < BFLOAT16_TOLERANCE * expected.std()
    assert runner.plan == "openvino-bfloat16"


def test_wrong_conversion_is_found(converted: Path, components: dict[str, Any], runner: OpenVinoRunner) -> None:
    """A converted model that computes something else than torch's weights do is refused; the right one is not."""
    vae = components["vae"]
    check_agreement(EagerRunner(components["unet"], vae), runner, components["unet"].config)
    other = make_components(seed=1)["unet"]
    with pytest.raises(RuntimeError, match="differs from torch's"):
        check_agreement(EagerRunner(other, vae), runner, other.config)


def test_no_usage_statistics_are_sent(runner: OpenVinoRunner) -> None:
    """The package by which OpenVINO's converter reports its use is kept from loading."""
    assert runner.plan == "openvino-float32"
    assert sys.modules["openvino_telemetry"] is None


def make_task(seed: int = 1) -> CanvasTask:
    """A canvas of the tiny model's native size."""
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:40] = 255
    parameters = InpaintParameters(prompt="a rose", num_inference_steps=3, scheduler=SchedulerName.EULER)
    return CanvasTask(np.full((64, 64, 3), 90, np.uint8), mask, parameters, seed)


def paint(denoiser: Any, diffusion: Any) -> np.ndarray:
    """Runs a canvas to its end."""
    while diffusion.step < diffusion.steps:
        denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
    picture: np.ndarray = denoiser.finish(diffusion)
    return picture


def test_canvas_keeps_its_runner_and_the_weights_go_with_the_last(converted: Path) -> None:
    """A canvas that began on torch ends on it; then torch's weights are gone, and the next is OpenVINO's."""
    components = make_components()
    denoiser = make_denoiser(components)
    expected = paint(denoiser, denoiser.begin(make_task()))
    begun = denoiser.begin(make_task())
    denoiser.advance(begun, denoiser.predict([begun])[0])
    model: Any = denoiser._model
    model.use_alone(OpenVinoRunner(converted, components["vae"], torch.float32))
    unet = weakref.ref(components.pop("unet"))
    assert (paint(denoiser, begun) == expected).all()
    assert (begun.plan, denoiser.plan) == ("torch-float32", "openvino-float32")
    del begun
    assert unet() is None
    other = denoiser.begin(make_task())
    assert np.abs(paint(denoiser, other).astype(int) - expected).max() <= 1  # rounding may cross a level's border
    assert other.plan == "openvino-float32"


def test_failure_on_the_way_is_torchs_to_finish(
    converted: Path, components: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Canvases of a runner that fails go on with torch; one line is logged, and their plans name both."""
    denoiser = make_denoiser(components)
    model: Any = denoiser._model
    model._load_unet = lambda: components["unet"]
    expected = paint(denoiser, denoiser.begin(make_task()))
    model.use_alone(OpenVinoRunner(converted, components["vae"], torch.float32))
    batch = [denoiser.begin(make_task()), denoiser.begin(make_task(2))]
    for diffusion, prediction in zip(batch, denoiser.predict(batch), strict=True):
        denoiser.advance(diffusion, prediction)

    class Broken:
        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError("no kernel")

    model.runner._request = Broken()
    with pytest.raises(RunnerFailedError, match="no kernel"):
        model.runner.predict_noise(*make_call(1, 8, 8, 16))
    pictures = [paint(denoiser, diffusion) for diffusion in batch]
    assert np.abs(pictures[0].astype(int) - expected).max() <= 1
    assert {diffusion.plan for diffusion in batch} == {"openvino-float32, torch-float32"}
    assert denoiser.plan == "torch-float32"
    assert len([record for record in caplog.records if "no kernel" in record.message]) == 1
