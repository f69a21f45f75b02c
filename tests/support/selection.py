"""Which tests run, and which of them in one process, so that what they share is started once."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAVY_PATHS = ("attack", "diffusion", "field", "release", "served", "test_painter.py", "tools")
"""Below tests/: what needs the model, a server or an image, runs tools, or goes over thousands of cases."""

HEAVY_FIXTURES = frozenset({"chromium", "postgres", "server", "workshop"})
"""What makes a test heavy wherever it stands."""

SHARED = ("workshop", "server", "postgres")
"""Fixtures that are started once a session: tests that use one of them run in one process, the first named first."""

LONG = (
    *("tests/tools/test_soak.py", "tests/served/test_jobs.py", "tests/tools/test_demo_lora.py"),
    *("tests/tools/test_capacity.py", "tests/tools/test_demo_model.py", "tests/tools/test_full_size.py"),
    *("tests/tools/test_quality.py", "tests/model_store/test_models.py", "tests/served/test_workers.py"),
    "tests/served/test_replicas.py",
)
"""Modules that take a minute or more: they begin early, so that the short ones fill up what is left at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the two ways to run only a part."""
    parser.addoption("--quick", action="store_true", help="runs the light half: see tests/support/selection.py")
    parser.addoption("--url", help="of a service of the demo model: runs the tests that need nothing but its address")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out unread what loads torch, where only the light half runs."""
    tests = Path(__file__).parents[1]
    return True if config.getoption("--quick") and collection_path in {tests / name for name in HEAVY_PATHS} else None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leaves out what was not asked for, and has xdist keep together what shares something."""
    wanted = [(item, _is_wanted(item)) for item in items]
    config.hook.pytest_deselected(items=[item for item, is_wanted in wanted if not is_wanted])
    if config.getoption("--quick") and "torch" in sys.modules:
        raise pytest.UsageError("--quick: a test that was collected loads torch")
    items[:] = sorted((item for item, is_wanted in wanted if is_wanted), key=_rank)
    if getattr(config.option, "loadgroup", False):
        for item in items:
            _name_group(item, _group(item))
    return (yield)


def _name_group(item: pytest.Item, group: str) -> None:
    """Writes a test's group behind its id, where the scheduler of pytest-xdist looks for it.

    By its own mark xdist 3.8 would write it to a place that pytest 9.2 does not read any more.
    """
    named = dataclasses.replace(item._id)
    object.__setattr__(named, "_str_cache", f"{item.nodeid}@{group}")
    item._id = named


def _is_wanted(item: pytest.Item) -> bool:
    if item.config.getoption("--url"):
        return item.get_closest_marker("contract") is not None
    return not (item.config.getoption("--quick") and _is_heavy(item))


def _is_heavy(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None or not HEAVY_FIXTURES.isdisjoint(_fixtures(item))


def _fixtures(item: pytest.Item) -> set[str]:
    """The fixtures that a test uses, directly or by others; a place for jobs is one in PostgreSQL or is not."""
    assert isinstance(item, pytest.Function)
    place = item.callspec.params.get("place") if hasattr(item, "callspec") else None
    return {*item.fixturenames, *([place] if place else [])}


def _group(item: pytest.Item) -> str:
    """What a test is run together with: all that share its server, else its module."""
    return next((name for name in SHARED if name in _fixtures(item)), item.nodeid.partition("::")[0])


def _rank(item: pytest.Item) -> int:
    order = (*SHARED, *LONG)
    group = _group(item)
    return order.index(group) if group in order else len(order)
