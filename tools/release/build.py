"""Makes the Bento from a copy of what serves, so that nothing else of this machine gets in."""

import argparse
import contextlib
import datetime as dt
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import bentoml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sd_inpaint
from sd_inpaint.diffusion import sources
from sd_inpaint.model_store.store import EPOCH, open_to_all
from sd_inpaint.settings import DEMO_MODEL
from tools import ROOT

REAL = "real"
VARIANTS = ("cpu", "cuda")


def main() -> None:
    """Builds, and says what was built."""
    parser = argparse.ArgumentParser(prog="scripts/build", description=__doc__)
    parser.add_argument("--model", help=f"weights to bake in: {DEMO_MODEL}, {REAL} or sd-inpaint:VERSION")
    parser.add_argument("--variant", choices=VARIANTS, default="cpu", help="which lock is installed in the image")
    parser.add_argument("--version", help="of the Bento; by default the package's and a digest of the content")
    parser.add_argument("--output", choices=("default", "tag"), default="default", help="tag prints only the tag")
    args = parser.parse_args()
    lock = f"requirements/{args.variant}.txt"
    check_lock(lock)
    tag = model_tag(args.model)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        names = write_options(stage, lock, args.model, tag)
        copy_sources(stage, names)
        version = args.version or f"{sd_inpaint.__version__}-{content_digest(stage)[:12]}"
        bento = build(stage, version, source_time(names))
    print(f"__tag__:{bento.tag}" if args.output == "tag" else f"{bento.tag} is in {bento.path}")


def check_lock(lock: str) -> None:
    """Stops where the lock is not what pyproject.toml asks for."""
    lines = (ROOT / lock).read_text("utf-8").splitlines()
    locked: dict[str, set[str]] = {}
    for name, _, rest in (line.partition("==") for line in lines if line[:1].isalnum()):
        locked.setdefault(canonicalize_name(name), set()).add(rest.split()[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        found = locked.get(canonicalize_name(wanted.name), set())
        if not found or not all(wanted.specifier.contains(version) for version in found):
            sys.exit(
                f"{lock} has {wanted.name} {', '.join(found) or 'not at all'}, pyproject.toml wants {wanted}.\n"
                "Run scripts/lock."
            )


def model_tag(model: str | None) -> str | None:
    """Gives the tag in BentoML's model store of what is baked in, None where nothing of it is."""
    if model in (None, DEMO_MODEL):
        return None
    tag = f"{sources.STORE_NAME}:{sources.PINNED_REVISION}" if model == REAL else model
    name, _, version = tag.partition(":")
    if name != sources.STORE_NAME or not version:
        sys.exit(f"--model {model} is neither {DEMO_MODEL}, {REAL} nor {sources.STORE_NAME}:VERSION.")
    if sources.stored(version) is None:
        sys.exit(
            f"{tag} is not in BentoML's model store.\nRun scripts/models pull, or scripts/models import FOLDER, first."
        )
    return tag


def write_options(stage: Path, lock: str, model: str | None, tag: str | None) -> list[str]:
    """Writes bentofile.yaml with the lock and the model that were asked for; gives the names of what goes in."""
    options = (ROOT / "bentofile.yaml").read_text("utf-8").replace("requirements/cpu.txt", lock)
    if model not in (None, REAL):
        options += f"  - name: SD_INPAINT_MODEL\n    value: {model}\n"
    if tag is not None:
        options += f"models:\n  - {tag}\n"
    (stage / "bentofile.yaml").write_text(options, "utf-8")
    return [*re.findall(r'^  - "(.+)"$', options, re.MULTILINE), "README.md", lock]


def copy_sources(stage: Path, names: list[str]) -> None:
    """Copies files and whole folders (``folder/**``), without what running code and editors leave beside them."""
    skipped = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*", "*~", "*.orig", "*.rej")
    for name in names:
        if name.endswith("/**"):
            shutil.copytree(ROOT / name[:-3], stage / name[:-3], ignore=skipped)
        else:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, stage / name)
    open_to_all(stage)


def content_digest(stage: Path) -> str:
    """Gives one digest of all paths and contents."""
    total = hashlib.sha256()
    for path in sorted(path for path in stage.rglob("*") if path.is_file()):
        total.update(f"{sources.sha256(path)}  {path.relative_to(stage).as_posix()}\n".encode())
    return total.hexdigest()


def source_time(names: list[str]) -> int:
    """Gives SOURCE_DATE_EPOCH, by default the last commit's time to what goes in, in seconds."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(epoch)
    paths = [name.removesuffix("/**") for name in (*names, "bentofile.yaml")]
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct", "--", *paths]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return int(done.stdout)
    return EPOCH


def build(stage: Path, version: str, seconds: int) -> Any:
    """Has BentoML build from the copy, where no ``.env`` is, without this machine's settings."""
    for name in list(os.environ):
        if name.startswith(("SD_INPAINT_", "BENTOML_CONFIG")) or name == "LOAD_SD_INPAINT":
            del os.environ[name]
    os.chdir(stage)
    logging.getLogger("bentoml").setLevel(logging.ERROR)
    with contextlib.suppress(bentoml.exceptions.NotFound):
        bentoml.bentos.delete(f"{sources.STORE_NAME}:{version}")
    bento: Any = bentoml.bentos.build_bentofile("bentofile.yaml", version=version, build_ctx=str(stage))
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    object.__setattr__(bento.info, "creation_time", moment)
    bento.flush_info()
    open_to_all(Path(bento.path))
    return bento


if __name__ == "__main__":
    main()
