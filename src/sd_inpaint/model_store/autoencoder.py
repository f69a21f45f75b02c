"""Another autoencoder for a model that is there: one whose latents are the same, and whose decoder is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError

CONFIG = "config.json"
SAFE = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
PICKLE = "diffusion_pytorch_model.bin"


def locate(name: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, dict[str, str]]:
    """Gives the folder of an autoencoder, from this disk or the Hub, and the labels that say where it is from.

    Raises:
        WeightsError: If it is not there, or has no weights that may be read.
    """
    folder, labels = Path(name).expanduser(), {"vae": "imported"}
    if folder.is_dir():
        if revision is not None:
            raise WeightsError(f"--vae {name} is a folder, and has no revisions.\n--vae-revision is for the Hub.")
    else:
        folder = _download(name, revision, CONFIG)
        if (folder / CONFIG).is_file():  # else it is something else, and may be large
            _download(name, folder.name, *SAFE, *([PICKLE] if allow_pickle else []))
        labels = {"vae": name, "vae_revision": folder.name}
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"--vae {name} is not an autoencoder in diffusers' layout:\nit has no {CONFIG}.")
    if not _has_safetensors(folder) and not (allow_pickle and (folder / PICKLE).is_file()):
        raise WeightsError(
            f"--vae {name} has no {SAFE[0]}.\n"
            "If it has a pickle, which can run code when loaded, and you trust it: SD_INPAINT_ALLOW_PICKLE=true."
        )
    return folder, labels


def swap(model: Path, autoencoder: Path, target: Path) -> None:
    """Makes ``target`` a model's folder, by links where it can, with another autoencoder in it.

    Raises:
        WeightsError: If the service does not support it, or its latents do not fit the UNet.
    """
    sources.verify(sources.Source(str(model), model))
    config = _config(autoencoder)
    name, other, own = _class_name(config), _latents(config), _latents(_config(model / "vae"))
    if own != other:
        raise WeightsError(
            f"The latents of {autoencoder} do not fit the UNet.\nIt has {_words(other)}, the model's own {_words(own)}."
        )
    target.mkdir()
    for path in model.iterdir():
        if path.name not in ("vae", sources.INDEX, sources.CHECKSUMS):
            (target / path.name).symlink_to(path.resolve())
    if (model / sources.INDEX).is_file():
        # So that diffusers' own pipeline loads the folder too.
        index = json.loads((model / sources.INDEX).read_text("utf-8"))
        index["vae"] = ["diffusers", name]
        (target / sources.INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    (target / "vae").mkdir()
    for file in (CONFIG, *SAFE):
        if (autoencoder / file).is_file():
            (target / "vae" / file).symlink_to((autoencoder / file).resolve())
    if not _has_safetensors(autoencoder):
        _convert(autoencoder / PICKLE, target / "vae" / SAFE[0])
    _check_loads(name, target / "vae", autoencoder)


def _download(name: str, revision: str | None, *files: str) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"--vae {name} is no folder, and was not found:\n{sources.first_line(error)}") from error


def _has_safetensors(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAFE)


def _convert(pickle: Path, target: Path) -> None:
    """Writes what a pickle holds as safetensors; only numbers are taken from it, and no code is run."""
    # Only here, since it takes seconds to load.
    import torch
    from safetensors.torch import save_file

    from sd_inpaint.model_store.single_file import UNREADABLE

    try:
        held = torch.load(pickle, map_location="cpu", weights_only=True)
        # Clones, for a pickle's tensors may share memory, which safetensors does not take.
        save_file({name: value.clone().contiguous() for name, value in held.items()}, target, {"format": "pt"})
    except UNREADABLE as error:
        raise WeightsError(
            f"{pickle} is damaged, cut off, or holds more than numbers:\n{sources.first_line(error)}"
        ) from error


def _check_loads(name: str, folder: Path, autoencoder: Path) -> None:
    """Has diffusers load it once, as the service will; a file may have other tensors than its config says."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()  # of configs that it writes itself it says that they hold too much
    variant = None if (folder / SAFE[0]).is_file() else "fp16"
    try:
        _, found = getattr(diffusers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{autoencoder} could not be loaded as it is:\n{sources.first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise WeightsError(
            f"{autoencoder} lacks {len(missing)} tensors that its config asks for, such as\n{missing[0]}."
        )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        return dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{folder / CONFIG} cannot be read as a config:\n{sources.first_line(error)}") from error


def _class_name(config: dict[str, Any]) -> str:
    name = str(config.get("_class_name", sources.AUTOENCODERS[0]))
    if name not in sources.AUTOENCODERS:
        raise WeightsError(f"--vae names a {name}.\nThis service supports {' and '.join(sources.AUTOENCODERS)}.")
    return name


def _latents(config: dict[str, Any]) -> dict[str, Any]:
    """What two autoencoders of the same latents have in common, as far as a config tells."""
    blocks = config.get("down_block_out_channels", config.get("block_out_channels", ()))
    return {
        "channels": config.get("latent_channels", 4),
        "stride": 2 ** (len(blocks) - 1),
        "scaling factor": config.get("scaling_factor", 0.18215),
    }


def _words(latents: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in latents.items())
