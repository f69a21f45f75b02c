"""What some tests need installed. No test installs anything: without its tools it is skipped, and says so in a line."""

import functools
import os
import subprocess
from typing import NoReturn

import pytest

from tests.support.repository import ROOT

REQUIRE = "TESTS_REQUIRE_TOOLS"
"""Set where nothing may be skipped for want of a tool, as in CI."""


def need(script: str) -> None:
    """Gives up where something is missing that one of scripts/ installs."""
    if missing := _missing(script):
        give_up(f"{missing}; scripts/{script} installs it")


def give_up(reason: str) -> NoReturn:
    """Skips the test, with one line that says what is missing; fails it where nothing may be."""
    if os.environ.get(REQUIRE):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@functools.cache
def _missing(script: str) -> str:
    done = subprocess.run([ROOT / "scripts" / script, "--check"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
