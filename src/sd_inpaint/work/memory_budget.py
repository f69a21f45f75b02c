"""How much memory this process holds, how much it may, and who waits for room."""

import asyncio
import itertools
import os
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sd_inpaint.errors import ImageTooLargeError, QueueFullError
from sd_inpaint.work.fair_line import NOBODY, FairLine, Share

UPLOAD_SHARE: Final = 0.25
"""Of the room, for uploads. They are held while their pictures wait for room, so the two must not share one."""

AHEAD_SHARE: Final = 0.25
"""Of the room for pictures, for those that are decoded before their turn."""

LIGHT_BYTES: Final = 64 * 1024**2
"""A picture of some two megapixels. So little may pass a large one that waits for room."""

RETRY_SECONDS: Final = 5
"""After about this time a picture has been decoded, or painted, and its memory is free."""

_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit_bytes() -> int:
    """Returns the container's memory limit, or the machine's memory where that is less."""
    try:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize
    for path in _CGROUP_LIMITS:
        try:
            limit = min(limit, int(Path(path).read_text("ascii")))
        except (OSError, ValueError):
            continue  # no such version of cgroups, or "max"
    return limit


def resident_bytes() -> int:
    """Returns the physical memory that this process has now; 0 where the machine does not say."""
    try:
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Reservation:
    """Bytes that are counted as held until they are released. Any thread may call it."""

    def __init__(self, pool: "MemoryPool", size: int) -> None:
        self._pool = pool
        self._size = size

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def grow(self, more: int) -> None:
        """Holds more bytes.

        Raises:
            QueueFullError: If they don't fit now; none of them are held then.
        """
        self._pool.grow(self, more)

    def shrink(self, size: int) -> None:
        """Holds this many bytes from now on; does nothing if it already held no more."""
        self._pool.shrink(self, size)

    def release(self) -> None:
        """Holds nothing any more; may be called again."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    order: tuple[bool, float, int]
    size: int
    future: "Future[Reservation]"


class MemoryPool:
    """One share of the budget. Any thread, and any event loop, may call it."""

    def __init__(self, budget: "MemoryBudget", what: str) -> None:
        self._budget = budget
        self._what = what
        self._lock = threading.RLock()
        self._held = 0
        self._waiting: list[_Waiting] = []
        self._line = FairLine()
        self._numbers = itertools.count()

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self._held

    @property
    def max_bytes(self) -> int:
        """Bytes that may be held."""
        return self._budget.share(self)

    def hold(self, size: int = 0, *, share: float = 1.0) -> Reservation:
        """Holds bytes at once.

        Args:
            size: Bytes.
            share: Part of the pool that may be full afterwards.

        Raises:
            ImageTooLargeError: If so many bytes never fit.
            QueueFullError: If they don't fit now, or others wait for room.
        """
        with self._lock:
            self.check_fits(size)
            if self._held + size > self.max_bytes * share or (self._waiting and size > LIGHT_BYTES):
                raise self._full()
            return self._take(size)

    async def wait(self, size: int, *, is_urgent: bool = False, share: Share = NOBODY) -> Reservation:
        """Waits until so many bytes fit, and holds them. Callers take turns; ``LIGHT_BYTES`` may pass the others.

        Args:
            size: Bytes.
            is_urgent: True goes before all that is not.
            share: Who waits.

        Raises:
            ImageTooLargeError: If so many bytes never fit.
        """
        with self._lock:
            self.check_fits(size)
            future: Future[Reservation] = Future()
            order = (not is_urgent, self._line.join(share, size), next(self._numbers))
            self._waiting.append(_Waiting(order, size, future))
            self._waiting.sort(key=lambda waiting: waiting.order)
            self._admit()
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # It may have been admitted in the same moment.
            future.cancel()
            future.add_done_callback(lambda done: None if done.cancelled() else done.result().release())
            raise

    def check_fits(self, size: int) -> None:
        """Raises ImageTooLargeError if so many bytes never fit beside what may be held ahead."""
        most = int(self.max_bytes * (1 - AHEAD_SHARE))
        if size > most:
            raise ImageTooLargeError(
                f"{self._what} of this size take {_shown(size)} of memory while they are worked on; this server has "
                f"{_shown(most)} for them.",
                reason="memory",
                max_bytes=most,
            )

    def admit_waiting(self) -> None:
        """Lets in who fits by now; called when the pool's own bound has grown."""
        with self._lock:
            self._admit()

    def grow(self, reservation: Reservation, more: int) -> None:
        """As :meth:`Reservation.grow`."""
        with self._lock:
            if self._held + more > self.max_bytes:
                raise self._full()
            self._held += more
            reservation._size += more

    def shrink(self, reservation: Reservation, size: int) -> None:
        """As :meth:`Reservation.shrink`."""
        with self._lock:
            if size < reservation._size:
                self._held -= reservation._size - size
                reservation._size = size
                self._admit()

    def _take(self, size: int) -> Reservation:
        self._held += size
        return Reservation(self, size)

    def _admit(self) -> None:
        """Lets in whoever fits, in order; the lock is held."""
        still: list[_Waiting] = []
        for waiting in self._waiting:
            if waiting.future.cancelled():
                continue
            is_behind = bool(still) and waiting.size > LIGHT_BYTES
            if is_behind or self._held + waiting.size > self.max_bytes:
                still.append(waiting)
            elif waiting.future.set_running_or_notify_cancel():
                self._line.serve(waiting.order[1])
                waiting.future.set_result(self._take(waiting.size))
        self._waiting = still
        if not still:
            self._line.clear()

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"The server's memory is full: {_shown(self._held)} of {_shown(self.max_bytes)} are held for "
            f"{self._what.lower()}. Try again in {RETRY_SECONDS} seconds.",
            retry_after_seconds=RETRY_SECONDS,
            reason="memory",
        )


class MemoryBudget:
    """The memory of this process. Lives as long as it; any thread may call it.

    What is left beside the fixed part is shared out to two pools: uploads as they came, and pictures in all their
    forms. Whoever works on a picture reserves beforehand what that takes.

    Args:
        max_bytes: What may be held in all.
        max_upload_bytes: What uploads may take of it at most, whatever their share is.

    Attributes:
        max_bytes: As given.
        uploads: Bodies of requests.
        pictures: Pixels of inputs, canvases and results, and files of results.
    """

    def __init__(self, max_bytes: int, *, max_upload_bytes: int = sys.maxsize) -> None:
        self.max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes
        self._fixed_bytes = 0
        self.uploads = MemoryPool(self, "Uploads")
        self.pictures = MemoryPool(self, "Pictures")

    @property
    def held_bytes(self) -> int:
        """Bytes held now, the fixed part included."""
        return self._fixed_bytes + self.uploads.held_bytes + self.pictures.held_bytes

    def set_fixed(self, fixed_bytes: int) -> None:
        """Sets what is held for good: program, weights and the model's working memory, in bytes."""
        self._fixed_bytes = fixed_bytes
        self.pictures.admit_waiting()

    def share(self, pool: MemoryPool) -> int:
        """Returns how many bytes a pool may hold."""
        room = max(0, self.max_bytes - self._fixed_bytes)
        for_uploads = min(int(room * UPLOAD_SHARE), self._max_upload_bytes)
        return for_uploads if pool is self.uploads else room - for_uploads


def _shown(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"
