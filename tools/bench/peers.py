"""This service and plain diffusers, in turn in one run: A B A B, ratios pair by pair, peak memory of each.

Each has a process of its own and the same weights: diffusers' pipeline at its defaults (on CUDA in float16), this
service at its own. Each round has another picture, so that nothing is remembered. Beside them stand the fastest matrix
product that the device was seen to do, and what a step would take at its pace.

What is derived and not measured is said where it stands: a picture of 20 steps where fewer were run, and a whole
picture of --large-side on a CPU, of which one row of the UNet at half that side is run.
"""

import argparse
import base64
import contextlib
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import httpx

from tools import ROOT
from tools.bench import full_size, peers_report
from tools.bench.contestants import make_upload
from tools.bench.loop import serve

PLAIN, OURS, IOPAINT = "diffusers", "this service", "IOPaint"

STEPS = 20
"""Of the picture that is compared, measured or derived."""

PLAN_SECONDS = 900.0
"""How long a plan may take that is prepared beside the service."""

WARM_REQUESTS, REQUESTS = 3, 20


class Process:
    """A contestant in a process of its own."""

    def __init__(self, kind: str, model: str, device: str, folder: Path, cache: Path) -> None:
        self.name = kind
        command = [sys.executable, "-P", "-m", "tools.bench.contestants", kind, model, device]
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        self._log = folder / f"{kind}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._calls, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.load_seconds: float = self._answer()["load_seconds"]

    def call(self, name: str, **arguments: object) -> Any:
        """Has it do something, and returns what came of it."""
        print(json.dumps({"call": name, **arguments}), file=self._calls, flush=True)
        return self._answer()

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line:
            self.end()
            raise SystemExit(f"{self.name} ended:\n{self._log.read_text('utf-8')[-2000:]}")
        return json.loads(line)


class Server:
    """IOPaint at an address, which has the same model; it needs an older diffusers, so it is started by hand."""

    name = IOPAINT
    load_seconds = float("nan")

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, name: str, **arguments: Any) -> Any:
        """Paints a picture; it knows no other call."""
        if name != "paint":
            raise ValueError(name)
        image, mask = make_upload(arguments["side"], arguments["hole"], arguments["number"])
        encoded = {name: base64.b64encode(file).decode("ascii") for name, file in (("image", image), ("mask", mask))}
        wanted = {"prompt": "a red rose", "sd_steps": arguments["steps"], "sd_seed": 1, "sd_mask_blur": 0}
        started = time.perf_counter()
        httpx.post(f"{self._address}/api/v1/inpaint", json=encoded | wanted, timeout=None).raise_for_status()  # noqa: S113
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "steps": arguments["steps"], "step_seconds": float("nan")}


def measure_pictures(contestants: list[Process | Server], options: argparse.Namespace) -> dict[str, list[Any]]:
    """Has each paint a picture in turn, round after round."""
    rounds: dict[str, list[Any]] = {contestant.name: [] for contestant in contestants}
    for number in range(options.rounds):
        for contestant in contestants:
            task = {"side": options.side, "hole": options.side // 2, "number": number, "steps": options.steps}
            rounds[contestant.name].append(contestant.call("paint", **task))
            print(f"{contestant.name}: {rounds[contestant.name][-1]}", file=sys.stderr, flush=True)
    return rounds


def whole_seconds(picture: dict[str, Any], steps: int, asked: int) -> float:
    """Seconds of a picture of so many steps, by one of ``asked``: what surrounds the steps, and their own pace."""
    extra = picture["steps"] - asked  # some schedulers take one more
    return float(picture["seconds"] + (steps + extra - picture["steps"]) * picture["step_seconds"])


def measure_large(plain: Process, ours: Process, options: argparse.Namespace, surround: float) -> dict[str, Any]:
    """A large picture with a small hole: ours as it is, diffusers on the whole of it, measured or bounded from below.

    Args:
        plain: diffusers.
        ours: This service.
        options: The command's.
        surround: What diffusers does beside the steps for a picture of ``side``, in seconds.
    """
    task = {"side": options.large_side, "hole": options.hole, "number": 100, "steps": options.steps}
    painted = ours.call("paint", **task)
    found = {"ours_seconds": whole_seconds(painted, STEPS, options.steps)}
    if options.large == "measured":
        whole = plain.call("paint", **task)
        return found | {"plain_seconds": whole_seconds(whole, STEPS, options.steps), "is_bound": False}
    row = plain.call("unet_row_seconds", side=options.large_side // 2)
    # Convolutions cost four times as much at twice the side, attention sixteen times: at least four.
    step = 2 * 4 * row
    bound = (STEPS + 1) * step + surround * (options.large_side / options.side) ** 2
    return found | {"plain_seconds": bound, "row_seconds": row, "is_bound": True}


def measure_around(folder: Path, side: int) -> dict[str, float]:
    """Milliseconds of a request over HTTP to the service over a device that computes nothing."""
    image, mask = make_upload(side, side // 2, 0)
    seconds = []
    with serve("instant device", folder) as address, httpx.Client(timeout=60) as client:
        while client.get(f"{address}/sd-inpaint/health").json().get("status") not in ("healthy", "degraded"):
            time.sleep(0.2)
        for number in range(WARM_REQUESTS + REQUESTS):
            files = {"image": ("a.jpg", image, "image/jpeg"), "mask": ("b.png", mask, "image/png")}
            started = time.perf_counter()
            answer = client.post(
                f"{address}/sd-inpaint/inpaint", data={"prompt": "a red rose", "num_inference_steps": "1"}, files=files
            )
            answer.raise_for_status()
            if number >= WARM_REQUESTS:
                seconds.append(time.perf_counter() - started)
    return {"median": 1000 * statistics.median(seconds), "least": 1000 * min(seconds)}


@contextlib.contextmanager
def started(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Process, Process]]:
    """The two processes, one after the other, so that neither loads beside the other."""
    with contextlib.ExitStack() as stack:
        processes = []
        for kind in (PLAIN, OURS):
            processes.append(Process(kind, options.model, options.device, folder, options.cache or folder))
            stack.callback(processes[-1].end)
        yield processes[0], processes[1]


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything; returns it as it is written to JSON."""
    with started(options, folder) as (plain, ours):
        if options.plan:
            ready = ours.call("wait_for_plan", beginning=options.plan, seconds=PLAN_SECONDS)
            print(f"The plan is {ready}.", file=sys.stderr, flush=True)
        facts = {process.name: process.call("facts") for process in (plain, ours)}
        flops = plain.call("step_flops", side=options.side)
        third = [Server(options.iopaint)] if options.iopaint else []
        rounds = measure_pictures([plain, ours, *third], options)
        again = ours.call(
            "paint", side=options.side, hole=options.side // 2, number=options.rounds - 1, steps=options.steps, seed=2
        )
        peaks = {process.name: process.call("peak_bytes") for process in (plain, ours)}
        for name, pictures in rounds.items():
            for picture in pictures:
                picture["whole_seconds"] = whole_seconds(picture, STEPS, options.steps)
            facts.setdefault(name, {})
        surround = min(picture["seconds"] - picture["steps"] * picture["step_seconds"] for picture in rounds[PLAIN])
        large = None if options.large == "off" else measure_large(plain, ours, options, max(0.0, surround))
        loads = {process.name: process.load_seconds for process in (plain, ours)}
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "side": options.side,
        "steps": options.steps,
        "whole_steps": STEPS,
        "large_side": options.large_side,
        "hole": options.hole,
        "facts": facts,
        "load_seconds": loads,
        "step_flops": flops,
        "rounds": rounds,
        "again": again,
        "peak_bytes": peaks,
        "large": large,
        "around_milliseconds": measure_around(folder, options.side),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder in diffusers' layout; by default the full size with random weights")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--steps", type=int, help="of each picture; by default 2 on a CPU, 20 on CUDA")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--large-side", type=int, default=2048, help="of the large one")
    parser.add_argument("--hole", type=int, default=300, help="side of the hole in the large one, in pixels")
    parser.add_argument("--plan", help="beginning of a plan's name, such as compiled: waits until it is ready")
    parser.add_argument("--cache", type=Path, help="folder of what was compiled and converted; by default a new one")
    parser.add_argument(
        "--large", choices=("measured", "bound", "off"), help="by default a bound on a CPU, measured on CUDA"
    )
    parser.add_argument(
        "--iopaint", help="address of an IOPaint server that has the same model, such as http://127.0.0.1:8080"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for peers.json, peers.md and peers.svg; docs is the repository's"
    )
    options = parser.parse_args(arguments)
    if options.steps is None or options.large is None:
        import torch

        is_cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
        options.steps = options.steps or (20 if is_cuda else 2)
        options.large = options.large or ("measured" if is_cuda else "bound")
    options.model = options.model or str(full_size.for_benchmarks())
    return options


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, and keeps it with its figures and a plot."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = run(options, Path(folder))
    table = peers_report.write_table(found)
    print(table)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "peers.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        (options.output / "peers.svg").write_text(peers_report.draw(found), "utf-8")
        peers_report.put(options.output, table)


if __name__ == "__main__":
    main()
