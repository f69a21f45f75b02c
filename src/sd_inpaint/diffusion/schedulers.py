"""Sampler names a caller may use → fresh diffusers schedulers, one for each job."""

from collections.abc import Mapping
from typing import Any

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

_SCHEDULERS: dict[SchedulerName, tuple[type[Any], dict[str, Any]]] = {
    SchedulerName.DDIM: (DDIMScheduler, {}),
    # PRK steps triple the first UNet calls for no visible gain; Stable Diffusion's own config leaves them out.
    SchedulerName.PNDM: (PNDMScheduler, {"skip_prk_steps": True}),
    SchedulerName.EULER: (EulerDiscreteScheduler, {}),
    SchedulerName.EULER_A: (EulerAncestralDiscreteScheduler, {}),
    SchedulerName.DPMPP_2M: (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    SchedulerName.DPMPP_2M_KARRAS: (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    SchedulerName.UNIPC: (UniPCMultistepScheduler, {}),
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
