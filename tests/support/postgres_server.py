"""A throw-away PostgreSQL server: started, stopped, frozen and thawed by the tests that need one."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from tests.support.processes import family, free_port
from tests.support.tools import need

NOBODY = 65534
"""PostgreSQL's server refuses to be root."""

USER = "painter"
PASSWORD = "p@ss/w:rd?#%"
"""Each of these characters means something else in a URL."""

SPEED = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60", "autovacuum=off")


class PostgresServer:
    """One server in a folder of its own, with TLS; its data outlive a stop.

    Args:
        address: Where it listens, beside a socket in its folder.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        need("test-tools")
        self.address = address
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="sd-inpaint-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def certificate(self) -> Path:
        """What its TLS is known by."""
        return self.folder / "certificate"

    def _make(self) -> None:
        key, password, data = (self.folder / name for name in ("key", "password", "data"))
        password.write_text(PASSWORD, "utf-8")
        self._run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName=IP:{self.address}"),
            *("-keyout", str(key), "-out", str(self.certificate)),
        )
        if os.getuid() == 0:
            for path in (self.folder, password, key):
                os.chown(path, NOBODY, NOBODY)
        options = ("--username", USER, "--pwfile", str(password), "--auth", "scram-sha-256", "--encoding", "UTF8")
        self._run(*self._command("initdb"), "--pgdata", str(data), "--no-sync", *options)
        with (data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write(f"hostssl all all {self.address}/24 scram-sha-256\n")

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @staticmethod
    def _command(name: str) -> list[str]:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        path = str(folders[-1] / name) if folders else str(shutil.which(name))
        nobody = ("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups") if os.getuid() == 0 else ()
        # Tests that are killed leave no server behind.
        return ["setpriv", *nobody, "--pdeathsig", "QUIT", "--", path]

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        settings = (
            *SPEED,
            *(f"listen_addresses={self.address}", f"unix_socket_directories={self.folder}"),
            *("ssl=on", f"ssl_cert_file={self.certificate}", f"ssl_key_file={self.folder / 'key'}"),
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._command("postgres"), "-D", self.folder / "data", "-p", str(self.port)),
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text("utf-8")
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Ends it at once, as a crash does."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None

    @property
    def is_stopped(self) -> bool:
        """True between a stop and a start."""
        return self._process is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to each of its processes."""
        assert self._process is not None
        for pid in family(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A server that takes connections, as its machine does for it, and answers nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """Connects as a test does that looks behind the store's back."""
        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{self.address}:{self.port}/{database}"

    def empty_database(self) -> str:
        """Makes a database, or throws out whom and what a test before has left in it; gives its name."""
        with closing(self.connect()) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = 'jobs'").fetchone() is None:
                connection.execute("CREATE DATABASE jobs")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'jobs'")
        with closing(self.connect("jobs")) as connection:
            connection.execute("DROP SCHEMA IF EXISTS sd_inpaint CASCADE")
        return "jobs"

    def remove(self) -> None:
        """Stops it and deletes its folder."""
        self.stop()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session; a test makes a database of its own in it."""
    made = PostgresServer()
    try:
        yield made
    finally:
        made.remove()
