"""Tests of ``sd_inpaint.telemetry``."""
