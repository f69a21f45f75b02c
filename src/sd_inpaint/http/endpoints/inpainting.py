"""``POST /sd-inpaint/inpaint``: what the caller reads, what they sent, the picture, the response."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.errors import InpaintError, InvalidParameterError
from sd_inpaint.http.endpoints.painting import Painting
from sd_inpaint.http.middleware.access_log import request_id
from sd_inpaint.http.wire.errors import InternalError, error_response
from sd_inpaint.http.wire.formats import choose_format
from sd_inpaint.http.wire.forms import Form, FormFields, read_form
from sd_inpaint.http.wire.parameters import read_parameters
from sd_inpaint.http.wire.results import render
from sd_inpaint.imaging import codecs
from sd_inpaint.schema import InpaintParameters

logger = logging.getLogger("bentoml.sd_inpaint.http")

FIELDS = FormFields(files=("image", "mask"), texts=tuple(InpaintParameters.model_fields))


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
        parameters = read_parameters(form.texts)
        return form, parameters

    async def _admit(self, request: Request) -> AdmittedRequest:
        form, parameters = await self.read_form(request)
        return await self._painting.admit(request, form.files["image"], form.files["mask"], parameters)

    async def _inpaint(self, request: Request) -> Response:
        # 1. Refuse what can be refused before the body is read.
        self._painting.check_open(request)
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        with await self._admit(request) as admitted:
            parameters = admitted.parameters
            result_format = choose_format(request, parameters)
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
