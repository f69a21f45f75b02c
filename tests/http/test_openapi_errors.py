"""Each error that the OpenAPI document names can be met where it says so."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import BusyError, InpaintError
from sd_inpaint.http.application import OPEN_PATHS, Application
from sd_inpaint.http.endpoints import jobs
from sd_inpaint.http.endpoints.painting import NOT_OPEN, PAINTS
from sd_inpaint.http.wire import forms
from sd_inpaint.http.wire.errors import STATUSES
from sd_inpaint.http.wire.operations import Operation
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.settings import Settings
from tests.support.edge import App, FakePainter, form, make_app
from tests.support.pictures import SIZE, hole, photo, written
from tests.support.real_time import wait_for

HEALTHS = ("health", "post_health")

STATES = {
    "model_loading": EngineState.LOADING,
    "model_disabled": EngineState.DISABLED,
    "model_failed": EngineState.FAILED,
    "shutting_down": EngineState.STOPPING,
}

PAINTING = ("inpaint", "edit_image", "img2img")

READING = ("preview", "png_info")

OF_ONE_JOB = ("get_job", "delete_job", "get_job_events", "get_job_result")


EMPTY_FORM = b'--x\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nutf-8\r\n--x--\r\n'


def transparent(size: tuple[int, int] = SIZE) -> bytes:
    """A picture's file in which nothing is opaque."""
    shown = photo(size, "RGBA")
    shown.putalpha(0)
    return written(shown)


def described() -> list[tuple[str, str, Operation]]:
    """Everything that is served, but for what BentoML serves by itself."""
    settings = Settings(_env_file=None, model="demo")  # type: ignore[call-arg]
    return list(Application(settings, make_painter=FakePainter).operations())  # type: ignore[arg-type]


DESCRIBED = described()

PAIRS = [
    pytest.param(path, method, operation, error, id=f"{operation.id}-{code}")
    for path, method, operation in DESCRIBED
    for code, error in {error.code: error for error in operation.errors}.items()
]


def made(error: type[InpaintError]) -> InpaintError:
    """An error as it is raised."""
    return error("It is so.", retry_after_seconds=1) if issubclass(error, BusyError) else error("It is so.")


def raising(error: type[InpaintError]) -> Callable[..., NoReturn]:
    """Something that raises it."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise made(error)

    return fail


@dataclass
class Caller:
    """Who asks one operation of one application."""

    app: App
    path: str
    method: str
    operation: Operation

    def send(self, headers: dict[str, str] | None = None, **request: Any) -> Any:
        """Sends a request."""
        return self.app.client.request(self.method, self.path, headers=headers, **request)

    def good(self, headers: dict[str, str] | None = None, **pictures: bytes | None) -> Any:
        """Sends a request that is good, but for its headers and its pictures; None leaves one out."""
        return self.send(headers, **self.request(**pictures))

    def request(self, **pictures: bytes | None) -> dict[str, Any]:
        """The arguments of a good request, but for its pictures."""
        files = {"image": transparent(), "mask": written(hole()), **pictures}
        match self.operation.id:
            case "inpaint" | "post_job":
                return form(**files)
            case "edit_image":
                return form(**{**files, "mask": pictures.get("mask")})
            case "preview":
                return form(image=files["image"], mask=None, prompt=None, num_inference_steps=None)
            case "img2img":
                texts = {name: base64.b64encode(data).decode() for name, data in files.items() if data is not None}
                return {
                    "json": {"mask": texts.get("mask"), "init_images": [texts["image"]] if "image" in texts else []}
                }
            case "png_info":
                return {"json": {"image": base64.b64encode(files["image"] or b"").decode()}}
            case "post_options":
                return {"json": {}}
        return {}

    def of_job(
        self,
        headers: dict[str, str] | None = None,
        *,
        ended: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Any:
        """Asks for the result of a job that has ended, or has not."""
        url = self.app.client.post("/sd-inpaint/jobs", **form()).json()["url"]
        if ended:
            wait_for(lambda: self.app.client.get(url).json()["state"] in ("done", "failed"))
        meanwhile()
        return self.app.client.get(f"{url}/result", headers=headers)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """The edge, whose jobs are in a folder of this test's."""
    with make_app(state_dir=tmp_path) as made_app:
        yield made_app


def in_the_request(caller: Caller) -> dict[str, Callable[[], Any]]:
    """Code → a request that gets it, for errors that lie in the request."""
    name = caller.operation.id
    is_form = "json" not in caller.request()
    own_type = "multipart/form-data; boundary=x" if is_form else "application/json"
    unknown = {"progress": {"params": {"skip_current_image": "maybe"}}, "post_options": {"json": {"x": 1}}}
    never = {"X-Deadline-Seconds": "never"}
    asks: dict[str, Callable[[], Any]] = {
        "malformed_body": lambda: caller.send({"Content-Type": own_type}, content=b"{"),
        "unsupported_media_type": lambda: caller.send({"Content-Type": "text/plain"}, content=b"x"),
        "missing_field": lambda: caller.send({"Content-Type": own_type}, content=EMPTY_FORM if is_form else b"{}"),
        "invalid_image": lambda: caller.good(image=b"no picture"),
        "invalid_mask": lambda: caller.good(mask=b"no picture"),
        "size_mismatch": lambda: caller.good(mask=transparent((8, 8))),
        "not_acceptable": lambda: caller.good({"Accept": "text/html"}),
        "invalid_parameter": lambda: caller.send(**unknown[name]) if name in unknown else caller.good(never),
        "not_found": caller.send,
        "job_not_found": caller.send,
    }
    if name == "get_job_result":
        asks["not_acceptable"] = lambda: caller.of_job({"Accept": "text/html"})
        asks["invalid_parameter"] = lambda: caller.of_job(never)
    return asks


def put_into_state(caller: Caller, error: type[InpaintError], patch: pytest.MonkeyPatch) -> Any:
    """Has the application be in a state in which a good request gets an error; gives what it gets."""
    app, name = caller.app, caller.operation.id
    if name in HEALTHS:
        app.painter.engine.state = STATES[error.code]
    elif name in PAINTING:
        if error in PAINTS or error not in NOT_OPEN:
            app.painter.failure = made(error)
        else:
            app.painter.refusal = made(error)
    elif name in READING:
        patch.setattr(app.painter, "read_picture", raising(error))
    elif name == "post_job":
        if error.code == "idempotency_conflict":
            key = {"Idempotency-Key": "one"}
            assert caller.good(key).status_code == 202
            return caller.good(key, mask=written(hole().transpose(0)))
        patch.setattr(app.painter, "admit", raising(error))
    elif error.code in ("state_unavailable", "shutting_down") and name in OF_ONE_JOB:
        patch.setattr(JobRunner, "store", property(raising(error)))
    elif error.code == "job_not_ready":
        app.painter.held = True
        answer = caller.of_job(ended=False)
        app.painter.held = False
        return answer
    elif error.code in ("queue_full", "image_too_large"):
        return caller.of_job(meanwhile=lambda: patch.setattr(jobs.codecs, "check_encodable", raising(error)))
    else:
        app.painter.late_failure = made(error)
        return caller.of_job()
    return caller.good()


@pytest.mark.parametrize(("path", "method", "operation", "error"), PAIRS)
def test_an_operations_own_errors_are_met(
    app: App, path: str, method: str, operation: Operation, error: type[InpaintError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request, or the state of the server, brings about each error that an operation lists as its own."""
    caller = Caller(app, path.replace("{id}", "nothing"), method, operation)
    if error.code == "upload_timeout":
        monkeypatch.setattr(forms, "fail_after", raising_timeout)
        answer = caller.good()
    elif ask := in_the_request(caller).get(error.code):
        answer = ask()
    else:
        answer = put_into_state(caller, error, monkeypatch)
    shown = answer.json()
    assert (shown["code"] if "code" in shown else shown["error"]["code"]) == error.code
    assert answer.status_code == STATUSES[error.code]


def raising_timeout(_: float) -> NoReturn:
    """What a time that is up raises."""
    raise TimeoutError


def test_what_is_met_on_the_way_is_met_everywhere() -> None:
    """Each operation refuses foreign hosts, pages of other sites and bodies over the limit; with keys, who has none."""
    with make_app() as app:
        for path, method, _ in DESCRIBED:
            ask = lambda **headers: app.client.request(method, path, headers=headers).json()  # noqa: B023, E731
            assert "forbidden_host" in str(ask(Host="evil.example")), path
            assert "body_too_large" in str(ask(**{"Content-Length": "9" * 12})), path
            if method != "get":
                assert "forbidden_origin" in str(ask(Origin="https://evil.example")), path
    with make_app(api_keys="a-key", caller_requests_per_minute=1) as app:
        for path, method, _ in DESCRIBED:
            if path not in OPEN_PATHS:
                assert "unauthorized" in app.client.request(method, path).text, path
        key = {"X-API-Key": "a-key"}
        while app.client.get("/sd-inpaint/info", headers=key).status_code == 200:
            pass
        for path, method, _ in DESCRIBED:
            if path not in OPEN_PATHS:
                assert "rate_limited" in app.client.request(method, path, headers=key).text, path
