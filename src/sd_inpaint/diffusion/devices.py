"""The device that the model runs on, its number format, and how much fits on it."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sd_inpaint.diffusion.number_format import Probe, bfloat16_gain
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings

logger = logging.getLogger("bentoml.sd_inpaint.devices")

SET = "set by the operator"

LEAST_GAIN = 1.25
"""Times as fast as float32: from here on bfloat16 is worth its rounding. Processors gain either nothing (measured: 0.01
to 1.0) or about twofold and more, so no noise of a measurement flips the choice."""

BYTES_PER_CANVAS_PIXEL = {torch.float32: 6_000, torch.float16: 5_000, torch.bfloat16: 5_000}
"""Peak working memory of one SD 1.5 job a canvas pixel, in bytes, the VAE's decoder at full width being the largest.

Source: measured on the full-size architecture at 512×512 on the CPU, over the weights: 1.43 GB in float32 (decoding),
1.29 GB in bfloat16 (encoding), and a tenth more for what an allocator rounds up.
"""

FITTING_DECODER_MEMORY = 1.8
"""Factor for decoders that are shown the kept pixels: they have one and a half times SD 1.5's channels.

Source: measured likewise, on the published one's architecture: 2.59 GB in float32.
"""

WEIGHTS_RESERVE_BYTES = 1 << 30
"""Memory left free for the allocator's slack, the operating system and a second tenant."""

CANVAS_PIXELS_FLOOR = 512 * 512
"""``auto`` never allows less than one canvas of SD 1.5's native size: refusing everything would help nobody."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute and the format to do it in. Immutable; any thread may read it.

    Attributes:
        torch_device: Where tensors live.
        dtype: Format of the UNet and the text encoder.
        name: What an operator calls it, such as ``cpu`` or ``NVIDIA H200``.
        vae_dtype: Format of the VAE.
        reasons: Why each choice was made, by the choice's name in ``/sd-inpaint/info``.
    """

    torch_device: torch.device
    dtype: torch.dtype
    name: str
    vae_dtype: torch.dtype = torch.float32
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.torch_device.type

    @property
    def plan(self) -> dict[str, dict[str, object]]:
        """Each choice with its reason, for ``/sd-inpaint/info`` and the log."""
        values: dict[str, object] = {
            "device": self.name,
            "dtype": dtype_name(self.dtype),
            "vae_dtype": dtype_name(self.vae_dtype),
            "threads": torch.get_num_threads(),
        }
        return {name: {"value": value, "reason": self.reasons.get(name, "")} for name, value in values.items()}

    def free_bytes(self) -> int:
        """Memory that a job could take now, in bytes."""
        if self.kind == "cuda":
            free, total = torch.cuda.mem_get_info(self.torch_device)
            reserved = torch.cuda.memory_reserved(self.torch_device)
            # The card's free memory knows of other tenants and of a MIG slice, but not of a limit on this process.
            allowed = int(total * torch.cuda.get_per_process_memory_fraction(self.torch_device)) - reserved
            held = reserved - torch.cuda.memory_allocated(self.torch_device)
            return max(0, min(int(free), allowed)) + int(held)
        if self.kind == "mps":
            return int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory())
        return _free_host_bytes()

    def memory(self) -> dict[str, int] | None:
        """Memory of a CUDA device in bytes: all of it, and this process's; None elsewhere."""
        if self.kind != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return {
            "free": int(free),
            "total": int(total),
            "allocated": torch.cuda.memory_allocated(self.torch_device),
            "reserved": torch.cuda.memory_reserved(self.torch_device),
            "peak_allocated": torch.cuda.max_memory_allocated(self.torch_device),
            "peak_reserved": torch.cuda.max_memory_reserved(self.torch_device),
        }

    def wait(self) -> None:
        """Waits until all that was asked of the device is done: on CUDA and MPS calls return before."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.torch_device)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def side_stream(self) -> AbstractContextManager[object]:
        """Has what this thread asks of a CUDA device run beside what other threads ask, not after it."""
        if self.kind != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.torch_device))  # type: ignore[no-untyped-call]  # torch's

    def release_memory(self) -> None:
        """Gives cached blocks back to the system, so that another shape can be allocated."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.kind == "mps":
            torch.mps.empty_cache()


def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU multiplies in bfloat16; torch emulates it on others, twenty times slower."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a number format as settings spell it, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def choose_device(settings: Settings, probe: Probe | None = None) -> Device:
    """Picks the device, the threads and the number formats: those an operator asked for, else the fastest.

    Args:
        settings: The operator's.
        probe: The model's operations, to be measured where the format on a CPU is left to this; None takes float32.

    Raises:
        SettingsError: If the named device is not there, or cannot compute in the named format.
    """
    torch_device = find_torch_device(settings.device)
    reasons = {"device": _reason(settings.device, "the fastest kind that torch finds"), "threads": "torch's own choice"}
    # Threads come first: the format is measured with as many as will compute.
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
        reasons["threads"] = SET
    elif (quota := _cpu_quota()) is not None:
        # torch counts the machine's cores; more threads than the container's share only wait for each other.
        torch.set_num_threads(max(1, min(torch.get_num_threads(), round(quota))))
        reasons["threads"] = f"this container's share is {quota:g} CPUs"
    dtype, reasons["dtype"] = _choose_dtype(settings.dtype, torch_device, probe)
    vae_dtype, reasons["vae_dtype"] = dtype, "that of the UNet"
    if settings.vae_dtype != "auto":
        vae_dtype, reasons["vae_dtype"] = _choose_dtype(settings.vae_dtype, torch_device, None)
    name = torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else torch_device.type
    return Device(torch_device, dtype, name, vae_dtype, reasons)


def choose_max_batch(setting: int | str, device: Device, canvas_pixels: int, *, reserved_bytes: int = 0) -> int:
    """How many jobs share one UNet call: the operator's number, or what memory allows on CUDA and 1 elsewhere.

    One on the CPU and MPS because a batch there takes as long as its jobs one after another, and so only adds latency.
    """
    if isinstance(setting, int):
        return setting
    if device.kind != "cuda":
        return 1
    job_bytes = canvas_pixels * BYTES_PER_CANVAS_PIXEL[device.dtype]
    return max(1, min(16, (device.free_bytes() - WEIGHTS_RESERVE_BYTES - reserved_bytes) // job_bytes))


def choose_max_canvas_pixels(
    setting: int | str, device: Device, *, fits_to_kept: bool = False, reserved_bytes: int = 0
) -> int:
    """Largest canvas in pixels: the operator's number, or what free memory allows.

    Args:
        setting: The number, or ``auto``.
        device: Its memory counts.
        fits_to_kept: Whether the decoder is shown the kept pixels, which takes more memory.
        reserved_bytes: What others of this process may take of the memory that is free now.
    """
    if isinstance(setting, int):
        return setting
    pixel_bytes = BYTES_PER_CANVAS_PIXEL[device.dtype] * (FITTING_DECODER_MEMORY if fits_to_kept else 1)
    return max(CANVAS_PIXELS_FLOOR, int((device.free_bytes() - WEIGHTS_RESERVE_BYTES - reserved_bytes) // pixel_bytes))


def find_torch_device(setting: str) -> torch.device:
    """Returns the device that a setting names, the fastest kind for ``auto``.

    Raises:
        SettingsError: If the named device is not there.
    """
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    torch_device = torch.device(setting)
    if torch_device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (torch_device.index or 0) >= count:
            raise SettingsError(f"SD_INPAINT_DEVICE={setting}, but torch sees {count} CUDA devices on this machine.")
        return torch.device("cuda", torch_device.index or 0)
    if torch_device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("SD_INPAINT_DEVICE=mps, but torch finds no MPS device on this machine.")
    return torch_device


def _reason(setting: object, otherwise: str) -> str:
    return otherwise if setting == "auto" else SET


def _choose_dtype(setting: str, torch_device: torch.device, probe: Probe | None) -> tuple[torch.dtype, str]:
    """The format, and why."""
    if setting == "auto":
        return _fastest_dtype(torch_device, probe)
    if setting == "float16" and torch_device.type == "cpu":
        raise SettingsError("SD_INPAINT_DTYPE=float16 is not for the CPU; use float32 or bfloat16.")
    if setting == "bfloat16" and torch_device.type == "cpu" and not cpu_has_bfloat16():
        logger.warning("This CPU has no bfloat16: each step takes much longer than with SD_INPAINT_DTYPE=float32.")
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[setting], SET


def _fastest_dtype(torch_device: torch.device, probe: Probe | None) -> tuple[torch.dtype, str]:
    if torch_device.type == "cuda":
        return torch.float16, "half the memory and more than twice the speed of float32"
    if torch_device.type == "mps":
        return torch.float32, "float16 gives black pictures on MPS (diffusers#1251)"
    gain = None if probe is None else bfloat16_gain(probe)
    if gain is None:
        return torch.float32, "the model is too small for another format to matter"
    if gain < LEAST_GAIN:
        return torch.float32, f"bfloat16 takes {1 / gain:.1f} times as long on this processor, measured"
    return torch.bfloat16, f"{gain:.1f} times as fast as float32 on this processor, measured"


def _cpu_quota() -> float | None:
    """How many CPUs this container may use, or None without a bound. Source: cgroup v2 cpu.max, v1 cpu.cfs_quota_us."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
            period = (folder / "cpu.cfs_period_us").read_text("ascii")
        except OSError:
            return None
    return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)


def _free_host_bytes() -> int:
    """The machine's available memory or this container's remaining limit, whichever is smaller."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}.get("MemAvailable", pages)
    except OSError:
        available = pages
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left = int(Path(limit_file).read_text("ascii")) - int(Path(usage_file).read_text("ascii"))
        except (OSError, ValueError):
            continue
        available = min(available, left)
    return available
