"""The whole HTTP edge in this process, around a painter that needs no model."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import bentoml
import httpx
import pytest
from starlette.testclient import TestClient

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.engine.lifecycle import Engine, EngineState
from sd_inpaint.errors import InpaintError
from sd_inpaint.http.application import OPEN_PATHS, Application
from sd_inpaint.http.bento.docs import errors_of
from sd_inpaint.http.service import declare
from sd_inpaint.http.wire.operations import Operation
from sd_inpaint.imaging.preparation import Preparation, Upload
from sd_inpaint.lora_set import check_loras
from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.presets import Presets, apply_preset, choose_presets
from sd_inpaint.schema import InpaintParameters, InpaintRequest, InpaintResult, SchedulerName, Variation
from sd_inpaint.settings import Settings
from sd_inpaint.work.picture_work import PictureWork
from tests.support.pictures import hole, photo, written

INPAINT = "/sd-inpaint/inpaint"
HEALTH = "/sd-inpaint/health"
ORIGIN = {"Origin": "http://localhost:3000"}
"""A page that the browser's own machine serves."""

PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
KEYS = ("first-key", "zweiter-schlüssel")

LIGHT = {"num_inference_steps": "1", "guidance_scale": "1", "region": "full"}
"""What a served model has done soonest: one step, without guidance, on a canvas as small as the picture."""

# A second application in one process cannot have a second set of BentoML's metrics.
_METRICS_OFF = '{"services": {"SDInpaint": {"metrics": {"enabled": false}}}}'
_configured: list[bool] = []


def form(**changes: Any) -> dict[str, Any]:
    """Returns arguments for ``client.post`` that are a good request but for ``changes``.

    Bytes and tuples are sent as files, anything else as text; None leaves a field out.
    """
    fields: dict[str, Any] = {"image": written(photo()), "mask": written(hole())}
    fields |= {"prompt": "a rose", "num_inference_steps": "2"}
    if changes.keys().isdisjoint({"image", "num_inference_steps"}):
        # Hundreds of these are sent to the real model: with a canvas as small as the picture, in a third of the time.
        fields["region"] = "full"
    fields |= changes
    files = {name: ("upload", value) if isinstance(value, bytes) else value for name, value in fields.items()}
    return {
        "files": {name: value for name, value in files.items() if isinstance(value, tuple)},
        "data": {name: value for name, value in files.items() if not isinstance(value, (tuple, type(None)))},
    }


def check_shape(response: Any, status: int, code: str) -> dict[str, Any]:
    """Asserts status, code and the shape that every error has; returns the body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert 10 < len(body["error"]) < 500
    assert body["error"].endswith(".")
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    return body


class Documented:
    """Checks that every answer that a test meets is one that the API's description has for that path and method."""

    def __init__(self, application: Application) -> None:
        self._operations = [
            (method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path, operation)
            for path, method, operation in application.operations()
        ]

    def check(self, response: Any) -> None:
        """Is called with each response."""
        sent = response.request
        for method, pattern, path, operation in self._operations:
            if method == sent.method and pattern.fullmatch(sent.url.path):
                if response.status_code >= 400:
                    self._check_error(response, path, operation)
                elif response.status_code != 308:
                    answer = operation.answers[response.status_code]
                    known = {name.lower() for name in answer.headers} | {"x-request-id", "x-content-type-options"}
                    assert {name for name in response.headers if name.startswith("x-")} - known <= {"x-accel-buffering"}

    @staticmethod
    def _check_error(response: Any, path: str, operation: Operation) -> None:
        response.read()
        shown = response.json()
        code = shown["code"] if "code" in shown else shown["error"]["code"]
        known = errors_of(response.request.method.lower(), operation, is_open=path in OPEN_PATHS)
        # A path with a line break in it is none of the operation's, though it looks so.
        assert code in {"not_found", *(error.code for error in known)}, (
            f"{path} answers {code}, which its description lacks"
        )


class FakeEngine:
    """Has no device; its state is what the test says."""

    refusal = Engine.refusal

    def __init__(self) -> None:
        self.state = EngineState.READY
        self.reason: str | None = None
        self.backend = None
        self.outcomes: dict[str, int] = {}
        self.waiting_canvases = 0
        self.devices, self.lost_devices, self.places = 1, 0, 1
        self.waiting_seconds = 0.0
        self.turn_age_seconds = 0.0


class FakePainter:
    """Paints every hole in a colour made from the seed, at once or when told to, without a model."""

    def __init__(self, settings: Settings, work: PictureWork) -> None:
        self.settings = settings
        self.engine = FakeEngine()
        self.refusal: InpaintError | None = None
        self.failure: Exception | None = None
        self.late_failure: Exception | None = None
        self.held = False
        self.requests: list[InpaintRequest] = []
        self.deadlines: list[float | None] = []
        self.cancelled = 0
        self.stopped = False

    def start(self) -> None:
        """Has nothing to load."""

    def stop(self, drain_seconds: float) -> None:
        """Notes that it was called."""
        self.stopped = True

    def check_open(self, caller: Any = None) -> None:
        """Raises what the test wants."""
        if self.refusal is not None:
            raise self.refusal

    def info(self) -> dict[str, object]:
        """Gives what the real one gives, as far as the edge looks at it."""
        return {"model": self.settings.model, "status": str(self.engine.state), "limits": {}}

    async def admit(self, upload: Upload, *, force: bool = False, caller: Any = None) -> AdmittedRequest:
        """Decodes, here and at once."""
        request = upload.decode()
        preparation = Preparation(
            request.image,
            request.mask,
            (),
            (),
            is_all_white=False,
            image_sha256=request.image_sha256,
            mask_sha256=request.mask_sha256,
        )
        return AdmittedRequest.of(request.parameters, preparation)

    async def read_picture(self, read: Any, image: bytes, caller: Any = None) -> Any:
        """Reads here and at once."""
        return read(image, max_pixels=self.settings.max_pixels)

    async def make_room_for_results(self, request: AdmittedRequest) -> None:
        """Has all the room there is."""

    own_scheduler = SchedulerName.DDIM
    loras: list[dict[str, object]] = []  # noqa: RUF012  # a test gives its own
    lcm_lora: str | None = None

    @property
    def presets(self) -> Presets:
        """As the real one."""
        return choose_presets(self.own_scheduler, self.lcm_lora)

    defaults = Painter.defaults

    def complete(self, parameters: InpaintParameters) -> InpaintParameters:
        """As the real one, once its model is loaded."""
        known = [str(lora["name"]) for lora in self.loras]
        loras = check_loras(parameters.loras, known)
        return apply_preset(parameters.model_copy(update={"loras": loras}), self.presets)

    def device_memory(self) -> None:
        """Gives none: there is no device."""

    async def paint(
        self,
        admitted: AdmittedRequest,
        *,
        progress: Any = None,
        deadline_seconds: float | None = None,
        force: bool = False,
        caller: Any = None,
    ) -> InpaintResult:
        """Paints, fails, or waits to be cancelled."""
        import asyncio

        assert admitted.preparation is not None
        request = InpaintRequest(
            admitted.preparation.image,
            admitted.preparation.mask,
            admitted.parameters,
            admitted.preparation.image_sha256,
            admitted.preparation.mask_sha256,
        )
        self.requests.append(request)
        self.deadlines.append(deadline_seconds)
        if self.failure is not None:
            raise self.failure
        if progress is not None:
            progress.follow((), None, lambda painted: request.image)
        if self.late_failure is not None:
            await asyncio.sleep(0.05)
            raise self.late_failure
        try:
            while self.held:  # noqa: ASYNC110  # the test lets go of it from another thread
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        parameters = request.parameters
        seeds = range(parameters.seed, parameters.seed + parameters.num_images)
        return InpaintResult(
            variations=tuple(self._variation(request, seed) for seed in seeds),
            steps=parameters.num_inference_steps,
            inference_seconds=0.5,
            regions=("0,0,70,53 x1.000",) if parameters.region == "mask" else (),
            image_sha256=request.image_sha256,
            mask_sha256=request.mask_sha256,
            plan="fake-float32",
        )

    @staticmethod
    def _variation(request: InpaintRequest, seed: int) -> Variation:
        rgb = request.image.rgb.copy()
        rgb[request.mask > 127] = seed % 251
        return Variation(Picture(rgb, request.image.alpha, request.image.icc_profile, request.image.exif), seed)


class App:
    """The whole edge around a :class:`FakePainter`, in this process; with ``--url`` the one that is served there."""

    def __init__(self, client: Any, painter: Any = None, runner: Any = None) -> None:
        self.client = client
        self.painter = painter
        self.runner = runner

    def painted(self) -> int:
        """How many requests have reached the painter so far."""
        if self.painter is not None:
            return len(self.painter.requests)
        queue = self.client.get("/sd-inpaint/info").json()["queue"]
        return int(queue["jobs"] + sum(queue["outcomes"].values()))

    def post(self, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """Posts a request that is good but for ``changes``."""
        return self.client.post(INPAINT, headers=headers, **form(**changes))


def configure_bentoml(patch: pytest.MonkeyPatch) -> None:
    """Has BentoML read its configuration for the first app only: the same for each, it takes a fifth of a second."""
    patch.setenv("BENTOML_CONFIG_OVERRIDES", _METRICS_OFF)
    if _configured:
        patch.setattr(bentoml.Service, "inject_config", lambda _: None)
    _configured.append(True)


@contextlib.contextmanager
def make_app(*, painter: Callable[[Settings, PictureWork], Any] = FakePainter, **overrides: Any) -> Iterator[App]:
    """Serves the edge with these settings; one at a time, since BentoML keeps the current service in a global."""
    application = Application(Settings(_env_file=None, **{"model": "demo", **overrides}), make_painter=painter)  # type: ignore[call-arg]
    with pytest.MonkeyPatch.context() as patch:
        configure_bentoml(patch)
        with TestClient(declare(application).to_asgi(), raise_server_exceptions=False) as client:
            client.event_hooks = {"response": [Documented(application).check]}
            yield App(client, application.painter, application.runner)


@contextlib.contextmanager
def connect(url: str) -> Iterator[httpx.Client]:
    """A client of the service that is served at an address."""
    with httpx.Client(base_url=url, timeout=300) as client:
        yield client
