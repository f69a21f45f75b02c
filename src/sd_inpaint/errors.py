"""Every error that is raised on purpose.

    InpaintError
    ├── CallerError                       the request must change
    │   ├── MalformedBodyError            malformed_body
    │   ├── MissingFieldError             missing_field
    │   ├── InvalidParameterError         invalid_parameter
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
    │   └── CancelledError                cancelled
    └── MachineError                      the caller may try again, or the operator must act
        ├── ModelLoadingError             model_loading
        ├── ModelDisabledError            model_disabled
        ├── ModelFailedError              model_failed
        ├── QueueFullError                queue_full
        ├── ShuttingDownError             shutting_down
        ├── DeadlineExceededError         deadline_exceeded
        ├── OutOfMemoryError              out_of_memory
        ├── InvalidOutputError            invalid_output
        ├── EngineCrashedError            internal
        ├── JobLostError                  job_lost
        ├── StateUnavailableError         state_unavailable
        ├── SettingsError                 invalid_settings
        └── WeightsError                  invalid_weights

``str(error)`` is one sentence that is safe to show to a caller. HTTP statuses stand in one table, ``http/errors.py``.
"""

from typing import ClassVar


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
    """The request cannot be done as it was sent."""


class MalformedBodyError(CallerError):
    """The body is not the form it claims to be."""

    code = "malformed_body"


class MissingFieldError(CallerError):
    """A required field is not there."""

    code = "missing_field"


class InvalidParameterError(CallerError):
    """A field has a value outside its bounds, is of another type, unknown, or sent twice."""

    code = "invalid_parameter"


class InvalidImageError(CallerError):
    """The ``image`` field is not a picture that can be read whole."""

    code = "invalid_image"


class InvalidMaskError(CallerError):
    """The ``mask`` field is not a picture that can be read whole."""

    code = "invalid_mask"


class SizeMismatchError(CallerError):
    """Image and mask differ in width or height."""

    code = "size_mismatch"


class BodyTooLargeError(CallerError):
    """The request's body has more bytes than the server takes."""

    code = "body_too_large"


class ImageTooLargeError(CallerError):
    """A picture has more pixels than the server, or its device, takes."""

    code = "image_too_large"


class UnsupportedMediaTypeError(CallerError):
    """The body's Content-Type is none that the endpoint reads."""

    code = "unsupported_media_type"


class NotAcceptableError(CallerError):
    """The ``Accept`` header names no format that the endpoint writes."""

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


class CancelledError(CallerError):
    """The job was cancelled by its caller, who left or deleted it."""

    code = "cancelled"


class MachineError(InpaintError):
    """The server cannot do it now, or at all, though the request is sound."""


class ModelLoadingError(MachineError):
    """The weights are still being loaded."""

    code = "model_loading"


class ModelDisabledError(MachineError):
    """The operator set ``LOAD_SD_INPAINT=false``."""

    code = "model_disabled"


class ModelFailedError(MachineError):
    """The weights could not be loaded; the reason is in the message."""

    code = "model_failed"


class QueueFullError(MachineError):
    """The queue takes no further job.

    Attributes:
        retry_after_seconds: When a place is expected to be free.
    """

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_seconds: int, **facts: object) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **facts)
        self.retry_after_seconds = retry_after_seconds


class ShuttingDownError(MachineError):
    """The server is stopping and admits nothing new."""

    code = "shutting_down"


class DeadlineExceededError(MachineError):
    """The job did not end before its deadline."""

    code = "deadline_exceeded"


class OutOfMemoryError(MachineError):
    """The device has too little memory for this canvas, also after the leaner second try."""

    code = "out_of_memory"


class InvalidOutputError(MachineError):
    """The model gave no picture (NaN or all black), also after the second try in float32."""

    code = "invalid_output"


class EngineCrashedError(MachineError):
    """A defect of the engine ended the job; the log has the traceback."""

    code = "internal"


class JobLostError(MachineError):
    """An accepted job was begun again and again and never came to an end, or what it needs is gone."""

    code = "job_lost"


class StateUnavailableError(MachineError):
    """The folder or the database that keeps accepted jobs cannot be used; the reason is in the message."""

    code = "state_unavailable"


class SettingsError(MachineError):
    """The operator's settings cannot be used; raised at start."""

    code = "invalid_settings"


class WeightsError(MachineError):
    """The weights are missing, refused, or not those expected; raised at load."""

    code = "invalid_weights"
