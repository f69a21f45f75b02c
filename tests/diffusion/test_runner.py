"""What runs the networks: a canvas keeps what it began with."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.runner import EagerRunner
from sd_inpaint.engine.canvas_jobs import CanvasJob
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from tests.support.canvases import make_task, paint
from tests.support.tiny_model import make_components, make_denoiser


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    """Real classes at tiny size."""
    return make_components()


class Counting(EagerRunner):
    """The reference under another name, which counts its calls."""

    def __init__(self, components: dict[str, Any], plan: str) -> None:
        super().__init__(components["unet"], components["vae"])
        self.plan = plan
        self.rows: list[int] = []
        self.decoded = 0

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Counts the rows."""
        self.rows.append(len(sample))
        return super().predict_noise(sample, timesteps, embeddings)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Counts the call."""
        self.decoded += 1
        return super().decode(latents)


def test_canvas_keeps_the_plan_it_began_with(components: dict[str, Any]) -> None:
    """Swapped in the middle, a runner takes the canvases that begin afterwards, and never shares a call with others."""
    denoiser = make_denoiser(components, max_batch=4)
    alone = [paint(denoiser, make_task(seed=seed)) for seed in (1, 2)]
    first, second = Counting(components, "first"), Counting(components, "second")
    denoiser._model.use(first)
    queue = CanvasQueue(max_canvases=9, max_megapixel_steps=1e9, pace=Pace(1.0))
    loop = DeviceLoop(denoiser, queue)
    early, late = CanvasJob(make_task(seed=1)), CanvasJob(make_task(seed=2))
    loop.submit([early])
    loop.turn()
    denoiser._model.use(second)
    loop.submit([late])
    while loop.turn():
        pass
    assert (early.plan, late.plan) == ("first", "second")
    assert (first.rows, second.rows) == ([2] * 4, [2] * 4)
    assert (first.decoded, second.decoded) == (1, 1)
    for job, expected in zip((early, late), alone, strict=True):
        assert np.array_equal(job.future.result(), expected)


def test_swap_within_a_turn_splits_the_call(components: dict[str, Any]) -> None:
    """Two canvases that began in one turn, before and after a swap, are each predicted by their own runner."""
    denoiser = make_denoiser(components, max_batch=2)
    first, second = Counting(components, "first"), Counting(components, "second")
    diffusions = [
        dataclasses.replace(denoiser.begin(make_task(seed=seed)), runner=runner)
        for seed, runner in ((1, first), (2, second))
    ]
    together = denoiser.predict(diffusions)
    assert (first.rows, second.rows) == ([2], [2])
    for diffusion, prediction in zip(diffusions, together, strict=True):
        assert torch.equal(prediction, denoiser.predict([diffusion])[0])
