"""What the demo model's networks share while they learn: device, average, clock, workers and checkpoints."""

from __future__ import annotations

import concurrent.futures
import copy
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from sd_inpaint.diffusion.devices import cpu_has_bfloat16

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the autoencoder: on the CPU channels last takes two thirds of the time, on CUDA, for its norms, a third more.
CONVOLUTION_LAYOUT = torch.channels_last if DEVICE.type == "cpu" else torch.contiguous_format
EMA_DECAY = 0.996  # some minutes of two cores
THREADS = 2 if DEVICE.type == "cpu" else 1  # that compute
SLICES = THREADS  # of a batch, one a thread
DRAWERS = 0 if DEVICE.type == "cpu" else max(1, (os.cpu_count() or 1) - 2)
"""Processes that draw samples; none where the processor computes too: drawing is a hundredth of the work there."""


class Ema:
    """A moving average of the parameters of some modules; the copies in ``modules`` hold it."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self.sources: list[torch.Tensor] = [p for m in modules for p in m.parameters()]
        self.modules: list[Any] = [copy.deepcopy(m).eval().requires_grad_(False) for m in modules]
        self.targets: list[torch.Tensor] = [p for m in self.modules for p in m.parameters()]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the sources; short memory at first, so that the start is forgotten soon."""
        self.steps += 1
        decay = min(EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.targets, self.sources, 1 - decay)


class Clock:
    """Counts down a budget of minutes, sets the learning rate after it, and prints the progress line."""

    def __init__(self, minutes: float, lr: float, lr_end: float, optimizer: torch.optim.Optimizer) -> None:
        self.budget_seconds = minutes * 60
        self.lr, self.lr_end, self.optimizer = lr, lr_end, optimizer
        self.start = self.last_print = time.monotonic()
        self.losses: list[torch.Tensor] = []
        self.samples = 0

    def steps(self, warmup_steps: int = 100) -> Iterator[int]:
        """Yields step numbers until the time is up; linear warm-up, then a cosine over the time that is left."""
        step = 0
        while (done := (time.monotonic() - self.start) / self.budget_seconds) < 1:
            lr = self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / warmup_steps)
            yield step
            step += 1

    def report(self, step: int, loss: torch.Tensor, samples: int, every_seconds: float = 20) -> None:
        """Notes a step's loss; prints a line now and then."""
        self.losses.append(loss)
        self.samples += samples
        now = time.monotonic()
        if now - self.last_print > every_seconds:
            rate = self.samples / (now - self.last_print)
            left = max(0.0, self.budget_seconds - (now - self.start)) / 60
            lr = self.optimizer.param_groups[0]["lr"]
            mean = float(torch.stack(self.losses).mean())
            print(f"step {step}  loss {mean:.4f}  {rate:.0f} samples/s  lr {lr:.1e}  {left:.1f} min left", flush=True)
            self.last_print, self.losses, self.samples = now, [], 0


def half_precision() -> torch.autocast:
    """Autocast to bfloat16 where the device computes with it; on other processors single precision is much faster."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda" or cpu_has_bfloat16())


Part = TypeVar("Part")
Result = TypeVar("Result")
Loss = Callable[[], torch.Tensor]  # runs a network on a slice of the batch; the mean loss of the slice, a scalar


def start_worker() -> None:
    """Sets up a thread that computes alone."""
    # Both settings belong to the thread that makes them.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Workers:
    """Computes a batch's gradient slice by slice on single-threaded workers; on a GPU there is one.

    On a machine that others use too, this is several times faster than two OpenMP threads: those wait for each other
    in every operation, these once a step.
    """

    def __init__(self, count: int = THREADS) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(count, initializer=start_worker)

    def map(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """What a function gives for each part, a worker each."""
        return list(self.pool.map(function, parts))

    def step(self, slices: Sequence[Loss], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Takes one optimiser step on the mean of the slices' losses; gives that mean."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def work(loss_of_slice: Loss) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            loss = loss_of_slice()
            # Not loss.backward(), which would add to the same .grad from two threads.
            return loss.detach(), torch.autograd.grad(loss / len(slices), parameters)

        results = list(self.pool.map(work, slices))
        first, *others = (list(gradients) for _, gradients in results)
        for gradients in others:
            torch._foreach_add_(first, gradients)
        for parameter, gradient in zip(parameters, first, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return torch.stack([loss for loss, _ in results]).mean()


def save_checkpoint(
    path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer
) -> None:
    """Writes everything that training needs to go on; never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "modules": [m.state_dict() for m in modules],
        "ema": [m.state_dict() for m in ema.modules],
        "ema_steps": ema.steps,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_checkpoint(
    path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer
) -> bool:
    """Goes on from a checkpoint, if there is one."""
    if not path.exists():
        return False
    state = torch.load(path, map_location=DEVICE, weights_only=True)
    for module, weights in zip([*modules, *ema.modules], [*state["modules"], *state["ema"]], strict=True):
        module.load_state_dict(weights)
    ema.steps = state["ema_steps"]
    optimizer.load_state_dict(state["optimizer"])
    for parameter, averages in optimizer.state.items():
        # In the parameter's own memory layout, which another device's may not be: the fused step wants both alike.
        averages.update(
            {k: torch.empty_like(parameter).copy_(v) for k, v in averages.items() if v.shape == parameter.shape}
        )
    print(f"going on from {path.name}", flush=True)
    return True
