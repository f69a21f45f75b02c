"""The languages of prompts: text with brackets → its parts, and the weight of each.

There are two languages. ``weights`` is this service's own: only the explicit ``(word:1.3)`` is a weight, since prompts
are plain text otherwise. ``a1111`` is that of AUTOMATIC1111's web UI, for prompts that were written for it.

Source of the second: the documentation of the web UI's prompt syntax, and how its version 1.10 reads prompts.
"""

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.lora_set import parse_loras
from sd_inpaint.schema import PromptSyntax

WEIGHT_MAX: Final = 2.0
"""Largest weight of the ``weights`` language, brackets in brackets multiplied: more gives noise, not emphasis."""

WEB_UI_WEIGHT_MAX: Final = 10.0
"""Largest weight of the ``a1111`` language. The web UI has no bound, and paints noise long before this one."""

WEB_UI_STEP: Final = 1.1
"""What one pair of round brackets multiplies by, and one pair of square brackets divides by."""

MAX_DEPTH: Final = 32
"""Open brackets of one kind: 25 of them are past the largest weight."""


class Part(NamedTuple):
    """A stretch of a prompt.

    Attributes:
        text: As it is to be tokenised, without brackets and escapes.
        weight: Factor for its tokens' embeddings.
    """

    text: str
    weight: float


Segments: TypeAlias = list[list[Part]]
"""A prompt's parts; each inner list begins a chunk of its own in the text encoder. At least one, maybe empty."""


def parse(prompt: str, syntax: PromptSyntax, *, name: str = "prompt") -> Segments:
    """Reads a prompt.

    Args:
        prompt: The text.
        syntax: Its language.
        name: The field it came in, for messages; in the web UI's language, ``AND`` has no meaning in a negative prompt.

    Raises:
        InvalidParameterError: If it asks for what its language knows and this service does not do.
    """
    if syntax is PromptSyntax.A1111:
        return parse_web_ui(prompt, name=name)
    return [parse_weights(prompt, name=name)]


def write_web_ui(prompt: str, syntax: PromptSyntax | None) -> str:
    """Writes a prompt so that the web UI reads the same parts and weights out of it; None stands for plain text."""
    if syntax is PromptSyntax.A1111:
        return prompt
    parts = [Part(prompt, 1.0)] if syntax is None else parse_weights(prompt)
    return "".join(
        _escaped(text) if weight == 1.0 else f"({_escaped(text)}:{weight:.4f}".rstrip("0").rstrip(".") + ")"
        for text, weight in parts
    )


# --- weights ---

_NUMBER = re.compile(r"\s*([+-]?)(\d{0,2}\.\d+|\d{1,2}\.?)\s*")
"""A weight as it may be written. Three digits before the point are none."""

_NUMBER_CHARACTERS: Final = 60

_AFTER_DIGIT = re.compile(r"\s*[+-]?\d?\.\d+\s*")
"""Numbers that are weights behind a digit too, as in ``(2024:1.4)``. ``16:9``, ``12:30``, ``1:23.45`` are text."""


def parse_weights(prompt: str, *, name: str = "prompt") -> list[Part]:
    r"""Splits a prompt into parts and their weights; ``\(`` and ``\)`` are plain parentheses inside a weighted part.

    A weight is a number behind a colon before a closing parenthesis. Whole numbers behind a digit are ratios and times,
    and stay text; so do parentheses without a number, and any that have no partner.

    >>> parse_weights("a (red:1.3) rose")
    [Part(text='a ', weight=1.0), Part(text='red', weight=1.3), Part(text=' rose', weight=1.0)]

    Raises:
        InvalidParameterError: If a weight is less than 0 or more than ``WEIGHT_MAX``.
    """
    groups = _find_groups(prompt, name)
    ends = {colon: (close, opened) for opened, (colon, close, _) in groups.items()}
    parts: list[Part] = []
    weights = [1.0]
    last = 0
    for position in sorted([*groups, *ends]):
        parts.append(_weights_part(prompt[last:position], weights))
        if position in groups:
            weights.append(weights[-1] * groups[position][2])
            if weights[-1] > WEIGHT_MAX + 1e-6:
                raise _refused_weight(name, f"{weights[-1]:.3g}")
            last = position + 1
        else:
            weights.pop()
            last = ends[position][0] + 1
    parts.append(_weights_part(prompt[last:], weights))
    return [part for part in parts if part.text] or [Part("", 1.0)]


def _weights_part(text: str, weights: list[float]) -> Part:
    return Part(re.sub(r"\\(.)", r"\1", text) if len(weights) > 1 else text, weights[-1])


def _find_groups(prompt: str, name: str) -> dict[int, tuple[int, int, float]]:
    """Weighted groups: where each opens → its colon, where it closes, and its number."""
    groups = {}
    opened: list[int] = []
    position = 0
    while position < len(prompt):
        character = prompt[position]
        if character == "\\":
            position += 1
        elif character == "(":
            opened.append(position)
        elif character == ")" and opened:
            start = opened.pop()
            colon = prompt.rfind(":", max(start + 1, position - _NUMBER_CHARACTERS), position)
            weight = None if colon < 0 else _read_weight(prompt[start + 1 : colon], prompt[colon + 1 : position], name)
            if weight is not None:
                groups[start] = (colon, position, weight)
        position += 1
    return groups


def _read_weight(text: str, number: str, name: str) -> float | None:
    """The number of ``(text:number)``; None where all of it is text."""
    found, word = _NUMBER.fullmatch(number), text.strip()
    if found is None or not word or (word[-1].isdigit() and not _AFTER_DIGIT.fullmatch(number)):
        return None
    weight = float(found[1] + found[2])
    if not 0 <= weight <= WEIGHT_MAX or found[1] == "-":
        raise _refused_weight(name, number.strip())
    return weight


def _refused_weight(name: str, shown: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{name} has a weight of {shown[:20]}; weights go from 0 to {WEIGHT_MAX:g}. If it is text and no weight, "
        "send prompt_weights=false.",
        field=name,
    )


# --- a1111 ---

_COMMENT = re.compile(r"#[^\n]*")
_LORA = re.compile(r"<lora:([^>]+)>")
_EXTRA_NETWORK = re.compile(r"<(\w+):[^>]+>")
_AND = re.compile(r"\bAND\b")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_WEB_UI_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
_WHEN = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_TEXT = re.compile(r"[^\\()\[\]:|]+")
_SPECIAL = re.compile(r"[()\[\]\\]")


def parse_web_ui(prompt: str, *, name: str = "prompt") -> Segments:
    r"""Reads a prompt as AUTOMATIC1111's web UI does.

    ``(x)`` multiplies by 1.1 and ``[x]`` divides by it, ``(x:1.2)`` multiplies by its number, all of them nested;
    ``\(``, ``\)``, ``\[``, ``\]`` and ``\\`` are the characters themselves. A bracket that is never closed reaches to
    the prompt's end, one that closes nothing is text. ``BREAK`` begins a chunk, ``#`` a comment up to the line's end.

    >>> parse_web_ui("a ((red)) rose")
    [[Part(text='a ', weight=1.0), Part(text='red', weight=1.2100000000000002), Part(text=' rose', weight=1.0)]]

    Raises:
        InvalidParameterError: If it has ``AND``, ``<hypernet:…>`` and its like, prompt editing (``[a:b:0.5]``) or
            alternating words (``[a|b]``), or a weight below 0 or beyond ``WEB_UI_WEIGHT_MAX``.
    """
    prompt = _COMMENT.sub("", prompt)
    if found := _EXTRA_NETWORK.search(prompt):
        reason = "of extra networks, only LoRAs are served" if found[1] != "lora" else "LoRAs belong in the prompt"
        raise _unsupported(name, f"<{found[1][:30]}:…>", reason)
    if name != "negative_prompt" and _AND.search(prompt):
        raise _unsupported(name, "AND", "combining several prompts is not done here; write 'and' for the word")
    reader = _WebUiReader(name)
    position = 0
    while position < len(prompt):
        position = reader.take(prompt, position)
    return reader.end()


def take_loras(prompt: str) -> tuple[str, str]:
    """Separates a prompt of the web UI's from its ``<lora:name:0.8>``.

    Returns:
        The prompt without them, and the LoRAs as :mod:`sd_inpaint.lora_set` writes them, in their order.

    Raises:
        InvalidParameterError: If one says more than a name and a weight.
    """
    found = [_read_lora(match) for match in _LORA.finditer(_COMMENT.sub("", prompt))]
    return (_LORA.sub("", prompt).strip() if found else prompt), ",".join(found)


def _read_lora(match: re.Match[str]) -> str:
    name, *weights = match[1].split(":")
    if len(weights) == 2 and weights[0] == weights[1]:
        weights.pop()
    if len(weights) > 1 or any("=" in weight for weight in weights):
        raise _unsupported("prompt", match[0][:60], "a LoRA has one weight here, as in <lora:name:0.8>")
    return ":".join([name, *weights])


def write_lora_tags(loras: str) -> str:
    """Returns a set of LoRAs as the web UI has it in a prompt, each behind a blank."""
    return "".join(f" <lora:{name}:{weight:g}>" for name, weight in parse_loras(loras))


def remove_extra_networks(prompt: str) -> str:
    """Returns a prompt without its ``<lora:…>`` and the like."""
    return _EXTRA_NETWORK.sub("", prompt)


@dataclass(slots=True)
class _Piece:
    text: str
    segment: int
    weight: float = 1.0


@dataclass(slots=True)
class _Bracket:
    """An open bracket: of which kind, what stands in it directly."""

    kind: str
    has_bar: bool = False
    colon: int | None = None


@dataclass(slots=True)
class _WebUiReader:
    """The state of reading one prompt.

    Round and square brackets close their own kind, whatever lies between. Prompt editing needs proper nesting.
    """

    name: str
    pieces: list[_Piece] = field(default_factory=list)
    segment: int = 0
    open: dict[str, list[int]] = field(default_factory=lambda: {"(": [], "[": []})
    nesting: list[_Bracket] = field(default_factory=list)

    def take(self, prompt: str, position: int) -> int:
        """Reads what stands at a position; returns where to go on."""
        character = prompt[position]
        if character == "\\":
            return self._take_escape(prompt, position)
        if character in self.open:
            if len(self.open[character]) >= MAX_DEPTH:
                raise _unsupported(self.name, character * 3 + "…", f"brackets are nested more than {MAX_DEPTH} deep")
            self.open[character].append(len(self.pieces))
            self.nesting.append(_Bracket(character))
        elif character == ":":
            return self._take_colon(prompt, position)
        elif character == ")":
            self._close("(", ")", WEB_UI_STEP)
        elif character == "]":
            self._check_editing(prompt, position)
            self._close("[", "]", 1 / WEB_UI_STEP)
        elif character == "|":
            if self.nesting:
                self.nesting[-1].has_bar = True
            self._add("|")
        else:
            found = _TEXT.match(prompt, position)
            end = position + 1 if found is None else found.end()
            first, *others = _BREAK.split(prompt[position:end])
            self._add(first)
            for text in others:
                self.segment += 1
                self._add(text)
            return end
        return position + 1

    def end(self) -> Segments:
        """Closes the open brackets and returns all parts; neighbours of one weight become one part."""
        for kind, step in (("(", WEB_UI_STEP), ("[", 1 / WEB_UI_STEP)):
            for start in self.open[kind]:
                self._multiply(start, step)
        segments: Segments = [[] for _ in range(self.segment + 1)]
        for piece in self.pieces:
            if piece.weight > WEB_UI_WEIGHT_MAX + 1e-6:
                raise self._refused_weight(f"{piece.weight:.3g}")
            parts = segments[piece.segment]
            if parts and parts[-1].weight == piece.weight:
                parts[-1] = Part(parts[-1].text + piece.text, piece.weight)
            else:
                parts.append(Part(piece.text, piece.weight))
        if len(segments) > 1 and not "".join(text for text, _ in segments[-1]).strip():
            segments.pop()
        return segments

    def _take_escape(self, prompt: str, position: int) -> int:
        following = prompt[position + 1 : position + 2]
        # A backslash before anything else is dropped there; before these two it hides them from prompt editing.
        if following and following in "()[]\\:|":
            self._add(following)
            return position + 2
        return position + 1

    def _take_colon(self, prompt: str, position: int) -> int:
        found = _WEB_UI_WEIGHT.match(prompt, position)
        if found is None:
            if self.nesting:
                self.nesting[-1].colon = position
            self._add(":")
            return position + 1
        if not self.open["("]:
            self._add(found[0])
            return found.end()
        weight = float(found[1])
        if not 0 <= weight <= WEB_UI_WEIGHT_MAX:
            raise self._refused_weight(found[1])
        self._close("(", ")", weight)
        return found.end()

    def _close(self, kind: str, character: str, factor: float) -> None:
        if self.nesting and self.nesting[-1].kind == kind:
            self.nesting.pop()
        if self.open[kind]:
            self._multiply(self.open[kind].pop(), factor)
        else:
            self._add(character)

    def _check_editing(self, prompt: str, position: int) -> None:
        if not self.nesting or self.nesting[-1].kind != "[":
            return
        bracket = self.nesting[-1]
        if bracket.has_bar:
            raise _unsupported(self.name, "[a|b]", "alternating words are not done here")
        if bracket.colon is not None and _WHEN.fullmatch(prompt, bracket.colon + 1, position):
            raise _unsupported(self.name, "[a:b:0.5]", "prompt editing is not done here")

    def _add(self, text: str) -> None:
        if text:
            self.pieces.append(_Piece(text, self.segment))

    def _multiply(self, start: int, factor: float) -> None:
        for piece in self.pieces[start:]:
            piece.weight *= factor

    def _refused_weight(self, shown: str) -> InvalidParameterError:
        return InvalidParameterError(
            f"{self.name} has a weight of {shown[:20]}; weights go from 0 to {WEB_UI_WEIGHT_MAX:g}.", field=self.name
        )


def _unsupported(name: str, found: str, reason: str) -> InvalidParameterError:
    return InvalidParameterError(f"{name} has {found}: {reason}.", field=name)


def _escaped(text: str) -> str:
    """Plain text in the web UI's language. CLIP's tokens know no capitals, so its keywords go as small letters."""
    text = _AND.sub("and", re.sub(r"\bBREAK\b", "break", text))
    return _EXTRA_NETWORK.sub(lambda found: f"< {found[0][1:]}", _SPECIAL.sub(r"\\\g<0>", text))
