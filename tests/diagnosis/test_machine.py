"""What computes, and whether it can hold the model."""

import sys
from pathlib import Path

import pytest

import sd_inpaint.diffusion
from sd_inpaint.diagnosis.finding import Finding, State
from sd_inpaint.diagnosis.machine import check_device
from sd_inpaint.diffusion import sources
from sd_inpaint.diffusion.devices import Device
from sd_inpaint.settings import DEMO_MODEL, Settings

MODEL = sources.locate(Settings(_env_file=None, model=DEMO_MODEL)).folder  # type: ignore[call-arg]
WEIGHTS_BYTES = 28_056_654
"""Of the demo model's safetensors, which are in float32."""


def check(**changes: object) -> dict[str, Finding]:
    """What is found on the CPU, by subject."""
    settings = Settings(_env_file=None, **{"device": "cpu", **changes})  # type: ignore[arg-type,call-arg]
    return {finding.subject: finding for finding in check_device(settings, MODEL)}


def test_size_of_the_weights() -> None:
    """The number above is the model's."""
    assert sum(path.stat().st_size for path in MODEL.rglob("*.safetensors")) == WEIGHTS_BYTES


@pytest.mark.parametrize(
    ("free", "workers", "state"),
    [
        (WEIGHTS_BYTES - 1, 1, State.PROBLEM),
        (WEIGHTS_BYTES, 1, State.WARNING),
        (WEIGHTS_BYTES, 2, State.PROBLEM),
        (10_000_000_000, 2, State.GOOD),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int, workers: int, state: State) -> None:
    """Weights that do not fit are a problem, a canvas that may not a warning; each worker has weights of its own."""
    monkeypatch.setattr(Device, "free_bytes", lambda self: free)
    found = check(workers=workers, dtype="float32")
    assert found["memory"].state is state
    assert ("2 processes of cpu" in found["device"].sentence) == (workers == 2)
    assert found["format"].sentence == "float32 (set by the operator)."


def test_gpu_that_torch_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NVIDIA's driver is installed and torch is the CPU build, the way to the other build is named."""
    smi = tmp_path / "nvidia-smi"
    smi.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = check()["device"]
    assert finding.state is State.WARNING
    assert str(finding.remedy).startswith("Install torch for CUDA: pip install torch==")
    assert "+" not in str(finding.remedy)


def test_torch_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken torch is a problem, and not the end of the command."""
    monkeypatch.delattr(sd_inpaint.diffusion, "devices")
    monkeypatch.setitem(sys.modules, "sd_inpaint.diffusion.devices", None)
    found = check()
    assert found["device"].state is State.PROBLEM
    assert found.keys() == {"device"}
