"""How a result is to be written: ``output_format`` and ``Accept`` → its format.

``output_format`` is the caller's own word and wins. ``Accept`` is often a library's, and is read with that in mind.
Several pictures need a container: a zip, unless ``Accept`` asks for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from sd_inpaint.errors import InvalidParameterError, NotAcceptableError
from sd_inpaint.http.wire.negotiation import choose_media_type
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.schema import InpaintParameters, OutputFormat

JSON = "application/json"
ZIP = "application/zip"
MULTIPART = "multipart/mixed"

OFFERED = (*(image_format.media_type for image_format in ImageFormat), JSON, ZIP, MULTIPART)
"""Formats for one picture; PNG, the contract's own, comes first."""

OFFERED_FOR_SEVERAL = (ZIP, MULTIPART, JSON)
"""Formats for several pictures."""

_FILES = {image_format.media_type: image_format for image_format in ImageFormat}


@dataclass(frozen=True, slots=True)
class ResultFormat:
    """How a result is written.

    Attributes:
        media_type: Of the whole response.
        image_format: Of each picture in it.
        quality: Of a lossy format; None is the format's own. Of no effect on PNG.
    """

    media_type: str
    image_format: ImageFormat
    quality: int | None = None


def choose_format(request: Request, parameters: InpaintParameters, size: tuple[int, int] | None = None) -> ResultFormat:
    """Returns the format of the answer to a request.

    Args:
        request: Its ``Accept`` counts where there is no ``output_format``.
        parameters: What it asks for.
        size: (width, height) of its picture, where known: a format that cannot hold it gives way to any that is
            accepted too.

    Raises:
        NotAcceptableError: If there is no ``output_format``, and ``Accept`` names nothing that is written.
        InvalidParameterError: If a ``quality`` is set for a format that has none.
    """
    wanted, several = parameters.output_format, parameters.num_images > 1
    if wanted is None:
        media_type = _negotiate_for(request, _offered(several), size)
    elif wanted is OutputFormat.JSON or not several:
        media_type = _media_type(wanted)
    else:
        media_type = _container(request)
    chosen = ResultFormat(media_type, _image_format(media_type, wanted), parameters.quality)
    if chosen.quality is not None and not OutputFormat(chosen.image_format).is_lossy:
        raise _no_quality(f"This answer's format is {chosen.image_format}, which is lossless")
    return chosen


def check_job_format(parameters: InpaintParameters) -> ImageFormat:
    """Returns the format of the pictures that a job asks for, as far as that is known before its result is read.

    Raises:
        InvalidParameterError: If a ``quality`` is set for a format that has none.
    """
    wanted = parameters.output_format
    if parameters.quality is not None and (wanted is None or not wanted.is_lossy):
        raise _no_quality(f"output_format is {wanted}" if wanted else "This job has no output_format")
    return _image_format("", wanted)


def choose_job_format(request: Request, parameters: InpaintParameters) -> ResultFormat:
    """Returns the format in which a job's result is read: the job's own, unless ``Accept`` asks for another.

    Raises:
        NotAcceptableError: If ``Accept`` names nothing that is written.
    """
    wanted, several = parameters.output_format, parameters.num_images > 1
    offered = _offered(several)
    if wanted is not None and (wanted is OutputFormat.JSON or not several):
        own = _media_type(wanted)
        offered = (own, *(media_type for media_type in offered if media_type != own))
    media_type = _negotiate(request, offered)
    return ResultFormat(media_type, _image_format(media_type, wanted), parameters.quality)


def _offered(several: bool) -> tuple[str, ...]:
    return OFFERED_FOR_SEVERAL if several else OFFERED


def _media_type(wanted: OutputFormat) -> str:
    return JSON if wanted is OutputFormat.JSON else ImageFormat(wanted).media_type


def _image_format(media_type: str, wanted: OutputFormat | None) -> ImageFormat:
    """Returns the format of the pictures in a response; in a container, the one that was asked for."""
    if media_type in _FILES:
        return _FILES[media_type]
    return ImageFormat.PNG if wanted in (None, OutputFormat.JSON) else ImageFormat(wanted)


def _container(request: Request) -> str:
    try:
        return _negotiate(request, OFFERED_FOR_SEVERAL)
    except NotAcceptableError:
        return ZIP


def _negotiate(request: Request, offered: Sequence[str]) -> str:
    return choose_media_type(", ".join(request.headers.getlist("accept")), offered, written=OFFERED)


def _negotiate_for(request: Request, offered: Sequence[str], size: tuple[int, int] | None) -> str:
    chosen = _negotiate(request, offered)
    if size is None or chosen not in _FILES or max(size) <= _FILES[chosen].max_side:
        return chosen
    large = [each for each in offered if each not in _FILES or max(size) <= _FILES[each].max_side]
    try:
        return _negotiate(request, large)
    except NotAcceptableError:
        return chosen


def _no_quality(reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{reason}; quality needs output_format webp, jpeg or avif.",
        field="quality",
        output_formats=[str(each) for each in OutputFormat if each.is_lossy],
    )
