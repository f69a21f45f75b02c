"""``sd-inpaint extend``: room around a picture, and the mask to paint it with."""

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint.cli.options import AsJson, example
from sd_inpaint.errors import InvalidParameterError

if TYPE_CHECKING:
    from sd_inpaint.imaging.extension import Sides

EXAMPLES = example(
    "sd-inpaint extend photo.jpg --left 200 --right 200",
    "sd-inpaint extend photo.jpg --ratio 16:9 -o wide.png --mask-output wide-mask.png",
    'sd-inpaint paint photo-extended.png photo-extended-mask.png "a beach at dusk"',
)

_RATIO = re.compile(r"(\d+(?:\.\d+)?)[:/x](\d+(?:\.\d+)?)")

Length = Annotated[str, typer.Option(metavar="LENGTH", help="Room on this side, in pixels or percent: 20%.")]


def extend(
    image: Annotated[Path, typer.Argument(help="The picture.", exists=True, dir_okay=False)],
    left: Length = "0",
    top: Length = "0",
    right: Length = "0",
    bottom: Length = "0",
    ratio: Annotated[
        str | None, typer.Option(metavar="W:H", help="As much room as this ratio needs.", show_default=False)
    ] = None,
    overlap: Annotated[
        int, typer.Option(min=0, max=512, help="Pixels of the picture that are blended with what is painted.")
    ] = 32,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The larger picture.", show_default="NAME-extended.png")
    ] = None,
    mask_output: Annotated[
        Path | None, typer.Option(help="Its mask, a PNG.", show_default="as the picture, with -mask")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add room around a picture, and make the mask to paint it with.

    The room is filled with the colours around it, and white in the mask. Towards the picture the mask fades to black
    within the overlap, so that no seam shows. The picture's own pixels stay as they are.
    """
    from sd_inpaint.cli.outputs import STDOUT, check_free, format_of, write_whole
    from sd_inpaint.imaging import codecs
    from sd_inpaint.imaging.codecs import ImageFormat
    from sd_inpaint.imaging.extension import Sides, extend, sides_for_ratio
    from sd_inpaint.imaging.mask_shapes import encode_mask
    from sd_inpaint.schema import OutputFormat
    from sd_inpaint.settings import Settings

    output = output or Path(f"{image.stem}-extended.png")
    mask_output = mask_output or output.with_name(f"{output.stem}-mask.png")
    image_format = ImageFormat(format_of(output, None))
    if format_of(mask_output, None) is not OutputFormat.PNG or mask_output == output or STDOUT in (output, mask_output):
        raise InvalidParameterError(
            f"{mask_output}: the mask is a PNG in a file of its own, beside the picture's.", field="mask_output"
        )
    check_free([output, mask_output], force=force)
    max_pixels = Settings.read().max_pixels
    picture = codecs.decode_image(image.read_bytes(), max_pixels=max_pixels)
    sides = _sides(picture.size, {"left": left, "top": top, "right": right, "bottom": bottom})
    if ratio is not None:
        if sides != Sides():
            raise InvalidParameterError("--ratio chooses the sides by itself; give it alone.", field="ratio")
        sides = sides_for_ratio(picture.size, _ratio(ratio))
    if sides == Sides():
        raise InvalidParameterError(
            "There is nothing to add: use --left, --top, --right, --bottom, or a --ratio of another shape.",
            field="ratio",
        )
    larger, mask = extend(picture, sides, overlap, max_pixels=max_pixels)
    write_whole(output, codecs.encode(larger, image_format))
    write_whole(mask_output, encode_mask(mask))
    if as_json:
        facts = {"left": sides.left, "top": sides.top, "right": sides.right, "bottom": sides.bottom}
        print(json.dumps({"output": str(output), "mask": str(mask_output), "size": list(larger.size), **facts}))
    else:
        print(f"{output}  {larger.width}x{larger.height}, with its mask in {mask_output}. To paint it:")
        print(f'sd-inpaint paint {shlex.quote(str(output))} {shlex.quote(str(mask_output))} "what belongs there"')


def _sides(size: tuple[int, int], texts: dict[str, str]) -> "Sides":
    from sd_inpaint.cli.coordinates import length
    from sd_inpaint.imaging.extension import Sides

    width, height = size
    found = {}
    for name, text in texts.items():
        found[name] = round(length(text, width if name in ("left", "right") else height, f"--{name}"))
        if found[name] < 0:
            raise InvalidParameterError(f"--{name}: {text} would cut the picture, and this only adds.", field=name)
    return Sides(**found)


def _ratio(text: str) -> float:
    found = _RATIO.fullmatch(text)
    if found is None or not float(found[1]) or not float(found[2]):
        raise InvalidParameterError(f"--ratio: {text!r} is not W:H, such as 16:9.", field="ratio")
    return float(found[1]) / float(found[2])
