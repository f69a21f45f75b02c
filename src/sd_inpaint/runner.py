"""Takes accepted jobs through the painter, and sees to it that each comes to an end: here, elsewhere, or after a restart."""

import asyncio
import dataclasses
import logging
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from sd_inpaint import codecs
from sd_inpaint.codecs import Picture
from sd_inpaint.engine import EngineState
from sd_inpaint.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    JobLostError,
    QueueFullError,
    ShuttingDownError,
    StateUnavailableError,
)
from sd_inpaint.jobs import Job
from sd_inpaint.loop import CRASHED, DeviceLoop
from sd_inpaint.painter import RANDOM_SEED_BITS, Painter, Progress
from sd_inpaint.schema import SEED_RANDOM, InpaintRequest, InpaintResult
from sd_inpaint.settings import Settings
from sd_inpaint.store import AcceptedJob, AcceptedState, JobError, JobProgress, JobResult, JobStore, Submission

TICK_SECONDS = 0.25
"""How often progress is written down, and how soon a job that was cancelled in another process leaves the device."""

CLAIM_SECONDS = 1.0
"""How often an unowned job is looked for."""

SWEEP_SECONDS = 60.0
"""How often expired results are deleted."""

CLAIMED_AT_ONCE = 2
"""Claimed jobs in the loop at a time, or as many as share a batch: the device never idles, and a job that brings the
process down takes few others' count of runs with it."""

WRITE_TRIES = 5
"""A result that cannot be written (a full disk) is tried so often, each time after twice as long a wait."""

STOP_SECONDS = 30.0

logger = logging.getLogger("bentoml.sd_inpaint.runner")

T = TypeVar("T")


class _Watched(Progress):
    """A window that says when its request was admitted to the device loop."""

    def __init__(self) -> None:
        super().__init__(wants_preview=True)
        self.admitted = asyncio.Event()

    def follow(self, jobs: "list[Job] | tuple[Job, ...]", loop: DeviceLoop) -> None:  # type: ignore[override]
        super().follow(jobs, loop)
        self.admitted.set()


@dataclass(slots=True, eq=False)
class _Run:
    """One job in this process."""

    painting: "asyncio.Task[InpaintResult]"
    progress: _Watched
    seed: int
    claimed: bool = False
    handed_back: bool = False
    reported: JobProgress | None = None
    preview: np.ndarray | None = field(default=None)


class JobRunner:
    """This process's part in the accepted jobs: a thread of its own, with an event loop that outlives no request.

    Lives as long as the process. Any thread and any event loop may call it.

    Args:
        painter: Paints; started and stopped by others, stopped before this.
        settings: For the queue's bound and the model's name.
        open_store: Opens the store of all processes; called in :meth:`start`.
    """

    def __init__(self, painter: Painter, settings: Settings, open_store: Callable[[], JobStore]) -> None:
        self._painter = painter
        self._settings = settings
        self._open_store = open_store
        self._store: JobStore | None = None
        self._trouble = StateUnavailableError("The server has not started to keep jobs yet.")
        self._owner = secrets.token_hex(8)
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._live_in_thread, name="job-runner", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._draining = False
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Opens the store and starts to look for unfinished jobs; without a store, only the jobs API is closed."""
        try:
            self._store = self._open_store()
        except StateUnavailableError as error:
            logger.error("%s The jobs API is closed; set SD_INPAINT_STATE_DIR to a folder that can be written.", error)
            self._trouble = error
            return
        self._thread.start()
        self._started.wait()

    @property
    def store(self) -> JobStore:
        """Where jobs are looked up; raises StateUnavailableError, with the reason, if there is none."""
        if self._store is None:
            raise self._trouble
        return self._store

    @property
    def stopped(self) -> bool:
        """True once no job here goes on."""
        return self._stopping.is_set()

    async def accept(self, submission: Submission, request: InpaintRequest) -> tuple[AcceptedJob, bool]:
        """Admits a job to this process's device loop, then keeps it durably: when this returns, it will not be lost.

        Args:
            submission: What to keep. A random seed is drawn here.
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
        """Gives jobs that have not begun back at once, for other processes or the next start; claims no more."""
        self._draining = True
        self._soon(self._give_back_waiting)

    def stop(self) -> None:
        """Waits until what the painter has stopped is written down, and ends the thread. May be called again."""
        self._draining = True
        if self._store is None:
            return
        self._soon(self._stopping.set)
        self._thread.join(STOP_SECONDS)
        self._store.close()

    # What follows runs in the thread.

    def _live_in_thread(self) -> None:
        asyncio.run(self._live())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        if self._loop is None or self._stopping.is_set():
            coroutine.close()
            raise self._trouble if self._store is None else ShuttingDownError("The server is shutting down.")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(function, *arguments)
