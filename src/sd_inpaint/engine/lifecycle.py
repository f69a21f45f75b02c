"""The engine: one thread that loads the model, owns the device, and drains at shutdown.

The backend comes from a callable that runs in that thread, so that the process answers while its weights load.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from sd_inpaint.engine.loop import Backend, DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import (
    EngineCrashedError,
    InpaintError,
    MachineError,
    ModelDisabledError,
    ModelFailedError,
    ModelLoadingError,
    ShuttingDownError,
    without_folders,
)

logger = logging.getLogger("bentoml.sd_inpaint.engine")


class EngineState(StrEnum):
    """The engine's state."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DISABLED = "disabled"
    STOPPING = "stopping"


class Engine:
    """The device loop's thread and its life: load, serve, drain. Any thread may call it; it lives as the process does.

    Args:
        load: Makes the backend; called once, in the engine's own thread.
        enabled: False never loads anything.
        make_queue: Makes the queue once the backend's speed is known.
    """

    def __init__(
        self, load: Callable[[], Backend[Any, Any]], make_queue: Callable[[Pace], CanvasQueue], *, enabled: bool
    ) -> None:
        self._load = load
        self._make_queue = make_queue
        self._thread = threading.Thread(target=self._live, name="device-loop", daemon=True)
        self._stop = threading.Event()
        self._loaded = threading.Event()
        self._state = EngineState.LOADING if enabled else EngineState.DISABLED
        self.reason: str | None = None if enabled else "LOAD_SD_INPAINT is false."
        self.backend: Backend[Any, Any] | None = None
        self._loop: DeviceLoop[Any, Any] | None = None

    @property
    def state(self) -> EngineState:
        """The engine's state."""
        return self._state

    @property
    def outcomes(self) -> Counter[str]:
        """How many canvases ended how: ``done``, or an error's code."""
        return self._loop.outcomes if self._loop else Counter()

    @property
    def waiting_canvases(self) -> int:
        """Number of canvases waiting or running."""
        return len(self._loop.jobs()) if self._loop else 0

    @property
    def waiting_seconds(self) -> float:
        """Seconds that the device needs for everything waiting or running."""
        return self._loop.waiting_seconds() if self._loop else 0.0

    @property
    def turn_age_seconds(self) -> float:
        """Seconds since the device loop last began a turn; 0 before its first, infinite once its thread has died."""
        if self._loop is None:
            return 0.0
        return self._loop.turn_age_seconds() if self._thread.is_alive() else math.inf

    def refusal(self) -> MachineError | None:
        """Returns what a request would be refused with now, whatever it asks for; None where it would be taken."""
        match self.state:
            case EngineState.READY:
                return None
            case EngineState.LOADING:
                return ModelLoadingError("The model is still loading; try again in a moment.")
            case EngineState.DISABLED:
                return ModelDisabledError("This server runs with LOAD_SD_INPAINT=false: it serves no model.")
            case EngineState.FAILED:
                return ModelFailedError(f"The model could not be loaded: {self.reason}")
            case EngineState.STOPPING:
                return ShuttingDownError()

    def start(self) -> None:
        """Starts loading; returns at once."""
        if self._state is EngineState.LOADING:
            self._thread.start()

    def ready_loop(self) -> DeviceLoop[Any, Any]:
        """Returns the loop, to submit canvases to.

        Raises:
            ModelLoadingError, ModelDisabledError, ModelFailedError, ShuttingDownError: If it accepts none now.
        """
        if (refusal := self.refusal()) is not None:
            raise refusal
        assert self._loop is not None  # noqa: S101  # there is one where the state is READY
        return self._loop

    def wait_loaded(self, timeout_seconds: float | None = None) -> bool:
        """Waits until loading has succeeded or failed; returns False on a timeout."""
        return self._loaded.wait(timeout_seconds)

    def stop(self, drain_seconds: float) -> None:
        """Stops admitting, lets canvases go on for ``drain_seconds``, ends the rest, and ends the thread."""
        if self._state in (EngineState.LOADING, EngineState.READY):
            self._state = EngineState.STOPPING
        deadline = time.monotonic() + drain_seconds
        while self._loop and self._loop.jobs() and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.05)
        self._stop.set()
        if self._loop:
            late = ShuttingDownError("The server shut down before the picture was done; send the request again.")
            self._loop.close(late)
        if self._loaded.is_set() and self._thread.is_alive():
            self._thread.join(timeout=60.0)
            if self._loop and not self._thread.is_alive():
                self._loop.fail_all(ShuttingDownError("The server has shut down."))

    def _live(self) -> None:
        try:
            self.backend = self._load()
            self._loop = DeviceLoop(self.backend, self._make_queue(Pace(self.backend.seconds_per_megapixel_pass)))
        except InpaintError as error:
            self.reason = without_folders(str(error))
            logger.error("The model could not be loaded. %s", error)
        except Exception as error:
            self.reason = f"{type(error).__name__} while loading; see the server log."
            logger.exception("The model could not be loaded.")
        # A stop that came while the weights were loading stays a stop.
        if self._state is EngineState.LOADING:
            self._state = EngineState.READY if self._loop else EngineState.FAILED
        self._loaded.set()
        while self._loop and not self._stop.is_set():
            try:
                if not self._loop.turn():
                    self._loop.wait()
            except Exception:
                logger.exception("The device loop failed between two turns; it restarts without its canvases.")
                self._loop.fail_all(EngineCrashedError())
