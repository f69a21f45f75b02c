"""The examples of docs/client.md, as they stand there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live_edge import LiveEdge, live_edge
from tests.support.pictures import hole, photo, written
from tests.support.repository import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text("utf-8"), re.DOTALL)

PRINTED = {
    "num_inference_steps=1000": "num_inference_steps",
    "on_progress=show": "done: step",
    "small-mask.png": "[70, 53] [9, 9]",
    "client.health": "healthy",
}
"""What some of them print, by something in them."""


@pytest.fixture(scope="module")
def edge() -> Iterator[LiveEdge]:
    """A served edge."""
    with live_edge() as live:
        yield live


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda code: code.splitlines()[-1].strip()[:40])
def test_an_example_runs(
    edge: LiveEdge, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each example runs to its end against a server, and leaves the files it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(written(photo(), "JPEG"))
    (tmp_path / "mask.png").write_bytes(written(hole()))
    (tmp_path / "small-mask.png").write_bytes(written(hole((9, 9))))
    assert "http://localhost:8000" in example
    exec(compile(example.replace("http://localhost:8000", edge.url), "client.md", "exec"), {"__name__": "example"})  # noqa: S102
    printed = capsys.readouterr().out
    assert all(wanted in printed for part, wanted in PRINTED.items() if part in example)
    for name in re.findall(r'save\("(.*?)"\)', example):
        assert (tmp_path / name).stat().st_size


def test_there_are_examples() -> None:
    """The page has some, and each expectation is one's."""
    assert len(EXAMPLES) >= 7
    assert all(any(part in example for example in EXAMPLES) for part in PRINTED)
