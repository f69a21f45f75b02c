"""Accepted jobs on one machine: rows in SQLite, pictures in files beside it, shared by all processes of the machine."""

import logging
import math
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sd_inpaint.errors import StateUnavailableError, without_folders
from sd_inpaint.jobs.files import ORPHAN_SECONDS, JobFiles
from sd_inpaint.jobs.job import StoreSpace
from sd_inpaint.jobs.store import LEASE_SECONDS, Execute, SqlJobStore
from sd_inpaint.settings import cache_folder

logger = logging.getLogger("bentoml.sd_inpaint.jobs")

BUSY_SECONDS: Final = 10.0
"""Processes take turns at writing, for a millisecond each."""

SCHEMA_VERSION: Final = 1

SPARE_BYTES: Final = 1024 * 1024
"""What SQLite needs to delete a job when nothing else is free: a few pages, twice."""

LEAST_FREE_BYTES: Final = 1024 * 1024
"""A disk with less has no room for the smallest job."""

logger = logging.getLogger("bentoml.sd_inpaint.jobs")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    fingerprint TEXT,
    parameters TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    live INTEGER GENERATED ALWAYS AS (state IN ('queued', 'running', 'finishing')) VIRTUAL,
    version INTEGER NOT NULL DEFAULT 1,
    owner TEXT,
    lease_until REAL NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    expires_at REAL,
    deadline_at REAL,
    step INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL,
    queue_position INTEGER NOT NULL DEFAULT 0,
    seconds_left REAL,
    preview BLOB,
    preview_version INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    result TEXT
);
CREATE INDEX IF NOT EXISTS live_jobs ON jobs (live, number);
"""

_ADDED: Final = {"caller": "TEXT", "bytes": "INTEGER NOT NULL DEFAULT 0"}
"""Columns of the table that its first version did not have. They leave the version as it is: the program before them
works on the table too, so that an update can be taken back, and replicas can be updated one after another."""


def default_folder() -> Path:
    """Returns the folder in the user's cache where jobs are kept if the operator names none.

    Raises:
        StateUnavailableError: If the user has no home.
    """
    try:
        return cache_folder()
    except RuntimeError as error:
        raise StateUnavailableError("This server's user has no home folder; set SD_INPAINT_STATE_DIR.") from error


def unavailable(folder: Path, error: Exception) -> StateUnavailableError:
    """Makes the error that callers get; the folder's path goes to the log only."""
    logger.error("Jobs cannot be stored in %s: %s", folder, error)
    reason = (error.strerror if isinstance(error, OSError) else None) or without_folders(str(error))
    return StateUnavailableError(f"Jobs cannot be stored in the folder of SD_INPAINT_STATE_DIR: {reason}.")


class SqliteDatabase:
    """A connection, and its transactions one at a time; SQLite's own locks stand between processes.

    In WAL mode, so that readers never wait for a writer. Not for folders on a network: WAL needs shared memory.

    Args:
        path: The file; its folder exists.
        schema: Statements that create missing tables.
        added: Columns of the table ``jobs`` that an older file lacks, with their types.
        version: Of the schema; a file of another version is left alone.
        clock: Unix time in seconds, the same for all processes; ``:now`` in statements.

    Raises:
        StateUnavailableError: If the file cannot be written, or is of another version.
    """

    skip_locked = ""
    """A transaction that writes has the file for itself."""

    def __init__(
        self, path: Path, *, schema: str, added: Mapping[str, str], version: int, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._schema = schema
        self._added = added
        self._version = version
        self._clock = clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._is_closed = False
        with self.translated():
            self._open()

    def _open(self) -> None:
        """Opens the file, or makes it; one that is damaged is moved aside."""
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            self._connection = self._replace()
        self._file = _identity(self._path)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            # What is deleted is overwritten: prompts are private.
            db.execute("PRAGMA secure_delete = ON")
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, self._version):
                raise sqlite3.DatabaseError(f"the file was written by another version of this program ({found})")
            db.executescript(f"BEGIN IMMEDIATE; {self._schema} PRAGMA user_version = {self._version}; COMMIT;")
            _add_columns(db, self._added)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _replace(self) -> sqlite3.Connection:
        """Moves a damaged file aside, unless another process has just done so."""
        with _locked(self._path.with_name("replacing")):
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                self._move_aside(error)
                return self._connect()

    def _move_aside(self, error: sqlite3.Error) -> None:
        """Makes room for a new database; the damaged one stays for whoever can read it."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{int(self._clock())}")
        logger.error("The job database is damaged (%s): it was moved to %s, and jobs in it are lost.", error, aside)
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self._path.with_name(self._path.name + ending).replace(aside.with_name(aside.name + ending))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns exceptions of SQLite and the file system within into StateUnavailableError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise unavailable(self._path.parent, error) from error

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        """Yields a function that runs statements, for as long as the block lasts."""
        with self._connected() as db:
            yield self._runner(db)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self.translated():
            if self._is_closed:
                raise StateUnavailableError("The server is shutting down.")
            # A folder that was removed, and came back or not: the open file is nobody's any more.
            if self._connection is None or self._file != _identity(self._path):
                self._disconnect()
                self._open()
            if self._connection is None:
                raise StateUnavailableError("The job database is not open.")
            try:
                yield self._connection
            except sqlite3.DatabaseError as error:
                if _is_damaged(error):
                    self._disconnect()
                raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _runner(self, db: sqlite3.Connection) -> Execute:
        def execute(statement: str, /, **values: object) -> list[sqlite3.Row]:
            return db.execute(statement, {"now": self._clock(), **values}).fetchall()

        return execute

    @contextmanager
    def writing(self, *, durably: bool = True) -> Iterator[Execute]:
        """One transaction; if ``durably``, it is on the disk when the block ends."""
        with self._connected() as db:
            db.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield self._runner(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def usable_seconds(self) -> float:
        """Returns infinity: a file is never unavailable long enough for leases to expire."""
        return math.inf

    def close(self) -> None:
        """Ends the connection; may be called again."""
        with self._lock:
            self._is_closed = True
            self._disconnect()


def _add_columns(db: sqlite3.Connection, added: Mapping[str, str]) -> None:
    # Under the lock: another process may be about to do the same.
    db.execute("BEGIN IMMEDIATE")
    there = {row["name"] for row in db.execute("PRAGMA table_info(jobs)")}
    for name, kind in added.items():
        if name not in there:
            db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
    db.execute("COMMIT")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process of the machine in at a time."""
    with path.open("wb") as file:
        # Windows has other locks; two servers of one folder are a matter of deployments on Linux.
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _identity(path: Path) -> tuple[int, int] | None:
    """What file a path names now; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damaged(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SqliteJobStore(SqlJobStore):
    """A :class:`sd_inpaint.jobs.job.JobStore` in a folder of a local disk.

    Args:
        folder: Is created if missing, for this user only: it holds callers' uploads.
        result_ttl_seconds: How long a job is kept after its end.
        lease_seconds: How long a job stays with a process that does not report on it.
        max_bytes: Space that uploads and results may take, and what is set aside for results.
        clock: Unix time in seconds, the same for all processes.

    Raises:
        StateUnavailableError: If the folder cannot be written, or its database is not one of this version.
    """

    def __init__(
        self,
        folder: Path,
        *,
        result_ttl_seconds: float,
        lease_seconds: float = LEASE_SECONDS,
        max_bytes: int = sys.maxsize,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._files = JobFiles(folder / "files")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files.make()
        except OSError as error:
            raise unavailable(folder, error) from error
        database = SqliteDatabase(
            folder / "jobs.sqlite3", schema=_SCHEMA, added=_ADDED, version=SCHEMA_VERSION, clock=clock
        )
        super().__init__(
            database,
            self._files,
            result_ttl_seconds=result_ttl_seconds,
            lease_seconds=lease_seconds,
            max_bytes=max_bytes,
        )
        self._spare = folder / "spare"
        self._keep_spare()

    def check(self) -> None:
        """Sees whether the folder is there, can be written and has some room."""
        super().check()
        with self._db.translated():
            self._files.make()
            self._keep_spare()
            left = shutil.disk_usage(self._folder).free
        if left < LEAST_FREE_BYTES:
            raise StateUnavailableError(f"The disk that keeps accepted jobs is full: {left} bytes are free.")

    def space(self) -> StoreSpace:
        """Looks at each file."""
        with self._db.translated():
            free = shutil.disk_usage(self._folder).free
            return StoreSpace(self._files.used_bytes(), self._max_bytes, free)

    def remove(self, job_id: str, caller: str | None = None) -> None:
        """Cancels or deletes, on a full disk too: it is how callers make room."""
        try:
            super().remove(job_id, caller)
        except StateUnavailableError:
            with self._db.translated():
                self._spare.unlink()
            super().remove(job_id, caller)
        # The log of changes still has what was overwritten in the database itself.
        with suppress(StateUnavailableError), self._db.reading() as execute:
            execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _keep_spare(self) -> None:
        """Sets a little disk space aside, which a full disk leaves for deletions."""
        if self._spare.exists() or not hasattr(os, "posix_fallocate"):
            return
        try:
            with self._spare.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)
        except OSError:
            self._spare.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes expired jobs, and files left by a crash."""
        super().sweep()
        with self._db.reading() as execute:
            known = {row["id"] for row in execute("SELECT id FROM jobs")}
        with self._db.translated():
            self._files.remove_orphans(known, older_than_seconds=ORPHAN_SECONDS)
