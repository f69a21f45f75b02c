"""The server of a soak test: how it is started and stopped, and what its processes hold, from ``/proc``."""

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import ROOT

TTL_SECONDS = 15.0
"""How long its results are kept: short, so that expiry is part of the test; far longer than callers take to look."""

SAMPLE_SECONDS = 1.0

STOP_SECONDS = 90.0

WORKER = b"sd_inpaint.work.worker"
"""In the command line of a process that decodes pictures; such a process may be killed and replaced at any time."""


class ServerError(Exception):
    """The server cannot be started; the message has the end of its log."""


@dataclass(frozen=True)
class Sample:
    """What the processes of a server and its state folder hold at one moment.

    Attributes:
        at: Seconds, of the monotonic clock.
        server_bytes: Memory of all processes but those that decode pictures: PSS, or RSS where PSS cannot be read.
        worker_bytes: Memory of a process that decodes pictures, on average; 0 if there is none.
        processes: All of them.
        handles: Open files, sockets and pipes of all processes.
        threads: Of all processes.
        state_bytes: Disk space of the state folder.
        state_pictures: Uploads, results and reserved room in it.
    """

    at: float
    server_bytes: float
    worker_bytes: float
    processes: int
    handles: int
    threads: int
    state_bytes: int
    state_pictures: int


class Server:
    """``bentoml serve`` with the demo model, on this machine only and with a folder of its own for all it keeps."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.state = folder / "state"
        self._log = folder / "serve.log"
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("SD_INPAINT_")}
        environment |= {
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(folder / "bentoml"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "LOAD_SD_INPAINT": "true",
            "SD_INPAINT_MODEL": "demo",
            "SD_INPAINT_STATE_DIR": str(self.state),
            "SD_INPAINT_RESULT_TTL_SECONDS": str(TTL_SECONDS),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        command = ["bentoml", "serve", "service:SDInpaint", "--host", "127.0.0.1", "--port", str(port)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                # Not the repository: an operator's .env there may name a database.
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own, so that Ctrl+C reaches only this program, which then stops the server.
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text("utf-8", "replace")

    def check_running(self) -> None:
        """Raises ServerError if it has ended."""
        if self._process.poll() is not None:
            raise ServerError(f"The server ended with code {self._process.returncode}:\n{self.log[-2000:]}")

    def begin_stop(self) -> None:
        """Asks it to stop, as an operator does."""
        self._process.terminate()

    def stop(self) -> int:
        """Stops it, by force if it takes too long; returns the exit code, negative if it was killed."""
        if self._process.poll() is None:
            self.begin_stop()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def sample(self) -> Sample:
        """Looks at its processes and its state folder, which takes some milliseconds."""
        servers: list[int] = []
        workers: list[int] = []
        handles = threads = 0
        for pid in tree(self._process.pid):
            # One that ends meanwhile holds nothing.
            with contextlib.suppress(OSError):
                process = Path("/proc") / str(pid)
                handles += sum(1 for _ in (process / "fd").iterdir())
                threads += sum(1 for _ in (process / "task").iterdir())
                own = workers if WORKER in (process / "cmdline").read_bytes() else servers
                own.append(memory_bytes(process))
        size, pictures = _kept(self.state)
        return Sample(
            at=time.monotonic(),
            server_bytes=float(sum(servers)),
            worker_bytes=statistics.fmean(workers) if workers else 0.0,
            processes=len(servers) + len(workers),
            handles=handles,
            threads=threads,
            state_bytes=size,
            state_pictures=pictures,
        )


class Sampler:
    """Takes a sample of a server every second, in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> "Sampler":
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends."""
        self._is_done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_done.wait(SAMPLE_SECONDS):
            self.samples.append(self._server.sample())


def tree(root: int) -> list[int]:
    """Returns a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name before it may have spaces and parentheses.
            parent = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def memory_bytes(process: Path) -> int:
    """Returns the PSS of a process, given its folder in ``/proc``; its RSS where PSS cannot be read."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            for line in (process / name).read_text("utf-8", "replace").splitlines():
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    return 0


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kept(folder: Path) -> tuple[int, int]:
    """Returns the disk space of a state folder, in bytes, and the number of files in it that belong to a job."""
    size = pictures = 0
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):
            # Blocks of 512 bytes, whatever the file system's own size: stat(2).
            size += path.stat().st_blocks * 512
            pictures += any(kind in path.suffixes for kind in (".image", ".mask", ".result", ".room"))
    return size, pictures


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (path for path in folder.rglob("*") if path.is_file())
