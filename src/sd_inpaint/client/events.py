"""Server-sent events out of lines (WHATWG HTML, section 9.2.6)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        name: Of its kind.
        data: Its text.
    """

    name: str
    data: str


class EventLines:
    """Makes events of a stream's lines, and remembers what a reconnecting client needs. For one task.

    Attributes:
        last_id: Of the last event that had one; None before.
        retry_seconds: How long the server asks to wait before connecting again.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.retry_seconds = 2.0
        self._name = ""
        self._data: list[str] = []

    def begin(self) -> None:
        """Forgets an event that a broken connection left unfinished."""
        self._name, self._data = "", []

    def take(self, line: str) -> Event | None:
        """Takes one line, without its end; returns the event that it finishes."""
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self.begin()
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self.last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_seconds = int(value) / 1000
        return None
