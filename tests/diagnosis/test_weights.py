"""Whether the weights are here and whole, or the Hub has them."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sd_inpaint.diagnosis.finding import State
from sd_inpaint.diagnosis.weights import check_weights
from sd_inpaint.diffusion import sources
from sd_inpaint.settings import DEMO_MODEL, Settings

DEMO = sources.locate(Settings(_env_file=None, model=DEMO_MODEL)).folder  # type: ignore[call-arg]


@pytest.fixture(autouse=True)
def nothing_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no weights."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setattr(sources.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    missing = sources.LocalEntryNotFoundError("not in the cache")
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(missing))


def settings(**changes: object) -> Settings:
    """An operator's settings, but for the changes the defaults."""
    return Settings(_env_file=None, **changes)  # type: ignore[arg-type,call-arg]


def test_demo_model_is_part_of_the_package() -> None:
    """The demo model needs nothing, and its folder is found."""
    weights = check_weights(settings(model=DEMO_MODEL))
    assert weights.folder == DEMO
    assert [finding.state for finding in weights.findings] == [State.GOOD]
    assert "part of this package" in weights.findings[0].sentence


def test_no_weights_and_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights and without a connection nothing can be served, and both are said."""
    monkeypatch.setattr(sources.constants, "ENDPOINT", "http://127.0.0.1:9")
    weights = check_weights(settings())
    assert weights.folder is None
    assert [(finding.subject, finding.state) for finding in weights.findings] == [
        ("weights", State.PROBLEM),
        ("network", State.PROBLEM),
    ]
    assert "not on this machine" in weights.findings[0].sentence
    assert "demo" in str(weights.findings[0].remedy)
    assert "unreachable" in weights.findings[1].sentence


def test_no_weights_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where downloads are off, no network is reached for."""
    monkeypatch.setattr(sources, "_ask", lambda *_: pytest.fail("reached for the network"))
    assert [finding.state for finding in check_weights(settings(offline=True)).findings] == [State.PROBLEM]


@pytest.mark.parametrize(("free", "state"), [(50_000_000_000, State.WARNING), (1_000_000_000, State.PROBLEM)])
def test_weights_that_can_be_downloaded(monkeypatch: pytest.MonkeyPatch, free: int, state: State) -> None:
    """Where the Hub has them, missing weights are a warning that names the command; without room, a problem."""
    monkeypatch.setattr(sources, "_ask", lambda *_: None)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=1))
    missing, network = check_weights(settings()).findings
    assert (missing.state, network.state) == (state, State.GOOD)
    assert ("sd-inpaint models pull" in str(missing.remedy)) == (state is State.WARNING)


@pytest.mark.parametrize("model", ["sd-inpaint:nowhere", "/not/a/folder", "./nothing"])
def test_model_that_only_this_machine_could_have(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """A folder or a version of the store that is missing is a problem that no network solves."""
    monkeypatch.setattr(sources, "_ask", lambda *_: pytest.fail("reached for the network"))
    (finding,) = check_weights(settings(model=model)).findings
    assert finding.state is State.PROBLEM
    assert model in finding.sentence
    assert finding.remedy


def test_damaged_weights(tmp_path: Path) -> None:
    """A file that differs from its checksum is named."""
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (finding,) = check_weights(settings(model=str(folder))).findings
    assert finding.state is State.PROBLEM
    assert "vae/diffusion_pytorch_model.safetensors is damaged" in finding.sentence


def test_no_model_is_wanted() -> None:
    """With LOAD_SD_INPAINT=false there is nothing to find."""
    assert check_weights(settings(load=False)).findings[0].state is State.GOOD
