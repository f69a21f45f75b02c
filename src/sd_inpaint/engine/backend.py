"""What the device loop asks of a model."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.imaging.geometry import CanvasLimits


class DeviceLostError(Exception):
    """The device is gone, with all that was on it."""


class HasSteps(Protocol):
    """A backend's own state of one canvas."""

    @property
    def plan(self) -> str:
        """The name of what computes it, from its first step to its last."""

    @property
    def steps(self) -> int:
        """Denoising steps in all."""


D = TypeVar("D", bound=HasSteps)
"""A backend's own state of one canvas."""

P = TypeVar("P")
"""A backend's prediction for one canvas and one step."""


class Backend(Protocol[D, P]):
    """The loop's calls to a model, made only by its own thread.

    Each call may raise OutOfMemoryError, before it has changed anything; the loop then tries again with ``low_memory``.
    Each may raise DeviceLostError where the model lives in a process of its own.

    Attributes:
        limits: Which canvases the model works on.
        max_batch: How many canvases share one UNet call.
        seconds_per_megapixel_pass: First guess of the pace.
        info: Facts for ``/sd-inpaint/info``.
    """

    limits: CanvasLimits
    max_batch: int
    seconds_per_megapixel_pass: float
    info: dict[str, object]

    @property
    def plan(self) -> str:
        """The name of what computes canvases that begin now."""

    def begin(self, task: CanvasTask, *, low_memory: bool) -> D:
        """Encodes prompt, picture and mask."""

    def predict(self, batch: Sequence[D], *, low_memory: bool) -> Sequence[P]:
        """One UNet call for all of them; changes nothing of D."""

    def advance(self, diffusion: D, prediction: P) -> None:
        """One scheduler step of one canvas."""

    def finish(self, diffusion: D, *, low_memory: bool) -> np.ndarray:
        """Decodes and checks; returns (H, W, 3) uint8."""

    def preview(self, diffusion: D, prediction: P) -> np.ndarray:
        """Returns (h, w, 3) uint8, one pixel a latent cell."""

    def release_memory(self) -> None:
        """Gives cached memory back."""

    def memory(self) -> dict[str, int] | None:
        """Returns the device's memory in bytes, from any thread; None where it is the machine's own.

        The names are ``free``, ``total``, and ``allocated``, ``reserved`` and each one's ``peak_…`` of this process.
        """
