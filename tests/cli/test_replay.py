"""``sd-inpaint replay``: the same bytes, or what has changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sd_inpaint.cli import painters
from sd_inpaint.cli.application import app
from sd_inpaint.errors import InvalidImageError
from tests.support.command_painter import PlainPainter
from tests.support.pictures import hole, photo, written

INPUTS = ("--image", "photo.png", "--mask", "mask.png")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, a mask and nothing else; nothing is painted by a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(painters, "LocalPainter", PlainPainter)
    (tmp_path / "photo.png").write_bytes(written(photo()))
    (tmp_path / "mask.png").write_bytes(written(hole()))
    PlainPainter.painted.clear()
    return tmp_path


def run(*arguments: str) -> Result:
    """Runs the command in this process."""
    return CliRunner().invoke(app, [*arguments])


def replay(*options: str, result: str = "out.png") -> tuple[int, dict[str, Any]]:
    """Replays a result; gives the exit code and what was told."""
    done = run("replay", result, *INPUTS, "--json", *options)
    assert done.exit_code in (0, 1), done.output
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.jpg", "out.avif"])
def test_nothing_changed_is_the_same_bytes(name: str) -> None:
    """In every format the same file comes out; of several pictures, each by itself."""
    lossy = [] if name == "out.png" else ["--quality", "77"]
    assert run("paint", "photo.png", "mask.png", "a rose", "-o", name, "--seed", "7", *lossy).exit_code == 0
    assert replay(result=name) == (0, {"outcome": "the same bytes", "changes": {}})
    run("paint", "photo.png", "mask.png", "a rose", "-o", name, "-n", "2", "--force", *lossy)
    second = name.replace("out", "out-2")
    assert replay("-o", f"again-{name}", result=second)[1]["outcome"] == "the same bytes"
    assert Path(f"again-{name}").read_bytes() == Path(second).read_bytes()


def test_a_result_is_not_written_under_another_formats_name() -> None:
    """A WebP comes out as a WebP, so a name that says PNG is refused, before anything is painted."""
    run("paint", "photo.png", "mask.png", "a rose", "-o", "out.webp")
    PlainPainter.painted.clear()
    assert "the name says png" in str(run("replay", "out.webp", *INPUTS, "-o", "again.png").exception)
    assert not PlainPainter.painted


def test_other_weights_are_said_and_nothing_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other weights there is no hope; --anyway paints all the same, and compares."""
    run("paint", "photo.png", "mask.png", "a rose", "-o", "out.png")
    monkeypatch.setattr(PlainPainter, "weights", "b" * 64)
    PlainPainter.painted.clear()
    code, told = replay()
    assert (code, told["outcome"]) == (1, None)
    assert told["changes"] == {"weights": "it was aaaaaaaaaaaa and is bbbbbbbbbbbb"}
    assert not PlainPainter.painted
    # These weights paint the same, but the file says which they were.
    code, told = replay("--anyway")
    assert (code, told["outcome"]) == (0, "the same pixels, in another file")


def test_another_version_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version and device are said, and the pictures compared."""
    run("paint", "photo.png", "mask.png", "a rose", "-o", "out.png")
    monkeypatch.setattr(PlainPainter, "version", "9.9")
    code, told = replay()
    assert (code, told["outcome"], list(told["changes"])) == (0, "the same bytes", ["version"])


def test_other_inputs_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another picture or mask is known by its digest before anything is loaded."""
    run("paint", "photo.png", "mask.png", "a rose", "-o", "out.png")
    Path("photo.png").write_bytes(written(photo(), "JPEG"))
    Path("mask.png").write_bytes(written(hole(), "WEBP"))
    code, told = replay()
    assert (code, told["outcome"], sorted(told["changes"])) == (1, None, ["mask", "picture"])
    code, told = replay("--anyway")
    assert code == 1
    assert told["outcome"].startswith("other pixels")


def test_what_the_file_says_is_shown() -> None:
    """Without the inputs, the record is shown."""
    run("paint", "photo.png", "mask.png", "a rose", "-o", "out.png", "--steps", "9")
    told = json.loads(run("replay", "out.png", "--json").stdout)
    assert told["parameters"]["num_inference_steps"] == 9
    assert told["weights_sha256"] == PlainPainter.weights
    assert "a rose" in run("replay", "out.png").output


def test_a_picture_without_a_record_is_an_error() -> None:
    """A picture of another program is said to be none of this service's."""
    result = run("replay", "photo.png", *INPUTS)
    assert isinstance(result.exception, InvalidImageError)
    assert "does not say" in str(result.exception)


@pytest.mark.slow
def test_the_demo_model_makes_its_picture_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with the real model: the same bytes from its own file, another picture with another seed."""
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SD_INPAINT_MODEL", "demo")
    options = ("--steps", "2", "--region", "full", "--guidance", "1")
    done = run("paint", "photo.png", "mask.png", "a rose", "-o", "out.png", "--demo", "--seed", "-1", *options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert replay() == (0, {"outcome": "the same bytes", "changes": {}})
