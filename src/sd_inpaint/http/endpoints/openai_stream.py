"""A picture streamed the way OpenAI does: partial pictures first, then the complete one.

Source: OpenAI's API reference for image_edit.partial_image and image_edit.completed, and what its Python client reads.
"""

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sd_inpaint.errors import InpaintError
from sd_inpaint.http.wire import sse
from sd_inpaint.http.wire.errors import InternalError, error_body
from sd_inpaint.progress import Progress
from sd_inpaint.schema import InpaintResult

POLL_SECONDS = 0.1
"""How often the picture's progress is checked."""

USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Tokens are what OpenAI charges for; clients look for the numbers."""

logger = logging.getLogger("bentoml.sd_inpaint.http")


@dataclass(frozen=True, slots=True)
class EditStream:
    """One edit, streamed. Serves one caller.

    Attributes:
        path: Where it was asked for; its errors have the shape of that path.
        request_id: Under which the log has what fails.
        partial_images: How many pictures are to come on the way; fewer do where steps are few or quick.
        facts: Size, format and quality, which each event repeats.
        encode_partial: A picture on the way → its file, or None while there is nothing to see yet.
        encode_result: The painted pictures → seed and file of each.
    """

    path: str
    request_id: str
    partial_images: int
    facts: dict[str, object]
    encode_partial: Callable[[], Awaitable[bytes | None]]
    encode_result: Callable[[InpaintResult], Awaitable[list[tuple[int, bytes]]]]

    async def events(self, painting: "asyncio.Future[InpaintResult]", progress: Progress) -> AsyncIterator[str]:
        """Yields ``image_edit.partial_image`` on the way, then ``image_edit.completed`` for each picture, or ``error``.

        Leaving it early cancels the painting.
        """
        try:
            async for partial in self._partials(painting, progress):
                yield partial
            for seed, file in await self.encode_result(await painting):
                yield self._event("image_edit.completed", _text(file), seed=seed, usage=USAGE)
        except InpaintError as error:
            yield self._failure(error)
        except Exception:
            logger.exception("Request %s failed", self.request_id)
            yield self._failure(InternalError(self.request_id))
        finally:
            if painting.cancel():
                with contextlib.suppress(asyncio.CancelledError, InpaintError):
                    await painting

    async def _partials(self, painting: "asyncio.Future[InpaintResult]", progress: Progress) -> AsyncIterator[str]:
        shown, shown_step, sent_at = 0, 0, time.monotonic()
        while not painting.done():
            await asyncio.wait({painting}, timeout=POLL_SECONDS)
            now = progress.snapshot()
            # Evenly over the steps, the last of which is the whole picture's.
            is_due = shown < self.partial_images and now.step * (self.partial_images + 1) >= now.steps * (shown + 1)
            if is_due and now.step > shown_step and not painting.done():
                file = await self.encode_partial()
                if file is not None:
                    yield self._event("image_edit.partial_image", _text(file), partial_image_index=shown)
                    shown, shown_step, sent_at = shown + 1, now.step, time.monotonic()
            elif time.monotonic() - sent_at >= sse.KEEP_ALIVE_SECONDS:
                sent_at = time.monotonic()
                yield sse.KEEP_ALIVE

    def _event(self, name: str, picture: str, **more: object) -> str:
        data = {"type": name, "b64_json": picture, "created_at": int(time.time()), **self.facts, **more}
        return sse.event(name, data)

    def _failure(self, error: InpaintError) -> str:
        return sse.event("error", {"type": "error", **error_body(error, self.path)})


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
