"""The service's answers as a caller reads them."""

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

from sd_inpaint.client.errors import NoAnswerError, ServiceError, service_error
from sd_inpaint.client.exchange import Answer

JSON = "application/json"
ZIP = "application/zip"


@dataclass(frozen=True, slots=True)
class ResultPicture:
    """One painted picture.

    Attributes:
        data: The file, as the service wrote it.
        media_type: Its format, such as ``image/png``.
        seed: The one that was used.
    """

    data: bytes = field(repr=False)
    media_type: str
    seed: int

    @property
    def image(self) -> Image.Image:
        """The picture, decoded; a new one each time."""
        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image


@dataclass(frozen=True, slots=True)
class Result:
    """The painted pictures, and how they were made.

    Attributes:
        pictures: In the order of their seeds; at least one.
        steps: Denoising steps that each canvas took; 0 if nothing of the mask can be seen.
        model: The model's name.
        inference_seconds: How long the request held the device.
        regions: Each canvas: its box in the picture, its scale, and the size at which the model painted it, as the
            header ``X-Region`` has them.
        plan: The name of what computed them; the same request gives the same bytes on the same device and plan.
        warnings: Sentences about what may not have been meant.
        request_id: Of the answer, as the server's log has it.
        job_id: Of the job that it is the result of; None before it is known.
    """

    pictures: tuple[ResultPicture, ...]
    steps: int
    model: str
    inference_seconds: float
    regions: tuple[str, ...]
    plan: str
    warnings: tuple[str, ...]
    request_id: str
    job_id: str | None = None

    @property
    def image(self) -> Image.Image:
        """The first picture, decoded."""
        return self.pictures[0].image

    @property
    def data(self) -> bytes:
        """The first picture's file."""
        return self.pictures[0].data

    @property
    def seed(self) -> int:
        """The first picture's seed."""
        return self.pictures[0].seed


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when the service said so.

    Attributes:
        id: Of the job.
        state: ``queued``, ``running``, ``finishing``, ``done``, ``failed`` or ``cancelled``.
        step: Denoising steps done.
        steps: Denoising steps in all.
        queue_position: Canvases ahead of it.
        seconds_left: An estimate, or None.
        seed: The first picture's.
        error: Why it failed; None if it did not.
        facts: All of it, as the service has it.
        was_there: Whether it had been accepted before, under the same ``Idempotency-Key``.
    """

    id: str
    state: str
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None
    seed: int
    error: ServiceError | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    was_there: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress callback gets.

    Attributes:
        job: As it is now.
        preview: A small PNG of the picture so far, where there is a newer one than before; else None.
    """

    job: Job
    preview: bytes | None = None


def read_json(answer: Answer) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        NoAnswerError: If it is none: something else answers at this address.
    """
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise NoAnswerError(f"The answer (status {answer.status}) is not this service's: it is not JSON.")
    return body


def read_job(facts: Mapping[str, Any], *, was_there: bool = False) -> Job:
    """Reads a job's JSON.

    Raises:
        NoAnswerError: If it lacks what every job has.
    """
    names = ("id", "state", "step", "steps", "queue_position", "seconds_left", "seed")
    if missing := [name for name in names if name not in facts]:
        raise NoAnswerError(f"The answer is not this service's: a job has no {', '.join(missing)}.")
    body = facts.get("error")
    error = None if body is None else service_error(body, status=200)
    return Job(**{name: facts[name] for name in names}, error=error, facts=facts, was_there=was_there)


def read_result(answer: Answer, job_id: str | None = None) -> Result:
    """Reads a result: a picture or a zip of several, with headers that describe them, or JSON.

    Raises:
        NoAnswerError: If it is none of these.
    """
    headers = answer.headers
    media_type = headers.get("content-type", "").partition(";")[0]
    if media_type == JSON:
        return _of_json(read_json(answer), job_id)
    if not (media_type == ZIP or media_type.startswith("image/")) or "x-seed" not in headers:
        raise NoAnswerError(f"The answer (status {answer.status}, {media_type or 'no type'}) is not this service's.")
    seeds = [int(seed) for seed in headers["x-seed"].split(",")]
    files = _unzipped(answer.body) if media_type == ZIP else [(answer.body, media_type)]
    return Result(
        pictures=tuple(ResultPicture(*file, seed) for file, seed in zip(files, seeds, strict=True)),
        steps=int(headers.get("x-steps", 0)),
        model=unquote(headers.get("x-model", "")),
        inference_seconds=float(headers.get("x-inference-seconds", 0)),
        regions=tuple(part for part in headers.get("x-region", "").split("; ") if part),
        plan=headers.get("x-plan", ""),
        warnings=tuple(part for part in (headers.get("x-warning"),) if part),
        request_id=headers.get("x-request-id", ""),
        job_id=job_id,
    )


def _unzipped(data: bytes) -> list[tuple[bytes, str]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(archive.read(entry), f"image/{Path(entry.filename).suffix[1:]}") for entry in archive.infolist()]


def _of_json(body: dict[str, Any], job_id: str | None) -> Result:
    pictures = body.get("images", [body])
    return Result(
        pictures=tuple(
            ResultPicture(base64.b64decode(each["image"]), each["media_type"], each["seed"]) for each in pictures
        ),
        steps=body["steps"],
        model=body["model"],
        inference_seconds=body["inference_seconds"],
        regions=tuple(body["regions"]),
        plan=body.get("plan", ""),
        warnings=tuple(body["warnings"]),
        request_id=body["request_id"],
        job_id=job_id,
    )
