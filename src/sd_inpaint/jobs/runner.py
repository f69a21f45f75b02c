"""Takes accepted jobs through the painter, and makes sure that each ends: here, elsewhere, or after a restart."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Set
from concurrent.futures import Future
from typing import Any, TypeVar

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.callers.accounts import Accounts, Usage
from sd_inpaint.callers.caller import NOBODY, Caller
from sd_inpaint.engine.admission import has_place
from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import (
    EngineCrashedError,
    InpaintError,
    QueueFullError,
    ShuttingDownError,
    StateUnavailableError,
)
from sd_inpaint.jobs.job import Job, JobError, JobResult, JobState, JobStore, StoreSpace, Submission
from sd_inpaint.jobs.running_job import RunningJob, admission, result_bytes, seconds_until, upload_of
from sd_inpaint.painter import Painter, with_seed
from sd_inpaint.progress import Progress
from sd_inpaint.schema import InpaintRequest, InpaintResult
from sd_inpaint.settings import Settings
from sd_inpaint.telemetry.metrics import STATE_ERRORS
from sd_inpaint.telemetry.tracing import span
from sd_inpaint.work.picture_work import PictureWork

TICK_SECONDS = 0.25
"""How often progress is saved, and how soon a job that was cancelled in another process leaves the device."""

TICK_SHARE = 4
"""A slow tick (many jobs, a slow disk) is followed by a rest that is this many times longer."""

CLAIM_SECONDS = 1.0
"""How often the runner looks for an unowned job."""

SWEEP_SECONDS = 60.0
"""How often expired results are deleted."""

CLAIMED_AT_ONCE = 2
"""Claimed jobs in the loop at a time, or as many as share a batch: the device never idles, and a job that brings the
process down costs few others one of their runs."""

LONGEST_REST_SECONDS = 32.0
"""An outcome that cannot be saved (a full disk, a lost database) is tried again after 0.25 s, 0.5 s, … 32 s, 32 s."""

KEPT_RETRY_SECONDS = 60.0
"""When to come again where a caller's jobs keep too much, and none of it expires yet."""

STOP_SECONDS = 30.0

_OTHERS = ""
"""Label of whoever's jobs wait to be resumed, but for the caller's own."""


logger = logging.getLogger("bentoml.sd_inpaint.runner")

T = TypeVar("T")


class JobRunner:
    """This process's share of the accepted jobs: a thread, with its own event loop that outlives every request.

    Lives as long as the process. Any thread and any event loop may call it.

    Args:
        painter: Paints; whoever starts and stops it stops it before this.
        work: Where pictures are decoded and encoded.
        settings: For the queue's bound and the model's name.
        open_store: Opens the store that all processes share; called in :meth:`start`.
        accounts: Every caller's; None makes some without limits.
    """

    def __init__(
        self,
        painter: Painter,
        work: PictureWork,
        settings: Settings,
        open_store: Callable[[], JobStore],
        accounts: Accounts | None = None,
    ) -> None:
        self._accounts = Accounts() if accounts is None else accounts
        self._painter = painter
        self._work = work
        self._settings = settings
        self._open_store = open_store
        self._store: JobStore | None = None
        self._trouble = "The job store is not open yet."
        self._accepting: Counter[str] = Counter()
        self._owner = secrets.token_hex(8)
        self._runs: dict[str, RunningJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="job-runner", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._door = threading.Lock()
        self._is_draining = False
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Opens the store and starts looking for unfinished jobs; without a store, only the jobs API is off."""
        try:
            self._open()
        except StateUnavailableError as error:
            self._trouble = str(error)
            logger.error("%s The jobs API is off until it can be used, or SD_INPAINT_STATE_DIR is another.", error)
        self._thread.start()
        self._started.wait()

    def _open(self) -> None:
        if self._store is None:
            self._store = self._open_store()
            self._trouble = ""

    def trouble(self) -> str | None:
        """Returns why accepted jobs cannot be stored now, in a sentence; None where they can."""
        return self._trouble or None

    def states(self) -> Counter[str]:
        """Returns how many accepted jobs this process has, by state; any thread may ask."""
        return Counter(run.progress.snapshot().state for run in list(self._runs.values()))

    def space(self) -> StoreSpace | None:
        """Returns the store's disk space, as :meth:`~sd_inpaint.jobs.job.JobStore.space`; None without a store.

        Raises:
            StateUnavailableError: If the store cannot be used.
        """
        return None if self._store is None else self._store.space()

    async def find(self, submission: Submission) -> Job | None:
        """Returns the job that was accepted with the submission's key before; raises as the store does."""
        return None if submission.key is None else await asyncio.to_thread(self.store.find, submission)

    @property
    def store(self) -> JobStore:
        """Where jobs are looked up.

        Raises:
            StateUnavailableError: If there is none; with the reason.
            ShuttingDownError: If the process is about to end.
        """
        if self.has_stopped:
            raise ShuttingDownError()
        return self._opened

    def check_open(self) -> None:
        """Raises at once what :meth:`accept` would raise for any job: the errors of :attr:`store`."""
        self.store  # noqa: B018 — it raises

    @property
    def _opened(self) -> JobStore:
        if self._store is None:
            raise StateUnavailableError(self._trouble)
        return self._store

    @property
    def has_stopped(self) -> bool:
        """True once no job runs in this process."""
        return self._stopping.is_set()

    async def accept(
        self, submission: Submission, request: InpaintRequest | AdmittedRequest, usage: Usage | None = None
    ) -> tuple[Job, bool]:
        """Has the device loop admit a job, then keeps it durably: once this has returned, the job will not be lost.

        Args:
            submission: What to keep; a random seed is drawn here.
            request: The same, decoded and checked; it is released with the job, or if the job is not accepted.
            usage: What the caller's request has used so far; None if nobody is known.

        Returns:
            The job, and True if its Idempotency-Key had brought it about before.

        Raises:
            InpaintError: Whatever the painter refuses it for; IdempotencyConflictError; StateUnavailableError.
        """
        usage = usage or Usage(self._accounts.of(NOBODY))
        return await asyncio.wrap_future(self._call(self._accept(submission, request, usage)))

    def cancel(self, job_id: str, caller: str | None = None) -> None:
        """Cancels a job, whichever process paints it, or deletes one that has ended.

        Raises:
            JobNotFoundError: If there is none, or it is another caller's.
        """
        self.store.remove(job_id, caller)
        self._soon(self._abandon, frozenset((job_id,)))

    def drain(self) -> None:
        """Stops claiming, and gives back jobs that have not started, for other processes or the next start."""
        self._is_draining = True
        self._soon(self._give_back_waiting)

    def stop(self) -> None:
        """Waits until the outcomes of the stopped painter's jobs are saved, then ends. May be called again."""
        self._is_draining = True
        if not self._started.is_set():
            return
        self._soon(self._stopping.set)
        self._thread.join(STOP_SECONDS)
        if self._store is not None:
            self._store.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._door:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        if self._store is None:
            raise StateUnavailableError(self._trouble)
        raise ShuttingDownError()

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        with self._door:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)

    # All that follows runs in the thread.

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        sweep_at = claim_at = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                if self._store is None or self._trouble:
                    await asyncio.to_thread(self._open)
                    claim_at = started
                await self._report()
                if started >= claim_at:
                    await asyncio.to_thread(self._opened.check)
                    if not await self._claim():
                        claim_at = started + CLAIM_SECONDS
                if started >= sweep_at:
                    await asyncio.to_thread(self._opened.sweep)
                    sweep_at = started + SWEEP_SECONDS
                self._trouble = ""
            except StateUnavailableError as error:
                STATE_ERRORS.add()
                if str(error) != self._trouble:
                    logger.error("%s", error)
                self._trouble = str(error)
            except Exception:
                logger.exception("A pass of the job runner failed; it will try again.")
            rest_seconds = max(TICK_SECONDS, TICK_SHARE * (time.monotonic() - started))
            if self._store is not None:
                rest_seconds = min(rest_seconds, self._store.lease_seconds / TICK_SHARE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest_seconds)
        await self._close()

    async def _close(self) -> None:
        with self._door:
            self._loop = None
        # Calls that were scheduled before this still run.
        await asyncio.sleep(0)
        for run in self._runs.values():
            # A job whose steps are all done only needs to be assembled.
            if run.progress.snapshot().state != JobState.FINISHING:
                run.give_back()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS / 2)

    async def _accept(
        self, submission: Submission, request: InpaintRequest | AdmittedRequest, usage: Usage
    ) -> tuple[Job, bool]:
        admitted = request if isinstance(request, AdmittedRequest) else None
        is_ours = False
        self._accepting[usage.caller] += 1
        try:
            job, was_there = await self._try_accept(submission, request, usage)
            is_ours = not was_there
            return job, was_there
        finally:
            self._accepting[usage.caller] -= 1
            self._accepting += Counter()  # forgets those who have none
            if admitted is not None and not is_ours:
                admitted.release()

    async def _try_accept(
        self, submission: Submission, request: InpaintRequest | AdmittedRequest, usage: Usage
    ) -> tuple[Job, bool]:
        # A retry of an accepted job is not a new job: a full queue does not refuse it.
        found = await asyncio.to_thread(self._opened.find, submission)
        if found is not None:
            return found, True
        if self._is_draining:
            raise ShuttingDownError()
        usage.account.check_work()
        self._painter.check_open(usage)
        await self._check_backlog(submission, usage)
        room_bytes = result_bytes(request)
        await self._check_kept(submission, room_bytes, usage)
        parameters = with_seed(request.parameters)
        submission = dataclasses.replace(submission, seed=parameters.seed)
        if isinstance(request, AdmittedRequest):
            request.parameters = parameters
        else:
            request = dataclasses.replace(request, parameters=parameters)
        run = self._begin(request, submission.deadline_at, usage)
        try:
            # The place in the queue comes first: every stored job has one.
            await admission(run)
            job, was_there = await asyncio.to_thread(self._opened.add, submission, self._owner, room_bytes)
        except BaseException:
            run.painting.cancel()
            raise
        if was_there:
            run.painting.cancel()
        else:
            if run.admitted is not None and run.admitted.read is not None:
                # The disk has them now.
                run.admitted.read = lambda: upload_of(self._opened.submission(job))
            self._follow(job.id, run)
        return job, was_there

    async def _check_backlog(self, submission: Submission, usage: Usage) -> None:
        """Counts accepted jobs: those without a canvas, and those that lost their process and were promised a place."""
        unowned = await asyncio.to_thread(self._opened.waiting)
        own = await asyncio.to_thread(self._opened.waiting_of, submission.caller) if unowned else 0
        held = Counter(run.usage.caller for run in self._runs.values()) + self._accepting
        # One that is being accepted counts itself.
        held[usage.caller] += own - 1
        held[_OTHERS] += unowned - own
        jobs = held.total()
        weights = {run.usage.caller: run.usage.share for run in self._runs.values()} | {usage.caller: usage.share}
        if not has_place(held, usage.caller, self._settings.max_queue, weights):
            retry_after_seconds = max(1, math.ceil(self._painter.engine.waiting_seconds / jobs))
            raise QueueFullError(
                f"The queue is full: {jobs} accepted jobs wait or run. Try again in {retry_after_seconds} seconds.",
                retry_after_seconds=retry_after_seconds,
            )

    async def _check_kept(self, submission: Submission, room_bytes: int, usage: Usage) -> None:
        if usage.account.limits.kept_bytes:
            kept = await asyncio.to_thread(self._opened.kept, submission.caller)
            more_bytes = len(submission.image) + len(submission.mask) + room_bytes
            usage.account.check_kept(kept.bytes, more_bytes, kept.frees_in_seconds or KEPT_RETRY_SECONDS)

    def _begin(self, request: InpaintRequest | AdmittedRequest, deadline_at: float | None, usage: Usage) -> RunningJob:
        progress = Progress(wants_preview=True)
        painting = self._painter.paint(
            request, progress=progress, deadline_seconds=seconds_until(deadline_at), caller=usage
        )
        admitted = request if isinstance(request, AdmittedRequest) else None
        return RunningJob(asyncio.ensure_future(painting), progress, usage, is_claimed=False, admitted=admitted)

    def _resume(self, submission: Submission, deadline_at: float | None) -> RunningJob:
        """Starts a job that was accepted before: it is painted even if the queue is full."""
        deadline_seconds = seconds_until(deadline_at)
        progress = Progress(wants_preview=True)
        usage = Usage(self._accounts.of(Caller(submission.caller, "")))

        async def paint() -> InpaintResult:
            run.admitted = await self._painter.admit(upload_of(submission), force=True)
            return await self._painter.paint(
                run.admitted, progress=progress, deadline_seconds=deadline_seconds, force=True, caller=usage
            )

        run = RunningJob(asyncio.ensure_future(paint()), progress, usage, is_claimed=True)
        return run

    def _follow(self, job_id: str, run: RunningJob) -> None:
        self._runs[job_id] = run
        # The request that brought it was let in: the job stays, whatever else the caller does.
        run.usage.account.begin(force=True)
        task = asyncio.create_task(self._see_through(job_id, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, job_id: str, run: RunningJob) -> None:
        """Waits for a job to end and saves the outcome; until then its lease is renewed."""
        try:
            try:
                result = await run.painting
                with span("encode"):
                    kept = await self._work.run(JobResult.of, result, self._settings.model_name)
                del result
                if run.admitted is not None:
                    run.admitted.keep_only(kept.extent.file_bytes)
            except asyncio.CancelledError:
                # Given back by this process; or cancelled, or taken over by another, and then it is theirs to write.
                if run.is_given_back:
                    await self._write(self._opened.hand_back, self._owner, (job_id,))
            except ShuttingDownError:
                await self._write(self._opened.hand_back, self._owner, (job_id,))
            except InpaintError as error:
                await self._write(self._opened.fail, job_id, self._owner, JobError.of(error))
            except Exception:
                logger.exception("Job %s failed because of a bug.", job_id)
                await self._write(self._opened.fail, job_id, self._owner, JobError.of(EngineCrashedError()))
            else:
                await self._write(self._opened.finish, job_id, self._owner, kept)
        finally:
            del self._runs[job_id]
            run.usage.account.end()
            if run.admitted is not None:
                run.admitted.release()

    async def _write(self, method: Callable[..., object], *arguments: object) -> None:
        rest_seconds = TICK_SECONDS
        while True:
            try:
                await asyncio.to_thread(method, *arguments)
            except StateUnavailableError as error:
                STATE_ERRORS.add()
                logger.error("The outcome of a job could not be saved; it is tried again. %s", error)
                await asyncio.sleep(rest_seconds)
                rest_seconds = min(2 * rest_seconds, LONGEST_REST_SECONDS)
            else:
                return

    async def _report(self) -> None:
        """Saves the jobs' progress, renews their leases, and drops those that are no longer ours."""
        if runs := dict(self._runs):
            ours = await asyncio.to_thread(self._report_all, runs)
            self._abandon(runs.keys() - ours)

    def _report_all(self, runs: Mapping[str, RunningJob]) -> frozenset[str]:
        return self._opened.report(self._owner, {job_id: run.changed_progress() for job_id, run in runs.items()})

    def _abandon(self, job_ids: Set[str]) -> None:
        for job_id in job_ids:
            if run := self._runs.get(job_id):
                run.painting.cancel()

    def _give_back_waiting(self) -> None:
        for run in self._runs.values():
            if run.progress.snapshot().state == JobState.QUEUED:
                run.give_back()

    async def _claim(self) -> bool:
        """Claims one job that nobody owns, if this process can run it now; returns whether it did."""
        engine = self._painter.engine
        if self._is_draining or engine.state is not EngineState.READY or engine.backend is None:
            return False
        if sum(run.is_claimed for run in self._runs.values()) >= max(CLAIMED_AT_ONCE, engine.places):
            return False
        claimed = await asyncio.to_thread(self._opened.claim, self._owner)
        if claimed is None:
            return False
        job, submission = claimed
        logger.info("Job %s is restarted (run %d).", job.id, job.runs)
        try:
            self._follow(job.id, self._resume(submission, job.deadline_at))
        except InpaintError as error:
            await self._write(self._opened.fail, job.id, self._owner, JobError.of(error))
        return True
