"""Paints the guide's four use cases with the demo model, and lays them out: input, mask, result."""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintRequest
from sd_inpaint.settings import Settings
from tools import ROOT

GALLERY = ROOT / "docs" / "gallery.png"
TILE = 260  # pixels, the longest side of each picture shown
LINE = 22  # pixels, for a caption


@dataclass(frozen=True)
class Case:
    """One use case: a photograph that scikit-image ships, what is masked in it, and the request."""

    title: str
    photo: str
    mask: Callable[[int, int], np.ndarray]
    prompt: str
    negative_prompt: str
    crop: tuple[int, int, int, int] | None = None


def ellipse(x: float, y: float, width: float, height: float) -> Callable[[int, int], np.ndarray]:
    """Makes a mask of one ellipse, given in fractions of the picture."""

    def draw(rows: int, columns: int) -> np.ndarray:
        mask = np.zeros((rows, columns), np.uint8)
        center, axes = (int(x * columns), int(y * rows)), (int(width * columns / 2), int(height * rows / 2))
        cv2.ellipse(mask, center, axes, 0, 0, 360, 255, -1)
        return mask

    return draw


def right_edge(part: float) -> Callable[[int, int], np.ndarray]:
    """Makes a mask of the right part of the picture."""

    def draw(rows: int, columns: int) -> np.ndarray:
        mask = np.zeros((rows, columns), np.uint8)
        mask[:, int((1 - part) * columns) :] = 255
        return mask

    return draw


CASES = (
    Case(
        "object removal",
        "coffee",
        ellipse(0.61, 0.66, 0.2, 0.42),
        "empty background, natural scene",
        "object, person, watermark",
    ),
    Case("object replacement", "coffee", ellipse(0.46, 0.38, 0.36, 0.55), "a red apple", "blurry"),
    Case("image extension", "rocket", right_edge(0.2), "continuation of the scene, seamless", "cut off, border, edge"),
    Case(
        "face and detail",
        "astronaut",
        ellipse(0.44, 0.21, 0.2, 0.28),
        "smiling face, happy expression",
        "sad, angry, distorted",
    ),
)


def load(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns the photograph, (H, W, 3) uint8, and its mask, (H, W) uint8."""
    path = next(Path(skimage.data.__file__).parent.glob(f"{case.photo}.*"))
    with Image.open(path) as file:
        photo = np.array(file.convert("RGB"))
    return photo, case.mask(*photo.shape[:2])


def lay_out(rows: list[tuple[Case, list[np.ndarray]]]) -> Image.Image:
    """Puts the pictures of each case beside one another, its title and prompt above them."""
    thumbs = []
    for case, pictures in rows:
        images = [Image.fromarray(picture).convert("RGB") for picture in pictures]
        for image in images:
            image.thumbnail((TILE, TILE))
        thumbs.append((case, images))
    height = sum(images[0].height + LINE + 8 for _, images in thumbs)
    sheet = Image.new("RGB", (3 * (TILE + 8) + 8, height + 8), "#d8d8d8")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(15), 4
    for case, images in thumbs:
        draw.text((8, top), f"{case.title}: “{case.prompt}”", fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(image, (8 + column * (TILE + 8), top + LINE))
        top += images[0].height + LINE + 8
    return sheet


async def paint_all(painter: Painter) -> list[tuple[Case, list[np.ndarray]]]:
    """Paints each case with the guide's defaults."""
    rows = []
    for case in CASES:
        photo, mask = load(case)
        parameters = InpaintParameters(prompt=case.prompt, negative_prompt=case.negative_prompt)
        result = await painter.paint(InpaintRequest(Picture(photo, None, None), mask, parameters))
        rows.append((case, [photo, mask, result.variations[0].image.rgb]))
        print(f"{case.title}: {result.inference_seconds:.1f} s")
    return rows


def main() -> None:
    """Writes the sheet."""
    parser = argparse.ArgumentParser(prog="scripts/demo-model gallery", description=__doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, default=GALLERY, help="the picture to write; docs/gallery.png by default"
    )
    target: Path = parser.parse_args().file
    painter = Painter(Settings(model="demo"))
    painter.start()
    painter.engine.wait_loaded()
    lay_out(asyncio.run(paint_all(painter))).save(target, optimize=True)
    painter.stop(drain_seconds=0.0)
    print(target)


if __name__ == "__main__":
    main()
