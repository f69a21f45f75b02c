"""Sampler names and the schedulers behind them."""

import pytest

from sd_inpaint.diffusion.schedulers import create_scheduler
from sd_inpaint.schema import SchedulerName
from tests.support.tiny_model import make_components


@pytest.mark.parametrize("name", list(SchedulerName))
def test_each_job_gets_its_own_with_the_models_noise(name: SchedulerName) -> None:
    """Each name makes a fresh scheduler that keeps the model's betas; the shipped one stays as it was."""
    shipped = make_components()["scheduler"]
    before = dict(shipped.config)
    first, second = create_scheduler(name, shipped), create_scheduler(name, shipped)
    assert first is not second is not shipped
    assert first.config.beta_start == shipped.config.beta_start
    assert first.config.prediction_type == shipped.config.prediction_type
    first.set_timesteps(7)
    assert second.num_inference_steps is None
    assert dict(shipped.config) == before


def test_default_is_the_models_own() -> None:
    """``default`` is the class the model ships with."""
    shipped = make_components()["scheduler"]
    assert type(create_scheduler(SchedulerName.DEFAULT, shipped)) is type(shipped)
