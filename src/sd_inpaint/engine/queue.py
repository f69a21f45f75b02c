"""Which canvases may wait, and which runs next: the bounded queue and its order."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sd_inpaint.engine.admission import Bounds, Held, Holdings
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasRequest
from sd_inpaint.engine.shares import Shares, Turn
from sd_inpaint.errors import QueueFullError

PATIENCE = 2.0
"""How many times its own length a job may wait before it outranks every newcomer."""

MAX_SPREAD_SECONDS = 120.0
"""How much later than the first those come again who were refused: callers who never come again bar nobody for long."""

PACE_SMOOTHING = 0.2
"""Weight of the newest step in the measured pace: follows a change within some ten steps, ignores one hiccup."""


@dataclass(frozen=True, slots=True)
class Order:
    """First come, first served, with a head start for short jobs: the order of one caller's jobs.

    A job's rank is fixed when it arrives: ``arrival + patience × its own length``, in seconds; the smallest rank has
    the device next. Jobs of one length are served as they come. Between two steps a shorter newcomer may pass, so:

    * **Short behind long.** A job of length ``s`` yields to a longer one of length ``L`` only if that one came at
      least ``patience × (L - s)`` earlier. With ``patience >= 1`` and the long job alone on the device until then, at
      most ``s`` of it is left: nobody waits longer than their own length, plus one step, for a single longer job.
    * **No starvation.** Whoever comes later than ``patience × s`` after a job of length ``s`` ranks behind it, however
      short; what may pass before that is bounded by the queue.

    Source: earliest deadline first with deadlines in proportion to length (Liu and Layland 1973; "stretch" in Bender,
    Chakrabarti and Muthukrishnan 1998).
    """

    patience: float = PATIENCE

    def rank(self, arrived_at: float, length_seconds: float) -> float:
        """Returns the rank of a job that arrives now; smaller goes first."""
        return arrived_at + self.patience * length_seconds


class Pace:
    """How fast the device is: seconds per megapixel-pass, measured continuously. Used under the queue's lock."""

    def __init__(self, seconds_per_megapixel_pass: float) -> None:
        self.seconds_per_megapixel_pass = seconds_per_megapixel_pass
        self._measured = False

    def observe(self, megapixel_passes: float, seconds: float) -> None:
        """Takes one measured step into account; the first replaces the guess."""
        if megapixel_passes <= 0:
            return
        weight = PACE_SMOOTHING if self._measured else 1.0
        self.seconds_per_megapixel_pass += weight * (seconds / megapixel_passes - self.seconds_per_megapixel_pass)
        self._measured = True

    def seconds(self, megapixel_passes: float) -> float:
        """Returns how long so much work takes."""
        return megapixel_passes * self.seconds_per_megapixel_pass


@dataclass(frozen=True, slots=True)
class _Refused:
    """A request that was refused and will come again, and how long the device will work on it, in seconds.

    ``caller`` is whose it is, if it was refused for what they have in the queue; None if others fill it.
    """

    returns_at: float
    seconds: float
    caller: str | None


@dataclass(slots=True)
class LorasInPlace:
    """What is in the weights of one device. Written by the queue.

    Attributes:
        loras: Those that ran last.
        passing: The job that has the turn of another, and that other one; None where nobody passes.
    """

    loras: str = ""
    passing: tuple[CanvasJob, CanvasJob] | None = None


class CanvasQueue:
    """Canvases that wait or run, bounded in number and in work. Not thread-safe: the device loop locks around it.

    One caller's canvases are in :class:`Order`. Between callers, :class:`~sd_inpaint.engine.shares.Shares` decides
    whose turn it is, and :class:`~sd_inpaint.engine.admission.Holdings` how much each may have in the queue.

    Attributes:
        pace: How fast one device is.
        devices: How many work on the queue.
    """

    def __init__(
        self, *, max_canvases: int, max_megapixel_steps: float, pace: Pace, order: Order | None = None
    ) -> None:
        self._bounds = Bounds(max_canvases, max_megapixel_steps)
        self._order = order or Order()
        self._jobs: list[CanvasJob] = []
        self._refused: list[_Refused] = []
        self._shares = Shares()
        self.pace = pace
        self.devices = 1

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[CanvasJob]:
        return iter(tuple(self._jobs))

    def check_room(
        self, now: float, canvases: int = 1, megapixel_steps: float = 0.0, *, caller: str = "", weight: float = 1.0
    ) -> None:
        """Raises QueueFullError if so many more canvases of a caller, with so much work, cannot be taken.

        Whoever is refused is told to come after those who were refused before, so that they do not all come at the same
        moment.

        Args:
            now: Clock reading, in seconds.
            canvases: Of the request.
            megapixel_steps: Of the request; 0 where it is not known yet.
            caller: Whose it is.
            weight: The caller's.
        """
        more = Held(canvases, megapixel_steps)
        holdings = Holdings.of(self._jobs, self._bounds)
        if holdings.has_room(caller, weight, more):
            return
        total, own = holdings.total, holdings.callers.get(caller)
        seconds = self._seconds_until_room(caller, weight, more)
        retry_after_seconds = self._retry_after_seconds(now, seconds, canvases, caller if own else None)
        shared = f", {own.canvases} canvases of them yours" if own and own.canvases < total.canvases else ""
        raise QueueFullError(
            f"The queue is full: {total.canvases} of {self._bounds.canvases} canvases and {total.megapixel_steps:.0f} "
            f"of {self._bounds.megapixel_steps:.0f} megapixel-steps wait or run{shared}. Try again in "
            f"{retry_after_seconds} seconds.",
            retry_after_seconds=retry_after_seconds,
        )

    def _retry_after_seconds(self, now: float, seconds: float, canvases: int, caller: str | None) -> int:
        """When to come where there is room in so many seconds, but others were refused before."""
        self._refused = [refused for refused in self._refused if refused.returns_at > now]
        before = sum(refused.seconds for refused in self._refused if refused.caller in (None, caller))
        seconds += min(before / self.devices, MAX_SPREAD_SECONDS)
        if before < MAX_SPREAD_SECONDS:
            # A request that has not been read yet is as long as those that wait, for all that is known.
            waiting = sum(self.pace.seconds(job.steps * job.task.megapixel_passes_per_step) for job in self._jobs)
            self._refused.append(_Refused(now + seconds, waiting / len(self._jobs) * canvases, caller))
        return max(1, math.ceil(seconds))

    def admit(self, jobs: Sequence[CanvasJob], now: float, *, force: bool = False) -> None:
        """Takes all of a request's canvases, or none.

        Args:
            jobs: The canvases of one request.
            now: Clock reading, in seconds.
            force: True where they were admitted before and lost their place with the process that held it. They get
                one, full or not, or newcomers could keep them out for ever.

        Raises:
            QueueFullError: If they don't fit.
        """
        caller, weight = jobs[0].caller, jobs[0].weight
        if not force:
            megapixel_steps = sum(job.task.megapixel_steps for job in jobs)
            self.check_room(now, len(jobs), megapixel_steps, caller=caller, weight=weight)
        request = self._shares.join(caller, weight, had_nothing=all(job.caller != caller for job in self._jobs))
        # A request's canvases share one rank by their total, so that it is not served in the order of its pieces.
        length_seconds = self.pace.seconds(sum(job.remaining_megapixel_passes for job in jobs))
        for job in jobs:
            job.arrived_at = now
            job.rank = self._order.rank(now, length_seconds)
            job.request = request
            self._jobs.append(job)

    def remove(self, job: CanvasJob) -> None:
        """Takes out a job that has ended."""
        self._jobs.remove(job)

    def serve(self, jobs: Sequence[CanvasJob], seconds: float) -> None:
        """Charges a turn on the device to the callers whose jobs had it, those that have ended by now among them."""
        passes = sum(job.task.megapixel_passes_per_step for job in jobs)
        of_callers: dict[str, float] = {}
        for job in jobs:
            part = seconds * job.task.megapixel_passes_per_step / passes
            job.request.served_seconds += part
            of_callers[job.caller] = of_callers.get(job.caller, 0.0) + part
        ended = {job.caller for job in jobs if job.ended}
        self._shares.serve(of_callers, ended=ended, waiting={job.caller for job in self._jobs})

    def next_batch(
        self,
        max_batch: int,
        plan: str = "",
        *,
        among: Callable[[CanvasJob], bool] = lambda job: True,
        in_place: LorasInPlace | None = None,
    ) -> list[CanvasJob]:
        """Returns the jobs for the next UNet call: of those that are ready the one whose turn it is, and its mates.

        Mates have its canvas size, its plan and its LoRAs. A job with the LoRAs that are in place may have the turn of
        one with others, where that one still has time (:meth:`_may_pass`).

        Args:
            max_batch: How many at most.
            plan: What computes jobs that begin now.
            among: Whether a job may be one of them.
            in_place: Of the device; is brought up to date.
        """
        in_place = in_place or LorasInPlace()
        ranked = [job for job in self.ranked() if job.is_ready and among(job)]
        if not ranked:
            return []
        batch = _batch(ranked[0], ranked, max_batch, plan)
        if ranked[0].loras != in_place.loras:
            batches = (_batch(job, ranked, max_batch, plan) for job in ranked if job.loras == in_place.loras)
            # Once one has begun to pass, it goes on: to change back and forth would take longer.
            passing = (
                each for each in batches if (each[0], ranked[0]) == in_place.passing or self._may_pass(each, ranked)
            )
            batch = next(passing, batch)
        in_place.loras = batch[0].loras
        in_place.passing = None if batch[0].loras == ranked[0].loras else (batch[0], ranked[0])
        return batch

    def nearest(self, count: int) -> list[CanvasJob]:
        """Returns those that go first, ready or not."""
        return self.ranked()[:count]

    def position(self, job: CanvasJob) -> int:
        """Returns how many jobs have to end, or pause, before this one runs."""
        return max(0, len(self._ahead(job)) + 1 - self.devices)

    def backlog_seconds(self) -> float:
        """Returns how long the devices need for all of them."""
        return self.pace.seconds(sum(job.remaining_megapixel_passes for job in self._jobs)) / self.devices

    def seconds_left(self, job: CanvasJob) -> float:
        """Returns an estimate, in seconds, of when this job ends if no others arrive."""
        ahead = sum(other.remaining_megapixel_passes for other in self._ahead(job))
        return self.pace.seconds(ahead / self.devices + job.remaining_megapixel_passes)

    def _may_pass(self, batch: Sequence[CanvasJob], ranked: Sequence[CanvasJob]) -> bool:
        """Whether jobs with the LoRAs in place may go before one whose turn it is, and which has others.

        Neither bound on waiting moves by it. Of one caller's jobs, only those that are not longer and came while newer
        ones may still rank before it (:class:`Order`). Of another caller's, only what leaves all those before it the
        time to be done as if their callers had their shares to themselves (:class:`~sd_inpaint.engine.shares.Shares`).
        """
        leader, first = batch[0], ranked[0]
        if leader.caller == first.caller:
            return leader.arrived_at <= first.rank and leader.remaining_megapixel_passes <= (
                first.remaining_megapixel_passes
            )
        steps = leader.steps - leader.step
        seconds = self.pace.seconds(steps * sum(job.task.megapixel_passes_per_step for job in batch))
        callers = {job.caller for job in self._jobs}
        for passed in ranked[: ranked.index(leader)]:
            left = sum(job.remaining_megapixel_passes for job in self._jobs if job.request is passed.request)
            if seconds > self._shares.slack(passed.caller, passed.request, self.pace.seconds(left), callers):
                return False
            seconds += self.pace.seconds(passed.remaining_megapixel_passes)
        return True

    def _ahead(self, job: CanvasJob) -> list[CanvasJob]:
        """Those before a job; none, if it has ended meanwhile."""
        ranked = self.ranked()
        return ranked[: ranked.index(job)] if job in ranked else []

    def ranked(self) -> list[CanvasJob]:
        """All jobs as they are served if no others arrive."""
        ranked = sorted(self._jobs, key=lambda job: (job.rank, job.number))
        callers = {job.caller for job in ranked}
        if len(callers) < 2:
            return ranked
        turns: dict[CanvasRequest, Turn] = {}
        for caller in callers:
            left: dict[CanvasRequest, float] = {}
            for job in ranked:
                if job.caller == caller:
                    left[job.request] = left.get(job.request, 0.0) + job.remaining_megapixel_passes
            requests = [(request, self.pace.seconds(passes)) for request, passes in left.items()]
            turns |= zip(left, self._shares.turns(caller, requests, callers), strict=True)
        return sorted(
            ranked, key=lambda job: (turns[job.request].claim, turns[job.request].finishes, job.rank, job.number)
        )

    def _seconds_until_room(self, caller: str, weight: float, more: Held) -> float:
        """Walks through the queue in its order until enough of it is done."""
        holdings = Holdings.of(self._jobs, self._bounds)
        seconds = 0.0
        for job in self.ranked():
            seconds += self.pace.seconds(job.remaining_megapixel_passes) / self.devices
            holdings.remove(job)
            if holdings.has_room(caller, weight, more):
                break
        return seconds


def _batch(leader: CanvasJob, ranked: Sequence[CanvasJob], max_batch: int, plan: str) -> list[CanvasJob]:
    """A job, and those that may share its call, in their order."""
    if leader.low_memory:
        return [leader]
    key = leader.batch_key(plan)
    mates = [job for job in ranked if job is not leader and job.batch_key(plan) == key and not job.low_memory]
    return [leader, *mates[: max_batch - 1]]
