"""Figures that were made once, and what made them."""
