"""Jobs: the form of ``/sd-inpaint/inpaint`` accepted at once, painted in the background, looked up and followed."""

import hashlib
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import NotRequired, cast

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from sd_inpaint.admission import finish_bytes_per_pixel
from sd_inpaint.errors import (
    IdempotencyConflictError,
    ImageTooLargeError,
    InpaintError,
    InvalidParameterError,
    JobLostError,
    JobNotFoundError,
    JobNotReadyError,
    NotAcceptableError,
    QueueFullError,
    ShuttingDownError,
    StateUnavailableError,
)
from sd_inpaint.http.endpoints.inpainting import PAINTED, Inpainting, describe_inpaint
from sd_inpaint.http.endpoints.job_events import stream_events
from sd_inpaint.http.endpoints.painting import NOT_OPEN, PAINTS, READS_PAIR, Painting, deadline_parameter
from sd_inpaint.http.middleware.access_log import request_id
from sd_inpaint.http.middleware.api_keys import caller_of
from sd_inpaint.http.middleware.caller_usage import usage_of
from sd_inpaint.http.middleware.path_prefix import path_prefix
from sd_inpaint.http.wire import sse
from sd_inpaint.http.wire.errors import Error, error_body, error_response
from sd_inpaint.http.wire.formats import ResultFormat, check_job_format, choose_format, choose_job_format
from sd_inpaint.http.wire.forms import READS_FORM
from sd_inpaint.http.wire.headers import IDEMPOTENCY_KEY, NO_STORE
from sd_inpaint.http.wire.operations import Answer, DescribedRoute, JsonSchema, Operation, Parameter, json_answer
from sd_inpaint.http.wire.parameters import parameter_schemas, replace_parameters
from sd_inpaint.http.wire.paths import JOBS
from sd_inpaint.http.wire.results import render
from sd_inpaint.imaging import codecs
from sd_inpaint.jobs.job import Job, JobState, Submission
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.jobs.store import UNKNOWN_JOB
from sd_inpaint.schema import InpaintParameters

TAG = "jobs"

_FORMAT_FIELDS = ("output_format", "quality")

_KEY = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")


class JobJson(TypedDict):
    """A job as callers see it."""

    id: str
    state: JobState
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None
    seed: int
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    url: str
    events: str
    result: NotRequired[str]
    error: NotRequired[Error]


_ID = Parameter("id", "path", {"type": "string"}, "The job's id.")

_LINKS: dict[str, JsonSchema] = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("get_job", "get_job_result", "get_job_events", "delete_job")
}

_UNKNOWN = (JobNotFoundError, StateUnavailableError, ShuttingDownError)


def _describe_post(longest_seconds: float) -> Operation:
    key = {"type": "string", "pattern": f"^{_KEY.pattern}$"}
    inpaint = describe_inpaint(longest_seconds)
    headers = {
        "Location": {"description": "The job's URL.", "required": True},
        "Idempotent-Replayed": {"description": "true if this key has accepted the job before."},
    }
    return replace(
        inpaint,
        id="post_job",
        tag=TAG,
        summary="Submit a job",
        description="Takes the form of /sd-inpaint/inpaint. The job runs in the background and survives restarts of "
        "the server.",
        parameters=(*inpaint.parameters, Parameter(IDEMPOTENCY_KEY, "header", key, "Makes a retry safe.")),
        answers={202: json_answer("Accepted.", JobJson, headers=headers, links=_LINKS)},
        errors=(*NOT_OPEN, *READS_FORM, *READS_PAIR, IdempotencyConflictError, StateUnavailableError),
    )


_GET = Operation(
    id="get_job",
    tag=TAG,
    summary="A job's progress",
    parameters=(_ID,),
    answers={200: json_answer("The job.", JobJson)},
    errors=_UNKNOWN,
)

_DELETE = Operation(
    id="delete_job",
    tag=TAG,
    summary="Cancel a job, or delete its result",
    parameters=(_ID,),
    answers={204: Answer("Cancelled or deleted.")},
    errors=_UNKNOWN,
)

_EVENTS = Operation(
    id="get_job_events",
    tag=TAG,
    summary="A job's progress, live",
    description="Server-sent events: progress and preview on the way, then done, failed or cancelled.",
    parameters=(_ID, Parameter("Last-Event-ID", "header", {"type": "string"}, "The id of the last event you got.")),
    answers={
        200: Answer("The events.", {sse.MEDIA_TYPE: sse.Event}),
        204: Answer("You got the last event: do not connect again."),
    },
    errors=_UNKNOWN,
)


def _describe_result(longest_seconds: float) -> Operation:
    schemas = parameter_schemas()
    formats = tuple(
        Parameter(name, "query", schemas[name], schemas[name].get("description", "")) for name in _FORMAT_FIELDS
    )
    return Operation(
        id="get_job_result",
        tag=TAG,
        summary="A job's result",
        description="Answers as /sd-inpaint/inpaint would have, in the job's own output_format unless this request "
        "asks for another.",
        parameters=(_ID, *formats, deadline_parameter(longest_seconds)),
        answers={200: PAINTED},
        errors=(
            *_UNKNOWN,
            JobNotReadyError,
            InvalidParameterError,
            NotAcceptableError,
            ImageTooLargeError,
            QueueFullError,
            JobLostError,
            *PAINTS,
        ),
    )


class Jobs:
    """Answers everything under ``/sd-inpaint/jobs``. Lives as long as the server; serves any number of requests."""

    def __init__(self, painting: Painting, inpainting: Inpainting, runner: JobRunner) -> None:
        self._painting = painting
        self._inpainting = inpainting
        self._runner = runner

    def routes(self) -> list[DescribedRoute]:
        """Returns the routes below ``/sd-inpaint``."""
        longest = self._painting.longest_seconds
        return [
            DescribedRoute("/jobs", self.post, _describe_post(longest), method="POST"),
            DescribedRoute("/jobs/{id}", self.get, _GET),
            DescribedRoute("/jobs/{id}", self.delete, _DELETE, method="DELETE"),
            DescribedRoute("/jobs/{id}/result", self.get_result, _describe_result(longest)),
            DescribedRoute("/jobs/{id}/events", self.get_events, _EVENTS),
        ]

    async def post(self, request: Request) -> Response:
        """Accepts a job: 202 with its URL, once nothing short of a broken disk can lose it."""
        # 1. Refuse what can be refused before the body is read. With a key this may be a retry of a job that
        #    was accepted, which even a full queue answers.
        key = _read_key(request)
        self._runner.check_open()
        if key is None:
            self._painting.check_open(request)
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        form, parameters = await self._inpainting.read_form(request)
        image_format = check_job_format(parameters)
        submission = Submission(
            image=form.files["image"],
            mask=form.files["mask"],
            parameters=parameters,
            key=key,
            deadline_at=None if deadline_seconds is None else time.time() + deadline_seconds,
            caller=caller_of(request).name,
        )
        # 3. Get a place in the queue, and one on the disk.
        job = await self._runner.find(submission)
        was_there = job is not None
        if job is None:
            admitted = await self._painting.admit(request, submission.image, submission.mask, parameters)
            try:
                codecs.check_encodable(admitted.size, image_format)
            except InpaintError:
                admitted.release()
                raise
            job, was_there = await self._runner.accept(submission, admitted, usage_of(request))
        shown = describe(job, path_prefix(request))
        headers = {"Location": shown["url"], **NO_STORE}
        if was_there:
            headers["Idempotent-Replayed"] = "true"
        return JSONResponse(shown, status_code=202, headers=headers)

    async def get(self, request: Request) -> Response:
        """Describes a job's progress."""
        return JSONResponse(describe(await self._find(request), path_prefix(request)), headers=NO_STORE)

    async def get_result(self, request: Request) -> Response:
        """Answers as ``POST /sd-inpaint/inpaint`` would have: with the picture, or the error."""
        job = await self._find(request)
        if job.error is not None:
            return error_response(job.error)
        if job.state is JobState.CANCELLED:
            raise JobNotFoundError("The job was cancelled and has no result.", state=str(job.state))
        if job.state is not JobState.DONE:
            raise JobNotReadyError("The job is not done yet.", state=str(job.state), seconds_left=job.seconds_left)
        result_format = _choose_format(request, job.parameters)
        extent = await anyio.to_thread.run_sync(self._runner.store.result_extent, job.id)
        size = extent.file_bytes * (1 + extent.count) + extent.pixels * finish_bytes_per_pixel(
            result_format.image_format
        )
        async with self._painting.memory_for(request, size):
            return await self._painting.encode(self._render, job, result_format, request_id(request))

    def _render(self, job: Job, result_format: ResultFormat, request_id: str) -> Response:
        kept = self._runner.store.result(job.id)
        result = kept.decode()
        codecs.check_encodable(result.size, result_format.image_format)
        return render(
            result,
            result_format=result_format,
            model=kept.model,
            request_id=request_id,
            parameters=self._painting.metadata(job.parameters),
            credentials=self._painting.credentials,
        )

    async def delete(self, request: Request) -> Response:
        """Cancels a job, or deletes the result of one that has ended."""
        caller = caller_of(request).name
        await anyio.to_thread.run_sync(self._runner.cancel, request.path_params["id"], caller)
        return Response(status_code=204)

    async def get_events(self, request: Request) -> Response:
        """Streams a job's progress, until it has ended or the client disconnects."""
        job = await self._find(request)
        if job.state.ended and request.headers.get("last-event-id") == str(job.version):
            # The one answer upon which a browser's EventSource does not connect again.
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
        return sse.stream(stream_events(self._runner, job, partial(describe, prefix=path_prefix(request))))

    async def _find(self, request: Request) -> Job:
        """The job at a path; another caller's is as unknown as one that never was."""
        job = await anyio.to_thread.run_sync(self._runner.store.get, request.path_params["id"])
        if job.caller not in (None, caller_of(request).name):
            raise JobNotFoundError(UNKNOWN_JOB)
        return job


def describe(job: Job, prefix: str = "") -> JobJson:
    """Returns a job as callers see it, who reach this service below the path ``prefix``."""
    address = f"{prefix}{JOBS}/{job.id}"
    shown: JobJson = {
        "id": job.id,
        "state": job.state,
        "step": job.step,
        "steps": job.steps,
        "queue_position": job.queue_position,
        "seconds_left": job.seconds_left,
        "seed": job.parameters.seed,
        "created_at": _shown(job.created_at),
        "started_at": _shown(job.started_at),
        "finished_at": _shown(job.finished_at),
        "expires_at": _shown(job.expires_at),
        "url": address,
        "events": f"{address}/events",
    }
    if job.state is JobState.DONE:
        shown["result"] = f"{address}/result"
    if job.error is not None:
        shown["error"] = cast("Error", error_body(job.error))
    return shown


def _choose_format(request: Request, parameters: InpaintParameters) -> ResultFormat:
    """The format of a result: the address's own, the caller's at another time, or the one of this request."""
    sent = {name: text for name, text in request.query_params.items() if name in _FORMAT_FIELDS and text.strip()}
    if not sent:
        return choose_job_format(request, parameters)
    # A quality belongs to the format that it was sent with.
    unset = dict.fromkeys(_FORMAT_FIELDS) if "output_format" in sent else {"quality": None}
    return choose_format(request, replace_parameters(parameters.model_copy(update=unset), sent))


def _read_key(request: Request) -> str | None:
    """Returns the caller's Idempotency-Key, made unique to the caller: their name, or what they sent for a key."""
    sent = request.headers.getlist(IDEMPOTENCY_KEY)
    if not sent:
        return None
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise InvalidParameterError(
            f"{IDEMPOTENCY_KEY} must be one value of 1 to 255 ASCII characters.", field=IDEMPOTENCY_KEY
        )
    caller = caller_of(request).name
    if caller is None:
        # Where no key is needed, one that comes all the same still keeps callers apart.
        caller = request.headers.get("authorization", "") + "\n" + request.headers.get("x-api-key", "")
    return hashlib.sha256(f"{caller}\n{sent[0]}".encode()).hexdigest()


def _shown(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
