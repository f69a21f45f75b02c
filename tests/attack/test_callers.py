"""Callers who look into others' jobs, flood the service or try keys: fault 12 of the report that these come from."""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sd_inpaint.callers.accounts import Accounts, Usage
from sd_inpaint.callers.caller import Caller
from sd_inpaint.callers.key_file import POLL_SECONDS
from sd_inpaint.callers.wrong_keys import MAX_WRONG_KEYS
from sd_inpaint.engine.canvas_jobs import CanvasJob
from sd_inpaint.errors import QueueFullError
from sd_inpaint.http.endpoints.jobs import JOBS
from sd_inpaint.imaging.preparation import Upload
from sd_inpaint.settings import Settings
from sd_inpaint.work.memory_budget import MemoryBudget
from sd_inpaint.work.picture_work import PictureWork
from tests.support.edge import HEALTH, INPAINT, check_shape, form
from tests.support.jobs import JobsApp, make_jobs_app
from tests.support.key_files import table
from tests.support.pictures import hole, written
from tests.support.real_time import IMAGE, MASK, SlowPainter, submission, wait_for

ALICE, BOB, NO_KEY = {"X-API-Key": "alice's"}, {"Authorization": "Bearer bob's"}, dict[str, str]()


@contextlib.contextmanager
def serving(folder: Path, *tables: str, **settings: Any) -> Iterator[JobsApp]:
    """Serves the edge for two named callers, or for those of ``tables``."""
    path = folder / "keys.toml"
    path.write_text("".join(tables or (table("alice", "alice's"), table("bob", "bob's"))))
    with make_jobs_app(folder / "state", api_keys_file=path, **settings) as app:
        yield app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[JobsApp]:
    """The edge for two named callers."""
    with serving(tmp_path) as made:
        yield made


class TestOwners:
    """Whose jobs are whose."""

    @pytest.mark.parametrize("stranger", [BOB, NO_KEY], ids=["other key", "no key"])
    def test_jobs_of_others_are_unknown(self, app: JobsApp, stranger: dict[str, str]) -> None:
        """Another caller finds no job, result, stream or anything to cancel at an id, running or done."""
        address = app.accept(ALICE, num_inference_steps="10")
        status, code = (404, "job_not_found") if stranger else (401, "unauthorized")
        for _ in range(2):
            for path in (address, f"{address}/result", f"{address}/events"):
                refusal = check_shape(app.client.get(path, headers=stranger), status, code)
                if stranger:
                    unknown = app.client.get(path.replace(address, f"{JOBS}/unknown"), headers=stranger).json()
                    assert refusal == unknown
            check_shape(app.client.delete(address, headers=stranger), status, code)
            wait_for(lambda: app.client.get(address, headers=ALICE).json()["state"] == "done")
        assert app.client.get(f"{address}/result", headers=ALICE).status_code == 200
        assert app.client.delete(address, headers=ALICE).status_code == 204
        assert app.client.delete(address, headers=ALICE).status_code == 204

    def test_a_rotated_key_keeps_its_jobs(self, tmp_path: Path) -> None:
        """Another key of the same name has the name's jobs, and the old one, once revoked, has nothing."""
        with serving(tmp_path) as app:
            address = app.accept(ALICE)
            (tmp_path / "keys.toml").write_text(table("alice", "another"))
            wait_for(lambda: app.client.get(address, headers=ALICE).status_code == 401)
            assert app.client.get(address, headers={"X-API-Key": "another"}).status_code == 200

    def test_without_keys_the_id_is_enough(self, tmp_path: Path) -> None:
        """Where no key is needed, whoever knows an id may see and delete the job, with a header or without."""
        with make_jobs_app(tmp_path) as app:
            address = app.accept()
            assert app.client.get(address, headers=ALICE).status_code == 200
            assert app.client.delete(address, headers=BOB).status_code == 204

    def test_jobs_outlive_the_list_of_keys(self, tmp_path: Path) -> None:
        """A job from before there were keys stays anybody's with a key; one with a caller is nobody else's without."""
        with make_jobs_app(tmp_path / "state") as app:
            open_job = app.accept()
            app.wait_ended(open_job)
        with serving(tmp_path) as app:
            assert app.client.get(open_job, headers=BOB).status_code == 200
            own_job = app.accept(ALICE)
        with make_jobs_app(tmp_path / "state") as app:
            check_shape(app.get(own_job), 404, "job_not_found")

    def test_idempotency_keys_belong_to_the_name(self, app: JobsApp) -> None:
        """One Idempotency-Key by both headers of one API key is one job; by another API key it is another."""
        retry = {"Idempotency-Key": "k"}
        first = app.post({**ALICE, **retry})
        again = app.post({"Authorization": "Bearer alice's", **retry})
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
        other = app.post({**BOB, **retry})
        assert other.status_code == 202
        assert other.json()["id"] != first.json()["id"]

    def test_unnamed_keys_are_callers_too(self, tmp_path: Path) -> None:
        """Keys of SD_INPAINT_API_KEYS keep their jobs apart, in whichever order they are listed."""
        with make_jobs_app(tmp_path, api_keys=("alice's", "bob's")) as app:
            address = app.accept(ALICE)
            check_shape(app.client.get(address, headers=BOB), 404, "job_not_found")
        with make_jobs_app(tmp_path, api_keys=("bob's", "alice's")) as app:
            assert app.client.get(address, headers=ALICE).status_code == 200
            check_shape(app.client.get(address, headers=BOB), 404, "job_not_found")


class TestKeys:
    """Keys that come and go, and those that are tried."""

    def test_a_revoked_key_is_refused_without_a_restart(self, tmp_path: Path) -> None:
        """What is taken out of the file is refused within seconds, and what is added is let in."""
        with serving(tmp_path) as app:
            assert app.client.get("/sd-inpaint/info", headers=BOB).status_code == 200
            (tmp_path / "keys.toml").write_text(table("carol", "carol's"))
            wait_for(lambda: app.client.get("/sd-inpaint/info", headers=BOB).status_code == 401, 3 * POLL_SECONDS)
            assert app.client.get("/sd-inpaint/info", headers={"X-API-Key": "carol's"}).status_code == 200

    def test_a_file_without_keys_opens_nothing(self, tmp_path: Path) -> None:
        """An empty file of keys lets nobody in."""
        with serving(tmp_path, "# None.\n") as app:
            check_shape(app.post(), 401, "unauthorized")

    def test_wrong_keys_are_slowed_down(self, app: JobsApp) -> None:
        """After ten wrong keys in a minute a key that might be guessed is a 429, even the right one; probes answer."""
        for number in range(MAX_WRONG_KEYS):
            check_shape(app.client.get("/sd-inpaint/info", headers={"X-API-Key": f"{number}"}), 401, "unauthorized")
        refusal = app.client.get("/sd-inpaint/info", headers=ALICE)
        assert check_shape(refusal, 429, "rate_limited")["limit"] == "wrong_keys"
        assert 1 <= int(refusal.headers["retry-after"]) <= 6
        assert app.client.get(HEALTH).status_code == 200

    def test_wrong_keys_lock_nobody_out(self, tmp_path: Path) -> None:
        """Whoever has a long key is served beside one who tries keys from the same address; long wrong ones are not."""
        key = "k" * 24
        with serving(tmp_path, table("alice", key)) as app:
            for number in range(3 * MAX_WRONG_KEYS):
                app.client.get("/sd-inpaint/info", headers={"X-API-Key": f"{number}"})
            assert app.client.get("/sd-inpaint/info", headers={"X-API-Key": key}).status_code == 200
            refusal = app.client.get("/sd-inpaint/info", headers={"X-API-Key": "w" * 24})
            check_shape(refusal, 429, "rate_limited")

    def test_no_key_is_not_a_wrong_key(self, app: JobsApp) -> None:
        """Requests without a key lock nobody out."""
        for _ in range(3 * MAX_WRONG_KEYS):
            assert app.client.get("/sd-inpaint/info").status_code == 401
        assert app.client.get("/sd-inpaint/info", headers=ALICE).status_code == 200

    def test_many_keys_in_one_request(self, app: JobsApp) -> None:
        """A request cannot try keys by the dozen, and the right one among them does not help."""
        headers = [("X-API-Key", f"{number}") for number in range(200)] + [("X-API-Key", "alice's")]
        assert app.client.get("/sd-inpaint/info", headers=headers).status_code == 401


class TestLimits:
    """What each limit refuses, to whom, and with which answer."""

    def test_requests_a_minute(self, tmp_path: Path) -> None:
        """Over its rate a caller gets 429 with the limit and when to come again; others and probes are served."""
        with serving(tmp_path, table("alice", "alice's", requests_per_minute=3), table("bob", "bob's")) as app:
            for _ in range(3):
                assert app.client.get("/sd-inpaint/info", headers=ALICE).status_code == 200
            refusal = app.client.get("/sd-inpaint/info", headers=ALICE)
            assert check_shape(refusal, 429, "rate_limited")["limit"] == "requests_per_minute"
            assert 1 <= int(refusal.headers["retry-after"]) <= 20
            assert app.client.get("/sd-inpaint/info", headers=BOB).status_code == 200
            assert app.client.get(HEALTH, headers=ALICE).status_code == 200

    def test_rate_of_an_address(self, tmp_path: Path) -> None:
        """Where no key is needed, the settings' limits count by address."""
        with make_jobs_app(tmp_path, caller_requests_per_minute=2) as app:
            statuses = [app.client.get("/sd-inpaint/info").status_code for _ in range(3)]
            assert statuses == [200, 200, 429]

    def test_concurrency_counts_jobs(self, tmp_path: Path) -> None:
        """Jobs that have not ended count against a caller's concurrency, and give their place back when they have."""
        with serving(tmp_path, table("alice", "alice's", concurrency=2), table("bob", "bob's")) as app:
            app.painter.slow.step_seconds = 0.2
            jobs = [app.accept(ALICE, num_inference_steps="50") for _ in range(2)]
            refusal = app.post(ALICE)
            assert check_shape(refusal, 429, "rate_limited")["limit"] == "concurrency"
            assert int(refusal.headers["retry-after"]) >= 1
            check_shape(app.client.post(INPAINT, headers=ALICE, **form()), 429, "rate_limited")
            assert app.client.get(jobs[0], headers=ALICE).status_code == 200
            app.accept(BOB)
            app.client.delete(jobs[0], headers=ALICE)
            wait_for(lambda: app.post(ALICE).status_code == 202)

    def test_a_caller_at_their_limit_may_interrupt(self, tmp_path: Path) -> None:
        """Whoever has as much in progress as they may can still end it, also in the web UI's dialect."""
        with serving(tmp_path, table("alice", "alice's", concurrency=1)) as app:
            app.painter.slow.step_seconds = 0.2
            job = app.accept(ALICE, num_inference_steps="50")
            assert app.client.post("/sdapi/v1/interrupt", headers=ALICE).status_code == 200
            assert app.client.post("/sdapi/v1/img2img", headers=ALICE, json={}).status_code == 429
            assert app.client.delete(job, headers=ALICE).status_code == 204

    def test_work_an_hour(self, tmp_path: Path) -> None:
        """A caller who has used their hour's work gets 429 before the body is read; others are served."""
        with serving(tmp_path, table("alice", "alice's", megapixel_steps_per_hour=0.05), table("bob", "bob's")) as app:
            assert app.client.post(INPAINT, headers=ALICE, **form(num_inference_steps="20")).status_code == 200
            for path in (INPAINT, JOBS):
                refusal = app.client.post(path, headers=ALICE, **form())
                assert check_shape(refusal, 429, "quota_exceeded")["limit"] == "megapixel_steps_per_hour"
                assert int(refusal.headers["retry-after"]) > 60
            check_shape(app.post({**ALICE, "Idempotency-Key": "k"}), 429, "quota_exceeded")
            assert app.client.post(INPAINT, headers=BOB, **form()).status_code == 200

    def test_work_that_was_not_done_is_given_back(self, tmp_path: Path) -> None:
        """Cancelling a job gives back what the device has not done of it."""
        with serving(tmp_path, table("alice", "alice's", megapixel_steps_per_hour=0.05)) as app:
            app.painter.slow.step_seconds = 0.1
            job = app.accept(ALICE, num_inference_steps="150")
            check_shape(app.post(ALICE), 429, "quota_exceeded")
            app.client.delete(job, headers=ALICE)
            wait_for(lambda: app.post(ALICE).status_code == 202)

    def test_kept_bytes(self, tmp_path: Path) -> None:
        """A caller whose jobs keep too much gets 429 until results are deleted; others are not affected."""
        with serving(tmp_path, table("alice", "alice's", kept_bytes=1_100_000), table("bob", "bob's")) as app:
            jobs = []
            while (response := app.post(ALICE)).status_code == 202:
                jobs.append(response.headers["location"])
                assert len(jobs) < 50
                wait_for(lambda: app.client.get(jobs[-1], headers=ALICE).json()["state"] == "done")
            assert check_shape(response, 429, "quota_exceeded")["limit"] == "kept_bytes"
            assert int(response.headers["retry-after"]) >= 1
            assert app.runner.store.kept("alice").bytes <= 1_100_000
            app.accept(BOB)
            for job in jobs:
                app.client.delete(job, headers=ALICE)
            app.accept(ALICE)


class TestFlood:
    """One caller floods; another one is served."""

    STEPS = 20

    def test_a_flooder_does_not_fill_the_queue_for_others(self, app: JobsApp) -> None:
        """A caller who has filled the queue gets 429 by their own share, while another's job and picture are taken."""
        app.painter.slow.step_seconds = 0.1
        jobs = []
        while (response := app.post(ALICE, num_inference_steps="150")).status_code == 202:
            jobs.append(response.headers["location"])
            assert len(jobs) <= 32
        check_shape(response, 429, "queue_full")
        assert len(jobs) == 32
        address = app.accept(BOB)
        check_shape(app.client.post(INPAINT, headers=ALICE, **form()), 429, "queue_full")
        assert app.client.post(INPAINT, headers=BOB, **form()).status_code == 200
        wait_for(lambda: app.client.get(address, headers=BOB).json()["state"] == "done", 5)
        for job in jobs:
            app.client.delete(job, headers=ALICE)

    def test_a_flooder_does_not_fill_the_line_for_decoding(self) -> None:
        """A caller whose pictures fill the line for decoding gets 429; another's waits its turn and is decoded."""
        settings = Settings(_env_file=None, model="demo", max_queue=4)  # type: ignore[call-arg]
        painter = SlowPainter(settings, PictureWork(budget=MemoryBudget(64 * 1024**2)))
        painter.start()
        assert painter.engine.wait_loaded(20)
        sent = Upload(IMAGE, MASK, submission().parameters, max_pixels=sys.maxsize)

        async def admit(caller: str) -> None:
            (await painter.admit(sent, caller=Usage(Accounts().of(Caller(caller, ""))))).release()

        async def run() -> list[Any]:
            pool = painter.budget.pictures
            half = pool.max_bytes // 2
            with pool.hold(half), pool.hold(half):
                flood = [asyncio.create_task(admit("flooder")) for _ in range(6)]
                await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
                victim = asyncio.create_task(admit("victim"))
                await asyncio.sleep(0.1)
                assert not victim.done()
            return await asyncio.gather(victim, *flood, return_exceptions=True)

        try:
            victim, *flood = asyncio.run(asyncio.wait_for(run(), 30))
        finally:
            painter.stop(0.0)
        assert victim is None
        assert [type(outcome) for outcome in flood if outcome] == [QueueFullError] * 2

    def test_a_flooder_s_jobs_do_not_keep_others_out(self, tmp_path: Path) -> None:
        """A caller whose accepted jobs are as many as the bound gets 429; another's are taken, up to their share."""
        black = written(hole().point(lambda _: 0))
        with serving(tmp_path, max_queue=4) as app:
            app.painter.slow.step_seconds = 0.3
            for _ in range(4):
                app.accept(ALICE, num_inference_steps="100")
            check_shape(app.post(ALICE, mask=black), 429, "queue_full")
            app.accept(BOB, mask=black)
            jobs = [app.accept(BOB, num_inference_steps="100") for _ in range(2)]
            check_shape(app.post(BOB, num_inference_steps="100"), 429, "queue_full")
            assert len(jobs) == 2

    def test_nobody_waits_longer_than_twice_beside_a_flooder(self, app: JobsApp) -> None:
        """While one caller keeps the queue full, the device works on another's request for half of its wait."""
        loop = app.painter.engine.ready_loop()
        submit, waits = loop.submit, list[tuple[float, float]]()

        def watch(jobs: Sequence[CanvasJob], **options: Any) -> None:
            submit(jobs, **options)
            if (job := jobs[0]).caller == "bob":
                job.future.add_done_callback(
                    lambda _: waits.append((time.monotonic() - job.arrived_at, job.device_seconds))
                )

        loop.submit = watch
        stop = threading.Event()
        statuses: list[int] = []

        def flood() -> None:
            while not stop.is_set():
                statuses.append(app.post(ALICE, num_inference_steps="100").status_code)
                stop.wait(0.005 if statuses[-1] == 202 else 0.05)

        with ThreadPoolExecutor(1) as pool:
            flooding = pool.submit(flood)
            wait_for(lambda: 429 in statuses)
            for _ in range(4):
                answer = app.client.post(INPAINT, headers=BOB, **form(num_inference_steps=str(self.STEPS)))
                assert answer.status_code == 200
            stop.set()
            flooding.result()
        assert len(waits) == 4
        # Between two steps other threads of this process have their turns, all the more on a busy machine.
        assert all(waited <= 2.5 * on_device + 0.3 for waited, on_device in waits), waits

    def test_a_resumed_job_keeps_its_caller(self, tmp_path: Path) -> None:
        """After a restart, a caller's jobs are theirs again: in the queue, and against their concurrency."""
        with serving(tmp_path, table("alice", "alice's", concurrency=1)) as app:
            app.painter.slow.step_seconds = 0.5
            job = app.accept(ALICE, num_inference_steps="100")
        with serving(tmp_path, table("alice", "alice's", concurrency=1)) as app:
            app.painter.slow.step_seconds = 0.5
            wait_for(lambda: [found.caller for found in app.painter.engine.ready_loop().jobs()] == ["alice"])
            check_shape(app.post(ALICE), 429, "rate_limited")
            app.client.delete(job, headers=ALICE)


class TestAudit:
    """The one line a request."""

    def test_line(self, app: JobsApp, caplog: pytest.LogCaptureFixture) -> None:
        """A line has who, from where, what, at which cost and how it ended: no key, prompt or job id."""
        with caplog.at_level(logging.INFO, "bentoml.sd_inpaint.http"):
            app.client.post(INPAINT, headers={**ALICE, "X-Request-ID": "one"}, **form(prompt="secret words"))
            address = app.accept({**BOB, "X-Request-ID": "two"}, prompt="secret words")
            app.client.get(address, headers={**ALICE, "X-Request-ID": "three"})
            app.client.get(address, headers={"X-Request-ID": "four", "X-API-Key": "secret words"})
        lines = [record.getMessage().split() for record in caplog.records if record.name == "bentoml.sd_inpaint.http"]
        assert [line[:4] + line[5:] for line in lines] == [
            ["one", "POST", INPAINT, "200", "key=alice", "address=testclient", "cost=0.008", "code=-"],
            ["two", "POST", JOBS, "202", "key=bob", "address=testclient", "cost=0.008", "code=-"],
            [
                "three",
                "GET",
                f"{JOBS}/{{id}}",
                "404",
                "key=alice",
                "address=testclient",
                "cost=0.000",
                "code=job_not_found",
            ],
            ["four", "GET", f"{JOBS}/{{id}}", "401", "key=-", "address=testclient", "cost=0.000", "code=unauthorized"],
        ]
        assert "secret" not in caplog.text
        assert "alice's" not in caplog.text
        assert address.rpartition("/")[2] not in caplog.text

    def test_lines_cannot_be_forged(self, app: JobsApp, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever stands in path, method, id or key, a request is one line of bounded length."""
        evil = "\r\n2026-01-01 one POST / 200 key=admin\x1b[31m"
        with caplog.at_level(logging.INFO, "bentoml.sd_inpaint.http"):
            app.client.get("/" + quote(evil), headers=ALICE)
            app.client.get("/" + "x" * 5000, headers={"X-API-Key": "y" * 5000, "X-Request-ID": "z" * 5000})
            app.client.request("M" * 500, INPAINT, headers=ALICE)
            app.client.get(f"{JOBS}/" + "%0d%0a" * 100, headers=ALICE)
        lines = [record.getMessage() for record in caplog.records if record.name == "bentoml.sd_inpaint.http"]
        assert len(lines) == 4
        assert all(line.isprintable() and line.isascii() and len(line) < 1000 for line in lines)
        assert all(line.count(" key=") == 1 for line in lines)
