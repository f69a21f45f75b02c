"""The response format: the ``Accept`` header against the endpoint's formats (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sd_inpaint.errors import NotAcceptableError

_MEDIA_RANGE = re.compile(r"([!#$%&'*+.^_`|~\w-]+)/([!#$%&'*+.^_`|~\w-]+)", re.ASCII)
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?|\.\d{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Range:
    type: str
    subtype: str
    quality: float

    def specificity(self, media_type: str) -> int:
        """Returns 0 if the range does not cover the media type, else a larger number the narrower it is."""
        if media_type == f"{self.type}/{self.subtype}":
            return 3
        if self.subtype == "*" and self.type in ("*", media_type.partition("/")[0]):
            return 1 if self.type == "*" else 2
        return 0


def choose_media_type(accept: str | None, offered: Sequence[str]) -> str:
    """Returns the offered media type that the caller likes best; of equals, the first offered.

    Args:
        accept: The header, all its lines joined by commas; None or blank accepts anything.
        offered: Lower-case media types, the server's own preference first.

    Raises:
        NotAcceptableError: If none of them is acceptable.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = _parse(accept)
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: qualities[media_type])
    if qualities[best] == 0:
        raise NotAcceptableError(
            f"The Accept header asks for {accept[:100]!r}; this endpoint offers {', '.join(offered)}.",
            offered=list(offered),
        )
    return best


def _quality(media_type: str, ranges: Sequence[_Range]) -> float:
    specificity, quality = max(((r.specificity(media_type), r.quality) for r in ranges), default=(0, 0.0))
    return quality if specificity else 0.0


def _parse(accept: str) -> list[_Range]:
    """Reads the well-formed items and ignores the rest: one bad item must not invalidate a good one."""
    ranges = []
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        # Java's HttpURLConnection sends a bare "*".
        found = _MEDIA_RANGE.fullmatch("*/*" if name == "*" else name)
        values = [value.strip() for key, _, value in (p.partition("=") for p in parameters) if key.strip() == "q"]
        if found and all(_QUALITY.fullmatch(value) for value in values):
            ranges.append(_Range(found[1], found[2], float(values[0]) if values else 1.0))
    return ranges
