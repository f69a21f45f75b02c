"""What a client does, step by step, without a socket: see :mod:`sd_inpaint.client.exchange`."""

import base64
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from sd_inpaint.client.errors import NoAnswerError
from sd_inpaint.client.events import EventLines
from sd_inpaint.client.exchange import Answer, Flow, Follow, Request, UnreachableError
from sd_inpaint.client.options import form_texts
from sd_inpaint.client.results import Job, Progress, Result, read_job, read_json, read_result
from sd_inpaint.client.retries import NO_RETRIES, Attempts, Notify, Retries, pause_after, send
from sd_inpaint.errors import InpaintError
from sd_inpaint.schema import InpaintParameters

JOBS = "/sd-inpaint/jobs"
HEALTH = "/sd-inpaint/health"
INFO = "/sd-inpaint/info"
PREVIEW = "/sd-inpaint/preview"

OnProgress: TypeAlias = Callable[[Progress], None]

UPLOAD_READ_SECONDS = 600.0
"""How long an upload may wait for its answer: pictures wait for their turn to be decoded."""

EVENTS_READ_SECONDS = 60.0
"""A silence this long is a broken connection: the service sends a comment every 15 seconds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a client waits.

    Attributes:
        retries: How often it sends a request again.
        notify: Gets why it waits, and for how long.
    """

    retries: Retries
    notify: Notify | None = None


def get_json(path: str, patience: Patience) -> Flow[dict[str, Any]]:
    """Reads a JSON object."""
    answer = yield from send(Request("GET", path), patience.retries, patience.notify)
    return read_json(answer)


def submit(files: Mapping[str, bytes], parameters: InpaintParameters, key: str | None, patience: Patience) -> Flow[Job]:
    """Has a job accepted, once: however often it is sent, its Idempotency-Key is the same."""
    request = Request(
        "POST",
        JOBS,
        headers={"Idempotency-Key": key or new_key()},
        fields=form_texts(parameters),
        files=files,
        read_seconds=UPLOAD_READ_SECONDS,
    )
    answer = yield from send(request, patience.retries, patience.notify)
    return read_job(read_json(answer), was_there="idempotent-replayed" in answer.headers)


def get_job(job_id: str, patience: Patience) -> Flow[Job]:
    """Looks a job up."""
    facts = yield from get_json(_path(job_id), patience)
    return read_job(facts)


def cancel(job_id: str, patience: Patience) -> Flow[None]:
    """Cancels a job, or deletes its result."""
    yield from send(Request("DELETE", _path(job_id)), patience.retries, patience.notify)


def get_result(job_id: str, patience: Patience) -> Flow[Result]:
    """Reads a result; raises what ended the job, if there is none."""
    request = Request("GET", f"{_path(job_id)}/result", read_seconds=UPLOAD_READ_SECONDS)
    answer = yield from send(request, patience.retries, patience.notify)
    return read_result(answer, job_id)


def preview(image: bytes, patience: Patience) -> Flow[tuple[bytes, tuple[int, int]]]:
    """Has a picture shown small; returns a PNG, and the (width, height) of the picture itself."""
    request = Request("POST", PREVIEW, files={"image": image}, read_seconds=UPLOAD_READ_SECONDS)
    answer = yield from send(request, patience.retries, patience.notify)
    try:
        width, height = map(int, answer.headers["x-image-size"].split("x"))
    except (KeyError, ValueError):
        raise NoAnswerError("The answer is not this service's: it has no X-Image-Size.") from None
    return answer.body, (width, height)


def wait(job_id: str, patience: Patience, on_progress: OnProgress | None, timeout: float | None) -> Flow[Job]:
    """Follows a job to its end, over as many connections as that takes.

    Raises:
        TimeoutError: If it has not ended after ``timeout`` seconds; it goes on.
    """
    lines, attempts = EventLines(), Attempts(patience.retries, patience.notify)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        follower = _Follower(lines, on_progress, deadline)
        headers = {"Accept": "text/event-stream"}
        if lines.last_id is not None:
            headers["Last-Event-ID"] = lines.last_id
        request = Request("GET", f"{_path(job_id)}/events", headers=headers, read_seconds=EVENTS_READ_SECONDS)
        answer: Answer | None = None
        try:
            answer = yield Follow(request, follower.take)
        except UnreachableError as error:
            failure = NoAnswerError(str(error))
        else:
            failure = NoAnswerError("The connection ended before the job did.")
        if follower.job is not None and follower.job.has_ended:
            return follower.job
        if answer is not None and answer.status == 204:
            # The job ended while nobody was connected.
            return (yield from get_job(job_id, patience))
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"The job {job_id} has not ended after {timeout:g} seconds.")
        if follower.job is not None:
            attempts.succeeded()
        if answer is not None and answer.status != 200:
            yield pause_after(answer, request, attempts)
        else:
            yield attempts.pause(failure, lines.retry_seconds)


def inpaint(
    files: Mapping[str, bytes],
    parameters: InpaintParameters,
    key: str | None,
    patience: Patience,
    on_progress: OnProgress | None,
    timeout: float | None,
) -> Flow[Result]:
    """Has a picture painted, and its job removed: nobody else knows of it. With the caller's own key it stays."""
    job = yield from submit(files, parameters, key, patience)
    try:
        yield from wait(job.id, patience, on_progress, timeout)
        result = yield from get_result(job.id, patience)
    finally:
        # Also if the caller gave up: nobody would read the picture.
        if key is None:
            with contextlib.suppress(InpaintError):
                yield from cancel(job.id, Patience(NO_RETRIES))
    return result


def new_key() -> str:
    """Makes an Idempotency-Key."""
    return str(uuid.uuid4())


class _Follower:
    """Reads a job's events off one connection."""

    def __init__(self, lines: EventLines, on_progress: OnProgress | None, deadline: float | None) -> None:
        self.job: Job | None = None
        self._lines = lines
        self._on_progress = on_progress
        self._deadline = deadline
        self._preview: bytes | None = None
        lines.begin()

    def take(self, line: str) -> bool:
        """Takes a line; returns whether that was enough."""
        event = self._lines.take(line)
        if event is None:
            return self._deadline is not None and time.monotonic() >= self._deadline
        facts = json.loads(event.data)
        if event.name == "preview":
            self._preview = base64.b64decode(facts["image"].partition(",")[2])
            return False
        self.job = read_job(facts)
        if self._on_progress is not None:
            self._on_progress(Progress(self.job, self._preview))
        self._preview = None
        return self.job.has_ended


def _path(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"
