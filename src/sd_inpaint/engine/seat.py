"""A device's place at the loop."""

from typing import Generic

from sd_inpaint.engine.backend import Backend, D, P
from sd_inpaint.engine.canvas_jobs import CanvasJob
from sd_inpaint.engine.queue import LorasInPlace


class Seat(Generic[D, P]):
    """One device at the loop, and what it works on. Written with the loop's lock held.

    Attributes:
        backend: What computes there.
        is_there: False once the device was lost.
        begun: The canvases that began on it, and end there.
        on_device: Those of them that are in a turn now.
        turn_started: Clock reading, in seconds.
        turned_at: Clock reading of the last turn's start, idle or not.
        in_place: The LoRAs in its weights.
    """

    def __init__(self, backend: Backend[D, P], now: float) -> None:
        self.backend = backend
        self.is_there = True
        self.begun: dict[CanvasJob, D] = {}
        self.on_device: list[CanvasJob] = []
        self.turn_started = now
        self.turned_at = now
        self.in_place = LorasInPlace()
