"""The OpenAPI document against the service: what it says is served, and what is served it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import BaseRoute, Mount, Route

from sd_inpaint import errors
from sd_inpaint.http.application import OPEN_PATHS
from sd_inpaint.http.endpoints.page import FILES
from sd_inpaint.http.wire import errors as wire_errors
from sd_inpaint.http.wire.errors import STATUSES
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tests.support.edge import make_app
from tests.support.live_edge import live_edge
from tests.support.real_time import SlowPainter
from tests.support.repository import ROOT

FORMS = ("/sd-inpaint/inpaint", "/sd-inpaint/jobs")

NOT_HERE = "/metrics"
"""Not served by the second application of one process; tests/served asks the real one."""

MAX_EXAMPLES = 4

FOR_NOBODY = (*FILES, "/static_content", "/")
"""The page's own files, and those of BentoML's page, which is not shown."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document as it is served."""
    with make_app() as app:
        read: dict[str, Any] = app.client.get("/docs.json").json()
        return read


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields path, method and operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Follows a reference within the document."""
    if "$ref" not in part:
        return part
    found: Any = document
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def registered(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields path and method of everything that an application serves."""
    for route in routes:
        if isinstance(route, Route):
            yield from ((prefix + route.path, method.lower()) for method in (route.methods or set()) - {"HEAD"})
        elif isinstance(route, Mount) and prefix + route.path not in FOR_NOBODY:
            yield from registered(list(route.routes), prefix + route.path)


def test_document_is_valid(document: dict[str, Any]) -> None:
    """It is OpenAPI 3.1, and each of its schemas is JSON Schema."""
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_it_has_every_route_and_nothing_else(document: dict[str, Any]) -> None:
    """Whatever the application serves is in the document, but for the page's files, and the other way round."""
    with make_app() as app:
        served = {(path, method) for path, method in registered(app.client.app.router.routes) if path not in FOR_NOBODY}
    described = {(path, method) for path, method, _ in operations(document)}
    assert described - {(NOT_HERE, "get")} == served


def test_every_operation_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    """Generated clients name their functions by it."""
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", FORMS)
def test_form_has_the_schemas_fields_bounds_and_defaults(document: dict[str, Any], path: str) -> None:
    """A form's fields are the schema's, each with its bounds and its default, and the two files."""
    form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert list(form["properties"]) == ["image", "mask", *InpaintParameters.model_fields]
    assert form["required"] == ["image", "mask", "prompt"]
    assert form["additionalProperties"] is False
    for name, field in InpaintParameters.model_fields.items():
        shown = form["properties"][name]
        assert (resolved(document, shown) | shown)["description"] == field.description
        if not field.is_required() and field.default is not None:
            assert shown["default"] == field.default
    steps, strength = form["properties"]["num_inference_steps"], form["properties"]["strength"]
    assert (steps["minimum"], steps["maximum"]) == (1, 150)
    assert (strength["exclusiveMinimum"], strength["maximum"]) == (0, 1)


def test_every_code_is_an_errors_own_and_has_its_status(document: dict[str, Any]) -> None:
    """A response's codes are those of error classes whose status it is; each has an example in the right shape."""
    classes = [*vars(errors).values(), *vars(wire_errors).values()]
    known = {each.code for each in classes if isinstance(each, type) and issubclass(each, errors.InpaintError)}
    for path, method, operation in operations(document):
        for status, reference in operation["responses"].items():
            if int(status) < 400:
                continue
            response = resolved(document, reference)
            for code in response["description"].split(", "):
                assert code in known, f"{method} {path}"
                assert STATUSES[code] == int(status), f"{method} {path}"
            for code, example in response["content"]["application/json"].get("examples", {}).items():
                shown = example["value"]["error"] if "code" not in example["value"] else example["value"]
                assert shown["code"] == code


def test_security_is_what_keys_ask_for() -> None:
    """With keys, each operation needs one, but those that are open to everybody; without, none does."""
    with make_app(api_keys="a-key") as app:
        locked = app.client.get("/docs.json", headers={"X-API-Key": "a-key"}).json()
    for path, _, operation in operations(locked):
        schemes = {name for each in operation["security"] for name in each}
        assert schemes == (set() if path in OPEN_PATHS else {"bearer", "key", "password"}), path
        assert {} not in operation["security"]
    with make_app() as app:
        unlocked = app.client.get("/docs.json").json()
    assert all({} in operation["security"] for path, _, operation in operations(unlocked) if path not in OPEN_PATHS)


def test_tests_notice_answers_that_are_not_described() -> None:
    """Whatever test of the edge meets an error or a header that the document lacks, fails."""
    with make_app() as app:
        (check,) = app.client.event_hooks["response"]
        answer = app.client.get("/sdapi/v1/loras")
        answer.headers["X-Surprise"] = "yes"
        with pytest.raises(AssertionError):
            check(answer)
        unknown = app.client.get("/sd-inpaint/jobs/nothing")
        unknown.request.url = unknown.request.url.copy_with(path="/sd-inpaint/info")
        with pytest.raises(AssertionError, match="job_not_found"):
            check(unknown)


def quick_painter(settings: Settings, work: Any) -> SlowPainter:
    """The real painter over a device that takes no time."""
    painter = SlowPainter(settings, work)
    painter.slow.step_seconds = 0.0
    return painter


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Any) -> None:
    """No request of a thousand, allowed or not, gets an answer that the document does not have.

    ``use_after_free`` is left out: a job that is deleted while it runs is cancelled, and can still be read as that.
    """
    with live_edge(painter=quick_painter, state_dir=tmp_path, log_level="error") as served:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/docs.json"),
                *("--checks", "all", "--exclude-checks", "use_after_free", "--exclude-path", NOT_HERE),
                *("--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", str(MAX_EXAMPLES))),
                *("--generation-deterministic", "--no-shrink", "--warnings", "off", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
                "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated
    assert int(generated[1]) > 1000
