"""Paths that more than one file speaks of."""

from typing import Final

NATIVE: Final = "/sd-inpaint"
"""Of this service's own paths."""

INPAINT: Final = "/sd-inpaint/inpaint"
HEALTH: Final = "/sd-inpaint/health"
INFO: Final = "/sd-inpaint/info"
PREVIEW: Final = "/sd-inpaint/preview"
JOBS: Final = "/sd-inpaint/jobs"

OPENAI: Final = "/v1"
"""Of the paths whose callers are OpenAI's clients."""

EDITS: Final = f"{OPENAI}/images/edits"
MODELS: Final = f"{OPENAI}/models"

A1111: Final = "/sdapi/v1"
"""Of the paths whose callers are clients of AUTOMATIC1111's web UI."""

PROBES: Final = frozenset({HEALTH, "/livez", "/healthz", "/readyz", "/metrics"})
"""What machines ask every few seconds, without a key."""
