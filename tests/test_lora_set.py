"""LoRAs as requests name them."""

import pytest

from sd_inpaint.errors import InvalidLorasError
from sd_inpaint.lora_set import check_loras, parse_loras, write_loras

KNOWN = ("ink", "paper", "slider v1.5", "a", "b", "c")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" , ", ""),
        ("ink", "ink:1"),
        ("ink:0.8", "ink:0.8"),
        (" paper : .5 , ink:1. ", "ink:1,paper:0.5"),
        ("ink:-2,slider v1.5:+2", "ink:-2,slider v1.5:2"),
        ("ink:0,paper:0.30", "paper:0.3"),
        ("ink:0.000", ""),
    ],
)
def test_equal_sets_have_one_text(text: str, canonical: str) -> None:
    """However a set is written, in whatever order, one text stands for it, which reads as itself."""
    assert check_loras(text, KNOWN) == canonical
    assert check_loras(canonical, KNOWN) == canonical
    assert write_loras(parse_loras(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("oil:0.5", "There is no LoRA named 'oil'."),
        ("Ink:0.5", "There is no LoRA named 'Ink'."),
        ("ink:2.1", "from -2 to 2, not 2.1"),
        ("ink:-2.01", "from -2 to 2"),
        ("ink:99", "from -2 to 2"),
        ("ink:", "must be names with weights"),
        (":0.5", "must be names with weights"),
        ("ink:much", "must be names with weights"),
        ("ink:nan", "must be names with weights"),
        ("ink:1e-3", "must be names with weights"),
        ("ink:0.5:0.6", "must be names with weights"),
        ("ink:1,paper:1,a:1,b:1,c:1", "At most 4 LoRAs can be combined, not 5."),
        ("ink:1,ink:0.5", "named more than once"),
    ],
)
def test_wrong_sets_are_refused_with_the_names_there_are(text: str, reason: str) -> None:
    """An unknown name, a weight out of bounds, a name twice or too many are refused, and the names are said."""
    with pytest.raises(InvalidLorasError) as refused:
        check_loras(text, KNOWN)
    assert reason in str(refused.value)
    assert "This server has: a, b, c, ink, paper, slider v1.5." in str(refused.value)
    assert refused.value.facts == {"field": "loras", "loras": sorted(KNOWN)}


def test_server_without_loras_says_so() -> None:
    """Where the operator has given none, the answer is not an empty list."""
    with pytest.raises(InvalidLorasError, match=r"named 'ink'\. This server has no LoRAs\."):
        check_loras("ink", ())
