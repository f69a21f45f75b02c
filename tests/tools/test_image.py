"""What goes into the image, before anything is built."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT
from tools.release import image


@pytest.mark.parametrize("is_found", [True, False])
@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_torch_for_the_cpu_comes_from_pytorch_if_pip_finds_none(
    variant: str, is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only torch, only for the CPU and only where pip's own places lack it is asked of PyTorch's index, as by setup."""
    asked: list[list[str]] = []

    def run(command: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(list(command))
        fails = "torch-cpu.txt" in command[-1] and not is_found
        return subprocess.CompletedProcess(command, int(fails), "", "")

    monkeypatch.delenv("TORCH_CPU_INDEX", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    folder = tmp_path / "wheels"
    folder.mkdir()
    # The fake downloads nothing, so nothing makes the folder.
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    image.download_wheels(ROOT / "requirements" / f"{variant}.txt", folder)
    indexed = [command for command in asked if "-i" in command]
    assert all("--require-hashes" in command for command in asked)
    if variant == "cuda" or is_found:
        assert indexed == []
    else:
        (command,) = indexed
        assert str(ROOT / "requirements" / "torch-cpu.txt") in command
        assert f"TORCH_CPU_INDEX:-{command[command.index('-i') + 1]}}}" in (ROOT / "scripts" / "setup").read_text(
            "utf-8"
        )
