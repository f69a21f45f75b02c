"""Headers of this service's own, and the one that keeps answers out of caches."""

from typing import Final

REQUEST_ID: Final = "X-Request-ID"
DEADLINE: Final = "X-Deadline-Seconds"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
WARNING: Final = "X-Warning"
FORWARDED_PREFIX: Final = "X-Forwarded-Prefix"
IMAGE_SIZE: Final = "X-Image-Size"
"""Width and height of the picture that a preview is of, such as ``4032x3024``."""

NO_STORE: Final = {"Cache-Control": "no-store"}
"""Answers about a moment, and pictures that are one caller's."""
