"""Picture ↔ canvas: which part of a picture the model works on, at which scale, and the way back.

A canvas is a box of the picture at one scale, reflected at its right and lower side to whole latent cells. The boxes
of one plan never overlap, so every pixel of the mask lies in exactly one canvas.

No size of any model stands here: :class:`CanvasLimits` comes from the loaded one.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_inpaint.errors import ImageTooLargeError
from sd_inpaint.imaging import masks
from sd_inpaint.imaging.grid import MAX_GROWTH, Side, grid_step, scaled_side
from sd_inpaint.picture import Flags, Pixels
from sd_inpaint.schema import Region

_MAX_AREA: Final = 1.5
"""In native areas: a canvas up to this size is painted as one thing; from about twice on, things appear doubled."""

_MIN_AREA: Final = 1 / 1.5
"""In native areas: a smaller box is scaled up, since the model draws few small things well."""

_MAX_SIDE: Final = 2.0
"""In native sizes: the longest side of a canvas, unless ``region=full`` asks for the whole picture."""

_CONTEXT: Final = 0.25
"""Context on each side of a hole, as a part of its longest side."""

_MIN_CONTEXT: Final = 0.125
"""In native sizes: the least context on each side."""

_MAX_ASPECT: Final = 2.0
"""A hole longer than this gets more context on its long sides, where the picture has it."""

_MAX_CANVASES: Final = 8
"""Canvases of one request, so that dust all over a picture does not cost hundreds."""

_MAX_COMPONENTS: Final = 32
"""Holes told apart; more are joined with their neighbours first."""


@dataclass(frozen=True, slots=True)
class CanvasLimits:
    """Which canvases a model works on, on its device.

    Attributes:
        native_size: Side of the square, in pixels, that the model was trained on.
        stride: Pixels a side of a latent cell; sides of canvases are multiples of it.
        max_pixels: Largest canvas, width times height, that the device can hold.
    """

    native_size: int
    stride: int
    max_pixels: int

    def __post_init__(self) -> None:
        if self.max_pixels < self.stride * self.stride:
            raise ValueError(f"max_pixels={self.max_pixels} holds no latent cell of stride {self.stride}")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels of a picture, right and lower edge exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index into (H, W, …) arrays."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def union(self, other: "Box") -> "Box":
        """The smallest box that holds both."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


@dataclass(frozen=True, slots=True)
class Canvas:
    """The model's working area: a box of the picture, scaled to ``inner_width, inner_height``, then padded.

    Attributes:
        box: The part of the picture, in picture pixels.
        width: Columns in canvas pixels, a multiple of the stride.
        height: Rows in canvas pixels, a multiple of the stride.
        inner_width: Columns that the scaled box takes, from the left; reflected columns follow.
        inner_height: Rows that the scaled box takes, from the top; reflected rows follow.
    """

    box: Box
    width: int
    height: int
    inner_width: int
    inner_height: int

    @property
    def scale(self) -> float:
        """Canvas pixels for one picture pixel; 1.0 where nothing is resampled."""
        if self.box.width >= self.box.height:
            return self.inner_width / self.box.width
        return self.inner_height / self.box.height

    @property
    def pixels(self) -> int:
        """The canvas's cost: its width times its height."""
        return self.width * self.height

    @property
    def is_unscaled(self) -> bool:
        """Whether canvas pixels are picture pixels."""
        return (self.inner_width, self.inner_height) == (self.box.width, self.box.height)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom of the whole canvas, padding included, in picture pixels."""
        right = self.box.left + self.box.width * self.width / self.inner_width
        bottom = self.box.top + self.box.height * self.height / self.inner_height
        return self.box.left, self.box.top, right, bottom

    def describe(self) -> str:
        """``left,top,right,bottom@scale->WIDTHxHEIGHT``, for the header ``X-Region``."""
        box = self.box
        return f"{box.left},{box.top},{box.right},{box.bottom}@{self.scale:.4g}->{self.width}x{self.height}"


def plan(
    mask: Pixels,
    *,
    region: Region,
    padding: int | None,
    limits: CanvasLimits,
) -> tuple[Canvas, ...]:
    """Chooses the canvases that together hold all of the mask that can be seen (:func:`masks.visible`).

    ``full`` is the whole picture at its own scale. ``auto`` takes the whole of a picture that is near the native size
    (up to 1.5 times its area and twice its side) or smaller, scaled up where it is much smaller. Of a larger picture,
    and always for ``mask``, it takes the mask and its surroundings (``auto``: at least ``native_size`` pixels a side);
    holes far apart get a canvas each where that costs less than one for all at the same scale.

    Args:
        mask: (H, W) uint8, the effective mask of the picture.
        region: Which part the caller asked for.
        padding: Pixels of context on each side of the mask, exactly; None chooses by the size of the hole.
        limits: Of the model and its device.

    Returns:
        Canvases whose boxes do not overlap; none for a mask of which nothing can be seen.

    Raises:
        ImageTooLargeError: If ``region=full`` needs a larger canvas than the device can hold.
    """
    mask = masks.visible(mask)
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return ()
    rows, columns = mask.shape
    planner = _Planner(columns=columns, rows=rows, region=region, padding=padding, limits=limits)
    whole = planner.whole()
    if region is Region.FULL and whole.pixels > limits.max_pixels:
        raise ImageTooLargeError(
            f"region=full needs a canvas of {whole.width}x{whole.height} = {whole.pixels} pixels, and this server's "
            f"device takes at most {limits.max_pixels}. Use region=auto.",
            max_canvas_pixels=limits.max_pixels,
        )
    if region is Region.FULL or (region is Region.AUTO and planner.is_near_native(whole)):
        return (whole,)
    extents = _extents(
        mask, Box(left, top, left + width, top + height), max(1, round(limits.native_size * _MIN_CONTEXT))
    )
    return _merged(extents, planner)


def cut(canvas: Canvas, rgb: Pixels) -> Pixels:
    """The part of a picture that the model sees.

    Args:
        canvas: A canvas of this picture.
        rgb: (H, W, 3) uint8.

    Returns:
        (canvas.height, canvas.width, 3) uint8, own and writable; the box's own bytes where the scale is 1.
    """
    part = rgb[canvas.box.slices]
    if not canvas.is_unscaled:
        part = resized(part, canvas.inner_width, canvas.inner_height)
    return _padded(part, canvas)


def cut_mask(canvas: Canvas, mask: Pixels) -> Pixels:
    """The mask of what ``cut`` gives: each canvas pixel gets the largest grey level of the picture pixels it touches.

    So a hole never gets narrower, nor lost, at any scale.

    Args:
        canvas: A canvas of this picture.
        mask: (H, W) uint8.

    Returns:
        (canvas.height, canvas.width) uint8, own and writable; the box's own bytes where the scale is 1.
    """
    part = mask[canvas.box.slices]
    if not canvas.is_unscaled:
        for axis, size in enumerate((canvas.inner_height, canvas.inner_width)):
            # In whole numbers, so that no rounding of a float lets a pixel fall between two.
            edges = np.arange(size + 1, dtype=np.int64) * part.shape[axis]
            part = _maxima(part, edges[:-1] // size, -(-edges[1:] // size), axis)
    return _padded(part, canvas)


def cut_kept(canvas: Canvas, rgb: Pixels, hole: Flags) -> tuple[Pixels, Flags]:
    """The kept part of each canvas pixel: if the canvas is smaller than its box, the hole's border crosses some.

    ``cut_mask`` gives those to the hole whole, for nothing of what it hides may be seen. Their kept part may.

    Args:
        canvas: A canvas of this picture.
        rgb: (H, W, 3) uint8.
        hole: (box height, box width) bool, of the canvas's box.

    Returns:
        (canvas.height, canvas.width, 3) uint8, mean colour of the kept part, and (canvas.height, canvas.width) bool,
        where that is half of the pixel at least; elsewhere the colour means nothing.
    """
    size = canvas.inner_width, canvas.inner_height
    kept = cv2.resize(np.where(hole, 0, 255).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    seen = np.where(hole[..., None], 0, rgb[canvas.box.slices]).astype(np.uint8)
    colours = cv2.resize(seen, size, interpolation=cv2.INTER_AREA) * (255 / np.maximum(kept, 1)[..., None])
    is_half_kept = (kept >= 128).astype(np.uint8)
    return _padded(colours.clip(0, 255).round().astype(np.uint8), canvas), _padded(is_half_kept, canvas).astype(
        np.bool_
    )


def paste(canvas: Canvas, painted: Pixels, onto: Pixels) -> None:
    """Writes a painted canvas into its box, without its padding and at the picture's scale.

    Args:
        canvas: A canvas of this picture.
        painted: (canvas.height, canvas.width, 3) uint8.
        onto: (H, W, 3) uint8, a working copy of the picture; its box is overwritten.
    """
    inner = painted[: canvas.inner_height, : canvas.inner_width]
    if not canvas.is_unscaled:
        inner = resized(inner, canvas.box.width, canvas.box.height)
    onto[canvas.box.slices] = inner


@dataclass(frozen=True, slots=True)
class _Planner:
    """One picture and one model: from boxes to canvases."""

    columns: int
    rows: int
    region: Region
    padding: int | None
    limits: CanvasLimits

    def whole(self) -> Canvas:
        """The canvas of the whole picture, at its own scale for ``full``, whatever it costs."""
        box = Box(0, 0, self.columns, self.rows)
        return self._scaled(box, 1.0 if self.region is Region.FULL else self._scale(box))

    def is_near_native(self, whole: Canvas) -> bool:
        """Whether the whole picture fits the model without being scaled down."""
        return whole.scale >= 1 and whole.pixels <= self.limits.max_pixels

    def around(self, extent: Box) -> Canvas:
        """The canvas for a hole that has this bounding box."""
        box = self._surroundings(extent)
        scale = self._scale(box)
        canvas = self._scaled(box, scale)
        while canvas.pixels > self.limits.max_pixels:
            scale *= min(0.99, math.sqrt(self.limits.max_pixels / canvas.pixels))
            canvas = self._scaled(box, scale)
        return self._on_grid(extent, canvas, scale) if self.padding is None else canvas

    def _on_grid(self, extent: Box, canvas: Canvas, scale: float) -> Canvas:
        """The same with a little more or less context, so that its sides are among few; itself where that cannot be."""
        step = grid_step(self.limits.native_size, self.limits.stride)
        most = min(self.limits.max_pixels, self.limits.native_size**2 * _MAX_AREA, canvas.pixels * MAX_GROWTH)
        context = math.ceil(self.limits.native_size * _MIN_CONTEXT / 2)
        box = canvas.box
        sides = (
            Side(box.width, min(extent.width + 2 * context, self.columns), self.columns, scale),
            Side(box.height, min(extent.height + 2 * context, self.rows), self.rows, scale),
        )
        for down in (False, True):
            width, height = (side.on_grid(step, down=down) for side in sides)
            left, right = _centred(extent.left, extent.right, width, self.columns)
            top, bottom = _centred(extent.top, extent.bottom, height, self.rows)
            found = self._scaled(Box(left, top, right, bottom), scale, step)
            if found.pixels <= most and max(found.width, found.height) <= self.limits.native_size * _MAX_SIDE:
                return found
        return canvas

    def _surroundings(self, extent: Box) -> Box:
        if self.padding is not None:
            pad = self.padding
            return Box(
                max(extent.left - pad, 0),
                max(extent.top - pad, 0),
                min(extent.right + pad, self.columns),
                min(extent.bottom + pad, self.rows),
            )
        longest = max(extent.width, extent.height)
        pad = math.ceil(max(longest * _CONTEXT, self.limits.native_size * _MIN_CONTEXT))
        least = self.limits.native_size if self.region is Region.AUTO else 1
        width = min(max(extent.width + 2 * pad, least), self.columns)
        height = min(max(extent.height + 2 * pad, least), self.rows)
        width, height = max(width, math.ceil(height / _MAX_ASPECT)), max(height, math.ceil(width / _MAX_ASPECT))
        left, right = _centred(extent.left, extent.right, width, self.columns)
        top, bottom = _centred(extent.top, extent.bottom, height, self.rows)
        return Box(left, top, right, bottom)

    def _scale(self, box: Box) -> float:
        native_area = self.limits.native_size**2
        area = box.width * box.height
        scale = 1.0
        if area > native_area * _MAX_AREA:
            scale = math.sqrt(native_area * _MAX_AREA / area)
        elif area < native_area * _MIN_AREA:
            scale = math.sqrt(native_area / area)
        return min(scale, self.limits.native_size * _MAX_SIDE / max(box.width, box.height))

    def _scaled(self, box: Box, scale: float, step: int = 1) -> Canvas:
        inner_width, inner_height = (scaled_side(side, scale, step) for side in (box.width, box.height))
        width, height = (
            math.ceil(side / self.limits.stride) * self.limits.stride for side in (inner_width, inner_height)
        )
        return Canvas(box, width, height, inner_width, inner_height)


def _centred(low: int, high: int, size: int, limit: int) -> tuple[int, int]:
    """A span of ``size`` with [low, high) in its middle, moved and cut to lie within [0, limit)."""
    size = min(size, limit)
    start = min(max((low + high - size) // 2, 0), limit - size)
    return start, start + size


def _extents(mask: Pixels, bounds: Box, cell: int) -> list[Box]:
    """The bounding boxes of the mask's holes; those less than about a cell apart are one hole."""
    part = mask[bounds.slices]
    while True:
        tops, lefts = np.arange(0, part.shape[0], cell), np.arange(0, part.shape[1], cell)
        cells = np.maximum.reduceat(np.maximum.reduceat(part, tops, axis=0), lefts, axis=1)
        count, labels, stats, _ = cv2.connectedComponentsWithStats((cells > 0).astype(np.uint8), connectivity=8)
        if count - 1 <= _MAX_COMPONENTS:
            break
        cell *= 2
    extents = []
    for label in range(1, count):
        column, row, width, height = (int(value) for value in stats[label, :4])
        member = labels[row : row + height, column : column + width] == label
        window = part[row * cell : (row + height) * cell, column * cell : (column + width) * cell]
        inside = member.repeat(cell, axis=0).repeat(cell, axis=1)[: window.shape[0], : window.shape[1]]
        left, top, width, height = cv2.boundingRect(np.where(inside, window, np.uint8(0)))
        left, top = bounds.left + column * cell + left, bounds.top + row * cell + top
        extents.append(Box(left, top, left + width, top + height))
    return extents


def _merged(extents: list[Box], planner: _Planner) -> tuple[Canvas, ...]:
    """Joins holes until no two canvases overlap, none is dearer apart, and there are at most ``_MAX_CANVASES``."""
    parts = [(extent, planner.around(extent)) for extent in extents]
    while len(parts) > 1:
        best: tuple[float, int, int] | None = None
        for i, j in combinations(range(len(parts)), 2):
            gain = _gain(parts[i], parts[j], planner)
            if best is None or gain > best[0]:
                best = gain, i, j
        if best is None or (best[0] < 0 and len(parts) <= _MAX_CANVASES):
            break
        _, i, j = best
        extent = parts[i][0].union(parts[j][0])
        parts = [part for k, part in enumerate(parts) if k not in (i, j)] + [(extent, planner.around(extent))]
    return tuple(sorted((canvas for _, canvas in parts), key=lambda canvas: (canvas.box.top, canvas.box.left)))


def _gain(one: tuple[Box, Canvas], other: tuple[Box, Canvas], planner: _Planner) -> float:
    """Canvas pixels saved by joining two, at the finer of their scales; infinite where they must be joined."""
    if one[1].box.overlaps(other[1].box):
        return math.inf
    joint = planner.around(one[0].union(other[0])).box
    finer = max(one[1].scale, other[1].scale)
    return one[1].pixels + other[1].pixels - joint.width * joint.height * finer**2


def _maxima(part: Pixels, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], axis: int) -> Pixels:
    """The maximum over each [start, end) along an axis; the spans may overlap."""
    maxima = part.take(starts, axis)
    for step in range(1, int((ends - starts).max())):
        np.maximum(maxima, part.take(np.minimum(starts + step, ends - 1), axis), out=maxima)
    return maxima


def resized(part: Pixels, width: int, height: int) -> Pixels:
    """Scales (h, w, 3) uint8 to (height, width, 3)."""
    # Pillow's Lanczos widens with the scale, so that nothing aliases; OpenCV's does not.
    image = Image.fromarray(np.ascontiguousarray(part)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _padded(part: Pixels, canvas: Canvas) -> Pixels:
    below, right = canvas.height - part.shape[0], canvas.width - part.shape[1]
    # Unlike NumPy's "reflect", this one also takes sides of a single pixel, and padding longer than the side.
    return np.asarray(cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REFLECT_101), dtype=np.uint8)
