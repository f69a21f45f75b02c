"""How much one caller may use."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """How much one caller may use of this process; 0 is no limit.

    Attributes:
        requests_per_minute: Requests of any kind but probes; as many may come at once.
        concurrency: Requests in progress that send something, and jobs that have not ended.
        megapixel_steps_per_hour: Work of the device; as much may be asked for at once.
        kept_bytes: Uploads and results of the caller's jobs.
        share: Of the device and of its queue, compared with other callers'; never 0.
    """

    requests_per_minute: float = 0.0
    concurrency: int = 0
    megapixel_steps_per_hour: float = 0.0
    kept_bytes: int = 0
    share: float = 1.0


UNLIMITED = CallerLimits()
