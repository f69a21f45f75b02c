"""Trains LoRAs for the demo model, from nothing but the model itself.

    scripts/demo-lora style loras/violet.safetensors      paints in shades of violet; less than a minute
    scripts/demo-lora lcm loras/lcm.safetensors           paints in 4 to 8 steps; some ten minutes

docs/few-steps-and-lora.md uses both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from tools.demo_lora import lcm, style
from tools.demo_lora.painted import BATCH, Painted, paint
from tools.demo_model.parts import Parts
from tools.demo_model.training import start_worker

LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
)
"""Of the UNet; as LCM-LoRA has them. Source: Luo et al. (2023), "LCM-LoRA", and diffusers' training script."""

Loss = Callable[[torch.nn.Module, Painted], torch.Tensor]


def train(
    parts: Parts, painted: Painted, loss_of: Loss, *, rank: int, steps: int, lr: float, every_seconds: float = 20
) -> None:
    """Puts a LoRA into the UNet and trains it."""
    unet = parts.unet.requires_grad_(False).train()
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    shown, losses = time.monotonic(), []
    for step in range(steps):
        loss = loss_of(unet, painted[torch.randint(len(painted.latents), (BATCH,))])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if time.monotonic() - shown > every_seconds or step == steps - 1:
            print(f"step {step + 1} of {steps}  loss {float(torch.stack(losses).mean()):.4f}", flush=True)
            shown, losses = time.monotonic(), []


def save(parts: Parts, file: Path) -> None:
    """Writes the LoRA in half precision."""
    state = {name: tensor.half() for name, tensor in get_peft_model_state_dict(parts.unet).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=state, weight_name=file.name)
    file.chmod(0o644)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo-lora", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("style", "lcm"))
    parser.add_argument(
        "file", type=Path, help="where the LoRA goes; its name without .safetensors is what requests say"
    )
    parser.add_argument("--samples", type=int, help="pictures that the model paints to learn from")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    module = {"style": style, "lcm": lcm}[options.kind]
    start_worker()  # on two threads, tensors this small take several times as long beside other work
    parts = Parts.load()
    for network in (parts.unet, parts.vae, parts.text_encoder):
        network.requires_grad_(False).eval()
    started = time.monotonic()
    painted = paint(parts, options.samples or module.SAMPLES, options.seed)
    print(f"painted {len(painted.latents)} pictures in {time.monotonic() - started:.0f} s", flush=True)
    torch.manual_seed(options.seed)
    learned = module.prepare(parts, painted)
    train(parts, learned, module.loss, rank=module.RANK, steps=options.steps or module.STEPS, lr=module.LEARNING_RATE)
    save(parts, options.file)


if __name__ == "__main__":
    main()
