"""Stores of accepted jobs: each behaves the same, for any number of processes."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pytest

from sd_inpaint.errors import IdempotencyConflictError, JobNotFoundError, StateUnavailableError
from sd_inpaint.jobs.job import MAX_RUNS, JobError, JobResult, JobState, JobStore, Kept
from sd_inpaint.picture import Picture
from sd_inpaint.schema import SEED_RANDOM, InpaintResult, Variation
from tests.support.pictures import photo
from tests.support.places import Place
from tests.support.simulation import Clock
from tests.support.submissions import IMAGE, LEASE, MASK, ME, OTHER, TTL, progress, result, submission


class MakeStore(Protocol):
    """Opens one more view on the same jobs, as another process does."""

    def __call__(self) -> JobStore:
        """Opens it."""


@pytest.fixture
def clock() -> Clock:
    """Unix time that passes only when told to."""
    return Clock(now=1_000_000.0)


@pytest.fixture
def make_store(request: pytest.FixtureRequest, place: Place, clock: Clock) -> MakeStore:
    """Makes stores of one kind after another; all of one test share their jobs."""

    def make() -> JobStore:
        made = place.open(result_ttl_seconds=TTL, lease_seconds=LEASE, clock=clock)
        request.addfinalizer(made.close)
        return made

    return make


@pytest.fixture
def store(make_store: MakeStore) -> JobStore:
    """One store."""
    return make_store()


def test_accepted_job(store: JobStore, clock: Clock) -> None:
    """A job is there as soon as it is accepted, queued, with the seed that will be used."""
    job, was_there = store.add(submission(seed=99, sent_seed=SEED_RANDOM), ME)
    assert not was_there
    assert store.get(job.id) == job
    assert (job.state, job.step, job.steps, job.runs) == (JobState.QUEUED, 0, 4, 1)
    assert (job.created_at, job.started_at, job.finished_at, job.expires_at) == (clock.now, None, None, None)
    assert job.parameters.seed == 99


def test_ids_cannot_be_guessed(store: JobStore) -> None:
    """Ids are long, random, and fit into a URL."""
    ids = [store.add(submission(), ME)[0].id for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(len(job_id) >= 22 and job_id.replace("-", "").replace("_", "").isalnum() for job_id in ids)
    assert len({job_id[:4] for job_id in ids}) > 10


@pytest.mark.parametrize("job_id", ["", "nothing", "../jobs", "%", "\0", "\udc80", "x" * 1000])
def test_unknown_jobs(store: JobStore, job_id: str) -> None:
    """Whatever is asked of a job that is not there is answered the same."""
    for method in (store.get, store.preview, store.result, store.remove):
        with pytest.raises(JobNotFoundError):
            method(job_id)


def test_other_processes_see_jobs(make_store: MakeStore) -> None:
    """What one process accepts and ends, another one finds."""
    one, other = make_store(), make_store()
    job, _ = one.add(submission(), ME)
    assert other.get(job.id) == job
    one.report(ME, {job.id: progress(preview=b"small")})
    assert other.preview(job.id) == b"small"
    assert one.finish(job.id, ME, result())
    assert other.get(job.id).state is JobState.DONE
    assert other.result(job.id) == result()


def test_report_moves_figures_and_version(store: JobStore, clock: Clock) -> None:
    """A report moves the job's figures and its version; one without news moves neither."""
    job, _ = store.add(submission(), ME)
    clock.now += 2
    assert store.report(ME, {job.id: progress(step=3)}) == {job.id}
    told = store.get(job.id)
    assert (told.state, told.step, told.seconds_left, told.started_at) == (JobState.RUNNING, 3, 1.5, clock.now)
    assert (told.version > job.version, told.preview_version) == (True, 0)
    clock.now += 2
    assert store.report(ME, {job.id: None}) == {job.id}
    assert store.get(job.id) == told
    store.report(ME, {job.id: progress(step=4, preview=b"x")})
    assert store.get(job.id).started_at == told.started_at
    assert store.get(job.id).preview_version == 1


def test_done_job_has_its_result_and_ends_once(store: JobStore, clock: Clock) -> None:
    """A job that is done has its result, all its steps, and a time to go; it ends once."""
    job, _ = store.add(submission(), ME)
    store.report(ME, {job.id: progress(step=3, preview=b"x")})
    with pytest.raises(JobNotFoundError):
        store.result(job.id)
    assert store.finish(job.id, ME, result())
    ended = store.get(job.id)
    assert (ended.state, ended.step, ended.seconds_left) == (JobState.DONE, 4, None)
    assert (ended.finished_at, ended.expires_at) == (clock.now, clock.now + TTL)
    assert store.result(job.id) == result()
    assert store.preview(job.id) is None
    assert not store.finish(job.id, ME, result())
    assert not store.fail(job.id, ME, JobError("internal", "No."))
    assert store.report(ME, {job.id: progress()}) == frozenset()
    assert store.get(job.id) == ended


def test_failed_job_says_why_and_has_no_result(store: JobStore) -> None:
    """A job that failed says why, and has no result."""
    job, _ = store.add(submission(), ME)
    error = JobError("out_of_memory", "Too little.", {"bytes": 3})
    assert store.fail(job.id, ME, error)
    assert (store.get(job.id).state, store.get(job.id).error) == (JobState.FAILED, error)
    with pytest.raises(JobNotFoundError):
        store.result(job.id)


def test_job_stays_with_the_process_that_reports(make_store: MakeStore, clock: Clock) -> None:
    """A job stays with its process as long as that reports, and goes to another when it does not."""
    one, other = make_store(), make_store()
    sent = submission()
    job, _ = one.add(sent, ME)
    for _ in range(3):
        clock.now += LEASE * 0.9
        assert one.report(ME, {job.id: None}) == {job.id}
        assert other.claim(OTHER) is None
        assert other.waiting() == 0
    clock.now += LEASE
    assert other.waiting() == 1
    claimed = other.claim(OTHER)
    assert claimed is not None
    assert (claimed[0].id, claimed[0].runs) == (job.id, 2)
    assert (claimed[1].image, claimed[1].mask, claimed[1].parameters, claimed[1].seed) == (
        IMAGE,
        MASK,
        sent.parameters,
        7,
    )
    assert other.claim(OTHER) is None
    assert one.report(ME, {job.id: progress()}) == frozenset()
    assert not one.finish(job.id, ME, result())
    assert not one.fail(job.id, ME, JobError("internal", "No."))
    with pytest.raises(JobNotFoundError):
        one.result(job.id)
    assert other.finish(job.id, OTHER, result())
    assert one.result(job.id) == result()
    late = dataclasses.replace(result(), pictures=(b"too", b"late"))
    assert not one.finish(job.id, ME, late)
    assert one.result(job.id) == result()


def test_jobs_are_claimed_in_their_order_each_once(make_store: MakeStore, clock: Clock) -> None:
    """Processes that claim at the same time share the jobs; the oldest goes first."""
    stores = [make_store() for _ in range(4)]
    jobs = [stores[0].add(submission(seed=seed), ME)[0].id for seed in range(12)]
    clock.now += LEASE

    def claim(number: int) -> str:
        claimed = stores[number % 4].claim(f"process {number % 4}")
        assert claimed is not None
        return claimed[0].id

    assert claim(0) == jobs[0]
    with ThreadPoolExecutor(4) as pool:
        rest = list(pool.map(claim, range(11)))
    assert sorted(rest) == sorted(jobs[1:])
    assert stores[0].claim(ME) is None


def test_hand_back(make_store: MakeStore) -> None:
    """A job that is given back is anybody's at once, from its first step, and no run is counted."""
    one, other = make_store(), make_store()
    job, _ = one.add(submission(), ME)
    one.report(ME, {job.id: progress(step=3, preview=b"x")})
    one.hand_back(OTHER, [job.id])
    assert other.waiting() == 0
    one.hand_back(ME, [job.id])
    assert other.waiting() == 1
    waiting = other.get(job.id)
    assert (waiting.state, waiting.step, waiting.started_at, waiting.runs) == (JobState.QUEUED, 0, None, 0)
    claimed = other.claim(OTHER)
    assert claimed is not None
    assert claimed[0].runs == 1


def test_a_job_that_never_ends_is_reported_lost(store: JobStore, clock: Clock) -> None:
    """After one run and three more that ended with their process, a job fails, and says so."""
    job, _ = store.add(submission(), ME)
    for run in range(2, MAX_RUNS + 1):
        clock.now += LEASE
        claimed = store.claim(f"process {run}")
        assert claimed is not None
        assert claimed[0].runs == run
    clock.now += LEASE
    assert store.claim(ME) is None
    lost = store.get(job.id)
    assert lost.state is JobState.FAILED
    assert lost.error is not None
    assert lost.error.code == "job_lost"
    assert str(MAX_RUNS) in lost.error.sentence


def test_one_key_is_one_job_in_every_process(make_store: MakeStore) -> None:
    """One key and one request is one job, in whichever process; a drawn seed makes no difference."""
    one, other = make_store(), make_store()
    sent = submission(key="k", seed=5, sent_seed=SEED_RANDOM)
    assert one.find(sent) is None
    job, _ = one.add(sent, ME)
    again = submission(key="k", seed=6, sent_seed=SEED_RANDOM)
    assert other.find(again) == job
    assert other.add(again, OTHER) == (job, True)
    assert one.add(submission(key="other", seed=5), ME)[0].id != job.id
    assert one.add(submission(seed=5), ME)[0].id != one.add(submission(seed=5), ME)[0].id
    assert one.finish(job.id, ME, result())
    assert other.add(again, OTHER)[0].state is JobState.DONE


@pytest.mark.parametrize(
    "change",
    [
        {"image": MASK},
        {"mask": IMAGE},
        {"image": IMAGE + MASK, "mask": b""},
        {"parameters": submission(steps=5).parameters},
    ],
    ids=lambda change: "+".join(change),
)
def test_idempotency_conflict(store: JobStore, change: dict[str, object]) -> None:
    """One key with another request is refused, whatever differs."""
    store.add(submission(key="k"), ME)
    other = dataclasses.replace(submission(key="k"), **change)  # type: ignore[arg-type]
    with pytest.raises(IdempotencyConflictError):
        store.find(other)
    with pytest.raises(IdempotencyConflictError):
        store.add(other, ME)


def test_one_key_at_the_same_time(make_store: MakeStore) -> None:
    """Of many who bring one key at once, one brings the job about."""
    stores = [make_store() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda number: stores[number % 4].add(submission(key="k"), ME), range(12)))
    assert len({job.id for job, _ in added}) == 1
    assert sorted(was_there for _, was_there in added) == [False] + [True] * 11


def test_cancelled_job_stays_cancelled(make_store: MakeStore) -> None:
    """A job cancelled in another process is not its owner's any more, and stays cancelled."""
    one, other = make_store(), make_store()
    job, _ = one.add(submission(key="k"), ME)
    other.remove(job.id)
    other.remove(job.id)
    assert one.get(job.id).state is JobState.CANCELLED
    assert one.report(ME, {job.id: progress()}) == frozenset()
    assert not one.finish(job.id, ME, result())
    one.hand_back(ME, [job.id])
    assert other.waiting() == 0
    assert one.get(job.id).state is JobState.CANCELLED
    assert one.find(submission(key="k")) is None
    assert one.add(submission(key="k"), ME)[0].id != job.id


@pytest.mark.parametrize("end", ["done", "failed"])
def test_ended_job_may_be_deleted_twice(store: JobStore, end: str) -> None:
    """A job that has ended is gone when it is deleted, and may be deleted again."""
    job, _ = store.add(submission(), ME)
    if end == "done":
        store.finish(job.id, ME, result())
    else:
        store.fail(job.id, ME, JobError("internal", "No."))
    store.remove(job.id)
    store.remove(job.id)
    for method in (store.get, store.result):
        with pytest.raises(JobNotFoundError):
            method(job.id)


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "deleted"])
def test_ended_jobs_expire_and_waiting_ones_do_not(make_store: MakeStore, clock: Clock, end: str) -> None:
    """What has ended is kept for a while, swept or not, and its key is free after it; what waits is kept for ever."""
    store = make_store()
    job, _ = store.add(submission(key="k"), ME)
    waiting, _ = store.add(submission(key="other"), ME)
    if end in ("done", "deleted"):
        store.finish(job.id, ME, result())
    if end == "failed":
        store.fail(job.id, ME, JobError("internal", "No."))
    if end in ("cancelled", "deleted"):
        store.remove(job.id)
    clock.now += TTL - 1
    store.sweep()
    store.remove(job.id) if end == "deleted" else store.get(job.id)
    clock.now += 1
    with pytest.raises(JobNotFoundError):
        store.get(job.id)
    assert not store.add(submission(key="k"), ME)[1]
    store.sweep()
    with pytest.raises(JobNotFoundError):
        store.remove(job.id)
    clock.now += 1000 * TTL
    store.sweep()
    assert store.get(waiting.id) == waiting


def test_closed_store(make_store: MakeStore) -> None:
    """After its end a store refuses, and another one finds what it kept."""
    store = make_store()
    job, _ = store.add(submission(), ME)
    store.close()
    store.close()
    for call in (lambda: store.get(job.id), lambda: store.add(submission(), ME), store.sweep):
        with pytest.raises(StateUnavailableError):
            call()
    assert make_store().get(job.id) == job


def test_results_come_back_as_they_were_painted() -> None:
    """Pixels, alpha, seeds and figures of a result survive being written down."""
    rgb = np.asarray(photo())
    alpha = np.asarray(photo(mode="L"))
    variations = (Variation(Picture(rgb, alpha), 7), Variation(Picture(rgb[::-1].copy()), 8))
    painted = InpaintResult(variations, 4, 0.25, ("a", "b"), is_all_painted=True)
    back = JobResult.of(painted, "demo").decode()
    assert (back.steps, back.inference_seconds, back.regions, back.is_all_painted) == (4, 0.25, ("a", "b"), True)
    for variation, original in zip(back.variations, painted.variations, strict=True):
        assert variation.seed == original.seed
        assert (variation.image.rgb == original.image.rgb).all()
        if original.image.alpha is None:
            assert variation.image.alpha is None
        else:
            assert variation.image.alpha is not None
            assert (variation.image.alpha == original.image.alpha).all()


def test_pictures_go_with_what_needs_them(store: JobStore, place: Place, clock: Clock) -> None:
    """Uploads are there until the job has ended, its result until it is deleted or has expired."""
    job, _ = store.add(submission(), ME)
    assert place.pictures() == {(job.id, "image"), (job.id, "mask")}
    store.finish(job.id, ME, result())
    assert place.pictures() == {(job.id, "result")}
    assert not store.finish(job.id, ME, result())
    assert place.pictures() == {(job.id, "result")}
    store.remove(job.id)
    assert place.pictures() == set()
    failed, cancelled, other = (store.add(submission(), ME)[0] for _ in range(3))
    store.fail(failed.id, ME, JobError("internal", "No."))
    store.remove(cancelled.id)
    assert not store.finish(cancelled.id, ME, result())
    store.finish(other.id, ME, result())
    assert place.pictures() == {(other.id, "result")}
    clock.now += TTL
    store.sweep()
    assert place.pictures() == set()


def test_uploads_that_vanish(store: JobStore, place: Place, clock: Clock) -> None:
    """A job whose upload somebody deleted is reported lost, and the next one is claimed."""
    job, _ = store.add(submission(), ME)
    next_job, _ = store.add(submission(), ME)
    place.spoil(job.id, "mask", None)
    clock.now += LEASE
    claimed = store.claim(OTHER)
    assert claimed is not None
    assert claimed[0].id == next_job.id
    lost = store.get(job.id)
    assert lost.error is not None
    assert lost.error.code == "job_lost"


def test_result_that_vanishes(store: JobStore, place: Place) -> None:
    """A result that somebody deleted is not found."""
    job, _ = store.add(submission(), ME)
    store.finish(job.id, ME, result())
    place.spoil(job.id, "result", None)
    with pytest.raises(JobNotFoundError):
        store.result(job.id)


def test_a_job_keeps_its_caller(make_store: MakeStore, clock: Clock) -> None:
    """Whose a job is stays with it, also where another process claims it."""
    one, other = make_store(), make_store()
    job, _ = one.add(submission(caller="app"), ME)
    assert (job.caller, one.add(submission(), ME)[0].caller) == ("app", None)
    clock.now += LEASE
    claimed = other.claim(OTHER)
    assert claimed is not None
    assert (claimed[0].id, claimed[0].caller, claimed[1].caller) == (job.id, "app", "app")


@pytest.mark.parametrize("end", ["queued", "done", "removed"])
def test_only_the_caller_removes_a_job(store: JobStore, end: str) -> None:
    """A caller's job is unknown to whoever else would remove it, and stays; one without a caller is anybody's."""
    job, _ = store.add(submission(caller="app"), ME)
    anybody_s, _ = store.add(submission(), ME)
    if end == "done":
        store.finish(job.id, ME, result())
    if end == "removed":
        store.remove(job.id, "app")
    for caller in ("other", None, ""):
        with pytest.raises(JobNotFoundError):
            store.remove(job.id, caller)
    if end != "removed":
        assert store.get(job.id).state in (JobState.QUEUED, JobState.DONE)
    store.remove(job.id, "app")
    store.remove(job.id, "app")
    store.remove(anybody_s.id, "other")
    store.remove(anybody_s.id)


def test_kept_bytes(store: JobStore, clock: Clock) -> None:
    """A caller's jobs count with their uploads and room for a result, then with the result, until they are gone."""
    uploads = len(IMAGE) + len(MASK)
    jobs = [store.add(submission(caller="app"), ME, 1000)[0] for _ in range(4)]
    store.add(submission(caller="other"), ME, 10)
    store.add(submission(), ME, 20)
    assert store.kept("app") == Kept(4 * (uploads + 1000), None)
    assert store.kept(None) == Kept(uploads + 20, None)
    assert store.kept("nobody") == Kept(0, None)
    pictures = sum(map(len, result().pictures))
    store.finish(jobs[0].id, ME, result())
    clock.now += 1
    store.finish(jobs[1].id, ME, result())
    store.fail(jobs[2].id, ME, JobError("internal", "No."))
    store.remove(jobs[3].id, "app")
    assert store.kept("app") == Kept(2 * pictures, TTL - 1)
    store.remove(jobs[1].id, "app")
    assert store.kept("app").bytes == pictures
    clock.now += TTL
    assert store.kept("app").bytes == 0
