"""A device that computes nothing, on a clock of its own: what the real device loop is driven with, without a model.

Tests of the loop and ``scripts/capacity`` share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.imaging.geometry import CanvasLimits

LIMITS = CanvasLimits(native_size=64, stride=8, max_pixels=1 << 20)
"""Of a model that nothing here looks at."""


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        """Reads the clock."""
        return self.now


@dataclass(eq=False)
class SimulatedDiffusion:
    """What the simulated device keeps of a job."""

    task: CanvasTask
    steps: int
    step: int = 0
    plan: str = ""


@dataclass
class SimulatedBackend:
    """A backend of the device loop whose calls only take time: ``seconds_per_megapixel_pass`` for each megapixel-pass.

    A subclass says otherwise in :meth:`predict_seconds`. One thread may use it, as any backend.

    Attributes:
        clock: Is moved on by each call.
        busy_seconds: Time the device has worked in all.
        plan: As :class:`~sd_inpaint.engine.backend.Backend` has it.
    """

    clock: Clock
    max_batch: int = 1
    seconds_per_megapixel_pass: float = 10.0
    limits: CanvasLimits = LIMITS
    info: dict[str, object] = field(default_factory=dict)
    busy_seconds: float = 0.0
    plan: str = ""

    def predict_seconds(self, batch: Sequence[SimulatedDiffusion]) -> float:
        """Returns how long one UNet call takes: as long as the jobs one after another, the least favourable device."""
        return self.seconds_per_megapixel_pass * sum(diffusion.task.megapixel_passes_per_step for diffusion in batch)

    def work(self, seconds: float) -> None:
        """Has the device be busy for a while."""
        self.busy_seconds += seconds
        self.clock.now += seconds

    def begin(self, task: CanvasTask, *, low_memory: bool) -> SimulatedDiffusion:
        """Starts a job, in no time."""
        del low_memory
        return SimulatedDiffusion(task, task.steps, plan=self.plan)

    def predict(self, batch: Sequence[SimulatedDiffusion], *, low_memory: bool) -> list[int]:
        """One turn of the device; tells for each job which step it was."""
        del low_memory
        self.work(self.predict_seconds(batch))
        return [diffusion.step for diffusion in batch]

    def advance(self, diffusion: SimulatedDiffusion, prediction: int) -> None:
        """Takes the step that was predicted."""
        diffusion.step = prediction + 1

    def finish(self, diffusion: SimulatedDiffusion, *, low_memory: bool) -> np.ndarray:
        """Gives a black picture of the canvas's size that takes no memory."""
        del low_memory
        return np.broadcast_to(np.uint8(0), diffusion.task.image.shape)

    def preview(self, diffusion: SimulatedDiffusion, prediction: int) -> np.ndarray:
        """Gives a tiny picture."""
        del diffusion, prediction
        return np.zeros((2, 2, 3), np.uint8)

    def release_memory(self) -> None:
        """Does nothing: there is none."""

    def memory(self) -> None:
        """Gives none."""
