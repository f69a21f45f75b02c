"""How much faster this processor runs the model's operations by OpenVINO than by torch, measured."""

import copy
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from sd_inpaint.diffusion.number_format import Probe
from sd_inpaint.diffusion.openvino.runtime import compile_model, openvino

PROBE_SIDE: Final = 32
"""Latent cells a side: small enough for a call to take some 20 milliseconds, large enough to be more than overhead."""

ROUNDS: Final = 5
"""The two take turns, and the best of each counts."""

GROUPS: Final = 32
"""Of the normalisation, as in Stable Diffusion."""

HEADS: Final = 8
"""Of the attention, as there."""

WIDENING: Final = 4
"""How much wider the feed-forward layer is inside."""


class _Block(torch.nn.Module):
    """What the UNet's time goes into: convolution, attention, and a feed-forward layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(GROUPS, channels)
        self.convolution = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.token_norm = torch.nn.LayerNorm(channels)
        self.widen = torch.nn.Linear(channels, WIDENING * channels)
        self.narrow = torch.nn.Linear(WIDENING * channels, channels)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        cells = cells + self.convolution(torch.nn.functional.silu(self.norm(cells)))
        tokens = cells.flatten(2).transpose(1, 2)
        heads = tokens.reshape(*tokens.shape[:2], HEADS, -1).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        tokens = tokens + mixed.transpose(1, 2).flatten(2)
        fed: torch.Tensor = self.narrow(torch.nn.functional.gelu(self.widen(self.token_norm(tokens))))
        return tokens + fed


def openvino_gain(probe: Probe, dtype: torch.dtype) -> float:
    """Measures how many times as fast as torch's OpenVINO's operations are, in about half a second.

    Processor time is measured, not time on the wall: it is the same on a busy machine.

    Returns:
        Above 1 where OpenVINO is faster.

    Raises:
        RuntimeError: If OpenVINO cannot run them.
    """
    block = _Block(probe.channels).eval()
    cells = torch.randn(1, probe.channels, PROBE_SIDE, PROBE_SIDE)
    calls = [_torch_call(block, cells, dtype), _openvino_call(block, cells, dtype)]
    costs = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            started = time.process_time()
            call()
            costs[number] = min(costs[number], time.process_time() - started)
    return costs[0] / max(costs[1], 1e-9)


def _openvino_call(block: _Block, cells: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    request = compile_model(_model(block), dtype, torch.get_num_threads()).create_infer_request()
    inputs = [cells.numpy()]
    request.infer(inputs)  # the first call prepares kernels
    return lambda: request.infer(inputs, share_inputs=True)


def _torch_call(block: _Block, cells: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    own: Any = copy.deepcopy(block)
    own = own.to(dtype).to(memory_format=torch.channels_last)
    own_cells = cells.to(dtype).to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            own(own_cells)

    call()
    return call


def _model(block: _Block) -> Any:
    """The block in OpenVINO's own operations: its converter alone would take seconds to load."""
    ov = openvino()
    ops = ov.opset13
    weights = {name: tensor.detach().numpy() for name, tensor in block.named_parameters()}
    channels = len(weights["norm.weight"])
    entry = ops.parameter([1, channels, PROBE_SIDE, PROBE_SIDE], np.float32)
    normal = ops.group_normalization(entry, weights["norm.weight"], weights["norm.bias"], GROUPS, 1e-5)
    convolved = ops.convolution(ops.swish(normal), weights["convolution.weight"], [1, 1], [1, 1], [1, 1], [1, 1])
    biased = ops.add(convolved, weights["convolution.bias"].reshape(1, -1, 1, 1))
    flat = ops.reshape(ops.add(entry, biased), np.array([1, channels, -1]), special_zero=False)
    tokens = ops.transpose(flat, np.array([0, 2, 1]))
    split = ops.reshape(tokens, np.array([1, -1, HEADS, channels // HEADS]), special_zero=False)
    heads = ops.transpose(split, np.array([0, 2, 1, 3]))
    mixed = ops.transpose(ops.scaled_dot_product_attention(heads, heads, heads), np.array([0, 2, 1, 3]))
    tokens = ops.add(tokens, ops.reshape(mixed, np.array([1, -1, channels]), special_zero=False))
    normal = ops.mvn(tokens, np.array([2]), normalize_variance=True, eps=1e-5, eps_mode="inside_sqrt")
    scaled = ops.add(ops.multiply(normal, weights["token_norm.weight"]), weights["token_norm.bias"])
    wide = ops.add(ops.matmul(scaled, weights["widen.weight"], False, True), weights["widen.bias"])
    narrow = ops.matmul(ops.gelu(wide, "erf"), weights["narrow.weight"], False, True)
    return ov.Model([ops.add(tokens, ops.add(narrow, weights["narrow.bias"]))], [entry])
