"""What a grid of canvas sizes does to a mixed load: shapes, batches and waits.

Photos of common sizes have holes of any size and place. Each is planned twice, with canvas sides on the grid and with
sides of any multiple of the model's stride, and both go through the real device loop on a simulated device. That takes
a batch at the measured cost of an H100 with CUDA graphs, and captures a graph for each new shape. Nothing is computed.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from unittest import mock

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasTask
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.imaging import geometry, grid
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.schema import InpaintParameters, Region
from tools.capacity.device import Clock, SimulatedBackend, SimulatedDiffusion

LIMITS = CanvasLimits(native_size=512, stride=8, max_pixels=1 << 24)

PHOTOS = ((4000, 3000), (3000, 4000), (6000, 4000), (4032, 3024), (1920, 1080), (1280, 1280), (1024, 1536))
"""Width and height in pixels: phones, cameras, a screen, a square, a generated picture."""

CALL_SECONDS, ROW_SECONDS, CAPTURE_SECONDS = 0.0067, 0.0028, 0.13
"""Of a UNet call, of each of its rows of 512×512 more, and of capturing its graph; measured on an H100 in float16."""

MAX_BATCH = 8


class GraphBackend(SimulatedBackend):
    """A device that shares calls, and captures a graph for each number of rows and canvas size."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, MAX_BATCH, (CALL_SECONDS + 2 * ROW_SECONDS) / 0.52)
        self.graphs: set[tuple[int, tuple[int, int]]] = set()
        self.batches: list[int] = []

    def predict_seconds(self, batch: Sequence[SimulatedDiffusion]) -> float:
        """Returns how long one call takes, with the capture if it is the first of its shape."""
        shape = len(batch), batch[0].task.size
        capture = 0.0 if shape in self.graphs else CAPTURE_SECONDS
        self.graphs.add(shape)
        self.batches.append(len(batch))
        rows = 2 * len(batch) * batch[0].task.megapixels / (512 * 512 / 1e6)
        return capture + CALL_SECONDS + ROW_SECONDS * rows


def draw_masks(count: int, seed: int) -> list[tuple[np.ndarray, Region]]:
    """Masks of one rectangle each, from a twentieth of the photo's side to two thirds of it."""
    draw = random.Random(seed)  # noqa: S311 — a load, not a secret
    masks = []
    for _ in range(count):
        width, height = draw.choice(PHOTOS)
        across, along = (round(min(width, height) * draw.uniform(0.05, 0.66)) for _ in range(2))
        left, top = draw.randrange(width - across), draw.randrange(height - along)
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + along, left : left + across] = 255
        masks.append((mask, draw.choice((Region.AUTO, Region.AUTO, Region.MASK))))
    return masks


def plan_sizes(masks: Sequence[tuple[np.ndarray, Region]]) -> list[tuple[int, int]]:
    """The sizes of all their canvases."""
    plans = [geometry.plan(mask, region=region, padding=None, limits=LIMITS) for mask, region in masks]
    return [(canvas.width, canvas.height) for canvases in plans for canvas in canvases]


def run(sizes: Sequence[tuple[int, int]], every_seconds: float, seed: int) -> tuple[GraphBackend, list[float]]:
    """Sends the canvases one after another, at random moments; returns the device and each one's seconds."""
    draw = random.Random(seed)  # noqa: S311 — a load, not a secret
    clock = Clock()
    backend = GraphBackend(clock)
    queue = CanvasQueue(max_canvases=10**6, max_megapixel_steps=1e12, pace=Pace(backend.seconds_per_megapixel_pass))
    loop = DeviceLoop(backend, queue, clock)
    jobs, at = [], 0.0
    for width, height in sizes:
        at += draw.expovariate(1 / every_seconds)
        while clock.now < at:
            if not loop.turn():
                clock.now = at
        pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
        parameters = InpaintParameters(prompt="", num_inference_steps=draw.choice((20, 30, 50)))
        jobs.append(CanvasJob(CanvasTask(pixels, pixels[..., 0], parameters, 0)))
        loop.submit([jobs[-1]])
    while loop.turn():
        pass
    return backend, [(job.ended_at or 0.0) - job.arrived_at for job in jobs]


def main() -> None:
    """Prints a row for each way of planning."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench canvases", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--every-seconds", type=float, default=0.35, help="mean time between two canvases")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    masks = draw_masks(options.requests, options.seed)
    print("| sides | shapes | graphs captured | jobs a call | megapixels | p50 s | p95 s | device busy s |")
    print("| --- " * 8 + "|")
    for name, step in (("any multiple of the stride", lambda native, stride: stride), ("on the grid", None)):
        with mock.patch.object(geometry, "grid_step", step or grid.grid_step):
            sizes = plan_sizes(masks)
        backend, seconds = run(sizes, options.every_seconds, options.seed)
        megapixels = sum(width * height for width, height in sizes) / 1e6
        print(
            f"| {name} | {len(set(sizes))} | {len(backend.graphs)} | {statistics.mean(backend.batches):.2f} "
            f"| {megapixels:.1f} | {statistics.median(seconds):.2f} "
            f"| {statistics.quantiles(seconds, n=20)[-1]:.2f} | {backend.busy_seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
