"""The operator's file of named API keys: read, and read again when it has changed.

The file is TOML, a table for each key:

    [[key]]
    name = "mobile-app"
    sha256 = "…64 hexadecimal digits…"
    created = 2026-11-26T12:00:00Z

It has no key, only digests of them. A key is 256 random bits, so that nobody finds it from its digest by trying: a slow
hash, as passwords need it, would protect nothing, and would let anybody keep the server busy with wrong keys.
"""

import hashlib
import logging
import math
import re
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from sd_inpaint.callers.limits import CallerLimits
from sd_inpaint.errors import SettingsError

POLL_SECONDS = 1.0
"""How often the file is looked at, at most; a look takes microseconds."""

MAX_FILE_BYTES = 1024 * 1024
"""Some five thousand keys. They are read while requests wait, in about a tenth of a second."""

FINGERPRINT_DIGITS = 8
"""Of keys that have no name: enough to tell a few apart, too few to find a key from."""

NAME = re.compile(r"(?!key-[0-9a-f]{8}$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Safe in logs, labels and headers. Names that :func:`unnamed` gives are taken."""

logger = logging.getLogger("bentoml.sd_inpaint.keys")


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One API key.

    Attributes:
        name: Whose jobs, limits and log lines those of this key are. Several keys may have one name.
        digest: SHA-256 of the key.
        expires_at: Unix time in seconds; infinity for a key that does not expire.
        limits: What the file says of them, by name; the operator's settings count for the others.
    """

    name: str
    digest: bytes
    expires_at: float = math.inf
    limits: Mapping[str, Any] = field(default_factory=dict)


class KeyEntry(BaseModel):
    """One table of the file. An unknown field is an error: it may be a limit that somebody relies on."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    requests_per_minute: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    concurrency: Annotated[int | None, Field(ge=0)] = None
    megapixel_steps_per_hour: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    kept_bytes: Annotated[int | None, Field(ge=0)] = None
    share: Annotated[float | None, Field(ge=0.01, le=100, allow_inf_nan=False)] = None

    @field_validator("name")
    @classmethod
    def _is_safe(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise PydanticCustomError("name", "must be 1 to 64 letters, digits, dots, dashes or underscores")
        return name


class KeyTables(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    key: tuple[KeyEntry, ...] = ()


LIMITS = tuple(limit.name for limit in fields(CallerLimits))


def digest(key: bytes) -> bytes:
    """Returns the digest by which a key is known."""
    return hashlib.sha256(key).digest()


def unnamed(key: str) -> NamedKey:
    """Names a key of ``SD_INPAINT_API_KEYS`` after its digest, so that another key's removal does not rename it."""
    own = digest(key.encode("utf-8"))
    return NamedKey(f"key-{own.hex()[:FINGERPRINT_DIGITS]}", own)


def parse_entries(text: str) -> tuple[KeyEntry, ...]:
    """Reads the file's text.

    Raises:
        SettingsError: If it is not such a file; the message names place and field, and nothing of a digest.
    """
    try:
        entries = KeyTables.model_validate(tomllib.loads(text)).key
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"It is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise SettingsError(f"{place}: {first['msg']}.") from error
    digests = Counter(entry.sha256 for entry in entries)
    if twice := next((entry.name for entry in entries if digests[entry.sha256] > 1), None):
        raise SettingsError(f"A key of {twice!r} is in it twice.")
    return entries


def read_text(path: Path) -> str:
    """Reads the file.

    Raises:
        SettingsError: If it cannot be read, is too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SettingsError(f"It is larger than {MAX_FILE_BYTES} bytes.")
        return data.decode("utf-8")
    except OSError as error:
        raise SettingsError(f"It cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError("It is not UTF-8.") from error


def read_keys(path: Path) -> tuple[NamedKey, ...]:
    """Reads the file's keys; raises as :func:`read_text` and :func:`parse_entries` do."""
    return tuple(
        NamedKey(
            entry.name,
            bytes.fromhex(entry.sha256),
            math.inf if entry.expires is None else entry.expires.timestamp(),
            {name: value for name in LIMITS if (value := getattr(entry, name)) is not None},
        )
        for entry in parse_entries(read_text(path))
    )


class KeyFile:
    """The keys in a file, as they are now. Any thread may call it; two at once may read the file twice.

    A file that has become unreadable keeps its last good keys, and the log says so: a slip of the pen locks nobody out.
    To take all keys back, empty the file.

    Args:
        path: The file.
        clock: Seconds that never go back.
        now: Unix time in seconds.

    Raises:
        SettingsError: If it cannot be read at first.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now
        self._look_at = clock() + POLL_SECONDS
        self._seen = self._look()
        try:
            self._take(read_keys(path))
        except SettingsError as error:
            raise SettingsError(f"SD_INPAINT_API_KEYS_FILE: {error}") from error

    def good_keys(self) -> tuple[NamedKey, ...]:
        """Returns the keys that are good now; the same object while they are the same."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + POLL_SECONDS
            self._refresh()
        if self._now() >= self._good_until:
            self._take(self._keys)
        return self._good

    def _refresh(self) -> None:
        # Looked at before it is read: what is written meanwhile is seen next time.
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._take(read_keys(self._path))
        except SettingsError as error:
            logger.error("The file of API keys has changed and cannot be used; the keys before it stay. %s", error)
        else:
            logger.info("The file of API keys has changed; %d keys are good.", len(self._good))

    def _take(self, keys: tuple[NamedKey, ...]) -> None:
        now = self._now()
        self._keys = keys
        self._good = tuple(key for key in keys if now < key.expires_at)
        self._good_until = min((key.expires_at for key in self._good), default=math.inf)

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
