"""A job's progress as server-sent events (WHATWG HTML, section 9.2), whichever process paints it."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.to_thread

from sd_inpaint.errors import JobNotFoundError, MachineError
from sd_inpaint.runner import JobRunner
from sd_inpaint.store import AcceptedJob

POLL_SECONDS = 0.25
"""How often the store is asked for news; it is written as often."""

KEEP_ALIVE_SECONDS = 15.0
"""Proxies close a connection on which nothing was sent for a minute, or for half of one."""

RECONNECT_MILLISECONDS = 2000


async def stream_events(
    runner: JobRunner, job: AcceptedJob, describe: Callable[[AcceptedJob], dict[str, object]]
) -> AsyncIterator[str]:
    """Yields events from ``job`` as it is now to its end: ``progress``, ``preview``, then one named as its last state.

    A client that connects again is told where the job is, whatever it saw before. Ends without a last event where the
    job was deleted or this process stops; an EventSource then connects again, and is told.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    previewed, version, sent_at = 0, 0, time.monotonic()
    while True:
        if job.version != version:
            if job.preview_version != previewed and not job.state.ended:
                previewed = job.preview_version
                if png := await anyio.to_thread.run_sync(_preview, runner, job.id):
                    yield _event("preview", {"step": job.step, "image": _data_url(png)})
            version, sent_at = job.version, time.monotonic()
            yield _event(str(job.state) if job.state.ended else "progress", describe(job), version)
        elif time.monotonic() - sent_at >= KEEP_ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield ": keep-alive\n\n"
        if job.state.ended:
            return
        await anyio.sleep(POLL_SECONDS)
        try:
            job = await anyio.to_thread.run_sync(runner.store.get, job.id)
        except (JobNotFoundError, MachineError):
            return


def _preview(runner: JobRunner, identity: str) -> bytes | None:
    try:
        return runner.store.preview(identity)
    except (JobNotFoundError, MachineError):
        return None  # the next look at the job says what has become of it


def _event(name: str, data: dict[str, object], version: int | None = None) -> str:
    """Writes one event; JSON has no line breaks of its own. Only those with a version move Last-Event-ID."""
    identity = "" if version is None else f"id: {version}\n"
    return f"event: {name}\n{identity}data: {json.dumps(data)}\n\n"


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
