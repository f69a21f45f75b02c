"""The endpoints' inputs as declared to BentoML, for its schema, its docs page and its clients.

BentoML's own decoding of a form breaks the contract in a dozen ways (texts go through JSON, a text in a file field is
fetched as a URL, a bad upload is a 500). So the declared fields describe the form, and the endpoints get the request as
it came: :mod:`sd_inpaint.http.wire.forms` reads it.
"""

from pathlib import Path
from typing import Any

import bentoml
from pydantic import ConfigDict, Field
from starlette.requests import Request

from sd_inpaint.schema import InpaintParameters


class ReceivedRequest(bentoml.IODescriptor):
    """What an endpoint is called with: the request, its body not yet read."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    request: Request


class Undecoded(bentoml.IODescriptor):
    """Hands requests over as they came."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> bentoml.IODescriptor:
        """Is called by BentoML (``_bentoml_impl/server/app.py``, ``api_endpoint``); reads nothing."""
        return ReceivedRequest(request=request)


class _Files(Undecoded):
    image: Path = Field(description="Input image to inpaint (JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP, GIF).")
    mask: Path = Field(description="Mask of the image's size: white = inpaint, black = keep, grey = blend.")


class InpaintForm(InpaintParameters, _Files):
    """The form of ``POST /sd-inpaint/inpaint``: two files, then every parameter with its default and bounds."""


class NoInput(Undecoded):
    """An endpoint that reads nothing."""
