"""What a worker process sets for itself, seen in a process of its own."""

import os
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, sys, threading
from sd_inpaint.http.bento.process import bound_malloc_arenas

print(bound_malloc_arenas())
meet = threading.Barrier(24)

def hold():
    kept = [bytearray(1000) for _ in range(3000)]
    meet.wait()
    del kept

threads = [threading.Thread(target=hold) for _ in range(24)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[1]).read().count("<heap nr"))
"""

FILES = (
    "from sd_inpaint.http.bento.process import raise_file_limit; print(raise_file_limit(600), raise_file_limit(9999))"
)


def python(code: str, *arguments: str, before: tuple[str, ...] = (), **environment: str) -> list[str]:
    """Runs code; gives the words that it prints."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_threads_share_two_arenas(tmp_path: str) -> None:
    """However many threads allocate, memory is kept in two arenas; an operator's own number is left alone."""
    environment = {name: "" for name in ("MALLOC_ARENA_MAX",) if name in os.environ}
    assert not environment, "the tests' own environment bounds the arenas"
    assert python(ARENAS, f"{tmp_path}/arenas") == ["True", "2"]
    assert python(ARENAS, f"{tmp_path}/arenas", MALLOC_ARENA_MAX="5") == ["False", "5"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is Linux's")
def test_open_files_are_raised_as_far_as_may_be() -> None:
    """The soft limit becomes what is wanted, or the hard limit, and is never lowered."""
    assert python(FILES, before=("prlimit", "--nofile=500:800")) == ["600", "800"]
    assert python(FILES, before=("prlimit", "--nofile=700:800")) == ["700", "800"]


TRIM = """
import ctypes, time
from sd_inpaint.http.bento.process import keep_heap_trimmed
from sd_inpaint.work.memory_budget import resident_bytes

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
MB = 1024**2
# As tensors between primitives: large blocks are freed, and small ones that are kept stop the heap from shrinking.
large, kept = [], []
for _ in range(1000):
    large.append(libc.malloc(100_000))
    ctypes.memset(large[-1], 1, 100_000)
    kept.append(libc.malloc(2_000))
for block in large:
    libc.free(ctypes.c_void_p(block))
held = resident_bytes()
print(keep_heap_trimmed(0.05))
until = time.monotonic() + 60
while held - resident_bytes() < 80 * MB and time.monotonic() < until:
    time.sleep(0.05)
print((held - resident_bytes()) // MB)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Of 95 MiB that were freed between small blocks in use, the process gives back almost all."""
    done, given_back = python(TRIM)
    assert done == "True"
    assert int(given_back) >= 80


def test_threads_take_turns_often() -> None:
    """A thread that waits for the interpreter gets it after half a millisecond."""
    code = "import sys; from sd_inpaint.http.bento.process import share_interpreter as share; share(); "
    assert python(code + "print(sys.getswitchinterval())") == ["0.0005"]
