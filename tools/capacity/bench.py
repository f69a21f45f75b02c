"""Is the simulation of scripts/capacity right? The same arrivals in real time and in simulated time, side by side.

Two real servers: the engine's own thread over a device that sleeps (nothing but the loop and the clock), and the whole
service with the demo model over HTTP. How long the device takes is read from the very run (the sleeper's own notes,
the server's X-Inference-Seconds), so that a busy machine shifts both sides alike.
"""

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np

from sd_inpaint.engine.canvas_jobs import CanvasJob, CanvasTask
from sd_inpaint.engine.lifecycle import Engine
from sd_inpaint.engine.queue import CanvasQueue
from tools.bench.loop import make_files, serve
from tools.capacity.device import Clock, SimulatedDiffusion
from tools.capacity.load import Arrivals, CanvasTimes, DeviceTimes, Kind, Mix
from tools.capacity.simulation import Bounds, Outcome, TimedBackend, draw_arrivals, make_task, play

T = TypeVar("T")

SLEEPING = DeviceTimes([CanvasTimes(512 * 512, {1: 0.02, 4: 0.05}, begin=0.02, finish=0.02)], "a device that sleeps")
APART = 10_000
"""Pixels: so wide that one more makes no difference to the order, which goes by a picture's work."""

UNBOUNDED = Bounds(1, 10**6, 1e12)
SLEEPING_MIX = Mix((Kind(512, 512, 10, 0.6), Kind(512, 512, 40, 0.3), Kind(512, 768, 20, 0.1)))
DEMO_MIX = Mix((Kind(96, 96, 10, 0.5), Kind(96, 96, 20, 0.3), Kind(96, 96, 50, 0.2)))


class SleepingBackend(TimedBackend):
    """A device whose calls take real time, and which notes how long: a busy machine wakes a sleeper late."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: dict[tuple[str, int], list[float]] = {}

    def work(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)
        super().work(seconds)

    def begin(self, task: CanvasTask, *, low_memory: bool) -> SimulatedDiffusion:
        """Starts a job."""
        return self._noted("begin", task, partial(super().begin, task, low_memory=low_memory))

    def predict(self, batch: Sequence[SimulatedDiffusion], *, low_memory: bool) -> list[int]:
        """One turn."""
        return self._noted(str(len(batch)), batch[0].task, partial(super().predict, batch, low_memory=low_memory))

    def finish(self, diffusion: SimulatedDiffusion, *, low_memory: bool) -> np.ndarray:
        """Ends a job."""
        return self._noted("finish", diffusion.task, partial(super().finish, diffusion, low_memory=low_memory))

    def observed(self) -> DeviceTimes:
        """Returns the mean seconds that the calls took in fact."""
        canvases = []
        for pixels in {pixels for _, pixels in self.seen}:
            means = {call: statistics.mean(seconds) for (call, of), seconds in self.seen.items() if of == pixels}
            step = {int(call): seconds for call, seconds in means.items() if call.isdigit()}
            canvases.append(CanvasTimes(pixels, step, means["begin"], means["finish"]))
        return DeviceTimes(canvases, self.device.name)

    def _noted(self, call: str, task: CanvasTask, run: Callable[[], T]) -> T:
        started = time.monotonic()
        given = run()
        width, height = task.size
        self.seen.setdefault((call, width * height), []).append(time.monotonic() - started)
        return given


@dataclass(frozen=True)
class Call:
    """What came of one call, in seconds: ``response`` is NaN where it failed, ``device`` is the device's own share."""

    kind: Kind
    response: float
    device: float


def _note_end(ends: dict[CanvasJob, float], job: CanvasJob, _: object) -> None:
    ends[job] = time.monotonic()


def play_sleeping(arrivals: Sequence[tuple[float, Kind]], bounds: Bounds) -> tuple[list[Call], DeviceTimes]:
    """Plays arrivals in real time against the engine's thread; also returns how long its calls took in fact."""
    backend = SleepingBackend(Clock(), bounds.max_batch, device=SLEEPING)
    engine = Engine(
        lambda: backend, lambda pace: CanvasQueue(max_canvases=10**6, max_megapixel_steps=1e12, pace=pace), enabled=True
    )
    engine.start()
    engine.wait_loaded()
    loop = engine.ready_loop()
    jobs: list[CanvasJob] = []
    ends: dict[CanvasJob, float] = {}
    started = time.monotonic()
    for at, kind in arrivals:
        time.sleep(max(0.0, started + at - time.monotonic()))
        job = CanvasJob(make_task(kind.width, kind.height, kind.steps))
        job.future.add_done_callback(partial(_note_end, ends, job))
        loop.submit([job])
        jobs.append(job)
    for job in jobs:
        job.future.result()
    engine.stop(0.0)
    calls = [
        Call(kind, ends[job] - started - at, job.device_seconds) for job, (at, kind) in zip(jobs, arrivals, strict=True)
    ]
    return calls, backend.observed()


async def play_http(address: str, arrivals: Sequence[tuple[float, Kind]]) -> list[Call]:
    """Plays arrivals in real time against a server."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:  # noqa: S113

        async def paint(kind: Kind, seed: int) -> httpx.Response:
            form = {"prompt": "a red rose", "num_inference_steps": str(kind.steps), "seed": str(seed)}
            return await client.post(f"{address}/sd-inpaint/inpaint", data=form, files=make_files(kind.width))

        for kind in dict.fromkeys(kind for _, kind in arrivals):
            (await paint(kind, 0)).raise_for_status()
        started = time.monotonic()

        async def call(at: float, kind: Kind, seed: int) -> Call:
            await asyncio.sleep(max(0.0, started + at - time.monotonic()))
            answer = await paint(kind, seed)
            seconds = time.monotonic() - started - at if answer.status_code == 200 else float("nan")
            return Call(kind, seconds, float(answer.headers.get("x-inference-seconds", "nan")))

        return await asyncio.gather(*(call(at, kind, seed) for seed, (at, kind) in enumerate(arrivals)))


def replay(calls: Sequence[Call], arrivals: Sequence[tuple[float, Kind]]) -> Outcome:
    """Plays a run without batches again, each picture taking of the device what it took in fact."""
    # The speed of a busy machine changes as it goes. A canvas of its own, a pixel wider each, tells a picture's time.
    kinds = [Kind(APART + number, APART, kind.steps) for number, (_, kind) in enumerate(arrivals)]
    canvases = [
        CanvasTimes(kind.pixels, {1: call.device / kind.steps}) for kind, call in zip(kinds, calls, strict=True)
    ]
    times = [at for at, _ in arrivals]
    return play(DeviceTimes(canvases), UNBOUNDED, 1, list(zip(times, kinds, strict=True)), warm_up=0.0)


def report(name: str, load: float, calls: Sequence[Call], outcome: Outcome) -> str:
    """Writes one row of the table: seconds from coming to being painted, and the load that it came to."""
    real = np.array([call.response for call in calls])
    cells = []
    for values in (real[~np.isnan(real)], outcome.responses()):
        cells += [f"{values.mean():.2f}", *(f"{value:.2f}" for value in np.percentile(values, (50, 95, 99)))]
    pairs = " | ".join(f"{a} / {b}" for a, b in zip(cells[:4], cells[4:], strict=True))
    return f"| {name} | {load} | {outcome.utilisation:.2f} | {len(calls)} | {pairs} |"


def main() -> None:
    """Plays each load in real time, then in simulated time."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100, help="pictures a point")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8], help="part of the device's time")
    parser.add_argument("--step-seconds", type=float, default=0.05, help="of the demo model here, to set the rate by")
    parser.add_argument("--servers", nargs="+", default=["sleeping", "demo"], choices=("sleeping", "demo"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("Seconds from arrival to result, real / simulated\n")
    names = ("server", "load meant", "utilisation", "pictures", "mean", "p50", "p95", "p99")
    print(f"| {' | '.join(names)} |\n{'| --- ' * len(names)}|", flush=True)
    demo = DeviceTimes([CanvasTimes(96 * 96, {1: options.step_seconds})], "the demo model")
    for server in options.servers:
        mix, device = (SLEEPING_MIX, SLEEPING) if server == "sleeping" else (DEMO_MIX, demo)
        for load in options.loads:
            rate = load / mix.mean(mix.alone_seconds(device))
            arrivals = draw_arrivals(mix, Arrivals(rate), options.calls, options.seed)
            if server == "sleeping":
                bounds = dataclasses.replace(UNBOUNDED, max_batch=4)
                calls, observed = play_sleeping(arrivals, bounds)
                outcome = play(observed, bounds, 1, arrivals, warm_up=0.0)
            else:
                with tempfile.TemporaryDirectory() as folder, serve("this service", Path(folder)) as address:
                    calls = asyncio.run(play_http(address, arrivals))
                outcome = replay(calls, arrivals)
            print(report(device.name, load, calls, outcome), flush=True)


if __name__ == "__main__":
    main()
