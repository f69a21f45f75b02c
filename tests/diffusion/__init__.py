"""Tests of ``sd_inpaint.diffusion``."""
