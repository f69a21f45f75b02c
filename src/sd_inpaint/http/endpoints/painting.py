"""What every endpoint that repaints a picture does: read the deadline, decode, wait for the device, encode."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request

from sd_inpaint.admission import AdmittedRequest, ReadPicture
from sd_inpaint.errors import (
    ContentFlaggedError,
    CredentialsExpiredError,
    DeadlineExceededError,
    EngineCrashedError,
    ImageTooLargeError,
    InpaintError,
    InvalidImageError,
    InvalidLorasError,
    InvalidMaskError,
    InvalidOutputError,
    InvalidParameterError,
    ModelDisabledError,
    ModelFailedError,
    ModelLoadingError,
    OutOfMemoryError,
    QueueFullError,
    QuotaExceededError,
    RequestCancelledError,
    ShuttingDownError,
    SizeMismatchError,
)
from sd_inpaint.http.middleware.body_limit import forget_body
from sd_inpaint.http.middleware.caller_usage import usage_of
from sd_inpaint.http.wire.headers import DEADLINE
from sd_inpaint.http.wire.operations import Parameter
from sd_inpaint.http.wire.parameters import read_seconds
from sd_inpaint.imaging.credentials import ContentCredentials
from sd_inpaint.imaging.pair import ReadMask, read_luminance
from sd_inpaint.imaging.preparation import Upload
from sd_inpaint.imaging.preview import render_preview
from sd_inpaint.painter import Painter, share_of
from sd_inpaint.progress import Progress
from sd_inpaint.schema import InpaintParameters, InpaintResult, SchedulerName
from sd_inpaint.settings import Settings
from sd_inpaint.telemetry.tracing import span
from sd_inpaint.work.picture_work import PictureWork

P = ParamSpec("P")
T = TypeVar("T")

NOT_OPEN = (
    QueueFullError,
    QuotaExceededError,
    ModelLoadingError,
    ModelDisabledError,
    ModelFailedError,
    ShuttingDownError,
    CredentialsExpiredError,
)
"""What a caller can meet before their request is read."""

READS_PICTURE = (InvalidParameterError, InvalidImageError, ImageTooLargeError, QueueFullError, DeadlineExceededError)
"""What a caller can meet whose picture is read."""

READS_PAIR = (*READS_PICTURE, InvalidMaskError, SizeMismatchError, InvalidLorasError)
"""The same, with a mask and parameters."""

PAINTS = (
    DeadlineExceededError,
    ContentFlaggedError,
    OutOfMemoryError,
    InvalidOutputError,
    EngineCrashedError,
    ShuttingDownError,
)
"""What a caller can meet whose picture is being painted."""


def deadline_parameter(longest: float) -> Parameter:
    """Describes the header that :meth:`Painting.deadline_seconds` reads; ``longest`` is the operator's, in seconds."""
    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": longest}
    return Parameter(DEADLINE, "header", schema, "How many seconds you will wait; after that you get a 504.")


LEAST_SECONDS = 0.001
"""What is left of a deadline that passes at this moment: the device's queue says that it has."""


class Painting:
    """The steps that endpoints share. Lives as long as the server; serves any number of requests at once.

    Attributes:
        credentials: What signs results; None leaves them unsigned.
    """

    def __init__(
        self, painter: Painter, work: PictureWork, settings: Settings, credentials: ContentCredentials | None = None
    ) -> None:
        self.credentials = credentials
        self._painter = painter
        self._work = work
        self._settings = settings

    @property
    def model(self) -> str:
        """The model's name as callers know it."""
        return self._settings.model_name

    def complete(self, parameters: InpaintParameters) -> InpaintParameters:
        """Fills in what a request leaves to this server, as :meth:`~sd_inpaint.painter.Painter.complete`."""
        return self._painter.complete(parameters)

    @property
    def loras(self) -> list[dict[str, object]]:
        """The LoRAs that requests may name, as :attr:`~sd_inpaint.painter.Painter.loras`."""
        return self._painter.loras

    @property
    def longest_seconds(self) -> float:
        """The longest deadline that a caller may set."""
        return self._settings.deadline_seconds

    def device_memory(self) -> dict[str, int] | None:
        """Returns the device's memory, as :meth:`~sd_inpaint.painter.Painter.device_memory`."""
        return self._painter.device_memory()

    def check_open(self, request: Request) -> None:
        """Raises at once what a request would meet: model not loaded, server stopping, queue full, quota used up."""
        usage = usage_of(request)
        usage.account.check_work()
        self._painter.check_open(usage)
        if self.credentials is not None:
            self.credentials.check_valid()

    def deadline_seconds(self, request: Request) -> float | None:
        """Reads how long the caller will wait; None if they do not say."""
        sent = request.headers.get(DEADLINE, "")
        return None if not sent.strip() else read_seconds(DEADLINE, sent, self._settings.deadline_seconds)

    async def admit(
        self,
        request: Request,
        image: bytes,
        mask: bytes | None,
        parameters: InpaintParameters,
        read_mask: ReadMask = read_luminance,
    ) -> AdmittedRequest:
        """Decodes and checks what a caller sent, in its turn; gives up at the deadline, or when the client disconnects.

        Whoever gets it releases it, once the result is on its way.

        Raises:
            InpaintError: As :meth:`sd_inpaint.painter.Painter.admit` does.
            DeadlineExceededError: If the deadline passes before that.
            RequestCancelledError: If the client disconnects.
        """
        started = time.monotonic()
        upload = Upload(image, mask, parameters, self._settings.max_pixels, read_mask)
        admitted = await self._in_time(request, lambda: self._painter.admit(upload, caller=usage_of(request)))
        admitted.waited_seconds = time.monotonic() - started
        if admitted.read is None:
            # The pixels are here: the files are no longer needed.
            forget_body(request)
        return admitted

    @contextlib.asynccontextmanager
    async def memory_for(self, request: Request, size: int) -> AsyncIterator[None]:
        """Holds memory for pictures, in bytes, once there is room; raises as :meth:`admit` does."""
        share = share_of(usage_of(request))
        with await self._in_time(request, lambda: self._work.budget.pictures.wait(size, share=share)):
            yield

    async def _in_time(self, request: Request, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        seconds = self.deadline_seconds(request) or self._settings.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                return await _unless_gone(request, begin())
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"The deadline passed after {seconds:.0f} seconds, before there was room for the picture."
            ) from error

    async def make_room_for_results(self, admitted: AdmittedRequest) -> None:
        """Waits for the memory that putting a picture together takes, where that happens before the end."""
        await self._painter.make_room_for_results(admitted)

    async def preview(self, request: Request, image: bytes) -> tuple[bytes, tuple[int, int]]:
        """Shows a picture small, as :func:`~sd_inpaint.imaging.preview.render_preview` does."""
        return await self.read_picture(request, render_preview, image)

    async def read_picture(self, request: Request, read: ReadPicture[T], image: bytes) -> T:
        """Has a function of a module read a caller's picture, where it can be stopped; raises as :meth:`admit` does."""
        return await self._in_time(request, lambda: self._painter.read_picture(read, image, usage_of(request)))

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does work on whole pictures, off the event loop and in its turn."""
        return await self._work.run(function, *args, **kwargs)

    async def encode(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does such work that ends a request: it makes files of results."""
        with span("encode"):
            return await self.work(function, *args, **kwargs)

    def metadata(self, parameters: InpaintParameters) -> InpaintParameters | None:
        """Returns the parameters that results carry, the sampler by name; None where the operator leaves them out."""
        if not self._settings.metadata:
            return None
        if parameters.scheduler is not SchedulerName.DEFAULT:
            return parameters
        return parameters.model_copy(update={"scheduler": self._painter.own_scheduler})

    async def paint(
        self,
        request: Request,
        admitted: AdmittedRequest,
        deadline_seconds: float | None,
        progress: Progress | None = None,
    ) -> InpaintResult:
        """Paints, but gives up as soon as the client disconnects: nobody would read the picture."""
        if deadline_seconds is not None:
            deadline_seconds = max(LEAST_SECONDS, deadline_seconds - admitted.waited_seconds)
        painting = self._painter.paint(
            admitted, progress=progress, deadline_seconds=deadline_seconds, caller=usage_of(request)
        )
        return await _unless_gone(request, painting)


async def _unless_gone(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """Awaits something for a client, and cancels it when the client disconnects."""
    working = asyncio.ensure_future(coroutine)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestCancelledError("The client disconnected before the picture was done.")
        return working.result()
    finally:
        leaving.cancel()
        if working.cancel():
            with contextlib.suppress(asyncio.CancelledError, InpaintError):
                await working


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
