"""What a folder of weights held when it was first loaded, for folders that bring no manifest of their own."""

import hashlib
import logging
import os
from pathlib import Path

from sd_inpaint.diffusion.sources import CHECKSUMS, Source, parse_manifest
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import Settings, cache_folder

logger = logging.getLogger("bentoml.sd_inpaint.sources")


def check_first_load(source: Source, settings: Settings) -> None:
    """Compares a verified folder with what it held when it was first loaded; does nothing before that.

    A component that was added since, such as a safety checker, is no damage.

    Raises:
        WeightsError: If a file of a component has changed, is new, or is missing.
    """
    path = _manifest_path(source, settings)
    if path is None or not path.is_file():
        return
    before = parse_manifest(path.read_text("utf-8"))
    components = {_component(name) for name in before}
    names = before.keys() | {name for name in source.files if _component(name) in components}
    changed = sorted(name for name in names if before.get(name) != source.files.get(name))
    if changed:
        raise WeightsError(
            f"{changed[0]} is not what it was when this folder was first loaded.\n"
            f"Copy the model again, or delete {path} if the change was meant."
        )


def remember_first_load(source: Source, settings: Settings) -> None:
    """Writes down what a folder holds that has been loaded for the first time, or with another component.

    The manifest lies beside the jobs, by the folder's path. Where nothing can be written there, a warning says so.
    """
    path = _manifest_path(source, settings)
    if path is None:
        return
    if not path.is_file() or parse_manifest(path.read_text("utf-8")).keys() != source.files.keys():
        _write(path, source.files)


def _component(name: str) -> str:
    return name.partition("/")[0]


def _manifest_path(source: Source, settings: Settings) -> Path | None:
    if not source.is_plain:
        return None
    try:
        home = settings.state_dir or cache_folder()
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(source.folder.resolve())).hexdigest()[:16]
    return home / "weights" / f"{name}.{CHECKSUMS}"


def _write(path: Path, files: dict[str, str]) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())), "utf-8")
        part.replace(path)
    except OSError as error:
        logger.warning("The checksums of the weights cannot be written, so a later change is not noticed: %s", error)
    else:
        logger.info("Wrote the checksums of %d files to %s; the next start compares them.", len(files), path)
