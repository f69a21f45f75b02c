"""Prompts of any length, with weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.diffusion.prompts import PromptEncoder, equalise, parse_weights
from sd_inpaint.errors import InvalidParameterError
from tests.support.tiny_model import TEXT_LENGTH, make_components

ROOM = TEXT_LENGTH - 2


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    """An encoder of sixteen tokens, one a byte."""
    components = make_components()
    return PromptEncoder(components["tokenizer"], components["text_encoder"])


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a rose", [("a rose", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.3) rose", [("a ", 1.0), ("red", 1.3), (" rose", 1.0)]),
        ("(red:1.3)(blue:.5)", [("red", 1.3), ("blue", 0.5)]),
        ("(a cat, asleep:0)", [("a cat, asleep", 0.0)]),
        ("(rose:2)", [("rose", 2.0)]),
        ("a cat (orange)", [("a cat (orange)", 1.0)]),
        ("screen (16:9)", [("screen (16:9)", 1.0)]),
        ("(at 12:30)", [("(at 12:30)", 1.0)]),
        ("(rose:2.1)", [("(rose:2.1)", 1.0)]),
        ("(rose:)", [("(rose:)", 1.0)]),
        ("(rose:1.3", [("(rose:1.3", 1.0)]),
        (":) (:", [(":) (:", 1.0)]),
        (r"(rose \(red\):1.2)", [("rose (red)", 1.2)]),
        ("((rose:1.2))", [("(", 1.0), ("rose", 1.2), (")", 1.0)]),
        ("(バラ:1.2)", [("バラ", 1.2)]),
    ],
)
def test_only_explicit_weights_are_read(prompt: str, parts: list[tuple[str, float]]) -> None:
    """``(word:1.3)`` is a weight; every other use of parentheses and colons is text."""
    assert parse_weights(prompt) == parts


@given(st.text(alphabet="a(:)1.\\ ", max_size=60))
@settings(deadline=None)
def test_any_text_can_be_parsed(prompt: str) -> None:
    """No text is an error, and each part has something in it."""
    parts = parse_weights(prompt)
    assert parts == [("", 1.0)] or all(text for text, _ in parts)


def test_parsing_takes_time_in_proportion_to_the_text() -> None:
    """A prompt made to have a regular expression try everything is parsed at once."""
    for hostile in ("(" * 10_000, "(a" * 5_000, "(a\\" * 3_333, "(" + "a" * 9_998, "(" + "a:" * 4_999):
        parse_weights(hostile)


def test_short_prompt_is_what_diffusers_embeds(encoder: PromptEncoder) -> None:
    """Without weights, and within the encoder's length, reading weights or not makes no difference."""
    assert torch.equal(encoder.encode("a rose", weighted=True), encoder.encode("a rose", weighted=False))


def test_long_prompt_goes_on_in_chunks(encoder: PromptEncoder) -> None:
    """What is beyond the encoder's length counts, unless plain text was asked for."""
    prompt = "x" * (2 * ROOM + 1)
    assert encoder.encode(prompt, weighted=True).shape[1] == 3 * TEXT_LENGTH
    assert encoder.encode("x" * ROOM, weighted=True).shape[1] == TEXT_LENGTH
    assert encoder.encode(prompt, weighted=False).shape[1] == TEXT_LENGTH
    assert torch.equal(encoder.encode(prompt, weighted=False), encoder.encode("x" * 2 * ROOM, weighted=False))


def test_prompt_without_end_is_refused(encoder: PromptEncoder) -> None:
    """A prompt that would hold the device for minutes is the caller's error."""
    with pytest.raises(InvalidParameterError, match="tokens"):
        encoder.encode("x" * 10_000, weighted=True)


def test_weight_changes_the_embedding_and_one_does_not(encoder: PromptEncoder) -> None:
    """A weight other than 1 has an effect, of 1 none."""
    plain = encoder.encode("red", weighted=True)
    assert torch.allclose(encoder.encode("(red:1.0)", weighted=True), plain)
    heavy = encoder.encode("(red:1.5)", weighted=True)
    assert not torch.allclose(heavy, plain)
    assert torch.allclose(heavy.mean(), plain.mean(), atol=1e-5)


def test_equalise_fills_up_with_the_empty_prompt(encoder: PromptEncoder) -> None:
    """Positive and negative prompt get one length, for guidance needs them in one call."""
    filler = encoder.encode("", weighted=False)
    short, long = encoder.encode("a", weighted=True), encoder.encode("x" * (ROOM + 1), weighted=True)
    both = equalise([short, long], filler)
    assert both.shape[:2] == (2, 2 * TEXT_LENGTH)
    assert torch.equal(both[0, TEXT_LENGTH:], filler[0])
