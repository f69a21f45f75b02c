"""The device loop: jobs join, leave and end between two denoising steps.

Nothing here imports torch: the loop can be driven step by step in a test, with a clock of its own.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from sd_inpaint.callers.caller import ADDRESS_MARK
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState, CanvasTask
from sd_inpaint.engine.queue import CanvasQueue
from sd_inpaint.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    OutOfMemoryError,
    RequestCancelledError,
    ShuttingDownError,
)
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.telemetry.metrics import BATCH_CANVASES, MEGAPIXEL_STEPS, STEP_SECONDS, caller_label, canvas_label

PREVIEW_EVERY_STEPS = 3
"""A preview costs a matrix product of a few thousand rows: next to nothing, but not each step."""

NEAR_JOBS = 2
"""Jobs beyond a batch whose pixels are decoded before their turn, so that the device never waits for them."""

SWEEP_SECONDS = 1.0
"""An idle loop looks at deadlines this often."""

logger = logging.getLogger("bentoml.sd_inpaint.loop")


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

T = TypeVar("T")


class Backend(Protocol[D, P]):
    """The loop's calls to a model, made only by its own thread.

    Each call may raise OutOfMemoryError, before it has changed anything; the loop then tries again with ``low_memory``.

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


class DeviceLoop(Generic[D, P]):
    """The canvases and their turns on the device.

    :meth:`turn` belongs to one thread; every other method may be called from any. ``clock`` gives seconds and never
    goes back.
    """

    def __init__(self, backend: Backend[D, P], queue: CanvasQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self.backend = backend
        self._queue = queue
        self._clock = clock
        self._changed = threading.Condition()
        self._on_device: list[CanvasJob] = []
        self._diffusions: dict[CanvasJob, D] = {}
        self._turn_started = 0.0
        self._turned_at = clock()
        self._closed = False
        self.outcomes: Counter[str] = Counter()

    def submit(self, jobs: Sequence[CanvasJob], *, deadline_seconds: float = math.inf, force: bool = False) -> None:
        """Admits all jobs of a request, or none; they end by the deadline, done or not.

        ``force`` admits them even if the queue is full: they were accepted before.

        Raises:
            QueueFullError: If the queue has no room for them.
            ShuttingDownError: If the loop was closed.
        """
        with self._changed:
            now = self._clock()
            try:
                if self._closed:
                    raise ShuttingDownError()
                self._queue.admit(jobs, now, force=force)
                for job in jobs:
                    job.deadline_at = now + deadline_seconds
                self._call_nearest()
            except InpaintError as error:
                self.outcomes[error.code] += 1
                raise
            self._changed.notify_all()

    def check_room(self, caller: str = "", weight: float = 1.0) -> None:
        """Raises QueueFullError if not even a small job of this caller would be admitted now."""
        with self._changed:
            self._queue.check_room(self._clock(), caller=caller, weight=weight)

    def provide(self, jobs: Sequence[CanvasJob], tasks: Sequence[CanvasTask]) -> None:
        """Gives jobs that were submitted as outlines their pixels, one task each."""
        with self._changed:
            for job, task in zip(jobs, tasks, strict=True):
                job.task = task
            self._changed.notify_all()

    def leave(self, jobs: Sequence[CanvasJob], error: InpaintError) -> None:
        """Has jobs end with ``error``: at once if they are off the device, before their next step if they are on it."""
        with self._changed:
            for job in jobs:
                if job.ended or job.leaving is not None:
                    continue
                job.leaving = error
                if job not in self._on_device:
                    self._end(job, error=error)
            self._changed.notify_all()

    def close(self, error: InpaintError) -> None:
        """Has all jobs leave with ``error``, and takes no more: nobody would turn the loop for them."""
        with self._changed:
            self._closed = True
            self.leave(self.jobs(), error)

    def jobs(self) -> tuple[CanvasJob, ...]:
        """Returns those that wait or run."""
        with self._changed:
            return tuple(self._queue)

    def position(self, job: CanvasJob) -> int:
        """Returns how many canvases are ahead of this one."""
        with self._changed:
            return self._queue.position(job)

    def seconds_left(self, job: CanvasJob) -> float:
        """Returns an estimate of when the job ends, in seconds."""
        with self._changed:
            return self._queue.seconds_left(job)

    def waiting_seconds(self) -> float:
        """Returns how long the device needs for all waiting and running work: the figure for an autoscaler."""
        with self._changed:
            return self._queue.pace.seconds(sum(job.remaining_megapixel_passes for job in self._queue))

    def turn_age_seconds(self) -> float:
        """Returns how long ago the last turn began; an idle loop takes one each SWEEP_SECONDS."""
        return self._clock() - self._turned_at

    def wait(self, timeout_seconds: float = SWEEP_SECONDS) -> None:
        """Waits until there may be something to do."""
        with self._changed:
            if not any(job.is_ready for job in self._queue):
                self._changed.wait(timeout_seconds)

    def turn(self) -> bool:
        """Does one step for one batch; returns False if there was nothing to do."""
        self._turned_at = self._clock()
        with self._changed:
            self._sweep()
            batch = self._queue.next_batch(self.backend.max_batch, self.backend.plan)
            self._on_device = list(batch)
        if not batch:
            return False
        self._turn_started = self._clock()
        try:
            self._run(batch)
        except Exception:
            logger.exception("The device loop failed; it continues without the canvases that were on the device.")
            with self._changed:
                for job in batch:
                    if not job.ended:
                        self._end(job, error=EngineCrashedError())
        with self._changed:
            for job in batch:
                self._charge(job)
            self._queue.serve(batch, self._clock() - self._turn_started)
            self._on_device = []
            self._sweep()
            self._call_nearest()
        return True

    def fail_all(self, error: InpaintError) -> None:
        """Ends everything that still waits or runs."""
        with self._changed:
            self._on_device = []
            for job in self._queue:
                self._end(job, error=error)

    def _call_nearest(self) -> None:
        """Has those whose turn is near bring their pixels; the lock is held."""
        for job in self._queue.nearest(self.backend.max_batch + NEAR_JOBS):
            if job.on_near is not None:
                call, job.on_near = job.on_near, None
                call()

    def _sweep(self) -> None:
        """Ends jobs that are leaving or late; called between steps, with the lock held."""
        now = self._clock()
        for job in self._queue:
            if job.leaving is not None:
                self._end(job, error=job.leaving)
            elif now >= job.deadline_at:
                waited = now - job.arrived_at
                self._end(
                    job,
                    error=DeadlineExceededError(
                        f"The deadline passed after {waited:.0f} seconds, with {job.step} of {job.steps} steps done."
                    ),
                )

    def _run(self, batch: list[CanvasJob]) -> None:
        """Begins, predicts, advances and finishes the batch; a job's failure ends only that job."""
        ready = [job for job in batch if self._begin(job)]
        predictions = self._predict(ready)
        for job, prediction in predictions:
            self._attempt(job, partial(self._advance, job, prediction))
        for job, _ in predictions:
            if not job.ended and job.step >= job.steps and job.leaving is None:
                self._finish(job)

    def _begin(self, job: CanvasJob) -> bool:
        if job in self._diffusions:
            return True
        with self._changed:
            job.state = CanvasState.RUNNING
            job.began_at = self._clock()
        task = job.ready_task
        for diffusion in self._attempt(job, lambda low_memory: self.backend.begin(task, low_memory=low_memory)):
            self._diffusions[job] = diffusion
            job.steps = diffusion.steps
            job.plan = diffusion.plan
        return job in self._diffusions

    def _predict(self, jobs: list[CanvasJob]) -> list[tuple[CanvasJob, P]]:
        """One UNet call for all; if it fails, one each, so that no job fails because of another."""
        if not jobs:
            return []
        started = self._clock()
        if len(jobs) > 1:
            try:
                together = self.backend.predict([self._diffusions[job] for job in jobs], low_memory=False)
                self._observe(jobs, started)
                return list(zip(jobs, together, strict=True))
            except Exception as error:  # noqa: BLE001 — whatever it is, each job meets its own error below
                logger.warning("A batch of %d failed (%s); its canvases run one by one.", len(jobs), error)
                self.backend.release_memory()
        predictions = []
        for job in jobs:
            started = self._clock()
            for prediction in self._attempt(job, partial(self._predict_alone, self._diffusions[job])):
                self._observe([job], started)
                predictions.append((job, prediction))
        return predictions

    def _predict_alone(self, diffusion: D, low_memory: bool) -> P:
        return self.backend.predict([diffusion], low_memory=low_memory)[0]

    def _observe(self, jobs: list[CanvasJob], started: float) -> None:
        seconds = self._clock() - started
        with self._changed:
            self._queue.pace.observe(sum(job.task.megapixel_passes_per_step for job in jobs), seconds)
        STEP_SECONDS.observe(seconds, canvas_label(*jobs[0].task.size))
        BATCH_CANVASES.observe(len(jobs))

    def _advance(self, job: CanvasJob, prediction: P, low_memory: bool) -> None:
        del low_memory  # a scheduler's step needs next to none
        if job.wants_preview and job.step % PREVIEW_EVERY_STEPS == 0:
            job.preview = self.backend.preview(self._diffusions[job], prediction)
        self.backend.advance(self._diffusions[job], prediction)
        job.step += 1
        key_name = "" if job.caller.startswith(ADDRESS_MARK) else job.caller
        MEGAPIXEL_STEPS.add(job.task.megapixels, caller_label(key_name))

    def _finish(self, job: CanvasJob) -> None:
        diffusion = self._diffusions[job]
        for painted in self._attempt(job, lambda low_memory: self.backend.finish(diffusion, low_memory=low_memory)):
            with self._changed:
                # A caller who left during the last step gets no picture: leave() promised the error.
                if not job.ended and job.leaving is None:
                    self._end(job, painted=painted)

    def _attempt(self, job: CanvasJob, call: Callable[[bool], T]) -> list[T]:
        """Runs one job's call, once more with less memory if it runs out of it. A failure ends this job alone.

        Returns:
            What the call gave; nothing if it failed.
        """
        try:
            try:
                return [call(job.low_memory)]
            except OutOfMemoryError:
                self.backend.release_memory()
                if job.low_memory:
                    raise
                logger.warning("Canvas %d ran out of memory; it goes on with less of it.", job.number)
                job.low_memory = True
                return [call(True)]
        except InpaintError as error:
            failure = error
        except Exception:
            logger.exception("Canvas %d failed by a defect of the engine.", job.number)
            failure = EngineCrashedError()
        self.backend.release_memory()
        with self._changed:
            if not job.ended:
                self._end(job, error=failure)
        return []

    def _charge(self, job: CanvasJob) -> None:
        """Adds the turn's time to a job on the device, before the job ends: whoever waits for it reads the figure."""
        if job in self._on_device and not job.ended:
            job.device_seconds += self._clock() - self._turn_started

    def _end(self, job: CanvasJob, *, painted: np.ndarray | None = None, error: InpaintError | None = None) -> None:
        """Ends a job: once, in one place. The lock is held."""
        self._charge(job)
        job.ended_at = self._clock()
        self._queue.remove(job)
        self._call_nearest()
        self._diffusions.pop(job, None)
        if error is None:
            job.state = CanvasState.DONE
        else:
            gone = isinstance(error, RequestCancelledError | DeadlineExceededError | ShuttingDownError)
            job.state = CanvasState.CANCELLED if gone else CanvasState.FAILED
        self.outcomes["done" if error is None else error.code] += 1
        if not job.future.set_running_or_notify_cancel():
            return
        if error is None:
            job.future.set_result(cast(np.ndarray, painted))
        else:
            job.future.set_exception(error)
