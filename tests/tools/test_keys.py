"""``scripts/keys``: what it writes into the file, and what it leaves alone."""

import datetime as dt
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sd_inpaint.callers.key_file import digest, parse_entries, read_keys
from sd_inpaint.errors import SettingsError
from tests.support.repository import ROOT
from tools import keys

HAND_WRITTEN = """\
# The keys of our service.

# The app.  Ask Ann.
[[key]]
name = "app"   # in both stores
sha256 = "{a}"
requests_per_minute = 60

[[ key ]]
sha256 = "{b}"
name = "batch"
""".format(a=digest(b"a").hex(), b=digest(b"b").hex())


def run(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command as the script does."""
    return subprocess.run(
        [sys.executable, "-m", "tools.keys", "--file", path, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_add_shows_the_key_once(tmp_path: Path) -> None:
    """A new key is printed alone on stdout and kept as its digest only, in a file that only its owner can read."""
    path = tmp_path / "keys.toml"
    done = run(path, "add", "app", "--concurrency", "3", "--share", "0.5", "--expires-days", "30")
    assert done.returncode == 0, done.stderr
    key = done.stdout.removesuffix("\n")
    assert len(key) >= 43
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["keys.toml"]
    [kept] = read_keys(path)
    assert (kept.name, kept.digest, dict(kept.limits)) == (
        "app",
        digest(key.encode()),
        {"concurrency": 3, "share": 0.5},
    )
    in_30_days = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    assert kept.expires_at == pytest.approx(in_30_days.timestamp(), abs=60)
    listed = run(path, "list")
    assert listed.stdout.startswith("app  created 2")
    assert "concurrency=3  share=0.5" in listed.stdout
    assert kept.digest.hex()[:8] not in listed.stdout


def test_keys_are_different() -> None:
    """Each key is new, and long enough that nobody finds it by trying."""
    made = {keys.add("", "app", {})[1] for _ in range(100)}
    assert len(made) == 100
    assert all(len(key.removeprefix(keys.KEY_PREFIX)) * 6 >= 256 for key in made)


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "app"),
        ("rotate", "nobody"),
        ("revoke", "nobody"),
        ("add", "two words"),
        ("add", "new\nline"),
        ("add", "new", "--concurrency", "-1"),
        ("add", "new", "--share", "0"),
    ],
)
def test_refusals_change_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """What cannot be done is one line, and the file is as it was."""
    path = tmp_path / "keys.toml"
    path.write_text(HAND_WRITTEN)
    done = run(path, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert path.read_text() == HAND_WRITTEN


def test_rotate() -> None:
    """A rotated name has a new key with the same limits, and the old one for a while; comments stay."""
    text, key = keys.rotate(HAND_WRITTEN, "app", overlap_hours=2)
    old, other, new = parse_entries(text)
    assert (old.name, other.name, new.name) == ("app", "batch", "app")
    assert (other.expires, new.expires, new.requests_per_minute) == (None, None, 60)
    assert old.expires is not None
    in_two_hours = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    assert abs(old.expires - in_two_hours) < dt.timedelta(minutes=1)
    assert new.sha256 == digest(key.encode()).hex()
    for comment in ("# The keys of our service.", "# The app.  Ask Ann.", "# in both stores"):
        assert comment in text
    again, _ = keys.rotate(text, "app", overlap_hours=24)
    assert parse_entries(again)[0].expires == old.expires, "a key that ends soon does not end later"


def test_revoke() -> None:
    """Every key of a name goes, with the comment above it; all else stays as it is written."""
    rotated, _ = keys.rotate(HAND_WRITTEN, "app")
    text = keys.revoke(rotated, "app")
    assert [entry.name for entry in parse_entries(text)] == ["batch"]
    assert text.startswith("# The keys of our service.\n\n[[ key ]]\n")
    assert "Ann" not in text
    assert parse_entries(keys.revoke(text, "batch")) == ()


@pytest.mark.parametrize(
    "text",
    [
        f'key = [{{name = "app", sha256 = "{digest(b"a").hex()}"}}]\n',
        HAND_WRITTEN + '# """\n[[key]] # [[key]]\nname = """app\n"""\n',
    ],
)
def test_other_forms_are_left_alone(text: str) -> None:
    """A file that the command would not change rightly is refused, not spoiled."""
    with pytest.raises(SettingsError):
        keys.revoke(text, "app")


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By default, the file is the setting's; a link to it stays one."""
    path, link = tmp_path / "real.toml", tmp_path / "link.toml"
    path.write_text(HAND_WRITTEN)
    link.symlink_to(path)
    monkeypatch.setenv("SD_INPAINT_API_KEYS_FILE", str(link))
    keys.main(["revoke", "app"])
    assert link.is_symlink()
    assert [entry.name for entry in parse_entries(path.read_text())] == ["batch"]
    monkeypatch.delenv("SD_INPAINT_API_KEYS_FILE")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="SD_INPAINT_API_KEYS_FILE is not set"):
        keys.main(["list"])
