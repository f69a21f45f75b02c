"""Whether the service can serve requests now, and with which model."""

from typing import Annotated, Any, Final, Literal, NotRequired, Required

from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from sd_inpaint.condition import PROBLEMS, Condition
from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import ModelDisabledError, ModelFailedError, ModelLoadingError, ShuttingDownError
from sd_inpaint.http.wire.errors import Error, error_response
from sd_inpaint.http.wire.headers import NO_STORE
from sd_inpaint.http.wire.operations import DescribedRoute, Operation, json_answer
from sd_inpaint.http.wire.parameters import describe_bounds, describe_type
from sd_inpaint.painter import Painter
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings

SERVICE = "stable-diffusion-inpaint"
"""The name that the API guide's health response carries."""

TAG = "service"


Service = Annotated[str, WithJsonSchema({"type": "string", "const": SERVICE})]


class HealthProblem(TypedDict):
    """Something that is wrong while the service still serves."""

    code: Annotated[str, WithJsonSchema({"type": "string", "enum": list(PROBLEMS)})]
    message: str


class Healthy(TypedDict):
    """A request would be served now."""

    status: Literal["healthy", "degraded"]
    service: Service
    model: str
    problems: NotRequired[list[HealthProblem]]


class HealthError(Error):
    """No request would be served now."""

    status: EngineState
    service: Service
    model: str
    reason: NotRequired[str]


class ParameterInfo(TypedDict, total=False):
    """A parameter's type, default and bounds."""

    description: Required[str]
    type: Required[str]
    required: bool
    default: Any
    minimum: float
    above: float
    maximum: float
    below: float
    max_length: int
    choices: list[str]


class LoraInfo(TypedDict):
    """A LoRA that requests may name, the digest of its file, and what it changes."""

    name: str
    sha256: str
    changes: list[str]
    layers: int


class SpeedInfo(TypedDict):
    """What a speed stands for."""

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    loras: str


class Info(TypedDict):
    """What is served; facts that are not known yet are null."""

    version: str
    service: Service
    model: str
    status: str
    queue: dict[str, Any]
    limits: dict[str, float]
    condition: dict[str, Any]
    loras: list[LoraInfo]
    speeds: dict[str, SpeedInfo]
    subjects: list[str] | None
    parameters: dict[str, ParameterInfo]


_HEALTH = json_answer(
    "A request would be served now.",
    Healthy,
    example={"status": "healthy", "service": SERVICE, "model": "runwayml/stable-diffusion-inpainting"},
)


def describe_health(operation_id: str) -> Operation:
    """Describes ``/sd-inpaint/health``, which both methods answer alike."""
    return Operation(
        id=operation_id,
        tag=TAG,
        summary="Check if the SD Inpaint service is available",
        answers={200: _HEALTH},
        errors=(ModelLoadingError, ModelDisabledError, ModelFailedError, ShuttingDownError),
        error_schemas={503: HealthError},
    )


INFO: Final = Operation(
    id="info",
    tag=TAG,
    summary="The model, the limits, and each parameter's default and bounds",
    answers={200: json_answer("What is served.", Info)},
)


class Health:
    """Answers ``/sd-inpaint/health`` and ``/sd-inpaint/info``. Lives as long as the server."""

    def __init__(self, painter: Painter, settings: Settings, condition: Condition) -> None:
        self._painter = painter
        self._condition = condition
        self._settings = settings

    def routes(self) -> list[DescribedRoute]:
        """Returns the routes below ``/sd-inpaint`` that BentoML cannot declare, its endpoints being POST only."""
        return [
            DescribedRoute("/health", self.get_health, describe_health("health")),
            DescribedRoute("/info", self.get_info, INFO),
        ]

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
        defaults = self._painter.defaults
        parameters = {
            name: {
                "description": field.description,
                "type": describe_type(field),
                **({"required": True} if field.is_required() else {"default": defaults[name]}),
                **describe_bounds(field),
            }
            for name, field in InpaintParameters.model_fields.items()
        }
        device = {"device_memory": self._painter.device_memory()}
        facts = {**self._painter.info(), "condition": self._condition.figures() | device}
        return JSONResponse({"service": SERVICE, **facts, "parameters": parameters})
