"""Measures the demo model through the service's own engine, on backgrounds and seeds it was not trained on.

    scripts/demo-model evaluate                        # all figures
    scripts/demo-model evaluate accuracy --repeats 2   # one of them
    scripts/demo-model evaluate sheet                  # draws docs/demo_objects.png
    scripts/demo-model evaluate references             # draws what tests/tools/test_demo_model.py compares with

Figures:
    accuracy   share of objects whose painted hole lies nearest to that object among all objects
    removal    PSNR in the hole against the true background, beside cv2's Telea inpainting
    seam       mean jump between neighbours across the hole's border, over that of the untouched picture
    isolation  another prompt or seed changes the hole, and nothing else
    autoencoder  mean absolute reconstruction error on held-out pictures, a third of them with grey holes
    speed      seconds for one picture of the native size
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintRequest, SchedulerName
from sd_inpaint.settings import Settings
from tools import ROOT
from tools.demo_model import data
from tools.demo_model.captions import plain_prompt
from tools.demo_model.objects import OBJECTS

SHEET = ROOT / "docs" / "demo_objects.png"
REFERENCES = ROOT / "tests" / "golden" / "demo_objects.png"

HELD_OUT_SEED = 9_000_000  # training draws from small seeds
TEST_LABELS = ("red rose", "red car", "smiling face", "red apple", "cat", "yellow star", "pizza", "frog")
REFERENCE_SIZE = 48  # pixels a side of a test's reference
REMOVAL_PROMPT = "empty background, natural scene"  # the guide's own
REFERENCE_SIZES = (0.76, 0.84, 0.92, 1.0)  # of the largest object that the hole holds
REFERENCE_SHIFTS = (-0.07, 0.0, 0.07)  # of the hole's shorter side, along either axis


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

    @property
    def native_size(self) -> int:
        """Side of the pictures the model was trained on, in pixels."""
        return int(self._painter.engine.ready_loop().backend.limits.native_size)

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


def held_out_background(size: int, rng: np.random.Generator) -> data.Rgb:
    """A background from photos and seeds that training never saw."""
    return data.background(size, rng, data.HELD_OUT_PHOTOS)


def object_request(label: int, repeat: int, size: int) -> Request:
    """Asks for an object in a box or ellipse somewhere in a held-out background."""
    rng = np.random.default_rng([HELD_OUT_SEED, label, repeat])
    side = rng.uniform(0.45, 0.65) * size
    x, y = rng.uniform(0.02 * size, 0.98 * size - side, 2)
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    (draw.rectangle if rng.random() < 0.6 else draw.ellipse)((x, y, x + side, y + side), fill=255)
    prompt = plain_prompt(OBJECTS[label])
    return Request(held_out_background(size, rng), np.asarray(mask) >= 128, prompt, seed=1000 * repeat + label)


def removal_request(index: int, size: int) -> tuple[Request, data.Rgb]:
    """Asks to remove an object from a held-out background; gives the request and the background."""
    rng = np.random.default_rng([HELD_OUT_SEED, 777, index])
    background = held_out_background(size, rng)
    item = OBJECTS[int(rng.integers(len(OBJECTS)))]
    box = dataclasses.replace(data.random_box(size, rng), span=rng.uniform(0.3, 0.55) * size)
    layer = data.object_layer(item, box, size)
    hole = data.hole_around(layer, rng)
    return Request(data.put(background, layer), hole, REMOVAL_PROMPT, seed=index), background


# --- figures ---------------------------------------------------------------------------------------------------------


def distance_to_object(painted: data.Rgb, request: Request, label: int) -> float:
    """How far a painted hole is from an object.

    The distance is the mean squared difference in the hole, after a Gaussian blur of one pixel on both sides, to the
    object drawn over the same background, the smallest over four sizes and nine places in the hole.
    """
    rows, columns = np.flatnonzero(request.hole.any(1)), np.flatnonzero(request.hole.any(0))
    width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    center = (columns[0] + width / 2, rows[0] + height / 2)
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    item = OBJECTS[label]
    glyph_width, glyph_height = data.glyph(item.emoji).size
    fit = min(width / glyph_width, height / glyph_height) * max(glyph_width, glyph_height)
    target = cv2.GaussianBlur(painted.astype(np.float32), (0, 0), 1.0)[window]
    inside = request.hole[window]
    best = np.inf
    for scale in REFERENCE_SIZES:
        for dx in REFERENCE_SHIFTS:
            for dy in REFERENCE_SHIFTS:
                reach = min(width, height)
                box = data.Box(center[0] + dx * reach, center[1] + dy * reach, scale * fit)
                layer = data.object_layer(item, box, len(painted))
                reference = data.put(request.picture, layer)[window].astype(np.float32)
                difference = cv2.GaussianBlur(reference, (0, 0), 1.0) - target
                best = min(best, float(np.square(difference)[inside].mean()))
    return best


def nearest_object(painted: data.Rgb, request: Request) -> list[int]:
    """All objects, nearest first; see ``distance_to_object``."""
    distances = [distance_to_object(painted, request, label) for label in range(len(OBJECTS))]
    return [int(i) for i in np.argsort(distances)]


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


def accuracy(service: Service, sampling: Sampling, args: argparse.Namespace) -> float:
    """Prints top-1 and top-3 over the objects, and what was taken for what."""
    size, top1, top3, wrong = service.native_size, 0, 0, []
    labels = range(0, len(OBJECTS), args.every)
    requests = [(label, object_request(label, repeat, size)) for repeat in range(args.repeats) for label in labels]
    paintings = service.paint([request for _, request in requests], sampling)
    for (label, request), painted in zip(requests, paintings, strict=True):
        order = nearest_object(painted, request)
        top1 += order[0] == label
        top3 += label in order[:3]
        if order[0] != label:
            wrong.append(f"{OBJECTS[label].label} -> {OBJECTS[order[0]].label}")
    total = len(requests)
    print(f"accuracy: top-1 {top1}/{total} = {top1 / total:.1%}, top-3 {top3 / total:.1%} ({len(labels)} objects)")
    print("  " + "; ".join(wrong))
    return top1 / total


def removal_and_seam(service: Service, sampling: Sampling, args: argparse.Namespace) -> tuple[float, float, float]:
    """Prints the PSNR of removals beside Telea's, and the seam's ratio; gives both PSNRs and the ratio."""
    cases = [removal_request(index, service.native_size) for index in range(args.removals)]
    paintings = service.paint([request for request, _ in cases], sampling)
    ours, telea, jump, jump_before = [], [], 0.0, 0.0
    for (request, truth), painted in zip(cases, paintings, strict=True):
        ours.append(psnr(painted, truth, request.hole))
        filled = cv2.inpaint(request.picture, request.hole.astype(np.uint8) * 255, 3, cv2.INPAINT_TELEA)
        telea.append(psnr(filled, truth, request.hole))
        jump += border_jump(painted, request.hole)[0]
        jump_before += border_jump(truth, request.hole)[0]
    mean_ours, mean_telea = float(np.mean(ours)), float(np.mean(telea))
    print(
        f"removal: PSNR {mean_ours:.2f} dB (median {np.median(ours):.2f}), Telea {mean_telea:.2f} dB "
        f"(median {np.median(telea):.2f}), difference {mean_ours - mean_telea:+.2f} dB ({len(cases)} pictures)"
    )
    print(f"seam: border jump {jump / jump_before:.2f} times the untouched picture's")
    return mean_ours, mean_telea, jump / jump_before


def isolation(service: Service, sampling: Sampling, _: argparse.Namespace) -> None:
    """Prints how much another prompt and another seed change inside and outside the hole."""
    first = object_request(0, 99, service.native_size)
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
        service.paint([object_request(0, repeat, service.native_size)], sampling)
        best = min(best, time.perf_counter() - start)
    print(f"speed: {best:.2f} s for {service.native_size}x{service.native_size} at {sampling.steps} steps")


def sheet(service: Service, sampling: Sampling, args: argparse.Namespace) -> None:
    """Draws every object in the middle of a held-out background, its prompt under it."""
    size, zoom, columns, line = service.native_size, args.zoom, 10, 18
    requests = [object_request(label, args.sheet_seed, size) for label in range(len(OBJECTS))]
    paintings = service.paint(requests, sampling)
    tile = size * zoom
    rows = -(-len(requests) // columns)
    page = Image.new("RGB", (columns * (tile + 6) + 6, rows * (tile + line + 6) + 6), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, (request, painted) in enumerate(zip(requests, paintings, strict=True)):
        x, y = 6 + i % columns * (tile + 6), 6 + i // columns * (tile + line + 6)
        page.paste(Image.fromarray(painted).resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + tile + 1), request.prompt, fill="black", font=font)
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    page.save(args.sheet, optimize=True)
    print(f"sheet: {args.sheet.name}, {page.width}x{page.height}")


def reference_glyphs() -> dict[str, Image.Image]:
    """Returns what :func:`references` drew: glyphs by their emoji, as ``data.glyph`` gives them."""
    row, side = Image.open(REFERENCES), REFERENCE_SIZE
    emoji = {item.label: item.emoji for item in OBJECTS}
    glyphs = {}
    for i, label in enumerate(TEST_LABELS):
        cell = row.crop((i * side, 0, (i + 1) * side, side))
        glyphs[emoji[label]] = cell.crop(cell.getchannel("A").getbbox()).convert("RGBa")
    return glyphs


def references(*_: object) -> None:
    """Draws the glyphs of ``TEST_LABELS`` in a row, so that tests need no emoji font."""
    row = Image.new("RGBA", (REFERENCE_SIZE * len(TEST_LABELS), REFERENCE_SIZE))
    emoji = {item.label: item.emoji for item in OBJECTS}
    for i, label in enumerate(TEST_LABELS):
        picture = data.glyph(emoji[label]).convert("RGBA")
        picture.thumbnail((REFERENCE_SIZE, REFERENCE_SIZE))
        row.paste(picture, (i * REFERENCE_SIZE, 0))
    row.save(REFERENCES, optimize=True)


Report = Callable[[Service, Sampling, argparse.Namespace], object]
REPORTS: dict[str, Report] = {
    "accuracy": accuracy,
    "removal": removal_and_seam,
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
    parser.add_argument("--zoom", type=int, default=1)
    args = parser.parse_args()
    wanted = args.figures or ["autoencoder", "accuracy", "removal", "isolation", "speed"]
    sampling = Sampling(args.steps, args.guidance, args.scheduler, args.color_match)
    if "autoencoder" in wanted:
        autoencoder(args.model)
    with Service(args.model, args.threads, args.max_batch) as service:
        for name in wanted:
            if name != "autoencoder":
                REPORTS[name](service, sampling, args)


if __name__ == "__main__":
    main()
