"""Accepted jobs through the end of their process: killed, stopped, or taken for dead."""

import time
from typing import Any

import pytest

from sd_inpaint.errors import (
    QueueFullError,
    ShuttingDownError,
)
from sd_inpaint.jobs.job import Job, JobState, Submission
from sd_inpaint.jobs.runner import CLAIM_SECONDS
from sd_inpaint.schema import SEED_RANDOM
from tests.support.places import Place
from tests.support.real_time import IMAGE, running, submission, wait_for


def crashed(place: Place, *sent: Submission, deadline_at: float | None = None) -> list[Job]:
    """Leaves jobs as a process does that is killed: accepted, owned, and nobody at work on them."""
    store = place.open(lease_seconds=0.0)
    jobs = [store.add(one, "a dead process")[0] for one in sent]
    store.close()
    return jobs


def seeded(seed: int, **parameters: Any) -> Submission:
    """Makes a submission as it is when it has been accepted."""
    sent = submission(seed=seed, **parameters)
    return Submission(sent.image, sent.mask, sent.parameters, seed=seed, deadline_at=sent.deadline_at)


def test_jobs_of_a_dead_process_are_run(place: Place) -> None:
    """What a killed process had accepted is painted by the next one, with the seeds of its acceptance."""
    jobs = crashed(place, *(seeded(seed) for seed in range(5)))
    with running(place) as process:
        process.wait_ended(*jobs)
        for seed, job in enumerate(jobs):
            ended = process.store.get(job.id)
            assert (ended.state, ended.runs) == (JobState.DONE, 2)
            assert process.store.result(job.id).seeds == (seed,)


def test_promised_places_come_before_new_ones(place: Place) -> None:
    """Jobs from before a restart are run though the queue is full, and new ones are refused while too many wait."""
    jobs = crashed(place, *(seeded(seed, num_inference_steps=100) for seed in range(3)))
    with running(place, max_queue=1) as process:
        with pytest.raises(QueueFullError) as full:
            process.accept(submission())
        assert full.value.retry_after_seconds >= 1
        # Two are in the loop at a time, which has room for one.
        wait_for(lambda: process.painter.engine.waiting_canvases == 2)
        process.wait_ended(*jobs)
        assert {process.state(job) for job in jobs} == {JobState.DONE}
        process.wait_ended(process.accept(submission()))


def test_deadline_over_a_restart(place: Place) -> None:
    """A caller's own deadline goes on while no process runs."""
    (job,) = crashed(place, seeded(1, deadline_at=time.time() - 1))
    with running(place) as process:
        process.wait_ended(job)
        error = process.store.get(job.id).error
        assert error is not None
        assert error.code == "deadline_exceeded"


def test_damaged_upload(place: Place) -> None:
    """A job whose kept upload is damaged fails; the next one is run."""
    bad, good = crashed(place, seeded(1), seeded(2))
    place.spoil(bad.id, "image", IMAGE[:100])
    with running(place) as process:
        process.wait_ended(bad, good)
        error = process.store.get(bad.id).error
        assert error is not None
        assert error.code == "invalid_image"
        assert process.state(good) is JobState.DONE


def test_shutdown_ends_what_runs_and_gives_the_rest_back(place: Place) -> None:
    """Within the drain time the running job ends; those that had not begun wait for the next start, and run there."""
    with running(place) as process:
        first = process.accept(submission(num_inference_steps=90))
        rest = [process.accept(submission(seed=SEED_RANDOM, num_inference_steps=100)) for _ in range(3)]
        wait_for(lambda: process.state(first) is JobState.RUNNING)
        process.runner.drain()
        wait_for(lambda: process.store.waiting() == 3)
        wait_for(lambda: process.state(first) is JobState.DONE)
        # Until the painter stops, this process could take them up again.
        time.sleep(1.2 * CLAIM_SECONDS)
        assert process.store.waiting() == 3
        process.stop(drain_seconds=30.0)
        with pytest.raises(ShuttingDownError):
            process.accept(submission())
        with pytest.raises(ShuttingDownError):
            process.store.get(first.id)
    with running(place) as process:
        process.painter.slow.step_seconds = 0.0
        assert process.state(first) is JobState.DONE
        process.wait_ended(*rest)
        for job in rest:
            ended = process.store.get(job.id)
            assert (ended.state, ended.runs) == (JobState.DONE, 1)
            assert process.store.result(job.id).seeds == (job.parameters.seed,)


def test_shutdown_gives_back_what_runs_longer(place: Place) -> None:
    """A job that does not end within the drain time is not failed: the next start runs it from its first step."""
    with running(place) as process:
        job = process.accept(submission(num_inference_steps=150))
        wait_for(lambda: process.painter.steps_taken > 3)
        process.stop(drain_seconds=0.1)
    with running(place) as process:
        process.painter.slow.step_seconds = 0.0
        process.wait_ended(job)
        assert process.state(job) is JobState.DONE
        assert process.painter.steps_taken == 150


def test_two_processes_share_the_work(place: Place) -> None:
    """What one process gives back, another one takes up at once."""
    with running(place) as one, running(place) as other:
        jobs = [one.accept(submission(num_inference_steps=20, seed=seed)) for seed in range(3)]
        one.stop(drain_seconds=30.0)
        other.wait_ended(*jobs)
        assert {other.state(job) for job in jobs} == {JobState.DONE}
        assert one.painter.steps_taken + other.painter.steps_taken == 60
