"""Which devices work, each in a process of its own."""

import os
import sys
from pathlib import Path
from typing import Final

from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings

SEVERAL: Final = ("auto", "cuda")
"""What SD_INPAINT_DEVICE says where it leaves open which of several cards."""


def place(settings: Settings, *, cuda_devices: int | None = None, cores: int | None = None) -> list[Settings]:
    """Returns the settings of each device's process; one of them means that the server computes itself.

    Args:
        settings: The operator's.
        cuda_devices: How many cards there are; None asks torch.
        cores: CPUs that this process may use; None asks the system.

    Raises:
        SettingsError: If there are fewer devices than were asked for.
    """
    is_open = settings.device in SEVERAL
    cards = 0
    if is_open and settings.workers != 1:
        cards = _cards() if cuda_devices is None else cuda_devices
    if settings.workers == "auto":
        count = cards if is_open and cards else 1
    else:
        count = settings.workers
    if count == 1:
        return [settings]
    if is_open and cards:
        if count > cards:
            raise SettingsError(f"SD_INPAINT_WORKERS={count}, but torch sees {cards} CUDA devices. Each takes one.")
        return [settings.model_copy(update={"device": f"cuda:{number}"}) for number in range(count)]
    if settings.device in ("auto", "cpu"):
        threads = settings.threads or max(1, (cores or _cores()) // count)
        return [settings.model_copy(update={"device": "cpu", "threads": threads})] * count
    raise SettingsError(
        f"SD_INPAINT_WORKERS={count} and SD_INPAINT_DEVICE={settings.device}: one device has one worker. Leave one of "
        "the two to auto."
    )


def _cards() -> int:
    """How many CUDA devices torch sees. It is loaded only where there may be one: that takes seconds."""
    if sys.platform == "linux" and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return 0
    import torch

    return torch.cuda.device_count()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
