"""The service as BentoML declares it: its name, its endpoints, its metrics. What they do is in ``sd_inpaint``.

Importing this module reads the settings and nothing heavier: torch is imported by the engine, in its own thread.
"""

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.requests import Request

from sd_inpaint.errors import SettingsError
from sd_inpaint.http.application import Application
from sd_inpaint.http.bento import docs
from sd_inpaint.http.bento.address import check_address
from sd_inpaint.http.bento.declarations import InpaintForm, NoInput
from sd_inpaint.http.bento.internals import OpenAPISpecification, listening_host
from sd_inpaint.http.bento.logs import write_json
from sd_inpaint.http.bento.metrics_folder import separate_metrics
from sd_inpaint.http.middleware.routing import Unlabel
from sd_inpaint.http.wire.forms import UPLOAD_SECONDS
from sd_inpaint.http.wire.paths import A1111, NATIVE, OPENAI
from sd_inpaint.settings import Settings

DURATION_BUCKETS = [0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0]
"""Seconds. BentoML's own end at 180; a picture on a CPU takes two to five minutes."""


def declare(application: Application) -> bentoml.Service[Any]:
    """Declares an application to BentoML."""

    class SurroundedService(bentoml.Service[Any]):
        """A BentoML service whose every response passes this service's own edge."""

        def to_asgi(self, is_main: bool = True) -> Starlette:
            """Makes the application that is served."""
            application.prepare_process()
            app = super().to_asgi(is_main)
            app.router.routes.insert(0, docs.docs_route(lambda: application.openapi(self.name)))
            return application.surround(app)

        @property
        def openapi_spec(self) -> OpenAPISpecification:
            """What stands in a Bento: made of the defaults, since the builder's own settings have no business there."""
            return Application(Settings.model_construct()).openapi(self.name)

    @bentoml.service(
        name="SDInpaint",
        service_class=SurroundedService,
        http={"port": 8000, "host": application.settings.host},
        # For gateways that read it; the server's own time-out is taken out (http/application.py).
        # The default, since this stands in bento.yaml too, where the builder's own setting has no business.
        traffic={"timeout": UPLOAD_SECONDS + Settings.model_fields["deadline_seconds"].default},
        metrics={"duration": {"buckets": DURATION_BUCKETS}},
        # The access log has one line a request.
        logging={"access": {"enabled": False}},
    )
    @bentoml.asgi_app(application.openai, path=OPENAI)
    @bentoml.asgi_app(application.a1111, path=A1111)
    @bentoml.asgi_app(application.native, path=NATIVE)
    class SDInpaint:
        """Stable Diffusion inpainting: fills or changes the white part of a mask, from a text prompt."""

        def __init__(self) -> None:
            application.start()

        @bentoml.api(route="/sd-inpaint/inpaint", input_spec=InpaintForm)
        async def inpaint(self, request: Request) -> Annotated[Image, ContentType("image/png")]:
            """Inpaint an image using a mask: white is repainted after the prompt, black is kept, grey is blended."""
            return await application.inpainting.answer(request)  # type: ignore[return-value]  # BentoML sends a Response as it is

        @bentoml.api(route="/sd-inpaint/health", input_spec=NoInput)
        async def health(self, request: Request) -> dict[str, str]:
            """Check if the SD Inpaint service is available."""
            return await application.health.get_health(request)  # type: ignore[return-value]  # as above

        @bentoml.on_shutdown
        def stop(self) -> None:
            """Ends the engine; by now no request is left."""
            application.stop()

        async def __is_ready__(self) -> bool:
            """Reports to ``/readyz`` what health reports."""
            return application.is_ready

    SDInpaint.add_asgi_middleware(Unlabel)  # type: ignore[attr-defined]  # the decorator made a Service of the class
    return SDInpaint


def _make_application() -> Application:
    try:
        settings = Settings.read()
        host = listening_host(settings.host)
        check_address(host, settings)
        application = Application(settings, host=host)
    except SettingsError as error:
        raise SystemExit(f"sd-inpaint cannot start. {error}") from None
    if settings.log_format == "json":
        write_json()
    separate_metrics()
    return application


SDInpaint = declare(_make_application())
