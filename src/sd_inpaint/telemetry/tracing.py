"""A request's phases: as spans of OpenTelemetry where somebody collects them, and as seconds in the metrics.

No attribute holds a prompt, a key, or anything of a picture but its size.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from sd_inpaint.telemetry.metrics import PHASE_SECONDS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

SERVICE_NAME: Final = "sd-inpaint"
"""What traces are filed under, unless OTEL_SERVICE_NAME names another."""

TRACEPARENT: Final = "traceparent"

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Spans are exported where one of these is set."""

Attribute = str | bool | int | float

logger = logging.getLogger("bentoml.sd_inpaint.tracing")

_tracer: "Tracer | None" = None
"""None while nobody collects spans."""


class Span:
    """One phase of a request; a context manager."""

    __slots__ = ("_attributes", "_name", "_opened", "_started")

    def __init__(self, name: str, attributes: Mapping[str, Attribute]) -> None:
        self._name = name
        self._attributes = attributes
        self._opened: Any = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if _tracer is not None:
            self._opened = _tracer.start_as_current_span(
                self._name, attributes=self._attributes, record_exception=False, set_status_on_exception=False
            )
            self._opened.__enter__()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        PHASE_SECONDS.observe(time.monotonic() - self._started, self._name)
        if self._opened is not None:
            if error is not None:
                _mark_failed(error)
            self._opened.__exit__(kind, error, traceback)


def span(name: str, /, **attributes: Attribute) -> Span:
    """Makes a phase's span: a child of the one that is open where it is entered."""
    return Span(name, attributes)


def record(name: str, started: float, ended: float, /, **attributes: Attribute) -> None:
    """Records a phase that has ended, such as one on another thread; times are of :func:`time.monotonic`."""
    PHASE_SECONDS.observe(ended - started, name)
    if _tracer is not None:
        epoch = time.time() - time.monotonic()
        opened = _tracer.start_span(name, attributes=attributes, start_time=int((epoch + started) * 1e9))
        opened.end(int((epoch + ended) * 1e9))


@contextmanager
def request_span(method: str, headers: Mapping[str, str]) -> Iterator[None]:
    """A request's own span, a child of the caller's where ``headers`` have a traceparent.

    Where nobody collects spans, only the caller's ids are kept, for the log. Never a child of the request before: on a
    connection that is kept open, this one runs in what is left of its context.
    """
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = context.Context()
    if TRACEPARENT in headers:
        parent = TraceContextTextMapPropagator().extract(headers, parent)
    if _tracer is not None:
        attributes = {"http.request.method": method}
        opened = _tracer.start_span(method, parent, trace.SpanKind.SERVER, attributes)
        with trace.use_span(opened, True, record_exception=False, set_status_on_exception=False):
            yield
        return
    token = context.attach(parent)
    try:
        yield
    finally:
        context.detach(token)


def name_request(method: str, route: str, status: int) -> None:
    """Gives the open request its name and outcome, once they are known; ``route`` is empty where nothing is served."""
    if _tracer is not None:
        from opentelemetry import trace

        opened = trace.get_current_span()
        opened.set_attribute("http.response.status_code", status)
        if route:
            opened.update_name(f"{method} {route}")
            opened.set_attribute("http.route", route)
        if status >= 500:
            opened.set_status(trace.StatusCode.ERROR)


def trace_ids() -> tuple[str, str] | None:
    """Returns the ids of the open trace and span in hexadecimal; None without a trace."""
    from opentelemetry import trace

    ids = trace.get_current_span().get_span_context()
    return (f"{ids.trace_id:032x}", f"{ids.span_id:016x}") if ids.is_valid else None


def start_export() -> None:
    """Sends spans to the collector that the environment names, if it names one; logs whether that is done.

    All of it follows OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_SDK_DISABLED and the others.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning(
            "Traces are not exported: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is not installed. "
            "Install sd-inpaint[otlp]."
        )
        return
    from opentelemetry.sdk.resources import SERVICE_NAME as NAME
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What the environment names comes first.
    named = Resource.create()
    default = Resource({NAME: SERVICE_NAME})
    resource = named if "OTEL_SERVICE_NAME" in os.environ else named.merge(default)
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    collect(provider)
    logger.info("Traces are exported by OTLP.")


def collect(provider: "TracerProvider | None") -> None:
    """Gives all spans from now on to a provider; None stops that."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("sd_inpaint")


def _mark_failed(error: BaseException) -> None:
    from opentelemetry import trace

    opened = trace.get_current_span()
    # Its code, not its sentence: that may quote the caller.
    opened.set_attribute("error.type", getattr(error, "code", type(error).__name__))
    opened.set_status(trace.StatusCode.ERROR)
