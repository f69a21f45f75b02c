"""One caller floods the queue; how long does another one wait? The real device loop, on a simulated device.

The victim sends one request after another, with pauses, first alone and then beside the flooder, who fills the queue as
often as it lets them. A wait is the time from a request to its picture. Nothing is computed, so this takes seconds.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasTask
from sd_inpaint.engine.loop import DeviceLoop
from sd_inpaint.engine.queue import CanvasQueue, Pace
from sd_inpaint.errors import QueueFullError
from sd_inpaint.schema import InpaintParameters
from tools.capacity.device import Clock, SimulatedBackend, SimulatedDiffusion

SIDE = 512  # pixels
STEP_SECONDS = 5.0
"""Of one canvas of 512×512 with guidance on two CPU cores: the order of docs/benchmarks.md."""

VICTIM, FLOODER = "victim", "flooder"


@dataclass(frozen=True)
class Scene:
    """Who sends what.

    Attributes:
        name: Of the table's row.
        victim_steps: Denoising steps of the victim's requests, in turn.
        flooder_steps: The same of the flooder's.
        flooders: How many there are.
        max_batch: Canvases in one call of the model.
        victim_share: Of the device, compared with the flooders' 1.
    """

    name: str
    victim_steps: Sequence[int]
    flooder_steps: Sequence[int]
    flooders: int = 1
    max_batch: int = 1
    victim_share: float = 1.0


SCENES = (
    Scene("same length", (50,), (50,)),
    Scene("short beside long", (10,), (150,)),
    Scene("long beside short", (100,), (5,)),
    Scene("mixed lengths", (100, 10, 50, 1), (150, 5, 50)),
    Scene("three flooders", (50,), (50,), flooders=3),
    Scene("share of 3", (50,), (50,), victim_share=3.0),
    Scene("batches of 4", (50,), (50,), max_batch=4),
)


class BatchedBackend(SimulatedBackend):
    """A device that takes a whole batch in the time of one canvas: the most favourable one."""

    def predict_seconds(self, batch: Sequence[SimulatedDiffusion]) -> float:
        """Returns how long one call takes."""
        return super().predict_seconds(batch[:1])


class Stage:
    """One device, its callers, and a clock."""

    def __init__(self, scene: Scene, max_queue: int, *, is_one_caller: bool) -> None:
        self.scene = scene
        self.clock = Clock()
        per_megapixel_pass = STEP_SECONDS / (2 * SIDE * SIDE / 1e6)
        backend = BatchedBackend(self.clock, scene.max_batch, per_megapixel_pass)
        queue = CanvasQueue(max_canvases=max_queue, max_megapixel_steps=2000.0, pace=Pace(per_megapixel_pass))
        self.loop = DeviceLoop(backend, queue, self.clock)
        self.refused = 0
        self._sent = 0
        self._is_one_caller = is_one_caller
        self._pixels = np.broadcast_to(np.uint8(0), (SIDE, SIDE, 3))

    def job(self, caller: str, steps: int) -> CanvasJob:
        """Makes a request of one canvas."""
        parameters = InpaintParameters(prompt="", num_inference_steps=steps)
        task = CanvasTask(self._pixels, self._pixels[..., 0], parameters, 0)
        weight = self.scene.victim_share if caller == VICTIM else 1.0
        return CanvasJob(task, "" if self._is_one_caller else caller, weight)

    def flood(self) -> None:
        """Has every flooder fill the queue."""
        for number in range(self.scene.flooders):
            while True:
                steps = self.scene.flooder_steps[self._sent % len(self.scene.flooder_steps)]
                try:
                    self.loop.submit([self.job(f"{FLOODER} {number}", steps)])
                except QueueFullError:
                    self.refused += 1
                    break
                self._sent += 1

    def wait_seconds(self, steps: int, *, is_flooded: bool) -> float:
        """Sends the victim's request, again after a step while it is refused; returns how long it takes."""
        came = self.clock.now
        job = self.job(VICTIM, steps)
        is_in = False
        while not job.ended:
            if not is_in:
                try:
                    self.loop.submit([job])
                    is_in = True
                except QueueFullError:
                    pass
            if is_flooded:
                self.flood()
            self.loop.turn()
        return self.clock.now - came

    def pause(self, seconds: float, *, is_flooded: bool) -> None:
        """Lets the others go on for a while."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            if is_flooded:
                self.flood()
            if not self.loop.turn():
                self.clock.now = until


def ratios(scene: Scene, requests: int, seed: int, max_queue: int, *, is_one_caller: bool) -> list[float]:
    """Returns the victim's waits beside the flooders, each as a multiple of its wait on an idle device."""
    draw = random.Random(seed)  # noqa: S311 — a load, not a secret
    idle = Stage(scene, max_queue, is_one_caller=is_one_caller)
    busy = Stage(scene, max_queue, is_one_caller=is_one_caller)
    busy.flood()
    found = []
    for number in range(requests):
        steps = scene.victim_steps[number % len(scene.victim_steps)]
        busy.pause(draw.choice((0.0, draw.uniform(0, 100 * STEP_SECONDS))), is_flooded=True)
        found.append(busy.wait_seconds(steps, is_flooded=True) / idle.wait_seconds(steps, is_flooded=False))
    return found


def main() -> None:
    """Plays each scene with callers kept apart, and as if all were one caller."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60, help="of the victim, in each scene")
    parser.add_argument("--max-queue", type=int, default=32, help="as SD_INPAINT_MAX_QUEUE")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("The victim's wait beside those who flood, as a multiple of its wait on an idle device:")
    print("| scene | p50 | p95 | max | one caller: p50 | max |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for scene in SCENES:
        play = [options.requests, options.seed, options.max_queue]
        shared = ratios(scene, *play, is_one_caller=False)
        alone = ratios(scene, max(4, options.requests // 10), *play[1:], is_one_caller=True)
        p95 = statistics.quantiles(shared, n=20, method="inclusive")[-1]
        print(
            f"| {scene.name} | {statistics.median(shared):.2f} | {p95:.2f} | {max(shared):.2f} "
            f"| {statistics.median(alone):.1f} | {max(alone):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
