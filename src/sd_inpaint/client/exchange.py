"""What the client's logic asks of a transport, and what it gets back. Nothing here reads or writes a socket.

A *flow* is a generator: it yields :class:`Send`, :class:`Follow` and :class:`Sleep`, is sent their outcomes, and
returns its value. ``blocking.py`` and ``awaiting.py`` run the same flows.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: ``GET``, ``POST`` or ``DELETE``.
        path: Below the server's address.
        headers: Beside those that every request has.
        fields: The form's texts; with ``files``, its body.
        files: The form's files, by field.
        read_seconds: How long the server may send nothing.
        is_repeatable: Whether sending it twice does no more than sending it once.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    read_seconds: float = 60.0
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read whole.

    Attributes:
        status: HTTP's.
        headers: By lower-case name.
        body: Its bytes; empty for a stream that was followed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Send:
    """Asks for a request to be sent; its outcome is an :class:`Answer`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Follow:
    """Asks for a stream to be read; its outcome is an :class:`Answer`, without a body if the status was 200.

    Attributes:
        request: What to send.
        take: Gets each line of a 200, without its end; True stops reading.
    """

    request: Request
    take: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Asks for a pause; its outcome is None."""

    seconds: float


class UnreachableError(Exception):
    """Thrown into a flow: the request got no answer.

    Args:
        reason: A sentence.
        was_sent: Whether the server may have got the request.
    """

    def __init__(self, reason: str, *, was_sent: bool) -> None:
        super().__init__(reason)
        self.was_sent = was_sent


Flow: TypeAlias = Generator[Send | Follow | Sleep, Any, T]
