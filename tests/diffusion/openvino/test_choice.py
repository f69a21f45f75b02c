"""Whether OpenVINO or torch computes, and why."""

import pytest
import torch

from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.number_format import Probe
from sd_inpaint.diffusion.openvino import choice, gain
from sd_inpaint.diffusion.openvino.choice import choose_backend
from sd_inpaint.diffusion.openvino.gain import openvino_gain
from sd_inpaint.diffusion.openvino.runtime import compile_model
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings

CPU = Device(torch.device("cpu"), torch.bfloat16, "cpu")
CUDA = Device(torch.device("cuda", 0), torch.float16, "NVIDIA Test")
FULL_SIZE = Probe(channels=320, side=64)


@pytest.mark.parametrize(
    ("gain", "expected", "reason"),
    [
        (1.3, True, "1.3 times as fast as torch"),
        (1.05, False, "1.05 times as fast in bfloat16"),
        (0.8, False, "0.80 times as fast in bfloat16"),
        (None, False, "fails"),
    ],
    ids=["faster", "hardly faster", "slower", "broken"],
)
def test_auto_follows_the_measurement(
    monkeypatch: pytest.MonkeyPatch, gain: float | None, expected: bool, reason: str
) -> None:
    """OpenVINO is taken where it is measured faster; the reason has the figure."""

    def measure(*_: object) -> float:
        if gain is None:
            raise RuntimeError("no such instruction")
        return gain

    monkeypatch.setattr(choice, "openvino_gain", measure)
    found = choose_backend(Settings(), CPU, FULL_SIZE)
    assert found.is_openvino is expected
    assert found.keeps is (gain == 1.05), "what is converted stays in use where it does no harm"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("settings", "device", "probe", "is_installed", "reason"),
    [
        (Settings(backend="torch"), CPU, FULL_SIZE, True, "set by the operator"),
        (Settings(compile="regional"), CPU, FULL_SIZE, True, "SD_INPAINT_COMPILE"),
        (Settings(), CUDA, FULL_SIZE, True, "NVIDIA Test"),
        (Settings(), CPU, FULL_SIZE, False, "not installed"),
        (Settings(), CPU, Probe(channels=64, side=24), True, "too small"),
        (Settings(), CPU, None, True, "too small"),
    ],
    ids=["set", "compiled", "on a card", "not installed", "a small model", "an unknown model"],
)
def test_torch_is_taken_without_measuring(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    device: Device,
    probe: Probe | None,
    is_installed: bool,
    reason: str,
) -> None:
    """Where the answer is known, nothing is measured."""
    monkeypatch.setattr(choice, "openvino_gain", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(choice, "is_installed", lambda: is_installed)
    found = choose_backend(settings, device, probe)
    assert not found.is_openvino
    assert reason in found.reason


@pytest.mark.parametrize("settings", [Settings(backend="openvino"), Settings(quantize="int8")], ids=["named", "int8"])
def test_openvino_that_was_asked_for_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """An operator who asks for it gets it for any model, or is told why not: never another in silence."""
    monkeypatch.setattr(choice, "openvino_gain", lambda *_: pytest.fail("measured"))
    assert choose_backend(settings, CPU, None).is_openvino
    with pytest.raises(SettingsError, match="NVIDIA Test"):
        choose_backend(settings, CUDA, None)
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match="not installed"):
        choose_backend(settings, CPU, None)


def test_gain_is_measured_on_the_same_operations() -> None:
    """What is measured of the two computes the same, so that the figure compares like with like."""
    block, cells = gain._Block(128).eval(), torch.randn(1, 128, gain.PROBE_SIDE, gain.PROBE_SIDE)
    found = compile_model(gain._model(block), torch.float32, 1)([cells.numpy()])[0]
    with torch.inference_mode():
        expected = block(cells)
    assert (torch.from_numpy(found) - expected).abs().max() < 1e-4 * expected.std()
    assert openvino_gain(Probe(channels=128, side=64), torch.float32) > 0
