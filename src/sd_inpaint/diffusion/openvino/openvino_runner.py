"""The UNet as OpenVINO runs it."""

from pathlib import Path
from typing import Any, Final

import torch

from sd_inpaint.diffusion.devices import dtype_name
from sd_inpaint.diffusion.openvino.mapped_file import pages_given_back
from sd_inpaint.diffusion.openvino.runtime import compile_model
from sd_inpaint.diffusion.runner import RunnerFailedError, Shape, decode

WARM_UP_CELLS: Final = 32
"""Side of the latents of the first call, which brings the weights into the order that the processor wants.

No level of the UNet may have but one cell then, nor the prompt one token: a first call that attends to a single one
leaves OpenVINO 2026.4.1 with kernels that are wrong for every later call. After another first call, all are right.
"""

WARM_UP_TOKENS: Final = 77
"""Of its prompt."""


class OpenVinoRunner:
    """Runs a converted UNet by OpenVINO, one compiled model for every shape; all else is torch's.

    It does not follow the weights: they are its own.

    Making one takes seconds, in any thread; after that only the device thread may call it.

    Args:
        model: Path of the converted UNet.
        vae: diffusers' autoencoder, which decodes.
        dtype: The format to compute in.
        is_quantized: Whether the weights and activations are INT8, for the plan's name.

    Raises:
        RuntimeError: If OpenVINO cannot compile or run it.
    """

    follows_weights = False

    def __init__(self, model: Path, vae: Any, dtype: torch.dtype, *, is_quantized: bool = False) -> None:
        self.plan = f"openvino-{'int8' if is_quantized else dtype_name(dtype)}"
        self._vae = vae
        compiled = compile_model(model, dtype, torch.get_num_threads())
        self._request: Any = compiled.create_infer_request()
        shapes = [input_.get_partial_shape() for input_ in compiled.inputs]
        channels, width = shapes[0][1].get_length(), shapes[2][2].get_length()
        cells = torch.zeros(1, channels, WARM_UP_CELLS, WARM_UP_CELLS)
        with pages_given_back(model.with_suffix(".bin").resolve()):
            self._infer(cells, torch.zeros(1), torch.zeros(1, WARM_UP_TOKENS, width))

    def takes(self, shape: Shape) -> bool:
        """See :meth:`Runner.takes`: every shape."""
        del shape
        return True

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.predict_noise`.

        Raises:
            RunnerFailedError: If OpenVINO fails.
        """
        try:
            return self._infer(sample, timesteps, embeddings)
        except (RuntimeError, MemoryError) as error:
            raise RunnerFailedError(str(error)) from error

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.decode`."""
        return decode(self._vae, latents)

    def release_memory(self) -> None:
        """Does nothing: what it keeps is the weights."""

    def _infer(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        # In torch's bfloat16 the embeddings come as the text encoder gives them.
        arrays = [tensor.float().contiguous().numpy() for tensor in (sample, timesteps, embeddings)]
        outputs = self._request.infer(arrays, share_inputs=True)
        # A copy: the next call writes into the same memory.
        return torch.from_numpy(outputs[0].copy())
