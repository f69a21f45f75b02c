"""What every endpoint that repaints a picture does: read the deadline, decode, wait for the device, encode."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from sd_inpaint.errors import InpaintError, RequestCancelledError
from sd_inpaint.http.wire.headers import DEADLINE
from sd_inpaint.http.wire.parameters import read_seconds
from sd_inpaint.imaging.pair import ReadMask, decode_pair, read_luminance
from sd_inpaint.imaging.preview import render_preview
from sd_inpaint.painter import Painter, Progress
from sd_inpaint.picture_work import PictureWork
from sd_inpaint.schema import InpaintParameters, InpaintRequest, InpaintResult, SchedulerName
from sd_inpaint.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class Painting:
    """The steps that endpoints share. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painter: Painter, work: PictureWork, settings: Settings) -> None:
        self._painter = painter
        self._work = work
        self._settings = settings

    @property
    def model(self) -> str:
        """The model's name as callers know it."""
        return self._settings.model_name

    def device_memory(self) -> dict[str, int] | None:
        """Returns the device's memory, as :meth:`~sd_inpaint.painter.Painter.device_memory`."""
        return self._painter.device_memory()

    def check_open(self) -> None:
        """Raises at once what a request would meet: model not loaded, server stopping, or queue full."""
        self._painter.check_open()

    def deadline_seconds(self, request: Request) -> float | None:
        """Reads how long the caller will wait; None if they do not say."""
        sent = request.headers.get(DEADLINE)
        return None if sent is None else read_seconds(DEADLINE, sent, self._settings.deadline_seconds)

    async def decode(
        self, image: bytes, mask: bytes | None, parameters: InpaintParameters, read_mask: ReadMask = read_luminance
    ) -> InpaintRequest:
        """Decodes what a caller sent, within the operator's bounds; as :func:`~sd_inpaint.imaging.pair.decode_pair`."""
        return await self.work(
            decode_pair, image, mask, parameters, max_pixels=self._settings.max_pixels, read_mask=read_mask
        )

    async def preview(self, image: bytes) -> tuple[bytes, tuple[int, int]]:
        """Shows a picture small, as :func:`~sd_inpaint.imaging.preview.render_preview`."""
        return await self.work(render_preview, image, max_pixels=self._settings.max_pixels)

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does work on whole pictures, off the event loop and in its turn."""
        return await self._work.run(function, *args, **kwargs)

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
        inpaint_request: InpaintRequest,
        deadline_seconds: float | None,
        progress: Progress | None = None,
    ) -> InpaintResult:
        """Paints, but gives up as soon as the client disconnects: nobody would read the picture."""
        painting = asyncio.ensure_future(
            self._painter.paint(inpaint_request, progress=progress, deadline_seconds=deadline_seconds)
        )
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({painting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not painting.done():
                raise RequestCancelledError("The client disconnected before the picture was done.")
            return painting.result()
        finally:
            leaving.cancel()
            if painting.cancel():
                with contextlib.suppress(asyncio.CancelledError, InpaintError):
                    await painting


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
