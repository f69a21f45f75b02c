"""Sampler names and the schedulers behind them."""

import pytest

from sd_inpaint.diffusion.schedulers import create_scheduler, name_of
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


@pytest.mark.parametrize("name", [name for name in SchedulerName if name is not SchedulerName.DEFAULT])
def test_a_models_own_scheduler_has_its_name(name: SchedulerName) -> None:
    """A model that ships with what a name stands for is said to have that sampler."""
    shipped = create_scheduler(name, make_components()["scheduler"])
    assert name_of(shipped) is name


def test_a_scheduler_of_another_kind_has_no_name() -> None:
    """What no name stands for is left unsaid."""
    from diffusers import DDPMScheduler, EulerDiscreteScheduler

    assert name_of(DDPMScheduler()) is SchedulerName.DEFAULT
    assert name_of(EulerDiscreteScheduler(use_karras_sigmas=True, timestep_spacing="leading")) is SchedulerName.DEFAULT
