"""One request painted: what the caller reads, what they sent, the picture, the response."""

import asyncio
import contextlib
import logging
import os

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import Response

from sd_inpaint import codecs
from sd_inpaint.errors import CancelledError, InpaintError, InvalidParameterError
from sd_inpaint.http.error_shape import internal_response
from sd_inpaint.http.errors import error_response
from sd_inpaint.http.forms import Form, FormFields, read_form
from sd_inpaint.http.journal import request_id
from sd_inpaint.http.negotiation import choose_media_type
from sd_inpaint.http.parameters import read_parameters, read_seconds
from sd_inpaint.http.results import OFFERED, image_format, offered, render
from sd_inpaint.painter import Painter, Progress
from sd_inpaint.schema import InpaintParameters, InpaintRequest, InpaintResult
from sd_inpaint.settings import Settings

logger = logging.getLogger("bentoml.sd_inpaint.http")

FIELDS = FormFields(files=("image", "mask"), texts=tuple(InpaintParameters.model_fields))

DEADLINE_HEADER = "X-Deadline-Seconds"


class Inpainting:
    """Answers ``POST /sd-inpaint/inpaint``. Lives as long as the server; serves any number of requests at once.

    Attributes:
        picture_work: Pictures are decoded and written under it.
    """

    def __init__(self, painter: Painter, settings: Settings) -> None:
        self._painter = painter
        self._settings = settings
        # Pictures are decoded and written here, never on the event loop; one a core, since each may hold 50 megapixels.
        self.picture_work = CapacityLimiter(os.cpu_count() or 1)

    async def answer(self, request: Request) -> Response:
        """Paints the request, or says why not; never raises.

        This is the outermost edge for BentoML's endpoints: what they raise it logs without the request's id and answers
        in a shape of its own.
        """
        try:
            return await self._paint(request)
        except InpaintError as error:
            return error_response(error)
        except Exception:
            identity = request_id(request)
            logger.exception("Request %s failed", identity)
            return internal_response(identity)

    async def read_request(self, request: Request) -> InpaintRequest:
        """Reads, decodes and checks everything that a request asks for.

        Raises:
            CallerError: If it cannot be done as it was sent.
        """
        return (await self.read_upload(request))[1]

    async def read_upload(self, request: Request) -> tuple[Form, InpaintRequest]:
        """Does what :meth:`read_request` does, and returns the files as they came too."""
        if request.query_params:
            name = next(iter(request.query_params))[:100]
            raise InvalidParameterError(f"The query parameter {name!r} is not read; send form fields.", field=name)
        form = await read_form(request, FIELDS)
        parameters = read_parameters(form.texts)
        return form, await anyio.to_thread.run_sync(self._decode, form, parameters, limiter=self.picture_work)

    async def _paint(self, request: Request) -> Response:
        # 1. What can be refused without the body is refused before it is read.
        self._painter.check_open()
        accept = ", ".join(request.headers.getlist("accept"))
        choose_media_type(accept, OFFERED)
        deadline_seconds = self.deadline_seconds(request)
        # 2. What the caller sent.
        asked = await self.read_request(request)
        media_type = choose_media_type(accept, offered(asked.parameters.num_images))
        codecs.check_encodable(asked.image.size, image_format(media_type))
        # 3. The picture.
        result = await self.paint(request, asked, deadline_seconds)
        # 4. The response.
        return await anyio.to_thread.run_sync(
            lambda: render(
                result,
                media_type=media_type,
                model=self._settings.model,
                request_id=request_id(request),
                parameters=asked.parameters if self._settings.metadata else None,
            ),
            limiter=self.picture_work,
        )

    def deadline_seconds(self, request: Request) -> float | None:
        """Reads how long the caller will wait; None where they don't say."""
        sent = request.headers.get(DEADLINE_HEADER)
        return None if sent is None else read_seconds(DEADLINE_HEADER, sent, self._settings.deadline_seconds)

    def _decode(self, form: Form, parameters: InpaintParameters) -> InpaintRequest:
        image = codecs.decode_image(
            form.files["image"], max_pixels=self._settings.max_pixels, keep_exif=parameters.keep_exif
        )
        mask = codecs.decode_mask(form.files["mask"], max_pixels=self._settings.max_pixels)
        codecs.check_same_size(image, mask)
        return InpaintRequest(image=image, mask=mask, parameters=parameters)

    async def paint(
        self,
        request: Request,
        asked: InpaintRequest,
        deadline_seconds: float | None,
        progress: Progress | None = None,
    ) -> InpaintResult:
        """Paints, but gives up as soon as the client is gone: nobody would read the picture."""
        painting = asyncio.ensure_future(
            self._painter.paint(asked, progress=progress, deadline_seconds=deadline_seconds)
        )
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({painting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not painting.done():
                raise CancelledError("The caller left before the picture was done.")
            return painting.result()
        finally:
            leaving.cancel()
            if painting.cancel():
                with contextlib.suppress(asyncio.CancelledError, InpaintError):
                    await painting


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
