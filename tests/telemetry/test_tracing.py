"""A request's phases as spans and as seconds."""

import logging
import time
from collections.abc import Iterator

import prometheus_client
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sd_inpaint.errors import QueueFullError
from sd_inpaint.telemetry import tracing
from tests.support.edge import App, make_app

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """All spans that end meanwhile."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.collect(provider)
    yield exporter
    tracing.collect(None)


def seconds(phase: str) -> float:
    """What the phases' histogram has summed up."""
    sample = prometheus_client.REGISTRY.get_sample_value("sd_inpaint_phase_seconds_sum", {"phase": phase})
    return sample or 0.0


def test_a_span_counts_its_seconds_without_a_collector() -> None:
    """Each phase is measured, whether or not somebody collects spans."""
    before = seconds("decode")
    with tracing.span("decode", pixels=4):
        time.sleep(0.02)
    assert 0.02 <= seconds("decode") - before < 1


def test_spans_are_nested_and_carry_their_attributes(spans: InMemorySpanExporter) -> None:
    """A span is a child of the one around it, and a recorded one has the times that it was given."""
    now = time.monotonic()
    with tracing.span("decode", pixels=4):
        tracing.record("queue", now - 2.0, now - 0.5)
    queue, decode = spans.get_finished_spans()
    assert queue.parent is not None
    assert queue.parent.span_id == decode.context.span_id
    assert dict(decode.attributes or {}) == {"pixels": 4}
    assert queue.start_time is not None
    assert queue.end_time is not None
    assert queue.end_time - queue.start_time == pytest.approx(1.5e9, rel=0.01)
    assert time.time_ns() - queue.end_time == pytest.approx(0.5e9, abs=0.3e9)


def test_a_failed_span_names_the_error_and_not_its_sentence(spans: InMemorySpanExporter) -> None:
    """A span that ends with an error has its code; what the sentence quotes stays here."""
    with pytest.raises(QueueFullError), tracing.span("queue"):
        raise QueueFullError("A secret rose.", retry_after_seconds=1)
    (failed,) = spans.get_finished_spans()
    assert (failed.attributes or {})["error.type"] == "queue_full"
    assert not failed.status.is_ok
    assert "rose" not in failed.to_json()


def test_a_request_joins_the_callers_trace(spans: InMemorySpanExporter) -> None:
    """A request's span is a child of the caller's, is named by its route, and has decoding and encoding below it."""
    with make_app() as app:
        assert app.post(headers={"traceparent": CALLER}, prompt="a secret rose").status_code == 200
        app.client.get("/sd-inpaint/jobs/unknown", headers={"traceparent": CALLER})
        app.client.get("/livez")
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found.keys() == {"POST /sd-inpaint/inpaint", "encode", "GET /sd-inpaint/jobs/{id}"}
    request, encode = found["POST /sd-inpaint/inpaint"], found["encode"]
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}-{request.parent.span_id:016x}" == CALLER[3:-3]
    assert (request.attributes or {})["http.response.status_code"] == 200
    assert encode.parent is not None
    assert encode.parent.span_id == request.context.span_id
    assert not any("rose" in span.to_json() for span in found.values())


def test_the_log_has_the_callers_ids_and_no_others(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collector too, what a request logs has the caller's trace, and the next request's has none."""
    seen: list[object] = []
    logger = logging.getLogger("bentoml.sd_inpaint.http")
    monkeypatch.setattr(logger, "log", lambda *_: seen.append(tracing.trace_ids()))
    app.client.get("/sd-inpaint/info", headers={"traceparent": CALLER})
    app.client.get("/sd-inpaint/info")
    assert seen == [tuple(CALLER.split("-")[1:3]), None]


def test_a_missing_exporter_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the environment names a collector and the exporter is not installed, a line says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    logging.getLogger("bentoml").propagate = True
    with caplog.at_level(logging.WARNING, "bentoml.sd_inpaint.tracing"):
        tracing.start_export()
    assert [record.message for record in caplog.records if "sd-inpaint[otlp]" in record.message]
    assert tracing._tracer is None
