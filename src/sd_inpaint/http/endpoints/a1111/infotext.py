"""The text in which a picture carries its parameters → the parameters, as the web UI reads them.

Source: the format that AUTOMATIC1111's web UI writes below its pictures: the prompt, the negative prompt behind its
name, and one last line of ``Name: value`` pairs, with values that have a comma in quotes.
"""

import json
import re

_PAIR = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_NEGATIVE = "Negative prompt:"

LEAST_PAIRS = 3
"""A last line with fewer of them is part of the prompt."""


def parse_infotext(text: str) -> dict[str, str]:
    """Returns what a text says: ``Prompt``, ``Negative prompt``, and each pair; sizes as ``Size-1`` and ``Size-2``."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < LEAST_PAIRS:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    in_negative = False
    for line in (line.strip() for line in lines):
        if line.startswith(_NEGATIVE):
            in_negative, line = True, line.removeprefix(_NEGATIVE).strip()  # the rest of the line
        (negative if in_negative else prompt).append(line)
    found = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in pairs:
        plain = _unquoted(value)
        if size := _SIZE.fullmatch(plain):
            found |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            found[name] = plain
    return found


def _unquoted(value: str) -> str:
    if not (len(value) > 1 and value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
