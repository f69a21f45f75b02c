"""``sd-inpaint keys``: named API keys in a file."""

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint.cli.options import AsJson, example

if TYPE_CHECKING:
    from sd_inpaint.callers.key_file import KeyEntry

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke named API keys. The file has only their digests; a running service takes changes up.",
)

File = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File of keys.", show_default="SD_INPAINT_API_KEYS_FILE")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, dots, dashes and underscores.")]

OVERLAP_HOURS = 24.0
"""How long a rotated key stays good, for its users to change over."""


@app.command(epilog=example("sd-inpaint keys add mobile-app --file keys.toml --requests-per-minute 60"))
def add(
    name: Name,
    file: File = None,
    expires_days: Annotated[float | None, typer.Option(help="Ends after so many days.", show_default="never")] = None,
    requests_per_minute: Annotated[float | None, typer.Option(help="Of any kind but probes; 0 is no limit.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests and unfinished jobs at once; 0 is no limit.")
    ] = None,
    megapixel_steps_per_hour: Annotated[
        float | None, typer.Option(help="Work; a 512×512 canvas at 50 steps is 13. 0 is no limit.")
    ] = None,
    kept_bytes: Annotated[int | None, typer.Option(help="Disk space for uploads and results; 0 is no limit.")] = None,
    share: Annotated[float | None, typer.Option(help="Of the device, compared with the 1 of others.")] = None,
) -> None:
    """Make a key and show it, this once."""
    from sd_inpaint.callers import key_edits

    limits = {
        "requests_per_minute": requests_per_minute,
        "concurrency": concurrency,
        "megapixel_steps_per_hour": megapixel_steps_per_hour,
        "kept_bytes": kept_bytes,
        "share": share,
    }
    given = {limit: value for limit, value in limits.items() if value is not None}
    _show_key(name, _change(file, lambda text: key_edits.add(text, name, given, expires_days), may_be_new=True))


@app.command(epilog=example("sd-inpaint keys rotate mobile-app --overlap-hours 48"))
def rotate(
    name: Name,
    file: File = None,
    overlap_hours: Annotated[float, typer.Option(help="How long the old key stays good.")] = OVERLAP_HOURS,
) -> None:
    """Make another key for a name, and let the old one end after a while."""
    from sd_inpaint.callers import key_edits

    _show_key(name, _change(file, lambda text: key_edits.rotate(text, name, overlap_hours)))


@app.command(epilog=example("sd-inpaint keys revoke mobile-app"))
def revoke(name: Name, file: File = None) -> None:
    """Take back every key of a name."""
    from sd_inpaint.callers import key_edits

    _change(file, lambda text: (key_edits.revoke(text, name), ""))


@app.command("list", epilog=example("sd-inpaint keys list", "sd-inpaint keys list --json"))
def show(file: File = None, as_json: AsJson = False) -> None:
    """List names, times and limits; no key, and no digest."""
    from sd_inpaint.callers.key_file import parse_entries, read_text

    entries = parse_entries(read_text(_path(file)))
    if as_json:
        print(json.dumps([entry.model_dump(mode="json", exclude={"sha256"}, exclude_none=True) for entry in entries]))
        return
    for entry in entries:
        print(_line(entry))


def _line(entry: "KeyEntry") -> str:
    from sd_inpaint.callers.key_file import LIMITS

    has_ended = entry.expires is not None and entry.expires <= dt.datetime.now(dt.UTC)
    expires = "" if entry.expires is None else f"{'expired' if has_ended else 'expires'} {entry.expires:%Y-%m-%d %H:%M}"
    created = "" if entry.created is None else f"created {entry.created:%Y-%m-%d %H:%M}"
    limits = (f"{name}={getattr(entry, name):g}" for name in LIMITS if getattr(entry, name) is not None)
    return "  ".join(filter(None, [entry.name, created, expires, *limits]))


def _path(file: Path | None) -> Path:
    """Returns the file that is given, else the setting's.

    Raises:
        SettingsError: If there is neither.
    """
    from sd_inpaint.errors import SettingsError
    from sd_inpaint.settings import Settings

    if (path := file or Settings.read().api_keys_file) is None:
        raise SettingsError("SD_INPAINT_API_KEYS_FILE is not set. Set it, or name a file: --file FILE.")
    return path


def _change(file: Path | None, edit: Callable[[str], tuple[str, str]], *, may_be_new: bool = False) -> str:
    from sd_inpaint.callers import key_edits

    return key_edits.change(_path(file), edit, may_be_new=may_be_new)


def _show_key(name: str, key: str) -> None:
    print(key)
    print(f"This is the only time that the key of {name} is shown.", file=sys.stderr)
