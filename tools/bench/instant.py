"""The service over a device that computes nothing: what is left is the service around the model."""

from typing import Any

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.http.service import SDInpaint
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.painter import Painter
from sd_inpaint.settings import Settings
from tools.capacity.device import Clock, SimulatedBackend, SimulatedDiffusion

__all__ = ["SDInpaint", "load"]


class InstantBackend(SimulatedBackend):
    """A device of the native size 512 that is done at once; its pictures are the canvases it was given."""

    def finish(self, diffusion: SimulatedDiffusion, *, low_memory: bool) -> np.ndarray:
        """Gives a picture that is no flat colour, which PNG would write in no time."""
        del low_memory
        task: CanvasTask = diffusion.task
        return task.image[::-1].copy()


def load(settings: Settings) -> Any:
    """Makes it, as :attr:`Painter.load` wants it."""
    del settings
    return InstantBackend(Clock(), limits=CanvasLimits(512, 8, 1 << 24), info={"device": "instant"})


Painter.load = "tools.bench.instant:load"
