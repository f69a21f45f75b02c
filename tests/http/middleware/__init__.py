"""Tests of ``sd_inpaint.http.middleware``."""
