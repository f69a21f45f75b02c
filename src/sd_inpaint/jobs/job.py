"""Accepted jobs as they are stored, so that no restart loses them and any process finds them.

A job is *owned* by the process that paints it, for as long as that process renews its lease. A job nobody owns (its
process gave it back, or died and its lease ran out) waits to be claimed.
"""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sd_inpaint.errors import InpaintError
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.pair import decode_pair
from sd_inpaint.picture import Picture
from sd_inpaint.schema import SEED_RANDOM, InpaintParameters, InpaintRequest, InpaintResult, Variation

MAX_RUNS = 4
"""How often a job is started: once, and up to three more times if the process running it died."""


class JobState(StrEnum):
    """An accepted job's state; the last three are final."""

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
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Submission:
    """The caller's request, stored until the job has ended.

    Attributes:
        image: The uploaded file.
        mask: The uploaded file.
        parameters: As they were sent.
        seed: The one to use; drawn at acceptance where the caller left it to the server, so that a second run gives the
            same picture. Before acceptance it is not known.
        key: The caller's Idempotency-Key, made unique to the caller; None without.
        deadline_at: The caller's own deadline, in seconds of Unix time; None without.
        caller: The name of the API key; None where none was needed.
    """

    image: bytes
    mask: bytes
    parameters: InpaintParameters
    seed: int = SEED_RANDOM
    key: str | None = None
    deadline_at: float | None = None
    caller: str | None = None

    @property
    def fingerprint(self) -> str:
        """A digest of the request as it was sent, without a drawn seed; it distinguishes requests under one key."""
        digest = hashlib.sha256()
        for part in (self.parameters.model_dump_json().encode(), self.image, self.mask):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.hexdigest()

    def decode(self) -> InpaintRequest:
        """Returns the request of an accepted job, whose files were found sound before."""
        # A bound that the operator has lowered since does not break the promise.
        return decode_pair(self.image, self.mask, self.parameters, max_pixels=sys.maxsize)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job's progress, as its process reports it.

    Attributes:
        state: None of the final ones.
        step: Denoising steps done.
        steps: Denoising steps in all.
        queue_position: Canvases ahead of this one.
        seconds_left: An estimate, or None.
        preview: A small PNG of the latents where there is a newer one, else None.
    """

    state: JobState
    step: int
    steps: int
    queue_position: int
    seconds_left: float | None
    preview: bytes | None = None


_FACTS = tuple(field.name for field in dataclasses.fields(InpaintResult) if field.name != "variations")
"""What a result holds beside its pictures: all of it is kept, so that ``/result`` is what ``/inpaint`` answers."""


@dataclass(frozen=True, slots=True)
class ResultExtent:
    """How large a result is, known before it is read.

    Attributes:
        count: Pictures.
        file_bytes: Of all different files together.
        pixels: Of all different pictures together.
    """

    count: int
    file_bytes: int
    pixels: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """A job's result.

    Attributes:
        pictures: A PNG of each, which keeps every pixel; other formats are made from it on request.
        seeds: Of each picture.
        model: The model's name as callers see it.
        steps: As in :class:`~sd_inpaint.schema.InpaintResult`, like all that follows.
        inference_seconds: As there.
        regions: As there.
        is_all_painted: As there.
        brightest: As there.
        brightest_sent: As there; results of earlier versions have none.
        image_sha256: As there; results of earlier versions have none.
        plan: As there; results of earlier versions have none, nor any of what follows.
        mask_sha256: As there.
        weights_sha256: As there.
        device: As there.
    """

    pictures: tuple[bytes, ...]
    seeds: tuple[int, ...]
    model: str
    steps: int
    inference_seconds: float
    regions: tuple[str, ...] = ()
    is_all_painted: bool = False
    brightest: int = 255
    brightest_sent: int = 255
    image_sha256: str = ""
    plan: str = ""
    mask_sha256: str = ""
    weights_sha256: str = ""
    device: str = ""

    @property
    def different(self) -> list[bytes]:
        """Each picture once, in their order: those that nothing was painted in are one."""
        return list({id(picture): picture for picture in self.pictures}.values())

    @property
    def extent(self) -> "ResultExtent":
        """How large the result is."""
        # Source: PNG, third edition, 11.2.1: width and height are the first eight bytes of the first chunk.
        sizes = [(int.from_bytes(file[16:20], "big"), int.from_bytes(file[20:24], "big")) for file in self.different]
        files = sum(map(len, self.different))
        return ResultExtent(len(self.pictures), files, sum(width * height for width, height in sizes))

    @classmethod
    def of(cls, result: InpaintResult, model: str) -> "JobResult":
        """Encodes a result: takes as long as its pictures are large. One picture under several seeds is one file."""
        files: dict[int, bytes] = {}
        for variation in result.variations:
            if id(variation.image) not in files:
                files[id(variation.image)] = codecs.encode(variation.image)
        pictures = tuple(files[id(variation.image)] for variation in result.variations)
        seeds = tuple(variation.seed for variation in result.variations)
        return cls(pictures, seeds, model, **{name: getattr(result, name) for name in _FACTS})

    def decode(self) -> InpaintResult:
        """Returns the result as it was painted."""
        decoded: dict[int, Picture] = {}
        for picture in self.pictures:
            if id(picture) not in decoded:
                decoded[id(picture)] = codecs.decode_image(picture, max_pixels=sys.maxsize, keep_exif=True)
        images = [decoded[id(picture)] for picture in self.pictures]
        variations = tuple(Variation(image, seed) for image, seed in zip(images, self.seeds, strict=True))
        return InpaintResult(variations, **{name: getattr(self, name) for name in _FACTS})


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: an :class:`InpaintError` that can be written down."""

    code: str
    sentence: str
    facts: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """The sentence, as an :class:`InpaintError` has it."""
        return self.sentence

    @classmethod
    def of(cls, error: InpaintError) -> "JobError":
        """Makes one of an error."""
        return cls(error.code, str(error), error.facts)


@dataclass(frozen=True, slots=True)
class Job:
    """An accepted job, as shown to callers. Times are Unix times in seconds.

    Attributes:
        id: Unguessable: whoever knows it may see and cancel a job without a caller.
        version: Grows with every change that can be seen.
        preview_version: Grows with every new preview; 0 before the first.
        parameters: With the seed that is used.
        runs: How often it was started.
        expires_at: When it will be deleted; None before it has ended.
        error: Why it failed; None unless it did.
        caller: The only one who may see and cancel the job, by the name of the API key; None for whoever knows its id.
    """

    id: str
    state: JobState
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
    caller: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one caller's jobs.

    Attributes:
        bytes: Uploads and results, and room for the results of jobs that have not ended.
        frees_in_seconds: When the next of it expires; None if nothing does yet.
    """

    bytes: int
    frees_in_seconds: float | None


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """The disk space of a job store.

    Attributes:
        used_bytes: Of accepted jobs.
        max_bytes: That they may take.
        free_bytes: On the disk.
    """

    used_bytes: int
    max_bytes: int
    free_bytes: int


class JobStore(Protocol):
    """Keeps accepted jobs for any number of threads and processes.

    Every method may block for some milliseconds, and may raise StateUnavailableError. "Ends" below means durably: what
    was promised to a caller is on the disk before the method returns.
    """

    lease_seconds: float

    def add(self, submission: Submission, owner: str, room_bytes: int = 0) -> tuple[Job, bool]:
        """Accepts a job durably, owned by ``owner``, or finds the one that was accepted with its key before.

        Args:
            submission: What to keep.
            owner: This process.
            room_bytes: Disk space to set aside for the result, so that it can be written.

        Returns:
            The job, and True if it was there before.

        Raises:
            IdempotencyConflictError: If its key was used with a different request.
            QueueFullError: If what is kept would take more space than it may.
            StateUnavailableError: If the disk has no room for it.
        """

    def submission(self, job: Job) -> Submission:
        """Reads what an accepted job needs to run; raises JobLostError if its upload is gone."""

    def check(self) -> None:
        """Raises StateUnavailableError if jobs cannot be accepted or ended now."""

    def find(self, submission: Submission) -> Job | None:
        """Returns the job that was accepted with the submission's key before; raises as :meth:`add` does."""

    def get(self, job_id: str) -> Job:
        """Returns a job, or raises JobNotFoundError: unknown, deleted or expired."""

    def preview(self, job_id: str) -> bytes | None:
        """Returns the newest small PNG of an unfinished job, or None."""

    def result_extent(self, job_id: str) -> ResultExtent:
        """Returns how large the result of a job is that is done, else raises JobNotFoundError."""

    def result(self, job_id: str) -> JobResult:
        """Returns the result of a job that is done, else raises JobNotFoundError."""

    def report(self, owner: str, progress: Mapping[str, JobProgress | None]) -> frozenset[str]:
        """Renews the leases of the owner's jobs, and saves their progress if it has changed.

        Returns:
            Those of them that it still owns; the others were cancelled, or went to another process.
        """

    def finish(self, job_id: str, owner: str, result: JobResult) -> bool:
        """Ends a job as done; returns False, and does nothing, if the owner no longer owns it."""

    def fail(self, job_id: str, owner: str, error: JobError) -> bool:
        """Ends a job as failed; returns False, and does nothing, if the owner no longer owns it."""

    def hand_back(self, owner: str, job_ids: Iterable[str]) -> None:
        """Gives jobs up, for others to claim at once; this run of them does not count."""

    def waiting(self) -> int:
        """Returns how many jobs are waiting to be claimed."""

    def waiting_of(self, caller: str | None) -> int:
        """Returns how many of them are one caller's, or have none."""

    def claim(self, owner: str) -> tuple[Job, Submission] | None:
        """Gives the oldest job that nobody owns to ``owner``; None if there is none.

        A job that was started MAX_RUNS times, or whose upload is gone, is ended as ``job_lost`` on the way.
        """

    def kept(self, caller: str | None) -> Kept:
        """Returns what is kept of the jobs of one caller, or of all that have none."""

    def remove(self, job_id: str, caller: str | None = None) -> None:
        """Cancels a job, or deletes one that has ended with its result; may be called again.

        Raises:
            JobNotFoundError: If there is no such job, and was none recently, or if it is another caller's.
        """

    def sweep(self) -> None:
        """Deletes expired jobs."""

    def space(self) -> StoreSpace | None:
        """Returns the disk space; None where the disk is another machine's."""

    def close(self) -> None:
        """Ends the use of the store; later calls raise StateUnavailableError."""


def estimated_steps(parameters: InpaintParameters) -> int:
    """Returns the steps of one canvas, for as long as the device loop has not said how many there are."""
    return math.floor(parameters.num_inference_steps * parameters.strength)
