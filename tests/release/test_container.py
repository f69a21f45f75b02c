"""The image, run: as a cluster would run it, by podman-compose, and as the pod of the Helm chart."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.containers import CONTAINERS_CONF, START_SECONDS, Container, Workshop
from tests.support.edge import INPAINT, check_shape, form
from tests.support.pictures import opened, photo
from tests.support.repository import ROOT
from tests.support.served import SERVER_BODY_BYTES
from tests.support.tools import need

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def container(workshop: Workshop, image: str) -> Container:
    """One container for the tests of its life, from its first request to its end, in their order."""
    made = Container(workshop, image, "--env", f"SD_INPAINT_MAX_BODY_BYTES={SERVER_BODY_BYTES}")
    made.wait()
    return made


def test_serves_as_anybody_who_may_do_nothing(workshop: Workshop, container: Container) -> None:
    """With a read-only root, no capabilities, a strange user and limits, it paints, refuses, and is found healthy."""
    picture = opened(httpx.post(container.url + INPAINT, **form(), timeout=100).raise_for_status().content)
    assert np.array_equal(picture[0], np.asarray(photo())[0])
    check_shape(httpx.post(container.url + INPAINT, **form(mask=None), timeout=100), 400, "missing_field")
    workshop.run("podman", "healthcheck", "run", container.id)


def test_keeps_the_contract(container: Container) -> None:
    """Confined like that, it passes the project's own tests of the contract, asked from outside."""
    modules = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.contract" in path.read_text("utf-8")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--url", container.url, *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 150


def test_ends_what_it_began(container: Container) -> None:
    """A stop in the middle of a request waits for its picture, and is an exit in order."""
    answers: list[httpx.Response] = []
    request = form(num_inference_steps="150", num_images="2")
    post = threading.Thread(target=lambda: answers.append(httpx.post(container.url + INPAINT, **request, timeout=100)))
    post.start()
    time.sleep(1.0)
    assert not answers, "the request was over before SIGTERM came"
    assert container.stop() == 0
    post.join()
    assert answers[0].status_code == 200


def test_ends_at_once_where_it_has_hardly_begun(workshop: Workshop, image: str) -> None:
    """A SIGTERM before Python has set up its handlers is not lost, so that no grace period is waited out."""
    container = Container(workshop, image)
    started = time.monotonic()
    container.stop()
    assert time.monotonic() - started < 30


def test_starts_without_any_network(workshop: Workshop, image: str) -> None:
    """With not even a network card, its own health check finds it healthy."""
    container = Container(workshop, image, network=False)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["podman", "healthcheck", "run", container.id],
            env={**os.environ, **workshop.environment},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            break
        time.sleep(0.5)
    assert done.returncode == 0, workshop.run("podman", "logs", container.id)
    assert container.stop() == 0


SERVE = """
import json, subprocess, sys, time
import httpx
from tests.support.edge import HEALTH, INPAINT, form

def call(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout

up, down, image, key = json.loads(sys.argv[1])
url = "http://127.0.0.1:8000"
call(*up)
try:
    for _ in range(300):
        try:
            if httpx.get(url + HEALTH, timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    headers = [{}, {"X-API-Key": key}]
    statuses = [httpx.post(url + INPAINT, headers=sent, **form(), timeout=100).status_code for sent in headers]
    running = call("podman", "ps", "--quiet", "--filter", "ancestor=" + image).split()
    (container,) = json.loads(call("podman", "inspect", *running))
    host = container["HostConfig"]
    print(json.dumps([statuses, host["ReadonlyRootfs"], host["Memory"], container["EffectiveCaps"]]))
finally:
    call(*down)
"""
"""Runs in a network of its own, where port 8000 is free and the machine's own network is not touched."""

KEY = "k-123"

MEMORY = 3 << 30
"""Bytes."""

Command = list[str | Path]


def serve(
    workshop: Workshop, image: str, up: list[str | Path], down: list[str | Path], **environment: str
) -> list[int]:
    """Has one container come up and paint, and looks at how it is confined; gives the status without and with a key."""
    networks = f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{workshop.folder}/networks"\n'
    own = workshop.folder / "bridge.conf"
    own.write_text(CONTAINERS_CONF.replace('"host"', '"bridge"') + networks, "ascii")
    printed = workshop.run(
        *("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
        *(sys.executable, "-c", SERVE, json.dumps([up, down, image, KEY], default=str)),
        timeout=300,
        CONTAINERS_CONF=str(own),
        PYTHONPATH=f"{ROOT}:{ROOT / 'src'}",
        **environment,
    )
    statuses, read_only, memory, capabilities = json.loads(printed)
    assert (read_only, memory, capabilities or []) == (True, MEMORY, [])
    return list(statuses)


@pytest.fixture(scope="module")
def tools() -> Path:
    """Where helm and podman-compose are."""
    need("deploy-tools")
    return ROOT / "build" / "tools" / "bin"


def test_compose_file_serves(workshop: Workshop, image: str, tools: Path) -> None:
    """podman-compose up with the file as it is answers a paint on the published port, and down leaves nothing."""
    compose: Command = [
        tools / "podman-compose",
        "--file",
        ROOT / "deploy" / "compose.yaml",
        "--profile",
        "cpu",
    ]
    up, down = [*compose, "up", "--detach"], [*compose, "down", "--volumes"]
    assert serve(workshop, image, up, down, INPAINT_IMAGE=image, INPAINT_MEMORY=str(MEMORY)) == [200, 200]
    assert "sd-inpaint-cpu" not in workshop.run("podman", "ps", "--all", "--format", "{{.Names}}")


def test_pod_of_the_chart_serves(workshop: Workshop, image: str, tools: Path) -> None:
    """What Helm renders runs as a pod, as it is: it paints for who has the key of its Secret, and for nobody else."""
    repository, _, tag = image.partition(":")
    values = {"image.repository": repository, "image.tag": tag, "apiKeys.existingSecret": "keys"}
    values |= {"resources.limits.memory": str(MEMORY)}
    options = (part for name, value in values.items() for part in ("--set-string", f"{name}={value}"))
    manifest = workshop.folder / "pod.yaml"
    manifest.write_text(
        workshop.run(
            tools / "helm", "template", "shop", "--no-hooks", ROOT / "deploy" / "helm" / "sd-inpaint", *options
        ),
        "utf-8",
    )
    # In Kubernetes' own form; what podman makes of a Secret's manifest, some of its versions cannot read.
    secret = workshop.folder / "keys.json"
    secret.write_text(json.dumps({"SD_INPAINT_API_KEYS": base64.b64encode(KEY.encode()).decode()}), "ascii")
    workshop.run("podman", "secret", "create", "keys", secret)
    up, down = (["podman", "kube", verb, manifest] for verb in ("play", "down"))
    assert serve(workshop, image, up, down) == [401, 200]
    assert "shop" not in workshop.run("podman", "ps", "--all", "--format", "{{.Names}}")
