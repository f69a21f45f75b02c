"""OpenAI's dialect, for clients that speak it already: ``POST /v1/images/edits`` and ``GET /v1/models``.

Source: OpenAI's API reference for images/edits, and what its Python client sends. A mask's transparent part is
repainted there; unsupported values are refused, never silently ignored. Besides OpenAI's own fields, every parameter
of ``/sd-inpaint/inpaint`` may be sent under its own name (``extra_body`` of the Python client).
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.errors import InvalidParameterError, MissingFieldError
from sd_inpaint.http.endpoints.openai_stream import EditStream
from sd_inpaint.http.endpoints.painting import NOT_OPEN, PAINTS, READS_PAIR, Painting, deadline_parameter
from sd_inpaint.http.middleware.access_log import request_id
from sd_inpaint.http.wire import sse
from sd_inpaint.http.wire.errors import OpenAIError
from sd_inpaint.http.wire.forms import READS_FORM, Form, FormFields, read_form
from sd_inpaint.http.wire.json_body import JSON
from sd_inpaint.http.wire.operations import (
    Answer,
    Base64,
    DescribedRoute,
    JsonSchema,
    Operation,
    form_body,
    json_answer,
)
from sd_inpaint.http.wire.parameters import parameter_schemas, read_parameters, read_whole
from sd_inpaint.http.wire.paths import EDITS, MODELS, OPENAI
from sd_inpaint.http.wire.results import RESULT_HEADERS, describing_headers, encode_all
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.pair import read_transparency
from sd_inpaint.progress import Progress
from sd_inpaint.schema import SEED_RANDOM, InpaintParameters, InpaintResult

TAG = "openai"

IMAGE_FIELDS = ("image", "image[]")
"""The second is what the Python client makes of a list."""

QUALITY_STEPS = {"low": 25, "medium": 50, "high": 100}
"""Denoising steps, from the middle of the guide's "lower", "medium" and "higher"."""

CHOICES: dict[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),  # nothing is kept that an address could point to
    "output_format": tuple(str(image_format) for image_format in ImageFormat),
    "quality": ("auto", "standard", *QUALITY_STEPS),
    "background": ("auto", "opaque"),
    "input_fidelity": ("low", "high"),  # either way: the part that is not repainted is the input's
    "stream": ("false", "true"),
    "partial_images": ("0", "1", "2", "3"),
}
"""Values of OpenAI's fields, besides ``FREE_TEXTS``, ``n`` and ``size``; the first is the default."""

FREE_TEXTS = ("model", "user", "safety_identifier")
"""Read by OpenAI's own servers only. One model is served here, whatever it is called; ``X-Model`` says which."""

COMPRESSION = "output_compression"
"""A quality from 0 to 100 there too, whatever its name says; unset leaves it to the format."""

_OWN_TEXTS = tuple(
    name for name in InpaintParameters.model_fields if name not in ("num_images", "output_format", "quality")
)

FIELDS = FormFields(
    files=(),
    optional_files=(*IMAGE_FIELDS, "mask"),
    texts=(*_OWN_TEXTS, "n", "size", COMPRESSION, *CHOICES, *FREE_TEXTS),
)


class EditedImage(TypedDict):
    """One painted picture."""

    b64_json: Base64
    seed: int


class EditedImages(TypedDict):
    """The painted pictures."""

    created: int
    data: list[EditedImage]
    output_format: str
    size: str


class ServedModel(TypedDict):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ServedModels(TypedDict):
    """The one model that is served."""

    object: Literal["list"]
    data: list[ServedModel]


_FILES = {
    "image": "The picture, also as image[]; without a mask, its transparent part is repainted.",
    "mask": "A picture of the same size, whose transparent part is repainted.",
}

_FREE = {"type": "string", "description": "Accepted and ignored."}


def _describe_edit(longest_seconds: float) -> Operation:
    own = parameter_schemas()
    seed = own["seed"] | {"default": SEED_RANDOM}
    steps = {key: value for key, value in own["num_inference_steps"].items() if key != "default"}
    texts: dict[str, JsonSchema] = {
        **own,
        "seed": seed,
        "num_inference_steps": steps,
        "n": own["num_images"],
        "size": {"type": "string", "default": "auto", "description": "auto, or the picture's own, such as 512x512."},
        COMPRESSION: {"type": "integer", "minimum": 0, "maximum": 100, "description": "Quality of a lossy format."},
        **{name: {"type": "string", "enum": list(known), "default": known[0]} for name, known in CHOICES.items()},
        **dict.fromkeys(FREE_TEXTS, _FREE),
    }
    return Operation(
        id="edit_image",
        tag=TAG,
        summary="Edit an image, for OpenAI's clients",
        description="Repaints the transparent part of the mask, or without one of the image. Also takes fields of "
        "/sd-inpaint/inpaint, under their own names. With stream=true the answer is a stream of events.",
        parameters=(deadline_parameter(longest_seconds),),
        body=form_body(FIELDS, texts, _FILES, required=("image", "prompt")),
        answers={
            200: Answer(
                "The painted pictures.",
                {JSON: EditedImages, sse.MEDIA_TYPE: sse.Event},
                {name: {**about, "required": False} for name, about in RESULT_HEADERS.items()},
            )
        },
        errors=(*NOT_OPEN, *READS_FORM, *READS_PAIR, *PAINTS),
        error_schema=OpenAIError,
    )


_LIST = Operation(
    id="list_models",
    tag=TAG,
    summary="The served model, for OpenAI's clients",
    answers={200: json_answer("The model.", ServedModels)},
    error_schema=OpenAIError,
)


@dataclass(frozen=True, slots=True)
class EditOptions:
    """An edit's options, besides its files.

    Attributes:
        parameters: In this service's own terms.
        image_format: Of the pictures in the answer.
        compression: Their quality, 1 to 100; None leaves it to the format.
        size: ``auto``, or what the caller takes the picture's size to be, such as ``512x512``.
        quality: As the caller names it.
        is_streamed: Whether the answer is a stream of events.
        partial_images: How many pictures the stream shows on the way.
    """

    parameters: InpaintParameters
    image_format: ImageFormat
    compression: int | None
    size: str
    quality: str
    is_streamed: bool
    partial_images: int


class OpenAIEdits:
    """Answers OpenAI's calls. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting

    def routes(self) -> list[DescribedRoute]:
        """Returns the routes below ``/v1``."""
        edit = _describe_edit(self._painting.longest_seconds)
        return [
            DescribedRoute(EDITS.removeprefix(OPENAI), self.post_edit, edit, method="POST"),
            DescribedRoute(MODELS.removeprefix(OPENAI), self.get_models, _LIST),
        ]

    async def post_edit(self, request: Request) -> Response:
        """Repaints the transparent part of a mask."""
        # 1. Refuse what can be refused before the body is read.
        self._painting.check_open(request)
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        form = await read_form(request, FIELDS)
        options = read_options(form.texts)
        options = replace(options, parameters=self._painting.complete(options.parameters))
        with contextlib.ExitStack() as until_answered:
            admitted = until_answered.enter_context(await self._admit(request, form, options))
            del form
            codecs.check_encodable(admitted.size, options.image_format)
            if options.is_streamed:
                return await self._stream(request, admitted, options, deadline_seconds, until_answered)
            # 3. Paint the picture.
            result = await self._painting.paint(request, admitted, deadline_seconds)
            # 4. Write the response.
            return await self._painting.encode(self._render, result, options)

    async def _stream(
        self,
        request: Request,
        admitted: AdmittedRequest,
        options: EditOptions,
        deadline_seconds: float | None,
        until_answered: contextlib.ExitStack,
    ) -> Response:
        progress = Progress(wants_preview=options.partial_images > 0)
        painting = asyncio.ensure_future(self._painting.paint(request, admitted, deadline_seconds, progress))
        admission = asyncio.ensure_future(progress.admitted.wait())
        try:
            # An early refusal has its own status; only later errors have to be sent as an event.
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
            return (
                None if picture is None else codecs.encode(picture, options.image_format, quality=options.compression)
            )

        async def encode_partial() -> bytes | None:
            await self._painting.make_room_for_results(admitted)
            return await self._painting.work(write_partial)

        async def encode_result(result: InpaintResult) -> list[tuple[int, bytes]]:
            return await self._painting.encode(self._encode, result, options)

        facts: dict[str, object] = {
            "size": "{}x{}".format(*admitted.size),
            "quality": options.quality,
            "background": "opaque",
            "output_format": str(options.image_format),
        }
        stream = EditStream(
            request.scope["path"], request_id(request), options.partial_images, facts, encode_partial, encode_result
        )
        return sse.stream(_closing(until_answered.pop_all(), stream.events(painting, progress)))

    async def get_models(self, request: Request) -> Response:
        """Lists the one model that is served."""
        model: ServedModel = {"id": self._painting.model, "object": "model", "created": 0, "owned_by": "sd-inpaint"}
        models: ServedModels = {"object": "list", "data": [model]}
        return JSONResponse(models)

    async def _admit(self, request: Request, form: Form, options: EditOptions) -> AdmittedRequest:
        sent = [form.files[name] for name in IMAGE_FIELDS if name in form.files]
        if len(sent) != 1:
            raise MissingFieldError("Exactly one picture must be sent, as 'image'.", field="image")
        admitted = await self._painting.admit(
            request, sent[0], form.files.get("mask"), options.parameters, read_transparency
        )
        own_size = "{}x{}".format(*admitted.size)
        if options.size not in ("auto", own_size):
            admitted.release()
            raise InvalidParameterError(
                f"size must be auto or the picture's own, {own_size}: the result has the picture's size.",
                field="size",
                value=options.size[:40],
            )
        return admitted

    def _encode(self, result: InpaintResult, options: EditOptions) -> list[tuple[int, bytes]]:
        parameters = self._painting.metadata(options.parameters)
        return encode_all(
            result,
            options.image_format,
            self._painting.model,
            parameters,
            quality=options.compression,
            credentials=self._painting.credentials,
        )

    def _render(self, result: InpaintResult, options: EditOptions) -> Response:
        body: EditedImages = {
            "created": int(time.time()),
            "data": [
                {"b64_json": base64.b64encode(file).decode("ascii"), "seed": seed}
                for seed, file in self._encode(result, options)
            ],
            "output_format": str(options.image_format),
            "size": "{}x{}".format(*result.size),
        }
        return JSONResponse(body, headers=describing_headers(result, self._painting.model))


async def _closing(until_answered: contextlib.ExitStack, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yields the same events, and lets go of the request when they end or nobody reads on."""
    with until_answered:
        async for event in events:
            yield event


def read_options(texts: Mapping[str, str]) -> EditOptions:
    """Reads the texts of an edit; a seed that is not given is drawn, as OpenAI's clients expect.

    Raises:
        InvalidParameterError: If a value is not supported; the message says which are.
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
    image_format = ImageFormat(chosen["output_format"])
    return EditOptions(
        parameters=read_parameters(own, aliases={"num_images": "n"}),
        image_format=image_format,
        compression=_read_compression(texts.get(COMPRESSION), image_format),
        size=texts.get("size", "auto").strip().lower(),
        quality=chosen["quality"],
        is_streamed=is_streamed,
        partial_images=partial_images,
    )


def _read_compression(text: str | None, image_format: ImageFormat) -> int | None:
    if text is None:
        return None
    compression = read_whole(COMPRESSION, text, 0, 100)
    if image_format is ImageFormat.PNG:
        if compression != 100:
            raise InvalidParameterError(
                f"{COMPRESSION} needs output_format webp, jpeg or avif: a PNG keeps every pixel.",
                field=COMPRESSION,
                value=text[:40],
            )
        return None
    return max(1, compression)


def _choose(name: str, text: str) -> str:
    choice = text.strip().lower()
    if choice not in CHOICES[name]:
        known = CHOICES[name]
        wanted = known[0] if len(known) == 1 else f"one of {', '.join(known)}"
        raise InvalidParameterError(f"{name} must be {wanted}, not {text[:40]!r}.", field=name, value=text[:40])
    return choice
