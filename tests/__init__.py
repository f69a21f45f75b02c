"""All tests; the folders are those of ``src/sd_inpaint``."""
