"""``sd-inpaint models convert``."""

from pathlib import Path

import pytest

from sd_inpaint.diffusion import weights
from sd_inpaint.errors import SettingsError
from sd_inpaint.model_store import conversion
from sd_inpaint.settings import Settings
from tests.support.tiny_model import make_components, save


def test_a_server_finds_what_was_converted_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is converted once, and a server that starts afterwards runs it from its first request on."""
    model = save(make_components(), tmp_path / "model")
    settings = Settings(model=str(model), device="cpu", state_dir=tmp_path / "state")
    path = conversion.convert(settings)
    assert path.is_relative_to(tmp_path / "state" / "openvino")
    written = path.stat().st_mtime_ns
    assert conversion.convert(settings) == path
    assert path.stat().st_mtime_ns == written
    assert weights.load(settings.model_copy(update={"backend": "openvino"})).plan == "openvino-float32"
    monkeypatch.setattr(conversion, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match="sd-inpaint\\[openvino\\]"):
        conversion.convert(settings)
