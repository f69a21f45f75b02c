"""``scripts/capacity``: the simulation against closed forms, what is planned with it, and what the command prints."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sd_inpaint.jobs.runner import TICK_SECONDS
from tests.support.repository import ROOT
from tools.capacity import __main__ as capacity
from tools.capacity.fleet import FULLEST, Fleet
from tools.capacity.load import Arrivals, CanvasTimes, DeviceTimes, Kind, Mix, PlanError
from tools.capacity.plan import (
    LOAD_TOLERANCE,
    Growth,
    Plan,
    Target,
    bounded,
    cost_of,
    make_plan,
    most_load,
    smallest_fleet,
    sudden_rise,
)
from tools.capacity.scale import Facts, size_site
from tools.capacity.simulation import Balancer, Bounds

PIXELS = 512 * 512
ONE = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1})])
FLAT = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 4: 0.1})])
BATCHES = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 8: 0.35}, begin=0.02, finish=0.05)])
TEN_STEPS = Mix((Kind(512, 512, 10),))
PICTURES = 1_000
"""Fewer than a plan takes: what is tested is the search and not how much chance moves it."""


def unbounded(max_batch: int = 1) -> Bounds:
    """No bound on the queue."""
    return Bounds(max_batch, 10**9, 1e15, math.inf)


class TestSimulation:
    """The real loop in simulated time, where it comes to something known."""

    @pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
    def test_m_d_1(self, load: float) -> None:
        """Pictures of one length on one replica wait as long as in M/D/1."""
        outcome = Fleet(ONE, Mix((Kind(512, 512, 1),)), load / 0.1, 1, unbounded()).simulate(8_000, 1)
        assert outcome.utilisation == pytest.approx(load, rel=0.02)
        # 15 %: thousands of waits, but each much like the one before it. Source: Pollaczek and Khinchine.
        assert outcome.waits().mean() == pytest.approx(0.1 * load / (2 * (1 - load)), rel=0.15)
        assert outcome.refused == 0

    def test_processor_sharing(self) -> None:
        """A batch that takes as long as its jobs one after another shares the device: x / (1 - load) for a length x."""
        mix = Mix((Kind(512, 512, 5, 0.5), Kind(512, 512, 15, 0.5)))
        outcome = Fleet(ONE, mix, 0.5, 1, unbounded(64)).simulate(2_000, 1)
        for kind, length in zip(mix.kinds, (0.5, 1.5), strict=True):
            # A newcomer joins at the next step: beside the sharing, half a step's wait.
            expected = length / (1 - outcome.utilisation)
            mean = np.mean([picture.response for picture in outcome.pictures if picture.kind == kind])
            assert mean == pytest.approx(expected, rel=0.1, abs=0.1)

    @pytest.mark.parametrize("load", [0.5, 0.9, 1.5])
    def test_full_batch_refuses_as_erlang_has_it(self, load: float) -> None:
        """A batch of four that costs no more than one, and no queue behind it, refuses by Erlang's formula B."""
        bounds = Bounds(4, 4, 1e15, math.inf)
        outcome = Fleet(FLAT, Mix((Kind(512, 512, 40),)), load, 1, bounds).simulate(6_000, 1)
        offered = load * (4.0 + 0.05)  # servers that would be busy: forty steps, and half of one before the first
        terms = [offered**n / math.factorial(n) for n in range(5)]
        assert outcome.refused == pytest.approx(terms[4] / sum(terms), rel=0.1)

    def test_gauge_is_the_wait_of_a_newcomer(self) -> None:
        """First come, first served: what sd_inpaint_queue_seconds says is what the next picture waits on the mean."""
        outcome = Fleet(ONE, TEN_STEPS, 0.7, 1, unbounded()).simulate(3_000, 1)
        step = 0.1
        # A turn is worked out when it begins, so the step that runs counts as done already.
        assert outcome.queue_seconds <= outcome.waits().mean() <= outcome.queue_seconds + step
        assert outcome.waits().mean() > 5 * step

    def test_same_seed_same_outcome(self) -> None:
        """A simulation can be repeated; another seed is another one."""
        fleet = Fleet(BATCHES, TEN_STEPS, 5.0, 3, unbounded(8), Balancer.LEAST)
        first, again, other = (fleet.simulate(300, seed).waits() for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_nobody_is_lost(self) -> None:
        """Each picture is painted or refused, waits no less than nothing, and the bound is kept."""
        fleet = Fleet(BATCHES, TEN_STEPS, 25.0, 2, Bounds(8, 12, 1e15), Balancer.ROUND_ROBIN)
        outcome = fleet.simulate(800, 1)
        assert 0.02 < outcome.refused < 0.9
        assert len(outcome.pictures) == 720
        assert outcome.waits().min() > -1e-9
        # Twelve places, each of at most a picture's length with full batches, and one more that ends.
        assert outcome.waits().max() <= 13 / fleet.most_per_second + fleet.alone_seconds

    def test_counting_balancer_is_better_than_chance(self) -> None:
        """Fewest open requests first: shorter waits than in turn, and those shorter than at random."""
        mix = Mix((Kind(512, 512, 1, 0.7), Kind(512, 512, 5, 0.3)))
        waits = [
            Fleet(ONE, mix, 4 * 0.8 / 0.22, 4, unbounded(), balancer).simulate(2_000, 1).wait(95)
            for balancer in (Balancer.LEAST, Balancer.ROUND_ROBIN, Balancer.RANDOM)
        ]
        assert waits == sorted(waits)
        assert waits[2] > 2 * waits[0]

    def test_one_of_many_replicas_stands_for_all_at_random(self) -> None:
        """Where chance gives out the pictures, a thousand replicas wait as one does with a thousandth of the load."""
        fleet = Fleet(ONE, TEN_STEPS, 0.6, 1, unbounded())
        larger = fleet.under(600.0).of(1000)
        assert larger.load == pytest.approx(fleet.load)
        assert larger.simulate(500, 1).waits() == pytest.approx(fleet.simulate(500, 1).waits())

    def test_so_many_come_in_as_much_time_as_should(self) -> None:
        """Neither the rate nor the shares of a mix are left to chance, so two fleets differ by themselves."""
        mix = Mix((Kind(512, 512, 1, 0.7), Kind(512, 512, 5, 0.3)))
        outcome = Fleet(ONE, mix, 2.0, 1, unbounded()).simulate(1_000, 3)
        assert outcome.seconds == pytest.approx(450.0, rel=0.05)
        assert sum(picture.kind == mix.kinds[1] for picture in outcome.pictures) == pytest.approx(270, abs=30)

    def test_bursts_keep_the_mean_and_make_queues(self) -> None:
        """A bursty load brings as many pictures in the long run, and they wait longer."""
        draw = np.random.default_rng(1)
        times = Arrivals(5.0, burst=4.0, burst_seconds=2.0).times(200_000, draw)
        assert len(times) / times[-1] == pytest.approx(5.0, rel=0.05)
        assert np.all(np.diff(times) >= 0)
        fleet = Fleet(ONE, Mix((Kind(512, 512, 2),)), 2.5, 1, unbounded())
        bursty = fleet.simulate(1_200, 1, burst=4.0, burst_seconds=20.0)
        assert bursty.wait(95) > 2 * fleet.simulate(1_200, 1).wait(95)

    def test_burst_of_more_than_everything_is_refused(self) -> None:
        """Bursts take a tenth of the time, so they cannot have more than ten times the mean."""
        with pytest.raises(PlanError, match="at most 10 times"):
            Arrivals(1.0, burst=11.0).times(10, np.random.default_rng(1))


class TestFleet:
    """What follows from step times alone."""

    def test_most_is_what_full_batches_do(self) -> None:
        """Eight pictures of ten steps, with what begins and ends them: the load is asked for as part of that."""
        fleet = Fleet(BATCHES, TEN_STEPS, 3.0, 2, unbounded(8))
        assert fleet.most_per_second == pytest.approx(8 / (10 * 0.35 + 8 * 0.07))
        assert fleet.load == pytest.approx(3.0 / 2 / fleet.most_per_second)

    def test_most_is_that_of_the_best_batch(self) -> None:
        """A device on which eight jobs take longer than twice four does most with four: the bound stays a bound."""
        slow = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 4: 0.2, 8: 0.8})])
        assert Fleet(slow, TEN_STEPS, 1.0, 1, unbounded(8)).most_per_second == pytest.approx(4 / (10 * 0.2))

    @pytest.mark.parametrize("device", [ONE, BATCHES])
    def test_no_simulation_does_more_than_the_most(self, device: DeviceTimes) -> None:
        """Flooded, a replica paints as much as its bound says and no more."""
        fleet = Fleet(device, TEN_STEPS, 10.0, 1, Bounds(8, 20, 1e15))
        most = 60 * fleet.most_per_second
        # Those who are there when the last one comes are painted after it: a hundredth.
        assert 0.98 * most <= fleet.simulate(10_000, 1).goodput <= 1.02 * most


class TestDeviceTimes:
    """How long a device takes, wherever that is known from."""

    def test_between_and_beyond_what_was_measured(self) -> None:
        """Steps lie on straight lines over the batch, and in proportion to the pixels of the nearest canvas."""
        device = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 4: 0.25, 8: 0.35}, 0.02, 0.04)])
        times = device.of(2 * PIXELS)
        assert [device.of(PIXELS).step_seconds(n) for n in (1, 2.5, 4, 6, 10)] == pytest.approx(
            [0.1, 0.175, 0.25, 0.3, 0.4]
        )
        assert (times.step_seconds(1), times.begin, times.finish) == pytest.approx((0.2, 0.04, 0.08))

    def test_bench_steps_is_read(self, tmp_path: Path) -> None:
        """Two outputs of scripts/bench steps tell a step from the rest; one gives all to its steps."""
        output = (
            "| picture | seconds | of them on the device |\n| --- | --- | --- |\n| 512×512 | {0} | {0} |\n"
            "| 12 megapixels | 99.0 | 98.0 |\n\n12 megapixels cost 1.4 times 512×512 (bfloat16, {1} steps).\n"
        )
        file = tmp_path / "bench"
        file.write_text(output.format("70.6", 2) + output.format("110.6", 5), "utf-8")
        times = DeviceTimes.read(file).of(PIXELS)
        assert times.step_seconds(1) == pytest.approx(40 / 3)
        assert times.begin == pytest.approx(70.6 - 80 / 3)
        file.write_text(output.format("70.6", 2), "utf-8")
        assert DeviceTimes.read(file).of(PIXELS).step_seconds(1) == pytest.approx(35.3)

    @pytest.mark.parametrize("text", ["", "{}", '{"canvases": []}', "[1]", '{"canvases": [{"width": 8}]}'])
    def test_other_files_are_refused(self, tmp_path: Path, text: str) -> None:
        """A file that says nothing of step times is an error with the name of what writes one."""
        (tmp_path / "file").write_text(text, "utf-8")
        with pytest.raises(PlanError, match="scripts/bench device"):
            DeviceTimes.read(tmp_path / "file")


class TestPlan:
    """From a load to a fleet."""

    TARGET = Target(wait_seconds=5.0)

    @pytest.mark.parametrize("balancer", list(Balancer))
    @pytest.mark.parametrize("per_minute", [1, 60, 3_000])
    def test_fleet_is_the_smallest_that_does(self, balancer: Balancer, per_minute: int) -> None:
        """It meets the target, and one replica less would not, or would have more than its full load."""
        load = bounded(Fleet(BATCHES, TEN_STEPS, per_minute / 60, 1, Bounds(8), balancer), 20.0)
        fleet, outcome = smallest_fleet(load, self.TARGET, PICTURES)
        assert outcome.wait(95) <= 5.0
        assert self.TARGET.is_met(fleet.simulate(PICTURES, 1))
        if fleet.replicas > 1:
            smaller = load.of(fleet.replicas - 1)
            assert smaller.load > FULLEST or not self.TARGET.is_met(smaller.simulate(PICTURES, 1))

    @pytest.mark.parametrize("balancer", list(Balancer))
    def test_large_fleet_is_found_to_within_a_hundredth(self, balancer: Balancer) -> None:
        """Six hundred thousand pictures a minute: two in a hundred fewer replicas would not do."""
        load = bounded(Fleet(BATCHES, TEN_STEPS, 10_000.0, 1, Bounds(8), balancer), 20.0)
        fleet, _ = smallest_fleet(load, self.TARGET, PICTURES)
        assert fleet.replicas >= load.least_replicas
        smaller = load.of(int(0.98 * fleet.replicas))
        assert smaller.load > FULLEST or not self.TARGET.is_met(smaller.simulate(PICTURES, 1))

    def test_refused_have_not_got_what_they_came_for(self) -> None:
        """A queue so short that nobody in it waits long is no way to meet a target."""
        fleet = Fleet(ONE, TEN_STEPS, 0.9, 1, Bounds(1, 2))
        outcome = fleet.simulate(PICTURES, 1)
        assert outcome.wait(99) < 5.0
        assert outcome.refused > 0.05
        assert not self.TARGET.is_met(outcome)
        assert not Target(within_seconds=5.0).is_met(outcome)

    @pytest.mark.parametrize("within", [0.5, 1.0])
    def test_target_that_no_fleet_meets(self, within: float) -> None:
        """Where one picture alone takes too long, or all but, more replicas are no answer, and the message says so."""
        mix = Mix((Kind(512, 512, 10, 0.94), Kind(512, 512, 11, 0.06)))
        with pytest.raises(PlanError, match="alone"):
            smallest_fleet(Fleet(ONE, mix, 1.0), Target(within_seconds=within), PICTURES)

    def test_target_near_the_time_alone(self) -> None:
        """A target close to the time alone, which some pictures may miss, is met by replicas that are mostly idle."""
        target = Target(within_seconds=1.05, within_part=0.8)
        fleet, outcome = smallest_fleet(Fleet(ONE, TEN_STEPS, 2.0), target, PICTURES)
        assert outcome.served_within(1.05) >= 0.8
        assert 5 <= fleet.replicas <= 20

    def test_bounds_keep_the_worst_wait(self) -> None:
        """With the queue's bounds set as planned, nobody who is admitted waits longer, also in a flood."""
        plan = make_plan(Fleet(ONE, TEN_STEPS, 2.0), self.TARGET, worst_wait_seconds=6.0, pictures=PICTURES)
        outcome = plan.fleet.under(4.0).of(1).simulate(400, 1)
        assert outcome.refused > 0.5
        assert outcome.waits().max() <= 6.0 + 1.0
        assert outcome.waits().max() >= 4.0

    @pytest.mark.parametrize("per_second", [2.0, 20.0])
    def test_most_load_is_where_the_target_is_about_to_be_missed(self, per_second: float) -> None:
        """The autoscaler's seconds are the gauge's mean at the most load with which the fleet still does."""
        fleet, outcome = smallest_fleet(
            bounded(Fleet(BATCHES, TEN_STEPS, per_second, 1, Bounds(8)), 20.0), self.TARGET, PICTURES
        )
        most, busiest = most_load(fleet, outcome, self.TARGET, PICTURES)
        assert most >= per_second
        assert self.TARGET.is_met(fleet.under(most).simulate(PICTURES, 1))
        busier = fleet.under((1 + 2 * LOAD_TOLERANCE) * most)
        assert busier.load > FULLEST or not self.TARGET.is_met(busier.simulate(PICTURES, 1))
        assert busiest.queue_seconds >= outcome.queue_seconds

    def test_rise_waits_for_help(self) -> None:
        """At twice a load of 0.6, a fifth of a second is left over each second until help has come."""
        fleet = Fleet(ONE, TEN_STEPS, 0.6)
        plan = Plan(fleet, 0, fleet.simulate(100, 1), most_per_second=0.9, queue_seconds=1.0)
        rise = sudden_rise(plan, 2.0, Growth(30.0, 0.0, 20.0, 40.0, 10.0))
        assert (rise.help_seconds, rise.replicas) == (100.0, 2)
        assert rise.longest_wait_seconds == pytest.approx(20.0)
        assert rise.over_seconds == pytest.approx(20.0 / 0.8)
        assert rise.refused == pytest.approx(1 / 6)

    def test_spare_replicas_stay_beside_those_that_are_enough(self) -> None:
        """What is told of waits is told of the fleet without them; what it costs, with them."""
        load = Fleet(ONE, TEN_STEPS, 2.0)
        plan, without = (
            make_plan(load, self.TARGET, spare=spare, worst_wait_seconds=20.0, pictures=PICTURES) for spare in (2, 0)
        )
        assert plan.replicas == without.replicas + 2
        assert np.array_equal(plan.outcome.waits(), without.outcome.waits())

    def test_cost_is_hours_by_price(self) -> None:
        """Three replicas of 2 an hour, 60 pictures a minute: 6 an hour, 3,600 pictures an hour."""
        cost = cost_of(3, 2.0, 60.0, 30.0)
        assert (cost.per_month, cost.per_thousand_busy, cost.per_thousand) == pytest.approx((4380.0, 5 / 3, 10 / 3))


class TestSite:
    """From a rate to cells, traffic and writes."""

    TARGET = Target(wait_seconds=5.0)
    FACTS = Facts(2e5, 5e5, 1.0, 1.0, 3600.0, 9e9, 10, 8, 2.0)

    @pytest.mark.parametrize(("per_second", "several"), [(4.0, False), (400.0, True)])
    def test_site_is_arithmetic(self, per_second: float, several: bool) -> None:
        """Traffic, writes and bytes follow from rates; cells keep to their size, and meet the target."""
        load = bounded(Fleet(BATCHES, TEN_STEPS, per_second, 1, Bounds(8)), 20.0)
        site = size_site(load, self.TARGET, self.FACTS, PICTURES)
        assert (site.in_bits, site.out_bits) == (8 * per_second * 2e5, 8 * per_second * 5e5)
        assert (site.cells > 1) is several
        assert site.replicas <= 10 * site.cells
        assert site.replicas >= load.least_replicas
        assert self.TARGET.is_met(load.of(site.replicas).simulate(PICTURES, 1))
        assert site.rows == pytest.approx(3 * per_second + site.in_flight / TICK_SECONDS)
        assert site.result_bytes == per_second * 3600 * 5e5


class TestCommand:
    """``scripts/capacity``, as it is called."""

    def run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, options: str
    ) -> str:
        """Runs the command in this process; gives what it printed."""
        monkeypatch.setattr(sys, "argv", ["capacity", command, *options.split()])
        capacity.main()
        return capsys.readouterr().out

    def test_plan(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A plan has replicas, settings and money, and what it says of waits meets the target."""
        load = "--step 1=0.1 8=0.35 --per-minute 120 --mix 512x512:30:0.8 512x512:10:0.2 --wait 10"
        printed = self.run(monkeypatch, capsys, "plan", f"{load} --price-per-hour 1.5 --pictures 400 --json")
        plan = json.loads(printed)
        assert 2 <= plan["replicas"] <= 5
        assert plan["wait, p95"] <= 10
        assert plan["most a minute"] >= 120
        assert plan["cost a month"] == pytest.approx(plan["replicas"] * 1.5 * 730)
        assert {"SD_INPAINT_MAX_QUEUE", "SD_INPAINT_MAX_QUEUE_WORK", "autoscaling.queueSeconds"} <= plan.keys()

    def test_simulate(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A fleet that is given is played with its own bounds; its goodput is that of all its replicas."""
        fleet = "--step 1=0.1 --per-minute 600 --mix 512x512:10 --pictures 500 --json --replicas"
        shown = {n: json.loads(self.run(monkeypatch, capsys, "simulate", f"{fleet} {n}")) for n in (8, 20)}
        assert shown[8]["load"] == pytest.approx(1.25)
        assert shown[8]["refused"] > 0.1
        assert shown[20]["refused"] == 0
        assert shown[20]["goodput"] == pytest.approx(600, rel=0.05)

    @pytest.mark.slow
    def test_scale(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Three rates are three columns, as on the page; without a price there is no cost."""
        printed = self.run(monkeypatch, capsys, "scale", "--step 1=0.1 8=0.35 --wait 5 --balancer least")
        rows = [line for line in printed.splitlines() if line.startswith("|")]
        assert rows[0] == "| | 10 a minute | 1,000 a minute | 100,000 a minute |"
        assert not any(row.startswith("| cost") for row in rows)
        page = (ROOT / "docs" / "capacity.md").read_text("utf-8")
        assert all(row in page for row in rows)

    @pytest.mark.slow
    def test_measured_device_can_be_planned_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What scripts/bench device writes is what a plan reads."""
        file = tmp_path / "device.json"
        bench = [sys.executable, "-m", "tools.bench.device", "--model", "demo", "--sides", "64"]
        bench += ["--batches", "1,2", "--rounds", "1", "--output", str(file)]
        subprocess.run(bench, cwd=ROOT, check=True, capture_output=True, timeout=200)
        device = DeviceTimes.read(file)
        assert device.name == "cpu"
        assert device.of(64 * 64).step_seconds(2) > 0
        options = f"--device {file} --mix 64x64:10 --per-minute 6 --wait 60 --pictures 50 --json"
        assert json.loads(self.run(monkeypatch, capsys, "plan", options))["SD_INPAINT_MAX_BATCH"] == 2

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ("", "--step 1=SECONDS"),
            ("--step 8=0.1", "needs the seconds of a batch of one"),
            ("--step 1=0.1 --mix 512x512", "--mix: invalid"),
        ],
    )
    def test_wrong_input_is_one_line(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: str,
        line: str,
    ) -> None:
        """What cannot be planned with is said in one line, with exit code 2."""
        with pytest.raises(SystemExit) as stopped:
            self.run(monkeypatch, capsys, "plan", f"--per-minute 10 --wait 5 {arguments}")
        assert stopped.value.code == 2
        assert line in capsys.readouterr().err.splitlines()[-1]
