"""A client that openapi-python-client makes of the served document."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.pictures import hole, opened, photo, written
from tests.support.repository import ROOT
from tests.support.served import LARGE, Served
from tests.support.tools import need

CONFIG = {
    # It knows no pictures of its own.
    "content_type_overrides": {"image/png": "application/octet-stream"},
    "post_hooks": [],
}


@pytest.fixture(scope="module")
def package(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a generated package, which can be imported."""
    need("openapi-tools")
    folder = tmp_path_factory.mktemp("generated")
    (folder / "document.json").write_bytes(httpx.get(f"{server.url}/docs.json", timeout=60).content)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    done = subprocess.run(
        [
            *(ROOT / "build" / "openapi-tools" / "bin" / "openapi-python-client", "generate", "--meta", "none"),
            *("--path", "document.json", "--config", "config.json", "--output-path", "painting_client"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # It leaves out, with a warning, what it cannot read.
    assert "WARNING" not in done.stdout, done.stdout
    sys.path.insert(0, str(folder))
    yield "painting_client"
    sys.path.remove(str(folder))


@pytest.fixture
def client(package: str, server: Served) -> Iterator[Any]:
    """A client of the server."""
    with importlib.import_module(package).Client(base_url=server.url, timeout=httpx.Timeout(300)) as made:
        yield made


def body_of(package: str, model: str, size: tuple[int, int], **fields: Any) -> Any:
    """A form with a picture and a mask."""
    models, types = importlib.import_module(f"{package}.models"), importlib.import_module(f"{package}.types")
    files = {
        name: types.File(payload=io.BytesIO(written(picture)), file_name=f"{name}.png", mime_type="image/png")
        for name, picture in (("image", photo(size)), ("mask", hole(size)))
    }
    return getattr(models, model)(**files, **fields)


def test_it_paints(package: str, client: Any) -> None:
    """A picture, a mask and a prompt go in; out comes a PNG of the picture's size, painted where the mask is white."""
    inpaint = importlib.import_module(f"{package}.api.inpainting.inpaint")
    body = body_of(package, "InpaintBody", LARGE, prompt="a red rose", num_inference_steps=1, guidance_scale=1.0)
    answer = inpaint.sync_detailed(client=client, body=body)
    assert answer.status_code == 200
    painted, sent, mask = opened(answer.parsed.payload.read()), np.asarray(photo(LARGE)), np.asarray(hole(LARGE)) > 0
    assert painted.shape == sent.shape
    assert np.array_equal(painted[~mask], sent[~mask])
    assert not np.array_equal(painted[mask], sent[mask])


def test_it_reads_errors_and_jobs(package: str, client: Any) -> None:
    """An error has its code, and a job its state, as typed values."""
    jobs = {name: importlib.import_module(f"{package}.api.jobs.{name}") for name in ("post_job", "get_job")}
    form = {"prompt": "a red rose", "num_inference_steps": 1, "guidance_scale": 1.0}
    job = jobs["post_job"].sync(client=client, body=body_of(package, "PostJobBody", (70, 53), **form))
    seen = jobs["get_job"].sync(id=job.id, client=client)
    assert (seen.id, seen.steps) == (job.id, 1)
    unknown = jobs["get_job"].sync(id="nothing", client=client)
    assert unknown.code == "job_not_found"
