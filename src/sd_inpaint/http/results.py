"""A result → the response, in the format that the caller reads."""

import base64
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from sd_inpaint.codecs import ImageFormat, encode
from sd_inpaint.schema import InpaintResult

JSON = "application/json"

OFFERED = (*(image_format.media_type for image_format in ImageFormat), JSON)
"""What results are written as; PNG, the contract's own, comes first."""

_FORMATS = {image_format.media_type: image_format for image_format in ImageFormat}


def image_format(media_type: str) -> ImageFormat:
    """Returns the format in which the picture of such a response is written; inside of JSON it is PNG."""
    return _FORMATS.get(media_type, ImageFormat.PNG)


def render(result: InpaintResult, *, media_type: str, model: str, request_id: str) -> Response:
    """Writes a result as a response. Encodes the picture: not for the event loop.

    Args:
        result: What was painted.
        media_type: One of :data:`OFFERED`.
        model: The name that callers know the model by.
        request_id: For callers who keep the JSON and not the headers.
    """
    picture = encode(result.image, image_format(media_type))
    headers = {
        "X-Seed": str(result.seed),
        "X-Model": quote(model, safe="/:@+,;= "),
        "X-Steps": str(result.steps),
        "X-Inference-Seconds": f"{result.inference_seconds:.3f}",
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }
    if result.regions:
        headers["X-Region"] = "; ".join(result.regions)
    if media_type != JSON:
        return Response(picture, media_type=media_type, headers=headers)
    shown = {
        "image": base64.b64encode(picture).decode("ascii"),
        "media_type": ImageFormat.PNG.media_type,
        "seed": result.seed,
        "steps": result.steps,
        "model": model,
        "inference_seconds": round(result.inference_seconds, 3),
        "regions": list(result.regions),
        "request_id": request_id,
    }
    return JSONResponse(shown, headers=headers)
