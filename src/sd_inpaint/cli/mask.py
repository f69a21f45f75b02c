"""``sd-inpaint mask``: makes a mask for a picture."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint.cli.options import AsJson, example
from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.schema import InpaintParameters

if TYPE_CHECKING:
    from sd_inpaint.picture import Picture, Pixels

EXAMPLES = example(
    "sd-inpaint mask photo.jpg --box 120,80,300,240 -o mask.png",
    "sd-inpaint mask photo.jpg --ellipse 25%,25%,75%,75% --grow 8 --blur 4 -o mask.png",
    'sd-inpaint mask photo.jpg --polygon "10,10 200,40 120,220" --without face.png -o mask.png',
    'sd-inpaint mask screenshot.png --color "#00ff00" --tolerance 40 -o mask.png',
    "sd-inpaint mask before.jpg --difference after.jpg --grow 6 -o mask.png",
    "sd-inpaint mask cut-out.png --transparent -o mask.png",
)

_ROUNDED = ("mask_grow", "mask_blur")
_BOUNDS = {name: InpaintParameters.model_json_schema()["properties"][name] for name in _ROUNDED}

CORNERS = "LEFT,TOP,RIGHT,BOTTOM"
TOLERANCE = 16


def mask(
    image: Annotated[Path, typer.Argument(help="The picture that the mask is for.", exists=True, dir_okay=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A PNG file; - is stdout.", show_default="NAME-mask.png in this folder"),
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(metavar=CORNERS, help="A rectangle, in pixels or percent.", show_default=False)
    ] = None,
    ellipse: Annotated[
        list[str] | None, typer.Option(metavar=CORNERS, help="The ellipse in a rectangle.", show_default=False)
    ] = None,
    polygon: Annotated[
        list[str] | None,
        typer.Option(metavar='"X,Y X,Y X,Y"', help="Three corners or more.", show_default=False),
    ] = None,
    transparent: Annotated[bool, typer.Option("--transparent", help="What of the picture is transparent.")] = False,
    color: Annotated[
        list[str] | None,
        typer.Option(metavar="COLOR", help="A colour of the picture: #00ff00, lime.", show_default=False),
    ] = None,
    difference: Annotated[
        Path | None,
        typer.Option(help="Where this picture of the same size differs.", exists=True, show_default=False),
    ] = None,
    tolerance: Annotated[
        int, typer.Option(min=0, max=255, help="Levels of 255 by which colours may differ and be the same.")
    ] = TOLERANCE,
    mask: Annotated[
        list[Path] | None,
        typer.Option("--mask", metavar="FILE", help="A mask that is there.", exists=True, show_default=False),
    ] = None,
    within: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Keep only what is white in this mask too.", exists=True, show_default=False),
    ] = None,
    without: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Take away what is white in this mask.", exists=True, show_default=False),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Make white black, and black white.")] = False,
    grow: Annotated[
        int,
        typer.Option(
            min=_BOUNDS["mask_grow"]["minimum"],
            max=_BOUNDS["mask_grow"]["maximum"],
            help="Grow the white by so many pixels; below 0, shrink it.",
        ),
    ] = 0,
    blur: Annotated[
        float,
        typer.Option(
            min=_BOUNDS["mask_blur"]["minimum"], max=_BOUNDS["mask_blur"]["maximum"], help="Gaussian blur, in pixels."
        ),
    ] = 0.0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a mask for a picture: white is what will be repainted.

    Shapes, colours and masks are joined, in any number. Then --within, --without, --invert, --grow and --blur follow,
    in this order. Places are in pixels from the upper left corner, as the picture is displayed, or in percent: 25%.
    """
    from sd_inpaint.cli.outputs import STDOUT, check_free, write_whole
    from sd_inpaint.imaging import masks
    from sd_inpaint.imaging.mask_shapes import encode_mask

    output = output or Path(f"{image.stem}-mask.png")
    if output != STDOUT:
        if output.suffix.lower() != ".png":
            raise InvalidParameterError(f"{output}: a mask is a PNG; the name must end in .png.", field="output")
        check_free([output], force=force)
    shapes = _Shapes(_read(image), tolerance)
    joined = shapes.joined(
        boxes=box or [],
        ellipses=ellipse or [],
        polygons=polygon or [],
        colours=color or [],
        masks=mask or [],
        difference=difference,
        transparent=transparent,
    )
    made = masks.prepare(
        shapes.cut(joined, within=within or [], without=without or []), invert=invert, grow=grow, blur=blur
    )
    file = encode_mask(made)
    if output == STDOUT:
        sys.stdout.buffer.write(file)
    else:
        write_whole(output, file)
    _tell(output, made, as_json=as_json, quiet=output == STDOUT)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The masks that options ask for, of one picture."""

    picture: "Picture"
    tolerance: int

    def joined(
        self,
        *,
        boxes: list[str],
        ellipses: list[str],
        polygons: list[str],
        colours: list[str],
        masks: list[Path],
        difference: Path | None,
        transparent: bool,
    ) -> "Pixels":
        """All of them in one.

        Raises:
            InvalidParameterError: If there is none, or one cannot be read.
            SizeMismatchError: If another picture has another size.
        """
        import numpy as np

        from sd_inpaint.cli import coordinates
        from sd_inpaint.imaging import mask_shapes
        from sd_inpaint.imaging.pair import check_same_size

        size = self.picture.size
        found = [mask_shapes.box(size, coordinates.corners(text, size, "--box")) for text in boxes]
        found += [mask_shapes.ellipse(size, coordinates.corners(text, size, "--ellipse")) for text in ellipses]
        found += [mask_shapes.polygon(size, coordinates.points(text, size, "--polygon")) for text in polygons]
        found += [mask_shapes.near_colour(self.picture, _colour(text), self.tolerance) for text in colours]
        found += [self.of_file(path) for path in masks]
        if transparent:
            found.append(mask_shapes.transparent(self.picture))
        if difference is not None:
            other = _read(difference)
            check_same_size(self.picture, other.rgb[:, :, 0])
            found.append(mask_shapes.difference(self.picture, other, self.tolerance))
        if not found:
            raise InvalidParameterError(
                "Nothing says what is white: use --box, --ellipse, --polygon, --transparent, --color, --difference or "
                "--mask.",
                field="mask",
            )
        joined: Pixels = np.maximum.reduce(found)
        return joined

    def cut(self, mask: "Pixels", *, within: list[Path], without: list[Path]) -> "Pixels":
        """A mask less what is black in some files, and white in others."""
        import numpy as np

        for path in within:
            mask = np.minimum(mask, self.of_file(path))
        for path in without:
            mask = np.minimum(mask, 255 - self.of_file(path))
        return mask

    def of_file(self, path: Path) -> "Pixels":
        """A mask that is there."""
        from sd_inpaint.imaging import codecs
        from sd_inpaint.imaging.pair import check_same_size
        from sd_inpaint.settings import Settings

        pixels = codecs.decode_mask(path.read_bytes(), max_pixels=Settings.read().max_pixels)
        check_same_size(self.picture, pixels)
        return pixels


def _read(path: Path) -> "Picture":
    from sd_inpaint.imaging import codecs
    from sd_inpaint.settings import Settings

    return codecs.decode_image(path.read_bytes(), max_pixels=Settings.read().max_pixels)


def _colour(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InvalidParameterError(
            f"--color: {text!r} is no colour, such as #00ff00 or lime.", field="color"
        ) from None
    return red, green, blue


def _tell(output: Path, mask: "Pixels", *, as_json: bool, quiet: bool) -> None:
    import cv2

    height, width = mask.shape
    left, top, across, down = cv2.boundingRect(mask)
    share = float(mask.mean()) / 255
    if not across:
        print("The mask is all black: nothing will be repainted.", file=sys.stderr)
    if quiet:
        return
    if as_json:
        box = [left, top, left + across, top + down] if across else None
        print(json.dumps({"output": str(output), "size": [width, height], "white": round(share, 4), "box": box}))
    else:
        print(f"{output}  {width}x{height}, {share:.1%} white")
