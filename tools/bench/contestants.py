"""One side of ``scripts/bench peers``, in a process of its own: it paints when it is told to, and times itself.

It reads a call a line from its input, as JSON, and answers each with one.
"""

import argparse
import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROMPT = "a red rose"


def make_upload(side: int, hole: int, number: int) -> tuple[bytes, bytes]:
    """Makes a square picture as JPEG, another for each number, and a PNG mask with a square hole in its middle."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    mask = np.zeros((side, side), np.uint8)
    mask[(side - hole) // 2 : (side + hole) // 2, (side - hole) // 2 : (side + hole) // 2] = 255
    files = []
    for image, image_format in ((picture, "JPEG"), (Image.fromarray(mask), "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, image_format)
        files.append(buffer.getvalue())
    return files[0], files[1]


class Contestant:
    """What both sides have in common. Each public method is a call."""

    device: Any
    dtype: Any

    def facts(self) -> dict[str, Any]:
        """Says what computes, and how fast a matrix product is at best in its format."""
        return {"device": str(self.device), "dtype": str(self.dtype).removeprefix("torch."), "gemm": self._gemm()}

    def peak_bytes(self) -> int:
        """Returns the peak memory of this process, on CUDA that of the card."""
        import torch

        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device))
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def _gemm(self) -> float:
        """FLOP/s, the best of several."""
        import torch

        side = 8192 if self.device.type == "cuda" else 2048
        one, other = (torch.randn(side, side, dtype=self.dtype, device=self.device) for _ in range(2))
        best = 0.0
        for _ in range(6):
            self._wait()
            started = time.perf_counter()
            one @ other
            self._wait()
            best = max(best, 2 * side**3 / (time.perf_counter() - started))
        return best

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Plain(Contestant):
    """diffusers' own pipeline at its defaults; in float16 on CUDA, as everybody runs it there."""

    def __init__(self, model: str, device: str) -> None:
        import diffusers
        import torch

        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(kind)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        has_half = any(Path(model).glob("unet/*.fp16.safetensors"))
        options = {"dtype": self.dtype, "variant": "fp16" if has_half else None}
        # By its own config: the index of a model whose autoencoder was replaced may name another class.
        name = json.loads((Path(model) / "vae" / "config.json").read_text("utf-8"))["_class_name"]
        vae = getattr(diffusers, name).from_pretrained(model, subfolder="vae", **options)
        self._pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(
            model, vae=vae, safety_checker=None, **options
        ).to(self.device)
        self._pipeline.set_progress_bar_config(disable=True)

    def paint(self, *, side: int, hole: int, number: int, steps: int, seed: int = 1) -> dict[str, Any]:
        """Paints a picture, whole; from the uploaded bytes to those of the result."""
        import torch

        upload = make_upload(side, hole, number)
        ends: list[float] = []

        def note(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            ends.append(time.perf_counter())
            return tensors

        started = time.perf_counter()
        picture, mask = (Image.open(io.BytesIO(file)) for file in upload)
        painted = self._pipeline(
            prompt=PROMPT,
            image=picture.convert("RGB"),
            mask_image=mask.convert("L"),
            width=side,
            height=side,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=note,
        ).images[0]
        painted.save(io.BytesIO(), "PNG")
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "steps": len(ends), "step_seconds": (ends[-1] - ends[0]) / max(1, len(ends) - 1)}

    def unet_row_seconds(self, *, side: int) -> float:
        """Runs one row of the UNet once: half of a guided step."""
        import torch

        unet = self._pipeline.unet
        cells = side // self._pipeline.vae_scale_factor
        place = {"dtype": self.dtype, "device": self.device}
        sample = torch.randn(1, unet.config.in_channels, cells, cells, **place)
        embeddings = torch.randn(1, 77, unet.config.cross_attention_dim, **place)
        with torch.inference_mode():
            self._wait()
            started = time.perf_counter()
            unet(sample, torch.tensor([500], device=self.device), encoder_hidden_states=embeddings)
            self._wait()
        return time.perf_counter() - started

    def step_flops(self, *, side: int) -> float:
        """Counts the operations of one guided step, without doing any."""
        import torch
        from diffusers import UNet2DConditionModel
        from torch.utils.flop_counter import FlopCounterMode

        config = self._pipeline.unet.config
        cells = side // self._pipeline.vae_scale_factor
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            unet = UNet2DConditionModel.from_config(config)
            unet(
                torch.zeros(2, config.in_channels, cells, cells),
                torch.zeros(2),
                encoder_hidden_states=torch.zeros(2, 77, config.cross_attention_dim),
            )
        return float(counter.get_total_flops())


class Service(Contestant):
    """This service, without HTTP: the whole way from uploaded bytes to those of the result, with its own settings."""

    def __init__(self, model: str, device: str) -> None:
        from sd_inpaint.painter import Painter
        from sd_inpaint.settings import Settings

        self._painter = Painter(Settings(model=model, device=device))
        self._painter.start()
        self._painter.engine.wait_loaded()
        self._painter.check_open()
        self._steps: list[float] = []
        backend: Any = self._painter.engine.backend
        self._backend = backend
        predict = backend.predict

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            given = predict(*arguments, **named)
            self._steps.append(time.perf_counter() - started)
            return given

        backend.predict = timed
        import torch

        self.device = backend._device.torch_device
        self.dtype = getattr(torch, str(backend.info["dtype"]))

    def wait_for_plan(self, *, beginning: str, seconds: float) -> str:
        """Waits until a plan is ready that is prepared beside the service; returns the one that is by then."""
        until = time.monotonic() + seconds
        while not self._backend.plan.startswith(beginning) and time.monotonic() < until:
            time.sleep(0.5)
        return str(self._backend.plan)

    def paint(self, *, side: int, hole: int, number: int, steps: int, seed: int = 1) -> dict[str, Any]:
        """Paints a picture, as the service chooses to."""
        from sd_inpaint.imaging.codecs import decode_image, decode_mask, encode
        from sd_inpaint.schema import InpaintParameters, InpaintRequest

        upload = make_upload(side, hole, number)
        self._steps.clear()
        started = time.perf_counter()
        image, mask = decode_image(upload[0], max_pixels=52_000_000), decode_mask(upload[1], max_pixels=52_000_000)
        parameters = InpaintParameters(prompt=PROMPT, num_inference_steps=steps, seed=seed)
        result = asyncio.run(self._painter.paint(InpaintRequest(image, mask, parameters)))
        encode(result.variations[0].image)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "steps": len(self._steps),
            "step_seconds": sum(self._steps[1:]) / max(1, len(self._steps) - 1),
            "plan": result.plan,
        }


KINDS: dict[str, Callable[[str, str], Contestant]] = {"diffusers": Plain, "this service": Service}


def main() -> None:
    """Loads, then answers until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model")
    parser.add_argument("device")
    options = parser.parse_args()
    # Whatever a library prints goes elsewhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    started = time.perf_counter()
    contestant = KINDS[options.kind](options.model, options.device)
    print(json.dumps({"load_seconds": time.perf_counter() - started}), file=answers, flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        print(json.dumps(getattr(contestant, call.pop("call"))(**call)), file=answers, flush=True)


if __name__ == "__main__":
    main()
