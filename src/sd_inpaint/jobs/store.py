"""Accepted jobs as rows of a database, with their pictures beside it: the common part of both stores.

Statements are in the SQL that SQLite and PostgreSQL share. ``:name`` stands for a value, and ``:now`` for the time by
the database's clock, in seconds of Unix time.
"""

import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Final, Protocol

from sd_inpaint.errors import IdempotencyConflictError, JobLostError, JobNotFoundError, QueueFullError
from sd_inpaint.jobs import statements
from sd_inpaint.jobs.job import (
    MAX_RUNS,
    Job,
    JobError,
    JobProgress,
    JobResult,
    JobState,
    Kept,
    ResultExtent,
    StoreSpace,
    Submission,
    estimated_steps,
)
from sd_inpaint.jobs.rows import COLUMNS, Row, read_extent, read_job, read_result, write_error, write_result
from sd_inpaint.schema import InpaintParameters

LEASE_SECONDS: Final = 10.0
"""Renewed several times a second; long enough for a process that is starved of the CPU, short enough to wait for."""

ID_BYTES: Final = 18
"""144 random bits, 24 characters."""

_ID: Final = re.compile(r"[\w-]{1,64}", re.ASCII)

UNKNOWN_JOB: Final = "No such job: the id is unknown, or the job was deleted or has expired."

UPLOADS: Final = ("image", "mask")
"""Kinds of picture needed to start a job again. Of the others, "result" is the result, "room" the space for it."""

QUOTA_RETRY_SECONDS: Final = 60
"""How often expired results are deleted, which makes room."""


class Execute(Protocol):
    """Runs one statement of a transaction."""

    def __call__(self, statement: str, /, **values: object) -> Sequence[Row]:
        """Returns its rows; none if the statement has no result."""


class Database(Protocol):
    """The part of a database that a store needs, for any number of threads. Failures are StateUnavailableErrors."""

    skip_locked: str
    """The clause that keeps two claiming processes from waiting for the same row."""

    def reading(self) -> AbstractContextManager[Execute]:
        """Yields a function that runs single statements."""

    def writing(self, *, durably: bool = True) -> AbstractContextManager[Execute]:
        """Yields a function that runs one transaction's statements; on the disk when the block ends, if ``durably``."""

    def translated(self) -> AbstractContextManager[None]:
        """Turns the exceptions of database and pictures within into StateUnavailableError."""

    def usable_seconds(self) -> float:
        """Returns how long calls have succeeded since the last failure; infinity if none has failed."""

    def close(self) -> None:
        """Ends the use; later calls raise StateUnavailableError. May be called again."""


class Pictures(Protocol):
    """The place for uploads and results, each named by a job id and a kind."""

    def drafted(self, job_id: str, files: Mapping[str, bytes]) -> AbstractContextManager[Callable[[Execute], None]]:
        """Makes files ready, kind → bytes; what it gives has them kept, with the transaction that it takes."""

    def read(self, job_id: str, kind: str) -> bytes:
        """Returns a file; raises FileNotFoundError."""

    def remove(self, job_id: str, *kinds: str) -> None:
        """Deletes a job's files of these kinds, or all of them; missing ones are ignored."""

    def used_bytes(self) -> int:
        """Returns the space that all files take, and what is set aside for more."""

    def set_aside(self, job_id: str, size: int) -> None:
        """Takes disk space for a job's result, where the place can: until its files are removed.

        Raises:
            StateUnavailableError, OSError: If there is not so much.
        """


def _without_texts(row: Row) -> str:
    """The parameters of a job that is taken back: the caller's words are gone, what is still shown of it stays."""
    parameters = InpaintParameters.model_validate_json(row["parameters"])
    return parameters.model_copy(update={"prompt": "", "negative_prompt": ""}).model_dump_json()


class SqlJobStore:
    """A :class:`sd_inpaint.jobs.job.JobStore` over a database and a place for pictures.

    Args:
        database: Has a table ``jobs``.
        pictures: Are kept as durably as rows.
        result_ttl_seconds: How long a job is kept after its end.
        lease_seconds: How long a job stays with a process that does not report on it.
        max_bytes: Space that uploads and results may take.
    """

    def __init__(
        self,
        database: Database,
        pictures: Pictures,
        *,
        result_ttl_seconds: float,
        lease_seconds: float = LEASE_SECONDS,
        max_bytes: int = sys.maxsize,
    ) -> None:
        self._max_bytes = max_bytes
        self.lease_seconds = lease_seconds
        self._ttl = float(result_ttl_seconds)
        self._db = database
        self._pictures = pictures
        self._claim = statements.CLAIM.format(free=statements.FREE, skip_locked=database.skip_locked, columns=COLUMNS)

    def add(self, submission: Submission, owner: str, room_bytes: int = 0) -> tuple[Job, bool]:
        """Accepts a job."""
        job_id = secrets.token_urlsafe(ID_BYTES)
        files = {"image": submission.image, "mask": submission.mask}
        self._check_quota(sum(map(len, files.values())) + room_bytes)
        is_new = False
        try:
            with self._db.translated():
                self._pictures.set_aside(job_id, room_bytes)
                with self._pictures.drafted(job_id, files) as keep, self._db.writing() as execute:
                    while not self._inserted(execute, job_id, submission, owner, room_bytes):
                        # Where it has gone since, the key is free by now.
                        if found := self._find(execute, submission):
                            return found, True
                    keep(execute)
            is_new = True
        finally:
            if not is_new:
                self._forget(job_id, "room")
        return self.get(job_id), False

    def _check_quota(self, size: int) -> None:
        with self._db.translated():
            used = self._pictures.used_bytes()
        if used + size > self._max_bytes:
            raise QueueFullError(
                f"Accepted jobs take {used} of {self._max_bytes} bytes, and this one needs {size}. Delete jobs, or try "
                f"again in {QUOTA_RETRY_SECONDS} seconds.",
                retry_after_seconds=QUOTA_RETRY_SECONDS,
                reason="state_space",
                max_bytes=self._max_bytes,
            )

    def check(self) -> None:
        """Asks the database for its lock for writing, and gives it back."""
        with self._db.writing(durably=False):
            pass

    def _inserted(self, execute: Execute, job_id: str, submission: Submission, owner: str, room_bytes: int) -> bool:
        if submission.key is not None:
            execute(statements.FREE_KEY, key=submission.key)
        parameters = submission.parameters.model_copy(update={"seed": submission.seed})
        inserted = execute(
            statements.INSERT,
            id=job_id,
            key=submission.key,
            fingerprint=submission.fingerprint if submission.key else None,
            parameters=parameters.model_dump_json(),
            owner=owner,
            lease=self.lease_seconds,
            deadline_at=submission.deadline_at,
            steps=estimated_steps(parameters),
            caller=submission.caller,
            bytes=len(submission.image) + len(submission.mask) + room_bytes,
        )
        return bool(inserted)

    def find(self, submission: Submission) -> Job | None:
        """Looks for a job of the same key."""
        if submission.key is None:
            return None
        with self._db.reading() as execute:
            return self._find(execute, submission)

    def _find(self, execute: Execute, submission: Submission) -> Job | None:
        for row in execute(statements.BY_KEY, key=submission.key):
            if row["fingerprint"] != submission.fingerprint:
                raise IdempotencyConflictError("This Idempotency-Key was used with a different request; use a new one.")
            return read_job(row)
        return None

    def get(self, job_id: str) -> Job:
        """Looks a job up."""
        return read_job(self._row(job_id, COLUMNS))

    def _row(self, job_id: str, columns: str) -> Row:
        if _ID.fullmatch(job_id):
            with self._db.reading() as execute:
                for row in execute(statements.BY_ID.format(columns=columns), id=job_id):
                    return row
        raise JobNotFoundError(UNKNOWN_JOB)

    def preview(self, job_id: str) -> bytes | None:
        """Looks a preview up."""
        found: bytes | None = self._row(job_id, "preview")["preview"]
        return found

    def result_extent(self, job_id: str) -> ResultExtent:
        """Reads how large a result is."""
        return read_extent(self._written(job_id))

    def _written(self, job_id: str) -> str:
        written: str | None = self._row(job_id, "result")["result"]
        if written is None:
            raise JobNotFoundError("The job has no result.")
        return written

    def result(self, job_id: str) -> JobResult:
        """Reads a result."""
        written = self._written(job_id)
        with self._db.translated():
            try:
                return read_result(written, self._pictures.read(job_id, "result"))
            except FileNotFoundError as error:
                raise JobNotFoundError("The job's result no longer exists.") from error

    def report(self, owner: str, progress: Mapping[str, JobProgress | None]) -> frozenset[str]:
        """Notes progress and renews leases."""
        still = set()
        with self._db.writing(durably=False) as execute:
            # In one order, so that no two processes wait for each other's rows.
            for job_id, changed in sorted(progress.items()):
                names = {"id": job_id, "owner": owner, "lease": self.lease_seconds}
                if changed is None:
                    renewed = execute(statements.RENEW, **names)
                else:
                    renewed = execute(
                        statements.NOTE, **names, **asdict(changed), previews=int(changed.preview is not None)
                    )
                if renewed:
                    still.add(job_id)
        return frozenset(still)

    def finish(self, job_id: str, owner: str, result: JobResult) -> bool:
        """Keeps a result."""
        written, pictures = write_result(result)
        self._forget(job_id, "room")
        with (
            self._db.translated(),
            self._pictures.drafted(job_id, {"result": pictures}) as keep,
            self._db.writing() as execute,
        ):
            ended = self._end(
                execute, job_id, owner, JobState.DONE, result=written, steps=result.steps, kept_bytes=len(pictures)
            )
            # A late result has no owner, and must not replace the existing one.
            if ended:
                keep(execute)
        if ended:
            self._forget(job_id, *UPLOADS)
        return ended

    def fail(self, job_id: str, owner: str, error: JobError) -> bool:
        """Keeps an error."""
        with self._db.writing() as execute:
            ended = self._end(execute, job_id, owner, JobState.FAILED, error=write_error(error))
        if ended:
            self._forget(job_id)
        return ended

    def _end(
        self,
        execute: Execute,
        job_id: str,
        owner: str,
        state: JobState,
        *,
        result: str | None = None,
        error: str | None = None,
        steps: int = -1,
        kept_bytes: int = 0,
    ) -> bool:
        names = {"id": job_id, "owner": owner, "state": state.value, "ttl": self._ttl}
        return bool(execute(statements.END, **names, result=result, error=error, steps=steps, bytes=kept_bytes))

    def _forget(self, job_id: str, *kinds: str) -> None:
        with self._db.translated():
            self._pictures.remove(job_id, *kinds)

    def hand_back(self, owner: str, job_ids: Iterable[str]) -> None:
        """Puts jobs back."""
        with self._db.writing() as execute:
            for job_id in sorted(job_ids):
                execute(statements.HAND_BACK, id=job_id, owner=owner)

    def waiting(self) -> int:
        """Counts the jobs that nobody owns."""
        with self._db.reading() as execute:
            return int(execute(statements.COUNT, grace=self._grace_seconds())[0]["waiting"])

    def waiting_of(self, caller: str | None) -> int:
        """Counts one caller's of them."""
        with self._db.reading() as execute:
            return int(execute(statements.COUNT_OWN, grace=self._grace_seconds(), caller=caller or "")[0]["waiting"])

    def _grace_seconds(self) -> float:
        """Nobody could renew a lease while the database was away: for a while, none counts as expired."""
        return 0.0 if self._db.usable_seconds() > self.lease_seconds else statements.LONG_SECONDS

    def claim(self, owner: str) -> tuple[Job, Submission] | None:
        """Takes the oldest job that nobody owns."""
        while True:
            with self._db.writing() as execute:
                rows = execute(self._claim, owner=owner, lease=self.lease_seconds, grace=self._grace_seconds())
            if not rows:
                return None
            job = read_job(rows[0])
            try:
                if job.runs > MAX_RUNS:
                    raise JobLostError(
                        f"The job was started {MAX_RUNS} times and the server died each time; it will not run again."
                    )
                return job, self.submission(job)
            except JobLostError as error:
                self.fail(job.id, owner, JobError.of(error))

    def submission(self, job: Job) -> Submission:
        """Reads an upload."""
        with self._db.translated():
            try:
                image, mask = (self._pictures.read(job.id, kind) for kind in UPLOADS)
            except FileNotFoundError as error:
                raise JobLostError("The job's upload no longer exists, so the job cannot run.") from error
        return Submission(image, mask, job.parameters, job.parameters.seed, caller=job.caller)

    def kept(self, caller: str | None) -> Kept:
        """Adds up what a caller's jobs keep."""
        with self._db.reading() as execute:
            row = execute(statements.KEPT, caller=caller or "")[0]
        return Kept(int(row["bytes"]), row["frees_in_seconds"])

    def remove(self, job_id: str, caller: str | None = None) -> None:
        """Cancels or deletes."""
        if not _ID.fullmatch(job_id):
            raise JobNotFoundError("No such job: the id is unknown, or the job has expired.")
        with self._db.writing() as execute:
            rows = execute(statements.OWN, id=job_id, caller=caller)
            removed = rows and execute(statements.REMOVE, id=job_id, ttl=self._ttl, parameters=_without_texts(rows[0]))
            if not rows:
                raise JobNotFoundError("No such job: the id is unknown, or the job has expired.")
        if removed:
            self._forget(job_id)

    def sweep(self) -> None:
        """Deletes what has expired."""
        with self._db.writing(durably=False) as execute:
            rows = execute("DELETE FROM jobs WHERE expires_at <= :now RETURNING id")
        for row in rows:
            self._forget(row["id"])

    def space(self) -> StoreSpace | None:
        """Knows nothing of the disk."""
        return None

    def close(self) -> None:
        """Closes the database."""
        self._db.close()
