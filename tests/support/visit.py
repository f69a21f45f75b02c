"""Somebody who visits the page, in a headless Chromium."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import opened
from tests.support.repository import ROOT
from tests.support.served import Server

PHOTO = ROOT / "docs" / "photo.jpg"
MILLISECONDS = 60_000
"""That a step may take: a painting, on a busy machine."""

STILL: dict[str, object] = {"reduced_motion": "reduce"}
"""So that nothing has to come to rest first."""

PHONE: dict[str, object] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, **STILL}
DESKTOP: dict[str, object] = {"viewport": {"width": 1280, "height": 800}, **STILL}

URLS_HELD = """
window.held = new Set();
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (file) => {
  const address = createObjectURL.call(URL, file);
  window.held.add(address);
  return address;
};
URL.revokeObjectURL = (address) => { window.held.delete(address); revokeObjectURL.call(URL, address); };
"""
"""Counts the files that a page keeps in memory by an address."""

FORMS_SENT = """
window.sent = [];
const { send } = XMLHttpRequest.prototype;
XMLHttpRequest.prototype.send = function (form) {
  const fields = [...(form ?? [])].map(([name, value]) => [name, value instanceof File ? value.name : value]);
  if (form) window.sent.push(Object.fromEntries(fields));
  send.call(this, form);
};
"""
"""Keeps what is posted as jobs, of files their names."""


class Visit:
    """Somebody who looks at the page.

    Attributes:
        page: A ``playwright.sync_api.Page``.
        asked: Every address that the page asked for.
        troubles: What went wrong in its scripts.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []
        self.troubles: list[str] = []
        page.set_default_timeout(MILLISECONDS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.add_init_script(URLS_HELD + FORMS_SENT)

    def come(self) -> "Visit":
        """Opens the page, and waits until it knows the service."""
        self.page.goto(self.url)
        self.page.wait_for_selector("[name=guidance_scale]", state="attached")
        return self

    def open(self, file: Path | str = PHOTO) -> None:
        """Chooses a picture's file, and waits until it is on the stage."""
        self.page.set_input_files("#file", file)
        self.shows(Path(file).name)

    def shows(self, text: str) -> None:
        """Waits until the picture on the stage has this in its name or its size."""
        self.page.wait_for_function("(text) => document.getElementById('name').textContent.includes(text)", arg=text)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def sent(self) -> list[dict[str, str]]:
        """The forms that the page has posted as jobs since it was opened; of files their names."""
        return list(self.page.evaluate("window.sent"))

    @property
    def mode(self) -> str:
        """``empty``, ``mask`` or ``result``."""
        return str(self.page.evaluate("document.body.dataset.mode"))

    def box(self) -> dict[str, float]:
        """Where the picture is in the window, by what the canvas shows."""
        return dict(
            self.page.evaluate(
                """() => {
          const canvas = document.getElementById("picture"), { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          let left = width, top = height, right = 0, bottom = 0;
          for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (data[(y * width + x) * 4 + 3] > 127) {
            if (x < left) left = x;
            if (x >= right) right = x + 1;
            if (y < top) top = y;
            if (y >= bottom) bottom = y + 1;
          }
          const shown = canvas.getBoundingClientRect(), ratio = width / shown.width;
          return { x: shown.x + left / ratio, y: shown.y + top / ratio,
            width: (right - left) / ratio, height: (bottom - top) / ratio };
        }"""
            )
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture, in shares of its sides, as one of the window."""
        box = self.box()
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drags the mouse from one point of the picture to another, in shares of its sides."""
        box = self.box()
        points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        self.page.mouse.move(*points[1], steps=6)
        self.page.mouse.up()

    def stroke(self) -> None:
        """Draws a stroke across the picture's middle."""
        self.drag((0.4, 0.5), (0.6, 0.5))

    def ask(self, prompt: str = "a red rose", steps: int = 2, **values: str) -> None:
        """Fills the form in, and sends it."""
        self.page.fill("#prompt", prompt)
        self.set(num_inference_steps=str(steps), **values)
        self.page.click("#paint:not([disabled])")

    def set(self, **values: str) -> None:
        """Sets fields, also those that are folded away."""
        for name, value in values.items():
            self.page.evaluate(
                """([name, value]) => {
              const field = document.querySelector(`[name=${name}]`);
              field.value = value;
              field.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
                [name, value],
            )

    def message(self, text: str) -> None:
        """Waits until the page says so."""
        self.page.locator("#message").filter(has_text=text).wait_for()

    def wait_for_result(self) -> None:
        """Waits until a result is on the stage, and has come to rest."""
        self.page.wait_for_selector("#outcome:not([hidden])")
        self.page.wait_for_selector("#divider[aria-valuenow='0']")

    def download(self, label: str = "png") -> tuple[str, bytes]:
        """The name and the bytes of what is downloaded."""
        self.page.click("#download-menu summary")
        with self.page.expect_download() as download:
            self.page.click(f"[data-format={label}]")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def result(self) -> np.ndarray:
        """The pixels of the result."""
        self.wait_for_result()
        return opened(self.download()[1])

    def mask(self) -> np.ndarray:
        """The mask's file, (H, W) uint8."""
        self.page.click("#mask-menu summary")
        with self.page.expect_download() as download:
            self.page.click("#mask-save")
        assert download.value.suggested_filename.endswith("-mask.png")
        with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as image:
            return np.asarray(image.convert("L"))


def refuse(code: str, status: int, retry_after: str | None = None, **facts: object) -> dict[str, Any]:
    """What the service answers where it refuses, for a route of Playwright's."""
    headers = {"Retry-After": retry_after} if retry_after else {}
    body = json.dumps({"error": "HTTP's words: 'X-API-Key', sigma, 2000 megapixel-steps", "code": code, **facts})
    return {"status": status, "headers": headers, "content_type": "application/json", "body": body}


@pytest.fixture
def visit(chromium: Any, server: Server) -> Iterator[Visit]:
    """The page in a browser of its own, over the demo model; fails where a script did, or asked another host."""
    yield from visiting(chromium, server, DESKTOP)


@pytest.fixture
def phone(chromium: Any, server: Server) -> Iterator[Visit]:
    """The same on a phone."""
    yield from visiting(chromium, server, PHONE)


def visiting(chromium: Any, server: Server, device: dict[str, object]) -> Iterator[Visit]:
    """A visit with a browser context of its own."""
    context = chromium.new_context(**device)
    visitor = Visit(context.new_page(), server.url).come()
    yield visitor
    assert visitor.troubles == []
    assert all(address.startswith((server.url, "blob:", "data:")) for address in visitor.asked)
    context.close()
