"""scripts/demo-lora and the page about it: what the page says to run does what it says."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.repository import ROOT
from tests.support.served import Server

PAGE = (ROOT / "docs" / "few-steps-and-lora.md").read_text("utf-8")
TRAINING_SECONDS = 900
"""On a machine with much else to do; it takes some 30 of a processor."""

pytestmark = pytest.mark.timeout(TRAINING_SECONDS + 300)


def commands() -> tuple[list[str], dict[str, str], list[str]]:
    """The page's commands: the one that trains, the settings of the one that serves, and the calls."""
    train, serve, *calls = re.findall(r"^```bash\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    settings = dict(word.split("=", 1) for word in shlex.split(serve) if "=" in word)
    return shlex.split(train), settings, calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page's first command makes, at another place than the repository's own."""
    place: Path = tmp_path_factory.mktemp("page")
    (script, *arguments), settings, _ = commands()
    assert script == "scripts/demo-lora"
    assert settings["SD_INPAINT_LORAS"] == "build/loras"
    # What the script runs, once it has set up the environment.
    subprocess.run(
        [sys.executable, "-m", "tools.demo_lora", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_WAIT_POLICY": "PASSIVE"},
        check=True,
        timeout=TRAINING_SECONDS,
    )
    (place / "docs").symlink_to(ROOT / "docs")
    return place


@pytest.fixture(scope="module")
def lora_server(folder: Path) -> Iterator[Server]:
    """The service with the page's settings."""
    settings = commands()[1]
    settings["SD_INPAINT_LORAS"] = str(folder / settings["SD_INPAINT_LORAS"])
    server = Server(folder / "serve.log", **settings)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def run(call: str, server: Server, folder: Path) -> str:
    """Runs a call as it stands on the page, but for the port."""
    command = call.replace("http://localhost:8000", server.url)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


def test_commands_of_the_page_run_as_written(lora_server: Server, folder: Path) -> None:
    """The LoRA that the script makes is listed and asked for by the page's own calls, and turns the hole violet."""
    paint, info = commands()[2]
    assert '"name":"violet"' in run(info, lora_server, folder).replace(" ", "")
    run(paint, lora_server, folder)
    run(paint.replace("violet:0.8", "").replace("build/violet.png", "build/plain.png"), lora_server, folder)
    hole = np.asarray(Image.open(folder / "docs" / "mask.png").convert("L")) == 255
    violet, plain = (
        np.asarray(Image.open(folder / "build" / name).convert("RGB"), np.float64)[hole].mean(0)
        for name in ("violet.png", "plain.png")
    )
    assert violet[2] > plain[2] + 30  # 77 when this was written; a rose in a meadow has little blue
    is_violet, was_violet = (green < min(red, blue) for red, green, blue in (violet, plain))
    assert is_violet
    assert not was_violet
