"""The command scripts/demo, once everything is installed."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx

from tools import ROOT

PHOTO = ROOT / "docs" / "photo.jpg"
MASK = ROOT / "docs" / "mask.png"
PROMPT = "a red mushroom"
RESULT = Path("result.png")

START_SECONDS = 300.0
"""The demo model is there in ten; a machine that is busy or has a slow disk may take its time."""

PAINT_SECONDS = 1800.0


class DemoError(Exception):
    """An error that ends the demo; the message says what to do."""


def main() -> int:
    """Serves, paints, and stops or goes on serving; gives the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="where to serve (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="stop the server once the result is written")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _server(arguments.port) as (server, log):
            url = f"http://127.0.0.1:{arguments.port}"
            _wait(url, server)
            _paint(url)
            print(f"The result is {RESULT.absolute()}, made from {PHOTO.relative_to(ROOT)}.")
            if arguments.once:
                return 0
            print(f"The server stays up: open {url} in a browser to try your own pictures. Its log is {log}.")
            print(f"To stop it: Ctrl+C, or kill {os.getpid()}", flush=True)
            server.wait()
            raise DemoError("The server exited.")
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Asked to stop: that is how a demo without --once ends.
        return 130 if arguments.once else 0


@contextmanager
def _server(port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Serves the demo model on this machine only, whatever ``.env`` says; stops it at the end."""
    _check_free(port)
    descriptor, name = tempfile.mkstemp(prefix="sd-inpaint-demo-", suffix=".log")
    log = Path(name)
    settings = {"LOAD_SD_INPAINT": "true", "SD_INPAINT_MODEL": "demo", "SD_INPAINT_API_KEYS": ""}
    print(f"Serving the demo model on port {port}.", flush=True)
    with os.fdopen(descriptor, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "service:SDInpaint", "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **settings, "BENTOML_DO_NOT_TRACK": "True"},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own, so that Ctrl+C reaches only this program, which then stops the server cleanly.
            start_new_session=True,
        )
    try:
        yield server, log
    except DemoError as error:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
        raise DemoError(f"{error}\nThe end of its log, {log}:\n{tail}") from None
    else:
        _stop(server)
        log.unlink()
    finally:
        _stop(server)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DemoError(
                f"Port {port} cannot be used ({reason}): stop its user, or choose another: scripts/demo --port 8001"
            ) from None


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    """Returns once health is 200."""
    started = time.monotonic()
    shown = ""
    while True:
        waited = time.monotonic() - started
        state = "starting"
        try:
            answer = httpx.get(f"{url}/sd-inpaint/health", timeout=10)
        except httpx.TransportError:
            pass
        else:
            health = answer.json()
            state = str(health.get("status"))
            if answer.status_code == 200:
                print(f"  {state} after {waited:.0f} s", flush=True)
                return
            if state not in ("loading", "starting"):
                raise DemoError(f"The server is not healthy: {health.get('error', health)}")
        if server.poll() is not None:
            raise DemoError(f"The server exited with code {server.returncode}.")
        if waited > START_SECONDS:
            raise DemoError(f"The server was not ready after {START_SECONDS:.0f} s.")
        if state != shown:
            print(f"  {state} …", flush=True)
            shown = state
        time.sleep(0.3)


def _paint(url: str) -> None:
    """Has the photo painted and writes the result."""
    print(f"Painting “{PROMPT}” into {PHOTO.relative_to(ROOT)} where {MASK.relative_to(ROOT)} is white.", flush=True)
    files = {
        "image": (PHOTO.name, PHOTO.read_bytes(), "image/jpeg"),
        "mask": (MASK.name, MASK.read_bytes(), "image/png"),
    }
    with _ticking():
        try:
            answer = httpx.post(
                f"{url}/sd-inpaint/inpaint", files=files, data={"prompt": PROMPT}, timeout=PAINT_SECONDS
            )
        except httpx.TransportError as error:
            raise DemoError(f"The server did not answer: {error!r}") from error
    if answer.status_code != 200:
        raise DemoError(f"The server answered {answer.status_code}: {answer.text}")
    RESULT.write_bytes(answer.content)
    headers = answer.headers
    print(
        f"  {headers.get('X-Steps')} steps in {headers.get('X-Inference-Seconds')} s, seed {headers.get('X-Seed')}",
        flush=True,
    )


@contextmanager
def _ticking() -> Iterator[None]:
    """Shows the elapsed seconds, if stdout is a terminal."""
    done = threading.Event()

    def tick() -> None:
        started = time.monotonic()
        while not done.wait(1.0):
            print(f"\r  painting, {time.monotonic() - started:.0f} s", end="", flush=True)
        print("\r" + " " * 30 + "\r", end="")

    if not sys.stdout.isatty():
        yield
        return
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
