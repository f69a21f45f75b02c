"""``sd-inpaint serve``: options that are names for settings, and BentoML in this process's place."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sd_inpaint.cli.application import app
from sd_inpaint.cli.serve import NEUTRAL_FOLDER
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings
from tests.support.processes import free_port


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[list[str]]]:
    """What would have taken this process's place."""
    found: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(os, "execv", lambda path, arguments: found.append(arguments))
    return found


def test_options_are_settings(executed: list[list[str]], tmp_path: Path) -> None:
    """Each option sets its setting, which goes before the environment."""
    os.environ["SD_INPAINT_DEVICE"] = "cuda"
    keys = tmp_path / "keys.toml"
    keys.touch()
    options = (
        f"--model other --device cpu --dtype bfloat16 --api-keys-file {keys} --state-dir {tmp_path}/state --offline"
    )
    port, more = free_port(), ["--timeout", "3"]
    done = CliRunner().invoke(app, ["serve", *options.split(), "--port", str(port), "--", *more])
    assert done.exit_code == 0, done.exception
    settings = Settings.read(None)
    assert (settings.model, settings.device, settings.dtype, settings.offline) == ("other", "cpu", "bfloat16", True)
    assert (settings.api_keys_file, settings.state_dir) == (keys, tmp_path / "state")
    served = ["bentoml", "serve", "sd_inpaint.http.service:SDInpaint", "--working-dir", str(NEUTRAL_FOLDER)]
    assert executed == [[sys.executable, "-P", "-m", *served, "--host", "127.0.0.1", "--port", str(port), *more]]


def test_demo_model_on_this_machine_only(executed: list[list[str]]) -> None:
    """With --demo the demo model is served, and by default only this machine can call."""
    assert CliRunner().invoke(app, ["serve", "--demo", "--port", str(free_port())]).exit_code == 0
    assert Settings.read(None).model == "demo"
    assert executed[0][executed[0].index("--host") + 1] == "127.0.0.1"


def test_settings_of_the_current_folder(executed: list[list[str]], tmp_path: Path) -> None:
    """A file .env counts where no option and no variable says otherwise."""
    (tmp_path / ".env").write_text("SD_INPAINT_HOST=127.0.0.2\n", "ascii")
    assert CliRunner().invoke(app, ["serve", "--port", str(free_port())]).exit_code == 0
    assert executed[0][executed[0].index("--host") + 1] == "127.0.0.2"


def test_paths_begin_in_the_current_folder(executed: list[list[str]], tmp_path: Path) -> None:
    """The server runs in a folder where no module is, and finds what was named from the current one."""
    (tmp_path / ".env").write_text("SD_INPAINT_STATE_DIR=state\nSD_INPAINT_MAX_QUEUE=7\n", "ascii")
    (tmp_path / "model").mkdir()
    (tmp_path / "keys.toml").touch()
    options = ["--model", "model", "--api-keys-file", "keys.toml", "--port", str(free_port())]
    assert CliRunner().invoke(app, ["serve", *options]).exit_code == 0
    settings = Settings.read(None)
    assert (settings.state_dir, settings.api_keys_file) == (tmp_path / "state", tmp_path / "keys.toml")
    assert (settings.model, settings.max_queue) == (str(tmp_path / "model"), 7)
    assert not list(NEUTRAL_FOLDER.rglob("*.py"))


def test_taken_port_is_a_sentence(executed: list[list[str]]) -> None:
    """A port that another program has is refused before anything starts, with one that may be free."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        refused = CliRunner().invoke(app, ["serve", "--demo", "--port", str(port)]).exception
    assert isinstance(refused, SettingsError)
    assert str(refused).startswith(f"Port {port} of 127.0.0.1 cannot be used (Address already in use). ")
    assert f"sd-inpaint serve --port {port + 1}" in str(refused)
    assert not executed


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--host", "::"]])  # noqa: S104  # they are refused
def test_other_machines_need_keys(executed: list[list[str]], options: list[str]) -> None:
    """An address that other machines reach is refused without keys, and served with --allow-open."""
    refused = CliRunner().invoke(app, ["serve", *options]).exception
    assert isinstance(refused, SettingsError)
    assert not executed
    assert CliRunner().invoke(app, ["serve", *options, "--allow-open", "--port", str(free_port())]).exit_code == 0
    assert len(executed) == 1
