"""Models in BentoML's store: pulled from the Hub, imported, converted to diffusers' layout, verified."""
