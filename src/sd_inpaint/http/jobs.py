"""Jobs: the form of ``/sd-inpaint/inpaint`` accepted at once, painted in the background, looked up and followed."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sd_inpaint import codecs
from sd_inpaint.errors import InvalidParameterError, JobNotFoundError, JobNotReadyError
from sd_inpaint.http.errors import STATUSES, answering
from sd_inpaint.http.events import stream_events
from sd_inpaint.http.inpainting import Inpainting
from sd_inpaint.http.journal import request_id
from sd_inpaint.http.negotiation import choose_media_type
from sd_inpaint.http.results import image_format, offered, render
from sd_inpaint.painter import Painter
from sd_inpaint.runner import JobRunner
from sd_inpaint.settings import Settings
from sd_inpaint.store import AcceptedJob, AcceptedState, Submission

JOBS = "/sd-inpaint/jobs"

KEY_HEADER = "Idempotency-Key"

_KEY = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")


class Jobs:
    """Answers everything under ``/sd-inpaint/jobs``. Lives as long as the server; serves any number of requests."""

    def __init__(self, painter: Painter, inpainting: Inpainting, runner: JobRunner, settings: Settings) -> None:
        self._painter = painter
        self._settings = settings
        self._inpainting = inpainting
        self._runner = runner
        self._picture_work = CapacityLimiter(os.cpu_count() or 1)

    async def post(self, request: Request) -> Response:
        """Accepts a job: 202 with its address, once nothing short of a broken disk can lose it."""
        # 1. What can be refused without the body is refused before it is read. With a key this may be a retry of what
        #    was accepted, which even a full queue answers.
        key = _read_key(request)
        self._runner.check_open()
        if key is None:
            self._painter.check_open()
        deadline_seconds = self._inpainting.deadline_seconds(request)
        # 2. What the caller sent.
        form, asked = await self._inpainting.read_upload(request)
        submission = Submission(
            image=form.files["image"],
            mask=form.files["mask"],
            parameters=asked.parameters,
            key=key,
            deadline_at=None if deadline_seconds is None else time.time() + deadline_seconds,
        )
        # 3. A place in the queue, and one on the disk.
        job, was_there = await self._runner.accept(submission, asked)
        headers = {"Location": f"{JOBS}/{job.id}", "Cache-Control": "no-store"}
        if was_there:
            headers["Idempotent-Replayed"] = "true"
        return JSONResponse(describe(job), status_code=202, headers=headers)

    async def get(self, request: Request) -> Response:
        """Says how far a job is."""
        return JSONResponse(describe(await self._find(request)), headers={"Cache-Control": "no-store"})

    async def get_result(self, request: Request) -> Response:
        """Answers what ``POST /sd-inpaint/inpaint`` would have: the picture, or the error."""
        job = await self._find(request)
        if job.error is not None:
            body = {"error": job.error.sentence, "code": job.error.code, **job.error.facts}
            return JSONResponse(body, STATUSES.get(job.error.code, 500), headers={"Cache-Control": "no-store"})
        if job.state is AcceptedState.CANCELLED:
            raise JobNotFoundError("The job was cancelled: it has no result.", state=str(job.state))
        if job.state is not AcceptedState.DONE:
            raise JobNotReadyError("The job is not done yet.", state=str(job.state), seconds_left=job.seconds_left)
        accept = ", ".join(request.headers.getlist("accept"))
        media_type = choose_media_type(accept, offered(job.parameters.num_images))
        return await anyio.to_thread.run_sync(
            lambda: self._render(job, media_type, request_id(request)), limiter=self._picture_work
        )

    def _render(self, job: AcceptedJob, media_type: str, identity: str) -> Response:
        kept = self._runner.store.result(job.id)
        result = kept.decode()
        codecs.check_encodable(result.image.size, image_format(media_type))
        parameters = job.parameters if self._settings.metadata else None
        return render(result, media_type=media_type, model=kept.model, request_id=identity, parameters=parameters)

    async def delete(self, request: Request) -> Response:
        """Cancels a job; of one that has ended, deletes what is kept."""
        await anyio.to_thread.run_sync(self._runner.cancel, request.path_params["id"])
        return Response(status_code=204)

    async def get_events(self, request: Request) -> Response:
        """Streams how far a job is, until it has ended or the client leaves."""
        job = await self._find(request)
        if job.state.ended and request.headers.get("last-event-id") == str(job.version):
            # The one answer upon which a browser's EventSource does not connect again.
            return Response(status_code=204)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=headers)
        return StreamingResponse(
            stream_events(self._runner, job, describe), media_type="text/event-stream", headers=headers
        )

    async def _find(self, request: Request) -> AcceptedJob:
        return await anyio.to_thread.run_sync(self._runner.store.get, request.path_params["id"])


def describe(job: AcceptedJob) -> dict[str, object]:
    """Returns a job as callers see it."""
    address = f"{JOBS}/{job.id}"
    shown: dict[str, object] = {
        "id": job.id,
        "state": str(job.state),
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
    if job.state is AcceptedState.DONE:
        shown["result"] = f"{address}/result"
    if job.error is not None:
        shown["error"] = {"error": job.error.sentence, "code": job.error.code, **job.error.facts}
    return shown


def job_routes(find_jobs: Callable[[], Jobs]) -> list[Route]:
    """Returns the routes below ``/sd-inpaint``.

    Args:
        find_jobs: Called at each request: BentoML makes the service's instance after its routes.
    """
    return [
        Route("/jobs", answering(find_jobs, Jobs.post), methods=["POST"]),
        Route("/jobs/{id}", answering(find_jobs, Jobs.get), methods=["GET"]),
        Route("/jobs/{id}", answering(find_jobs, Jobs.delete), methods=["DELETE"]),
        Route("/jobs/{id}/result", answering(find_jobs, Jobs.get_result), methods=["GET"]),
        Route("/jobs/{id}/events", answering(find_jobs, Jobs.get_events), methods=["GET"]),
    ]


def _read_key(request: Request) -> str | None:
    """Returns the caller's Idempotency-Key, made unique to the API key it came with."""
    sent = request.headers.getlist(KEY_HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise InvalidParameterError(f"{KEY_HEADER} must be one text of 1 to 255 ASCII characters.", field=KEY_HEADER)
    caller = request.headers.get("authorization", "") + "\n" + request.headers.get("x-api-key", "")
    return hashlib.sha256(f"{caller}\n{sent[0]}".encode()).hexdigest()


def _shown(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
