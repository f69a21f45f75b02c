"""Accepted jobs on one machine: rows in SQLite, pictures in files beside it, shared by all processes of the machine."""

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sd_inpaint.errors import StateUnavailableError, without_folders
from sd_inpaint.jobs.files import ORPHAN_SECONDS, JobFiles
from sd_inpaint.jobs.store import LEASE_SECONDS, Execute, SqlJobStore
from sd_inpaint.settings import cache_folder

logger = logging.getLogger("bentoml.sd_inpaint.jobs")

BUSY_SECONDS: Final = 10.0
"""Processes take turns at writing, for a millisecond each."""

SCHEMA_VERSION: Final = 1

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
        version: Of the schema; a file of another version is left alone.
        clock: Unix time in seconds, the same for all processes; ``:now`` in statements.

    Raises:
        StateUnavailableError: If the file cannot be written, or is of another version.
    """

    skip_locked = ""
    """A transaction that writes has the file for itself."""

    def __init__(self, path: Path, *, schema: str, version: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        with self.translated():
            db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA journal_mode = WAL")
                (found,) = db.execute("PRAGMA user_version").fetchone()
                if found not in (0, version):
                    raise sqlite3.DatabaseError(f"the file was written by another version of this program ({found})")
                db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")
            except sqlite3.Error:
                db.close()
                raise
            self._connection = db

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
            if self._connection is None:
                raise StateUnavailableError("The server is shutting down.")
            yield self._connection

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
            if self._connection is not None:
                self._connection.close()
            self._connection = None


class SqliteJobStore(SqlJobStore):
    """A :class:`sd_inpaint.jobs.job.JobStore` in a folder of a local disk.

    Args:
        folder: Is created if missing, for this user only: it holds callers' uploads.
        result_ttl_seconds: How long a job is kept after its end.
        lease_seconds: How long a job stays with a process that does not report on it.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = JobFiles(folder / "files")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files.make()
        except OSError as error:
            raise unavailable(folder, error) from error
        database = SqliteDatabase(folder / "jobs.sqlite3", schema=_SCHEMA, version=SCHEMA_VERSION, clock=clock)
        super().__init__(database, self._files, result_ttl_seconds=result_ttl_seconds, lease_seconds=lease_seconds)

    def sweep(self) -> None:
        """Deletes expired jobs, and files left by a crash."""
        super().sweep()
        with self._db.reading() as execute:
            known = {row["id"] for row in execute("SELECT id FROM jobs")}
        with self._db.translated():
            self._files.remove_orphans(known, older_than_seconds=ORPHAN_SECONDS)
