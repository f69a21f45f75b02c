"""Several devices at one queue."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from sd_inpaint.engine.backend import DeviceLostError
from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasState
from sd_inpaint.engine.lifecycle import Engine, EngineState
from sd_inpaint.engine.loop import MAX_LOSSES, DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import EngineCrashedError, ModelLoadingError, RequestCancelledError
from sd_inpaint.imaging.geometry import CanvasLimits
from tests.support.real_time import wait_for
from tests.support.simulation import Clock, FakeBackend, make_job


def make_devices(count: int, *, max_batch: int = 1) -> tuple[DeviceLoop, list[FakeBackend]]:
    """Makes a loop with so many devices, on one clock."""
    clock = Clock()
    backends = [FakeBackend(clock, max_batch=max_batch) for _ in range(count)]
    queue = CanvasQueue(max_canvases=100, max_megapixel_steps=1e9, pace=Pace(backends[0].seconds_per_megapixel_pass))
    loop = DeviceLoop(backends[0], queue, clock)
    for number, backend in enumerate(backends[1:], start=1):
        loop.join(number, backend)
    return loop, backends


def submit(loop: DeviceLoop, count: int, **task: object) -> list[CanvasJob]:
    """Submits jobs with seeds that count up from 1."""
    jobs = [make_job(seed=number, **task) for number in range(1, count + 1)]
    for job in jobs:
        loop.submit([job])
    return jobs


def break_at_call(name: str) -> Callable[[str, object, bool], None]:
    """A device that is lost when it is asked to do something."""

    def fault(call: str, subject: object, low_memory: bool) -> None:
        if call == name:
            raise DeviceLostError("gone")

    return fault


def seeds(backend: FakeBackend) -> list[list[int]]:
    """The seeds of each batch that a device had."""
    return [[task.seed for task in batch] for batch in backend.batches]


def test_free_device_takes_what_is_next() -> None:
    """Each device takes one of the waiting canvases, and goes on with it; the third waits for the first to be free."""
    loop, (first, second) = make_devices(2)
    submit(loop, 3, steps=2)
    for number in (0, 1, 0, 1, 0, 0):
        loop.turn(number)
    assert seeds(first) == [[1], [1], [3], [3]]
    assert seeds(second) == [[2], [2]]
    assert not loop.jobs()


def test_devices_share_what_waits_rather_than_one_batching_it_all() -> None:
    """Four canvases on two devices are two batches of two: one of four would leave a device idle."""
    loop, (first, second) = make_devices(2, max_batch=8)
    submit(loop, 4, steps=2)
    loop.turn(0)
    loop.turn(1)
    assert seeds(first) == [[1, 2]]
    assert seeds(second) == [[3, 4]]


def test_lost_device_loses_no_canvas() -> None:
    """What was on a device that is gone is painted by another, from its start, with its own seed."""
    loop, (first, second) = make_devices(2)
    jobs = submit(loop, 2, steps=2)
    loop.turn(0)
    loop.turn(1)
    first.fault = break_at_call("predict")
    with pytest.raises(DeviceLostError):
        loop.turn(0)
    assert (loop.devices, loop.lost_devices) == ((1,), 1)
    assert (jobs[0].state, jobs[0].step) == (CanvasState.QUEUED, 0)
    while loop.turn(1):
        pass
    for job in jobs:
        assert np.array_equal(job.future.result(0), np.full((64, 64, 3), job.task.seed, np.uint8))  # type: ignore[union-attr]
    assert seeds(second) == [[2], [1], [1], [2]], "it came first, and so goes before what runs there"


def test_canvas_that_brings_devices_down_is_given_up() -> None:
    """After a few devices it ends with an error, and no more of them are lost to it."""
    loop, backends = make_devices(MAX_LOSSES + 1)
    (job,) = submit(loop, 1)
    for number, backend in enumerate(backends[:MAX_LOSSES]):
        assert not job.ended
        backend.fault = break_at_call("begin")
        with pytest.raises(DeviceLostError):
            loop.turn(number)
    with pytest.raises(EngineCrashedError):
        job.future.result(0)
    assert loop.devices == (MAX_LOSSES,)


def test_device_that_joins_again_works() -> None:
    """A device that was loaded again takes its part."""
    loop, (first, second) = make_devices(2)
    second.fault = break_at_call("begin")
    submit(loop, 1)
    with pytest.raises(DeviceLostError):
        loop.turn(1)
    loop.join(1, FakeBackend(Clock()))
    assert loop.lost_devices == 0
    assert loop.turn(1)
    assert not first.batches


def test_caller_who_leaves_in_the_middle_of_a_step_on_another_device() -> None:
    """Its canvas is not taken away under that device's hands; it ends before that device's next step."""
    loop, (first, _) = make_devices(2)
    (job,) = submit(loop, 1, steps=3)

    def leave(call: str, subject: object, low_memory: bool) -> None:
        if call == "predict":
            loop.leave([job], RequestCancelledError("gone"))
            loop.turn(1)
            assert not job.ended

    first.fault = leave
    loop.turn(0)
    assert job.ended
    assert len(first.batches) == 1


def test_smaller_device_leaves_large_canvases_to_others() -> None:
    """The first device's limits decide what is accepted; one that holds less does not take the largest."""
    loop, (first, second) = make_devices(2)
    second.limits = CanvasLimits(native_size=64, stride=8, max_pixels=64 * 64)
    submit(loop, 1, side=128, steps=1)
    assert not loop.turn(1)
    assert loop.turn(0)
    assert first.batches


def test_estimates_know_how_many_devices_there_are() -> None:
    """Eight equal canvases on four devices are done after twice the time of one, and four of them run at once."""
    loop, backends = make_devices(4)
    jobs = submit(loop, 8, steps=1)
    one = backends[0].seconds_per_megapixel_pass * jobs[0].task.megapixel_passes_per_step
    assert loop.waiting_seconds() == pytest.approx(2 * one)
    assert loop.position(jobs[3]) == 0
    assert loop.position(jobs[4]) == 1
    assert loop.seconds_left(jobs[4]) == pytest.approx(2 * one)
    assert loop.places == 4


class TestEngine:
    """The devices' threads."""

    def start(self, *backends: FakeBackend) -> Engine:
        """Starts an engine over backends that load at once; each can be loaded again."""
        first, *further = [lambda backend=backend: backend for backend in backends]
        engine = Engine(
            first,
            lambda pace: CanvasQueue(max_canvases=100, max_megapixel_steps=1e9, pace=pace),
            enabled=True,
            further=lambda: further,
        )
        engine.start()
        assert engine.wait_loaded(10)
        wait_for(lambda: engine.devices == len(backends))
        return engine

    def test_devices_work_at_once(self) -> None:
        """While one device is in the middle of a step, another takes one."""
        go = threading.Event()
        at_once = threading.Barrier(2, action=go.set)

        def meet(call: str, subject: object, low_memory: bool) -> None:
            if call == "predict" and not go.is_set():
                at_once.wait(20)

        engine = self.start(FakeBackend(Clock(), fault=meet), FakeBackend(Clock(), fault=meet))
        jobs = submit(engine.ready_loop(), 2, steps=1)
        for job in jobs:
            job.future.result(20)
        engine.stop(0)

    def test_lost_device_is_loaded_again_while_the_other_serves(self) -> None:
        """The engine stays ready, and has both again."""
        broken = threading.Event()

        def fault(call: str, subject: object, low_memory: bool) -> None:
            if call == "begin" and not broken.is_set():
                broken.set()
                raise DeviceLostError("gone")

        engine = self.start(FakeBackend(Clock()), FakeBackend(Clock(), fault=fault))
        jobs = submit(engine.ready_loop(), 6, steps=1)
        for job in jobs:
            job.future.result(20)
        assert engine.state is EngineState.READY
        if broken.is_set():
            wait_for(lambda: engine.devices == 2)
        engine.stop(0)

    def test_without_any_device_it_loads(self) -> None:
        """Whoever comes while the only device is being loaded again is told so, and what waits is painted after it."""
        lost = threading.Event()

        def fault(call: str, subject: object, low_memory: bool) -> None:
            if call == "begin" and not lost.is_set():
                lost.set()
                raise DeviceLostError("gone")

        engine = self.start(FakeBackend(Clock(), fault=fault))
        (job,) = submit(engine.ready_loop(), 1, steps=1)
        assert lost.wait(10)
        wait_for(lambda: engine.state is EngineState.LOADING or job.ended)
        if not job.ended:
            with pytest.raises(ModelLoadingError):
                engine.ready_loop()
        job.future.result(20)
        wait_for(lambda: engine.state is EngineState.READY)
        started = time.monotonic()
        engine.stop(0)
        assert time.monotonic() - started < 10
