"""Where models for the store come from: the Hub, a folder in diffusers' layout, a checkpoint in one file."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError
from sd_inpaint.model_store import autoencoder
from sd_inpaint.model_store.store import StoredModel, digests, put
from sd_inpaint.settings import DEFAULT_MODEL, Settings


@dataclass(frozen=True, slots=True)
class Import:
    """What is imported, and from what.

    Attributes:
        path: A folder, a ``.safetensors`` or ``.ckpt`` file, or ``sd-inpaint:VERSION``.
        config_from: A folder or ``sd-inpaint:VERSION`` with the tokenizer and the configs of a file.
        vae: A folder or a Hub id of an autoencoder that takes the place of the model's own.
        vae_revision: Its commit on the Hub.
        version: Its name in the store; by default a digest of its content.
        allow_pickle: Whether files may be read that can run code.
    """

    path: str
    config_from: str | None = None
    vae: str | None = None
    vae_revision: str | None = None
    version: str | None = None
    allow_pickle: bool = False


def pull(model: str = DEFAULT_MODEL, revision: str | None = None) -> StoredModel:
    """Downloads a model, or goes on where a download broke off, and puts it into the store as its commit.

    Raises:
        WeightsError: If it cannot be downloaded, or a file of it is damaged.
    """
    settings = Settings(_env_file=None, model=model, revision=revision, offline=False)  # type: ignore[call-arg]  # added at run time
    source = sources.verify(sources.locate(settings))
    if source.revision is None:
        raise WeightsError(f"{model} is a folder, not a model on the Hub.\nTo take a folder: sd-inpaint models import.")
    return put(source.folder, source.revision, {"model": model, "revision": source.revision})


def take(wanted: Import) -> StoredModel:
    """Puts a folder, or what is in a checkpoint, into the store, by default as a digest of its content.

    Raises:
        WeightsError: If it is no model that inpaints, or the options do not fit together.
    """
    if wanted.vae is None and wanted.vae_revision is not None:
        raise WeightsError("--vae-revision says which commit of --vae to use.\nGive --vae too.")
    labels = {"model": "imported"}
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it says while it loads is for its own callers
    with tempfile.TemporaryDirectory() as work:
        folder = _folder_of(wanted.path)
        if folder is None:
            # Only here, since it takes seconds to load.
            from sd_inpaint.model_store.single_file import convert

            path, folder = Path(wanted.path), Path(work) / "model"
            convert(path, _configs_of(wanted.config_from), folder, allow_pickle=wanted.allow_pickle)
            labels |= {"file": path.name, "sha256": sources.sha256(path)}
        elif wanted.config_from is not None:
            raise WeightsError(f"{wanted.path} is a folder, and has its own configs.\n--config-from is for a file.")
        if not Path(wanted.path).exists():
            labels |= {"from": folder.name}  # the version that was named
        if wanted.vae is not None:
            vae, vae_labels = autoencoder.locate(wanted.vae, wanted.vae_revision, allow_pickle=wanted.allow_pickle)
            labels |= vae_labels
            model, folder = folder, Path(work) / "swapped"
            autoencoder.swap(model, vae, folder)
        return _take_folder(folder, wanted.version, labels)


def _folder_of(model: str) -> Path | None:
    """Gives the folder that is named, or that ``sd-inpaint:VERSION`` is in; None for a file."""
    name, _, version = model.partition(":")
    if name == sources.STORE_NAME and version:
        if (folder := sources.stored(version)) is None:
            raise WeightsError(f"{model} is not in the store.\nSee sd-inpaint models list.")
        return folder
    return Path(model) if Path(model).is_dir() else None


def _configs_of(model: str | None) -> Path | None:
    """Gives the folder of the model that was named, else of the guide's model, if that was pulled.

    Raises:
        WeightsError: If the one that was named is not there.
    """
    if model is None:
        return sources.stored(sources.PINNED_REVISION)
    if (folder := _folder_of(model)) is None:
        raise WeightsError(f"--config-from {model} does not exist.\nGive a folder, or one of sd-inpaint models list.")
    return folder


def _take_folder(folder: Path, version: str | None, labels: dict[str, str]) -> StoredModel:
    """Puts a folder in diffusers' layout into the store."""
    sources.verify(sources.Source(str(folder), folder))
    content = "".join(f"{digest}  {name}\n" for name, digest in digests(folder).items())
    return put(folder, version or hashlib.sha256(content.encode()).hexdigest()[:16], labels)
