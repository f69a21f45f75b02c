"""The calls below ``/sdapi/v1``: ``img2img``, and those that its clients make before it and meanwhile."""

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.http.endpoints.a1111 import lists
from sd_inpaint.http.endpoints.a1111.call import Img2Img, read_call
from sd_inpaint.http.endpoints.a1111.fields import TEXTS
from sd_inpaint.http.endpoints.a1111.infotext import parse_infotext
from sd_inpaint.http.endpoints.a1111.operations import (
    NOT_DONE,
    NOTHING_TO_DO,
    PROGRESS,
    PaintedImages,
    describe_call,
    describe_img2img,
    describe_list,
    describe_options,
    describe_png_info,
)
from sd_inpaint.http.endpoints.a1111.running import IDLE_STATE, Run, Running
from sd_inpaint.http.endpoints.a1111.settings import check_settings, list_settings
from sd_inpaint.http.endpoints.painting import Painting
from sd_inpaint.http.middleware.api_keys import caller_of
from sd_inpaint.http.wire.base64_pictures import decode_picture
from sd_inpaint.http.wire.errors import NotFoundError
from sd_inpaint.http.wire.headers import NO_STORE
from sd_inpaint.http.wire.json_body import parse_json_object, read_json_body
from sd_inpaint.http.wire.operations import DescribedRoute
from sd_inpaint.http.wire.parameters import read_switch
from sd_inpaint.http.wire.results import describing_headers, encode_all
from sd_inpaint.imaging import codecs, provenance
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.pair import read_opacity
from sd_inpaint.prompt_syntax import write_lora_tags
from sd_inpaint.schema import InpaintResult


class A1111:
    """Answers the web UI's calls. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting
        self._running = Running()

    def routes(self) -> list[DescribedRoute]:
        """Returns the routes below ``/sdapi/v1``."""
        model = self._painting.model
        answers: dict[str, Callable[[], Any]] = {
            "sd-models": lambda: lists.list_models(model),
            "samplers": lists.list_samplers,
            "schedulers": lists.list_schedulers,
            "upscalers": lambda: lists.UPSCALERS,
            "cmd-flags": lambda: lists.COMMAND_FLAGS,
            "options": lambda: list_settings(model),
            "loras": lambda: lists.list_loras(self._painting.loras),
            "memory": lambda: lists.measure_memory(self._painting.device_memory()),
            **{name: functools.partial(lists.EMPTY.get, name) for name in lists.EMPTY},
        }
        calls = {
            "interrupt": self.interrupt,
            "skip": self.skip,
            **dict.fromkeys(NOTHING_TO_DO, self.do_nothing),
            **dict.fromkeys(NOT_DONE, self.refuse),
        }
        longest = self._painting.longest_seconds
        return [
            *(DescribedRoute(f"/{name}", _listing(make), describe_list(name)) for name, make in answers.items()),
            DescribedRoute("/progress", self.get_progress, PROGRESS),
            DescribedRoute("/img2img", self.img2img, describe_img2img(longest, model), method="POST"),
            DescribedRoute("/options", self.set_options, describe_options(model), method="POST"),
            DescribedRoute("/png-info", self.read_png, describe_png_info(longest), method="POST"),
            *(DescribedRoute(f"/{name}", answer, describe_call(name), method="POST") for name, answer in calls.items()),
        ]

    async def img2img(self, request: Request) -> Response:
        """Repaints the white part of a mask."""
        # 1. Refuse what can be refused before the body is read.
        self._painting.check_open(request)
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        body = await read_json_body(request)
        call = await self._painting.work(lambda: read_call(parse_json_object(body), self._painting.model))
        call = replace(call, parameters=self._painting.complete(call.parameters))
        read_mask = functools.partial(read_opacity, rounds=call.rounds_mask)
        with await self._painting.admit(request, call.image, call.mask, call.parameters, read_mask) as admitted:
            _check_size(call, admitted)
            # 3. Paint the picture.
            with self._running.enter(caller_of(request).label) as run:
                result = await run.painting(
                    self._painting.paint(request, admitted, deadline_seconds, progress=run.progress)
                )
            # 4. Write the response.
            return await self._painting.encode(self._render, result, call)

    async def get_progress(self, request: Request) -> Response:
        """Returns the progress of the caller's oldest call, with the picture so far."""
        runs = self._running.of(caller_of(request).label)
        skips_picture = read_switch("skip_current_image", request.query_params.get("skip_current_image", "false"))
        about: dict[str, Any]
        if not runs:
            about = {"progress": 0.0, "eta_relative": 0.0, "state": IDLE_STATE, "current_image": None}
        else:
            picture = None if skips_picture else await self._painting.work(_preview, runs[0])
            about = {**runs[0].describe(), "current_image": picture}
            about["state"] = {**about["state"], "job_count": len(runs)}
        return JSONResponse({**about, "textinfo": None}, headers=NO_STORE)

    async def interrupt(self, request: Request) -> Response:
        """Ends all of the caller's calls."""
        for run in self._running.of(caller_of(request).label):
            run.interrupt()
        return JSONResponse({})

    async def skip(self, request: Request) -> Response:
        """Ends the caller's oldest call."""
        for run in self._running.of(caller_of(request).label)[:1]:
            run.interrupt()
        return JSONResponse(None)

    async def set_options(self, request: Request) -> Response:
        """Accepts settings at the values that are served."""
        body = await read_json_body(request)
        check_settings(await self._painting.work(parse_json_object, body), self._painting.model, field="options")
        return JSONResponse(None)

    async def read_png(self, request: Request) -> Response:
        """Reads the parameters that a picture's file carries."""
        body = await read_json_body(request)
        file = await self._painting.work(_read_png, body)
        text = await self._painting.read_picture(request, codecs.read_text, file)
        return JSONResponse(
            {"info": text, "items": {"parameters": text} if text else {}, "parameters": parse_infotext(text)}
        )

    async def do_nothing(self, request: Request) -> Response:
        """Answers a call that has nothing to do."""
        return JSONResponse(None)

    async def refuse(self, request: Request) -> Response:
        """Says why a call of the web UI's is not answered."""
        raise NotFoundError(NOT_DONE[request.scope["path"].rpartition("/")[2]])

    def _render(self, result: InpaintResult, call: Img2Img) -> Response:
        model, parameters = self._painting.model, call.parameters
        written, credentials = self._painting.metadata(parameters), self._painting.credentials
        files = encode_all(result, ImageFormat.PNG, model, written, credentials=credentials)
        seeds = [seed for seed, _ in files]
        texts = [provenance.texts(parameters, result, seed, model=model).get("parameters", "") for seed in seeds]
        echo = {theirs: getattr(parameters, ours) for theirs, ours in TEXTS.items()}
        echo["prompt"] += write_lora_tags(parameters.loras)
        info = {
            **echo,
            "seed": seeds[0],
            "all_seeds": seeds,
            "subseed": -1,
            "all_subseeds": [-1] * len(seeds),
            "subseed_strength": 0,
            "all_prompts": [echo["prompt"]] * len(seeds),
            "all_negative_prompts": [parameters.negative_prompt] * len(seeds),
            "sampler_name": call.sampler.name,
            "batch_size": len(seeds),
            "width": result.size[0],
            "height": result.size[1],
            "restore_faces": False,
            "sd_model_name": model,
            "sd_model_hash": None,
            "sd_vae_name": None,
            "clip_skip": 1,
            "index_of_first_image": 0,
            "styles": [],
            "extra_generation_params": {},
            "infotexts": texts,
        }
        body: PaintedImages = {
            "images": [base64.b64encode(file).decode("ascii") for _, file in files],
            "parameters": {**echo, "sampler_name": call.sampler.name, "batch_size": len(seeds)},
            "info": json.dumps(info),
        }
        return JSONResponse(body, headers=describing_headers(result, model))


def _read_png(body: bytes) -> bytes:
    sent = parse_json_object(body)
    if unknown := next((name for name in sent if name != "image"), None):
        raise InvalidParameterError(f"The field {unknown[:100]!r} is unknown.", field=unknown[:100])
    return decode_picture("image", sent.get("image"))


def _listing(make: Callable[[], Any]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return JSONResponse(make(), headers=NO_STORE)

    return answer


def _check_size(call: Img2Img, admitted: AdmittedRequest) -> None:
    size = admitted.size
    if call.size not in (None, size):
        raise InvalidParameterError(
            f"width and height must be the picture's own, {size[0]} and {size[1]}: a result has its picture's size. "
            "With a mask and inpaint_full_res=true they are ignored.",
            field="width",
        )


def _preview(run: Run) -> str | None:
    """A run's picture so far as base64; None before the first preview."""
    picture = run.progress.partial()
    if picture is None:
        return None
    return base64.b64encode(codecs.encode(picture)).decode("ascii")
