"""What a folder's results were made of, so that a run that was killed goes on, and nothing is painted twice.

One line of JSON for each picture: the digest of its work, and that of each file that came of it. A line is written once
the files are on the disk under names of their own, and before they get their own: from there on they are done, whatever
happens.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sd_inpaint.cli.outputs import part_of, write_part
from sd_inpaint.errors import InvalidParameterError, StateUnavailableError

NAME: Final = ".sd-inpaint.jsonl"


class Journal:
    """The journal of one folder of results. Held by one process at a time; its threads take turns by themselves.

    Args:
        folder: Where the results are; is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / NAME
        self._lines: dict[str, tuple[str, dict[str, str]]] = {}
        self._read()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs out of the folder.

        Raises:
            StateUnavailableError: If one is at work.
        """
        with self._path.open("ab") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:
                pass  # no locks here: two runs at once do work twice
            except OSError:
                raise StateUnavailableError(f"Another run is at work on {self._folder}.") from None
            # What another run has written until it ended.
            self._read()
            yield

    def is_done(self, outputs: list[Path], work: str) -> bool:
        """Whether these files are what came of this work; gives those their names that a killed run could not."""
        known, digests = self._lines.get(outputs[0].name, ("", {}))
        if known != work or set(digests) != {output.name for output in outputs}:
            return False
        return all(self._is_there(output, digests[output.name]) for output in outputs)

    def check_free(self, outputs: list[Path]) -> None:
        """Refuses to overwrite what no run has written, or what was changed since.

        Raises:
            InvalidParameterError: If there is such a file.
        """
        _, digests = self._lines.get(outputs[0].name, ("", {}))
        for output in outputs:
            if output.exists() and digest_of(output) != digests.get(output.name):
                raise InvalidParameterError(
                    f"{output} exists already and is not what this command wrote; --force overwrites it.",
                    field="output",
                )

    def add(self, files: Mapping[Path, bytes], work: str) -> None:
        """Writes the files that came of some work."""
        parts = {output: write_part(output, data) for output, data in files.items()}
        self.note({output.name: hashlib.sha256(data).hexdigest() for output, data in files.items()}, work)
        for output, part in parts.items():
            part.replace(output)

    def note(self, digests: dict[str, str], work: str) -> None:
        """Notes what files came of some work, by the digest of each."""
        first = next(iter(digests))
        line = json.dumps({"work": work, "files": digests}, separators=(",", ":"))
        with self._path.open("ab") as file:
            # A line that a killed run left unfinished ends here.
            file.write(f"\n{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self._lines[first] = (work, digests)

    def _read(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_text("utf-8", "replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, StopIteration):
                    facts = json.loads(line)
                    self._lines[next(iter(facts["files"]))] = (facts["work"], dict(facts["files"]))

    @staticmethod
    def _is_there(output: Path, digest: str) -> bool:
        if digest_of(output) == digest:
            return True
        part = part_of(output)
        if digest_of(part) == digest:
            part.replace(output)
            return True
        return False


def digest_of(path: Path) -> str | None:
    """Returns a file's SHA-256 in hexadecimal; None if it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
