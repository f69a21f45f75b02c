"""Tests of ``sd_inpaint.engine``."""
