"""``scripts/soak``: a short run against a real server, and each check on made-up observations that must fail it."""

import asyncio
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.repository import ROOT
from tests.support.served import Served
from tools.soak import __main__ as soak
from tools.soak.load import MEDIA_TYPES, SIZES, Findings, JobRecord, Load, huge_png
from tools.soak.process import Sample, memory_bytes, tree
from tools.soak.report import (
    HANDLES_OF_A_PROCESS,
    MAX_STATE_BYTES,
    MB,
    MORE_HANDLES,
    MORE_PROCESSES,
    MORE_SERVER_BYTES,
    MORE_THREADS,
    MORE_WORKER_BYTES,
    Observed,
    check_answers,
    check_exit,
    check_gained,
    check_health,
    check_held,
    check_jobs,
    check_log,
    check_memory,
    find_problems,
    make_figures,
    memory_slope,
    slope_bound,
)

IDLE = Sample(0.0, 600 * MB, 35 * MB, processes=4, handles=50, threads=30, state_bytes=1000, state_pictures=0)

TRACE = 'serving\nTraceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nValueError: no\nserving\n'


def series(minutes: float, *, growth: float = 0.0, worker_growth: float = 0.0) -> list[Sample]:
    """A sample a second that swings as under load, and grows by so many MB a minute."""
    return [
        dataclasses.replace(
            IDLE,
            at=float(second),
            server_bytes=(600 + 5 * (second % 7) + growth * second / 60) * MB,
            worker_bytes=(35 + worker_growth * second / 60) * MB,
        )
        for second in range(int(minutes * 60))
    ]


def sound() -> tuple[Findings, Observed]:
    """A run without a problem."""
    findings = Findings(health_seconds=[0.01, 0.02, 0.5])
    findings.statuses.update({("paint", 200): 20, ("nonsense", 400): 5, ("leave wait", 0): 3, ("stop", 503): 1})
    jobs = [
        JobRecord("a", end="done", is_expired=True),
        JobRecord("b", end="failed", reason="deadline_exceeded", is_expired=True),
        JobRecord("c", is_cancelled=True, end="cancelled", is_expired=True),
        JobRecord("d", is_cancelled=True, end="gone"),
        JobRecord("e", end="done"),
    ]
    findings.jobs.update({job.id: job for job in jobs})
    return findings, Observed(IDLE, series(5), IDLE, "serving\n", 0)


class TestChecks:
    """Each check, on what it must let pass and what it must object to."""

    def test_sound_run_has_no_problem(self) -> None:
        """A run in which all went well passes every check."""
        assert find_problems(*sound(), minutes=5) == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"log": TRACE}, "1 tracebacks"),
            ({"exit_code": -9}, "code -9"),
            ({"loaded": series(5, growth=4)}, "The server's memory grew"),
            ({"after": dataclasses.replace(IDLE, handles=500)}, "500 handles"),
        ],
        ids=["log", "exit", "memory", "handles"],
    )
    def test_every_check_of_a_server_is_run(self, change: dict[str, object], words: str) -> None:
        """What is wrong with a server is a problem of the whole run, and the only one."""
        findings, observed = sound()
        changed = dataclasses.replace(observed, **change)  # type: ignore[arg-type]
        (problem,) = find_problems(findings, changed, minutes=5)
        assert words in problem
        assert find_problems(findings, None, minutes=5) == []

    @pytest.mark.parametrize("minutes", [2, 3, 5, 30])
    def test_growth_beyond_the_bound(self, minutes: float) -> None:
        """Memory that grows a little faster than the bound is a leak, and a little slower is not."""
        bound = slope_bound(minutes)
        assert check_memory(series(minutes, growth=0.8 * bound), minutes) == []
        assert len(check_memory(series(minutes, growth=1.2 * bound), minutes)) == 1
        assert len(check_memory(series(minutes, worker_growth=1.2 * bound), minutes)) == 1

    def test_bounds_of_long_runs(self) -> None:
        """Five minutes may grow by 1.5 MB a minute, two by 6, and less has no slope to judge."""
        assert [slope_bound(minutes) for minutes in (30, 5, 4.9, 2, 1.9)] == [1.5, 1.5, 6.0, 6.0, math.inf]

    def test_slope_of_a_short_run_is_no_leak(self) -> None:
        """A run of twenty seconds that ends with a large picture, and gives it all back, passes."""
        # Before, most and after: the figures of such a run on a busy machine, which was called a leak.
        levels = [*range(620, 630), *(622 + 1.6 * second for second in range(10)), 637.9]
        loaded = [dataclasses.replace(IDLE, at=float(at), server_bytes=mb * MB) for at, mb in enumerate(levels)]
        assert memory_slope(loaded, lambda sample: sample.server_bytes) > 60 * MB
        before, after = (dataclasses.replace(IDLE, server_bytes=mb * MB) for mb in (619.7, 606.8))
        findings, observed = sound()
        short = dataclasses.replace(observed, before=before, loaded=loaded, after=after)
        assert find_problems(findings, short, minutes=0.34) == []

    @pytest.mark.parametrize(
        ("name", "more", "words"),
        [("server_bytes", MORE_SERVER_BYTES, "the server"), ("worker_bytes", MORE_WORKER_BYTES, "that decodes")],
    )
    def test_leak_in_a_short_run(self, name: str, more: float, words: str) -> None:
        """What is held at the end beyond the bound is a leak, and the sentence has both sizes."""
        was = getattr(IDLE, name)
        findings, observed = sound()
        kept, leaked = (
            dataclasses.replace(observed, after=dataclasses.replace(IDLE, **{name: was + part * more}))
            for part in (1, 1.1)
        )
        assert find_problems(findings, kept, minutes=0.34) == []
        (problem,) = find_problems(findings, leaked, minutes=0.34)
        assert words in problem
        assert f"was {was / MB:.1f} MB" in problem
        assert f"is {(was + 1.1 * more) / MB:.1f} MB" in problem
        # A long run is judged by its slope: caches have time to fill there.
        assert find_problems(findings, leaked, minutes=2) == []

    def test_first_process_that_decodes_is_no_leak(self) -> None:
        """One that was started under load has nothing to be compared with."""
        assert check_gained(dataclasses.replace(IDLE, worker_bytes=0.0), IDLE, 0.34) == []

    def test_growth_that_ends_is_no_leak(self) -> None:
        """Only the second half counts: caches fill in the first."""
        first, second = series(3, growth=50), series(3)
        level = first[-1].server_bytes - second[0].server_bytes
        flat = [dataclasses.replace(s, at=s.at + 180, server_bytes=s.server_bytes + level) for s in second]
        assert check_memory([*first, *flat], 6) == []

    def test_single_peaks_are_no_leak(self) -> None:
        """A few large pictures near the end do not look like growth."""
        samples = series(6)
        for place in range(330, 350):
            samples[place] = dataclasses.replace(samples[place], server_bytes=2000 * MB)
        assert check_memory(samples, 6) == []

    @pytest.mark.parametrize(
        ("name", "most", "more"),
        [
            ("handles", IDLE.handles + MORE_HANDLES, 1),
            ("threads", IDLE.threads + MORE_THREADS, 1),
            ("processes", IDLE.processes + MORE_PROCESSES, 1),
            ("state_bytes", MAX_STATE_BYTES, 1),
            ("state_pictures", 0, 1),
        ],
    )
    def test_what_is_not_given_back(self, name: str, most: int, more: int) -> None:
        """Up to the bound is fine, one more is a problem that gives the number."""
        assert check_held(IDLE, dataclasses.replace(IDLE, **{name: most})) == []  # type: ignore[arg-type]
        (problem,) = check_held(IDLE, dataclasses.replace(IDLE, **{name: most + more}))  # type: ignore[arg-type]
        assert str(most + more) in problem

    def test_handles_of_a_further_process(self) -> None:
        """A process that was started since may hold what such a process holds."""
        handles = IDLE.handles + MORE_HANDLES + HANDLES_OF_A_PROCESS
        assert check_held(IDLE, dataclasses.replace(IDLE, processes=5, handles=handles)) == []
        assert len(check_held(IDLE, dataclasses.replace(IDLE, processes=5, handles=handles + 1))) == 1

    @pytest.mark.parametrize(
        ("job", "words"),
        [
            (JobRecord("x", end="lost"), "lost"),
            (JobRecord("x"), "did not end"),
            (JobRecord("x", end="failed"), "without a reason"),
            (JobRecord("x", end="failed", reason="internal"), "the server's fault"),
            (JobRecord("x", is_cancelled=True, end="done"), "after they had been cancelled"),
            (JobRecord("x", end="cancelled"), "by nobody"),
            (JobRecord("x", end="done", is_expired=False), "after their time"),
        ],
        ids=["lost", "endless", "no-reason", "internal", "done-though-cancelled", "cancelled", "kept"],
    )
    def test_job_that_is_not_accounted_for(self, job: JobRecord, words: str) -> None:
        """A job that did not end as it should is a problem that names it."""
        (problem,) = check_jobs([JobRecord("a", end="done"), job])
        assert words in problem
        assert "1 jobs" in problem
        assert "x (" in problem

    @pytest.mark.parametrize(("kind", "status"), [("paint", 500), ("paint", 503), ("stop", 500), ("poll", 504)])
    def test_server_errors(self, kind: str, status: int) -> None:
        """No 5xx is in order, but for a 503 of a server that stops."""
        findings, _ = sound()
        assert check_answers(findings) == []
        findings.statuses[kind, status] += 2
        assert check_answers(findings) == [f"{kind}: 2 answers with status {status}."]

    def test_traceback_is_named_by_its_error(self) -> None:
        """The sentence says what was raised; a word in a prompt is no traceback."""
        assert check_log("a Traceback of an angel") == []
        assert check_log(TRACE) == ["The log has 1 tracebacks, the first of ValueError: no."]
        assert "2 tracebacks" in check_log(TRACE * 2)[0]

    def test_health_must_answer(self) -> None:
        """One call without a 200 is a problem, and so is a run in which nobody asked."""
        assert check_health(Findings(health_seconds=[0.1])) == []
        assert len(check_health(Findings(health_seconds=[0.1], health_failures=["503"]))) == 1
        assert len(check_health(Findings())) == 1

    def test_exit_code(self) -> None:
        """A server that has to be killed is a problem."""
        assert check_exit(0) == []
        assert len(check_exit(-9)) == 1

    def test_figures_of_a_run(self) -> None:
        """The table has the load, the jobs by their ends, health, and what was held."""
        rows = {figure.name: figure.value for figure in make_figures(*sound(), minutes=5, seed=3)}
        assert rows["calls"] == 29
        assert rows["jobs: gone"] == 1
        assert rows["health, slowest"] == 500
        assert rows["handles: before, most, after"] == "50 / 50 / 50"
        assert rows["growth of the server's memory, second half"] == pytest.approx(0, abs=0.1)


class TestLoad:
    """The callers."""

    def test_huge_picture_is_a_sound_file(self) -> None:
        """It is refused for its size alone: a decoder reads the header without complaint."""
        from sd_inpaint.errors import ImageTooLargeError
        from sd_inpaint.imaging import codecs

        with pytest.raises(ImageTooLargeError):
            codecs.decode_image(huge_png(), max_pixels=52_000_000)

    def test_every_size_is_painted_before_anything_is_measured(self, server: Served) -> None:
        """The warm-up has a picture of each size, and all formats among them."""
        load = Load(server.url, seed=-1)
        asyncio.run(load.paint_each_size())
        assert load.findings.unexpected == []
        assert load.findings.statuses == {("paint", 200): len(SIZES)}
        assert len(SIZES) >= len(MEDIA_TYPES)

    def test_server_that_is_not_there(self) -> None:
        """Calls without an answer are noted, and the run ends."""
        load = Load(f"http://127.0.0.1:{free_port()}", seed=1)
        asyncio.run(load.run(0.5))
        assert load.findings.health_failures
        assert any("was not answered" in line for line in load.findings.unexpected)


class TestSampling:
    """What is read from ``/proc``."""

    def test_tree_and_memory_of_a_process(self) -> None:
        """Grandchildren count; a process that holds 50 MB more is seen to."""
        code = "import sys; held = bytearray(b'x' * {}); print('ready', flush=True); sys.stdin.read()"
        sizes = []
        for held in (1, 50_000_000):
            script = f'{sys.executable} -c "{code.format(held)}"; true'
            shell = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            with shell:
                assert shell.stdin
                assert shell.stdout
                shell.stdout.readline()
                (python,) = set(tree(shell.pid)) - {shell.pid}
                assert {shell.pid, python} <= set(tree(os.getpid()))
                sizes.append(memory_bytes(Path(f"/proc/{python}")))
                shell.stdin.close()
        assert sizes[1] - sizes[0] == pytest.approx(50e6, rel=0.1)


class TestCommand:
    """``scripts/soak``."""

    @pytest.mark.parametrize("arguments", [[], ["--minutes", "0"], ["--minutes", "1", "--url", "localhost:8000"]])
    def test_usage_errors(self, arguments: list[str]) -> None:
        """What makes no sense is refused before anything is started."""
        with pytest.raises(SystemExit) as left:
            soak.main(arguments)
        assert left.value.code == 2

    def test_problems_are_an_exit_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With a problem the command says so in a sentence, and exits with 1."""
        address = f"http://127.0.0.1:{free_port()}"
        assert soak.main(["--minutes", "0.005", "--url", address]) == 1
        assert "Health was never answered." in capsys.readouterr().out

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_demo_model_passes(self) -> None:
        """Twenty seconds of everything at once: nothing leaks, and no job is lost."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tools.soak", "--minutes", "0.34", "--json"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outcome = json.loads(done.stdout)
        assert outcome["problems"] == []
        rows = {figure["name"]: figure["value"] for figure in outcome["figures"]}
        assert rows["calls: paint, 200"] > 0
        assert rows["jobs: done"] > 0
        assert rows["jobs: seen to be gone after their time"] > 0
