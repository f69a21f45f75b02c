"""Forms as clients write them, byte by byte."""

from dataclasses import dataclass
from typing import Any, Final

from tests.support.edge import LIGHT
from tests.support.pictures import hole, photo, written

BOUNDARY: Final = "XyZ"
IMAGE: Final = written(photo())
MASK: Final = written(hole())


@dataclass(frozen=True)
class Part:
    """One part of a form: its headers but for the disposition, which ``more`` continues, and its bytes."""

    name: str
    data: bytes
    headers: tuple[str, ...] = ()
    more: str = ""

    def __bytes__(self) -> bytes:
        """The part, from its boundary to its last byte."""
        lines = [f"--{BOUNDARY}", f'Content-Disposition: form-data; name="{self.name}"{self.more}', *self.headers]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + self.data + b"\r\n"


def text(name: str, value: str | bytes, *headers: str, more: str = "") -> Part:
    """A text part."""
    return Part(name, value.encode() if isinstance(value, str) else value, headers, more)


def file(name: str, *headers: str, data: bytes | None = None, more: str = '; filename="a.png"') -> Part:
    """A file part: the photo or its mask, unless it is told otherwise."""
    return Part(name, {"image": IMAGE, "mask": MASK}[name] if data is None else data, headers, more)


def request(*parts: Part, **headers: str) -> dict[str, Any]:
    """Returns arguments for ``client.post``: a good form, but with the parts given in place of their namesakes.

    It is painted as soon as can be, for hundreds of them are sent to the real model.
    """
    good = (file("image"), file("mask"), text("prompt", "a rose"), *(text(*field) for field in LIGHT.items()))
    merged = {part.name: part for part in (*good, *parts)}
    body = b"".join(bytes(part) for part in merged.values()) + f"--{BOUNDARY}--\r\n".encode()
    content_type = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return {"content": body, "headers": {**content_type, **{k.replace("_", "-"): v for k, v in headers.items()}}}
