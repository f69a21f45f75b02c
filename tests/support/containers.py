"""The image in storage of the tests' own, and containers of it: what tests of the image and of what runs share."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.edge import HEALTH
from tests.support.processes import free_port, wait_for
from tests.support.repository import ROOT, tracked
from tests.support.tools import give_up, need

BUILD_SECONDS = 1200.0
START_SECONDS = 90.0

IMAGE = (sys.executable, "-P", "-m", "tools.release.image")
"""What scripts/image runs, of the repository that PYTHONPATH names."""

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
        """Builds the image of the demo model with a store of its own; gives name and digest."""
        kept = ROOT / "build" / "image"
        printed = self.run(
            *(*IMAGE, "--model", "demo", *options),
            *("--base", kept / "base-bookworm.tar", "--wheels", kept / "wheels-cpu"),
            timeout=BUILD_SECONDS,
            umask=umask,
            BENTOML_HOME=str(clone / "build" / "store"),
            PYTHONPATH=str(clone),
        )
        return printed.strip()

    def layers(self, image: str) -> list[str]:
        """The digests of an image's layers, the base first."""
        printed = self.run("podman", "image", "inspect", image, "--format", "{{json .RootFS.Layers}}")
        return list(json.loads(printed))


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Tools, base system and wheels; those two are kept in build/image for the next time."""
    if os.getuid() != 0:
        give_up("needs root, for mounts and cgroups")
    need("container-tools")
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
        made.run(*IMAGE, "--prepare", timeout=BUILD_SECONDS, PYTHONPATH=str(ROOT))
        yield made
    finally:
        quiet: dict[str, Any] = {"env": {**os.environ, **environment}, "capture_output": True, "check": False}
        subprocess.run(["podman", "rm", "--all", "--force", "--time", "0"], **quiet)
        subprocess.run(["podman", "image", "unmount", "--all", "--force"], **quiet)
        subprocess.run(["umount", folder / "storage" / "overlay"], **quiet)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Built:
    """Two builds of the same source, each from nothing but base system and wheels.

    Attributes:
        clone: The repository as it is now, in another folder.
        again: The same in a third, with settings of its builder's.
        image: Name of the first image.
        digest: Its digest.
        second: Name and digest of the other one; it is built while containers of the first are tested.
    """

    clone: Path
    again: Path
    image: str
    digest: str
    second: Future[str]

    @property
    def digest_again(self) -> str:
        """The second image's digest, as soon as there is one."""
        return self.second.result().partition("@")[2]


@pytest.fixture(scope="session")
def built(workshop: Workshop) -> Iterator[Built]:
    """The image of the demo model, twice."""
    clone = workshop.clone("clone")
    again = workshop.clone("another/folder", clone)
    (again / ".env").write_text("SD_INPAINT_DEADLINE_SECONDS=77\nSD_INPAINT_API_KEYS=secret\n", "ascii")
    image, _, digest = workshop.build(clone, "--no-cache").partition("@")
    with ThreadPoolExecutor() as pool:
        second = pool.submit(workshop.build, again, "--no-cache", "--tag", "localhost/again:1", umask=0o077)
        yield Built(clone, again, image, digest, second)


@pytest.fixture(scope="session")
def image(built: Built) -> str:
    """The image's name."""
    return built.image


@pytest.fixture(scope="session")
def root(workshop: Workshop, image: str) -> Path:
    """The image's files; not to be changed."""
    return Path(workshop.run("podman", "image", "mount", image).strip())


class Container:
    """The image, running, confined; answers on ``url``, if it has a network."""

    def __init__(self, workshop: Workshop, image: str, *options: str, network: bool = True) -> None:
        self._workshop = workshop
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        published = ("--network", "slirp4netns", "--publish", f"127.0.0.1:{port}:8000")
        options = (*CONFINED, *(published if network else ("--network", "none")), *options)
        self.id = workshop.run("podman", "run", "--detach", *options, image).strip()

    def wait(self) -> None:
        """Waits until health says that a request would be painted."""
        logs = partial(self._workshop.run, "podman", "logs", self.id)
        wait_for(self.url + HEALTH, seconds=START_SECONDS, log=logs)

    def stop(self) -> int:
        """Sends SIGTERM; gives the exit code."""
        self._workshop.run("podman", "stop", "--time", "100", self.id)
        return int(self._workshop.run("podman", "inspect", self.id, "--format", "{{.State.ExitCode}}"))
