"""Accepted jobs on one machine: rows in SQLite, pictures in files beside it, shared by all processes of the machine."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sd_inpaint.database import Database
from sd_inpaint.errors import StateUnavailableError
from sd_inpaint.job_files import ORPHAN_SECONDS, JobFiles
from sd_inpaint.sql_store import LEASE_SECONDS, SqlJobStore

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
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "sd-inpaint"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise StateUnavailableError("This server's user has no home folder; set SD_INPAINT_STATE_DIR.") from error
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "sd-inpaint"


class SqliteJobStore(SqlJobStore):
    """A :class:`sd_inpaint.store.JobStore` in a folder of a local disk.

    Args:
        folder: Is made if it is not there, for this user only: it holds what callers upload.
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
            raise StateUnavailableError(f"Jobs cannot be kept in {str(folder)!r}: {error}.") from error
        database = Database(folder / "jobs.sqlite3", schema=_SCHEMA, version=SCHEMA_VERSION, clock=clock)
        super().__init__(database, self._files, result_ttl_seconds=result_ttl_seconds, lease_seconds=lease_seconds)

    def sweep(self) -> None:
        """Deletes what has expired, and what a crash left."""
        super().sweep()
        with self._db.reading() as run:
            known = {row["id"] for row in run("SELECT id FROM jobs")}
        with self._db.translated():
            self._files.remove_orphans(known, older_than_seconds=ORPHAN_SECONDS)
