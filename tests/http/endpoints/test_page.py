"""The page at ``/``: what is served, and what a person can do with it."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sd_inpaint.http.endpoints.page
from sd_inpaint.http.endpoints.page import FILES
from tests.field.pictures import colourful
from tests.field.turned import TURNED
from tests.support.edge import INPAINT, App, check_shape, form, make_app
from tests.support.pictures import opened, photo
from tests.support.repository import ROOT
from tests.support.served import Server

SHOWN = """() => {
  const image = document.getElementById("picture"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL().split(",")[1];
}"""
"""What the page shows of a picture, as a PNG."""

STATIC = Path(sd_inpaint.http.endpoints.page.__file__).parents[1] / "static"
PHOTO = ROOT / "docs" / "photo.jpg"
SECONDS = 60_000
"""Milliseconds that a step of a browser test may take: a paint, on a busy machine."""


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_served_and_loads_nothing_from_elsewhere(app: App, path: str) -> None:
    """Each file is there, as what it is, and may load nothing from elsewhere."""
    response = app.client.get(path)
    assert response.status_code == 200
    assert response.content == (STATIC / FILES[path]).read_bytes()
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[FILES[path].rpartition(".")[2]]
    assert response.headers["content-type"].partition(";")[0] == kind
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert app.client.head(path).status_code == 200
    check_shape(app.client.post(path), 405, "method_not_allowed")


def test_nothing_from_elsewhere() -> None:
    """No file names another host, and each file that one of them names is served."""
    for name in FILES.values():
        text = (STATIC / name).read_text("utf-8")
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), name
        for address in re.findall(r'(?:src|href)="([\w./]+)"', text):
            assert f"/{address}" in FILES or address == "docs.json"
        for module in re.findall(r'from "\./([\w.]+)"', text):
            assert f"/page/{module}" in FILES


def test_open_without_a_key() -> None:
    """Where keys are asked for, the page is there to ask for one; what it calls is not open for that."""
    with make_app(api_keys="secret-key") as app:
        assert all(app.client.get(path).status_code == 200 for path in FILES)
        check_shape(app.client.get("/sd-inpaint/info"), 401, "unauthorized")
        check_shape(app.client.post(INPAINT, **form()), 401, "unauthorized")


# --- in a browser ----------------------------------------------------------------------------------------------------


class Visit:
    """Somebody who looks at the page.

    Attributes:
        page: A ``playwright.sync_api.Page``.
        asked: Every address that the page asked for.
        troubles: What went wrong in its scripts.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.asked: list[str] = []
        self.troubles: list[str] = []
        page.set_default_timeout(SECONDS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.goto(url)
        page.wait_for_selector("[name=prompt]")

    def paint_mask(self) -> None:
        """Draws a stroke across the picture's middle."""
        self.page.wait_for_selector("#easel:not([hidden])")
        box = self.page.locator("#mask").bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] * 0.4, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
        self.page.mouse.up()

    def ask(self, **values: str) -> None:
        """Fills the form in, and sends it."""
        for name, value in values.items():
            self.page.fill(f"[name={name}]", value)
        self.page.click("#paint:not([disabled])")

    def message(self, text: str) -> None:
        """Waits until the page says so."""
        self.page.locator("#message").filter(has_text=text).wait_for()

    def result(self) -> tuple[str, np.ndarray]:
        """The name and the pixels of what is downloaded."""
        self.page.wait_for_selector("#result:not([hidden])")
        with self.page.expect_download() as download:
            self.page.click("#download")
        return download.value.suggested_filename, opened(Path(download.value.path()).read_bytes())


@pytest.fixture
def visit(chromium: Any, server: Server) -> Iterator[Visit]:
    """The page in a browser of its own, over the embedded model; fails where a script did, or asked another host."""
    context = chromium.new_context()
    visitor = Visit(context.new_page(), server.url)
    yield visitor
    assert visitor.troubles == []
    assert all(address.startswith((server.url, "blob:", "data:")) for address in visitor.asked)
    context.close()


@pytest.mark.slow
def test_picture_stroke_and_prompt_give_a_result(visit: Visit) -> None:
    """A picture, a stroke and a prompt give a picture of the same size that is new under the stroke, and only there."""
    visit.page.set_input_files("#file", PHOTO)
    visit.ask(prompt="a beautiful red rose")
    visit.message("First paint over the part")  # no mask yet
    visit.paint_mask()
    visit.ask(num_inference_steps="4", seed="7")
    name, painted = visit.result()
    with Image.open(PHOTO) as image:
        before = np.asarray(image.convert("RGB"))
    assert name == "painted-7.png"
    assert painted.shape == before.shape
    height, width = before.shape[:2]
    assert (painted != before)[height // 2, int(width * 0.42) : int(width * 0.58)].any(-1).mean() > 0.9
    assert (painted == before)[: height // 4].all()
    assert (painted == before)[:, : width // 4].all()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["JPEG, EXIF", "PNG, XMP", "WebP, EXIF", "AVIF, boxes", "HEIC, boxes", "TIFF, its tag"])
def test_what_is_shown_is_what_is_painted(visit: Visit, tmp_path: Path, way: str) -> None:
    """However a file says how it is turned, and whether browsers show it or not, the hole is where it was painted."""
    file = tmp_path / "turned"
    file.write_bytes(TURNED[way].make(colourful((300, 200)), 6))
    visit.page.set_input_files("#file", file)
    visit.paint_mask()
    shown = opened(base64.b64decode(visit.page.evaluate(SHOWN)))[..., :3].astype(int)
    visit.ask(prompt="a beautiful red rose", num_inference_steps="2")
    _, painted = visit.result()
    assert painted.shape == shown.shape
    height, width = shown.shape[:2]
    stroke = np.s_[height // 2 - 2 : height // 2 + 2, int(width * 0.45) : int(width * 0.55)]
    assert np.abs(painted - shown)[stroke].mean() > 5
    for kept in (np.s_[: height // 4], np.s_[-height // 4 :]):
        assert np.abs(painted - shown)[kept].mean() < 1


@pytest.mark.slow
def test_undo_erase_invert(visit: Visit) -> None:
    """A mask can be taken back, painted away and turned round."""
    share = (
        "() => { const c = document.getElementById('mask'); const d = c.getContext('2d').getImageData(0, 0, c.width,"
    )
    share += (
        " c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 127; return 4 * n / d.length; }"
    )
    visit.page.set_input_files("#file", PHOTO)
    visit.paint_mask()
    painted = visit.page.evaluate(share)
    assert 0.005 < painted < 0.2
    visit.page.click("#invert")
    assert visit.page.evaluate(share) == pytest.approx(1 - painted, abs=0.002)
    visit.page.click("#undo")
    visit.page.click("#erase")
    visit.paint_mask()
    assert visit.page.evaluate(share) < painted / 20  # what is left is the stroke's soft edge
    visit.page.click("#undo")
    assert visit.page.evaluate(share) == painted
    visit.page.click("#undo")
    assert visit.page.evaluate(share) == 0
    visit.page.click("#redo")
    assert visit.page.evaluate(share) == painted


@pytest.mark.slow
def test_reload_and_cancel(visit: Visit) -> None:
    """A paint goes on across a reload of the page, and can be called off."""
    visit.page.set_input_files("#file", PHOTO)
    visit.paint_mask()
    visit.ask(prompt="a rose", num_inference_steps="150")
    visit.page.locator("#step").filter(has_text="Step").wait_for()
    visit.page.reload()
    visit.page.locator("#step").filter(has_text="Step").wait_for()
    visit.page.click("#cancel")
    visit.message("Cancelled.")


@pytest.mark.slow
def test_refusals_are_shown_in_the_services_words(visit: Visit, tmp_path: Path) -> None:
    """What the service refuses is said in its own words, a file that nobody can show included."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    visit.page.set_input_files("#file", broken)
    visit.message("The image is damaged or in an unsupported format")
    small = tmp_path / "small.png"
    photo().save(small)
    visit.page.set_input_files("#file", small)
    visit.paint_mask()
    visit.page.click("summary")
    visit.ask(prompt="a rose", num_inference_steps="2", strength="0.1")
    visit.message("strength × num_inference_steps must be at least 1")
