"""The formula of capacity_model.py against the simulation, over devices, mixes, fleets and loads."""

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from tools.capacity.load import Arrivals, CanvasTimes, DeviceTimes, Kind, Mix
from tools.capacity.model import Model
from tools.capacity.simulation import Balancer, Bounds, Outcome, draw_arrivals, play

HELP = "the formula against the simulation"

SHORTEST = 0.75
"""The formula's p95 of the wait is at least so many times the simulation's…"""

NEGLIGIBLE = 0.1
"""…or short of it by no more than this part of what the mean picture takes alone."""

DEVICES = {
    "no batches": (DeviceTimes([CanvasTimes(512 * 512, {1: 0.2}, 0.1, 0.1)]), 1),
    "batches of 8": (DeviceTimes([CanvasTimes(512 * 512, {1: 0.2, 8: 0.7}, 0.1, 0.1)]), 8),
}
MIXES = {
    "one kind": Mix((Kind(512, 512, 10),)),
    "5 to 25 steps": Mix((Kind(512, 512, 5, 0.5), Kind(512, 512, 10, 0.3), Kind(512, 512, 25, 0.2))),
    "two sizes": Mix((Kind(512, 512, 10, 0.7), Kind(768, 768, 10, 0.3))),
}
FLEETS = ((1, Balancer.RANDOM), (4, Balancer.ROUND_ROBIN), (4, Balancer.LEAST))
LOADS = (0.5, 0.7, 0.85)


@dataclass(frozen=True)
class Point:
    """One place where both are asked."""

    device: str
    mix: str
    model: Model

    def simulate(self, pictures: int, seed: int) -> Outcome:
        """Plays the load, with no bound on the queue."""
        model = self.model
        drawn = draw_arrivals(model.mix, Arrivals(model.per_second), pictures, seed)
        # As many come in as much time as they should: what is compared is the waits, not the luck of the draw.
        stretch = pictures / model.per_second / drawn[-1][0]
        drawn = [(time * stretch, kind) for time, kind in drawn]
        bounds = Bounds(model.max_batch, 10**9, 1e15, float("inf"))
        return play(model.device, bounds, model.replicas, drawn, balancer=model.balancer, seed=seed)

    def holds(self, outcome: Outcome) -> bool:
        """Says whether the formula is as good as docs/capacity.md says it is."""
        formula, simulated = self.model.quantile(0.95), outcome.wait(95)
        short = simulated - formula
        return formula >= SHORTEST * simulated or short <= NEGLIGIBLE * self.model.mix.mean(list(self.model.alone))


def points(loads: tuple[float, ...] = LOADS) -> Iterator[Point]:
    """Gives every place of the grid."""
    for device_name, (device, batch) in DEVICES.items():
        for mix_name, mix in MIXES.items():
            for replicas, balancer in FLEETS:
                model = Model(device, mix, 1.0, replicas, batch, balancer)
                for load in loads:
                    per_second = load * replicas * model.most_per_second
                    yield Point(device_name, mix_name, dataclasses.replace(model, per_second=per_second))


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long to look."""
    parser.add_argument("--pictures", type=int, default=8_000, help="simulated at each place")
    parser.add_argument("--seed", type=int, default=1)


def run(options: argparse.Namespace) -> None:
    """Prints the table; exit code 1 where the formula is not as good as it is said to be."""
    print("Waits in seconds, formula / simulation; gauge is the mean of sd_inpaint_queue_seconds\n")
    print("| device | mix | fleet | load | mean | p50 | p95 | p99 | p95's error | gauge |")
    print("| --- " * 10 + "|", flush=True)
    missed = 0
    for point in points():
        outcome, model = point.simulate(options.pictures, options.seed), point.model
        pairs = [(model.mean_wait, float(outcome.waits().mean()))]
        pairs += [(model.quantile(percent / 100), outcome.wait(percent)) for percent in (50, 95, 99)]
        cells = " | ".join(f"{formula:.2f} / {max(0.0, simulated):.2f}" for formula, simulated in pairs)
        error = f"{100 * (pairs[2][0] / pairs[2][1] - 1):+.0f} %" if pairs[2][1] > 0.005 else "none waits"
        holds = point.holds(outcome)
        missed += not holds
        fleet = f"{model.replicas}, {model.balancer}" if model.replicas > 1 else "1"
        gauge = f"{model.queue_seconds:.1f} / {outcome.queue_seconds:.1f}"
        mark = "" if holds else " (missed)"
        print(
            f"| {point.device} | {point.mix} | {fleet} | {model.load:.2f} | {cells} | {error}{mark} | {gauge} |",
            flush=True,
        )
    if missed:
        raise SystemExit(1)
