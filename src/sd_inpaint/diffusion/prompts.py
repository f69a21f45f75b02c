"""Prompt → embeddings: of any length, with weights on its parts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.prompt_syntax import Part, parse
from sd_inpaint.schema import PromptSyntax

CACHED_PROMPTS = 64
"""Embeddings kept, 0.2 MB each: the empty negative prompt of almost every call, one prompt over many seeds."""

MAX_CHUNKS = 20
"""Longest prompt, in stretches of the text encoder's length: some 1,500 tokens. Each costs a pass of the encoder, and
attention in every step."""


class PromptEncoder:
    """Turns prompts into what the UNet attends to. Lives as long as the model; only the device thread may call it.

    Tokenizer and text encoder both keep state across calls ("Already borrowed" in threads, diffusers#9362).

    Attributes:
        length: Of one chunk, in tokens.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self.length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.encode = lru_cache(maxsize=CACHED_PROMPTS)(self._encode)

    def _encode(self, prompt: str, syntax: PromptSyntax | None = None, loras: str = "") -> torch.Tensor:
        """Embeds one prompt.

        Args:
            prompt: Any text.
            syntax: How its brackets are read, and that it goes on in further chunks where it is longer than the
                encoder's length; None takes the text as it is and cuts it there, as diffusers does.
            loras: What is in the text encoder's weights now: part of the cache's key.

        Returns:
            (1, L × chunks, D) in the text encoder's dtype, on its device; L is 77 for CLIP.

        Raises:
            InvalidParameterError: If the text has more than ``MAX_CHUNKS`` chunks, or is wrong in its language.
        """
        del loras
        room = self.length - 2  # each chunk has a start and an end token
        if syntax is None:
            tokens, weights = self._tokenize([Part(prompt, 1.0)])
            return self._encode_chunk(tokens[:room], weights[:room])
        chunks: list[tuple[list[int], list[float]]] = []
        for segment in parse(prompt, syntax):
            tokens, weights = self._tokenize(segment)
            starts = range(0, max(len(tokens), 1), room)
            chunks += [(tokens[start : start + room], weights[start : start + room]) for start in starts]
        if len(chunks) > MAX_CHUNKS:
            raise InvalidParameterError(
                f"The prompt takes {len(chunks)} chunks of {room} tokens; the limit is {MAX_CHUNKS}.", field="prompt"
            )
        return torch.cat([self._encode_chunk(*chunk) for chunk in chunks], dim=1)

    def _tokenize(self, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
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
        padding = self.length - 2 - len(tokens)
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
