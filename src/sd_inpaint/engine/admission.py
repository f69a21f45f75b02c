"""How much of the queue each caller may hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sd_inpaint.engine.canvas_jobs import CanvasJob

OVERFLOW = 2.0
"""How far callers below their share may fill the queue beyond its bounds, which one caller may have filled alone."""


def has_place(held: Mapping[str, int], caller: str, most: int, weights: Mapping[str, float] | None = None) -> bool:
    """Whether a caller may have one more place of a line, by the rule of :class:`Holdings`.

    Args:
        held: How many places each caller has.
        caller: Who wants one.
        most: How many there are.
        weights: Of callers, this one among them; None where all have the same.
    """
    total, own = sum(held.values()), held.get(caller, 0)
    if total < most:
        return True
    if total >= OVERFLOW * most:
        return False
    weights = weights or dict.fromkeys((*held, caller), 1.0)
    return not own or own < most * weights[caller] / sum(weights.values())


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait or run.

    Attributes:
        canvases: How many.
        megapixel_steps: How much work.
    """

    canvases: float
    megapixel_steps: float

    def times(self, factor: float) -> "Bounds":
        """Returns a multiple of the bounds."""
        return Bounds(factor * self.canvases, factor * self.megapixel_steps)


@dataclass(slots=True)
class Held:
    """What waits or runs of one caller, or of all."""

    canvases: int = 0
    megapixel_steps: float = 0.0

    def add(self, canvases: int, megapixel_steps: float) -> None:
        """Counts more, or less."""
        self.canvases += canvases
        self.megapixel_steps += megapixel_steps

    def leaves(self, more: "Held", bounds: Bounds) -> bool:
        """Whether so much more stays within the bounds."""
        return (
            self.canvases + more.canvases <= bounds.canvases
            and self.megapixel_steps + more.megapixel_steps <= bounds.megapixel_steps
        )


@dataclass(slots=True)
class Holdings:
    """What each caller has in the queue, and whether there is room for more.

    * An empty queue takes anything: a request over the bounds would otherwise never be served.
    * Whatever is free, anybody may take. So one caller alone may fill the queue.
    * A queue that is full still takes a caller's first request, and more up to the caller's share: the bounds, divided
      by weight between all who have something in it. This may fill it to ``OVERFLOW`` times its bounds.
    """

    bounds: Bounds
    total: Held = field(default_factory=Held)
    callers: dict[str, Held] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, jobs: Iterable[CanvasJob], bounds: Bounds) -> "Holdings":
        """Counts what is in the queue."""
        made = cls(bounds)
        for job in jobs:
            made.total.add(1, job.task.megapixel_steps)
            made.callers.setdefault(job.caller, Held()).add(1, job.task.megapixel_steps)
            made.weights[job.caller] = job.weight
        return made

    def remove(self, job: CanvasJob) -> None:
        """Counts a canvas out."""
        self.total.add(-1, -job.task.megapixel_steps)
        held = self.callers[job.caller]
        held.add(-1, -job.task.megapixel_steps)
        if not held.canvases:
            del self.callers[job.caller], self.weights[job.caller]

    def has_room(self, caller: str, weight: float, more: Held) -> bool:
        """Whether a caller may have so much more in the queue."""
        if not self.total.canvases or self.total.leaves(more, self.bounds):
            return True
        if not self.total.leaves(more, self.bounds.times(OVERFLOW)):
            return False
        held = self.callers.get(caller)
        if held is None:
            return True
        weights = sum({**self.weights, caller: weight}.values())
        return held.leaves(more, self.bounds.times(weight / weights))
