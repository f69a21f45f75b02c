"""A checkpoint in one file, as Stable Diffusion 1.x's authors lay it out → a model in diffusers' layout; no network."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextConfig
from transformers.utils import logging as transformers_logging

import sd_inpaint
from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError
from sd_inpaint.model_store.stable_diffusion import SCHEDULER, TEXT_ENCODER, UNET, VAE

SAFE, PICKLE = ".safetensors", ".ckpt"

CHANNELS = 9
"""What a UNet that inpaints takes: the latents, those of what stays, and the mask."""

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
TEXT_ENCODER_PREFIX = "cond_stage_model.transformer.text_model."
VAE_PREFIX = "first_stage_model."

OTHER_KINDS = {
    "conditioner.embedders.": "is Stable Diffusion XL",
    "cond_stage_model.model.": "is Stable Diffusion 2",
    "joint_blocks.": "is Stable Diffusion 3",
    "model.diffusion_model.joint_blocks.": "is Stable Diffusion 3",
    "double_blocks.": "is Flux",
    "model.diffusion_model.double_blocks.": "is Flux",
    "lora_": "is a LoRA, which changes a model but is not one",
    "control_model.": "is a ControlNet, which steers a model but is not one",
    "down_blocks.": "is one part of a model in diffusers' layout, whose whole folder sd-inpaint models import takes",
}
"""How names in files begin that hold something else, and what that is."""

MODULES = ("unet", "vae", "text_encoder")

CONFIGS = dict.fromkeys(MODULES, "config.json") | {"scheduler": "scheduler_config.json"}

UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What reading a file raises that is no pickle of tensors by their names."""

NUMBERS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
"""Number formats as safetensors calls them."""


def convert(file: Path, source: Path | None, target: Path, *, allow_pickle: bool) -> None:
    """Writes the model of a checkpoint into a new folder, in the number format of its UNet.

    Args:
        file: With UNet, VAE and text encoder; safetensors, or a pickle where those are allowed.
        source: Has what no checkpoint has, the tokenizer. Configs that are there too are the model's; the others are
            Stable Diffusion 1.5's. None where nothing was found.
        target: The folder; is made.
        allow_pickle: Whether a pickle may be read. Even then only numbers are taken from it, and no code is run.

    Raises:
        WeightsError: If the file is damaged, is no checkpoint of Stable Diffusion 1.x, or does not inpaint; if there
            is no tokenizer, or another one than the checkpoint's.
    """
    for logs in (diffusers_logging, transformers_logging):
        logs.set_verbosity_error()
        logs.disable_progress_bar()
    dtype = check_kind(file, read_shapes(file, allow_pickle=allow_pickle))
    configs = lay_out(file, source, target)
    pipeline = read_pipeline(file, target, dtype)
    words, known = len(pipeline.tokenizer), pipeline.text_encoder.config.vocab_size
    if words != known:
        raise WeightsError(
            f"The tokenizer has {words:,} tokens, and the checkpoint's text encoder {known:,}.\n"
            "Give a folder with the right one: --config-from FOLDER."
        )
    for name in MODULES:
        module = getattr(pipeline, name)
        module.save_pretrained(target / name, variant="fp16" if dtype is torch.float16 else None)
        # Saving adds the name of a temporary folder to it.
        (target / name / CONFIGS[name]).write_bytes(configs[name])


def read_pipeline(file: Path, configs: Path, dtype: torch.dtype) -> Any:
    """Has diffusers read the checkpoint by the configs of a folder.

    Raises:
        WeightsError: If it has other shapes than those, or not all of their tensors.
    """
    try:
        pipeline: Any = StableDiffusionInpaintPipeline.from_single_file(
            str(file), config=str(configs), torch_dtype=dtype, local_files_only=True
        )
    except NotImplementedError as error:  # torch's, of a tensor that has no numbers
        raise WeightsError(
            f"{file} lacks tensors of its UNet or its VAE.\nIt may be cut short: download or export it again."
        ) from error
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise WeightsError(f"{file} does not fit the configs it is read with:\n{sources.first_line(error)}") from error
    if missing := [name for name, value in pipeline.text_encoder.named_parameters() if value.is_meta]:
        raise WeightsError(f"{file} lacks {len(missing)} tensors of its text encoder, such as\n{missing[0]}.")
    return pipeline


def read_shapes(file: Path, *, allow_pickle: bool) -> dict[str, tuple[list[int], str]]:
    """Gives the shape and number format of each tensor, by its name.

    Raises:
        WeightsError: If the file is cut off, is something else than its name says, or is a pickle without leave.
    """
    if file.suffix not in (SAFE, PICKLE) or not file.is_file():
        raise WeightsError(
            f"{file} is neither a folder nor a file that can be imported.\n"
            f"Give a folder in diffusers' layout, or a checkpoint that ends in {SAFE} or {PICKLE}."
        )
    if file.suffix == SAFE:
        try:
            with safe_open(file, "pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
                return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{file} is damaged, cut off, or no safetensors file:\n{sources.first_line(error)}"
            ) from error
    if not allow_pickle:
        raise WeightsError(
            f"{file} is a pickle, which can run code when loaded.\n"
            "Convert it to safetensors, or set SD_INPAINT_ALLOW_PICKLE=true if you trust its source."
        )
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        held = held.get("state_dict", held)
        formats = {value: key for key, value in NUMBERS.items()}
        return {key: (list(value.shape), formats.get(value.dtype, "")) for key, value in held.items()}
    except UNREADABLE as error:
        raise WeightsError(
            f"{file} is damaged, cut off, or holds more than numbers:\n{sources.first_line(error)}"
        ) from error


def check_kind(file: Path, shapes: dict[str, tuple[list[int], str]]) -> torch.dtype:
    """Gives the UNet's number format.

    Raises:
        WeightsError: If this is no checkpoint of Stable Diffusion 1.x that inpaints.
    """
    for prefix, kind in OTHER_KINDS.items():
        if any(name.startswith(prefix) for name in shapes):
            raise WeightsError(f"{file} {kind}.\nOnly checkpoints of Stable Diffusion 1.x can be imported.")
    if FIRST not in shapes:
        raise WeightsError(f"{file} holds no UNet of Stable Diffusion 1.x:\nit has no tensor {FIRST}.")
    shape, number = shapes[FIRST]
    if shape[1] != CHANNELS:
        raise WeightsError(
            f"{file} is not an inpainting model: its UNet takes {shape[1]} channels, not {CHANNELS}.\n"
            "Choose a checkpoint that was trained for inpainting."
        )
    for part, prefix in (("VAE", VAE_PREFIX), ("text encoder", TEXT_ENCODER_PREFIX)):
        if not any(name.startswith(prefix) for name in shapes):
            raise WeightsError(f"{file} holds no {part}:\nno tensor's name begins with {prefix}")
    return NUMBERS.get(number, torch.float32)


def lay_out(file: Path, source: Path | None, target: Path) -> dict[str, bytes]:
    """Makes the folder with everything but weights; gives each part's config.

    Raises:
        WeightsError: If there is no tokenizer.
    """
    if source is None or not (source / "tokenizer").is_dir():
        raise WeightsError(
            f"{file} has no tokenizer, like every checkpoint, and {source or 'this machine'} has none either.\n"
            "Run sd-inpaint models pull, or name a model or a folder with tokenizer/ in it: --config-from FOLDER."
        )
    target.mkdir(parents=True)
    shutil.copytree(source / "tokenizer", target / "tokenizer")
    # On "meta", a module has a config and no numbers.
    with torch.device("meta"):
        UNet2DConditionModel(**UNET).save_config(target / "unet")
        AutoencoderKL(**VAE).save_config(target / "vae")
    CLIPTextConfig(**TEXT_ENCODER).save_pretrained(target / "text_encoder")
    PNDMScheduler(**SCHEDULER, skip_prk_steps=True).save_pretrained(target / "scheduler")
    for name, config in CONFIGS.items():
        if (source / name / config).is_file() and _may_be_a_checkpoints(name, source / name / config):
            shutil.copyfile(source / name / config, target / name / config)
    configs = {name: (target / name / config).read_bytes() for name, config in CONFIGS.items()}
    # The demo model's has the parts that a checkpoint has, and none for the safety checker.
    index = json.loads((Path(sd_inpaint.__file__).parent / "demo_model" / sources.INDEX).read_text("utf-8"))
    for name in ("vae", "scheduler"):
        index[name][1] = json.loads(configs[name])["_class_name"]
    (target / sources.INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return configs


def _may_be_a_checkpoints(name: str, path: Path) -> bool:
    """Whether a config may be of what a checkpoint holds: its autoencoder is always of Stable Diffusion's own class."""
    return name != "vae" or json.loads(path.read_text("utf-8")).get("_class_name") == AutoencoderKL.__name__
