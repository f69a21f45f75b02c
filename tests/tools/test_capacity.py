"""``scripts/capacity``: the formula against closed forms and against the simulation, and what the script prints."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.jobs.runner import TICK_SECONDS
from tests.support.repository import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from tools.capacity import __main__ as capacity
from tools.capacity import check as capacity_check
from tools.capacity.load import Arrivals, CanvasTimes, DeviceTimes, Kind, Mix, PlanError
from tools.capacity.model import Model
from tools.capacity.plan import Growth, Target, cost_of, make_plan, smallest_fleet, sudden_rise
from tools.capacity.scale import Facts, size_site
from tools.capacity.simulation import Balancer, Bounds, Outcome, draw_arrivals, play

PIXELS = 512 * 512
UNBOUNDED = Bounds(1, 10**9, 1e15, math.inf)
ONE = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1})])
FLAT = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 4: 0.1})])
BATCHES = DeviceTimes([CanvasTimes(PIXELS, {1: 0.1, 8: 0.35}, begin=0.02, finish=0.05)])
TEN_STEPS = Mix((Kind(512, 512, 10),))

# Ever longer, ever rarer: nearly exponential lengths, within the schema's range of steps.
EXPONENTIAL = Mix(tuple(Kind(512, 512, steps, math.exp(-steps / 20)) for steps in range(4, 150, 8)))


def simulated(model: Model, pictures: int, *, seed: int = 1, patience: float | None = None, **bounds: float) -> Outcome:
    """Plays a model's load; without a bound, unless one is named."""
    replaced = dataclasses.replace(UNBOUNDED, max_batch=model.max_batch, **bounds)  # type: ignore[arg-type]
    replaced = replaced if patience is None else dataclasses.replace(replaced, patience=patience)
    drawn = draw_arrivals(model.mix, Arrivals(model.per_second), pictures, seed)
    return play(model.device, replaced, model.replicas, drawn, balancer=model.balancer, seed=seed)


def erlang_c(servers: int, load: float) -> float:
    """How likely a newcomer waits in M/M/c; ``load`` is that of each server. Source: Erlang 1917."""
    offered = servers * load
    full = offered**servers / math.factorial(servers) / (1 - load)
    return full / (sum(offered**n / math.factorial(n) for n in range(servers)) + full)


class TestFormula:
    """The model against what is known exactly."""

    @pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
    def test_one_length_is_m_d_1(self, load: float) -> None:
        """With pictures of one length and no batches, the mean wait is Pollaczek and Khinchine's."""
        assert Model(ONE, TEN_STEPS, load).mean_wait == pytest.approx(load / (2 * (1 - load)), rel=1e-3)

    @pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
    def test_any_lengths_are_m_g_1(self, load: float) -> None:
        """So it is for lengths of any kind that are served as they come."""
        mix = Mix((Kind(512, 512, 5, 0.6), Kind(768, 768, 20, 0.4)))
        lengths = mix.alone_seconds(ONE)
        mean, square = mix.mean(list(lengths)), mix.mean(list(lengths**2))
        wait = load / mean * square / (2 * (1 - load))
        assert Model(ONE, mix, load / mean, patience=0.0).mean_wait == pytest.approx(wait, rel=2e-3)

    @pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
    def test_exponential_lengths_are_m_m_1(self, load: float) -> None:
        """With lengths as good as exponential, mean and 95th percentile of the wait are those of M/M/1."""
        mean = EXPONENTIAL.mean(list(EXPONENTIAL.alone_seconds(ONE)))
        model = Model(ONE, EXPONENTIAL, load / mean, patience=0.0)
        # 5 %: steps are whole, and none is longer than the schema allows.
        assert model.mean_wait == pytest.approx(mean * load / (1 - load), rel=0.05)
        # The formula spreads one picture's length only, not each one's that waits.
        assert model.quantile(0.95) == pytest.approx(math.log(load / 0.05) * mean / (1 - load), rel=0.15)

    @pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
    def test_a_batch_that_costs_nothing_is_m_m_c(self, load: float) -> None:
        """A device that takes four jobs in the time of one is four servers: Erlang's C, beside the wait for a step."""
        mean = EXPONENTIAL.mean(list(EXPONENTIAL.alone_seconds(FLAT)))
        model = Model(FLAT, EXPONENTIAL, 4 * load / mean, max_batch=4, patience=0.0)
        wait = erlang_c(4, load) * mean / (4 * (1 - load))
        step = 0.1
        assert wait * 0.95 <= model.mean_wait <= wait * 1.05 + step / 2

    def test_bounded_queue_refuses_as_m_m_1_k(self) -> None:
        """A queue of K refuses the part that M/M/1/K has full, also under more load than it can do."""
        for load in (0.5, 0.95, 1.5):
            model = Model(ONE, TEN_STEPS, load, max_canvases=6)
            assert model.refused == pytest.approx(load**6 * (1 - load) / (1 - load**7))

    def test_more_than_all_can_do_is_no_steady_state(self) -> None:
        """Without a bound, there is no wait to tell where more comes than can be done."""
        with pytest.raises(OverflowError):
            _ = Model(ONE, TEN_STEPS, 1.0).mean_wait

    def test_order_shifts_waits_from_short_to_long(self) -> None:
        """Short pictures wait less than first come, first served has them, long ones more, all together less."""
        mix = Mix((Kind(512, 512, 5, 0.7), Kind(512, 512, 50, 0.3)))
        ours, fcfs = (Model(ONE, mix, 0.8 / 1.85, patience=patience) for patience in (2.0, 0.0))
        assert ours.quantile(0.9, 0) < fcfs.quantile(0.9, 0)
        assert ours.quantile(0.9, 1) > fcfs.quantile(0.9, 1)
        assert ours.mean_wait < fcfs.mean_wait

    @settings(max_examples=40, deadline=None)
    @given(
        load=st.floats(0.1, 0.85),
        more=st.floats(1.02, 1.15),
        replicas=st.integers(1, 30),
        balancer=st.sampled_from(list(Balancer)),
        batch=st.sampled_from([1, 4, 8]),
        steps=st.integers(2, 150),
        share=st.floats(0.01, 0.99),
    )
    def test_more_load_waits_longer_and_more_replicas_shorter(
        self, load: float, more: float, replicas: int, balancer: Balancer, batch: int, steps: int, share: float
    ) -> None:
        """Each percentile rises with the load and falls with replicas, whatever the mix, fleet and device.

        But for one step and five in a hundred: the formula's parts do not quite meet where a batch is just full.
        """
        mix = Mix((Kind(512, 512, 20, share), Kind(512, 512, steps, 1 - share)))
        model = Model(BATCHES, mix, 1.0, replicas, batch, balancer)
        model = dataclasses.replace(model, per_second=load * replicas * model.most_per_second)
        busier = dataclasses.replace(model, per_second=more * model.per_second)
        larger = dataclasses.replace(model, replicas=replicas + 1)
        for part in (0.5, 0.95, 0.99):
            assert larger.quantile(part) <= 1.05 * model.quantile(part) + 0.35
            assert model.quantile(part) <= 1.05 * busier.quantile(part) + 0.35
        assert model.mean_wait <= 1.05 * busier.mean_wait + 0.35
        assert 0 <= model.utilisation <= 1
        assert model.queue_seconds <= busier.queue_seconds + 1e-9


class TestSimulation:
    """The real loop in simulated time, where it comes to something known."""

    def test_m_d_1(self) -> None:
        """Pictures of one length on one replica wait as long as in M/D/1."""
        outcome = simulated(Model(ONE, Mix((Kind(512, 512, 1),)), 0.6 / 0.1), 6_000)
        load = outcome.utilisation
        assert load == pytest.approx(0.6, rel=0.04)
        # 10 %: thousands of waits, but each much like the one before it.
        assert outcome.waits().mean() == pytest.approx(0.1 * load / (2 * (1 - load)), rel=0.1)
        assert outcome.refused == 0

    def test_processor_sharing(self) -> None:
        """A batch that takes as long as its jobs one after another shares the device: x / (1 - load) for a length x."""
        mix = Mix((Kind(512, 512, 5, 0.5), Kind(512, 512, 15, 0.5)))
        outcome = simulated(Model(ONE, mix, 0.5, max_batch=64), 2_000)
        for kind, length in zip(mix.kinds, (0.5, 1.5), strict=True):
            # A newcomer joins at the next step: beside the sharing, half a step's wait.
            expected = length / (1 - outcome.utilisation)
            assert outcome.responses(kind).mean() == pytest.approx(expected, rel=0.1, abs=0.1)

    def test_same_seed_same_outcome(self) -> None:
        """A simulation can be repeated; another seed is another one."""
        model = Model(BATCHES, TEN_STEPS, 5.0, 3, 8, Balancer.LEAST)
        first, again, other = (simulated(model, 300, seed=seed).waits() for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_nobody_is_lost(self) -> None:
        """Each picture is painted or refused, waits no less than nothing, and the bound is kept."""
        model = Model(BATCHES, TEN_STEPS, 25.0, 2, 8, Balancer.ROUND_ROBIN)
        outcome = simulated(model, 800, max_canvases=12)
        assert 0.02 < outcome.refused < 0.9
        assert len(outcome.pictures) == 720
        assert outcome.waits().min() > -1e-9
        # Twelve places, each of at most a picture's length with full batches, and one more that ends.
        assert outcome.waits().max() <= 13 / model.most_per_second + model.alone[0]

    def test_counting_balancer_is_better_than_chance(self) -> None:
        """Fewest open requests first: shorter waits than in turn, and those shorter than at random."""
        mix = Mix((Kind(512, 512, 1, 0.7), Kind(512, 512, 5, 0.3)))
        waits = [
            simulated(Model(ONE, mix, 4 * 0.8 / 0.22, 4, 1, balancer), 2_000).wait(95)
            for balancer in (Balancer.LEAST, Balancer.ROUND_ROBIN, Balancer.RANDOM)
        ]
        assert waits == sorted(waits)
        assert waits[2] > 2 * waits[0]

    def test_bursts_keep_the_mean_and_make_queues(self) -> None:
        """A bursty load brings as many pictures in the long run, and they wait longer."""
        draw = np.random.default_rng(1)
        times = Arrivals(5.0, burst=4.0, burst_seconds=2.0).times(200_000, draw)
        assert len(times) / times[-1] == pytest.approx(5.0, rel=0.05)
        assert np.all(np.diff(times) >= 0)
        model = Model(ONE, Mix((Kind(512, 512, 2),)), 2.5)
        drawn = draw_arrivals(model.mix, Arrivals(2.5, burst=4.0, burst_seconds=20.0), 1_200, 1)
        bursty = play(ONE, UNBOUNDED, 1, drawn)
        assert bursty.wait(95) > 2 * simulated(model, 1_200).wait(95)

    def test_burst_of_more_than_everything_is_refused(self) -> None:
        """Bursts take a tenth of the time, so they cannot have more than ten times the mean."""
        with pytest.raises(PlanError, match="at most 10 times"):
            Arrivals(1.0, burst=11.0).times(10, np.random.default_rng(1))


def test_formula_agrees_with_the_simulation() -> None:
    """At places of docs/capacity.md's grid the formula is no further off than the page says."""
    fleets = {("no batches", 1), ("batches of 8", 4)}
    chosen = [point for point in capacity_check.points(loads=(0.6,)) if (point.device, point.model.replicas) in fleets]
    chosen = [point for point in chosen if point.model.balancer is not Balancer.ROUND_ROBIN]
    assert len(chosen) == 6
    for point in chosen:
        assert point.holds(point.simulate(1_200, seed=2)), (point.device, point.mix)


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
    @pytest.mark.parametrize("per_minute", [1, 60, 3_000, 600_000])
    def test_fleet_is_the_smallest_that_does(self, balancer: Balancer, per_minute: int) -> None:
        """It meets the target, and one replica less would not."""
        load = Model(BATCHES, TEN_STEPS, per_minute / 60, 1, 8, balancer)
        replicas = smallest_fleet(load, self.TARGET)
        assert self.TARGET.is_met(dataclasses.replace(load, replicas=replicas))
        assert replicas == 1 or not self.TARGET.is_met(dataclasses.replace(load, replicas=replicas - 1))

    def test_target_that_no_fleet_meets(self) -> None:
        """Where one picture alone takes too long, more replicas are no answer, and the message says so."""
        with pytest.raises(PlanError, match="alone"):
            smallest_fleet(Model(ONE, TEN_STEPS, 1.0), Target(within_seconds=0.5))

    def test_bounds_keep_the_worst_wait(self) -> None:
        """With the queue's bounds set as planned, nobody who is admitted waits longer, also in a flood."""
        plan = make_plan(Model(ONE, TEN_STEPS, 2.0), self.TARGET, worst_wait_seconds=6.0)
        flood = dataclasses.replace(plan.model, per_second=4.0, replicas=1)
        outcome = simulated(flood, 400, max_canvases=plan.max_queue, max_megapixel_steps=plan.max_queue_work)
        assert outcome.refused > 0.5
        assert outcome.waits().max() <= 6.0 + 1.0
        assert outcome.waits().max() >= 4.0

    def test_threshold_is_reached_when_the_target_is_about_to_be_missed(self) -> None:
        """The autoscaler's seconds are the gauge's mean at the most load, so they are over that of the planned load."""
        plan = make_plan(Model(BATCHES, TEN_STEPS, 20.0, 1, 8), self.TARGET, worst_wait_seconds=20.0)
        assert plan.queue_seconds >= plan.model.queue_seconds
        most = plan.model.replicas * plan.model.most_per_second
        busier = dataclasses.replace(plan.model, per_second=0.97 * most)
        assert not self.TARGET.is_met(busier)
        assert busier.queue_seconds > plan.queue_seconds

    def test_gauge_is_what_the_loop_reports(self) -> None:
        """The formula's mean of sd_inpaint_queue_seconds is that of the real loops."""
        for device, batch in ((ONE, 1), (BATCHES, 8)):
            model = Model(device, TEN_STEPS, 1.0, 1, batch)
            model = dataclasses.replace(model, per_second=0.6 * model.most_per_second)
            assert model.queue_seconds == pytest.approx(simulated(model, 1_200).queue_seconds, rel=0.25)

    def test_rise_waits_for_help(self) -> None:
        """At twice a load of 0.6, a fifth of a second is left over each second until help has come."""
        plan = make_plan(Model(ONE, TEN_STEPS, 0.6), Target(wait_seconds=60.0), worst_wait_seconds=60.0)
        rise = sudden_rise(plan, Target(wait_seconds=60.0), 2.0, Growth(30.0, 0.0, 20.0, 40.0, 10.0))
        assert (rise.help_seconds, rise.replicas) == (100.0, 2)
        assert rise.longest_wait_seconds == pytest.approx(20.0)
        assert rise.over_seconds == pytest.approx(20.0 / 0.8)
        assert rise.refused == pytest.approx(1 / 6)

    def test_cost_is_hours_by_price(self) -> None:
        """Three replicas of 2 an hour, 60 pictures a minute: 6 an hour, 3,600 pictures an hour."""
        cost = cost_of(3, 2.0, 60.0, 30.0)
        assert (cost.per_month, cost.per_thousand_busy, cost.per_thousand) == pytest.approx((4380.0, 5 / 3, 10 / 3))

    def test_site_is_arithmetic(self) -> None:
        """Traffic, writes and bytes follow from rates, and cells keep to their size."""
        facts = Facts(2e5, 5e5, 1.0, 1.0, 3600.0, 9e9, 10, 8, 2.0)
        site = size_site(Model(BATCHES, TEN_STEPS, 400.0, 1, 8), self.TARGET, facts)
        assert (site.in_bits, site.out_bits) == (8 * 400 * 2e5, 8 * 400 * 5e5)
        assert site.replicas <= 10 * site.cells
        assert site.replicas >= 400 / Model(BATCHES, TEN_STEPS, 1.0, 1, 8).most_per_second
        assert site.rows == pytest.approx(3 * 400 + site.in_flight / TICK_SECONDS)
        assert site.result_bytes == 400 * 3600 * 5e5


class TestScript:
    """``scripts/capacity``, as it is called."""

    def run(self, command: str, options: str) -> subprocess.CompletedProcess[str]:
        """Runs the script."""
        script = [sys.executable, str(ROOT / "scripts" / "capacity.py"), command, *options.split()]
        return subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)

    def test_plan(self) -> None:
        """A plan has replicas, settings, money and what a simulation showed, and the simulation meets the target."""
        load = "--step 1=0.1 8=0.35 --per-minute 120 --mix 512x512:30:0.8 512x512:10:0.2 --wait 10"
        done = self.run("plan", f"{load} --price-per-hour 1.5 --pictures 400 --json")
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        assert 2 <= plan["replicas"] <= 5
        assert plan["wait, p95"] <= 10
        assert plan["simulated wait, p95"] <= 12.5
        assert plan["cost a month"] == pytest.approx(plan["replicas"] * 1.5 * 730)
        assert {"SD_INPAINT_MAX_QUEUE", "SD_INPAINT_MAX_QUEUE_WORK", "autoscaling.queueSeconds"} <= plan.keys()

    def test_scale(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Three rates are three columns, as on the page; without a price there is no cost."""
        command = "capacity scale --step 1=0.1 8=0.35 --wait 5 --balancer least"
        monkeypatch.setattr(sys, "argv", command.split())
        capacity.main()
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        assert rows[0] == "| | 10 a minute | 1,000 a minute | 100,000 a minute |"
        assert not any(row.startswith("| cost") for row in rows)
        page = (ROOT / "docs" / "capacity.md").read_text("utf-8")
        assert all(row in page for row in rows)

    @pytest.mark.slow
    def test_measured_device_can_be_planned_with(self, tmp_path: Path) -> None:
        """What scripts/bench device writes is what a plan reads."""
        file = tmp_path / "device.json"
        bench = [sys.executable, str(ROOT / "scripts" / "bench_device.py"), "--model", "demo", "--sides", "64"]
        bench += ["--batches", "1,2", "--rounds", "1", "--output", str(file)]
        subprocess.run(bench, check=True, capture_output=True, timeout=200)
        device = DeviceTimes.read(file)
        assert device.name == "cpu"
        assert device.of(64 * 64).step_seconds(2) > 0
        done = self.run("plan", f"--device {file} --mix 64x64:10 --per-minute 6 --wait 60 --pictures 50 --json")
        assert json.loads(done.stdout)["SD_INPAINT_MAX_BATCH"] == 2

    def test_wrong_input_is_one_line(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """What cannot be planned with is said in one line, with exit code 2."""
        for arguments, line in (
            ("", "--step 1=SECONDS"),
            ("--step 8=0.1", "needs the seconds of a batch of one"),
            ("--step 1=0.1 --mix 512x512", "--mix: invalid"),
        ):
            command = f"capacity plan --per-minute 10 --wait 5 {arguments}"
            monkeypatch.setattr(sys, "argv", command.split())
            with pytest.raises(SystemExit) as stopped:
                capacity.main()
            assert stopped.value.code == 2
            assert line in capsys.readouterr().err.splitlines()[-1]

    def test_page_has_the_checks_table(self) -> None:
        """The table in docs/capacity.md is of the grid that scripts/capacity check goes over."""
        page = (ROOT / "docs" / "capacity.md").read_text("utf-8")
        rows = re.findall(r"^\| (no batches|batches of 8) \| ([^|]+) \| ([^|]+) \| (0\.\d+) \|", page, re.MULTILINE)
        grid = []
        for point in capacity_check.points():
            model = point.model
            fleet = f"{model.replicas}, {model.balancer}" if model.replicas > 1 else "1"
            grid.append((point.device, point.mix, fleet, f"{model.load:.2f}"))
        assert rows == grid
        assert "(missed)" not in page
