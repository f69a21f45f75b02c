"""The store in PostgreSQL: servers that restart, hang or refuse, several processes, and what nobody may read."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from sd_inpaint.errors import JobNotFoundError, StateUnavailableError
from sd_inpaint.http.application import open_store
from sd_inpaint.jobs import postgres_connections as module
from sd_inpaint.jobs.job import JobState, JobStore
from sd_inpaint.jobs.postgres import PostgresJobStore
from sd_inpaint.jobs.store import SqlJobStore
from sd_inpaint.settings import Settings
from tests.support.edge import HEALTH, INPAINT, check_shape, form
from tests.support.jobs import make_jobs_app
from tests.support.places import DatabasePlace
from tests.support.postgres_server import PASSWORD, USER, PostgresServer
from tests.support.real_time import running, wait_for
from tests.support.real_time import submission as sent
from tests.support.submissions import LEASE, ME, OTHER, progress, result, submission

TTLS = {"result_ttl_seconds": 60.0}


@pytest.fixture
def database(postgres: PostgresServer) -> DatabasePlace:
    """An empty database."""
    return DatabasePlace(postgres)


@pytest.fixture
def store(database: DatabasePlace) -> Iterator[SqlJobStore]:
    """One store, by the server's clock."""
    made = database.open(lease_seconds=LEASE)
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up within a second what it else gives twenty."""
    monkeypatch.setattr(module, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(module, "REST_SECONDS", 0.1)


def test_settings_name_the_store(database: DatabasePlace) -> None:
    """With a URL set, jobs are in the database, and no folder is asked for."""
    settings = Settings(_env_file=None, state_url=database.url, state_dir="/proc/none")  # type: ignore[call-arg]
    with closing(open_store(settings)) as store:
        job, _ = store.add(submission(), ME)
    assert database.ask("SELECT id FROM sd_inpaint.jobs") == [(job.id,)]


def test_time_is_the_servers(store: SqlJobStore, database: DatabasePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and times go by the database's clock: a machine whose own is wrong takes nobody's job away."""
    monkeypatch.setattr(time, "time", lambda: 5.0)
    job, _ = store.add(submission(), ME)
    [(now,)] = database.ask("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert 0 <= now - job.created_at < 60
    assert store.claim(OTHER) is None
    monkeypatch.setattr(time, "time", lambda: now + 1000.0)
    assert store.claim(OTHER) is None
    database.ask("UPDATE sd_inpaint.jobs SET lease_until = %s", now)
    assert store.claim(OTHER) is not None


def test_promises_wait_for_the_servers_disk(store: SqlJobStore, database: DatabasePlace) -> None:
    """Whatever the server is set to, a promise waits for its disk; a report of progress does not."""
    database.ask("ALTER DATABASE jobs SET synchronous_commit TO off")
    try:
        with store._db.writing() as run:
            assert run("SHOW synchronous_commit")[0]["synchronous_commit"] == "on"
        with store._db.writing(durably=False) as run:
            assert run("SHOW synchronous_commit")[0]["synchronous_commit"] == "off"
        with store._db.writing() as run:
            assert run("SHOW synchronous_commit")[0]["synchronous_commit"] == "on"
    finally:
        database.ask("ALTER DATABASE jobs RESET synchronous_commit")


def test_replicas_that_start_at_once(database: DatabasePlace) -> None:
    """Of many that find an empty database, one makes the tables, and all can use them."""
    stores = [database.open() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda store: store.add(submission(), ME)[0], stores))
    assert {stores[0].get(job.id) == job for job in jobs} == {True}
    assert database.ask("SELECT version FROM sd_inpaint.about") == [(1,)]
    for store in stores:
        store.close()


def test_tables_of_another_version(store: SqlJobStore, database: DatabasePlace) -> None:
    """Tables that a later program has made are left alone, and said to be; who was there before goes on."""
    job, _ = store.add(submission(), ME)
    database.ask("UPDATE sd_inpaint.about SET version = 99")
    with closing(database.open()) as newcomer:
        for _ in range(2):
            with pytest.raises(StateUnavailableError, match=r"another version.*99"):
                newcomer.get(job.id)
    assert store.get(job.id) == job


def test_database_that_is_lost(store: SqlJobStore, database: DatabasePlace) -> None:
    """Where a database is replaced by an empty one, its jobs are unknown, and new ones are kept in it."""
    job, _ = store.add(submission(key="k"), ME)
    database.ask("DROP SCHEMA sd_inpaint CASCADE")
    with pytest.raises(StateUnavailableError):
        store.get(job.id)
    with pytest.raises(JobNotFoundError):
        store.get(job.id)
    assert store.add(submission(key="k"), ME)[0].id != job.id


def test_user_who_may_make_no_schema(postgres: PostgresServer, database: DatabasePlace) -> None:
    """It is enough to own a schema that the operator has made."""
    database.ask("DROP ROLE IF EXISTS humble")
    database.ask("CREATE ROLE humble LOGIN PASSWORD 'humble'")
    database.ask("REVOKE CREATE ON DATABASE jobs FROM PUBLIC")
    database.ask("CREATE SCHEMA sd_inpaint AUTHORIZATION humble")
    url = f"postgresql://humble:humble@{postgres.address}:{postgres.port}/jobs"
    with closing(PostgresJobStore(url, result_ttl_seconds=60.0)) as store:
        job, _ = store.add(submission(), ME)
        assert store.get(job.id) == job


def test_nothing_is_lost_over_a_restart(store: SqlJobStore, postgres: PostgresServer) -> None:
    """While the server is down each call says so at once; when it is up again, calls work, and nothing is lost."""
    job, _ = store.add(submission(key="k"), ME)
    postgres.stop()
    try:
        for _ in range(5):
            started = time.monotonic()
            with pytest.raises(StateUnavailableError):
                store.get(job.id)
            assert time.monotonic() - started < 2.0
    finally:
        postgres.start()
    wait_for(lambda: is_answering(store))
    assert store.add(submission(key="k"), ME) == (job, True)
    assert store.finish(job.id, ME, result())


def test_restart_between_two_calls(store: SqlJobStore, postgres: PostgresServer) -> None:
    """A restart that nobody noticed costs no call: connections that the server has ended are not used."""
    job, _ = store.add(submission(), ME)
    postgres.stop()
    postgres.start()
    assert store.get(job.id) == job


def is_answering(store: JobStore) -> bool:
    """Whether the store can be used."""
    try:
        store.waiting()
    except StateUnavailableError:
        return False
    return True


def test_server_that_comes_later(postgres: PostgresServer, database: DatabasePlace) -> None:
    """A process that starts without its database takes jobs as soon as that is there, and does not end before."""
    postgres.stop()
    try:
        with running(database) as process:
            with pytest.raises(StateUnavailableError):
                process.accept(sent())
            postgres.start()
            wait_for(lambda: is_answering(process.store))
            job = process.accept(sent())
            process.wait_ended(job)
            assert process.state(job) is JobState.DONE
    finally:
        if postgres.is_stopped:
            postgres.start()


def test_jobs_go_on_over_a_restart(postgres: PostgresServer, database: DatabasePlace) -> None:
    """Jobs that are painted while the database restarts end, and are not begun again."""
    with running(database) as process:
        jobs = [process.accept(sent(seed=seed, num_inference_steps=40)) for seed in range(3)]
        wait_for(lambda: process.painter.steps_taken > 5)
        postgres.stop()
        time.sleep(0.5)
        postgres.start()
        wait_for(lambda: is_answering(process.store))
        process.wait_ended(*jobs)
        ended = [process.store.get(job.id) for job in jobs]
        assert [(job.state, job.runs) for job in ended] == [(JobState.DONE, 1)] * 3


def test_nobody_loses_a_job_to_an_outage(database: DatabasePlace, postgres: PostgresServer) -> None:
    """Leases that ran out while the database was away are renewed by their owners before others take the jobs."""
    with closing(database.open(lease_seconds=1.0)) as one, closing(database.open(lease_seconds=1.0)) as other:
        job, given_back = (one.add(submission(), ME)[0] for _ in range(2))
        one.hand_back(ME, [given_back.id])
        postgres.stop()
        try:
            with pytest.raises(StateUnavailableError):
                other.get(job.id)
            time.sleep(1.5)
        finally:
            postgres.start()
        claimed = other.claim(OTHER)
        assert claimed is not None
        assert claimed[0].id == given_back.id
        assert other.claim(OTHER) is None
        wait_for(lambda: is_answering(one))
        assert one.report(ME, {job.id: None}) == {job.id}
        time.sleep(1.2)
        assert other.claim(OTHER) is not None


@pytest.mark.usefixtures("impatient")
def test_server_that_hangs(store: SqlJobStore, postgres: PostgresServer) -> None:
    """A server that takes connections and answers nothing holds no call for long, however many there are."""
    job, _ = store.add(submission(), ME)

    def refused(number: int) -> float:
        started = time.monotonic()
        with pytest.raises(StateUnavailableError):
            store.get(job.id)
        return time.monotonic() - started

    with postgres.frozen(), ThreadPoolExecutor(12) as pool:
        seconds = list(pool.map(refused, range(24)))
        with pytest.raises(StateUnavailableError):
            store.add(submission(), ME)
    assert max(seconds) < 8.0
    wait_for(lambda: is_answering(store))
    assert store.get(job.id) == job


@pytest.mark.usefixtures("impatient")
def test_plain_endpoint_needs_no_database(database: DatabasePlace, postgres: PostgresServer, tmp_path: Path) -> None:
    """While the database hangs, jobs are refused with a reason, and plain requests are painted."""
    with make_jobs_app(tmp_path, state_url=database.url) as app:
        address = app.accept()
        app.wait_ended(address)
        with postgres.frozen(), ThreadPoolExecutor(8) as pool:
            looks = [pool.submit(app.get, address) for _ in range(8)]
            started = time.monotonic()
            assert app.client.post(INPAINT, **form()).status_code == 200
            assert time.monotonic() - started < 2.0
            for response in (*(look.result() for look in looks), app.post()):
                assert PASSWORD not in str(check_shape(response, 503, "state_unavailable"))
        wait_for(lambda: app.get(address).status_code == 200)
        # A look may yet meet a connection that broke in the hang, and be refused once more.
        again = app.accept()
        wait_for(lambda: app.get(again).json().get("state") == "done")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("impatient")
def test_an_outage_shows_in_health_and_heals(database: DatabasePlace, postgres: PostgresServer, tmp_path: Path) -> None:
    """While the database is gone, health is degraded and says why, jobs are refused, and what was promised is kept."""
    with make_jobs_app(tmp_path, state_url=database.url) as app:

        def status() -> str:
            answer = app.client.get(HEALTH)
            assert answer.status_code == 200
            assert {problem["code"] for problem in answer.json().get("problems", ())} <= {"state_unavailable"}
            return str(answer.json()["status"])

        promised = [app.accept(seed=str(seed), num_inference_steps="40") for seed in range(3)]
        postgres.stop()
        try:
            wait_for(lambda: status() == "degraded")
            check_shape(app.post(), 503, "state_unavailable")
            assert app.client.post(INPAINT, **form()).status_code == 200
        finally:
            postgres.start()
        wait_for(lambda: status() == "healthy")
        for address in promised:
            wait_for(lambda address=address: app.get(address).json().get("state") == "done")


@pytest.mark.usefixtures("impatient")
def test_server_that_hangs_in_a_transaction(store: SqlJobStore, postgres: PostgresServer) -> None:
    """A transaction that gets no answer is given up once, and its connection with it."""
    store.add(submission(), ME)
    with ExitStack() as stack:

        def meet_a_hang() -> None:
            with store._db.writing() as run:
                stack.enter_context(postgres.frozen())
                run("SELECT 1")

        started = time.monotonic()
        with pytest.raises(StateUnavailableError):
            meet_a_hang()
        assert time.monotonic() - started < 2.0
    wait_for(lambda: is_answering(store))


def test_locked_row(store: SqlJobStore, database: DatabasePlace) -> None:
    """A claim passes over a row that another process is about to change."""
    first, second = (store.add(submission(), ME)[0] for _ in range(2))
    store.hand_back(ME, [first.id, second.id])
    with database.server.connect("jobs") as other, other.transaction():
        other.execute("SELECT FROM sd_inpaint.jobs WHERE id = %s FOR UPDATE", (first.id,))
        claimed = store.claim(OTHER)
        assert claimed is not None
        assert claimed[0].id == second.id
        assert store.claim(OTHER) is None
    claimed = store.claim(OTHER)
    assert claimed is not None
    assert claimed[0].id == first.id


def test_no_more_connections_than_a_few(store: SqlJobStore, database: DatabasePlace) -> None:
    """However many threads ask, the server sees a handful of connections, and none after the end."""
    job, _ = store.add(submission(), ME)
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: store.get(job.id).id, range(200))) == {job.id}
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sd-inpaint' AND datname = 'jobs'"
    assert 1 <= database.ask(count)[0][0] <= module.CONNECTIONS
    store.close()
    wait_for(lambda: database.ask(count) == [(0,)])


def test_polling_reads_no_pictures(store: SqlJobStore, database: DatabasePlace) -> None:
    """Uploads, results and previews are in columns that a look at the job leaves alone."""
    job, _ = store.add(submission(), ME)
    store.report(ME, {job.id: progress(preview=b"small")})
    database.ask("ALTER TABLE sd_inpaint.jobs RENAME preview TO gone")
    database.ask("ALTER TABLE sd_inpaint.pictures RENAME TO lost")
    assert store.get(job.id).preview_version == 1


def test_certificate_is_checked_where_the_url_says_so(database: DatabasePlace) -> None:
    """Where the URL asks for it the server's certificate is checked, also its name; connections are used again."""
    store_url = f"{database.url}?sslmode=verify-full&sslrootcert={database.server.certificate}"
    with closing(PostgresJobStore(store_url, **TTLS)) as store:
        job, _ = store.add(submission(), ME)
        pids = set()
        for _ in range(20):
            assert store.get(job.id) == job
            with store._db.reading() as run:
                pids.add(run("SELECT pid, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl")[0]["pid"])
    assert len(pids) == 1
    by_name = store_url.replace(database.server.address, "localhost")
    with closing(PostgresJobStore(by_name, **TTLS)) as store, pytest.raises(StateUnavailableError):
        store.get(job.id)


def test_deleted_rows_take_their_pictures(store: SqlJobStore, database: DatabasePlace) -> None:
    """No picture stays without its job, whoever deletes that."""
    store.add(submission(), ME)
    database.ask("DELETE FROM sd_inpaint.jobs")
    assert database.pictures() == set()


@pytest.mark.parametrize("wrong", ["password", "user", "host", "port", "database", "option"])
def test_passwords_are_told_to_nobody(
    postgres: PostgresServer, database: DatabasePlace, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with the URL, the error names no machine, and neither it nor the log has the password."""
    secret = quote("s3cr3t" if wrong == "password" else PASSWORD, safe="")
    user = "nobody-here" if wrong == "user" else USER
    host = "host.invalid" if wrong == "host" else postgres.address
    port = 1 if wrong == "port" else postgres.port
    name = "nothing-here" if wrong == "database" else "jobs"
    url = f"postgresql://{user}:{secret}@{host}:{port}/{name}" + ("?sslmoad=x" if wrong == "option" else "")
    store = PostgresJobStore(url, result_ttl_seconds=60.0)
    with caplog.at_level(logging.DEBUG), pytest.raises(StateUnavailableError) as refused:
        store.get("x")
    store.close()
    shown = f"{refused.value!r} {caplog.text}"
    for part in (secret, PASSWORD, "s3cr3t"):
        assert part not in shown
    assert host not in str(refused.value)


def test_psycopg_names_what_is_leaned_on() -> None:
    """The client's own wait takes a time limit, which nothing else of it does."""
    assert "timeout" in psycopg.Connection.wait.__code__.co_varnames


def test_tables_of_the_first_version(database: DatabasePlace) -> None:
    """Tables without callers get them while replicas of the first version go on; their jobs are anybody's as before."""
    with closing(database.open(lease_seconds=LEASE)) as store:
        old, _ = store.add(submission(), ME)
    database.ask("ALTER TABLE sd_inpaint.jobs DROP COLUMN caller, DROP COLUMN bytes")
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(database.open(lease_seconds=LEASE))) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert {job.caller for job in pool.map(lambda store: store.get(old.id), stores)} == {None}
        new, _ = stores[0].add(submission(caller="app"), ME)
        assert stores[1].get(new.id).caller == "app"
        assert database.ask("SELECT version FROM sd_inpaint.about") == [(1,)]
        database.ask(
            "INSERT INTO sd_inpaint.jobs (id, parameters, created_at, steps) SELECT 'older', parameters, 0, 4"
            " FROM sd_inpaint.jobs LIMIT 1"
        )
        assert stores[2].get("older").caller is None
        stores[3].remove(old.id, "anybody")
