"""The command ``sd-inpaint``, one file for each of its words. Until a word is run, nothing heavy is imported."""

import io
import sys
from typing import Annotated

import typer

import sd_inpaint
from sd_inpaint import environment
from sd_inpaint.cli import doctor, extend, keys, mask, mcp, models, paint, replay, serve
from sd_inpaint.errors import InpaintError, UnauthorizedError

FAILED = 1
"""Exit code of a command that could not do what it was asked for; 0 is done, 2 a wrong option or argument."""

app = typer.Typer(
    name="sd-inpaint",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong option or argument.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sd-inpaint {sd_inpaint.__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[  # its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Repaint the white part of a mask in a picture from a prompt, with Stable Diffusion."""


app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("paint", epilog=paint.EXAMPLES)(paint.paint)
app.command("mask", epilog=mask.EXAMPLES)(mask.mask)
app.command("extend", epilog=extend.EXAMPLES)(extend.extend)
app.command("replay", epilog=replay.EXAMPLES)(replay.replay)
app.command("mcp", epilog=mcp.EXAMPLES)(mcp.mcp)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Runs the command; an error that was raised on purpose is a line or two and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name may be no text: it is shown as well as can be.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="sd-inpaint")  # also as python -m sd_inpaint
    except InpaintError as error:
        print(error, file=sys.stderr)
        if isinstance(error, UnauthorizedError):
            print(f"The key is read from {environment.KEY} in the environment.", file=sys.stderr)
        sys.exit(FAILED)
    except OSError as error:
        if error.strerror is None:
            raise
        print(f"{error.filename or 'The output'}: {error.strerror}.", file=sys.stderr)
        sys.exit(FAILED)
