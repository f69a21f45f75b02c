"""What ``bentoml build`` makes of the repository: the built thing is tested, not only the tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import sd_inpaint
from sd_inpaint.http.endpoints import page
from sd_inpaint.http.wire.forms import UPLOAD_SECONDS
from tests.support.processes import free_port, wait_for
from tests.support.repository import ROOT, pins, run, tracked


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento as ``scripts/build`` makes it, in a store of its own, then moved elsewhere."""
    home = tmp_path_factory.mktemp("store")
    # What .env holds on the machine that builds is nobody else's business.
    done = run("scripts/build", "--version", "test", "--output", "tag", BENTOML_HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    moved = tmp_path_factory.mktemp("elsewhere") / "bento"
    shutil.move(home / "bentos" / "sd-inpaint" / "test", moved)
    return moved


def test_holds_what_serves_and_nothing_else(bento: Path) -> None:
    """The source, the demo model, the lock and the licences are in it; tests, caches and settings are not."""
    held = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    source = {str(path.relative_to(ROOT / "src")) for path in tracked() if path.is_relative_to(ROOT / "src")}
    assert held == source | {"service.py", "bentofile.yaml", "LICENSE", "MODEL-LICENSE.md"}


def test_asks_for_exactly_what_is_locked(bento: Path) -> None:
    """The lock goes in whole, with its hashes; the line that BentoML adds names the same version of itself."""
    lock = ROOT / "requirements" / "cpu.txt"
    written = bento / "env" / "python" / "requirements.txt"
    assert pins(written) == pins(lock)
    locked, copied = (sorted(re.findall("--hash=.*?([0-9a-f]{64})", p.read_text("utf-8"))) for p in (lock, written))
    assert locked == copied


def test_plain_build_works_and_tells_nothing_of_its_builder(tmp_path: Path) -> None:
    """``bentoml build`` by hand gives a Bento too, and no setting of whoever built it stands in it."""
    settings = {
        "SD_INPAINT_DEADLINE_SECONDS": "77.25",
        "SD_INPAINT_API_KEYS": "secret",
        "SD_INPAINT_MODEL": "/a/folder",
    }
    done = run(
        *(sys.executable, "-m", "bentoml", "build", "--version", "plain"), BENTOML_HOME=str(tmp_path), **settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (tmp_path / "bentos").rglob("*"):
        text = path.read_bytes().decode("utf-8", "replace") if path.suffix in (".yaml", ".yml", ".json") else ""
        timeout = str(float(settings["SD_INPAINT_DEADLINE_SECONDS"]) + UPLOAD_SECONDS)
        assert not [value for value in (*settings.values(), timeout) if value in text], path


@pytest.mark.slow
def test_serves_the_embedded_model_from_another_folder(bento: Path, tmp_path: Path) -> None:
    """Moved away, with an empty model store and no network, it serves and paints, with its own code."""
    package = bento / "src" / "sd_inpaint" / "__init__.py"
    package.write_text(package.read_text("utf-8").replace(sd_inpaint.__version__, "0.0.0-moved"), "utf-8")
    port = free_port()
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)],
            cwd=tmp_path,
            env={
                **os.environ,
                "BENTOML_HOME": str(tmp_path / "home"),
                "HF_HOME": str(tmp_path / "hub"),
                "HF_HUB_OFFLINE": "1",
                "SD_INPAINT_MODEL": "demo",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}/sd-inpaint"
        wait_for(f"{url}/health", seconds=120, log=log.read_text, is_running=lambda: server.poll() is None)
        assert httpx.get(f"{url}/info").json()["version"] == "0.0.0-moved"
        photo, mask = ((ROOT / "docs" / name).read_bytes() for name in ("photo.jpg", "mask.png"))
        answer = httpx.post(
            f"{url}/inpaint",
            files={"image": photo, "mask": mask},
            data={"prompt": "a rose", "num_inference_steps": "1"},
            timeout=120,
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        for path in page.FILES:
            assert httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200
    finally:
        server.terminate()
        server.wait(60)
