"""Sampler names a caller may use → fresh diffusers schedulers, one for each job."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from sd_inpaint.schema import SchedulerName


class AncestralDDIMScheduler(DDIMScheduler):  # type: ignore[misc]  # untyped
    """DDIM with eta 1. Source: Song et al. 2021, "Denoising Diffusion Implicit Models", equation 16."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Takes one step, as its parent."""
        return super().step(model_output, timestep, sample, eta=1.0, generator=generator, return_dict=return_dict)


# Each is said in full, or a model whose own scheduler has another schedule would lend it to all.
_SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_PLAIN: Mapping[str, Any] = dict.fromkeys(_SCHEDULES, False)
_KARRAS: Mapping[str, Any] = {**_PLAIN, "use_karras_sigmas": True}
_EXPONENTIAL: Mapping[str, Any] = {**_PLAIN, "use_exponential_sigmas": True}

_DPMPP_2M: Mapping[str, Any] = {"algorithm_type": "dpmsolver++", "solver_order": 2}
_DPMPP_2M_SDE: Mapping[str, Any] = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}

# Where the first and the last noise level come from, between which a schedule lies.
_FULL_RANGE: Mapping[str, Any] = {"timestep_spacing": "linspace"}

_SCHEDULERS: dict[SchedulerName, tuple[type[Any], Mapping[str, Any]]] = {
    SchedulerName.DDIM: (DDIMScheduler, {}),
    SchedulerName.DDIM_A: (AncestralDDIMScheduler, {}),
    # PRK steps triple the first UNet calls for no visible gain; Stable Diffusion's own config leaves them out.
    SchedulerName.PNDM: (PNDMScheduler, {"skip_prk_steps": True}),
    SchedulerName.EULER: (EulerDiscreteScheduler, _PLAIN),
    SchedulerName.EULER_KARRAS: (EulerDiscreteScheduler, {**_KARRAS, **_FULL_RANGE}),
    SchedulerName.EULER_EXPONENTIAL: (EulerDiscreteScheduler, {**_EXPONENTIAL, **_FULL_RANGE}),
    SchedulerName.EULER_A: (EulerAncestralDiscreteScheduler, {}),
    SchedulerName.DPMPP_2M: (DPMSolverMultistepScheduler, {**_DPMPP_2M, **_PLAIN}),
    SchedulerName.DPMPP_2M_KARRAS: (DPMSolverMultistepScheduler, {**_DPMPP_2M, **_KARRAS}),
    SchedulerName.DPMPP_2M_EXPONENTIAL: (DPMSolverMultistepScheduler, {**_DPMPP_2M, **_EXPONENTIAL}),
    SchedulerName.DPMPP_2M_SDE_KARRAS: (DPMSolverMultistepScheduler, {**_DPMPP_2M_SDE, **_KARRAS}),
    SchedulerName.DPMPP_2M_SDE_EXPONENTIAL: (DPMSolverMultistepScheduler, {**_DPMPP_2M_SDE, **_EXPONENTIAL}),
    SchedulerName.UNIPC: (UniPCMultistepScheduler, _PLAIN),
    SchedulerName.LCM: (LCMScheduler, {}),
}


def create_scheduler(name: SchedulerName, shipped: Any) -> Any:
    """Makes a scheduler that no other job has: schedulers keep the state of one denoising run on themselves.

    Args:
        name: What the caller asked for.
        shipped: The model's own scheduler; its noise schedule and prediction type are kept. It is not changed.
    """
    if name is SchedulerName.DEFAULT:
        return type(shipped).from_config(shipped.config)
    scheduler_class, options = _SCHEDULERS[name]
    config: Mapping[str, Any] = shipped.config
    return scheduler_class.from_config(config, **options)


def name_of(shipped: Any) -> SchedulerName:
    """Returns the name under which a caller gets what the model ships with; ``default`` if there is no other."""
    for name in _SCHEDULERS:
        named = create_scheduler(name, shipped)
        if type(named) is type(shipped) and _settings(named) == _settings(shipped):
            return name
    return SchedulerName.DEFAULT


def _settings(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
