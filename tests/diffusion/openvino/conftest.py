"""A tiny model and its UNet, converted once for all tests."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sd_inpaint.diffusion.openvino.converter import convert_in_place
from tests.support.tiny_model import make_components, save


@pytest.fixture(scope="session")
def components() -> dict[str, Any]:
    """The parts of the tiny model."""
    return make_components()


@pytest.fixture(scope="session")
def model_folder(components: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, written in diffusers' layout."""
    return save(components, tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def conversions(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of conversions, with the tiny model's UNet in float32; not to be written to."""
    folder = tmp_path_factory.mktemp("cache") / "openvino"
    convert_in_place(model_folder / "unet", folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def converted(conversions: Path) -> Path:
    """The tiny model's converted UNet."""
    return next(conversions.glob("*/*/unet.xml"))
