"""How far a request is, with the picture so far."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState, CanvasTask
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.imaging import geometry
from sd_inpaint.imaging.geometry import Canvas
from sd_inpaint.picture import Picture


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """A request's progress.

    Attributes:
        state: ``queued``, ``running`` or ``finishing``.
        step: Denoising steps done, over all canvases.
        steps: Denoising steps in all.
        queue_position: Canvases that go before this one.
        seconds_left: An estimate, or None while there is nothing to estimate from.
    """

    state: str
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A small picture of one canvas as far as it is.

    Attributes:
        pixels: (h, w, 3) uint8.
        region: left, top, right, bottom of what it shows, in the picture's pixels; beyond the picture where the canvas
            is padded. None where nobody knows.
    """

    pixels: np.ndarray
    region: tuple[float, float, float, float] | None


class Progress:
    """A view of one request: filled by :meth:`sd_inpaint.painter.Painter.paint`, read by any thread.

    Args:
        wants_preview: True has the loop keep a small picture of each canvas as far as it is.

    Attributes:
        admitted: Set once the request is in the device loop's queue; for tasks of the event loop that runs it.
    """

    def __init__(self, *, wants_preview: bool = False) -> None:
        self.wants_preview = wants_preview
        self.admitted = asyncio.Event()
        self._lock = threading.Lock()
        self._pictures: Sequence[Sequence[CanvasJob]] = ()
        self._loop: DeviceLoop[Any, Any] | None = None
        self._assemble: Callable[[Sequence[np.ndarray]], Picture] | None = None
        self._canvases: Sequence[Canvas] = ()

    def follow(
        self,
        pictures: Sequence[Sequence[CanvasJob]],
        loop: DeviceLoop[Any, Any],
        assemble: Callable[[Sequence[np.ndarray]], Picture],
        canvases: Sequence[Canvas] = (),
    ) -> None:
        """Ties this window to a request.

        Args:
            pictures: The canvases of each picture.
            loop: Where they are.
            assemble: One picture's painted canvases → that picture.
            canvases: Where each canvas of a picture is.
        """
        with self._lock:
            self._pictures, self._loop, self._assemble, self._canvases = pictures, loop, assemble, canvases
        self.admitted.set()

    def snapshot(self) -> ProgressSnapshot:
        """Returns the request's progress now."""
        with self._lock:
            jobs, loop = list(chain.from_iterable(self._pictures)), self._loop
        if not jobs or loop is None:
            return ProgressSnapshot("queued", 0, 0, 0, None)
        waiting = [job for job in jobs if not job.ended]
        step, steps = sum(job.step for job in jobs), sum(job.steps for job in jobs)
        if not waiting:
            return ProgressSnapshot("finishing", step, steps, 0, 0.0)
        running = any(job.state is not CanvasState.QUEUED for job in jobs)
        position = 0 if running else min(loop.position(job) for job in waiting)
        left = max(loop.seconds_left(job) for job in waiting)
        return ProgressSnapshot("running" if running else "queued", step, steps, position, left)

    def preview(self) -> Preview | None:
        """Returns the newest small picture of the latents, or None."""
        with self._lock:
            unknown = [None] * len(self._pictures[0] if self._pictures else ())
            canvases: Sequence[Canvas | None] = self._canvases or unknown
            # The canvases in the order of the queue: those of one place side by side, a picture each.
            places = zip(canvases, zip(*self._pictures, strict=True), strict=True)
            previews = [
                Preview(job.preview, None if canvas is None else canvas.extent)
                for canvas, jobs in places
                for job in jobs
                if job.preview is not None
            ]
        return previews[-1] if previews else None

    def partial(self) -> Picture | None:
        """Returns the first picture as far as it is: previews in their places, else the input; None at first."""
        with self._lock:
            jobs, assemble = self._pictures[0] if self._pictures else (), self._assemble
        if assemble is None or all(job.preview is None for job in jobs):
            return None
        return assemble([_enlarged(job.preview, job.ready_task) for job in jobs])


def _enlarged(preview: np.ndarray | None, task: CanvasTask) -> np.ndarray:
    """A canvas so far, at its full size; the input if there is no preview yet."""
    return task.image if preview is None else geometry.resized(preview, *task.size)
