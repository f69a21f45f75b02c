"""One SQLite file for all threads of this process, shared with other processes of the machine."""

import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sd_inpaint.errors import StateUnavailableError

BUSY_SECONDS: Final = 10.0
"""Processes take turns at writing, for a millisecond each."""


Run = Callable[..., list[sqlite3.Row]]
"""Runs one statement, its values by name; gives the rows it answers with."""


class Database:
    """A connection, and its transactions one at a time; SQLite's own locks stand between processes.

    In WAL mode, so that readers never wait for a writer. Not for folders on a network: WAL needs shared memory.

    Args:
        path: The file; its folder exists.
        schema: Statements that make what is not there yet.
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
        """Turns what SQLite and the file system raise within into StateUnavailableError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            folder = str(self._path.parent)
            raise StateUnavailableError(f"Jobs cannot be kept in {folder!r}: {error}.") from error

    @contextmanager
    def reading(self) -> Iterator[Run]:
        """Gives this thread what runs statements, for as long as the block lasts."""
        with self._connected() as db:
            yield self._runner(db)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self.translated():
            if self._connection is None:
                raise StateUnavailableError("The server is stopping and looks up no jobs any more.")
            yield self._connection

    def _runner(self, db: sqlite3.Connection) -> Run:
        def run(statement: str, /, **values: object) -> list[sqlite3.Row]:
            return db.execute(statement, {"now": self._clock(), **values}).fetchall()

        return run

    @contextmanager
    def writing(self, *, durably: bool = True) -> Iterator[Run]:
        """One transaction; on the disk when the block ends, unless it may get lost with the machine's power."""
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
        """Returns infinity: a file is not away for long enough to make leases run out."""
        return math.inf

    def close(self) -> None:
        """Ends the connection; may be called again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
