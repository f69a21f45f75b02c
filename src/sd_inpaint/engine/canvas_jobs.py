"""One canvas, and its way through the device loop."""

import itertools
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from sd_inpaint.errors import InpaintError
from sd_inpaint.schema import InpaintParameters

_ids = itertools.count(1)


class CanvasState(StrEnum):
    """Where a canvas is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _Work:
    """What a canvas costs, by its size and its parameters."""

    __slots__ = ()

    parameters: InpaintParameters

    @property
    def size(self) -> tuple[int, int]:
        """Canvas width and height, in pixels."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Denoising steps left by ``strength``; a scheduler may add one."""
        return int(self.parameters.num_inference_steps * self.parameters.strength)

    @property
    def megapixel_passes_per_step(self) -> float:
        """Cost of one step: guidance above 1 takes two passes of the UNet."""
        passes = 2 if self.parameters.guidance_scale > 1.0 else 1
        return passes * self.megapixels

    @property
    def megapixel_steps(self) -> float:
        """What it counts against the queue's bound: a 512×512 canvas at 50 steps is 13."""
        return self.steps * self.megapixels

    @property
    def megapixels(self) -> float:
        """Width times height, in millions."""
        width, height = self.size
        return width * height / 1e6


@dataclass(frozen=True, slots=True, eq=False)
class CanvasOutline(_Work):
    """A canvas in the queue whose pixels are still in their file. Immutable.

    Attributes:
        width: Canvas columns, in pixels.
        height: Canvas rows, in pixels.
        parameters: As :class:`CanvasTask` has them.
    """

    width: int
    height: int
    parameters: InpaintParameters

    @property
    def size(self) -> tuple[int, int]:
        """Canvas width and height, in pixels."""
        return self.width, self.height


@dataclass(frozen=True, slots=True, eq=False)
class CanvasTask(_Work):
    """What the model works on. Immutable.

    Attributes:
        image: (H, W, 3) uint8; H and W are multiples of the model's stride.
        mask: (H, W) uint8; 255 repaints, 0 keeps.
        parameters: Prompt, steps, guidance and the like.
        seed: The seed to use; never the one that asks for a random draw.
        rim: (H, W) bool: pixels of the hole that are kept in good part, of which ``image`` has that part's colour; a
            decoder may be shown them. None where there are none.
    """

    image: np.ndarray
    mask: np.ndarray
    parameters: InpaintParameters
    seed: int
    rim: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Canvas width and height, in pixels."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(slots=True, eq=False)
class CanvasRequest:
    """The canvases that came together. Written by the queue only.

    Attributes:
        came_at: How long the device had worked by then, in seconds.
        is_delayed: Whether its caller had been served ahead of others, and had nothing else in the queue.
        served_seconds: Its time on the device so far.
    """

    came_at: float = 0.0
    is_delayed: bool = False
    served_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class CanvasJob:
    """One canvas of one picture, in the loop. What callers call a job is in ``sd_inpaint.jobs``.

    Written by the loop and its queue only; any thread may read it and wait on ``future``.

    Attributes:
        task: What the model works on; an outline until its pixels are decoded, and the job runs only then.
        arrived_at: Clock reading at admission, in seconds.
        deadline_at: Clock reading after which nobody waits for it.
        caller: Whose it is, as a label; "" where nobody is known.
        weight: The caller's share of the device, compared with other callers'.
        rank: Place among the caller's own; the smallest runs next. Set at admission, never changed.
        request: What it belongs to, together with the other canvases of one request.
        state: Where it is.
        step: Denoising steps done.
        steps: Denoising steps in all.
        began_at: Clock reading when the device first took it; None before.
        ended_at: Clock reading at its end; None before.
        device_seconds: Time the device worked on it.
        losses: Devices that were lost while it was on them.
        plan: The name of what computes it, the same from its first step to its last; "" before that.
        wants_preview: True makes the loop keep a small picture of the latents every few steps.
        preview: (h, w, 3) uint8, one pixel a latent cell, or None.
        on_near: Called once, with the loop's lock held, when the job's turn is near; None where it has its pixels.
        future: Ends with the painted canvas (H, W, 3) uint8, or with the InpaintError.
    """

    task: CanvasTask | CanvasOutline
    caller: str = ""
    weight: float = 1.0
    arrived_at: float = 0.0
    deadline_at: float = float("inf")
    rank: float = 0.0
    request: CanvasRequest = field(default_factory=CanvasRequest)
    state: CanvasState = CanvasState.QUEUED
    step: int = 0
    steps: int = 0
    began_at: float | None = None
    ended_at: float | None = None
    device_seconds: float = 0.0
    losses: int = 0
    low_memory: bool = False
    plan: str = ""
    wants_preview: bool = False
    preview: np.ndarray | None = None
    leaving: InpaintError | None = None
    on_near: Callable[[], None] | None = None
    future: "Future[np.ndarray]" = field(default_factory=Future)
    number: int = field(default_factory=lambda: next(_ids))

    def __post_init__(self) -> None:
        self.steps = self.task.steps

    @property
    def is_ready(self) -> bool:
        """Whether its pixels are here, so that it may run."""
        return isinstance(self.task, CanvasTask)

    @property
    def ready_task(self) -> CanvasTask:
        """The task of a job that has its pixels."""
        assert isinstance(self.task, CanvasTask)  # noqa: S101  # asked only of jobs that have run
        return self.task

    @property
    def loras(self) -> str:
        """The LoRAs that it runs with."""
        return self.task.parameters.loras

    def batch_key(self, plan: str) -> Hashable:
        """What jobs have in common that may share a call of the UNet.

        Args:
            plan: What would compute a job that begins now.
        """
        return self.task.size, self.plan or plan, self.loras

    @property
    def remaining_megapixel_passes(self) -> float:
        """Work left."""
        return max(0, self.steps - self.step) * self.task.megapixel_passes_per_step

    @property
    def ended(self) -> bool:
        """True once the job is in a final state."""
        return self.state in (CanvasState.DONE, CanvasState.FAILED, CanvasState.CANCELLED)
