"""Lists and figures that clients ask for before they paint."""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from typing_extensions import TypedDict

from sd_inpaint.http.endpoints.a1111.samplers import SAMPLERS, offered_schedules


class ModelItem(TypedDict):
    """A model, as the web UI lists it."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class SamplerItem(TypedDict):
    """A sampler, as the web UI lists it."""

    name: str
    aliases: list[str]
    options: dict[str, Any]


class ScheduleItem(TypedDict):
    """A schedule, as the web UI lists it."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class UpscalerItem(TypedDict):
    """An upscaler, as the web UI lists it."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float


class LoraItem(TypedDict):
    """A LoRA, as the web UI lists it."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


EMPTY: dict[str, Any] = {
    "extensions": [],
    "face-restorers": [],
    "hypernetworks": [],
    "latent-upscale-modes": [],
    "prompt-styles": [],
    "realesrgan-models": [],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "sd-modules": [],
    "sd-vae": [],
    "embeddings": {"loaded": {}, "skipped": {}},
}
"""Lists of things that are not served, each as it looks when it is empty."""

UPSCALERS: Final[list[UpscalerItem]] = [
    {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
]
"""The upscaler that does nothing; clients look for it."""

COMMAND_FLAGS = {"api": True, "api_auth": None, "nowebui": True}
"""The flags of a web UI that is like this server."""


def list_models(model: str) -> list[ModelItem]:
    """Returns the one model that is served."""
    return [{"title": model, "model_name": model, "hash": None, "sha256": None, "filename": model, "config": None}]


def list_loras(loras: Sequence[Mapping[str, object]]) -> list[LoraItem]:
    """Returns the LoRAs; there is no path of this machine in it."""
    names = [str(lora["name"]) for lora in loras]
    return [{"name": name, "alias": name, "path": f"{name}.safetensors", "metadata": {}} for name in names]


def list_samplers() -> list[SamplerItem]:
    """Returns the samplers."""
    return [
        {"name": sampler.name, "aliases": list(sampler.aliases), "options": dict(sampler.options)}
        for sampler in SAMPLERS
    ]


def list_schedulers() -> list[ScheduleItem]:
    """Returns the schedules that some sampler takes."""
    return [
        {
            "name": schedule.name,
            "label": schedule.label,
            "aliases": list(schedule.aliases) or None,
            "default_rho": schedule.default_rho,
            "need_inner_model": schedule.need_inner_model,
        }
        for schedule in offered_schedules()
    ]


def measure_memory(device: dict[str, int] | None) -> dict[str, Any]:
    """Returns memory in bytes: this process's part of the machine, and the CUDA device's.

    Args:
        device: The CUDA device's ``free``, ``total``, ``allocated`` and ``reserved``; None without one.
    """
    total, used = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _resident_bytes()
    ram = {"free": total - used, "used": used, "total": total}
    if device is None:
        return {"ram": ram, "cuda": {"error": "unavailable"}}
    system = {"free": device["free"], "used": device["total"] - device["free"], "total": device["total"]}
    now = {name: {"current": device[name], "peak": device[f"peak_{name}"]} for name in ("allocated", "reserved")}
    return {"ram": ram, "cuda": {"system": system, **now}}


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        # Elsewhere there is the peak only, in bytes on macOS and KiB on other systems.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
