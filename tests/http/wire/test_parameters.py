"""Texts of a form → parameters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.errors import InvalidParameterError, MissingFieldError
from sd_inpaint.http.wire.parameters import (
    as_text,
    read_decimal,
    read_parameters,
    read_seconds,
    read_switch,
    read_whole,
)
from sd_inpaint.schema import InpaintParameters


def test_defaults_are_the_guides() -> None:
    """A form with a prompt only has the API guide's defaults."""
    got = read_parameters({"prompt": "a rose"})
    guide = {"negative_prompt": "", "num_inference_steps": 50, "guidance_scale": 7.5, "seed": 42}
    assert {name: getattr(got, name) for name in guide} == guide


GOOD = [
    ("num_inference_steps", "1", 1),
    ("num_inference_steps", "150", 150),
    ("num_inference_steps", " 50 ", 50),
    ("num_inference_steps", "50.0", 50),
    ("num_inference_steps", "50.", 50),
    ("num_inference_steps", "+5", 5),
    ("num_inference_steps", "007", 7),
    ("guidance_scale", "1", 1.0),
    ("guidance_scale", "1.0", 1.0),
    ("guidance_scale", "20.0", 20.0),
    ("guidance_scale", " 7.5\n", 7.5),
    ("guidance_scale", "75e-1", 7.5),
    ("seed", "-1", -1),
    ("seed", "0", 0),
    ("seed", str(2**53 + 1), 2**53 + 1),
    ("seed", str(2**64 - 1), 2**64 - 1),
    ("strength", "0.02", 0.02),
    ("strength", "1", 1.0),
    ("strength", ".5", 0.5),
    ("masked_content", "fill", "fill"),
    ("region", "full", "full"),
    ("region", " mask ", "mask"),
    ("scheduler", "ddim", "ddim"),
    ("scheduler", "Euler_A", "euler_a"),
    ("region", "AUTO", "auto"),
    ("prompt", "undefined shapes", "undefined shapes"),
    ("negative_prompt", "null", "null"),
    ("padding", "0", 0),
    ("padding", "4096", 4096),
    ("mask_blur", "0", 0.0),
    ("mask_blur", "256", 256.0),
    ("mask_grow", "-256", -256),
    ("mask_grow", "256", 256),
    ("mask_invert", "true", True),
    ("mask_invert", "on", True),
    ("mask_invert", "False", False),
    ("mask_invert", "0", False),
    ("prompt", "", ""),
    ("prompt", "x" * 10_000, "x" * 10_000),
    ("prompt", "🌹" * 10_000, "🌹" * 10_000),
    ("negative_prompt", "  kept  ", "  kept  "),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD, ids=lambda value: repr(value)[:24])
def test_good_values(name: str, text: str, value: object) -> None:
    """Values up to their bounds are taken, numbers also with blanks around them."""
    got = getattr(read_parameters({"prompt": "a rose", name: text}), name)
    assert got == value
    assert type(got) is type(value) or isinstance(got, str)


NO_NUMBERS = ["", " ", "abc", "nan", "inf", "-inf", "true", "null", "1_0", "0x10", "٣", "1,5", "9" * 5000, '"5"', "5 0"]
BAD = [
    *[(name, text) for name in ("num_inference_steps", "guidance_scale", "seed", "padding") for text in NO_NUMBERS],
    ("num_inference_steps", "0"),
    ("num_inference_steps", "151"),
    ("num_inference_steps", "50.5"),
    ("num_inference_steps", "5e1"),
    ("num_inference_steps", "-1"),
    ("guidance_scale", "0.999"),
    ("guidance_scale", "20.001"),
    ("guidance_scale", "1e400"),
    ("seed", "-2"),
    ("seed", str(2**64)),
    ("seed", "1e3"),
    ("strength", "0"),
    ("strength", "1.001"),
    ("strength", "-0.5"),
    ("region", ""),
    ("region", "half"),
    ("region", "automatic"),
    ("prompt", "undefined"),
    ("prompt", "[object Object]"),
    ("negative_prompt", " undefined"),
    ("scheduler", "magic"),
    ("padding", "-1"),
    ("padding", "4097"),
    ("mask_blur", "-0.1"),
    ("mask_blur", "256.1"),
    ("mask_grow", "-257"),
    ("mask_grow", "257"),
    ("mask_invert", ""),
    ("mask_invert", "maybe"),
    ("mask_invert", "2"),
    ("prompt", "x" * 10_001),
    ("negative_prompt", "🌹" * 10_001),
]


@pytest.mark.parametrize(("name", "text"), BAD, ids=lambda value: repr(value)[:24])
def test_bad_values(name: str, text: str) -> None:
    """A value of another type or out of bounds is refused by name, shortened, with the bounds as facts."""
    with pytest.raises(InvalidParameterError) as caught:
        read_parameters({"prompt": "a rose", name: text})
    sentence, facts = str(caught.value), caught.value.facts
    assert sentence.startswith(f"{name} must be ")
    assert len(sentence) < 250
    assert facts["field"] == name
    assert str(facts["value"]) == text[:40]
    assert {"minimum", "above", "choices", "max_length"} & set(facts) or name == "mask_invert"


def test_sentence_names_value_and_bounds() -> None:
    """The sentence says what would have been right."""
    with pytest.raises(InvalidParameterError) as caught:
        read_parameters({"prompt": "x", "num_inference_steps": "151"})
    assert str(caught.value) == "num_inference_steps must be a whole number from 1 to 150, not '151'."
    assert caught.value.facts == {"field": "num_inference_steps", "value": "151", "minimum": 1, "maximum": 150}


def test_values_that_do_not_go_together() -> None:
    """What the schema checks over two fields keeps the schema's own sentence."""
    with pytest.raises(InvalidParameterError, match=r"strength × num_inference_steps must be at least 1") as caught:
        read_parameters({"prompt": "x", "num_inference_steps": "10", "strength": "0.05"})
    assert caught.value.facts["field"] == "strength"
    assert str(caught.value).endswith(".")


def test_missing_prompt() -> None:
    """The prompt may be empty, but it must be there."""
    with pytest.raises(MissingFieldError, match="'prompt'"):
        read_parameters({"seed": "1"})


@given(st.dictionaries(st.sampled_from(sorted(InpaintParameters.model_fields)), st.text(max_size=30)))
@settings(max_examples=200, deadline=None)
def test_any_texts(texts: dict[str, str]) -> None:
    """Any texts are parameters within their bounds, or an error raised on purpose."""
    refused = None
    try:
        got = read_parameters({"prompt": "", **texts})
    except InvalidParameterError as error:
        refused = error.facts["field"]
    else:
        InpaintParameters.model_validate(got.model_dump())
    assert refused is None or refused in texts


@pytest.mark.parametrize(("text", "seconds"), [("60", 60.0), (" 0.5 ", 0.5), ("3600", 3600.0)])
def test_good_durations(text: str, seconds: float) -> None:
    """Durations up to the longest are taken."""
    assert read_seconds("X", text, 3600.0) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "3600.1", "", "soon", "nan", "inf", "1e9", "9" * 500])
def test_bad_durations(text: str) -> None:
    """Durations of no time, of too much, or that are no number are refused."""
    with pytest.raises(InvalidParameterError, match="X must be a number of seconds"):
        read_seconds("X", text, 3600.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (12, "12"), (512.0, "512"), (0.5, "0.5"), (" x ", " x "), (-1.0, "-1")],
)
def test_a_json_value_is_the_text_that_a_form_would_have(value: object, text: str) -> None:
    """Numbers and switches of JSON are read by the same rules as a form's."""
    assert as_text("steps", value) == text


@pytest.mark.parametrize("value", [None, [], {}, 10**25, -(10**5000)], ids=lambda value: type(value).__name__)
def test_a_json_value_without_a_text_is_refused(value: object) -> None:
    """Lists, objects, null and numbers of thousands of digits are no values of a form."""
    with pytest.raises(InvalidParameterError, match="steps") as caught:
        as_text("steps", value)
    assert caught.value.facts["field"] == "steps"


def test_values_beside_the_schema_are_read_alike() -> None:
    """A dialect's own fields have the same numbers and switches, and the same errors."""
    assert read_whole("width", "512.0", 0, 1000) == 512
    assert read_decimal("eta", "1e-1") == 0.1
    assert [read_switch("tiling", value) for value in ("False", 0, "on", True)] == [False, False, True, True]
    for read, words in (
        (lambda: read_whole("width", 1001, 0, 1000), "width must be a whole number from 0 to 1000"),
        (lambda: read_whole("width", 0.5, 0, 1000), "not '0.5'"),
        (lambda: read_whole("width", True, 0, 1000), "not 'true'"),
        (lambda: read_decimal("eta", float("nan")), "eta must be a number"),
        (lambda: read_switch("tiling", "perhaps"), "tiling must be true or false"),
    ):
        with pytest.raises(InvalidParameterError, match=words):
            read()


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_what_a_prompts_language_does_not_allow_is_refused(name: str) -> None:
    """A weight out of bounds is the caller's error before anything is painted, unless prompts are taken literally."""
    texts = {"prompt": "a rose", name: "(word:3)"}
    with pytest.raises(InvalidParameterError, match=f"{name} has a weight of 3") as caught:
        read_parameters(texts)
    assert caught.value.facts["field"] == name
    assert read_parameters({**texts, "prompt_weights": "false"})
    assert read_parameters({**texts, "prompt_syntax": "a1111"})
