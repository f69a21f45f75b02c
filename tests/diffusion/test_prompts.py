"""Prompts of any length, with weights."""

import pytest
import torch

from sd_inpaint.diffusion.prompts import PromptEncoder, equalise
from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.schema import PromptSyntax
from tests.support.tiny_model import TEXT_LENGTH, make_components

ROOM = TEXT_LENGTH - 2
WEIGHTS, WEB_UI = PromptSyntax.WEIGHTS, PromptSyntax.A1111


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    """An encoder of sixteen tokens, one a byte."""
    components = make_components()
    return PromptEncoder(components["tokenizer"], components["text_encoder"])


def test_short_prompt_is_what_diffusers_embeds(encoder: PromptEncoder) -> None:
    """Without weights, and within the encoder's length, reading weights or not makes no difference."""
    assert torch.equal(encoder.encode("a rose", WEIGHTS), encoder.encode("a rose"))


def test_long_prompt_goes_on_in_chunks(encoder: PromptEncoder) -> None:
    """What is beyond the encoder's length counts, unless plain text was asked for."""
    prompt = "x" * (2 * ROOM + 1)
    assert encoder.encode(prompt, WEIGHTS).shape[1] == 3 * TEXT_LENGTH
    assert encoder.encode("x" * ROOM, WEIGHTS).shape[1] == TEXT_LENGTH
    assert encoder.encode(prompt).shape[1] == TEXT_LENGTH
    assert torch.equal(encoder.encode(prompt), encoder.encode("x" * 2 * ROOM))


def test_prompt_without_end_is_refused(encoder: PromptEncoder) -> None:
    """A prompt that would hold the device for minutes is the caller's error."""
    with pytest.raises(InvalidParameterError, match="tokens"):
        encoder.encode("x" * 10_000, WEIGHTS)


def test_weight_changes_the_embedding_and_one_does_not(encoder: PromptEncoder) -> None:
    """A weight other than 1 has an effect, of 1 none."""
    plain = encoder.encode("red", WEIGHTS)
    assert torch.allclose(encoder.encode("(red:1.0)", WEIGHTS), plain)
    heavy = encoder.encode("(red:1.5)", WEIGHTS)
    assert not torch.allclose(heavy, plain)
    assert torch.allclose(heavy.mean(), plain.mean(), atol=1e-5)


def test_equalise_fills_up_with_the_empty_prompt(encoder: PromptEncoder) -> None:
    """Positive and negative prompt get one length, for guidance needs them in one call."""
    filler = encoder.encode("")
    short, long = encoder.encode("a", WEIGHTS), encoder.encode("x" * (ROOM + 1), WEIGHTS)
    both = equalise([short, long], filler)
    assert both.shape[:2] == (2, 2 * TEXT_LENGTH)
    assert torch.equal(both[0, TEXT_LENGTH:], filler[0])


def test_brackets_of_the_web_ui_weigh_as_numbers_do(encoder: PromptEncoder) -> None:
    """One prompt in both languages is one embedding; plain brackets weigh in the web UI's only."""
    assert torch.allclose(encoder.encode("a ((red)) rose", WEB_UI), encoder.encode("a (red:1.21) rose", WEIGHTS))
    assert not torch.allclose(encoder.encode("a ((red))", WEB_UI), encoder.encode("a ((red))", WEIGHTS))
    assert torch.equal(encoder.encode(r"\(red\)", WEB_UI), encoder.encode("(red)", WEIGHTS))


def test_break_begins_a_chunk(encoder: PromptEncoder) -> None:
    """What follows BREAK is embedded in a chunk of its own, and a BREAK at the end adds none."""
    both = encoder.encode("red BREAK rose", WEB_UI)
    assert torch.equal(both, torch.cat([encoder.encode("red", WEB_UI), encoder.encode("rose", WEB_UI)], dim=1))
    assert encoder.encode("red BREAK", WEB_UI).shape[1] == TEXT_LENGTH
    with pytest.raises(InvalidParameterError, match="chunks"):
        encoder.encode("a BREAK " * 21, WEB_UI)
