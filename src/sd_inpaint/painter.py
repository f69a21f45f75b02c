"""Whole requests to whole results: picture → canvases → device loop → picture."""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sd_inpaint import __version__, geometry, masks
from sd_inpaint.codecs import Picture
from sd_inpaint.engine import Engine
from sd_inpaint.errors import CancelledError, InpaintError
from sd_inpaint.geometry import Canvas
from sd_inpaint.jobs import CanvasTask, Job, JobState
from sd_inpaint.loop import Backend, DeviceLoop
from sd_inpaint.queue import JobQueue, Pace
from sd_inpaint.schema import (
    SEED_MAX,
    SEED_RANDOM,
    InpaintParameters,
    InpaintRequest,
    InpaintResult,
    MaskedContent,
    SoftMask,
    Variation,
)
from sd_inpaint.settings import Settings

RANDOM_SEED_BITS = 32
"""Random seeds stay short enough to be typed and to survive JavaScript's numbers."""


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """How far a request is.

    Attributes:
        state: ``queued``, ``running`` or ``finishing``.
        step: Denoising steps done, over all canvases.
        steps: Denoising steps in all.
        queue_position: Jobs that go before this one.
        seconds_left: An estimate, or None while there is nothing to estimate from.
    """

    state: str
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None


class Progress:
    """A window on one request: filled by :meth:`Painter.paint`, read by any thread.

    Args:
        wants_preview: True has the loop keep a small picture of what it is painting.

    Attributes:
        admitted: Set once the request is in the device loop's queue; for tasks of the event loop that paints it.
    """

    def __init__(self, *, wants_preview: bool = False) -> None:
        self.wants_preview = wants_preview
        self.admitted = asyncio.Event()
        self._lock = threading.Lock()
        self._jobs: Sequence[Job] = ()
        self._loop: DeviceLoop | None = None
        self._variations = 1
        self._assemble: Callable[[Sequence[np.ndarray]], Picture] | None = None

    def follow(
        self,
        jobs: Sequence[Job],
        loop: DeviceLoop,
        variations: int,
        assemble: Callable[[Sequence[np.ndarray]], Picture],
    ) -> None:
        """Ties this window to a request's jobs.

        Args:
            jobs: A canvas's variations side by side.
            loop: Where they are.
            variations: How many pictures they make.
            assemble: One picture's painted canvases → that picture.
        """
        with self._lock:
            self._jobs, self._loop, self._variations, self._assemble = jobs, loop, variations, assemble
        self.admitted.set()

    def snapshot(self) -> ProgressSnapshot:
        """Says how far the request is now."""
        with self._lock:
            jobs, loop = self._jobs, self._loop
        if not jobs or loop is None:
            return ProgressSnapshot("queued", 0, 0, 0, None)
        waiting = [job for job in jobs if not job.ended]
        step, steps = sum(job.step for job in jobs), sum(job.steps for job in jobs)
        if not waiting:
            return ProgressSnapshot("finishing", step, steps, 0, 0.0)
        running = any(job.state is not JobState.QUEUED for job in jobs)
        position = 0 if running else min(loop.position(job) for job in waiting)
        left = max(loop.seconds_left(job) for job in waiting)
        return ProgressSnapshot("running" if running else "queued", step, steps, position, left)

    def preview(self) -> np.ndarray | None:
        """Returns the newest small picture of the latents, (h, w, 3) uint8, or None."""
        with self._lock:
            previews = [job.preview for job in self._jobs if job.preview is not None]
        return previews[-1] if previews else None

    def partial(self) -> Picture | None:
        """Returns the first picture as far as it is: previews in their places, else what is there; None at first."""
        with self._lock:
            jobs, assemble = self._jobs[:: self._variations], self._assemble
        if assemble is None or all(job.preview is None for job in jobs):
            return None
        return assemble([_enlarged(job.preview, job.task) for job in jobs])


class Painter:
    """Paints requests with one model on one device. Lives as long as the process; any thread or task may call it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.engine = Engine(self._load, self._make_queue, enabled=settings.load)

    def start(self) -> None:
        """Starts loading the weights; returns at once."""
        self.engine.start()

    def stop(self, drain_seconds: float) -> None:
        """Stops admitting, waits for what runs, at most so long, and ends the device loop."""
        self.engine.stop(drain_seconds)

    def check_open(self) -> None:
        """Raises at once what a request would meet: model not there, server stopping, or queue full."""
        self.engine.ready_loop().check_room()

    def info(self) -> dict[str, object]:
        """Returns facts about the model and this server's limits; what is not known yet is None."""
        settings, backend = self._settings, self.engine.backend
        loaded = backend.info if backend else {}
        unknown = ("revision", "device", "dtype", "native_size", "max_batch", "max_canvas_pixels", "files")
        return {
            "version": __version__,
            "model": settings.model,
            "status": str(self.engine.state),
            **{name: loaded.get(name) for name in unknown},
            "queue": {
                "jobs": self.engine.waiting_jobs,
                "seconds": round(self.engine.waiting_seconds, 3),
                "outcomes": dict(self.engine.outcomes),
            },
            "limits": {
                "max_pixels": settings.max_pixels,
                "max_body_bytes": settings.max_body_bytes,
                "max_queue": settings.max_queue,
                "max_queue_work": settings.max_queue_work,
                "deadline_seconds": settings.deadline_seconds,
            },
            "defaults": {
                name: field.default for name, field in InpaintParameters.model_fields.items() if not field.is_required()
            },
        }

    async def paint(
        self,
        request: InpaintRequest,
        *,
        progress: Progress | None = None,
        deadline_seconds: float | None = None,
        promised: bool = False,
    ) -> InpaintResult:
        """Paints one request. Cancelling the awaiting task frees the device before its next step.

        Args:
            request: Decoded and checked; an all-black mask gives the input back without a call of the model.
            progress: Is tied to this request, if given.
            deadline_seconds: How long the caller will wait; the operator's bound is the default and the most.
            promised: True for a job that was accepted before: it is admitted even if the queue is full.

        Raises:
            InpaintError: For all that can go wrong on purpose; see errors.py.
        """
        loop = self.engine.ready_loop()
        parameters = request.parameters
        seeds = _choose_seeds(parameters)
        mask, canvases = await asyncio.to_thread(_plan, request, loop.backend)
        if not canvases:
            same = tuple(Variation(request.image, seed) for seed in seeds)
            return InpaintResult(same[0].image, same[0].seed, steps=0, inference_seconds=0.0, further=same[1:])
        tasks = await asyncio.to_thread(_cut, canvases, request.image, mask, parameters, seeds)
        longest = self._settings.deadline_seconds
        jobs = [Job(task, wants_preview=progress is not None and progress.wants_preview) for task in tasks]
        loop.submit(jobs, deadline_seconds=min(deadline_seconds or longest, longest), promised=promised)
        weights = masks.reveal(mask) if parameters.soft_mask is SoftMask.STRENGTH else mask
        if progress is not None:
            progress.follow(
                jobs, loop, len(seeds), lambda painted: _assemble(request.image, weights, canvases, painted)
            )
        painted: Sequence[np.ndarray] = await _wait(jobs, loop)
        if parameters.color_match:
            painted = await asyncio.to_thread(_match_colours, painted, tasks)
        images = [
            await asyncio.to_thread(_assemble, request.image, weights, canvases, painted[n :: len(seeds)])
            for n in range(len(seeds))
        ]
        return InpaintResult(
            image=images[0],
            seed=seeds[0],
            steps=max(job.step for job in jobs),
            inference_seconds=sum(job.device_seconds for job in jobs),
            regions=tuple(canvas.describe() for canvas in canvases),
            further=tuple(Variation(image, seed) for image, seed in zip(images[1:], seeds[1:], strict=True)),
            is_all_painted=parameters.strength == 1 and bool((mask == 255).all()),
        )

    def _load(self) -> Backend:
        # Before torch is loaded: its threads spin while they wait, which starves whatever shares the machine with them,
        # and is starved by it (measured: docs/benchmarks.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported here, in the device thread: torch and diffusers take seconds, and the server answers meanwhile.
        from sd_inpaint import weights

        return weights.load(self._settings)

    def _make_queue(self, pace: Pace) -> JobQueue:
        return JobQueue(max_jobs=self._settings.max_queue, max_work=self._settings.max_queue_work, pace=pace)


def _plan(request: InpaintRequest, backend: Backend) -> tuple[np.ndarray, tuple[Canvas, ...]]:
    parameters = request.parameters
    mask = masks.prepare(
        request.mask, invert=parameters.mask_invert, grow=parameters.mask_grow, blur=parameters.mask_blur
    )
    canvases = geometry.plan(
        mask,
        region=parameters.region,
        padding=parameters.padding,
        native_size=backend.native_size,
        stride=backend.stride,
        max_canvas_pixels=backend.max_canvas_pixels,
    )
    return mask, canvases


def _choose_seeds(parameters: InpaintParameters) -> list[int]:
    """One seed a picture: the one asked for, or drawn, and those that follow it."""
    first = secrets.randbits(RANDOM_SEED_BITS) if parameters.seed == SEED_RANDOM else parameters.seed
    return [(first + n) % (SEED_MAX + 1) for n in range(parameters.num_images)]


def _cut(
    canvases: Sequence[Canvas], image: Picture, mask: np.ndarray, parameters: InpaintParameters, seeds: Sequence[int]
) -> list[CanvasTask]:
    """One task for each canvas and seed, a canvas's seeds side by side: they share its pixels."""
    tasks = []
    for canvas in canvases:
        pixels, hole = geometry.cut(canvas, image.rgb), geometry.cut_mask(canvas, mask)
        if parameters.masked_content is MaskedContent.FILL and parameters.strength < 1:
            pixels = masks.fill_hole(pixels, hole)
        rim = None
        if canvas.scale < 1:
            colours, is_half_kept = geometry.cut_kept(canvas, image.rgb, _hidden(mask, parameters))
            rim = is_half_kept & _hidden(hole, parameters)
            pixels = np.where(rim[..., None], colours, pixels)
        tasks += [CanvasTask(pixels, hole, parameters, seed, rim) for seed in seeds]
    return tasks


def _hidden(mask: np.ndarray, parameters: InpaintParameters) -> np.ndarray:
    """(H, W) bool: what is not to be shown: by strength all that the mask touches, else from half-grey on."""
    return mask > 0 if parameters.soft_mask is SoftMask.STRENGTH else masks.hole(mask)


async def _wait(jobs: Sequence[Job], loop: DeviceLoop) -> list[np.ndarray]:
    """Waits for all of a request's jobs; what ends one of them, or the waiting, ends the others."""
    try:
        return await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
    except asyncio.CancelledError:
        loop.leave(jobs, CancelledError("The caller cancelled this picture."))
        raise
    except InpaintError as error:
        loop.leave(jobs, error)
        raise


def _match_colours(painted: Sequence[np.ndarray], tasks: Sequence[CanvasTask]) -> list[np.ndarray]:
    # At a hole's rim the right answer is known too.
    unknown = (task.mask if task.rim is None else np.where(task.rim, np.uint8(0), task.mask) for task in tasks)
    return [
        masks.match_colours(pixels, task.image, mask)
        for pixels, task, mask in zip(painted, tasks, unknown, strict=True)
    ]


def _enlarged(preview: np.ndarray | None, task: CanvasTask) -> np.ndarray:
    """A canvas as far as it is, at its full size; the input's where nothing is to be seen yet."""
    return task.image if preview is None else geometry.resized(preview, *task.size)


def _assemble(
    image: Picture, weights: np.ndarray, canvases: Sequence[Canvas], painted: Sequence[np.ndarray]
) -> Picture:
    rgb = image.rgb.copy()
    for canvas, pixels in zip(canvases, painted, strict=True):
        geometry.paste(canvas, pixels, rgb)
    return masks.composite(image, rgb, weights)
