"""Results that leave signed, in every dialect; what a caller of a server with a certificate gets."""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from sd_inpaint.errors import SettingsError
from sd_inpaint.imaging import codecs, credentials
from sd_inpaint.imaging.codecs import ImageFormat
from tests.support.certificates import Files, issue
from tests.support.edge import App, check_shape, make_app
from tests.support.events import read_events
from tests.support.jobs import JobsApp, make_jobs_app
from tests.support.pictures import SIZE, hole, opened, photo, written

UPLOAD = written(photo())
NAME = f"nih:sha-256;{hashlib.sha256(UPLOAD).hexdigest()}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A good certificate, and its key."""
    return issue(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def app(files: Files) -> Iterator[App]:
    """The edge of a server that signs."""
    with make_app(c2pa_certificate=files.certificate, c2pa_key=files.key) as made:
        yield made


def signed(file: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """Asserts that a file is signed as an edit of the upload; returns its manifest."""
    with c2pa.Reader(media_type, io.BytesIO(file)) as reader:
        found = json.loads(reader.json())
    assert found["validation_state"] == "Valid"
    manifest: dict[str, Any] = found["manifests"][found["active_manifest"]]
    (ingredient,) = manifest["ingredients"]
    assert (ingredient["relationship"], ingredient["instance_id"]) == ("parentOf", NAME)
    (assertion,) = (each for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2")
    edited = assertion["data"]["actions"][-1]
    assert (edited["action"], edited["softwareAgent"]["name"]) == ("c2pa.edited", "demo")
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    return manifest


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_a_result_is_signed(app: App, image_format: ImageFormat) -> None:
    """A result of any format names the upload by the SHA-256 that its sender can compute, and has no prompt in it."""
    response = app.post(image=UPLOAD, output_format=str(image_format), prompt="a secret rose")
    assert response.headers["content-type"] == image_format.media_type
    assert "secret" not in json.dumps(signed(response.content, image_format.media_type))


def test_signing_changes_no_pixel(app: App) -> None:
    """Below the mask's black, a signed PNG still has the input's pixels."""
    pixels, kept = opened(app.post(image=UPLOAD).content), np.asarray(hole()) == 0
    assert (pixels[kept] == np.asarray(photo())[kept]).all()


def test_the_same_request_gives_the_same_pixels(app: App) -> None:
    """Two answers to one request differ in their signatures and in nothing that can be seen."""
    first, second = (app.post(image=UPLOAD, seed="7").content for _ in range(2))
    assert first != second
    assert (opened(first) == opened(second)).all()


def test_several_results_are_signed_each(app: App) -> None:
    """In a zip and in JSON, each picture has a signature of its own."""
    with zipfile.ZipFile(io.BytesIO(app.post(image=UPLOAD, num_images="2").content)) as archive:
        labels = [signed(archive.read(name))["label"] for name in archive.namelist()]
    assert len(set(labels)) == 2
    several = app.post(image=UPLOAD, num_images="2", output_format="json").json()["images"]
    assert all(signed(base64.b64decode(each["image"])) for each in several)


def test_openais_dialect_signs(app: App) -> None:
    """OpenAI's clients get signed pictures, streamed or not."""
    mask = Image.new("RGBA", SIZE)
    mask.putalpha(hole().point(lambda level: 255 - level))
    sent: dict[str, Any] = {"files": {"image": UPLOAD, "mask": written(mask)}, "data": {"prompt": "a rose"}}
    plain = app.client.post("/v1/images/edits", **sent)
    assert signed(base64.b64decode(plain.json()["data"][0]["b64_json"]))
    sent["data"]["stream"] = "true"
    ((_, streamed),) = read_events(app.client.post("/v1/images/edits", **sent).text)
    assert signed(base64.b64decode(streamed["b64_json"]))


def test_the_web_uis_dialect_signs(app: App) -> None:
    """The web UI's clients get signed pictures, in which their parameters are where they were."""
    image, mask = (base64.b64encode(file).decode("ascii") for file in (UPLOAD, written(hole())))
    sent = {"init_images": [image], "mask": mask, "prompt": "a rose"}
    file = base64.b64decode(app.client.post("/sdapi/v1/img2img", json=sent).json()["images"][0])
    assert signed(file)
    assert codecs.read_text(file, max_pixels=10_000).startswith("a rose\nSteps: 50")


def test_a_jobs_result_is_signed(files: Files, tmp_path: Path) -> None:
    """A job's result is signed when it is read, after its upload is gone, in the format it is read in."""
    with make_jobs_app(tmp_path, c2pa_certificate=files.certificate, c2pa_key=files.key) as app:
        address = app.accept(image=UPLOAD)
        _check_signed(app, app.wait_ended(address)["result"])


def _check_signed(app: JobsApp, address: str) -> None:
    assert signed(app.get(address).content)
    assert signed(app.get(address, accept="image/jpeg").content, "image/jpeg")


def test_nothing_painted_is_not_signed(files: Files, tmp_path: Path) -> None:
    """A black mask gives the input back, and nobody signs for it."""
    with make_jobs_app(tmp_path, c2pa_certificate=files.certificate, c2pa_key=files.key) as app:
        black = written(hole().point(lambda _: 0))
        address = app.accept(image=UPLOAD, mask=black)
        file = app.get(app.wait_ended(address)["result"]).content
    assert c2pa.Reader.try_create("image/png", io.BytesIO(file)) is None


def test_without_metadata_results_are_signed(files: Files) -> None:
    """SD_INPAINT_METADATA=false leaves prompt and XMP out of the file; the signature stays."""
    with make_app(c2pa_certificate=files.certificate, c2pa_key=files.key, metadata=False) as app:
        file = app.post(image=UPLOAD, prompt="a secret rose").content
    assert signed(file)
    assert b"secret" not in file
    assert b"xmpmeta" not in file


def test_an_expired_certificate_is_said_before_painting(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the certificate has expired, requests get a 503 at once, and nothing is painted for the bin."""

    class Clock(datetime):
        """Two years on."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=730)

    monkeypatch.setattr(credentials, "datetime", Clock)
    check_shape(app.post(image=UPLOAD), 503, "credentials_expired")
    assert app.painted() == 0


@pytest.mark.parametrize(("days", "warned"), [(10, True), (60, False)])
def test_a_certificate_that_expires_soon_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warned: bool
) -> None:
    """In its last 30 days, each start warns of it."""
    soon = issue(tmp_path, days=days)
    with make_app(c2pa_certificate=soon.certificate, c2pa_key=soon.key):
        pass
    assert any("expires in 9 days" in line for line in caplog.messages) is warned


def test_a_server_that_cannot_sign_does_not_start(files: Files, tmp_path: Path) -> None:
    """A certificate without its key is refused before anything is served."""
    with pytest.raises(SettingsError, match="SD_INPAINT_C2PA_KEY"), make_app(c2pa_certificate=files.certificate):
        pass
    none = {"c2pa_certificate": files.certificate, "c2pa_key": tmp_path / "none.key"}
    with pytest.raises(SettingsError, match="cannot be read"), make_app(**none):
        pass
