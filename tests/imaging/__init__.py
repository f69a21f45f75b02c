"""Tests of ``sd_inpaint.imaging``."""
