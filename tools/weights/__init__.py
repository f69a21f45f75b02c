"""Weights in BentoML's store: pulled, imported, converted, verified."""
