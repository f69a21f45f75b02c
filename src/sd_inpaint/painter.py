"""Whole requests to whole results: picture → canvases → device loop → picture."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from sd_inpaint import __version__
from sd_inpaint.admission import Admission, AdmittedRequest, ReadPicture
from sd_inpaint.callers.accounts import Accounts, Usage
from sd_inpaint.callers.caller import NOBODY
from sd_inpaint.engine.backend import Backend
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasOutline, CanvasTask
from sd_inpaint.engine.device_calls import make_backend
from sd_inpaint.engine.lifecycle import Engine
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.engine.remote_backend import RemoteBackend
from sd_inpaint.errors import InpaintError, RequestCancelledError
from sd_inpaint.imaging import colours, geometry, masks
from sd_inpaint.imaging.geometry import Canvas
from sd_inpaint.imaging.preparation import Preparation, Upload, prepare
from sd_inpaint.imaging.record import weights_digest
from sd_inpaint.lora_set import check_loras
from sd_inpaint.picture import Picture
from sd_inpaint.presets import Presets, apply_preset, choose_presets
from sd_inpaint.progress import Progress
from sd_inpaint.schema import (
    SEED_MAX,
    SEED_RANDOM,
    InpaintParameters,
    InpaintRequest,
    InpaintResult,
    SchedulerName,
    SoftMask,
    Variation,
)
from sd_inpaint.settings import Settings
from sd_inpaint.telemetry.tracing import record, span
from sd_inpaint.work.fair_line import Share
from sd_inpaint.work.memory_budget import resident_bytes
from sd_inpaint.work.picture_work import PictureWork
from sd_inpaint.work.worker_pool import CALL_BYTES, IDLE_BYTES

T = TypeVar("T")

HOST_BYTES_PER_CANVAS_PIXEL = 6_000
"""The model's working memory on the CPU (diffusion/devices.py)."""

RANDOM_SEED_BITS = 32
"""Random seeds stay short enough to be typed and to survive JavaScript's numbers."""


class Painter:
    """Paints requests with one model on one device. Lives as long as the process; any thread or task may call it.

    Args:
        settings: The operator's.
        work: Where whole pictures are worked on; None makes a place of its own.

    Attributes:
        load: What makes a device's backend of settings, as ``module:function``: where there are several devices, each
            has a process of its own.
    """

    load: ClassVar[str] = "sd_inpaint.diffusion.start:load"

    def __init__(self, settings: Settings, work: PictureWork | None = None) -> None:
        self._settings = settings
        self._work = work or PictureWork()
        self._admission = Admission(self._work, settings.max_queue)
        self._devices: list[Settings] = []
        self._remote: dict[int, RemoteBackend] = {}
        self.engine = Engine(self._load, self._make_queue, enabled=settings.load, further=self._further)

    def start(self) -> None:
        """Starts loading the weights; returns at once."""
        self.engine.start()

    def stop(self, drain_seconds: float) -> None:
        """Stops admitting, gives running requests ``drain_seconds`` to finish, and ends the device loop."""
        self.engine.stop(drain_seconds)
        for backend in self._remote.values():
            backend.close()

    def check_open(self, caller: Usage | None = None) -> None:
        """Raises at once the error that a request would get: model not ready, server shutting down, or queue full.

        Args:
            caller: Whose request; None if nobody is known.
        """
        caller = caller or _nobody()
        self.engine.ready_loop().check_room(caller.caller, caller.share)

    def info(self) -> dict[str, object]:
        """Returns facts about the model and this server's limits; those not known yet are None."""
        settings, backend = self._settings, self.engine.backend
        loaded = backend.info if backend else {}
        unknown = (
            *("revision", "device", "dtype", "plan", "native_size", "max_batch", "max_canvas_pixels", "files"),
            "subjects",
        )
        return {
            "version": __version__,
            "model": settings.model_name,
            "status": str(self.engine.state),
            **{name: loaded.get(name) for name in unknown},
            "devices": {"working": self.engine.devices, "lost": self.engine.lost_devices},
            "loras": self.loras,
            "speeds": {str(speed): preset.describe() for speed, preset in self.presets.items()},
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
            "defaults": self.defaults,
        }

    @property
    def defaults(self) -> dict[str, object]:
        """The default of each parameter that has one; some follow the model."""
        fields = InpaintParameters.model_fields.items()
        own = self.presets[InpaintParameters.model_fields["speed"].default].describe()
        return {name: own.get(name, field.default) for name, field in fields if not field.is_required()}

    @property
    def own_scheduler(self) -> SchedulerName:
        """The name of the scheduler that the model ships with; ``default`` where it has none, or is not loaded yet."""
        backend = self.engine.backend
        return (
            SchedulerName.DEFAULT if backend is None else SchedulerName(str(backend.info.get("scheduler", "default")))
        )

    @property
    def loras(self) -> list[dict[str, object]]:
        """The LoRAs that requests may name, as ``/sd-inpaint/info`` shows them; none before the model is loaded."""
        backend = self.engine.backend
        return [] if backend is None else cast("list[dict[str, object]]", backend.info.get("loras", []))

    @property
    def presets(self) -> Presets:
        """What each ``speed`` stands for."""
        return choose_presets(self.own_scheduler, self._settings.lcm_lora)

    def complete(self, parameters: InpaintParameters) -> InpaintParameters:
        """Returns a request's parameters with what they leave to this server; a second time changes nothing.

        Raises:
            InvalidLorasError: If they name LoRAs that are not here, or not in a way that is done.
            InvalidParameterError: If they leave no step to run.
        """
        loras = parameters.loras
        if self.engine.backend is not None:
            loras = check_loras(loras, [str(lora["name"]) for lora in self.loras])
        return apply_preset(parameters.model_copy(update={"loras": loras}), self.presets)

    def device_memory(self) -> dict[str, int] | None:
        """Returns the devices' memory in bytes, as :meth:`Backend.memory`; None before the model is loaded too."""
        memories = [memory for backend in self.engine.backends if (memory := backend.memory()) is not None]
        return {kind: sum(memory[kind] for memory in memories) for kind in memories[0]} if memories else None

    async def paint(
        self,
        request: InpaintRequest | AdmittedRequest,
        *,
        progress: Progress | None = None,
        deadline_seconds: float | None = None,
        force: bool = False,
        caller: Usage | None = None,
    ) -> InpaintResult:
        """Paints one request. Cancelling the awaiting task frees the device before its next step.

        Args:
            request: Decoded and checked; its pixels are the caller's own, or counted. A mask of which nothing can be
                seen gives the input back without the model.
            progress: Follows this request, if given.
            deadline_seconds: How long the caller will wait; the operator's limit is the default and the maximum.
            force: True for a job that was accepted before: it is admitted even if the queue is full.
            caller: Whose request, and what it uses of their account; None if nobody is known.

        Raises:
            InpaintError: Any of those in errors.py.
        """
        caller = caller or _nobody()
        loop = self.engine.ready_loop()
        # 1. Choose the seeds, and the canvases where that was not done at the door.
        parameters = with_seed(self.complete(request.parameters))
        seeds = [(parameters.seed + n) % (SEED_MAX + 1) for n in range(parameters.num_images)]
        if isinstance(request, InpaintRequest):
            with span("plan"):
                preparation = await self._work.run(prepare, request, loop.backend.limits)
            request = AdmittedRequest.of(parameters, preparation)
        if not request.canvases:
            preparation = await self._admission.bring(request, loop.backend.limits)
            await self._admission.make_room_for_results(request)
            same = tuple(Variation(preparation.image, seed) for seed in seeds)
            return InpaintResult(
                same,
                steps=0,
                inference_seconds=0.0,
                brightest=preparation.brightest,
                brightest_sent=preparation.brightest_sent,
            )
        # 2. Have the device loop take them all, or none.
        wants_preview = progress is not None and progress.wants_preview
        run = _Run(request, parameters, seeds, caller, wants_preview=wants_preview)
        longest = self._settings.deadline_seconds
        with _counted(run.jobs, caller, force=force):
            loop.submit(run.jobs, deadline_seconds=min(deadline_seconds or longest, longest), force=force)
            if progress is not None:
                progress.follow(run.pictures, loop, run.assemble, request.canvases)
            # 3. Bring their pixels when their turn is near, and wait for them.
            try:
                await _wait(run.jobs, loop, self._bring(run, loop))
            finally:
                run.record()
        # 4. Put each picture together.
        await self._admission.make_room_for_results(request)
        with span("composite", pictures=len(run.pictures)):
            images = [await self._work.run(run.finish, canvas_jobs) for canvas_jobs in run.pictures]
        return InpaintResult(
            variations=tuple(Variation(image, seed) for image, seed in zip(images, seeds, strict=True)),
            steps=max(job.step for job in run.jobs),
            inference_seconds=sum(job.device_seconds for job in run.jobs),
            regions=tuple(canvas.describe() for canvas in request.canvases),
            is_all_painted=parameters.strength == 1 and run.preparation.is_all_white,
            brightest=run.preparation.brightest,
            brightest_sent=run.preparation.brightest_sent,
            image_sha256=run.preparation.image_sha256,
            plan=", ".join(sorted({job.plan for job in run.jobs if job.plan})),
            mask_sha256=run.preparation.mask_sha256,
            **self._made_by(),
        )

    async def admit(self, upload: Upload, *, force: bool = False, caller: Usage | None = None) -> AdmittedRequest:
        """Decodes and checks what a caller sent, in its turn. Cancelling the awaiting task ends the work at once.

        Args:
            upload: The files.
            force: True for a job that was accepted before: it waits, however many others do.
            caller: Whose request; None if nobody is known.

        Raises:
            InpaintError: Whatever keeps it from being painted, but for the place in the device's queue.
        """
        limits = self.engine.ready_loop().backend.limits
        return await self._admission.admit(upload, limits, force=force, share=share_of(caller))

    async def read_picture(self, read: ReadPicture[T], image: bytes, caller: Usage | None = None) -> T:
        """Has a function of a module read a caller's picture in its turn; it takes ``max_pixels`` by name.

        Raises:
            InpaintError: As :meth:`admit` does.
        """
        return await self._admission.read(read, image, self._settings.max_pixels, share_of(caller))

    async def make_room_for_results(self, request: AdmittedRequest) -> None:
        """Waits for the memory that the request's results take, before they are put together."""
        await self._admission.make_room_for_results(request)

    def _made_by(self) -> dict[str, str]:
        """What a record names of the model and its device."""
        info = {} if self.engine.backend is None else self.engine.backend.info
        files = info.get("files")
        digest = weights_digest(files if isinstance(files, dict) else {})
        return {"weights_sha256": digest, "device": str(info.get("device", ""))}

    async def _bring(self, run: "_Run", loop: DeviceLoop[Any, Any]) -> None:
        await run.near.wait()
        tasks = run.tasks(await self._admission.bring(run.request, loop.backend.limits))
        loop.provide(run.jobs, tasks)

    def _load(self) -> Backend[Any, Any]:
        # Before torch is loaded: its threads spin while they wait, which starves whatever shares the machine with them,
        # and is starved by it (measured: docs/benchmarks.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported here, in the device thread: torch and diffusers take seconds, and the server answers meanwhile.
        from sd_inpaint.diffusion.placement import place

        self._devices = place(self._settings)
        if len(self._devices) > 1:
            return self._load_apart(0)
        backend = make_backend(self.load, self._settings)
        self._count_memory(_working_bytes(backend))
        return backend

    def _further(self) -> list[Callable[[], Backend[Any, Any]]]:
        return [partial(self._load_apart, number) for number in range(1, len(self._devices))]

    def _load_apart(self, number: int) -> Backend[Any, Any]:
        """Loads a device's model into a process of its own."""
        self._remote[number] = backend = RemoteBackend(self.load, self._devices[number])
        self._count_memory(sum(remote.resident_bytes + _working_bytes(remote) for remote in self._remote.values()))
        return backend

    def _count_memory(self, of_devices: int) -> None:
        workers = self._work.workers.size * (IDLE_BYTES + CALL_BYTES)
        self._work.budget.set_fixed(resident_bytes() + of_devices + workers)

    def _make_queue(self, pace: Pace) -> CanvasQueue:
        return CanvasQueue(
            max_canvases=self._settings.max_queue, max_megapixel_steps=self._settings.max_queue_work, pace=pace
        )


def _working_bytes(backend: Backend[Any, Any]) -> int:
    """What the model needs of this process's memory beside its weights, for a canvas of its native size."""
    if backend.info.get("device") != "cpu":
        return 0
    growth_bytes = int(str(backend.info.get("growth_bytes", 0)))
    return int(backend.limits.native_size**2 * HOST_BYTES_PER_CANVAS_PIXEL) + growth_bytes


def with_seed(parameters: InpaintParameters) -> InpaintParameters:
    """Returns the parameters with a seed drawn where the caller left it to the server."""
    if parameters.seed != SEED_RANDOM:
        return parameters
    return parameters.model_copy(update={"seed": secrets.randbits(RANDOM_SEED_BITS)})


class _Run:
    """One request's canvases on their way through the device loop, and back into its picture.

    Attributes:
        request: As it was admitted.
        jobs: In the order of the queue: those of one place side by side, a picture each.
        pictures: The same by picture.
        near: Set when the pixels are needed; at once where they are here.
    """

    def __init__(
        self,
        request: AdmittedRequest,
        parameters: InpaintParameters,
        seeds: Sequence[int],
        caller: Usage,
        *,
        wants_preview: bool,
    ) -> None:
        self.request = request
        self.near = asyncio.Event()
        self._parameters = parameters
        self._seeds = seeds
        outlines = [CanvasOutline(canvas.width, canvas.height, parameters) for canvas in request.canvases]
        whose = partial(CanvasJob, caller=caller.caller, weight=caller.share, wants_preview=wants_preview)
        of_canvases = [[whose(outline) for _ in seeds] for outline in outlines]
        self.jobs = list(chain.from_iterable(of_canvases))
        self.pictures = list(zip(*of_canvases, strict=True))
        if request.preparation is not None:
            for job, task in zip(self.jobs, self.tasks(request.preparation), strict=True):
                job.task = task
            self.near.set()
            return
        own_loop = asyncio.get_running_loop()

        def call() -> None:
            # The loop may have been closed meanwhile, and the device's thread is not to fall for that.
            with contextlib.suppress(RuntimeError):
                own_loop.call_soon_threadsafe(self.near.set)

        for job in self.jobs:
            job.on_near = call

    def tasks(self, preparation: Preparation) -> list[CanvasTask]:
        """One a job, in their order: those of one canvas share its pixels."""
        return [
            CanvasTask(cut.image, cut.mask, self._parameters, seed, cut.rim)
            for cut in preparation.cuts
            for seed in self._seeds
        ]

    def record(self) -> None:
        """Records how long each canvas waited and ran, by the loop's clock."""
        for job in self.jobs:
            width, height = job.task.size
            ended = time.monotonic() if job.ended_at is None else job.ended_at
            began = ended if job.began_at is None else job.began_at
            record("queue", job.arrived_at, began)
            if job.began_at is not None:
                record("steps", began, ended, width=width, height=height, steps=job.step, seconds=job.device_seconds)

    @property
    def preparation(self) -> Preparation:
        """The pixels; there are some once a canvas has run."""
        assert self.request.preparation is not None  # noqa: S101  # nothing is painted without
        return self.request.preparation

    def finish(self, jobs: Sequence[CanvasJob]) -> Picture:
        """One picture's finished canvases → that picture."""
        painted = [job.future.result() for job in jobs]
        if self._parameters.color_match:
            painted = [_match_colours(pixels, job.ready_task) for pixels, job in zip(painted, jobs, strict=True)]
        return self.assemble(painted)

    def assemble(self, painted: Sequence[np.ndarray]) -> Picture:
        """One picture's canvases, painted so far → that picture so far."""
        mask = self.preparation.mask
        weights = masks.compositing_weights(mask) if self._parameters.soft_mask is SoftMask.STRENGTH else mask
        return _assemble(self.preparation.image, weights, self.preparation.canvases, painted)


@contextlib.contextmanager
def _counted(jobs: Sequence[CanvasJob], caller: Usage, *, force: bool) -> Iterator[None]:
    """Counts work into the caller's account, and gives back what the device has not done of it at the end."""
    caller.take_work(sum(job.task.megapixel_steps for job in jobs), force=force)
    try:
        yield
    finally:
        caller.take_work(-sum(job.task.megapixel_steps * (1 - job.step / job.steps) for job in jobs))


def _nobody() -> Usage:
    return Usage(Accounts().of(NOBODY))


def share_of(usage: Usage | None) -> Share:
    """Returns who waits for memory and for decoding."""
    usage = usage or _nobody()
    return Share(usage.caller, usage.share)


async def _wait(jobs: Sequence[CanvasJob], loop: DeviceLoop[Any, Any], bringing: Coroutine[Any, Any, None]) -> None:
    """Waits for all of a request's canvases; what ends one of them, or the waiting, ends the others."""
    brought = asyncio.ensure_future(bringing)
    try:
        await asyncio.gather(brought, *(asyncio.wrap_future(job.future) for job in jobs))
    except asyncio.CancelledError:
        loop.leave(jobs, RequestCancelledError("The caller cancelled this request."))
        raise
    except InpaintError as error:
        loop.leave(jobs, error)
        raise
    finally:
        brought.cancel()


def _match_colours(painted: np.ndarray, task: CanvasTask) -> np.ndarray:
    # At a hole's rim, the correct colours are known too.
    unknown = task.mask if task.rim is None else np.where(task.rim, np.uint8(0), task.mask)
    return masks.match_colours(painted, task.image, unknown)


def _assemble(
    image: Picture, weights: np.ndarray, canvases: Sequence[Canvas], painted: Sequence[np.ndarray]
) -> Picture:
    rgb = image.rgb.copy()
    for canvas, pixels in zip(canvases, painted, strict=True):
        geometry.paste(canvas, colours.from_srgb(pixels, image.icc_profile), rgb)
    return masks.composite(image, rgb, weights)
