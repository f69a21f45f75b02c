"""Converts a UNet for OpenVINO, in a process of its own: ``python -m sd_inpaint.diffusion.openvino.converter``.

Its memory is given back when it ends, it gives way to whatever else the processors have to do, and it is the first to
go where the machine runs out of memory. It ends with the process that started it.
"""

import contextlib
import os
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from sd_inpaint.diffusion.devices import dtype_name
from sd_inpaint.diffusion.openvino.conversion import MODEL, find, folder_for, keep, locked, unet_digests
from sd_inpaint.diffusion.openvino.runtime import PRECISIONS, openvino

NICENESS: Final = 19
"""The least urgent there is."""

PROMPT_TOKENS: Final = 77
"""Of the example: any number may follow."""

_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What the process sees of the server's environment: no key, no address of a database."""


class _UNet(torch.nn.Module):
    """A UNet as a runner calls it: float32 outside."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        dtype = self.unet.dtype
        noise: torch.Tensor = self.unet(
            sample.to(dtype), timesteps, encoder_hidden_states=embeddings.to(dtype), return_dict=False
        )[0]
        return noise.float()


def convert(unet: Any) -> Any:
    """Converts a UNet of diffusers; the result takes any number of rows, any canvas and any length of prompt.

    The example is small, since tracing computes it several times, and its sides are odd: then the UNet takes the sizes
    that it scales up to from what came down, and not as twice its own.
    """
    ov = openvino()
    # The converter takes the bytes of a weight for those of a contiguous one.
    unet = unet.to(memory_format=torch.contiguous_format)
    channels, width = int(unet.config.in_channels), int(unet.config.cross_attention_dim)
    side = 2 ** len(unet.config.block_out_channels) + 1
    example = torch.zeros(2, channels, side, side + 2), torch.ones(2), torch.zeros(2, PROMPT_TOKENS, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that tracing takes for constant
        model = ov.convert_model(_UNet(unet).eval(), example_input=example)
    shapes = ([-1, channels, -1, -1], [-1], [-1, -1, width])
    model.reshape({number: ov.PartialShape(shape) for number, shape in enumerate(shapes)})
    return model


def convert_in_place(unet_folder: Path, conversions: Path, dtype: torch.dtype) -> Path:
    """Converts the UNet of a folder, unless that was done; returns the path of the converted model.

    Raises:
        WeightsError, OSError, RuntimeError: If the weights cannot be loaded, converted or written.
    """
    folder = folder_for(conversions, unet_digests(unet_folder), dtype_name(dtype))
    with locked(folder):
        if (model := find(folder)) is not None:
            return model
        keep(folder, partial(_write, unet_folder, dtype))
    return folder / MODEL


def _write(unet_folder: Path, dtype: torch.dtype, folder: Path) -> None:
    from sd_inpaint.diffusion.weights import load_unet

    unet = load_unet(unet_folder, dtype)
    openvino().save_model(convert(unet), folder / MODEL, compress_to_fp16=False)


def start(unet_folder: Path, conversions: Path, dtype: torch.dtype) -> "subprocess.Popen[str]":
    """Starts a process that converts; the last line of its standard error says why, where it fails."""
    return subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-m", __name__, str(unet_folder), str(conversions), dtype_name(dtype)],
        stdin=subprocess.PIPE,  # its end is this process's
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_WAIT_POLICY": "PASSIVE"},
    )


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Converts what the arguments name."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    unet_folder, conversions, name = sys.argv[1:]
    dtype = next(dtype for dtype in PRECISIONS if dtype_name(dtype) == name)
    convert_in_place(Path(unet_folder), Path(conversions), dtype)


if __name__ == "__main__":
    main()
