"""CUDA graphs: a call of a network is recorded once for each shape, and then started as one.

Without them a fast card waits for the processor, which launches a thousand kernels one by one. A graph replays the very
kernels that were recorded, so its results are those of the calls it stands for.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch

from sd_inpaint.diffusion.runner import Runner, Shape

logger = logging.getLogger("bentoml.sd_inpaint.graphs")

MAX_CAPTURE_SECONDS: Final = 0.5
"""The longest that a canvas may wait for a capture. On an H100 one takes 0.13 s, whatever its shape."""

PAUSE_SECONDS: Final = 600.0
"""How long nothing is recorded after a capture that took longer, so that only one canvas waits."""

Network = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A recorded call.

    Attributes:
        replay: Does it once more.
        output: Where its result lies after each replay.
        taken_bytes: Memory that its pool grew by.
    """

    replay: Callable[[], None]
    output: torch.Tensor
    taken_bytes: int


class Recorder(Protocol):
    """What records calls: CUDA, or a test's."""

    def make_pool(self) -> Any:
        """Returns memory for graphs that never run at the same time; it is freed with the last of them."""

    def capture(self, call: Callable[[], torch.Tensor], pool: Any) -> Captured:
        """Records a call. It runs before, so that whatever a first call prepares is not recorded."""


class CudaRecorder:
    """Records on a CUDA device. Only the device thread may call it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def make_pool(self) -> Any:
        """See :meth:`Recorder.make_pool`."""
        return torch.cuda.graph_pool_handle()

    def capture(self, call: Callable[[], torch.Tensor], pool: Any) -> Captured:
        """See :meth:`Recorder.capture`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            call()
        current.wait_stream(self._stream)
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded: another one may be compiling.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            output = call()
        return Captured(graph.replay, output, max(0, torch.cuda.memory_reserved(self._device) - before))


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A recorded call and its own inputs, which are written to before each replay."""

    inputs: Sequence[torch.Tensor]
    captured: Captured

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.captured.replay()
        # The next replay writes over the output.
        return self.captured.output.clone()


@dataclass(slots=True, eq=False)
class _Pool:
    """Graphs of like size, which share memory."""

    handle: Any
    graphs: dict[Hashable, _Graph] = field(default_factory=dict)
    taken_bytes: int = 0


class GraphRunner:
    """Runs another runner's calls as graphs, and as they are where that cannot be. Only the device thread may call it.

    Graphs of one shape are recorded when it is first met. Those of like size share a pool, since memory of a pool that
    one of its graphs does not need serves the others; where all pools take more than their bound, the one that was not
    used for longest goes.

    Args:
        inner: What is recorded.
        recorder: What records.
        max_bytes: Bound for all pools together.
        in_use: Held while another thread uses the device: what that asks of it might end a recording. Nothing waits
            for it; calls are made without a graph meanwhile.
        clock: Seconds, which never go back.
    """

    def __init__(
        self,
        inner: Runner,
        recorder: Recorder,
        max_bytes: int,
        *,
        in_use: "threading.Lock | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = f"{inner.plan}-graph"
        self.follows_weights = inner.follows_weights
        self._inner = inner
        self._recorder = recorder
        self._max_bytes = max_bytes
        self._in_use = in_use or threading.Lock()
        self._clock = clock
        self._pools: OrderedDict[Hashable, _Pool] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._paused_until = 0.0

    def takes(self, shape: Shape) -> bool:
        """See :meth:`Runner.takes`."""
        return self._inner.takes(shape)

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.predict_noise`."""
        return self._run("unet", self._inner.predict_noise, (sample, timesteps, embeddings))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.decode`."""
        return self._run("decoder", self._inner.decode, (latents,))

    def release_memory(self) -> None:
        """Lets all graphs go; they are recorded again when they are next needed."""
        self._pools.clear()
        self._refused.clear()
        self._inner.release_memory()

    @property
    def taken_bytes(self) -> int:
        """Memory of all pools."""
        return sum(pool.taken_bytes for pool in self._pools.values())

    def _run(self, name: str, network: Network, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        key = (name, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        # Between two powers of two: graphs of very different sizes would keep each other's memory.
        size = (name, inputs[0].numel().bit_length())
        pool = self._pools.get(size)
        graph = None if pool is None else pool.graphs.get(key)
        if graph is not None:
            self._pools.move_to_end(size)
        elif key not in self._refused and self._clock() >= self._paused_until and self._in_use.acquire(blocking=False):
            try:
                graph = self._capture(key, size, network, inputs)
            finally:
                self._in_use.release()
        return network(*inputs) if graph is None else graph.run(inputs)

    def _capture(
        self, key: Hashable, size: Hashable, network: Network, inputs: Sequence[torch.Tensor]
    ) -> _Graph | None:
        """Records a call; None where that failed, or takes more memory than there is for graphs."""
        started = self._clock()
        pool = self._pools.get(size) or _Pool(self._recorder.make_pool())
        own = [tensor.clone() for tensor in inputs]
        try:
            captured = self._recorder.capture(lambda: network(*own), pool.handle)
        except Exception as error:  # noqa: BLE001  # whatever it is, the call is made without a graph, or fails there
            logger.warning("A CUDA graph could not be recorded; calls of its shape run without. %s", error)
            self._refused.add(key)
            # What is left of the attempt is in the pool, and goes with it.
            self._pools.pop(size, None)
            return None
        graph = pool.graphs[key] = _Graph(own, captured)
        pool.taken_bytes += captured.taken_bytes + sum(tensor.nbytes for tensor in own)
        self._pools[size] = pool
        self._pools.move_to_end(size)
        self._bound(key)
        self._watch(self._clock() - started)
        return graph

    def _bound(self, newest: Hashable) -> None:
        while self.taken_bytes > self._max_bytes:
            _, pool = self._pools.popitem(last=False)
            if newest in pool.graphs:
                # It is too much even alone. This call still has its graph.
                self._refused.add(newest)

    def _watch(self, seconds: float) -> None:
        if seconds > MAX_CAPTURE_SECONDS:
            self._paused_until = self._clock() + PAUSE_SECONDS
            logger.warning(
                "Recording a CUDA graph took %.1f s; new shapes run without for %.0f s.", seconds, PAUSE_SECONDS
            )
