"""``scripts/setup``: what it says, and where it takes torch from."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.repository import ROOT, run


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


@dataclass(frozen=True)
class Sources:
    """A clone with a tiny torch in its locks, and the indexes that may have its files; each is a folder.

    Attributes:
        clone: Where ``scripts/setup`` is run.
        pypi: What pip is told of.
        pytorch: PyTorch's own.
    """

    clone: Path
    pypi: Path
    pytorch: Path

    def offer(self, index: Path, wheel: Path) -> None:
        """Puts a wheel of torch into an index."""
        folder = index / "torch"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, folder)
        links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in sorted(folder.glob("*.whl")))
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>", "ascii")

    def set_up(self) -> subprocess.CompletedProcess[str]:
        """Runs ``scripts/setup`` with nothing of this machine's own pip settings."""
        own = dict.fromkeys((name for name in os.environ if name.startswith("PIP_")), "")
        settings = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.pypi.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "TORCH_CPU_INDEX": self.pytorch.as_uri(),
        }
        return run(self.clone / "scripts" / "setup", cwd=self.clone.parent, **(own | settings))

    def installed(self) -> str:
        """The version of torch in the clone's environment."""
        command = "import torch; print(torch.__version__)"
        return run(self.clone / ".venv" / "bin" / "python", "-c", command).stdout.strip()


def make_wheel(folder: Path, name: str, version: str, *, content: str = "") -> Path:
    """Makes a wheel of one module with its version, and ``content`` after that."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f'__version__ = "{version}"\n{content}',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = [f"{path},sha256={digest.decode().rstrip('=')},{len(files[path])}" for path, digest in digests.items()]
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in (files | {f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,"])}).items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip and nothing else; not to be changed."""
    folder = tmp_path_factory.mktemp("environment") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    """The wheel of the CPU build that the lock has the hash of."""
    return make_wheel(tmp_path / "wheels", "torch", "2.13.0+cpu")


@pytest.fixture
def sources(tmp_path: Path, environment: Path, cpu: Path) -> Sources:
    """A clone whose locks hold a tiny torch; PyPI has the CUDA build of it, and PyTorch's index nothing."""
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", clone / "scripts")
    shutil.copytree(environment, clone / ".venv", symlinks=True)
    cuda = make_wheel(tmp_path / "wheels", "torch", "2.13.0")
    (clone / "requirements").mkdir()
    for lock, wheel in (("torch-cpu", cpu), ("cpu", cpu), ("cuda", cuda)):
        version, digest = wheel.name.split("-")[1], hashlib.sha256(wheel.read_bytes()).hexdigest()
        pin = f"torch=={version} \\\n    --hash=sha256:{digest}\n"
        (clone / "requirements" / f"{lock}.txt").write_text(pin, "ascii")
    own = make_wheel(clone, "own", "1.0")
    (clone / "backend.py").write_text(
        "import shutil\n"
        "def build_editable(folder, settings=None, metadata=None):\n"
        f"    return shutil.copy({own.name!r}, folder) and {own.name!r}\n",
        "ascii",
    )
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n', "ascii"
    )
    made = Sources(clone, tmp_path / "pypi", tmp_path / "pytorch")
    made.offer(made.pypi, cuda)
    return made


@pytest.mark.slow
class TestTorch:
    """Where ``scripts/setup`` takes torch for the CPU from: a real pip, and indexes in folders."""

    def test_what_pip_finds_is_taken_first(self, sources: Sources, cpu: Path) -> None:
        """Where pip's own sources have the CPU build, no other index is asked."""
        sources.offer(sources.pypi, cpu)
        done = sources.set_up()
        assert done.returncode == 0, done.stdout + done.stderr
        assert sources.installed() == "2.13.0+cpu"
        assert "torch is the CPU build, as pip found it" in done.stderr
        assert sources.pytorch.as_uri() not in done.stdout + done.stderr

    def test_then_pytorchs_own_index(self, sources: Sources, cpu: Path) -> None:
        """A machine that knows only PyPI gets the CPU build from PyTorch's index, and one line says so."""
        sources.offer(sources.pytorch, cpu)
        done = sources.set_up()
        assert done.returncode == 0, done.stdout + done.stderr
        assert sources.installed() == "2.13.0+cpu"
        assert f"torch is the CPU build, from {sources.pytorch.as_uri()}" in done.stderr
        assert "CUDA" not in done.stderr
        assert (sources.set_up().stdout, sources.set_up().stderr) == ("", "")

    def test_then_the_cuda_build(self, sources: Sources) -> None:
        """Where neither has it, torch is PyPI's build with CUDA, and one line says that and why."""
        done = sources.set_up()
        assert done.returncode == 0, done.stdout + done.stderr
        assert sources.installed() == "2.13.0"
        assert "torch is the CUDA build (3 GB), since the CPU build is neither where pip looks nor at" in done.stderr

    def test_another_file_of_the_same_name_is_not_taken(self, sources: Sources, tmp_path: Path) -> None:
        """Who serves the file needs no trust: what has another hash than the lock's is refused."""
        sources.offer(
            sources.pytorch, make_wheel(tmp_path / "other", "torch", "2.13.0+cpu", content="changed = True\n")
        )
        done = sources.set_up()
        assert sources.installed() == "2.13.0"
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
        assert "torch is the CUDA build" in done.stderr

    def test_packages_are_compiled(self, sources: Sources, cpu: Path) -> None:
        """The first start is as quick as any other: nothing has to be compiled for it."""
        sources.offer(sources.pypi, cpu)
        assert sources.set_up().returncode == 0
        assert list((sources.clone / ".venv" / "lib").rglob("__pycache__/torch.*.pyc"))

    def test_index_is_pytorchs_by_default(self) -> None:
        """Without a word from the operator it is the one that PyTorch's own page names."""
        text = (ROOT / "scripts" / "setup").read_text("utf-8")
        assert "torch_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}\n" in text
