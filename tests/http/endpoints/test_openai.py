"""OpenAI's dialect: what its own client sends, and what cannot be done here."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_inpaint.errors import OutOfMemoryError, QueueFullError
from tests.support.edge import App, make_app
from tests.support.pictures import SIZE, hole, opened, photo, written
from tests.support.served import Served

EDITS = "/v1/images/edits"


def transparent(kept: Image.Image) -> bytes:
    """A mask in which what ``kept`` shows black is opaque, and what it shows white is transparent."""
    mask = Image.new("RGBA", kept.size, "black")
    mask.putalpha(Image.eval(kept, lambda level: 255 - level))
    return written(mask)


def edit(app: App, files: dict[str, bytes] | None = None, **texts: str) -> Any:
    """Posts an edit that is good but for what is named."""
    sent = {"image": written(photo()), "mask": transparent(hole())} if files is None else files
    uploads = {name: ("upload.png", data) for name, data in sent.items()}
    return app.client.post(EDITS, files=uploads, data={"prompt": "a rose", **texts})


def pictures(response: Any) -> list[np.ndarray]:
    """The pictures of an answer."""
    assert response.status_code == 200, response.text
    return [opened(base64.b64decode(each["b64_json"])) for each in response.json()["data"]]


def check_refusal(response: Any, status: int, code: str, param: str | None = None) -> str:
    """Asserts what OpenAI's clients read of an error; returns its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["param"] == param
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return str(error["message"])


def test_transparent_part_is_repainted(app: App) -> None:
    """The transparent part of the mask is repainted, and nothing else; the answer tells seed, size and format."""
    response = edit(app, seed="7")
    (painted,) = pictures(response)
    is_hole = np.asarray(hole()) == 255
    assert (painted[~is_hole] == np.asarray(photo())[~is_hole]).all()
    assert (painted[is_hole] == 7).all()
    body = response.json()
    assert (body["size"], body["output_format"], body["data"][0]["seed"]) == ("70x53", "png", 7)
    assert response.headers["x-seed"] == "7"
    assert app.painter.requests[0].mask.tolist() == np.asarray(hole()).tolist()


def test_partly_transparent_is_blended(app: App) -> None:
    """Half transparent is half repainted."""
    edit(app, {"image": written(photo()), "mask": transparent(Image.new("L", SIZE, 100))})
    assert (app.painter.requests[0].mask == 100).all()


def test_without_a_mask(app: App) -> None:
    """The picture's own transparency is the mask then; where it has none, that is said."""
    picture = photo()
    picture.putalpha(Image.eval(hole(), lambda level: 255 - level))
    pictures(edit(app, {"image": written(picture)}))
    assert app.painter.requests[0].mask.tolist() == np.asarray(hole()).tolist()
    assert "transparent" in check_refusal(edit(app, {"image": written(photo())}), 400, "invalid_mask")


def test_opaque_mask(app: App) -> None:
    """A mask in black and white says nothing in this dialect, and is not taken for one that says: nothing."""
    message = check_refusal(edit(app, {"image": written(photo()), "mask": written(hole())}), 400, "invalid_mask")
    assert "/sd-inpaint/inpaint" in message


def test_what_is_asked(app: App) -> None:
    """Number, quality and this service's own names reach the painter; without a seed one is drawn."""
    response = edit(app, n="2", quality="high", guidance_scale="3", negative_prompt="blurry", color_match="true")
    assert len(pictures(response)) == 2
    asked = app.painter.requests[0].parameters
    assert (asked.num_images, asked.num_inference_steps, asked.seed) == (2, 100, -1)
    assert (asked.guidance_scale, asked.negative_prompt, asked.color_match) == (3.0, "blurry", True)
    edit(app, quality="low", num_inference_steps="7")
    assert app.painter.requests[1].parameters.num_inference_steps == 7
    edit(app)
    assert app.painter.requests[2].parameters.num_inference_steps == 50


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_output_format(app: App, output_format: str) -> None:
    """Pictures come in the format that was asked for."""
    (data,) = edit(app, output_format=output_format, seed="1").json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))) as image:
        assert image.format == output_format.upper()


@pytest.mark.parametrize(
    ("texts", "param"),
    [
        ({"size": "512x512"}, "size"),
        ({"n": "5"}, "n"),
        ({"n": "0"}, "n"),
        ({"n": "two"}, "n"),
        ({"response_format": "url"}, "response_format"),
        ({"background": "transparent"}, "background"),
        ({"stream": "yes"}, "stream"),
        ({"partial_images": "2"}, "partial_images"),
        ({"partial_images": "4", "stream": "true"}, "partial_images"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": "50"}, "output_compression"),
        ({"quality": "best"}, "quality"),
        ({"guidance_scale": "40"}, "guidance_scale"),
        ({"num_images": "2"}, "num_images"),
        ({"moderation": "low"}, "moderation"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(app: App, texts: dict[str, str], param: str) -> None:
    """What cannot be done here is refused by name, not passed over."""
    message = check_refusal(edit(app, **texts), 400, "invalid_parameter", param)
    assert param in message
    assert not app.painter.requests


def test_one_picture_under_either_name(app: App) -> None:
    """One picture, under either name; damaged and mismatching ones are refused as everywhere."""
    mask = transparent(hole())
    pictures(edit(app, {"image[]": written(photo()), "mask": mask}))
    check_refusal(edit(app, {"mask": mask}), 400, "missing_field", "image")
    both = {"image": written(photo()), "image[]": written(photo()), "mask": mask}
    check_refusal(edit(app, both), 400, "missing_field", "image")
    check_refusal(edit(app, {"image": b"no picture", "mask": mask}), 400, "invalid_image")
    check_refusal(edit(app, {"image": written(photo()), "mask": b"no picture"}), 400, "invalid_mask")
    check_refusal(edit(app, {"image": written(photo((8, 8))), "mask": mask}), 400, "size_mismatch")
    check_refusal(app.client.post(EDITS, json={"prompt": "a rose"}), 415, "unsupported_media_type")


def test_trouble_has_status_headers_and_the_dialects_shape(app: App) -> None:
    """A full queue and a failure have their status, their headers and the dialect's shape."""
    app.painter.refusal = QueueFullError("The queue is full.", retry_after_seconds=30)
    response = edit(app)
    check_refusal(response, 429, "queue_full")
    assert response.headers["retry-after"] == "30"
    app.painter.refusal = None
    app.painter.failure = RuntimeError("secret detail")
    response = edit(app)
    assert response.status_code == 500
    assert "secret" not in response.text


def events(response: Any) -> list[dict[str, Any]]:
    """The events of a stream, each named as its data say."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_stream_ends_with_the_picture(app: App) -> None:
    """A stream ends with the picture that is the answer otherwise, one event for each."""
    first, second = events(edit(app, stream="true", seed="7", n="2", output_format="webp", quality="low"))
    assert (first["type"], first["seed"], second["seed"]) == ("image_edit.completed", 7, 8)
    assert (first["size"], first["output_format"], first["quality"]) == ("70x53", "webp", "low")
    assert first["usage"]["total_tokens"] == 0
    with Image.open(io.BytesIO(base64.b64decode(second["b64_json"]))) as image:
        assert (image.format, image.size) == ("WEBP", SIZE)


def test_stream_in_trouble(app: App) -> None:
    """What is refused before a stream begins has its status; what goes wrong later is its last event."""
    app.painter.failure = QueueFullError("The queue is full.", retry_after_seconds=30)
    check_refusal(edit(app, stream="true"), 429, "queue_full")
    app.painter.failure = RuntimeError("secret detail")
    assert edit(app, stream="true").status_code == 500
    app.painter.failure = None
    app.painter.late_failure = OutOfMemoryError("The device ran out of memory.")
    (event,) = events(edit(app, stream="true"))
    assert (event["type"], event["error"]["code"], event["error"]["type"]) == ("error", "out_of_memory", "server_error")
    app.painter.late_failure = RuntimeError("secret detail")
    response = edit(app, stream="true")
    assert events(response)[0]["error"]["code"] == "internal"
    assert "secret" not in response.text


def test_the_one_model_is_listed(app: App) -> None:
    """The one model is listed."""
    (model,) = app.client.get("/v1/models").json()["data"]
    assert model["id"] == "demo"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/models", {"Authorization": "Bearer none"}, 401, "unauthorized"),
        ("POST", "/v1/images/edits", {"X-API-Key": "secret-key", "Content-Length": "9" * 12}, 413, "body_too_large"),
        ("POST", "/v1/images/generations", {"X-API-Key": "secret-key"}, 404, "not_found"),
        ("GET", "/v1/images/edits", {"X-API-Key": "secret-key"}, 405, "method_not_allowed"),
    ],
)
def test_refusals_of_the_edge_have_openais_shape(
    method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    """What is refused before the dialect is reached is in the shape that its clients read, too."""
    with make_app(api_keys="secret-key") as app:
        response = app.client.request(method, path, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)
    assert error["message"].endswith(".")
    assert response.headers["cache-control"] == "no-store"


def test_keys_are_asked_for() -> None:
    """Keys are asked for here as everywhere, as OpenAI's clients send them."""
    with make_app(api_keys="secret-key") as app:
        assert edit(app).status_code == 401
        assert app.client.get("/v1/models", headers={"Authorization": "Bearer secret-key"}).status_code == 200


@pytest.mark.contract
def test_openai_client(server: Served) -> None:
    """OpenAI's own Python client paints, and understands a refusal."""
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        files = {"image": ("image.png", written(photo())), "mask": ("mask.png", transparent(hole()))}
        answer = client.images.edit(
            **files,
            model="any",
            prompt="a rose",
            n=2,
            size="auto",
            response_format="b64_json",
            extra_body={"num_inference_steps": 2, "seed": 1},
        )
        first, second = (opened(base64.b64decode(each.b64_json)) for each in answer.data)
        kept = np.asarray(hole()) == 0
        assert (first[kept] == np.asarray(photo())[kept]).all()
        assert (first[~kept] != second[~kept]).any()
        stream = client.images.edit(
            **files,
            prompt="a rose",
            stream=True,
            partial_images=2,
            extra_body={"num_inference_steps": 20, "seed": 1, "region": "mask"},
        )
        *partials, completed = list(stream)
        assert [each.type for each in (*partials, completed)][-1] == "image_edit.completed"
        # Fewer than were asked for where the steps are quicker than anybody looks.
        assert [each.partial_image_index for each in partials] == list(range(len(partials)))
        assert partials
        for each in (*partials, completed):
            picture = opened(base64.b64decode(each.b64_json))
            assert (picture[kept] == np.asarray(photo())[kept]).all()
            assert (picture[~kept] != np.asarray(photo())[~kept]).any()
        with pytest.raises(openai.BadRequestError, match="size must be auto") as refused:
            client.images.edit(**files, prompt="a rose", size="1024x1024")
        assert refused.value.param == "size"
        assert client.models.list().data[0].id == "demo"
