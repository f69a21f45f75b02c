"""Whether OpenVINO or torch computes the denoising steps, and why."""

from dataclasses import dataclass
from typing import Final

from sd_inpaint.diffusion.devices import SET, Device, dtype_name
from sd_inpaint.diffusion.number_format import Probe
from sd_inpaint.diffusion.openvino.gain import GROUPS, openvino_gain
from sd_inpaint.diffusion.openvino.runtime import PRECISIONS, is_installed
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings

LEAST_GAIN: Final = 1.1
"""Times as fast as torch. Measured: 1.2 to 1.4 in bfloat16 with AVX512-BF16, 1.0 to 1.05 in float32."""

KEEPING_GAIN: Final = 0.9
"""What was converted before stays in use down to this: a busy moment at a start must not change the plan, and with it
the bytes of a picture."""

LEAST_CHANNELS: Final = 128
"""Of the outermost level: a step of a narrower model takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes the denoising steps.

    Attributes:
        is_openvino: Whether OpenVINO does, as soon as it can.
        reason: Why, for ``/sd-inpaint/info``.
        keeps: Whether OpenVINO does all the same if the model is converted already.
    """

    is_openvino: bool
    reason: str
    keeps: bool = False


def choose_backend(settings: Settings, device: Device, probe: Probe | None) -> Choice:
    """Chooses the one that an operator named, else OpenVINO on CPUs where it is measured faster.

    Args:
        settings: The operator's.
        device: Where torch computes, and in which format.
        probe: The model's operations, to be measured.

    Raises:
        SettingsError: If OpenVINO was named and cannot be used.
    """
    if settings.backend == "torch":
        return Choice(False, SET)
    obstacle = _obstacle(device, settings)
    if settings.backend == "openvino" or settings.quantize != "off":
        if obstacle is not None:
            name = "BACKEND=openvino" if settings.quantize == "off" else f"QUANTIZE={settings.quantize}"
            raise SettingsError(f"SD_INPAINT_{name}, but {obstacle}.")
        return Choice(True, SET)
    if obstacle is not None:
        return Choice(False, obstacle)
    if probe is None or probe.channels < LEAST_CHANNELS or probe.channels % GROUPS:
        return Choice(False, "the model is too small for another backend to matter")
    try:
        gain = openvino_gain(probe, device.dtype)
    except Exception as error:  # noqa: BLE001  # torch serves, whatever OpenVINO's trouble is
        return Choice(False, f"OpenVINO fails on this machine: {error}")
    if gain < LEAST_GAIN:
        reason = f"OpenVINO is {gain:.2f} times as fast in {dtype_name(device.dtype)}, measured"
        return Choice(False, reason, keeps=gain >= KEEPING_GAIN)
    return Choice(True, f"{gain:.1f} times as fast as torch on this processor, measured")


def _obstacle(device: Device, settings: Settings) -> str | None:
    """Why OpenVINO cannot be used here."""
    if settings.compile in ("regional", "full"):
        return f"SD_INPAINT_COMPILE={settings.compile} has torch compute"
    if device.kind != "cpu":
        return f"OpenVINO is for CPUs here, and the device is {device.name}"
    if device.dtype not in PRECISIONS:
        return f"OpenVINO does not compute in {dtype_name(device.dtype)} here"
    if not is_installed():
        return "OpenVINO is not installed (the extra openvino)"
    return None
