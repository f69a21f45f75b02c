"""What ``scripts/release`` makes: a wheel that needs no clone, the same bytes each time, and a list of its packages."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import sd_inpaint
from sd_inpaint.diffusion.sources import sha256
from tests.support.processes import free_port, wait_for
from tests.support.repository import ROOT, pins, run, tracked
from tools.release import version
from tools.release.__main__ import release_problems

WATCH = """
import os, sys
_log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _write(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(_log, (os.path.abspath(arguments[0]) + "\\n").encode())
sys.addaudithook(_write)
"""
"""Has every Python of an environment write down each file that it opens."""


@dataclass(frozen=True)
class Release:
    """What one run of the command made.

    Attributes:
        folder: With everything.
        printed: On stderr.
    """

    folder: Path
    printed: str

    def file(self, pattern: str) -> Path:
        """The one file with such a name."""
        (found,) = self.folder.glob(pattern)
        return found


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of the tree as it is, for which nobody has set a tag."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = run("scripts/release", "--dry-run", "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return Release(folder, done.stderr)


@pytest.fixture
def environment(release: Release, tmp_path: Path) -> Path:
    """A virtual environment with the wheel, and this one's dependencies; it does not see the source."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", release.file("*.whl")], check=True, env=clean())
    (packages,) = folder.glob("lib/python*/site-packages")
    # Files named in a .pth are on the path, but no .pth among them is read: an editable install's is not.
    (packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    (packages / "sitecustomize.py").write_text(WATCH)
    return folder


def clean(**added: str) -> dict[str, str]:
    """This process's environment, without what leads to the clone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | added


def test_wheel_holds_the_package_and_its_licences(release: Release) -> None:
    """The code, the page, the demo model, the command and the licences are in it; tests and tools are not."""
    with zipfile.ZipFile(release.file("*.whl")) as wheel:
        held = set(wheel.namelist())
        entries = wheel.read(next(name for name in held if name.endswith("entry_points.txt"))).decode()
    package = {path.relative_to(ROOT / "src").as_posix() for path in tracked() if path.is_relative_to(ROOT / "src")}
    assert {name for name in held if ".dist-info/" not in name} == package
    assert {"LICENSE", "MODEL-LICENSE.md"} <= {Path(name).name for name in held}
    assert "sd-inpaint = sd_inpaint.cli.application:main" in entries


def test_same_source_gives_the_same_bytes(release: Release, tmp_path: Path) -> None:
    """Another run, at another time and with another umask, makes the same files."""
    before = os.umask(0o077)
    try:
        done = run("scripts/release", "--dry-run", "--output", str(tmp_path))
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    sums = (tmp_path / "SHA256SUMS").read_text("ascii")
    assert sums == (release.folder / "SHA256SUMS").read_text("ascii")
    for line in sums.splitlines():
        digest, name = line.split()
        assert sha256(tmp_path / name) == digest


def test_list_of_packages_is_the_lock(release: Release) -> None:
    """The CycloneDX file names the wheel by its digest, and each locked package with its version and hashes."""
    held = json.loads(release.file("*.cdx.json").read_text("utf-8"))
    assert (held["bomFormat"], held["metadata"]["component"]["name"]) == ("CycloneDX", "sd-inpaint")
    assert held["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": sha256(release.file("*.whl"))}]
    lock = ROOT / "requirements" / "cpu.txt"
    listed: dict[str, set[str]] = {}
    for component in held["components"]:
        listed.setdefault(component["name"], set()).add(component["version"])
    assert listed == pins(lock)
    hashes = {
        each["content"] for part in held["components"] for ref in part["externalReferences"] for each in ref["hashes"]
    }
    assert hashes == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock.read_text("utf-8")))
    (root,) = (each for each in held["dependencies"] if each["ref"] == "sd-inpaint")
    assert len(root["dependsOn"]) == len(held["components"])


def test_dry_run_says_what_keeps_it_from_being_a_release(release: Release) -> None:
    """The wheel's version is the tag's or names the commit, and each thing that a release still lacks is said."""
    built = version.source_version()
    assert release.file("*.whl").name.startswith(f"sd_inpaint-{built}-")
    missing = release_problems(built, (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert release.printed == "".join(f"Not a release yet: {each}\n" for each in missing)


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("v0.2.0-0-g1a2b3c4", "0.2.0"),
        ("v0.2.0rc1-0-g1a2b3c4", "0.2.0rc1"),
        ("v0.2.0-0-g1a2b3c4-dirty", "0.2.0+0.g1a2b3c4.dirty"),
        ("v0.2.0-7-g1a2b3c4", "0.2.0+7.g1a2b3c4"),
        ("1a2b3c4", "0.1.0+g1a2b3c4"),
        ("1a2b3c4-dirty", "0.1.0+g1a2b3c4.dirty"),
        ("", "0.1.0"),
    ],
)
def test_version_is_the_tags(described: str, expected: str) -> None:
    """On a tag the version is the tag's; after it, and without one, it says from which commit it was built."""
    assert version.version_of(described, fallback="0.1.0") == expected


def test_version_in_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git says which tag a commit has; in a folder that is no clone, the version is the one in the source."""
    monkeypatch.setattr(version, "ROOT", tmp_path)
    assert version.source_version() == sd_inpaint.__version__
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    own |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git = functools.partial(run, "git", cwd=tmp_path, **own)
    git("init", "-q")
    (tmp_path / "file").touch()
    git("add", ".")
    git("commit", "-qm", "one")
    assert re.fullmatch(re.escape(sd_inpaint.__version__) + r"\+g[0-9a-f]{7}", version.source_version())
    git("tag", "v9.8.7")
    assert version.source_version() == "9.8.7"
    (tmp_path / "file").write_text("changed")
    assert re.fullmatch(r"9\.8\.7\+0\.g[0-9a-f]{7}\.dirty", version.source_version())
    git("commit", "-qam", "two")
    assert re.fullmatch(r"9\.8\.7\+1\.g[0-9a-f]{7}", version.source_version())


@pytest.mark.parametrize(
    ("tag", "changelog", "words"),
    [
        ("0.2.0", "## [Unreleased]\n\n## [0.2.0] - 2026-11-26\n", None),
        ("0.2.0+7.g1a2b3c4", "## [Unreleased]\n\n## [0.2.0] - 2026-11-26\n", "with a tag"),
        ("0.2.0", "## [Unreleased]\n\n## [0.1.0] - 2026-11-26\n", "newest version in CHANGELOG.md is 0.1.0"),
        ("0.2.0", "## [Unreleased]\n\n## [0.2.0]\n", "no date"),
        ("0.2.0", "## [Unreleased]\n\n- More.\n\n## [0.2.0] - 2026-11-26\n", "under Unreleased"),
    ],
)
def test_release_needs_a_tag_and_its_changes(tag: str, changelog: str, words: str | None) -> None:
    """A release has a tag, a dated entry in the changelog of the same version, and nothing left under Unreleased."""
    problems = release_problems(tag, changelog)
    assert len(problems) == (words is not None)
    assert words is None or words in problems[0]


def test_sdist_builds_the_same_package(tmp_path: Path) -> None:
    """A source archive holds what a wheel is built from, without git and without a tag."""
    clone = tmp_path / "clone"
    for name in ("pyproject.toml", "README.md", "LICENSE", "MODEL-LICENSE.md"):
        clone.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, clone)
    shutil.copytree(ROOT / "src" / "sd_inpaint", clone / "src" / "sd_inpaint", ignore=shutil.ignore_patterns("*.pyc"))
    # Hooks of PEP 517, as pip calls them.
    hook = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"
    sdist = run(sys.executable, "-c", hook.format("build_sdist"), str(tmp_path), cwd=clone)
    assert sdist.returncode == 0, sdist.stderr
    name = sdist.stdout.splitlines()[-1]
    assert name == f"sd_inpaint-{sd_inpaint.__version__}.tar.gz"
    shutil.unpack_archive(tmp_path / name, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    wheel = run(sys.executable, "-c", hook.format("build_wheel"), str(tmp_path), cwd=source)
    assert wheel.returncode == 0, wheel.stderr
    with zipfile.ZipFile(tmp_path / wheel.stdout.splitlines()[-1]) as built:
        held = {name for name in built.namelist() if ".dist-info/" not in name}
    assert held == {p.relative_to(ROOT / "src").as_posix() for p in tracked() if p.is_relative_to(ROOT / "src")}


@pytest.mark.slow
def test_installed_wheel_serves_from_any_folder(release: Release, environment: Path, tmp_path: Path) -> None:
    """With the wheel only, one command serves page and demo model; no code is from the clone or the current folder."""
    current, opened, log, port = tmp_path / "current", tmp_path / "opened", tmp_path / "serve.log", free_port()
    current.mkdir()
    hostile = [current / f"{name}.py" for name in ("sd_inpaint", "json", "torch")]
    for path in hostile:
        path.write_text("raise SystemExit('this is the wrong one')", "ascii")
    (current / ".env").write_text("SD_INPAINT_STATE_DIR=state", "ascii")
    homes = {name: str(tmp_path / name) for name in ("BENTOML_HOME", "XDG_CACHE_HOME", "HF_HOME")}
    command = [str(environment / "bin" / "sd-inpaint"), "serve", "--demo", "--offline", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=current, env=clean(OPENED=str(opened), **homes), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/sd-inpaint/health", seconds=120, log=log.read_text, is_running=lambda: server.poll() is None)
        served = httpx.get(f"{url}/sd-inpaint/info").json()["version"]
        assert release.file("*.whl").name.startswith(f"sd_inpaint-{served}-")
        assert httpx.get(f"{url}/").text.startswith("<!doctype html>")
        photo, mask = ((ROOT / "docs" / name).read_bytes() for name in ("photo.jpg", "mask.png"))
        answer = httpx.post(
            f"{url}/sd-inpaint/inpaint",
            files={"image": photo, "mask": mask},
            data={"prompt": "a rose", "num_inference_steps": "1"},
            timeout=120,
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    finally:
        server.terminate()
        server.wait(60)
    assert {path.name for path in current.iterdir()} == {"state", ".env", *(path.name for path in hostile)}
    files = {Path(line) for line in opened.read_text().splitlines()}
    assert any(path.is_relative_to(environment) and path.match("demo_model/unet/config.json") for path in files)
    dependencies = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    ours = [p for p in files if p.is_relative_to(ROOT) and not any(p.is_relative_to(each) for each in dependencies)]
    assert not ours
