"""From a load and a target to replicas, bounds, a threshold for the autoscaler, and money."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from tools.capacity.fleet import FULLEST, Fleet
from tools.capacity.load import PlanError
from tools.capacity.simulation import Outcome

HOURS_PER_MONTH = 730.0
"""A year's 8,760 by twelve."""

PICTURES = 4_000
"""Simulated for each fleet that a search looks at."""

WORST_WAIT = 4.0
"""Times the target's wait: whoever would wait longer is refused, unless somebody says otherwise."""

EMPTIEST = 0.01
"""Of replicas with less load than this, more are no better: their pictures are all but alone."""

TOLERANCE = 0.01
"""Of a number of replicas: fleets of more than 100 are found to within so much; chance moves them as far."""

LOAD_TOLERANCE = 0.02
"""Of the most load of a fleet."""

HOPELESS = "No number of replicas meets the target: a picture alone on a device takes too long for it."


@dataclass(frozen=True)
class Target:
    """What callers are to get. Who is refused does not get it.

    Attributes:
        wait_seconds: The wait that ``wait_part`` of them stay under; None for no such target.
        wait_part: In (0, 1).
        within_seconds: From coming to being painted; None for no such target.
        within_part: How many are to be painted by then, in (0, 1).
    """

    wait_seconds: float | None = None
    wait_part: float = 0.95
    within_seconds: float | None = None
    within_part: float = 0.95

    def is_met(self, outcome: Outcome) -> bool:
        """Says whether a simulation met it."""
        if self.wait_seconds is not None and outcome.waited_within(self.wait_seconds) < self.wait_part:
            return False
        return self.within_seconds is None or outcome.served_within(self.within_seconds) >= self.within_part

    def is_possible(self, load: Fleet) -> bool:
        """Says whether it would be met if each picture had a device to itself."""
        if self.within_seconds is None:
            return True
        return load.mix.mean(load.mix.alone_seconds(load.device) <= self.within_seconds) >= self.within_part


@dataclass(frozen=True)
class Growth:
    """How a fleet grows, in seconds: noticing, a machine, the image, the weights, the first request."""

    notice: float = 30.0
    machine: float = 0.0
    pull: float = 0.0
    weights: float = 0.0
    ready: float = 10.0

    @property
    def seconds(self) -> float:
        """Until a new replica paints."""
        return self.notice + self.machine + self.pull + self.weights + self.ready


@dataclass(frozen=True)
class Rise:
    """What a sudden rise of the load does until help has come.

    Attributes:
        factor: How many times the planned load comes, all at once.
        replicas: That are enough for the new load.
        load: Of the replicas there are, until then.
        help_seconds: Until the new ones paint.
        longest_wait_seconds: Of those who come just before, with no bound on the queue, beside the usual wait.
        over_seconds: From the help's coming until the backlog is gone.
        refused: Part of the pictures that a bounded queue refuses once it is full, until then.
    """

    factor: float
    replicas: int
    load: float
    help_seconds: float
    longest_wait_seconds: float
    over_seconds: float
    refused: float


@dataclass(frozen=True)
class Plan:
    """A fleet for a load.

    Attributes:
        fleet: What meets the target, with its bounds, under the load.
        spare: Replicas on top, that may be away.
        outcome: What a simulation of ``fleet`` showed.
        most_per_second: Pictures a second with which ``fleet`` still meets the target.
        queue_seconds: For the chart's autoscaling.queueSeconds: the mean of the gauge at ``most_per_second``.
    """

    fleet: Fleet
    spare: int
    outcome: Outcome
    most_per_second: float
    queue_seconds: float

    @property
    def replicas(self) -> int:
        """In all, the spare ones among them."""
        return self.fleet.replicas + self.spare


@dataclass(frozen=True)
class Cost:
    """What a fleet costs, in the currency of its price.

    Attributes:
        per_month: The fleet that is planned, always on.
        per_thousand: A thousand pictures of it, at the mean load.
        per_thousand_busy: A thousand pictures if the fleet had the planned load all the time.
    """

    per_month: float
    per_thousand: float
    per_thousand_busy: float


def make_plan(
    load: Fleet,
    target: Target,
    *,
    spare: int = 0,
    worst_wait_seconds: float,
    pictures: int = PICTURES,
    seed: int = 1,
) -> Plan:
    """Finds the smallest fleet that meets a target, and its settings.

    Args:
        load: The load, and everything about a replica but its queue's bounds; how many there are is not looked at.
        target: What callers are to get.
        spare: Replicas on top, that may be away.
        worst_wait_seconds: Whoever would wait longer than this is refused.
        pictures: Simulated for each fleet that is looked at.
        seed: Of the simulations.

    Raises:
        PlanError: If no fleet meets it.
    """
    fleet, outcome = smallest_fleet(bounded(load, worst_wait_seconds), target, pictures, seed)
    most_per_second, busiest = most_load(fleet, outcome, target, pictures, seed)
    return Plan(fleet, spare, outcome, most_per_second, busiest.queue_seconds)


def bounded(load: Fleet, worst_wait_seconds: float) -> Fleet:
    """Returns a load whose replicas refuse whoever would wait longer than this."""
    places = load.bounds.max_batch + max(1, math.floor(worst_wait_seconds * load.most_per_second))
    work = places * load.mix.megapixel_steps
    # The work is the bound that stands for seconds; in number there is room for as much work of the smallest pictures.
    smallest = min(kind.megapixel_steps for kind in load.mix.kinds)
    bounds = dataclasses.replace(
        load.bounds, max_canvases=math.ceil(work / smallest), max_megapixel_steps=float(math.ceil(work))
    )
    return dataclasses.replace(load, bounds=bounds)


def smallest_fleet(load: Fleet, target: Target, pictures: int = PICTURES, seed: int = 1) -> tuple[Fleet, Outcome]:
    """Returns the smallest fleet whose simulation meets the target, and what that showed.

    Raises:
        PlanError: If no number of replicas meets it.
    """
    replicas, outcome = fewest(load.of, load.least_replicas, target, pictures, seed)
    return load.of(replicas), outcome


def fewest(make: Callable[[int], Fleet], least: int, target: Target, pictures: int, seed: int) -> tuple[int, Outcome]:
    """Returns the smallest number, ``least`` or more, of which a fleet is made that meets the target.

    Raises:
        PlanError: If there is none.
    """
    if not target.is_possible(make(least)):
        raise PlanError(HOPELESS)
    # 1. Half as many more each time, until they are enough.
    enough = least
    while not target.is_met(outcome := make(enough).simulate(pictures, seed)):
        if make(enough).load < EMPTIEST:
            raise PlanError(HOPELESS)
        least, enough = enough + 1, math.ceil(1.5 * enough)
    # 2. Bisection between those that were too few and these.
    while enough - least > int(TOLERANCE * enough):
        middle = (least + enough) // 2
        tried = make(middle).simulate(pictures, seed)
        if target.is_met(tried):
            enough, outcome = middle, tried
        else:
            least = middle + 1
    return enough, outcome


def most_load(
    fleet: Fleet, outcome: Outcome, target: Target, pictures: int = PICTURES, seed: int = 1
) -> tuple[float, Outcome]:
    """Returns the most pictures a second with which a fleet still meets the target, and what a simulation showed then.

    Args:
        fleet: The smallest for its load.
        outcome: What that showed.
        target: What callers are to get.
        pictures: Simulated for each load that is looked at.
        seed: Of the simulations.
    """
    low, high = fleet.per_second, FULLEST * fleet.replicas * fleet.most_per_second
    if fleet.replicas > 1:
        # One replica less is too few, so each can take no more than that many would have to.
        high = min(high, low * fleet.replicas / (fleet.replicas - 1))
    while high - low > LOAD_TOLERANCE * high:
        middle = (low + high) / 2
        tried = fleet.under(middle).simulate(pictures, seed)
        if target.is_met(tried):
            low, outcome = middle, tried
        else:
            high = middle
    return low, outcome


def sudden_rise(plan: Plan, factor: float, growth: Growth) -> Rise:
    """Says what happens if the load is ``factor`` times the planned one from one moment to the next.

    Arithmetic, not simulation: replicas that each take as much as the planned ones can are enough, for a larger fleet
    waits no longer; and work that comes faster than it is done piles up.
    """
    fleet = plan.fleet
    wanted = math.ceil(factor * fleet.per_second / (plan.most_per_second / fleet.replicas)) + plan.spare
    load = factor * fleet.of(plan.replicas).load
    # All seconds are a device's: backlog of work for each replica that is there now.
    backlog = max(0.0, load - 1) * growth.seconds
    room = wanted / plan.replicas - load
    over = backlog / room if backlog and room > 0 else 0.0
    return Rise(factor, wanted, load, growth.seconds, backlog, over, max(0.0, 1 - 1 / load))


def cost_of(replicas: int, price_per_hour: float, per_minute: float, mean_per_minute: float) -> Cost:
    """Returns what so many replicas cost, at the planned and at the mean load."""
    per_hour = replicas * price_per_hour
    return Cost(
        per_month=per_hour * HOURS_PER_MONTH,
        per_thousand=1000 * per_hour / (60 * mean_per_minute),
        per_thousand_busy=1000 * per_hour / (60 * per_minute),
    )
