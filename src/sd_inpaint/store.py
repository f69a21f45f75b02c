"""What is kept of accepted jobs, so that no restart loses them and any process finds them.

A job is *owned* by the process that paints it, for as long as that process renews its lease. A job nobody owns (its
process gave it back, or died and its lease ran out) waits to be claimed.
"""

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sd_inpaint import codecs
from sd_inpaint.errors import InpaintError
from sd_inpaint.schema import SEED_RANDOM, InpaintParameters, InpaintRequest, InpaintResult, Variation

MAX_RUNS = 4
"""How often a job is begun: once, and three times more after a process that had it died."""


class AcceptedState(StrEnum):
    """Where an accepted job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHING = "finishing"
    """All steps are done; the picture is being put together."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True for a final state."""
        return self in (AcceptedState.DONE, AcceptedState.FAILED, AcceptedState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller sent, as it is kept until the job has ended.

    Attributes:
        image: The uploaded file.
        mask: The uploaded file.
        parameters: As they were sent.
        seed: The one to use; drawn at acceptance where the caller left it to the server, so that a second run gives the
            same picture. Before acceptance it is not known.
        key: The caller's Idempotency-Key, made unique to the caller; None without.
        deadline_at: The caller's own deadline, in seconds of Unix time; None without.
    """

    image: bytes
    mask: bytes
    parameters: InpaintParameters
    seed: int = SEED_RANDOM
    key: str | None = None
    deadline_at: float | None = None

    @property
    def fingerprint(self) -> str:
        """Tells two requests under one key apart: a digest of what was sent, so not of a drawn seed."""
        digest = hashlib.sha256()
        for part in (self.parameters.model_dump_json().encode(), self.image, self.mask):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.hexdigest()

    def decode(self) -> InpaintRequest:
        """Returns the request of an accepted job, whose files were found sound before."""
        # A bound that the operator has lowered since does not break the promise.
        return InpaintRequest(
            image=codecs.decode_image(self.image, max_pixels=sys.maxsize, keep_exif=self.parameters.keep_exif),
            mask=codecs.decode_mask(self.mask, max_pixels=sys.maxsize),
            parameters=self.parameters,
        )


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is, as its process reports it.

    Attributes:
        state: None of the final ones.
        step: Denoising steps done.
        steps: Denoising steps in all.
        queue_position: Jobs that go before this one.
        seconds_left: An estimate, or None.
        preview: A small PNG of the latents where there is a newer one, else None.
    """

    state: AcceptedState
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None
    preview: bytes | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job.

    Attributes:
        pictures: A PNG of each, which keeps every pixel; other formats are made of it when they are asked for.
        seeds: Of each picture.
        model: The name that callers knew the model by.
        steps: Denoising steps that each canvas took; 0 where nothing was painted.
        inference_seconds: Time the job held the device.
        regions: What each canvas covered.
    """

    pictures: tuple[bytes, ...]
    seeds: tuple[int, ...]
    model: str
    steps: int
    inference_seconds: float
    regions: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: InpaintResult, model: str) -> "JobResult":
        """Encodes a result: takes as long as its pictures are large."""
        pictures = tuple(codecs.encode(variation.image) for variation in result.variations)
        seeds = tuple(variation.seed for variation in result.variations)
        return cls(pictures, seeds, model, result.steps, result.inference_seconds, result.regions)

    def decode(self) -> InpaintResult:
        """Returns the result as it was painted."""
        images = [codecs.decode_image(picture, max_pixels=sys.maxsize, keep_exif=True) for picture in self.pictures]
        first, *further = (Variation(image, seed) for image, seed in zip(images, self.seeds, strict=True))
        return InpaintResult(first.image, first.seed, self.steps, self.inference_seconds, self.regions, tuple(further))


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: an :class:`InpaintError` that can be written down."""

    code: str
    sentence: str
    facts: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, error: InpaintError) -> "JobError":
        """Makes one of an error."""
        return cls(error.code, str(error), error.facts)


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """An accepted job as anybody may see it. Times are seconds of Unix time.

    Attributes:
        id: Unguessable: who knows it may see and cancel the job.
        version: Grows with every change that can be seen.
        preview_version: Grows with every new preview; 0 before the first.
        parameters: With the seed that is used.
        runs: How often it was begun.
        expires_at: When it is forgotten; None before it has ended.
        error: Why it failed; None unless it did.
    """

    id: str
    state: AcceptedState
    version: int
    preview_version: int
    parameters: InpaintParameters
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None
    runs: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    deadline_at: float | None
    error: JobError | None


class JobStore(Protocol):
    """Keeps accepted jobs for any number of threads and processes.

    Every method may block for some milliseconds, and may raise StateUnavailableError. "Ends" below means durably: what
    was promised to a caller is on the disk before the method returns.
    """

    lease_seconds: float

    def add(self, submission: Submission, owner: str) -> tuple[AcceptedJob, bool]:
        """Accepts a job durably, owned by ``owner``; or finds the one that its key has brought about before.

        Returns:
            The job, and True if it was there before.

        Raises:
            IdempotencyConflictError: If its key came with another request before.
        """

    def find(self, submission: Submission) -> AcceptedJob | None:
        """Returns the job that the submission's key has brought about before; raises as :meth:`add` does."""

    def get(self, identity: str) -> AcceptedJob:
        """Returns a job, or raises JobNotFoundError: unknown, deleted or expired."""

    def preview(self, identity: str) -> bytes | None:
        """Returns the newest small PNG of an unfinished job, or None."""

    def result(self, identity: str) -> JobResult:
        """Returns the result of a job that is done, else raises JobNotFoundError."""

    def report(self, owner: str, progress: Mapping[str, JobProgress | None]) -> frozenset[str]:
        """Renews the leases of the owner's jobs, and notes how far they are where that has changed.

        Returns:
            Those of them that it still owns; the others were cancelled, or went to another process.
        """

    def finish(self, identity: str, owner: str, result: JobResult) -> bool:
        """Ends a job as done; False, and nothing happens, if it is not the owner's any more."""

    def fail(self, identity: str, owner: str, error: JobError) -> bool:
        """Ends a job as failed; False, and nothing happens, if it is not the owner's any more."""

    def hand_back(self, owner: str, identities: Iterable[str]) -> None:
        """Gives jobs up, for others to claim at once; this run of them does not count."""

    def waiting(self) -> int:
        """Returns how many jobs wait to be claimed."""

    def claim(self, owner: str) -> tuple[AcceptedJob, Submission] | None:
        """Gives the oldest job that nobody owns to ``owner``; None if there is none.

        A job that was begun MAX_RUNS times, or whose upload is gone, is ended as ``job_lost`` on the way.
        """

    def remove(self, identity: str) -> None:
        """Cancels a job, or deletes one that has ended with its result; may be called again.

        Raises:
            JobNotFoundError: If there is no such job, and was none in the last while.
        """

    def sweep(self) -> None:
        """Deletes what has expired."""

    def close(self) -> None:
        """Ends the use of the store; later calls raise StateUnavailableError."""


def estimated_steps(parameters: InpaintParameters) -> int:
    """Returns the steps of one canvas, for as long as the device loop has not said how many there are."""
    return math.floor(parameters.num_inference_steps * parameters.strength)
