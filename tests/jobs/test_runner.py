"""Accepted jobs on their way through a process."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_inpaint.errors import (
    IdempotencyConflictError,
    InpaintError,
    InvalidOutputError,
    QueueFullError,
    StateUnavailableError,
)
from sd_inpaint.imaging import codecs
from sd_inpaint.jobs.job import Job, JobState
from sd_inpaint.schema import SEED_RANDOM, InpaintRequest
from sd_inpaint.settings import Settings
from sd_inpaint.work.picture_work import PictureWork
from tests.support.pictures import photo, written
from tests.support.places import Folder, Place
from tests.support.real_time import IMAGE, Process, SlowPainter, running, submission, wait_for


@pytest.fixture
def process(place: Place) -> Iterator[Process]:
    """One process."""
    with running(place) as made:
        yield made


def test_job_ends(process: Process) -> None:
    """An accepted job is painted, and its result is what the painter gives for the same request."""
    sent = submission(seed=9)
    job = process.accept(sent)
    process.wait_ended(job)
    ended = process.store.get(job.id)
    assert (ended.state, ended.step, ended.steps, ended.runs, ended.error) == (JobState.DONE, 2, 2, 1, None)
    kept = process.store.result(job.id).decode()
    painted = asyncio.run(process.painter.paint(sent.decode()))
    assert (kept.variations[0].image.rgb == painted.variations[0].image.rgb).all()
    assert (kept.variations[0].seed, kept.steps, kept.regions) == (
        painted.variations[0].seed,
        painted.steps,
        painted.regions,
    )


def test_several_pictures(process: Process) -> None:
    """All pictures of a request are kept, each with its seed."""
    job = process.accept(submission(seed=9, num_images=3))
    process.wait_ended(job)
    kept = process.store.result(job.id).decode()
    assert [variation.seed for variation in kept.variations] == [9, 10, 11]
    assert len({variation.image.rgb.tobytes() for variation in kept.variations}) == 3


def test_nothing_to_paint(process: Process) -> None:
    """A job whose mask is black is done at once, without the device."""
    job = process.accept(submission(mask=written(photo().point(lambda value: 0))))
    process.wait_ended(job)
    assert process.store.get(job.id).steps == 0
    assert (
        process.store.result(job.id).decode().variations[0].image.rgb
        == codecs.decode_image(IMAGE, max_pixels=10_000).rgb
    ).all()
    assert process.painter.steps_taken == 0


def test_progress_is_written_down(process: Process) -> None:
    """While a job runs, another process sees its steps, an estimate, and previews; those behind it see their place."""
    process.painter.slow.step_seconds = 0.05
    job = process.accept(submission(num_inference_steps=100))
    behind = process.accept(submission(num_inference_steps=150))
    wait_for(lambda: process.store.get(job.id).preview_version >= 2)
    running_job, queued = process.store.get(job.id), process.store.get(behind.id)
    assert running_job.state is JobState.RUNNING
    assert 0 < running_job.step < running_job.steps == 100
    assert running_job.seconds_left is not None
    assert (queued.state, queued.queue_position) == (JobState.QUEUED, 1)
    assert queued.seconds_left is not None
    assert queued.seconds_left > running_job.seconds_left
    preview = process.store.preview(job.id)
    assert preview is not None
    assert preview.startswith(b"\x89PNG")


def test_full_queue(place: Place) -> None:
    """A job that the device loop does not admit is refused, and nothing is kept of it."""
    with running(place, max_queue=2) as process:
        for _ in range(2):
            process.accept(submission(num_inference_steps=150))
        with pytest.raises(QueueFullError):
            process.accept(submission())
        assert len(place.pictures()) == 4


def test_full_queue_by_work(place: Place) -> None:
    """A job too large for what is left of the queue's work is refused too, though a small one would not be."""
    with running(place, max_queue_work=0.1) as process:
        process.painter.slow.step_seconds = 0.2
        process.accept(submission())
        with pytest.raises(QueueFullError):
            process.accept(submission(num_inference_steps=150))
        process.accept(submission())
        assert len(place.pictures()) == 4


def test_retry_with_a_key(place: Place) -> None:
    """A retry of an accepted job gets that job, though the queue is full, and is not painted again."""
    with running(place, max_queue=1) as process:
        process.painter.slow.step_seconds = 0.1
        sent = submission(key="k", seed=SEED_RANDOM, num_inference_steps=4)
        job = process.accept(sent)
        again, was_there = asyncio.run(process.runner.accept(sent, sent.decode()))
        assert (again.id, was_there) == (job.id, True)
        assert process.painter.engine.waiting_canvases == 1
        with pytest.raises(IdempotencyConflictError):
            process.accept(submission(key="k"))
        with pytest.raises(QueueFullError):
            process.accept(submission(key="other"))
        process.wait_ended(job)
        assert process.painter.steps_taken == 4


def test_one_key_many_callers(process: Process) -> None:
    """Callers who come with one key at the same time get one job, painted once."""
    process.painter.slow.step_seconds = 0.1
    jobs: list[Job] = []
    callers = [threading.Thread(target=lambda: jobs.append(process.accept(submission(key="k")))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len({job.id for job in jobs}) == 1
    process.wait_ended(jobs[0])
    wait_for(lambda: process.painter.engine.waiting_canvases == 0)
    assert process.painter.engine.outcomes["done"] == 1


def test_cancelled_job_leaves_the_device_before_another_step(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is cancelled is off the device before another step, and the next one runs."""
    monkeypatch.setattr("sd_inpaint.jobs.runner.TICK_SECONDS", 60.0)
    process.painter.slow.step_seconds = 0.1
    job = process.accept(submission(num_inference_steps=150))
    next_job = process.accept(submission())
    wait_for(lambda: process.painter.steps_taken >= 1)
    taken = process.painter.steps_taken
    process.runner.cancel(job.id)
    assert process.state(job) is JobState.CANCELLED
    process.wait_ended(next_job)
    assert process.state(next_job) is JobState.DONE
    # One step may have run while the caller asked.
    assert process.painter.steps_taken <= taken + 1 + 2
    assert process.painter.engine.outcomes["cancelled"] == 1


def test_cancel_in_another_process(process: Process, place: Place) -> None:
    """A job is cancelled through any process: its own hears of it within a moment."""
    job = process.accept(submission(num_inference_steps=150))
    wait_for(lambda: process.painter.steps_taken >= 1)
    other = place.open()
    other.remove(job.id)
    other.close()
    wait_for(lambda: process.painter.engine.waiting_canvases == 0, seconds=2.0)
    assert process.painter.steps_taken < 150


def test_failed_job_says_why_and_the_next_one_runs(process: Process) -> None:
    """A job that fails says why, and the next one does not."""

    def fault(call: str, subject: object, low_memory: bool) -> None:
        if call == "finish":
            raise InvalidOutputError("The model gave no picture.")

    process.painter.slow.fault = fault
    job = process.accept(submission())
    process.wait_ended(job)
    failed = process.store.get(job.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.sentence) == ("invalid_output", "The model gave no picture.")
    process.painter.slow.fault = lambda call, subject, low_memory: None
    after = process.accept(submission())
    process.wait_ended(after)
    assert process.state(after) is JobState.DONE


def test_defect_says_nothing_of_itself(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that meets a defect fails without telling more than that."""

    def broken(*arguments: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("sd_inpaint.painter._assemble", broken)
    job = process.accept(submission())
    process.wait_ended(job)
    failed = process.store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "internal"
    assert "secret" not in failed.error.sentence


def test_deadline_frees_the_device(process: Process) -> None:
    """A job whose deadline passes while it is painted fails, and frees the device."""
    job = process.accept(submission(num_inference_steps=150, deadline_at=time.time() + 0.3))
    process.wait_ended(job)
    error = process.store.get(job.id).error
    assert error is not None
    assert error.code == "deadline_exceeded"
    assert process.painter.steps_taken < 150


def test_job_taken_over(process: Process, place: Place) -> None:
    """A process whose lease ran out (it stood still) stops to paint what another one has taken up."""
    job = process.accept(submission(num_inference_steps=150))
    wait_for(lambda: process.painter.steps_taken > 1)
    other = place.open(clock=lambda: time.time() + 60, lease_seconds=100.0)
    claimed = other.claim("another process")
    assert claimed is not None
    assert claimed[0].id == job.id
    wait_for(lambda: process.painter.engine.waiting_canvases == 0, seconds=2.0)
    assert other.get(job.id).state is JobState.QUEUED
    other.close()


def test_ends_that_cannot_be_written_at_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that meets a full disk is written when there is room again."""
    tries: list[str] = []
    finish = process.store.finish

    def hampered(job_id: str, owner: str, kept: Any) -> bool:
        tries.append(job_id)
        if len(tries) < 3:
            raise StateUnavailableError("No space left on device.")
        return finish(job_id, owner, kept)

    monkeypatch.setattr(process.store, "finish", hampered)
    job = process.accept(submission())
    process.wait_ended(job)
    assert process.state(job) is JobState.DONE
    assert tries == [job.id] * 3


def test_store_that_fails_for_a_while(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be used refuses jobs, with its reason; the runner goes on when it can be used again."""

    def broken(*arguments: object) -> Any:
        raise StateUnavailableError("No space left on device.")

    with monkeypatch.context() as patch:
        for method in ("add", "report", "claim"):
            patch.setattr(process.store, method, broken)
        with pytest.raises(StateUnavailableError, match="No space"):
            process.accept(submission(num_inference_steps=150))
        wait_for(lambda: process.painter.engine.waiting_canvases == 0)
        time.sleep(0.6)
    job = process.accept(submission())
    process.wait_ended(job)
    assert process.state(job) is JobState.DONE


def test_no_store(tmp_path: Path) -> None:
    """Without a folder to write in, jobs are refused with the reason, and the painter paints."""
    (tmp_path / "file").write_bytes(b"")
    with running(Folder(tmp_path / "file" / "jobs")) as process:
        refusals: list[Callable[[], object]] = [
            lambda: process.accept(submission()),
            lambda: process.store,
            process.runner.check_open,
            lambda: process.runner.cancel("x"),
        ]
        for call in refusals:
            with pytest.raises(StateUnavailableError, match="SD_INPAINT_STATE_DIR"):
                call()
        request: InpaintRequest = submission().decode()
        assert asyncio.run(process.painter.paint(request)).steps == 2


@pytest.mark.parametrize("load", [True, False])
def test_refusals_of_the_painter(place: Place, load: bool) -> None:
    """A job is refused for whatever a request is refused for: here a model that is not there, or a stop."""
    painter = SlowPainter(Settings(_env_file=None, model="demo", load=load), PictureWork())  # type: ignore[call-arg]
    process = Process(painter, place)
    try:
        with pytest.raises(InpaintError) as refused:
            process.accept(submission())
        assert refused.value.code == ("model_loading" if load else "model_disabled")
        assert process.store.waiting() == 0
    finally:
        process.stop()
