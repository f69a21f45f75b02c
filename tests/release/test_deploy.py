"""What is in ``deploy/`` beside the image: the Helm chart and the compose file."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sd_inpaint.settings import Settings
from tests.support.repository import ROOT
from tests.support.tools import give_up, need

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
    "jobs in a database": [
        "image.tag=1",
        "replicas=3",
        "state.url=postgresql://painter:secret@db/jobs?sslmode=verify-full",
        "apiKeys.existingSecret=keys",
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
    "named keys and signed results": [
        "image.tag=1",
        "apiKeys.fileSecret=named",
        "c2pa.existingSecret=signer",
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Helm and the validator, by their hashes."""
    need("deploy-tools")


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
        (("image.tag=1", "replicas=2", "state.claimName=jobs"), "state.claimName is for one replica"),
        (("image.tag=1", "autoscaling.kind=hpa", "state.claimName=jobs"), "state.claimName is for one replica"),
    ],
    ids=["no image", "unknown weights", "no claim", "unknown scaler", "shared claim", "scaled claim"],
)
def test_wrong_values_are_told(values: tuple[str, ...], reason: str) -> None:
    """A value that cannot be meant stops with a sentence, and is not rendered into something else."""
    done = helm("template", "shop", CHART, *(part for value in values for part in ("--set", value)))
    assert done.returncode != 0
    assert reason in done.stderr


AS_JSON = "import json, sys, yaml; json.dump([part for part in yaml.safe_load_all(sys.stdin) if part], sys.stdout)"


def objects(*values: str) -> dict[str, Any]:
    """Kind → the object of that kind."""
    read = [BIN / "python", "-c", AS_JSON]
    done = subprocess.run(read, input=rendered(*values), capture_output=True, text=True, check=True)
    return {part["kind"]: part for part in json.loads(done.stdout)}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_pods_fit_the_restricted_standard(values: list[str]) -> None:
    """Namespaces that enforce Kubernetes' strictest standard for pods take them: each rule of the standard is met."""
    made = objects(*values)
    for spec in (made["Deployment"]["spec"]["template"]["spec"], made["Pod"]["spec"]):
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount", "seLinuxOptions", "runAsUser"} & container["securityContext"].keys()
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]
        kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "image", "secret"}


def test_files_of_secrets_are_where_the_settings_say() -> None:
    """Keys and certificate lie in mounted Secrets, readable for the service's group and nobody else."""
    made = objects(*VALUES["named keys and signed results"])
    spec = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    folders = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume.get("secret") for volume in spec["volumes"]}
    for setting, secret in (
        ("SD_INPAINT_API_KEYS_FILE", "named"),
        ("SD_INPAINT_C2PA_CERTIFICATE", "signer"),
        ("SD_INPAINT_C2PA_KEY", "signer"),
    ):
        mount = folders[str(Path(settings[setting]).parent)]
        assert mount["readOnly"] is True
        assert volumes[mount["name"]] == {"secretName": secret, "defaultMode": 0o440}
    assert Settings(api_keys_file=Path(settings["SD_INPAINT_API_KEYS_FILE"])).needs_key


def test_who_asks_for_health_gets_no_requests() -> None:
    """The pod of ``helm test`` asks the Service by its name and port, and is itself none of the Service's."""
    made = objects("image.tag=1", "service.port=8080")
    assert not made["Service"]["spec"]["selector"].items() <= made["Pod"]["metadata"]["labels"].items()
    assert "http://shop-sd-inpaint:8080/sd-inpaint/health" in made["Pod"]["spec"]["containers"][0]["command"][-1]


def test_servers_need_no_defaults_to_merge_it() -> None:
    """Ports name their protocol and cards are counted in quantities, as server-side apply wants them."""
    made = objects("image.tag=1", "gpu.count=2")
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {port["protocol"] for port in container["ports"] + made["Service"]["spec"]["ports"]} == {"TCP"}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_a_pod_outlives_what_it_paints() -> None:
    """The grace period is longer than the drain and the wait before it; the drain is what the service is told."""
    text = rendered("image.tag=1", "drainSeconds=120", "preStopSeconds=7")
    assert "terminationGracePeriodSeconds: 157" in text
    assert re.search(r'SD_INPAINT_DRAIN_SECONDS\n\s+value: "120"', text)
    assert 'command: [sleep, "7"]' in text


def test_scaling_asks_the_queue_and_not_the_cpu() -> None:
    """Both scalers read the gauge that the service has, and the replicas are then theirs to set."""
    name = re.search(r'"(sd_inpaint_queue_seconds)"', (ROOT / "src/sd_inpaint/telemetry/metrics.py").read_text("utf-8"))
    assert name
    for kind in ("hpa", "keda"):
        text = rendered("image.tag=1", f"autoscaling.kind={kind}", "serviceMonitor.enabled=true")
        assert name[1] in text
        assert "\n  replicas:" not in text


FOREIGN = """
import json, sys, yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from pydantic import ValidationError

models = {model.__name__: model for model in (ScaledObject, ServiceMonitor)}

def is_known(given):
    try:
        read = models[given["kind"]].model_validate(given)
    except ValidationError:
        return False
    return read.model_dump(mode="json", by_alias=True, exclude_unset=True) == given

for text in json.load(sys.stdin):
    objects = [part for part in yaml.safe_load_all(text) if part and part["kind"] in models]
    print(len(objects), all(map(is_known, objects)))
"""
"""Reads objects by models generated from their makers' own definitions, and looks for what is left out: the unknown."""


def test_objects_of_keda_and_of_prometheus_are_what_those_know() -> None:
    """Each field of ScaledObject and ServiceMonitor is one of theirs; an unknown one, or a wrong type, is seen."""
    text = rendered("image.tag=1", "autoscaling.kind=keda", "serviceMonitor.enabled=true")
    mistakes = [("cooldownPeriod:", "coolDownPeriod:"), ("interval: 15s", "interval: 15"), ("path:", "paths:")]
    texts = [text, *(text.replace(right, wrong) for right, wrong in mistakes)]
    done = subprocess.run(
        [BIN / "python", "-c", FOREIGN], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["2 True", *["2 False"] * len(mistakes)], done.stderr


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


def test_database_of_jobs() -> None:
    """Its URL lies in a Secret and nowhere else, a new one starts new pods, and the network policy lets it pass."""
    first, second = (
        rendered("image.tag=1", f"state.url=postgresql://u:{word}@db:5433/jobs") for word in ("one", "two")
    )
    assert re.search(r'stringData:\n\s+SD_INPAINT_STATE_URL: "postgresql://u:one@db:5433/jobs"', first)
    assert first.count("u:one@db") == 1
    assert re.search(r"secretRef:\n\s+name: shop-sd-inpaint-state", first)
    checksums = [re.search(r"checksum/state: (\w+)", text) for text in (first, second)]
    assert checksums[0]
    assert checksums[1]
    assert checksums[0][1] != checksums[1][1]
    assert "egress: []" in rendered("image.tag=1")
    assert "{port: 5433, protocol: TCP}" in rendered("image.tag=1", "state.existingSecret=db", "state.port=5433")


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
        give_up("podman is not installed: scripts/container-tools")
    assert done.returncode == 0, done.stderr
    assert f"sd-inpaint-{profile}:" in done.stdout
    assert "read_only: true" in done.stdout
