"""Draws the pictures, holes and captions that the demo model learns from.

One sample is what an inpainting request is about: a picture, a hole in it, and a prompt that says what
the hole shows. Objects are glyphs of Noto Color Emoji; backgrounds are drawn, or cut out of the photos
that scikit-image ships. Everything follows from a ``numpy.random.Generator``, so a seed is a sample.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tools.demo_model.captions import background_caption, object_caption
from tools.demo_model.objects import OBJECTS, Object

Rgb = npt.NDArray[np.uint8]  # (H, W, 3), 0..255
Hole = npt.NDArray[np.bool_]  # (H, W), True: to be painted

EMOJI_FONT = pathlib.Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian: fonts-noto-color-emoji
EMOJI_FONT_SIZE = 109  # the one bitmap size the font holds; any other size is refused by FreeType
BACKGROUND_SHARE = 0.3  # samples whose hole shows the background only
REMOVAL_SHARE = 0.5  # of them, those whose hole has the outline of an object that is not there any more
DISTRACTOR_SHARE = 0.25  # samples with another object elsewhere in the picture
OBJECT_SPAN = (0.34, 0.80)  # longer side of the object, as a share of the picture's side
MAX_TURN_DEGREES = 8.0

# Each CC0, in the public domain or without known copyright restrictions, as the docstrings of skimage.data say.
TRAINING_PHOTOS = (
    "astronaut.png", "coffee.png", "rocket.jpg", "grass.png", "gravel.png", "brick.png", "hubble_deep_field.jpg",
    "camera.png", "coins.png", "clock_motion.png",
)  # fmt: skip
HELD_OUT_PHOTOS = ("chelsea.png",)


@dataclasses.dataclass(frozen=True)
class Box:
    """Where an object lies: centre and longer side in pixels, turn in degrees."""

    center_x: float
    center_y: float
    span: float
    turn: float = 0.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One training example.

    Attributes:
        picture: what stands in the picture once the hole is painted.
        hole: what the model has to paint.
        caption: what the hole shows.
        label: index into ``OBJECTS``, or -1 where the hole shows background.
    """

    picture: Rgb
    hole: Hole
    caption: str
    label: int


# --- objects ---------------------------------------------------------------------------------------------------------


@functools.cache
def glyph(emoji: str) -> Image.Image:
    """The emoji as RGBA with premultiplied alpha, cut to its outline; about 128 pixels on its longer side."""
    font = ImageFont.truetype(str(EMOJI_FONT), EMOJI_FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((12, 12), emoji, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the emoji font has no glyph for {emoji!r}")
    # Premultiplied, so that scaling and turning leave no dark fringe.
    return canvas.crop(box).convert("RGBa")


def object_layer(item: Object, box: Box, size: int) -> npt.NDArray[np.float32]:
    """The object alone on an empty picture: ``(size, size, 4)`` float32 0..255, alpha premultiplied."""
    picture = glyph(item.emoji)
    factor = box.span / max(picture.size)
    size_px = (max(2, round(picture.width * factor)), max(2, round(picture.height * factor)))
    small = picture.resize(size_px, Image.Resampling.BOX if factor < 0.5 else Image.Resampling.BILINEAR, reducing_gap=3)
    if box.turn:
        small = small.rotate(box.turn, Image.Resampling.BICUBIC, expand=True)
    layer = Image.new("RGBa", (size, size))
    layer.paste(small, (round(box.center_x - small.width / 2), round(box.center_y - small.height / 2)))
    return np.asarray(layer, dtype=np.float32)


def put(picture: Rgb, layer: npt.NDArray[np.float32]) -> Rgb:
    """Lays an object's layer (see ``object_layer``) over a picture of the same size."""
    alpha = layer[..., 3:] / 255.0
    mixed: Rgb = np.clip(picture * (1 - alpha) + layer[..., :3] + 0.5, 0, 255).astype(np.uint8)
    return mixed


# --- backgrounds -----------------------------------------------------------------------------------------------------


def _color(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    # Two thirds muted, as walls, skies and tables are; one third anything.
    color = rng.uniform(0, 255, 3)
    if rng.random() < 0.66:
        grey = color.mean()
        color = grey + (color - grey) * rng.uniform(0.1, 0.5)
    return color.astype(np.float32)


def _ramp(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A linear or radial ramp, ``(size, size, 1)`` 0..1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    if rng.random() < 0.65:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = x * math.cos(angle) + y * math.sin(angle)
    else:
        ramp = np.hypot(x - rng.uniform(-0.2, 1.2), y - rng.uniform(-0.2, 1.2))
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    return np.asarray(ramp[..., None], dtype=np.float32)


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise with about ``cells`` bumps a side, ``(size, size, 1)`` 0..1."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8))
    fine = coarse.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32)[..., None] / 255.0


def _plain(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return np.broadcast_to(_color(rng), (size, size, 3)).astype(np.float32)


def _gradient(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    ramp = _ramp(size, rng)
    return _color(rng) * (1 - ramp) + _color(rng) * ramp


def _clouds(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    coarse, fine = _smooth_noise(size, int(rng.integers(2, 5)), rng), _smooth_noise(size, int(rng.integers(4, 12)), rng)
    share = 0.6 * coarse + 0.4 * fine
    return np.asarray(_color(rng) * (1 - share) + _color(rng) * share, dtype=np.float32)


def _horizon(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Sky above ground, each a gradient; the commonest scene there is."""
    edge = rng.uniform(0.3, 0.8) * size + rng.uniform(-0.15, 0.15) * (np.arange(size) - size / 2)
    below = np.clip(np.arange(size)[:, None] - edge[None, :] + 0.5, 0, 1).astype(np.float32)[..., None]
    return _gradient(size, rng) * (1 - below) + _clouds(size, rng) * below


def _pattern(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Soft stripes or checks."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    period, angle = rng.uniform(8, 28), rng.uniform(0, math.pi)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    wave = np.sin(2 * math.pi * u / period)
    if rng.random() < 0.4:
        wave = wave * np.sin(2 * math.pi * v / period)
    share = 0.5 + 0.5 * np.tanh(wave * rng.uniform(1, 4))[..., None]
    base = _color(rng)
    other = np.clip(base + rng.uniform(-60, 60, 3), 0, 255)
    return np.asarray(base * (1 - share) + other * share, dtype=np.float32)


def _lights(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Discs out of focus over a gradient."""
    picture = Image.fromarray(_gradient(size, rng).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 12))):
        x, y = rng.uniform(0, size, 2)
        r = rng.uniform(0.04, 0.2) * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in _color(rng)))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 6))), dtype=np.float32)


@functools.cache
def _photo(name: str) -> Image.Image:
    import skimage

    path = pathlib.Path(skimage.__file__).parent / "data" / name
    return Image.open(path).convert("RGB")


def photo_crop(size: int, rng: np.random.Generator, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """A crop of one of the photos at a random scale, mirrored, with its colours shifted."""
    photo = _photo(names[int(rng.integers(len(names)))])
    side = int(min(rng.uniform(1.0, 4.5) * size, *photo.size))
    x, y = int(rng.integers(photo.width - side + 1)), int(rng.integers(photo.height - side + 1))
    crop = photo.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side), reducing_gap=2)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(crop, dtype=np.float32)
    if rng.random() < 0.6:
        pixels = pixels[..., rng.permutation(3)]
    return pixels * rng.uniform(0.75, 1.15, 3).astype(np.float32) + rng.uniform(-15, 30)


DRAWN_BACKGROUNDS: tuple[tuple[Callable[[int, np.random.Generator], npt.NDArray[np.float32]], float], ...] = (
    (_plain, 0.08), (_gradient, 0.24), (_clouds, 0.22), (_horizon, 0.22), (_pattern, 0.08), (_lights, 0.16),
)  # fmt: skip
PHOTO_SHARE = 0.25


def background(size: int, rng: np.random.Generator, photos: tuple[str, ...] = TRAINING_PHOTOS) -> Rgb:
    """A background of ``size`` by ``size`` pixels: drawn, or (one in four) a crop of one of the photos."""
    if rng.random() < PHOTO_SHARE:
        pixels = photo_crop(size, rng, photos)
    else:
        kinds, weights = zip(*DRAWN_BACKGROUNDS, strict=True)
        pixels = kinds[rng.choice(len(kinds), p=weights)](size, rng)
        if rng.random() < 0.3:  # film grain
            pixels = pixels + rng.normal(0, rng.uniform(1, 4), (size, size, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


# --- holes -----------------------------------------------------------------------------------------------------------


def hole_around(layer: npt.NDArray[np.float32], rng: np.random.Generator) -> Hole:
    """A hole that covers the object of a layer: box, ellipse, brush strokes or outline, with some room around it."""
    size = layer.shape[0]
    solid = layer[..., 3] > 8
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    span = max(bottom - top, right - left)
    pads = 1 + rng.uniform(0.0, 0.12, 4) * span
    box = (left - pads[0], top - pads[1], right - 1 + pads[2], bottom - 1 + pads[3])
    kind = rng.random()
    if kind < 0.45:
        picture = Image.new("L", (size, size))
        ImageDraw.Draw(picture).rectangle(box, fill=255)
    elif kind < 0.70:
        picture = Image.new("L", (size, size))
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        # 1.18 rather than sqrt(2): glyphs rarely reach their box's corners, and what they do is added below.
        rx, ry = 1.18 * (box[2] - box[0]) / 2, 1.18 * (box[3] - box[1]) / 2
        ImageDraw.Draw(picture).ellipse((x - rx, y - ry, x + rx, y + ry), fill=255)
    elif kind < 0.88:
        picture = _strokes(box, size, rng)
    else:
        reach = 2 * int(rng.integers(1, max(2, span // 8) + 1)) + 1
        picture = Image.fromarray((solid * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(min(reach, 9)))
    return (np.asarray(picture) >= 128) | solid


def _hole_of_an_object(size: int, rng: np.random.Generator) -> Hole:
    """A hole as it is painted over an object to remove: its outline alone must not call for an object."""
    item = OBJECTS[int(rng.integers(len(OBJECTS)))]
    return hole_around(object_layer(item, random_box(size, rng), size), rng)


def _strokes(box: tuple[float, float, float, float], size: int, rng: np.random.Generator) -> Image.Image:
    """A zigzag of round brush strokes over a box, as people paint masks."""
    left, top, right, bottom = box
    picture = Image.new("L", (size, size))
    draw = ImageDraw.Draw(picture)
    width = rng.uniform(0.25, 0.5) * (bottom - top)
    count = max(2, math.ceil((bottom - top) / width) + 1)
    points: list[tuple[float, float]] = []
    for i, y in enumerate(np.linspace(top + width * 0.35, bottom - width * 0.35, count)):
        ends = (left + width * 0.3, right - width * 0.3)
        across = ends if i % 2 == 0 else ends[::-1]
        points += [(x + rng.normal(0, 0.03 * size), y + rng.normal(0, 0.02 * size)) for x in across]
    draw.line(points, fill=255, width=max(2, round(width)), joint="curve")
    r = width / 2
    for x, y in points:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return picture


def free_hole(size: int, rng: np.random.Generator) -> Hole:
    """A hole anywhere: box, ellipse, strokes, or a strip at one to two borders (extension of a picture)."""
    picture = Image.new("L", (size, size))
    draw = ImageDraw.Draw(picture)
    if rng.random() < 0.25:
        strip = int(rng.uniform(0.12, 0.45) * size)
        boxes = ((0, 0, strip, size), (size - strip, 0, size, size), (0, 0, size, strip), (0, size - strip, size, size))
        for i in rng.choice(4, int(rng.integers(1, 3)), replace=False):
            draw.rectangle(boxes[i], fill=255)
        return np.asarray(picture) >= 128
    w, h = rng.uniform(0.15, 0.75, 2) * size
    x, y = rng.uniform(-0.05, 1.05) * (size - w), rng.uniform(-0.05, 1.05) * (size - h)
    kind = rng.random()
    if kind < 0.45:
        draw.rectangle((x, y, x + w, y + h), fill=255)
    elif kind < 0.75:
        draw.ellipse((x, y, x + w, y + h), fill=255)
    else:
        picture = _strokes((x, y, x + w, y + h), size, rng)
    hole = np.asarray(picture) >= 128
    return hole if hole.any() else free_hole(size, rng)


# --- samples ---------------------------------------------------------------------------------------------------------


def random_box(size: int, rng: np.random.Generator) -> Box:
    """A place for an object, inside the picture."""
    span = rng.uniform(*OBJECT_SPAN) * size
    reach = (size - span) / 2 * 0.94
    x, y = size / 2 + rng.uniform(-1, 1, 2) * reach
    return Box(float(x), float(y), float(span), float(rng.uniform(-MAX_TURN_DEGREES, MAX_TURN_DEGREES)))


def sample(size: int, rng: np.random.Generator, photos: tuple[str, ...] = TRAINING_PHOTOS) -> Sample:
    """One training example of ``size`` by ``size`` pixels."""
    picture = background(size, rng, photos)
    if rng.random() < DISTRACTOR_SHARE:
        other = OBJECTS[int(rng.integers(len(OBJECTS)))]
        box = dataclasses.replace(random_box(size, rng), span=rng.uniform(0.2, 0.45) * size)
        distractor = object_layer(other, box, size)
    else:
        distractor = None
    if rng.random() < BACKGROUND_SHARE:
        hole = _hole_of_an_object(size, rng) if rng.random() < REMOVAL_SHARE else free_hole(size, rng)
        label, caption, painted = -1, background_caption(rng), picture
    else:
        label = int(rng.integers(len(OBJECTS)))
        layer = object_layer(OBJECTS[label], random_box(size, rng), size)
        hole = hole_around(layer, rng)
        caption, painted = object_caption(OBJECTS[label], rng), put(picture, layer)
    if distractor is not None and not (hole & (distractor[..., 3] > 8)).any():
        painted = put(painted, distractor)
    return Sample(painted, hole, caption, label)


def vae_picture(size: int, rng: np.random.Generator, photos: tuple[str, ...] = TRAINING_PHOTOS) -> Rgb:
    """A picture to measure the autoencoder by: a sample, every third with its hole in mid-grey, as it is encoded."""
    drawn = sample(size, rng, photos)
    if rng.random() < 1 / 3:
        return np.where(drawn.hole[..., None], np.uint8(128), drawn.picture)
    return drawn.picture
