"""Where accepted jobs are kept in tests: a place for each kind of store, and a look behind the store's back."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from sd_inpaint.jobs.postgres import PostgresJobStore
from sd_inpaint.jobs.sqlite import SqliteJobStore
from sd_inpaint.jobs.store import SqlJobStore
from tests.support.postgres_server import PostgresServer

TTL = 60.0


class Place(Protocol):
    """Holds the jobs of one test."""

    def open(self, **options: Any) -> SqlJobStore:
        """Opens one more view on the jobs, as another process does."""

    def pictures(self) -> set[tuple[str, str]]:
        """The id and the kind of each picture that is kept."""

    def spoil(self, job_id: str, kind: str, data: bytes | None) -> None:
        """Puts something else in a picture's place, or nothing."""


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, **options: Any) -> SqlJobStore:
        """Opens a store over SQLite."""
        return SqliteJobStore(self.path, **{"result_ttl_seconds": TTL, **options})

    def pictures(self) -> set[tuple[str, str]]:
        """Reads the folder."""
        return {(path.stem, path.suffix[1:]) for path in (self.path / "files").iterdir()}

    def spoil(self, job_id: str, kind: str, data: bytes | None) -> None:
        """Writes the file, or deletes it."""
        path = self.path / "files" / f"{job_id}.{kind}"
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)


class DatabasePlace:
    """A database of its own on the tests' server."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.name = server.empty_database()
        self.url = server.url(self.name)

    def open(self, **options: Any) -> SqlJobStore:
        """Opens a store over PostgreSQL."""
        return PostgresJobStore(self.url, **{"result_ttl_seconds": TTL, **options})

    def ask(self, statement: str, *values: object) -> list[Any]:
        """Runs one statement; gives its rows."""
        with closing(self.server.connect(self.name)) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def pictures(self) -> set[tuple[str, str]]:
        """Reads the table."""
        return set(self.ask("SELECT id, kind FROM sd_inpaint.pictures"))

    def spoil(self, job_id: str, kind: str, data: bytes | None) -> None:
        """Changes the row, or deletes it."""
        if data is None:
            self.ask("DELETE FROM sd_inpaint.pictures WHERE id = %s AND kind = %s", job_id, kind)
        else:
            self.ask("UPDATE sd_inpaint.pictures SET data = %s WHERE id = %s AND kind = %s", data, job_id, kind)


# Another kind of store takes its place here, and passes the same tests.
@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place of each kind."""
    if request.param == "postgres":
        yield DatabasePlace(request.getfixturevalue("postgres"))
    else:
        yield Folder(tmp_path / "jobs")
