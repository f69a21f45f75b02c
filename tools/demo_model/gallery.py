"""Paints the guide's four use cases with the demo model, and lays them out: input, mask, result.

    scripts/demo-model gallery                        # draws docs/gallery.png
    scripts/demo-model gallery --before OLD_WEIGHTS   # twelve requests by both, into docs/demo_before_after.png

The photographs are of those held out from training, chosen with their masks before any result was seen.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintRequest
from sd_inpaint.settings import Settings
from tools import ROOT
from tools.demo_model.sources import HELD_OUT_PHOTOS, photo_pixels

GALLERY = ROOT / "docs" / "gallery.png"
BEFORE_AFTER = ROOT / "docs" / "demo_before_after.png"
TILE = 260  # pixels, the longest side of each picture shown
LINE = 22  # pixels, for a caption
SEED = 1  # of every picture shown


@dataclass(frozen=True)
class Case:
    """One use case: a photograph held out from training, what is masked in it, and the request."""

    title: str
    photo: str
    mask: Callable[[int, int], np.ndarray]
    prompt: str
    negative_prompt: str = ""


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


EMPTY, GO_ON = "empty background, natural scene", "continuation of the scene, seamless"  # the guide's own
CASES = (
    Case(
        "object removal",
        "seeding_by_Clements_Engelhardt",
        ellipse(0.82, 0.78, 0.16, 0.26),
        EMPTY,
        "object, person, watermark",
    ),
    Case(
        "object replacement",
        "life_by_Aitzol_Berasategi",
        ellipse(0.67, 0.68, 0.34, 0.44),
        "a red sports car",
        "old car, damaged",
    ),
    Case(
        "image extension",
        "seeding_by_Clements_Engelhardt",
        right_edge(0.2),
        GO_ON,
        "cut off, border, edge",
    ),
    Case(
        "face and detail",
        "chelsea.png",
        ellipse(0.45, 0.52, 0.44, 0.66),
        "smiling face, happy expression",
        "sad, angry, distorted",
    ),
)
# Of the objects, those that the weights before knew too.
COMPARED = (
    Case(
        "a rose in a meadow", "seeding_by_Clements_Engelhardt", ellipse(0.72, 0.55, 0.26, 0.44), "a beautiful red rose"
    ),
    Case("a cup on planks", "BytheWater", ellipse(0.3, 0.66, 0.26, 0.42), "a cup of coffee"),
    Case("a balloon in the sky", "Dune", ellipse(0.72, 0.3, 0.22, 0.36), "a red balloon"),
    Case("a mushroom in a wood", "Path", ellipse(0.55, 0.72, 0.26, 0.42), "a red mushroom"),
    Case("a frog by a stream", "life_by_Aitzol_Berasategi", ellipse(0.5, 0.72, 0.28, 0.42), "a frog"),
    Case("a rocket in the sky", "Kite", ellipse(0.32, 0.5, 0.26, 0.42), "a rocket"),
    Case("a face", "chelsea.png", ellipse(0.45, 0.52, 0.44, 0.66), "smiling face, happy expression"),
    Case("a hat", "chelsea.png", ellipse(0.5, 0.2, 0.4, 0.4), "a top hat"),
    Case("a kite less", "Kite", ellipse(0.675, 0.36, 0.1, 0.15), EMPTY),
    Case("a dandelion less", "seeding_by_Clements_Engelhardt", ellipse(0.82, 0.78, 0.16, 0.26), EMPTY),
    Case("more of a dune", "Dune", right_edge(0.25), GO_ON),
    Case("more of a lake", "BytheWater", right_edge(0.25), GO_ON),
)
SIDE = 768  # pixels, the longer side of each photograph


def load(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns the photograph, (H, W, 3) uint8, and its mask, (H, W) uint8."""
    by_name = {photo.name: photo for photo in HELD_OUT_PHOTOS}
    picture = Image.fromarray(photo_pixels(by_name.get(case.photo, case.photo)))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    photo = np.array(picture)
    return photo, case.mask(*photo.shape[:2])


def lay_out(rows: list[tuple[str, list[np.ndarray]]], columns: int = 1) -> Image.Image:
    """Puts the three pictures of each row beside one another, its caption above them; rows in so many columns."""
    thumbs = []
    for caption, pictures in rows:
        images = [Image.fromarray(picture).convert("RGB") for picture in pictures]
        for image in images:
            image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        thumbs.append((caption, images))
    width, each = 3 * (TILE + 8) + 8, -(-len(thumbs) // columns)
    stacks = [thumbs[first : first + each] for first in range(0, len(thumbs), each)]
    height = max(sum(images[0].height + LINE + 8 for _, images in stack) for stack in stacks)
    sheet = Image.new("RGB", (columns * width, height + 8), "#d8d8d8")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, stack in enumerate(stacks):
        left, top = number * width, 4
        for caption, images in stack:
            draw.text((left + 8, top), caption, fill="black", font=font)
            for column, image in enumerate(images):
                sheet.paste(image, (left + 8 + column * (TILE + 8), top + LINE))
            top += images[0].height + LINE + 8
    return sheet


def paint_all(cases: tuple[Case, ...], model: str) -> list[np.ndarray]:
    """Paints each case with the guide's defaults; ``model`` is demo or a folder in the same layout."""

    async def one(case: Case) -> np.ndarray:
        photo, mask = load(case)
        parameters = InpaintParameters(prompt=case.prompt, negative_prompt=case.negative_prompt, seed=SEED)
        result = await painter.paint(InpaintRequest(Picture(photo, None, None), mask, parameters))
        print(f"{case.title}: {result.inference_seconds:.1f} s", flush=True)
        return result.variations[0].image.rgb

    async def everything() -> list[np.ndarray]:
        return [await one(case) for case in cases]

    painter = Painter(Settings(model=model))
    painter.start()
    painter.engine.wait_loaded()
    try:
        return asyncio.run(everything())
    finally:
        painter.stop(drain_seconds=0.0)


def gallery() -> Image.Image:
    """The four use cases: photograph, mask, result."""
    rows = []
    for case, painted in zip(CASES, paint_all(CASES, "demo"), strict=True):
        rows.append((f"{case.title}: “{case.prompt}”", [*load(case), painted]))
    return lay_out(rows)


def before_and_after(old_weights: str) -> Image.Image:
    """The compared requests: photograph with the mask in grey, by the weights before, by today's."""
    rows = []
    both = (paint_all(COMPARED, model) for model in (old_weights, "demo"))
    for number, (case, before, after) in enumerate(zip(COMPARED, *both, strict=True), start=1):
        photo, mask = load(case)
        masked = np.where(mask[..., None] > 0, np.uint8(128), photo)
        rows.append((f"{number}. {case.title}: “{case.prompt}”; before, after", [masked, before, after]))
    return lay_out(rows, columns=2)


def main() -> None:
    """Writes a sheet."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo-model gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, help="the picture to write")
    parser.add_argument("--before", metavar="FOLDER", help="of the weights to compare with, in the same layout")
    args = parser.parse_args()
    target: Path = args.file or (BEFORE_AFTER if args.before else GALLERY)
    (before_and_after(args.before) if args.before else gallery()).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
