"""Whether the service can paint now, and with what."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sd_inpaint.engine import EngineState
from sd_inpaint.errors import (
    MachineError,
    ModelDisabledError,
    ModelFailedError,
    ModelLoadingError,
    ShuttingDownError,
)
from sd_inpaint.http.errors import error_response
from sd_inpaint.http.parameters import describe_bounds, describe_type
from sd_inpaint.painter import Painter
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings

SERVICE = "stable-diffusion-inpaint"
"""The name that the API guide's health response carries."""

_TROUBLES: dict[EngineState, tuple[type[MachineError], str]] = {
    EngineState.LOADING: (ModelLoadingError, "The model is still being loaded."),
    EngineState.DISABLED: (ModelDisabledError, "This server runs with LOAD_SD_INPAINT=false and paints nothing."),
    EngineState.FAILED: (ModelFailedError, "The model could not be loaded."),
    EngineState.STOPPING: (ShuttingDownError, "The server is shutting down."),
}


def answer_health(painter: Painter, settings: Settings) -> Response:
    """Answers 200 with the guide's three keys if a request would be painted now, else 503 with the reason."""
    state = painter.engine.state
    identity = {"service": SERVICE, "model": settings.model}
    if state is EngineState.READY:
        return JSONResponse({"status": "healthy", **identity}, headers={"Cache-Control": "no-store"})
    error_class, sentence = _TROUBLES[state]
    reason = painter.engine.reason
    facts = identity if reason is None else {**identity, "reason": reason}
    return error_response(error_class(sentence, status=str(state), **facts))


def answer_info(painter: Painter) -> Response:
    """Answers what is served: the model and where it came from, limits, and each parameter's default and bounds."""
    parameters = {
        name: {
            "description": field.description,
            "type": describe_type(field),
            **({"required": True} if field.is_required() else {"default": field.default}),
            **describe_bounds(field),
        }
        for name, field in InpaintParameters.model_fields.items()
    }
    return JSONResponse({"service": SERVICE, **painter.info(), "parameters": parameters})


def health_routes(find_painter: Callable[[], Painter], find_settings: Callable[[], Settings]) -> list[Route]:
    """Returns the routes that BentoML cannot declare, its endpoints being POST only.

    Args:
        find_painter: Called at each request: BentoML makes the service's instance after its routes.
        find_settings: The same for settings.
    """

    async def get_health(request: Request) -> Response:
        return answer_health(find_painter(), find_settings())

    async def get_info(request: Request) -> Response:
        return answer_info(find_painter())

    return [Route("/health", get_health), Route("/info", get_info)]
