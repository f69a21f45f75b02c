"""What each speed stands for, and what a caller's own values change of it."""

import pytest

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.presets import apply_preset, choose_presets
from sd_inpaint.schema import InpaintParameters, SchedulerName, Speed

WITH_LCM = choose_presets(SchedulerName.PNDM, "lcm-lora")
WITHOUT_LCM = choose_presets(SchedulerName.PNDM, None)
AN_LCM = choose_presets(SchedulerName.LCM, None)


def applied(presets: object = WITH_LCM, **sent: object) -> tuple[int, str, float, str]:
    """Gives steps, scheduler, guidance and LoRAs of a request that sends so much."""
    parameters = apply_preset(InpaintParameters(prompt="", **sent), presets)  # type: ignore[arg-type]
    again = apply_preset(parameters, presets)  # type: ignore[arg-type]
    assert again == parameters, "a second time changes nothing"
    return parameters.num_inference_steps, str(parameters.scheduler), parameters.guidance_scale, parameters.loras


@pytest.mark.parametrize("presets", [WITH_LCM, WITHOUT_LCM])
def test_best_is_the_guides_default(presets: object) -> None:
    """A request that says nothing of speed is the guide's, whatever the operator has given."""
    assert applied(presets) == applied(presets, speed="best") == (50, "default", 7.5, "")


def test_fast_takes_the_lcm_lora_where_there_is_one() -> None:
    """With an LCM LoRA, fast is a few steps of LCM without guidance; without one, fewer steps of a good solver."""
    assert applied(WITH_LCM, speed="fast") == (6, "lcm", 1.0, "lcm-lora:1")
    assert applied(WITHOUT_LCM, speed="fast") == (12, "dpmpp_2m_karras", 7.5, "")
    assert (
        applied(WITH_LCM, speed="balanced")
        == applied(WITHOUT_LCM, speed="balanced")
        == (20, "dpmpp_2m_karras", 7.5, "")
    )


def test_model_that_is_an_lcm_has_its_own_defaults() -> None:
    """A model that ships with LCM's scheduler takes few steps and no guidance at every speed, and no LoRA."""
    assert applied(AN_LCM) == (8, "default", 1.0, "")
    assert [applied(AN_LCM, speed=speed)[0] for speed in Speed] == [4, 6, 8]
    assert applied(AN_LCM, num_inference_steps=5, guidance_scale=2.0) == (5, "default", 2.0, "")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"num_inference_steps": 4}, (4, "lcm", 1.0, "lcm-lora:1")),
        ({"num_inference_steps": 50}, (50, "lcm", 1.0, "lcm-lora:1")),
        ({"guidance_scale": 1.5}, (6, "lcm", 1.5, "lcm-lora:1")),
        ({"guidance_scale": 7.5}, (6, "lcm", 7.5, "lcm-lora:1")),
        ({"scheduler": "lcm"}, (6, "lcm", 1.0, "lcm-lora:1")),
        ({"scheduler": "euler"}, (6, "euler", 7.5, "")),
        ({"loras": "ink:0.5"}, (6, "lcm", 1.0, "ink:0.5,lcm-lora:1")),
        ({"loras": "lcm-lora:0.7"}, (6, "lcm", 1.0, "lcm-lora:0.7")),
    ],
)
def test_what_a_caller_sends_takes_the_presets_place(
    sent: dict[str, object], expected: tuple[int, str, float, str]
) -> None:
    """A value that was sent is kept, even where it is the default; another scheduler leaves the preset's LoRA out."""
    assert applied(speed="fast", **sent) == expected


def test_strength_that_leaves_no_step_of_the_preset_is_refused() -> None:
    """The bound on strength is that of the steps that are taken, not of the guide's."""
    with pytest.raises(InvalidParameterError, match="speed=fast takes 6 steps"):
        applied(speed="fast", strength=0.1)
    assert applied(speed="fast", strength=0.1, num_inference_steps=10)[0] == 10
