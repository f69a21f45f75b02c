"""The image: built twice and compared, looked into, and run as a cluster would run it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import INPAINT, ROOT, check_shape, form, free_port, opened, photo
from test_scripts import tracked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUILD_SECONDS = 600.0
START_SECONDS = 90.0

CONTAINERS_CONF = """[containers]
netns = "host"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""What virtual machines without systemd need; on others it does no harm."""

CONFINED = (
    *("--user", "54321:0", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--memory", "3g", "--pids-limit", "300"),
)
"""As a cluster runs it: as a user that the image has never heard of, and who may do nothing."""


@dataclass
class Workshop:
    """Storage for containers that is nobody else's, and what both builds share.

    Attributes:
        folder: Holds everything; is deleted at the end.
        environment: For buildah, podman and skopeo.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, timeout: float = 120.0, umask: int = 0o022, **more: str) -> str:
        """Runs a command; gives what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            umask=umask,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def clone(self, name: str, source: Path | None = None) -> Path:
        """Makes a copy of the repository, or of another copy of it."""
        target = self.folder / name
        if source is not None:
            return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("build")))
        for path in tracked():
            (target / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.relative_to(ROOT))
        return target

    def build(self, clone: Path, *options: str, umask: int = 0o022) -> str:
        """Builds the image of the embedded model with a store of its own; gives name and digest."""
        kept = ROOT / "build" / "image"
        printed = self.run(
            *(sys.executable, clone / "scripts" / "image.py", "--model", "demo", *options),
            *("--base", kept / "base-bookworm.tar", "--wheels", kept / "wheels-cpu"),
            timeout=BUILD_SECONDS,
            umask=umask,
            BENTOML_HOME=str(clone / "build" / "store"),
        )
        return printed.strip()

    def layers(self, image: str) -> list[str]:
        """The digests of an image's layers, the base first."""
        printed = self.run("podman", "image", "inspect", image, "--format", "{{json .RootFS.Layers}}")
        return list(json.loads(printed))


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """Tools, base system and wheels; those two are kept in build/image for the next time."""
    if os.getuid() != 0:
        pytest.skip("needs root, for mounts and cgroups")
    tools = subprocess.run([ROOT / "scripts" / "container-tools"], capture_output=True, text=True, check=False)
    if tools.returncode != 0:
        pytest.skip(f"no container tools: {tools.stderr.strip()[-300:]}")
    folder = Path(tempfile.mkdtemp(prefix="sd-inpaint-image-"))
    (folder / "containers.conf").write_text(CONTAINERS_CONF, "ascii")
    storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
    (folder / "storage.conf").write_text(storage, "ascii")
    (folder / "tmp").mkdir()
    environment = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(folder / "tmp"),
    }
    made = Workshop(folder, environment)
    try:
        made.run(sys.executable, ROOT / "scripts" / "image.py", "--prepare", timeout=BUILD_SECONDS)
        yield made
    finally:
        quiet: dict[str, Any] = {"env": {**os.environ, **environment}, "capture_output": True, "check": False}
        subprocess.run(["podman", "rm", "--all", "--force", "--time", "0"], **quiet)
        subprocess.run(["podman", "image", "unmount", "--all", "--force"], **quiet)
        subprocess.run(["umount", folder / "storage" / "overlay"], **quiet)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Built:
    """Two builds of the same source, made side by side, each from nothing but base system and wheels.

    Attributes:
        clone: The repository as it is now, in another folder.
        again: The same in a third, with settings of its builder's.
        digest: Of the image of the first.
        digest_again: Of the second's.
        image: Name of the first.
    """

    clone: Path
    again: Path
    digest: str
    digest_again: str
    image: str


@pytest.fixture(scope="module")
def built(workshop: Workshop) -> Built:
    """The image of the embedded model, twice."""
    clone = workshop.clone("clone")
    again = workshop.clone("another/folder", clone)
    (again / ".env").write_text("SD_INPAINT_DEADLINE_SECONDS=77\nSD_INPAINT_API_KEYS=secret\n", "ascii")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(workshop.build, clone, "--no-cache")
        second = pool.submit(workshop.build, again, "--no-cache", "--tag", "localhost/again:1", umask=0o077)
        image, _, digest = first.result().partition("@")
        return Built(clone, again, digest, second.result().partition("@")[2], image)


@pytest.fixture(scope="module")
def image(built: Built) -> str:
    """The image's name."""
    return built.image


@pytest.fixture(scope="module")
def root(workshop: Workshop, image: str) -> Path:
    """The image's files; not to be changed."""
    return Path(workshop.run("podman", "image", "mount", image).strip())


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Path → mode and bytes of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes()) for path in files}


def test_same_source_gives_the_same_digest(built: Built) -> None:
    """Bento and image are the same to the byte when built again elsewhere, by a stricter umask, from nothing."""
    assert built.digest.startswith("sha256:")
    assert built.digest == built.digest_again
    first, again = (
        contents(folder / "build" / "store" / "bentos" / "sd-inpaint") for folder in (built.clone, built.again)
    )
    first.pop("latest")
    again.pop("latest")
    assert first == again


def test_changed_line_of_code_changes_only_the_last_layer(workshop: Workshop, built: Built) -> None:
    """Whoever has the image and pulls the next one gets the code, and neither dependencies nor weights again."""
    changed = workshop.clone("changed", built.clone)
    with (changed / "service.py").open("a", encoding="utf-8") as file:
        file.write("# One more line.\n")
    before, after = workshop.layers(built.image), workshop.layers(workshop.build(changed).partition("@")[0])
    assert len(before) == len(after) == 4
    assert before[:3] == after[:3]
    assert before[3] != after[3]


def test_holds_nothing_that_does_not_serve(root: Path) -> None:
    """No compiler, no installer, no cache, no setting of the builder's, and no name of an index."""
    packages = root / "app" / "venv" / "lib" / "python3.11" / "site-packages"
    for name in ("usr/bin/gcc", "usr/bin/git", "root/.cache", "app/venv/bin/pip", "app/bento/src/.env", "etc/pip.conf"):
        assert not (root / name).exists(), name
    assert not list((root / "etc" / "apt").glob("sources.list*"))
    assert not list(packages.glob("*.dist-info/direct_url.json"))
    assert not [path for path in (root / "app" / "bento").rglob("*") if "test" in path.name and path.is_file()]
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    foreign = set(re.findall(r"(?:https?|file)://[^\s'\"]+", configured))
    for text in (*packages.glob("*.dist-info/[A-Z]*"), *(root / "app" / "bento").rglob("*.y*ml")):
        if text.is_file():
            content = text.read_text("utf-8", errors="replace")
            assert not [name for name in foreign if name in content], text


def test_bytecode_is_valid_on_a_read_only_root(root: Path) -> None:
    """Dependencies come compiled, and valid whatever the files' times are; else each start would compile them again."""
    compiled = list((root / "app" / "venv").rglob("*.pyc"))
    assert len(compiled) > 1000
    # PEP 552: 1 is a hash that is not checked.
    assert {path.read_bytes()[4:8] for path in compiled} == {(1).to_bytes(4, "little")}


def test_says_what_it_is(workshop: Workshop, image: str) -> None:
    """A numeric user that is not root, port 8000, a health check, and labels with the version."""
    printed = workshop.run("podman", "image", "inspect", image)
    (config,) = json.loads(printed)
    assert config["User"] == "10001:10001"
    assert list(config["Config"]["ExposedPorts"]) == ["8000/tcp"]
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"]
    assert config["Labels"]["org.opencontainers.image.version"] == image.partition(":")[2]


class Container:
    """The image, running; answers on ``url``."""

    def __init__(self, workshop: Workshop, image: str, *options: str) -> None:
        self._workshop = workshop
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        network = ("--network", "slirp4netns", "--publish", f"127.0.0.1:{port}:8000")
        self.id = workshop.run("podman", "run", "--detach", *CONFINED, *(options or network), image).strip()

    def wait(self) -> None:
        """Waits until health says that a request would be painted."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/sd-inpaint/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(self._workshop.run("podman", "logs", self.id))

    def stop(self) -> int:
        """Sends SIGTERM; gives the exit code."""
        self._workshop.run("podman", "stop", "--time", "100", self.id)
        return int(self._workshop.run("podman", "inspect", self.id, "--format", "{{.State.ExitCode}}"))


def test_serves_as_anybody_who_may_do_nothing(workshop: Workshop, image: str) -> None:
    """With a read-only root, no capabilities, a strange user and limits, it paints, refuses, and ends what it began."""
    container = Container(workshop, image)
    container.wait()
    picture = opened(httpx.post(container.url + INPAINT, **form(), timeout=100).raise_for_status().content)
    assert np.array_equal(picture[0], np.asarray(photo())[0])
    check_shape(httpx.post(container.url + INPAINT, **form(mask=None), timeout=100), 400, "missing_field")
    workshop.run("podman", "healthcheck", "run", container.id)

    answers: list[httpx.Response] = []
    request = form(num_inference_steps="150", num_images="2")
    post = threading.Thread(target=lambda: answers.append(httpx.post(container.url + INPAINT, **request, timeout=100)))
    post.start()
    time.sleep(1.0)
    assert not answers, "the paint was over before SIGTERM came"
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
    container = Container(workshop, image, "--network", "none")
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


COMPOSE = """
import json, subprocess, sys, time
import httpx
from conftest import HEALTH, INPAINT, form

def compose(*arguments):
    done = subprocess.run([*sys.argv[1:], *arguments], capture_output=True, text=True, timeout=100)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)

url = "http://127.0.0.1:8000"
compose("up", "--detach")
try:
    for _ in range(300):
        try:
            if httpx.get(url + HEALTH, timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    print(httpx.post(url + INPAINT, **form(), timeout=100).status_code)
finally:
    compose("down", "--volumes")
"""
"""Runs in a network of its own, where port 8000 is free and the machine's own network is not touched."""


def test_compose_file_serves(workshop: Workshop, image: str) -> None:
    """podman-compose up with the file as it is answers a paint on the published port, and down leaves nothing."""
    tools = subprocess.run([ROOT / "scripts" / "deploy-tools"], capture_output=True, text=True, check=False)
    if tools.returncode != 0:
        pytest.skip(f"no podman-compose: {tools.stderr.strip()[-300:]}")
    networks = f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{workshop.folder}/networks"\n'
    own = workshop.folder / "compose.conf"
    own.write_text(CONTAINERS_CONF.replace('"host"', '"bridge"') + networks, "ascii")
    tool = ROOT / "build" / "tools" / "bin" / "podman-compose"
    printed = workshop.run(
        *("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
        *(sys.executable, "-c", COMPOSE, tool, "--file", ROOT / "deploy" / "compose.yaml", "--profile", "cpu"),
        timeout=300,
        CONTAINERS_CONF=str(own),
        INPAINT_IMAGE=image,
        INPAINT_MEMORY="3g",
        PYTHONPATH=str(ROOT / "tests"),
    )
    assert printed.split() == ["200"]
    assert "sd-inpaint-cpu" not in workshop.run("podman", "ps", "--all", "--format", "{{.Names}}")
