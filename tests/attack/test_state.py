"""The folder of accepted jobs, filled, taken away, damaged: what was promised is kept, and nobody has to restart."""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd_inpaint.errors import QueueFullError, StateUnavailableError
from sd_inpaint.jobs.job import JobResult, JobState
from sd_inpaint.jobs.sqlite import SqliteJobStore
from sd_inpaint.schema import InpaintParameters
from tests.support.pictures import photo, written
from tests.support.places import Folder, Place
from tests.support.real_time import Process, running, submission, wait_for

ME = "this process"
SECRET = "a very private prompt"
BLACK = written(photo().point(lambda value: 0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteJobStore]:
    """A store that may keep 100 kB."""
    made = SqliteJobStore(tmp_path / "jobs", result_ttl_seconds=60.0, max_bytes=100_000)
    yield made
    made.close()


def test_jobs_without_a_canvas_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with nothing to paint take their place among the others: as many as the queue has, and no more."""
    with running(place, max_queue=2) as process:
        tries = _hamper(process, monkeypatch)
        jobs = [process.accept(submission(mask=BLACK)) for _ in range(2)]
        with pytest.raises(QueueFullError):
            process.accept(submission(mask=BLACK))
        tries.append("room")
        process.wait_ended(*jobs)
        process.wait_ended(process.accept(submission(mask=BLACK)))


def test_equal_pictures_are_kept_once(place: Place) -> None:
    """Four pictures of a job with nothing to paint are one file, and come back as four."""
    with running(place) as process:
        one = process.accept(submission(mask=BLACK))
        four = process.accept(submission(mask=BLACK, num_images=4))
        process.wait_ended(one, four)
        single, several = process.store.result(one.id), process.store.result(four.id)
        assert process.store.result_extent(four.id).file_bytes == len(single.pictures[0])
        assert several.pictures == single.pictures * 4
        assert len(several.decode().variations) == 4


def test_quota(store: SqliteJobStore) -> None:
    """What uploads, results and room for results may take is bounded; what is deleted makes room."""
    first, _ = store.add(submission(), ME, 60_000)
    with pytest.raises(QueueFullError) as refused:
        store.add(submission(), ME, 60_000)
    assert refused.value.facts["reason"] == "state_space"
    store.remove(first.id)
    store.add(submission(), ME, 60_000)


def test_room_for_the_result_is_taken_at_once(store: SqliteJobStore, tmp_path: Path) -> None:
    """The disk space of a result is taken when its job is accepted, and given to the result, or back."""
    job, _ = store.add(submission(), ME, 50_000)
    room = tmp_path / "jobs" / "files" / f"{job.id}.room"
    assert room.stat().st_size == 50_000
    assert room.stat().st_blocks * 512 >= 50_000
    assert store.finish(job.id, ME, JobResult((BLACK,), (1,), "m", 1, 1.0))
    assert not room.exists()
    other, _ = store.add(submission(), ME, 50_000)
    store.remove(other.id)
    assert {path.suffix for path in room.parent.iterdir()} == {".result"}


def test_job_is_refused_where_its_result_has_no_room(store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot hold the result is found out before the job is accepted, and nothing is left there."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StateUnavailableError, match="No space"):
        store.add(submission(), ME, 50_000)
    assert store.waiting() == 0
    assert store.claim(ME) is None


def test_deletion_on_a_full_disk(store: SqliteJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite has no room to note a deletion, a little that was set aside for it is freed."""
    job, _ = store.add(submission(), ME)
    spare = tmp_path / "jobs" / "spare"
    assert spare.stat().st_blocks > 0
    database = store._db
    writing = database.writing

    def hampered(**options: bool) -> object:
        if spare.exists():
            raise StateUnavailableError("database or disk is full")
        return writing(**options)

    monkeypatch.setattr(database, "writing", hampered)
    store.remove(job.id)
    assert store.get(job.id).state is JobState.CANCELLED
    monkeypatch.undo()
    store.check()
    assert spare.exists()


def test_folder_that_comes_back(tmp_path: Path) -> None:
    """A folder that is removed under a running server is made again, and jobs are accepted again."""
    place = Folder(tmp_path / "jobs")
    with running(place) as process:
        process.wait_ended(process.accept(submission()))
        shutil.rmtree(place.path, ignore_errors=True)
        wait_for(lambda: place.path.exists() and process.runner.trouble() is None)
        job = process.accept(submission())
        process.wait_ended(job)
        assert process.state(job) is JobState.DONE


def test_folder_that_cannot_be_used_at_first(tmp_path: Path) -> None:
    """A server that starts without a folder says so, and takes jobs as soon as there is one."""
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"")
    with running(Folder(blocked / "jobs")) as process:
        assert "SD_INPAINT_STATE_DIR" in str(process.runner.trouble())
        blocked.unlink()
        wait_for(lambda: process.runner.trouble() is None)
        job = process.accept(submission())
        process.wait_ended(job)


@pytest.mark.parametrize("damage", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_damaged_database(tmp_path: Path, damage: bytes) -> None:
    """A database that cannot be read is moved aside, not deleted, and a new one takes its place."""
    place = Folder(tmp_path / "jobs")
    place.path.mkdir()
    (place.path / "jobs.sqlite3").write_bytes(damage)
    with running(place) as process:
        job = process.accept(submission())
        process.wait_ended(job)
    (aside,) = place.path.glob("jobs.sqlite3.damaged-*")
    assert aside.read_bytes() == damage


def test_database_damaged_while_it_is_used(tmp_path: Path) -> None:
    """The same holds where the damage comes later."""
    place = Folder(tmp_path / "jobs")
    with running(place) as process:
        process.wait_ended(process.accept(submission()))
        for path in place.path.glob("jobs.sqlite3*"):
            path.write_bytes(b"\0" * 50_000)
        wait_for(lambda: list(place.path.glob("jobs.sqlite3.damaged-*")) and process.runner.trouble() is None)
        job = process.accept(submission())
        process.wait_ended(job)


def test_outcome_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that cannot be written is kept for as long as it takes: the job does not run again, nor is it lost."""
    monkeypatch.setattr("sd_inpaint.jobs.runner.TICK_SECONDS", 0.01)
    monkeypatch.setattr("sd_inpaint.jobs.runner.LONGEST_REST_SECONDS", 0.02)
    with running(Folder(tmp_path / "jobs")) as process:
        tries = _hamper(process, monkeypatch)
        job = process.accept(submission())
        wait_for(lambda: len(tries) > 20)
        assert process.state(job) is not JobState.DONE
        tries.append("room")
        process.wait_ended(job)
        assert (process.store.get(job.id).runs, process.painter.steps_taken) == (1, 2)


def _hamper(process: Process, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has results meet a full disk until "room" is in the list that it gives."""
    tries: list[str] = []
    finish = process.store.finish

    def hampered(job_id: str, owner: str, kept: JobResult) -> bool:
        if "room" not in tries:
            tries.append(job_id)
            raise StateUnavailableError("No space left on device.")
        return finish(job_id, owner, kept)

    monkeypatch.setattr(process.store, "finish", hampered)
    return tries


@pytest.mark.parametrize("ended", [True, False])
def test_prompt_goes_with_its_job(tmp_path: Path, ended: bool) -> None:
    """After DELETE no byte of the prompt is left in the folder, whatever state the job was in."""
    store = SqliteJobStore(tmp_path / "jobs", result_ttl_seconds=60.0)
    sent = submission()
    parameters = InpaintParameters(prompt=SECRET, negative_prompt=SECRET[::-1])
    job, _ = store.add(type(sent)(sent.image, sent.mask, parameters, seed=5), ME)
    if ended:
        store.finish(job.id, ME, JobResult((BLACK,), (5,), "m", 1, 1.0))
    store.remove(job.id)
    left = b"".join(path.read_bytes() for path in (tmp_path / "jobs").rglob("*") if path.is_file())
    assert SECRET.encode() not in left
    assert SECRET[::-1].encode() not in left
    if not ended:
        assert store.get(job.id).parameters.seed == 5
    store.close()


def test_prompt_goes_from_a_database_that_is_closed(tmp_path: Path) -> None:
    """Expired jobs leave nothing in the file either."""
    now = [time.time()]
    store = SqliteJobStore(tmp_path / "jobs", result_ttl_seconds=60.0, clock=lambda: now[0])
    sent = submission()
    job, _ = store.add(type(sent)(sent.image, sent.mask, InpaintParameters(prompt=SECRET), seed=5), ME)
    store.finish(job.id, ME, JobResult((BLACK,), (5,), "m", 1, 1.0))
    now[0] += 100
    store.sweep()
    store.close()
    left = b"".join(path.read_bytes() for path in (tmp_path / "jobs").rglob("*") if path.is_file())
    assert SECRET.encode() not in left
    with sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3") as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    db.close()
