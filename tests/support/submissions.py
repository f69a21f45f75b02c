"""What stores of jobs are given in tests: owners, submissions, reports and results."""

from sd_inpaint.jobs.job import JobProgress, JobResult, JobState, Submission
from sd_inpaint.schema import InpaintParameters
from tests.support.pictures import hole, photo, written

TTL = 100.0
LEASE = 10.0
OTHER = "another process"
ME = "this process"

IMAGE, MASK = written(photo()), written(hole())


def submission(
    *,
    key: str | None = None,
    seed: int = 7,
    sent_seed: int | None = None,
    steps: int = 4,
    caller: str | None = None,
) -> Submission:
    """Makes what a caller sends."""
    sent = InpaintParameters(prompt="a rose", num_inference_steps=steps, seed=seed if sent_seed is None else sent_seed)
    return Submission(IMAGE, MASK, sent, seed=seed, key=key, caller=caller)


def progress(state: JobState = JobState.RUNNING, step: int = 1, preview: bytes | None = None) -> JobProgress:
    """Makes a report of a job that is under way."""
    return JobProgress(state, step, 4, 0, 1.5, preview)


def result() -> JobResult:
    """Makes a result of two pictures."""
    return JobResult((b"first", b"second!"), (7, 8), "demo", 4, 0.5, ("0,0,70,53 x1.000",))
