"""Diffusion in numbered steps, on tensors: a canvas goes in, noise is taken away step by step, a picture comes out.

The steps and the order of random draws are those of diffusers' ``StableDiffusionInpaintPipeline`` (0.42.1), so that
the same components, scheduler and seed give the same canvas; tests/test_denoiser.py holds the two together.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.encodings import Encodings, to_tensor
from sd_inpaint.diffusion.model import InpaintModel
from sd_inpaint.diffusion.out_of_memory import translated_out_of_memory
from sd_inpaint.diffusion.runner import Runner, RunnerFailedError, Shape
from sd_inpaint.diffusion.safety import SafetyChecker
from sd_inpaint.diffusion.schedulers import create_scheduler
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.errors import ContentFlaggedError, InvalidOutputError
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.imaging.masks import is_hole, latent_hole
from sd_inpaint.schema import SoftMask

BLACK_LEVEL = 8
"""A canvas whose brightest value stays under this counts as all black, on a scale to 255."""

SECONDS_PER_MEGAPIXEL_PASS_GUESS = {"cuda": 0.25, "mps": 3.0, "cpu": 25.0}
"""Seconds per megapixel-pass, before anything has been measured.

Source: design figures for full-size SD 1.5 (a CFG step at 512×512 takes 11–15 s on two CPU cores, 0.1 s on a GPU).
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """The input's side of a soft mask.

    Attributes:
        latents: (1, 4, h, w) of the picture, without noise.
        noise: (1, 4, h, w), the same that the hole started from.
        strength: (1, 1, h, w) in [0, 1]: the part of the denoising in which a cell is free.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    strength: torch.Tensor


@dataclass(slots=True, eq=False)
class Diffusion:
    """All state of one canvas on the device; nothing of it is shared.

    Attributes:
        task: What to paint.
        scheduler: This canvas's own instance.
        timesteps: Those still to run, from noise to picture.
        latents: (1, 4, h, w) float32, as the scheduler keeps them.
        embeddings: (2, L, D), negative prompt first, or (1, L, D) where guidance is off.
        hidden: (1, 1, H, W) float32, 1 where a decoder may not be shown the picture.
        hole: (1, 1, h, w) float32, 1 repaints.
        masked_latents: (1, 4, h, w) float32: the picture with its hole at mid-grey.
        generator: On the CPU, so that a seed means the same on every device.
        runner: What its networks are run by, from the first step to the last unless it fails.
        failed_plans: The names of runners that failed.
        known: What a soft mask holds on to; None where no grey is to be held.
        step: Steps done.
        colours: (5, 3), from latents to a preview's colours; None before the first preview.
    """

    task: CanvasTask
    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    embeddings: torch.Tensor
    hidden: torch.Tensor
    hole: torch.Tensor
    masked_latents: torch.Tensor
    generator: torch.Generator
    runner: Runner
    known: "_Known | None" = None
    step: int = 0
    failed_plans: tuple[str, ...] = ()
    colours: torch.Tensor | None = None

    @property
    def steps(self) -> int:
        """Steps in all; some schedulers take one more than was asked for."""
        return len(self.timesteps)

    @property
    def plan(self) -> str:
        """The runner's name, after those of runners that failed."""
        return ", ".join((*self.failed_plans, self.runner.plan))

    @property
    def guided(self) -> bool:
        """True where guidance takes a second pass; 1.0 is no guidance."""
        return self.task.parameters.guidance_scale > 1.0


class Denoiser:
    """The device loop's backend, over any :class:`~sd_inpaint.diffusion.model.InpaintModel`.

    Only the loop's thread calls it.

    Attributes:
        limits: Which canvases the model works on.
        max_batch: Canvases that share a UNet call.
        seconds_per_megapixel_pass: First guess of the pace, in seconds per megapixel-pass.
        info: Facts for ``/sd-inpaint/info``.
    """

    def __init__(
        self,
        model: InpaintModel,
        device: Device,
        *,
        max_batch: int,
        max_canvas_pixels: int,
        safety_checker: SafetyChecker | None = None,
        info: dict[str, object] | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._encodings = Encodings(model)
        self._safety_checker = safety_checker
        self.limits = CanvasLimits(model.sample_size * model.stride, model.stride, max_canvas_pixels)
        self.max_batch = max_batch
        self.seconds_per_megapixel_pass = SECONDS_PER_MEGAPIXEL_PASS_GUESS.get(
            device.kind, SECONDS_PER_MEGAPIXEL_PASS_GUESS["cpu"]
        )
        self.info = info or {}

    @property
    def plan(self) -> str:
        """The name of the fastest runner that is ready."""
        return self._model.runner.plan

    def begin(self, task: CanvasTask, *, low_memory: bool = False) -> Diffusion:
        """Prepares a canvas: everything before the first UNet call.

        Raises:
            OutOfMemoryError: If the device has too little memory.
            InvalidLorasError: If it asks for a LoRA that is not there.
        """
        with translated_out_of_memory(), torch.inference_mode():
            parameters = task.parameters
            self._model.put_loras(parameters.loras)
            # 1. Embed the prompts; without guidance the negative one is not used.
            prompts = [parameters.prompt]
            if parameters.guidance_scale > 1.0:
                prompts.insert(0, parameters.negative_prompt)
            embeddings = self._model.embed(prompts, parameters.syntax)

            # 2. Set the timesteps; strength leaves out the first, noisiest ones.
            scheduler = create_scheduler(parameters.scheduler, self._model.scheduler)
            scheduler.set_timesteps(parameters.num_inference_steps, device=self._model.device)
            first = (parameters.num_inference_steps - task.steps) * scheduler.order
            timesteps = scheduler.timesteps[first:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)

            # 3. Prepare the picture and the hole.
            soft = parameters.soft_mask is SoftMask.STRENGTH and bool(((task.mask > 0) & (task.mask < 255)).any())
            pixel_hole = is_hole(task.mask, parameters.soft_mask)
            cell_hole = torch.from_numpy(latent_hole(pixel_hole, self.limits.stride)).to(self._model.device)
            holes = torch.from_numpy(pixel_hole)[None, None].float().to(self._model.device)

            # 4. Draw the noise; below full strength it lies over the picture.
            generator = torch.Generator("cpu").manual_seed(task.seed)
            known = None
            if parameters.strength < 1.0 or soft:
                picture_latents = self._sample_posterior(task.image, None, generator, low_memory=low_memory)
                noise = self._draw(picture_latents.shape, generator)
                known = _Known(picture_latents, noise, _cell_strength(task, self.limits.stride).to(self._model.device))
                latents = scheduler.add_noise(picture_latents, noise, timesteps[:1])
            else:
                cells = (1, self._model.latent_channels, *cell_hole.shape)
                noise = self._draw(cells, generator)
            if parameters.strength == 1.0:
                latents = noise * scheduler.init_noise_sigma

            # 5. Encode the picture without its hole.
            masked_latents = self._sample_posterior(task.image, pixel_hole, generator, low_memory=low_memory)
            return Diffusion(
                task=task,
                scheduler=scheduler,
                timesteps=timesteps,
                latents=latents,
                embeddings=embeddings,
                hidden=holes if task.rim is None else holes * torch.from_numpy(~task.rim).to(self._model.device),
                hole=cell_hole[None, None].float(),
                masked_latents=masked_latents,
                generator=generator,
                runner=self._model.runner_for(
                    Shape(cell_hole.shape[0], cell_hole.shape[1], embeddings.shape[1]), parameters.loras
                ),
                known=known if soft else None,
            )

    def predict(self, batch: Sequence[Diffusion], *, low_memory: bool = False) -> list[torch.Tensor]:
        """One UNet call for canvases of one size, each at its own timestep; changes none of them.

        Returns:
            For each, (1, 4, h, w) float32: the guided prediction.

        Raises:
            OutOfMemoryError: If the device has too little memory.
        """
        groups: dict[tuple[str, str, int], list[Diffusion]] = {}
        for diffusion in batch:
            # A prompt of several chunks cannot share a call with a shorter one without changing what that attends to;
            # and the runner may have changed between two that began in this turn.
            key = (diffusion.plan, diffusion.task.parameters.loras, diffusion.embeddings.shape[1])
            groups.setdefault(key, []).append(diffusion)
        if len(groups) > 1:
            parts = {
                diffusion: part
                for group in groups.values()
                for diffusion, part in zip(group, self.predict(group), strict=True)
            }
            return [parts[diffusion] for diffusion in batch]
        try:
            return self._predict_together(batch, low_memory=low_memory)
        except RunnerFailedError as error:
            failed = batch[0].runner
            runner = self._model.fall_back(failed, error)
            for diffusion in batch:
                diffusion.failed_plans, diffusion.runner = (*diffusion.failed_plans, failed.plan), runner
            return self._predict_together(batch, low_memory=low_memory)

    def _predict_together(self, batch: Sequence[Diffusion], *, low_memory: bool) -> list[torch.Tensor]:
        with translated_out_of_memory(), torch.inference_mode():
            self._model.put_loras(batch[0].task.parameters.loras)
            # 6. Scale the latents as each scheduler wants them; guidance takes two rows, negative prompt first.
            rows = [2 if diffusion.guided else 1 for diffusion in batch]
            timesteps = [diffusion.timesteps[diffusion.step] for diffusion in batch]
            latents = [
                torch.cat([diffusion.scheduler.scale_model_input(diffusion.latents, timestep)] * n)
                for diffusion, timestep, n in zip(batch, timesteps, rows, strict=True)
            ]
            # 7. Predict the noise of all rows at once.
            noise = self._model.denoise(
                torch.cat(latents),
                torch.stack([t for t, n in zip(timesteps, rows, strict=True) for _ in range(n)]),
                torch.cat([diffusion.embeddings for diffusion in batch]),
                torch.cat([diffusion.hole for diffusion, n in zip(batch, rows, strict=True) for _ in range(n)]),
                torch.cat(
                    [diffusion.masked_latents for diffusion, n in zip(batch, rows, strict=True) for _ in range(n)]
                ),
                runner=batch[0].runner,
                low_memory=low_memory,
            )
            # 8. Follow the prompt, away from the negative one.
            predictions = [
                _guide(part, diffusion.task.parameters.guidance_scale)
                for part, diffusion in zip(torch.split(noise, rows), batch, strict=True)
            ]
            # Else the loop would run ahead of the device, take the time of asking for the time of doing, and tell
            # callers of steps that are yet to be done; and a fault of this call would show in another canvas's.
            self._device.wait()
            return predictions

    def advance(self, diffusion: Diffusion, prediction: torch.Tensor) -> None:
        """One scheduler step of one canvas."""
        with translated_out_of_memory(), torch.inference_mode():
            # 9. Step from x_t to x_{t-1}.
            scheduler = diffusion.scheduler
            draws = "generator" in inspect.signature(scheduler.step).parameters
            diffusion.latents = scheduler.step(
                prediction,
                diffusion.timesteps[diffusion.step],
                diffusion.latents,
                return_dict=False,
                **({"generator": diffusion.generator} if draws else {}),
            )[0]
            diffusion.step += 1
            if diffusion.known is not None and diffusion.step < diffusion.steps:
                diffusion.latents = _hold_back(diffusion, diffusion.known)

    def finish(self, diffusion: Diffusion, *, low_memory: bool = False) -> np.ndarray:
        """Decodes the latents and checks that they are a picture.

        Returns:
            (H, W, 3) uint8 of the canvas's size.

        Raises:
            OutOfMemoryError: If the device has too little memory.
            InvalidOutputError: If the picture is not one, also when decoded in float32.
            ContentFlaggedError: If the safety checker flags it.
        """
        with translated_out_of_memory(), torch.inference_mode():
            # Colours are matched by what the decoder gets wrong outside the hole, which it may not be shown then.
            matches_colours = diffusion.task.parameters.color_match
            shown = None if matches_colours else to_tensor(diffusion.task.image)
            for precise in (False, True):
                # 10. Decode; a float16 VAE overflows on some pictures, so a bad one is decoded again in float32.
                picture = self._model.decode(
                    diffusion.latents,
                    shown,
                    diffusion.hidden,
                    runner=diffusion.runner,
                    precise=precise,
                    low_memory=low_memory,
                )
                if bool(torch.isfinite(picture).all()):
                    canvas = _to_pixels(picture)
                    if canvas.max() >= BLACK_LEVEL or diffusion.task.image.max() < BLACK_LEVEL:
                        return self._checked(canvas)
        raise InvalidOutputError(
            "The model's output is not a picture (NaN or all black), even in float32. Try another seed, fewer steps or "
            "a lower guidance_scale. Operators can set SD_INPAINT_DTYPE=float32."
        )

    def preview(self, diffusion: Diffusion, prediction: torch.Tensor) -> np.ndarray:
        """Guesses the finished picture from the step that was just predicted, at one pixel a latent cell.

        Colours come from a linear map, latents → mean colour of a cell, fitted to the very picture being painted: its
        kept part is known on both sides, so no model needs constants of its own.

        Returns:
            (h, w, 3) uint8.
        """
        with torch.inference_mode():
            scheduler, timestep = diffusion.scheduler, diffusion.timesteps[diffusion.step]
            noisy = scheduler.scale_model_input(diffusion.latents, timestep)
            alpha = scheduler.alphas_cumprod[int(timestep)].to(noisy.device)
            if scheduler.config.prediction_type == "v_prediction":
                clean = alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction
            else:
                clean = (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
            if diffusion.colours is None:
                picture = to_tensor(diffusion.task.image)
                diffusion.colours = _fit_colours(diffusion.masked_latents, picture, diffusion.hole)
            ones = torch.ones_like(clean[:, :1])
            rgb = torch.cat([clean, ones], dim=1)[0].permute(1, 2, 0).cpu() @ diffusion.colours
            return _to_pixels(rgb.permute(2, 0, 1)[None])

    def release_memory(self) -> None:
        """Gives cached memory back, after trouble."""
        self._encodings.forget()
        self._model.release_memory()
        self._device.release_memory()

    def memory(self) -> dict[str, int] | None:
        """Returns the device's memory in bytes; None where it is the machine's own. Any thread may call it."""
        return self._device.memory()

    def _checked(self, canvas: np.ndarray) -> np.ndarray:
        # 11. Hand it to the safety checker, where there is one.
        if self._safety_checker is not None and self._safety_checker.flags(canvas):
            raise ContentFlaggedError("The safety checker flagged the result. Try another prompt or seed.")
        return canvas

    def _sample_posterior(
        self, image: np.ndarray, hole: np.ndarray | None, generator: torch.Generator, *, low_memory: bool
    ) -> torch.Tensor:
        """Encodes a picture, without its hole if one is given, and draws from the posterior as in training."""
        mean, std = self._encodings.encode(image, hole, low_memory=low_memory)
        return mean + std * self._draw(mean.shape, generator)

    def _draw(self, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        return torch.randn(tuple(shape), generator=generator).to(self._model.device)


def _cell_strength(task: CanvasTask, stride: int) -> torch.Tensor:
    """(1, 1, h, w) float32 in [0, 1]: the largest grey of each latent cell, times the strength asked for."""
    height, width = task.mask.shape
    cells = task.mask.reshape(height // stride, stride, width // stride, stride).max((1, 3))
    return torch.from_numpy(cells)[None, None].float() / 255 * task.parameters.strength


def _hold_back(diffusion: Diffusion, known: _Known) -> torch.Tensor:
    """Puts the input back into the cells whose turn has not come, at the noise of the next step.

    Source: Levin and Fried 2023, "Differential Diffusion: Giving Each Pixel Its Strength", algorithm 1.
    """
    left = (diffusion.steps - diffusion.step) / diffusion.task.parameters.num_inference_steps
    timestep = diffusion.timesteps[diffusion.step : diffusion.step + 1]
    held = diffusion.scheduler.add_noise(known.latents, known.noise, timestep)
    # The tolerance keeps a strength of exactly one step's fraction from being lost to rounding.
    return torch.where(known.strength >= left - 1e-6, diffusion.latents, held)


def _guide(noise: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance over (2, 4, h, w), negative prompt first; (1, 4, h, w) passes as it is.

    Source: Ho and Salimans 2022, equation 6, in diffusers' parametrisation (1.0 is none).
    """
    if len(noise) == 1:
        return noise
    negative, positive = noise.chunk(2)
    return negative + guidance_scale * (positive - negative)


def _to_pixels(picture: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) about [-1, 1] → (H, W, 3) uint8."""
    unit = (picture[0] * 0.5 + 0.5).clamp(0, 1)
    return (unit.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)


def _fit_colours(latents: torch.Tensor, picture: torch.Tensor, cell_hole: torch.Tensor) -> torch.Tensor:
    """Least squares from (1, 4, h, w) latents and (1, 3, H, W) pixels, hole cells at mid-grey, to a (5, 3) matrix."""
    height, width = latents.shape[-2:]
    cells = torch.nn.functional.adaptive_avg_pool2d(picture, (height, width)) * (1 - cell_hole.cpu())
    x = latents[0].flatten(1).T.cpu()
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    # A little ridge: a picture of one colour leaves the system without a unique answer.
    gram = x.T @ x + 1e-3 * torch.eye(x.shape[1])
    colours: torch.Tensor = torch.linalg.solve(gram, x.T @ cells[0].flatten(1).T)
    return colours
