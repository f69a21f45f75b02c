"""Tests of ``sd_inpaint.http.wire``."""
