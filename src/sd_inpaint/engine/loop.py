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
from typing import Generic, TypeVar, cast

import numpy as np

from sd_inpaint.callers.caller import ADDRESS_MARK
from sd_inpaint.engine.backend import Backend, D, DeviceLostError, P
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState, CanvasTask
from sd_inpaint.engine.queue import CanvasQueue
from sd_inpaint.engine.seat import Seat
from sd_inpaint.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    OutOfMemoryError,
    RequestCancelledError,
    ShuttingDownError,
)
from sd_inpaint.telemetry.metrics import BATCH_CANVASES, MEGAPIXEL_STEPS, STEP_SECONDS, caller_label, canvas_label

PREVIEW_EVERY_STEPS = 3
"""A preview costs a matrix product of a few thousand rows: next to nothing, but not each step."""

NEAR_JOBS = 2
"""Jobs beyond a batch whose pixels are decoded before their turn, so that the device never waits for them."""

MAX_LOSSES = 3
"""Devices that a canvas may lose; then it is what brings them down."""

SWEEP_SECONDS = 1.0
"""An idle loop looks at deadlines this often."""

logger = logging.getLogger("bentoml.sd_inpaint.loop")


T = TypeVar("T")


class DeviceLoop(Generic[D, P]):
    """The canvases and their turns on the devices.

    One queue serves all devices: whichever is free takes what is next, so a canvas goes where it is done first. It
    stays on the device where it began. :meth:`turn` of one device belongs to one thread; every other method may be
    called from any. ``clock`` gives seconds and never goes back.
    """

    def __init__(self, backend: Backend[D, P], queue: CanvasQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._changed = threading.Condition()
        self._seats = {0: Seat(backend, clock())}
        self._closed = False
        self.outcomes: Counter[str] = Counter()

    @property
    def backend(self) -> Backend[D, P]:
        """The first device's: its limits are everybody's."""
        return self._seats[0].backend

    @property
    def devices(self) -> tuple[int, ...]:
        """The numbers of those that are there."""
        with self._changed:
            return tuple(number for number, seat in self._seats.items() if seat.is_there)

    @property
    def backends(self) -> tuple[Backend[D, P], ...]:
        """Those of the devices that are there."""
        with self._changed:
            return tuple(seat.backend for seat in self._seats.values() if seat.is_there)

    @property
    def lost_devices(self) -> int:
        """How many were there and are not now."""
        with self._changed:
            return sum(not seat.is_there for seat in self._seats.values())

    @property
    def places(self) -> int:
        """How many canvases can be on the devices at once."""
        with self._changed:
            return sum(seat.backend.max_batch for seat in self._seats.values() if seat.is_there)

    def join(self, number: int, backend: Backend[D, P]) -> None:
        """Has one more device take part, or one that was lost again."""
        with self._changed:
            self._seats[number] = Seat(backend, self._clock())
            self._queue.devices = len(self.devices)
            self._call_nearest()
            self._changed.notify_all()

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
                if not self._is_on_device(job):
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
        """Returns how long the devices need for all waiting and running work: the figure for an autoscaler."""
        with self._changed:
            return self._queue.backlog_seconds()

    def turn_age_seconds(self) -> float:
        """Returns how long ago the last turn began, of the device that is worst off.

        An idle device takes a turn each SWEEP_SECONDS.
        """
        with self._changed:
            turned_at = [seat.turned_at for seat in self._seats.values() if seat.is_there]
            return self._clock() - min(turned_at) if turned_at else 0.0

    def wait(self, timeout_seconds: float = SWEEP_SECONDS, number: int = 0) -> None:
        """Waits until there may be something to do for a device."""
        with self._changed:
            is_eligible = self._eligible(self._seats[number])
            if not any(job.is_ready and is_eligible(job) for job in self._queue):
                self._changed.wait(timeout_seconds)

    def turn(self, number: int = 0) -> bool:
        """Does one step for one batch on one device; returns False if there was nothing to do.

        Raises:
            DeviceLostError: If the device is gone. What was on it waits for another, or for :meth:`join`.
        """
        seat = self._seats[number]
        seat.turned_at = self._clock()
        with self._changed:
            self._sweep()
            batch = self._queue.next_batch(
                seat.backend.max_batch, seat.backend.plan, among=self._eligible(seat), in_place=seat.in_place
            )
            seat.on_device = list(batch)
            seat.turn_started = self._clock()
        if not batch:
            return False
        try:
            self._run(seat, batch)
        except DeviceLostError:
            self._lose(seat)
            raise
        except Exception:
            logger.exception("The device loop failed; it continues without the canvases that were on the device.")
            with self._changed:
                for job in batch:
                    if not job.ended:
                        self._end(job, error=EngineCrashedError())
        with self._changed:
            for job in batch:
                self._charge(job)
            self._queue.serve(batch, self._clock() - seat.turn_started)
            seat.on_device = []
            self._sweep()
            self._call_nearest()
            if len(self._seats) > 1:
                # What ended here may leave another device a larger part of what waits.
                self._changed.notify_all()
        return True

    def fail_all(self, error: InpaintError) -> None:
        """Ends everything that still waits or runs."""
        with self._changed:
            for seat in self._seats.values():
                seat.on_device = []
            for job in self._queue:
                self._end(job, error=error)

    def _is_on_device(self, job: CanvasJob) -> bool:
        return any(job in seat.on_device for seat in self._seats.values())

    def _eligible(self, seat: Seat[D, P]) -> Callable[[CanvasJob], bool]:
        """What this device may take: what began on it, and its part of what has not begun; the lock is held."""
        if len(self._seats) == 1:
            return lambda job: True
        others = [other for other in self._seats.values() if other is not seat]
        begun = {job for other in others for job in other.begun} | {job for other in others for job in other.on_device}
        most = math.ceil(sum(job.is_ready for job in self._queue) / len(self.devices))
        fresh = [
            job
            for job in self._queue.ranked()
            if job.is_ready
            and job not in begun
            and job not in seat.begun
            # A later card may be smaller than the first, whose limits hold.
            and job.task.megapixels * 1e6 <= seat.backend.limits.max_pixels
        ]
        taken = {*seat.begun, *fresh[: max(0, most - len(seat.begun))]}
        return taken.__contains__

    def _lose(self, seat: Seat[D, P]) -> None:
        """Puts back what was on a device that is gone; it begins once more, with the same seed."""
        with self._changed:
            seat.is_there = False
            self._queue.devices = max(1, len(self.devices))
            lost = {*seat.begun, *seat.on_device}
            seat.begun.clear()
            seat.on_device = []
            for job in lost:
                if job.ended:
                    continue
                job.losses += 1
                if job.losses >= MAX_LOSSES:
                    self._end(job, error=EngineCrashedError())
                    continue
                job.state, job.step, job.plan = CanvasState.QUEUED, 0, ""
                job.preview, job.low_memory = None, False
            self._sweep()
            self._changed.notify_all()

    def _call_nearest(self) -> None:
        """Has those whose turn is near bring their pixels; the lock is held."""
        for job in self._queue.nearest(self.places + NEAR_JOBS):
            if job.on_near is not None:
                call, job.on_near = job.on_near, None
                call()

    def _sweep(self) -> None:
        """Ends jobs that are leaving or late; called between steps, with the lock held."""
        now = self._clock()
        for job in self._queue:
            if self._is_on_device(job):
                continue
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

    def _run(self, seat: Seat[D, P], batch: list[CanvasJob]) -> None:
        """Begins, predicts, advances and finishes the batch; a job's failure ends only that job."""
        ready = [job for job in batch if self._begin(seat, job)]
        predictions = self._predict(seat, ready)
        for job, prediction in predictions:
            self._attempt(seat, job, partial(self._advance, seat, job, prediction))
        for job, _ in predictions:
            if not job.ended and job.step >= job.steps and job.leaving is None:
                self._finish(seat, job)

    def _begin(self, seat: Seat[D, P], job: CanvasJob) -> bool:
        if job in seat.begun:
            return True
        with self._changed:
            job.state = CanvasState.RUNNING
            job.began_at = self._clock()
        task = job.ready_task
        for diffusion in self._attempt(seat, job, lambda low_memory: seat.backend.begin(task, low_memory=low_memory)):
            seat.begun[job] = diffusion
            job.steps = diffusion.steps
            job.plan = diffusion.plan
        return job in seat.begun

    def _predict(self, seat: Seat[D, P], jobs: list[CanvasJob]) -> list[tuple[CanvasJob, P]]:
        """One UNet call for all; if it fails, one each, so that no job fails because of another."""
        if not jobs:
            return []
        started = self._clock()
        if len(jobs) > 1:
            try:
                together = seat.backend.predict([seat.begun[job] for job in jobs], low_memory=False)
                self._observe(jobs, started)
                return list(zip(jobs, together, strict=True))
            except DeviceLostError:
                raise
            except Exception as error:  # noqa: BLE001 — whatever it is, each job meets its own error below
                logger.warning("A batch of %d failed (%s); its canvases run one by one.", len(jobs), error)
                seat.backend.release_memory()
        predictions = []
        for job in jobs:
            started = self._clock()
            for prediction in self._attempt(seat, job, partial(_predict_alone, seat.backend, seat.begun[job])):
                self._observe([job], started)
                predictions.append((job, prediction))
        return predictions

    def _observe(self, jobs: list[CanvasJob], started: float) -> None:
        seconds = self._clock() - started
        with self._changed:
            self._queue.pace.observe(sum(job.task.megapixel_passes_per_step for job in jobs), seconds)
        STEP_SECONDS.observe(seconds, canvas_label(*jobs[0].task.size))
        BATCH_CANVASES.observe(len(jobs))

    def _advance(self, seat: Seat[D, P], job: CanvasJob, prediction: P, low_memory: bool) -> None:
        del low_memory  # a scheduler's step needs next to none
        if job.wants_preview and job.step % PREVIEW_EVERY_STEPS == 0:
            job.preview = seat.backend.preview(seat.begun[job], prediction)
        seat.backend.advance(seat.begun[job], prediction)
        job.step += 1
        key_name = "" if job.caller.startswith(ADDRESS_MARK) else job.caller
        MEGAPIXEL_STEPS.add(job.task.megapixels, caller_label(key_name))

    def _finish(self, seat: Seat[D, P], job: CanvasJob) -> None:
        finish = partial(seat.backend.finish, seat.begun[job])
        job.plan = seat.begun[job].plan  # another than at first, where a runner failed on the way
        for painted in self._attempt(seat, job, lambda low_memory: finish(low_memory=low_memory)):
            with self._changed:
                # A caller who left during the last step gets no picture: leave() promised the error.
                if not job.ended and job.leaving is None:
                    self._end(job, painted=painted)

    def _attempt(self, seat: Seat[D, P], job: CanvasJob, call: Callable[[bool], T]) -> list[T]:
        """Runs one job's call, once more with less memory if it runs out of it. A failure ends this job alone.

        Returns:
            What the call gave; nothing if it failed.
        """
        try:
            try:
                return [call(job.low_memory)]
            except OutOfMemoryError:
                seat.backend.release_memory()
                if job.low_memory:
                    raise
                logger.warning("Canvas %d ran out of memory; it goes on with less of it.", job.number)
                job.low_memory = True
                return [call(True)]
        except DeviceLostError:
            raise
        except InpaintError as error:
            failure = error
        except Exception:
            logger.exception("Canvas %d failed by a defect of the engine.", job.number)
            failure = EngineCrashedError()
        seat.backend.release_memory()
        with self._changed:
            if not job.ended:
                self._end(job, error=failure)
        return []

    def _charge(self, job: CanvasJob) -> None:
        """Adds the turn's time to a job on the device, before the job ends: whoever waits for it reads the figure."""
        for seat in self._seats.values():
            if job in seat.on_device and not job.ended:
                job.device_seconds += self._clock() - seat.turn_started

    def _end(self, job: CanvasJob, *, painted: np.ndarray | None = None, error: InpaintError | None = None) -> None:
        """Ends a job: once, in one place. The lock is held."""
        self._charge(job)
        job.ended_at = self._clock()
        self._queue.remove(job)
        self._call_nearest()
        for seat in self._seats.values():
            seat.begun.pop(job, None)
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


def _predict_alone(backend: Backend[D, P], diffusion: D, low_memory: bool) -> P:
    return backend.predict([diffusion], low_memory=low_memory)[0]
