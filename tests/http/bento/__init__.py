"""Tests of ``sd_inpaint.http.bento``."""
