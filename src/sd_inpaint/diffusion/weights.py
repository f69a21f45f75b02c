"""Weights on this disk → a backend that is ready to run: safetensors, each component in the format that fits."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sd_inpaint.diffusion.acceleration import Acceleration
from sd_inpaint.diffusion.adapters import load_adapter
from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.devices import (
    Device,
    choose_device,
    choose_max_batch,
    choose_max_canvas_pixels,
    dtype_name,
    find_torch_device,
)
from sd_inpaint.diffusion.direct_loading import load_directly
from sd_inpaint.diffusion.first_load import check_first_load, remember_first_load
from sd_inpaint.diffusion.lora_files import LoraFile, find_loras
from sd_inpaint.diffusion.lora_switch import LoraSwitch
from sd_inpaint.diffusion.model import TorchModel, without_weights
from sd_inpaint.diffusion.number_format import probe_of
from sd_inpaint.diffusion.openvino.backend import OpenVinoBackend
from sd_inpaint.diffusion.safety import SafetyChecker
from sd_inpaint.diffusion.schedulers import name_of
from sd_inpaint.diffusion.sources import AUTOENCODERS, Source, Verification, first_line, locate, verify
from sd_inpaint.errors import SettingsError, WeightsError
from sd_inpaint.settings import Settings

logger = logging.getLogger("bentoml.sd_inpaint.weights")


def load(settings: Settings, verification: Verification | None = None) -> Denoiser:
    """Finds, verifies and loads the configured model; may take minutes, and downloads what is missing.

    Args:
        settings: The operator's.
        verification: Of the model, begun before; None verifies it here.

    Raises:
        WeightsError: If the weights are missing and cannot be downloaded, are pickles, or are not an inpainting model;
            or a LoRA is not one for this model.
        SettingsError: If the requested device or number format is not available, or there is no LoRA of the name set.
    """
    # What an operator got wrong is found before a download.
    find_torch_device(settings.device)
    lora_files = find_loras(settings.loras)
    if settings.lcm_lora not in (None, *(file.name for file in lora_files)):
        raise SettingsError(f"SD_INPAINT_LCM_LORA={settings.lcm_lora}, but SD_INPAINT_LORAS has no LoRA of this name.")
    source = verify(locate(settings)) if verification is None else verification.result()
    check_first_load(source, settings)
    device = choose_device(settings, probe := probe_of(source.folder / "unet"))
    backend = OpenVinoBackend(source, device, settings, probe)
    with_unet = not backend.is_ready or bool(lora_files)  # LoRAs are put into torch's weights
    model = _load_model(source, device, lora_files, allow_pickle=settings.allow_pickle, with_unet=with_unet)
    safety_checker = _load_safety_checker(source, device, settings)
    remember_first_load(source, settings)
    acceleration = Acceleration(settings, device)
    reserved = acceleration.graph_bytes + backend.growth_bytes
    backend.begin(model)
    max_canvas_pixels = choose_max_canvas_pixels(
        settings.max_canvas_pixels, device, fits_to_kept=model.fits_to_kept, reserved_bytes=reserved
    )
    native_pixels = (model.sample_size * model.stride) ** 2
    max_batch = choose_max_batch(settings.max_batch, device, native_pixels, reserved_bytes=reserved)
    choices = device.plan | acceleration.choices | backend.plan
    if lora_files:
        choices |= {"loras": {"value": "torch", "reason": "they are put into its weights; OpenVINO has its own"}}
    info: dict[str, object] = {
        "revision": source.revision,
        "files": source.files,
        "loras": [
            {"name": name, "sha256": adapter.file.sha256, "changes": adapter.components, "layers": len(adapter.layers)}
            for name, adapter in model.loras.adapters.items()
        ],
        "device": device.name,
        "dtype": dtype_name(device.dtype),
        "scheduler": name_of(model.scheduler),
        "plan": choices,
        "growth_bytes": backend.growth_bytes,
        "native_size": model.sample_size * model.stride,
        "max_batch": max_batch,
        "max_canvas_pixels": max_canvas_pixels,
        "safety_checker": safety_checker is not None,
        "subjects": source.subjects(),
    }
    plan = "; ".join(f"{name} {choice['value']} ({choice['reason']})" for name, choice in choices.items())
    logger.info("Loaded %s. %s.", source.name, plan)
    acceleration.begin(model)
    return Denoiser(
        model,
        device,
        max_batch=max_batch,
        max_canvas_pixels=max_canvas_pixels,
        safety_checker=safety_checker,
        info=info,
    )


def _load_model(
    source: Source, device: Device, lora_files: Sequence[LoraFile], *, allow_pickle: bool, with_unet: bool
) -> TorchModel:
    """Loads the components; each decides for itself which of its files fits the number format best.

    Without the UNet there is only its form, and another runner has to take over.
    """
    with _quiet_libraries():
        try:
            load_one = partial(_load_component, device=device, allow_pickle=allow_pickle)
            load_torch_unet = partial(load_one, UNet2DConditionModel, source.folder / "unet", device.dtype)
            parts: dict[str, Any] = {
                "unet": load_torch_unet() if with_unet else _unet_without_weights(source.folder / "unet"),
                "vae": load_one(_autoencoder_class(source.folder / "vae"), source.folder / "vae", device.vae_dtype),
                "text_encoder": load_one(CLIPTextModel, source.folder / "text_encoder", device.dtype),
            }
            tokenizer = CLIPTokenizer.from_pretrained(source.folder / "tokenizer", local_files_only=True)
            scheduler = _load_scheduler(source.folder / "scheduler")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            # torch's RuntimeError: a file that lacks tensors, or has them in other shapes than its config.
            raise WeightsError(f"{source.folder} could not be loaded as a model:\n{first_line(error)}") from error
    _check_inpainting(parts["unet"], parts["vae"], source)
    loras = _load_loras(lora_files, {name: parts[name] for name in ("unet", "text_encoder")})
    return TorchModel(
        **parts, tokenizer=tokenizer, scheduler=scheduler, device=device, loras=loras, load_unet=load_torch_unet
    )


def _load_loras(files: Sequence[LoraFile], components: dict[str, Any]) -> LoraSwitch:
    if not files:
        return LoraSwitch({}, [])
    with _quiet_libraries():
        loras = LoraSwitch(components, [load_adapter(file, components) for file in files])
    logger.info(
        "Loaded %d LoRAs; the original weights that they change take %.0f MB.", len(files), loras.original_bytes / 1e6
    )
    return loras


def load_unet(folder: Path, dtype: torch.dtype) -> Any:
    """Loads the UNet of a folder on the CPU, from safetensors.

    Raises:
        WeightsError: If it holds no weights, or only pickles.
        OSError, ValueError, KeyError, RuntimeError: If what it holds is no UNet.
    """
    device = Device(torch.device("cpu"), dtype, "cpu")
    with _quiet_libraries():
        return _load_component(UNet2DConditionModel, folder, dtype, device=device, allow_pickle=False)


def _unet_without_weights(folder: Path) -> Any:
    return without_weights(UNet2DConditionModel, UNet2DConditionModel.load_config(folder, local_files_only=True))


def _load_component(module_class: Any, folder: Path, dtype: torch.dtype, *, device: Device, allow_pickle: bool) -> Any:
    variant = _weights_file(folder, dtype, allow_pickle=allow_pickle)
    # On a CPU oneDNN's own order, a tenth off each step; on an H100 as graphs 13% off two rows, and 4% on eight
    # (docs/benchmarks.md). On MPS it was not measured.
    channels_last = device.kind in ("cpu", "cuda")
    file = folder / (".".join(filter(None, ("diffusion_pytorch_model", variant.get("variant"), "safetensors"))))
    if issubclass(module_class, diffusers.ModelMixin) and file.is_file() and variant["use_safetensors"]:
        place = device.torch_device
        module = load_directly(module_class, folder, file, dtype=dtype, device=place, channels_last=channels_last)
        if module is not None:
            return module.eval()
    module = module_class.from_pretrained(folder, local_files_only=True, dtype=dtype, **variant)
    layout = torch.channels_last if channels_last else torch.preserve_format
    return module.to(device.torch_device, memory_format=layout).eval()


def _load_safety_checker(source: Source, device: Device, settings: Settings) -> SafetyChecker | None:
    """Loads the safety checker if it is wanted and available.

    Raises:
        WeightsError: If the operator set it ``on`` and its weights are not in the model's folder.
    """
    folder = source.folder / "safety_checker"
    there = any(folder.glob("*.safetensors")) and (source.folder / "feature_extractor").is_dir()
    if settings.safety_checker == "off" or (settings.safety_checker == "auto" and not there):
        return None
    if not there:
        raise WeightsError(
            f"SD_INPAINT_SAFETY_CHECKER=on, but {source.folder} has no safety_checker or no feature_extractor.\n"
            "Set it to auto or off, or choose a model that has them."
        )
    with _quiet_libraries():
        checker = StableDiffusionSafetyChecker.from_pretrained(
            folder, local_files_only=True, dtype=device.dtype, **_weights_file(folder, device.dtype, allow_pickle=False)
        )
        processor = CLIPImageProcessorPil.from_pretrained(source.folder / "feature_extractor", local_files_only=True)
    return SafetyChecker(checker.to(device.torch_device).eval(), processor)


def _weights_file(folder: Path, dtype: torch.dtype, *, allow_pickle: bool) -> dict[str, Any]:
    """Chooses the variant: the full one for float32 where it is safe, else the half-precision one.

    Raises:
        WeightsError: If there are only pickles and the operator did not allow them.
    """
    names = {path.name for path in folder.iterdir()}
    full = any(name.endswith(".safetensors") and ".fp16." not in name for name in names)
    half = any(".fp16." in name and name.endswith(".safetensors") for name in names)
    if half and (not full or dtype is not torch.float32):
        return {"variant": "fp16", "use_safetensors": True}
    if full:
        return {"use_safetensors": True}
    pickles = sorted(name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth")))
    if not pickles:
        raise WeightsError(f"{folder} contains no weights.\nExpected a .safetensors file.")
    if not allow_pickle:
        raise WeightsError(
            f"{folder / pickles[0]} is a pickle, which can run code when loaded, and there is no safetensors file.\n"
            "Convert it, or set SD_INPAINT_ALLOW_PICKLE=true if you trust its source."
        )
    return {"use_safetensors": False}


def _autoencoder_class(folder: Path) -> Any:
    name = json.loads((folder / "config.json").read_text("utf-8")).get("_class_name", AUTOENCODERS[0])
    if name not in AUTOENCODERS:
        raise WeightsError(f"{folder} is a {name}.\nThis service supports {' and '.join(AUTOENCODERS)}.")
    return getattr(diffusers, name)


def _load_scheduler(folder: Path) -> Any:
    config = json.loads((folder / "scheduler_config.json").read_text("utf-8"))
    scheduler_class: Any = getattr(diffusers, str(config.get("_class_name", "")), None)
    known = isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)
    if not known:
        raise WeightsError(f"{folder} names a scheduler that diffusers does not have:\n{config.get('_class_name')!r}.")
    return scheduler_class.from_config(config)


def _check_inpainting(unet: Any, vae: Any, source: Source) -> None:
    expected = 2 * int(vae.config.latent_channels) + 1
    if unet.config.in_channels != expected:
        raise WeightsError(
            f"{source.name} cannot inpaint: its UNet takes {unet.config.in_channels} channels, not {expected}.\n"
            "Choose one that was trained for inpainting, such as the default."
        )


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps advice for library users (unused config keys and the like) out of an operator's log."""
    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])
