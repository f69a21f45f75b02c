"""OpenVINO takes torch's place: at the start, in the background, or not at all."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sd_inpaint.diffusion import devices, direct_loading, weights
from sd_inpaint.diffusion.openvino import backend as backend_module
from sd_inpaint.diffusion.openvino import converter
from sd_inpaint.diffusion.openvino.backend import OpenVinoBackend
from sd_inpaint.diffusion.openvino.choice import Choice
from sd_inpaint.diffusion.openvino.openvino_runner import OpenVinoRunner
from sd_inpaint.settings import Settings

WAIT_SECONDS = 240.0
"""For a process of the lowest priority on a busy machine."""


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[OpenVinoBackend]:
    """Those that loading makes."""
    made: list[OpenVinoBackend] = []
    own = OpenVinoBackend.__init__

    def init(self: OpenVinoBackend, *args: Any) -> None:
        own(self, *args)
        made.append(self)

    monkeypatch.setattr(OpenVinoBackend, "__init__", init)
    return made


def load(model_folder: Path, cache: Path, **settings: Any) -> Any:
    """Loads the tiny model with OpenVINO."""
    given = {"backend": "openvino", "device": "cpu", "state_dir": cache / "state", "cache_dir": cache} | settings
    return weights.load(Settings.model_validate({"model": str(model_folder), **given}))


def test_converted_model_serves_from_the_start_without_torchs_weights(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, conversions: Path, tmp_path: Path
) -> None:
    """Where the converted model is there, torch's UNet is not loaded, and the plan says what computes."""
    shutil.copytree(conversions, tmp_path / "openvino")
    own = direct_loading.load_directly
    loaded: list[str] = []

    def load_directly(module_class: Any, *args: Any, **options: Any) -> Any:
        loaded.append(module_class.__name__)
        return own(module_class, *args, **options)

    monkeypatch.setattr(weights, "load_directly", load_directly)
    denoiser = load(model_folder, tmp_path)
    assert loaded == ["AutoencoderKL"]
    assert denoiser.plan == "openvino-float32"
    assert denoiser.info["plan"]["backend"] == {"value": "openvino", "reason": "set by the operator"}
    assert denoiser.info["growth_bytes"] == 0


@pytest.mark.timeout(WAIT_SECONDS + 60)
def test_what_was_converted_stays_in_use_where_it_is_hardly_faster(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, conversions: Path, tmp_path: Path
) -> None:
    """A start on a busy machine does not change the plan; without a conversion, none is made for so little."""
    close = Choice(False, "OpenVINO is 1.05 times as fast", keeps=True)
    monkeypatch.setattr(backend_module, "choose_backend", lambda *_: close)
    assert load(model_folder, tmp_path, backend="auto").plan == "torch-float32"
    assert not list(tmp_path.glob("openvino/*/*/unet.xml"))
    shutil.copytree(conversions, tmp_path / "openvino", dirs_exist_ok=True)
    assert load(model_folder, tmp_path, backend="auto").plan == "openvino-float32"


def test_damaged_conversion_is_made_again_while_torch_serves(
    model_folder: Path, conversions: Path, tmp_path: Path, backends: list[OpenVinoBackend]
) -> None:
    """A damaged file is never loaded: torch serves until another process has converted the model again."""
    shutil.copytree(conversions, tmp_path / "openvino")
    binary = next(tmp_path.glob("openvino/*/*/unet.bin"))
    content = bytearray(binary.read_bytes())
    content[100] ^= 1
    binary.write_bytes(content)
    denoiser = load(model_folder, tmp_path)
    assert denoiser.plan == "torch-float32"
    assert denoiser.info["growth_bytes"] > 0
    assert backends[0].wait(WAIT_SECONDS)
    assert denoiser.plan == "openvino-float32"
    assert denoiser.info["plan"]["backend"]["value"] == "openvino"


def failing(code: str) -> Any:
    """Stands in for the converter: a process that runs this instead."""
    return lambda *_: subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("trouble", ["conversion", "compiling", "memory", "int8"])
def test_whatever_fails_torch_serves_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
    conversions: Path,
    tmp_path: Path,
    backends: list[OpenVinoBackend],
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    """A conversion that fails, a model that does not compile, too little memory: torch goes on."""
    expected = {
        "conversion": "ValueError: no such layer",
        "compiling": "no kernel",
        "memory": "0.0 GB are free",
        "int8": "convert --int8",
    }[trouble]
    monkeypatch.setattr(converter, "start", failing("raise ValueError('no such layer')"))
    if trouble == "compiling":
        shutil.copytree(conversions, tmp_path / "openvino")
        monkeypatch.setattr(OpenVinoRunner, "_infer", lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel")))
    if trouble == "memory":
        monkeypatch.setattr(devices.Device, "free_bytes", lambda self: 0)
    with caplog.at_level(logging.WARNING):
        denoiser = load(model_folder, tmp_path, **({"quantize": "int8"} if trouble == "int8" else {}))
        assert backends[0].wait(WAIT_SECONDS)
    assert denoiser.plan == "torch-float32"
    assert denoiser.info["plan"]["backend"]["value"] == "torch"
    assert expected in denoiser.info["plan"]["backend"]["reason"]
    assert len([record for record in caplog.records if expected in record.message]) == 1


def test_pickles_are_not_converted(model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights without checksums would leave it open what the conversion was made of."""
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    denoiser = load(folder, tmp_path, allow_pickle=True)
    assert denoiser.plan == "torch-float32"
    assert "pickles" in caplog.text


@pytest.mark.timeout(WAIT_SECONDS + 60)
def test_converter_ends_with_its_server(model_folder: Path, tmp_path: Path) -> None:
    """A server that goes leaves no process behind that computes for minutes."""
    process = converter.start(model_folder / "unet", tmp_path, torch.float32)
    with process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(WAIT_SECONDS) != 0
    assert not list(tmp_path.glob("*/float32-*"))
