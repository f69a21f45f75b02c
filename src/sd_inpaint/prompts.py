"""Prompt → embeddings."""

from functools import lru_cache

import torch
from transformers import CLIPTextModel, CLIPTokenizer

CACHED_PROMPTS = 64
"""Embeddings kept, 0.2 MB each: the empty negative prompt of almost every call, one prompt over many seeds."""


class PromptEncoder:
    """Turns prompts into what the UNet attends to. Lives as long as the model; only the device thread may call it.

    Tokenizer and text encoder both keep state across calls ("Already borrowed" in threads, diffusers#9362).
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.encode = lru_cache(maxsize=CACHED_PROMPTS)(self._encode)

    def _encode(self, prompt: str) -> torch.Tensor:
        """Embeds one prompt; what goes beyond the text encoder's length is cut, as diffusers does.

        Returns:
            (1, L, D) in the text encoder's dtype, on its device; L is 77 for CLIP.
        """
        tokens = self._tokenizer(
            prompt, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        )
        device = self._text_encoder.device
        # SD 2.x asks for the attention mask in its config, SD 1.x was trained without one.
        wants_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        attention_mask = tokens.attention_mask.to(device) if wants_mask else None
        embedding: torch.Tensor = self._text_encoder(tokens.input_ids.to(device), attention_mask=attention_mask)[0]
        return embedding
