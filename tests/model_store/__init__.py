"""Tests of sd_inpaint.model_store."""
