"""CUDA graphs without CUDA: a replay makes the call again, into the memory of the recorded result."""

from collections.abc import Callable
from typing import Any

import torch

from sd_inpaint.diffusion.graphs import Captured


class FakeRecorder:
    """Records calls on any device.

    Attributes:
        taken_bytes: What each capture takes.
        failure: What a capture raises; None where it succeeds.
        before: Called before each capture.
        captures: How many there were.
        replays: How many there were.
        pools: How many were made.
    """

    def __init__(self, taken_bytes: int = 0) -> None:
        self.taken_bytes = taken_bytes
        self.failure: Exception | None = None
        self.before: Callable[[], None] = lambda: None
        self.captures = self.replays = self.pools = 0

    def make_pool(self) -> Any:
        """Returns a handle."""
        self.pools += 1
        return object()

    def capture(self, call: Callable[[], torch.Tensor], pool: Any) -> Captured:
        """Makes the call twice, as CUDA's recorder does, and keeps the second result."""
        del pool
        self.captures += 1
        self.before()
        if self.failure is not None:
            raise self.failure
        call()
        output = call()

        def replay() -> None:
            self.replays += 1
            output.copy_(call())

        return Captured(replay, output, self.taken_bytes)
