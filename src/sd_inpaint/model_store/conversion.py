"""The configured model, converted or quantised for OpenVINO before a server needs it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sd_inpaint.diffusion import weights
from sd_inpaint.diffusion.devices import choose_device
from sd_inpaint.diffusion.number_format import probe_of
from sd_inpaint.diffusion.openvino.agreement import check_agreement
from sd_inpaint.diffusion.openvino.converted_unet import INT8, ConvertedUNet
from sd_inpaint.diffusion.openvino.converter import convert_in_place
from sd_inpaint.diffusion.openvino.quantization import denoising_states, quantize
from sd_inpaint.diffusion.openvino.runtime import is_installed
from sd_inpaint.diffusion.runner import EagerRunner
from sd_inpaint.diffusion.sources import locate, verify
from sd_inpaint.errors import SettingsError, WeightsError
from sd_inpaint.settings import Settings


def convert(settings: Settings, *, int8: bool = False, pictures: Sequence[Path] = ()) -> Path:
    """Converts the configured model's UNet, unless that was done; returns the path of the converted model.

    Args:
        settings: The operator's.
        int8: Whether to quantise it too, which takes NNCF and minutes to hours.
        pictures: Files to calibrate with; by default soft colours.

    Raises:
        WeightsError: If the weights are missing, damaged or cannot be converted.
        SettingsError: If OpenVINO is not installed.
    """
    if not is_installed():
        raise SettingsError("OpenVINO is not installed. Install the extra: pip install 'sd-inpaint[openvino]'")
    on_cpu = settings.model_copy(update={"device": "cpu", "quantize": INT8 if int8 else "off", "backend": "torch"})
    source = verify(locate(on_cpu))
    device = choose_device(on_cpu, probe_of(source.folder / "unet"))
    unet = ConvertedUNet.of(source, device.dtype, on_cpu)
    if isinstance(unet, str):
        raise WeightsError(f"{source.name} cannot be converted for OpenVINO: {unet}.")
    try:
        if not int8:
            path = convert_in_place(unet.source, unet.conversions, unet.dtype)
            reference = EagerRunner(torch_unet := weights.load_unet(unet.source, unet.dtype), vae=None)
            check_agreement(reference, unet.make_runner(path, vae=None), torch_unet.config)
            return path
        denoiser = weights.load(on_cpu.model_copy(update={"quantize": "off"}))
        side = denoiser.limits.native_size
        states = denoising_states(denoiser, [_read(path, side) for path in pictures])
        return quantize(unet, states)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{source.name} could not be converted for OpenVINO: {error}") from error


def _read(path: Path, side: int) -> np.ndarray:
    """(side, side, 3) uint8: the middle of a picture."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side)))
