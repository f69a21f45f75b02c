"""What the service counts and measures for Prometheus: each metric's name, unit and label, in one place."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final, Literal

CANVAS_SIDES: Final = (256, 384, 512, 640, 768, 1024, 1536)
"""Canvases are counted by the smallest of these squares that has as many pixels."""

LARGER: Final = "larger"
"""The label of canvases beyond that."""


MAX_CALLERS: Final = 100
"""Names of API keys that are told apart, for each is a time series for as long as the process lives."""

NO_CALLER: Final = "(none)"
OTHER_CALLERS: Final = "(other)"


class Metric:
    """One metric. Lives as long as the process; any thread may write it.

    Args:
        kind: As Prometheus has it.
        name: As it is exposed.
        meaning: Shown beside it.
        label: Of its one label; None without.
        buckets: Upper bounds of a histogram's.
        across: How the values of several worker processes become one gauge, in prometheus_client's words.
    """

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        meaning: str,
        *,
        label: str | None = None,
        buckets: Iterable[float] = (),
        across: Literal["livesum", "livemax", "livemin"] = "livesum",
    ) -> None:
        self.kind = kind
        self.name = name
        self.meaning = meaning
        self.label = label
        self._buckets = tuple(buckets)
        self._across = across

    @cached_property
    def _made(self) -> Any:
        # When it is first used: BentoML sets prometheus_client up only after it has imported the service.
        import prometheus_client

        labels = () if self.label is None else (self.label,)
        if self.kind == "counter":
            return prometheus_client.Counter(self.name, self.meaning, labels)
        if self.kind == "histogram":
            return prometheus_client.Histogram(self.name, self.meaning, labels, buckets=self._buckets)
        # mypy does not see that these are all among the modes.
        return prometheus_client.Gauge(self.name, self.meaning, labels, multiprocess_mode=self._across)

    def _of(self, label: str | None) -> Any:
        return self._made if label is None else self._made.labels(label)

    def add(self, amount: float = 1.0, label: str | None = None) -> None:
        """Adds to a counter."""
        self._of(label).inc(amount)

    def set(self, value: float, label: str | None = None) -> None:
        """Sets a gauge."""
        self._of(label).set(value)

    def observe(self, value: float, label: str | None = None) -> None:
        """Takes a value into a histogram."""
        self._of(label).observe(value)


READY = Metric("gauge", "sd_inpaint_ready", "1 if requests are taken now, else 0", across="livemin")
PROBLEM = Metric(
    "gauge",
    "sd_inpaint_problem",
    "1 while requests are served and this is wrong: state_unavailable, disk_low, memory_high, loop_stalled, "
    "device_lost, certificate_expired or certificate_expires_soon",
    label="problem",
    across="livemax",
)
DEVICES = Metric("gauge", "sd_inpaint_devices", "Devices, by state: working, or lost and being loaded", label="state")
QUEUE_SECONDS = Metric(
    "gauge", "sd_inpaint_queue_seconds", "Seconds of work waiting or running, at the devices' measured pace"
)
QUEUE_CANVASES = Metric("gauge", "sd_inpaint_queue_jobs", "Canvases waiting or running")
CANVASES_ENDED = Metric(
    "counter",
    "sd_inpaint_jobs_total",
    "Canvases that ended, by outcome: done, or an error's code",
    label="outcome",
)
TURN_AGE_SECONDS = Metric(
    "gauge", "sd_inpaint_turn_age_seconds", "Seconds since the device loop last began a turn", across="livemax"
)
STEP_SECONDS = Metric(
    "histogram",
    "sd_inpaint_step_seconds",
    "Seconds of one UNet call, by the side of the square that holds one of its canvases",
    label="canvas",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0),
)
BATCH_CANVASES = Metric(
    "histogram", "sd_inpaint_batch_canvases", "Canvases in one UNet call", buckets=(1, 2, 4, 8, 16, 32, 64)
)
MEGAPIXEL_STEPS = Metric(
    "counter",
    "sd_inpaint_megapixel_steps_total",
    "Work that the device has done, in megapixels times steps, by the name of the API key",
    label="caller",
)
PHASE_SECONDS = Metric(
    "histogram",
    "sd_inpaint_phase_seconds",
    "Seconds of a request's phases: admission, decode, plan, queue, steps, composite, encode",
    label="phase",
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0),
)
REFUSALS = Metric(
    "counter", "sd_inpaint_refusals_total", "Error responses by code, those to probes apart", label="code"
)
ACCEPTED_JOBS = Metric("gauge", "sd_inpaint_accepted_jobs", "Accepted jobs in this process, by state", label="state")
STATE_ERRORS = Metric(
    "counter", "sd_inpaint_state_errors_total", "Times that the store of accepted jobs could not be used"
)
STATE_BYTES = Metric("gauge", "sd_inpaint_state_bytes", "Bytes of accepted jobs in the state folder", across="livemax")
STATE_MAX_BYTES = Metric(
    "gauge", "sd_inpaint_state_max_bytes", "Bytes that accepted jobs may take in the state folder", across="livemax"
)
STATE_FREE_BYTES = Metric(
    "gauge", "sd_inpaint_state_free_bytes", "Bytes that are free on the state folder's disk", across="livemin"
)
RESIDENT_BYTES = Metric("gauge", "sd_inpaint_resident_memory_bytes", "Physical memory of the worker processes")
HELD_BYTES = Metric(
    "gauge",
    "sd_inpaint_held_bytes",
    "Bytes of memory that are reserved: uploads, pictures, or all, the weights included",
    label="pool",
)
MAX_BYTES = Metric("gauge", "sd_inpaint_max_bytes", "Bytes of memory that may be reserved", label="pool")
DEVICE_BYTES = Metric(
    "gauge",
    "sd_inpaint_device_memory_bytes",
    "The device's own memory: free, total, allocated, reserved, and the peaks of the last two",
    label="kind",
    across="livemax",
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them."""


def canvas_label(width: int, height: int) -> str:
    """Returns the label of a canvas of this size, in pixels."""
    return next((str(side) for side in CANVAS_SIDES if width * height <= side * side), LARGER)


_callers: set[str] = set()


def caller_label(name: str) -> str:
    """Returns the label of an API key's name; "" is for work without one, and names beyond the first many share one."""
    if name and name not in _callers:
        if len(_callers) >= MAX_CALLERS:
            return OTHER_CALLERS
        _callers.add(name)
    return name or NO_CALLER
