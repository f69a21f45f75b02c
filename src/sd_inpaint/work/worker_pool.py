"""Functions that run in processes of their own, where they can be killed."""

import asyncio
import contextlib
import itertools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sd_inpaint.errors import ImageTooLargeError, InvalidImageError, QueueFullError
from sd_inpaint.work.fair_line import NOBODY, FairLine, Share
from sd_inpaint.work.memory_budget import RETRY_SECONDS
from sd_inpaint.work.worker import ANSWER, CALL, receive

T = TypeVar("T")

MIN_WORKERS: Final = 2
"""One for the heavy calls and one for the others, on the smallest machine too."""

MAX_WORKERS: Final = 8

IDLE_BYTES: Final = 32 * 1024**2
"""What an idle worker holds of its own (measured: 45 MB, a third of it shared with the server)."""

CALL_BYTES: Final = 48 * 1024**2
"""What a call takes beside what it reserves for its pixels: a few canvases (measured: docs/reliability.md)."""

_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What a worker sees of the server's environment: no key, no address of a database."""

# A picture's memory goes back to the machine when the picture is gone, and not to a heap that never shrinks.
HEAP: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


class WorkerPool:
    """A few processes, started when they are needed, for any number of threads and event loops.

    Heavy calls leave one process to the others, so that a small picture never waits for large ones. Lives as long as
    the server; its processes end with it.

    Args:
        workers: How many calls run at once; None takes the machine's cores, within bounds.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.size = min(max(workers or os.cpu_count() or 1, MIN_WORKERS), MAX_WORKERS)
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._idle = [_Worker() for _ in range(self.size)]
        self._heavy = 0
        self._waiting: list[_Turn] = []
        self._line = FairLine()
        self._numbers = itertools.count()

    async def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        cpu_seconds: float,
        memory_bytes: int,
        is_heavy: bool = False,
        is_urgent: bool = False,
        share: Share = NOBODY,
    ) -> T:
        """Runs a function of a module. Callers take turns. Cancelling the awaiting task kills the process it runs in.

        Args:
            function: Is found by its name in the worker, so it belongs to a module.
            arguments: Are pickled, as is what the function returns or raises.
            cpu_seconds: CPU time after which it is killed.
            memory_bytes: What it may take beside what the process has.
            is_heavy: True where it may take seconds.
            is_urgent: True goes before all that is not.
            share: Who waits.

        Raises:
            ImageTooLargeError: If it took longer.
            InvalidImageError: If it brought its process down.
            QueueFullError: If its process was killed by the system, which was out of memory.
        """
        with self._lock:
            order = (not is_urgent, self._line.join(share, cpu_seconds), next(self._numbers))
            turn = _Turn(order, is_heavy, Future())
            self._waiting.append(turn)
            self._waiting.sort(key=lambda waiting: waiting.order)
            self._next()
        try:
            worker = await asyncio.wrap_future(turn.future)
        except asyncio.CancelledError:
            # Its turn may have come in the same moment.
            turn.future.cancel()
            turn.future.add_done_callback(lambda done: None if done.cancelled() else self._give_back(turn))
            raise
        call = pickle.dumps((function, arguments), protocol=5)
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, worker.call, call, cpu_seconds, memory_bytes
        )
        try:
            outcome = await running
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            self._give_back(turn)
        value: T = _value(outcome)
        return value

    def close(self) -> None:
        """Ends the idle processes; those of calls that still run end with the server."""
        with self._lock:
            for worker in self._idle:
                worker.kill()
                worker.bury()

    def _give_back(self, turn: "_Turn") -> None:
        worker = turn.future.result()
        if worker.is_killed:
            # In a thread, since the system may take its time; no call is left that would.
            threading.Thread(target=worker.bury, name="bury", daemon=True).start()
        with self._lock:
            self._idle.append(worker)
            self._heavy -= turn.is_heavy
            self._next()

    def _next(self) -> None:
        """Gives idle workers to those whose turn it is; the lock is held."""
        self._idle = [_Worker() if worker.is_dead() else worker for worker in self._idle]
        for turn in list(self._waiting):
            if not self._idle:
                return
            if turn.is_heavy and self._heavy >= self.size - 1:
                continue
            self._waiting.remove(turn)
            if turn.future.set_running_or_notify_cancel():
                self._line.serve(turn.order[1])
                self._heavy += turn.is_heavy
                turn.future.set_result(self._idle.pop())
        if not self._waiting:
            self._line.clear()


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    order: tuple[bool, float, int]
    is_heavy: bool
    future: "Future[_Worker]"


class _Worker:
    """One process, or the place of one that is started by its first call."""

    def __init__(self) -> None:
        self.is_killed = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def call(self, call: bytes, cpu_seconds: float, memory_bytes: int) -> tuple[bytes, mmap.mmap | None]:
        """Runs one call; blocks until it is answered."""
        try:
            connection = self._connected()
            connection.sendall(CALL.pack(len(call), cpu_seconds, memory_bytes))
            connection.sendall(call)
            header, descriptors, _, _ = socket.recv_fds(connection, ANSWER.size, 1, socket.MSG_WAITALL)
            if len(header) < ANSWER.size:
                raise EOFError
            size, shared_size = ANSWER.unpack(header)
            shared = None
            for descriptor in descriptors:
                shared = mmap.mmap(descriptor, shared_size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
                os.close(descriptor)
            return receive(connection, size), shared
        except (EOFError, OSError):
            was_killed = self.is_killed
            self.kill()
            raise self._failure(self.bury(), was_killed=was_killed) from None

    def kill(self) -> None:
        """Ends the process, whatever it is doing; may be called again, by any thread."""
        with self._lock:
            self.is_killed = True
            if self._process is not None:
                self._process.kill()
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def is_dead(self) -> bool:
        """Whether it serves no further call; one that the system has ended while it was idle is buried."""
        if not self.is_killed and self._process is not None and self._process.poll() is not None:
            self.kill()
            self.bury()
        return self.is_killed

    def bury(self) -> int | None:
        """Waits for the end of a killed process; returns its exit code, or None if it never started."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
        return None if self._process is None else self._process.wait()

    def _connected(self) -> socket.socket:
        with self._lock:
            if self.is_killed:
                raise EOFError
            if self._connection is None:
                self._connection, theirs = socket.socketpair()
                with theirs:
                    self._process = subprocess.Popen(  # noqa: S603  # our own module
                        [sys.executable, "-m", "sd_inpaint.work.worker", str(theirs.fileno())],
                        pass_fds=(theirs.fileno(),),
                        stdin=subprocess.DEVNULL,
                        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
                        | HEAP
                        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    )
            return self._connection

    @staticmethod
    def _failure(code: int | None, *, was_killed: bool) -> Exception:
        """What the death of the process means to the caller."""
        if code == -signal.SIGPROF:
            return ImageTooLargeError(
                "The image or the mask takes more CPU time to decode than this server allows for its size.",
                reason="cpu_time",
            )
        if was_killed or code is None:
            return EOFError("The call was cancelled.")
        if code == -signal.SIGKILL:
            return QueueFullError(
                f"The server ran out of memory for this picture. Try again in {RETRY_SECONDS} seconds.",
                retry_after_seconds=RETRY_SECONDS,
                reason="memory",
            )
        return InvalidImageError("The image or the mask cannot be decoded: the decoder crashed.")


def _value(outcome: tuple[bytes, mmap.mmap | None]) -> Any:
    """What a call returned; raises what it raised."""
    body, shared = outcome
    succeeded, pickled, spans = pickle.loads(body)  # noqa: S301  # the worker made it
    view = memoryview(shared) if shared is not None else memoryview(b"")
    value = pickle.loads(pickled, buffers=[view[start : start + size] for start, size in spans])  # noqa: S301
    if succeeded:
        return value
    raise value
