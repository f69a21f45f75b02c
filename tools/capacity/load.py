"""What a capacity plan is made of: how long a device takes, what people ask for, and when they come."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

BENCH_ROW = re.compile(r"^\| (\d+)×(\d+) \| [\d.]+ \| ([\d.]+) \|$", re.MULTILINE)
BENCH_STEPS = re.compile(r"\((\w+), (\d+) steps\)")
BURST_SHARE = 0.1
"""Part of the time in which a bursty load is in its burst."""


class PlanError(Exception):
    """An input from which no plan can be made; the message is for the user."""


@dataclass(frozen=True)
class CanvasTimes:
    """What one canvas size costs on a device, in seconds.

    Attributes:
        pixels: Width × height of the canvas.
        step: Seconds of one UNet call by the number of jobs in it; 1 is among them.
        begin: Seconds before a job's first step: prompt, picture and mask are encoded.
        finish: Seconds after its last: the picture is decoded.
    """

    pixels: int
    step: Mapping[int, float]
    begin: float = 0.0
    finish: float = 0.0

    def step_seconds(self, jobs: np.ndarray | float) -> np.ndarray:
        """Returns the seconds of one call with so many jobs, on straight lines between and beyond what was measured."""
        known = sorted(self.step)
        # One measured batch says nothing of others: then they take as long as their jobs one after another.
        places = np.array(known if len(known) > 1 else [0, *known], float)
        seconds = np.array([self.step.get(int(place), 0.0) for place in places])
        segment = np.clip(np.searchsorted(places, jobs) - 1, 0, len(places) - 2)
        slopes = np.diff(seconds) / np.diff(places)
        return np.asarray(seconds[segment] + slopes[segment] * (np.asarray(jobs) - places[segment]))


@dataclass(frozen=True)
class DeviceTimes:
    """How long a device takes. Made by ``scripts/bench device``, from ``scripts/bench steps``, or typed by hand."""

    canvases: Sequence[CanvasTimes]
    name: str = "a device"

    def of(self, pixels: int) -> CanvasTimes:
        """Returns the times of a canvas size: the nearest that was measured, in proportion to the pixels."""
        nearest = min(self.canvases, key=lambda canvas: abs(np.log(canvas.pixels / pixels)))
        scale = pixels / nearest.pixels
        step = {jobs: seconds * scale for jobs, seconds in nearest.step.items()}
        return CanvasTimes(pixels, step, nearest.begin * scale, nearest.finish * scale)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file: JSON of ``scripts/bench device``, or what ``scripts/bench steps`` printed.

        Raises:
            PlanError: If it is neither.
        """
        text = path.read_text("utf-8")
        try:
            return cls.from_json(json.loads(text))
        except json.JSONDecodeError:
            return cls.from_bench_steps(text)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{path.name} was not written by scripts/bench device: {error!r}.") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_json` gave."""
        canvases = [
            CanvasTimes(
                canvas["width"] * canvas["height"],
                {int(jobs): float(seconds) for jobs, seconds in canvas["step_seconds"].items()},
                float(canvas.get("begin_seconds", 0.0)),
                float(canvas.get("finish_seconds", 0.0)),
            )
            for canvas in data["canvases"]
        ]
        if not canvases or any(min(c.step) < 1 or min(c.step.values()) <= 0 or c.pixels <= 0 for c in canvases):
            raise ValueError("no canvas, or one without a step time")
        return cls(canvases, str(data.get("device", "a device")))

    @classmethod
    def from_bench_steps(cls, text: str) -> Self:
        """Reads one or several outputs of ``scripts/bench steps``, one after another.

        One says what a request's device time is by step. Two with different ``--steps`` tell a step's own time from
        that of encoding and decoding.

        Raises:
            PlanError: If there is no such output in it.
        """
        runs: dict[int, list[tuple[int, float]]] = {}
        name, begin = "a device", 0
        for summary in BENCH_STEPS.finditer(text):
            name = summary[1]
            for width, height, seconds in BENCH_ROW.findall(text[begin : summary.start()]):
                runs.setdefault(int(width) * int(height), []).append((int(summary[2]), float(seconds)))
            begin = summary.end()
        if not runs:
            raise PlanError("The file is neither JSON from scripts/bench device nor a table from scripts/bench steps.")
        return cls([fit_canvas(pixels, points) for pixels, points in runs.items()], name)


def fit_canvas(pixels: int, points: Sequence[tuple[int, float]]) -> CanvasTimes:
    """A line through (steps, seconds): its slope is a step, what is left over is encoding and decoding."""
    steps, seconds = (np.array(column, float) for column in zip(*points, strict=True))
    if len(set(steps)) == 1:
        return CanvasTimes(pixels, {1: float(seconds.mean() / steps[0])})
    step, rest = np.polyfit(steps, seconds, 1)
    if step <= 0:
        raise PlanError("In scripts/bench steps, more steps took less time: measure again on an idle machine.")
    return CanvasTimes(pixels, {1: float(step)}, begin=max(0.0, float(rest)))


@dataclass(frozen=True)
class Kind:
    """One kind of picture that people ask for.

    Attributes:
        width: Of the canvas, in pixels.
        height: Likewise.
        steps: Denoising steps, 1 to 150.
        share: Its part of all pictures.
    """

    width: int
    height: int
    steps: int
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``512x512:30`` or ``512x512:30:0.7``.

        Raises:
            ValueError: If it is neither, or out of bounds.
        """
        found = re.fullmatch(r"(\d+)[x×](\d+):(\d+)(?::([\d.]+))?", text)
        if not found:
            raise ValueError(f"{text!r} is not WIDTHxHEIGHT:STEPS:SHARE, such as 512x512:30:0.7")
        kind = cls(int(found[1]), int(found[2]), int(found[3]), float(found[4] or 1.0))
        if min(kind.width, kind.height) < 8 or not 1 <= kind.steps <= 150 or kind.share <= 0:
            raise ValueError(f"{text!r}: sides must be at least 8 pixels, steps 1 to 150, shares above 0")
        return kind

    @property
    def pixels(self) -> int:
        """Of the canvas."""
        return self.width * self.height

    @property
    def megapixel_steps(self) -> float:
        """What it counts against SD_INPAINT_MAX_QUEUE_WORK."""
        return self.steps * self.pixels / 1e6

    def alone_seconds(self, device: DeviceTimes) -> float:
        """Returns how long it takes on an idle device."""
        times = device.of(self.pixels)
        return times.begin + self.steps * float(times.step_seconds(1)) + times.finish


@dataclass(frozen=True)
class Mix:
    """What people ask for: kinds, and shares that add up to 1."""

    kinds: tuple[Kind, ...]
    shares: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        total = sum(kind.share for kind in self.kinds)
        object.__setattr__(self, "shares", tuple(kind.share / total for kind in self.kinds))

    def mean(self, values: Sequence[float] | np.ndarray) -> float:
        """Returns the mean over pictures of a value that each kind has."""
        return float(np.dot(self.shares, values))

    @property
    def megapixel_steps(self) -> float:
        """Of the mean picture."""
        return self.mean([kind.megapixel_steps for kind in self.kinds])

    def alone_seconds(self, device: DeviceTimes) -> np.ndarray:
        """Returns (kinds,) float64: what each takes on an idle device."""
        return np.array([kind.alone_seconds(device) for kind in self.kinds])


@dataclass(frozen=True)
class Arrivals:
    """When people come.

    Attributes:
        per_second: Mean rate, pictures a second.
        burst: How many times the mean rate a burst has; 1 is a Poisson process.
        burst_seconds: Mean length of a burst; bursts take a tenth of the time.
    """

    per_second: float
    burst: float = 1.0
    burst_seconds: float = 60.0

    def times(self, pictures: int, draw: np.random.Generator) -> np.ndarray:
        """Returns (pictures,) float64: clock readings in seconds, rising.

        Without bursts as many come in as much time as should; only when they do is left to chance. A bursty load is a
        Poisson process whose rate switches between two values (MMPP of two states), so that the mean stays in the long
        run.
        """
        if self.burst == 1.0:
            return np.sort(draw.uniform(0.0, pictures / self.per_second, pictures))
        return np.fromiter(self._bursty(draw), float, pictures)

    def _bursty(self, draw: np.random.Generator) -> Iterator[float]:
        quiet = (1 - BURST_SHARE * self.burst) / (1 - BURST_SHARE)
        if quiet < 0:
            raise PlanError(f"A burst is at most {1 / BURST_SHARE:.0f} times the mean: nothing is left between bursts.")
        phases = ((quiet, self.burst_seconds * (1 / BURST_SHARE - 1)), (self.burst, self.burst_seconds))
        now = 0.0
        while True:
            for factor, mean_seconds in phases:
                end = now + draw.exponential(mean_seconds)
                count = draw.poisson(factor * self.per_second * (end - now))
                yield from np.sort(draw.uniform(now, end, count))
                now = end
