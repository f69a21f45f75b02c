"""``sd-inpaint doctor``: one screen, one exit code, and the same for programs."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sd_inpaint.cli.application import app
from tests.support.processes import free_port


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with room for jobs, and no ``.env``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SD_INPAINT_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("SD_INPAINT_MAX_STATE_BYTES", "1048576")


def test_machine_that_serves() -> None:
    """Where the demo model would serve, every subject is good, and the exit code is 0."""
    done = CliRunner().invoke(app, ["doctor", "--demo", "--port", str(free_port()), "--json"])
    found = json.loads(done.stdout)["findings"]
    assert [each["subject"] for each in found if each["state"] == "problem"] == []
    assert [each["subject"] for each in found] == [
        *("version", "device", "format", "memory", "weights", "jobs", "port", "access", "keys", "C2PA")
    ]
    assert done.exit_code == 0


def test_taken_port_is_on_the_screen() -> None:
    """A problem is on the screen with what to do about it, and the exit code is 1."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        done = CliRunner().invoke(app, ["doctor", "--demo", "--port", str(port)])
    assert done.exit_code == 1
    words = " ".join(done.stdout.split())
    assert f"problem port Port {port} of 127.0.0.1 cannot be used (Address already in use)." in words
    assert "→ Stop the program that has it" in words


def test_settings_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting is a finding, and not the end of the command."""
    monkeypatch.setenv("SD_INPAINT_MAX_QUEUE", "none")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    last = json.loads(done.stdout)["findings"][-1]
    assert (last["subject"], last["state"]) == ("settings", "problem")
    assert "SD_INPAINT_MAX_QUEUE" in last["sentence"]


def test_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that this machine lacks is a problem of the device."""
    monkeypatch.setenv("SD_INPAINT_DEVICE", "cuda:99")
    done = CliRunner().invoke(app, ["doctor", "--demo", "--port", str(free_port()), "--json"])
    problems = [each for each in json.loads(done.stdout)["findings"] if each["state"] == "problem"]
    assert [each["subject"] for each in problems] == ["device"]
    assert "cuda:99" in problems[0]["sentence"]


def test_service_that_does_not_run() -> None:
    """With --server, only that is looked at."""
    done = CliRunner().invoke(app, ["doctor", "--server", f"http://127.0.0.1:{free_port()}", "--json"])
    assert done.exit_code == 1
    assert [each["subject"] for each in json.loads(done.stdout)["findings"]] == ["server"]
