"""What is in ``deploy/`` beside the image: the Helm chart and the compose file."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from sd_inpaint.settings import Settings

CHART = ROOT / "deploy" / "helm" / "sd-inpaint"
BIN = ROOT / "build" / "tools" / "bin"

VALUES = {
    "least": ["image.tag=1"],
    "scaled on a card": [
        "image.digest=sha256:ab",
        "autoscaling.kind=hpa",
        "gpu.count=1",
        "apiKeys.values={a,b}",
        "weights.from=claim",
        "weights.claimName=cache",
        "networkPolicy.allowEgress=true",
    ],
    "weights of their own": [
        "image.tag=1",
        "weights.from=image",
        "weights.image=weights:1",
        "weights.path=model",
        "state.claimName=jobs",
        "apiKeys.existingSecret=keys",
        "disruptionBudget.enabled=false",
        "podAnnotations.team=pictures",
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Helm and the validator, by their hashes."""
    done = subprocess.run([ROOT / "scripts" / "deploy-tools"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tools: {done.stderr.strip()[-300:]}")


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs helm, without a cluster and without a home."""
    return subprocess.run([BIN / "helm", *arguments], capture_output=True, text=True, check=False)


def rendered(*values: str) -> str:
    """The chart's manifests with these values."""
    done = helm("template", "shop", CHART, *(part for value in values for part in ("--set", value)))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chart_lints() -> None:
    """Helm has nothing to complain of."""
    done = helm("lint", "--strict", CHART, "--set", "image.tag=1")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_every_manifest_is_what_kubernetes_knows(values: list[str], tmp_path: Path) -> None:
    """Each field of each object is in the schema of the current Kubernetes; an unknown one would do nothing."""
    path = tmp_path / "all.yaml"
    path.write_text(rendered(*values), "utf-8")
    done = subprocess.run([BIN / "kubernetes-validate", "--strict", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployment/shop-sd-inpaint" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((), "image.digest or image.tag"),
        (("image.tag=1", "weights.from=nowhere"), "weights.from is"),
        (("image.tag=1", "weights.from=claim"), "weights.claimName"),
        (("image.tag=1", "autoscaling.kind=magic"), "autoscaling.kind is"),
    ],
    ids=["no image", "unknown weights", "no claim", "unknown scaler"],
)
def test_wrong_values_are_told(values: tuple[str, ...], reason: str) -> None:
    """A value that cannot be meant stops with a sentence, and is not rendered into something else."""
    done = helm("template", "shop", CHART, *(part for value in values for part in ("--set", value)))
    assert done.returncode != 0
    assert reason in done.stderr


def test_a_pod_outlives_what_it_paints() -> None:
    """The grace period is longer than the drain and the wait before it; the drain is what the service is told."""
    text = rendered("image.tag=1", "drainSeconds=120", "preStopSeconds=7")
    assert "terminationGracePeriodSeconds: 157" in text
    assert re.search(r'SD_INPAINT_DRAIN_SECONDS\n\s+value: "120"', text)
    assert 'command: [sleep, "7"]' in text


def test_scaling_asks_the_queue_and_not_the_cpu() -> None:
    """Both scalers read the gauge that the service has, and the replicas are then theirs to set."""
    name = re.search(r'"(sd_inpaint_queue_seconds)"', (ROOT / "src/sd_inpaint/http/metrics.py").read_text("utf-8"))
    assert name
    for kind in ("hpa", "keda"):
        text = rendered("image.tag=1", f"autoscaling.kind={kind}", "serviceMonitor.enabled=true")
        assert name[1] in text
        assert "\n  replicas:" not in text


def test_keys_lie_in_a_secret() -> None:
    """No key stands in the Deployment; new ones start new pods."""
    first, second = (rendered("image.tag=1", f"apiKeys.values={{{keys}}}") for keys in ("one-key", "other-key"))
    kinds = {
        re.search(r"^kind: (\w+)", part, re.MULTILINE)[1]: part for part in first.split("---\n") if "kind:" in part
    }  # type: ignore[index]
    assert "one-key" in kinds["Secret"]
    assert "one-key" not in kinds["Deployment"]
    checksums = [re.search(r"checksum/keys: (\w+)", text) for text in (first, second)]
    assert checksums[0]
    assert checksums[1]
    assert checksums[0][1] != checksums[1][1]


def test_compose_says_what_the_guide_says() -> None:
    """The guide's line is in the compose file, which stops no paint that the service would still end."""
    text = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")
    assert re.search(r"environment:[^\n]*\n\s+- LOAD_SD_INPAINT=true\n", text)
    grace = re.search(r"stop_grace_period: (\d+)s", text)
    assert grace
    assert int(grace[1]) > Settings.model_fields["drain_seconds"].default


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_reads_the_file(profile: str) -> None:
    """podman-compose makes a service of each profile from it, confined and with its volumes."""
    done = subprocess.run(
        [BIN / "podman-compose", "--file", ROOT / "deploy" / "compose.yaml", "--profile", profile, "config"],
        env={**os.environ, "INPAINT_IMAGE": "localhost/sd-inpaint:1", "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "podman" in done.stderr and "No such file" in done.stderr:
        pytest.skip("podman is not installed: scripts/container-tools")
    assert done.returncode == 0, done.stderr
    assert f"sd-inpaint-{profile}:" in done.stdout
    assert "read_only: true" in done.stdout
