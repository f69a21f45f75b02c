"""A job's progress as server-sent events, whichever process works on it."""

import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import anyio.to_thread
from PIL import Image

from sd_inpaint.errors import JobNotFoundError, MachineError
from sd_inpaint.http.wire import sse
from sd_inpaint.jobs.job import Job
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.jobs.running_job import REGION

POLL_SECONDS = 0.25
"""How often the store is read; it is written as often."""

RECONNECT_MILLISECONDS = 2000


async def stream_events(
    runner: JobRunner, job: Job, describe: Callable[[Job], Mapping[str, object]]
) -> AsyncIterator[str]:
    """Yields events from ``job`` as it is now to its end: ``progress``, ``preview``, then one named as its last state.

    A client that reconnects gets the job's current state, whatever it saw before. Ends without a last event if the
    job was deleted or this process stops; an EventSource then reconnects and gets the answer.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    previewed, version, sent_at = 0, 0, time.monotonic()
    while True:
        if job.version != version:
            if job.preview_version != previewed and not job.state.ended:
                previewed = job.preview_version
                if png := await anyio.to_thread.run_sync(_preview, runner, job.id):
                    yield sse.event("preview", preview_event(job.step, png))
            version, sent_at = job.version, time.monotonic()
            yield sse.event(str(job.state) if job.state.ended else "progress", describe(job), version)
        elif time.monotonic() - sent_at >= sse.KEEP_ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield sse.KEEP_ALIVE
        if job.state.ended:
            return
        await anyio.sleep(POLL_SECONDS)
        try:
            job = await anyio.to_thread.run_sync(runner.store.get, job.id)
        except (JobNotFoundError, MachineError):
            return


def preview_event(step: int, png: bytes) -> dict[str, object]:
    """Returns what the event says of a preview's file."""
    return {"step": step, "image": _data_url(png), "region": _region(png)}


def _preview(runner: JobRunner, job_id: str) -> bytes | None:
    try:
        return runner.store.preview(job_id)
    except (JobNotFoundError, MachineError):
        return None  # the next look at the job finds out


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _region(png: bytes) -> list[float] | None:
    with Image.open(io.BytesIO(png)) as image:
        text = image.info.get(REGION)
    return None if text is None else [float(edge) for edge in text.split(",")]
