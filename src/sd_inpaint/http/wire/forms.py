"""A request's body → its form: texts by name, files by name, nothing else.

A body is ``multipart/form-data`` (RFC 7578), parsed while it comes in: each field once, and only fields that are known.
What breaks a rule ends the reading at once. The field's name decides whether a part is a file or a text, for clients
disagree about the headers of both; :mod:`sd_inpaint.http.wire.parts` reads what is in it.

The JSON that BentoML's own clients make of every text is undone for them. From anybody else, only what is labelled
``application/json`` is read as JSON: the prompt ``"quoted"`` keeps its quotes.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from anyio import fail_after, to_thread
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
from sd_inpaint.http.wire.parts import Part, read_file, read_text, showable, shown

MULTIPART = "multipart/form-data"

TEXT_BYTES = 256 * 1024
"""Largest text of a form: the longest prompt, with each character as two JSON escapes, takes half of it."""

UPLOAD_SECONDS = 600.0
"""How long a body may take to arrive: 100 MB over a slow line. Slower senders only block a place."""

JSON_CLIENT_AGENT = "BentoML HTTP Client"
"""How BentoML's clients begin their User-Agent (``_bentoml_impl/client/http.py``)."""

PREAMBLE_BYTES = 4096
"""How far into a body its first delimiter may begin."""

CHARSET = "_charset_"
"""The field in which browsers and others name the charset of all texts that have none of their own (RFC 7578, 4.6)."""


READS_FORM = (
    UnsupportedMediaTypeError,
    MalformedBodyError,
    InvalidParameterError,
    MissingFieldError,
    UploadTimeoutError,
)
"""What a caller can meet whose form is read."""


@dataclass(frozen=True, slots=True)
class FormFields:
    """The fields that an endpoint knows.

    Attributes:
        files: Names of file fields, each required.
        texts: Names of text fields.
        optional_files: Names of file fields that may be left out.
        may_be_blank: Names of text fields in which a blank is a value. In others it leaves the field unset, for that is
            what forms send for inputs that nobody filled in.
    """

    files: Collection[str]
    texts: Collection[str]
    optional_files: Collection[str] = ()
    may_be_blank: Collection[str] = ("prompt", "negative_prompt")

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
        MalformedBodyError: If it is not well formed, is truncated, or a text is not in the charset that it names.
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
    texts = _read_texts(reader.texts, fields, is_json_client=is_json_client)
    # To undo the base64 of a large file takes a while.
    return Form(await to_thread.run_sync(_read_files, reader.files, fields), texts)


def _read_files(parts: Mapping[str, Part], fields: FormFields) -> dict[str, bytes]:
    files = {}
    for name, part in parts.items():
        # What a browser sends for a file input in which nothing was chosen.
        if part.data or part.filename:
            files[name] = read_file(part)
    for name in fields.files:
        if name not in files:
            raise MissingFieldError(f"The field {name!r} is missing; it must be a file.", field=name)
    return files


def _read_texts(parts: Mapping[str, Part], fields: FormFields, *, is_json_client: bool) -> dict[str, str]:
    named = read_text(parts[CHARSET]) if CHARSET in parts else None
    charset = (named or "").strip() or "utf-8"
    texts = {}
    for name, part in parts.items():
        if name == CHARSET:
            continue
        text = read_text(part, default_charset=charset, is_json=is_json_client)
        if text is not None and (text.strip() or name in fields.may_be_blank):
            texts[name] = text
    return texts


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


def check_plain(request: Request) -> None:
    """Raises UnsupportedMediaTypeError if a body is compressed: its size would say nothing of what it becomes."""
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(f"Send the request without Content-Encoding, not as {encoding[:50]!r}.")


def _boundary(request: Request) -> bytes:
    sent = request.headers.get("content-type", "")
    media_type, options = parse_options_header(sent)
    if media_type.decode("latin-1") != MULTIPART:
        shown = f"not {sent[:100]!r}" if sent else "with its boundary in the Content-Type header"
        raise UnsupportedMediaTypeError(f"Send the request as {MULTIPART}, {shown}.")
    check_plain(request)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedBodyError("The Content-Type header has no boundary.")
    return boundary


class _Reader:
    """Takes a body in pieces and keeps its parts; python-multipart finds where they begin and end."""

    def __init__(self, fields: FormFields, boundary: bytes) -> None:
        self.files: dict[str, Part] = {}
        self.texts: dict[str, Part] = {}
        self._fields = fields
        self._part = Part()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._ended = False
        self._delimiter = b"--" + boundary
        self._before: bytearray | None = bytearray()
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
            self._parser.write(self._after_preamble(chunk))
        except FormParserError as error:
            raise MalformedBodyError(f"The body is not {MULTIPART} with the declared boundary: {error}.") from error

    def end(self) -> None:
        if self._before and not self._delimiter.startswith(self._before.lstrip()):
            raise self._no_delimiter()
        if not self._ended:
            raise MalformedBodyError("The body ends before its last boundary: it is truncated or empty.")

    def _after_preamble(self, chunk: bytes) -> bytes:
        """Holds back what comes before the first delimiter: mail libraries write a line for readers there."""
        if self._before is None:
            return chunk
        self._before += chunk
        found = re.search(rb"(?:\A|\n)(%b)([^\n]*\n|)" % re.escape(self._delimiter), self._before)
        if (len(self._before) if found is None else found.start()) > PREAMBLE_BYTES:
            raise self._no_delimiter()
        if found is None:
            return b""
        if found[2].endswith(b"\n") and not found[2].endswith(b"\r\n"):
            raise MalformedBodyError(f"The lines of a {MULTIPART} body end in CR LF; in this one they end in LF alone.")
        rest, self._before = bytes(self._before[found.start(1) :]), None
        return rest

    def _no_delimiter(self) -> MalformedBodyError:
        delimiter = shown(self._delimiter.decode("utf-8", "replace"))
        return MalformedBodyError(f"The body has no line {delimiter}, with the boundary of its Content-Type header.")

    def _on_part_begin(self) -> None:
        self._part = Part()

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
        part.describe()
        name = part.name
        is_file = name in self._fields.all_files
        if not is_file and name not in self._fields.texts and name != CHARSET:
            known = ", ".join([*self._fields.all_files, *self._fields.texts])
            raise InvalidParameterError(f"The field {shown(name)} is unknown; use {known}.", field=showable(name))
        if name in self.files or name in self.texts:
            raise InvalidParameterError(f"The field {name!r} was sent twice.", field=name)
        if not is_file and part.media_type.startswith(("image/", "audio/", "video/")):
            raise part.not_a_text()
        (self.files if is_file else self.texts)[name] = part

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.data += data[start:end]
        if part.name in self.texts and len(part.data) > TEXT_BYTES:
            if part.looks_like_a_file:
                raise part.not_a_text()
            raise InvalidParameterError(f"The field {part.name!r} is longer than 256 KiB.", field=part.name)

    def _on_end(self) -> None:
        self._ended = True
