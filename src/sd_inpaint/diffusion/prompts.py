"""Prompt → embeddings: of any length, with weights on its parts."""

import re
from functools import lru_cache
from typing import Any

import torch

from sd_inpaint.errors import InvalidParameterError

CACHED_PROMPTS = 64
"""Embeddings kept, 0.2 MB each: the empty negative prompt of almost every call, one prompt over many seeds."""

WEIGHT_MAX = 2.0
"""A larger number behind a colon is text, as in ``(at 12:30)``: such weights give noise, not emphasis."""

MAX_CHUNKS = 20
"""Longest prompt, in stretches of the text encoder's length: some 1,500 tokens. Each costs a pass of the encoder, and
attention in every step."""

_WEIGHT = re.compile(r"\d{1,3}(\.\d{1,6})?|\.\d{1,6}")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Splits a prompt into parts and their weights; ``\(`` and ``\)`` are plain parentheses inside a weighted part.

    Only the explicit ``(word:1.3)``, the form that users of A1111 know, is a weight: bare parentheses stay what they
    are, since prompts that the guide's clients send are plain text.

    >>> parse_weights("a (red:1.3) rose")
    [('a ', 1.0), ('red', 1.3), (' rose', 1.0)]
    """
    parts: list[tuple[str, float]] = []
    end = position = 0
    opened: int | None = None
    while position < len(prompt):
        character = prompt[position]
        if character == "\\":
            position += 1
        elif character == "(":
            opened = position
        elif character == ")" and opened is not None:
            weighted = _read_weight(prompt[opened + 1 : position])
            if weighted is not None:
                parts += [(prompt[end:opened], 1.0), weighted]
                end = position + 1
            opened = None
        position += 1
    parts.append((prompt[end:], 1.0))
    return [part for part in parts if part[0]] or [("", 1.0)]


def _read_weight(inside: str) -> tuple[str, float] | None:
    """Reads ``word:1.3``; None where it is text, such as ``16:9`` (no letter) and ``at 12:30`` (no such weight)."""
    text, colon, number = inside.rpartition(":")
    if not colon or not _WEIGHT.fullmatch(number) or float(number) > WEIGHT_MAX:
        return None
    if not any(character.isalpha() for character in text):
        return None
    return re.sub(r"\\(.)", r"\1", text), float(number)


class PromptEncoder:
    """Turns prompts into what the UNet attends to. Lives as long as the model; only the device thread may call it.

    Tokenizer and text encoder both keep state across calls ("Already borrowed" in threads, diffusers#9362).
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.encode = lru_cache(maxsize=CACHED_PROMPTS)(self._encode)

    def _encode(self, prompt: str, *, weighted: bool = False) -> torch.Tensor:
        """Embeds one prompt.

        Args:
            prompt: Any text.
            weighted: True takes ``(word:1.3)`` as a weight, and goes on in further chunks where the text is longer than
                the encoder's length; False takes the text as it is and cuts it there, as diffusers does.

        Returns:
            (1, L × chunks, D) in the text encoder's dtype, on its device; L is 77 for CLIP.

        Raises:
            InvalidParameterError: If the text has more than ``MAX_CHUNKS`` chunks.
        """
        parts = parse_weights(prompt) if weighted else [(prompt, 1.0)]
        tokens, weights = self._tokenize(parts)
        room = self._length - 2  # each chunk has a start and an end token
        if not weighted:
            tokens, weights = tokens[:room], weights[:room]
        if len(tokens) > MAX_CHUNKS * room:
            raise InvalidParameterError(
                f"The prompt has {len(tokens)} tokens; the limit is {MAX_CHUNKS * room}.", field="prompt"
            )
        chunks = [
            self._encode_chunk(tokens[start : start + room], weights[start : start + room])
            for start in range(0, max(len(tokens), 1), room)
        ]
        return torch.cat(chunks, dim=1)

    def _tokenize(self, parts: list[tuple[str, float]]) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        for text, weight in parts:
            part = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            tokens += part
            weights += [weight] * len(part)
        return tokens, weights

    def _encode_chunk(self, tokens: list[int], weights: list[float]) -> torch.Tensor:
        """Embeds at most L - 2 tokens, and multiplies each one's embedding by its weight.

        The mean is kept, so that emphasis moves the prompt and does not only make it louder.
        Source: the emphasis of AUTOMATIC1111's web UI, "original" mode, so that prompts written for it mean the same.
        """
        tokenizer, device = self._tokenizer, self._text_encoder.device
        padding = self._length - 2 - len(tokens)
        ids = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
        # SD 2.x asks for the attention mask in its config, SD 1.x was trained without one.
        wants_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        attends = torch.tensor([[1] * (len(tokens) + 2) + [0] * padding], device=device) if wants_mask else None
        embedding: torch.Tensor = self._text_encoder(torch.tensor([ids], device=device), attention_mask=attends)[0]
        if all(weight == 1.0 for weight in weights):
            return embedding
        factors = torch.tensor([1.0, *weights, *[1.0] * (padding + 1)], device=device, dtype=embedding.dtype)
        weighted = embedding * factors[None, :, None]
        return weighted * (embedding.float().mean() / weighted.float().mean()).to(embedding.dtype)


def equalise(embeddings: list[torch.Tensor], filler: torch.Tensor) -> torch.Tensor:
    """Concatenates (1, L × chunks, D) embeddings, the shorter ones filled up with the empty prompt's chunk."""
    chunks = max(embedding.shape[1] for embedding in embeddings) // filler.shape[1]
    return torch.cat(
        [
            torch.cat([embedding, *[filler] * (chunks - embedding.shape[1] // filler.shape[1])], dim=1)
            for embedding in embeddings
        ]
    )
