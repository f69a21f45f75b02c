"""The repository itself: what its scripts promise, and that its files agree with one another."""

import ast
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sd_inpaint
from conftest import ROOT, free_port
from sd_inpaint.http.errors import STATUSES
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings

README = (ROOT / "README.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and not p.suffix)

FOREIGN = {
    "an index": re.compile(
        r"(?:pythonhosted|pypi|pytorch)\.org/(?!project/)|registry\.npmjs|--(?:extra-)?index-url|--find-links"
    ),
    "a machine": re.compile(r"(?<![\w.])/(?:root|work|opt|home)/\w"),
}


def setting_name(field: str) -> str:
    """The name of a setting in the environment."""
    return "LOAD_SD_INPAINT" if field == "load" else f"SD_INPAINT_{field}".upper()


SETTINGS = {setting_name(name): field for name, field in Settings.model_fields.items()}


def pins(lock: Path) -> dict[str, set[str]]:
    """Name → locked versions; torch has one for each platform."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^ ;\\\n]+)", lock.read_text("utf-8"), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, wherever it does."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def tracked() -> Iterator[Path]:
    """Every file that is in the repository, or would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return (path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; gives what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestSettings:
    """Each setting, in each place that tells of it."""

    def test_example_names_each_setting_once_with_its_default(self) -> None:
        """Whoever copies .env.example and removes every comment sign has the defaults."""
        lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
        assert sorted(name for name, _ in lines) == sorted(SETTINGS)
        given = {name: value for name, value in lines if value}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            assert Settings.read(None) == Settings(_env_file=None)  # type: ignore[call-arg]  # added at run time
        unset = {name for name, value in lines if not value}
        assert unset == {name for name, field in SETTINGS.items() if field.default in (None, ())}

    def test_example_says_something_about_each_setting(self) -> None:
        """Above each line there is one that says what it sets."""
        lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
        for above, line in itertools.pairwise(lines):
            if re.match(r"#?[A-Z_]+=", line):
                assert above.startswith("# "), line

    def test_readme_has_a_row_for_each_setting(self) -> None:
        """The configuration table has each setting with its default."""
        rows = dict(re.findall(r"^\| `((?:LOAD_)?SD_INPAINT\w*)` \| (.+?) \|", README, re.MULTILINE))
        assert rows.keys() == SETTINGS.keys()
        for name, field in SETTINGS.items():
            if field.default not in (None, ()):
                shown = rows[name].strip("`")
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(name, shown)
                    assert Settings.read(None) == Settings(_env_file=None), name  # type: ignore[call-arg]  # as above


class TestReadme:
    """What the README says is so."""

    def test_every_parameter_has_a_row(self) -> None:
        """The table of fields has each parameter, its bounds and its choices."""
        rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", README, re.MULTILINE))
        assert {*InpaintParameters.model_fields, "image", "mask"} <= rows.keys()
        for name, field in InpaintParameters.model_fields.items():
            if isinstance(field.default, StrEnum):
                assert all(f"`{choice}`" in rows[name] for choice in type(field.default)), name
            for bound in field.metadata:
                limit = getattr(bound, "ge", getattr(bound, "le", getattr(bound, "max_length", None)))
                if limit is not None and limit < 2**32:
                    assert f"{limit:g}" in rows[name].replace(",", ""), f"{name}: {limit}"

    def test_every_listed_code_has_its_status(self) -> None:
        """The table of errors agrees with the one the server answers by."""
        rows = re.findall(r"^\| (\d{3}(?:, \d{3})*) \| (.+) \|$", README, re.MULTILINE)
        listed = {
            code: {int(s) for s in statuses.split(", ")}
            for statuses, codes in rows
            for code in re.findall(r"`(\w+)`", codes)
        }
        assert len(listed) > 20
        for code, statuses in listed.items():
            assert STATUSES[code] in statuses, code

    def test_every_module_has_a_row(self) -> None:
        """The table of files says of each module what it holds, so that a line of code finds its place."""
        rows = set(re.findall(r"`([a-z_]+\.py)`", README))
        modules = {path.name for path in (ROOT / "src" / "sd_inpaint").glob("*.py")} - {"__init__.py"}
        assert rows == modules | {"service.py"}

    def test_every_link_leads_somewhere(self) -> None:
        """No link within the repository is dead."""
        for page in (ROOT / "README.md", ROOT / "MODEL-LICENSE.md", *(ROOT / "docs").glob("*.md")):
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
                assert (page.parent / target).exists(), f"{page.name} → {target}"

    def test_the_demo_sends_what_the_readme_shows(self) -> None:
        """Photo, mask and prompt of scripts/demo are those of the README's curl."""
        demo = (ROOT / "scripts" / "demo.py").read_text("utf-8")
        prompt = re.search(r'^PROMPT = "(.+)"$', demo, re.MULTILINE)
        assert prompt
        assert f'-F "prompt={prompt[1]}"' in README
        for name in ("photo.jpg", "mask.png"):
            assert f'"docs" / "{name}"' in demo
            assert f"@docs/{name}" in README


class TestDependencies:
    """What is installed is what was locked."""

    @pytest.mark.parametrize("name", ["cpu", "cuda", "dev"])
    def test_lock_holds_what_pyproject_asks_for(self, name: str) -> None:
        """Each dependency is in the lock, in a version that pyproject.toml allows, with hashes for all."""
        lock = ROOT / "requirements" / f"{name}.txt"
        locked = pins(lock)
        wanted = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
        if name == "dev":
            wanted += [Requirement(line) for line in PYPROJECT["project"]["optional-dependencies"]["dev"]]
        for requirement in wanted:
            for version in locked[canonicalize_name(requirement.name)]:
                assert requirement.specifier.contains(version), f"{requirement} is locked to {version}"
        blocks = re.split(r"\n(?=\S)", lock.read_text("utf-8").strip())
        assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))

    def test_locks_agree(self) -> None:
        """Tests run with what is served; CUDA serves with what the CPU does, but for torch."""
        cpu, cuda, dev = (pins(ROOT / "requirements" / f"{name}.txt") for name in ("cpu", "cuda", "dev"))
        assert cpu.items() <= dev.items()
        assert {k: v for k, v in cpu.items() if k != "torch"}.items() <= cuda.items()

    def test_cpu_lock_can_never_take_a_cuda_build(self) -> None:
        """Without the CPU wheel, an install stops; it does not download gigabytes."""
        assert pins(ROOT / "requirements" / "cpu.txt")["torch"] == {"2.13.0+cpu", "2.13.0"}
        assert 'torch==2.13.0 ; sys_platform == "darwin"' in (ROOT / "requirements" / "cpu.txt").read_text("utf-8")
        assert not any(name.startswith(("nvidia-cu", "triton")) for name in pins(ROOT / "requirements" / "cpu.txt"))

    @pytest.mark.parametrize("extra", ["", "dev"])
    def test_every_import_is_a_declared_dependency(self, extra: str) -> None:
        """Nothing is imported that only comes along with something else."""
        lines = list(PYPROJECT["project"]["dependencies"])
        paths = [ROOT / "service.py", *(ROOT / "src").rglob("*.py")]
        if extra:
            lines += PYPROJECT["project"]["optional-dependencies"][extra]
            paths = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
        declared = {canonicalize_name(Requirement(line).name) for line in lines}
        owners = packages_distributions()
        own = {"sd_inpaint", "service", *(path.stem for path in paths)}
        for path in paths:
            for top in imported(path) - own - sys.stdlib_module_names:
                names = {canonicalize_name(name) for name in owners[top]}
                assert declared & names, f"{path.name} imports {top}, of {names}"

    def test_oldest_python_is_the_one_that_is_locked(self) -> None:
        """The locks are made with the oldest Python that pyproject.toml allows, which has the least to choose from."""
        assert SpecifierSet(PYPROJECT["project"]["requires-python"]) == SpecifierSet(">=3.11")


class TestFiles:
    """What is in the repository."""

    def test_nothing_of_one_machine(self) -> None:
        """No file names an index or a path of the machine it was made on; PyTorch's public one is named once."""
        for path in tracked():
            if path == Path(__file__) or path.suffix in (".safetensors", ".png", ".jpg", ".npz"):
                continue
            text = path.read_text("utf-8")
            for what, pattern in FOREIGN.items():
                found = pattern.search(text)
                if path.parent.name == "scripts" and found and found[0].startswith("--"):
                    continue  # an option of a command
                assert not found, f"{path.relative_to(ROOT)} names {what}: {found and found[0]}"

    def test_changelog_has_the_version(self) -> None:
        """The newest version in CHANGELOG.md is the code's."""
        versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
        assert versions[0] == sd_inpaint.__version__

    def test_scripts_can_be_run(self) -> None:
        """Each script is executable and says in its second line what it does."""
        assert {"setup", "demo", "serve", "test", "check", "lock", "build"} <= {path.name for path in SCRIPTS}
        for path in SCRIPTS:
            first, second, *_ = path.read_text("utf-8").splitlines()
            assert os.access(path, os.X_OK), path
            assert first.startswith("#!/usr/bin/env "), path
            assert second.startswith("# "), path

    def test_ci_runs_check_and_test_and_nothing_else(self) -> None:
        """What CI does, anybody can do with two commands."""
        lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
        assert lines[-2:] == ["scripts/check", "scripts/test"]
        assert len(lines) == 5


class TestSetup:
    """``scripts/setup``."""

    def test_is_quick_where_nothing_is_to_be_done(self) -> None:
        """A second set-up, also for less than is there, takes less than a second and prints nothing."""
        assert run("scripts/setup", "dev").returncode == 0
        for variant in ("dev", "cpu"):
            started = time.monotonic()
            done = run("scripts/setup", variant)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert time.monotonic() - started < 1.0

    def test_says_so_where_there_is_no_python(self, tmp_path: Path) -> None:
        """Without Python 3.11, one line says what is missing and one what to do."""
        commands = tmp_path / "bin"
        commands.mkdir()
        for name in ("bash", "dirname", "cksum", "cat", "mkdir"):
            found = shutil.which(name)
            assert found
            (commands / name).symlink_to(found)
        clone = tmp_path / "clone"
        shutil.copytree(ROOT / "scripts", clone / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "requirements", clone / "requirements")
        shutil.copy(ROOT / "pyproject.toml", clone)
        done = run(clone / "scripts" / "setup", cwd=tmp_path, PATH=str(commands))
        assert done.returncode == 1
        assert "No Python 3.11 or newer was found" in done.stderr
        assert "PYTHON=" in done.stderr
        assert not (clone / ".venv").exists()

    def test_refuses_a_variant_it_does_not_know(self) -> None:
        """A typo is a usage error, not a set-up of something else."""
        done = run("scripts/setup", "gpu")
        assert (done.returncode, done.stderr) == (2, "usage: scripts/setup [cpu|cuda|dev]\n")


class TestDemo:
    """``scripts/demo``."""

    def test_refuses_a_taken_port(self, tmp_path: Path) -> None:
        """Where the port is taken, the demo says so and how to take another, and touches nothing."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = run(ROOT / "scripts" / "demo", "--once", "--port", str(port), cwd=tmp_path)
        assert done.returncode == 1
        assert f"Port {port} cannot be used" in done.stderr
        assert "--port" in done.stderr
        assert not any(tmp_path.iterdir())

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_once_paints_and_stops(self, tmp_path: Path) -> None:
        """One command gives result.png in the current folder, of the photo's size, and leaves no server behind."""
        port = free_port()
        done = subprocess.run(
            [ROOT / "scripts" / "demo", "--once", "--port", str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"The result is {tmp_path / 'result.png'}" in done.stdout
        assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/livez")
