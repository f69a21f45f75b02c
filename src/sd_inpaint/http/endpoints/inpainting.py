"""``POST /sd-inpaint/inpaint``: what the caller reads, what they sent, the picture, the response."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.errors import InpaintError, InvalidParameterError, NotAcceptableError
from sd_inpaint.http.endpoints.painting import NOT_OPEN, PAINTS, READS_PAIR, Painting, deadline_parameter
from sd_inpaint.http.middleware.access_log import request_id
from sd_inpaint.http.wire.errors import InternalError, error_response
from sd_inpaint.http.wire.formats import JSON, OFFERED, choose_format
from sd_inpaint.http.wire.forms import READS_FORM, Form, FormFields, read_form
from sd_inpaint.http.wire.operations import FILE, Answer, Operation, form_body
from sd_inpaint.http.wire.parameters import parameter_schemas, read_parameters
from sd_inpaint.http.wire.results import RESULT_HEADERS, PaintedJson, render
from sd_inpaint.imaging import codecs
from sd_inpaint.schema import InpaintParameters, OutputFormat

logger = logging.getLogger("bentoml.sd_inpaint.http")

FIELDS = FormFields(files=("image", "mask"), texts=tuple(InpaintParameters.model_fields))

REQUIRED = tuple(name for name, field in InpaintParameters.model_fields.items() if field.is_required())

TAG = "inpainting"

PAINTED = Answer(
    "The painted picture.",
    content={name: PaintedJson if name == JSON else FILE for name in OFFERED},
    headers=RESULT_HEADERS,
)


FILES = {
    "image": "The picture.",
    "mask": "A mask of the picture's size: white is repainted, black kept, grey blended.",
}


def describe_inpaint(longest_seconds: float) -> Operation:
    """Describes ``POST /sd-inpaint/inpaint``; a deadline may be as long as the operator's, in seconds."""
    return Operation(
        id="inpaint",
        tag=TAG,
        summary="Inpaint an image using a mask",
        description="White is repainted after the prompt, black is kept, grey is blended. The answer is a PNG, unless "
        "output_format or the Accept header asks for another format. Several pictures need a container: a zip, "
        "unless Accept asks for another.",
        parameters=(deadline_parameter(longest_seconds),),
        body=form_body(FIELDS, parameter_schemas(), FILES, required=REQUIRED),
        answers={200: PAINTED},
        errors=(*NOT_OPEN, *READS_FORM, *READS_PAIR, NotAcceptableError, *PAINTS),
    )


class Inpainting:
    """Answers ``POST /sd-inpaint/inpaint``. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting

    async def answer(self, request: Request) -> Response:
        """Answers with the picture, or says why not; never raises.

        This is the outermost edge for BentoML's endpoints: what they raise it logs without the request's id and answers
        in a shape of its own.
        """
        try:
            return await self._inpaint(request)
        except InpaintError as error:
            return error_response(error)
        except Exception:
            logger.exception("Request %s failed", request_id(request))
            return error_response(InternalError(request_id(request)))

    async def read_form(self, request: Request) -> tuple[Form, InpaintParameters]:
        """Reads everything that a request asks for; its pictures are still files.

        Returns:
            The form as it came, and what it asks for beside the files.

        Raises:
            CallerError: If it cannot be served as it was sent.
        """
        if request.query_params:
            name = next(iter(request.query_params))[:100]
            raise InvalidParameterError(f"The query parameter {name!r} is not supported; send form fields.", field=name)
        form = await read_form(request, FIELDS)
        parameters = self._painting.complete(read_parameters(form.texts))
        return form, parameters

    async def _admit(self, request: Request) -> AdmittedRequest:
        form, parameters = await self.read_form(request)
        if choose_format(request, parameters).image_format is codecs.ImageFormat.AVIF:
            # Known before anything is decoded, since its encoder takes the most memory.
            parameters = parameters.model_copy(update={"output_format": OutputFormat.AVIF})
        return await self._painting.admit(request, form.files["image"], form.files["mask"], parameters)

    async def _inpaint(self, request: Request) -> Response:
        # 1. Refuse what can be refused before the body is read.
        self._painting.check_open(request)
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        with await self._admit(request) as admitted:
            parameters = admitted.parameters
            result_format = choose_format(request, parameters, admitted.size)
            codecs.check_encodable(admitted.size, result_format.image_format)
            # 3. Paint the picture.
            result = await self._painting.paint(request, admitted, deadline_seconds)
            # 4. Write the response.
            return await self._painting.encode(
                render,
                result,
                result_format=result_format,
                model=self._painting.model,
                request_id=request_id(request),
                parameters=self._painting.metadata(parameters),
                credentials=self._painting.credentials,
            )
