"""How a load and a device are given to scripts/capacity."""

import argparse
import sys
from pathlib import Path

from tools.capacity.fleet import Fleet
from tools.capacity.load import CanvasTimes, DeviceTimes, Kind, Mix, PlanError
from tools.capacity.plan import PICTURES
from tools.capacity.simulation import Balancer, Bounds


def batch_seconds(text: str) -> tuple[int, float]:
    """Reads ``8=0.35``: a step of a batch of 8 takes 0.35 seconds."""
    jobs, _, seconds = text.partition("=")
    if int(jobs) < 1 or float(seconds) <= 0:
        raise ValueError("a batch is at least 1, and its seconds are above 0")
    return int(jobs), float(seconds)


def part(text: str) -> float:
    """Reads a part of all, over 0 and under 1."""
    if not 0 < float(text) < 1:
        raise ValueError("must be above 0 and below 1")
    return float(text)


def positive(text: str) -> float:
    """Reads a number over 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError("must be above 0")
    return float(text)


def add_load(parser: argparse.ArgumentParser, *, per_minute: bool = True) -> None:
    """What is asked for, and of what; ``per_minute`` False leaves the rate to the caller."""
    add = parser.add_argument_group("the load and the device").add_argument
    if per_minute:
        add("--per-minute", type=positive, required=True, help="pictures a minute at the peak, over all replicas")
    add("--mix", type=Kind.parse, nargs="+", default=[Kind(512, 512, 30)], metavar="WxH:STEPS[:SHARE]",
        help="canvases in pixels, denoising steps, and shares; 512x512:30 by default")  # fmt: skip
    add(
        "--device", type=Path, metavar="FILE", help="written by scripts/bench device, or printed by scripts/bench steps"
    )
    add(
        "--step",
        type=batch_seconds,
        nargs="+",
        metavar="BATCH=SECONDS",
        help="by hand: seconds of one step, 1=0.1 8=0.35",
    )
    add("--canvas", type=Kind.parse, default=Kind(512, 512, 1), metavar="WxH:1", help="the canvas that --step is of")
    add("--begin", type=float, default=0.0, metavar="SECONDS", help="by hand: encoding, once per picture")
    add("--finish", type=float, default=0.0, metavar="SECONDS", help="by hand: decoding, once per picture")
    add("--max-batch", type=int, help="SD_INPAINT_MAX_BATCH; by default the largest batch with a time")
    add(
        "--balancer",
        type=Balancer,
        choices=list(Balancer),
        default=Balancer.RANDOM,
        help="random by default, the worst",
    )


def read_device(options: argparse.Namespace) -> DeviceTimes:
    """Returns the device that the options describe."""
    if options.device and options.step:
        raise PlanError("Give either --device or --step, not both.")
    if options.device:
        return DeviceTimes.read(options.device)
    if not options.step:
        raise PlanError("Give the time of a step: --device FILE (from scripts/bench device), or --step 1=SECONDS.")
    steps = dict(options.step)
    if 1 not in steps:
        raise PlanError("--step needs the seconds of a batch of one: 1=SECONDS.")
    return DeviceTimes([CanvasTimes(options.canvas.pixels, steps, options.begin, options.finish)], "typed by hand")


def add_simulation(parser: argparse.ArgumentParser) -> None:
    """How long to simulate, and what chance draws."""
    parser.add_argument("--seed", type=int, default=1, help="of the simulations; others show the effect of chance")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="simulated for each fleet")


def read_replica(options: argparse.Namespace) -> Fleet:
    """Returns one replica that the options describe, under the mix they describe, one picture a second."""
    device = read_device(options)
    largest = max(max(canvas.step) for canvas in device.canvases)
    batch = options.max_batch or largest
    if batch > largest:
        print(f"No step of {batch} was measured: its time is drawn on from those of up to {largest}.", file=sys.stderr)
    return Fleet(device, Mix(tuple(options.mix)), 1.0, 1, Bounds(batch), options.balancer)
