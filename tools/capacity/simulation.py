"""Replicas behind a balancer, in simulated time: the service's own device loop, on devices that only take time.

What is real: ``DeviceLoop``, ``CanvasQueue``, ``Order`` and ``Pace`` of ``src/sd_inpaint``, unchanged. What is
simulated: the device, the clock, the callers and the balancer.
"""

import heapq
import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, partial

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasTask
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import QueueFullError
from sd_inpaint.schema import InpaintParameters
from tools.capacity.device import Clock, SimulatedBackend, SimulatedDiffusion
from tools.capacity.load import Arrivals, CanvasTimes, DeviceTimes, Kind, Mix

WARM_UP = 0.1
"""Part of the pictures at the start that no figure counts: the first ones meet empty replicas."""


class Balancer(StrEnum):
    """Who gets the next picture."""

    RANDOM = "random"
    """Any replica: a Kubernetes service as kube-proxy has it, or DNS."""

    ROUND_ROBIN = "round-robin"
    """Each in turn: one ingress."""

    LEAST = "least"
    """The replica with the fewest open requests: one ingress that counts them."""


@dataclass(frozen=True)
class Bounds:
    """What each replica is set to; the service's own defaults."""

    max_batch: int = 1
    max_canvases: int = 32
    max_megapixel_steps: float = 2000.0
    deadline_seconds: float = 3600.0


@dataclass
class TimedBackend(SimulatedBackend):
    """A device that takes as long as was measured."""

    device: DeviceTimes = field(default_factory=lambda: DeviceTimes(()))

    def __post_init__(self) -> None:
        self._of = cache(self.device.of)
        self._step = cache(lambda pixels, jobs: float(self._of(pixels).step_seconds(jobs)))

    def _times(self, task: CanvasTask) -> CanvasTimes:
        width, height = task.size
        return self._of(width * height)

    def predict_seconds(self, batch: Sequence[SimulatedDiffusion]) -> float:
        """Returns how long one UNet call takes for a batch of one canvas size."""
        width, height = batch[0].task.size
        return self._step(width * height, len(batch))

    def begin(self, task: CanvasTask, *, low_memory: bool) -> SimulatedDiffusion:
        """Starts a job."""
        self.work(self._times(task).begin)
        return super().begin(task, low_memory=low_memory)

    def finish(self, diffusion: SimulatedDiffusion, *, low_memory: bool) -> np.ndarray:
        """Ends a job."""
        self.work(self._times(diffusion.task).finish)
        return super().finish(diffusion, low_memory=low_memory)


class Replica:
    """One process of the service, with its own queue and its own clock."""

    def __init__(self, device: DeviceTimes, bounds: Bounds) -> None:
        self.clock = Clock()
        per_megapixel = float(device.canvases[0].step_seconds(1)) / device.canvases[0].pixels * 1e6
        # Two passes a step, by the default guidance; the pace is measured from the first step on.
        self.backend = TimedBackend(self.clock, bounds.max_batch, per_megapixel / 2, device=device)
        queue = CanvasQueue(
            max_canvases=bounds.max_canvases,
            max_megapixel_steps=bounds.max_megapixel_steps,
            pace=Pace(self.backend.seconds_per_megapixel_pass),
        )
        self.loop = DeviceLoop(self.backend, queue, self.clock)
        self._deadline_seconds = bounds.deadline_seconds
        self._ends: list[float] = []
        self._open = 0

    def run_until(self, time: float) -> None:
        """Turns the loop until its clock has reached ``time``; the last turn may end after it."""
        while self.clock.now < time and self.loop.turn():
            pass
        while self._ends and self._ends[0] <= time:
            heapq.heappop(self._ends)
            self._open -= 1

    @property
    def open_requests(self) -> int:
        """How many the balancer knows of, at the time it was run until."""
        return self._open

    def submit(self, job: CanvasJob, time: float) -> bool:
        """Brings a job at ``time``; returns False if it was refused.

        A turn is computed whole when it begins, so the queue's bound sees a job that ends with the turn in progress as
        gone already: at most one step too early.
        """
        ahead = self.clock.now
        self.clock.now = time
        try:
            self.loop.submit([job], deadline_seconds=self._deadline_seconds)
        except QueueFullError:
            return False
        finally:
            self.clock.now = max(ahead, time)
        self._open += 1
        job.future.add_done_callback(lambda _: heapq.heappush(self._ends, self.clock.now))
        return True


@dataclass(slots=True)
class Picture:
    """What became of one picture, in seconds of the clock.

    Attributes:
        arrived: When it came.
        kind: What was asked for.
        alone: What it takes on an idle device.
        queue_seconds: The gauge sd_inpaint_queue_seconds just before it came, on the mean of all replicas.
        ended: When it was painted; NaN where it was refused or given up.
    """

    arrived: float
    kind: Kind
    alone: float
    queue_seconds: float = 0.0
    ended: float = float("nan")

    def end(self, future: "Future[np.ndarray]", clock: Clock) -> None:
        """Notes the end of its job."""
        if future.exception() is None:
            self.ended = clock.now

    @property
    def response(self) -> float:
        """From coming to being painted."""
        return self.ended - self.arrived

    @property
    def wait(self) -> float:
        """How much longer it took than on an idle device."""
        return self.response - self.alone


@dataclass(frozen=True)
class Outcome:
    """What a simulation showed, after its warm-up.

    Attributes:
        pictures: Each one that came.
        utilisation: Part of the time in which the mean device worked.
        seconds: Simulated.
    """

    pictures: Sequence[Picture]
    utilisation: float
    seconds: float

    def waits(self) -> np.ndarray:
        """Returns (served,) float64, in seconds."""
        return self._of_served([picture.wait for picture in self.pictures])

    def responses(self) -> np.ndarray:
        """Returns (served,) float64, in seconds."""
        return self._of_served([picture.response for picture in self.pictures])

    @staticmethod
    def _of_served(seconds: Sequence[float]) -> np.ndarray:
        values = np.array(seconds, float)
        return np.asarray(values[~np.isnan(values)])

    def wait(self, percent: float) -> float:
        """Returns a percentile of the waits, in seconds; NaN where nobody was served."""
        waits = self.waits()
        return float(np.percentile(waits, percent)) if len(waits) else math.nan

    def response(self, percent: float) -> float:
        """Returns a percentile of the responses, in seconds; NaN where nobody was served."""
        responses = self.responses()
        return float(np.percentile(responses, percent)) if len(responses) else math.nan

    @property
    def queue_seconds(self) -> float:
        """Mean of the gauge as the pictures found it."""
        return float(np.mean([picture.queue_seconds for picture in self.pictures]))

    @property
    def refused(self) -> float:
        """Part of the pictures that were answered 429, or given up at the deadline."""
        return 1 - len(self.waits()) / len(self.pictures)

    @property
    def goodput(self) -> float:
        """Pictures painted a minute."""
        return 60 * len(self.waits()) / self.seconds

    def waited_within(self, seconds: float) -> float:
        """Returns the part of all pictures that were painted and waited no longer."""
        return float(np.sum(self.waits() <= seconds) / len(self.pictures))

    def served_within(self, seconds: float) -> float:
        """Returns the part of all pictures that came back painted in that time."""
        return float(np.sum(self.responses() <= seconds) / len(self.pictures))


@cache
def make_task(width: int, height: int, steps: int) -> CanvasTask:
    """Makes a task that holds no pixels of its own; its guidance is the default, two passes a step."""
    image = np.broadcast_to(np.uint8(0), (height, width, 3))
    return CanvasTask(image, image[..., 0], InpaintParameters(prompt="", num_inference_steps=steps), seed=0)


class Cluster:
    """Replicas behind a balancer, as they are played."""

    def __init__(
        self, device: DeviceTimes, bounds: Bounds, replicas: int, balancer: Balancer, draw: np.random.Generator
    ) -> None:
        self._replicas = [Replica(device, bounds) for _ in range(replicas)]
        self._balancer = balancer
        self._draw = draw
        self._turn = 0

    def choose(self, time: float) -> Replica:
        """Returns the replica that gets the picture which comes now, run until now."""
        self._turn += 1
        count = len(self._replicas)
        match self._balancer:
            case Balancer.RANDOM:
                chosen = int(self._draw.integers(count))
            case Balancer.ROUND_ROBIN:
                chosen = self._turn % count
            case Balancer.LEAST:
                for replica in self._replicas:
                    replica.run_until(time)
                # Ties go round, as they do in nginx and HAProxy.
                chosen = min(range(count), key=lambda n: (self._replicas[n].open_requests, (n - self._turn) % count))
        self._replicas[chosen].run_until(time)
        return self._replicas[chosen]

    def queue_seconds(self, time: float) -> float:
        """Returns the mean of the replicas' gauges now."""
        for replica in self._replicas:
            replica.run_until(time)
        return sum(replica.loop.waiting_seconds() for replica in self._replicas) / len(self._replicas)

    def busy_seconds(self, time: float) -> float:
        """Returns how long all devices together have worked until now."""
        for replica in self._replicas:
            replica.run_until(time)
        return sum(replica.backend.busy_seconds for replica in self._replicas)


def play(
    device: DeviceTimes,
    bounds: Bounds,
    replicas: int,
    arrivals: Sequence[tuple[float, Kind]],
    *,
    balancer: Balancer = Balancer.RANDOM,
    seed: int = 0,
    warm_up: float = WARM_UP,
) -> Outcome:
    """Plays arrivals (seconds, what), in order of time; the same seed gives the same outcome."""
    cluster = Cluster(device, bounds, replicas, balancer, np.random.default_rng(seed))
    alone = {kind: kind.alone_seconds(device) for _, kind in arrivals}
    pictures = [Picture(time, kind, alone[kind]) for time, kind in arrivals]
    first = int(len(pictures) * warm_up)
    busy_before = 0.0
    for number, picture in enumerate(pictures):
        if number == first:
            busy_before = cluster.busy_seconds(picture.arrived)
        replica = cluster.choose(picture.arrived)
        picture.queue_seconds = cluster.queue_seconds(picture.arrived)
        job = CanvasJob(make_task(picture.kind.width, picture.kind.height, picture.kind.steps))
        if replica.submit(job, picture.arrived):
            job.future.add_done_callback(partial(picture.end, clock=replica.clock))
    seconds = pictures[-1].arrived - pictures[first].arrived
    busy_seconds = cluster.busy_seconds(pictures[-1].arrived) - busy_before
    cluster.busy_seconds(math.inf)
    return Outcome(pictures[first:], busy_seconds / (replicas * seconds), seconds)


def draw_arrivals(mix: Mix, arrivals: Arrivals, pictures: int, seed: int) -> list[tuple[float, Kind]]:
    """Draws so many pictures: when they come, and what is asked for, each kind by as many as its share is."""
    draw = np.random.default_rng(seed)
    ends = np.round(np.cumsum(mix.shares) * pictures).astype(int)
    chosen = np.repeat(np.arange(len(mix.kinds)), np.diff(ends, prepend=0))
    draw.shuffle(chosen)
    return [(float(time), mix.kinds[n]) for time, n in zip(arrivals.times(pictures, draw), chosen, strict=True)]
