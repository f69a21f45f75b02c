"""One mixed load against three servers, side by side: this service, a lock around a pipeline, BentoML's defaults.

Every server has the demo model and the same requests at the same times: 10 to 100 steps, three sizes, and some
callers who leave before their picture is done. Arrivals are set so that this service is busy, but not flooded.
"""

import argparse
import asyncio
import io
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tools import ROOT

MODEL = ROOT / "src" / "sd_inpaint" / "demo_model"
SIDES = (96, 128, 160)  # pixels
STEPS = (10, 20, 50, 100)
SHORT_STEPS = 20

OURS = {"this service": "service:SDInpaint", "instant device": "tools.bench.instant:SDInpaint"}
"""This service, and the same over a device that computes nothing."""

PIPELINE = f"""
import torch
from diffusers import StableDiffusionInpaintPipeline

def make_pipeline():
    pipeline = StableDiffusionInpaintPipeline.from_pretrained({str(MODEL)!r}, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

def paint(pipeline, image, mask, prompt, steps, seed):
    return pipeline(prompt=prompt, image=image.convert("RGB"), mask_image=mask.convert("L"), width=image.width,
                    height=image.height, num_inference_steps=steps, guidance_scale=7.5,
                    generator=torch.Generator().manual_seed(seed)).images[0]
"""

LOCKED = (
    PIPELINE
    + """
import io, threading
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

pipeline, lock = make_pipeline(), threading.Lock()

def work(image, mask, form):
    with lock:
        out = paint(pipeline, Image.open(io.BytesIO(image)), Image.open(io.BytesIO(mask)), form["prompt"],
                    int(form["num_inference_steps"]), int(form["seed"]))
    buffer = io.BytesIO()
    out.save(buffer, "PNG")
    return buffer.getvalue()

async def inpaint(request):
    form = await request.form()
    image, mask = await form["image"].read(), await form["mask"].read()
    return Response(await run_in_threadpool(work, image, mask, form), media_type="image/png")

app = Starlette(routes=[Route("/sd-inpaint/inpaint", inpaint, methods=["POST"]),
                        Route("/readyz", lambda request: PlainTextResponse("ok"))])
"""
)

DEFAULTS = (
    PIPELINE
    + """
import bentoml
from PIL.Image import Image

@bentoml.service
class Defaults:
    def __init__(self):
        self.pipeline = make_pipeline()

    @bentoml.api(route="/sd-inpaint/inpaint")
    def inpaint(self, image: Image, mask: Image, prompt: str, num_inference_steps: int = 50, seed: int = 42) -> Image:
        return paint(self.pipeline, image, mask, prompt, num_inference_steps, seed)
"""
)


@dataclass(frozen=True)
class Call:
    """One caller: when they come, what they want, and when they lose patience (seconds after coming, or never)."""

    at: float
    side: int
    steps: int
    leaves_after: float | None


@dataclass(frozen=True)
class Outcome:
    """How one call ended: the status, or 0 for a caller who left, and the seconds until then."""

    call: Call
    status: int
    seconds: float


def make_load(calls: int, seconds: float, seed: int) -> list[Call]:
    """Draws a load: Poisson arrivals over ``seconds``; one caller in eight leaves early."""
    draw = random.Random(seed)  # noqa: S311 — a load, not a secret
    times = sorted(draw.uniform(0, seconds) for _ in range(calls))
    return [
        Call(at, draw.choice(SIDES), draw.choice(STEPS), draw.uniform(0.5, 3.0) if draw.random() < 1 / 8 else None)
        for at in times
    ]


@contextmanager
def serve(name: str, folder: Path) -> Iterator[str]:
    """Runs one of the servers in a process of its own; gives its address once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    # Ours sets this for itself; the others get it too, so that only the serving differs.
    environment |= {"OMP_WAIT_POLICY": "PASSIVE"}
    if name in OURS:
        command = ["bentoml", "serve", OURS[name], "--host", "127.0.0.1", "--port", port]
        environment |= {"SD_INPAINT_MODEL": "demo", "SD_INPAINT_MAX_QUEUE": "1000"}
        home = ROOT
    elif name == "lock":
        (folder / "locked.py").write_text(LOCKED, "utf-8")
        command = ["uvicorn", "locked:app", "--port", port, "--log-level", "warning"]
        home = folder
    else:
        (folder / "defaults.py").write_text(DEFAULTS, "utf-8")
        command = ["bentoml", "serve", "defaults:Defaults", "--host", "127.0.0.1", "--port", port]
        home = folder
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_ready(address, process, folder / "log")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits for /readyz."""
    for _ in range(240):
        if process.poll() is not None:
            raise SystemExit(f"the server ended:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{address}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the server did not become ready:\n{log.read_text()[-2000:]}")


def make_files(side: int) -> dict[str, tuple[str, bytes, str]]:
    """Makes a picture of noise and a mask with a hole in its middle."""
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 255
    files = {}
    for name, array in (("image", pixels), ("mask", mask)):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        files[name] = (f"{name}.png", buffer.getvalue(), "image/png")
    return files


async def run_load(address: str, load: list[Call]) -> tuple[list[Outcome], float]:
    """Plays the load; returns the outcomes and the seconds until the last."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:  # noqa: S113
        warm = {"prompt": "a red rose", "num_inference_steps": "2", "seed": "1"}
        for side in SIDES:
            (await client.post(f"{address}/sd-inpaint/inpaint", data=warm, files=make_files(side))).raise_for_status()
        started = time.monotonic()

        async def play(call: Call, seed: int) -> Outcome:
            await asyncio.sleep(max(0.0, started + call.at - time.monotonic()))
            came = time.monotonic()
            form = {"prompt": "a red rose", "num_inference_steps": str(call.steps), "seed": str(seed)}
            post = client.post(f"{address}/sd-inpaint/inpaint", data=form, files=make_files(call.side))
            try:
                async with asyncio.timeout(call.leaves_after):
                    status = (await post).status_code
            except TimeoutError:
                status = 0
            return Outcome(call, status, time.monotonic() - came)

        outcomes = await asyncio.gather(*(play(call, seed) for seed, call in enumerate(load)))
        return list(outcomes), time.monotonic() - started


def percentile(values: list[float], percent: int) -> float:
    """Returns a percentile, of however few values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def report(name: str, outcomes: list[Outcome], seconds: float) -> str:
    """Writes one row of the table."""
    served = [outcome for outcome in outcomes if outcome.status == 200]
    failed = [outcome for outcome in outcomes if outcome.status not in (0, 200)]
    latencies = [outcome.seconds for outcome in served]
    short = [outcome.seconds for outcome in served if outcome.call.steps <= SHORT_STEPS]
    return (
        f"| {name} | {len(served)} | {len(failed)} | {60 * len(served) / seconds:.1f} "
        f"| {percentile(latencies, 50):.1f} | {percentile(latencies, 95):.1f} "
        f"| {percentile(short, 50):.1f} | {percentile(short, 95):.1f} |"
    )


def main() -> None:
    """Plays the load against each server, in turn, several times over."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=40, help="callers per round")
    parser.add_argument("--seconds", type=float, default=60.0, help="time over which they arrive")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over the three servers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| server | served | failed | pictures/min | p50 s | p95 s | p50 short s | p95 short s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for number in range(options.rounds):
        load = make_load(options.calls, options.seconds, options.seed + number)
        for name in ("this service", "lock", "BentoML's defaults"):
            with tempfile.TemporaryDirectory() as folder, serve(name, Path(folder)) as address:
                outcomes, seconds = asyncio.run(run_load(address, load))
            print(report(name, outcomes, seconds), flush=True)


if __name__ == "__main__":
    main()
