"""A request's body → its form: texts by name, files by name, nothing else.

A body is ``multipart/form-data`` (RFC 7578), parsed while it comes in, by rules that are stricter than a browser needs
and that nobody has to guess: each field once, only fields that are known, files where files belong and texts where
texts belong. What breaks a rule ends the reading at once.

The JSON that BentoML's own clients make of every text is undone for them, and for them only: from anybody else, the
prompt ``"quoted"`` keeps its quotes.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from anyio import fail_after
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sd_inpaint.errors import (
    InvalidParameterError,
    MalformedBodyError,
    MissingFieldError,
    RequestCancelledError,
    UnsupportedMediaTypeError,
)
from sd_inpaint.http.wire.errors import UploadTimeoutError

MULTIPART = "multipart/form-data"

TEXT_BYTES = 256 * 1024
"""Largest text of a form: the longest prompt, with each character as two JSON escapes, takes half of it."""

UPLOAD_SECONDS = 600.0
"""How long a body may take to arrive: 100 MB over a slow line. Slower senders only block a place."""

JSON_CLIENT_AGENT = "BentoML HTTP Client"
"""How BentoML's clients begin their User-Agent (``_bentoml_impl/client/http.py``)."""

_EXTENDED_FILENAME = re.compile(r";\s*filename\*[\d*]*\s*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FormFields:
    """The fields that an endpoint knows.

    Attributes:
        files: Names of file fields, each required.
        texts: Names of text fields.
        optional_files: Names of file fields that may be left out.
    """

    files: Collection[str]
    texts: Collection[str]
    optional_files: Collection[str] = ()

    @property
    def all_files(self) -> list[str]:
        """Names of all file fields."""
        return [*self.files, *self.optional_files]


@dataclass(frozen=True, slots=True)
class Form:
    """A whole form.

    Attributes:
        files: The bytes of each file, by field name; all of :attr:`FormFields.files` are there.
        texts: Each text that was sent, by field name.
    """

    files: Mapping[str, bytes]
    texts: Mapping[str, str]


async def read_form(request: Request, fields: FormFields) -> Form:
    """Reads a request's body to its end, or to the first error in it.

    Raises:
        UnsupportedMediaTypeError: If the body is not multipart/form-data.
        MalformedBodyError: If it is not well formed, is truncated, or a text is not UTF-8.
        InvalidParameterError: If a field is unknown, sent twice, or a file where a text belongs, or the reverse.
        MissingFieldError: If a file field is missing.
        BodyTooLargeError: If it is larger than the server accepts.
        UploadTimeoutError: If it takes longer than UPLOAD_SECONDS.
        RequestCancelledError: If the client disconnects meanwhile.
    """
    reader = _Reader(fields, _boundary(request))
    with reading_body():
        async for chunk in request.stream():
            reader.write(chunk)
    reader.end()
    is_json_client = request.headers.get("user-agent", "").startswith(JSON_CLIENT_AGENT)
    texts = {}
    for name, part in reader.texts.items():
        text: str | None = _decode(name, part)
        if text is not None and is_json_client:
            text = _undo_json(name, text)
        if text is not None:
            texts[name] = text
    missing = [name for name in fields.files if name not in reader.files]
    if missing:
        raise MissingFieldError(f"The field {missing[0]!r} is missing; it must be a file.", field=missing[0])
    return Form(files={name: bytes(part.data) for name, part in reader.files.items()}, texts=texts)


@contextmanager
def reading_body() -> Iterator[None]:
    """Limits the time that a body may take to arrive, and translates the errors if it does not.

    Raises:
        UploadTimeoutError: If it takes longer than UPLOAD_SECONDS.
        RequestCancelledError: If the client disconnects meanwhile.
    """
    try:
        with fail_after(UPLOAD_SECONDS):
            yield
    except ClientDisconnect as error:
        raise RequestCancelledError("The client disconnected while the request was being read.") from error
    except TimeoutError as error:
        raise UploadTimeoutError(f"The body did not arrive within {UPLOAD_SECONDS:g} seconds.") from error


def _boundary(request: Request) -> bytes:
    sent = request.headers.get("content-type", "")
    media_type, options = parse_options_header(sent)
    if media_type.decode("latin-1") != MULTIPART:
        shown = f"not {sent[:100]!r}" if sent else "with its boundary in the Content-Type header"
        raise UnsupportedMediaTypeError(f"Send the request as {MULTIPART}, {shown}.")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaTypeError(f"Send the request without Content-Encoding, not as {encoding[:50]!r}.")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedBodyError("The Content-Type header has no boundary.")
    return boundary


@dataclass(slots=True)
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


class _Reader:
    """Takes a body in pieces and keeps its parts; python-multipart finds where they begin and end."""

    def __init__(self, fields: FormFields, boundary: bytes) -> None:
        self.files: dict[str, _Part] = {}
        self.texts: dict[str, _Part] = {}
        self._fields = fields
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MalformedBodyError(f"The boundary is invalid: {error}.") from error

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedBodyError(f"The body is not {MULTIPART} with the declared boundary: {error}.") from error

    def end(self) -> None:
        if not self._ended:
            raise MalformedBodyError("The body ends before its last boundary: it is truncated or empty.")

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header_name.decode("latin-1").lower()
        if name in self._part.headers:
            raise MalformedBodyError(f"A part of the body has two {name[:50]!r} headers.")
        # Browsers write field and file names in UTF-8; surrogates keep what is not, for a name nobody knows.
        self._part.headers[name] = self._header_value.decode("utf-8", "surrogateescape")
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        part = self._part
        _describe(part)
        name = part.name
        is_file_field = name in self._fields.all_files
        if not is_file_field and name not in self._fields.texts:
            known = ", ".join([*self._fields.all_files, *self._fields.texts])
            raise InvalidParameterError(f"The field {_shown(name)} is unknown; use {known}.", field=_plain(name))
        if name in self.files or name in self.texts:
            raise InvalidParameterError(f"The field {name!r} was sent twice.", field=name)
        if part.is_file and name in self._fields.texts:
            raise InvalidParameterError(f"The field {name!r} must be text, not a file.", field=name)
        if not part.is_file and is_file_field:
            raise InvalidParameterError(f"The field {name!r} must be a file, not text.", field=name)
        (self.files if part.is_file else self.texts)[name] = part

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.data += data[start:end]
        if not part.is_file and len(part.data) > TEXT_BYTES:
            raise InvalidParameterError(f"The field {part.name!r} is longer than 256 KiB.", field=part.name)

    def _on_end(self) -> None:
        self._ended = True


def _describe(part: _Part) -> None:
    """Reads name and kind of a part off its headers."""
    disposition = part.headers.get("content-disposition", "")
    # requests writes filename* for names outside ASCII, against RFC 7578; all that counts here is that it is a file.
    kind, options = parse_options_header(
        _EXTENDED_FILENAME.sub("; filename=", disposition).encode("utf-8", "surrogateescape")
    )
    if kind != b"form-data" or b"name" not in options:
        raise MalformedBodyError("A part of the body has no name (Content-Disposition: form-data; name=…).")
    encoding = part.headers.get("content-transfer-encoding", "binary")
    if encoding.lower() not in ("binary", "8bit", "7bit"):
        raise MalformedBodyError(f"A part of the body is encoded as {_shown(encoding)}; send it unencoded.")
    part.name = options[b"name"].decode("utf-8", "surrogateescape")
    part.is_file = b"filename" in options


def _decode(name: str, part: _Part) -> str:
    _, options = parse_options_header(part.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii") and not part.data.isascii():
        raise MalformedBodyError(f"The field {name!r} is in {_shown(charset)}; send text as UTF-8.", field=name)
    try:
        return part.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"The field {name!r} is not valid UTF-8 at byte {error.start}.", field=name) from error


def _undo_json(name: str, text: str) -> str | None:
    """Returns the text that a BentoML client was given; None stands for an unset field."""
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


def _plain(text: str) -> str:
    return text[:100].encode("utf-8", "replace").decode("utf-8")


def _shown(text: str) -> str:
    return repr(_plain(text))
