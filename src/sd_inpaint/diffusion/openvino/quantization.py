"""A UNet in INT8: quantised after training, by what its own denoising shows of the range of its values.

Source: NNCF, post-training quantisation with SmoothQuant (Xiao et al. 2023), as OpenVINO's own models have it.
"""

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.openvino.conversion import MODEL, find, keep, locked
from sd_inpaint.diffusion.openvino.converted_unet import ConvertedUNet
from sd_inpaint.diffusion.openvino.converter import convert
from sd_inpaint.diffusion.openvino.runtime import openvino
from sd_inpaint.diffusion.runner import Runner, Shape
from sd_inpaint.diffusion.weights import load_unet
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import WeightsError
from sd_inpaint.schema import InpaintParameters

PROMPTS: Final = (
    "",
    "a red rose",
    "a wooden bench in a park, photograph",
    "a blue sky with clouds",
    "portrait of an old man, oil painting",
    "a cat on a sofa",
)
"""What calibration asks for, one picture each; the first is what guidance goes away from."""

STEPS: Final = 10
"""Of each picture: the states from pure noise to the finished picture differ most in their range."""


class _Recorder:
    """A runner that keeps what the UNet is given."""

    def __init__(self, runner: Runner) -> None:
        self.plan = runner.plan
        self.follows_weights = runner.follows_weights
        self.calls: list[list[np.ndarray]] = []
        self._runner = runner

    def takes(self, shape: Shape) -> bool:
        """See :meth:`Runner.takes`."""
        return self._runner.takes(shape)

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.predict_noise`."""
        self.calls.append([tensor.float().numpy().copy() for tensor in (sample, timesteps, embeddings)])
        return self._runner.predict_noise(sample, timesteps, embeddings)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.decode`."""
        return self._runner.decode(latents)

    def release_memory(self) -> None:
        """See :meth:`Runner.release_memory`."""
        self._runner.release_memory()


def denoising_states(
    denoiser: Denoiser, pictures: Sequence[np.ndarray] = (), *, steps: int = STEPS
) -> list[list[np.ndarray]]:
    """Paints a few pictures, and returns what the UNet was given: sample, timesteps and embeddings of each call.

    Args:
        denoiser: Of the model, run by torch.
        pictures: (H, W, 3) uint8 of the model's native size, of which a hole in the middle is painted; by default
            soft colours.
        steps: Of each picture.
    """
    side = denoiser.limits.native_size
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    states: list[list[np.ndarray]] = []
    for number, prompt in enumerate(PROMPTS):
        picture = pictures[number % len(pictures)] if pictures else _soft_colours(side, number)
        parameters = InpaintParameters(prompt=prompt, num_inference_steps=steps)
        diffusion = denoiser.begin(CanvasTask(picture, mask, parameters, seed=number))
        diffusion.runner = recorder = _Recorder(diffusion.runner)
        while diffusion.step < diffusion.steps:
            denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
        states += recorder.calls
    return states


def quantize(unet: ConvertedUNet, states: Sequence[list[np.ndarray]]) -> Path:
    """Quantises a UNet and keeps it among the conversions, unless it is there; returns its path.

    Args:
        unet: Where it goes.
        states: From :func:`denoising_states`.

    Raises:
        WeightsError: If NNCF is not installed.
        OSError, RuntimeError: If it cannot be converted, quantised or written.
    """
    if importlib.util.find_spec("nncf") is None:
        raise WeightsError("INT8 models are made by NNCF, which is not installed.\nInstall it: pip install nncf")
    with locked(unet.folder):
        if (model := find(unet.folder)) is not None:
            return model
        keep(unet.folder, partial(_write, unet.source, states))
    return unet.folder / MODEL


def _write(unet_folder: Path, states: Sequence[list[np.ndarray]], folder: Path) -> None:
    ov = openvino()
    nncf = importlib.import_module("nncf")  # in no lock: only this needs it
    model = nncf.quantize(
        convert(load_unet(unet_folder, torch.float32)),
        nncf.Dataset(states),
        subset_size=len(states),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    ov.save_model(model, folder / MODEL, compress_to_fp16=False)


def _soft_colours(side: int, number: int) -> np.ndarray:
    """(side, side, 3) uint8: a gradient between two colours at the corners, different for each number."""
    colours = np.random.default_rng(number).integers(0, 256, (2, 2, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    rows = colours[0][None] * (1 - ramp)[:, None, None] + colours[1][None] * ramp[:, None, None]
    mixed = rows[:, None, 0] * (1 - ramp)[None, :, None] + rows[:, None, 1] * ramp[None, :, None]
    pixels: np.ndarray = mixed.round().astype(np.uint8)
    return pixels
