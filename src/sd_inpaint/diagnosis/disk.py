"""Whether accepted jobs can be kept: in a folder of this machine, or in a database."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from sd_inpaint.condition import LOW_DISK_BYTES
from sd_inpaint.diagnosis.finding import Finding, good, problem, size, warning
from sd_inpaint.errors import StateUnavailableError, without_folders
from sd_inpaint.jobs.sqlite import default_folder
from sd_inpaint.settings import Settings

SUBJECT = "jobs"

PROBE_BYTES = 256 * 1024
"""Written to see whether a folder takes it; about a small upload."""

CONNECT_SECONDS = 5
"""How long the database may take to answer."""


def check_disk(settings: Settings) -> Finding:
    """Writes a file where jobs would be kept, and deletes it; a folder that is missing is not made."""
    if settings.state_url is not None:
        return _check_database(settings.state_url.get_secret_value())
    try:
        folder = settings.state_dir or default_folder()
    except StateUnavailableError as error:
        return problem(SUBJECT, str(error), "Set SD_INPAINT_STATE_DIR to a folder that this user may write.")
    place = _nearest(folder)
    free = free_bytes(place)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "Free disk space there, or set SD_INPAINT_STATE_DIR to a folder that this user may write."
        return problem(SUBJECT, f"{folder} cannot be written: {error.strerror}; {size(free)} are free.", remedy)
    if free < LOW_DISK_BYTES:
        remedy = "Free disk space there, or set SD_INPAINT_STATE_DIR to a folder elsewhere."
        return problem(SUBJECT, f"{folder} has only {size(free)} free; jobs need {size(LOW_DISK_BYTES)}.", remedy)
    if free < settings.max_state_bytes:
        sentence = f"{folder} has {size(free)} free, less than the {size(settings.max_state_bytes)} that jobs may take."
        return warning(SUBJECT, sentence, "Free disk space there, or lower SD_INPAINT_MAX_STATE_BYTES.")
    return good(SUBJECT, f"{folder} has {size(free)} free.")


def free_bytes(path: Path) -> int:
    """Returns what this user may still write where a path is, or would be."""
    found = os.statvfs(_nearest(path))
    return found.f_bavail * found.f_frsize


def _nearest(path: Path) -> Path:
    """Returns the path, or the closest folder above it that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def _check_database(url: str) -> Finding:
    if find_spec("psycopg") is None:
        return problem(SUBJECT, "SD_INPAINT_STATE_URL is set, and psycopg is missing.", "Install sd-inpaint[postgres].")
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        reason = without_folders(str(error).strip().splitlines()[0])
        return problem(SUBJECT, f"The database cannot be used: {reason}.", "Check SD_INPAINT_STATE_URL and its server.")
    return good(SUBJECT, f"The database answers: PostgreSQL {version // 10000}.{version % 10000}.")
