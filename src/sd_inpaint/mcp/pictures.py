"""Pictures in a tool's arguments → files: by path, or as content."""

import base64
import re
from typing import Annotated, Literal

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sd_inpaint.errors import BodyTooLargeError, InvalidParameterError
from sd_inpaint.imaging import codecs, mask_shapes, masks
from sd_inpaint.mcp.folders import Folders
from sd_inpaint.picture import Picture, Pixels

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class PictureContent(BaseModel):
    """A picture as content, in the shape of the protocol's own ImageContent."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image"] = "image"
    data: str = Field(description="The file as base64.")
    mimeType: str = Field(default="image/png", description="Not looked at: the bytes decide.")  # noqa: N815  # as there


PictureArgument = Annotated[
    str | PictureContent, Field(description="A path, a data URL, or {type: image, data: base64, mimeType}.")
]

Corners = tuple[float, float, float, float]


class Shape(BaseModel):
    """A mask by its shape, in pixels from the upper left corner; what is inside is repainted. Exactly one is set."""

    model_config = ConfigDict(extra="forbid")

    box: Corners | None = Field(default=None, description="Left, top, right, bottom.")
    ellipse: Corners | None = Field(default=None, description="The box that it fits into.")
    polygon: Annotated[list[tuple[float, float]], Field(min_length=3, max_length=10_000)] | None = Field(
        default=None, description="Its corners, x and y."
    )
    transparent: Literal[True] | None = Field(default=None, description="What of the picture is transparent.")
    colour: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")] | None = Field(
        default=None, description="What of the picture has this colour, such as #00ff00."
    )
    tolerance: int = Field(default=16, ge=0, le=255, description="Levels by which a colour may differ.")

    @model_validator(mode="after")
    def _is_one_shape(self) -> "Shape":
        if len(self.model_dump(exclude={"tolerance"}, exclude_none=True)) != 1:
            raise ValueError("set exactly one of box, ellipse, polygon, transparent and colour")
        return self

    def draw(self, picture: Picture) -> Pixels:
        """Returns the mask for a picture: (H, W) uint8 of its size, 255 repaints."""
        if self.box is not None:
            return mask_shapes.box(picture.size, self.box)
        if self.ellipse is not None:
            return mask_shapes.ellipse(picture.size, self.ellipse)
        if self.polygon is not None:
            return mask_shapes.polygon(picture.size, self.polygon)
        if self.colour is not None:
            red, green, blue = bytes.fromhex(self.colour[1:])
            return mask_shapes.near_colour(picture, (red, green, blue), self.tolerance)
        return mask_shapes.transparent(picture)


MaskArgument = Annotated[
    Shape | str | PictureContent,
    Field(description="White is repainted, black kept. A picture of the same size as for image, or a shape."),
]


class Pictures:
    """Reads arguments. Immutable; any task may use it.

    Args:
        folders: Where paths may lead; None takes no paths.
        max_bytes: The most that a file may have.
        max_pixels: The most pixels that a picture may have.
    """

    def __init__(self, folders: Folders | None, *, max_bytes: int, max_pixels: int) -> None:
        self.folders = folders
        self._max_bytes = max_bytes
        self.max_pixels = max_pixels

    async def read(self, name: str, given: str | PictureContent) -> bytes:
        """Returns a picture's file.

        Raises:
            InvalidParameterError: If it is none.
            BodyTooLargeError: If it is too large.
        """
        return await anyio.to_thread.run_sync(self._read, name, given)

    async def mask(self, image: bytes, given: Shape | str | PictureContent) -> bytes:
        """Returns a mask's file; raises as :meth:`read`, and as a picture's decoding does."""
        if isinstance(given, Shape):
            return await anyio.to_thread.run_sync(self.draw, image, given)
        return await self.read("mask", given)

    def draw(self, image: bytes, shape: Shape, *, grow: int = 0, blur: float = 0.0, invert: bool = False) -> bytes:
        """Draws the mask of a shape as PNG; blocks."""
        mask = masks.prepare(shape.draw(self.decode(image)), invert=invert, grow=grow, blur=blur)
        return mask_shapes.encode_mask(mask)

    def decode(self, image: bytes) -> Picture:
        """Decodes a picture; blocks."""
        return codecs.decode_image(image, max_pixels=self.max_pixels)

    def _read(self, name: str, given: str | PictureContent) -> bytes:
        if isinstance(given, PictureContent):
            return self._from_base64(name, given.data)
        if start := _DATA_URL.match(given):
            return self._from_base64(name, given[start.end() :])
        if self.folders is None:
            raise InvalidParameterError(
                f"{name} must be content, as base64: this server reads no files of its caller's.", field=name
            )
        return self.folders.read(name, given, self._max_bytes)

    def _from_base64(self, name: str, text: str) -> bytes:
        if len(text) > self._max_bytes * 4 // 3 + 4:
            raise BodyTooLargeError(f"{name} is larger than {self._max_bytes} bytes.", field=name)
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise InvalidParameterError(f"{name} is not valid base64.", field=name) from error
