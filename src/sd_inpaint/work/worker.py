"""A process that runs functions for the server, one at a time: ``python -m sd_inpaint.work.worker DESCRIPTOR``.

What decodes hostile files runs here: within a bound of CPU time and of memory for each call, without the server's
environment (keys, addresses), and the first to go where the machine runs out of memory. It ends with its server.

A call is ``CALL`` and a pickled ``(function, arguments)``. An answer is ``ANSWER`` and a pickled ``(succeeded, value,
spans)``; what the value has in arrays lies in the file that comes with ``ANSWER``, so that pixels are not copied.
"""

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

CALL: Final = struct.Struct("!QdQ")
"""Bytes of the pickle, seconds of CPU time, bytes of memory beside what the process has."""

ANSWER: Final = struct.Struct("!QQ")
"""Bytes of the pickle, bytes of the file; no file comes where that is 0."""

_ALIGNMENT: Final = 64
"""Bytes: the start of an array, which is a cache line's."""

_SLACK_BYTES: Final = 512 * 1024**2
"""Address space is not memory: libraries map files and stacks that they hardly touch."""


def receive(connection: socket.socket, size: int) -> bytes:
    """Reads exactly so many bytes.

    Raises:
        EOFError: If the other side is gone.
    """
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        if not (count := connection.recv_into(view[done:])):
            raise EOFError
        done += count
    return bytes(data)


def main() -> None:
    """Serves calls until the server is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    # They reach a whole group of processes, and the server may still drain.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _be_first_to_go()
    with contextlib.suppress(EOFError, OSError):
        while True:
            size, cpu_seconds, memory_bytes = CALL.unpack(receive(connection, CALL.size))
            call = receive(connection, size)
            _bound_memory(memory_bytes)
            # Its default action ends the process, even within a call of C code.
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            outcome = _run(call)
            del call
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            _answer(connection, *outcome)
            del outcome


def _run(call: bytes) -> tuple[bool, Any]:
    try:
        function, arguments = pickle.loads(call)  # noqa: S301  # the server made it
        return True, function(*arguments)
    except Exception as error:  # noqa: BLE001  # the server raises it
        return False, error.with_traceback(None)


def _answer(connection: socket.socket, succeeded: bool, value: Any) -> None:
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    spans, end = [], 0
    for array in arrays:
        size = array.raw().nbytes
        spans.append((end, size))
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    body = pickle.dumps((succeeded, pickled, spans))
    header = ANSWER.pack(len(body), end)
    if not end:
        connection.sendall(header + body)
        return
    with _file(end) as descriptor:
        for array, (start, _) in zip(arrays, spans, strict=True):
            _write(descriptor, array.raw(), start)
        socket.send_fds(connection, [header], [descriptor])
    connection.sendall(body)


def _write(descriptor: int, data: memoryview, start: int) -> None:
    # Written, not mapped: the kernel fills whole pages, where a mapping would fault once for each.
    while data:
        done = os.pwrite(descriptor, data, start)
        data, start = data[done:], start + done


@contextlib.contextmanager
def _file(size: int) -> Any:
    """A file in memory, where the system has such; it is gone with its last user."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pictures")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.truncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def _bound_memory(memory_bytes: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + memory_bytes + _SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _be_first_to_go() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


if __name__ == "__main__":
    main()
