"""The response format: the ``Accept`` header against the endpoint's formats.

RFC 9110 (section 12.5.1) lets a server answer by its own preference where a header leaves room for it. Browsers, HTTP
libraries and workflow tools send headers of their own, which name formats that nobody asked for. So the endpoint's
default is what everybody gets who does not name another format, and prefer it to everything else they accept.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sd_inpaint.errors import NotAcceptableError

_MEDIA_RANGE = re.compile(r"([!#$%&'*+.^_`|~\w-]+)/([!#$%&'*+.^_`|~\w-]+)", re.ASCII)
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?|\.\d{1,3})", re.ASCII)

_ALIASES = {
    # Java's HttpURLConnection sends a bare "*".
    "*": "*/*",
    # Programs that do not look into what they save.
    "application/octet-stream": "*/*",
    "binary/octet-stream": "*/*",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
}
"""Names that no register has, and what is meant by them."""

_JSON = "application/json"
_JSON_SUFFIX = "+json"


@dataclass(frozen=True, slots=True)
class _Range:
    type: str
    subtype: str
    quality: float

    @property
    def name(self) -> str:
        return f"{self.type}/{self.subtype}"

    def specificity(self, media_type: str) -> int:
        """Returns 0 if the range does not cover the media type, else a larger number the narrower it is."""
        if media_type == self.name:
            return 3
        if self.subtype == "*" and self.type in ("*", media_type.partition("/")[0]):
            return 1 if self.type == "*" else 2
        return 0

    def competes_with(self, media_type: str) -> bool:
        """Whether a caller who accepts this could be content with something else than the media type."""
        is_json_too = media_type == _JSON and self.subtype.endswith(_JSON_SUFFIX)
        return media_type != self.name and not is_json_too


def choose_media_type(accept: str | None, offered: Sequence[str], written: Sequence[str] = ()) -> str:
    """Returns the format of the answer.

    A format that the header names, with a higher quality than anything else in it, is the answer. Otherwise the default
    is, unless the header refuses it: by quality 0, or by naming nothing but formats that the server writes. Then it is
    the format with the highest quality, and of equals the one that the header names first.

    Args:
        accept: The header, all its lines joined by commas. None, a blank one, or one in which nothing is well formed
            accepts anything.
        offered: Lower-case media types, the default first.
        written: Media types that the server writes on other occasions: they are no sign of a header that somebody's
            library wrote.

    Raises:
        NotAcceptableError: If none of them is acceptable.
    """
    default, ranges = offered[0], _parse(accept or "")
    if not ranges:
        return default
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    if not any(qualities.values()):
        raise NotAcceptableError(
            f"The Accept header asks for {(accept or '')[:100]!r}; this endpoint offers {', '.join(offered)}.",
            offered=list(offered),
        )
    named = [r.name for r in ranges if qualities.get(r.name)]
    for media_type in named:
        others = [r.quality for r in ranges if r.competes_with(media_type)]
        if max(others, default=0.0) < (qualities[media_type] or 0.0):
            return media_type
    if qualities[default]:
        return default
    known = {*offered, *written}
    has_foreign = any(
        r.quality and r.name not in known and not any(r.specificity(media_type) for media_type in known) for r in ranges
    )
    if qualities[default] is None and has_foreign:
        return default
    return max([*named, *offered], key=lambda media_type: qualities[media_type] or 0.0)


def _quality(media_type: str, ranges: Sequence[_Range]) -> float | None:
    """Returns the quality that the narrowest range gives a media type; None if no range covers it."""
    specificity, quality = max(((r.specificity(media_type), r.quality) for r in ranges), default=(0, 0.0))
    return quality if specificity else None


def _parse(accept: str) -> list[_Range]:
    """Reads the well-formed items and ignores the rest: one bad item must not invalidate a good one."""
    ranges = []
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        found = _MEDIA_RANGE.fullmatch(_ALIASES.get(name, name))
        values = [value.strip() for key, _, value in (p.partition("=") for p in parameters) if key.strip() == "q"]
        if found and all(_QUALITY.fullmatch(value) for value in values):
            ranges.append(_Range(found[1], found[2], float(values[0]) if values else 1.0))
    return ranges
