"""A state folder on a disk that is really full: a small file system of its own, which only root may mount."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_inpaint import condition
from sd_inpaint.http.bento import metrics
from tests.support.edge import HEALTH, INPAINT, form
from tests.support.jobs import JobsApp, make_jobs_app
from tests.support.pictures import written
from tests.support.real_time import wait_for

DISK_BYTES = 6 * 1024**2
LOW_BYTES = 1024**2

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs is Linux's")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of six megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def app(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsApp]:
    """A server that keeps its jobs there, and calls a megabyte little."""
    monkeypatch.setattr(condition, "LOW_DISK_BYTES", LOW_BYTES)
    monkeypatch.setattr(metrics, "DISK_SAMPLES", 1)
    with make_jobs_app(disk) as made:
        yield made


def problems(app: JobsApp) -> list[str]:
    """What health says is wrong."""
    answer = app.client.get(HEALTH)
    assert answer.status_code == 200
    return [problem["code"] for problem in answer.json().get("problems", ())]


def noise() -> bytes:
    """A picture whose upload takes 270 kB."""
    return written(Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)))


def test_a_full_disk_is_seen_and_heals(app: JobsApp, disk: Path) -> None:
    """Without room, jobs are refused with a reason, health is degraded, and pictures are painted; then all is well."""
    first = app.accept()
    app.wait_ended(first)
    assert problems(app) == []

    filler = disk / "filler"
    with filler.open("wb") as file:
        left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, left)
    image = noise()
    refused = app.post(image=image, mask=image)
    assert refused.status_code in (429, 503), refused.text
    assert refused.json()["code"] in ("state_unavailable", "queue_full")
    assert str(disk) not in refused.text
    wait_for(lambda: problems(app) != [])
    assert set(problems(app)) <= {"disk_low", "state_unavailable"}
    assert app.client.post(INPAINT, **form()).status_code == 200
    assert app.client.delete(first).status_code == 204

    filler.unlink()
    wait_for(lambda: problems(app) == [])
    assert app.wait_ended(app.accept(image=image, mask=image))["state"] == "done"
