"""What each call of the device loop takes: begin, one step for batches of several jobs, finish.

The figures are what scripts/capacity plans with: --output FILE keeps them for it. Each is the median over rounds; a
step is one UNet call with guidance, two rows a job, and the scheduler's step of each job.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sd_inpaint.diffusion import weights
from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.devices import Device, choose_device
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tools.bench import full_size

WARM_UP_ROUNDS = 1


def make_task(side: int) -> CanvasTask:
    """Makes a square canvas of noise, its middle to be painted."""
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 255
    return CanvasTask(image, mask, InpaintParameters(prompt="a red rose"), seed=1)


def timed(device: Device, call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Returns what a call gives, and its seconds until the device has done it."""
    started = time.perf_counter()
    given = call(*arguments)
    device.wait()
    return given, time.perf_counter() - started


def take_step(backend: Denoiser, jobs: Sequence[Any]) -> None:
    """One turn of the device loop."""
    for job, prediction in zip(jobs, backend.predict(jobs, low_memory=False), strict=True):
        backend.advance(job, prediction)


def measure(device: Device, backend: Denoiser, side: int, batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measures one canvas size; seconds."""
    task = make_task(side)
    begins, finishes = [], []
    steps: dict[int, list[float]] = {jobs: [] for jobs in batches}
    for number in range(WARM_UP_ROUNDS + rounds):
        job, begin = timed(device, backend.begin, task)
        jobs = [job, *(backend.begin(task) for _ in range(max(batches) - 1))]
        seconds = {size: timed(device, take_step, backend, jobs[:size])[1] for size in batches}
        finish = timed(device, backend.finish, job)[1]
        if number >= WARM_UP_ROUNDS:
            begins.append(begin)
            finishes.append(finish)
            for size in batches:
                steps[size].append(seconds[size])
    return {
        "width": side,
        "height": side,
        "begin_seconds": statistics.median(begins),
        "step_seconds": {str(size): statistics.median(values) for size, values in steps.items()},
        "finish_seconds": statistics.median(finishes),
    }


def whole_numbers(text: str) -> list[int]:
    """Reads ``1,2,4``: rising, 1 among them where batches are meant."""
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("numbers are 1 and more")
    return numbers


def main() -> None:
    """Prints the table, and keeps the figures."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder, or demo; by default the full size with random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--sides", type=whole_numbers, default=[512], help="pixels, comma-separated")
    parser.add_argument("--batches", type=whole_numbers, default=[1, 2, 4, 8], help="jobs per call; always with 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON for scripts/capacity")
    options = parser.parse_args()
    model = options.model or str(full_size.for_benchmarks())
    settings = Settings(model=model, device=options.device, dtype=options.dtype)
    device, backend = choose_device(settings), weights.load(settings)
    batches = sorted({1, *options.batches})
    print(f"| canvas | begin s | {' | '.join(f'step of {jobs} s' for jobs in batches)} | finish s |")
    print("| --- " * (3 + len(batches)) + "|", flush=True)
    canvases = []
    for side in options.sides:
        canvases.append(figures := measure(device, backend, side, batches, options.rounds))
        cells = [figures["begin_seconds"], *figures["step_seconds"].values(), figures["finish_seconds"]]
        print(f"| {side}×{side} | {' | '.join(f'{seconds:.3f}' for seconds in cells)} |", flush=True)
    if options.output:
        facts = {"device": backend.info["device"], "dtype": backend.info["dtype"], "canvases": canvases}
        options.output.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
