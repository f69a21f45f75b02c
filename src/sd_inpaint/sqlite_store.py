"""Accepted jobs on one machine: rows in SQLite, pictures in files beside it, shared by all processes of the machine."""

import itertools
import json
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sd_inpaint.database import Database
from sd_inpaint.errors import IdempotencyConflictError, JobLostError, JobNotFoundError, StateUnavailableError
from sd_inpaint.job_files import ORPHAN_SECONDS, JobFiles
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from sd_inpaint.store import (
    MAX_RUNS,
    AcceptedJob,
    AcceptedState,
    JobError,
    JobProgress,
    JobResult,
    Submission,
    estimated_steps,
)

LEASE_SECONDS: Final = 10.0
"""Renewed several times a second; long enough for a process that is starved of the CPU, short enough to wait for."""

ID_BYTES: Final = 18
"""144 random bits, 24 characters."""

SCHEMA_VERSION: Final = 1

# "deleted" is a row that nobody sees any more; it lets a second DELETE be told from a DELETE of nothing.
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


def open_store(settings: Settings) -> "SqliteJobStore":
    """Opens the store that the operator's settings name; raises StateUnavailableError."""
    folder = settings.state_dir or default_folder()
    return SqliteJobStore(folder / "jobs", result_ttl_seconds=settings.result_ttl_seconds)


class SqliteJobStore:
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
        self.lease_seconds = lease_seconds
        self._folder = folder
        self._ttl = result_ttl_seconds
        self._clock = clock
        self._files = JobFiles(folder / "files")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files.make()
        except OSError as error:
            raise StateUnavailableError(f"Jobs cannot be kept in {str(folder)!r}: {error}.") from error
        self._db = Database(folder / "jobs.sqlite3", schema=_SCHEMA, version=SCHEMA_VERSION)

    def add(self, submission: Submission, owner: str) -> tuple[AcceptedJob, bool]:
        """Accepts a job."""
        identity = secrets.token_urlsafe(ID_BYTES)
        found: AcceptedJob | None = None
        added = False
        with self._db.translated():
            try:
                # The files come first: a row promises that they are there.
                self._files.write(identity, image=submission.image, mask=submission.mask)
                with self._db.writing() as db:
                    found = self._find(db, submission)
                    if found is None:
                        self._insert(db, identity, submission, owner)
                        added = True
            finally:
                if not added:
                    self._files.remove(identity)
        return (self.get(identity), False) if found is None else (found, True)

    def _insert(self, db: sqlite3.Connection, identity: str, submission: Submission, owner: str) -> None:
        now = self._clock()
        parameters = submission.parameters.model_copy(update={"seed": submission.seed})
        db.execute(
            "INSERT INTO jobs (id, key, fingerprint, parameters, owner, lease_until, created_at, deadline_at, steps)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity,
                submission.key,
                submission.fingerprint if submission.key else None,
                parameters.model_dump_json(),
                owner,
                now + self.lease_seconds,
                now,
                submission.deadline_at,
                estimated_steps(parameters),
            ),
        )

    def find(self, submission: Submission) -> AcceptedJob | None:
        """Looks for a job of the same key."""
        if submission.key is None:
            return None
        with self._db.reading() as db:
            return self._find(db, submission)

    def _find(self, db: sqlite3.Connection, submission: Submission) -> AcceptedJob | None:
        if submission.key is None:
            return None
        row = db.execute("SELECT * FROM jobs WHERE key = ?", (submission.key,)).fetchone()
        if row is None:
            return None
        if self._is_gone(row):
            # Only seen within a transaction that adds, or changes nothing: a key is free once its job is gone.
            if db.in_transaction:
                db.execute("UPDATE jobs SET key = NULL WHERE id = ?", (row["id"],))
            return None
        if row["fingerprint"] != submission.fingerprint:
            raise IdempotencyConflictError("This Idempotency-Key came with another request before; use a new one.")
        return _job(row)

    def get(self, identity: str) -> AcceptedJob:
        """Looks a job up."""
        with self._db.reading() as db:
            return _job(self._row(db, identity))

    def _row(self, db: sqlite3.Connection, identity: str) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute("SELECT * FROM jobs WHERE id = ?", (identity,)).fetchone()
        if row is None or self._is_gone(row):
            raise JobNotFoundError("There is no such job: it never was, was deleted, or has expired.")
        return row

    def _is_gone(self, row: sqlite3.Row) -> bool:
        expires_at: float | None = row["expires_at"]
        return row["state"] == "deleted" or (expires_at is not None and expires_at <= self._clock())

    def preview(self, identity: str) -> bytes | None:
        """Looks a preview up."""
        with self._db.reading() as db:
            found: bytes | None = self._row(db, identity)["preview"]
        return found

    def result(self, identity: str) -> JobResult:
        """Reads a result."""
        with self._db.reading() as db:
            written = self._row(db, identity)["result"]
        if written is None:
            raise JobNotFoundError("The job has no result.")
        facts = json.loads(written)
        with self._db.translated():
            try:
                data = self._files.read(identity, "result")
            except FileNotFoundError as error:
                raise JobNotFoundError("The job's result is not there any more.") from error
        ends = list(itertools.accumulate(facts.pop("sizes"), initial=0))
        pictures = tuple(data[start:end] for start, end in itertools.pairwise(ends))
        return JobResult(
            pictures=pictures, seeds=tuple(facts.pop("seeds")), regions=tuple(facts.pop("regions")), **facts
        )

    def report(self, owner: str, progress: Mapping[str, JobProgress | None]) -> frozenset[str]:
        """Notes progress and renews leases."""
        still = []
        with self._db.writing(durably=False) as db:
            lease_until = self._clock() + self.lease_seconds
            for identity, news in progress.items():
                renewed = db.execute(
                    "UPDATE jobs SET lease_until = ? WHERE id = ? AND owner = ? AND live",
                    (lease_until, identity, owner),
                )
                if renewed.rowcount == 1:
                    still.append(identity)
                    if news is not None:
                        self._note(db, identity, news)
        return frozenset(still)

    def _note(self, db: sqlite3.Connection, identity: str, news: JobProgress) -> None:
        db.execute(
            "UPDATE jobs SET state = :state, step = :step, steps = :steps, queue_position = :queue_position,"
            " seconds_left = :seconds_left, version = version + 1, preview = coalesce(:preview, preview),"
            " preview_version = preview_version + (:preview IS NOT NULL),"
            " started_at = CASE WHEN :state = 'queued' THEN started_at ELSE coalesce(started_at, :now) END"
            " WHERE id = :id",
            {**asdict(news), "id": identity, "now": self._clock()},
        )

    def finish(self, identity: str, owner: str, result: JobResult) -> bool:
        """Keeps a result."""
        facts = {name: value for name, value in asdict(result).items() if name != "pictures"}
        written = json.dumps({**facts, "sizes": [len(picture) for picture in result.pictures]})
        with self._db.translated():
            self._files.write(identity, result=b"".join(result.pictures))
        ended = self._end(identity, owner, AcceptedState.DONE, result=written, steps=result.steps)
        # The uploads served to begin the job again. A result that came too late belongs to nobody.
        self._files.remove(identity, *(("image", "mask") if ended else ("result",)))
        return ended

    def fail(self, identity: str, owner: str, error: JobError) -> bool:
        """Keeps an error."""
        ended = self._end(identity, owner, AcceptedState.FAILED, error=_written(error))
        if ended:
            self._files.remove(identity)
        return ended

    def _end(
        self,
        identity: str,
        owner: str,
        state: AcceptedState,
        *,
        result: str | None = None,
        error: str | None = None,
        steps: int | None = None,
    ) -> bool:
        with self._db.writing() as db:
            now = self._clock()
            done = db.execute(
                "UPDATE jobs SET state = :state, version = version + 1, owner = NULL, preview = NULL,"
                " queue_position = 0, seconds_left = NULL, finished_at = :now, expires_at = :expires_at,"
                " result = :result, error = :error, step = iif(:steps IS NULL, step, iif(:steps, steps, 0)),"
                " steps = iif(:steps = 0, 0, steps)"
                " WHERE id = :id AND owner = :owner AND live",
                {
                    "state": state.value,
                    "now": now,
                    "expires_at": now + self._ttl,
                    "result": result,
                    "error": error,
                    "steps": steps,
                    "id": identity,
                    "owner": owner,
                },
            )
            return bool(done.rowcount == 1)

    def hand_back(self, owner: str, identities: Iterable[str]) -> None:
        """Puts jobs back."""
        with self._db.writing() as db:
            db.executemany(
                "UPDATE jobs SET state = 'queued', version = version + 1, owner = NULL, runs = runs - 1, step = 0,"
                " started_at = NULL, seconds_left = NULL, preview = NULL WHERE id = ? AND owner = ? AND live",
                [(identity, owner) for identity in identities],
            )

    def waiting(self) -> int:
        """Counts what nobody owns."""
        with self._db.reading() as db:
            query = "SELECT count(*) FROM jobs WHERE live AND (owner IS NULL OR lease_until <= ?)"
            (count,) = db.execute(query, (self._clock(),)).fetchone()
        return int(count)

    def claim(self, owner: str) -> tuple[AcceptedJob, Submission] | None:
        """Takes the oldest job that nobody owns."""
        while True:
            with self._db.writing() as db:
                row = self._take(db, owner)
            if row is None:
                return None
            job = _job(row)
            if job.runs > MAX_RUNS:
                reason = f"The job was begun {MAX_RUNS} times and the server died each time; it is not begun again."
            else:
                try:
                    image, mask = self._files.read(job.id, "image"), self._files.read(job.id, "mask")
                    return job, Submission(image, mask, job.parameters, job.parameters.seed)
                except OSError:
                    reason = "What was uploaded for the job is not there any more, so it cannot be painted."
            self.fail(job.id, owner, JobError.of(JobLostError(reason)))

    def _take(self, db: sqlite3.Connection, owner: str) -> sqlite3.Row | None:
        now = self._clock()
        row: sqlite3.Row | None = db.execute(
            "SELECT id FROM jobs WHERE live AND (owner IS NULL OR lease_until <= ?) ORDER BY number LIMIT 1",
            (now,),
        ).fetchone()
        if row is None:
            return None
        db.execute(
            "UPDATE jobs SET owner = ?, lease_until = ?, runs = runs + 1, state = 'queued', step = 0, preview = NULL,"
            " started_at = NULL, seconds_left = NULL, version = version + 1 WHERE id = ?",
            (owner, now + self.lease_seconds, row["id"]),
        )
        return self._row(db, row["id"])

    def remove(self, identity: str) -> None:
        """Cancels or deletes."""
        with self._db.writing() as db:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", (identity,)).fetchone()
            if row is None:
                raise JobNotFoundError("There is no such job: it never was, or has expired.")
            if row["state"] in ("cancelled", "deleted"):
                return
            state = "deleted" if row["state"] in ("done", "failed") else "cancelled"
            now = self._clock()
            # A key is free again with its job: the caller who took the job back may want another.
            db.execute(
                "UPDATE jobs SET state = ?, version = version + 1, owner = NULL, key = NULL, preview = NULL,"
                " result = NULL, queue_position = 0, seconds_left = NULL, finished_at = coalesce(finished_at, ?),"
                " expires_at = coalesce(expires_at, ?) WHERE id = ?",
                (state, now, now + self._ttl, identity),
            )
        self._files.remove(identity)

    def sweep(self) -> None:
        """Deletes what has expired, and what a crash left."""
        with self._db.writing(durably=False) as db:
            rows = db.execute("DELETE FROM jobs WHERE expires_at <= ? RETURNING id", (self._clock(),)).fetchall()
        for row in rows:
            self._files.remove(row["id"])
        with self._db.reading() as db:
            known = {row["id"] for row in db.execute("SELECT id FROM jobs")}
        with self._db.translated():
            self._files.remove_orphans(known, older_than_seconds=ORPHAN_SECONDS)

    def close(self) -> None:
        """Closes the database."""
        self._db.close()


def _job(row: sqlite3.Row) -> AcceptedJob:
    error = None if row["error"] is None else JobError(**json.loads(row["error"]))
    names = ("id", "version", "preview_version", "step", "steps", "queue_position", "seconds_left", "runs")
    times = ("created_at", "started_at", "finished_at", "expires_at", "deadline_at")
    return AcceptedJob(
        state=AcceptedState(row["state"]),
        parameters=InpaintParameters.model_validate_json(row["parameters"]),
        error=error,
        **{name: row[name] for name in (*names, *times)},
    )


def _written(error: JobError) -> str:
    return json.dumps({"code": error.code, "sentence": error.sentence, "facts": error.facts}, default=str)
