"""OpenVINO in torch's place: from the start where the converted model is there, else in the background once it is."""

import logging
import subprocess
import threading
from pathlib import Path
from typing import Final

from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.model import TorchModel
from sd_inpaint.diffusion.number_format import Probe
from sd_inpaint.diffusion.openvino import converter
from sd_inpaint.diffusion.openvino.agreement import check_agreement
from sd_inpaint.diffusion.openvino.choice import choose_backend
from sd_inpaint.diffusion.openvino.converted_unet import ConvertedUNet
from sd_inpaint.diffusion.sources import Source
from sd_inpaint.settings import Settings

logger = logging.getLogger("bentoml.sd_inpaint.openvino")

CONVERTER_BYTES_PER_WEIGHT_BYTE: Final = 1.8
"""Memory of the converter. Source: 2.9 GB for SD 1.5's 1.7 GB in float16 (docs/benchmarks.md)."""

RUNNER_BYTES_PER_WEIGHT_BYTE: Final = 1.15
"""Memory of a runner, without its mapped file. Source: 1.9 GB for 1.7 GB, in bfloat16."""


class OpenVinoBackend:
    """The choice between torch and OpenVINO, and its execution. Lives as long as the model.

    Args:
        source: The verified weights.
        device: Where torch computes.
        settings: The operator's.
        probe: The model's operations, to be measured.

    Raises:
        SettingsError: If an operator named OpenVINO and it cannot be used.

    Attributes:
        plan: ``backend``, and what computes now with its reason, for ``/sd-inpaint/info``. Changes once at most.
    """

    def __init__(self, source: Source, device: Device, settings: Settings, probe: Probe | None) -> None:
        choice = choose_backend(settings, device, probe)
        self._device = device
        self._reason = choice.reason
        self._thread: threading.Thread | None = None
        self._unet: ConvertedUNet | None = None
        self._found: Path | None = None
        self.plan = {"backend": {"value": "torch", "reason": choice.reason}}
        if choice.is_openvino or choice.keeps:
            unet = ConvertedUNet.of(source, device.dtype, settings)
            found = None if isinstance(unet, str) else unet.find()
            if found is None and not choice.is_openvino:
                return
            if isinstance(unet, str):
                self._stay(unet)
            else:
                self._unet, self._found = unet, found

    @property
    def is_ready(self) -> bool:
        """Whether the converted model is there, so that torch's weights of the UNet are not needed."""
        return self._found is not None

    @property
    def growth_bytes(self) -> int:
        """Memory that a runner will take in the background, until torch's weights are gone."""
        return 0 if self._unet is None or self.is_ready else int(RUNNER_BYTES_PER_WEIGHT_BYTE * self._unet.weight_bytes)

    def begin(self, model: TorchModel) -> None:
        """Takes over a model that was just loaded: at once, or from a thread of its own."""
        if self._unet is None:
            return
        if self._found is None:
            self._thread = threading.Thread(target=self._try, args=(model, self._unet), name="openvino", daemon=True)
            self._thread.start()
            return
        try:
            self._take_over(model, self._unet, self._found)
        except Exception as error:  # noqa: BLE001  # torch serves, whatever OpenVINO's trouble is
            self._stay(f"it cannot run the converted model: {error}")
            model.use_reference()

    def wait(self, timeout_seconds: float) -> bool:
        """Waits for the thread's end, good or bad; returns whether there is none at work."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        return self._thread is None or not self._thread.is_alive()

    def _try(self, model: TorchModel, unet: ConvertedUNet) -> None:
        self.plan["backend"]["reason"] = f"until the model is converted for OpenVINO: {self._reason}"
        try:
            if (trouble := self._convert(unet)) is None and (found := unet.find()) is not None:
                trouble = self._lack_of_memory(RUNNER_BYTES_PER_WEIGHT_BYTE, "to compile the model beside torch's")
                if trouble is None:
                    self._take_over(model, unet, found)
                    logger.info("OpenVINO computes what begins now; torch's UNet is gone with its last canvas.")
                    return
        except Exception as error:  # noqa: BLE001  # torch serves, whatever OpenVINO's trouble is
            trouble = str(error)
        self._stay(trouble or "the weights changed while they were converted")

    def _convert(self, unet: ConvertedUNet) -> str | None:
        """Converts in a process of its own; returns why not, if it does not."""
        if unet.is_quantized:
            return "the INT8 model is not made yet; sd-inpaint models convert --int8 makes it"
        trouble = self._lack_of_memory(CONVERTER_BYTES_PER_WEIGHT_BYTE, "to convert the model")
        if trouble is not None:
            return f"{trouble}; sd-inpaint models convert does it at another time"
        logger.info("Converting the UNet for OpenVINO in a process of its own; torch serves meanwhile.")
        with converter.start(unet.source, unet.conversions, unet.dtype) as process:
            return _outcome(process)

    def _take_over(self, model: TorchModel, unet: ConvertedUNet, found: Path) -> None:
        runner = unet.make_runner(found, model.vae)
        if not self.is_ready:
            check_agreement(model.make_reference(), runner, model.unet.config)
        model.use_alone(runner)
        self.plan["backend"].update(value="openvino", reason=self._reason)

    def _stay(self, why: str) -> None:
        self.plan["backend"]["reason"] = f"OpenVINO is not used: {why}"
        logger.warning("torch serves, without OpenVINO: %s.", why)

    def _lack_of_memory(self, factor: float, purpose: str) -> str | None:
        needed, free = factor * (self._unet.weight_bytes if self._unet else 0), self._device.free_bytes()
        return None if needed <= free else f"{purpose} takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def _outcome(process: "subprocess.Popen[str]") -> str | None:
    """Waits for a converter; returns the last line that it wrote, if it failed."""
    # Not communicate(), which closes its input first: that would end it.
    errors = process.stderr.read() if process.stderr else ""
    return None if process.wait() == 0 else (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
