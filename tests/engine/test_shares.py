"""How callers share the device: a simulated device, and callers who flood it."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.engine.canvas_jobs import CanvasJob
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.errors import QueueFullError
from tests.support.simulation import Clock, make_job, make_loop, run_until_idle

STEP_SECONDS = 10.0 * 64 * 64 / 1e6
"""Of a canvas of 64×64 pixels on the simulated device."""


@dataclass
class Flooder:
    """A caller who fills the queue as often as it lets them, in requests of these lengths in turn."""

    loop: DeviceLoop
    name: str
    steps: Iterator[int]
    side: int = 64
    refused: int = 0
    loras: Iterator[str] = field(default_factory=lambda: itertools.repeat(""))

    def flood(self, most: int = 1000) -> None:
        """Submits until the queue refuses."""
        for _ in range(most):
            try:
                job = make_job(caller=self.name, steps=next(self.steps), side=self.side, loras=next(self.loras))
                self.loop.submit([job])
            except QueueFullError:
                self.refused += 1
                return


def endless(steps: Sequence[int]) -> Iterator[int]:
    """Repeats lengths for ever."""
    while True:
        yield from steps


def response_seconds(loop: DeviceLoop, clock: Clock, job: CanvasJob, flooders: Sequence[Flooder] = ()) -> float:
    """Submits a job and runs until it has ended, while others go on flooding."""
    came = clock.now
    loop.submit([job])
    while not job.ended:
        for flooder in flooders:
            flooder.flood()
        assert loop.turn()
    return clock.now - came


@settings(deadline=None, max_examples=40)
@given(
    theirs=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    own=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    pauses=st.lists(st.integers(0, 60), min_size=5, max_size=5),
    max_canvases=st.integers(3, 8),
)
def test_a_flooder_makes_nobody_wait_longer_than_twice(
    theirs: list[int], own: list[int], pauses: list[int], max_canvases: int
) -> None:
    """Whatever one caller floods the queue with, each request of another ends within twice its idle time and a step."""
    loop, _, clock = make_loop(max_canvases=max_canvases)
    flooder = Flooder(loop, "flooder", endless(theirs))
    for steps, pause in zip(own, pauses, strict=False):
        for _ in range(pause):
            flooder.flood()
            loop.turn()
        flooder.flood()
        took = response_seconds(loop, clock, make_job(caller="victim", steps=steps), [flooder])
        assert took <= (2 * steps + 1) * STEP_SECONDS + 1e-6
    assert flooder.refused > 0


@settings(deadline=None, max_examples=15)
@given(flooders=st.integers(1, 4), steps=st.integers(1, 60), weight=st.sampled_from([0.5, 1.0, 2.0]))
def test_each_caller_has_their_share_by_weight(flooders: int, steps: int, weight: float) -> None:
    """Beside n who flood, a request of a caller of weight w ends within (n + w)/w times its idle time and a step."""
    loop, _, clock = make_loop(max_canvases=8)
    others = [Flooder(loop, f"flooder {n}", endless([7, 150])) for n in range(flooders)]
    for other in others:
        other.flood(1)
    for _ in range(50):
        for other in others:
            other.flood()
        loop.turn()
    for _ in range(3):
        job = make_job(caller="victim", weight=weight, steps=steps)
        took = response_seconds(loop, clock, job, others)
        assert took <= ((flooders + weight) / weight * steps + flooders + 1) * STEP_SECONDS + 1e-6


def test_a_share_is_of_time_and_not_of_steps() -> None:
    """A flooder's large canvases hold up a small one by one of their steps, and no more by their number."""
    loop, _, clock = make_loop(max_canvases=8)
    flooder = Flooder(loop, "flooder", endless([150]), side=512)
    flooder.flood()
    loop.turn()
    for _ in range(3):
        took = response_seconds(loop, clock, make_job(caller="victim", steps=20), [flooder])
        assert took <= 2 * 20 * STEP_SECONDS + 64 * STEP_SECONDS + 1e-6


def test_a_flooder_is_not_starved_either() -> None:
    """Beside callers who send short requests one after another, a long one gets its share and ends."""
    loop, _, clock = make_loop(max_canvases=8)
    long = make_job(caller="patient", steps=100)
    loop.submit([long])
    others = [Flooder(loop, f"caller {n}", endless([1, 2])) for n in range(3)]
    while not long.ended:
        for other in others:
            other.flood(2)
        loop.turn()
    assert clock.now <= (4 * 100 + 4) * STEP_SECONDS


def test_newcomers_without_end_do_not_starve_a_caller() -> None:
    """A caller's request ends although each of its steps brings a short request of somebody new."""
    loop, _, _ = make_loop(max_canvases=8)
    long = make_job(caller="patient", steps=20)
    loop.submit([long])
    for number in range(5 * 17 * 20):
        if long.ended:
            break
        with contextlib.suppress(QueueFullError):
            loop.submit([make_job(caller=f"newcomer {number}", steps=2)])
        loop.turn()
    assert long.ended


def test_a_caller_who_was_idle_has_saved_nothing() -> None:
    """Who comes after a long pause has no claim to more than their share from then on."""
    loop, _, clock = make_loop(max_canvases=100)
    first = Flooder(loop, "first", endless([10]))
    loop.submit([make_job(caller="second", steps=1)])
    for _ in range(1000):
        first.flood(1)
        loop.turn()
    second = Flooder(loop, "second", endless([10]))
    second.flood(90)
    took = response_seconds(loop, clock, make_job(caller="third", steps=10), [first, second])
    assert took <= (3 * 10 + 3) * STEP_SECONDS


def test_one_caller_is_served_in_their_own_order() -> None:
    """Beside others, a caller's short job still passes their long one, and equal ones keep their order."""
    loop, _, _ = make_loop()
    other = make_job(caller="other", steps=150)
    long, *equal = [make_job(caller="one", steps=steps) for steps in (50, 20, 20)]
    for job in (other, long, *equal):
        loop.submit([job])
    ended: list[CanvasJob] = []
    for job in (other, long, *equal):
        job.future.add_done_callback(lambda _, job=job: ended.append(job))
    run_until_idle(loop)
    assert ended == [*equal, long, other]


def test_batches_hold_every_caller() -> None:
    """Where canvases share a call of the model, a newcomer's is in the next one, however many others wait."""
    loop, backend, _ = make_loop(max_batch=4)
    loop.submit([make_job(caller="flooder", steps=50) for _ in range(20)])
    loop.turn()
    victim = make_job(caller="victim", steps=5)
    loop.submit([victim])
    loop.turn()
    assert victim.task in backend.batches[-1]
    assert len(backend.batches[-1]) == 4


def test_estimates_follow_the_shares() -> None:
    """Places and seconds left are those of the order in which the jobs are in fact served."""
    loop, _, clock = make_loop()
    flood = [make_job(caller="flooder", steps=30) for _ in range(5)]
    for job in flood:
        loop.submit([job])
    loop.turn()
    victim = make_job(caller="victim", steps=40)
    loop.submit([victim])
    assert loop.position(victim) == 1
    assert loop.position(flood[1]) == 2
    estimate, came = loop.seconds_left(victim), clock.now
    while not victim.ended:
        loop.turn()
    assert clock.now - came == pytest.approx(estimate, abs=STEP_SECONDS)
    assert loop.position(victim) == 0


class TestAdmission:
    """Who may have how much in the queue."""

    def test_one_caller_may_fill_the_queue(self) -> None:
        """Alone, a caller may use all of it, and is then refused."""
        loop, _, _ = make_loop(max_canvases=6)
        flooder = Flooder(loop, "flooder", endless([10]))
        flooder.flood()
        assert (len(loop.jobs()), flooder.refused) == (6, 1)
        loop.check_room("victim")
        with pytest.raises(QueueFullError):
            loop.check_room("flooder")

    def test_full_queue_takes_others_up_to_their_share(self) -> None:
        """A second caller gets half of what the first could fill; then both are refused."""
        loop, _, _ = make_loop(max_canvases=6)
        Flooder(loop, "flooder", endless([10])).flood()
        Flooder(loop, "victim", endless([10])).flood()
        assert [job.caller for job in loop.jobs()] == ["flooder"] * 6 + ["victim"] * 3
        with pytest.raises(QueueFullError, match=r"9 of 6 canvases .* 3 canvases of them yours"):
            loop.check_room("victim")
        loop.check_room("third")

    def test_share_is_by_weight(self) -> None:
        """A caller of weight 2 beside one of weight 1 gets two thirds of the bounds."""
        loop, _, _ = make_loop(max_canvases=6)
        Flooder(loop, "flooder", endless([10])).flood()
        for _ in range(4):
            loop.submit([make_job(caller="victim", weight=2.0)])
        with pytest.raises(QueueFullError):
            loop.submit([make_job(caller="victim", weight=2.0)])

    def test_work_is_shared_too(self) -> None:
        """A queue full of work, not of canvases, takes another caller's work up to their share."""
        work = make_job(steps=100).task.megapixel_steps
        loop, _, _ = make_loop(max_canvases=1000, max_megapixel_steps=4 * work)
        Flooder(loop, "flooder", endless([100])).flood()
        Flooder(loop, "victim", endless([100])).flood()
        assert [job.caller for job in loop.jobs()] == ["flooder"] * 4 + ["victim"] * 2

    def test_a_large_first_request_is_taken(self) -> None:
        """A caller with nothing in the queue gets a request in that is larger than their share of it."""
        loop, _, _ = make_loop(max_canvases=6)
        Flooder(loop, "flooder", endless([10])).flood()
        loop.submit([make_job(caller="victim") for _ in range(6)])
        assert len(loop.jobs()) == 12

    def test_any_number_of_callers_is_bounded(self) -> None:
        """Callers without number fill the queue to twice its bounds, and no further."""
        loop, _, _ = make_loop(max_canvases=6)
        for number in range(100):
            Flooder(loop, f"caller {number}", endless([10])).flood()
        assert len(loop.jobs()) == 12

    def test_retry_after_is_the_caller_s_own(self) -> None:
        """Who has had their share is asked to wait until there is room for them, not for anybody."""
        loop, backend, _ = make_loop(max_canvases=4)
        backend.seconds_per_megapixel_pass *= 100
        loop.turn()
        flooder = Flooder(loop, "flooder", endless([50]))
        flooder.flood()
        loop.turn()
        loop.submit([make_job(caller="victim", steps=10)])
        with pytest.raises(QueueFullError) as refused:
            loop.check_room("flooder")
        step_seconds = 100 * STEP_SECONDS
        assert refused.value.retry_after_seconds == pytest.approx((49 + 50 + 10) * step_seconds, abs=60 * step_seconds)


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40), st.sampled_from([64, 128])), max_size=20),
    max_batch=st.integers(1, 4),
)
def test_one_caller_s_order_is_that_without_callers(jobs: list[tuple[int, int, int]], max_batch: int) -> None:
    """A caller alone is served in the same order as before there were callers, batch by batch."""
    served = []
    for caller in ("", "only"):
        loop, backend, _ = make_loop(max_batch=max_batch)
        for seed, (steps, turns, side) in enumerate(jobs):
            loop.submit([make_job(caller=caller, steps=steps, side=side, seed=seed)])
            for _ in range(turns):
                loop.turn()
        run_until_idle(loop)
        served.append([[task.seed for task in batch] for batch in backend.batches])
    assert served[0] == served[1]


@settings(deadline=None, max_examples=20)
@given(
    theirs=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    own=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    pauses=st.lists(st.integers(0, 60), min_size=3, max_size=3),
    sets=st.lists(st.sampled_from(["", "a:1", "b:1"]), min_size=1, max_size=4),
    own_set=st.sampled_from(["", "a:1"]),
)
def test_bound_on_waiting_holds_whatever_loras_are_in_place(
    theirs: list[int], own: list[int], pauses: list[int], sets: list[str], own_set: str
) -> None:
    """Beside one who floods with LoRAs of any kind, each request of another ends within twice its idle time and a step.

    Jobs with the LoRAs in place go first only while that leaves the others their time.
    """
    loop, _, clock = make_loop(max_canvases=8)
    flooder = Flooder(loop, "flooder", endless(theirs), loras=itertools.cycle(sets))
    for steps, pause in zip(own, pauses, strict=False):
        for _ in range(pause):
            flooder.flood()
            loop.turn()
        flooder.flood()
        took = response_seconds(loop, clock, make_job(caller="victim", steps=steps, loras=own_set), [flooder])
        assert took <= (2 * steps + 1) * STEP_SECONDS + 1e-6


@pytest.mark.parametrize("flooders", [2, 3, 4])
@pytest.mark.parametrize("steps", [1, 10, 60])
def test_share_holds_beside_many_with_other_loras(flooders: int, steps: int) -> None:
    """Beside n who flood, each with a set of LoRAs, a request ends within about n + 1 times its idle time."""
    loop, _, clock = make_loop(max_canvases=8)
    others = [
        Flooder(loop, f"flooder {n}", endless([7, 150]), loras=itertools.repeat(f"{'abc'[n % 3]}:1"))
        for n in range(flooders)
    ]
    for other in others:
        other.flood(1)
    for _ in range(50):
        for other in others:
            other.flood()
        loop.turn()
    for _ in range(3):
        took = response_seconds(loop, clock, make_job(caller="victim", steps=steps), others)
        # What was left to a job when another passed it does not count those who come later.
        assert took <= 1.05 * ((flooders + 1) * steps + flooders + 1) * STEP_SECONDS


def test_loras_in_place_save_switches_between_callers() -> None:
    """Of many callers with two sets of LoRAs in turn, those with the set in place go first: fewer switches, no less."""
    sets = itertools.cycle(["a:1", "b:1"])
    loop, backend, _ = make_loop(max_canvases=100)
    jobs = [make_job(caller=f"caller {n}", steps=10, loras=next(sets)) for n in range(12)]
    for job in jobs:
        loop.submit([job])
    run_until_idle(loop)
    assert all(job.future.done() for job in jobs)
    assert backend.switches <= 6  # of 12 in the order of arrival
