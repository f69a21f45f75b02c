"""``sd-inpaint replay``: makes a result again from what its own file says, or says what has changed."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image

from sd_inpaint.cli.options import AsJson, example
from sd_inpaint.cli.paint import Demo, Model, Server, painter_maker
from sd_inpaint.errors import InvalidImageError
from sd_inpaint.schema import OutputFormat
from sd_inpaint.settings import DEMO_MODEL, Settings

if TYPE_CHECKING:
    from sd_inpaint.cli.painters import Origin
    from sd_inpaint.client import Result
    from sd_inpaint.imaging.record import Record

EXAMPLES = example(
    "sd-inpaint replay rose.png",
    "sd-inpaint replay rose.png --image photo.jpg --mask mask.png",
    "sd-inpaint replay rose.png --image photo.jpg --mask mask.png -o again.png --anyway",
)

_HEAVY = ("picture", "mask", "model", "weights")
"""Changes with which there is no hope for the same picture."""


def replay(
    result: Annotated[Path, typer.Argument(help="A result of this service.", exists=True, dir_okay=False)],
    image: Annotated[
        Path | None, typer.Option(help="The picture that it was made from.", exists=True, show_default=False)
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="FILE|alpha", help="The mask that it was made with.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep what was made here.")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Make it also if picture, mask or weights have changed.")
    ] = False,
    server: Server = None,
    demo: Demo = False,
    model: Model = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a result again, from the parameters in its own file, and compare.

    Without --image and --mask, show what the file says. Else: exit code 0 if the same pixels came out, 1 if they did
    not, or could not since something has changed: picture, mask, version, weights, device or plan.
    """
    from sd_inpaint.cli.bars import Bars
    from sd_inpaint.cli.mask_source import mask_source
    from sd_inpaint.cli.outputs import check_free, format_of, write_whole
    from sd_inpaint.cli.painters import Work

    before = result.read_bytes()
    record = read_record(before, result)
    if image is None or mask is None:
        _show(record, as_json=as_json)
        return
    if output is not None:
        format_of(output, _format_of(before))
        check_free([output], force=force)
    file = image.read_bytes()
    mask_file = mask_source(mask)(image, file)
    changes = dict(_input_changes(record, file, mask_file))
    if server is None and not demo and model is None:
        model = _loadable(record.model)
    after: Result | None = None
    if not changes or anyway:
        with Bars() as bars, painter_maker(server, demo=demo, model=model)(bars.say) as painter:
            changes |= _origin_changes(record, painter.origin(lambda stage: bars.stage(image, stage)))
            if anyway or not set(changes) & set(_HEAVY):
                parameters = record.parameters.model_copy(update={"output_format": _format_of(before)})
                after = painter.paint(Work(file, mask_file, parameters), lambda stage: bars.stage(image, stage))
    if after is not None:
        if after.plan != record.plan:
            changes["plan"] = _was(record.plan, after.plan)
        if output is not None:
            write_whole(output, after.data)
    outcome = "" if after is None else compare(before, after.data)
    _tell(outcome, changes, as_json=as_json)
    if not outcome.startswith("the same"):
        raise typer.Exit(1)


def read_record(file: bytes, path: Path) -> "Record":
    """Reads the record that a result's file has.

    Raises:
        InvalidImageError: If it has none.
    """
    from sd_inpaint.imaging import codecs
    from sd_inpaint.imaging.record import find_record

    record = find_record(codecs.read_xmp(file, max_pixels=Settings.read().max_pixels))
    if record is None:
        raise InvalidImageError(
            f"{path} does not say how it was made. Either it is no result of this service (0.2 or later), or nothing "
            "was painted in it, or the server has SD_INPAINT_METADATA=false, or a program that saved it left that out."
        )
    return record


def compare(before: bytes, after: bytes) -> str:
    """Says how much two files have in common: the same bytes, the same pixels, or other pixels."""
    import numpy as np

    from sd_inpaint.imaging import codecs

    if before == after:
        return "the same bytes"
    max_pixels = Settings.read().max_pixels
    one, two = (codecs.decode_image(file, max_pixels=max_pixels) for file in (before, after))
    if one.size != two.size:
        return "another size"
    apart = np.abs(one.rgb.astype(np.int16) - two.rgb).max(axis=2)
    if one.alpha is not None and two.alpha is not None:
        apart = np.maximum(apart, np.abs(one.alpha.astype(np.int16) - two.alpha))
    if not apart.any():
        return "the same pixels, in another file"
    return f"other pixels: {float((apart > 0).mean()):.1%} of them, by up to {int(apart.max())} of 255 levels"


def _input_changes(record: "Record", image: bytes, mask: bytes) -> Iterator[tuple[str, str]]:
    for name, digest, file in (("picture", record.image_sha256, image), ("mask", record.mask_sha256, mask)):
        if not digest:
            yield name, "the file does not say which it was: it was made through another dialect"
        elif digest != (found := hashlib.sha256(file).hexdigest()):
            yield name, _was(digest[:12], found[:12])


def _origin_changes(record: "Record", now: "Origin") -> dict[str, str]:
    pairs = {
        "version": (record.version, now.version),
        "model": (record.model, now.model),
        "weights": (record.weights_sha256[:12], now.weights_sha256[:12]),
        "device": (record.device, now.device),
    }
    if pairs["weights"][0] == pairs["weights"][1]:
        # The same files under another name.
        del pairs["model"]
    return {name: _was(before, after) for name, (before, after) in pairs.items() if before != after}


def _was(before: str, after: str) -> str:
    return f"it was {before or 'unknown'} and is {after or 'unknown'}"


def _loadable(name: str) -> str | None:
    """The model to load for a record that names one: None leaves it to the settings."""
    is_address = name == DEMO_MODEL or "/" in name or name.startswith("sd-inpaint:")
    return name if is_address and name != Settings.read().model_name else None


def _format_of(file: bytes) -> OutputFormat:
    with Image.open(io.BytesIO(file)) as image:
        return OutputFormat(str(image.format).lower())


def _show(record: "Record", *, as_json: bool) -> None:
    facts = asdict(record) | {
        "parameters": record.parameters.model_dump(mode="json", exclude_none=True, exclude={"num_images"})
    }
    if as_json:
        print(json.dumps(facts))
        return
    parameters = facts.pop("parameters")
    for name, value in {**facts, **parameters}.items():
        print(f"{name:20} {value}")
    print("Give --image and --mask to make it again.", file=sys.stderr)


def _tell(outcome: str, changes: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"outcome": outcome or None, "changes": changes}))
        return
    for name, change in changes.items():
        print(f"The {name} has changed: {change}.")
    if outcome:
        print(f"{outcome[0].upper()}{outcome[1:]}.")
    else:
        print("It was not made again: these changes make another picture. --anyway makes it all the same.")
