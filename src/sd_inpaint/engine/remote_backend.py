"""A backend whose model lives in a process of its own."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sd_inpaint.engine.backend import DeviceLostError
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.engine.device_calls import Answer, Facts
from sd_inpaint.settings import Settings

END_SECONDS = 10.0
"""How long a process has to end by itself, once its server wants nothing more of it."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RemoteCanvas:
    """A canvas that lies in the device's process.

    Attributes:
        number: What that process knows it by.
        steps: Denoising steps in all.
        plan: The name of what computes it there.
    """

    number: int
    steps: int
    plan: str


class RemoteBackend:
    """A :class:`sd_inpaint.engine.backend.Backend` over a process: making it starts the process and loads the model.

    Only the loop's thread calls it. Each call may raise DeviceLostError: the process is gone, and with it all canvases.

    Args:
        make: The function that makes the backend of settings, as ``module:function``.
        settings: For that function; they name the device.

    Raises:
        InpaintError: Whatever the function raises.
        DeviceLostError: If the process ended while it loaded.

    Attributes:
        limits: Which canvases the model works on.
        max_batch: Canvases that share a UNet call.
        seconds_per_megapixel_pass: First guess of the pace.
        info: Facts for ``/sd-inpaint/info``.
        plan: The name of what computes canvases that begin now.
        resident_bytes: Physical memory of the process, once it had loaded.
        pid: Of the process.
    """

    def __init__(self, make: str, settings: Settings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-m", "sd_inpaint.engine.device_process", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self.pid = self._process.pid
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._ended: deque[int] = deque()
        self._memory: dict[str, int] | None = None
        self.plan = ""
        weakref.finalize(self, _end, self._connection, self._process)
        try:
            facts: Facts = self._call("load", make, settings)
        except BaseException:
            self.close()
            raise
        self.limits = facts.limits
        self.max_batch = facts.max_batch
        self.seconds_per_megapixel_pass = facts.seconds_per_megapixel_pass
        self.info = facts.info
        self.resident_bytes = facts.resident_bytes

    def begin(self, task: CanvasTask, *, low_memory: bool) -> RemoteCanvas:
        """Encodes prompt, picture and mask."""
        canvas = RemoteCanvas(*self._call("begin", task, low_memory=low_memory))
        weakref.finalize(canvas, self._ended.append, canvas.number)
        return canvas

    def predict(self, batch: Sequence[RemoteCanvas], *, low_memory: bool) -> Sequence[None]:
        """One UNet call for all of them; the predictions stay there."""
        if self._ended:
            self._call("forget", [self._ended.popleft() for _ in range(len(self._ended))])
        self._call("predict", [canvas.number for canvas in batch], low_memory=low_memory)
        return [None] * len(batch)

    def advance(self, diffusion: RemoteCanvas, prediction: None) -> None:
        """One scheduler step of one canvas."""
        del prediction
        self._call("advance", diffusion.number)

    def finish(self, diffusion: RemoteCanvas, *, low_memory: bool) -> np.ndarray:
        """Decodes and checks; returns (H, W, 3) uint8."""
        painted: np.ndarray = self._call("finish", diffusion.number, low_memory=low_memory)
        return painted

    def preview(self, diffusion: RemoteCanvas, prediction: None) -> np.ndarray:
        """Returns (h, w, 3) uint8, one pixel a latent cell."""
        del prediction
        small: np.ndarray = self._call("preview", diffusion.number)
        return small

    def release_memory(self) -> None:
        """Gives cached memory back."""
        self._call("release_memory")

    def memory(self) -> dict[str, int] | None:
        """Returns the device's memory as it was after the last call; any thread may ask."""
        return self._memory

    def close(self) -> None:
        """Ends the process; may be called again."""
        _end(self._connection, self._process)

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        try:
            self._connection.send((name, arguments, named))
            while isinstance(message := self._connection.recv(), logging.LogRecord):
                logging.getLogger(message.name).handle(message)
        except (EOFError, OSError) as error:
            self.close()
            raise DeviceLostError(f"The device's process ended with exit code {self._process.returncode}.") from error
        answer: Answer = message
        self._memory = answer.memory
        self.plan = answer.plan
        if answer.error is not None:
            raise answer.error
        return answer.value


def _end(connection: "Connection[Any, Any]", process: subprocess.Popen[bytes]) -> None:
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
        return
    process.kill()
    process.wait()
