"""What schemathesis is told of this service beyond its document: what a picture is, and which fields go together.

Loaded by its command, not by pytest.
"""

import base64
import contextlib
import io
import re
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image, ImageDraw

SIZE = (24, 17)

DEADLINE = "X-Deadline-Seconds"

PATIENCE_SECONDS = 60.0

IDEMPOTENCY_KEY = "Idempotency-Key"

FORMS = ("inpaint", "post_job", "edit_image")

FREE_TEXTS = ("prompt", "negative_prompt", "loras", "model", "user", "safety_identifier", "size")

LOSSY = ("webp", "jpeg", "avif")

SYNTAX = re.compile(r"[()\[\]<>\\:|]|\bAND\b")
"""What means something in a prompt; half of it is an error."""


def _written(colour: int) -> bytes:
    """A picture with a hole in it, which is white and, for OpenAI's dialect, transparent."""
    image = Image.new("RGBA", SIZE, (colour, colour, colour, 255))
    ImageDraw.Draw(image).rectangle((6, 5, 15, 11), fill=(255, 255, 255, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [_written(colour) for colour in (0, 40, 200)]

TEXTS = [base64.b64encode(picture).decode("ascii") for picture in PICTURES]

schemathesis.openapi.media_type("image/png", strategies.sampled_from(PICTURES))


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """Leaves out a switch or a number in place of a form's text: in a form it is a text like any other."""
    is_form = isinstance(body, dict) and context.operation.definition.raw["operationId"] in FORMS
    return not is_form or not any(isinstance(body.get(name), (bool, int, float)) for name in FREE_TEXTS)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Makes a request that its schema allows one that can be served, as far as no schema can say it."""
    is_positive = case.meta is not None and case.meta.generation.mode.is_positive
    _wait_long_enough(case.headers or {})
    _match_quality(case.query)
    if is_positive:
        _match(case)
        # What was allowed still is: schemathesis need not ask again, and could not of bytes.
        case._sync_validated_hashes()


def _wait_long_enough(headers: Any) -> None:
    """A deadline that nobody can meet is answered 504, as it should be."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        if 0 < float(headers[DEADLINE]) < PATIENCE_SECONDS:
            headers[DEADLINE] = str(PATIENCE_SECONDS)


def _match(case: Any) -> None:
    if IDEMPOTENCY_KEY in (case.headers or {}):
        # A key is good for one request.
        case.headers[IDEMPOTENCY_KEY] = uuid.uuid4().hex
    if not isinstance(case.body, dict):
        return
    match case.operation.definition.raw["operationId"]:
        case "inpaint" | "post_job":
            _match_quality(case.body)
            _match_prompts(case.body)
            _leave_a_step(case.body, "strength", "num_inference_steps")
        case "edit_image":
            _match_edit(case.body)
        case "img2img":
            _match_img2img(case.body)
        case "png_info":
            case.body["image"] = TEXTS[0]


def _match_quality(sent: Any) -> None:
    """A quality is for lossy formats; one that is none stays."""
    if sent and sent.get("output_format", "png") in ("png", "json") and str(sent.get("quality")).isdigit():
        del sent["quality"]


def _match_prompts(sent: dict[str, Any]) -> None:
    """A prompt has no half brackets, and no LoRA is named where there is none."""
    sent.pop("loras", None)
    for name in ("prompt", "negative_prompt"):
        if isinstance(sent.get(name), str):
            sent[name] = SYNTAX.sub("", sent[name])


def _leave_a_step(sent: dict[str, Any], strength: str, steps: str, default: float = 1.0) -> None:
    if sent.get(strength, default) * sent.get(steps, 12 if "speed" in sent else 50) < 1:
        sent.pop(strength, None)
        sent.pop(steps, None)


def _match_edit(sent: dict[str, Any]) -> None:
    _match_prompts(sent)
    _leave_a_step(sent, "strength", "num_inference_steps")
    sent.pop("size", None)
    if sent.get("output_format") not in LOSSY:
        sent.pop("output_compression", None)
    if sent.get("stream") != "true":
        sent.pop("partial_images", None)


def _match_img2img(sent: dict[str, Any]) -> None:
    """Pictures in place of texts that are none; of numbers as texts, and of what must fit something else, none."""
    for name, value in list(sent.items()):
        if value is None or (isinstance(value, str) and name not in ("prompt", "negative_prompt", "mask")):
            del sent[name]
    for name in ("alwayson_scripts", "styles", "width", "height", "mask_blur_x", "mask_blur_y", "eta", "s_noise"):
        sent.pop(name, None)
    for name in ("scheduler", "sampler_name", "sampler_index", "seed_resize_from_h", "batch_size", "n_iter"):
        sent.pop(name, None)
    if sent.get("inpainting_fill") not in (0, 1):
        sent.pop("inpainting_fill", None)
    _match_prompts(sent)
    _leave_a_step(sent, "denoising_strength", "steps", 0.75)
    sent["init_images"] = [TEXTS[0]]
    # Without one, width and height must be the picture's.
    sent |= {"mask": TEXTS[1], "inpaint_full_res": True}
