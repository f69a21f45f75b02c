"""Tests of sd_inpaint.callers."""
