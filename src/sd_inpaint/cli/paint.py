"""``sd-inpaint paint``: a picture, or a folder of them, in this process or by a server."""

import datetime as dt
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sd_inpaint import environment
from sd_inpaint.cli.options import AsJson, example
from sd_inpaint.cli.outputs import STDOUT, check_free, format_of, numbered, own_name, write_whole
from sd_inpaint.cli.schema_options import with_parameters
from sd_inpaint.settings import DEMO_MODEL

if TYPE_CHECKING:
    from sd_inpaint.cli.batch import Outcome
    from sd_inpaint.cli.painters import CommandPainter
    from sd_inpaint.client import Result
    from sd_inpaint.schema import InpaintParameters

EXAMPLES = example(
    'sd-inpaint paint photo.jpg mask.png "a red rose" -o rose.png',
    'sd-inpaint paint cut-out.png --mask alpha "a meadow" --steps 30 --seed 7',
    'sd-inpaint paint photo.jpg mask.png "a red rose" --server http://localhost:8000',
    'sd-inpaint paint photos/ --mask masks/ -o out/ "an empty street"',
    "sd-inpaint paint photos/ --mask mask.png -o out/ --server https://example.org --jobs 4",
)

FAILURES = "sd-inpaint-failures.log"
"""The file in a folder of results that says what went wrong."""

Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=environment.SERVER,
        help=f"Have this server paint. Its API key comes from {environment.KEY}.",
        show_default="in this process",
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Hub id, folder, or sd-inpaint:VERSION.", show_default="the API guide's model")
]
Demo = Annotated[bool, typer.Option("--demo", help="Use the small demo model, which needs no download.")]


@with_parameters
def paint(
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of them.", exists=True)],
    mask_and_prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MASK] [PROMPT]",
            help="The mask, unless --mask names it, and what to paint where it is white.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            "-m",
            metavar="FILE|FOLDER|alpha",
            help="One mask for all, a folder with one of the same name for each, or alpha: what is transparent.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File or folder of the result; - is stdout.",
            show_default="NAME-painted in this folder",
        ),
    ] = None,
    server: Server = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="How many pictures a server gets at once.")
    ] = 1,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite what is there; of a folder, paint all of it.")
    ] = False,
    demo: Demo = False,
    model: Model = None,
    as_json: AsJson = False,
    *,
    asked: dict[str, Any],
) -> None:
    """Repaint the white part of a mask in a picture.

    A folder's pictures are painted one after another. What is done already is left alone, so after Ctrl+C, or a crash,
    the same command goes on. A picture, a mask or a parameter that has changed is painted again.
    """
    masks, prompt = _mask_and_prompt(image, mask, mask_and_prompt or [])
    parameters = read_asked(prompt, asked)
    make_painter = painter_maker(server, jobs=jobs, demo=demo, model=model)
    if image.is_dir():
        _paint_folder(image, masks, output, parameters, make_painter, jobs, force=force, as_json=as_json)
    else:
        _paint_one(image, masks, output, parameters, make_painter, force=force, as_json=as_json)


def read_asked(prompt: str, asked: dict[str, Any]) -> "InpaintParameters":
    """Checks parameters as the service does, with its words.

    Raises:
        InvalidParameterError: If it would refuse them.
    """
    from sd_inpaint.client.options import form_texts, read_options
    from sd_inpaint.http.wire.parameters import read_parameters

    return read_parameters(form_texts(read_options(prompt, asked)))


def painter_maker(
    server: str | None, *, jobs: int = 1, demo: bool = False, model: str | None = None
) -> "Callable[[Callable[[str], None]], CommandPainter]":
    """Returns what makes the painter that options ask for, of a place to say things.

    Raises:
        typer.BadParameter: If the options contradict each other.
    """
    from sd_inpaint.cli.painters import LocalPainter, ServerPainter

    if demo and model is not None:
        raise typer.BadParameter("--demo names a model too. Give one of them.", param_hint="--model")
    if server is None:
        if jobs > 1:
            raise typer.BadParameter("Without --server, pictures are painted one by one.", param_hint="--jobs")
        return partial(LocalPainter, DEMO_MODEL if demo else model)
    if demo or model is not None:
        raise typer.BadParameter("The server chooses the model.", param_hint="--model")
    check_server(server)
    return partial(ServerPainter, server)


def check_server(server: str) -> None:
    """Refuses what is no server's address, before anything is started."""
    from sd_inpaint.client.connection import Target

    try:
        Target(server, None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--server") from None


def _mask_and_prompt(image: Path, mask: str | None, given: list[str]) -> tuple[str, str]:
    if mask is None and not image.is_dir() and given:
        mask, *given = given
    if mask is None:
        raise typer.BadParameter("Name the mask: a file, a folder, or alpha.", param_hint="--mask")
    if len(given) > 1:
        raise typer.BadParameter(
            f"{given[1]!r} is too much: put the prompt in quotes, and name the mask once.", param_hint="PROMPT"
        )
    return mask, given[0] if given else ""


def _paint_one(
    image: Path,
    masks: str,
    output: Path | None,
    parameters: "InpaintParameters",
    make_painter: "Callable[[Callable[[str], None]], CommandPainter]",
    *,
    force: bool,
    as_json: bool,
) -> None:
    from sd_inpaint.cli.bars import Bars
    from sd_inpaint.cli.mask_source import mask_source
    from sd_inpaint.cli.painters import Work

    if output is None:
        output = Path(own_name(image, parameters.output_format, "-painted"))
    elif output.is_dir():
        output = output / own_name(image, parameters.output_format)
    if output == STDOUT and (parameters.num_images > 1 or as_json):
        raise typer.BadParameter("stdout holds one picture and nothing else.", param_hint="--output")
    outputs = numbered(output, parameters.num_images)
    if output != STDOUT:
        check_free(outputs, force=force)
    parameters = parameters.model_copy(update={"output_format": format_of(output, parameters.output_format)})
    file = image.read_bytes()
    work = Work(file, mask_source(masks)(image, file), parameters)
    with Bars() as bars, make_painter(bars.say) as painter:
        result = painter.paint(work, lambda stage: bars.stage(image, stage))
    if output == STDOUT:
        sys.stdout.buffer.write(result.data)
        outputs = []
    for place, picture in zip(outputs, result.pictures, strict=bool(outputs)):
        write_whole(place, picture.data)
    _tell(result, outputs, as_json=as_json)


def _tell(result: "Result", outputs: list[Path], *, as_json: bool) -> None:
    from sd_inpaint.cli.bars import duration

    for warning in result.warnings:
        print(warning, file=sys.stderr)
    if as_json:
        pictures = [
            {"output": str(place), "seed": picture.seed}
            for place, picture in zip(outputs, result.pictures, strict=True)
        ]
        about = {"steps": result.steps, "model": result.model, "plan": result.plan, "regions": result.regions}
        print(json.dumps({"pictures": pictures, **about, "warnings": result.warnings}))
        return
    for place, picture in zip(outputs, result.pictures, strict=bool(outputs)):
        print(f"{place}  seed {picture.seed}, {result.steps} steps in {duration(result.inference_seconds)}")


def _paint_folder(
    pictures: Path,
    masks: str,
    output: Path | None,
    parameters: "InpaintParameters",
    make_painter: "Callable[[Callable[[str], None]], CommandPainter]",
    jobs: int,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from sd_inpaint.cli.bars import Bars
    from sd_inpaint.cli.batch import Batch
    from sd_inpaint.cli.mask_source import mask_source

    if output is None or output == STDOUT:
        raise typer.BadParameter("A folder's results need a folder.", param_hint="--output")
    if output.is_file():
        raise typer.BadParameter(f"{output} is a file.", param_hint="--output")
    batch = Batch(pictures, mask_source(masks), output, parameters, force=force)
    with Bars() as bars:
        try:
            outcome = batch.run(partial(make_painter, bars.say), jobs, bars)
        except KeyboardInterrupt:
            bars.say("Stopped. The same command goes on from here.")
            raise
    _log_failures(output / FAILURES, outcome)
    if as_json:
        print(json.dumps({"painted": outcome.painted, "skipped": outcome.skipped, "failed": outcome.failed}))
    else:
        failed = f", {len(outcome.failed)} failed: see {output / FAILURES}" if outcome.failed else ""
        print(f"{output}  {len(outcome.painted)} painted, {len(outcome.skipped)} done before{failed}")
    if outcome.failed:
        raise typer.Exit(1)


def _log_failures(path: Path, outcome: "Outcome") -> None:
    if not outcome.failed:
        path.unlink(missing_ok=True)
        return
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    lines = "".join(f"{now}  {name}  {error}\n" for name, error in outcome.failed.items())
    path.write_text(lines, "utf-8", errors="backslashreplace")
