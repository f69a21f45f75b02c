"""The service's errors as a caller meets them: a class for each code, which are those of :mod:`sd_inpaint.errors`.

    InpaintError
    ├── ServiceError          the service answered with an error
    │   └── one for each code, such as QueueFullError: it is that class of sd_inpaint.errors too
    ├── NoAnswerError         no answer came, or one that is not the service's
    └── InvalidParameterError, InvalidImageError, …   found here, before anything was sent

``except sd_inpaint.errors.QueueFullError`` catches it wherever it was raised. A code that this version does not know is
a plain :class:`ServiceError`.
"""

import json
from collections.abc import Iterator, Mapping

from sd_inpaint.client.exchange import Answer
from sd_inpaint.errors import InpaintError


class ServiceError(InpaintError):
    """The service answered with an error; ``str`` gives its sentence.

    Attributes:
        code: The service's slug.
        facts: What stands beside the sentence, such as ``field`` and ``maximum``.
        status: HTTP's.
        request_id: Under which the server's log has it; None without.
        retry_after_seconds: When the service says that it may be sent again; None where it does not.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        # Not the constructor of the class of errors.py beside this one: each has arguments of its own.
        InpaintError.__init__(self, message)
        self.status = status
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds


class NoAnswerError(InpaintError):
    """The server cannot be reached, does not answer in time, or something else answers at its address."""

    code = "no_answer"


def _descendants(error_class: type[InpaintError]) -> Iterator[type[InpaintError]]:
    for child in error_class.__subclasses__():
        yield child
        yield from _descendants(child)


def _with_answers() -> dict[str, type[ServiceError]]:
    found: dict[str, type[ServiceError]] = {}
    for error_class in _descendants(InpaintError):
        # A code is its first class's: two of them are "internal", and errors.py has the one that callers meet.
        if error_class.__module__ == InpaintError.__module__ and "code" in vars(error_class):
            names = {"__module__": __name__, "__doc__": error_class.__doc__}
            found.setdefault(error_class.code, type(error_class.__name__, (ServiceError, error_class), names))
    return found


CLASSES = _with_answers()
"""The service's codes → what is raised for them."""


def error_of(answer: Answer, retry_after_seconds: float | None = None) -> InpaintError:
    """Makes an answer that is no success the error to raise."""
    body = error_body(answer)
    if body is None:
        start = answer.body[:200].decode("utf-8", "replace").strip()
        return NoAnswerError(
            f"The answer has status {answer.status} and is not this service's. It begins with {start!r}.",
            status=answer.status,
        )
    return service_error(
        body,
        status=answer.status,
        request_id=answer.headers.get("x-request-id"),
        retry_after_seconds=retry_after_seconds,
    )


def service_error(
    body: Mapping[str, object],
    *,
    status: int,
    request_id: str | None = None,
    retry_after_seconds: float | None = None,
) -> ServiceError:
    """Makes an error's JSON, ``{"error": sentence, "code": slug, …facts}``, the error to raise."""
    code = str(body["code"])
    known = CLASSES.get(code)
    error = (known or ServiceError)(
        str(body["error"]), status=status, request_id=request_id, retry_after_seconds=retry_after_seconds
    )
    if known is None:
        error.code = code  # type: ignore[misc]  # its class has none of its own
    error.facts = {name: value for name, value in body.items() if name not in ("error", "code")}
    return error


def error_body(answer: Answer) -> dict[str, object] | None:
    """Returns an error's JSON; None if the answer is not in this service's shape, as a proxy's is not."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return None
    is_ours = isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("code"), str)
    return body if is_ours else None
