"""Server-sent events (WHATWG HTML, section 9.2)."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final, NotRequired

from pydantic import WithJsonSchema
from starlette.responses import StreamingResponse
from typing_extensions import TypedDict

from sd_inpaint.http.wire.headers import NO_STORE

MEDIA_TYPE: Final = "text/event-stream"

KEEP_ALIVE: Final = ": keep-alive\n\n"
"""A comment, which clients pass over."""

KEEP_ALIVE_SECONDS: Final = 15.0
"""Proxies close a connection on which nothing was sent for a minute, or for half of one."""

HEADERS: Final = {**NO_STORE, "X-Accel-Buffering": "no"}
"""nginx would hold events back until its buffer is full."""


class Event(TypedDict):
    """One event, as its lines say it."""

    event: NotRequired[str]
    id: NotRequired[str]
    data: NotRequired[Annotated[str, WithJsonSchema({"type": "string", "contentMediaType": "application/json"})]]
    retry: NotRequired[int]


def event(name: str, data: Mapping[str, object], event_id: int | None = None) -> str:
    """Writes one event; JSON has no line breaks of its own. Only those with an id move ``Last-Event-ID``."""
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{id_line}data: {json.dumps(data)}\n\n"


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Returns the response that sends events as they come."""
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)
