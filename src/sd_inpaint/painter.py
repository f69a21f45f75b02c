"""Whole requests to whole results: picture → canvases → device loop → picture."""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from sd_inpaint import __version__
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState, CanvasTask
from sd_inpaint.engine.lifecycle import Engine
from sd_inpaint.engine.loop import Backend, DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import InpaintError, RequestCancelledError
from sd_inpaint.imaging import colours, geometry, masks
from sd_inpaint.imaging.geometry import Canvas, CanvasLimits
from sd_inpaint.picture import Picture
from sd_inpaint.picture_work import PictureWork
from sd_inpaint.schema import (
    SEED_MAX,
    SEED_RANDOM,
    InpaintParameters,
    InpaintRequest,
    InpaintResult,
    MaskedContent,
    SchedulerName,
    SoftMask,
    Variation,
)
from sd_inpaint.settings import Settings

RANDOM_SEED_BITS = 32
"""Random seeds stay short enough to be typed and to survive JavaScript's numbers."""


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


class Progress:
    """A view of one request: filled by :meth:`Painter.paint`, read by any thread.

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

    def follow(
        self,
        pictures: Sequence[Sequence[CanvasJob]],
        loop: DeviceLoop[Any, Any],
        assemble: Callable[[Sequence[np.ndarray]], Picture],
    ) -> None:
        """Ties this window to a request.

        Args:
            pictures: The canvases of each picture.
            loop: Where they are.
            assemble: One picture's painted canvases → that picture.
        """
        with self._lock:
            self._pictures, self._loop, self._assemble = pictures, loop, assemble
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

    def preview(self) -> np.ndarray | None:
        """Returns the newest small picture of the latents, (h, w, 3) uint8, or None."""
        with self._lock:
            # The canvases in the order of the queue: those of one place side by side, a picture each.
            jobs = chain.from_iterable(zip(*self._pictures, strict=True))
            previews = [job.preview for job in jobs if job.preview is not None]
        return previews[-1] if previews else None

    def partial(self) -> Picture | None:
        """Returns the first picture as far as it is: previews in their places, else the input; None at first."""
        with self._lock:
            jobs, assemble = self._pictures[0] if self._pictures else (), self._assemble
        if assemble is None or all(job.preview is None for job in jobs):
            return None
        return assemble([_enlarged(job.preview, job.task) for job in jobs])


class Painter:
    """Paints requests with one model on one device. Lives as long as the process; any thread or task may call it.

    Args:
        settings: The operator's.
        work: Where whole pictures are worked on; None makes a place of its own.
    """

    def __init__(self, settings: Settings, work: PictureWork | None = None) -> None:
        self._settings = settings
        self._work = work or PictureWork()
        self.engine = Engine(self._load, self._make_queue, enabled=settings.load)

    def start(self) -> None:
        """Starts loading the weights; returns at once."""
        self.engine.start()

    def stop(self, drain_seconds: float) -> None:
        """Stops admitting, gives running requests ``drain_seconds`` to finish, and ends the device loop."""
        self.engine.stop(drain_seconds)

    def check_open(self) -> None:
        """Raises at once the error that a request would get: model not ready, server shutting down, or queue full."""
        self.engine.ready_loop().check_room()

    def info(self) -> dict[str, object]:
        """Returns facts about the model and this server's limits; those not known yet are None."""
        settings, backend = self._settings, self.engine.backend
        loaded = backend.info if backend else {}
        unknown = ("revision", "device", "dtype", "native_size", "max_batch", "max_canvas_pixels", "files")
        return {
            "version": __version__,
            "model": settings.model_name,
            "status": str(self.engine.state),
            **{name: loaded.get(name) for name in unknown},
            "queue": {
                "jobs": self.engine.waiting_canvases,
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

    @property
    def own_scheduler(self) -> SchedulerName:
        """The name of the scheduler that the model ships with; ``default`` where it has none, or is not loaded yet."""
        backend = self.engine.backend
        return (
            SchedulerName.DEFAULT if backend is None else SchedulerName(str(backend.info.get("scheduler", "default")))
        )

    def device_memory(self) -> dict[str, int] | None:
        """Returns the device's memory in bytes, as :meth:`Backend.memory`; None before the model is loaded too."""
        backend = self.engine.backend
        return None if backend is None else backend.memory()

    async def paint(
        self,
        request: InpaintRequest,
        *,
        progress: Progress | None = None,
        deadline_seconds: float | None = None,
        force: bool = False,
    ) -> InpaintResult:
        """Paints one request. Cancelling the awaiting task frees the device before its next step.

        Args:
            request: Decoded and checked; a mask of which nothing can be seen gives the input back without the model.
            progress: Follows this request, if given.
            deadline_seconds: How long the caller will wait; the operator's limit is the default and the maximum.
            force: True for a job that was accepted before: it is admitted even if the queue is full.

        Raises:
            InpaintError: Any of those in errors.py.
        """
        loop = self.engine.ready_loop()
        # 1. Choose the seeds and the canvases.
        parameters = with_seed(request.parameters)
        seeds = [(parameters.seed + n) % (SEED_MAX + 1) for n in range(parameters.num_images)]
        mask, canvases = await self._work.run(_plan, request, loop.backend.limits)
        if not canvases:
            same = tuple(Variation(request.image, seed) for seed in seeds)
            return InpaintResult(same, steps=0, inference_seconds=0.0, brightest=int(mask.max()))
        # 2. Have the device loop take them all, or none.
        tasks = await self._work.run(_cut, canvases, request.image, mask, parameters, seeds)
        wants_preview = progress is not None and progress.wants_preview
        jobs = [[CanvasJob(task, wants_preview=wants_preview) for task in of_canvas] for of_canvas in tasks]
        flat = list(chain.from_iterable(jobs))
        longest = self._settings.deadline_seconds
        loop.submit(flat, deadline_seconds=min(deadline_seconds or longest, longest), force=force)
        # 3. Wait for them.
        weights = masks.compositing_weights(mask) if parameters.soft_mask is SoftMask.STRENGTH else mask
        assemble = partial(_assemble, request.image, weights, canvases)
        pictures = list(zip(*jobs, strict=True))
        if progress is not None:
            progress.follow(pictures, loop, assemble)
        await _wait(flat, loop)
        # 4. Put each picture together.
        finish = partial(_finish, assemble, match_colours=parameters.color_match)
        images = [await self._work.run(finish, canvas_jobs) for canvas_jobs in pictures]
        return InpaintResult(
            variations=tuple(Variation(image, seed) for image, seed in zip(images, seeds, strict=True)),
            steps=max(job.step for job in flat),
            inference_seconds=sum(job.device_seconds for job in flat),
            regions=tuple(canvas.describe() for canvas in canvases),
            is_all_painted=parameters.strength == 1 and bool((masks.visible(mask) == 255).all()),
            brightest=int(mask.max()),
        )

    def _load(self) -> Backend[Any, Any]:
        # Before torch is loaded: its threads spin while they wait, which starves whatever shares the machine with them,
        # and is starved by it (measured: docs/benchmarks.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported here, in the device thread: torch and diffusers take seconds, and the server answers meanwhile.
        from sd_inpaint.diffusion import weights

        return weights.load(self._settings)

    def _make_queue(self, pace: Pace) -> CanvasQueue:
        return CanvasQueue(
            max_canvases=self._settings.max_queue, max_megapixel_steps=self._settings.max_queue_work, pace=pace
        )


def with_seed(parameters: InpaintParameters) -> InpaintParameters:
    """Returns the parameters with a seed drawn where the caller left it to the server."""
    if parameters.seed != SEED_RANDOM:
        return parameters
    return parameters.model_copy(update={"seed": secrets.randbits(RANDOM_SEED_BITS)})


def _plan(request: InpaintRequest, limits: CanvasLimits) -> tuple[np.ndarray, tuple[Canvas, ...]]:
    parameters = request.parameters
    mask = masks.prepare(
        request.mask, invert=parameters.mask_invert, grow=parameters.mask_grow, blur=parameters.mask_blur
    )
    canvases = geometry.plan(mask, region=parameters.region, padding=parameters.padding, limits=limits)
    return mask, canvases


def _cut(
    canvases: Sequence[Canvas], image: Picture, mask: np.ndarray, parameters: InpaintParameters, seeds: Sequence[int]
) -> list[list[CanvasTask]]:
    """The tasks of each canvas, one a seed: they share its pixels, which are sRGB's, as in training."""
    tasks = []
    mask = masks.visible(mask)
    for canvas in canvases:
        pixels = colours.to_srgb(geometry.cut(canvas, image.rgb), image.icc_profile)
        canvas_mask = geometry.cut_mask(canvas, mask)
        if parameters.masked_content is MaskedContent.FILL and parameters.strength < 1:
            pixels = masks.fill_hole(pixels, canvas_mask)
        rim = None
        if canvas.scale < 1:
            hidden = masks.is_hole(mask[canvas.box.slices], parameters.soft_mask)
            kept, is_half_kept = geometry.cut_kept(canvas, image.rgb, hidden)
            rim = is_half_kept & masks.is_hole(canvas_mask, parameters.soft_mask)
            pixels = np.where(rim[..., None], colours.to_srgb(kept, image.icc_profile), pixels)
        tasks.append([CanvasTask(pixels, canvas_mask, parameters, seed, rim) for seed in seeds])
    return tasks


async def _wait(jobs: Sequence[CanvasJob], loop: DeviceLoop[Any, Any]) -> None:
    """Waits for all of a request's canvases; what ends one of them, or the waiting, ends the others."""
    try:
        await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
    except asyncio.CancelledError:
        loop.leave(jobs, RequestCancelledError("The caller cancelled this request."))
        raise
    except InpaintError as error:
        loop.leave(jobs, error)
        raise


def _finish(
    assemble: Callable[[Sequence[np.ndarray]], Picture], jobs: Sequence[CanvasJob], *, match_colours: bool
) -> Picture:
    """One picture's finished canvases → that picture."""
    painted = [job.future.result() for job in jobs]
    return assemble(
        [_match_colours(pixels, job.task) for pixels, job in zip(painted, jobs, strict=True)]
        if match_colours
        else painted
    )


def _match_colours(painted: np.ndarray, task: CanvasTask) -> np.ndarray:
    # At a hole's rim, the correct colours are known too.
    unknown = task.mask if task.rim is None else np.where(task.rim, np.uint8(0), task.mask)
    return masks.match_colours(painted, task.image, unknown)


def _enlarged(preview: np.ndarray | None, task: CanvasTask) -> np.ndarray:
    """A canvas so far, at its full size; the input if there is no preview yet."""
    return task.image if preview is None else geometry.resized(preview, *task.size)


def _assemble(
    image: Picture, weights: np.ndarray, canvases: Sequence[Canvas], painted: Sequence[np.ndarray]
) -> Picture:
    rgb = image.rgb.copy()
    for canvas, pixels in zip(canvases, painted, strict=True):
        geometry.paste(canvas, colours.from_srgb(pixels, image.icc_profile), rgb)
    return masks.composite(image, rgb, weights)
