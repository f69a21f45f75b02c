"""The engine's life: load, serve, drain."""

import math
import threading

import numpy as np
import pytest

from sd_inpaint.engine.canvas_jobs import CanvasState
from sd_inpaint.engine.lifecycle import Engine, EngineState
from sd_inpaint.engine.queue import CanvasQueue
from sd_inpaint.errors import (
    ModelDisabledError,
    ModelFailedError,
    ModelLoadingError,
    ShuttingDownError,
    WeightsError,
)
from tests.support.simulation import Clock, FakeBackend, make_job


def make_engine(load: object, *, enabled: bool = True) -> Engine:
    """Makes an engine over a loader."""
    return Engine(
        load,  # type: ignore[arg-type]
        lambda pace: CanvasQueue(max_canvases=10, max_megapixel_steps=1e9, pace=pace),
        enabled=enabled,
    )


def test_engine_answers_while_it_loads() -> None:
    """Until the weights are there a caller is told so at once; afterwards it is served."""
    go = threading.Event()

    def load() -> FakeBackend:
        go.wait(10)
        return FakeBackend(Clock())

    engine = make_engine(load)
    engine.start()
    with pytest.raises(ModelLoadingError):
        engine.ready_loop()
    go.set()
    assert engine.wait_loaded(10)
    job = make_job()
    engine.ready_loop().submit([job])
    assert isinstance(job.future.result(10), np.ndarray)
    engine.stop(0)
    with pytest.raises(ShuttingDownError):
        engine.ready_loop()


@pytest.mark.parametrize(
    ("failure", "says"),
    [(WeightsError("no weights.\nGet some."), "Get some"), (ZeroDivisionError("x"), "ZeroDivisionError")],
)
def test_engine_that_cannot_load_says_why(failure: Exception, says: str) -> None:
    """A load that fails leaves a process that answers with the reason."""

    def load() -> FakeBackend:
        raise failure

    engine = make_engine(load)
    engine.start()
    assert engine.wait_loaded(10)
    assert engine.state is EngineState.FAILED
    with pytest.raises(ModelFailedError, match=says):
        engine.ready_loop()
    engine.stop(0)


def test_disabled_engine_loads_nothing() -> None:
    """With LOAD_SD_INPAINT=false nothing is loaded, and callers are told."""
    engine = make_engine(lambda: pytest.fail("loaded"), enabled=False)
    engine.start()
    with pytest.raises(ModelDisabledError):
        engine.ready_loop()
    engine.stop(0)


def test_stop_drains_what_runs() -> None:
    """Jobs that were accepted are finished within the drain time; nothing new is taken."""
    backend = FakeBackend(Clock())
    slow = threading.Event()
    backend.fault = lambda call, subject, low_memory: slow.wait(0.02) and None
    engine = make_engine(lambda: backend)
    engine.start()
    engine.wait_loaded(10)
    jobs = [make_job(), make_job()]
    engine.ready_loop().submit(jobs)
    engine.stop(drain_seconds=20)
    assert [job.state for job in jobs] == [CanvasState.DONE] * 2


def test_stop_ends_what_does_not_finish_in_time() -> None:
    """When the drain time is over, jobs end with shutting_down, and the thread ends."""
    backend = FakeBackend(Clock())
    slow = threading.Event()
    backend.fault = lambda call, subject, low_memory: slow.wait(0.05) and None
    engine = make_engine(lambda: backend)
    engine.start()
    engine.wait_loaded(10)
    jobs = [make_job(steps=150), make_job(steps=150)]
    engine.ready_loop().submit(jobs)
    engine.stop(drain_seconds=0.1)
    for job in jobs:
        with pytest.raises(ShuttingDownError):
            job.future.result(0)


def test_job_that_comes_too_late_is_refused() -> None:
    """A request that found the engine open, and brings its job when it has stopped, is told so and does not hang."""
    engine = make_engine(lambda: FakeBackend(Clock()))
    engine.start()
    assert engine.wait_loaded(10)
    loop = engine.ready_loop()
    engine.stop(0)
    with pytest.raises(ShuttingDownError):
        loop.submit([make_job()])


def test_stop_while_loading() -> None:
    """A stop that comes while the weights are being loaded stays a stop when they are there."""
    go = threading.Event()

    def load() -> FakeBackend:
        go.wait(10)
        return FakeBackend(Clock())

    engine = make_engine(load)
    engine.start()
    engine.stop(0)
    go.set()
    assert engine.wait_loaded(10)
    assert engine.state is EngineState.STOPPING
    with pytest.raises(ShuttingDownError):
        engine.ready_loop()


def test_age_of_a_turn_tells_a_dead_thread() -> None:
    """There is no age before the first turn; an idle engine stays young; without its thread it is infinitely old."""
    engine = make_engine(lambda: FakeBackend(Clock()))
    assert engine.turn_age_seconds == 0.0
    engine.start()
    assert engine.wait_loaded(10)
    assert engine.turn_age_seconds < 10
    engine.stop(0.0)
    assert engine.turn_age_seconds == math.inf
