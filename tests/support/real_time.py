"""The real painter over a device that computes nothing and takes its time: what goes on between threads."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sd_inpaint.engine.lifecycle import Engine
from sd_inpaint.jobs.job import Job, JobState, JobStore, Submission
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.painter import Painter
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from sd_inpaint.work.picture_work import PictureWork
from tests.support.pictures import hole, photo, written
from tests.support.places import Place
from tests.support.simulation import Clock, FakeBackend, FakeDiffusion

IMAGE, MASK = written(photo()), written(hole())

STEP_SECONDS = 0.02

LEASE_SECONDS = 5.0

WAIT_SECONDS = 20.0
"""For what happens in a fraction of a second on a machine that is not busy."""


class SlowBackend(FakeBackend):
    """A fake backend whose steps take real time, each as long as ``step_seconds`` says."""

    step_seconds = STEP_SECONDS

    def predict(self, batch: Sequence[FakeDiffusion], *, low_memory: bool) -> list[int]:
        """Takes a while."""
        time.sleep(self.step_seconds)
        return super().predict(batch, low_memory=low_memory)


class SlowPainter(Painter):
    """The real painter, its engine over a :class:`SlowBackend`."""

    def __init__(self, settings: Settings, work: PictureWork) -> None:
        super().__init__(settings, work)
        self.settings = settings
        self.work = work
        self.budget = work.budget
        # What a step of the tests' canvas comes to: the order of jobs leans on it until a step was measured.
        self.slow = SlowBackend(Clock(), seconds_per_megapixel_pass=STEP_SECONDS / (2 * 72 * 56 / 1e6))
        self.engine = Engine(lambda: self.slow, self._make_queue, enabled=settings.load)

    @property
    def steps_taken(self) -> int:
        """How many steps the device has computed."""
        return len(self.slow.batches)


@contextlib.contextmanager
def running_painter(**settings: Any) -> Iterator[SlowPainter]:
    """A painter that is ready, and stopped at the end."""
    painter = SlowPainter(Settings(_env_file=None, **{"model": "demo", **settings}), PictureWork())  # type: ignore[call-arg]
    painter.start()
    assert painter.engine.wait_loaded(WAIT_SECONDS)
    try:
        yield painter
    finally:
        painter.stop(0.0)


def wait_for(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def submission(
    *, mask: bytes = MASK, key: str | None = None, deadline_at: float | None = None, **parameters: Any
) -> Submission:
    """Makes what a caller sends: a job of two steps, unless it says otherwise."""
    sent = InpaintParameters(prompt="a rose", **{"num_inference_steps": 2, **parameters})
    return Submission(IMAGE, mask, sent, key=key, deadline_at=deadline_at)


class Process:
    """What one server process has of the jobs."""

    def __init__(self, painter: SlowPainter, place: Place) -> None:
        self.painter = painter
        self.runner = JobRunner(
            painter, PictureWork(), painter.settings, lambda: place.open(lease_seconds=LEASE_SECONDS)
        )
        self.runner.start()

    @property
    def store(self) -> JobStore:
        """The store."""
        return self.runner.store

    def accept(self, sent: Submission) -> Job:
        """Accepts a job as the HTTP edge does."""
        return asyncio.run(self.runner.accept(sent, sent.decode()))[0]

    def state(self, job: Job) -> JobState:
        """Where a job is."""
        return self.store.get(job.id).state

    def wait_ended(self, *jobs: Job) -> None:
        """Waits until jobs have ended."""
        wait_for(lambda: all(self.state(job).ended for job in jobs))

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Shuts down as the service does."""
        self.runner.drain()
        self.painter.stop(drain_seconds)
        self.runner.stop()


@contextlib.contextmanager
def running(place: Place, **settings: Any) -> Iterator[Process]:
    """A process from its start to its end."""
    with running_painter(**settings) as painter:
        process = Process(painter, place)
        try:
            yield process
        finally:
            process.stop()
