"""Tests of what is shipped: Bento, image, chart."""
