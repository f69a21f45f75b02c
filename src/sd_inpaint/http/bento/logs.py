"""The log as JSON, one object a line, for whoever collects it."""

import json
import logging
from datetime import UTC, datetime

from sd_inpaint.http.middleware.access_log import current_request_id
from sd_inpaint.telemetry.tracing import trace_ids

HANDLED = ("", "bentoml", "uvicorn.error", "circus")
"""Loggers that BentoML gives handlers; the first is the root."""


class JsonFormatter(logging.Formatter):
    """Writes time (RFC 3339), level, logger and message; where there are some, the request's id, trace and error."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := current_request_id()) is not None:
            line["request_id"] = request_id
        if (ids := trace_ids()) is not None:
            line["trace_id"], line["span_id"] = ids
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def write_json() -> None:
    """Has all handlers that BentoML has set up in this process write JSON."""
    formatter = JsonFormatter()
    for name in HANDLED:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
