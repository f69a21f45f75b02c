"""The store in SQLite and files: what is on the disk, who may look, and folders that cannot be used."""

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sd_inpaint.errors import StateUnavailableError
from sd_inpaint.http.application import open_store
from sd_inpaint.jobs.files import ORPHAN_SECONDS
from sd_inpaint.jobs.job import JobState
from sd_inpaint.jobs.sqlite import SqliteJobStore, default_folder
from sd_inpaint.settings import Settings
from tests.support.simulation import Clock
from tests.support.submissions import LEASE, ME, TTL, submission


@pytest.fixture
def clock() -> Clock:
    """Unix time that passes only when told to."""
    return Clock(now=1_000_000.0)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SqliteJobStore]:
    """One store."""
    made = SqliteJobStore(tmp_path / "jobs", result_ttl_seconds=TTL, lease_seconds=LEASE, clock=clock)
    yield made
    made.close()


def files(folder: Path) -> set[str]:
    """Returns the kinds of picture files that are there."""
    return {path.suffix for path in (folder / "jobs" / "files").iterdir()}


def test_leavings_of_a_crash(store: SqliteJobStore, tmp_path: Path) -> None:
    """Files that belong to no job are swept, but not while their job may be about to come."""
    job, _ = store.add(submission(), ME)
    folder = tmp_path / "jobs" / "files"
    for name in ("new.image", "old.image", "old.result.1234", f"{job.id}.result.1234"):
        (folder / name).write_bytes(b"x")
        if not name.startswith("new"):
            os.utime(folder / name, (time.time() - ORPHAN_SECONDS - 1,) * 2)
    store.sweep()
    left = {path.name for path in folder.iterdir()}
    assert left == {"new.image", f"{job.id}.image", f"{job.id}.mask", f"{job.id}.result.1234"}


def test_a_job_is_on_the_disk_before_it_is_accepted(
    store: SqliteJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both uploads and the folder that names them are synced, in this order, and then SQLite syncs its row."""
    synced: list[str] = []
    folder = tmp_path / "jobs" / "files"

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        synced.append(path.name.partition(".")[2].partition(".")[0] or path.name)
        assert path.is_dir() or path.stat().st_size > 0

    monkeypatch.setattr(os, "fsync", fsync)
    statements: list[str] = []
    store._db._connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
    store.add(submission(), ME)
    assert synced == ["image", "mask", folder.name]
    words = [statement.split("(")[0].split()[0:4] for statement in statements]
    assert words[0] == ["PRAGMA", "synchronous", "=", "FULL"]
    assert ["COMMIT"] in words


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_only_this_user_may_look(store: SqliteJobStore, tmp_path: Path) -> None:
    """Callers' pictures lie in a folder that no other user can open."""
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700
    assert store.waiting() == 0


def unwritable(tmp_path: Path) -> Path:
    """A file where a folder is wanted: root, who runs tests in containers, may write into any folder."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "state"


def of_another_version(tmp_path: Path) -> Path:
    """A folder whose database a later program has written."""
    (tmp_path / "jobs").mkdir()
    db = sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3")
    db.execute("PRAGMA user_version = 99")
    db.close()
    return tmp_path


@pytest.mark.parametrize("make", [unwritable, of_another_version])
def test_folders_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """A folder that cannot be used is an error that names the setting, and not its path."""
    folder = make(tmp_path)
    with pytest.raises(StateUnavailableError, match="SD_INPAINT_STATE_DIR") as refused:
        open_store(Settings(_env_file=None, state_dir=folder))  # type: ignore[call-arg]
    assert str(tmp_path) not in str(refused.value)


def test_full_disk(store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job that cannot be written is refused, and leaves nothing."""

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StateUnavailableError, match="No space left"):
            store.add(submission(), ME)
    assert files(tmp_path) == set()
    assert store.claim(ME) is None
    assert store.add(submission(), ME)[0].state is JobState.QUEUED


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs are kept in the user's cache folder; a user without a home is told what to set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sd-inpaint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "sd-inpaint"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StateUnavailableError, match="SD_INPAINT_STATE_DIR"):
        default_folder()


FIRST_TABLE = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT UNIQUE, fingerprint TEXT,
    parameters TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'queued',
    live INTEGER GENERATED ALWAYS AS (state IN ('queued', 'running', 'finishing')) VIRTUAL,
    version INTEGER NOT NULL DEFAULT 1, owner TEXT, lease_until REAL NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL, started_at REAL, finished_at REAL, expires_at REAL, deadline_at REAL,
    step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL, queue_position INTEGER NOT NULL DEFAULT 0,
    seconds_left REAL, preview BLOB, preview_version INTEGER NOT NULL DEFAULT 0, error TEXT, result TEXT
);
PRAGMA user_version = 1;
"""
"""As version 0.1.0 made it."""

FIRST_INSERT = """
INSERT INTO jobs (id, key, fingerprint, parameters, owner, lease_until, created_at, deadline_at, steps)
VALUES ('old', NULL, NULL, ?, 'gone', 0, 0, NULL, 4)
"""
"""As version 0.1.0 wrote a job."""


def test_a_folder_of_the_first_version(tmp_path: Path, clock: Clock) -> None:
    """Jobs accepted by the first version are there, anybody's as before, and run; that version can work on after it."""
    folder = tmp_path / "jobs"
    (folder / "files").mkdir(parents=True)
    sent = submission()
    db = sqlite3.connect(folder / "jobs.sqlite3", isolation_level=None)
    db.executescript(FIRST_TABLE)
    db.execute(FIRST_INSERT, (sent.parameters.model_dump_json(),))
    (folder / "files" / "old.image").write_bytes(sent.image)
    (folder / "files" / "old.mask").write_bytes(sent.mask)
    stores = [SqliteJobStore(folder, result_ttl_seconds=TTL, lease_seconds=LEASE, clock=clock) for _ in range(2)]
    assert stores[0].get("old").caller is None
    claimed = stores[1].claim(ME)
    assert claimed is not None
    assert (claimed[0].id, claimed[1].image) == ("old", sent.image)
    new, _ = stores[0].add(submission(caller="app"), ME)
    assert stores[1].get(new.id).caller == "app"
    db.execute(FIRST_INSERT.replace("'old'", "'older'"), (sent.parameters.model_dump_json(),))
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert stores[0].get("older").caller is None
    for store in stores:
        store.remove("older", "anybody")
        store.close()
    db.close()
