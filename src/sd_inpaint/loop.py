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
from typing import Any, Protocol, cast

import numpy as np

from sd_inpaint.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    OutOfMemoryError,
    ShuttingDownError,
)
from sd_inpaint.jobs import CanvasTask, Job, JobState
from sd_inpaint.queue import JobQueue

PREVIEW_EVERY_STEPS = 3
"""A preview costs a matrix product of a few thousand rows: next to nothing, but not each step."""

SWEEP_SECONDS = 1.0
"""An idle loop looks at deadlines this often."""

CRASHED = "The engine failed at this picture; the server's log says why."

logger = logging.getLogger("bentoml.sd_inpaint.loop")


class Backend(Protocol):
    """What the loop asks of a model. Only the loop's thread calls it. ``D`` below is the backend's own state of a job.

    Each call may raise OutOfMemoryError, before it has changed anything; the loop then tries again with ``lean``.
    """

    native_size: int
    stride: int
    max_batch: int
    max_canvas_pixels: int
    seconds_per_work: float
    info: dict[str, object]

    def begin(self, task: CanvasTask, *, lean: bool) -> Any:
        """Encodes prompt, picture and mask; returns D with ``steps``."""

    def predict(self, batch: Sequence[Any], *, lean: bool) -> Sequence[Any]:
        """One UNet call for all of them; changes nothing of D."""

    def advance(self, diffusion: Any, prediction: Any) -> None:
        """One scheduler step of one job."""

    def finish(self, diffusion: Any, *, lean: bool) -> np.ndarray:
        """Decodes and checks; returns (H, W, 3) uint8."""

    def preview(self, diffusion: Any, prediction: Any) -> np.ndarray:
        """Returns (h, w, 3) uint8, one pixel a latent cell."""

    def release_memory(self) -> None:
        """Gives cached memory back."""


class DeviceLoop:
    """The jobs and their turns on the device.

    :meth:`turn` belongs to one thread; every other method may be called from any. ``clock`` gives seconds and never
    goes back.
    """

    def __init__(self, backend: Backend, queue: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self.backend = backend
        self._queue = queue
        self._clock = clock
        self._changed = threading.Condition()
        self._on_device: list[Job] = []
        self._turn_started = 0.0
        self._closed = False
        self.outcomes: Counter[str] = Counter()

    def submit(self, jobs: Sequence[Job], *, deadline_seconds: float = math.inf, promised: bool = False) -> None:
        """Admits all jobs of a request, or none; they end by the deadline, done or not.

        Those that were promised a place before are admitted even if the queue is full.

        Raises:
            QueueFullError: If the queue has no room for them.
            ShuttingDownError: If the loop was closed.
        """
        with self._changed:
            now = self._clock()
            try:
                if self._closed:
                    raise ShuttingDownError("The server is shutting down.")
                self._queue.admit(jobs, now, promised=promised)
                for job in jobs:
                    job.deadline_at = now + deadline_seconds
            except InpaintError as error:
                self.outcomes[error.code] += 1
                raise
            self._changed.notify_all()

    def check_room(self) -> None:
        """Raises QueueFullError if not even a small job would be admitted now."""
        with self._changed:
            self._queue.check_room()

    def leave(self, jobs: Sequence[Job], error: InpaintError) -> None:
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

    def jobs(self) -> tuple[Job, ...]:
        """Returns those that wait or run."""
        with self._changed:
            return tuple(self._queue)

    def position(self, job: Job) -> int:
        """Returns how many jobs go before this one."""
        with self._changed:
            return self._queue.position(job)

    def seconds_left(self, job: Job) -> float:
        """Returns an estimate of when the job ends, in seconds."""
        with self._changed:
            return self._queue.seconds_left(job)

    def waiting_seconds(self) -> float:
        """Returns how long the device needs for all it has been given: what an autoscaler should look at."""
        with self._changed:
            return self._queue.pace.seconds(sum(job.remaining_work for job in self._queue))

    def wait(self, timeout_seconds: float = SWEEP_SECONDS) -> None:
        """Waits until there may be something to do."""
        with self._changed:
            if not len(self._queue):
                self._changed.wait(timeout_seconds)

    def turn(self) -> bool:
        """Does one step for one batch; returns False if there was nothing to do."""
        with self._changed:
            self._sweep()
            batch = self._queue.next_batch(self.backend.max_batch)
            self._on_device = list(batch)
        if not batch:
            return False
        self._turn_started = self._clock()
        try:
            self._run(batch)
        except Exception:
            logger.exception("The device loop broke; it goes on without the jobs it had on the device.")
            with self._changed:
                for job in batch:
                    if not job.ended:
                        self._end(job, error=EngineCrashedError(CRASHED))
        with self._changed:
            for job in batch:
                self._charge(job)
            self._on_device = []
            self._sweep()
        return True

    def fail_all(self, error: InpaintError) -> None:
        """Ends everything that still waits or runs."""
        with self._changed:
            self._on_device = []
            for job in self._queue:
                self._end(job, error=error)

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
                        f"The picture was not done within {waited:.0f} seconds: {job.step} of {job.steps} steps."
                    ),
                )

    def _run(self, batch: list[Job]) -> None:
        """Begins, predicts, advances and finishes the batch, each job's trouble its own."""
        ready = [job for job in batch if self._begin(job)]
        predictions = self._predict(ready)
        for job, prediction in predictions:
            self._attempt(job, partial(self._advance, job, prediction))
        for job, _ in predictions:
            if not job.ended and job.step >= job.steps and job.leaving is None:
                self._finish(job)

    def _begin(self, job: Job) -> bool:
        if job.diffusion is None:
            with self._changed:
                job.state = JobState.RUNNING
            done, diffusion = self._attempt(job, lambda lean: self.backend.begin(job.task, lean=lean))
            if not done:
                return False
            job.diffusion = diffusion
            job.steps = diffusion.steps
        return True

    def _predict(self, jobs: list[Job]) -> list[tuple[Job, Any]]:
        """One UNet call for all; if it fails, one for each, so that no job pays for another's trouble."""
        if not jobs:
            return []
        started = self._clock()
        if len(jobs) > 1:
            try:
                together = self.backend.predict([job.diffusion for job in jobs], lean=False)
                self._observe(jobs, started)
                return list(zip(jobs, together, strict=True))
            except Exception as error:  # noqa: BLE001 — whatever it is, each job meets its own share of it below
                logger.warning("A batch of %d failed (%s); its jobs run one by one.", len(jobs), error)
                self.backend.release_memory()
        predictions = []
        for job in jobs:
            started = self._clock()
            done, alone = self._attempt(job, lambda lean, job=job: self.backend.predict([job.diffusion], lean=lean)[0])
            if done:
                self._observe([job], started)
                predictions.append((job, alone))
        return predictions

    def _observe(self, jobs: list[Job], started: float) -> None:
        with self._changed:
            self._queue.pace.observe(sum(job.task.step_work for job in jobs), self._clock() - started)

    def _advance(self, job: Job, prediction: Any, *, lean: bool) -> None:
        del lean  # a scheduler's step has no leaner way
        if job.wants_preview and job.step % PREVIEW_EVERY_STEPS == 0:
            job.preview = self.backend.preview(job.diffusion, prediction)
        self.backend.advance(job.diffusion, prediction)
        job.step += 1

    def _finish(self, job: Job) -> None:
        done, painted = self._attempt(job, lambda lean: self.backend.finish(job.diffusion, lean=lean))
        if done:
            with self._changed:
                # A caller who left while the last step ran gets no picture: leave() promised the error.
                if not job.ended and job.leaving is None:
                    self._end(job, painted=painted)

    def _attempt(self, job: Job, call: Callable[..., Any]) -> tuple[bool, Any]:
        """Runs one job's call; out of memory is tried once more the lean way. A failure ends this job alone."""
        try:
            try:
                return True, call(lean=job.lean)
            except OutOfMemoryError:
                self.backend.release_memory()
                if job.lean:
                    raise
                logger.warning("Job %d ran out of memory; it goes on in a leaner way.", job.number)
                job.lean = True
                return True, call(lean=True)
        except InpaintError as error:
            failure = error
        except Exception:
            logger.exception("Job %d failed by a defect of the engine.", job.number)
            failure = EngineCrashedError(CRASHED)
        self.backend.release_memory()
        with self._changed:
            if not job.ended:
                self._end(job, error=failure)
        return False, None

    def _charge(self, job: Job) -> None:
        """Books the turn's time on a job that was on the device; before its end, since its waiter reads the figure."""
        if job in self._on_device and not job.ended:
            job.device_seconds += self._clock() - self._turn_started

    def _end(self, job: Job, *, painted: np.ndarray | None = None, error: InpaintError | None = None) -> None:
        """Ends a job: once, in one place. The lock is held."""
        self._charge(job)
        self._queue.remove(job)
        job.diffusion = None
        if error is None:
            job.state = JobState.DONE
        else:
            gone = isinstance(error, CancelledError | DeadlineExceededError | ShuttingDownError)
            job.state = JobState.CANCELLED if gone else JobState.FAILED
        self.outcomes["done" if error is None else error.code] += 1
        if not job.future.set_running_or_notify_cancel():
            return
        if error is None:
            job.future.set_result(cast(np.ndarray, painted))
        else:
            job.future.set_exception(error)
