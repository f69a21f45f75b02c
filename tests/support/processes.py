"""Processes that tests start, and what belongs to them."""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx


def wait_for(
    url: str,
    *,
    status: int = 200,
    seconds: float,
    log: Callable[[], str],
    is_running: Callable[[], bool] = lambda: True,
) -> httpx.Response:
    """Waits until an address answers with a status, while its server runs; else fails with the server's log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and is_running():
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(url, timeout=seconds)
            if answer.status_code == status:
                return answer
        time.sleep(0.05)
    raise AssertionError(f"{url} did not become {status}; the log:\n{log()}")


def family(pid: int) -> list[int]:
    """Returns a process and its children."""
    pids = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(stat.parent.name))
    return pids


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
