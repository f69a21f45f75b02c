"""Tests of sd_inpaint.diagnosis."""
