"""Accepted jobs on real servers that are stopped, killed and flooded, and callers who leave."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sd_inpaint.http.application import open_store
from sd_inpaint.http.endpoints.jobs import JOBS
from sd_inpaint.settings import Settings
from tests.support.edge import INPAINT, check_shape, form
from tests.support.events import read_events
from tests.support.processes import family
from tests.support.real_time import wait_for
from tests.support.served import Server, connection, long_request

pytestmark = pytest.mark.slow

STEPS = "40"
"""Long enough to be stopped in the middle, on any machine."""

MAX_QUEUE = 8

CALLERS = 200


def accept(server: Server, key: str | None = None, **changes: str) -> str:
    """Posts a job that is accepted; gives its address."""
    headers = {"Idempotency-Key": key} if key else None
    sent = form(num_inference_steps=STEPS, **changes)
    response = httpx.post(server.url + JOBS, headers=headers, timeout=60, **sent)
    assert response.status_code == 202, response.text
    return str(response.headers["location"])


def describe(server: Server, address: str) -> dict[str, Any]:
    """Reads a job's description."""
    body: dict[str, Any] = httpx.get(server.url + address, timeout=60).json()
    return body


def wait_until_one_runs(server: Server, addresses: list[str]) -> None:
    """Waits until one of the jobs is in the middle of its steps."""
    wait_for(lambda: any(2 < describe(server, address)["step"] < 30 for address in addresses), 60)


def kill(server: Server) -> None:
    """Kills a server with all its processes, as a power cut does."""
    pids = family(server.process.pid)
    assert len(pids) > 1
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


@dataclass
class Life:
    """What was seen of one folder of jobs under three servers, one after another."""

    jobs: list[str] = field(default_factory=list)
    states_after_stop: list[str] = field(default_factory=list)
    runs_after_stop: list[int] = field(default_factory=list)
    exit_code_short: int | None = None
    exit_seconds_short: float = 0.0
    retried: tuple[str, str] = ("", "")
    ended: list[dict[str, Any]] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)
    plain: bytes = b""
    flood: list[httpx.Response] = field(default_factory=list)
    refused: httpx.Response | None = None
    last_state: str = ""
    exit_code_long: int | None = None


def stop_soon(life: Life, server: Server, folder: Path) -> None:
    """The first server: has jobs, and hardly any time when it is stopped."""
    life.jobs = [accept(server, "first", seed="5"), *(accept(server, seed="-1") for _ in range(2))]
    life.seeds = [str(describe(server, address)["seed"]) for address in life.jobs]
    wait_until_one_runs(server, life.jobs)
    started = time.monotonic()
    life.exit_code_short = server.stop()
    life.exit_seconds_short = time.monotonic() - started
    with contextlib.closing(open_store(Settings(_env_file=None, state_dir=folder))) as store:  # type: ignore[call-arg]
        kept = [store.get(address.rpartition("/")[2]) for address in life.jobs]
    life.states_after_stop, life.runs_after_stop = [str(job.state) for job in kept], [job.runs for job in kept]


def kill_it(life: Life, server: Server) -> None:
    """The second server: takes the jobs up, gets more, and is killed in the middle of one."""
    retry = httpx.post(
        server.url + JOBS, headers={"Idempotency-Key": "first"}, timeout=60, **form(num_inference_steps=STEPS, seed="5")
    )
    life.retried = (retry.headers.get("location", ""), retry.headers.get("idempotent-replayed", ""))
    wait_until_one_runs(server, life.jobs)
    life.jobs.append(accept(server, seed="6"))
    life.seeds.append("6")
    kill(server)


def end_all(life: Life, server: Server) -> None:
    """The third server: ends the jobs, is flooded, and stopped with time to end what runs."""
    wait_for(lambda: all(describe(server, address)["state"] in ("done", "failed") for address in life.jobs), 120)
    life.ended = [describe(server, address) for address in life.jobs]
    life.results = [httpx.get(f"{server.url}{address}/result").content for address in life.jobs]
    life.plain = httpx.post(server.url + INPAINT, timeout=60, **form(num_inference_steps=STEPS, seed="5")).content
    life.flood = asyncio.run(flood(server))
    last = accept(server)
    wait_until_one_runs(server, [last])
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: httpx.get(server.url + "/sd-inpaint/health").status_code == 503, 10)
    life.refused = httpx.post(server.url + JOBS, timeout=60, **form())
    life.exit_code_long = server.stop()


async def flood(server: Server) -> list[httpx.Response]:
    """Has many callers come at once."""
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        sent = form()
        calls = (client.post(server.url + INPAINT, **sent) for _ in range(CALLERS))
        return list(await asyncio.gather(*calls))


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Leads three servers through their lives, then has the tests look at what was seen."""
    folder = tmp_path_factory.mktemp("state")
    settings = {
        "SD_INPAINT_STATE_DIR": str(folder),
        "SD_INPAINT_MAX_QUEUE": str(MAX_QUEUE),
    }
    life = Life()
    phases = [
        ({"SD_INPAINT_DRAIN_SECONDS": "0.1"}, lambda server: stop_soon(life, server, folder)),
        ({}, lambda server: kill_it(life, server)),
        ({"SD_INPAINT_DRAIN_SECONDS": "60"}, lambda server: end_all(life, server)),
    ]
    for number, (more, live) in enumerate(phases):
        server = Server(folder / f"serve{number}.log", **settings, **more)
        try:
            server.wait()
            live(server)
        finally:
            if server.process.poll() is None:
                kill(server)
    with contextlib.closing(open_store(Settings(_env_file=None, state_dir=folder))) as store:  # type: ignore[call-arg]
        life.last_state = str(store.get(_newest(folder)).state)
    return life


def _newest(folder: Path) -> str:
    """The id of the job whose result was written last."""
    results = (folder / "jobs" / "files").glob("*.result")
    return max(results, key=lambda path: path.stat().st_mtime).stem


def test_short_drain_gives_jobs_back(life: Life) -> None:
    """A server that has no time to end its jobs exits with 0 at once, and leaves them all queued."""
    assert life.exit_code_short == 0
    assert life.exit_seconds_short < 20
    # On a fast machine the first may have been done before the signal came.
    assert set(life.states_after_stop) <= {"queued", "done"}
    assert life.states_after_stop.count("queued") >= 2
    assert max(life.runs_after_stop) <= 1


def test_retry_after_a_restart(life: Life) -> None:
    """An Idempotency-Key finds its job under the next server too."""
    assert life.retried == (life.jobs[0], "true")


def test_kill_loses_no_job(life: Life) -> None:
    """Every job that was accepted is done after a stop and a kill, with the seed of its acceptance."""
    assert [body["state"] for body in life.ended] == ["done"] * 4
    assert [str(body["seed"]) for body in life.ended] == life.seeds
    assert len(set(life.results)) == 4


def test_restarts_change_no_byte(life: Life) -> None:
    """The result of a job that was begun by three processes is that of a plain request."""
    assert life.results[0] == life.plain


def test_flood_gets_pictures_or_a_time_to_come_again(life: Life) -> None:
    """Of many callers at once each gets a picture, or a 429 that says when to come again."""
    statuses = Counter(response.status_code for response in life.flood)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= MAX_QUEUE
    for response in life.flood:
        if response.status_code == 429:
            check_shape(response, 429, "queue_full")
            assert int(response.headers["retry-after"]) >= 1
    assert len({response.content for response in life.flood if response.status_code == 200}) == 1


def test_long_drain_ends_the_running_job(life: Life) -> None:
    """A server that has the time ends its running job, refuses new ones meanwhile, and exits with 0."""
    assert life.refused is not None
    check_shape(life.refused, 503, "shutting_down")
    assert life.refused.headers["retry-after"] == "10"
    assert life.exit_code_long == 0
    assert life.last_state == "done"


def queue(server: Server) -> dict[str, Any]:
    """What the server says of its queue."""
    found: dict[str, Any] = httpx.get(server.url + "/sd-inpaint/info", timeout=60).json()["queue"]
    return found


@pytest.mark.contract
def test_caller_who_leaves_frees_the_device(server: Server) -> None:
    """A caller who hangs up in the middle of 150 steps frees the device within a step."""
    with httpx.Client(base_url=server.url) as client:
        request = client.build_request("POST", INPAINT, **form(**long_request()))
        body = request.read()
    wait_for(lambda: queue(server)["jobs"] == 0)
    cancelled = queue(server)["outcomes"].get("cancelled", 0)
    head = f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}"
    with connection(server, head) as sock:
        sock.sendall(body)
        wait_for(lambda: queue(server)["jobs"] == 1)
        before = queue(server)["seconds"]
        # A machine that gets busier makes the rest look longer for a while.
        wait_for(lambda: queue(server)["seconds"] < before, 90)
        step_seconds = queue(server)["seconds"] / 150
    left = time.monotonic()
    wait_for(lambda: queue(server)["jobs"] == 0)
    # One step, and what two requests take on a machine that is busy.
    assert time.monotonic() - left < 1.0 + 2 * step_seconds
    assert queue(server)["outcomes"]["cancelled"] == cancelled + 1


def test_events_come_while_the_job_runs(server: Server) -> None:
    """Events come while the job runs; a reader who leaves changes nothing, and a second one sees the end."""
    address = accept(server)
    first, second = ({"X-Request-ID": f"events-{n}-of-{address.rpartition('/')[2]}"} for n in (1, 2))
    with httpx.stream("GET", f"{server.url}{address}/events", headers=first, timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = ""
        for piece in stream.iter_text():
            text += piece
            if "event: preview" in text:
                break
    assert describe(server, address)["state"] == "running"
    told = read_events(httpx.get(f"{server.url}{address}/events", headers=second, timeout=60).text)
    assert told[-1][0] == "done"
    assert told[0][1]["step"] > 0
    assert httpx.get(server.url + told[-1][1]["result"]).headers["content-type"] == "image/png"
    for sent in (first, second):
        line = re.compile(rf"{sent['X-Request-ID']} GET \S+/events 200 ")
        wait_for(lambda line=line: line.search(server.log.read_text()))
    assert "Traceback" not in server.log.read_text()


@pytest.mark.contract
def test_metrics_have_waiting_seconds_and_outcomes(server: Server) -> None:
    """An autoscaler reads seconds of work that wait, and jobs by outcome."""
    address = accept(server)
    wait_for(lambda: "sd_inpaint_queue_seconds" in httpx.get(server.url + "/metrics").text)
    wait_for(lambda: describe(server, address)["state"] == "done")
    wait_for(lambda: "sd_inpaint_queue_seconds 0.0" in httpx.get(server.url + "/metrics").text)
    metrics = httpx.get(server.url + "/metrics").text
    assert 'sd_inpaint_jobs_total{outcome="done"}' in metrics
    assert address not in metrics
    assert 'endpoint="/sd-inpaint/jobs/{id}"' in metrics
    assert "bentoml_service_request_total{" in metrics
    for phase in ("admission", "decode", "queue", "steps", "composite", "encode"):
        assert f'sd_inpaint_phase_seconds_count{{phase="{phase}"}}' in metrics
    for name in ("step_seconds_bucket", "batch_canvases_sum", "megapixel_steps_total", "state_free_bytes", "ready"):
        assert f"sd_inpaint_{name}" in metrics
    assert 'sd_inpaint_problem{problem="loop_stalled"} 0.0' in metrics
