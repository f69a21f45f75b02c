"""How long pictures wait in a fleet of replicas, by formula; docs/capacity.md says where each part comes from.

1. The number of pictures in a replica is a birth-death chain: they come at a fixed rate, and go at a rate that grows
   with the batch their number allows. Exact where lengths are exponential: M/M/1 and M/M/c are cases of it.
2. What waits beyond the batch waits (ca² + cs²)/2 times as long as exponential lengths would have it.
3. Our order gives short pictures a head start: work is served by deadline, each kind's in proportion to its length.

Sources: 1, Kleinrock 1975, "Queueing Systems", volume 1, chapter 3. 2, Allen 1990, "Probability, Statistics and
Queueing Theory", on G/G/c after Cunneen. 3, Doytchinov, Lehoczky and Shreve 2001, "Real-time queues in heavy traffic
with earliest-deadline-first queue discipline". Fewest open requests as one shared queue: Nelson and Philips 1989, "An
approximation to response time for shortest queue routing".
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sd_inpaint.engine.queue import PATIENCE
from tools.capacity.load import CanvasTimes, DeviceTimes, Mix
from tools.capacity.simulation import Balancer

TAIL = 1e-9
"""States less likely than this in all are left out."""

MOST_STATES = 2_000_000

PARTS = (np.arange(8) + 0.5) / 8
"""A wait that chance spreads is looked at in so many equally likely parts."""


@dataclass(frozen=True)
class Model:
    """A fleet under a steady load of Poisson arrivals. Immutable.

    Attributes:
        device: Times of one replica's device.
        mix: What is asked for.
        per_second: Pictures a second, over all replicas.
        replicas: Each with its own queue.
        max_batch: Pictures that share a step.
        balancer: Who gets the next picture.
        max_canvases: Pictures a replica takes at a time; None for no bound.
        patience: Of the service's order; 0 is first come, first served.
    """

    device: DeviceTimes
    mix: Mix
    per_second: float
    replicas: int = 1
    max_batch: int = 1
    balancer: Balancer = Balancer.RANDOM
    max_canvases: int | None = None
    patience: float = PATIENCE

    @cached_property
    def _times(self) -> list[CanvasTimes]:
        return [self.device.of(kind.pixels) for kind in self.mix.kinds]

    @cached_property
    def alone(self) -> np.ndarray:
        """(kinds,) float64, seconds: each on an idle device."""
        return self.mix.alone_seconds(self.device)

    @cached_property
    def _group(self) -> np.ndarray:
        """(kinds,) int: which kinds may share a step; without batches it makes no difference."""
        sizes = [(kind.width, kind.height) if self.max_batch > 1 else (0, 0) for kind in self.mix.kinds]
        return np.array([sizes.index(size) for size in sizes])

    @cached_property
    def _presence(self) -> np.ndarray:
        """(kinds,) float64: part of a replica's work that may share a step with the kind."""
        work = np.array(self.mix.shares) * self.alone
        together = np.array([work[self._group == group].sum() for group in self._group])
        return np.asarray(together / work.sum())

    def turn_seconds(self, kind: int, jobs: np.ndarray | float) -> np.ndarray:
        """Returns the seconds of one turn with so many pictures of a kind, their share of begin and finish included."""
        times, steps = self._times[kind], self.mix.kinds[kind].steps
        return np.asarray(times.step_seconds(jobs) + jobs * (times.begin + times.finish) / steps)

    def _device_seconds(self, kind: int, jobs: np.ndarray | float) -> np.ndarray:
        """What one picture of a kind takes of the device, in a batch of so many, in seconds."""
        return np.asarray(self.mix.kinds[kind].steps * self.turn_seconds(kind, jobs) / jobs)

    def _batch(self, kind: int, present: np.ndarray | float) -> np.ndarray:
        """How many share a step where so many are in the replica, the picture itself among them."""
        return np.asarray(np.clip(1 + (np.asarray(present) - 1) * self._presence[kind], 1, self.max_batch))

    def seconds_per_picture(self, present: np.ndarray | float) -> np.ndarray:
        """Returns what the mean picture takes of the device where so many are in the replica, in seconds."""
        return np.asarray(
            sum(
                share * self._device_seconds(kind, self._batch(kind, present))
                for kind, share in enumerate(self.mix.shares)
            )
        )

    @cached_property
    def full_seconds(self) -> np.ndarray:
        """(kinds,) float64: what each takes of a device whose batches are full, in seconds."""
        return np.array([float(self._device_seconds(kind, self.max_batch)) for kind in range(len(self.mix.kinds))])

    @cached_property
    def most_per_second(self) -> float:
        """Pictures a second that one replica can do at most."""
        return 1 / self.mix.mean(list(self.full_seconds))

    @property
    def load(self) -> float:
        """What is asked for as part of what the fleet can do; from 1 on, queues grow without end."""
        return self.per_second / self.replicas / self.most_per_second

    @cached_property
    def variability(self) -> tuple[float, float]:
        """Squared coefficients of variation: of the time between arrivals at a replica, and of lengths."""
        mean = self.mix.mean(list(self.full_seconds))
        lengths = self.mix.mean(list(self.full_seconds**2)) / mean**2 - 1
        # Every R-th of Poisson arrivals: R exponentials one after another.
        return (1 / self.replicas if self.balancer is Balancer.ROUND_ROBIN else 1.0), lengths

    @cached_property
    def _rates(self) -> np.ndarray:
        """(states,) float64: pictures a second that leave a replica with 1, 2, … in it."""
        # A rare size fills its batches only where very many wait.
        filled = 2 + int(self.max_batch / min(self._presence))
        states = filled + self._tail_states()
        if self.max_canvases is not None:
            states = self.max_canvases
        present = np.arange(1, min(states, filled) + 1)
        rates = 1 / self.seconds_per_picture(present)
        return np.concatenate([rates, np.full(max(0, states - filled), self.most_per_second)])

    def _tail_states(self) -> int:
        if self.load >= 1:
            if self.max_canvases is None:
                raise OverflowError("more is asked for than the replicas can do")
            return 0
        return min(MOST_STATES // self.replicas, math.ceil(math.log(TAIL) / math.log(min(self.load, 0.999))))

    @cached_property
    def _chain(self) -> np.ndarray:
        """(states + 1,) float64: how likely 0, 1, … are in a replica; with LEAST, in all of them; sums to 1."""
        rates, per_second = self._rates, self.per_second / self.replicas
        if self.balancer is Balancer.LEAST:
            # All replicas as one, their numbers as even as can be.
            number = np.arange(1, len(rates) * self.replicas + 1)
            low, extra = number // self.replicas, number % self.replicas
            padded = np.concatenate([[0.0], rates, rates[-1:]])
            rates, per_second = (self.replicas - extra) * padded[low] + extra * padded[low + 1], self.per_second
        # Logarithms: the products leave what a float can hold.
        likely = np.concatenate([[0.0], np.cumsum(np.log(per_second / rates))])
        likely = np.exp(likely - likely.max())
        return np.asarray(likely / likely.sum())

    @cached_property
    def _met(self) -> np.ndarray:
        """(states + 1,) float64: how likely a picture comes to a replica with 0, 1, … in it."""
        if self.balancer is not Balancer.LEAST:
            return self._chain
        return np.bincount(np.arange(len(self._chain)) // self.replicas, self._chain)

    @cached_property
    def _held(self) -> np.ndarray:
        """(states + 1,) float64: how likely any replica has 0, 1, … in it."""
        if self.balancer is not Balancer.LEAST:
            return self._chain
        low, extra = np.divmod(np.arange(len(self._chain)), self.replicas)
        fuller = self._chain * extra / self.replicas
        held = np.bincount(low, self._chain - fuller, low[-1] + 2) + np.bincount(low + 1, fuller, low[-1] + 2)
        return np.asarray(held[: low[-1] + 1])

    @property
    def refused(self) -> float:
        """Part of the pictures that meet a full queue, [0, 1]."""
        return float(self._chain[-1]) if self.max_canvases is not None else 0.0

    @cached_property
    def utilisation(self) -> float:
        """Part of the time in which a device works, [0, 1]; with batches near 1 long before the replica is full."""
        return 1 - float(self._held[0])

    @cached_property
    def _waits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seconds, rising; how likely each is; and of which kind."""
        seen = self._met[: len(self._met) - (self.max_canvases is not None)]
        present = np.flatnonzero(seen > TAIL)
        seconds, likely, kinds = [], [], []
        for kind, share in enumerate(self.mix.shares):
            waits = self._kind_waits(kind, present)
            for part in waits:
                seconds.append(part)
                likely.append(seen[present] * share / len(waits))
                kinds.append(np.full(len(present), kind))
        order = np.argsort(np.concatenate(seconds))
        chance = np.concatenate(likely)[order]
        return np.concatenate(seconds)[order], chance / chance.sum(), np.concatenate(kinds)[order]

    def _kind_waits(self, kind: int, present: np.ndarray) -> list[np.ndarray]:
        """Waits of a kind that finds so many in the replica, in equally likely parts, in seconds."""
        own = present * self._presence[kind]
        sharing = np.minimum(own + 1, self.max_batch)
        slowed = self.mix.kinds[kind].steps * self.turn_seconds(kind, sharing) - self.alone[kind]
        # Who comes while the device works joins at its next step.
        joining = np.where((present > 0) & (present < self.max_batch), self.turn_seconds(kind, np.maximum(own, 1)), 0)
        return [
            slowed + part * joining + self._ordered(kind, self._queued(kind, present, left))
            for part, left in zip(PARTS, self._left, strict=True)
        ]

    @cached_property
    def _left(self) -> np.ndarray:
        """(PARTS,) float64: what is left of the picture that is next to end, by its mean."""
        seconds = np.linspace(0, self.full_seconds.max(), 4096)
        loads = np.array(self.mix.shares) * self.full_seconds
        # At a random moment a picture of length s is on the device in proportion to s, and anywhere within it.
        over = sum(
            load * np.minimum(1, seconds / length) for load, length in zip(loads, self.full_seconds, strict=True)
        )
        left = np.interp(PARTS, over / loads.sum(), seconds)
        return np.asarray(left / left.mean())

    def _queued(self, kind: int, present: np.ndarray, left: float) -> np.ndarray:
        """Seconds until the device has room for a picture that finds so many, were all served as they come."""
        same = self._group == self._group[kind]
        shares = np.array(self.mix.shares)
        beyond = np.maximum(0, present * self._presence[kind] - self.max_batch + 1)
        beyond = np.maximum(0, beyond - 1) + left * np.minimum(1, beyond)
        mean_seconds = float(np.dot(shares[same], self.full_seconds[same]) / shares[same].sum())
        seconds = beyond * mean_seconds * sum(self.variability) / 2
        # Other sizes cannot share its steps: each has the device for the whole of its leader's length.
        for group in set(self._group[~same]):
            members = [int(member) for member in np.flatnonzero(self._group == group)]
            others = present * self._presence[members[0]]
            each = sum(shares[m] * self._device_seconds(m, np.clip(others, 1, self.max_batch)) for m in members)
            seconds = seconds + others * each / shares[members].sum()
        return np.asarray(seconds)

    def _ordered(self, kind: int, queued: np.ndarray) -> np.ndarray:
        """From the wait of first come, first served to that of our order, where kinds differ in length; seconds."""
        if self.patience == 0 or len(self.mix.kinds) == 1:
            return queued
        loads = self.per_second / self.replicas * np.array(self.mix.shares) * self.full_seconds
        loads *= min(1.0, 0.999 / loads.sum())
        leads = self.patience * self.full_seconds
        # 1. The frontier: of each kind, work waits whose deadline is further off than this.
        ends = np.unique(leads)[::-1]
        ends = np.append(ends, ends[-1] - (queued.max() + 1) / loads.sum())
        work = np.array([np.dot(loads, np.maximum(0, leads - end)) for end in ends])
        frontier = np.interp(queued, work, ends)
        # 2. What of it goes before this kind.
        ahead = sum(
            load * np.maximum(0, np.minimum(lead, leads[kind]) - frontier)
            for load, lead in zip(loads, leads, strict=True)
        )
        # 3. And what comes later and still passes: the shorter kinds, for as long as their deadlines are nearer.
        gaps = np.maximum(0, leads[kind] - leads)
        waits = np.unique(np.append(gaps, 0.0))
        waits = np.append(waits, waits[-1] + (np.max(ahead) + 1) / (1 - loads.sum()))
        passing = np.array([wait - np.dot(loads, np.minimum(wait, gaps)) for wait in waits])
        return np.asarray(np.interp(ahead, passing, waits))

    def quantile(self, part: float, kind: int | None = None) -> float:
        """Returns the wait that so many stay under, ``part`` in (0, 1), in seconds."""
        seconds, likely, kinds = self._waits
        if kind is not None:
            seconds, likely = seconds[kinds == kind], likely[kinds == kind]
        place = np.searchsorted(np.cumsum(likely), part * likely.sum())
        return float(seconds[min(place, len(seconds) - 1)])

    def served_within(self, seconds: float) -> float:
        """Returns the part of all pictures that are painted within so many seconds of coming, [0, 1]."""
        waits, likely, kinds = self._waits
        return float(likely[waits + self.alone[kinds] <= seconds].sum()) * (1 - self.refused)

    @cached_property
    def mean_wait(self) -> float:
        """Seconds."""
        seconds, likely, _ = self._waits
        return float(np.dot(seconds, likely))

    @cached_property
    def queue_seconds(self) -> float:
        """Mean of the service's gauge sd_inpaint_queue_seconds: seconds of steps that wait or run in a replica."""
        present = np.arange(1, len(self._held))
        seconds = np.zeros(len(present))
        begun = np.zeros(len(present))
        for kind, share in enumerate(self.mix.shares):
            batch = self._batch(kind, present)
            seconds += share * self.mix.kinds[kind].steps * self._times[kind].step_seconds(batch) / batch
            begun += share * batch
        arriving, lengths = self.variability
        # Of those that share a step a part is done; the rest waits as long as its kind of arrivals has it.
        whole = (
            np.maximum(0, present - begun) * (arriving + lengths) / 2 + np.minimum(present, begun) * (1 + lengths) / 2
        )
        return float(np.dot(self._held[1:], seconds * whole))
