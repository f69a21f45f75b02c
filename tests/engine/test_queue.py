"""Who may wait and who goes next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_inpaint.engine.queue import CanvasQueue, Order, Pace
from sd_inpaint.errors import QueueFullError
from tests.support.simulation import make_job, make_loop, run_until_idle


def make_queue(max_canvases: int = 4, max_megapixel_steps: float = 1e9) -> CanvasQueue:
    """Makes a queue over a device that takes ten seconds a megapixel-pass."""
    return CanvasQueue(max_canvases=max_canvases, max_megapixel_steps=max_megapixel_steps, pace=Pace(10.0))


def test_equal_jobs_are_served_as_they_come() -> None:
    """Jobs of one length have the device in the order of their arrival."""
    queue = make_queue()
    jobs = [make_job() for _ in range(4)]
    for second, job in enumerate(jobs):
        queue.admit([job], now=float(second))
    served = []
    while (batch := queue.next_batch(1)) != []:
        served += batch
        queue.remove(batch[0])
    assert served == jobs


def test_queue_is_bounded_by_jobs() -> None:
    """One job more than the bound is refused, with a wait in whole seconds of at least one."""
    queue = make_queue(max_canvases=2)
    queue.admit([make_job(), make_job()], now=0.0)
    with pytest.raises(QueueFullError) as refused:
        queue.admit([make_job()], now=0.0)
    assert refused.value.retry_after_seconds >= 1
    assert len(queue) == 2


def test_queue_is_bounded_by_work() -> None:
    """A queue with room for jobs, but not for their work, refuses."""
    work = make_job(steps=100, side=512).task.megapixel_steps
    queue = make_queue(max_canvases=100, max_megapixel_steps=1.5 * work)
    queue.admit([make_job(steps=100, side=512)], now=0.0)
    with pytest.raises(QueueFullError):
        queue.admit([make_job(steps=100, side=512)], now=0.0)
    queue.admit([make_job(steps=10, side=512)], now=0.0)


def test_empty_queue_takes_a_job_beyond_its_bound() -> None:
    """A request too large for the bounds is served when nobody else waits."""
    queue = make_queue(max_canvases=1, max_megapixel_steps=0.001)
    queue.admit([make_job(steps=150, side=512), make_job()], now=0.0)
    assert len(queue) == 2


def test_retry_after_follows_the_measured_pace() -> None:
    """A device that is ten times slower has callers wait ten times longer."""
    waits = []
    for seconds_per_megapixel_pass in (10.0, 100.0):
        queue = CanvasQueue(max_canvases=1, max_megapixel_steps=1e9, pace=Pace(seconds_per_megapixel_pass))
        queue.admit([make_job(steps=50, side=512)], now=0.0)
        with pytest.raises(QueueFullError) as refused:
            queue.admit([make_job()], now=0.0)
        waits.append(refused.value.retry_after_seconds)
    assert waits[1] == pytest.approx(10 * waits[0], rel=0.02)  # rounded up to whole seconds


def test_pace_takes_the_first_measurement_whole() -> None:
    """A guess from a table counts for nothing once a step was measured; later steps are smoothed."""
    pace = Pace(1000.0)
    pace.observe(megapixel_passes=2.0, seconds=4.0)
    assert pace.seconds_per_megapixel_pass == 2.0
    pace.observe(megapixel_passes=2.0, seconds=8.0)
    assert 2.0 < pace.seconds_per_megapixel_pass < 4.0


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 1000), st.floats(0.1, 1000)), min_size=2, max_size=20),
    patience=st.floats(1, 10),
)
def test_rank_keeps_both_promises(arrivals: list[tuple[float, float]], patience: float) -> None:
    """A longer job goes first only with the stated head start; a late one never passes."""
    order = Order(patience)
    for first, first_length in arrivals:
        for second, second_length in arrivals:
            first_goes = order.rank(first, first_length) < order.rank(second, second_length)
            if first_goes and first_length > second_length:
                assert second - first >= patience * (first_length - second_length) * (1 - 1e-9) - 1e-6
            if first > second + patience * second_length:
                assert not first_goes


@pytest.mark.parametrize("patience", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("head_start", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_short_job_waits_at_most_its_own_length_for_a_long_one(patience: float, head_start: float) -> None:
    """However far a lone long job is, a short newcomer waits its own length for it at most, plus one step."""
    loop, backend, clock = make_loop(patience=patience)
    long, short = make_job(steps=100), make_job(steps=10)
    step_seconds = backend.seconds_per_megapixel_pass * long.task.megapixel_passes_per_step
    loop.submit([long])
    while clock.now < head_start * 100 * step_seconds:
        loop.turn()
    came = clock.now
    loop.submit([short])
    while not short.ended:
        loop.turn()
    waited = clock.now - came - 10 * step_seconds
    assert waited <= 10 * step_seconds + step_seconds + 1e-9


def test_long_job_is_not_starved_by_a_stream_of_short_ones() -> None:
    """Short jobs that keep coming, faster than the device serves them, do not keep a long one from ending."""
    loop, backend, clock = make_loop(patience=2.0, max_canvases=10_000)
    long = make_job(steps=100)
    length = 100 * backend.seconds_per_megapixel_pass * long.task.megapixel_passes_per_step
    loop.submit([long])
    while not long.ended:
        if clock.now < 10 * length:
            loop.submit([make_job(steps=2)])
        loop.turn()
    # Only those may pass that come within patience × length; they bring twice what the device serves meanwhile.
    assert clock.now <= (2 * 2.0 + 1) * length * 1.05
    run_until_idle(loop)


def test_batch_holds_one_canvas_size() -> None:
    """Jobs of the leader's canvas size share its turn; others wait for one of their own."""
    queue = make_queue(max_canvases=10)
    for side in (64, 128, 64, 64, 128):
        queue.admit([make_job(side=side)], now=float(len(queue)))
    assert [job.task.size for job in queue.next_batch(4)] == [(64, 64)] * 3
    assert len(queue.next_batch(2)) == 2


def test_batch_holds_one_plan() -> None:
    """A job that began with one plan shares no call with those of another; those that are yet to begin take today's."""
    queue = make_queue(max_canvases=10)
    for plan in ("old", "", "new", "old", ""):
        job = make_job()
        job.plan = plan
        queue.admit([job], now=float(len(queue)))
    old, first, new, _, second = queue
    assert [job.plan for job in queue.next_batch(5, plan="new")] == ["old", "old"]
    queue.remove(old)
    assert queue.next_batch(5, plan="new") == [first, new, second]
    assert queue.next_batch(5, plan="old")[0] is first


def test_one_callers_jobs_with_the_loras_in_place_go_first() -> None:
    """Jobs of one caller with two sets of LoRAs in turn take one switch a set, and not one a job."""
    loop, backend, _ = make_loop()
    jobs = [make_job(steps=10, loras=("a:1", "b:1")[n % 2]) for n in range(8)]
    for job in jobs:
        loop.submit([job])
    run_until_idle(loop)
    assert backend.switches == 2


def test_short_job_waits_at_most_its_own_length_for_a_long_one_with_other_loras() -> None:
    """That a long job's LoRAs are in place does not keep a short newcomer waiting for longer than its own length."""
    for head_start in (0, 20, 50, 89, 95):
        loop, backend, clock = make_loop()
        long, short = make_job(steps=100, loras="a:1"), make_job(steps=10, loras="b:1")
        step_seconds = backend.seconds_per_megapixel_pass * long.task.megapixel_passes_per_step
        loop.submit([long])
        for _ in range(head_start):
            loop.turn()
        came = clock.now
        loop.submit([short])
        while not short.ended:
            loop.turn()
        assert clock.now - came <= (10 + 10 + 1) * step_seconds + 1e-9
        assert backend.switches <= 3


def test_stream_with_the_loras_in_place_starves_nobody() -> None:
    """Jobs that keep coming with the LoRAs in place pass another only while newer ones may rank before it."""
    loop, backend, clock = make_loop(max_canvases=10_000)
    other = make_job(steps=10, loras="b:1")
    length = 10 * backend.seconds_per_megapixel_pass * other.task.megapixel_passes_per_step
    loop.submit([make_job(steps=10, loras="a:1")])
    loop.turn()
    loop.submit([other])
    while not other.ended:
        if clock.now < 20 * length:
            loop.submit([make_job(steps=1, loras="a:1")])
        loop.turn()
    # The first of them, those that came within patience × length, and its own.
    assert clock.now <= (1 + 2.0 + 1) * length * 1.05
    run_until_idle(loop)


def test_batch_holds_one_set_of_loras() -> None:
    """Jobs with the leader's LoRAs share its call; others wait for one of their own."""
    queue = make_queue(max_canvases=10)
    for loras in ("a:1", "", "a:1", "a:0.5", "a:1"):
        queue.admit([make_job(loras=loras)], now=float(len(queue)))
    assert [job.loras for job in queue.next_batch(4)] == ["a:1"] * 3
