"""Draws the pictures and holes that the demo model learns from.

One sample is what an inpainting request is about: a picture, a hole in it, and what the hole shows. Objects are
three-dimensional emoji; backgrounds are cut out of photographs, one in eight is drawn. Everything follows from a
``numpy.random.Generator``, so a seed is a sample.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tools.demo_model.objects import OBJECTS
from tools.demo_model.sources import (
    SKIMAGE_TRAINING_PHOTOS,
    TRAINING_PHOTOS,
    Photo,
    emoji_file,
    emoji_files,
    photo_pixels,
)

Rgb = npt.NDArray[np.uint8]  # (H, W, 3), 0..255
Hole = npt.NDArray[np.bool_]  # (H, W), True: to be painted

BACKGROUND_SHARE = 0.45  # samples whose hole shows the background only
REMOVAL_SHARE = 0.5  # of them, those whose hole is like an object's
OUTLINE_SHARE = 0.2  # and those of them that have its outline
NAMED_SHARE = 0.7  # of the others, those whose object is of ``OBJECTS``; the rest is any emoji, to learn from
DISTRACTOR_SHARE = 0.2  # samples with another object elsewhere in the picture
HOLE_SPAN = (0.6, 0.86)  # of an object's hole, as a share of the picture's side: what the service makes of most
SMALL_HOLE_SPAN, SMALL_HOLE_SHARE = (0.3, 0.6), 0.25  # and of those in pictures that are small themselves
SPRITE_SIDE = 128  # pixels
CELL = 4  # pixels along each side of a latent cell
SIDES = (8, 12, 16, 24, 32)  # of objects, in latent cells; see place_in
EDGE_CELLS = 2  # of the grid on which their edges lie
ROOM = 1.05  # of a hole's shorter side, which an object's square takes at most; its own edges are air
SHADOW = 0.4  # how much of the light an object takes from the ground below it
LIGHT_REACH = 0.7  # of an object's side, from its middle: whose colours it is lit by

SCENES: tuple[Photo | str, ...] = (*TRAINING_PHOTOS, *SKIMAGE_TRAINING_PHOTOS)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an object's square lies: centre and side in pixels."""

    center_x: float
    center_y: float
    side: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """One training example.

    Attributes:
        picture: What stands in the picture once the hole is painted.
        background: The same without the object.
        hole: What the model has to paint.
        sprite: Index into ``sprites()`` of the object in the hole; -1 where the hole shows background.
        place: Of the object.
    """

    picture: Rgb
    background: Rgb
    hole: Hole
    sprite: int
    place: Place


# --- objects ---------------------------------------------------------------------------------------------------------


@functools.cache
def sprites() -> tuple[str, ...]:
    """The emoji that samples show, as names of their files: those of ``OBJECTS`` first, then all others."""
    named = [emoji_file(item.emoji).name for item in OBJECTS]
    return (*named, *(path.name for path in emoji_files() if path.name not in set(named)))


@functools.cache
def sprite(index: int) -> Image.Image:
    """A sprite on a transparent square of ``SPRITE_SIDE``, RGBA with premultiplied alpha, as large as it fits."""
    with Image.open(emoji_file("x").with_name(sprites()[index])) as file:
        picture = file.convert("RGBA").convert("RGBa")
    box = picture.getchannel("a").point(lambda a: 255 * (a > 12)).getbbox() or (0, 0, *picture.size)
    picture = picture.crop(box)
    side = round(max(picture.size) * 1.04)
    square = Image.new("RGBa", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.LANCZOS, reducing_gap=3)


def object_layer(index: int, place: Place, size: int) -> Image.Image:
    """The sprite alone on an empty picture of ``size`` by ``size``, RGBA with premultiplied alpha."""
    half = place.side / 2
    side = max(2, round(place.side))
    small = sprite(index).resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    layer = Image.new("RGBa", (size, size))
    layer.paste(small, (round(place.center_x - half), round(place.center_y - half)))
    return layer


def put(picture: Rgb, layer: Image.Image, place: Place, shadow: float = SHADOW) -> Rgb:
    """Lays an object into a picture of the same size: in the light of its surroundings, with a soft shadow below it."""
    pixels = picture.astype(np.float32)
    rgba = np.asarray(layer, dtype=np.float32) / 255
    alpha = rgba[..., 3:]
    below = ImageChops.offset(layer.getchannel("a"), 0, round(0.05 * place.side))
    below.paste(0, (0, 0, layer.width, round(0.05 * place.side)))
    shade = np.asarray(below.filter(ImageFilter.GaussianBlur(0.06 * place.side)), dtype=np.float32)[..., None] / 255
    ground = pixels * (1 - shadow * shade)
    mixed = ground * (1 - alpha) + 255 * rgba[..., :3] * light_around(pixels, place)
    lit: Rgb = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return lit


def light_around(pixels: npt.NDArray[np.float32], place: Place) -> npt.NDArray[np.float32]:
    """(3,): what an object's colours are multiplied by, from the mean colour around it; close to one."""
    reach = LIGHT_REACH * place.side
    top, left = (max(0, round(c - reach)) for c in (place.center_y, place.center_x))
    around = pixels[top : round(place.center_y + reach), left : round(place.center_x + reach)].mean((0, 1))
    grey = around.mean()
    brightness = 1 + 0.3 * float(np.clip(grey / 128 - 1, -0.9, 0.4))
    cast = 1 + 0.12 * np.clip((around - grey) / 64, -1, 1)
    return np.asarray(brightness * cast, dtype=np.float32)


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
def _photo(photo: Photo | str) -> Image.Image:
    return Image.fromarray(photo_pixels(photo))


def photo_crop(size: int, rng: np.random.Generator, photos: Sequence[Photo | str]) -> Rgb:
    """A square crop of one of the photographs, of any scale from its own to all of it, mirrored half of the time."""
    photo = _photo(photos[int(rng.integers(len(photos)))])
    largest = min(photo.size)
    side = int(min(math.exp(rng.uniform(math.log(size), math.log(max(size, largest)))), largest))
    x, y = int(rng.integers(photo.width - side + 1)), int(rng.integers(photo.height - side + 1))
    crop = photo.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side), reducing_gap=3)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


def varied_light(pixels: Rgb, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The picture in another light: contrast, brightness and colour changed, in one of five its channels swapped."""
    varied = pixels.astype(np.float32)
    if rng.random() < 0.2:
        varied = varied[..., rng.permutation(3)]
    mean = varied.mean()
    varied = mean + (varied - mean) * rng.uniform(0.8, 1.2)
    return np.asarray(varied * rng.uniform(0.8, 1.15, 3) + rng.uniform(-15, 20), dtype=np.float32)


DRAWN_BACKGROUNDS: tuple[tuple[Callable[[int, np.random.Generator], npt.NDArray[np.float32]], float], ...] = (
    (_plain, 0.10), (_gradient, 0.30), (_clouds, 0.16), (_horizon, 0.22), (_pattern, 0.06), (_lights, 0.16),
)  # fmt: skip
PHOTO_SHARE = 0.88


def background(size: int, rng: np.random.Generator) -> Rgb:
    """A background of ``size`` by ``size`` pixels: a crop of one of the photographs, or (one in eight) drawn."""
    if rng.random() < PHOTO_SHARE:
        pixels = varied_light(photo_crop(size, rng, SCENES), rng)
    else:
        kinds, weights = zip(*DRAWN_BACKGROUNDS, strict=True)
        pixels = kinds[rng.choice(len(kinds), p=weights)](size, rng)
        if rng.random() < 0.5:  # film grain
            pixels = pixels + rng.normal(0, rng.uniform(1, 4), (size, size, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


# --- holes -----------------------------------------------------------------------------------------------------------


def object_hole(size: int, rng: np.random.Generator, span: tuple[float, float] | None = None) -> tuple[Hole, Place]:
    """A hole for an object, as people mask one (box, ellipse, brush strokes), and the object's place in it.

    ``span`` bounds the hole's side, as a share of the picture's.
    """
    if span is None:
        span = SMALL_HOLE_SPAN if rng.random() < SMALL_HOLE_SHARE else HOLE_SPAN
    base, stretch = rng.uniform(*span) * size, math.exp(rng.uniform(-0.18, 0.18))
    width, height = min(base * stretch, 0.96 * size), min(base / stretch, 0.96 * size)
    left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    box = (left, top, left + width - 1, top + height - 1)
    kind = rng.random()
    picture = Image.new("L", (size, size))
    if kind < 0.55:
        ImageDraw.Draw(picture).rectangle(box, fill=255)
    elif kind < 0.80:
        ImageDraw.Draw(picture).ellipse(box, fill=255)
    else:
        picture = _strokes(box, size, rng)
    hole = np.asarray(picture) >= 128
    return (hole, place_in(hole)) if hole.any() else object_hole(size, rng, span)


def place_in(hole: Hole) -> Place:
    """Where an object lies in a hole: the largest square of ``SIDES`` that fits, in its middle, by the hole's cells.

    Its edges are those of a grid, of which the UNet has a cell each: so a patch of a sprite comes in a few sizes, at
    one place in its cell. Anywhere, in any size, each would have to be learnt for every part of a cell. And the UNet
    sees no more of a hole than its cells: of what follows from them it can be sure from the first step on.
    """
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    (top, bottom), (left, right) = ((side[0] // CELL, side[-1] // CELL + 1) for side in (rows, columns))
    room = ROOM * min(bottom - top, right - left)
    side_cells = max((side for side in SIDES if side <= room), default=SIDES[0])
    corner = (
        (near + (far - near - side_cells) // 2) // EDGE_CELLS * EDGE_CELLS
        for near, far in ((left, right), (top, bottom))
    )
    x, y = (float(CELL * (edge + side_cells / 2)) for edge in corner)
    return Place(x, y, float(CELL * side_cells))


def outline_hole(size: int, rng: np.random.Generator, index: int) -> Hole:
    """A hole as one paints it over an object to remove: its outline, with some room around it."""
    _, place = object_hole(size, rng)
    solid = object_layer(index, place, size).getchannel("a").point(lambda a: 255 * (a > 8))
    reach = 2 * max(1, round(rng.uniform(0.03, 0.09) * place.side)) + 1
    return np.asarray(solid.filter(ImageFilter.MaxFilter(reach))) >= 128


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


def _any_sprite(rng: np.random.Generator) -> int:
    return int(rng.integers(len(OBJECTS) if rng.random() < NAMED_SHARE else len(sprites())))


def sample(size: int, rng: np.random.Generator) -> Sample:
    """One training example of ``size`` by ``size`` pixels."""
    scene = background(size, rng)
    index = _any_sprite(rng)
    hole, place = object_hole(size, rng)
    if rng.random() < DISTRACTOR_SHARE:
        other = _any_sprite(rng)
        side = rng.uniform(0.2, 0.45) * size
        x, y = rng.uniform(side / 2, size - side / 2, 2)
        where = Place(float(x), float(y), side)
        layer = object_layer(other, where, size)
        if not (hole & (np.asarray(layer.getchannel("a")) > 8)).any():
            scene = put(scene, layer, where)
    if rng.random() < BACKGROUND_SHARE:
        kind = rng.random()
        if kind >= REMOVAL_SHARE:
            hole = free_hole(size, rng)
        elif kind < OUTLINE_SHARE:
            hole = outline_hole(size, rng, index)
        return Sample(scene, scene, hole, -1, place)
    # What lies beyond the hole is kept: an object ends at its edge.
    painted = np.where(hole[..., None], put(scene, object_layer(index, place, size), place), scene)
    return Sample(painted, scene, hole, index, place)


def vae_picture(size: int, rng: np.random.Generator, photos: Sequence[Photo | str] = SCENES) -> Rgb:
    """A picture to measure the autoencoder by: a photograph with an object; every third with its hole in mid-grey."""
    scene = photo_crop(size, rng, photos)
    index = _any_sprite(rng)
    hole, place = object_hole(size, rng)
    picture = put(scene, object_layer(index, place, size), place)
    return np.where(hole[..., None], np.uint8(128), picture) if rng.random() < 1 / 3 else picture
