"""The device loop, turned by hand on a fake device and a clock of its own."""

import gc
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState
from sd_inpaint.errors import (
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    InvalidOutputError,
    OutOfMemoryError,
    QueueFullError,
    RequestCancelledError,
)
from tests.support.simulation import make_job, make_loop, out_of_memory_once, run_until_idle


def test_job_ends_with_its_own_picture() -> None:
    """A job goes through all its steps and ends with what was painted for it."""
    loop, _, _ = make_loop()
    job = make_job(steps=5, seed=7)
    loop.submit([job])
    assert run_until_idle(loop) == 5
    assert job.state is CanvasState.DONE
    assert job.step == job.steps == 5
    assert (job.future.result(0) == 7).all()
    assert job.device_seconds > 0
    assert loop.outcomes == {"done": 1}


def test_jobs_join_between_steps() -> None:
    """With room in the batch, a newcomer of the same size shares the very next call."""
    loop, backend, _ = make_loop(max_batch=4)
    first, second = make_job(steps=4), make_job(steps=2)
    loop.submit([first])
    loop.turn()
    loop.submit([second])
    loop.turn()
    assert [len(batch) for batch in backend.batches] == [1, 2]
    run_until_idle(loop)
    assert [len(batch) for batch in backend.batches] == [1, 2, 2, 1]


def test_cancel_in_the_queue_costs_no_step() -> None:
    """A job that is cancelled before its turn ends at once and never meets the device."""
    loop, backend, _ = make_loop()
    running, waiting = make_job(), make_job()
    loop.submit([running])
    loop.turn()
    loop.submit([waiting])
    loop.leave([waiting], RequestCancelledError("gone"))
    assert waiting.state is CanvasState.CANCELLED
    run_until_idle(loop)
    assert all(waiting.task not in batch for batch in backend.batches)
    with pytest.raises(RequestCancelledError):
        waiting.future.result(0)


def test_cancel_between_steps_frees_the_device_before_the_next() -> None:
    """A job that is cancelled at step 3 of 100 takes no fourth step and gives no picture."""
    loop, backend, _ = make_loop()
    job = make_job(steps=100)
    loop.submit([job])
    for _ in range(3):
        loop.turn()
    loop.leave([job], RequestCancelledError("gone"))
    assert not loop.turn()
    assert len(backend.batches) == 3
    assert not loop._seats[0].begun
    with pytest.raises(RequestCancelledError):
        job.future.result(0)


def test_cancel_during_the_last_step_gives_no_picture() -> None:
    """A caller who leaves while the last step runs gets the error, not a picture nobody waits for."""
    loop, backend, _ = make_loop()
    job = make_job(steps=1)
    backend.fault = lambda call, subject, low_memory: (
        loop.leave([job], RequestCancelledError("gone")) if call == "advance" else None
    )
    loop.submit([job])
    run_until_idle(loop)
    assert job.state is CanvasState.CANCELLED


def test_deadline_ends_a_job_between_steps() -> None:
    """A job past its deadline leaves before its next step, and says how far it was."""
    loop, _, clock = make_loop()
    job = make_job(steps=100)
    loop.submit([job], deadline_seconds=10.0)
    loop.turn()
    clock.now += 11.0
    run_until_idle(loop)
    with pytest.raises(DeadlineExceededError, match="1 of 100 steps"):
        job.future.result(0)


def test_request_of_several_canvases_is_admitted_whole_or_not() -> None:
    """Where only some of a request's jobs fit, none is taken."""
    loop, _, _ = make_loop(max_canvases=3)
    loop.submit([make_job(), make_job()])
    with pytest.raises(QueueFullError):
        loop.submit([make_job(), make_job()])
    assert len(loop.jobs()) == 2
    assert loop.outcomes["queue_full"] == 1


def test_out_of_memory_is_tried_again_the_lean_way() -> None:
    """A job that runs out of memory is retried once with lean set, after the memory was given back."""
    loop, backend, _ = make_loop()
    backend.fault = out_of_memory_once()
    job = make_job()
    loop.submit([job])
    run_until_idle(loop)
    assert job.state is CanvasState.DONE
    assert job.low_memory
    assert backend.released >= 1


def test_out_of_memory_twice_is_an_error_for_that_job_only() -> None:
    """A job that does not fit even the lean way fails; the next one is served."""
    loop, backend, _ = make_loop()

    def fault(call: str, subject: object, low_memory: bool) -> None:
        if call == "begin" and subject.seed == 1:  # type: ignore[attr-defined]
            raise OutOfMemoryError("too much")

    backend.fault = fault
    large, small = make_job(seed=1), make_job(seed=2)
    loop.submit([large])
    loop.submit([small])
    run_until_idle(loop)
    assert large.state is CanvasState.FAILED
    assert small.state is CanvasState.DONE


@pytest.mark.parametrize("call", ["begin", "predict", "advance", "finish"])
@pytest.mark.parametrize("max_batch", [1, 4])
def test_defect_fails_its_job_alone(call: str, max_batch: int) -> None:
    """An unexpected exception for one job, in whatever call, leaves the others of its batch their pictures."""
    loop, backend, _ = make_loop(max_batch=max_batch)
    jobs = [make_job(seed=seed) for seed in range(4)]

    def fault(current: str, subject: object, low_memory: bool) -> None:
        task = getattr(subject, "task", subject)
        if current == call and task is jobs[2].task:
            raise ZeroDivisionError("a defect")

    backend.fault = fault
    for job in jobs:
        loop.submit([job])
    run_until_idle(loop)
    assert [job.state for job in jobs] == [CanvasState.DONE, CanvasState.DONE, CanvasState.FAILED, CanvasState.DONE]
    with pytest.raises(EngineCrashedError):
        jobs[2].future.result(0)


def test_preview_is_made_only_for_those_who_want_it() -> None:
    """A job without an audience costs no preview."""
    loop, _, _ = make_loop()
    plain, watched = make_job(), make_job(wants_preview=True)
    for job in (plain, watched):
        loop.submit([job])
    run_until_idle(loop)
    assert plain.preview is None
    assert watched.preview is not None


FAULTS = {
    "none": None,
    "out of memory": OutOfMemoryError("too much"),
    "not a number": InvalidOutputError("NaN"),
    "defect": ZeroDivisionError("a defect"),
}
event = st.one_of(
    st.tuples(
        st.just("arrive"),
        st.integers(1, 12),
        st.sampled_from([64, 128, 192]),
        st.sampled_from(sorted(FAULTS)),
        st.sampled_from(["begin", "predict", "advance", "finish"]),
        st.integers(0, 11),
        st.booleans(),
        st.floats(0.5, 200.0),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("turn"), st.integers(1, 10)),
    st.tuples(st.just("sleep"), st.floats(0.0, 20.0)),
)


@dataclass
class Plan:
    """What is to go wrong with one job: which error, in which call, at which step, and whether lean helps."""

    error: str
    call: str
    step: int
    lean_too: bool

    def strikes(self, call: str, subject: object, *, low_memory: bool) -> bool:
        """Says whether this is the call that fails."""
        if self.error == "none" or call != self.call or (low_memory and not self.lean_too):
            return False
        return call in ("begin", "finish") or subject.step == self.step  # type: ignore[attr-defined]

    def check(self, job: CanvasJob) -> None:
        """Asserts that a job ended as planned."""
        meets = self.error != "none" and (self.call in ("begin", "finish") or self.step < job.steps)
        # Out of memory is tried a second, leaner way, but for a scheduler's step, which has none.
        survives = self.error == "out of memory" and not self.lean_too and self.call != "advance"
        if job.state is CanvasState.DONE:
            assert (job.future.result(0) == job.task.seed % 251).all()
            assert not meets or survives
        elif job.state is CanvasState.CANCELLED:
            with pytest.raises((RequestCancelledError, DeadlineExceededError)):
                job.future.result(0)
        else:
            assert meets
            assert not survives
            with pytest.raises(InpaintError):
                job.future.result(0)


@dataclass
class World:
    """A loop with jobs that come, leave and fail; ``ends`` counts how often each one's future was set."""

    max_batch: int
    max_canvases: int
    jobs: list[CanvasJob] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    refused: int = 0

    def __post_init__(self) -> None:
        self.loop, self.backend, self.clock = make_loop(max_batch=self.max_batch, max_canvases=self.max_canvases)
        self.backend.fault = self.fault

    def fault(self, call: str, subject: object, low_memory: bool) -> None:
        """Raises what the job's plan says."""
        plan = self.plans[getattr(subject, "task", subject).seed]  # type: ignore[attr-defined]
        if plan.strikes(call, subject, low_memory=low_memory):
            error = FAULTS[plan.error]
            assert error is not None
            raise error

    def arrive(self, steps: int, side: int, plan: Plan, deadline_seconds: float) -> None:
        """Submits one job, if there is room."""
        job = make_job(steps=steps, side=side, seed=len(self.plans))
        self.plans.append(plan)
        try:
            self.loop.submit([job], deadline_seconds=deadline_seconds)
        except QueueFullError:
            self.refused += 1
            return
        job.future.add_done_callback(lambda _: self.ends.update([job.number]))
        self.jobs.append(job)

    def happen(self, what: str, *details: Any) -> None:
        """Has one event take place."""
        if what == "arrive":
            steps, side, error, call, step, lean_too, deadline_seconds = details
            self.arrive(steps, side, Plan(error, call, step, lean_too), deadline_seconds)
        elif what == "cancel" and self.jobs:
            self.loop.leave([self.jobs[details[0] % len(self.jobs)]], RequestCancelledError("gone"))
        elif what == "turn":
            for _ in range(details[0]):
                self.loop.turn()
        elif what == "sleep":
            self.clock.now += details[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(event, min_size=20, max_size=80), max_batch=st.integers(1, 4), max_canvases=st.integers(1, 20))
def test_every_job_ends_once_whatever_happens(events: list[tuple[Any, ...]], max_batch: int, max_canvases: int) -> None:
    """Random arrivals, cancellations, sizes and faults, hundreds of jobs in all: each ends exactly once, rightly.

    The fake device asserts that it is never used twice at once, never decodes a half-denoised picture, and never
    mixes canvas sizes.
    """
    world = World(max_batch, max_canvases)
    for happening in events:
        world.happen(*happening)
    run_until_idle(world.loop)
    assert all(world.ends[job.number] == 1 for job in world.jobs)
    assert world.loop.outcomes["queue_full"] == world.refused
    assert sum(world.loop.outcomes.values()) == len(world.jobs) + world.refused
    for job in world.jobs:
        world.plans[job.task.seed].check(job)


def test_memory_returns_to_where_it_was() -> None:
    """Once jobs have ended, done or not, the loop holds on to none of them."""
    loop, backend, _ = make_loop(max_batch=3)
    alive = []
    for seed in range(30):
        job = make_job(seed=seed)
        alive.append(weakref.ref(job.task.image))
        loop.submit([job])
        if seed % 3 == 0:
            loop.leave([job], RequestCancelledError("gone"))
        del job
    run_until_idle(loop)
    backend.batches.clear()
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


def test_age_of_a_turn_grows_until_the_next() -> None:
    """A loop that takes no turn grows older by its clock; a turn makes it young, even one with nothing to do."""
    loop, _, clock = make_loop()
    clock.now += 100.0
    assert loop.turn_age_seconds() == 100.0
    assert not loop.turn()
    assert loop.turn_age_seconds() == 0.0


def test_canvas_knows_when_it_began_and_ended() -> None:
    """Its time in the queue ends with its first step, and its time on the device with its picture."""
    loop, _, clock = make_loop()
    job = make_job()
    loop.submit([job])
    clock.now += 5.0
    assert (job.began_at, job.ended_at) == (None, None)
    began_at = clock.now
    run_until_idle(loop)
    assert job.began_at == began_at
    assert job.ended_at == clock.now > began_at
