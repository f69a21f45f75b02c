"""Changes to the operator's file of named API keys, whose comments stay. What the file means is in ``key_file``."""

import contextlib
import datetime as dt
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sd_inpaint.callers.key_file import LIMITS, KeyEntry, digest, parse_entries, read_text
from sd_inpaint.errors import SettingsError

KEY_PREFIX = "sdi_"
"""By which scanners for leaked secrets find a key."""

KEY_BYTES = 32
"""256 random bits."""

OVERLAP_HOURS = 24.0
"""How long a rotated key stays good, for its users to change over."""

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*key[ \t]*\]\]", re.MULTILINE)


def change(path: Path, edit: Callable[[str], tuple[str, str]], *, may_be_new: bool = False) -> str:
    """Changes the file while no other command does; one that cannot be changed rightly stays as it is.

    Args:
        path: The file, or a link to it.
        edit: Makes the file's new text, and a key or nothing, of its text.
        may_be_new: Whether a file that is not there counts as empty.

    Returns:
        The key.

    Raises:
        SettingsError: If the file or the change is not valid.
        OSError: If it cannot be written.
    """
    path = path.resolve()
    with _locked(path.parent):
        text, key = edit("" if may_be_new and not path.exists() else read_text(path))
        parse_entries(text)
        write(path, text)
    return key


def add(text: str, name: str, limits: dict[str, float], expires_days: float | None = None) -> tuple[str, str]:
    """Adds a key to the file's text; returns the text and the key.

    Raises:
        SettingsError: If the name has a key.
    """
    if any(entry.name == name for entry in parse_entries(text)):
        raise SettingsError(f"{name} has a key. For another one: sd-inpaint keys rotate {name}.")
    expires = None if expires_days is None else _now() + dt.timedelta(days=expires_days)
    return _with_key(text, name, limits, expires)


def rotate(text: str, name: str, overlap_hours: float = OVERLAP_HOURS) -> tuple[str, str]:
    """Adds another key of a name, with its limits, and lets the ones before it end; returns the text and the key.

    Raises:
        SettingsError: If the name has no key that is good.
    """
    good = [e for e in parse_entries(text) if e.name == name and (e.expires is None or e.expires > _now())]
    if not good:
        raise SettingsError(f"{name} has no key that is good. For a first one: sd-inpaint keys add {name}.")
    ends = _now() + dt.timedelta(hours=overlap_hours)
    pieces = _split(text)
    for place, (entry, piece) in enumerate(pieces):
        if entry is not None and entry.name == name and (entry.expires is None or entry.expires > ends):
            pieces[place] = entry, _expiring(piece, ends)
    last = good[-1]
    limits = {limit: value for limit in LIMITS if (value := getattr(last, limit)) is not None}
    return _with_key("".join(piece for _, piece in pieces), name, limits, last.expires)


def revoke(text: str, name: str) -> str:
    """Takes every key of a name out of the file's text, with the comment right above it.

    Raises:
        SettingsError: If there is none.
    """
    pieces = _split(text)
    kept = [piece for entry, piece in pieces if entry is None or entry.name != name]
    if len(kept) == len(pieces):
        raise SettingsError(f"{name} has no key.")
    return "".join(kept)


def write(path: Path, text: str) -> None:
    """Puts the file in place whole, readable for its owner only; who owned it before still does."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if path.exists() and hasattr(os, "fchown"):
                # Not for every user: then the owner is whoever runs this.
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), path.stat().st_uid, path.stat().st_gid)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one command at a time change files of a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _with_key(text: str, name: str, limits: dict[str, float], expires: dt.datetime | None) -> tuple[str, str]:
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    lines = ["[[key]]", f'name = "{name}"', f'sha256 = "{digest(key.encode()).hex()}"', f"created = {_written(_now())}"]
    if expires is not None:
        lines.append(f"expires = {_written(expires)}")
    lines += [f"{limit} = {value}" for limit, value in limits.items()]
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + "\n".join(lines) + "\n", key


def _split(text: str) -> list[tuple[KeyEntry | None, str]]:
    """Cuts the text before each table of a key, and before the comment right above it.

    Raises:
        SettingsError: If it is not cut so that each piece is one key: tables that are written in another form.
    """
    cuts = [_above(text, header.start()) for header in _HEADER.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    try:
        entries = [parse_entries(piece) for piece in pieces]
    except SettingsError:
        entries = []
    if [len(found) for found in entries] != [0, *(1 for _ in cuts)] or sum(entries, ()) != parse_entries(text):
        raise SettingsError("The file has its keys in a form that only people can change: please edit it by hand.")
    return [(found[0] if found else None, piece) for found, piece in zip(entries, pieces, strict=True)]


def _above(text: str, start: int) -> int:
    """Where the comment begins that is right above a place."""
    while start:
        line = text.rfind("\n", 0, start - 1) + 1
        if not text[line:start].lstrip().startswith("#"):
            break
        start = line
    return start


def _expiring(piece: str, ends: dt.datetime) -> str:
    without = re.sub(r"^[ \t]*expires[ \t]*=.*\n?", "", piece, flags=re.MULTILINE)
    return _HEADER.sub(lambda header: f"{header[0]}\nexpires = {_written(ends)}", without, count=1)


def _written(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
