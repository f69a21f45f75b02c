"""The metrics: that each is exposed under its name, and that what reads them names no other."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from sd_inpaint.telemetry.metrics import (
    MAX_CALLERS,
    METRICS,
    NO_CALLER,
    OTHER_CALLERS,
    PHASE_SECONDS,
    Metric,
    caller_label,
    canvas_label,
)
from tests.support.repository import ROOT
from tests.support.tools import need

DASHBOARD = ROOT / "deploy" / "grafana" / "sd-inpaint.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ALERT_TESTS = ROOT / "deploy" / "prometheus" / "alerts.test.yaml"


def exposed(metric: Metric) -> set[str]:
    """The names under which a metric's values are exposed."""
    endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
    return {metric.name + ending for ending in endings}


EXPOSED = set().union(*map(exposed, METRICS))
BENTOML = {"bentoml_service_request_total"}
"""Of BentoML's own; tests/served sees that it has it."""


def named(text: str) -> set[str]:
    """The metrics that an expression, or many, read."""
    return set(re.findall(r"\b(?:sd_inpaint|bentoml_service)_[a-z_]+", text))


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    """What a dashboard's panels ask Prometheus for."""
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_is_exposed_under_its_name(metric: Metric) -> None:
    """A metric that was written is exposed under the name that the table has."""
    write = {"counter": metric.add, "gauge": metric.set, "histogram": metric.observe}[metric.kind]
    write(0, "x" if metric.label else None)
    lines = prometheus_client.generate_latest().decode().splitlines()
    assert exposed(metric) <= {re.split(r"[{ ]", line)[0] for line in lines}


def test_each_metric_has_a_unit_or_counts() -> None:
    """Names follow Prometheus: counters end in _total, seconds and bytes in full, what is counted by its name."""
    for metric in METRICS:
        assert re.fullmatch(r"sd_inpaint_[a-z_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert not re.search(r"_(ms|mb|gb|percent|secs?)\b", metric.name)


def test_a_canvas_has_one_of_a_few_labels() -> None:
    """Canvases are filed under a square that holds their pixels, whatever their shape, and the largest together."""
    assert canvas_label(512, 512) == "512"
    assert canvas_label(1024, 256) == "512"
    assert canvas_label(520, 512) == "640"
    assert canvas_label(4096, 4096) == "larger"


def test_callers_have_a_bounded_number_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hundred names have a label each and keep it; later ones share one, and so does work without a name."""
    monkeypatch.setattr("sd_inpaint.telemetry.metrics._callers", set())
    names = [f"key-{number}" for number in range(MAX_CALLERS + 20)]
    labels = [caller_label(name) for name in names]
    assert labels == [*names[:MAX_CALLERS], *[OTHER_CALLERS] * 20]
    assert [caller_label(name) for name in ("key-0", "key-119", "")] == ["key-0", OTHER_CALLERS, NO_CALLER]


def test_every_metric_has_a_row() -> None:
    """The table in docs/deploy.md has each metric with its label, and no other."""
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(sd_inpaint_[a-z_]+)` \| [a-z]+ \| (?:`([a-z]+)`)? ?\|", page, re.MULTILINE))
    assert rows == {metric.name: metric.label or "" for metric in METRICS}


def test_dashboard_and_alerts_read_what_is_exposed() -> None:
    """Each metric in the dashboard and in the alert rules is one that the service exposes, with labels it has."""
    asked = expressions(json.loads(DASHBOARD.read_text("utf-8"))["panels"])
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    asked += [rule["expr"] for group in rules for rule in group["rules"]]
    assert len(asked) > 20
    assert named(" ".join(asked)) <= EXPOSED | BENTOML
    assert all(named(expression) for expression in asked)


def test_alerts_hold_under_promtool() -> None:
    """Prometheus accepts the alert rules, and each fires when it should and not before."""
    need("test-tools")
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERT_TESTS)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_dashboard(tmp_path: Path) -> None:
    """Prometheus accepts each expression of the dashboard, with Grafana's variables filled in."""
    need("test-tools")
    asked = expressions(json.loads(DASHBOARD.read_text("utf-8"))["panels"])
    filled = [asking.replace("$__rate_interval", "5m").replace("$instance", ".*") for asking in asked]
    rules = [{"record": f"panel:{number}", "expr": asking} for number, asking in enumerate(filled)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """The unit tests of the rules have a case in which each alert fires."""
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    cases = yaml.safe_load(ALERT_TESTS.read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for group in rules for rule in group["rules"]}


def test_phases_are_those_of_the_help() -> None:
    """The help of the phases' metric names each phase that is recorded."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    recorded = set(re.findall(r"\b(?:span|record)\(\s*\"([a-z]+)\"", source))
    assert recorded == set(re.findall(r"[a-z]+", PHASE_SECONDS.meaning.partition(":")[2]))
