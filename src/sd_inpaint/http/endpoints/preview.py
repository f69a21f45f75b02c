"""``POST /sd-inpaint/preview``: a picture as the service sees it, for pages whose browser cannot show the file."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sd_inpaint.http.endpoints.inpainting import TAG
from sd_inpaint.http.endpoints.painting import READS_PICTURE, Painting, deadline_parameter
from sd_inpaint.http.wire.forms import READS_FORM, FormFields, read_form
from sd_inpaint.http.wire.headers import IMAGE_SIZE, NO_STORE
from sd_inpaint.http.wire.operations import FILE, Answer, DescribedRoute, Operation, form_body
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.preview import LONGEST_SIDE

FIELDS: Final = FormFields(files=("image",), texts=())


def describe_preview(longest_seconds: float) -> Operation:
    """Describes ``POST /sd-inpaint/preview``; a deadline may be as long as the operator's, in seconds."""
    size = {"description": "Width and height of the picture itself.", "required": True}
    return Operation(
        id="preview",
        tag=TAG,
        summary="Show a picture as the service sees it",
        description="For pages whose browser cannot show the file, such as HEIC or TIFF: upright, in sRGB, at most "
        f"{LONGEST_SIDE} pixels a side.",
        parameters=(deadline_parameter(longest_seconds),),
        body=form_body(FIELDS, {}, {"image": "The picture."}),
        answers={200: Answer("The picture as a PNG.", {ImageFormat.PNG.media_type: FILE}, {IMAGE_SIZE: size})},
        errors=(*READS_FORM, *READS_PICTURE),
    )


class Preview:
    """Answers ``POST /sd-inpaint/preview``. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting

    def routes(self) -> list[DescribedRoute]:
        """Returns the route below ``/sd-inpaint``."""
        longest = self._painting.longest_seconds
        return [DescribedRoute("/preview", self.post, describe_preview(longest), method="POST")]

    async def post(self, request: Request) -> Response:
        """Answers with a small PNG, upright and in sRGB; the picture's own size is in a header."""
        form = await read_form(request, FIELDS)
        file, (width, height) = await self._painting.preview(request, form.files["image"])
        headers = {IMAGE_SIZE: f"{width}x{height}", **NO_STORE}
        return Response(file, media_type=ImageFormat.PNG.media_type, headers=headers)
