"""Where the model runs."""

import pytest
import torch

from sd_inpaint.diffusion import devices
from sd_inpaint.diffusion.devices import Device, choose_device, choose_max_batch, choose_max_canvas_pixels, dtype_name
from sd_inpaint.diffusion.number_format import Probe
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Has torch report devices that this machine lacks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def describe_memory(
    monkeypatch: pytest.MonkeyPatch, *, total: int, others: int = 0, fraction: float = 1.0, reserved: int = 0
) -> None:
    """Has torch report a card's memory: all of it, other tenants', what this process may take, and what it took."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total - others - reserved, total))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: reserved // 2)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected", "dtype"),
    [
        (1, True, "cuda:0", "float16"),
        (0, True, "mps", "float32"),
        (0, False, "cpu", "float32"),
    ],
    ids=["cuda first", "then mps", "then cpu"],
)
def test_auto_takes_the_fastest_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str, dtype: str
) -> None:
    """CUDA goes before MPS, MPS before the CPU; each in the number format that works there."""
    pretend(monkeypatch, cuda=cuda, mps=mps)
    device = choose_device(Settings())
    assert str(device.torch_device) == expected
    assert dtype_name(device.dtype) == dtype_name(device.vae_dtype) == dtype
    assert device.plan["dtype"]["reason"]


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_named_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A device that was asked for by name is never replaced by the CPU in silence."""
    pretend(monkeypatch, cuda=1 if name == "cuda:1" else 0)
    with pytest.raises(SettingsError, match=name):
        choose_device(Settings(device=name))


def test_float16_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision on a CPU is slow and overflows; the error names what to take."""
    pretend(monkeypatch)
    with pytest.raises(SettingsError, match="bfloat16"):
        choose_device(Settings(device="cpu", dtype="float16"))


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_where_the_cpu_lacks_it_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, able: bool
) -> None:
    """Emulated bfloat16 works, but so slowly that the log has to say it; where the CPU has it, nothing is said."""
    pretend(monkeypatch)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able})
    assert choose_device(Settings(device="cpu", dtype="bfloat16")).dtype == torch.bfloat16
    assert ("no bfloat16" in caplog.text) is not able


def test_batch_follows_memory_on_cuda_and_is_one_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is 1 on the CPU; on CUDA it grows with free memory; a number is taken as it is."""
    cpu = Device(torch.device("cpu"), torch.float32, "cpu")
    cuda = Device(torch.device("cuda", 0), torch.float16, "NVIDIA Test")
    free = 0
    describe_memory(monkeypatch, total=1 << 40)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    assert choose_max_batch("auto", cpu, 512 * 512) == 1
    assert choose_max_batch(3, cpu, 512 * 512) == 3
    sizes = []
    for gibibytes in (1, 6, 100):
        free = gibibytes << 30
        sizes.append(choose_max_batch("auto", cuda, 512 * 512))
    assert sizes[0] == 1
    assert 1 < sizes[1] < sizes[2]


def test_canvas_bound_follows_memory_and_never_forbids_the_native_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound grows with memory, and one native canvas is always allowed."""
    cpu = Device(torch.device("cpu"), torch.float32, "cpu")
    bounds = []
    for free in (0, 8 << 30, 64 << 30):
        monkeypatch.setattr(devices, "_free_host_bytes", lambda free=free: free)
        bounds.append(choose_max_canvas_pixels("auto", cpu))
    assert bounds[0] == 512 * 512
    assert bounds[0] < bounds[1] < bounds[2]
    assert choose_max_canvas_pixels(123456, cpu) == 123456
    # A decoder that is shown what is kept takes nearly twice the memory.
    assert choose_max_canvas_pixels("auto", cpu, fits_to_kept=True) < 0.6 * bounds[2]


@pytest.mark.parametrize(
    ("described", "free"),
    [
        ({"total": 80}, 80),
        ({"total": 80, "fraction": 0.1}, 8),
        ({"total": 80, "fraction": 0.5, "reserved": 10}, 30 + 5),
        ({"total": 80, "fraction": 0.5, "others": 60}, 20),
        ({"total": 80, "fraction": 0.1, "reserved": 20}, 10),
        ({"total": 10}, 10),
    ],
    ids=["a card", "a limit", "a limit, part taken", "a tenant above the limit", "beyond the limit", "a MIG slice"],
)
def test_free_memory_sees_limits_and_tenants(
    monkeypatch: pytest.MonkeyPatch, described: dict[str, float], free: int
) -> None:
    """What a canvas may take is bounded by the card, by who shares it, and by a limit set on this process."""
    gibibytes = {name: value if name == "fraction" else int(value) << 30 for name, value in described.items()}
    describe_memory(monkeypatch, **gibibytes)  # type: ignore[arg-type]  # whole numbers but for the fraction
    device = Device(torch.device("cuda", 0), torch.float16, "NVIDIA Test")
    assert device.free_bytes() == pytest.approx(free << 30)


def test_bounds_leave_room_for_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What graphs may keep is not promised to canvases, and a limit of 8 GB allows nothing of the card's 80."""
    device = Device(torch.device("cuda", 0), torch.float16, "NVIDIA Test")
    describe_memory(monkeypatch, total=80 << 30, fraction=0.1)
    pixels = choose_max_canvas_pixels("auto", device)
    assert pixels < 2048 * 1024
    assert choose_max_canvas_pixels("auto", device, reserved_bytes=2 << 30) < pixels
    assert choose_max_batch("auto", device, 512 * 512) == 5
    assert choose_max_batch("auto", device, 512 * 512, reserved_bytes=2 << 30) == 4


def test_threads_follow_the_containers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container held to one CPU gets one thread, not one for each of the machine's cores."""
    pretend(monkeypatch)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(devices, "_cpu_quota", lambda: 1.0)
        choose_device(Settings())
        assert torch.get_num_threads() == 1
        choose_device(Settings(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_free_memory_is_a_figure_of_this_machine() -> None:
    """The CPU's free memory is read, in bytes."""
    assert Device(torch.device("cpu"), torch.float32, "cpu").free_bytes() > 1 << 20


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_waiting_is_for_this_device(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """CUDA and MPS are asked whether they are done, the right one of several; the CPU always is."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: asked.append(device))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: asked.append("mps"))
    device = torch.device("cuda", 1) if kind == "cuda" else torch.device(kind)
    Device(device, torch.float32, kind).wait()
    assert asked == {"cpu": [], "cuda": [device], "mps": ["mps"]}[kind]


@pytest.mark.parametrize(
    ("gain", "expected", "reason"),
    [
        (4.0, "bfloat16", "4.0 times as fast"),
        (1.3, "bfloat16", "1.3 times as fast"),
        (1.1, "float32", "measured"),
        (0.02, "float32", "50.0 times as long"),
        (None, "float32", "too small"),
    ],
)
def test_format_on_the_cpu_follows_the_measurement(
    monkeypatch: pytest.MonkeyPatch, gain: float | None, expected: str, reason: str
) -> None:
    """bfloat16 is taken where it is clearly faster; the plan has the figure."""
    pretend(monkeypatch)
    monkeypatch.setattr(devices, "bfloat16_gain", lambda probe: gain)
    device = choose_device(Settings(), Probe(channels=320, side=64))
    assert dtype_name(device.dtype) == dtype_name(device.vae_dtype) == expected
    assert reason in str(device.plan["dtype"]["reason"])


def test_formats_that_were_set_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's choice is taken as it is, the VAE's apart from the UNet's, and the plan says whose it is."""
    pretend(monkeypatch)
    monkeypatch.setattr(devices, "bfloat16_gain", lambda probe: pytest.fail("measured"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    device = choose_device(Settings(dtype="bfloat16", vae_dtype="float32"), Probe(channels=320, side=64))
    assert (device.dtype, device.vae_dtype) == (torch.bfloat16, torch.float32)
    assert {device.plan[name]["reason"] for name in ("dtype", "vae_dtype")} == {devices.SET}
