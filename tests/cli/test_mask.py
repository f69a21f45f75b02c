"""``sd-inpaint mask`` and ``sd-inpaint extend``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sd_inpaint.cli.application import app
from sd_inpaint.errors import SizeMismatchError
from sd_inpaint.imaging import masks
from sd_inpaint.imaging.mask_shapes import box, ellipse
from tests.support.pictures import SIZE, hole, opened, photo, written


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture that is turned by its EXIF, and another mask."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter to the right, as cameras have it
    (tmp_path / "photo.jpg").write_bytes(written(photo((SIZE[1], SIZE[0])), "JPEG", exif=exif))
    (tmp_path / "hole.png").write_bytes(written(hole()))
    return tmp_path


def run(*arguments: str) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(app, list(arguments))


def made(*options: str) -> Any:
    """The mask that options make."""
    result = run("mask", "photo.jpg", "-o", "mask.png", "--force", *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return np.asarray(Image.open("mask.png").convert("L"))


def test_a_mask_has_the_size_that_is_displayed() -> None:
    """The picture is turned upright first, as the service does."""
    assert (made("--box", "10,20,30,40") == box(SIZE, (10, 20, 30, 40))).all()


def test_shapes_are_joined_and_finished_as_the_service_does() -> None:
    """Several shapes are one mask; grow, blur and invert are the service's own."""
    joined = np.maximum(box(SIZE, (0, 0, 10, 10)), ellipse(SIZE, (35, 26.5, 70, 53)))
    assert (made("--box", "0,0,10,10", "--ellipse", "50%,50%,100%,100%") == joined).all()
    finished = masks.prepare(joined, invert=True, grow=-3, blur=1.5)
    options = ("--box", "0,0,10,10", "--ellipse", "50%,50%,100%,100%", "--invert", "--grow", "-3", "--blur", "1.5")
    assert (made(*options) == finished).all()


def test_masks_are_added_cut_and_taken_away() -> None:
    """--mask adds a file, --within keeps what is in it, --without takes it away."""
    other, left = np.asarray(hole()), box(SIZE, (0, 0, 30, 53))
    assert (made("--mask", "hole.png") == other).all()
    assert (made("--box", "0,0,30,100%", "--within", "hole.png") == np.minimum(left, other)).all()
    assert (made("--box", "0,0,30,100%", "--without", "hole.png") == np.minimum(left, 255 - other)).all()


def test_colours_and_differences() -> None:
    """A colour may be a name; a second picture is compared."""
    Image.new("RGB", SIZE, "lime").save("lime.png")
    assert run("mask", "lime.png", "--color", "lime", "-o", "a.png").exit_code == 0
    assert (opened(Path("a.png").read_bytes()) == 255).all()
    assert run("mask", "lime.png", "--difference", "lime.png", "-o", "b.png").exit_code == 0
    assert not opened(Path("b.png").read_bytes()).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--box"),
        (["--box", "1,2,3"], "LEFT,TOP"),
        (["--box", "30,30,10,10"], "empty"),
        (["--polygon", "1,1 2,2"], "three"),
        (["--polygon", "1 2 3"], "X,Y"),
        (["--ellipse", "a,b,c,d"], "'a'"),
        (["--color", "blurple"], "blurple"),
        (["--box", "0,0,1,1", "-o", "mask.jpg"], ".png"),
        (["--box", "0,0,1,1", "-o", "hole.png"], "--force"),
    ],
)
def test_what_cannot_be_is_said(options: list[str], words: str) -> None:
    """A wrong value is named."""
    result = run("mask", "photo.jpg", *options)
    assert result.exit_code == 1
    assert words in str(result.exception)


def test_a_mask_of_another_size_is_refused() -> None:
    """All pictures have one size."""
    Path("small.png").write_bytes(written(hole((9, 9))))
    result = run("mask", "photo.jpg", "--mask", "small.png")
    assert isinstance(result.exception, SizeMismatchError)


def test_what_was_made_is_told() -> None:
    """How much is white, and where; on stdout the mask itself."""
    told = json.loads(run("mask", "photo.jpg", "--box", "10,20,30,40", "-o", "m.png", "--json").stdout)
    assert told == {"output": "m.png", "size": list(SIZE), "white": 0.1078, "box": [10, 20, 30, 40]}
    assert opened(run("mask", "photo.jpg", "--box", "1,1,9,9", "-o", "-").stdout_bytes).shape[:2] == (53, 70)
    assert "all black" in run("mask", "photo.jpg", "--box", "900,900,990,990", "-o", "n.png").output


class TestExtend:
    """Room around a picture."""

    def test_picture_and_mask_fit(self) -> None:
        """Both have the larger size; the next command is shown."""
        result = run("extend", "photo.jpg", "--left", "10", "--bottom", "100%")
        assert result.exit_code == 0, result.output
        assert "sd-inpaint paint photo-extended.png photo-extended-mask.png" in result.output
        picture, mask = (opened(Path(f"photo-extended{end}.png").read_bytes()) for end in ("", "-mask"))
        assert picture.shape == mask.shape == (106, 80, 3)
        assert (mask[53:] == 255).all()

    def test_a_ratio_chooses_the_sides(self) -> None:
        """2:1 of 70×53 is 106×53."""
        told = json.loads(run("extend", "photo.jpg", "--ratio", "2:1", "-o", "wide.webp", "--json").stdout)
        assert (told["size"], told["mask"], told["left"], told["top"]) == ([106, 53], "wide-mask.png", 18, 0)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], "nothing to add"),
            (["--left", "-5"], "cut"),
            (["--ratio", "2"], "W:H"),
            (["--ratio", "2:1", "--left", "5"], "alone"),
            (["--left", "99999999"], "MAX_PIXELS"),
            (["--left", "5", "-o", "hole.png"], "--force"),
            (["--left", "5", "-o", "x.png", "--mask-output", "x.png"], "of its own"),
            (["--left", "5", "--mask-output", "x.jpg"], "is a PNG"),
            (["--left", "5", "-o", "-"], "of its own"),
        ],
    )
    def test_what_cannot_be_is_said(self, options: list[str], words: str) -> None:
        """A wrong value is named."""
        result = run("extend", "photo.jpg", *options)
        assert result.exit_code == 1
        assert words in str(result.exception)
