"""Error → status and headers."""

from collections.abc import Iterator

import pytest

from sd_inpaint.errors import (
    CallerError,
    InpaintError,
    ModelLoadingError,
    QueueFullError,
    ShuttingDownError,
    UnauthorizedError,
)
from sd_inpaint.http.wire.errors import STATUSES, error_response


def all_errors(root: type[InpaintError]) -> Iterator[type[InpaintError]]:
    """Yields every error class that the service has; its client's are answers that never left a server."""
    for error_class in root.__subclasses__():
        if error_class.__module__.startswith("sd_inpaint.client"):
            continue
        yield error_class
        yield from all_errors(error_class)


def test_every_error_has_its_status() -> None:
    """The table has each code; errors of the caller are 4xx, those of the machine 5xx or 429."""
    for error_class in all_errors(InpaintError):
        status = STATUSES[error_class.code]
        if error_class.code != "internal":
            assert status < 500 if issubclass(error_class, CallerError) else status >= 500 or status == 429


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (QueueFullError("Full.", retry_after_seconds=17), {"Retry-After": "17"}),
        (ModelLoadingError("Loading."), {"Retry-After": "5"}),
        (ShuttingDownError("Stopping."), {"Retry-After": "10"}),
        (UnauthorizedError("No key."), {"WWW-Authenticate": 'Bearer realm="sd-inpaint"'}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_headers_of_errors(error: InpaintError, headers: dict[str, str]) -> None:
    """Errors that ask the caller to do something carry the header that says it to programs."""
    response = error_response(error)
    assert headers.items() <= {k.title().replace("Www", "WWW"): v for k, v in response.headers.items()}.items()
