"""A UNet, and where it lies once it is converted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from sd_inpaint.diffusion.devices import dtype_name
from sd_inpaint.diffusion.openvino.conversion import conversions_folder, find, folder_for
from sd_inpaint.diffusion.openvino.openvino_runner import OpenVinoRunner
from sd_inpaint.diffusion.sources import Source
from sd_inpaint.settings import Settings

INT8: Final = "int8"
"""The number format of a quantised model, in its folder's name."""


@dataclass(frozen=True, slots=True)
class ConvertedUNet:
    """A UNet, and where it lies once it is converted. Immutable.

    Attributes:
        source: The folder of the verified weights.
        conversions: Where all conversions lie.
        digests: File name → SHA-256 of the source.
        dtype: The format to convert into and to compute in.
        is_quantized: Whether the quantised one is wanted.
    """

    source: Path
    conversions: Path
    digests: dict[str, str]
    dtype: torch.dtype
    is_quantized: bool = False

    @classmethod
    def of(cls, source: Source, dtype: torch.dtype, settings: Settings) -> "ConvertedUNet | str":
        """Returns the UNet of a verified model, or why it cannot be converted."""
        digests = {path.removeprefix("unet/"): digest for path, digest in source.files.items() if "unet/" in path}
        if not any(name.endswith(".safetensors") for name in digests):
            return "its weights are pickles, whose checksums are not known"
        if (conversions := conversions_folder(settings)) is None:
            return "there is no folder to keep it in; set SD_INPAINT_CACHE_DIR"
        return cls(source.folder / "unet", conversions, digests, dtype, settings.quantize == INT8)

    @property
    def folder(self) -> Path:
        """Its folder among the conversions."""
        return folder_for(self.conversions, self.digests, INT8 if self.is_quantized else dtype_name(self.dtype))

    @property
    def weight_bytes(self) -> int:
        """Size of the weights' file, in bytes."""
        return max((path.stat().st_size for path in self.source.glob("*.safetensors")), default=0)

    def find(self) -> Path | None:
        """Returns the path of the converted model, if it is there and whole."""
        return find(self.folder)

    def make_runner(self, model: Path, vae: Any) -> OpenVinoRunner:
        """Makes a runner of the converted model; raises as :class:`OpenVinoRunner` does."""
        return OpenVinoRunner(model, vae, self.dtype, is_quantized=self.is_quantized)
