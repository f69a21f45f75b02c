"""``/sd-inpaint/jobs``: requests → status, headers, body, events."""

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_inpaint.errors import InvalidOutputError
from sd_inpaint.http.endpoints.jobs import JOBS
from tests.support.edge import INPAINT, KEYS, ORIGIN, check_shape, connect, form
from tests.support.jobs import JobsApp, make_jobs_app
from tests.support.pictures import SIZE, hole, opened, photo, written
from tests.support.real_time import wait_for

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


@pytest.fixture
def app(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[JobsApp]:
    """The edge with default settings."""
    if url := pytestconfig.getoption("--url"):
        with connect(url) as client:
            yield JobsApp(client)
        return
    with make_jobs_app(tmp_path) as made:
        yield made


@pytest.mark.contract
def test_job_is_accepted_and_ends_with_the_plain_result(app: JobsApp) -> None:
    """A job is accepted with its address, ends done, and its result is what the plain request gives."""
    response = app.post(seed="7", region="full")
    assert response.status_code == 202
    address, body = response.headers["location"], response.json()
    assert re.fullmatch(rf"{JOBS}/[\w-]{{22,}}", address)
    assert address.endswith(body["id"])
    assert (body["state"], body["step"], body["steps"], body["seed"]) == ("queued", 0, 2, 7)
    assert TIME.fullmatch(body["created_at"])
    assert "result" not in body
    assert "idempotent-replayed" not in response.headers
    ended = app.wait_ended(address)
    assert (ended["state"], ended["step"], ended["steps"], ended["queue_position"]) == ("done", 2, 2, 0)
    assert ended["created_at"] <= ended["finished_at"] < ended["expires_at"]
    assert ended["result"] == f"{address}/result"
    result = app.get(ended["result"])
    plain = app.client.post(INPAINT, **form(seed="7", region="full"))
    assert result.status_code == 200
    assert result.content == plain.content
    names = ("content-type", "x-seed", "x-model", "x-steps", "x-region", "vary", "cache-control")
    assert {name: result.headers[name] for name in names} == {name: plain.headers[name] for name in names}
    assert float(result.headers["x-inference-seconds"]) > 0


@pytest.mark.contract
@pytest.mark.parametrize("level", [255, 200, 0])
def test_result_is_the_plain_answer(app: JobsApp, level: int) -> None:
    """A job's result is what the plain request answers, byte for byte, also where all or nothing is repainted."""
    fields = {"mask": written(Image.new("L", SIZE, level)), "region": "full", "seed": "7"}
    address = app.accept(**fields)
    app.wait_ended(address)
    plain = app.client.post(INPAINT, **form(**fields))
    result = app.get(address + "/result")
    assert plain.status_code == result.status_code == 200
    assert result.content == plain.content
    if level:
        source_type = b"/trainedAlgorithmicMedia" if level == 255 else b"/compositeWithTrainedAlgorithmicMedia"
        assert source_type in result.content


@pytest.mark.contract
def test_random_seed(app: JobsApp) -> None:
    """A seed that the server draws is known at once, and is the result's."""
    bodies = [app.post(seed="-1").json() for _ in range(2)]
    assert bodies[0]["seed"] != bodies[1]["seed"]
    app.wait_ended(bodies[0]["url"])
    assert app.get(bodies[0]["url"] + "/result").headers["x-seed"] == str(bodies[0]["seed"])


@pytest.mark.contract
@pytest.mark.parametrize(
    ("accept", "media_type"),
    [("image/webp", "image/webp"), ("image/jpeg;q=0.5, application/json", "application/json"), ("*/*", "image/png")],
)
def test_result_formats(app: JobsApp, accept: str, media_type: str) -> None:
    """The result comes in any format that a plain request's does, each time anew."""
    address = app.accept()
    app.wait_ended(address)
    result = app.get(address + "/result", Accept=accept)
    assert result.headers["content-type"] == media_type
    check_shape(app.get(address + "/result", Accept="text/html"), 406, "not_acceptable")


@pytest.mark.contract
def test_result_too_large_for_its_format(app: JobsApp) -> None:
    """A format that cannot hold the picture is refused, and another one is not."""
    wide = {"image": written(photo((16_384, 1))), "mask": written(hole((16_384, 1)))}
    address = app.accept(**wide)
    app.wait_ended(address)
    check_shape(app.get(address + "/result", Accept="image/webp"), 413, "image_too_large")
    assert opened(app.get(address + "/result").content).shape == (1, 16_384, 3)


@pytest.mark.contract
def test_several_pictures(app: JobsApp) -> None:
    """A job of several pictures gives them as a plain request does."""
    address = app.accept(num_images="2", seed="5")
    app.wait_ended(address)
    result = app.get(address + "/result", Accept="application/json").json()
    plain = app.client.post(INPAINT, headers={"Accept": "application/json"}, **form(num_images="2", seed="5")).json()
    assert result["images"] == plain["images"]


@pytest.mark.contract
def test_result_before_the_end(app: JobsApp) -> None:
    """The result of an unfinished job is a 409 that says where the job is."""
    address = app.accept(num_inference_steps="150")
    body = check_shape(app.get(address + "/result"), 409, "job_not_ready")
    assert body["state"] in ("queued", "running")
    app.client.delete(address)


def test_failed_job(app: JobsApp) -> None:
    """A job that failed has the error that the plain request would have had, in its description and as its result."""

    def fault(call: str, subject: object, low_memory: bool) -> None:
        if call == "finish":
            raise InvalidOutputError("The model gave no picture.", attempts=2)

    app.painter.slow.fault = fault
    address = app.accept()
    ended = app.wait_ended(address)
    error = {"error": "The model gave no picture.", "code": "invalid_output", "attempts": 2}
    assert (ended["state"], ended["error"]) == ("failed", error)
    assert "result" not in ended
    assert check_shape(app.get(address + "/result"), 500, "invalid_output") == error
    assert app.get(address + "/events").text.rstrip().endswith(f'"error": {json.dumps(error)}}}')


def test_delete_cancels_a_running_job(app: JobsApp) -> None:
    """DELETE cancels, again and again; the job says so and has no result."""
    address = app.accept(num_inference_steps="150")
    for _ in range(2):
        response = app.client.delete(address)
        assert (response.status_code, response.content) == (204, b"")
    assert app.get(address).json()["state"] == "cancelled"
    check_shape(app.get(address + "/result"), 404, "job_not_found")
    wait_for(lambda: app.painter.engine.waiting_canvases == 0)
    assert app.painter.steps_taken < 150
    assert "event: cancelled\n" in app.get(address + "/events").text


@pytest.mark.contract
def test_delete_removes_a_job_that_is_done(app: JobsApp) -> None:
    """DELETE of a job that is done deletes it with its result, again and again."""
    address = app.accept()
    app.wait_ended(address)
    for _ in range(2):
        assert app.client.delete(address).status_code == 204
    for suffix in ("", "/result", "/events"):
        check_shape(app.get(address + suffix), 404, "job_not_found")


def test_result_expires(tmp_path: Path) -> None:
    """A result is kept for as long as the operator says."""
    with make_jobs_app(tmp_path, result_ttl_seconds=0.5) as app:
        address = app.accept()
        app.wait_ended(address)
        wait_for(lambda: app.get(address).status_code == 404)
        check_shape(app.get(address + "/result"), 404, "job_not_found")


@pytest.mark.contract
@pytest.mark.parametrize("suffix", ["", "/result", "/events"])
@pytest.mark.parametrize("identity", ["nothing", "..%2F..", "%00", "x" * 500])
def test_unknown_jobs(app: JobsApp, identity: str, suffix: str) -> None:
    """A job that is not there is a 404, whatever it is called."""
    response = app.get(f"{JOBS}/{identity}{suffix}")
    assert response.status_code == 404
    assert response.json()["code"] in ("job_not_found", "not_found")
    if not suffix:
        assert app.client.delete(f"{JOBS}/{identity}").status_code == 404


@pytest.mark.contract
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"seed": "x"}, 400, "invalid_parameter"),
        ({"image": b"x"}, 400, "invalid_image"),
        ({"mask": written(hole((53, 70)))}, 400, "size_mismatch"),
        ({"prompt": None}, 400, "missing_field"),
    ],
)
def test_bad_requests(app: JobsApp, changes: dict[str, Any], status: int, code: str) -> None:
    """A request that is wrong is refused as the plain one is; no job comes of it."""
    before = app.painted()
    check_shape(app.post(**changes), status, code)
    assert app.painted() == before


def test_same_checks_as_the_plain_request(tmp_path: Path) -> None:
    """Keys, body limit, query and deadline are looked at as for the plain request."""
    with make_jobs_app(tmp_path, api_keys=KEYS, max_body_bytes=20_000, deadline_seconds=100.0) as app:
        key = {"X-API-Key": KEYS[0]}
        for method, path in [
            ("POST", JOBS),
            ("GET", f"{JOBS}/x"),
            ("DELETE", f"{JOBS}/x"),
            ("GET", f"{JOBS}/x/events"),
        ]:
            check_shape(app.client.request(method, path), 401, "unauthorized")
        assert app.post(key).status_code == 202
        check_shape(app.post(key, image=bytes(30_000)), 413, "body_too_large")
        check_shape(app.post({**key, "X-Deadline-Seconds": "101"}), 400, "invalid_parameter")
        check_shape(app.client.post(JOBS + "?seed=1", headers=key, **form()), 400, "invalid_parameter")
        check_shape(app.client.post(JOBS, headers=key, json={}), 415, "unsupported_media_type")


def test_full_queue(tmp_path: Path) -> None:
    """A full queue is a 429 with Retry-After, but not for the retry of what was accepted."""
    with make_jobs_app(tmp_path, max_queue=1) as app:
        key = {"Idempotency-Key": "k"}
        address = app.accept(key, num_inference_steps="150")
        refused = app.post(ORIGIN)
        check_shape(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["access-control-allow-origin"] == ORIGIN["Origin"]
        check_shape(app.post({"Idempotency-Key": "other"}), 429, "queue_full")
        again = app.post(key, num_inference_steps="150")
        assert (again.status_code, again.headers["location"]) == (202, address)


@pytest.mark.contract
def test_one_key_with_one_request_is_one_job(app: JobsApp) -> None:
    """One key with one request is one job, done or not; with another request it is refused."""
    # A server may know keys of an hour ago.
    key = f"k{secrets.token_hex(8)}"
    before = app.painted()
    first = app.post({"Idempotency-Key": key}, seed="-1")
    address = first.headers["location"]
    app.wait_ended(address)
    again = app.post({"Idempotency-Key": key}, seed="-1")
    assert (again.status_code, again.headers["location"]) == (202, address)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["state"] == "done"
    check_shape(app.post({"Idempotency-Key": key}, seed="1"), 422, "idempotency_conflict")
    assert app.accept({"Idempotency-Key": key.upper()}) != address
    assert app.painted() == before + 2


def test_idempotency_is_each_caller_s_own(tmp_path: Path) -> None:
    """Callers with different API keys cannot meet each other's jobs by their Idempotency-Key."""
    with make_jobs_app(tmp_path, api_keys=("a", "b")) as app:
        addresses = {app.accept({"X-API-Key": key, "Idempotency-Key": "k"}) for key in ("a", "b", "a")}
        assert len(addresses) == 2


@pytest.mark.parametrize("key", [b"", b" ", b"x" * 256, b"\xff", "ü".encode()])
def test_odd_idempotency_keys(app: JobsApp, key: bytes) -> None:
    """A key that is none is refused, and not ignored."""
    response = app.client.post(JOBS, headers={b"Idempotency-Key": key}, **form())  # type: ignore[dict-item]
    assert check_shape(response, 400, "invalid_parameter")["field"] == "Idempotency-Key"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("suffix", "allowed"),
    [("", "POST"), ("/x", "DELETE, GET, HEAD"), ("/x/result", "GET, HEAD"), ("/x/events", "GET, HEAD")],
)
def test_other_methods_are_refused_with_what_is_served(app: JobsApp, suffix: str, allowed: str) -> None:
    """Other methods are a 405 that says what is served; OPTIONS and preflights say it too."""
    refused = app.client.put(JOBS + suffix)
    check_shape(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == allowed
    assert set(app.client.options(JOBS + suffix).headers["allow"].split(", ")) == {*allowed.split(", "), "OPTIONS"}
    preflight = {
        **ORIGIN,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "idempotency-key",
    }
    assert app.client.options(JOBS + suffix, headers={**ORIGIN, **preflight}).status_code == 200


@pytest.mark.contract
def test_browsers_may_read_the_address(app: JobsApp) -> None:
    """Location and the replay mark are exposed to scripts."""
    exposed = app.post(ORIGIN).headers["access-control-expose-headers"].split(", ")
    assert {"Location", "Idempotent-Replayed", "Retry-After"} <= {*exposed}


@pytest.mark.contract
def test_head_has_gets_headers_and_no_body(app: JobsApp) -> None:
    """HEAD answers with GET's headers and without a body, also on the stream of an unfinished job."""
    address = app.accept(num_inference_steps="150")
    for suffix, media_type in [("", "application/json"), ("/events", "text/event-stream; charset=utf-8")]:
        head = app.client.head(address + suffix)
        assert (head.status_code, head.headers["content-type"], head.content) == (200, media_type, b"")
    assert app.client.head(address + "/result").status_code == 409
    app.client.delete(address)


def test_state_that_cannot_be_kept(tmp_path: Path) -> None:
    """Without a folder to write in, jobs are a 503 with the reason, and everything else is served."""
    (tmp_path / "file").write_bytes(b"")
    with make_jobs_app(tmp_path / "file") as app:
        for response in (app.post(), app.get(JOBS + "/x"), app.client.delete(JOBS + "/x")):
            reason = check_shape(response, 503, "state_unavailable")["error"]
            assert "SD_INPAINT_STATE_DIR" in reason
            assert str(tmp_path) not in reason
        assert app.client.post(INPAINT, **form()).status_code == 200


def test_defect_says_nothing_of_itself(app: JobsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect is a 500 in the one shape, without a word of what it is."""

    def broken(identity: str) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.runner.store, "get", broken)
    assert "secret" not in check_shape(app.get(JOBS + "/x"), 500, "internal")["error"]


@pytest.mark.contract
def test_description_has_every_path_of_jobs(app: JobsApp) -> None:
    """The description has every path of jobs, with the plain request's form."""
    paths = app.get("/docs.json").json()["paths"]
    assert {path: set(item) for path, item in paths.items() if path.startswith(JOBS)} == {
        JOBS: {"post"},
        JOBS + "/{id}": {"get", "delete"},
        JOBS + "/{id}/result": {"get"},
        JOBS + "/{id}/events": {"get"},
    }
    assert paths[JOBS]["post"]["requestBody"] == paths[INPAINT]["post"]["requestBody"]
    assert {"202", "400", "422", "429", "503"} <= set(paths[JOBS]["post"]["responses"])


def test_info_and_metrics(app: JobsApp) -> None:
    """Info tells how full the queue is and how jobs ended."""
    started = time.monotonic()
    address = app.accept(num_inference_steps="150")
    queue = app.get("/sd-inpaint/info").json()["queue"]
    assert queue["jobs"] == 1
    assert 0 < queue["seconds"] < 60
    app.client.delete(address)
    wait_for(lambda: app.get("/sd-inpaint/info").json()["queue"]["jobs"] == 0)
    assert app.get("/sd-inpaint/info").json()["queue"] == {"jobs": 0, "seconds": 0.0, "outcomes": {"cancelled": 1}}
    assert time.monotonic() - started < 20
