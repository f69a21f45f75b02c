"""The calls that are being painted, by caller: each sees and ends its own only."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from sd_inpaint.errors import RequestCancelledError
from sd_inpaint.progress import Progress

T = TypeVar("T")


class Run:
    """One call on its way. For tasks of one event loop.

    Args:
        caller: Whose it is.

    Attributes:
        progress: Follows it.
    """

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.progress = Progress(wants_preview=True)
        self._started = time.time()
        self._interrupt: Callable[[], object] | None = None
        self._is_interrupted = False

    async def painting(self, work: Awaitable[T]) -> T:
        """Waits for the work, which :meth:`interrupt` ends.

        Raises:
            RequestCancelledError: If it was interrupted.
        """
        painting = asyncio.ensure_future(work)
        self._interrupt = painting.cancel
        try:
            return await painting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_interrupted and not (task and task.cancelling()):
                raise RequestCancelledError("The caller interrupted this request.") from None
            raise

    def interrupt(self) -> None:
        """Ends the work before its next step."""
        self._is_interrupted = True
        if self._interrupt is not None:
            self._interrupt()

    def describe(self) -> dict[str, Any]:
        """Returns ``progress``, ``eta_relative`` and ``state`` as the web UI has them."""
        snapshot = self.progress.snapshot()
        share = snapshot.step / snapshot.steps if snapshot.steps else 0.0
        return {
            # Never 0 while there is something: clients take that for the end.
            "progress": max(share, 0.01),
            "eta_relative": snapshot.seconds_left or 0.0,
            "state": {
                **IDLE_STATE,
                "interrupted": self._is_interrupted,
                "job": "scripts_img2img",
                "job_count": 1,
                "job_timestamp": datetime.fromtimestamp(self._started, UTC).strftime("%Y%m%d%H%M%S"),
                "sampling_step": snapshot.step,
                "sampling_steps": snapshot.steps,
            },
        }


IDLE_STATE: dict[str, Any] = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}
"""The web UI's state while it does nothing."""


class Running:
    """All calls that are being painted. Lives as long as the server; for tasks of one event loop."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @contextlib.contextmanager
    def enter(self, caller: str) -> Iterator[Run]:
        """Holds a caller's run for as long as the block lasts."""
        run = Run(caller)
        self._runs.append(run)
        try:
            yield run
        finally:
            self._runs.remove(run)

    def of(self, caller: str) -> list[Run]:
        """Returns a caller's runs, the oldest first."""
        return [run for run in self._runs if run.caller == caller]
