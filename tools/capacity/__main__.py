"""How many replicas for a load, how long people wait, and what it costs: see scripts/capacity and docs/capacity.md."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from tools.capacity import check as capacity_check
from tools.capacity import scale as capacity_scale
from tools.capacity.load import Arrivals, PlanError
from tools.capacity.model import Model
from tools.capacity.options import add_load, part, positive, read_load
from tools.capacity.plan import Growth, Plan, Target, cost_of, make_plan, sudden_rise
from tools.capacity.simulation import Bounds, Outcome, draw_arrivals, play

MOST_SIMULATED = 16
"""Replicas of a larger fleet that are simulated, with their part of the load."""

Row = tuple[str, float | int | str, str]


def simulate(load: Model, bounds: Bounds, arrivals: Arrivals, pictures: int, seed: int) -> Outcome:
    """Plays a load against at most MOST_SIMULATED of its replicas."""
    shown = min(load.replicas, MOST_SIMULATED)
    scaled = dataclasses.replace(arrivals, per_second=arrivals.per_second * shown / load.replicas)
    drawn = draw_arrivals(load.mix, scaled, pictures, seed)
    return play(load.device, bounds, shown, drawn, balancer=load.balancer, seed=seed)


def simulated_rows(outcome: Outcome) -> list[Row]:
    """What a simulation showed."""
    rows: list[Row] = [(f"simulated wait, p{percent}", outcome.wait(percent), "s") for percent in (50, 95, 99)]
    return [
        *rows,
        ("simulated response, p95", outcome.response(95), "s from coming to being painted"),
        ("simulated utilisation", outcome.utilisation, "of the devices' time"),
        ("simulated refused", outcome.refused, "of the pictures, as 429 or at the deadline"),
        ("simulated goodput", outcome.goodput, "pictures a minute, of the replicas simulated"),
        ("simulated queue_seconds", outcome.queue_seconds, "s, mean of the gauge sd_inpaint_queue_seconds"),
    ]


def plan_rows(plan: Plan) -> list[Row]:
    """The fleet and its settings."""
    model, batch = plan.model, plan.model.max_batch
    return [
        ("replicas", model.replicas, f"{plan.spare} of them spare; {model.balancer} balancer"),
        ("load", model.load, f"of what they can do with full batches of {batch}"),
        ("utilisation", model.utilisation, "of the devices' time"),
        *((f"wait, p{round(100 * p)}", model.quantile(p), "s beyond the time alone") for p in (0.5, 0.95, 0.99)),
        ("alone", model.mix.mean(list(model.alone)), "s, the mean picture on an idle device"),
        ("SD_INPAINT_MAX_BATCH", batch, ""),
        ("SD_INPAINT_MAX_QUEUE", plan.max_queue, "pictures a replica"),
        ("SD_INPAINT_MAX_QUEUE_WORK", plan.max_queue_work, "megapixel-steps a replica"),
        ("refused", plan.refused, "of the pictures at these bounds, at most"),
        ("autoscaling.queueSeconds", plan.queue_seconds, "s of work a replica, at the most load that meets the target"),
    ]


def rise_rows(plan: Plan, target: Target, options: argparse.Namespace) -> list[Row]:
    """What a sudden rise does."""
    growth = Growth(options.notice, options.machine, options.pull, options.weights, options.ready)
    rise = sudden_rise(plan, target, options.rise, growth)
    return [
        (f"replicas at {rise.factor:g} times the load", rise.replicas, ""),
        ("load until they help", rise.load, "of what the planned ones can do"),
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
    cost = cost_of(plan.model.replicas, options.price_per_hour, options.per_minute, mean)
    return [
        ("cost a month", cost.per_month, f"at your price of {options.price_per_hour:g} a replica's hour, always on"),
        ("cost of 1000 pictures", cost.per_thousand, f"at {mean:g} pictures a minute on the mean"),
        ("cost of 1000 at the peak", cost.per_thousand_busy, "what perfect scaling would come near to"),
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
    """Finds a fleet, and tries it out in simulated time."""
    if options.wait is None and options.within is None:
        raise PlanError("What is to be met? --wait SECONDS, or --within SECONDS.")
    target = Target(options.wait, options.wait_part, options.within, options.within_part)
    load = read_load(options)
    alone = load.mix.mean(list(load.alone))
    worst = options.worst_wait or 4 * (options.wait if options.wait is not None else max(alone, options.within - alone))
    plan = make_plan(load, target, spare=options.spare, worst_wait_seconds=worst)
    rows = [*plan_rows(plan), *cost_rows(plan, options), *rise_rows(plan, target, options)]
    if not options.no_simulation:
        bounds = Bounds(load.max_batch, plan.max_queue, plan.max_queue_work)
        # The spare ones are away: so it has to do.
        fleet = dataclasses.replace(plan.model, replicas=plan.model.replicas - plan.spare)
        rows += simulated_rows(simulate(fleet, bounds, Arrivals(load.per_second), options.pictures, options.seed))
    show(rows, as_json=options.json)


def run_simulate(options: argparse.Namespace) -> None:
    """Plays a load against a fleet."""
    load = dataclasses.replace(read_load(options), replicas=options.replicas)
    bounds = Bounds(load.max_batch, options.max_queue, options.max_queue_work, options.deadline)
    arrivals = Arrivals(load.per_second, options.burst, options.burst_seconds)
    show(simulated_rows(simulate(load, bounds, arrivals, options.pictures, options.seed)), as_json=options.json)


def add_simulation(parser: argparse.ArgumentParser) -> None:
    """How it is simulated and shown."""
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=5000, help="how many are simulated")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The target, the queue, growing and money."""
    add_load(parser)
    add_simulation(parser)
    add = parser.add_argument_group("the target").add_argument
    add("--wait", type=positive, metavar="SECONDS", help="what --wait-part of all wait at most, beyond the time alone")
    add("--wait-part", type=part, default=0.95)
    add("--within", type=positive, metavar="SECONDS", help="--within-part of all are to be painted so soon")
    add("--within-part", type=part, default=0.95)
    add("--worst-wait", type=positive, metavar="SECONDS", help="who would wait longer is refused; 4 times the target")
    add("--spare", type=int, default=0, help="replicas on top: a roll-out, a lost machine")
    add("--no-simulation", action="store_true", help="the formula alone")
    add = parser.add_argument_group("money").add_argument
    add("--price-per-hour", type=positive, help="of one replica, in any currency")
    add("--mean-per-minute", type=positive, help="pictures a minute on the mean; the peak by default")
    add = parser.add_argument_group("growing, in seconds").add_argument
    add("--rise", type=positive, default=2.0, help="how many times the load comes, all at once")
    add("--notice", type=float, default=30.0, help="until the autoscaler asks for more: scrape and sync, 15 s each")
    add("--machine", type=float, default=0.0, help="until there is a machine; 0 where one waits")
    add("--pull", type=float, default=0.0, help="until the image is there; 0 where it is")
    add("--weights", type=float, default=0.0, help="until the weights are loaded")
    add(
        "--ready",
        type=float,
        default=10.0,
        help="until the first request comes: readiness, and the balancer's own look",
    )


def main() -> None:
    """Runs one command; a wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("plan", help="replicas, settings and cost for a load and a target")
    add_plan(command)
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
    command.set_defaults(run=run_simulate)
    for name, module in (("check", capacity_check), ("scale", capacity_scale)):
        command = commands.add_parser(name, help=module.HELP)
        module.add_options(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    try:
        options.run(options)
    except PlanError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
