"""Bounds and defaults of a request, both sides of each."""

import pytest
from pydantic import ValidationError

from sd_inpaint.schema import SEED_MAX, InpaintParameters


def test_defaults_are_the_guides() -> None:
    """What the guide says of a field left out."""
    parameters = InpaintParameters(prompt="rose")
    assert parameters.negative_prompt == ""
    assert parameters.num_inference_steps == 50
    assert parameters.guidance_scale == 7.5
    assert parameters.seed == 42


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("num_inference_steps", [1, 150], [0, 151, -1]),
        ("guidance_scale", [1.0, 20.0], [0.99, 20.01, float("nan"), float("inf")]),
        ("seed", [-1, 0, 42, SEED_MAX], [-2, SEED_MAX + 1]),
        ("strength", [0.02, 1.0], [0.0, 1.01, float("nan")]),
        ("padding", [0, 4096], [-1, 4097]),
        ("mask_blur", [0.0, 256.0], [-0.1, 256.1]),
        ("mask_grow", [-256, 256], [-257, 257]),
        ("prompt", ["", "x" * 10_000], ["x" * 10_001]),
        ("scheduler", ["ddim", "default"], ["ddmi", ""]),
        ("region", ["auto", "full", "mask"], ["half"]),
    ],
)
def test_bound_is_allowed_and_the_next_value_is_not(name: str, inside: list[object], outside: list[object]) -> None:
    """Each bound itself is allowed, the next value is not."""
    for value in inside:
        InpaintParameters.model_validate({"prompt": "rose", name: value})
    for value in outside:
        with pytest.raises(ValidationError):
            InpaintParameters.model_validate({"prompt": "rose", name: value})


def test_strength_must_leave_a_step() -> None:
    """A strength that leaves none of the steps is refused, at its own field."""
    InpaintParameters(prompt="rose", num_inference_steps=10, strength=0.1)
    with pytest.raises(ValidationError) as refused:
        InpaintParameters(prompt="rose", num_inference_steps=10, strength=0.09)
    assert refused.value.errors()[0]["loc"] == ("strength",)


def test_unknown_field_is_refused() -> None:
    """A field nobody declared is an error."""
    with pytest.raises(ValidationError):
        InpaintParameters.model_validate({"prompt": "rose", "steps": 3})
