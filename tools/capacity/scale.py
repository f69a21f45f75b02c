"""Traffic, writes, bytes and machines at several rates: arithmetic upon one simulated cell, not measurement."""

import argparse
import math
from dataclasses import dataclass

from sd_inpaint.jobs.runner import TICK_SECONDS
from tools.capacity.fleet import Fleet
from tools.capacity.options import add_load, add_simulation, positive, read_replica
from tools.capacity.plan import HOURS_PER_MONTH, PICTURES, WORST_WAIT, Target, bounded, fewest, smallest_fleet

KILO, GIGA = 1e3, 1e9

WRITES_PER_JOB = 3
"""Accepted, ended, and swept away after its time: each is a transaction that waits for the disk, but the last."""


@dataclass(frozen=True)
class Facts:
    """What a site's operator knows.

    Attributes:
        upload_bytes: Picture and mask of one request.
        result_bytes: One result.
        jobs_part: Of the pictures, those that come as jobs and so are kept.
        polls_per_second: How often a waiting caller of a job asks.
        result_ttl_seconds: SD_INPAINT_RESULT_TTL_SECONDS.
        image_bytes: Of the container image, compressed.
        cell_replicas: The most that share a balancer and a store.
        per_machine: Replicas, so cards, a machine.
        price_per_hour: Of one replica; None leaves cost out.
    """

    upload_bytes: float
    result_bytes: float
    jobs_part: float
    polls_per_second: float
    result_ttl_seconds: float
    image_bytes: float
    cell_replicas: int
    per_machine: int
    price_per_hour: float | None


@dataclass(frozen=True)
class Site:
    """What one rate comes to; rates are a second, over all cells.

    Attributes:
        replicas: In all cells together.
        in_flight: Pictures that wait or are painted at a time.
    """

    cells: int
    replicas: int
    machines: int
    in_bits: float
    out_bits: float
    in_flight: float
    transactions: float
    rows: float
    reads: float
    upload_bytes: float
    result_bytes: float
    pull_bytes: float
    cost_per_month: float


def size_site(load: Fleet, target: Target, facts: Facts, pictures: int = PICTURES, seed: int = 1) -> Site:
    """Works out a site; the load's number of replicas is not looked at.

    Raises:
        PlanError: If no number of replicas meets the target.
    """
    # 1. As few cells as meet the target when they are full; where one does, as few replicas as do.
    full = load.of(facts.cell_replicas)
    least = math.ceil(load.least_replicas / facts.cell_replicas)
    cells, outcome = fewest(lambda cells: full.under(load.per_second / cells), least, target, pictures, seed)
    cell = full
    if cells == 1:
        cell, outcome = smallest_fleet(load, target, pictures, seed)
    # 2. What follows from that.
    replicas = cells * cell.replicas
    rate = load.per_second
    in_flight = rate * float(outcome.responses().mean())  # Little's law
    kept = in_flight * facts.jobs_part
    # Each replica writes one transaction a tick for all its jobs, and none where it has none.
    ticks = min(replicas * outcome.utilisation, kept) / TICK_SECONDS
    return Site(
        cells=cells,
        replicas=replicas,
        machines=math.ceil(replicas / facts.per_machine),
        in_bits=8 * rate * facts.upload_bytes,
        out_bits=8 * rate * facts.result_bytes,
        in_flight=in_flight,
        transactions=WRITES_PER_JOB * rate * facts.jobs_part + ticks,
        rows=WRITES_PER_JOB * rate * facts.jobs_part + kept / TICK_SECONDS,
        reads=kept * facts.polls_per_second,
        upload_bytes=kept * facts.upload_bytes,
        result_bytes=rate * facts.jobs_part * facts.result_ttl_seconds * facts.result_bytes,
        pull_bytes=math.ceil(replicas / facts.per_machine) * facts.image_bytes,
        cost_per_month=replicas * (facts.price_per_hour or 0.0) * HOURS_PER_MONTH,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The load, the target, and what a site's operator knows."""
    add_load(parser, per_minute=False)
    add_simulation(parser)
    add = parser.add_argument
    add(
        "--per-minute", type=positive, nargs="+", default=[10, 1_000, 100_000], help="pictures a minute, one or several"
    )
    add("--wait", type=positive, default=10.0, help="longest wait of 95 of 100, in seconds, beyond the time alone")
    add("--price-per-hour", type=positive, help="of one replica, in any currency")
    add("--upload-kilobytes", type=positive, default=200.0, help="picture and mask of a request")
    add("--result-kilobytes", type=positive, default=500.0, help="one result: a PNG of 512×512 has about 500")
    add("--jobs-part", type=float, default=1.0, help="share of pictures sent to /sd-inpaint/jobs, 0 to 1")
    add("--polls-per-second", type=float, default=1.0, help="how often the caller of a job asks for it")
    add("--result-ttl", type=positive, default=3600.0, help="SD_INPAINT_RESULT_TTL_SECONDS")
    add("--image-gigabytes", type=positive, default=9.0, help="of the image with CUDA and weights, as pulled")
    add("--cell-replicas", type=int, default=64, help="most replicas behind one balancer and one store")
    add("--per-machine", type=int, default=8, help="replicas (cards) per machine")


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    if options.price_per_hour is None:
        print("No --price-per-hour: cost is left out.\n")
    facts = Facts(
        options.upload_kilobytes * KILO,
        options.result_kilobytes * KILO,
        options.jobs_part,
        options.polls_per_second,
        options.result_ttl,
        options.image_gigabytes * GIGA,
        options.cell_replicas,
        options.per_machine,
        options.price_per_hour,
    )
    load = bounded(read_replica(options), WORST_WAIT * options.wait)
    sites = [
        size_site(load.under(rate / 60), Target(options.wait), facts, options.pictures, options.seed)
        for rate in options.per_minute
    ]
    names = " | ".join(f"{per_minute:,.0f} a minute" for per_minute in options.per_minute)
    print(f"| | {names} |\n| --- {'| --- ' * len(sites)}|")
    for title, field, scale in ROWS:
        if field == "cost_per_month" and facts.price_per_hour is None:
            continue
        figures = [getattr(site, field) / scale for site in sites]
        print(f"| {title} | {' | '.join(f'{x:,.0f}' if x >= 10 or x == int(x) else f'{x:.2g}' for x in figures)} |")


ROWS = (
    ("cells", "cells", 1),
    ("replicas", "replicas", 1),
    ("machines", "machines", 1),
    ("in, Mbit/s", "in_bits", 1e6),
    ("out, Mbit/s", "out_bits", 1e6),
    ("pictures in flight", "in_flight", 1),
    ("job store: writing transactions/s", "transactions", 1),
    ("job store: rows written/s", "rows", 1),
    ("job store: reads/s", "reads", 1),
    ("uploads held, GB", "upload_bytes", GIGA),
    ("results held, GB", "result_bytes", GIGA),
    ("image pulled at a roll-out, GB", "pull_bytes", GIGA),
    ("cost a month, at your price", "cost_per_month", 1),
)
