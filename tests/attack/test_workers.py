"""Calls that run where they can be killed."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sd_inpaint.errors import ImageTooLargeError, InvalidImageError, InvalidMaskError, QueueFullError
from sd_inpaint.work.fair_line import Share
from sd_inpaint.work.worker_pool import WorkerPool
from tests.support.bombs import FOR_EVER
from tests.support.real_time import wait_for

GIB = 1024**3


@pytest.fixture(scope="module")
def pool() -> Any:
    """Two processes."""
    made = WorkerPool(2)
    yield made
    made.close()


def call(pool: WorkerPool, function: Any, *arguments: Any, **options: Any) -> Any:
    """Runs one call."""
    return asyncio.run(pool.run(function, *arguments, **{"cpu_seconds": 60.0, "memory_bytes": GIB, **options}))


def environment() -> dict[str, str]:
    """What a worker sees."""
    return dict(os.environ)


def kill(number: int) -> None:
    """Ends the process it runs in."""
    os.kill(os.getpid(), number)


def refuse() -> None:
    """Raises what a decoder raises."""
    raise InvalidMaskError("The mask is empty.", size=0)


def test_values_come_back(pool: WorkerPool) -> None:
    """Arrays arrive as they were, writable, and errors with their facts."""
    value = call(pool, np.arange, 1000)
    assert (value == np.arange(1000)).all()
    value[0] = 7
    with pytest.raises(InvalidMaskError, match="empty") as raised:
        call(pool, refuse)
    assert raised.value.facts == {"size": 0}


def test_cpu_time_is_bounded(pool: WorkerPool) -> None:
    """A call that takes too much CPU time ends as a picture that is too large, and the next one runs."""
    with pytest.raises(ImageTooLargeError, match="CPU time"):
        call(pool, sum, FOR_EVER, cpu_seconds=0.2)
    assert call(pool, sum, [1, 2]) == 3


def test_memory_is_bounded(pool: WorkerPool) -> None:
    """A call that takes more memory than it may fails by itself, and takes nobody with it."""
    with pytest.raises(MemoryError):
        call(pool, bytes, 8 * GIB)
    assert call(pool, len, b"abc") == 3


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGSEGV, InvalidImageError), (signal.SIGKILL, QueueFullError)], ids=str
)
def test_death_of_a_worker(pool: WorkerPool, number: int, error: type[Exception]) -> None:
    """A decoder that crashes is a bad picture, one that the system kills a lack of memory; the server goes on."""
    with pytest.raises(error):
        call(pool, kill, number)
    assert call(pool, sum, [1, 2]) == 3


def terminate() -> int:
    """Is asked to end, as a service manager asks every process of a group; returns as if nothing had happened."""
    kill(signal.SIGTERM)
    return 7


def test_a_worker_outlives_the_wish_to_end(pool: WorkerPool) -> None:
    """SIGTERM to the whole group does not end a decoding: the server drains, and nobody's picture is called bad."""
    assert call(pool, terminate) == 7


def test_who_leaves_frees_the_worker(pool: WorkerPool) -> None:
    """Cancelled calls end at once, those that wait too: two that would run for ever keep nobody waiting."""

    async def run() -> float:
        tasks = [asyncio.create_task(pool.run(sum, FOR_EVER, cpu_seconds=600.0, memory_bytes=GIB)) for _ in range(4)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started = time.monotonic()
        assert await pool.run(sum, [1, 2], cpu_seconds=60.0, memory_bytes=GIB) == 3
        return time.monotonic() - started

    assert asyncio.run(run()) < 20.0


def test_heavy_calls_leave_a_worker_to_the_others(pool: WorkerPool) -> None:
    """However many heavy calls there are, a light one is run beside them."""

    async def run() -> None:
        heavy = [
            asyncio.create_task(pool.run(sum, FOR_EVER, cpu_seconds=600.0, memory_bytes=GIB, is_heavy=True))
            for _ in range(5)
        ]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            assert await pool.run(sum, [1, 2], cpu_seconds=60.0, memory_bytes=GIB) == 3
        assert not any(task.done() for task in heavy)
        for task in heavy:
            task.cancel()
        await asyncio.gather(*heavy, return_exceptions=True)

    asyncio.run(run())


def test_a_flooder_s_calls_do_not_delay_another_caller(pool: WorkerPool) -> None:
    """However many of one caller's calls wait, another's single one is among the next."""
    done: list[str] = []

    async def run_one(caller: str) -> None:
        await pool.run(time.sleep, 0.2, cpu_seconds=60.0, memory_bytes=GIB, share=Share(caller))
        done.append(caller)

    async def run() -> None:
        flood = [asyncio.create_task(run_one("flooder")) for _ in range(10)]
        await asyncio.sleep(0)
        await run_one("other")
        await asyncio.gather(*flood)

    asyncio.run(run())
    # Those that were being worked on when it came, and one that is as far in line.
    assert done.index("other") <= 2 * pool.size


def children() -> list[str]:
    """States of this process's children; Z has ended and waits to be asked for its exit code."""
    own = str(os.getpid())
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            found += [state] if parent == own else []
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("is_idle", [True, False])
def test_ended_workers_are_buried(is_idle: bool) -> None:
    """A worker that ended while idle, or whose caller left, leaves no zombie; who comes next does not notice."""
    fresh = WorkerPool(2)
    number = call(fresh, os.getpid)

    async def leave() -> None:
        task = asyncio.create_task(fresh.run(os.getpid, cpu_seconds=60.0, memory_bytes=GIB))
        # Its turn has come, and its call has not begun: nothing but the pool knows the process.
        fresh._threads.submit(time.sleep, 0.5)
        fresh._threads.submit(time.sleep, 0.5)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    if is_idle:
        os.kill(number, signal.SIGKILL)
    else:
        asyncio.run(leave())
    wait_for(lambda: not Path(f"/proc/{number}").exists() or "Z" in children())
    assert call(fresh, sum, [1, 2]) == 3
    wait_for(lambda: "Z" not in children())
    fresh.close()


def test_worker_sees_no_secrets(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that decodes hostile files has neither the keys nor the database's address."""
    monkeypatch.setenv("SD_INPAINT_API_KEYS", "secret")
    fresh = WorkerPool(2)
    seen = call(fresh, environment)
    fresh.close()
    assert not any(name.startswith("SD_INPAINT") for name in seen)
    assert "secret" not in str(seen)


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="this system has no such score")
def test_worker_goes_first() -> None:
    """Where the machine runs out of memory, a decoder is killed and not the server."""
    fresh = WorkerPool(2)
    score = call(fresh, Path.read_text, Path("/proc/self/oom_score_adj"))
    fresh.close()
    assert int(score) == 1000
