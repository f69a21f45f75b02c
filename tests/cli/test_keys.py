"""``sd-inpaint keys``: what it prints, and what it refuses."""

import datetime as dt
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sd_inpaint.callers.key_file import digest, parse_entries, read_keys
from sd_inpaint.cli.application import app
from sd_inpaint.errors import SettingsError
from tests.support.repository import ROOT

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
        [sys.executable, "-m", "sd_inpaint", "keys", arguments[0], "--file", path, *arguments[1:]],
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


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By default, the file is the setting's; a link to it stays one."""
    path, link = tmp_path / "real.toml", tmp_path / "link.toml"
    path.write_text(HAND_WRITTEN)
    link.symlink_to(path)
    monkeypatch.setenv("SD_INPAINT_API_KEYS_FILE", str(link))
    assert CliRunner().invoke(app, ["keys", "revoke", "app"]).exit_code == 0
    assert link.is_symlink()
    assert [entry.name for entry in parse_entries(path.read_text())] == ["batch"]
    monkeypatch.delenv("SD_INPAINT_API_KEYS_FILE")
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["keys", "list"]).exception
    assert isinstance(refused, SettingsError)
    assert "SD_INPAINT_API_KEYS_FILE is not set" in str(refused)


def test_list_for_programs(tmp_path: Path) -> None:
    """With ``--json`` each key is an object with its limits, and nothing of its digest."""
    path = tmp_path / "keys.toml"
    path.write_text(HAND_WRITTEN)
    done = CliRunner().invoke(app, ["keys", "list", "--file", str(path), "--json"])
    assert json.loads(done.stdout) == [{"name": "app", "requests_per_minute": 60.0}, {"name": "batch"}]
