"""A mapped file's pages, given back as they are read: weights are copied into another order, and not needed twice."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

DONTNEED: Final = 4
"""Of madvise(2) on Linux: the pages go, and come back from the file where they are read again."""

PERIOD_SECONDS: Final = 0.05
"""A tenth of a gigabyte is read meanwhile."""


@contextmanager
def pages_given_back(path: Path) -> Iterator[None]:
    """Gives a mapped file's pages back while the body reads them, and at its end. Does nothing where Linux is not."""
    done = threading.Event()

    def give_back() -> None:
        while not done.wait(PERIOD_SECONDS):
            _give_back(path)

    thread = threading.Thread(target=give_back, name="mapped-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _give_back(path)


def _give_back(path: Path) -> None:
    with contextlib.suppress(OSError, AttributeError):
        maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
        for line in maps:
            addresses, permissions, *_ = line.split(maxsplit=2)
            # Read only: nothing that was written into it can be lost.
            if permissions.startswith("r--") and line.endswith(f" {path}"):
                start, end = (int(address, 16) for address in addresses.split("-"))
                ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONTNEED)
