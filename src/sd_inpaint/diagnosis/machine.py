"""What computes: the installed packages, the device, its number format and its memory."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import sd_inpaint
from sd_inpaint.diagnosis.finding import Finding, good, problem, size, warning
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings
from sd_inpaint.work.memory_budget import memory_limit_bytes

if TYPE_CHECKING:
    from sd_inpaint.diffusion.devices import Device

NATIVE_CANVAS_PIXELS = 512 * 512
"""Of Stable Diffusion 1.5: what a machine should have memory for."""


def check_packages() -> Finding:
    """Says which versions are installed."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "bentoml"))
    return good("version", f"sd-inpaint {sd_inpaint.__version__}, Python {platform.python_version()}, {packages}.")


def check_device(settings: Settings, model: Path | None) -> list[Finding]:
    """Chooses device and number format as the service would, and compares its memory with the weights.

    Args:
        settings: The operator's.
        model: The model's folder; None where it is not on this machine.
    """
    try:
        # Only here, since it takes seconds to load, and may be installed for another machine.
        from sd_inpaint.diffusion import devices
        from sd_inpaint.diffusion.number_format import probe_of
        from sd_inpaint.diffusion.placement import place
    except (ImportError, OSError) as error:
        remedy = f"Install torch again: pip install --force-reinstall torch=={version('torch')}."
        return [problem("device", f"torch cannot be loaded: {error}.", remedy)]
    try:
        places = place(settings)
        device = devices.choose_device(places[0], None if model is None else probe_of(model / "unet"))
        free = min(devices.choose_device(each).free_bytes() for each in places)
    except SettingsError as error:
        remedy = "Set SD_INPAINT_DEVICE, SD_INPAINT_DTYPE and SD_INPAINT_WORKERS to auto."
        return [problem("device", str(error), remedy)]
    weights = _weights_bytes(model, device)
    if device.kind == "cpu":
        free //= len(places)  # each process has weights of its own
    canvas = devices.BYTES_PER_CANVAS_PIXEL[device.dtype] * NATIVE_CANVAS_PIXELS
    measured = "" if model is None else f" ({device.reasons['dtype']})"
    return [
        _check_kind(device, len(places)),
        good("format", f"{device.plan['dtype']['value']}{measured}."),
        _check_memory(free, weights, canvas),
    ]


def _check_kind(device: "Device", count: int) -> Finding:
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        build = version("torch")
        sentence = f"This machine has an NVIDIA GPU, and torch {build} does not use it. A CPU takes minutes a picture."
        return warning("device", sentence, f"Install torch for CUDA: pip install torch=={build.partition('+')[0]}.")
    several = "" if count == 1 else f"{count} processes of "
    return good("device", f"{several}{device.name} ({device.reasons['device']}).")


def _check_memory(free: int, weights: int, canvas: int) -> Finding:
    total = f"of {size(memory_limit_bytes())} that this machine or container has"
    if free < weights:
        sentence = f"{size(free)} are free {total}; the weights take {size(weights)}."
        return problem("memory", sentence, "Stop other programs, take a smaller model or a larger machine.")
    if weights and free < weights + canvas:
        sentence = f"{size(free)} are free {total}; weights and one 512×512 canvas take up to {size(weights + canvas)}."
        return warning("memory", sentence, "Stop other programs, or take a larger machine.")
    return good("memory", f"{size(free)} are free {total}.")


def _weights_bytes(model: Path | None, device: "Device") -> int:
    """Memory of the weights: half-precision files are cast up where the device computes in float32."""
    if model is None:
        return 0
    total = 0
    for part in ("unet", "vae", "text_encoder"):
        files = list((model / part).glob("*.safetensors"))
        half = [path for path in files if ".fp16." in path.name]
        chosen = half or files
        factor = 2 if half and device.plan["dtype"]["value"] == "float32" else 1
        total += factor * sum(path.stat().st_size for path in chosen)
    return total
