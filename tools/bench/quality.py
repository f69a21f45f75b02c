"""What a painter does to the pixels beside a mask: this service, diffusers' pipeline, and cv2.inpaint as a floor.

Eight photographs that scikit-image ships, masks of five kinds. The figures say nothing about how good the painted thing
is: they say whether kept pixels are kept, and whether one sees where the mask ended.

    outside   largest change of a pixel where the mask is 0, in levels of 255
    ΔE        colour difference (CIEDE2000) between neighbours on both sides of the border, less what it is in the photo
    jump      luminance step across the border against that of neighbours near by; 1 is no visible edge
"""

import argparse
import asyncio
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2gray, rgb2lab

from sd_inpaint.imaging.masks import is_hole
from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintRequest
from sd_inpaint.settings import Settings

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "hubble_deep_field", "retina", "ihc")
LONGEST_SIDE = 400  # pixels
PROMPT = "empty background, natural scene"
NEAR = 6  # pixels on both sides of the border that count as its surroundings

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load_photos() -> Iterator[tuple[str, np.ndarray]]:
    """Yields (H, W, 3) uint8 photographs, scaled to one longest side; never a multiple of a stride."""
    folder = Path(skimage.data.__file__).parent
    for name in PHOTOS:
        path = next(folder.glob(f"{name}.*"))
        with Image.open(path) as photo:
            rgb = photo.convert("RGB")
        rgb.thumbnail((LONGEST_SIDE + 3, LONGEST_SIDE - 17))
        yield name, np.array(rgb)


def make_masks(height: int, width: int) -> dict[str, np.ndarray]:
    """Makes masks of five kinds, (H, W) uint8 each."""
    shapes: dict[str, np.ndarray] = {}
    box, ellipse, brush, edge = (np.zeros((height, width), np.uint8) for _ in range(4))
    box[int(height * 0.3) : int(height * 0.55), int(width * 0.35) : int(width * 0.61)] = 255
    cv2.ellipse(ellipse, (int(width * 0.6), int(height * 0.45)), (width // 7, height // 6), 30, 0, 360, 255, -1)
    stroke = np.array([(0.2, 0.3), (0.35, 0.5), (0.5, 0.42), (0.68, 0.62)]) * (width, height)
    cv2.polylines(brush, [stroke.astype(np.int32)], False, 255, width // 14)
    edge[:, int(width * 0.82) :] = 255
    shapes["box"], shapes["ellipse"], shapes["brush"], shapes["edge"] = box, ellipse, brush, edge
    shapes["feathered"] = cv2.GaussianBlur(ellipse, (0, 0), width / 60)
    return shapes


def _neighbours(mask: np.ndarray, level: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray]]:
    """Yields, for both directions, the slices of all neighbour pairs and which of them the border runs between."""
    inside = mask >= level
    for first, second in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        yield first, second, inside[first] != inside[second]


def border_colour(photo: np.ndarray, result: np.ndarray, mask: np.ndarray, level: int = 128) -> float:
    """Mean CIEDE2000 across the border of ``mask >= level``, less that of the untouched photo."""
    lab_before, lab_after = rgb2lab(photo), rgb2lab(result)
    before, after = [], []
    for first, second, crossed in _neighbours(mask, level):
        before.append(deltaE_ciede2000(lab_before[first][crossed], lab_before[second][crossed]))
        after.append(deltaE_ciede2000(lab_after[first][crossed], lab_after[second][crossed]))
    return float(np.concatenate(after).mean() - np.concatenate(before).mean())


def border_jump(result: np.ndarray, mask: np.ndarray, level: int = 128) -> float:
    """Mean luminance step across the border over the mean step between neighbours within a few pixels of it."""
    grey = rgb2gray(result)
    inside = (mask >= level).astype(np.uint8)
    kernel = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    near = (cv2.dilate(inside, kernel) - cv2.erode(inside, kernel)).astype(bool)
    across, beside = [], []
    for first, second, crossed in _neighbours(mask, level):
        step = np.abs(grey[first] - grey[second])
        across.append(step[crossed])
        beside.append(step[near[first] & near[second] & ~crossed])
    return float(np.concatenate(across).mean() / max(np.concatenate(beside).mean(), 1e-4))


def this_service(painter: Painter, steps: int, **parameters: object) -> Method:
    """Paints through the engine, as a request does."""

    def paint(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
        options = {"prompt": PROMPT, "num_inference_steps": steps} | parameters
        request = InpaintRequest(Picture(photo, None, None), mask, InpaintParameters.model_validate(options))
        return asyncio.run(painter.paint(request)).variations[0].image.rgb

    return paint


def diffusers_pipeline(steps: int, padding_mask_crop: int | None) -> Method:
    """Paints with StableDiffusionInpaintPipeline's defaults; a result of another size is scaled back, as users do."""
    import torch
    from diffusers import StableDiffusionInpaintPipeline

    import sd_inpaint

    folder = Path(sd_inpaint.__file__).parent / "demo_model"
    pipeline: Any = StableDiffusionInpaintPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def paint(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
        result: Image.Image = pipeline(
            prompt=PROMPT,
            image=Image.fromarray(photo),
            mask_image=Image.fromarray(mask),
            num_inference_steps=steps,
            padding_mask_crop=padding_mask_crop,
            generator=torch.Generator().manual_seed(42),
        ).images[0]
        return np.array(result.convert("RGB").resize((photo.shape[1], photo.shape[0]), Image.Resampling.LANCZOS))

    return paint


def telea(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting by fast marching: no model, and so a floor for seams."""
    return np.asarray(cv2.inpaint(photo, is_hole(mask).astype(np.uint8), 3, cv2.INPAINT_TELEA))


def measure(method: Method, photos: int) -> dict[str, tuple[float, float, float]]:
    """Runs one method over photographs and masks; gives (outside, ΔE, jump) for each kind of mask."""
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for _, photo in list(load_photos())[:photos]:
        for kind, mask in make_masks(*photo.shape[:2]).items():
            result = method(photo, mask)
            kept = mask == 0
            outside = float(np.abs(result[kept].astype(int) - photo[kept]).max())
            seam = (outside, border_colour(photo, result, mask), border_jump(result, mask))
            figures.setdefault(kind, []).append(seam)
    return {
        kind: (
            max(o for o, _, _ in rows),
            statistics.mean(c for _, c, _ in rows),
            statistics.mean(j for _, _, j in rows),
        )
        for kind, rows in figures.items()
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--photos", type=int, default=len(PHOTOS), help="how many of the eight")
    options = parser.parse_args()
    painter = Painter(Settings(model="demo"))
    painter.start()
    painter.engine.wait_loaded()
    painter.check_open()
    methods = {
        "the photo itself": lambda photo, mask: photo,
        "this service": this_service(painter, options.steps),
        "this service, color_match": this_service(painter, options.steps, color_match=True),
        "this service, soft_mask=strength": this_service(painter, options.steps, soft_mask="strength"),
        "this service, region=full": this_service(painter, options.steps, region="full"),
        "pipeline": diffusers_pipeline(options.steps, None),
        "pipeline, padding_mask_crop=32": diffusers_pipeline(options.steps, 32),
        "cv2 Telea": telea,
    }
    print("| method | mask | outside | ΔE | jump |\n| --- | --- | --- | --- | --- |")
    for name, method in methods.items():
        for kind, (outside, colour, jump) in measure(method, options.photos).items():
            print(f"| {name} | {kind} | {outside:.0f} | {colour:.2f} | {jump:.2f} |", flush=True)
    painter.stop(drain_seconds=0.0)


if __name__ == "__main__":
    main()
