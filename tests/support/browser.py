"""A headless Chromium for tests of what people see."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.tools import need

ARGUMENTS = (
    "--no-sandbox",  # which root cannot have
    # Nothing is looked up that no test asks for.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


# Not for the whole session: while it is there, an event loop runs in this thread, and no test could start one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser, a ``playwright.sync_api.Browser``."""
    need("test-tools")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        yield browser
        browser.close()
