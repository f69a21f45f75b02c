"""LoRA files on this disk: found, named, and whole. Nothing of them is loaded here."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sd_inpaint.diffusion.sources import first_line, sha256
from sd_inpaint.errors import WeightsError

ENDING = ".safetensors"

PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_NAME = re.compile(r"[^\s,:<>](?:[^,:<>\x00-\x1f]*[^\s,:<>])?")
"""What a request can name: not what ends a name in ``loras`` or in a prompt."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA on this disk.

    Attributes:
        name: As requests call it: the file's name without its ending.
        path: Of the file.
        sha256: Of its bytes.
        metadata: What its trainer wrote into the header.
    """

    name: str
    path: Path
    sha256: str
    metadata: dict[str, str]


def find_loras(places: Sequence[Path]) -> list[LoraFile]:
    """Finds and checks the operator's files, by name.

    Args:
        places: Files, and folders whose files count; folders in them do not.

    Raises:
        WeightsError: If a place or a file cannot be used: it is missing, a pickle, cut off, or without a name of its
            own.
    """
    found: dict[str, LoraFile] = {}
    for path in _paths(places):
        name = path.name.removesuffix(ENDING)
        if not _NAME.fullmatch(name):
            raise WeightsError(f"{path} cannot be named in a request.\nRename it without commas, colons, < and >.")
        if name in found:
            raise WeightsError(f"{path} and {found[name].path} are both named {name}.\nRename one of them.")
        found[name] = LoraFile(name, path, sha256(path), _read_metadata(path))
    return [found[name] for name in sorted(found)]


def _paths(places: Sequence[Path]) -> Iterator[Path]:
    for place in (place.expanduser() for place in places):
        if not place.exists():
            raise WeightsError(f"SD_INPAINT_LORAS names {place}, which is not there.\nName files or folders.")
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
        for path in files:
            if path.suffix in PICKLES:
                raise WeightsError(
                    f"{path} is a pickle, which can run code when loaded.\n"
                    f"Convert it to safetensors, or take it out of SD_INPAINT_LORAS."
                )
            if path.suffix == ENDING:
                yield path
            elif path is place:
                raise WeightsError(f"{path} is not a {ENDING} file.\nSD_INPAINT_LORAS takes safetensors only.")


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise WeightsError(
            f"{path} is cut off, or is not a safetensors file ({first_line(error)}).\nDownload it again, or remove it."
        ) from error
