"""Processes that tests start, what belongs to them, and what they need installed."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def install_or_skip(script: str) -> None:
    """Runs a script that installs tools, nothing where they are; skips the test where they cannot be had."""
    done = subprocess.run([SCRIPTS / script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"scripts/{script} fails here: {done.stderr.strip()[-300:]}")


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
