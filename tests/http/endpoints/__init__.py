"""Tests of ``sd_inpaint.http.endpoints``."""
