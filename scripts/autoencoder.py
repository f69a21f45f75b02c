"""Another autoencoder for a model that is there: one whose latents are the same, and whose decoder is better."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sd_inpaint import sources
from sd_inpaint.errors import WeightsError

CONFIG = "config.json"
PICKLE = "diffusion_pytorch_model.bin"
SAFE = "diffusion_pytorch_model.safetensors"


def locate(name: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, dict[str, str]]:
    """Gives the folder of an autoencoder, from this disk or the Hub, and the labels that say where it is from.

    Raises:
        WeightsError: If it is not there, or has no weights that may be read.
    """
    folder, labels = Path(name).expanduser(), {"vae": "imported"}
    if not folder.is_dir():
        patterns = [CONFIG, "*.safetensors", *([PICKLE] if allow_pickle else [])]
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise WeightsError(f"--vae {name} is no folder, nor to be had:\n{sources.first_line(error)}") from error
        labels = {"vae": name, "vae_revision": folder.name}
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"--vae {name} is no autoencoder in diffusers' layout:\nit has no {CONFIG}.")
    if not any(folder.glob("*.safetensors")) and not (allow_pickle and (folder / PICKLE).is_file()):
        raise WeightsError(
            f"--vae {name} has no safetensors.\n"
            "If it has a pickle, which can run code when loaded, and you trust it: SD_INPAINT_ALLOW_PICKLE=true."
        )
    return folder, labels


def swap(model: Path, autoencoder: Path, target: Path) -> None:
    """Makes ``target`` a model's folder, by links where it can, with another autoencoder in it.

    Raises:
        WeightsError: If the service cannot paint with it, or the UNet's latents are not its own.
    """
    config = _config(autoencoder)
    name, other, own = _class_name(config), _latents(config), _latents(_config(model / "vae"))
    if own != other:
        raise WeightsError(
            f"The latents of {autoencoder} are not those that the UNet was trained on.\n"
            f"It has {_words(other)}, the model's own {_words(own)}."
        )
    target.mkdir()
    for path in model.iterdir():
        if path.name not in ("vae", sources.INDEX, sources.CHECKSUMS):
            (target / path.name).symlink_to(path.resolve())
    # So that diffusers' own pipeline loads the folder too.
    index = json.loads((model / sources.INDEX).read_text("utf-8"))
    index["vae"] = ["diffusers", name]
    (target / sources.INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    if any(autoencoder.glob("*.safetensors")):
        (target / "vae").symlink_to(autoencoder.resolve())
    else:
        _convert(autoencoder, target / "vae")


def _convert(autoencoder: Path, target: Path) -> None:
    """Writes what a pickle holds as safetensors; only numbers are taken from it, and no code is run."""
    # Only here, since it takes seconds to load.
    import torch
    from safetensors.torch import save_file

    from single_file import UNREADABLE

    file = autoencoder / PICKLE
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {name: value.contiguous() for name, value in held.items()}
    except UNREADABLE as error:
        raise WeightsError(
            f"{file} is damaged, cut off, or holds more than numbers:\n{sources.first_line(error)}"
        ) from error
    target.mkdir()
    shutil.copyfile(autoencoder / CONFIG, target / CONFIG)
    save_file(tensors, target / SAFE, metadata={"format": "pt"})


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
    return config


def _class_name(config: dict[str, Any]) -> str:
    name = str(config.get("_class_name", sources.AUTOENCODERS[0]))
    if name not in sources.AUTOENCODERS:
        raise WeightsError(f"--vae names a {name}.\nThis service paints with {' and '.join(sources.AUTOENCODERS)}.")
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
