"""One part of a form → the file or the text that its sender meant.

Source: RFC 7578 (forms), RFC 2045 (transfer encodings), RFC 2397 (data URLs).
"""

import base64
import binascii
import json
import quopri
import re
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header

from sd_inpaint.errors import InvalidParameterError, MalformedBodyError
from sd_inpaint.http.wire.base64_pictures import decode_picture

_EXTENDED_FILENAME = re.compile(r";\s*filename\*[\d*]*\s*=", re.IGNORECASE)

_DATA_URL = re.compile(rb"[\s\"]*data:[^,]{0,200};base64,", re.IGNORECASE)
"""No format of pictures begins so. The quotes are JSON's."""

_BASE64 = re.compile(rb"[\s\"]*(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkqA|TU0AK|AAAA[\w+/-]{2}Z0eX)", re.ASCII)
"""How a PNG, JPEG, GIF, WebP, TIFF, or a HEIC or AVIF, begins in base64."""

_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

_SNIFFED_BYTES = 1024
"""How much of a part is looked at to see whether it is text; pictures have control characters well before."""

_PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")

_CHARSETS = {
    "": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    # What is labelled so is often more than that.
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    # As the WHATWG's Encoding Standard has it: the letters are the same, and Windows' quotes and dashes come along.
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin1": "cp1252",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
    **{f"windows-{n}": f"cp{n}" for n in (1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)},
    **{name: name for name in ("koi8-r", "koi8-u", "shift_jis", "windows-31j", "euc-jp", "euc-kr", "macintosh")},
    **{name: name for name in ("gb2312", "gbk", "gb18030", "big5", "utf-16", "utf-16le", "utf-16be")},
}
"""Charset label → Python's codec. Not every codec of Python's is a charset, and some run code or unpack."""


@dataclass(slots=True)
class Part:
    """One part of a body, while it comes in and when it is whole.

    Attributes:
        headers: Lower-case name → value.
        name: The field's name.
        filename: As it was sent, in whatever way; None without.
        media_type: Lower-case, without parameters; empty without.
        charset: Lower-case; empty without.
        data: What has come in so far.
    """

    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    media_type: str = ""
    charset: str = ""
    data: bytearray = field(default_factory=bytearray)

    def describe(self) -> None:
        """Reads name and kind of the part off its headers.

        Raises:
            MalformedBodyError: If it has no name, or an encoding that is not read.
        """
        # requests writes filename* for names outside ASCII, against RFC 7578.
        disposition = _EXTENDED_FILENAME.sub("; filename=", self.headers.get("content-disposition", ""))
        kind, options = _parse_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            raise MalformedBodyError("A part of the body has no name (Content-Disposition: form-data; name=…).")
        encoding = self._encoding()
        if encoding not in ("binary", "8bit", "7bit", "base64", "quoted-printable"):
            raise MalformedBodyError(f"A part of the body is encoded as {shown(encoding)}; send it unencoded.")
        self.name = options[b"name"].decode("utf-8", "surrogateescape")
        filename = options.get(b"filename")
        self.filename = None if filename is None else filename.decode("utf-8", "replace")
        media_type, labels = _parse_header(self.headers.get("content-type", ""))
        self.media_type = media_type.decode("latin-1").lower()
        self.charset = labels.get(b"charset", b"").decode("latin-1").strip().lower()

    @property
    def looks_like_a_file(self) -> bool:
        """Whether what has come in is a file's content rather than a text, whatever its headers say."""
        data = bytes(self.data[:_SNIFFED_BYTES])
        is_picture = data.startswith(_PICTURE_STARTS) or data[4:8] == b"ftyp"
        return (is_picture or self.filename is not None) and b"\0" in data and not self.charset.startswith("utf-16")

    def not_a_text(self) -> InvalidParameterError:
        """Makes the error of a file in a text field."""
        return InvalidParameterError(f"The field {self.name!r} must be text, not a file.", field=self.name)

    def content(self) -> bytes:
        """Returns the data with its transfer encoding undone.

        Raises:
            MalformedBodyError: If it is not encoded as its header says.
        """
        match self._encoding():
            case "base64":
                return _from_base64(self.name, bytes(self.data))
            case "quoted-printable":
                return quopri.decodestring(bytes(self.data))
        return bytes(self.data)

    def _encoding(self) -> str:
        return self.headers.get("content-transfer-encoding", "binary").strip().lower()


def read_file(part: Part) -> bytes:
    """Returns a file's bytes. Base64 is undone, alone or in a data URL, which is what a script gets of a canvas.

    Raises:
        InvalidParameterError: If the part is a text, such as a file's address: nothing is fetched.
        MalformedBodyError: If it is not encoded as it says.
    """
    content = part.content()
    if _DATA_URL.match(content) or _BASE64.match(content):
        return decode_picture(part.name, content.decode("latin-1").strip().strip('"'))
    is_labelled_text = part.media_type in ("", "application/json") or part.media_type.startswith("text/")
    if part.filename is None and is_labelled_text and _is_text(content[:_SNIFFED_BYTES]):
        raise InvalidParameterError(
            f"The field {part.name!r} must be a file, not text; an address is not fetched.", field=part.name
        )
    return content


def read_text(part: Part, *, default_charset: str = "utf-8", is_json: bool = False) -> str | None:
    """Returns a text; None where it is the ``null`` of a sender of JSON.

    Args:
        part: The whole part.
        default_charset: Of a text that names none.
        is_json: Whether its sender writes JSON without a label that says so.

    Raises:
        InvalidParameterError: If it is a file.
        MalformedBodyError: If its charset is unknown, or not what it is written in.
    """
    if part.looks_like_a_file:
        raise part.not_a_text()
    charset = part.charset or default_charset.lower()
    codec = _CHARSETS.get(charset)
    if codec is None:
        raise MalformedBodyError(
            f"The field {part.name!r} is in the charset {shown(charset)}, which is unknown; send text as UTF-8.",
            field=part.name,
        )
    content = part.content()
    try:
        # Windows' editors begin a file with a byte order mark, which is no part of the text.
        text = content.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if part.filename is not None:
            raise part.not_a_text() from error
        label = "UTF-8" if codec == "utf-8" else charset
        raise MalformedBodyError(
            f"The field {part.name!r} is not valid {label} at byte {error.start}.", field=part.name
        ) from error
    if is_json or part.media_type == "application/json" or part.media_type.endswith("+json"):
        return _undo_json(part.name, text)
    return text


def showable(text: str) -> str:
    """Returns a sender's text cut to what an error may carry."""
    return text[:100].encode("utf-8", "replace").decode("utf-8")


def shown(text: str) -> str:
    """Returns the same in quotes."""
    return repr(showable(text))


def _parse_header(value: str) -> tuple[bytes, dict[bytes, bytes]]:
    # As bytes: the parser takes a text to be Latin-1.
    return parse_options_header(value.encode("utf-8", "surrogateescape"))


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        # The start of a longer text may end within a character.
        if error.start < len(start) - 3:
            return False
        text = start[: error.start].decode("utf-8")
    return _CONTROLS.search(text) is None


def _from_base64(name: str, data: bytes) -> bytes:
    try:
        # Lines of 76 characters are what RFC 2045 asks for.
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise MalformedBodyError(f"The field {name!r} is not valid base64.", field=name) from error


def _undo_json(name: str, text: str) -> str | None:
    """Returns the text that a sender of JSON was given; None stands for an unset field."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if value is None:
        return None
    if not isinstance(value, str):
        return text
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedBodyError(f"The field {name!r} contains an unpaired surrogate.", field=name) from error
    return value
