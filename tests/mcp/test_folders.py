"""Which files an assistant reaches."""

import os
from pathlib import Path

import pytest

from sd_inpaint.errors import BodyTooLargeError, InvalidParameterError
from sd_inpaint.mcp.folders import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A folder with a file, beside another one with a secret."""
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.png").write_bytes(name.encode())
    return Folders([tmp_path / "mine"])


def test_reads_what_is_inside(folders: Folders) -> None:
    """A file is read by its relative path, by its absolute one, and through a link that stays inside."""
    (root,) = folders.roots
    (root / "link.png").symlink_to("file.png")
    for path in ("file.png", str(root / "file.png"), "../mine/file.png", "link.png"):
        assert folders.read("image", path, 100) == b"mine"


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "folder link", "link to a link", "missing"])
def test_nothing_outside_is_read(folders: Folders, way: str) -> None:
    """No path and no link leads out, and the refusal does not say whether there is anything."""
    (root,) = folders.roots
    theirs = root.parent / "theirs"
    (root / "out.png").symlink_to(theirs / "file.png")
    (root / "out").symlink_to(theirs)
    (root / "again.png").symlink_to("out.png")
    path = {
        "absolute": str(theirs / "file.png"),
        "dots": "../theirs/file.png",
        "link": "out.png",
        "folder link": "out/file.png",
        "link to a link": "again.png",
        "missing": "../theirs/nothing.png",
    }[way]
    with pytest.raises(InvalidParameterError, match="not in a folder that may be used"):
        folders.read("image", path, 100)


@pytest.mark.parametrize("path", ["nothing.png", ".", "pipe", "a\0b", "x" * 5000])
def test_what_is_no_file_is_refused(folders: Folders, path: str) -> None:
    """A missing file, a folder, a pipe that nobody writes to and names that are none are refused at once."""
    os.mkfifo(folders.roots[0] / "pipe")
    with pytest.raises(InvalidParameterError):
        folders.read("image", path, 100)


def test_large_files_are_refused(folders: Folders) -> None:
    """A file may have as many bytes as are allowed, and no more."""
    assert folders.read("image", "file.png", 4) == b"mine"
    with pytest.raises(BodyTooLargeError):
        folders.read("image", "file.png", 3)


def test_writes_new_files_only(folders: Folders) -> None:
    """A new file is written; one that is there stays as it is, also if it appears while the picture is painted."""
    place = folders.place("output", "new.png")
    folders.write("output", place, b"painted")
    assert (folders.roots[0] / "new.png").read_bytes() == b"painted"
    with pytest.raises(InvalidParameterError, match="exists already"):
        folders.place("output", "new.png")
    with pytest.raises(InvalidParameterError):
        folders.write("output", place, b"again")
    assert place.read_bytes() == b"painted"


@pytest.mark.parametrize("path", ["../theirs/new.png", "out/new.png", "dangling.png", "nothing/new.png", ".."])
def test_nothing_is_written_outside(folders: Folders, path: str) -> None:
    """No path and no link makes a file anywhere else, and no folder is made."""
    (root,) = folders.roots
    (root / "out").symlink_to(root.parent / "theirs")
    (root / "dangling.png").symlink_to(root.parent / "theirs" / "new.png")
    with pytest.raises(InvalidParameterError):
        folders.write("output", folders.place("output", path), b"painted")
    assert sorted(each.name for each in (root.parent / "theirs").iterdir()) == ["file.png"]
