"""UNets that were converted for OpenVINO: where they lie, whether they are whole, and how one is put there."""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

from sd_inpaint.diffusion.sources import CHECKSUMS, SUFFIXES, read_manifest, sha256
from sd_inpaint.settings import Settings, cache_folder

logger = logging.getLogger("bentoml.sd_inpaint.openvino")

MODEL: Final = "unet.xml"

FILES: Final = (MODEL, "unet.bin")
"""The operations and the weights."""

LAYOUT: Final = 1
"""Counts up when :mod:`~sd_inpaint.diffusion.openvino.converter` writes something else."""

WEIGHTS_DIGITS: Final = 32
"""Of the folder's name: hexadecimal digits of a SHA-256."""


def conversions_folder(settings: Settings) -> Path | None:
    """Returns where all conversions lie; None where no folder is set and the user has no home."""
    if settings.cache_dir is not None:
        return settings.cache_dir / "openvino"
    try:
        return (settings.state_dir or cache_folder()) / "openvino"
    except RuntimeError:
        return None


def unet_digests(folder: Path) -> dict[str, str]:
    """Hashes the files of a UNet; name → SHA-256."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return {path.name: sha256(path) for path in paths}


def folder_for(conversions: Path, digests: Mapping[str, str], number_format: str) -> Path:
    """Returns the folder of one conversion; whatever changes its content changes its name.

    Args:
        conversions: Where all lie.
        digests: File name → SHA-256 of the UNet that is converted.
        number_format: Such as ``bfloat16``.
    """
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    weights = hashlib.sha256(listed.encode()).hexdigest()[:WEIGHTS_DIGITS]
    versions = (f"{package}{metadata.version(package)}" for package in ("openvino", "diffusers", "torch"))
    return conversions / weights / f"{number_format}-{'-'.join(versions)}-{LAYOUT}"


def find(folder: Path) -> Path | None:
    """Returns the path of a conversion's model; None where there is none, or it is not what was written there."""
    try:
        if not folder.is_dir():
            return None
        manifest = read_manifest(folder)
        damaged = [name for name in FILES if not manifest.get(name) or sha256(folder / name) != manifest[name]]
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("The converted model in %s cannot be read: %s", folder, error)
        return None
    if damaged:
        logger.warning("%s in %s is damaged; the model is converted again.", damaged[0], folder)
        return None
    return folder / MODEL


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process converts the same weights, and keeps others from it.

    Raises:
        OSError: If nothing can be written there.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(folder: Path, write: Callable[[Path], None]) -> None:
    """Has a conversion written, and puts it in place whole or not at all. The folder is locked.

    Others of the same weights and format, which are of other versions of the libraries, are deleted.

    Args:
        folder: Its place.
        write: Writes :data:`FILES` into the folder that it is given.

    Raises:
        OSError: If there is no room for it.
    """
    for left in folder.parent.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
    part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        write(part)
        (part / CHECKSUMS).write_text("".join(f"{sha256(part / name)}  {name}\n" for name in FILES), "utf-8")
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for other in folder.parent.glob(f"{folder.name.partition('-')[0]}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
