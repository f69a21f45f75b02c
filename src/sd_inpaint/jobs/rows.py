"""How an accepted job, its result and its error are written into columns of a database, and read again."""

import itertools
import json
from dataclasses import asdict
from typing import Any, Final, Protocol

from sd_inpaint.jobs.job import Job, JobError, JobResult, JobState, ResultExtent
from sd_inpaint.schema import InpaintParameters

COLUMNS: Final = (
    "id, state, version, preview_version, parameters, step, steps, queue_position, seconds_left, runs,"
    " created_at, started_at, finished_at, expires_at, deadline_at, error, fingerprint, caller"
)
"""The columns that :func:`read_job` reads: all but the large ones."""


class Row(Protocol):
    """One row of an answer."""

    def __getitem__(self, column: str, /) -> Any:
        """Returns the value in a column."""


def read_job(row: Row) -> Job:
    """Makes a job of a row that has :data:`COLUMNS`."""
    error = None if row["error"] is None else JobError(**json.loads(row["error"]))
    names = ("id", "caller", "version", "preview_version", "step", "steps", "queue_position", "seconds_left", "runs")
    times = ("created_at", "started_at", "finished_at", "expires_at", "deadline_at")
    return Job(
        state=JobState(row["state"]),
        parameters=InpaintParameters.model_validate_json(row["parameters"]),
        error=error,
        **{name: row[name] for name in (*names, *times)},
    )


def write_error(error: JobError) -> str:
    """Writes an error as JSON."""
    return json.dumps({"code": error.code, "sentence": error.sentence, "facts": error.facts}, default=str)


def write_result(result: JobResult) -> tuple[str, bytes]:
    """Writes a result as JSON, and its pictures one after another: each once, though it be there several times."""
    facts = {name: value for name, value in asdict(result).items() if name != "pictures"}
    different, extent = result.different, result.extent
    places = {id(picture): place for place, picture in enumerate(different)}
    facts["sizes"] = [len(picture) for picture in different]
    facts["order"] = [places[id(picture)] for picture in result.pictures]
    facts["pixels"] = extent.pixels
    return json.dumps(facts), b"".join(different)


def read_extent(written: str) -> ResultExtent:
    """Reads how large a result is."""
    facts = json.loads(written)
    file_bytes = sum(facts["sizes"])
    # Results of earlier versions do not say; few pictures take less than a byte a pixel.
    return ResultExtent(len(facts["seeds"]), file_bytes, facts.get("pixels", file_bytes))


def read_result(written: str, data: bytes) -> JobResult:
    """Reads what :func:`write_result` wrote."""
    facts = json.loads(written)
    ends = list(itertools.accumulate(facts.pop("sizes"), initial=0))
    facts.pop("pixels", None)
    different = [data[start:end] for start, end in itertools.pairwise(ends)]
    # Results that were written before pictures could be shared have no order.
    pictures = tuple(different[place] for place in facts.pop("order", range(len(different))))
    return JobResult(pictures=pictures, seeds=tuple(facts.pop("seeds")), regions=tuple(facts.pop("regions")), **facts)
