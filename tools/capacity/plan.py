"""From a load and a target to replicas, bounds, a threshold for the autoscaler, and money."""

import dataclasses
import math
from dataclasses import dataclass

from tools.capacity.load import PlanError
from tools.capacity.model import Model

HOURS_PER_MONTH = 730.0
"""A year's 8,760 by twelve."""

MOST_REPLICAS = 10_000_000
FULLEST = 0.98
"""No plan loads a replica more than this: beyond, a queue takes days to become steady."""


@dataclass(frozen=True)
class Target:
    """What callers are to get.

    Attributes:
        wait_seconds: The wait that ``wait_part`` of them stay under.
        wait_part: In (0, 1).
        within_seconds: From coming to being painted; None for no such target.
        within_part: How many are to be painted by then, in (0, 1).
    """

    wait_seconds: float | None = None
    wait_part: float = 0.95
    within_seconds: float | None = None
    within_part: float = 0.95

    def is_met(self, model: Model) -> bool:
        """Says whether a fleet meets it, by the formula."""
        if model.load > FULLEST:
            return False
        if self.wait_seconds is not None and model.quantile(self.wait_part) > self.wait_seconds:
            return False
        return self.within_seconds is None or model.served_within(self.within_seconds) >= self.within_part


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
        replicas: That the new load needs.
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
        model: The fleet under that load.
        spare: Replicas among them that may be away without missing the target.
        max_queue: For SD_INPAINT_MAX_QUEUE.
        max_queue_work: For SD_INPAINT_MAX_QUEUE_WORK, in megapixel-steps.
        refused: Part of the pictures that these bounds refuse.
        queue_seconds: For the chart's autoscaling.queueSeconds.
    """

    model: Model
    spare: int
    max_queue: int
    max_queue_work: int
    refused: float
    queue_seconds: float


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


def make_plan(load: Model, target: Target, *, spare: int = 0, worst_wait_seconds: float) -> Plan:
    """Finds the smallest fleet that meets a target.

    Args:
        load: The load, and everything about a replica; its number of replicas is not looked at.
        target: What callers are to get.
        spare: Replicas on top, that may be away.
        worst_wait_seconds: Whoever would wait longer than this is refused.

    Raises:
        PlanError: If no fleet meets it.
    """
    needed = smallest_fleet(load, target)
    fleet = dataclasses.replace(load, replicas=needed)
    places = queue_places(fleet, worst_wait_seconds)
    works = [kind.megapixel_steps for kind in load.mix.kinds]
    return Plan(
        model=dataclasses.replace(fleet, replicas=needed + spare),
        spare=spare,
        # The work is the bound that tells seconds; in number there is room for as much work of the smallest pictures.
        max_queue=math.ceil(places * load.mix.megapixel_steps / min(works)),
        max_queue_work=math.ceil(places * load.mix.megapixel_steps),
        refused=dataclasses.replace(fleet, max_canvases=places).refused,
        queue_seconds=threshold_seconds(fleet, target),
    )


def smallest_fleet(load: Model, target: Target) -> int:
    """Returns how few replicas meet the target; raises PlanError if no number does."""

    def is_enough(replicas: int) -> bool:
        return target.is_met(dataclasses.replace(load, replicas=replicas))

    least = max(1, math.ceil(load.per_second / load.most_per_second / FULLEST))
    enough = least
    # With a hundred times what the load needs at least, pictures are all but alone on their devices.
    most = min(100 * least, MOST_REPLICAS)
    while not is_enough(enough):
        if enough > most:
            raise PlanError(
                "No number of replicas meets the target: a picture alone on a device takes too long for it."
            )
        least, enough = enough + 1, enough * 2
    while least < enough:
        middle = (least + enough) // 2
        least, enough = (least, middle) if is_enough(middle) else (middle + 1, enough)
    return enough


def queue_places(fleet: Model, worst_wait_seconds: float) -> int:
    """Returns how many pictures a replica may take so that the last of them waits no longer than this."""
    return fleet.max_batch + max(1, math.floor(worst_wait_seconds * fleet.most_per_second))


def threshold_seconds(fleet: Model, target: Target) -> float:
    """Returns the mean seconds of work in a replica at the most load with which the fleet still meets the target."""
    low, high = fleet.per_second, FULLEST * fleet.replicas * fleet.most_per_second
    for _ in range(20):
        middle = (low + high) / 2
        is_met = target.is_met(dataclasses.replace(fleet, per_second=middle))
        low, high = (middle, high) if is_met else (low, middle)
    return dataclasses.replace(fleet, per_second=low).queue_seconds


def sudden_rise(plan: Plan, target: Target, factor: float, growth: Growth) -> Rise:
    """Says what happens if the load is ``factor`` times the planned one from one moment to the next."""
    fleet = plan.model
    wanted = smallest_fleet(dataclasses.replace(fleet, per_second=fleet.per_second * factor), target) + plan.spare
    load = fleet.load * factor
    # All seconds are a device's: backlog of work for each replica that is there now.
    backlog = max(0.0, load - 1) * growth.seconds
    room = wanted / fleet.replicas - load
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
