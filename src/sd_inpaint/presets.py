"""What each ``speed`` stands for: a scheduler, its steps, its guidance, and an adapter where one is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.lora_set import LoraWeight, parse_loras, write_loras
from sd_inpaint.schema import InpaintParameters, SchedulerName, Speed

_FIELDS: Final = InpaintParameters.model_fields


@dataclass(frozen=True, slots=True)
class Preset:
    """What one speed stands for; each field of the request that is sent takes its place.

    Attributes:
        num_inference_steps: As in the request.
        scheduler: As there.
        guidance_scale: As there.
        lora: The LoRA that the scheduler needs with this model, by name; None where it needs none.
    """

    num_inference_steps: int = _FIELDS["num_inference_steps"].default
    scheduler: SchedulerName = _FIELDS["scheduler"].default
    guidance_scale: float = _FIELDS["guidance_scale"].default
    lora: str | None = None

    def describe(self) -> dict[str, object]:
        """Returns it as ``/sd-inpaint/info`` shows it: the values of the request's fields."""
        return {
            "scheduler": str(self.scheduler),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "loras": "" if self.lora is None else write_loras([LoraWeight(self.lora, 1.0)]),
        }


Presets = Mapping[Speed, Preset]

_LCM_STEPS: Final = {Speed.FAST: 4, Speed.BALANCED: 6, Speed.BEST: 8}
"""Of a model that is an LCM by itself. Source: Luo et al. (2023), "Latent Consistency Models", 4 to 8 steps."""

_BALANCED: Final = Preset(20, SchedulerName.DPMPP_2M_KARRAS)
_FAST: Final = Preset(12, SchedulerName.DPMPP_2M_KARRAS)


def choose_presets(own_scheduler: SchedulerName, lcm_lora: str | None) -> Presets:
    """Returns what the speeds stand for, by what the operator has given.

    Args:
        own_scheduler: The name of the scheduler that the model ships with. One that ships with LCM's was distilled to
            few steps, and without guidance: its defaults follow.
        lcm_lora: The name of the LoRA that makes the model an LCM; None where there is none.
    """
    if own_scheduler is SchedulerName.LCM:
        return {speed: Preset(steps, guidance_scale=1.0) for speed, steps in _LCM_STEPS.items()}
    fast = _FAST if lcm_lora is None else Preset(6, SchedulerName.LCM, 1.0, lcm_lora)
    return {Speed.FAST: fast, Speed.BALANCED: _BALANCED, Speed.BEST: Preset()}


def apply_preset(parameters: InpaintParameters, presets: Presets) -> InpaintParameters:
    """Returns the parameters with those of their speed that the caller has not sent; a second time changes nothing.

    A scheduler of the caller's own takes the preset's guidance and LoRA out too, which belong to the preset's.

    Raises:
        InvalidParameterError: If ``strength`` leaves no step of those of the speed.
    """
    preset, sent = presets[parameters.speed], parameters.model_fields_set
    chosen: dict[str, object] = {"num_inference_steps": preset.num_inference_steps}
    if "scheduler" not in sent or parameters.scheduler is preset.scheduler:
        chosen |= {"scheduler": preset.scheduler, "guidance_scale": preset.guidance_scale}
        loras = parse_loras(parameters.loras)
        if preset.lora is not None and preset.lora not in (name for name, _ in loras):
            parameters = parameters.model_copy(update={"loras": write_loras([*loras, LoraWeight(preset.lora, 1.0)])})
    left = {name: value for name, value in chosen.items() if name not in sent}
    applied = parameters.model_copy(update=left)
    if int(applied.num_inference_steps * applied.strength) < 1:
        raise InvalidParameterError(
            f"speed={parameters.speed} takes {applied.num_inference_steps} steps, of which a strength of "
            f"{applied.strength:g} leaves none; send num_inference_steps or a higher strength.",
            field="strength",
        )
    return applied
