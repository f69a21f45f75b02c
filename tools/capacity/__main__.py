"""How many replicas for a load, how long people wait, and what it costs: docs/capacity.md."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from tools.capacity import scale
from tools.capacity.fleet import Fleet
from tools.capacity.load import PlanError
from tools.capacity.options import add_load, add_simulation, part, positive, read_replica
from tools.capacity.plan import WORST_WAIT, Growth, Plan, Target, cost_of, make_plan, sudden_rise
from tools.capacity.simulation import Outcome

Row = tuple[str, float | int | str, str]


def simulated_rows(fleet: Fleet, outcome: Outcome) -> list[Row]:
    """What a simulation showed."""
    waits: list[Row] = [
        (f"wait, p{percent}", outcome.wait(percent), "s longer than on an idle device") for percent in (50, 95, 99)
    ]
    return [
        (
            "load",
            fleet.load,
            f"of the most that {fleet.replicas} replicas can do, with batches of up to {fleet.bounds.max_batch}",
        ),
        ("utilisation", outcome.utilisation, "of the devices' time"),
        *waits,
        ("alone", fleet.alone_seconds, "s, the mean picture on an idle device"),
        ("response, p95", outcome.response(95), "s from arrival to result"),
        ("refused", outcome.refused, "of the pictures, as 429 or at the deadline"),
        ("goodput", outcome.goodput * fleet.replicas / fleet.simulated_replicas, "pictures a minute"),
        ("queue_seconds", outcome.queue_seconds, "s, mean of the gauge sd_inpaint_queue_seconds"),
    ]


def plan_rows(plan: Plan) -> list[Row]:
    """The fleet and its settings, and what a simulation showed while the spare replicas are away."""
    bounds = plan.fleet.bounds
    return [
        ("replicas", plan.replicas, f"{plan.spare} of them spare; {plan.fleet.balancer} balancer"),
        (
            "most a minute",
            60 * plan.most_per_second,
            "pictures that still meet the target without the spare replicas",
        ),
        ("SD_INPAINT_MAX_BATCH", bounds.max_batch, ""),
        ("SD_INPAINT_MAX_QUEUE", bounds.max_canvases, "canvases per replica"),
        ("SD_INPAINT_MAX_QUEUE_WORK", int(bounds.max_megapixel_steps), "megapixel-steps per replica"),
        ("autoscaling.queueSeconds", plan.queue_seconds, "s of work per replica, the gauge's mean at that most"),
        *simulated_rows(plan.fleet, plan.outcome),
    ]


def rise_rows(plan: Plan, options: argparse.Namespace) -> list[Row]:
    """What a sudden rise does."""
    growth = Growth(options.notice, options.machine, options.pull, options.weights, options.ready)
    rise = sudden_rise(plan, options.rise, growth)
    return [
        (f"replicas at {rise.factor:g} times the load", rise.replicas, ""),
        ("load until they help", rise.load, "of what the planned replicas can do"),
        ("help comes after", rise.help_seconds, "s"),
        ("wait grows by", rise.longest_wait_seconds, "s until then, if nobody is refused"),
        ("gone after", rise.over_seconds, "s more"),
        ("or refused until then", rise.refused, "of the pictures, once the queues are full"),
    ]


def cost_rows(plan: Plan, options: argparse.Namespace) -> list[Row]:
    """What it costs, where a price was given."""
    if options.price_per_hour is None:
        return []
    mean = options.mean_per_minute or options.per_minute
    cost = cost_of(plan.replicas, options.price_per_hour, options.per_minute, mean)
    return [
        ("cost a month", cost.per_month, f"at your price of {options.price_per_hour:g} per replica-hour, always on"),
        ("cost of 1000 pictures", cost.per_thousand, f"at {mean:g} pictures a minute on average"),
        ("cost of 1000 at the peak", cost.per_thousand_busy, "the limit for perfect scaling"),
    ]


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Prints rows as a table, or as one JSON object."""
    if as_json:
        print(json.dumps({name: value for name, value, _ in rows}, indent=2, default=str))
        return
    print("| what | figure | |\n| --- | --- | --- |")
    for name, value, unit in rows:
        figure = (
            f"{value:.3g}"
            if isinstance(value, float) and value < 100
            else f"{value:,.0f}"
            if isinstance(value, float)
            else value
        )
        print(f"| {name} | {figure} | {unit} |")


def run_plan(options: argparse.Namespace) -> None:
    """Finds a fleet."""
    if options.wait is None and options.within is None:
        raise PlanError("Give a target: --wait SECONDS, or --within SECONDS.")
    target = Target(options.wait, options.wait_part, options.within, options.within_part)
    load = read_replica(options).under(options.per_minute / 60)
    wait = options.wait if options.wait is not None else max(load.alone_seconds, options.within - load.alone_seconds)
    plan = make_plan(
        load,
        target,
        spare=options.spare,
        worst_wait_seconds=options.worst_wait or WORST_WAIT * wait,
        pictures=options.pictures,
        seed=options.seed,
    )
    show([*plan_rows(plan), *cost_rows(plan, options), *rise_rows(plan, options)], as_json=options.json)


def run_simulate(options: argparse.Namespace) -> None:
    """Plays a load against a fleet."""
    load = read_replica(options).under(options.per_minute / 60).of(options.replicas)
    bounds = dataclasses.replace(
        load.bounds,
        max_canvases=options.max_queue,
        max_megapixel_steps=options.max_queue_work,
        deadline_seconds=options.deadline,
    )
    fleet = dataclasses.replace(load, bounds=bounds)
    outcome = fleet.simulate(options.pictures, options.seed, burst=options.burst, burst_seconds=options.burst_seconds)
    show(simulated_rows(fleet, outcome), as_json=options.json)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The target, the queue, growing and money."""
    add_load(parser)
    add_simulation(parser)
    add = parser.add_argument_group("the target").add_argument
    add("--wait", type=positive, metavar="SECONDS", help="longest wait of --wait-part of all, beyond the time alone")
    add("--wait-part", type=part, default=0.95)
    add("--within", type=positive, metavar="SECONDS", help="--within-part of all must be done within this time")
    add("--within-part", type=part, default=0.95)
    add("--worst-wait", type=positive, metavar="SECONDS", help="longer waits are refused; default: 4 × the target")
    add("--spare", type=int, default=0, help="extra replicas, for a roll-out or a lost machine")
    add = parser.add_argument_group("money").add_argument
    add("--price-per-hour", type=positive, help="of one replica, in any currency")
    add("--mean-per-minute", type=positive, help="pictures a minute on average; the peak by default")
    add = parser.add_argument_group("growing, in seconds").add_argument
    add("--rise", type=positive, default=2.0, help="factor of a sudden rise of the load")
    add("--notice", type=float, default=30.0, help="until the autoscaler asks for more: scrape and sync, 15 s each")
    add("--machine", type=float, default=0.0, help="until there is a machine; 0 if one is waiting")
    add("--pull", type=float, default=0.0, help="until the image is pulled; 0 if it is there")
    add("--weights", type=float, default=0.0, help="until the weights are loaded")
    add(
        "--ready",
        type=float,
        default=10.0,
        help="until the first request arrives: readiness, and the balancer's check",
    )


def main() -> None:
    """Runs one command; a wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="scripts/capacity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("plan", help="replicas, settings and cost for a load and a target")
    add_plan(command)
    command.add_argument("--json", action="store_true", help="all figures, for programs")
    command.set_defaults(run=run_plan)
    command = commands.add_parser("simulate", help="waits of a fleet, by the real device loop in simulated time")
    add_load(command)
    add_simulation(command)
    command.add_argument("--replicas", type=int, default=1)
    command.add_argument("--max-queue", type=int, default=32, help="SD_INPAINT_MAX_QUEUE")
    command.add_argument("--max-queue-work", type=float, default=2000.0, help="SD_INPAINT_MAX_QUEUE_WORK")
    command.add_argument("--deadline", type=float, default=3600.0, help="SD_INPAINT_DEADLINE_SECONDS")
    command.add_argument("--burst", type=float, default=1.0, help="rate of a burst by the mean rate, 1 to 10")
    command.add_argument("--burst-seconds", type=positive, default=60.0, help="mean length of a burst")
    command.add_argument("--json", action="store_true", help="all figures, for programs")
    command.set_defaults(run=run_simulate)
    command = commands.add_parser("scale", help="traffic, writes and machines, up to internet scale")
    scale.add_options(command)
    command.set_defaults(run=scale.run)
    options = parser.parse_args()
    try:
        options.run(options)
    except PlanError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
