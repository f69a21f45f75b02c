"""Whether the service can serve requests now, and with which model."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sd_inpaint.condition import Condition
from sd_inpaint.http.wire.errors import error_response
from sd_inpaint.http.wire.headers import NO_STORE
from sd_inpaint.http.wire.parameters import describe_bounds, describe_type
from sd_inpaint.painter import Painter
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings

SERVICE = "stable-diffusion-inpaint"
"""The name that the API guide's health response carries."""


class Health:
    """Answers ``/sd-inpaint/health`` and ``/sd-inpaint/info``. Lives as long as the server."""

    def __init__(self, painter: Painter, settings: Settings, condition: Condition) -> None:
        self._painter = painter
        self._condition = condition
        self._settings = settings

    def routes(self) -> list[Route]:
        """Returns the routes below ``/sd-inpaint`` that BentoML cannot declare, its endpoints being POST only."""
        return [Route("/health", self.get_health), Route("/info", self.get_info)]

    async def get_health(self, request: Request) -> Response:
        """Answers 200 if a request would be taken now, else 503 with the reason.

        The body has the guide's three keys, and where something is wrong all the same, status ``degraded`` and what.
        """
        engine = self._painter.engine
        service = {"service": SERVICE, "model": self._settings.model_name}
        error = engine.refusal()
        if error is None:
            return JSONResponse(self._serving() | service, headers=NO_STORE)
        error.facts |= {"status": str(engine.state), **service}
        if engine.reason is not None:
            error.facts["reason"] = engine.reason
        return error_response(error)

    def _serving(self) -> dict[str, object]:
        problems = [{"code": problem.code, "message": problem.sentence} for problem in self._condition.problems()]
        return {"status": "degraded", "problems": problems} if problems else {"status": "healthy"}

    async def get_info(self, request: Request) -> Response:
        """Answers what is served: the model and where it came from, limits, each parameter's default and bounds."""
        parameters = {
            name: {
                "description": field.description,
                "type": describe_type(field),
                **({"required": True} if field.is_required() else {"default": field.default}),
                **describe_bounds(field),
            }
            for name, field in InpaintParameters.model_fields.items()
        }
        device = {"device_memory": self._painter.device_memory()}
        facts = {**self._painter.info(), "condition": self._condition.figures() | device}
        return JSONResponse({"service": SERVICE, **facts, "parameters": parameters})
