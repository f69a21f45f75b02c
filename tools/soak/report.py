"""What a soak test comes to: the checks, each of which is a sentence if it fails, and the table of figures."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise

import numpy as np

from tools.soak.load import ENDED, Findings, JobRecord
from tools.soak.process import Sample

MB = 1e6

SLOPE_BOUNDS = ((5.0, 1.5), (2.0, 6.0))
"""Minutes from which a bound holds, and the bound in MB a minute: a short run has caches that still fill.

Shorter runs have no slope to judge: over a few seconds it is the working memory of one picture.
"""

MORE_SERVER_BYTES = 40 * MB
MORE_WORKER_BYTES = 8 * MB
"""What a run too short for a slope may add without load: some 6 MB for each of six sizes of canvas, and codecs."""

MOST_STRETCHES = 30
LEAST_SAMPLES = 3
"""How finely a series is cut for its slope: into so many stretches at most, of so many samples at least."""

MORE_HANDLES = 8
MORE_THREADS = 8
MORE_PROCESSES = 8
"""What may be there at the end beside what was there after the warm-up; processes that decode start when needed."""

HANDLES_OF_A_PROCESS = 16
THREADS_OF_A_PROCESS = 4
"""What each further process may add."""

MAX_STATE_BYTES = 8 * 1024**2
"""Of the state folder after all results have expired: the database, and its log of up to 4 MiB."""

TRACEBACK = "Traceback (most recent call last)"

STOPPING = ("stop", "after stop")
"""Kinds of calls that a server may refuse with a 503, since it is about to end."""

REASONS_OF_THE_SERVER = ("internal", "invalid_output", "job_lost", "out_of_memory")
"""Codes of failed jobs that no small, sound request should meet."""


@dataclass(frozen=True)
class Observed:
    """What there is to see of a server of one's own.

    Attributes:
        before: After the warm-up, without load.
        loaded: Once a second, under load.
        after: Without load, once all results have expired.
        log: All of it.
        exit_code: After SIGTERM.
    """

    before: Sample
    loaded: Sequence[Sample]
    after: Sample
    log: str
    exit_code: int


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: float | str
    unit: str = ""

    def __str__(self) -> str:
        """The row, in Markdown."""
        shown = self.value if isinstance(self.value, str) else f"{self.value:,.3f}".rstrip("0").rstrip(".")
        return f"| {self.name} | {shown} | {self.unit} |"


def check_answers(findings: Findings) -> list[str]:
    """Finds answers that no caller should get, server errors first."""
    problems = [
        f"{kind}: {count} answers with status {status}."
        for (kind, status), count in sorted(findings.statuses.items())
        if status >= 500 and not (status == 503 and kind in STOPPING)
    ]
    return problems + _listed("answers were not as expected", findings.unexpected)


def check_health(findings: Findings) -> list[str]:
    """Finds calls of health without a 200."""
    if not findings.health_seconds:
        return ["Health was never answered."]
    return _listed("calls of health were not answered with 200", findings.health_failures)


def check_jobs(jobs: Iterable[JobRecord]) -> list[str]:
    """Finds jobs that were lost, did not end as they should, or outlived their time."""
    rules: tuple[tuple[str, Callable[[JobRecord], bool]], ...] = (
        ("jobs were lost", lambda job: job.end == "lost"),
        ("jobs did not end", lambda job: job.end is None),
        ("jobs failed without a reason", lambda job: job.end == "failed" and not job.reason),
        ("jobs failed by the server's fault", lambda job: job.reason in REASONS_OF_THE_SERVER),
        ("jobs were done after they had been cancelled", lambda job: job.is_cancelled and job.end == "done"),
        ("jobs were cancelled by nobody", lambda job: not job.is_cancelled and job.end == "cancelled"),
        ("jobs were still there after their time", lambda job: job.is_expired is False),
    )
    records = list(jobs)
    return [
        problem
        for what, is_so in rules
        for problem in _listed(what, [f"{job.id} ({job.reason or job.end})" for job in records if is_so(job)])
    ]


def check_log(log: str) -> list[str]:
    """Finds tracebacks; the sentence has what was raised in the first."""
    count = log.count(TRACEBACK)
    if not count:
        return []
    raised = re.search(rf"{re.escape(TRACEBACK)}.*?^(?![ \t\n|+])([^\n]+)", log, re.DOTALL | re.MULTILINE)
    return [f"The log has {count} tracebacks, the first of {raised[1] if raised else 'an unknown error'}."]


def check_memory(loaded: Sequence[Sample], minutes: float) -> list[str]:
    """Finds memory that grows over the second half of a run, in the server or in a process that decodes."""
    bound = slope_bound(minutes)
    return [
        f"{name} grew by {slope / MB:.2f} MB a minute over the second half; the bound is {bound} MB."
        for name, slope in (
            ("The server's memory", memory_slope(loaded, lambda sample: sample.server_bytes)),
            ("The memory of a process that decodes", memory_slope(loaded, lambda sample: sample.worker_bytes)),
        )
        if slope / MB > bound
    ]


def check_gained(before: Sample, after: Sample, minutes: float) -> list[str]:
    """Finds memory that a run too short for a slope has not given back, in the server or in a process that decodes."""
    if math.isfinite(slope_bound(minutes)):
        return []
    series = (
        ("the server", before.server_bytes, after.server_bytes, MORE_SERVER_BYTES),
        ("a process that decodes", before.worker_bytes, after.worker_bytes, MORE_WORKER_BYTES),
    )
    return [
        f"The memory of {name} was {was / MB:.1f} MB after the warm-up, and is {now / MB:.1f} MB at the end; "
        f"{more / MB:.0f} MB more are allowed."
        for name, was, now, more in series
        # No process that decodes was there to compare with.
        if was and now > was + more
    ]


def check_held(before: Sample, after: Sample) -> list[str]:
    """Finds handles, threads and processes that were not given back, and a state folder that did not shrink."""
    added = max(0, after.processes - before.processes)
    bounds = (
        ("processes", before.processes, after.processes, MORE_PROCESSES),
        ("handles", before.handles, after.handles, MORE_HANDLES + added * HANDLES_OF_A_PROCESS),
        ("threads", before.threads, after.threads, MORE_THREADS + added * THREADS_OF_A_PROCESS),
    )
    problems = [
        f"There are {now} {what} at the end, and there were {was} after the warm-up; {more} more are allowed."
        for what, was, now, more in bounds
        if now > was + more
    ]
    if after.state_bytes > MAX_STATE_BYTES:
        problems.append(f"The state folder takes {after.state_bytes} bytes at the end; the bound is {MAX_STATE_BYTES}.")
    if after.state_pictures:
        problems.append(f"The state folder has {after.state_pictures} files of jobs that have expired.")
    return problems


def check_exit(exit_code: int) -> list[str]:
    """Finds a server that did not stop by itself."""
    return [f"After SIGTERM the server ended with code {exit_code}."] if exit_code else []


def find_problems(findings: Findings, observed: Observed | None, minutes: float) -> list[str]:
    """Runs all checks; those of processes, state and log only where they can be seen."""
    problems = [*check_answers(findings), *check_health(findings), *check_jobs(findings.jobs.values())]
    if observed is not None:
        problems += check_memory(observed.loaded, minutes)
        problems += check_gained(observed.before, observed.after, minutes)
        problems += check_held(observed.before, observed.after)
        problems += check_log(observed.log)
        problems += check_exit(observed.exit_code)
    return problems


def slope_bound(minutes: float) -> float:
    """Returns the bound on the growth of memory in MB a minute; infinity for a run of too few minutes to have one."""
    return next((bound for least, bound in SLOPE_BOUNDS if minutes >= least), math.inf)


def memory_slope(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Returns how fast a series grows over its second half, in bytes a minute.

    Of each stretch the least counts, since a leak lifts that too, and work in progress does not. The slope is the
    median of those between all pairs.

    Source: Sen, Estimates of the regression coefficient based on Kendall's tau (1968).
    """
    half = [(sample.at, of(sample)) for sample in samples[len(samples) // 2 :]]
    stretches = min(MOST_STRETCHES, len(half) // LEAST_SAMPLES)
    if stretches < 2:
        return 0.0
    edges = [len(half) * number // stretches for number in range(stretches + 1)]
    lows = [min(half[start:end], key=lambda point: point[1]) for start, end in pairwise(edges)]
    slopes = [(later - low) / (then - at) for (at, low), (then, later) in combinations(lows, 2)]
    return 60 * statistics.median(slopes)


def make_figures(findings: Findings, observed: Observed | None, minutes: float, seed: int) -> list[Figure]:
    """Makes the table."""
    calls = Counter[str]()
    for (kind, status), count in findings.statuses.items():
        calls[f"{kind}, {status or 'left'}"] += count
    ends = Counter(job.end or "without an end" for job in findings.jobs.values())
    health = np.array(findings.health_seconds or [np.nan]) * 1000
    figures = [
        Figure("length", minutes, "minutes"),
        Figure("seed", seed),
        Figure("calls", sum(calls.values())),
        *(Figure(f"calls: {name}", count) for name, count in sorted(calls.items())),
        Figure("accepted jobs", len(findings.jobs)),
        *(Figure(f"jobs: {end}", ends[end]) for end in (*ENDED, *sorted(ends.keys() - set(ENDED)))),
        Figure("jobs: seen to be gone after their time", sum(job.is_expired is True for job in findings.jobs.values())),
        Figure("health, answers", len(findings.health_seconds)),
        *(Figure(f"health, p{part}", float(np.percentile(health, part)), "ms") for part in (50, 99)),
        Figure("health, slowest", float(health.max()), "ms"),
    ]
    return figures + ([] if observed is None else _figures_of_server(observed))


def _figures_of_server(observed: Observed) -> list[Figure]:
    before, loaded, after = observed.before, observed.loaded, observed.after
    most = {name: max((asdict(s)[name] for s in loaded), default=0) for name in asdict(before)}
    slopes = (memory_slope(loaded, lambda s: s.server_bytes), memory_slope(loaded, lambda s: s.worker_bytes))
    scales = (
        ("memory of the server", "server_bytes", MB, "MB"),
        ("memory of a process that decodes", "worker_bytes", MB, "MB"),
        ("processes", "processes", 1, ""),
        ("handles", "handles", 1, ""),
        ("threads", "threads", 1, ""),
        ("state folder", "state_bytes", MB, "MB"),
        ("files of jobs", "state_pictures", 1, ""),
    )
    return [
        *(
            Figure(f"{name}: before, most, after", " / ".join(f"{v / scale:,.4g}" for v in values), unit)
            for name, key, scale, unit in scales
            for values in [(getattr(before, key), most[key], getattr(after, key))]
        ),
        Figure("growth of the server's memory, second half", slopes[0] / MB, "MB a minute"),
        Figure("growth of a decoding process's memory, second half", slopes[1] / MB, "MB a minute"),
        Figure("exit code after SIGTERM", observed.exit_code),
    ]


def _listed(what: str, cases: Sequence[str]) -> list[str]:
    """Makes one sentence of many cases: how many, and the first."""
    return [f"{len(cases)} {what}, the first: {cases[0]}"] if cases else []
