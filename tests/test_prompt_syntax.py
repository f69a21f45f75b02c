"""What a prompt's brackets mean, in both languages."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.prompt_syntax import (
    MAX_DEPTH,
    Segments,
    parse,
    parse_web_ui,
    parse_weights,
    remove_extra_networks,
    write_web_ui,
)
from sd_inpaint.schema import PromptSyntax

HOSTILE = ("(" * 10_000, "(a" * 5_000, "(a\\" * 3_333, "(" + "a" * 9_998, "(" + "a:" * 4_999, "(" * 5_000 + ")" * 5_000)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a rose", [("a rose", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.3) rose", [("a ", 1.0), ("red", 1.3), (" rose", 1.0)]),
        ("(red:1.3)(blue:.5)", [("red", 1.3), ("blue", 0.5)]),
        ("(a cat, asleep:0)", [("a cat, asleep", 0.0)]),
        ("(rose:2)", [("rose", 2.0)]),
        ("(rose:1.)", [("rose", 1.0)]),
        ("(rose: 1.3)", [("rose", 1.3)]),
        ("(rose : 1.3 )", [("rose ", 1.3)]),
        ("(rose:+1.3)", [("rose", 1.3)]),
        ("(🌹:1.6) on a table", [("🌹", 1.6), (" on a table", 1.0)]),
        ("(2024:1.4)", [("2024", 1.4)]),
        ("(!!!:1.4)", [("!!!", 1.4)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("a cat (orange)", [("a cat (orange)", 1.0)]),
        ("screen (16:9)", [("screen (16:9)", 1.0)]),
        ("screen (16 : 9)", [("screen (16 : 9)", 1.0)]),
        ("(at 12:30)", [("(at 12:30)", 1.0)]),
        ("at 12:30)", [("at 12:30)", 1.0)]),
        ("(a lap of 1:23.45)", [("(a lap of 1:23.45)", 1.0)]),
        ("(scale 1:72)", [("(scale 1:72)", 1.0)]),
        ("(John 3:16)", [("(John 3:16)", 1.0)]),
        ("(port:8080)", [("(port:8080)", 1.0)]),
        ("(:1.3)", [("(:1.3)", 1.0)]),
        ("(rose:)", [("(rose:)", 1.0)]),
        ("(rose:1.3", [("(rose:1.3", 1.0)]),
        ("rose:1.3)", [("rose:1.3)", 1.0)]),
        (":) (:", [(":) (:", 1.0)]),
        (r"(rose \(red\):1.2)", [("rose (red)", 1.2)]),
        ("((rose:1.2))", [("(", 1.0), ("rose", 1.2), (")", 1.0)]),
        ("((red:1.2) rose:1.5)", [("red", 1.2 * 1.5), (" rose", 1.5)]),
        ("(see (a) rose:1.5)", [("see (a) rose", 1.5)]),
        ("(バラ:1.2)", [("バラ", 1.2)]),
    ],
)
def test_only_explicit_weights_are_read(prompt: str, parts: list[tuple[str, float]]) -> None:
    """``(word:1.3)`` is a weight whatever the word is made of; every other use of parentheses and colons is text."""
    assert [(text, pytest.approx(weight)) for text, weight in parts] == parse_weights(prompt)


@pytest.mark.parametrize(
    ("prompt", "number"),
    [
        ("(word:3)", "3"),
        ("(rose:2.1)", "2.1"),
        ("(word:-1)", "-1"),
        ("(word:-0)", "-0"),
        ("(word: 10)", "10"),
        ("((rose:1.5):1.5)", "2.25"),
    ],
)
def test_weights_out_of_bounds_are_refused_in_words(prompt: str, number: str) -> None:
    """What is written as a weight and is none is neither painted as text nor clipped."""
    with pytest.raises(
        InvalidParameterError, match=rf"negative_prompt has a weight of {re.escape(number)}; .* 0 to 2\."
    ):
        parse(prompt, PromptSyntax.WEIGHTS, name="negative_prompt")


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("", []),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("a ((red)) rose", [("a ", 1.0), ("red", 1.21), (" rose", 1.0)]),
        ("[faint]", [("faint", 1 / 1.1)]),
        ("[[faint]] x", [("faint", 1 / 1.21), (" x", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[unbalanced", [("unbalanced", 1 / 1.1)]),
        ("unbalanced) and]", [("unbalanced) and]", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a\b \\", [("ab \\", 1.0)]),
        ("(one)(word)", [("oneword", 1.1)]),
        ("(red:1.3) (big: 0.8 )", [("red", 1.3), (" ", 1.0), ("big", 0.8)]),
        ("at 12:30)", [("at 12:30)", 1.0)]),
        ("(16:9)", [("16", 9.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(wait:...)", [("wait:...", 1.1)]),
        ("(a [b:c] d:2)", [("a ", 2.0), ("b:c", 2 / 1.1), (" d", 2.0)]),
        ("(a|b)", [("a|b", 1.1)]),
        (r"[a\|b] [c\:0.5]", [("a|b", 1 / 1.1), (" ", 1.0), ("c:0.5", 1 / 1.1)]),
        ("([x)]", [("x", 1.0)]),
        ("a rose # red\nand #more", [("a rose \nand ", 1.0)]),
        ("ANDROID, BREAKFAST", [("ANDROID, BREAKFAST", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_the_web_uis_brackets(prompt: str, parts: list[tuple[str, float]]) -> None:
    """Round, square, nested, escaped and unbalanced brackets weigh as they do there."""
    (read,) = parse_web_ui(prompt)
    assert [(text, pytest.approx(weight, rel=1e-6)) for text, weight in parts] == read


def test_break_divides() -> None:
    """BREAK begins another segment, within brackets too, and takes the blanks around it along."""
    assert parse_web_ui("red BREAK rose") == [[("red", 1.0)], [("rose", 1.0)]]
    assert parse_web_ui("(red\nBREAK\nrose:1.5)") == [[("red", 1.5)], [("rose", 1.5)]]
    assert parse_web_ui("red BREAK") == [[("red", 1.0)]]
    assert parse_web_ui("BREAK red") == [[], [("red", 1.0)]]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a cat AND a dog", "AND"),
        ("a cat AND\na dog:0.5", "AND"),
        ("a rose <lora:flowers:0.8>", "<lora:"),
        ("a rose <lyco:x>", "<lyco:"),
        ("<hypernet:x:1>", "<hypernet:"),
        ("a [cat:dog:0.5]", "prompt editing"),
        ("a [cat:0.5]", "prompt editing"),
        ("a [cat::0.5]", "prompt editing"),
        ("a [cat:dog: 12 ]", "prompt editing"),
        ("a [(cat:1.2):dog:.5]", "prompt editing"),
        ("a [cat|dog]", "alternating"),
        ("a [cat|(dog:1.1)|]", "alternating"),
        ("(x [a|b]:1.2)", "alternating"),
        ("(cat:11)", "11"),
        ("(cat:-1)", "-1"),
        ("(" * (MAX_DEPTH + 1), "deep"),
        ("(" * 30 + "cat", "weight"),
    ],
)
def test_what_the_web_ui_knows_and_is_not_done_is_refused_by_name(prompt: str, word: str) -> None:
    """It is never painted as words."""
    with pytest.raises(InvalidParameterError, match=re.escape(word)) as caught:
        parse(prompt, PromptSyntax.A1111)
    assert caught.value.facts["field"] == "prompt"


def test_and_is_a_word_in_a_negative_prompt() -> None:
    """There it combines nothing in the web UI either."""
    assert parse("a AND b", PromptSyntax.A1111, name="negative_prompt") == [[("a AND b", 1.0)]]


def test_extra_networks_can_be_left_out() -> None:
    """As the web UI leaves them out where they are disabled."""
    assert remove_extra_networks("a <lora:x:0.5>rose<hypernet:y>") == "a rose"


@pytest.mark.parametrize(
    ("prompt", "syntax", "written"),
    [
        ("a rose", PromptSyntax.WEIGHTS, "a rose"),
        ("a (big) (red:1.3) rose [x]", PromptSyntax.WEIGHTS, r"a \(big\) (red:1.3) rose \[x\]"),
        ("(big:1.3) rose", None, r"\(big:1.3\) rose"),
        ("((a)) [b] (c:1.5)", PromptSyntax.A1111, "((a)) [b] (c:1.5)"),
        ("a AND b BREAK <lora:x:1>", None, "a and b break < lora:x:1>"),
    ],
)
def test_prompts_are_written_for_the_web_ui(prompt: str, syntax: PromptSyntax | None, written: str) -> None:
    """What is text here is text there."""
    assert write_web_ui(prompt, syntax) == written


@given(st.text(alphabet="ab(:)1.[]\\ |#", max_size=60))
@settings(deadline=None)
def test_what_is_written_is_read_back(prompt: str) -> None:
    """The web UI's language reads the parts that this service's language had."""
    try:
        parts = [part for part in parse_weights(prompt) if "#" not in prompt and part.text]
        (read,) = parse_web_ui(write_web_ui(prompt, PromptSyntax.WEIGHTS)) if parts else ([],)
    except InvalidParameterError:
        return
    assert "".join(text for text, _ in read) == "".join(text for text, _ in parts)
    letters = [(letter, weight) for text, weight in parts for letter in text]
    assert letters == [(letter, pytest.approx(weight, abs=1e-4)) for text, weight in read for letter in text]


@given(st.sampled_from(PromptSyntax), st.text(alphabet="aAND(:)1.\\ []|<lora>BREAK#-\n", max_size=60))
@settings(deadline=None)
def test_any_text_is_read_or_refused(syntax: PromptSyntax, prompt: str) -> None:
    """No text breaks a parser, and each part has a weight within bounds."""
    segments: Segments = []
    with contextlib.suppress(InvalidParameterError):
        segments = parse(prompt, syntax)
    assert all(0 <= weight <= 10.001 for segment in segments for _, weight in segment)


@pytest.mark.parametrize("syntax", PromptSyntax)
def test_parsing_takes_time_in_proportion_to_the_text(syntax: PromptSyntax) -> None:
    """A prompt made to have a parser try everything is read, or refused, at once."""
    for prompt in (*HOSTILE, "[" * 5_000 + "]" * 5_000, "[a:" * 3_000, "<a:" * 3_000, ":1" * 5_000, "BREAK " * 1_600):
        try:
            parse(prompt, syntax)
        except InvalidParameterError:
            continue
