"""What a device's process can be asked, and what it answers."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sd_inpaint.engine.backend import Backend
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.settings import Settings
from sd_inpaint.work.memory_budget import resident_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        value: What it returned; None where it raised.
        error: What it raised; None where it returned.
        memory: As :meth:`~sd_inpaint.engine.backend.Backend.memory` has it now.
        plan: As :meth:`~sd_inpaint.engine.backend.Backend.plan` has it now.
    """

    value: Any
    error: Exception | None
    memory: dict[str, int] | None
    plan: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server needs to know of a backend that was loaded.

    Attributes:
        limits: As the backend has them.
        max_batch: As the backend has it.
        seconds_per_megapixel_pass: As the backend has it.
        info: As the backend has it.
        resident_bytes: Physical memory of the process.
    """

    limits: CanvasLimits
    max_batch: int
    seconds_per_megapixel_pass: float
    info: dict[str, object]
    resident_bytes: int


class DeviceCalls:
    """The calls of one server. Each public method is one of them; canvases go by number."""

    def __init__(self) -> None:
        self._backend: Backend[Any, Any] | None = None
        self._begun: dict[int, Any] = {}
        self._predicted: dict[int, Any] = {}
        self._count = 0

    @property
    def backend(self) -> Backend[Any, Any]:
        """The one that was loaded."""
        assert self._backend is not None  # noqa: S101  # the server loads first
        return self._backend

    def load(self, make: str, settings: Settings) -> Facts:
        """Makes the backend with a function that is named ``module:function``."""
        self._backend = backend = make_backend(make, settings)
        return Facts(
            backend.limits, backend.max_batch, backend.seconds_per_megapixel_pass, backend.info, resident_bytes()
        )

    def begin(self, task: CanvasTask, *, low_memory: bool) -> tuple[int, int, str]:
        """Returns the canvas's number, its steps and its plan."""
        diffusion = self.backend.begin(task, low_memory=low_memory)
        self._count += 1
        self._begun[self._count] = diffusion
        return self._count, diffusion.steps, diffusion.plan

    def predict(self, numbers: Sequence[int], *, low_memory: bool) -> None:
        """Keeps a prediction for each canvas, until its next."""
        predictions = self.backend.predict([self._begun[number] for number in numbers], low_memory=low_memory)
        self._predicted.update(zip(numbers, predictions, strict=True))

    def preview(self, number: int) -> np.ndarray:
        """Guesses from the canvas's last prediction."""
        return self.backend.preview(self._begun[number], self._predicted[number])

    def advance(self, number: int) -> None:
        """Steps by the canvas's last prediction."""
        self.backend.advance(self._begun[number], self._predicted.pop(number))

    def finish(self, number: int, *, low_memory: bool) -> np.ndarray:
        """Decodes a canvas."""
        return self.backend.finish(self._begun[number], low_memory=low_memory)

    def forget(self, numbers: Sequence[int]) -> None:
        """Lets canvases go that have ended."""
        for number in numbers:
            self._begun.pop(number, None)
            self._predicted.pop(number, None)

    def release_memory(self) -> None:
        """Gives cached memory back."""
        self.backend.release_memory()

    def answer(self, value: Any, error: Exception | None) -> Answer:
        """Adds to an outcome what the server has to know at each time."""
        backend = self._backend
        if backend is None:
            return Answer(value, error, None, "")
        return Answer(value, error, backend.memory(), backend.plan)


def make_backend(make: str, settings: Settings) -> Backend[Any, Any]:
    """Calls the function that is named ``module:function``; its module is imported only now."""
    module, _, name = make.partition(":")
    backend: Backend[Any, Any] = getattr(importlib.import_module(module), name)(settings)
    return backend
