"""``sd-inpaint paint``: options from the schema, one picture, and folders that a killed run leaves half done."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner, Result

from sd_inpaint.cli import outputs, painters
from sd_inpaint.cli.application import app
from sd_inpaint.cli.journal import NAME, Journal
from sd_inpaint.errors import InvalidParameterError, UnauthorizedError
from sd_inpaint.http.wire.parameters import describe_bounds
from sd_inpaint.schema import InpaintParameters, OutputFormat, SchedulerName
from tests.support import edge
from tests.support.command_painter import UNLUCKY, PlainPainter
from tests.support.live_edge import live_edge
from tests.support.pictures import hole, opened, photo, written
from tests.support.repository import ROOT

PICTURES = 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture and a mask, in which the command paints without a model."""
    (tmp_path / "photo.png").write_bytes(written(photo()))
    (tmp_path / "mask.png").write_bytes(written(hole()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(painters, "LocalPainter", PlainPainter)
    PlainPainter.painted.clear()
    return tmp_path


def run(*arguments: str) -> Result:
    """Runs the command in this process."""
    return CliRunner().invoke(app, ["paint", *arguments])


def failure(result: Result) -> str:
    """What the command raised for its caller to print."""
    assert result.exception is not None
    return str(result.exception)


def make_pictures(folder: Path, count: int = PICTURES) -> None:
    """Makes pictures, none like another, and a mask for each."""
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    for number in range(count):
        pixels = np.asarray(photo()).copy()
        pixels[0, 0] = number
        (folder / "photos" / f"{number:02}.png").write_bytes(written(Image.fromarray(pixels)))
        (folder / "masks" / f"{number:02}.webp").write_bytes(written(hole(), "WEBP", lossless=True))


class TestOptions:
    """The schema's parameters as options."""

    def test_each_parameter_is_an_option_with_its_bounds(self) -> None:
        """Each parameter has its option, with the schema's description, bounds and choices, and unset by default."""
        options = {option.name: option for option in cast("Any", get_command(app)).commands["paint"].params}
        for name, field in InpaintParameters.model_fields.items():
            if name == "prompt":
                continue
            option, bounds = options[name], describe_bounds(field)
            assert f"--{name.replace('_', '-')}" in option.opts
            assert option.default is None
            assert option.help.startswith(field.description)
            assert "above" not in bounds or f"Above {bounds['above']:g}" in option.help
            assert (option.min, option.max) == (bounds.get("minimum"), bounds.get("maximum"))
            assert "choices" not in bounds or list(option.type_descriptor.annotation) == bounds["choices"]

    def test_they_reach_the_painter(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is typed is what is painted with; what is not typed is the schema's default."""
        seen: list[InpaintParameters] = []

        class Noting(PlainPainter):
            def paint(self, work: painters.Work, report: painters.Report) -> painters.Result:
                seen.append(work.parameters)
                return super().paint(work, report)

        monkeypatch.setattr(painters, "LocalPainter", Noting)
        options = (
            "--steps 7 --guidance 3.5 --seed 9 --scheduler euler_a --mask-grow -3 --color-match --no-prompt-weights"
        )
        result = run("photo.png", "mask.png", "a (red:3) rose", "-o", "out.png", *options.split())
        assert result.exit_code == 0, result.output
        assert seen == [
            InpaintParameters(
                prompt="a (red:3) rose",
                num_inference_steps=7,
                guidance_scale=3.5,
                seed=9,
                scheduler=SchedulerName.EULER_A,
                mask_grow=-3,
                color_match=True,
                prompt_weights=False,
                output_format=OutputFormat.PNG,
            )
        ]

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (["--steps", "0"], 2, "equal to 1"),
            (["--scheduler", "magic"], 2, "magic"),
            (["--strength", "0"], 1, "strength"),
            (["--quality", "50", "-o", "x.gif"], 1, ".png"),
            (["-o", "x.webp", "--output-format", "png"], 1, "webp"),
            (["--jobs", "2"], 2, "--server"),
            (["--demo", "--model", "x"], 2, "--demo"),
            (["--server", "nowhere"], 2, "nowhere"),
            (["more words"], 2, "quotes"),
        ],
    )
    def test_what_cannot_be_is_said(self, folder: Path, options: list[str], code: int, words: str) -> None:
        """A wrong option is refused before anything is painted, and named."""
        result = run("photo.png", "mask.png", "a rose", *options)
        assert result.exit_code == code
        assert words in (result.output if code == 2 else failure(result))
        assert not PlainPainter.painted

    def test_a_mask_that_is_named_by_nothing_is_none(self, folder: Path) -> None:
        """A variable that was never set is not the folder in which the command runs."""
        assert "named by nothing" in failure(run("photo.png", "", "a rose"))
        assert not PlainPainter.painted

    def test_a_prompt_that_the_service_refuses_is_refused_here(self, folder: Path) -> None:
        """Prompts are read before the model is loaded."""
        result = run("photo.png", "mask.png", "a (red:3) rose")
        assert isinstance(result.exception, InvalidParameterError)
        assert not PlainPainter.painted


class TestOnePicture:
    """A picture, a mask and a prompt."""

    def test_the_result_is_where_it_was_asked_for(self, folder: Path) -> None:
        """The name decides about the format; several results are numbered; stdout has the path and the seed."""
        result = run("photo.png", "mask.png", "a rose", "-o", "new/out.webp", "-n", "2", "--seed", "7")
        assert result.exit_code == 0, result.output
        for number, seed in ((1, 7), (2, 8)):
            with Image.open(folder / f"new/out-{number}.webp") as picture:
                assert picture.format == "WEBP"
            assert f"out-{number}.webp  seed {seed}" in result.output

    def test_without_a_name_it_is_beside_nothing_else(self, folder: Path) -> None:
        """The default is a name made of the picture's, in the current folder; in a folder, it is the picture's own."""
        run("photo.png", "mask.png", "a rose")
        (folder / "out").mkdir()
        run("photo.png", "mask.png", "a rose", "-o", "out", "--output-format", "jpeg")
        assert (folder / "photo-painted.png").is_file()
        assert (folder / "out" / "photo.jpeg").is_file()

    def test_nothing_is_overwritten(self, folder: Path) -> None:
        """A file that is there stays, before anything is painted; --force overwrites it."""
        (folder / "out.png").write_text("mine")
        assert "--force" in failure(run("photo.png", "mask.png", "a rose", "-o", "out.png"))
        assert not PlainPainter.painted
        assert run("photo.png", "mask.png", "a rose", "-o", "out.png", "--force").exit_code == 0
        assert opened((folder / "out.png").read_bytes()).shape == (53, 70, 3)

    def test_stdout_gets_the_picture_alone(self, folder: Path) -> None:
        """With -o -, stdout is the file."""
        result = run("photo.png", "mask.png", "a rose", "-o", "-")
        assert opened(result.stdout_bytes).shape == (53, 70, 3)
        assert [path.name for path in folder.iterdir() if path.suffix == ".part"] == []

    def test_transparency_can_be_the_mask(self, folder: Path) -> None:
        """--mask alpha repaints what is transparent, and leaves one argument for the prompt."""
        picture = photo(mode="RGBA")
        picture.putalpha(Image.eval(hole(), lambda level: 255 - level))
        (folder / "cut.png").write_bytes(written(picture))
        result = run("cut.png", "--mask", "alpha", "a rose", "-o", "out.png", "--seed", "5")
        assert result.exit_code == 0, result.output
        pixels = opened((folder / "out.png").read_bytes())
        assert (pixels[..., 0][np.asarray(hole()) > 0] == 5).all()

    def test_json(self, folder: Path) -> None:
        """With --json, stdout is one object."""
        told = json.loads(run("photo.png", "mask.png", "a rose", "-o", "out.png", "--json").stdout)
        assert told["pictures"] == [{"output": "out.png", "seed": 42}]
        assert told["steps"] == 2


class TestFolder:
    """Many pictures."""

    @pytest.fixture
    def pictures(self, folder: Path) -> Path:
        """Four pictures, each with its mask."""
        make_pictures(folder, 4)
        return folder

    def paint(self, *options: str, prompt: str = "a rose") -> tuple[int, dict[str, Any]]:
        """Paints the folder; gives the exit code and what was told."""
        PlainPainter.painted.clear()
        result = run("photos", "--mask", "masks", "-o", "out", prompt, "--json", *options)
        assert result.exit_code in (0, 1), result.output
        return result.exit_code, json.loads(result.stdout)

    def test_a_second_run_has_nothing_to_do(self, pictures: Path) -> None:
        """Done pictures are skipped, and the model is not even loaded."""
        assert self.paint() == (0, {"painted": [f"0{n}.png" for n in range(4)], "skipped": [], "failed": {}})
        assert self.paint()[1]["skipped"] == [f"0{n}.png" for n in range(4)]
        assert not PlainPainter.painted

    def test_what_has_changed_is_painted_again(self, pictures: Path) -> None:
        """Another picture, another mask, another parameter: each is other work. The same again is done."""
        self.paint()
        (pictures / "photos" / "01.png").write_bytes(written(photo((70, 53))))
        (pictures / "masks" / "02.webp").write_bytes(written(hole(), "WEBP", quality=5))
        assert self.paint()[1]["painted"] == ["01.png", "02.png"]
        assert len(self.paint("--steps", "9")[1]["painted"]) == 4
        assert self.paint("--steps", "9")[1]["painted"] == []

    def test_force_paints_all_of_it(self, pictures: Path) -> None:
        """--force does what is done once more."""
        self.paint()
        assert len(self.paint("--force")[1]["painted"]) == 4

    def test_a_file_of_somebody_else_is_not_overwritten(self, pictures: Path) -> None:
        """A result that was there, or was edited since, is a failure of that picture only; --force overwrites it."""
        (pictures / "out").mkdir()
        (pictures / "out" / "00.png").write_text("mine")
        code, told = self.paint()
        assert (code, list(told["failed"]), len(told["painted"])) == (1, ["00.png"], 3)
        assert (pictures / "out" / "00.png").read_text() == "mine"
        (pictures / "out" / "01.png").write_text("edited")
        assert list(self.paint("--seed", "3")[1]["failed"]) == ["00.png", "01.png"]
        assert self.paint("--seed", "3", "--force")[0] == 0

    def test_a_bad_one_does_not_stop_the_others(self, pictures: Path) -> None:
        """What is wrong with each is in a log, which goes away once all is well; the exit code says so."""
        (pictures / "photos" / "01.png").write_bytes(b"no picture")
        (pictures / "masks" / "02.webp").unlink()
        code, told = self.paint()
        assert (code, told["painted"]) == (1, ["00.png", "03.png"])
        log = (pictures / "out" / "sd-inpaint-failures.log").read_text()
        assert "01.png  The image" in log
        assert "02.png has no mask" in log
        (pictures / "photos" / "01.png").write_bytes(written(photo()))
        (pictures / "masks" / "02.webp").write_bytes(written(hole(), "WEBP"))
        assert self.paint()[0] == 0
        assert not (pictures / "out" / "sd-inpaint-failures.log").exists()
        assert len(self.paint(prompt=UNLUCKY)[1]["failed"]) == 4

    def test_names_that_are_no_text_and_files_that_are_no_pictures(self, pictures: Path) -> None:
        """A name from another system's archive is painted; what macOS puts beside a file is not looked at."""
        odd = os.fsdecode(b"caf\xe9")
        for place, (name, mask) in enumerate(((odd, odd), ("Cafe\u0301", "Caf\u00e9"))):
            (pictures / "photos" / f"{name}.png").write_bytes(written(photo((60 + place, 50))))
            (pictures / "masks" / f"{mask}.png").write_bytes(written(hole((60 + place, 50))))
        for beside in ("photos/._00.png", "masks/._00.webp"):
            (pictures / beside).write_bytes(b"\0\5\x16\7")
        code, told = self.paint()
        assert (code, len(told["painted"]), told["failed"]) == (0, 6, {})
        assert len(self.paint()[1]["skipped"]) == 6

    def test_a_full_disk_ends_the_run(self, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is met once and said by its name, and nothing half is left; the next run goes on."""

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(outputs.os, "fsync", full)
            PlainPainter.painted.clear()
            result = run("photos", "--mask", "masks", "-o", "out", "a rose")
        assert isinstance(result.exception, OSError)
        assert str(result.exception.filename).endswith(".png")
        assert len(PlainPainter.painted) == 1
        assert not list((pictures / "out").glob("*.part")) + list((pictures / "out").glob(".*.part"))
        assert len(self.paint()[1]["painted"]) == 4

    def test_what_would_end_every_picture_ends_the_run(self, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong key is met once, not for each of a thousand pictures; the next run goes on."""

        class Refusing(PlainPainter):
            def paint(self, work: painters.Work, report: painters.Report) -> painters.Result:
                if len(self.painted) == 2:
                    raise UnauthorizedError("The API key is not valid.")
                return super().paint(work, report)

        with monkeypatch.context() as patch:
            patch.setattr(painters, "LocalPainter", Refusing)
            assert "key" in failure(run("photos", "--mask", "masks", "-o", "out", "a rose"))
        assert len(PlainPainter.painted) == 2
        told = self.paint()[1]
        assert (len(told["painted"]), len(told["skipped"])) == (2, 2)

    def test_a_lost_journal_costs_nothing(self, pictures: Path) -> None:
        """Results say themselves what they were made of."""
        self.paint("--seed", "8")
        (pictures / "out" / NAME).unlink()
        assert len(self.paint("--seed", "8")[1]["skipped"]) == 4
        (pictures / "out" / NAME).unlink()
        assert len(self.paint("--seed", "9")[1]["failed"]) == 4

    def test_names_that_meet_are_refused(self, pictures: Path) -> None:
        """Two pictures that would become one file, and results among their pictures, are refused before anything."""
        (pictures / "photos" / "00.jpg").write_bytes(written(photo(), "JPEG"))
        assert "both" in failure(run("photos", "--mask", "masks", "-o", "out", "--output-format", "png"))
        assert "of their own" in failure(run("photos", "--mask", "masks", "-o", "photos"))
        (pictures / "empty").mkdir()
        assert "no pictures" in failure(run("empty", "--mask", "masks", "-o", "out"))

    def test_two_runs_at_once_are_one_too_many(self, pictures: Path) -> None:
        """A folder of results is one run's at a time."""
        with Journal(pictures / "out").held():
            assert "Another run" in failure(run("photos", "--mask", "masks", "-o", "out"))


DIES = """
import os, signal, sys
from pathlib import Path
from sd_inpaint.cli import application, painters
from tests.support.command_painter import PlainPainter

kind, _, after = sys.argv.pop(1).partition(":")
done = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Counting(PlainPainter):
    def paint(self, work, report):
        global done
        if kind == "paint" and done == int(after):
            die()
        result = super().paint(work, report)
        done += 1
        with open("count", "a") as file:
            file.write("x")
        return result

replace = Path.replace
def replace_or_die(self, target):
    if kind == "replace" and done == int(after):
        die()
    return replace(self, target)

Path.replace = replace_or_die
painters.LocalPainter = Counting
application.main()
"""
"""Runs the command, and dies in a picture, or between noting a result and giving it its name."""


@pytest.mark.parametrize("deaths", [["paint:7", "paint:6"], ["replace:5", "replace:8"]])
def test_a_run_that_was_killed_twice_paints_nothing_twice(folder: Path, deaths: list[str]) -> None:
    """After SIGKILL in a picture, or just before a result gets its name, the same command goes on where it was."""
    make_pictures(folder)
    command = ["paint", "photos", "--mask", "masks", "-o", "out", "a rose"]
    for death in [*deaths, "never:0"]:
        done = subprocess.run(
            [sys.executable, "-c", DIES, death, *command],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == (0 if death == "never:0" else -signal.SIGKILL), done.stderr
    assert len((folder / "count").read_text()) == PICTURES
    check_complete(folder)


def check_complete(folder: Path) -> None:
    """Asserts that there are all results, whole, and nothing beside them but the journal."""
    results = sorted(path.name for path in (folder / "out").iterdir())
    assert results == [NAME, *(f"{number:02}.png" for number in range(PICTURES))]
    for number in range(PICTURES):
        assert opened((folder / "out" / f"{number:02}.png").read_bytes())[0, 0].tolist() == [number] * 3


class SlowPainter(edge.FakePainter):
    """Takes a while for each picture, so that a kill falls into some."""

    async def paint(self, *arguments: Any, **options: Any) -> Any:
        """Waits, then paints."""
        import asyncio

        await asyncio.sleep(0.2)
        return await super().paint(*arguments, **options)


def test_a_server_paints_each_picture_once_however_often_the_run_is_killed(tmp_path: Path) -> None:
    """With jobs in flight at a SIGKILL, the next run gets their results: the server's own count says so."""
    make_pictures(tmp_path)
    with live_edge(painter=SlowPainter, api_keys=("k",), state_dir=tmp_path / "state") as live:
        command = [sys.executable, "-m", "sd_inpaint", "paint", "photos", "--mask", "masks", "-o", "out"]
        command += ["a rose", "--server", live.url, "--jobs", "4"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "SD_INPAINT_KEY": "k"}
        for wanted in (4, 10, None):
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                if wanted is not None:
                    wait_for_results(tmp_path / "out", wanted, process)
                    process.kill()
                told, _ = process.communicate(timeout=120)
            finally:
                process.kill()
            assert process.returncode == (0 if wanted is None else -signal.SIGKILL), told
        assert len(live.painter.requests) == PICTURES
    check_complete(tmp_path)


def test_a_wrong_address_is_found_at_once(folder: Path) -> None:
    """Where nobody answers, nothing is tried again and again."""
    assert "cannot be reached" in failure(run("photo.png", "mask.png", "a rose", "--server", "http://127.0.0.1:9"))


def wait_for_results(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Waits until there are so many results."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if len([path for path in out.iterdir() if path.suffix == ".png"]) >= count:
                return
        time.sleep(0.01)
    raise AssertionError(f"{count} results did not come")
