"""Who may wait, and who goes next: the bounded queue and its order."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sd_inpaint.errors import QueueFullError
from sd_inpaint.jobs import Job

PATIENCE = 2.0
"""How many times its own length a job may be kept waiting before it outranks every newcomer."""

PACE_SMOOTHING = 0.2
"""Weight of the newest step in the measured pace: follows a change within some ten steps, ignores one hiccup."""


@dataclass(frozen=True, slots=True)
class Order:
    """First come, first served, with a head start for short jobs.

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
    """How fast the device is: seconds a megapixel-pass, measured as it goes. Used under the queue's lock."""

    def __init__(self, seconds_per_work: float) -> None:
        self.seconds_per_work = seconds_per_work
        self._measured = False

    def observe(self, work: float, seconds: float) -> None:
        """Takes one step of ``work`` megapixel-passes into account; the first real figure replaces the guess."""
        if work <= 0:
            return
        weight = PACE_SMOOTHING if self._measured else 1.0
        self.seconds_per_work += weight * (seconds / work - self.seconds_per_work)
        self._measured = True

    def seconds(self, work: float) -> float:
        """Returns how long ``work`` takes."""
        return work * self.seconds_per_work


class JobQueue:
    """Jobs that wait or run, bounded in number and in work. Not thread-safe: the device loop locks around it."""

    def __init__(self, *, max_jobs: int, max_work: float, pace: Pace, order: Order | None = None) -> None:
        self._max_jobs = max_jobs
        self._max_work = max_work
        self._order = order or Order()
        self._jobs: list[Job] = []
        self.pace = pace

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs))

    def check_room(self, jobs: int = 1, work: float = 0.0) -> None:
        """Raises QueueFullError if so many more jobs with so much work (megapixel-steps) cannot be taken.

        An empty queue takes anything: a request too large for the bound would otherwise never be served.
        """
        if not self._jobs:
            return
        waiting_work = sum(job.task.queue_work for job in self._jobs)
        if len(self._jobs) + jobs <= self._max_jobs and waiting_work + work <= self._max_work:
            return
        retry_after_seconds = max(1, math.ceil(self._seconds_until_room(jobs, work)))
        raise QueueFullError(
            f"The queue is full: {len(self._jobs)} of {self._max_jobs} jobs and {waiting_work:.0f} of "
            f"{self._max_work:.0f} megapixel-steps are waiting. Try again in {retry_after_seconds} seconds.",
            retry_after_seconds=retry_after_seconds,
        )

    def admit(self, jobs: Sequence[Job], now: float, *, promised: bool = False) -> None:
        """Takes all of a request's jobs, or none.

        Args:
            jobs: Those of one request.
            now: Clock reading, in seconds.
            promised: True where they were admitted before, and lost their place with the process that held it: they
                get one, full or not, or newcomers could keep them out for ever.

        Raises:
            QueueFullError: If they don't fit.
        """
        if not promised:
            self.check_room(len(jobs), sum(job.task.queue_work for job in jobs))
        # A request's canvases share one rank by their total, so that it is not served in the order of its pieces.
        length_seconds = self.pace.seconds(sum(job.remaining_work for job in jobs))
        for job in jobs:
            job.arrived_at = now
            job.rank = self._order.rank(now, length_seconds)
            self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """Takes out a job that has ended."""
        self._jobs.remove(job)

    def next_batch(self, max_batch: int) -> list[Job]:
        """Returns the jobs for the next UNet call: the one that ranks first, and others of its canvas size."""
        ranked = self._ranked()
        if not ranked:
            return []
        leader = ranked[0]
        if leader.lean:
            return [leader]
        mates = [job for job in ranked[1:] if job.task.size == leader.task.size and not job.lean]
        return [leader, *mates[: max_batch - 1]]

    def position(self, job: Job) -> int:
        """Returns how many jobs rank before this one."""
        return sum(other.rank < job.rank or (other.rank == job.rank and other.number < job.number) for other in self)

    def seconds_left(self, job: Job) -> float:
        """Returns when this job will have ended if nobody else comes, in seconds."""
        ahead = sum(other.remaining_work for other in self if (other.rank, other.number) < (job.rank, job.number))
        return self.pace.seconds(ahead + job.remaining_work)

    def _ranked(self) -> list[Job]:
        return sorted(self._jobs, key=lambda job: (job.rank, job.number))

    def _seconds_until_room(self, jobs: int, work: float) -> float:
        """Walks through the queue in its order until enough of it is done."""
        count, total = len(self._jobs), sum(job.task.queue_work for job in self._jobs)
        seconds = 0.0
        for job in self._ranked():
            seconds += self.pace.seconds(job.remaining_work)
            count, total = count - 1, total - job.task.queue_work
            if count + jobs <= self._max_jobs and total + work <= self._max_work:
                break
        return seconds
