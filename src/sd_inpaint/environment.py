"""Environment variables that are not the server's settings: what clients and commands read."""

from typing import Final

KEY: Final = "SD_INPAINT_KEY"
"""The API key that clients send."""

SERVER: Final = "SD_INPAINT_SERVER"
"""The address of the server that clients call, such as ``https://example.org/paint``."""
