"""Weights in BentoML's model store, each file with its SHA-256; the service looks for them there."""

import datetime as dt
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import bentoml

from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError

EPOCH = 315532800
"""Seconds: 1 January 1980, the time of a model where SOURCE_DATE_EPOCH says nothing.

It is written into each Bento that holds the model, so the moment of a download must not be in it.
"""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One version in the store.

    Attributes:
        version: A commit, a digest of the content, or a name.
        files: How many are listed in its manifest.
        size: Of all of them, in bytes.
    """

    version: str
    files: int
    size: int

    @property
    def tag(self) -> str:
        """What ``SD_INPAINT_MODEL`` names it by."""
        return f"{sources.STORE_NAME}:{self.version}"


def put(folder: Path, version: str, labels: dict[str, str]) -> StoredModel:
    """Copies what serves into the store with its manifest; what is there already is verified instead.

    Raises:
        WeightsError: If the version is in the store with other content, or a file changes while it is copied.
    """
    tag = f"{sources.STORE_NAME}:{version}"
    listed = digests(folder)
    there = sources.stored(version)
    if there is not None and sources.read_manifest(there) != listed:
        raise WeightsError(
            f"{tag} is in the store with different content.\n"
            f"Delete it first (bentoml models delete {tag}), or choose a version."
        )
    if there is not None:
        return verify(version)
    created = dt.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)), dt.UTC)
    with bentoml.models.create(tag, labels=labels) as model:
        root = Path(model.path)
        for name, digest in listed.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, root / name)
            if sources.sha256(root / name) != digest:
                raise WeightsError(f"{name} changed while it was copied.\nCheck the disk and try again.")
        manifest = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
        (root / sources.CHECKSUMS).write_text(manifest, "utf-8")
        object.__setattr__(model.info, "creation_time", created)
    open_to_all(Path(bentoml.models.get(tag).path))
    return _described(version)


def verify(version: str) -> StoredModel:
    """Compares every file of a version with the manifest.

    Raises:
        WeightsError: If the version is not there, or a file is damaged, missing or not listed; the message names it.
    """
    folder = sources.stored(version)
    if folder is None:
        raise WeightsError(f"{sources.STORE_NAME}:{version} is not in the store.\nSee sd-inpaint models list.")
    listed, found = sources.read_manifest(folder), digests(folder)
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not listed" if name not in listed else "is damaged"
            raise WeightsError(
                f"{name} of {sources.STORE_NAME}:{version} {what}.\n"
                f"Delete the version (bentoml models delete {sources.STORE_NAME}:{version}) and pull it again."
            )
    return _described(version)


def digests(folder: Path) -> dict[str, str]:
    """Path → SHA-256 of what serves, in the order of the paths; pickles, pictures and BentoML's own file are not it."""
    names = [sources.INDEX, *(f"{part}/*" for part in sources.FOLDERS + sources.OPTIONAL_FOLDERS)]
    files = sorted({path for name in names for path in folder.glob(name) if path.suffix in sources.SUFFIXES})
    return {path.relative_to(folder).as_posix(): sources.sha256(path) for path in files if path.is_file()}


def models() -> list[StoredModel]:
    """Everything in the store, in the order of the versions."""
    try:
        found = [model.tag.version for model in bentoml.models.list(sources.STORE_NAME)]
    except bentoml.exceptions.NotFound:  # which is how BentoML says that there is none
        return []
    return [_described(version) for version in sorted(filter(None, found)) if sources.stored(version) is not None]


def open_to_all(folder: Path) -> None:
    """Lets every user read what is in a folder, whatever the umask was; BentoML makes it for its owner only."""
    everybody_reads = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
    everybody_enters = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
    for path in (folder, *folder.rglob("*")):
        runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(everybody_reads | (everybody_enters if runs else 0))


def _described(version: str) -> StoredModel:
    """Describes a version that is in the store; a listed file that is missing counts nothing."""
    folder = sources.stored(version)
    assert folder is not None, version  # noqa: S101  # callers have looked
    listed = sources.read_manifest(folder)
    sizes = [(folder / name).stat().st_size for name in listed if (folder / name).is_file()]
    return StoredModel(version, len(listed), sum(sizes))
