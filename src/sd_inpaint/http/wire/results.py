"""A result → the response, in the format that the caller reads."""

import base64
import io
import secrets
import zipfile
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from sd_inpaint.http.wire.headers import NO_STORE
from sd_inpaint.imaging import provenance
from sd_inpaint.imaging.codecs import ImageFormat, encode
from sd_inpaint.schema import InpaintParameters, InpaintResult

JSON = "application/json"
ZIP = "application/zip"
MULTIPART = "multipart/mixed"

OFFERED = (*(image_format.media_type for image_format in ImageFormat), JSON, ZIP, MULTIPART)
"""Formats for one picture; PNG, the contract's own, comes first."""

OFFERED_FOR_SEVERAL = (ZIP, MULTIPART, JSON)
"""Formats for several pictures."""

_FORMATS = {image_format.media_type: image_format for image_format in ImageFormat}

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: the same request gives the same bytes."""


def offered(num_images: int) -> tuple[str, ...]:
    """Returns the formats for this many pictures, the server's own preference first."""
    return OFFERED_FOR_SEVERAL if num_images > 1 else OFFERED


def image_format(media_type: str) -> ImageFormat:
    """Returns the format in which the pictures of such a response are written; inside of others it is PNG."""
    return _FORMATS.get(media_type, ImageFormat.PNG)


def render(
    result: InpaintResult,
    *,
    media_type: str,
    model: str,
    request_id: str,
    parameters: InpaintParameters | None = None,
) -> Response:
    """Writes a result as a response. Encodes pictures: not for the event loop.

    Args:
        result: The painted pictures.
        media_type: One of :func:`offered`.
        model: The name that callers know the model by.
        request_id: For callers who keep the JSON and not the headers.
        parameters: The request's parameters, to write into the files; None leaves them out.
    """
    files = encode_all(result, image_format(media_type), model, parameters)
    headers = {**describing_headers(result, model), "Vary": "Accept"}
    if media_type == JSON:
        about = {
            "steps": result.steps,
            "model": model,
            "inference_seconds": round(result.inference_seconds, 3),
            "regions": list(result.regions),
            "request_id": request_id,
        }
        shown = [_as_json(seed, file) for seed, file in files]
        return JSONResponse((shown[0] if len(shown) == 1 else {"images": shown}) | about, headers=headers)
    if media_type == ZIP:
        return Response(_zip(files), media_type=ZIP, headers=headers)
    if media_type == MULTIPART:
        boundary = secrets.token_hex(16)
        content = _multipart(files, boundary)
        return Response(content, media_type=f'{MULTIPART}; boundary="{boundary}"', headers=headers)
    return Response(files[0][1], media_type=media_type, headers=headers)


def describing_headers(result: InpaintResult, model: str) -> dict[str, str]:
    """Returns the response headers that describe a result, in every dialect."""
    headers = {
        "X-Seed": ", ".join(str(variation.seed) for variation in result.variations),
        "X-Model": quote(model, safe="/:@+,;= "),
        "X-Steps": str(result.steps),
        "X-Inference-Seconds": f"{result.inference_seconds:.3f}",
        **NO_STORE,
    }
    if result.regions:
        headers["X-Region"] = "; ".join(result.regions)
    return headers


def encode_all(
    result: InpaintResult, image_format: ImageFormat, model: str, parameters: InpaintParameters | None
) -> list[tuple[int, bytes]]:
    """Returns each picture's seed and file; ``parameters`` as for :func:`render`."""
    files = []
    for variation in result.variations:
        text = provenance.texts(parameters, result, variation.seed, model=model) if parameters else None
        xmp = provenance.xmp(result, model=model) if parameters else None
        files.append((variation.seed, encode(variation.image, image_format, text=text, xmp=xmp)))
    return files


def _as_json(seed: int, file: bytes) -> dict[str, object]:
    return {"image": base64.b64encode(file).decode("ascii"), "media_type": ImageFormat.PNG.media_type, "seed": seed}


def _name(number: int, seed: int) -> str:
    return f"{number}-seed-{seed}.png"


def _zip(files: list[tuple[int, bytes]]) -> bytes:
    buffer = io.BytesIO()
    # PNG is compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, (seed, file) in enumerate(files, 1):
            archive.writestr(zipfile.ZipInfo(_name(number, seed), ZIP_TIME), file)
    return buffer.getvalue()


def _multipart(files: list[tuple[int, bytes]], boundary: str) -> bytes:
    """RFC 2046, section 5.1; each part says its seed."""
    parts = []
    for number, (seed, file) in enumerate(files, 1):
        head = (
            f"--{boundary}\r\nContent-Type: {ImageFormat.PNG.media_type}\r\n"
            f'Content-Disposition: attachment; filename="{_name(number, seed)}"\r\nX-Seed: {seed}\r\n\r\n'
        )
        parts.append(head.encode("ascii") + file + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode("ascii")
