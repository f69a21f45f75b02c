"""The command ``sd-inpaint``."""
