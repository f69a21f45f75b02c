"""A load and the replicas that take it: what they can do at most, and how a simulation of them ends."""

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tools.capacity.load import Arrivals, DeviceTimes, Kind, Mix
from tools.capacity.simulation import Balancer, Bounds, Outcome, draw_arrivals, play

FULLEST = 0.98
"""No replica is to have more load: beyond, a queue takes days to become steady, and a simulation ends before."""

MOST_SIMULATED = 16
"""Replicas of a larger fleet that are simulated, with their part of the load."""


@dataclass(frozen=True)
class Fleet:
    """Replicas of one kind under a steady load. Immutable.

    Attributes:
        device: Times of one replica's device.
        mix: What is asked for.
        per_second: Pictures a second, over all replicas.
        replicas: Each with its own queue.
        bounds: What each replica is set to.
        balancer: Who gets the next picture.
    """

    device: DeviceTimes
    mix: Mix
    per_second: float
    replicas: int = 1
    bounds: Bounds = field(default_factory=Bounds)
    balancer: Balancer = Balancer.RANDOM

    @cached_property
    def alone_seconds(self) -> float:
        """What the mean picture takes on an idle device, in seconds."""
        return self.mix.mean(self.mix.alone_seconds(self.device))

    @cached_property
    def most_per_second(self) -> float:
        """Pictures a second that one replica can do at most: with batches of the size that is best for each kind."""
        return 1 / self.mix.mean([self._least_seconds(kind) for kind in self.mix.kinds])

    def _least_seconds(self, kind: Kind) -> float:
        """What one picture of a kind takes of the device in the best batch, in seconds."""
        times, jobs = self.device.of(kind.pixels), np.arange(1, self.bounds.max_batch + 1)
        return times.begin + kind.steps * float(np.min(times.step_seconds(jobs) / jobs)) + times.finish

    @property
    def load(self) -> float:
        """What is asked for as part of the most that the replicas can do; from 1 on, queues grow without end."""
        return self.per_second / self.replicas / self.most_per_second

    @property
    def least_replicas(self) -> int:
        """How many the load takes at least, whatever people wait."""
        return max(1, math.ceil(self.per_second / self.most_per_second / FULLEST))

    @property
    def simulated_replicas(self) -> int:
        """How many of them a simulation has; where chance alone decides who gets a picture, each is like any other."""
        return 1 if self.balancer is Balancer.RANDOM else min(self.replicas, MOST_SIMULATED)

    def simulate(self, pictures: int, seed: int, *, burst: float = 1.0, burst_seconds: float = 60.0) -> Outcome:
        """Plays so many pictures; the same seed gives the same outcome. For ``burst`` see Arrivals.

        Raises:
            PlanError: If bursts have more than all of the load.
        """
        part = self.simulated_replicas / self.replicas
        arrivals = Arrivals(self.per_second * part, burst, burst_seconds)
        drawn = draw_arrivals(self.mix, arrivals, pictures, seed)
        return play(self.device, self.bounds, self.simulated_replicas, drawn, balancer=self.balancer, seed=seed)

    def under(self, per_second: float) -> "Fleet":
        """Returns the same replicas under another load."""
        return dataclasses.replace(self, per_second=per_second)

    def of(self, replicas: int) -> "Fleet":
        """Returns so many replicas under the same load."""
        return dataclasses.replace(self, replicas=replicas)
