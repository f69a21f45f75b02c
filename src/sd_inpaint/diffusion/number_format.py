"""How much faster this processor computes in bfloat16 than in float32, measured on the model's own operations."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

PROBE_SIDE: Final = 16
"""Cells a side of the probe's latents: a few milliseconds in float32, and less than a second where torch emulates
bfloat16, which takes up to 86 times as long."""

ROUNDS: Final = 3
"""The formats take turns, and the best of each counts."""

LEAST_SECONDS: Final = 0.005
"""Processor time of one convolution of the model, in float32. In a model whose operations are shorter, calling them
takes longer than computing them, and bfloat16 would only cost precision."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Which operations to measure: a 3×3 convolution and a feed-forward product of the UNet's outermost level.

    Attributes:
        channels: Of that level.
        side: Latent cells a side, at the model's native size.
    """

    channels: int
    side: int


def probe_of(folder: Path) -> Probe | None:
    """The operations of the UNet in a folder; None where its config does not say, which loading will complain of."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return Probe(channels=int(config["block_out_channels"][0]), side=int(config["sample_size"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def bfloat16_gain(probe: Probe) -> float | None:
    """Measures how many times as fast as in float32 the probe's operations are in bfloat16, in about 0.2 seconds.

    The processor time of one thread is measured: it is the same on a busy machine, where the threads of a team spin
    while they wait for each other.

    Returns:
        Above 1 where bfloat16 is faster; None for a model too small for it to matter.
    """
    costs = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode(), _one_thread():
        operations = {dtype: _operation(probe, dtype) for dtype in costs}
        # A single round that was disturbed would turn a small model into a large one, and its pictures into others.
        costs[torch.float32] = min(_cost(operations[torch.float32]) for _ in range(ROUNDS))
        if costs[torch.float32] * (probe.side / PROBE_SIDE) ** 2 < LEAST_SECONDS:
            return None
        for _ in range(ROUNDS):
            for dtype, operation in operations.items():
                costs[dtype] = min(costs[dtype], _cost(operation))
            if costs[torch.bfloat16] > 2 * costs[torch.float32]:
                break  # emulated: no further round would change that
    return costs[torch.float32] / costs[torch.bfloat16]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _operation(probe: Probe, dtype: torch.dtype) -> Callable[[], None]:
    channels = probe.channels
    cells = torch.randn(1, channels, PROBE_SIDE, PROBE_SIDE, dtype=dtype).to(memory_format=torch.channels_last)
    tokens = torch.randn(PROBE_SIDE * PROBE_SIDE, channels, dtype=dtype)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype)
    convolution.weight.data = convolution.weight.data.to(memory_format=torch.channels_last)
    product = torch.nn.Linear(channels, 4 * channels, dtype=dtype)

    def run() -> None:
        convolution(cells)
        product(tokens)

    run()  # the first call prepares kernels
    return run


def _cost(operation: Callable[[], None]) -> float:
    started = time.thread_time()
    operation()
    return max(time.thread_time() - started, 1e-9)
