"""One accepted job in this process: its painting, its progress, and what it needs to begin."""

import asyncio
import dataclasses
import sys
import time
from dataclasses import dataclass

import numpy as np

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.callers.accounts import Usage
from sd_inpaint.errors import DeadlineExceededError
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.preparation import Upload
from sd_inpaint.jobs.job import JobProgress, JobState, Submission
from sd_inpaint.picture import Picture
from sd_inpaint.progress import Progress
from sd_inpaint.schema import InpaintRequest, InpaintResult

RESULT_SLACK_BYTES = 1024 * 1024
"""What a PNG takes beside its pixels: a filter byte a row, block headers, the profile."""

REGION = "region"
"""The text chunk of a preview that says which part of the picture it shows: left,top,right,bottom in its pixels."""


@dataclass(slots=True, eq=False)
class RunningJob:
    """One job in this process."""

    painting: "asyncio.Task[InpaintResult]"
    progress: Progress
    usage: Usage
    is_claimed: bool
    admitted: AdmittedRequest | None = None
    is_given_back: bool = False
    reported: JobProgress | None = None
    preview: np.ndarray | None = None

    def give_back(self) -> None:
        """Stops the work, for another process to begin it again."""
        self.is_given_back = True
        self.painting.cancel()

    def changed_progress(self) -> JobProgress | None:
        """Returns the job's progress, or None if nothing has changed since the last call."""
        snapshot = self.progress.snapshot()
        if snapshot.steps == 0:
            return None
        left = snapshot.seconds_left
        progress = JobProgress(
            JobState(snapshot.state),
            snapshot.step,
            snapshot.steps,
            snapshot.queue_position,
            None if left is None else round(left, 1),
        )
        preview, png = self.progress.preview(), None
        if preview is not None and preview.pixels is not self.preview:
            text = {} if preview.region is None else {REGION: ",".join(f"{edge:.2f}" for edge in preview.region)}
            self.preview, png = preview.pixels, codecs.encode(Picture(preview.pixels), text=text)
        elif progress == self.reported:
            return None
        self.reported = progress
        return dataclasses.replace(progress, preview=png)


def seconds_until(deadline_at: float | None) -> float | None:
    """Returns the seconds that are left until a Unix time; raises DeadlineExceededError if there are none."""
    if deadline_at is None:
        return None
    if (seconds := deadline_at - time.time()) <= 0:
        raise DeadlineExceededError("The job's deadline passed before it could be started.")
    return seconds


def upload_of(submission: Submission) -> Upload:
    """The files of an accepted job, which were found sound before."""
    # A bound that the operator has lowered since does not break the promise.
    return Upload(submission.image, submission.mask, submission.parameters, max_pixels=sys.maxsize)


def result_bytes(request: InpaintRequest | AdmittedRequest) -> int:
    """The disk space that a job's result takes at most: PNG files of noise are as large as their pixels."""
    if isinstance(request, InpaintRequest):
        return 0
    channels = 4 if request.outline.has_alpha else 3
    pictures = request.parameters.num_images if request.canvases else 1
    return pictures * (request.pixels * channels + RESULT_SLACK_BYTES)


async def admission(run: RunningJob) -> None:
    """Waits until the device loop has admitted a run; raises the error if it was refused."""
    admitted = asyncio.ensure_future(run.progress.admitted.wait())
    await asyncio.wait({run.painting, admitted}, return_when=asyncio.FIRST_COMPLETED)
    admitted.cancel()
    if run.painting.done():
        run.painting.result()
