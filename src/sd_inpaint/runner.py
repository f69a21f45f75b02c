"""Takes accepted jobs through the painter, and sees to it that each ends: here, elsewhere, or after a restart."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sd_inpaint import codecs
from sd_inpaint.codecs import Picture
from sd_inpaint.engine import EngineState
from sd_inpaint.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    QueueFullError,
    ShuttingDownError,
    StateUnavailableError,
)
from sd_inpaint.loop import CRASHED
from sd_inpaint.painter import RANDOM_SEED_BITS, Painter, Progress
from sd_inpaint.schema import SEED_RANDOM, InpaintRequest, InpaintResult
from sd_inpaint.settings import Settings
from sd_inpaint.store import AcceptedJob, AcceptedState, JobError, JobProgress, JobResult, JobStore, Submission

TICK_SECONDS = 0.25
"""How often progress is written down, and how soon a job that was cancelled in another process leaves the device."""

TICK_SHARE = 4
"""A tick that takes long (many jobs, a slow disk) is followed by so many times as long a rest."""

CLAIM_SECONDS = 1.0
"""How often an unowned job is looked for."""

SWEEP_SECONDS = 60.0
"""How often expired results are deleted."""

CLAIMED_AT_ONCE = 2
"""Claimed jobs in the loop at a time, or as many as share a batch: the device never idles, and a job that brings the
process down costs few others one of their runs."""

WRITE_TRIES = 8
"""A job's end that cannot be written (a full disk, a lost database) is tried again after 0.25 s, 0.5 s, … 32 s."""

STOP_SECONDS = 30.0

SHUTTING_DOWN = "The server is shutting down."

logger = logging.getLogger("bentoml.sd_inpaint.runner")

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Run:
    """One job in this process."""

    painting: "asyncio.Task[InpaintResult]"
    progress: Progress
    is_claimed: bool
    is_given_back: bool = False
    reported: JobProgress | None = None
    preview: np.ndarray | None = None

    def give_back(self) -> None:
        """Stops painting, for somebody else to begin again."""
        self.is_given_back = True
        self.painting.cancel()

    def news(self) -> JobProgress | None:
        """Returns how far the job is, or None where nothing has changed since the last call."""
        snapshot = self.progress.snapshot()
        if snapshot.steps == 0:
            return None
        left = snapshot.seconds_left
        progress = JobProgress(
            AcceptedState(snapshot.state),
            snapshot.step,
            snapshot.steps,
            snapshot.queue_position,
            None if left is None else round(left, 1),
        )
        preview, png = self.progress.preview(), None
        if preview is not None and preview is not self.preview:
            self.preview, png = preview, codecs.encode(Picture(preview))
        elif progress == self.reported:
            return None
        self.reported = progress
        return dataclasses.replace(progress, preview=png)


class JobRunner:
    """This process's part in the accepted jobs: a thread, with an event loop of its own that outlives every request.

    Lives as long as the process. Any thread and any event loop may call it.

    Args:
        painter: Paints; whoever starts and stops it stops it before this.
        settings: For the queue's bound and the model's name.
        open_store: Opens the store that all processes share; called in :meth:`start`.
    """

    def __init__(self, painter: Painter, settings: Settings, open_store: Callable[[], JobStore]) -> None:
        self._painter = painter
        self._settings = settings
        self._open_store = open_store
        self._store: JobStore | None = None
        self._trouble = "The server has not started to keep jobs yet."
        self._owner = secrets.token_hex(8)
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="job-runner", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._door = threading.Lock()
        self._is_draining = False
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Opens the store and starts to look for unfinished jobs; without a store, only the jobs API is closed."""
        try:
            self._store = self._open_store()
        except StateUnavailableError as error:
            self._trouble = str(error)
            logger.error("%s The jobs API is closed; SD_INPAINT_STATE_DIR may name another folder.", error)
            return
        self._thread.start()
        self._started.wait()

    @property
    def store(self) -> JobStore:
        """Where jobs are looked up.

        Raises:
            StateUnavailableError: If there is none; with the reason.
            ShuttingDownError: If the process is about to end.
        """
        if self.has_stopped:
            raise ShuttingDownError(SHUTTING_DOWN)
        return self._opened

    def check_open(self) -> None:
        """Raises at once what :meth:`accept` would meet whatever the job: the errors of :attr:`store`."""
        self.store  # noqa: B018 — it raises

    @property
    def _opened(self) -> JobStore:
        if self._store is None:
            raise StateUnavailableError(self._trouble)
        return self._store

    @property
    def has_stopped(self) -> bool:
        """True once no job goes on in this process."""
        return self._stopping.is_set()

    async def accept(self, submission: Submission, request: InpaintRequest) -> tuple[AcceptedJob, bool]:
        """Has the device loop admit a job, then keeps it durably: once this has returned, the job will not be lost.

        Args:
            submission: What to keep; a random seed is drawn here.
            request: The same, decoded and checked.

        Returns:
            The job, and True if its Idempotency-Key had brought it about before.

        Raises:
            InpaintError: Whatever the painter refuses it for; IdempotencyConflictError; StateUnavailableError.
        """
        return await asyncio.wrap_future(self._call(self._accept(submission, request)))

    def cancel(self, identity: str) -> None:
        """Cancels a job, whichever process paints it, or deletes one that has ended; raises JobNotFoundError."""
        self.store.remove(identity)
        self._soon(self._abandon, frozenset((identity,)))

    def drain(self) -> None:
        """Claims no more, and gives back at once what has not begun, for other processes or for the next start."""
        self._is_draining = True
        self._soon(self._give_back_waiting)

    def stop(self) -> None:
        """Waits until what became of the stopped painter's jobs is written down, then ends. May be called again."""
        self._is_draining = True
        if self._store is None:
            return
        self._soon(self._stopping.set)
        self._thread.join(STOP_SECONDS)
        self._store.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._door:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        if self._store is None:
            raise StateUnavailableError(self._trouble)
        raise ShuttingDownError(SHUTTING_DOWN)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        with self._door:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)

    # All that follows runs in the thread.

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        sweep_at = claim_at = 0.0
        trouble = ""
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await self._report()
                if started >= claim_at and not await self._claim():
                    claim_at = started + CLAIM_SECONDS
                if started >= sweep_at:
                    await asyncio.to_thread(self._opened.sweep)
                    sweep_at = started + SWEEP_SECONDS
                trouble = ""
            except StateUnavailableError as error:
                if str(error) != trouble:
                    logger.error("%s", trouble := str(error))
            except Exception:
                logger.exception("A turn of the job runner failed; the next one may not.")
            rest_seconds = max(TICK_SECONDS, TICK_SHARE * (time.monotonic() - started))
            rest_seconds = min(rest_seconds, self._opened.lease_seconds / TICK_SHARE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest_seconds)
        await self._close()

    async def _close(self) -> None:
        with self._door:
            self._loop = None
        # Whoever came through the door before it closed is let in.
        await asyncio.sleep(0)
        for run in self._runs.values():
            # What the device has done only needs to be put together.
            if run.progress.snapshot().state != AcceptedState.FINISHING:
                run.give_back()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS / 2)

    async def _accept(self, submission: Submission, request: InpaintRequest) -> tuple[AcceptedJob, bool]:
        # A retry of what was accepted is no new job: a full queue does not refuse it.
        found = await asyncio.to_thread(self._opened.find, submission)
        if found is not None:
            return found, True
        if self._is_draining:
            raise ShuttingDownError(SHUTTING_DOWN)
        self._painter.check_open()
        await self._check_backlog()
        seed = request.parameters.seed
        if seed == SEED_RANDOM:
            seed = secrets.randbits(RANDOM_SEED_BITS)
        parameters = request.parameters.model_copy(update={"seed": seed})
        submission = dataclasses.replace(submission, seed=seed)
        run = self._begin(dataclasses.replace(request, parameters=parameters), submission.deadline_at)
        try:
            # The place in the queue comes first: what is kept has one.
            await _admission(run)
            job, was_there = await asyncio.to_thread(self._opened.add, submission, self._owner)
        except BaseException:
            run.painting.cancel()
            raise
        if was_there:
            run.painting.cancel()
        else:
            self._follow(job.id, run)
        return job, was_there

    async def _check_backlog(self) -> None:
        """Counts jobs that lost their process among those that wait: they were promised a place before."""
        waiting = await asyncio.to_thread(self._opened.waiting)
        engine = self._painter.engine
        if waiting and waiting + engine.waiting_jobs >= self._settings.max_queue:
            retry_after_seconds = max(1, math.ceil(engine.waiting_seconds))
            raise QueueFullError(
                f"{waiting} jobs from before a restart wait to go on. Try again in {retry_after_seconds} seconds.",
                retry_after_seconds=retry_after_seconds,
            )

    def _begin(self, request: InpaintRequest, deadline_at: float | None, *, promised: bool = False) -> _Run:
        deadline_seconds = None if deadline_at is None else deadline_at - time.time()
        if deadline_seconds is not None and deadline_seconds <= 0:
            raise DeadlineExceededError("The job's deadline passed before it could be begun again.")
        progress = Progress(wants_preview=True)
        painting = self._painter.paint(request, progress=progress, deadline_seconds=deadline_seconds, promised=promised)
        return _Run(asyncio.ensure_future(painting), progress, is_claimed=promised)

    def _follow(self, identity: str, run: _Run) -> None:
        self._runs[identity] = run
        task = asyncio.create_task(self._see_through(identity, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, identity: str, run: _Run) -> None:
        """Waits for a job's end and writes it down; until then its lease is renewed."""
        try:
            try:
                result = await run.painting
                kept = await asyncio.to_thread(JobResult.of, result, self._settings.model)
            except asyncio.CancelledError:
                # Given back by this process; or cancelled, or taken over by another, and then it is theirs to write.
                if run.is_given_back:
                    await self._write(self._opened.hand_back, self._owner, (identity,))
            except ShuttingDownError:
                await self._write(self._opened.hand_back, self._owner, (identity,))
            except InpaintError as error:
                await self._write(self._opened.fail, identity, self._owner, JobError.of(error))
            except Exception:
                logger.exception("Job %s failed by a defect.", identity)
                crash = EngineCrashedError(CRASHED)
                await self._write(self._opened.fail, identity, self._owner, JobError.of(crash))
            else:
                await self._write(self._opened.finish, identity, self._owner, kept)
        finally:
            del self._runs[identity]

    async def _write(self, method: Callable[..., object], *arguments: object) -> None:
        for attempt in range(WRITE_TRIES):
            try:
                await asyncio.to_thread(method, *arguments)
            except StateUnavailableError as error:
                logger.error("The end of a job could not be written. %s", error)
                await asyncio.sleep(TICK_SECONDS * 2**attempt)
            else:
                return
        logger.error("A job's end was not written in %d tries: it will be begun again.", WRITE_TRIES)

    async def _report(self) -> None:
        """Writes down how far the jobs are, renews their leases, and lets go of those that are not ours any more."""
        if runs := dict(self._runs):
            ours = await asyncio.to_thread(self._report_all, runs)
            self._abandon(runs.keys() - ours)

    def _report_all(self, runs: Mapping[str, _Run]) -> frozenset[str]:
        return self._opened.report(self._owner, {identity: run.news() for identity, run in runs.items()})

    def _abandon(self, identities: Set[str]) -> None:
        for identity in identities:
            if run := self._runs.get(identity):
                run.painting.cancel()

    def _give_back_waiting(self) -> None:
        for run in self._runs.values():
            if run.progress.snapshot().state == AcceptedState.QUEUED:
                run.give_back()

    async def _claim(self) -> bool:
        """Takes up one job that nobody owns, if this process can paint now; returns whether it did."""
        engine = self._painter.engine
        if self._is_draining or engine.state is not EngineState.READY or engine.backend is None:
            return False
        if sum(run.is_claimed for run in self._runs.values()) >= max(CLAIMED_AT_ONCE, engine.backend.max_batch):
            return False
        claimed = await asyncio.to_thread(self._opened.claim, self._owner)
        if claimed is None:
            return False
        job, submission = claimed
        logger.info("Job %s is begun again, as run %d.", job.id, job.runs)
        try:
            request = await asyncio.to_thread(submission.decode)
            self._follow(job.id, self._begin(request, job.deadline_at, promised=True))
        except InpaintError as error:
            await self._write(self._opened.fail, job.id, self._owner, JobError.of(error))
        return True


async def _admission(run: _Run) -> None:
    """Waits until the device loop has admitted a run; raises what it was refused for."""
    admitted = asyncio.ensure_future(run.progress.admitted.wait())
    await asyncio.wait({run.painting, admitted}, return_when=asyncio.FIRST_COMPLETED)
    admitted.cancel()
    if run.painting.done():
        run.painting.result()
