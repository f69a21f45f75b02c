"""What a worker process asks of the system for itself, before it serves."""

import ctypes
import logging
import os
import sys
import threading

logger = logging.getLogger("bentoml.sd_inpaint.http")

FILES = 65_536
"""Files and connections that a process may have open, where the system lets it: a login shell's 1,024 are few."""

RESERVED_FILES = 256
"""Of these, for the job store, pictures, weights and libraries: connections never take them."""

MALLOC_ARENAS = 2
"""glibc's default is eight a core, each of which keeps what it once held."""

TRIM_SECONDS = 30.0
"""How often freed memory goes back to the system: a trim takes some 10 ms, and threads may wait for it."""

SWITCH_SECONDS = 0.0005
"""How long a thread of Python keeps the interpreter from one that waits for it; Python's own default is 0.005."""

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""


def raise_file_limit(wanted: int = FILES) -> int:
    """Raises the soft limit of open files as far as the hard one allows; returns what holds then."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError) as error:  # macOS: above what the kernel gives a process
            logger.debug("The limit of open files stays at %d: %s", soft, error)
            return soft
        logger.debug("The limit of open files was %d and is now %d.", soft, target)
        return target
    return soft


def bound_malloc_arenas(arenas: int = MALLOC_ARENAS) -> bool:
    """Has glibc serve all threads from a few arenas, unless MALLOC_ARENA_MAX is set; returns whether it does now.

    With many, pictures that were worked on by many threads leave freed memory in each, and the process grows for an
    hour. Does nothing where malloc is another library's.
    """
    if not sys.platform.startswith("linux") or "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, arenas))
    except (OSError, AttributeError):
        return False


def keep_heap_trimmed(period_seconds: float = TRIM_SECONDS) -> bool:
    """Gives freed memory back to the system again and again, in a thread that ends with the process.

    glibc does so by itself only at the top of the heap. What a model keeps for each new size of picture (oneDNN's
    primitives) lies between the large, short-lived tensors, and pins them there. Does nothing where malloc is another
    library's; returns whether it does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False

    def live() -> None:
        while not pause.wait(period_seconds):
            trim(0)

    pause = threading.Event()
    threading.Thread(target=live, name="malloc-trim", daemon=True).start()
    return True


def share_interpreter() -> None:
    """Has Python's threads take turns ten times as often as by default.

    Each operation of the model lets go of the interpreter and takes it again. While the event loop is busy, it waited
    for up to five milliseconds each time, so that a flood of cheap requests slowed down all painting.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
