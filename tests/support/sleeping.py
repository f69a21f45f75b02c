"""A device that sleeps where a model would compute: what is left is the service's own cost."""

import os
import time
from collections.abc import Sequence

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import ContentFlaggedError
from sd_inpaint.settings import Settings
from tools.capacity.device import Clock, SimulatedBackend, SimulatedDiffusion

MAKE = "tests.support.sleeping:make"
"""How a painter names :func:`make`."""

STEP_SECONDS = "SLEEPING_STEP_SECONDS"
"""The variable that says how long a step takes."""

FLAGGED_SEED = 666
"""Its picture is refused by what stands for a safety checker."""

DEADLY_SEED = 999
"""It brings the device down."""


class SleepingBackend(SimulatedBackend):
    """Takes real time for each step, and gives each seed a picture of its own."""

    def __init__(self, step_seconds: float) -> None:
        # What a step of a canvas of 64×64 comes to, with guidance.
        super().__init__(Clock(), seconds_per_megapixel_pass=step_seconds / (2 * 64 * 64 / 1e6))
        self.step_seconds = step_seconds
        self.info = {"device": "sleeping", "pid": os.getpid()}

    def begin(self, task: CanvasTask, *, low_memory: bool) -> SimulatedDiffusion:
        """Starts a job, or ends the process by the seed that does so."""
        if task.seed == DEADLY_SEED:
            os._exit(3)
        return super().begin(task, low_memory=low_memory)

    def predict(self, batch: Sequence[SimulatedDiffusion], *, low_memory: bool) -> list[int]:
        """Sleeps."""
        time.sleep(self.step_seconds)
        return super().predict(batch, low_memory=low_memory)

    def finish(self, diffusion: SimulatedDiffusion, *, low_memory: bool) -> np.ndarray:
        """Gives the seed's picture."""
        if diffusion.task.seed == FLAGGED_SEED:
            raise ContentFlaggedError("The safety checker flagged the result.")
        random = np.random.default_rng(diffusion.task.seed)
        return random.integers(0, 256, diffusion.task.image.shape, dtype=np.uint8)


def make(settings: Settings) -> SleepingBackend:
    """Makes a device."""
    del settings
    return SleepingBackend(float(os.environ.get(STEP_SECONDS, "0.01")))
