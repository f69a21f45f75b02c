"""The pictures of accepted jobs: files that are complete and on the disk before anything refers to them."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ORPHAN_SECONDS: Final = 3600.0
"""A file without a job is debris of a crash once it is this old; until then, its job may still be on its way."""


class JobFiles:
    """A folder of ``<id>.image``, ``<id>.mask``, ``<id>.result`` and ``<id>.room``. Any thread and process may call it.

    The last one holds disk space for the result, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Creates the folder, for this user only: callers' pictures are private."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def drafted(self, job_id: str, files: Mapping[str, bytes]) -> Iterator[Callable[[object], None]]:
        """Writes complete files, kind → bytes, to the disk; the function it yields moves them into place, durably.

        That function ignores the transaction it is given. Files that were not moved are deleted after the block.
        """
        # Two processes may write one result, if the first was thought dead: neither sees the other's half.
        drafts = {self._path(job_id, f"{kind}.{secrets.token_hex(4)}"): kind for kind in files}

        def keep(transaction: object = None) -> None:
            for draft, kind in drafts.items():
                draft.replace(self._path(job_id, kind))
            _sync_folder(self._folder)

        try:
            for draft, kind in drafts.items():
                with draft.open("wb") as file:
                    file.write(files[kind])
                    file.flush()
                    os.fsync(file.fileno())
            yield keep
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)

    def read(self, job_id: str, kind: str) -> bytes:
        """Reads a file whole; raises FileNotFoundError."""
        return self._path(job_id, kind).read_bytes()

    def remove(self, job_id: str, *kinds: str) -> None:
        """Deletes a job's files of these kinds, or all of them; missing ones are ignored."""
        for kind in kinds or ("image", "mask", "result", "room"):
            self._path(job_id, kind).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Returns the size of all files together; makes the folder if somebody has removed it."""
        self.make()
        used = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    used += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # another process removes too
        return used

    def set_aside(self, job_id: str, size: int) -> None:
        """Takes disk space for a job's result; raises OSError if there is not so much."""
        if size and hasattr(os, "posix_fallocate"):
            path = self._path(job_id, "room")
            try:
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError:
                path.unlink(missing_ok=True)
                raise

    def remove_orphans(self, known: set[str], *, older_than_seconds: float) -> None:
        """Deletes files of that age which belong to none of the known jobs."""
        oldest = time.time() - older_than_seconds
        for path in self._folder.iterdir():
            try:
                if path.name.partition(".")[0] not in known and path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process sweeps too

    def _path(self, job_id: str, kind: str) -> Path:
        return self._folder / f"{job_id}.{kind}"


def _sync_folder(folder: Path) -> None:
    """Has the names of new files on the disk too; Windows has no such call, and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
