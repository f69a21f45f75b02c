"""A device that computes nothing, on a clock that a test winds: the loop's own behaviour, without torch."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasTask
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Order, Pace
from sd_inpaint.errors import OutOfMemoryError
from sd_inpaint.schema import InpaintParameters
from tools.capacity.device import Clock, SimulatedBackend
from tools.capacity.device import SimulatedDiffusion as FakeDiffusion

__all__ = ["Clock", "FakeBackend", "FakeDiffusion", "make_job", "make_loop", "make_task", "run_until_idle"]


@dataclass
class FakeBackend(SimulatedBackend):
    """A simulated device that checks how it is used; ``fault(call, diffusion or task, low_memory)`` may raise."""

    fault: Callable[[str, object, bool], None] = lambda call, subject, low_memory: None
    in_use: bool = False
    batches: list[list[CanvasTask]] = field(default_factory=list)
    released: int = 0

    @property
    def switches(self) -> int:
        """How often the LoRAs in place were others than in the call before."""
        sets = ["", *(batch[0].parameters.loras for batch in self.batches)]
        return sum(before != after for before, after in itertools.pairwise(sets))

    def begin(self, task: CanvasTask, *, low_memory: bool) -> FakeDiffusion:
        """Starts a job."""
        self.fault("begin", task, low_memory)
        return super().begin(task, low_memory=low_memory)

    def predict(self, batch: Sequence[FakeDiffusion], *, low_memory: bool) -> list[int]:
        """One turn of the device: time passes with the work of all."""
        assert not self.in_use, "two turns at once"
        assert len({diffusion.task.size for diffusion in batch}) == 1, "canvases of different sizes in one batch"
        assert len({diffusion.task.parameters.loras for diffusion in batch}) == 1, "two sets of LoRAs in one batch"
        assert len(batch) <= self.max_batch
        self.in_use = True
        try:
            for diffusion in batch:
                self.fault("predict", diffusion, low_memory)
            self.batches.append([diffusion.task for diffusion in batch])
            return super().predict(batch, low_memory=low_memory)
        finally:
            self.in_use = False

    def advance(self, diffusion: FakeDiffusion, prediction: int) -> None:
        """Takes the step that was predicted, and no other."""
        self.fault("advance", diffusion, False)
        assert prediction == diffusion.step
        super().advance(diffusion, prediction)

    def finish(self, diffusion: FakeDiffusion, *, low_memory: bool) -> np.ndarray:
        """Gives a picture that tells which task it belongs to."""
        self.fault("finish", diffusion, low_memory)
        assert diffusion.step == diffusion.steps, "a half-denoised picture was decoded"
        return np.full((*diffusion.task.image.shape[:2], 3), diffusion.task.seed % 251, np.uint8)

    def release_memory(self) -> None:
        """Counts how often the loop cleaned up."""
        self.released += 1


def make_task(
    *, steps: int = 4, side: int = 64, seed: int = 0, guidance_scale: float = 1.0, loras: str = ""
) -> CanvasTask:
    """Makes a task with a square canvas."""
    parameters = InpaintParameters(prompt="", num_inference_steps=steps, guidance_scale=guidance_scale, loras=loras)
    return CanvasTask(np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8), parameters, seed)


def make_job(*, caller: str = "", weight: float = 1.0, wants_preview: bool = False, **task: object) -> CanvasJob:
    """Makes a job of :func:`make_task`'s arguments."""
    return CanvasJob(make_task(**task), caller, weight, wants_preview=wants_preview)  # type: ignore[arg-type]


def make_loop(
    *, max_batch: int = 1, max_canvases: int = 1000, max_megapixel_steps: float = 1e9, patience: float = 2.0
) -> tuple[DeviceLoop, FakeBackend, Clock]:
    """Makes a loop over a fake device."""
    clock = Clock()
    backend = FakeBackend(clock, max_batch=max_batch)
    queue = CanvasQueue(
        max_canvases=max_canvases,
        max_megapixel_steps=max_megapixel_steps,
        pace=Pace(backend.seconds_per_megapixel_pass),
        order=Order(patience),
    )
    return DeviceLoop(backend, queue, clock), backend, clock


def run_until_idle(loop: DeviceLoop, most_turns: int = 100_000) -> int:
    """Turns the loop until nothing is left; returns how many turns that took."""
    for turns in range(most_turns):
        if not loop.turn():
            return turns
    raise AssertionError("the loop does not come to an end")


def out_of_memory_once() -> Callable[[str, object, bool], None]:
    """Makes a fault: out of memory wherever a call is not low_memory."""

    def fault(call: str, subject: object, low_memory: bool) -> None:
        if call == "finish" and not low_memory:
            raise OutOfMemoryError("too much")

    return fault
