"""The engine: a thread for each device that loads its model and owns it, and drains at shutdown.

A backend comes from a callable that runs in that thread, so that the process answers while its weights load. Further
devices join once the first is ready; one that is lost is loaded again, while the others go on.
"""

import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from sd_inpaint.engine.backend import Backend, DeviceLostError
from sd_inpaint.engine.loop import DeviceLoop
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

Load = Callable[[], Backend[Any, Any]]
"""Makes a device's backend; may take minutes."""

RELOAD_SECONDS = (1.0, 5.0, 30.0)
"""How long a lost device waits before each try to load it again; the last holds for all that follow."""


class EngineState(StrEnum):
    """The engine's state."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DISABLED = "disabled"
    STOPPING = "stopping"


class Engine:
    """The devices' threads and their life: load, serve, drain. Any thread may call it; it lives as the process does.

    Args:
        load: Makes the first device's backend; called in the engine's own thread, and again if the device is lost.
        make_queue: Makes the queue once the backend's speed is known.
        enabled: False never loads anything.
        further: Called after the first was loaded; returns one for each further device.
    """

    def __init__(
        self,
        load: Load,
        make_queue: Callable[[Pace], CanvasQueue],
        *,
        enabled: bool,
        further: Callable[[], Sequence[Load]] = lambda: (),
    ) -> None:
        self._load = load
        self._further = further
        self._make_queue = make_queue
        self._threads = [threading.Thread(target=self._live, name="device-loop", daemon=True)]
        self._stop = threading.Event()
        self._loaded = threading.Event()
        self._state = EngineState.LOADING if enabled else EngineState.DISABLED
        self._state_lock = threading.Lock()
        self.reason: str | None = None if enabled else "LOAD_SD_INPAINT is false."
        self._loop: DeviceLoop[Any, Any] | None = None

    @property
    def state(self) -> EngineState:
        """The engine's state."""
        return self._state

    @property
    def backend(self) -> Backend[Any, Any] | None:
        """The first device's; None before it was loaded."""
        return self._loop.backend if self._loop else None

    @property
    def backends(self) -> tuple[Backend[Any, Any], ...]:
        """Those of the devices that work."""
        return self._loop.backends if self._loop else ()

    @property
    def devices(self) -> int:
        """How many devices work."""
        return len(self._loop.devices) if self._loop else 0

    @property
    def lost_devices(self) -> int:
        """How many worked, and are being loaded again."""
        return self._loop.lost_devices if self._loop else 0

    @property
    def places(self) -> int:
        """How many canvases can be on the devices at once."""
        return self._loop.places if self._loop else 0

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
        return self._loop.turn_age_seconds() if self._is_alive else math.inf

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
            self._threads[0].start()

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
        with self._state_lock:
            if self._state in (EngineState.LOADING, EngineState.READY):
                self._state = EngineState.STOPPING
        deadline = time.monotonic() + drain_seconds
        while self._loop and self._loop.jobs() and time.monotonic() < deadline and self._is_alive:
            time.sleep(0.05)
        self._stop.set()
        if self._loop:
            late = ShuttingDownError("The server shut down before the picture was done; send the request again.")
            self._loop.close(late)
        if self._loaded.is_set():
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(timeout=60.0)
            if self._loop and not self._is_alive:
                self._loop.fail_all(ShuttingDownError("The server has shut down."))

    @property
    def _is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _live(self) -> None:
        """The first device's thread."""
        try:
            backend = self._load()
            self._loop = DeviceLoop(backend, self._make_queue(Pace(backend.seconds_per_megapixel_pass)))
            further = [
                threading.Thread(target=self._join, args=(number, load), name=f"device-loop-{number}", daemon=True)
                for number, load in enumerate(self._further(), start=1)
            ]
        except InpaintError as error:
            self.reason = without_folders(str(error))
            logger.error("The model could not be loaded. %s", error)
        except Exception as error:
            self.reason = f"{type(error).__name__} while loading; see the server log."
            logger.exception("The model could not be loaded.")
        else:
            self._threads += further
            for thread in further:
                thread.start()
        self._become(EngineState.FAILED if self.reason else EngineState.READY)
        self._loaded.set()
        if self._loop and not self.reason:
            self._turn(self._loop, 0, self._load)

    def _become(self, state: EngineState) -> None:
        # A stop that came while the weights were loading stays a stop.
        with self._state_lock:
            if self._state in (EngineState.LOADING, EngineState.READY):
                self._state = state

    def _join(self, number: int, load: Load) -> None:
        """A further device's thread."""
        assert self._loop is not None  # noqa: S101  # the first device made it
        if self._reload(self._loop, number, load):
            self._turn(self._loop, number, load)

    def _turn(self, loop: DeviceLoop[Any, Any], number: int, load: Load) -> None:
        """Turns one device's side of the loop until the engine stops."""
        while not self._stop.is_set():
            try:
                if not loop.turn(number):
                    loop.wait(number=number)
            except DeviceLostError as error:
                logger.error("Device %d is lost, and is loaded again. %s", number, error)
                if not loop.devices:
                    self._become(EngineState.LOADING)
                if not self._reload(loop, number, load, after_seconds=RELOAD_SECONDS[0]):
                    return
            except Exception:
                logger.exception("The device loop failed between two turns; it restarts without its canvases.")
                loop.fail_all(EngineCrashedError())

    def _reload(self, loop: DeviceLoop[Any, Any], number: int, load: Load, after_seconds: float = 0.0) -> bool:
        """Loads one device's model until it succeeds; False if the engine stops before."""
        pauses = itertools.chain((after_seconds,), RELOAD_SECONDS[1:], itertools.repeat(RELOAD_SECONDS[-1]))
        for pause in pauses:
            if self._stop.wait(pause):
                return False
            try:
                loop.join(number, load())
            except Exception as error:  # noqa: BLE001 — the other devices go on, whatever it is
                if self._stop.is_set():
                    return False
                logger.error("Device %d could not be loaded; there will be another try. %s", number, error)
                continue
            self._become(EngineState.READY)
            return True
        return False
