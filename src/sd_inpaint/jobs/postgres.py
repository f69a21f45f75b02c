"""Accepted jobs in PostgreSQL, pictures included: any number of machines share them."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sd_inpaint.jobs.postgres_connections import PostgresDatabase
from sd_inpaint.jobs.store import LEASE_SECONDS, Execute, SqlJobStore

SCHEMA: Final = "sd_inpaint"
"""The tables lie in a schema of their own: the database may hold other programs' tables."""

TABLES_VERSION: Final = 1

# Progress moves no index, so rows are changed in place while their page has room. PNGs are not compressed twice.
_TABLES: Final = """
CREATE TABLE jobs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    key text UNIQUE,
    fingerprint text,
    parameters text NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    live boolean GENERATED ALWAYS AS (state IN ('queued', 'running', 'finishing')) STORED,
    version integer NOT NULL DEFAULT 1,
    owner text,
    lease_until double precision NOT NULL DEFAULT 0,
    runs integer NOT NULL DEFAULT 1,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    expires_at double precision,
    deadline_at double precision,
    step integer NOT NULL DEFAULT 0,
    steps integer NOT NULL,
    queue_position integer NOT NULL DEFAULT 0,
    seconds_left double precision,
    preview bytea,
    preview_version integer NOT NULL DEFAULT 0,
    error text,
    result text
) WITH (fillfactor = 50);
ALTER TABLE jobs ALTER preview SET STORAGE EXTERNAL;
CREATE INDEX live_jobs ON jobs (number) WHERE live;
CREATE INDEX ended_jobs ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE pictures (
    id text NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind text NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (id, kind)
);
ALTER TABLE pictures ALTER data SET STORAGE EXTERNAL;
"""


_ADDED: Final = {"caller": "text", "bytes": "bigint NOT NULL DEFAULT 0"}
"""Columns of ``jobs`` that the first version of the tables did not have. They leave the version as it is: the program
before them works on the tables too, so that replicas can be updated one after another, and an update taken back."""


class PostgresJobStore(SqlJobStore):
    """A :class:`sd_inpaint.jobs.job.JobStore` in a PostgreSQL database. Its server is first asked at the first call.

    Args:
        url: ``postgresql://…``, as libpq reads it. Whoever it names may make a schema there, or owns one of this name.
        result_ttl_seconds: How long a job is kept after its end.
        lease_seconds: How long a job stays with a process that does not report on it.
        max_bytes: Space that uploads and results may take.
        clock: Unix time in seconds, the same for all processes; None takes the server's, since machines differ.
    """

    def __init__(
        self,
        url: str,
        *,
        result_ttl_seconds: float,
        lease_seconds: float = LEASE_SECONDS,
        max_bytes: int = sys.maxsize,
        clock: Callable[[], float] | None = None,
    ) -> None:
        database = PostgresDatabase(url, name=SCHEMA, tables=_TABLES, added=_ADDED, version=TABLES_VERSION, clock=clock)
        pictures = _Pictures(database)
        super().__init__(
            database,
            pictures,
            result_ttl_seconds=result_ttl_seconds,
            lease_seconds=lease_seconds,
            max_bytes=max_bytes,
        )


class _Pictures:
    """Pictures in a table of their own, which nothing reads that only asks how far a job is."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._db = database

    @contextmanager
    def drafted(self, job_id: str, files: Mapping[str, bytes]) -> Iterator[Callable[[Execute], None]]:
        def keep(execute: Execute) -> None:
            for kind, data in files.items():
                execute(
                    "INSERT INTO pictures (id, kind, data) VALUES (:id, :kind, :data)"
                    " ON CONFLICT (id, kind) DO UPDATE SET data = excluded.data",
                    id=job_id,
                    kind=kind,
                    data=data,
                )

        yield keep

    def read(self, job_id: str, kind: str) -> bytes:
        with self._db.reading() as execute:
            for row in execute("SELECT data FROM pictures WHERE id = :id AND kind = :kind", id=job_id, kind=kind):
                return bytes(row["data"])
        raise FileNotFoundError(f"{job_id}.{kind}")

    def remove(self, job_id: str, *kinds: str) -> None:
        with self._db.writing() as execute:
            if not kinds:
                execute("DELETE FROM pictures WHERE id = :id", id=job_id)
            for kind in kinds:
                execute("DELETE FROM pictures WHERE id = :id AND kind = :kind", id=job_id, kind=kind)

    def used_bytes(self) -> int:
        with self._db.reading() as execute:
            return int(execute("SELECT coalesce(sum(octet_length(data)), 0) AS used FROM pictures")[0]["used"])

    def set_aside(self, job_id: str, size: int) -> None:
        """Nothing: the disk is the database server's, and its operator's to watch."""
