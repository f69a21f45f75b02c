"""Stable Diffusion inpainting: picture, mask and prompt in; the picture with the mask's white part repainted, out."""

__version__ = "0.1.0"
