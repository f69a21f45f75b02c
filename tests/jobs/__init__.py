"""Tests of ``sd_inpaint.jobs``."""
