"""The HTTP edge of BentoML: the service class, its endpoints and its settings. What they do is in ``sd_inpaint.http``.

Importing this module reads the settings and nothing heavier: torch is imported by the engine, in its own thread.
"""

from typing import Annotated, Any

import bentoml
from bentoml._internal.service.openapi.specification import OpenAPISpecification
from bentoml.validators import ContentType
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.requests import Request

from sd_inpaint.engine import EngineState
from sd_inpaint.errors import SettingsError
from sd_inpaint.http import docs
from sd_inpaint.http.declarations import InpaintForm, NoInput
from sd_inpaint.http.draining import drain_before_exit
from sd_inpaint.http.edge import configure_logging, surround
from sd_inpaint.http.forms import UPLOAD_SECONDS
from sd_inpaint.http.health import answer_health, health_routes
from sd_inpaint.http.inpainting import Inpainting
from sd_inpaint.http.jobs import Jobs, job_routes
from sd_inpaint.http.metrics import QueueMetrics
from sd_inpaint.http.openai import OpenAIEdits, openai_routes
from sd_inpaint.http.routing import Unlabel
from sd_inpaint.http.webui import WebUI, webui_routes
from sd_inpaint.painter import Painter
from sd_inpaint.runner import JobRunner
from sd_inpaint.settings import Settings
from sd_inpaint.stores import open_store

try:
    SETTINGS = Settings.read()
except SettingsError as error:
    raise SystemExit(f"sd-inpaint cannot start. {error}") from None

DURATION_BUCKETS = [0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0]
"""Seconds. BentoML's own end at 180; a paint on a CPU takes two to five minutes."""


class EdgedService(bentoml.Service[Any]):
    """A BentoML service whose every response passes this service's own edge."""

    def to_asgi(self, is_main: bool = True) -> Starlette:
        """Makes the application that is served."""
        return surround(super().to_asgi(is_main), SETTINGS)

    @property
    def openapi_spec(self) -> OpenAPISpecification:
        """What ``/docs.json`` shows."""
        return docs.correct(super().openapi_spec)


def _painter() -> Painter:
    instance: SDInpaint = bentoml.get_current_service()
    return instance.painter


def _edits() -> OpenAIEdits:
    instance: SDInpaint = bentoml.get_current_service()
    return instance.edits


def _webui() -> WebUI:
    instance: SDInpaint = bentoml.get_current_service()
    return instance.webui


def _jobs() -> Jobs:
    instance: SDInpaint = bentoml.get_current_service()
    return instance.jobs


@bentoml.service(
    name="SDInpaint",
    service_class=EdgedService,
    http={"port": 8000},
    # For gateways that read it; the server's own time-out is taken out (http/edge.py).
    # The default, since this stands in bento.yaml too, where the builder's own setting has no business.
    traffic={"timeout": UPLOAD_SECONDS + Settings.model_fields["deadline_seconds"].default},
    metrics={"duration": {"buckets": DURATION_BUCKETS}},
    # The journal has one line a request.
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(Starlette(routes=openai_routes(_edits)), path="/v1")
@bentoml.asgi_app(Starlette(routes=webui_routes(_webui)), path="/sdapi/v1")
@bentoml.asgi_app(
    Starlette(routes=[*health_routes(_painter, lambda: SETTINGS), *job_routes(_jobs)]), path="/sd-inpaint"
)
class SDInpaint:
    """Stable Diffusion inpainting: fills or changes the white part of a mask, after a text prompt."""

    def __init__(self) -> None:
        configure_logging(SETTINGS)
        self.painter = Painter(SETTINGS)
        self._inpainting = Inpainting(self.painter, SETTINGS)
        self._runner = JobRunner(self.painter, SETTINGS, lambda: open_store(SETTINGS))
        self.edits = OpenAIEdits(self.painter, self._inpainting, SETTINGS)
        self.webui = WebUI(self.painter, self._inpainting, SETTINGS)
        self.jobs = Jobs(self.painter, self._inpainting, self._runner, SETTINGS)
        self._metrics = QueueMetrics(self.painter.engine)
        self.painter.start()
        self._runner.start()
        self._metrics.start()
        drain_before_exit(lambda: self._drain(SETTINGS.drain_seconds))

    @bentoml.api(route="/sd-inpaint/inpaint", input_spec=InpaintForm)
    async def inpaint(self, request: Request) -> Annotated[Image, ContentType("image/png")]:
        """Inpaint an image using a mask: white is painted anew after the prompt, black is kept, grey is blended."""
        return await self._inpainting.answer(request)  # type: ignore[return-value]  # BentoML sends a Response as it is

    @bentoml.api(route="/sd-inpaint/health", input_spec=NoInput)
    async def health(self, request: Request) -> dict[str, str]:
        """Check if the SD Inpaint service is available."""
        return answer_health(self.painter, SETTINGS)  # type: ignore[return-value]  # as above

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Ends the engine; by now no request is left."""
        self._drain(0.0)
        self._metrics.stop()

    def _drain(self, seconds: float) -> None:
        # The painter ends its pictures, then the runner writes down what became of them.
        self._runner.drain()
        self.painter.stop(seconds)
        self._runner.stop()

    async def __is_ready__(self) -> bool:
        """Says for ``/readyz`` what health says."""
        return self.painter.engine.state is EngineState.READY


SDInpaint.add_asgi_middleware(Unlabel)  # type: ignore[attr-defined]  # the decorator made a Service of the class
