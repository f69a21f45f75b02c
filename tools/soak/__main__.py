"""Sends a mixed load to a server for some minutes, and checks that it leaks and loses nothing."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import httpx

from sd_inpaint.jobs.runner import SWEEP_SECONDS
from tools.soak.load import HEALTH, Findings, Load
from tools.soak.process import SAMPLE_SECONDS, TTL_SECONDS, Sample, Sampler, Server, ServerError, free_port
from tools.soak.report import Observed, check_gained, check_held, find_problems, make_figures

START_SECONDS = 180.0

WARM_UP_SECONDS = 8.0
"""Of the same load, before anything is measured: what is started or loaded when it is first needed is no leak."""

REST_SECONDS = 12.0
"""After the warm-up: threads without work end after ten."""

SETTLE_SECONDS = TTL_SECONDS + SWEEP_SECONDS + 30.0
"""How long after the load all that it took may take to be given back: results expire and are deleted."""


def soak(minutes: float, seed: int, *, any_size: bool = False) -> tuple[Findings, Observed]:
    """Serves the demo model, and puts it under load.

    Raises:
        ServerError: If it does not start, or ends under load.
    """
    with tempfile.TemporaryDirectory(prefix="sd-inpaint-soak-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder), free_port())
        try:
            _wait_healthy(server)
            warm_up = Load(server.url, seed=-1, any_size=any_size)
            asyncio.run(warm_up.paint_each_size())  # on a busy machine, eight seconds are too few for all of them
            asyncio.run(warm_up.run(WARM_UP_SECONDS))
            time.sleep(REST_SECONDS)
            before = server.sample()
            load = Load(server.url, seed, any_size=any_size)
            with Sampler(server) as sampler:
                asyncio.run(load.run(minutes * 60))
            server.check_running()
            after = _settle(server, before, minutes)
            # After the settling, most of them have had their time.
            asyncio.run(load.look_for_expired(TTL_SECONDS))
            asyncio.run(load.run_through_stop(server.begin_stop))
        finally:
            exit_code = server.stop()
        return load.findings, Observed(before, sampler.samples, after, server.log, exit_code)


def soak_other(url: str, minutes: float, seed: int, *, any_size: bool = False) -> Findings:
    """Puts a server under load that somebody else has started."""
    load = Load(url, seed, any_size=any_size)
    asyncio.run(load.run(minutes * 60))
    return load.findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the test, and prints figures and problems; returns 1 if there are problems, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=_positive, required=True, metavar="N", help="of load; 5 and more say most")
    parser.add_argument("--url", type=_address, help="of a server of yours; only its answers and jobs are checked")
    parser.add_argument("--seed", type=int, default=1, help="of all that the callers draw (default: %(default)s)")
    parser.add_argument("--any-size", action="store_true", help="draw each picture's size, instead of one of six")
    parser.add_argument("--json", action="store_true", help="figures and problems for programs")
    options = parser.parse_args(arguments)
    observed = None
    try:
        if options.url:
            findings = soak_other(options.url, options.minutes, options.seed, any_size=options.any_size)
        else:
            findings, observed = soak(options.minutes, options.seed, any_size=options.any_size)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    problems = find_problems(findings, observed, options.minutes)
    figures = make_figures(findings, observed, options.minutes, options.seed)
    if options.json:
        print(json.dumps({"figures": [asdict(figure) for figure in figures], "problems": problems}, indent=1))
    else:
        print("| what | figure | unit |\n| --- | --- | --- |", *figures, sep="\n")
        print(*(["", *problems] if problems else ["", "Nothing leaked, and nothing was lost."]), sep="\n")
    return 1 if problems else 0


def _wait_healthy(server: Server) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        server.check_running()
        try:
            if httpx.get(server.url + HEALTH, timeout=10, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise ServerError(f"The server was not healthy after {START_SECONDS:.0f} s:\n{server.log[-2000:]}")


def _settle(server: Server, before: Sample, minutes: float) -> Sample:
    """Waits until all is given back, or has had its time; returns the last sample."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        sample = server.sample()
        is_returned = not check_held(before, sample) and not check_gained(before, sample, minutes)
        if is_returned or time.monotonic() > until:
            return sample
        time.sleep(SAMPLE_SECONDS)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("must be like http://127.0.0.1:8000")
    return text.rstrip("/")


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    # So that the server is stopped too.
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
