"""What a request passes before it has a place in the queue: it is measured, gets its memory, and is decoded."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self, TypedDict, TypeVar

from sd_inpaint.engine.admission import has_place
from sd_inpaint.errors import QueueFullError
from sd_inpaint.imaging.geometry import Canvas, CanvasLimits
from sd_inpaint.imaging.preparation import (
    Outline,
    Preparation,
    Upload,
    outline,
    outline_upload,
    prepare_upload,
)
from sd_inpaint.schema import InpaintParameters, OutputFormat
from sd_inpaint.telemetry.tracing import record, span
from sd_inpaint.work.fair_line import NOBODY, Share
from sd_inpaint.work.memory_budget import AHEAD_SHARE, RETRY_SECONDS, Reservation
from sd_inpaint.work.picture_work import PictureWork

T = TypeVar("T")

T_co = TypeVar("T_co", covariant=True)


class ReadPicture(Protocol[T_co]):
    """A function of a module that reads a picture's file."""

    def __call__(self, data: bytes, /, *, max_pixels: int) -> T_co:
        """Returns what it reads; raises as :mod:`sd_inpaint.imaging.codecs` does."""


DECODE_BYTES_PER_PIXEL: Final = 28
"""Peak of decoding image and mask and of planning, in a worker: a fifth more than measured (docs/reliability.md)."""

HELD_BYTES_PER_PIXEL: Final = 5
"""A decoded image, RGB and alpha, and its mask."""

FINISH_BYTES_PER_PIXEL: Final = 20
AVIF_FINISH_BYTES_PER_PIXEL: Final = 52
"""Working copies while a result is put together and encoded: with the first result's own bytes, a sixth more than
measured (docs/reliability.md). AVIF's encoder keeps frames of its own."""

RESULT_BYTES_PER_PIXEL: Final = 8
"""Each result: its pixels and, uncompressible, its file."""

SMALL_BYTES: Final = 1024**2
"""Beside what pixels take: headers, profiles, texts."""

_MEASURE_CPU_SECONDS: Final = 2.0
_MEASURE_BYTES: Final = 256 * 1024**2

_CPU_SECONDS: Final = 5.0
_CPU_SECONDS_PER_MEGAPIXEL: Final = 0.4
"""Twice what the slowest format and the widest ``mask_grow`` take together (measured: docs/reliability.md)."""

_HEAVY_PIXELS: Final = 8_000_000
_HEAVY_UPLOAD_BYTES: Final = 16 * 1024**2


def finish_bytes_per_pixel(output_format: str | None) -> int:
    """Returns what putting a result together and encoding it takes beside the result, by the name of its format."""
    return AVIF_FINISH_BYTES_PER_PIXEL if output_format == OutputFormat.AVIF else FINISH_BYTES_PER_PIXEL


class AdmittedRequest:
    """A request whose pictures are sound, with what is needed to paint it: its pixels, or its files.

    Belongs to one task at a time. Whoever got it releases it once the result is on its way.

    Attributes:
        parameters: As they were sent.
        outline: Size and canvases.
        read: Gives the files again; may block. Replaced once they are on the disk.
        preparation: The pixels; None while they wait in their files.
        waited_seconds: How long it has waited to be decoded.
        holds_all: Whether all memory is reserved that it will take.
        share: Whose it is, where callers wait for memory and for decoding.
    """

    def __init__(
        self,
        parameters: InpaintParameters,
        known: Outline,
        read: Callable[[], Upload] | None,
        preparation: Preparation | None,
        held: Reservation | None,
        share: Share = NOBODY,
    ) -> None:
        self.share = share
        self.parameters = parameters
        self.outline = known
        self.read = read
        self.preparation = preparation
        self.waited_seconds = 0.0
        self.holds_all = False
        self._held = [] if held is None else [held]

    @classmethod
    def of(cls, parameters: InpaintParameters, preparation: Preparation) -> "AdmittedRequest":
        """Makes one of pixels that are somebody else's to count."""
        admitted = cls(parameters, outline(preparation), None, preparation, None)
        admitted.holds_all = True
        return admitted

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        return self.outline.size

    @property
    def pixels(self) -> int:
        """Width times height."""
        width, height = self.size
        return width * height

    @property
    def canvases(self) -> tuple[Canvas, ...]:
        """Where the model will work; none for an empty mask."""
        return self.outline.canvases

    def hold_all(self, reservation: Reservation) -> None:
        """Takes over the last reservation that the request needs."""
        self._held.append(reservation)
        self.holds_all = True

    def keep_only(self, size: int) -> None:
        """Lets go of the pixels, and of memory but for so many bytes, for a result that waits to be written."""
        self.preparation = self.read = None
        for reservation in self._held:
            reservation.shrink(size)
            size -= reservation.size

    def release(self) -> None:
        """Lets go of pixels and memory; may be called again."""
        self.preparation = self.read = None
        while self._held:
            self._held.pop().release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Measures and decodes requests within one budget. Lives as long as the process; any event loop may call it.

    Args:
        work: Where pictures are worked on.
        max_waiting: How many requests may be measured, how many large and how many small ones decoded, or wait for it.
    """

    def __init__(self, work: PictureWork, max_waiting: int) -> None:
        self._work = work
        self._pool = work.budget.pictures
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: dict[str, Counter[str]] = {}

    async def admit(
        self, upload: Upload, limits: CanvasLimits, *, force: bool = False, share: Share = NOBODY
    ) -> AdmittedRequest:
        """Decodes and checks a request. Cancelling the awaiting task ends the work at once.

        Its pixels stay while there is room for such that wait; else they are decoded once more when its turn is near.

        Args:
            upload: The files.
            limits: Of the model and its device.
            force: True waits, however many others do.
            share: Whose request; one caller alone does not keep others from waiting, nor make them wait long.

        Raises:
            InvalidImageError, InvalidMaskError, SizeMismatchError, ImageTooLargeError: If it cannot be served.
            QueueFullError: If too many others wait to be decoded.
        """
        came_at = time.monotonic()
        with self._counted("measured", share, force=force):
            pixels = await self._measure(upload, share)
        # Small pictures have a line of their own: no number of large ones keeps them out.
        kind = "heavy" if _is_heavy(upload, pixels) else "light"
        with self._counted(kind, share, force=force):
            self._pool.check_fits(_whole_bytes(pixels, upload.parameters))
            with await self._pool.wait(_decode_bytes(pixels), share=share):
                record("admission", came_at, time.monotonic())
                held = self._try_hold_ahead(pixels)
                try:
                    if held is None:
                        known = await self._run(outline_upload, upload, limits, pixels, share)
                        return AdmittedRequest(upload.parameters, known, lambda: upload, None, None, share)
                    preparation = await self._run(prepare_upload, upload, limits, pixels, share)
                except BaseException:
                    if held is not None:
                        held.release()
                    raise
                return AdmittedRequest(upload.parameters, outline(preparation), None, preparation, held, share)

    async def bring(self, admitted: AdmittedRequest, limits: CanvasLimits) -> Preparation:
        """Returns the pixels of a request whose turn is near; decodes them if they are still in their files."""
        if admitted.read is not None:
            # All that it will take to its end: a request that holds pixels while it waits for more may wait for ever.
            width, height = admitted.size
            whole = _whole_bytes(width * height, admitted.parameters)
            admitted.hold_all(await self._pool.wait(whole, is_urgent=True, share=admitted.share))
            upload = await asyncio.to_thread(admitted.read)
            admitted.preparation = await self._run(
                prepare_upload, upload, limits, width * height, admitted.share, is_urgent=True
            )
            admitted.read = None
        assert admitted.preparation is not None  # noqa: S101  # there are pixels where there are no files
        return admitted.preparation

    async def read(self, read: ReadPicture[T], image: bytes, max_pixels: int, share: Share = NOBODY) -> T:
        """Has a function read one picture, within the same bounds; raises as :meth:`admit` does."""
        upload = Upload(image, None, InpaintParameters(prompt=""), max_pixels)
        with self._counted("measured", share, force=False):
            pixels = await self._measure(upload, share)
        kind = "heavy" if _is_heavy(upload, pixels) else "light"
        with self._counted(kind, share, force=False), await self._pool.wait(_decode_bytes(pixels), share=share):
            return await self._work.workers.run(
                partial(read, max_pixels=max_pixels), image, share=share, **_bounds(upload, pixels)
            )

    async def make_room_for_results(self, admitted: AdmittedRequest) -> None:
        """Waits for the memory that the request's results take, before they are put together."""
        if not admitted.holds_all:
            width, height = admitted.size
            size = _finish_bytes(width * height, admitted.parameters)
            admitted.hold_all(await self._pool.wait(size, is_urgent=True, share=admitted.share))

    async def _measure(self, upload: Upload, share: Share) -> int:
        return await self._work.workers.run(
            Upload.pixels,
            upload,
            cpu_seconds=_MEASURE_CPU_SECONDS,
            memory_bytes=_MEASURE_BYTES,
            is_heavy=upload.size_bytes > _HEAVY_UPLOAD_BYTES,
            share=share,
        )

    async def _run(
        self,
        function: Callable[[Upload, CanvasLimits], T],
        upload: Upload,
        limits: CanvasLimits,
        pixels: int,
        share: Share,
        *,
        is_urgent: bool = False,
    ) -> T:
        # Decoding, planning and cutting are one call of a worker.
        with span("decode", pixels=pixels, bytes=upload.size_bytes):
            return await self._work.workers.run(
                function,
                upload,
                limits,
                is_urgent=is_urgent,
                share=share,
                **_bounds(upload, pixels),
            )

    def _try_hold_ahead(self, pixels: int) -> Reservation | None:
        try:
            return self._pool.hold(_held_bytes(pixels), share=AHEAD_SHARE)
        except QueueFullError:
            return None

    @contextmanager
    def _counted(self, stage: str, share: Share, *, force: bool) -> Iterator[None]:
        caller = share.caller
        with self._lock:
            waiting = self._waiting.setdefault(stage, Counter())
            if not force and not has_place(waiting, caller, self._max_waiting):
                raise QueueFullError(
                    f"{waiting.total()} requests wait for their pictures to be decoded. "
                    f"Try again in {RETRY_SECONDS} seconds.",
                    retry_after_seconds=RETRY_SECONDS,
                    reason="decoding",
                )
            waiting[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                waiting[caller] -= 1
                if not waiting[caller]:
                    del waiting[caller]


def _is_heavy(upload: Upload, pixels: int) -> bool:
    return pixels > _HEAVY_PIXELS or upload.size_bytes > _HEAVY_UPLOAD_BYTES


class _Bounds(TypedDict):
    cpu_seconds: float
    memory_bytes: int
    is_heavy: bool


def _bounds(upload: Upload, pixels: int) -> _Bounds:
    """What a worker may take for a picture of so many pixels."""
    return {
        "cpu_seconds": _CPU_SECONDS + _CPU_SECONDS_PER_MEGAPIXEL * pixels / 1e6,
        "memory_bytes": 2 * _decode_bytes(pixels),
        "is_heavy": _is_heavy(upload, pixels),
    }


def _decode_bytes(pixels: int) -> int:
    return pixels * DECODE_BYTES_PER_PIXEL + SMALL_BYTES


def _held_bytes(pixels: int) -> int:
    return pixels * HELD_BYTES_PER_PIXEL + SMALL_BYTES


def _finish_bytes(pixels: int, parameters: InpaintParameters) -> int:
    working = finish_bytes_per_pixel(parameters.output_format)
    return pixels * (working + RESULT_BYTES_PER_PIXEL * parameters.num_images) + SMALL_BYTES


def _whole_bytes(pixels: int, parameters: InpaintParameters) -> int:
    return max(_decode_bytes(pixels), _held_bytes(pixels) + _finish_bytes(pixels, parameters))
