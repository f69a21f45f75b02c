"""Event streams, as a browser reads them."""

import json
from typing import Any


def read_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parses an event stream as a browser does: (event, data) of each, ids noted under ``"id:"``."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], {"id:": fields.get("id"), **json.loads(fields["data"])}))
    return found
