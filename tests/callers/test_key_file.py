"""The file of API keys: what it may hold, and how its changes are noticed."""

import logging
import os
from pathlib import Path

import pytest

from sd_inpaint.callers.key_file import MAX_FILE_BYTES, POLL_SECONDS, KeyFile, digest, parse_entries, unnamed
from sd_inpaint.errors import SettingsError
from tests.support.key_files import Watched, table


def test_file(tmp_path: Path) -> None:
    """Names, digests and limits are read; comments and times are allowed."""
    text = "# Ours.\n" + table("app", "a", created="2026-01-01T00:00:00Z", concurrency=3, share=0.5) + table("b.c", "b")
    keys = Watched(tmp_path, text).file.good_keys()
    assert [(key.name, key.digest, dict(key.limits)) for key in keys] == [
        ("app", digest(b"a"), {"concurrency": 3, "share": 0.5}),
        ("b.c", digest(b"b"), {}),
    ]


BAD_FILES = {
    "no TOML": ("[[key", "TOML"),
    "unknown field": (table("app", "a", request_per_minute=3), "key.1.request_per_minute"),
    "unknown table": ("[defaults]\nshare = 1\n", "defaults"),
    "no digest": ('[[key]]\nname = "app"\n', "key.1.sha256"),
    "key for a digest": ('[[key]]\nname = "app"\nsha256 = "sdi_secret"\n', "key.1.sha256"),
    "name with a line break": (table("app\\nadmin", "a"), "key.1.name"),
    "name of an unnamed key": (table("key-0123abcd", "a"), "key.1.name"),
    "long name": (table("a" * 65, "a"), "key.1.name"),
    "negative limit": (table("app", "a", concurrency=-1), "key.1.concurrency"),
    "limit without end": (table("app", "a", requests_per_minute="inf"), "key.1.requests_per_minute"),
    "no share": (table("app", "a", share=0), "key.1.share"),
    "time without zone": (table("app", "a", expires="2026-01-01T00:00:00"), "key.1.expires"),
    "one key twice": (table("app", "a") + table("other", "a"), "'app'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str) -> None:
    """Whatever is not understood is refused as a whole, and named; digests are not shown."""
    text, named = BAD_FILES[name]
    with pytest.raises(SettingsError) as refused:
        parse_entries(text)
    assert named in str(refused.value)
    assert "sdi_secret" not in str(refused.value)
    assert digest(b"a").hex() not in str(refused.value)


@pytest.mark.parametrize("change", ["append", "replace", "same size and time"])
def test_changes_are_noticed(tmp_path: Path, change: str) -> None:
    """A change is seen within a poll, however it was made: in place, by a new file, or with the old one's time."""
    watched = Watched(tmp_path, table("one", "a"))
    assert watched.names() == ["one"]
    before = watched.path.stat()
    if change == "append":
        with watched.path.open("a") as file:
            file.write(table("two", "b"))
        assert watched.names() == ["one", "two"]
        return
    new = tmp_path / "new"
    new.write_text(table("two", "a"))
    new.replace(watched.path)
    if change == "same size and time":
        os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.names() == ["two"]


def test_looks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests come, the file is looked at once in a poll, and read only if it has changed."""
    watched = Watched(tmp_path, table("one", "a"))
    looks, reads = [], []
    stat, open_file = Path.stat, Path.open
    monkeypatch.setattr(Path, "stat", lambda path, **more: (looks.append(1), stat(path, **more))[1])
    monkeypatch.setattr(Path, "open", lambda path, *more, **most: (reads.append(1), open_file(path, *more, **most))[1])
    for _ in range(10):
        watched.clock.now += POLL_SECONDS
        for _ in range(100):
            watched.file.good_keys()
    assert (len(looks), len(reads)) == (10, 0)


@pytest.mark.parametrize("broken", ["[[key", None, "\udcff", "x" * (MAX_FILE_BYTES + 1)])
def test_broken_file_keeps_its_keys(tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A file that becomes unreadable, or vanishes, keeps the keys before it, and the log says so once."""
    watched = Watched(tmp_path, table("one", "a"))
    if broken is None:
        watched.path.unlink()
    else:
        watched.path.write_bytes(broken.encode("utf-8", "surrogateescape"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert watched.names() == ["one"]
    assert len(caplog.records) == 1
    assert "the keys before it stay" in caplog.text
    watched.path.write_text(table("two", "b"))
    assert watched.names() == ["two"]


def test_emptied_file_takes_every_key_back(tmp_path: Path) -> None:
    """An empty file has no keys, and that counts."""
    watched = Watched(tmp_path, table("one", "a"))
    watched.path.write_text("# None at the moment.\n")
    assert watched.names() == []


def test_keys_expire_without_a_change(tmp_path: Path) -> None:
    """A key is good until the time that the file says, by the clock on the wall."""
    watched = Watched(tmp_path, table("short", "a", expires="2023-11-14T22:13:30Z") + table("long", "b"))
    assert watched.names() == ["short", "long"]
    watched.now.now += 9.9
    assert watched.names() == ["short", "long"]
    watched.now.now += 0.2
    assert watched.names() == ["long"]


def test_unusable_at_start(tmp_path: Path) -> None:
    """A file that cannot be read at first is an error that names the setting."""
    with pytest.raises(SettingsError, match=r"SD_INPAINT_API_KEYS_FILE: It cannot be read: No such file"):
        KeyFile(tmp_path / "none")


def test_unnamed_keys_are_named_after_themselves() -> None:
    """A key without a name has the same one wherever it stands in the list, and another key has another."""
    assert unnamed("a").name == unnamed("a").name != unnamed("b").name
    assert unnamed("a").name == f"key-{digest(b'a').hex()[:8]}"
