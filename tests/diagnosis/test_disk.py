"""Where jobs would be kept: whether there is room, and whether it can be written."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sd_inpaint.diagnosis.disk import check_disk
from sd_inpaint.diagnosis.finding import State
from sd_inpaint.settings import Settings
from tests.support.processes import free_port


def settings(**changes: object) -> Settings:
    """An operator's settings, but for the changes the defaults."""
    return Settings(_env_file=None, **changes)  # type: ignore[arg-type,call-arg]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount, and not everywhere")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_folder_with_room_is_good_and_stays_as_it_is(tmp_path: Path) -> None:
    """A folder that would be made is looked at from the closest one above it; nothing is left there."""
    finding = check_disk(settings(state_dir=tmp_path / "not" / "there", max_state_bytes=1024 * 1024))
    assert finding.state is State.GOOD
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("free", "state", "words"),
    [
        (0, State.PROBLEM, "only 0 bytes free"),
        (400_000_000, State.PROBLEM, "only 400 MB free"),
        (2_000_000_000, State.WARNING, "2.0 GB free, less than the 10.7 GB"),
        (20_000_000_000, State.GOOD, "20.0 GB free"),
    ],
)
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State, words: str) -> None:
    """Too little room for a job's result is a problem, less than the quota a warning."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 4000, f_frsize=4000))
    finding = check_disk(settings(state_dir=tmp_path))
    assert finding.state is state
    assert words in finding.sentence
    assert (finding.remedy is None) == (state is State.GOOD)


def test_really_full_disk(small_disk: Path) -> None:
    """A write that does not fit is told with the system's reason, and with what is free."""
    finding = check_disk(settings(state_dir=small_disk / "jobs"))
    assert finding.state is State.PROBLEM
    assert "No space left on device; 6" in finding.sentence
    assert "SD_INPAINT_STATE_DIR" in str(finding.remedy)


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    """A path that cannot hold a folder is a problem."""
    (tmp_path / "file").touch()
    finding = check_disk(settings(state_dir=tmp_path / "file"))
    assert finding.state is State.PROBLEM
    assert "cannot be written: Not a directory" in finding.sentence


def test_database_that_is_down() -> None:
    """A database that does not answer is a problem whose sentence has no password."""
    url = f"postgresql://app:secret@127.0.0.1:{free_port()}/jobs"
    finding = check_disk(settings(state_url=url))
    assert finding.state is State.PROBLEM
    assert "database" in finding.sentence
    assert "secret" not in finding.sentence
