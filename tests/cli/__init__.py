"""Tests of sd_inpaint.cli."""
