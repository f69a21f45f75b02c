"""A device that computes nothing, on a clock that a test winds: the loop's own behaviour, without torch."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from conftest import ROOT
from sd_inpaint.errors import OutOfMemoryError
from sd_inpaint.jobs import CanvasTask, Job
from sd_inpaint.loop import DeviceLoop
from sd_inpaint.queue import JobQueue, Order, Pace
from sd_inpaint.schema import InpaintParameters

sys.path.insert(0, str(ROOT / "scripts"))

from simulated_device import Clock, SimulatedBackend
from simulated_device import SimulatedDiffusion as FakeDiffusion

__all__ = ["Clock", "FakeBackend", "FakeDiffusion", "make_job", "make_loop", "make_task", "run_until_idle"]


@dataclass
class FakeBackend(SimulatedBackend):
    """A simulated device that checks how it is used; ``fault(call, diffusion or task, lean)`` may raise."""

    fault: Callable[[str, object, bool], None] = lambda call, subject, lean: None
    in_use: bool = False
    batches: list[list[CanvasTask]] = field(default_factory=list)
    released: int = 0

    def begin(self, task: CanvasTask, *, lean: bool) -> FakeDiffusion:
        """Starts a job."""
        self.fault("begin", task, lean)
        return super().begin(task, lean=lean)

    def predict(self, batch: Sequence[FakeDiffusion], *, lean: bool) -> list[int]:
        """One turn of the device: time passes with the work of all."""
        assert not self.in_use, "two turns at once"
        assert len({diffusion.task.size for diffusion in batch}) == 1, "canvases of different sizes in one batch"
        assert len(batch) <= self.max_batch
        self.in_use = True
        try:
            for diffusion in batch:
                self.fault("predict", diffusion, lean)
            self.batches.append([diffusion.task for diffusion in batch])
            return super().predict(batch, lean=lean)
        finally:
            self.in_use = False

    def advance(self, diffusion: FakeDiffusion, prediction: int) -> None:
        """Takes the step that was predicted, and no other."""
        self.fault("advance", diffusion, False)
        assert prediction == diffusion.step
        super().advance(diffusion, prediction)

    def finish(self, diffusion: FakeDiffusion, *, lean: bool) -> np.ndarray:
        """Gives a picture that tells which task it belongs to."""
        self.fault("finish", diffusion, lean)
        assert diffusion.step == diffusion.steps, "a half-denoised picture was decoded"
        return np.full((*diffusion.task.image.shape[:2], 3), diffusion.task.seed % 251, np.uint8)

    def release_memory(self) -> None:
        """Counts how often the loop cleaned up."""
        self.released += 1


def make_task(*, steps: int = 4, side: int = 64, seed: int = 0, guidance_scale: float = 1.0) -> CanvasTask:
    """Makes a task with a square canvas."""
    parameters = InpaintParameters(prompt="", num_inference_steps=steps, guidance_scale=guidance_scale)
    return CanvasTask(np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8), parameters, seed)


def make_job(*, wants_preview: bool = False, **task: object) -> Job:
    """Makes a job of :func:`make_task`'s arguments."""
    return Job(make_task(**task), wants_preview=wants_preview)  # type: ignore[arg-type]


def make_loop(
    *, max_batch: int = 1, max_jobs: int = 1000, max_work: float = 1e9, patience: float = 2.0
) -> tuple[DeviceLoop, FakeBackend, Clock]:
    """Makes a loop over a fake device."""
    clock = Clock()
    backend = FakeBackend(clock, max_batch=max_batch)
    queue = JobQueue(max_jobs=max_jobs, max_work=max_work, pace=Pace(backend.seconds_per_work), order=Order(patience))
    return DeviceLoop(backend, queue, clock), backend, clock


def run_until_idle(loop: DeviceLoop, most_turns: int = 100_000) -> int:
    """Turns the loop until nothing is left; returns how many turns that took."""
    for turns in range(most_turns):
        if not loop.turn():
            return turns
    raise AssertionError("the loop does not come to an end")


def out_of_memory_once() -> Callable[[str, object, bool], None]:
    """Makes a fault: out of memory wherever a call is not lean."""

    def fault(call: str, subject: object, lean: bool) -> None:
        if call == "finish" and not lean:
            raise OutOfMemoryError("too much")

    return fault
