"""A folder of metrics for each server: BentoML's own is one for all servers of a user, and each start empties it."""

import shutil
import tempfile
from io import TextIOWrapper
from pathlib import Path

from sd_inpaint.http.bento.internals import is_supervisor, metrics_home, set_metrics_folder

_LOCK = "in-use"

_held: list[TextIOWrapper] = []
"""Locks of this process; the system lets go of them when it ends, however it does."""


def separate_metrics() -> None:
    """Gives a server a folder of its own for its workers' metrics, and deletes those of servers that have ended.

    Does nothing outside of ``bentoml serve``, where file locks are missing (Windows), and where the folder cannot be
    written: BentoML then finds one itself.
    """
    if not is_supervisor():
        return
    home = metrics_home().with_name("sd_inpaint_metrics")
    try:
        home.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(home)
        own = Path(tempfile.mkdtemp(dir=home))
        lock = _lock(own)
    except (OSError, ImportError):
        return
    if lock is not None:
        _held.append(lock)
        set_metrics_folder(own / "metrics")


def _delete_abandoned(home: Path) -> None:
    for folder in home.iterdir():
        # One without the file is being made at this moment.
        if (folder / _LOCK).exists() and (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def _lock(folder: Path) -> TextIOWrapper | None:
    """Takes a folder for this process; None if another process has it."""
    import fcntl

    file = (folder / _LOCK).open("w", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
