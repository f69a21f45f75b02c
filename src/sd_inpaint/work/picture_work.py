"""Work on whole pictures: decoding, planning, compositing, encoding; where it runs, and what memory it may take."""

import asyncio
import atexit
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

from sd_inpaint.work.memory_budget import MemoryBudget, memory_limit_bytes
from sd_inpaint.work.worker_pool import WorkerPool

P = ParamSpec("P")
T = TypeVar("T")


class PictureWork:
    """The one place of this process where pictures are worked on: never on an event loop, and one a core.

    What callers sent is worked on in ``workers``, which can be killed; what was admitted, in threads. Lives as long as
    the process; any thread's event loop may call it.

    Args:
        threads: How many pieces are worked on at once; None takes the machine's cores.
        budget: Memory for pictures; None takes all that the machine or the container has.

    Attributes:
        budget: As given.
        workers: Processes that decode.
    """

    def __init__(self, threads: int | None = None, budget: MemoryBudget | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="picture-work")
        self.budget = budget or MemoryBudget(memory_limit_bytes())
        self.workers = _workers()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in its turn. If the awaiting task is cancelled before that, the function never runs."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(function, *args, **kwargs))


@cache
def _workers() -> WorkerPool:
    """One pool a process."""
    pool = WorkerPool()
    atexit.register(pool.close)
    return pool
