"""A result → the response, in the format that the caller reads."""

import base64
import io
import secrets
import zipfile
from typing import NotRequired
from urllib.parse import quote

from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from sd_inpaint.http.wire.formats import JSON, MULTIPART, ZIP, ResultFormat
from sd_inpaint.http.wire.headers import NO_STORE, WARNING
from sd_inpaint.http.wire.operations import Base64, JsonSchema
from sd_inpaint.imaging import provenance
from sd_inpaint.imaging.codecs import ImageFormat, encode
from sd_inpaint.imaging.credentials import ContentCredentials
from sd_inpaint.imaging.masks import INVISIBLE_LEVELS
from sd_inpaint.imaging.record import Record
from sd_inpaint.schema import InpaintParameters, InpaintResult

WHITE_LEVEL = 255 - INVISIBLE_LEVELS
"""A mask that has no level this high was hardly meant so: it is zeros and ones, or drawn in a colour."""

RESULT_HEADERS: dict[str, JsonSchema] = {
    "X-Seed": {"description": "The seed that was used; several are separated by commas.", "required": True},
    "X-Model": {"description": "The model's name.", "required": True},
    "X-Steps": {"description": "Denoising steps per canvas; 0 if the mask was black.", "required": True},
    "X-Inference-Seconds": {"description": "How long the request used the device.", "required": True},
    "X-Region": {"description": "Each canvas as left,top,right,bottom@scale->WIDTHxHEIGHT, separated by semicolons."},
    "X-Plan": {"description": "How the device computed it; the same plan gives the same bytes."},
    WARNING: {"description": "What you may not have meant, such as a mask without white."},
}
"""What :func:`describing_headers` gives."""

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: the same request gives the same bytes, unless results are signed."""


class PictureJson(TypedDict):
    """One picture."""

    image: Base64
    media_type: str
    seed: int


class PaintedJson(TypedDict):
    """A result as JSON: one picture in ``image``, or several in ``images``."""

    image: NotRequired[Base64]
    media_type: NotRequired[str]
    seed: NotRequired[int]
    images: NotRequired[list[PictureJson]]
    steps: int
    model: str
    inference_seconds: float
    regions: list[str]
    plan: str
    warnings: list[str]
    request_id: str


def render(
    result: InpaintResult,
    *,
    result_format: ResultFormat,
    model: str,
    request_id: str,
    parameters: InpaintParameters | None = None,
    credentials: ContentCredentials | None = None,
) -> Response:
    """Writes a result as a response. Encodes pictures: not for the event loop.

    Args:
        result: The painted pictures.
        result_format: The format of the response and of the pictures in it.
        model: The name that callers know the model by.
        request_id: For callers who keep the JSON and not the headers.
        parameters: The request's parameters, to write into the files; None leaves them out.
        credentials: Signs the files; None leaves them unsigned.
    """
    image_format, media_type = result_format.image_format, result_format.media_type
    files = encode_all(result, image_format, model, parameters, quality=result_format.quality, credentials=credentials)
    headers = {**describing_headers(result, model), "Vary": "Accept"}
    if media_type == JSON:
        about: PaintedJson = {
            "steps": result.steps,
            "model": model,
            "inference_seconds": round(result.inference_seconds, 3),
            "regions": list(result.regions),
            "plan": result.plan,
            "warnings": warnings(result),
            "request_id": request_id,
        }
        shown = [_as_json(seed, file, image_format) for seed, file in files]
        pictures = shown[0] if len(shown) == 1 else {"images": shown}
        return JSONResponse({**pictures, **about}, headers=headers)
    if media_type == ZIP:
        return Response(_zip(files, image_format), media_type=ZIP, headers=headers)
    if media_type == MULTIPART:
        boundary = secrets.token_hex(16)
        content = _multipart(files, image_format, boundary)
        return Response(content, media_type=f'{MULTIPART}; boundary="{boundary}"', headers=headers)
    return Response(files[0][1], media_type=media_type, headers=headers)


def warnings(result: InpaintResult) -> list[str]:
    """Returns what a caller may not have meant, each a sentence in ASCII; as a header, they are ``X-Warning``."""
    if result.brightest >= WHITE_LEVEL:
        return []
    outcome = "which repaints only in part" if result.steps else "and nothing was repainted"
    had_white = result.brightest_sent >= WHITE_LEVEL
    fact = "Inverting, narrowing or blurring left no white in the mask" if had_white else "The mask has no white"
    rule = "White (255) is repainted, black (0) is kept."
    return [f"{fact}: its brightest level is {result.brightest} of 255, {outcome}. {rule}"]


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
    if result.plan:
        headers["X-Plan"] = result.plan
    if found := warnings(result):
        headers[WARNING] = " ".join(found)
    return headers


def encode_all(
    result: InpaintResult,
    image_format: ImageFormat,
    model: str,
    parameters: InpaintParameters | None,
    *,
    quality: int | None = None,
    credentials: ContentCredentials | None = None,
) -> list[tuple[int, bytes]]:
    """Returns each picture's seed and file; ``parameters`` and ``credentials`` as for :func:`render`."""
    files = []
    for variation in result.variations:
        text = provenance.texts(parameters, result, variation.seed, model=model) if parameters else None
        record = Record.of(parameters, result, variation.seed, model) if parameters else None
        xmp = provenance.xmp(result, model=model, record=record) if parameters else None
        file = encode(variation.image, image_format, quality=quality, text=text, xmp=xmp)
        if credentials is not None:
            file = credentials.sign(file, image_format, result, model=model)
        files.append((variation.seed, file))
    return files


def _as_json(seed: int, file: bytes, image_format: ImageFormat) -> PictureJson:
    return {"image": base64.b64encode(file).decode("ascii"), "media_type": image_format.media_type, "seed": seed}


def _name(number: int, seed: int, image_format: ImageFormat) -> str:
    return f"{number}-seed-{seed}.{image_format}"


def _zip(files: list[tuple[int, bytes]], image_format: ImageFormat) -> bytes:
    buffer = io.BytesIO()
    # The pictures are compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, (seed, file) in enumerate(files, 1):
            archive.writestr(zipfile.ZipInfo(_name(number, seed, image_format), ZIP_TIME), file)
    return buffer.getvalue()


def _multipart(files: list[tuple[int, bytes]], image_format: ImageFormat, boundary: str) -> bytes:
    """RFC 2046, section 5.1; each part says its seed."""
    parts = []
    for number, (seed, file) in enumerate(files, 1):
        head = (
            f"--{boundary}\r\nContent-Type: {image_format.media_type}\r\n"
            f'Content-Disposition: attachment; filename="{_name(number, seed, image_format)}"\r\nX-Seed: {seed}\r\n\r\n'
        )
        parts.append(head.encode("ascii") + file + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode("ascii")
