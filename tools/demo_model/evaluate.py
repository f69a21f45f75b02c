"""Measures the demo model through the service's own engine, on backgrounds and seeds it was not trained on.

    scripts/demo-model evaluate                        # all figures
    scripts/demo-model evaluate accuracy --repeats 2   # one of them
    scripts/demo-model evaluate sheet                  # draws docs/demo_objects.webp
    scripts/demo-model evaluate references             # draws what tests/tools/test_demo_model.py compares with

Figures:
    accuracy   share of objects whose painted hole lies nearest to that object among all objects
    removal    in the hole, against the true background and beside cv2's Telea inpainting: PSNR, and the detail's ratio
    seam       mean jump between neighbours across the hole's border, over that of the untouched picture
    extension  the detail's ratio in a quarter of the picture that is continued
    isolation  another prompt or seed changes the hole, and nothing else
    autoencoder  mean absolute reconstruction error on held-out pictures, a third of them with grey holes
    speed      seconds for one picture of the native size

The detail's ratio is the variance of the brightness's gradient in the hole, painted over true: below one is a haze.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sd_inpaint.imaging import geometry
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintRequest, Region, SchedulerName
from sd_inpaint.settings import Settings
from tools import ROOT
from tools.demo_model import data
from tools.demo_model.captions import plain_prompt
from tools.demo_model.objects import OBJECTS
from tools.demo_model.parts import NATIVE_SIZE
from tools.demo_model.sources import HELD_OUT_PHOTOS, SKIMAGE_HELD_OUT_PHOTOS, Photo

SHEET = ROOT / "docs" / "demo_objects.webp"  # a quarter of what PNG takes
REFERENCES = ROOT / "tests" / "golden" / "demo_objects.png"

HELD_OUT_SEED = 9_000_000  # training draws from small seeds
TEST_LABELS = ("red rose", "red car", "smiling face", "red apple", "cat", "yellow star", "pizza", "frog")
REFERENCE_SIZE = 64  # pixels a side of a test's reference
REMOVAL_PROMPT = "empty background, natural scene"  # the guide's own
EXTENSION_PROMPT = "continuation of the scene, seamless"  # the guide's own
REMOVAL_SPAN = (0.2, 0.5)  # of a hole to remove something from, as a share of the picture's side
SIDE = 256  # pixels of the pictures asked for; the service paints a part of each
REFERENCE_SIZES = (1.0, 0.94, 1.06)  # of the size that training gave objects in such a hole
REFERENCE_SHIFTS = (0.0, -0.03, 0.03)  # of that size, from the place that training gave them, along either axis
SMALLER = 2 / 3  # of most sides of the grid, the next smaller one
TELEA = "Telea's"  # what stands beside ours
CANDIDATES = 12  # objects that are looked at closer, after a first look at each


@dataclasses.dataclass(frozen=True)
class Request:
    """What to paint: ``picture`` (H, W, 3) uint8, ``hole`` (H, W) bool."""

    picture: data.Rgb
    hole: data.Hole
    prompt: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to paint."""

    steps: int = 30
    guidance_scale: float = 7.5
    scheduler: SchedulerName = SchedulerName.DEFAULT
    color_match: bool = False
    loras: str = ""


class Service:
    """The service's engine with one model loaded; a context manager. One thread at a time."""

    def __init__(self, model: str, threads: int, max_batch: int, loras: Sequence[pathlib.Path] = ()) -> None:
        settings = Settings(
            model=model, device="cpu", threads=threads, max_batch=max_batch, offline=True, loras=tuple(loras)
        )
        self._painter = Painter(settings)

    def __enter__(self) -> Service:
        self._painter.start()
        self._painter.engine.wait_loaded()
        return self

    def __exit__(self, *_: object) -> None:
        self._painter.stop(drain_seconds=5)

    def paint(self, requests: Sequence[Request], sampling: Sampling) -> list[data.Rgb]:
        """Paints requests, as many at a time as the engine takes into one batch."""

        async def one(request: Request, gate: asyncio.Semaphore) -> data.Rgb:
            parameters = InpaintParameters(
                prompt=request.prompt,
                seed=request.seed,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
                scheduler=sampling.scheduler,
                color_match=sampling.color_match,
                loras=sampling.loras,
            )
            mask = request.hole.astype(np.uint8) * 255
            async with gate:
                result = await self._painter.paint(InpaintRequest(Picture(request.picture), mask, parameters))
            return result.variations[0].image.rgb

        async def everything() -> list[data.Rgb]:
            gate = asyncio.Semaphore(16)
            return await asyncio.gather(*(one(request, gate) for request in requests))

        return asyncio.run(everything())


# --- held-out requests -----------------------------------------------------------------------------------------------


HELD_OUT: tuple[Photo | str, ...] = (*HELD_OUT_PHOTOS, *SKIMAGE_HELD_OUT_PHOTOS)


def object_request(label: int, repeat: int, size: int = SIDE, photos: Sequence[Photo | str] = HELD_OUT) -> Request:
    """Asks for an object in a box or ellipse somewhere in a crop of a photograph that training never saw."""
    rng = np.random.default_rng([HELD_OUT_SEED, label, repeat])
    side = rng.uniform(0.28, 0.45) * size
    x, y = rng.uniform(0.02 * size, 0.98 * size - side, 2)
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    (draw.rectangle if rng.random() < 0.6 else draw.ellipse)((x, y, x + side, y + side), fill=255)
    prompt = plain_prompt(OBJECTS[label])
    return Request(data.photo_crop(size, rng, photos), np.asarray(mask) >= 128, prompt, seed=1000 * repeat + label)


def removal_request(index: int, size: int = SIDE) -> tuple[Request, data.Rgb]:
    """Asks to remove an object from a held-out background; gives the request and the background."""
    rng = np.random.default_rng([HELD_OUT_SEED, 777, index])
    scene = data.photo_crop(size, rng, HELD_OUT)
    label = int(rng.integers(len(OBJECTS)))
    hole, place = data.object_hole(size, rng, REMOVAL_SPAN)
    layer = data.object_layer(label, place, size)
    solid = cv2.dilate(np.asarray(layer.getchannel("a")), np.ones((3, 3), np.uint8)) > 8
    return Request(data.put(scene, layer, place, shadow=0), hole | solid, REMOVAL_PROMPT, seed=index), scene


def extension_request(index: int, size: int = SIDE) -> tuple[Request, data.Rgb]:
    """Asks to continue a held-out background into a quarter of the picture, at one side; gives the whole one too."""
    rng = np.random.default_rng([HELD_OUT_SEED, 888, index])
    scene = data.photo_crop(size, rng, HELD_OUT)
    hole = np.zeros((size, size), np.bool_)
    hole[:, : size // 4] = True
    hole = np.rot90(hole, int(rng.integers(4))).copy()
    return Request(np.where(hole[..., None], np.uint8(128), scene), hole, EXTENSION_PROMPT, seed=index), scene


# --- figures ---------------------------------------------------------------------------------------------------------


def distance_to_object(painted: data.Rgb, request: Request, label: int, *, closely: bool = True) -> float:
    """How far a painted hole is from an object.

    The distance is the mean squared difference in the hole, after a Gaussian blur of one pixel on both sides, to the
    object drawn over the same background; the smallest over the side that training gave it in such a hole and the
    next smaller one, three sizes of each and nine places in the hole, or, where it is not looked at closely, the most
    likely of each. A hole that is hardly large enough for a side gets either.
    """
    # What the comparison needs of the picture, and no more: it is made hundreds of times.
    window, likely = _window(request.hole, likely_place(request.hole))
    picture, painted, in_window = request.picture[window], painted[window], request.hole[window]
    rows, columns = (np.flatnonzero(in_window.any(axis)) for axis in (1, 0))
    around = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    hole = in_window[around]
    target = cv2.GaussianBlur(painted[around].astype(np.float32), (0, 0), 1.0)
    best = np.inf
    shifts, sizes = (REFERENCE_SHIFTS, REFERENCE_SIZES) if closely else ((0.0,), (1.0,))
    for step, size, dx, dy in itertools.product((1.0, SMALLER), sizes, shifts, shifts):
        side = step * size * likely.side
        place = data.Place(likely.center_x + dx * side, likely.center_y + dy * side, side)
        reference = data.put(picture, data.object_layer(label, place, len(painted)), place)
        difference = cv2.GaussianBlur(reference[around].astype(np.float32), (0, 0), 1.0) - target
        best = min(best, float(np.square(difference)[hole].mean()))
    return best


def _window(hole: data.Hole, place: data.Place) -> tuple[tuple[slice, slice], data.Place]:
    """The square of a square picture that holds a hole and what an object there depends on; the place within it."""
    reach = data.LIGHT_REACH * place.side * max(REFERENCE_SIZES) + place.side * max(REFERENCE_SHIFTS)
    spans = []
    for axis, center in ((1, place.center_y), (0, place.center_x)):
        inside = np.flatnonzero(hole.any(axis))
        spans.append((min(inside[0], center - reach) - 2, max(inside[-1] + 1, center + reach) + 2))
    side = min(len(hole), math.ceil(max(last - first for first, last in spans)))
    # An even number of pixels from the picture's edge: halves are rounded to even numbers.
    top, left = (min(max(0, math.floor(first)), len(hole) - side) // 2 * 2 for first, _ in spans)
    side = min(len(hole) - max(top, left), side + 2)
    square = slice(top, top + side), slice(left, left + side)
    return square, data.Place(place.center_x - left, place.center_y - top, place.side)


@functools.cache
def _canvas_limits() -> CanvasLimits:
    return CanvasLimits(native_size=NATIVE_SIZE, stride=data.CELL, max_pixels=2**24)


def likely_place(hole: data.Hole) -> data.Place:
    """Where in a picture an object is painted: where training has them on the canvas that the service takes of it."""
    mask = hole.astype(np.uint8) * 255
    canvas = geometry.plan(mask, region=Region.AUTO, padding=None, limits=_canvas_limits())[0]
    place = data.place_in(geometry.cut_mask(canvas, mask)[: canvas.inner_height, : canvas.inner_width] > 0)
    scale = canvas.scale
    return data.Place(
        canvas.box.left + place.center_x / scale, canvas.box.top + place.center_y / scale, place.side / scale
    )


def nearest_object(painted: data.Rgb, request: Request) -> list[int]:
    """The nearest objects, the nearest first; see ``distance_to_object``."""
    first_look = [distance_to_object(painted, request, label, closely=False) for label in range(len(OBJECTS))]
    candidates = [int(i) for i in np.argsort(first_look)[:CANDIDATES]]
    return sorted(candidates, key=functools.partial(distance_to_object, painted, request))


def gradient_variance(picture: data.Rgb, hole: data.Hole) -> float:
    """Variance of the brightness's gradient within the hole, border pixels left out: how much detail is there."""
    brightness = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = cv2.erode(hole.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
    across, down = np.gradient(brightness, axis=1)[inside], np.gradient(brightness, axis=0)[inside]
    return float(across.var() + down.var())


def psnr(painted: data.Rgb, truth: data.Rgb, hole: data.Hole) -> float:
    """Peak signal-to-noise ratio inside the hole, in dB."""
    error = np.square(painted.astype(np.float64) - truth)[hole].mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def border_jump(picture: data.Rgb, hole: data.Hole) -> tuple[float, int]:
    """Sum of the absolute differences between neighbours on both sides of the hole's border, and their number."""
    total, count = 0.0, 0
    values = picture.astype(np.float32)
    for axis in (0, 1):
        across = np.diff(hole.astype(np.int8), axis=axis) != 0
        total += float(np.abs(np.diff(values, axis=axis)).mean(-1)[across].sum())
        count += int(across.sum())
    return total, count


# --- reports ---------------------------------------------------------------------------------------------------------


@functools.cache
def painted_objects(service: Service, sampling: Sampling, labels: range, repeat: int) -> list[tuple[Request, data.Rgb]]:
    """Asks for objects by their indices, see ``object_request``; once for the accuracy and the sheet."""
    requests = [object_request(label, repeat) for label in labels]
    return list(zip(requests, service.paint(requests, sampling), strict=True))


def accuracy(service: Service, sampling: Sampling, args: argparse.Namespace) -> float:
    """Prints top-1 and top-3 over the objects, and what was taken for what."""
    top1, top3, wrong = 0, 0, []
    labels = range(0, len(OBJECTS), args.every)
    paintings = [x for repeat in range(args.repeats) for x in painted_objects(service, sampling, labels, repeat)]
    for label, (request, painted) in zip(itertools.cycle(labels), paintings, strict=False):
        order = nearest_object(painted, request)
        top1 += order[0] == label
        top3 += label in order[:3]
        if order[0] != label:
            wrong.append(f"{OBJECTS[label].label} -> {OBJECTS[order[0]].label}")
    total = len(paintings)
    print(f"accuracy: top-1 {top1}/{total} = {top1 / total:.1%}, top-3 {top3 / total:.1%} ({len(labels)} objects)")
    print("  " + "; ".join(wrong))
    return top1 / total


def removal_and_seam(service: Service, sampling: Sampling, args: argparse.Namespace) -> tuple[float, float, float]:
    """Prints PSNR and detail of removals beside Telea's, and the seam's ratio; gives the PSNRs and that ratio."""
    cases = [removal_request(index) for index in range(args.removals)]
    paintings = service.paint([request for request, _ in cases], sampling)
    ratios: dict[str, list[float]] = {"ours": [], TELEA: []}
    details: dict[str, list[float]] = {"ours": [], TELEA: []}
    jump, jump_before = 0.0, 0.0
    for (request, truth), painted in zip(cases, paintings, strict=True):
        filled = cv2.inpaint(request.picture, request.hole.astype(np.uint8) * 255, 3, cv2.INPAINT_TELEA)
        for name, picture in (("ours", painted), (TELEA, filled)):
            ratios[name].append(psnr(picture, truth, request.hole))
            details[name].append(detail_ratio(picture, truth, request.hole))
        jump += border_jump(painted, request.hole)[0]
        jump_before += border_jump(truth, request.hole)[0]
    means = {name: float(np.mean(values)) for name, values in ratios.items()}
    for name, mean in means.items():
        print(
            f"removal, {name}: PSNR {mean:.2f} dB (median {np.median(ratios[name]):.2f}); {_of_detail(details[name])}"
        )
    print(f"  difference {means['ours'] - means[TELEA]:+.2f} dB ({len(cases)} pictures)")
    print(f"seam: border jump {jump / jump_before:.2f} times the untouched picture's")
    return means["ours"], means[TELEA], jump / jump_before


def detail_ratio(painted: data.Rgb, truth: data.Rgb, hole: data.Hole) -> float:
    """Variance of the gradient, painted over true; see ``gradient_variance``. A level's square is added to both."""
    return (gradient_variance(painted, hole) + 1) / (gradient_variance(truth, hole) + 1)


def _of_detail(ratios: Sequence[float]) -> str:
    logs = np.log2(ratios)
    inside = np.mean([0.6 <= ratio <= 1.4 for ratio in ratios])
    return (
        f"detail {np.median(ratios):.2f} times the photograph's in the median, off by a factor of "
        f"{2 ** np.abs(logs).mean():.2f} in the mean, {inside:.0%} within 0.6 to 1.4"
    )


def extension(service: Service, sampling: Sampling, args: argparse.Namespace) -> float:
    """Prints the detail of continued pictures over that of the photographs; gives the median."""
    cases = [extension_request(index) for index in range(args.removals)]
    paintings = service.paint([request for request, _ in cases], sampling)
    ratios = [detail_ratio(x, truth, request.hole) for (request, truth), x in zip(cases, paintings, strict=True)]
    print(f"extension: {_of_detail(ratios)} ({len(cases)} pictures)")
    return float(np.median(ratios))


def isolation(service: Service, sampling: Sampling, _: argparse.Namespace) -> None:
    """Prints how much another prompt and another seed change inside and outside the hole."""
    first = object_request(0, 99)
    other_prompt = dataclasses.replace(first, prompt=plain_prompt(OBJECTS[1]))
    other_seed = dataclasses.replace(first, seed=first.seed + 1)
    base, prompted, seeded = service.paint([first, other_prompt, other_seed], sampling)
    outside = ~first.hole
    for name, picture in (("prompt", prompted), ("seed", seeded)):
        inside = np.abs(picture.astype(int) - base)[first.hole].mean()
        print(f"isolation: another {name} changes the hole by {inside:.1f}/255 a pixel, ", end="")
        print(f"outside it {int((picture != first.picture)[outside].sum())} values differ from the input's")


def autoencoder(model: str) -> float:
    """Prints the autoencoder's error on held-out pictures."""
    from tools.demo_model.parts import MODEL_DIR, Parts
    from tools.demo_model.vae import vae_error

    folder = MODEL_DIR if model == "demo" else pathlib.Path(model)
    error = vae_error(Parts.load(folder).vae)
    print(f"autoencoder: mean absolute error {error:.2f}/255")
    return error


def speed(service: Service, sampling: Sampling, _: argparse.Namespace) -> None:
    """Prints the seconds for one picture, the best of three."""
    best = np.inf
    for repeat in range(3):
        start = time.perf_counter()
        service.paint([object_request(0, repeat, NATIVE_SIZE)], sampling)
        best = min(best, time.perf_counter() - start)
    print(f"speed: {best:.2f} s for {NATIVE_SIZE}x{NATIVE_SIZE} at {sampling.steps} steps")


def sheet(service: Service, sampling: Sampling, args: argparse.Namespace) -> None:
    """Draws every object with what surrounds its hole, its prompt under it."""
    columns, line, tile = 14, 16, args.tile
    paintings = painted_objects(service, sampling, range(0, len(OBJECTS), args.every), args.sheet_seed)
    rows = -(-len(paintings) // columns)
    page = Image.new("RGB", (columns * (tile + 6) + 6, rows * (tile + line + 6) + 6), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, (request, painted) in enumerate(paintings):
        x, y = 6 + i % columns * (tile + 6), 6 + i // columns * (tile + line + 6)
        page.paste(_around_hole(painted, request.hole).resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + tile + 1), request.prompt, fill="black", font=font)
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    page.save(args.sheet, quality=90, method=6)
    print(f"sheet: {args.sheet.name}, {page.width}x{page.height}")


def _around_hole(picture: data.Rgb, hole: data.Hole) -> Image.Image:
    """A square of the picture that holds the hole and some of what surrounds it."""
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    side = min(len(picture), round(1.3 * max(len(rows), len(columns))))
    left, top = (
        int(np.clip((along[0] + along[-1] + 1 - side) // 2, 0, len(picture) - side)) for along in (columns, rows)
    )
    return Image.fromarray(picture[top : top + side, left : left + side])


def reference_sprites() -> dict[int, Image.Image]:
    """Returns what :func:`references` drew: sprites by their object's index, as ``data.sprite`` gives them."""
    row, side = Image.open(REFERENCES), REFERENCE_SIZE
    labels = [item.label for item in OBJECTS]
    return {
        labels.index(label): row.crop((i * side, 0, (i + 1) * side, side)).convert("RGBa")
        for i, label in enumerate(TEST_LABELS)
    }


def references(*_: object) -> None:
    """Draws the sprites of ``TEST_LABELS`` in a row, so that tests need no package of emoji."""
    row = Image.new("RGBA", (REFERENCE_SIZE * len(TEST_LABELS), REFERENCE_SIZE))
    labels = [item.label for item in OBJECTS]
    for i, label in enumerate(TEST_LABELS):
        small = data.sprite(labels.index(label)).resize((REFERENCE_SIZE, REFERENCE_SIZE), Image.Resampling.LANCZOS)
        row.paste(small.convert("RGBA"), (i * REFERENCE_SIZE, 0))
    row.save(REFERENCES, optimize=True)


Report = Callable[[Service, Sampling, argparse.Namespace], object]
REPORTS: dict[str, Report] = {
    "accuracy": accuracy,
    "removal": removal_and_seam,
    "extension": extension,
    "isolation": isolation,
    "speed": speed,
    "sheet": sheet,
    "references": references,
}


def main() -> None:
    """Parses the command line and prints the figures asked for."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo-model evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figures", nargs="*", metavar="figure", help="all but the sheet where none is named")
    parser.add_argument("--model", default="demo", help="demo, or a folder in the same layout")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--scheduler", type=SchedulerName, default=SchedulerName.DEFAULT)
    parser.add_argument("--color-match", action="store_true", help="ask for color_match, which is off by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=8, help="pictures in one UNet call")
    parser.add_argument("--repeats", type=int, default=1, help="held-out backgrounds and seeds an object")
    parser.add_argument("--every", type=int, default=1, help="take every n-th object only")
    parser.add_argument("--removals", type=int, default=40, help="pictures to remove an object from")
    parser.add_argument("--sheet", type=pathlib.Path, default=SHEET)
    parser.add_argument("--sheet-seed", type=int, default=0)
    parser.add_argument("--tile", type=int, default=112, help="pixels of a picture's side in the sheet")
    args = parser.parse_args()
    wanted = args.figures or ["autoencoder", "accuracy", "removal", "extension", "isolation", "speed"]
    sampling = Sampling(args.steps, args.guidance, args.scheduler, args.color_match)
    if "autoencoder" in wanted:
        autoencoder(args.model)
    with Service(args.model, args.threads, args.max_batch) as service:
        for name in wanted:
            if name != "autoencoder":
                REPORTS[name](service, sampling, args)


if __name__ == "__main__":
    main()
