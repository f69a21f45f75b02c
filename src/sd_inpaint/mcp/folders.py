"""The folders that an assistant may read pictures from and write them into, and no others."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sd_inpaint.errors import BodyTooLargeError, InvalidParameterError


class Folders:
    """Some folders with all that is in them. Immutable; its methods block on the disk.

    A link that leads out of them leads nowhere, whatever is in front of it.

    Args:
        roots: The folders; relative paths are looked up in the first one.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(root.resolve(strict=True) for root in roots)

    def read(self, name: str, path: str, max_bytes: int) -> bytes:
        """Returns a file's bytes.

        Args:
            name: Of the argument, for messages.
            path: Of the file.
            max_bytes: The most that it may have.

        Raises:
            InvalidParameterError: If it is no file, cannot be read, or is not in one of the folders.
            BodyTooLargeError: If it is larger than ``max_bytes``.
        """
        found = self._inside(name, path, self.roots[0] / path)
        try:
            # What was a file a moment ago may be a link by now; a pipe would never end.
            opened = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise _unusable(name, path, error) from error
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise InvalidParameterError(f"{name}: {path!r} is not a file.", field=name)
        with os.fdopen(opened, "rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise BodyTooLargeError(f"{name}: {path!r} is larger than {max_bytes} bytes.", field=name)
        return data

    def place(self, name: str, path: str) -> Path:
        """Returns where a new file may be written.

        Raises:
            InvalidParameterError: If there is one already, its folder is missing, or is not in one of these.
        """
        wanted = self.roots[0] / path
        place = self._inside(name, path, wanted.parent) / wanted.name
        if wanted.name in ("", "..") or os.path.lexists(place):
            raise InvalidParameterError(f"{name}: {path!r} exists already; nothing is overwritten.", field=name)
        return place

    def write(self, name: str, place: Path, data: bytes) -> None:
        """Writes a new file; raises as :meth:`place` does."""
        try:
            opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise _unusable(name, place.name, error) from error
        with os.fdopen(opened, "wb") as file:
            file.write(data)

    def _inside(self, name: str, path: str, wanted: Path) -> Path:
        try:
            found = wanted.resolve()
            # Before it is looked for: what is elsewhere, or is not, is none of the caller's business.
            if not any(found.is_relative_to(root) for root in self.roots):
                raise InvalidParameterError(
                    f"{name}: {path!r} is not in a folder that may be used; --root names them.", field=name
                )
            return found.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unusable(name, path, error) from error


def _unusable(name: str, path: str, error: Exception) -> InvalidParameterError:
    reason = (isinstance(error, OSError) and error.strerror) or "it is no path"
    return InvalidParameterError(f"{name}: {path!r} cannot be used: {reason}.", field=name)
