"""The parts of the demo model before training, and how they are read and written.

They are the classes of Stable Diffusion 1.5's inpainting model at a size that two CPU cores can train.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pathlib

import torch
from diffusers import AsymmetricAutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_inpaint.diffusion import sources
from tools import ROOT
from tools.demo_model.captions import all_captions
from tools.demo_model.objects import OBJECTS

MODEL_DIR = ROOT / "src" / "sd_inpaint" / "demo_model"
BUILD_DIR = ROOT / "build" / "demo_model"

LATENT_STRIDE = 4  # pixels per latent cell and axis: what two halvings in the autoencoder make
TEXT_WIDTH = 128
NATIVE_SIZE = 128  # pixels; the service makes canvases of up to 1.5 times its area
MAX_TOKENS = 77  # as CLIP
MERGES = 2000  # enough for every word of the captions to be one token


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with merges learnt from the captions; every text has tokens, emoji and Chinese too."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(",", "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    trainer = trainers.BpeTrainer(vocab_size=MERGES + 256, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(all_captions(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The order of OpenAI's own vocabulary: bytes, bytes at the end of a word, merges, the two marks.
    words = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_unet(sample_size: int) -> UNet2DConditionModel:
    """The UNet, randomly initialised; ``sample_size`` in latent cells."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 112, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # which diffusers reads as the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder for a tokenizer's vocabulary, randomly initialised."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=32 * TEXT_WIDTH,  # it remembers what every object looks like, see sprite_words
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5, for a UNet that predicts v. Source: its scheduler_config.json.

    Predicting the noise, as SD 1.5 does, a small error in the first steps is a fifteen times larger one in the colours
    they settle on; v (Salimans and Ho, 2022) is as good as the picture itself there.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,  # unlike SD 1.5's: a last step that leaves no noise is 0.3 dB better here
        steps_offset=1,
        prediction_type="v_prediction",
    )


@dataclasses.dataclass
class Parts:
    """The trained parts of the model and the tokenizer that belongs to them."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AsymmetricAutoencoderKL

    def export(self, folder: pathlib.Path = MODEL_DIR) -> None:
        """Writes the model in half precision, in the layout of a diffusers repository."""
        StableDiffusionInpaintPipeline(
            vae=copy.deepcopy(self.vae).cpu().half(),
            text_encoder=copy.deepcopy(self.text_encoder).cpu().half(),
            tokenizer=self.tokenizer,
            unet=copy.deepcopy(self.unet).cpu().half(),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)
        for weights in folder.rglob("*.safetensors"):
            weights.chmod(0o644)  # written readable by their owner only, while the service may run as another user
        for path in folder.glob("*/config.json"):
            config = json.loads(path.read_text("utf-8"))
            if config.pop("_name_or_path", None) is not None:  # the folder it was once loaded from
                path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        subjects = json.dumps([item.label for item in OBJECTS], indent=0)
        (folder / sources.SUBJECTS).write_text(subjects + "\n", "utf-8")
        loaded = sorted(path for path in folder.glob("*/*") if path.is_file())
        lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in loaded]
        (folder / sources.CHECKSUMS).write_text("".join(lines), "utf-8")

    @classmethod
    def load(cls, folder: pathlib.Path = MODEL_DIR) -> Parts:
        """Reads an exported model, in single precision."""
        return cls(
            CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
            CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", torch_dtype=torch.float32),
            UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32),
            AsymmetricAutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32),
        )
