"""Two replicas with addresses of their own behind HAProxy, their jobs in one PostgreSQL: shared, killed, stopped."""

import contextlib
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sd_inpaint.http.application import open_store
from sd_inpaint.http.endpoints.jobs import JOBS
from sd_inpaint.settings import Settings
from tests.support.edge import HEALTH, INPAINT, form
from tests.support.events import read_events
from tests.support.network import Host, network
from tests.support.postgres_server import PostgresServer
from tests.support.repository import ROOT
from tests.support.served import Server

pytestmark = pytest.mark.slow

STEPS = "12"

SEEDS = ("1", "2", "3")

JOB_COUNT = 4
"""As many as keep two replicas busy while one of them is lost."""

LOAD_SECONDS = 2.0

PORT = 8080


CLIENT = httpx.Client(timeout=60)
"""Making one takes more of the processor than most requests do."""


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until a condition holds, and leaves the processor to the replicas meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


@dataclass
class Life:
    """What was seen of two replicas.

    Attributes:
        url: The proxy's.
        plain: Seed → what a plain request gave, through the proxy.
        statuses_at_kill: What callers got, or what befell them, while one replica was killed.
        statuses_at_stop: The same while one was stopped.
    """

    url: str = ""
    state_url: str = ""
    plain: dict[str, bytes] = field(default_factory=dict)
    first_seen: dict[str, Any] = field(default_factory=dict)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    streamed_while: str = ""
    shared_result: bytes = b""
    cancel_status: int = 0
    cancelled: dict[str, Any] = field(default_factory=dict)
    painted_by_each: list[int] = field(default_factory=list)
    killed_processes: int = 0
    killed: dict[str, dict[str, Any]] = field(default_factory=dict)
    results_of_killed: dict[str, bytes] = field(default_factory=dict)
    statuses_at_kill: Counter[object] = field(default_factory=Counter)
    stopped: dict[str, dict[str, Any]] = field(default_factory=dict)
    results_of_stopped: dict[str, bytes] = field(default_factory=dict)
    statuses_at_stop: Counter[object] = field(default_factory=Counter)
    exit_code: int | None = None
    exit_seconds: float = 0.0
    runs_of_stopped: set[int] = field(default_factory=set)


def accept(url: str, seed: str, key: str | None = None, steps: str = STEPS) -> str:
    """Posts a job that is accepted; gives its address."""
    headers = {"Idempotency-Key": key} if key else None
    response = CLIENT.post(url + JOBS, headers=headers, **form(num_inference_steps=steps, seed=seed))
    assert response.status_code == 202, response.text
    return str(response.headers["location"])


def describe(url: str, address: str) -> dict[str, Any]:
    """Reads a job's description."""
    body: dict[str, Any] = CLIENT.get(url + address).json()
    return body


def accept_many(life: Life, name: str) -> dict[str, str]:
    """Posts jobs through the proxy; gives address → seed."""
    seeds = [SEEDS[number % len(SEEDS)] for number in range(JOB_COUNT)]
    return {accept(life.url, seed, f"{name}{number}"): seed for number, seed in enumerate(seeds)}


@contextlib.contextmanager
def callers(life: Life, addresses: dict[str, str], cut_off: int = 0) -> Iterator[Counter[object]]:
    """Callers who meanwhile look at jobs, paint, and hand in jobs with keys; counts the statuses, or the errors.

    Each asks again for so many answers that are cut off in the middle: no proxy can take back what it has passed on.
    """
    statuses: Counter[object] = Counter()
    is_over = threading.Event()

    def call(number: int) -> None:
        may_ask_again = cut_off
        with httpx.Client(base_url=life.url, timeout=60) as client:

            def ask(method: str, path: str, **sent: Any) -> None:
                nonlocal may_ask_again
                try:
                    statuses[client.request(method, path, **sent).status_code] += 1
                except httpx.TransportError as error:
                    if may_ask_again and "without sending complete message body" in str(error):
                        may_ask_again -= 1
                        ask(method, path, **sent)
                    else:
                        statuses[f"{method} {path}: {error!r}"] += 1

            for turn in range(1000):
                if is_over.is_set():
                    return
                for address in addresses:
                    ask("GET", address)
                small = form(num_inference_steps="2", seed="9")
                ask("POST", INPAINT, **small)
                ask("POST", JOBS, headers={"Idempotency-Key": f"{min(addresses)} {number} {turn}"}, **small)
                time.sleep(0.3)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def is_answering(url: str) -> bool:
    """Whether a paint would be taken there now."""
    try:
        return CLIENT.get(url + HEALTH).is_success
    except httpx.TransportError:
        return False


def share(life: Life, one: Server, other: Server) -> None:
    """A job handed in to one replica is followed, fetched and cancelled through the other."""
    address = accept(one.url, SEEDS[0])
    life.first_seen = describe(other.url, address)
    with CLIENT.stream("GET", f"{life.url}{address}/events") as stream:
        for piece in stream.iter_text():
            if "event: p" in piece:
                break
    life.streamed_while = describe(one.url, address)["state"]
    life.told = read_events(CLIENT.get(f"{other.url}{address}/events").text)
    life.shared_result = CLIENT.get(f"{other.url}{address}/result").content
    address = accept(one.url, SEEDS[0], steps="150")
    wait(lambda: describe(other.url, address)["step"] > 2)
    life.cancel_status = CLIENT.delete(other.url + address).status_code
    wait(lambda: CLIENT.get(one.url + "/sd-inpaint/info").json()["queue"]["jobs"] == 0)
    life.cancelled = describe(one.url, address)


def balance(life: Life, *replicas: Server) -> None:
    """Plain requests through the proxy."""
    for seed in SEEDS:
        sent = form(num_inference_steps=STEPS, seed=seed)
        life.plain[seed] = CLIENT.post(life.url + INPAINT, **sent).content
    wait(lambda: sum(painted(replica) for replica in replicas) == len(SEEDS))
    life.painted_by_each = [painted(replica) for replica in replicas]


def painted(replica: Server) -> int:
    """How many plain requests a replica has answered."""
    return replica.log.read_text().count(f"POST {INPAINT} 200")


def wait_done(life: Life, addresses: dict[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    """Waits until jobs have ended; gives what became of each, and each result."""
    wait(lambda: all(describe(life.url, a)["state"] in ("done", "failed") for a in addresses), 90)
    ended = {address: describe(life.url, address) for address in addresses}
    return ended, {a: CLIENT.get(f"{life.url}{a}/result").content for a in addresses}


def kill_one(life: Life, host: Host, replica: Server) -> None:
    """One replica is lost, with all of its processes, while all paint."""
    addresses = accept_many(life, "killed")
    wait(lambda: sum(describe(life.url, address)["step"] > 2 for address in addresses) >= 2)
    # A process that is killed has had at most one answer to each of them on the way.
    with callers(life, addresses, cut_off=1) as life.statuses_at_kill:
        time.sleep(0.5)
        life.killed_processes = host.kill()
        replica.process.wait()
        time.sleep(LOAD_SECONDS)
    life.killed, life.results_of_killed = wait_done(life, addresses)


def stop_one(life: Life, leaving: Server) -> None:
    """One replica is stopped as an operator does, with little time, while both paint."""
    addresses = accept_many(life, "stopped")
    wait(lambda: sum(describe(life.url, address)["step"] > 2 for address in addresses) >= 2)
    with callers(life, addresses) as life.statuses_at_stop:
        time.sleep(0.5)
        started = time.monotonic()
        life.exit_code = leaving.stop()
        life.exit_seconds = time.monotonic() - started
        time.sleep(LOAD_SECONDS)
    life.stopped, life.results_of_stopped = wait_done(life, addresses)
    with contextlib.closing(open_store(Settings(_env_file=None, state_url=life.state_url))) as store:  # type: ignore[call-arg]
        life.runs_of_stopped = {store.get(address.rpartition("/")[2]).runs for address in addresses}


@contextlib.contextmanager
def proxy(host: Host, log: Path, one: Server, two: Server) -> Iterator[str]:
    """HAProxy with the file that users get; gives its URL."""
    ends = {"BIND": f"{host.address}:{PORT}", "ONE": one.url.partition("//")[2], "TWO": two.url.partition("//")[2]}
    environment = {**os.environ, **{f"INPAINT_{name}": end for name, end in ends.items()}}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*host.within, "haproxy", "-db", "-f", ROOT / "deploy" / "haproxy.cfg"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://{host.address}:{PORT}"
    try:
        wait(lambda: is_answering(url))
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Leads two replicas through their lives, then has the tests look at what was seen."""
    folder = tmp_path_factory.mktemp("replicas")
    with network() as net, contextlib.ExitStack() as stack:
        database = PostgresServer(net.address)
        stack.callback(database.remove)
        state_url = database.url(database.empty_database())
        settings = {
            "SD_INPAINT_STATE_URL": state_url,
            "SD_INPAINT_DRAIN_SECONDS": "1",
            "SD_INPAINT_ALLOW_OPEN": "true",
        }
        hosts = [net.add() for _ in range(4)]

        def serve(host: Host) -> Server:
            made = Server(folder / f"{host.name}.log", address=host.address, within=host.within, **settings)
            stack.callback(made.process.wait)
            stack.callback(host.kill)
            return made

        one, two = serve(hosts[0]), serve(hosts[1])
        one.wait()
        two.wait()
        # Takes the place of the one that will be killed; a start takes as long as all that comes before.
        three = serve(hosts[2])
        life = Life(state_url=state_url)
        with proxy(hosts[3], folder / "proxy.log", one, two) as life.url:
            share(life, one, two)
            balance(life, one, two)
            kill_one(life, hosts[0], one)
        three.wait()
        with proxy(hosts[3], folder / "next-proxy.log", three, two) as life.url:
            stop_one(life, two)
        yield life


def test_job_is_followed_through_the_other_replica(life: Life) -> None:
    """A job that one replica paints is seen, streamed and fetched through the other, as through itself."""
    assert life.first_seen["state"] in ("queued", "running")
    assert life.told[-1][0] == "done"
    assert life.shared_result == life.plain[SEEDS[0]]


def test_events_pass_the_proxy_as_they_come(life: Life) -> None:
    """The proxy holds no event back until the job has ended."""
    assert life.streamed_while in ("queued", "running")


def test_job_is_cancelled_through_the_other_replica(life: Life) -> None:
    """Who cancels a job need not know who paints it."""
    assert (life.cancel_status, life.cancelled["state"]) == (204, "cancelled")


def test_both_replicas_are_used(life: Life) -> None:
    """The proxy sends requests to each."""
    assert min(life.painted_by_each) >= 1


def test_no_accepted_job_is_lost_with_its_replica(life: Life) -> None:
    """With one replica killed under load, every accepted job is done, with the bytes that a plain request gets."""
    assert life.killed_processes > 1
    assert Counter(job["state"] for job in life.killed.values()) == {"done": JOB_COUNT}
    for address, job in life.killed.items():
        assert life.results_of_killed[address] == life.plain[str(job["seed"])]


def test_callers_do_not_see_the_kill(life: Life) -> None:
    """What can be asked for twice is asked for at the other replica: no caller gets an error."""
    assert set(life.statuses_at_kill) == {200, 202}


def test_stopped_replica_leaves_its_jobs_to_the_other(life: Life) -> None:
    """A replica that is stopped under load gives its jobs back at once; no run of them counts, and none is lost."""
    assert life.exit_code == 0
    assert life.exit_seconds < 15
    assert Counter(job["state"] for job in life.stopped.values()) == {"done": JOB_COUNT}
    for address, job in life.stopped.items():
        assert life.results_of_stopped[address] == life.plain[str(job["seed"])]
    assert life.runs_of_stopped == {1}


def test_callers_do_not_see_the_stop(life: Life) -> None:
    """While a replica leaves, callers get answers and no errors."""
    assert set(life.statuses_at_stop) == {200, 202}
