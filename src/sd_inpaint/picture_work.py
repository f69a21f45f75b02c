"""Work on whole pictures: decoding, planning, compositing, encoding."""

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PictureWork:
    """The one place of this process where pictures are worked on: never on an event loop, and one a core.

    Each piece of work may hold a picture of 50 megapixels several times over, so their number bounds the memory. Lives
    as long as the process; any thread's event loop may call it.

    Args:
        workers: How many pieces are worked on at once; None takes the machine's cores.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="picture-work")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in its turn. If the awaiting task is cancelled before that, the function never runs."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(function, *args, **kwargs))
