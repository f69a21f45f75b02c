"""``POST /sd-inpaint/preview``: a picture as the service sees it, for pages whose browser cannot show the file."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sd_inpaint.http.endpoints.painting import Painting
from sd_inpaint.http.wire.errors import answering
from sd_inpaint.http.wire.forms import FormFields, read_form
from sd_inpaint.http.wire.headers import IMAGE_SIZE, NO_STORE
from sd_inpaint.imaging.codecs import ImageFormat

FIELDS: Final = FormFields(files=("image",), texts=())


class Preview:
    """Answers ``POST /sd-inpaint/preview``. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting

    def routes(self) -> list[Route]:
        """Returns the route below ``/sd-inpaint``."""
        return [Route("/preview", answering(self.post), methods=["POST"])]

    async def post(self, request: Request) -> Response:
        """Answers with a small PNG, upright and in sRGB; the picture's own size is in a header."""
        form = await read_form(request, FIELDS)
        file, (width, height) = await self._painting.preview(request, form.files["image"])
        headers = {IMAGE_SIZE: f"{width}x{height}", **NO_STORE}
        return Response(file, media_type=ImageFormat.PNG.media_type, headers=headers)
