"""OpenAI's dialect, for clients that speak it already: ``POST /v1/images/edits`` and ``GET /v1/models``.

Source: OpenAI's API reference for images/edits, and what its Python client sends. A mask's transparent part is
repainted there; what cannot be done here is refused, and never passed over. Beside OpenAI's own fields, every parameter
of ``/sd-inpaint/inpaint`` may be sent under its own name (``extra_body`` of the Python client).
"""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio.to_thread
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sd_inpaint import codecs
from sd_inpaint.codecs import ImageFormat, Picture
from sd_inpaint.errors import InvalidMaskError, InvalidParameterError, MissingFieldError
from sd_inpaint.http.errors import answering
from sd_inpaint.http.forms import Form, FormFields, read_form
from sd_inpaint.http.inpainting import Inpainting
from sd_inpaint.http.journal import request_id
from sd_inpaint.http.openai_stream import EditStream
from sd_inpaint.http.parameters import read_parameters
from sd_inpaint.http.results import describing_headers, encode_all
from sd_inpaint.painter import Painter, Progress
from sd_inpaint.schema import SEED_RANDOM, InpaintParameters, InpaintRequest, InpaintResult
from sd_inpaint.settings import Settings

EDITS = "/v1/images/edits"
MODELS = "/v1/models"

IMAGE_FIELDS = ("image", "image[]")
"""The second is what the Python client makes of a list."""

QUALITY_STEPS = {"low": 25, "medium": 50, "high": 100}
"""Denoising steps, from the middle of the guide's "lower", "medium" and "higher"."""

CHOICES: dict[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),  # nothing is kept that an address could point to
    "output_format": tuple(str(image_format) for image_format in ImageFormat),
    "output_compression": ("100",),
    "quality": ("auto", "standard", *QUALITY_STEPS),
    "background": ("auto", "opaque"),
    "input_fidelity": ("low", "high"),  # either way: what is not repainted is the input's
    "stream": ("false", "true"),
    "partial_images": ("0", "1", "2", "3"),
}
"""What may be said under OpenAI's names, beside ``FREE_TEXTS``, ``n`` and ``size``; the first is what unset means."""

FREE_TEXTS = ("model", "user", "safety_identifier")
"""Read by OpenAI's own servers only. One model is served here, whatever it is called; ``X-Model`` says which."""

_OWN_TEXTS = tuple(name for name in InpaintParameters.model_fields if name != "num_images")

FIELDS = FormFields(
    files=(), optional_files=(*IMAGE_FIELDS, "mask"), texts=(*_OWN_TEXTS, "n", "size", *CHOICES, *FREE_TEXTS)
)


@dataclass(frozen=True, slots=True)
class EditOptions:
    """What an edit asks for beside its files.

    Attributes:
        parameters: In this service's own terms.
        image_format: Of the pictures in the answer.
        size: ``auto``, or what the caller takes the picture's size to be, such as ``512x512``.
        quality: As the caller names it.
        is_streamed: Whether the answer is a stream of events.
        partial_images: How many pictures the stream shows on the way.
    """

    parameters: InpaintParameters
    image_format: ImageFormat
    size: str
    quality: str
    is_streamed: bool
    partial_images: int


class OpenAIEdits:
    """Answers OpenAI's calls. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painter: Painter, inpainting: Inpainting, settings: Settings) -> None:
        self._painter = painter
        self._inpainting = inpainting
        self._settings = settings

    async def post_edit(self, request: Request) -> Response:
        """Paints the transparent part of a mask."""
        # 1. What can be refused without the body is refused before it is read.
        self._painter.check_open()
        deadline_seconds = self._inpainting.deadline_seconds(request)
        # 2. What the caller sent.
        form = await read_form(request, FIELDS)
        options = read_options(form.texts)
        asked = await anyio.to_thread.run_sync(self._decode, form, options, limiter=self._inpainting.picture_work)
        codecs.check_encodable(asked.image.size, options.image_format)
        if options.is_streamed:
            return await self._stream(request, asked, options, deadline_seconds)
        # 3. The picture.
        result = await self._inpainting.paint(request, asked, deadline_seconds)
        # 4. The response.
        return await anyio.to_thread.run_sync(self._render, result, options, limiter=self._inpainting.picture_work)

    async def _stream(
        self, request: Request, asked: InpaintRequest, options: EditOptions, deadline_seconds: float | None
    ) -> Response:
        progress = Progress(wants_preview=options.partial_images > 0)
        painting = asyncio.ensure_future(self._inpainting.paint(request, asked, deadline_seconds, progress))
        admission = asyncio.ensure_future(progress.admitted.wait())
        try:
            # What is refused at the door has its own status; only later trouble has to be told by an event.
            await asyncio.wait({painting, admission}, return_when=asyncio.FIRST_COMPLETED)
            if painting.done():
                painting.result()
        except BaseException:
            painting.cancel()
            raise
        finally:
            admission.cancel()

        def write_partial() -> bytes | None:
            picture = progress.partial()
            return None if picture is None else codecs.encode(picture, options.image_format)

        async def encode_partial() -> bytes | None:
            return await anyio.to_thread.run_sync(write_partial, limiter=self._inpainting.picture_work)

        async def encode_result(result: InpaintResult) -> list[tuple[int, bytes]]:
            return await anyio.to_thread.run_sync(self._encode, result, options, limiter=self._inpainting.picture_work)

        facts: dict[str, object] = {
            "size": f"{asked.image.width}x{asked.image.height}",
            "quality": options.quality,
            "background": "opaque",
            "output_format": str(options.image_format),
        }
        stream = EditStream(
            request.scope["path"], request_id(request), options.partial_images, facts, encode_partial, encode_result
        )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream.events(painting, progress), media_type="text/event-stream", headers=headers)

    async def get_models(self, request: Request) -> Response:
        """Lists the one model that is served."""
        model = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "sd-inpaint"}
        return JSONResponse({"object": "list", "data": [model]})

    def _decode(self, form: Form, options: EditOptions) -> InpaintRequest:
        sent = [form.files[name] for name in IMAGE_FIELDS if name in form.files]
        if len(sent) != 1:
            raise MissingFieldError("One picture must be sent, as 'image'.", field="image")
        max_pixels = self._settings.max_pixels
        image = codecs.decode_image(sent[0], max_pixels=max_pixels, keep_exif=options.parameters.keep_exif)
        mask = decode_edit_mask(form.files.get("mask"), image, max_pixels)
        codecs.check_same_size(image, mask)
        own_size = f"{image.width}x{image.height}"
        if options.size not in ("auto", own_size):
            raise InvalidParameterError(
                f"size must be auto or the picture's own, {own_size}: a result has its picture's size.",
                field="size",
                value=options.size[:40],
            )
        return InpaintRequest(image=image, mask=mask, parameters=options.parameters)

    def _encode(self, result: InpaintResult, options: EditOptions) -> list[tuple[int, bytes]]:
        parameters = options.parameters if self._settings.metadata else None
        return encode_all(result, options.image_format, self._settings.model, parameters)

    def _render(self, result: InpaintResult, options: EditOptions) -> Response:
        body = {
            "created": int(time.time()),
            "data": [
                {"b64_json": base64.b64encode(file).decode("ascii"), "seed": seed}
                for seed, file in self._encode(result, options)
            ],
            "output_format": str(options.image_format),
            "size": f"{result.image.width}x{result.image.height}",
        }
        return JSONResponse(body, headers=describing_headers(result, self._settings.model))


def read_options(texts: Mapping[str, str]) -> EditOptions:
    """Reads the texts of an edit; a seed that is not given is drawn, as OpenAI's clients expect.

    Raises:
        InvalidParameterError: If something is asked for that cannot be done here; the message says what can.
        MissingFieldError: If there is no prompt.
    """
    chosen = {name: _choose(name, texts.get(name, choices[0])) for name, choices in CHOICES.items()}
    own = {name: text for name, text in texts.items() if name in _OWN_TEXTS}
    own.setdefault("seed", str(SEED_RANDOM))
    if chosen["quality"] in QUALITY_STEPS:
        own.setdefault("num_inference_steps", str(QUALITY_STEPS[chosen["quality"]]))
    if "n" in texts:
        own["num_images"] = texts["n"]
    is_streamed, partial_images = chosen["stream"] == "true", int(chosen["partial_images"])
    if partial_images and not is_streamed:
        raise InvalidParameterError(
            "partial_images needs stream=true.", field="partial_images", value=chosen["partial_images"]
        )
    return EditOptions(
        parameters=read_parameters(own, called={"num_images": "n"}),
        image_format=ImageFormat(chosen["output_format"]),
        size=texts.get("size", "auto").strip().lower(),
        quality=chosen["quality"],
        is_streamed=is_streamed,
        partial_images=partial_images,
    )


def decode_edit_mask(file: bytes | None, image: Picture, max_pixels: int) -> np.ndarray:
    """Reads a mask by OpenAI's rule: what is transparent is repainted, in proportion. Without one, the image's own.

    Returns:
        (H, W) uint8, 255 repaint, 0 keep.

    Raises:
        InvalidMaskError: If nothing is transparent that could be: the picture has no alpha channel.
    """
    if file is None:
        if image.alpha is None:
            raise InvalidMaskError(
                "Without a 'mask', the image itself must be transparent where it is to be repainted."
            )
        return 255 - image.alpha
    mask = codecs.decode_mask_alpha(file, max_pixels=max_pixels)
    if mask is None:
        raise InvalidMaskError(
            "The mask has no transparency: in this dialect the transparent part is repainted. "
            "POST /sd-inpaint/inpaint takes masks in black and white."
        )
    return 255 - mask


def openai_routes(find_edits: Callable[[], OpenAIEdits]) -> list[Route]:
    """Returns the routes below ``/v1``.

    Args:
        find_edits: Called at each request: BentoML makes the service's instance after its routes.
    """
    return [
        Route(EDITS.removeprefix("/v1"), answering(find_edits, OpenAIEdits.post_edit), methods=["POST"]),
        Route(MODELS.removeprefix("/v1"), answering(find_edits, OpenAIEdits.get_models), methods=["GET"]),
    ]


def _choose(name: str, text: str) -> str:
    choice = text.strip().lower()
    if choice not in CHOICES[name]:
        known = CHOICES[name]
        wanted = known[0] if len(known) == 1 else f"one of {', '.join(known)}"
        raise InvalidParameterError(f"{name} must be {wanted} here, not {text[:40]!r}.", field=name, value=text[:40])
    return choice
