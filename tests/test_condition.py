"""What is wrong while the service still serves."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sd_inpaint.condition import EXPIRY_WARNING_DAYS, LOW_DISK_BYTES, STALLED_SECONDS, Condition
from sd_inpaint.errors import StateUnavailableError
from sd_inpaint.imaging.credentials import ContentCredentials
from sd_inpaint.jobs.job import StoreSpace
from sd_inpaint.jobs.sqlite import SqliteJobStore
from sd_inpaint.work.memory_budget import MemoryBudget, resident_bytes

ROOMY = StoreSpace(used_bytes=1, max_bytes=2, free_bytes=LOW_DISK_BYTES)


class FakeRunner:
    """A runner whose store is in the state that a test wants."""

    def __init__(self) -> None:
        self.sentence: str | None = None
        self.room: StoreSpace | None = ROOMY

    def trouble(self) -> str | None:
        """Gives the test's sentence."""
        return self.sentence

    def space(self) -> StoreSpace | None:
        """Gives the test's space, or fails as a lost folder does."""
        if self.sentence is not None:
            raise StateUnavailableError(self.sentence)
        return self.room


@pytest.fixture
def parts() -> Any:
    """All that a condition looks at, in order."""
    engine = SimpleNamespace(waiting_canvases=1, turn_age_seconds=STALLED_SECONDS, devices=1, lost_devices=0)
    return SimpleNamespace(engine=engine, runner=FakeRunner(), budget=MemoryBudget(2 * resident_bytes()))


def codes(parts: Any) -> list[str]:
    """What a new condition of these parts finds."""
    condition = Condition(parts.engine, parts.runner, parts.budget)
    condition.look_at_disk()
    return [problem.code for problem in condition.problems()]


def test_nothing_is_wrong_up_to_each_bound(parts: Any) -> None:
    """A disk, a memory and a loop that are at their bounds are in order."""
    assert codes(parts) == []


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (timedelta(days=EXPIRY_WARNING_DAYS, hours=1), []),
        (timedelta(days=EXPIRY_WARNING_DAYS, hours=-1), ["certificate_expires_soon"]),
        (timedelta(hours=-1), ["certificate_expired"]),
    ],
    ids=["valid", "soon", "expired"],
)
def test_certificate(parts: Any, left: timedelta, expected: list[str]) -> None:
    """A certificate is a problem from two weeks before it expires, and the sentence says when that is."""
    until = datetime.now(UTC) + left
    credentials = ContentCredentials.__new__(ContentCredentials)
    credentials.valid_until = until
    found = Condition(parts.engine, parts.runner, parts.budget, credentials).problems()
    assert [problem.code for problem in found] == expected
    assert all(f"{until:%Y-%m-%d %H:%M}" in problem.sentence for problem in found)


def test_each_trouble_is_found(parts: Any) -> None:
    """A lost store, a full disk, too much memory, a stalled loop and a lost device are found, each by itself."""
    parts.runner.room = StoreSpace(1, 2, LOW_DISK_BYTES - 1)
    assert codes(parts) == ["disk_low"]
    parts.runner.sentence = "Jobs cannot be stored."
    assert codes(parts) == ["state_unavailable"]
    parts.runner = FakeRunner()
    parts.engine.turn_age_seconds = STALLED_SECONDS + 1
    assert codes(parts) == ["loop_stalled"]
    parts.engine.turn_age_seconds = math.inf
    assert codes(parts) == ["loop_stalled"]
    parts.engine.waiting_canvases = 0
    assert codes(parts) == []
    parts.engine.lost_devices = 1
    assert codes(parts) == ["device_lost"]
    parts.engine.lost_devices = 0
    parts.budget = MemoryBudget(resident_bytes() // 2)
    assert codes(parts) == ["memory_high"]


def test_the_figures_can_be_sent_as_json(parts: Any) -> None:
    """A loop whose thread has ended has no age, since JSON has no infinity."""
    parts.engine.turn_age_seconds = math.inf
    figures = Condition(parts.engine, parts.runner, parts.budget).figures()
    assert figures["loop"] == {"turn_age_seconds": None}
    assert figures["problems"] == ["loop_stalled"]


def test_a_folder_has_its_space(tmp_path: Path) -> None:
    """The store in a folder counts its files, its quota and what is free on the disk."""
    store = SqliteJobStore(tmp_path, result_ttl_seconds=60, max_bytes=12345)
    (tmp_path / "files" / "one.image").write_bytes(bytes(1000))
    space = store.space()
    store.close()
    assert (space.used_bytes, space.max_bytes) == (1000, 12345)
    assert space.free_bytes > 0
