"""``POST /sd-inpaint/preview``: what the service sees of a picture."""

import io

import numpy as np
import pytest
from PIL import Image

from sd_inpaint.imaging import icc
from tests.field.pictures import P3, colourful, saved
from tests.field.turned import TURNED
from tests.support.edge import App, check_shape, make_app
from tests.support.pictures import photo, written

PREVIEW = "/sd-inpaint/preview"


def shown(app: App, file: bytes) -> tuple[np.ndarray, str]:
    """The preview's pixels, and the size that it says."""
    response = app.client.post(PREVIEW, files={"image": ("any", file)})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"] == "no-store"
    with Image.open(io.BytesIO(response.content)) as image:
        return np.asarray(image), response.headers["x-image-size"]


@pytest.mark.parametrize("way", ["HEIC, boxes", "TIFF, its tag", "JPEG, EXIF"])
def test_upright(app: App, way: str) -> None:
    """Formats that no browser shows come upright, and in their own size while that is small."""
    pixels, size = shown(app, TURNED[way].make(colourful(), 6))
    expected = np.asarray(colourful().transpose(Image.Transpose.ROTATE_270))
    assert size == "53x70"
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 6


def test_large_pictures_are_shown_small(app: App) -> None:
    """The longest side is bounded; the header has the picture's own size, which a mask must have."""
    pixels, size = shown(app, saved(Image.new("RGBA", (5000, 50), (200, 10, 10, 128)), "TIFF"))
    assert size == "5000x50"
    assert pixels.shape == (20, 2048, 4)
    assert np.abs(pixels[10, 1000].astype(int) - (200, 10, 10, 128)).max() <= 8


def test_colours_are_srgb(app: App) -> None:
    """Values of another space are converted: the preview has no profile."""
    picture = Image.new("RGB", (40, 30), (200, 100, 90))
    pixels, _ = shown(app, saved(picture, "TIFF", icc_profile=icc.rgb_profile(P3, [icc.srgb_curve()])))
    red = pixels[15, 20].astype(int)
    assert red[0] > 208
    assert red[1] < 99


def test_refusals(app: App) -> None:
    """What is no picture, too large, or another field is refused as for painting."""
    check_shape(app.client.post(PREVIEW, files={"image": ("a", b"nothing")}), 400, "invalid_image")
    check_shape(app.client.post(PREVIEW, files={"mask": ("a", written(photo()))}), 400, "invalid_parameter")
    check_shape(app.client.post(PREVIEW, data={"image": "text"}), 415, "unsupported_media_type")
    check_shape(app.client.get(PREVIEW), 405, "method_not_allowed")
    with make_app(max_pixels=100, api_keys="secret-key") as strict:
        check_shape(strict.client.post(PREVIEW, files={"image": ("a", written(photo()))}), 401, "unauthorized")
        headers = {"X-API-Key": "secret-key"}
        answer = strict.client.post(PREVIEW, files={"image": ("a", written(photo()))}, headers=headers)
        check_shape(answer, 413, "image_too_large")
