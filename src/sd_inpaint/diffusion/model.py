"""The four calls by which diffusion reaches a model; nothing above them knows which backend runs."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers import AsymmetricAutoencoderKL

from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.lora_switch import NO_LORAS, LoraSwitch
from sd_inpaint.diffusion.prompts import PromptEncoder, equalise
from sd_inpaint.diffusion.runner import EagerRunner, Runner, Shape
from sd_inpaint.schema import PromptSyntax

logger = logging.getLogger("bentoml.sd_inpaint.model")

SMALLEST_SHOWN = 8
"""Side in pixels of the smallest picture that a decoder can be shown: diffusers halves it thrice, at any stride."""


class InpaintModel(Protocol):
    """What :class:`~sd_inpaint.diffusion.denoiser.Denoiser` asks of a backend.

    All tensors at this border are float32 on ``device``; each backend casts inside.

    Attributes:
        device: Where the tensors of a job live between calls.
        stride: Picture pixels a latent cell, along one side.
        sample_size: Side of the latents the model was trained on, in cells.
        latent_channels: Channels of the latents.
        scheduler: The scheduler that the model ships with; to be copied, not used.
    """

    device: torch.device
    stride: int
    sample_size: int
    latent_channels: int
    scheduler: Any

    @property
    def runner(self) -> Runner:
        """The fastest that is ready. Another may take its place at any moment; a canvas keeps its own."""

    def release_memory(self) -> None:
        """Has every runner give back what it can make again."""

    def use(self, runner: Runner) -> None:
        """Has canvases that begin from now on run by this one, where it takes their shape. Any thread may call it."""

    def runner_for(self, shape: Shape, loras: str = "") -> Runner:
        """Returns the runner for a canvas that begins now: the fastest that takes its shape and LoRAs."""

    def put_loras(self, loras: str) -> None:
        """Makes the weights those of a set of LoRAs, from now on; ``""`` is the model as it came.

        Raises:
            InvalidLorasError: If one is not there.
        """

    def embed(self, prompts: Sequence[str], syntax: PromptSyntax | None = None) -> torch.Tensor:
        """Returns (B, L, D) text embeddings; with a syntax, brackets are read and text of any length is taken."""

    def encode(self, pictures: torch.Tensor, *, low_memory: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes (B, 3, H, W) in [-1, 1]; returns mean and standard deviation, each (B, 4, H/s, W/s), scaled."""

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        hole: torch.Tensor,
        masked_latents: torch.Tensor,
        *,
        runner: Runner,
        low_memory: bool = False,
    ) -> torch.Tensor:
        """Predicts the noise (or v) of (B, 4, h, w) latents at (B,) timesteps; hole (B, 1, h, w) is 0 or 1.

        Raises:
            RunnerFailedError: If the runner cannot; see :meth:`fall_back`.
        """

    def fall_back(self, runner: Runner, error: Exception) -> Runner:
        """Gives up a runner that failed; returns the one that canvases go on with."""

    def decode(
        self,
        latents: torch.Tensor,
        pictures: torch.Tensor | None,
        hole: torch.Tensor,
        *,
        runner: Runner,
        precise: bool = False,
        low_memory: bool = False,
    ) -> torch.Tensor:
        """Takes scaled (B, 4, h, w) latents; returns (B, 3, H, W), about [-1, 1]. ``precise`` computes in float32.

        Some decoders fit what they decode to what is kept of ``pictures`` (B, 3, H, W) in [-1, 1], where ``hole``
        (B, 1, H, W) is 0 and not 1; others do without, and so do these where it is None. Only a plain decode is the
        runner's: what is precise, in tiles or fitted is the reference's.
        """


class TorchModel:
    """The reference backend: diffusers' own classes. Lives as long as the process; only the device thread may call it.

    ``low_memory`` trades time for memory: the VAE works in tiles where it can, and guidance takes its passes in turn.
    ``load_unet`` loads the UNet again, where another runner has taken over and then failed.

    Attributes:
        fits_to_kept: Whether the decoder is shown the picture, and fits the hole to it.
        unet: The UNet; its weights may change, their addresses don't.
        vae: The autoencoder, likewise.
        tokens: Length of a short prompt's embeddings.
        loras: What :meth:`put_loras` puts.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        device: Device,
        loras: LoraSwitch | None = None,
        load_unet: Callable[[], Any] | None = None,
    ) -> None:
        self.device = device.torch_device
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.sample_size = int(unet.config.sample_size)
        self.latent_channels = int(vae.config.latent_channels)
        self.scheduler = scheduler
        self._prompts = PromptEncoder(tokenizer, text_encoder)
        self.loras = loras or LoraSwitch({}, [])
        self._text_set = NO_LORAS
        self.tokens = self._prompts.length
        self._scaling_factor = float(vae.config.scaling_factor)
        self.fits_to_kept = isinstance(vae, AsymmetricAutoencoderKL)
        self.unet = unet
        self.vae = vae
        self._load_unet = load_unet
        self._runners: tuple[Runner, ...] = (EagerRunner(unet, vae),)

    @property
    def runner(self) -> Runner:
        """The fastest that is ready."""
        return self._runners[0]

    def use(self, runner: Runner) -> None:
        """See :meth:`InpaintModel.use`."""
        self._runners = (runner, *self._runners)

    def use_alone(self, runner: Runner) -> None:
        """Has a runner with weights of its own run every canvas that begins from now on. Any thread may call it.

        The UNet's weights are gone with the last canvas of another runner, and are loaded again where this one fails.
        They stay where there are LoRAs, whose canvases this runner does not run.
        """
        if self.loras.adapters:
            self.use(runner)
            return
        self._runners = (runner,)
        self.unet = without_weights(type(self.unet), self.unet.config)

    def use_reference(self) -> None:
        """Has torch run the UNet again, and loads its weights for that."""
        if self._load_unet is not None:
            if not self.loras.adapters:
                self.unet = self._load_unet()
            self._runners = (EagerRunner(self.unet, self.vae),)

    def make_reference(self) -> Runner:
        """Returns torch's runner over the weights as they came: over a copy where LoRAs may be in the model's own."""
        if not self.loras.adapters or self._load_unet is None:
            return self.runner
        return EagerRunner(self._load_unet(), self.vae)

    @torch.inference_mode()
    def rehearse(self, shape: Shape) -> None:
        """Runs the networks once as a guided canvas does, so that whatever their first calls prepare is ready."""
        channels = int(self.unet.config.in_channels)
        sample = torch.zeros(2, channels, shape.height, shape.width, device=self.device)
        embeddings = torch.cat([self._prompts.encode("")] * 2)
        self.runner.predict_noise(sample, torch.zeros(2, dtype=torch.int64, device=self.device), embeddings)
        self.runner.decode(sample[:1, : self.latent_channels])

    def release_memory(self) -> None:
        """See :meth:`InpaintModel.release_memory`."""
        for runner in self._runners:
            runner.release_memory()

    def runner_for(self, shape: Shape, loras: str = NO_LORAS) -> Runner:
        """See :meth:`InpaintModel.runner_for`."""
        fit = (runner for runner in self._runners if loras == NO_LORAS or runner.follows_weights)
        return next(runner for runner in fit if runner.takes(shape))

    def put_loras(self, loras: str) -> None:
        """See :meth:`InpaintModel.put_loras`."""
        self.loras.put(loras)
        self._text_set = self.loras.text_set(loras)

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str], syntax: PromptSyntax | None = None) -> torch.Tensor:
        """See :meth:`InpaintModel.embed`."""
        embeddings = [self._prompts.encode(prompt, syntax, self._text_set) for prompt in prompts]
        return equalise(embeddings, self._prompts.encode("", None, self._text_set))

    @torch.inference_mode()
    def encode(self, pictures: torch.Tensor, *, low_memory: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`InpaintModel.encode`."""
        self._tile(self.vae, low_memory)
        posterior = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mean.float() * self._scaling_factor, posterior.std.float() * self._scaling_factor

    @torch.inference_mode()
    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        hole: torch.Tensor,
        masked_latents: torch.Tensor,
        *,
        runner: Runner,
        low_memory: bool = False,
    ) -> torch.Tensor:
        """See :meth:`InpaintModel.denoise`."""
        sample = torch.cat([latents, hole, masked_latents], dim=1)
        # With little memory one row at a time: halves the peak where guidance would run two.
        rows = [slice(i, i + 1) for i in range(len(sample))] if low_memory else [slice(None)]
        return torch.cat([runner.predict_noise(sample[row], timesteps[row], embeddings[row]) for row in rows])

    def fall_back(self, runner: Runner, error: Exception) -> Runner:
        """See :meth:`InpaintModel.fall_back`."""
        if runner is self.runner:
            self.use_reference()
            logger.warning("%s failed; %s computes from now on. %s", runner.plan, self.runner.plan, error)
        return self.runner

    @torch.inference_mode()
    def decode(
        self,
        latents: torch.Tensor,
        pictures: torch.Tensor | None,
        hole: torch.Tensor,
        *,
        runner: Runner,
        precise: bool = False,
        low_memory: bool = False,
    ) -> torch.Tensor:
        """See :meth:`InpaintModel.decode`."""
        self._tile(self.vae, low_memory)
        scaled = latents / self._scaling_factor
        shows = self.fits_to_kept and pictures is not None and min(pictures.shape[-2:]) >= SMALLEST_SHOWN
        if not (precise or low_memory or shows):
            return runner.decode(scaled)
        # A copy: what a runner has prepared would not survive that the weights are converted and back.
        vae = copy.deepcopy(self.vae).float() if precise and self.vae.dtype is not torch.float32 else self.vae
        place = (self.device, vae.dtype)
        shown = {"image": pictures.to(*place), "mask": hole.to(*place)} if shows and pictures is not None else {}
        decoded: torch.Tensor = vae.decode(scaled.to(*place), return_dict=False, **shown)[0]
        return decoded.float()

    def _tile(self, vae: Any, low_memory: bool) -> None:
        if self.fits_to_kept:
            return  # diffusers has no tiles for this class
        if low_memory:
            vae.enable_tiling()
        else:
            vae.disable_tiling()


def without_weights(unet_class: Any, config: Any) -> Any:
    """A UNet that cannot compute, of which only the config is wanted."""
    with torch.device("meta"):
        return unet_class.from_config(config)
