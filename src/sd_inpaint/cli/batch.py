"""A folder of pictures: which of them are still to be painted, and painting those."""

import contextlib
import errno
import hashlib
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sd_inpaint.cli.journal import Journal, digest_of
from sd_inpaint.cli.mask_source import ReadMaskFile
from sd_inpaint.cli.outputs import format_of, is_picture, numbered, own_name
from sd_inpaint.cli.painters import CommandPainter, Stage, Work
from sd_inpaint.client import NoAnswerError
from sd_inpaint.errors import (
    CredentialsExpiredError,
    InpaintError,
    InvalidParameterError,
    ModelDisabledError,
    ModelFailedError,
    SettingsError,
    StateUnavailableError,
    UnauthorizedError,
)
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.record import find_record
from sd_inpaint.schema import SEED_RANDOM, InpaintParameters


class Show(Protocol):
    """Gets what happens, from any thread."""

    def begin(self, total: int, done: int) -> None:
        """So many pictures, of which so many were there."""

    def stage(self, picture: Path, stage: Stage) -> None:
        """One is so far."""

    def end(self, picture: Path, error: str | None) -> None:
        """One is painted, or not: a sentence says why."""


@dataclass(slots=True)
class Outcome:
    """What came of a folder.

    Attributes:
        painted: Names of pictures.
        skipped: Names of those that were done before.
        failed: Picture → what was wrong with it.
    """

    painted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Batch:
    """One run over a folder.

    Args:
        pictures: Where they are; folders in it are left alone.
        read_mask: Finds each one's mask.
        out: Where results go.
        parameters: The same for all.
        force: Whether to paint what is done once more, and to overwrite whatever is there.

    Raises:
        InvalidParameterError: If two results would have one name, or would replace their pictures.
    """

    def __init__(
        self,
        pictures: Path,
        read_mask: ReadMaskFile,
        out: Path,
        parameters: InpaintParameters,
        *,
        force: bool = False,
    ) -> None:
        self._read_mask = read_mask
        self._parameters = parameters
        self._force = force
        # A forced run is no continuation: its jobs are new ones.
        self._nonce = secrets.token_hex(8) if force else ""
        if out.resolve() == pictures.resolve():
            raise InvalidParameterError("The results need a folder of their own: -o FOLDER.", field="output")
        files = sorted(path for path in pictures.iterdir() if is_picture(path))
        if not files:
            raise InvalidParameterError(f"There are no pictures in {pictures}.", field="image")
        self._outputs = {path: out / own_name(path, parameters.output_format) for path in files}
        for path in files:
            same = [each.name for each in files if self._outputs[each] == self._outputs[path]]
            if len(same) > 1:
                raise InvalidParameterError(f"{' and '.join(same)} would both become {self._outputs[path]}.")
        self._journal = Journal(out)
        self._lock = threading.Lock()

    def run(self, make_painter: Callable[[], CommandPainter], jobs: int, show: Show) -> Outcome:
        """Paints what is not done yet; what goes wrong with one picture does not stop the others.

        Args:
            make_painter: Is called if there is something to paint.
            jobs: How many are under way at once.
            show: Gets what happens.

        Raises:
            StateUnavailableError: If another run is at work on the same results.
            InpaintError: What would end every further picture too, such as a wrong key.
        """
        outcome = Outcome()
        with self._journal.held():
            todo = list(self._todo(outcome))
            show.begin(len(self._outputs), len(outcome.skipped))
            for name, error in outcome.failed.items():
                show.end(Path(name), error)
            if todo:
                with make_painter() as painter:
                    self._paint_all(todo, painter, jobs, show, outcome)
        return outcome

    def _todo(self, outcome: Outcome) -> Iterator[Path]:
        for path in self._outputs:
            try:
                if self._is_done(path):
                    outcome.skipped.append(path.name)
                else:
                    yield path
            except (InpaintError, OSError) as error:
                outcome.failed[path.name] = str(error)

    def _is_done(self, path: Path) -> bool:
        work = self._work(path)
        outputs = numbered(self._outputs[path], self._parameters.num_images)
        digest = _digest(work)
        if self._force:
            return False
        if self._journal.is_done(outputs, digest):
            return True
        if self._is_recorded(outputs, work):
            # The journal was lost, or the result comes from elsewhere.
            self._journal.note({output.name: digest_of(output) or "" for output in outputs}, digest)
            return True
        self._journal.check_free(outputs)
        return False

    def _work(self, path: Path) -> Work:
        image = path.read_bytes()
        output = self._outputs[path]
        parameters = self._parameters.model_copy(
            update={"output_format": format_of(output, self._parameters.output_format)}
        )
        return Work(image, self._read_mask(path, image), parameters)

    def _is_recorded(self, outputs: Sequence[Path], work: Work) -> bool:
        """Whether the files that are there say themselves that they came of this work."""
        asked = work.parameters
        if asked.seed == SEED_RANDOM or asked.num_images > 1 or not outputs[0].is_file():
            return False
        try:
            record = find_record(codecs.read_xmp(outputs[0].read_bytes(), max_pixels=MOST_PIXELS))
        except InpaintError:
            return False
        if record is None:
            return False
        # The record has the sampler by the model's own name.
        same: dict[str, object] = {"output_format": asked.output_format, "num_images": 1}
        if asked.scheduler == "default":
            same["scheduler"] = asked.scheduler
        digests = (hashlib.sha256(work.image).hexdigest(), hashlib.sha256(work.mask).hexdigest())
        return (record.image_sha256, record.mask_sha256) == digests and record.parameters.model_copy(
            update=same
        ).model_dump() == asked.model_dump()

    def _paint_all(
        self, todo: Sequence[Path], painter: CommandPainter, jobs: int, show: Show, outcome: Outcome
    ) -> None:
        def note(path: Path, error: Exception | None) -> None:
            if isinstance(error, HOPELESS) or (isinstance(error, OSError) and error.errno in NO_ROOM):
                raise error
            if error is None:
                outcome.painted.append(path.name)
            else:
                outcome.failed[path.name] = str(error)
            show.end(path, None if error is None else str(error))

        if jobs == 1:
            for path in todo:
                note(path, self._try(path, painter, show))
            return
        for path, error in _in_threads(lambda path: self._try(path, painter, show), todo, jobs):
            note(path, error)

    def _try(self, path: Path, painter: CommandPainter, show: Show) -> Exception | None:
        try:
            self._paint(path, painter, lambda stage: show.stage(path, stage))
        except (InpaintError, OSError) as error:
            return error
        return None

    def _paint(self, path: Path, painter: CommandPainter, report: Callable[[Stage], None]) -> None:
        # Read once more: many may be waiting, and only those under way are held.
        work = self._work(path)
        digest, output = _digest(work), self._outputs[path]
        # As bytes: a file's name need not be text.
        named = b"\n".join((digest.encode(), os.fsencode(output.resolve()), self._nonce.encode()))
        key = hashlib.sha256(named).hexdigest()
        result = painter.paint(Work(work.image, work.mask, work.parameters, key), report)
        outputs = numbered(output, len(result.pictures))
        files = {place: picture.data for place, picture in zip(outputs, result.pictures, strict=True)}
        with self._lock:
            self._journal.add(files, digest)
        painter.forget(result)


def _in_threads(
    work: Callable[[Path], Exception | None], todo: Sequence[Path], threads: int
) -> Iterator[tuple[Path, Exception | None]]:
    """Works on several at once, and yields each one's outcome as it comes.

    The threads end with the process: Ctrl+C does not wait for what a server is painting.
    """
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[tuple[Path, Exception | None]] = queue.SimpleQueue()
    for path in todo:
        waiting.put(path)

    def run() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                path = waiting.get_nowait()
                try:
                    outcomes.put((path, work(path)))
                except Exception as error:  # noqa: BLE001  # a bug in one thread must not leave the others waiting
                    outcomes.put((path, error))

    for _ in range(min(threads, len(todo))):
        threading.Thread(target=run, daemon=True).start()
    for _ in todo:
        yield outcomes.get()


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What is wrong with a disk, and so with every further result too."""

HOPELESS = (
    NoAnswerError,
    UnauthorizedError,
    ModelDisabledError,
    ModelFailedError,
    SettingsError,
    StateUnavailableError,
    CredentialsExpiredError,
)
"""Errors that every further picture would meet too."""

MOST_PIXELS = 1 << 40
"""Of files whose pixels are not decoded."""


def _digest(work: Work) -> str:
    """Of all that decides about a result, but for the model."""
    digest = hashlib.sha256()
    for part in (work.image, work.mask, work.parameters.model_dump_json().encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
