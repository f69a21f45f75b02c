"""One PostgreSQL database for all threads of this process, on whichever server is the primary."""

import functools
import logging
import math
import re
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from sd_inpaint.errors import StateUnavailableError

CONNECTIONS: Final = 4
"""At a time, in this process. A call holds one for milliseconds, so more would only fill the server's own bound."""

CONNECT_SECONDS: Final = 5
"""How long a server may take to take a connection, and a thread may wait for one that is free."""

CALL_SECONDS: Final = 20.0
"""How long a server may take to answer: the largest upload at 50 Mbit/s."""

REST_SECONDS: Final = 1.0
"""How long no new connection is tried after one failed: threads that all wait for a lost server help nobody."""

_DEFAULTS: Final = {
    "application_name": "sd-inpaint",
    "connect_timeout": CONNECT_SECONDS,
    # Of several servers in one URL, the one that is the primary.
    "target_session_attrs": "read-write",
    # A server that vanished is noticed by the machine; that it hangs is noticed by CALL_SECONDS.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""What the URL may say otherwise."""

# Time-outs of the server's own: one that has given this process up must not hold rows for it. Where the server is set
# to lose what it has promised, this session is not.
_SESSION: Final = f"""
SELECT set_config('search_path', %(name)s, false),
    set_config('statement_timeout', '{CALL_SECONDS:.0f}s', false),
    set_config('idle_in_transaction_session_timeout', '{CALL_SECONDS:.0f}s', false),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
        ELSE current_setting('synchronous_commit') END, false)
"""

_VALUE: Final = re.compile(r"(?<!:):([a-z_]+)")

_CREATION_LOCK: Final = 5_263_419_287
"""Any number, the same in each process: of several that find no tables one makes them, and the others wait."""

Execute = Callable[..., list[dict[str, Any]]]

T = TypeVar("T")

logger = logging.getLogger("bentoml.sd_inpaint.postgres")


class _Connection(psycopg.Connection[dict[str, Any]]):
    """A connection that gives up on a server that does not answer."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Waits for one answer."""
        return super().wait(gen, interval, CALL_SECONDS if timeout is None else timeout)


class PostgresDatabase:
    """A few connections, made when they are needed; one that fails is dropped, and the next call makes another.

    Nothing is connected before the first call, so a server that is down when this process starts may come later.

    Args:
        url: ``postgresql://…``, as libpq reads it.
        name: Of the schema that the tables lie in.
        tables: Statements that make them.
        added: Columns of the table ``jobs`` that older tables lack, with their types.
        version: Of the tables; those of another version are left alone.
        clock: Unix time in seconds, the same for all processes; None takes the server's own. ``:now`` in statements.
    """

    skip_locked = "FOR UPDATE SKIP LOCKED"

    def __init__(
        self,
        url: str,
        *,
        name: str,
        tables: str,
        added: Mapping[str, str],
        version: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._url = url
        self._name = name
        self._tables = tables
        self._added = added
        self._version = version
        self._clock = clock
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._idle: list[_Connection] = []
        self._is_closed = False
        self._has_tables = False
        self._rest_until = 0.0
        self._trouble = ""
        self._refusal = "The jobs database is unavailable."
        self._back_at = -math.inf

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns psycopg's exceptions within into a StateUnavailableError that shows callers no host names."""
        try:
            yield
        except psycopg.Error as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.warning("Jobs database failed: %s: %s", type(error).__name__, " ".join(self._trouble.split()))
            kind = type(error).__name__.lstrip("_")
            self._refusal = f"The jobs database is unavailable ({kind})."
            raise StateUnavailableError(self._refusal) from error

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        """Yields a function that runs single statements."""
        with self._connected() as connection:
            yield self._runner(connection)

    @contextmanager
    def writing(self, *, durably: bool = True) -> Iterator[Execute]:
        """One transaction; if ``durably``, it is on the server's disk when the block ends."""
        with self._connected() as connection:
            connection.execute("BEGIN" if durably else "BEGIN; SET LOCAL synchronous_commit TO off")
            try:
                yield self._runner(connection)
                connection.execute("COMMIT")
            except BaseException:
                # Where an answer is still outstanding, the connection is closed, which does the same.
                if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                    with suppress(psycopg.Error):
                        connection.execute("ROLLBACK")
                raise

    def _runner(self, connection: _Connection) -> Execute:
        def execute(statement: str, /, **values: object) -> list[dict[str, Any]]:
            if self._clock is not None:
                values["now"] = self._clock()
            cursor = connection.execute(_translated(statement, self._clock is None), values, binary=True)
            return cursor.fetchall() if cursor.description else []

        return execute

    @contextmanager
    def _connected(self) -> Iterator[_Connection]:
        if not self._slots.acquire(timeout=CONNECT_SECONDS):
            raise StateUnavailableError("The jobs database takes too long to answer.")
        try:
            with self.translated():
                connection = self._take() or self._connect()
                try:
                    yield connection
                except psycopg.Error:
                    # Whatever it was: the next one may reach another server, which may be an empty one.
                    connection.close()
                    self._has_tables = False
                    self._drop_idle()
                    raise
                finally:
                    self._put_back(connection)
            if self._trouble:
                self._back_at, self._trouble = time.monotonic(), ""
        finally:
            self._slots.release()

    def _take(self) -> _Connection | None:
        with self._lock:
            if self._is_closed:
                raise StateUnavailableError("The server is shutting down.")
            while self._idle:
                connection = self._idle.pop()
                if not _has_input(connection):
                    return connection
                # Nothing was asked, so it can only be the server closing the connection.
                connection.close()
        return None

    def _put_back(self, connection: _Connection) -> None:
        with self._lock:
            is_ready = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
            if is_ready and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _connect(self) -> _Connection:
        if time.monotonic() < self._rest_until:
            raise StateUnavailableError(self._refusal)
        try:
            connection = _Connection.connect(**self._parameters())
            try:
                connection.execute(_SESSION, {"name": self._name})
                if not self._has_tables:
                    self._make_tables(connection)
            except BaseException:
                connection.close()
                raise
        except (psycopg.Error, StateUnavailableError) as error:
            self._rest_until = time.monotonic() + REST_SECONDS
            if isinstance(error, StateUnavailableError):
                self._refusal = str(error)
            raise
        return connection

    def _parameters(self) -> dict[str, Any]:
        try:
            given = conninfo_to_dict(self._url)
        except psycopg.Error:
            # Its message may hold a piece of the password.
            raise StateUnavailableError("Jobs cannot be stored: SD_INPAINT_STATE_URL is not a valid URL.") from None
        own = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": None}
        return {**_DEFAULTS, **given, **own}

    def _make_tables(self, connection: _Connection) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
            # An operator may have made the schema, for a user who may make none.
            there = connection.execute(
                "SELECT to_regnamespace(%(name)s) AS schema, to_regclass(%(name)s || '.about') AS about",
                {"name": self._name},
            ).fetchone()
            assert there is not None  # noqa: S101  # a SELECT without FROM has one row
            if there["schema"] is None:
                connection.execute(f"CREATE SCHEMA {self._name}")
            if there["about"] is None:
                connection.execute(f"CREATE TABLE about (version integer NOT NULL); {self._tables}")
                connection.execute("INSERT INTO about (version) VALUES (%s)", (self._version,))
            else:
                self._check_version(connection)
            self._add_columns(connection)
        self._has_tables = True

    def _add_columns(self, connection: _Connection) -> None:
        # Asked for first: to add a column takes a lock that stops everybody, even where the column is there.
        there = {
            row["attname"]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attnum > 0 AND NOT attisdropped"
            )
        }
        for name, kind in self._added.items():
            if name not in there:
                connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")

    def _check_version(self, connection: _Connection) -> None:
        row = connection.execute("SELECT max(version) AS version FROM about").fetchone()
        found = row and row["version"]
        if found != self._version:
            raise StateUnavailableError(
                f"Jobs cannot be stored: the tables in the database are from another version of this program ({found})."
            )

    def usable_seconds(self) -> float:
        """Returns how long calls have succeeded since the last failure; infinity if none has failed."""
        return 0.0 if self._trouble else time.monotonic() - self._back_at

    def close(self) -> None:
        """Ends the connections; may be called again."""
        with self._lock:
            self._is_closed = True
        self._drop_idle()


def _has_input(connection: _Connection) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


@functools.cache
def _translated(statement: str, by_servers_clock: bool) -> str:
    """Writes ``:name`` as psycopg has it, and ``:now`` as the server's time; statements are a handful of constants."""
    if by_servers_clock:
        statement = re.sub(r":now\b", "extract(epoch FROM statement_timestamp())::float8", statement)
    return _VALUE.sub(r"%(\1)s", statement)
