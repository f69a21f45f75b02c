"""One picture or several, in each format, with the word of where it came from."""

import base64
import io
import zipfile
from email import message_from_bytes
from email.policy import HTTP

import numpy as np
import pytest
from PIL import Image

from tests.support.edge import App, check_shape, make_app
from tests.support.pictures import hole, opened, photo, written


def painted(data: bytes) -> int:
    """The level that the fake painter gave the hole: its seed."""
    pixels: np.ndarray = opened(data)[np.asarray(hole()) == 255]
    assert (pixels == pixels[0, 0]).all()
    return int(pixels[0, 0])


def test_several_pictures_come_as_a_zip(app: App) -> None:
    """Two to four pictures are a zip of PNGs, named by their seeds, in which the same request gives the same bytes."""
    response = app.post(num_images="3", seed="7")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["x-seed"] == "7, 8, 9"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["1-seed-7.png", "2-seed-8.png", "3-seed-9.png"]
        assert [painted(archive.read(name)) for name in archive.namelist()] == [7, 8, 9]
    assert app.post(num_images="3", seed="7").content == response.content


def test_several_pictures_come_as_multipart(app: App) -> None:
    """Asked for multipart/mixed, each picture is a part with its own seed; a mail reader can take it apart."""
    response = app.post(headers={"Accept": "multipart/mixed"}, num_images="2", seed="7")
    whole = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode() + response.content
    parts = list(message_from_bytes(whole, policy=HTTP).iter_parts())
    assert [part["X-Seed"] for part in parts] == ["7", "8"]
    assert [part.get_content_type() for part in parts] == ["image/png"] * 2
    # The payload's own bytes: policy HTTP would decode text, and PNG is none.
    assert response.content.count(b"\x89PNG\r\n\x1a\n") == 2


def test_several_pictures_come_as_json(app: App) -> None:
    """Asked for JSON, several pictures are a list; one alone is the object itself."""
    several = app.post(headers={"Accept": "application/json"}, num_images="2", seed="7").json()
    assert [image["seed"] for image in several["images"]] == [7, 8]
    assert [painted(base64.b64decode(image["image"])) for image in several["images"]] == [7, 8]
    one = app.post(headers={"Accept": "application/json"}, seed="7").json()
    assert (one["seed"], painted(base64.b64decode(one["image"]))) == (7, 7)


@pytest.mark.contract
def test_one_picture_can_be_a_zip(app: App) -> None:
    """Who always asks for a zip gets one."""
    response = app.post(headers={"Accept": "application/zip"})
    assert zipfile.ZipFile(io.BytesIO(response.content)).namelist() == ["1-seed-42.png"]


@pytest.mark.contract
def test_several_pictures_are_no_png(app: App) -> None:
    """One PNG cannot hold two pictures: 406, and nothing is painted."""
    before = app.painted()
    check_shape(app.post(headers={"Accept": "image/png"}, num_images="2"), 406, "not_acceptable")
    assert app.painted() == before


def camera_photo() -> bytes:
    """A photo lying on its side, with its maker and the place where it was taken."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    return written(photo((53, 70)), "JPEG", exif=exif)


@pytest.mark.contract
@pytest.mark.parametrize("accept", ["image/png", "image/jpeg", "image/webp"])
@pytest.mark.parametrize("keep", ["false", "true"])
def test_exif_is_carried_only_when_asked(app: App, accept: str, keep: str) -> None:
    """The caller's maker and place are in the result where they asked for it, and the orientation never is."""
    response = app.post(headers={"Accept": accept}, image=camera_photo(), keep_exif=keep)
    with Image.open(io.BytesIO(response.content)) as image:
        exif = image.getexif()
        assert image.size == (70, 53)
        assert exif.get(0x010F) == ("Maker" if keep == "true" else None)
        assert bool(exif.get_ifd(0x8825)) == (keep == "true")
        assert 0x0112 not in exif
        if accept != "image/png":
            assert b"S\0t\0e\0p\0s" in exif.get_ifd(0x8769)[0x9286]


@pytest.mark.contract
@pytest.mark.parametrize("value", ["0", "5", "1.5", "x"])
def test_number_of_pictures_has_bounds(app: App, value: str) -> None:
    """One to four pictures a request."""
    check_shape(app.post(num_images=value), 400, "invalid_parameter")


@pytest.mark.contract
def test_file_says_how_it_was_made(app: App) -> None:
    """The PNG carries A1111's parameters text and IPTC's word for generated pixels, each picture its own seed."""
    archive = zipfile.ZipFile(io.BytesIO(app.post(num_images="2", negative_prompt="blurry").content))
    for name, seed in zip(archive.namelist(), (42, 43), strict=True):
        with Image.open(io.BytesIO(archive.read(name))) as image:
            lines = image.info["parameters"].splitlines()
            assert lines[:2] == ["a rose", "Negative prompt: blurry"]
            assert f"Seed: {seed}" in lines[2]
            assert "Steps: 2" in lines[2]
            assert "compositeWithTrainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


def test_metadata_can_be_left_out() -> None:
    """With SD_INPAINT_METADATA=false the file holds pixels and nothing of the request."""
    with make_app(metadata=False) as app, Image.open(io.BytesIO(app.post().content)) as image:
        assert "parameters" not in image.info
        assert "XML:com.adobe.xmp" not in image.info
