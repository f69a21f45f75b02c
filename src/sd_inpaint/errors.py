"""Every error that is raised on purpose.

    InpaintError
    ├── CallerError                       the request must change
    │   ├── MalformedBodyError            malformed_body
    │   ├── MissingFieldError             missing_field
    │   ├── InvalidParameterError         invalid_parameter
    │   ├── InvalidLorasError             invalid_loras
    │   ├── InvalidImageError             invalid_image
    │   ├── InvalidMaskError              invalid_mask
    │   ├── SizeMismatchError             size_mismatch
    │   ├── BodyTooLargeError             body_too_large
    │   ├── ImageTooLargeError            image_too_large
    │   ├── UnsupportedMediaTypeError     unsupported_media_type
    │   ├── NotAcceptableError            not_acceptable
    │   ├── UnauthorizedError             unauthorized
    │   ├── ContentFlaggedError           content_flagged
    │   ├── JobNotFoundError              job_not_found
    │   ├── JobNotReadyError              job_not_ready
    │   ├── IdempotencyConflictError      idempotency_conflict
    │   └── RequestCancelledError                cancelled
    └── MachineError                      the caller may try again, or the operator must act
        ├── ModelLoadingError             model_loading
        ├── ModelDisabledError            model_disabled
        ├── ModelFailedError              model_failed
        ├── BusyError                     there is a Retry-After
        │   ├── QueueFullError            queue_full
        │   ├── RateLimitedError          rate_limited
        │   └── QuotaExceededError        quota_exceeded
        ├── ShuttingDownError             shutting_down
        ├── DeadlineExceededError         deadline_exceeded
        ├── OutOfMemoryError              out_of_memory
        ├── InvalidOutputError            invalid_output
        ├── EngineCrashedError            internal
        ├── JobLostError                  job_lost
        ├── StateUnavailableError         state_unavailable
        ├── CredentialsExpiredError       credentials_expired
        ├── SettingsError                 invalid_settings
        └── WeightsError                  invalid_weights

``str(error)`` is one sentence that is safe to show to a caller. HTTP statuses are in a table, ``http/wire/errors.py``.
"""

import re
from typing import ClassVar

_FOLDERS = re.compile(r"(?<![\w.:/])~?(?:/[^\s/'\"]+)+/(?=[^\s/])")


class InpaintError(Exception):
    """The root of all errors raised on purpose.

    Attributes:
        code: A stable slug for programs to branch on.
        facts: Values a caller can use, JSON-serialisable, shown beside the sentence.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts: dict[str, object] = facts


class CallerError(InpaintError):
    """The request cannot be served as it was sent."""


class MalformedBodyError(CallerError):
    """The body is not the form it claims to be."""

    code = "malformed_body"


class MissingFieldError(CallerError):
    """A required field is missing."""

    code = "missing_field"


class InvalidParameterError(CallerError):
    """A field is unknown, was sent twice, or has a value of the wrong type or out of bounds."""

    code = "invalid_parameter"


class InvalidLorasError(CallerError):
    """The request asks for LoRAs that this server does not have, or not in this way."""

    code = "invalid_loras"


class InvalidImageError(CallerError):
    """The ``image`` field is not a complete, readable picture."""

    code = "invalid_image"


class InvalidMaskError(CallerError):
    """The ``mask`` field is not a complete, readable picture."""

    code = "invalid_mask"


class SizeMismatchError(CallerError):
    """Image and mask differ in width or height."""

    code = "size_mismatch"


class BodyTooLargeError(CallerError):
    """The request body is larger than the server accepts."""

    code = "body_too_large"


class ImageTooLargeError(CallerError):
    """A picture has more pixels than the server or its device accepts."""

    code = "image_too_large"


class UnsupportedMediaTypeError(CallerError):
    """The endpoint does not read the body's Content-Type."""

    code = "unsupported_media_type"


class NotAcceptableError(CallerError):
    """The endpoint writes none of the formats in the ``Accept`` header."""

    code = "not_acceptable"


class UnauthorizedError(CallerError):
    """The request carries no valid API key."""

    code = "unauthorized"


class ContentFlaggedError(CallerError):
    """The safety checker flagged the result."""

    code = "content_flagged"


class JobNotFoundError(CallerError):
    """No job has that id, or its result has expired."""

    code = "job_not_found"


class JobNotReadyError(CallerError):
    """The job has no result yet."""

    code = "job_not_ready"


class IdempotencyConflictError(CallerError):
    """An ``Idempotency-Key`` was sent again with another request."""

    code = "idempotency_conflict"


class RequestCancelledError(CallerError):
    """The job was cancelled by its caller, who left or deleted it."""

    code = "cancelled"


class MachineError(InpaintError):
    """The request is valid, but the server cannot serve it now, or at all."""


class ModelLoadingError(MachineError):
    """The weights are still being loaded."""

    code = "model_loading"


class ModelDisabledError(MachineError):
    """The operator set ``LOAD_SD_INPAINT=false``."""

    code = "model_disabled"


class ModelFailedError(MachineError):
    """The weights could not be loaded; the reason is in the message."""

    code = "model_failed"


class BusyError(MachineError):
    """The request may be sent again after a while.

    Attributes:
        retry_after_seconds: How long.
    """

    def __init__(self, message: str, *, retry_after_seconds: int, **facts: object) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **facts)
        self.retry_after_seconds = retry_after_seconds


class QueueFullError(BusyError):
    """The queue is full, or the caller's share of it."""

    code = "queue_full"


class RateLimitedError(BusyError):
    """The caller sends too much at once, or too many wrong keys."""

    code = "rate_limited"


class QuotaExceededError(BusyError):
    """The caller has used what they may use in a while."""

    code = "quota_exceeded"


class ShuttingDownError(MachineError):
    """The server is shutting down and admits nothing new."""

    code = "shutting_down"

    def __init__(self, message: str = "The server is shutting down.", **facts: object) -> None:
        super().__init__(message, **facts)


class DeadlineExceededError(MachineError):
    """The job did not finish before its deadline."""

    code = "deadline_exceeded"


class OutOfMemoryError(MachineError):
    """The device has too little memory for this canvas, even in low-memory mode."""

    code = "out_of_memory"


class InvalidOutputError(MachineError):
    """The model's output is not a picture (NaN or all black), even when decoded in float32."""

    code = "invalid_output"


class EngineCrashedError(MachineError):
    """A bug in the engine ended the job; the log has the traceback."""

    code = "internal"

    def __init__(
        self, message: str = "The engine failed on this picture; see the server log.", **facts: object
    ) -> None:
        super().__init__(message, **facts)


class JobLostError(MachineError):
    """An accepted job was started too often without ever finishing, or its upload is gone."""

    code = "job_lost"


class StateUnavailableError(MachineError):
    """The folder or the database that keeps accepted jobs cannot be used; the reason is in the message."""

    code = "state_unavailable"


class CredentialsExpiredError(MachineError):
    """The certificate that results are signed with is not valid now; the operator must renew it and restart."""

    code = "credentials_expired"


class SettingsError(MachineError):
    """The operator's settings cannot be used; raised at start."""

    code = "invalid_settings"


class WeightsError(MachineError):
    """The weights are missing, refused, or not the expected ones; raised at load."""

    code = "invalid_weights"


def without_folders(text: str) -> str:
    """Returns a message for callers: of each path of this server, only the last part."""
    return _FOLDERS.sub("", text)
