"""Takes pictures of the page as people use it, in five states on three devices: ``scripts/page-screenshots URL``.

Needs a running service with the demo model, Chromium and Playwright.
"""

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tools import ROOT

FOLDER = ROOT / "docs" / "page"
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}
WAIT_MILLISECONDS = 120_000


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(prog="scripts/page-screenshots", description=__doc__)
    parser.add_argument("url", help="the address of the page")
    parser.add_argument("--to", type=Path, default=FOLDER, help="the folder to write to; docs/page by default")
    parser.add_argument("--only", choices=DEVICES, action="append", help="a device; all by default")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    # Installed for tests only.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for device in options.only or DEVICES:
            context = browser.new_context(**DEVICES[device])
            page = context.new_page()
            page.set_default_timeout(WAIT_MILLISECONDS)
            page.goto(options.url)
            take_all(page, options.to, device)
            context.close()
        browser.close()


def take_all(page: Any, folder: Path, device: str) -> None:
    """Goes through the page, and takes a picture of each state."""
    page.locator("#ability button").wait_for()
    _take(page, folder, f"empty-{device}")
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#paint:not([disabled])")
    _take(page, folder, f"mask-{device}")
    # Enough of them to be seen at work.
    page.click("#settings-toggle")
    page.fill("[name=num_inference_steps]", "100")
    page.click("#settings-close")
    page.click("#paint")
    page.wait_for_selector("#region:not([hidden])")
    _take(page, folder, f"painting-{device}")
    page.wait_for_selector("#outcome:not([hidden])")
    page.wait_for_timeout(1500)
    page.focus("#divider")
    page.keyboard.press("Home")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    _take(page, folder, f"result-{device}")
    page.click("#back")
    page.click("[data-tool=extend]")
    page.click("[data-side=right]")
    _take(page, folder, f"extend-{device}")


def _take(page: Any, folder: Path, name: str) -> None:
    page.wait_for_timeout(900)  # until what moves has come to rest
    file = folder / f"{name}.webp"
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(file, quality=82, method=6)
    print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
