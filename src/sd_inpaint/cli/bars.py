"""How far a command is: bars on a terminal, lines elsewhere. All of it goes to stderr."""

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from sd_inpaint.cli.painters import Stage

_WAITING = {"queued": "waiting", "loading": "loading the model", "finishing": "finishing"}


class Bars:
    """Shows pictures on their way: a bar for each, with its steps and the time left, and one for all of them.

    Any thread may call it; it is on the screen while its ``with`` statement lasts.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Left(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._lock = threading.Lock()
        self._tasks: dict[Path, int] = {}
        self._all: int | None = None
        self._total = self._ended = 0

    def begin(self, total: int, done: int) -> None:
        """So many pictures in all, of which so many were done before."""
        self._total, self._ended = total, done
        if done:
            self.say(f"{done} of {total} are done already.")
        if done < total:
            self._all = self._progress.add_task("all pictures", total=total, completed=done)

    def stage(self, picture: Path, stage: Stage) -> None:
        """One picture is so far."""
        with self._lock:
            if picture not in self._tasks:
                self._tasks[picture] = self._progress.add_task(picture.name, total=None)
            doing = _WAITING.get(stage.name)
            self._progress.update(
                self._tasks[picture],  # type: ignore[arg-type]  # rich's own name for int
                description=f"{picture.name}: {doing}" if doing else picture.name,
                total=stage.steps or None,
                completed=stage.step,
                seconds_left=stage.seconds_left,
            )

    def end(self, picture: Path, error: str | None) -> None:
        """One picture is painted, or not: a sentence says why."""
        with self._lock:
            task = self._tasks.pop(picture, None)
            if task is not None:
                self._progress.remove_task(task)  # type: ignore[arg-type]  # as above
            self._ended += 1
            if self._all is not None:
                self._progress.update(self._all, completed=self._ended)  # type: ignore[arg-type]  # as above
        if error is not None:
            self.say(f"{picture.name}: {error}")
        elif not self._console.is_terminal and self._total > 1:
            self.say(f"{picture.name} is painted ({self._ended} of {self._total}).")

    def say(self, sentence: str) -> None:
        """Writes a line above the bars."""
        if self._console.is_terminal:
            self._progress.print(sentence, markup=False, highlight=False)
        else:
            print(sentence, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


class _Left(ProgressColumn):
    """The time left: the service's estimate, else rich's own."""

    def render(self, task: Task) -> Text:
        """Writes it."""
        seconds = task.fields.get("seconds_left") or task.time_remaining
        return Text("" if seconds is None else f"{duration(seconds)} left")


def duration(seconds: float) -> str:
    """Writes a time as people say it: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
