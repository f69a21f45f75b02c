"""Where results go: their names and formats, and files that are whole or not there."""

import contextlib
import os
from pathlib import Path
from typing import Final

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.schema import OutputFormat

STDOUT: Final = Path("-")

PICTURES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"}
)
"""Ends of names of files that a folder's pictures are taken from."""

_FORMATS: Final = {
    ".png": OutputFormat.PNG,
    ".webp": OutputFormat.WEBP,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".avif": OutputFormat.AVIF,
}
"""Formats that are written, by the ends of names."""


def own_name(picture: Path, wanted: OutputFormat | None, mark: str = "") -> str:
    """Returns the name of a picture's result: its own and in its own format, or PNG where that is not written.

    Args:
        picture: The input.
        wanted: The format that was asked for; None keeps the picture's.
        mark: Comes behind the stem.
    """
    own = _FORMATS.get(picture.suffix.lower())
    suffix = picture.suffix if own is not None and wanted in (None, own) else f".{wanted or OutputFormat.PNG}"
    return f"{picture.stem}{mark}{suffix}"


def format_of(output: Path, wanted: OutputFormat | None) -> OutputFormat:
    """Returns the format that a result's name asks for.

    Raises:
        InvalidParameterError: If nothing is written under such a name, or another format was asked for.
    """
    if output == STDOUT:
        return wanted or OutputFormat.PNG
    named = _FORMATS.get(output.suffix.lower())
    if named is None:
        raise InvalidParameterError(f"{output}: the name must end in {', '.join(_FORMATS)}.", field="output")
    if wanted not in (None, named):
        raise InvalidParameterError(f"{output}: the name says {named}, and --output-format {wanted}.", field="output")
    return named


def is_picture(path: Path) -> bool:
    """Whether a file in a folder is a picture by its name; macOS puts ``._name`` beside each on foreign disks."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def numbered(output: Path, count: int) -> list[Path]:
    """Returns the names of so many results: its own for one, else with ``-1``, ``-2``, … behind the stem."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


def check_free(outputs: list[Path], *, force: bool) -> None:
    """Refuses to overwrite.

    Raises:
        InvalidParameterError: If one of them is there and ``force`` is false.
    """
    taken = [str(output) for output in outputs if output.exists()]
    if taken and not force:
        raise InvalidParameterError(f"{', '.join(taken)} exists already; --force overwrites it.", field="output")


def part_of(output: Path) -> Path:
    """Returns the name under which a file is written until it is whole."""
    return output.with_name(f".{output.name}.part")


def write_part(output: Path, data: bytes) -> Path:
    """Writes a file beside its place, so that it survives what may come; returns its name there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(output)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(output)
        raise
    return part


def write_whole(output: Path, data: bytes) -> None:
    """Writes a file that is never seen half."""
    part = write_part(output, data)
    try:
        part.replace(output)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
