"""Makes the image from the Bento, with buildah and no registry."""

import argparse
import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml

from sd_inpaint.model_store.store import EPOCH, open_to_all
from sd_inpaint.settings import DEFAULT_MODEL
from tools import ROOT
from tools.release.build import REAL, VARIANTS

SUITE = "bookworm"
"""Of Debian; its Python is the one that the locks are made for."""

PYTHON = (3, 11)

BASE = "localhost/sd-inpaint-base"

DEMO_WEIGHTS = Path("src/sd_inpaint/demo_model")

WORK = ROOT / "build" / "image"

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""As in scripts/setup; TORCH_CPU_INDEX overrides both."""

RANDOM_FIELDS = ("container", "container_config", "parent", "id")
"""What buildah writes into a configuration in Docker's format that is another one each time, and that nothing reads."""


def main() -> None:
    """Builds, and says what was built."""
    args = make_parser().parse_args()
    started = time.monotonic()
    check_tools(["buildah", "skopeo", *([] if args.base else ["mmdebstrap"])])
    os.umask(0o022)
    WORK.mkdir(parents=True, exist_ok=True)
    lock = ROOT / "requirements" / f"{args.variant}.txt"
    # One waits for the processor, the other for the line.
    with ThreadPoolExecutor() as pool:
        found = pool.submit(lambda: args.wheels or download_wheels(lock, WORK / f"wheels-{args.variant}"))
        tar = args.base or make_base(WORK / f"base-{SUITE}.tar")
        wheels: Path = found.result()
    if args.prepare:
        return
    base = make_base_image(tar)
    bento = make_bento(args.model, args.variant)
    version = str(bento.tag.version) + ("" if args.variant == "cpu" else f"-{args.variant}")
    name = args.tag or f"localhost/sd-inpaint:{version}"
    with tempfile.TemporaryDirectory(dir=WORK, prefix="context-") as folder:
        context = Path(folder)
        lay_out(bento, context, lock, wheels)
        arguments = {
            "BASE": base,
            "REQUIREMENTS_SHA256": digest(lock),
            "MODEL": DEFAULT_MODEL if args.model in (None, REAL) else args.model,
            "VERSION": version,
            "CREATED": bento.info.creation_time.astimezone(dt.UTC).isoformat(),
        }
        say(f"building {name}")
        build_image(name, ROOT / "deploy" / "Containerfile", context, arguments, cache=not args.no_cache)
    reproducible(name)
    if args.output:
        args.output.unlink(missing_ok=True)
        run("skopeo", "copy", "--quiet", f"containers-storage:{name}", f"docker-archive:{args.output}:{name}")
    if args.sbom:
        write_sbom(name, args.sbom)
    image = inspect(name)
    size = sum(layer["size"] for layer in image["layers"])
    say(f"{name}, {size / 1e6:,.0f} MB in {len(image['layers'])} layers, {time.monotonic() - started:.0f} s")
    print(f"{name}@sha256:{hashlib.sha256(raw_manifest(name)).hexdigest()}")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser."""
    parser = argparse.ArgumentParser(prog="scripts/image", description=__doc__)
    parser.add_argument("--model", help=f"weights to bake in: demo, {REAL} or sd-inpaint:VERSION")
    parser.add_argument("--variant", choices=VARIANTS, default="cpu")
    parser.add_argument("--tag", help="name of the image; by default localhost/sd-inpaint:VERSION")
    parser.add_argument(
        "--base", type=Path, help="tar of the base system; by default made once and kept in build/image"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels; by default downloaded into build/image")
    parser.add_argument("--output", type=Path, help="tar for docker load and podman load")
    parser.add_argument("--sbom", type=Path, help="SPDX file to write")
    parser.add_argument("--prepare", action="store_true", help="only make the base system and download the wheels")
    parser.add_argument("--no-cache", action="store_true", help="rebuild every layer")
    return parser


def check_tools(names: list[str]) -> None:
    """Stops where a command is missing, or this Python installs other wheels than the image's."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        sys.exit(f"Missing: {', '.join(missing)}.\nscripts/container-tools installs them on Debian and Ubuntu.")
    if sys.version_info[:2] != PYTHON or sys.platform != "linux":
        sys.exit(
            "The image is made with Python 3.11 on Linux, the one that is in it.\nSee scripts/setup: PYTHON=python3.11."
        )


def make_base(path: Path) -> Path:
    """Makes Debian with Python from the mirror that this machine uses, if it was not made before."""
    if path.exists():
        return path
    say(f"making {path.name}; keep it, since Debian's next update changes it")
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    wanted = {f"{SUITE}{suffix}" for suffix in ("", "-updates", "-security")}
    sources = [
        f"deb {line}"
        for line in dict.fromkeys(listed.splitlines())
        if line.split()[1:] in [[s, "main"] for s in wanted]
    ]
    if not any(line.split()[2] == SUITE for line in sources):
        sys.exit(f"apt knows no mirror of Debian {SUITE} here.\nGive the base system of another machine: --base TAR.")
    part = path.with_name(f"part-{path.name}")
    run(
        *("mmdebstrap", "-q", "--variant=minbase", "--mode=root" if os.getuid() == 0 else "--mode=unshare"),
        "--include=python3,python3-venv,ca-certificates,tini",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Sandbox::User "root"',
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "locale", "doc")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        '--customize-hook=cd "$1"/etc && rm -rf apt/sources.list apt/sources.list.d hostname resolv.conf',
        *(SUITE, str(part), *sources),
        SOURCE_DATE_EPOCH=str(EPOCH),
    )
    return part.rename(path)


def make_base_image(tar: Path) -> str:
    """Makes an image of the base system, named by the tar's digest, if there is none."""
    name = f"{BASE}:{digest(tar)[:16]}"
    if subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True, check=False).returncode:
        say("making an image of the base system")
        with tempfile.TemporaryDirectory(dir=WORK, prefix="base-") as folder:
            link_or_copy(tar, Path(folder) / "base.tar")
            build_image(name, ROOT / "deploy" / "Containerfile.base", Path(folder), {}, cache=False)
    return name


def download_wheels(lock: Path, folder: Path) -> Path:
    """Downloads every wheel of the lock, each by its hash; nothing where that is done.

    They come from where pip looks, and torch for the CPU, which is not on PyPI, else from PyTorch's own index.
    """
    stamp = folder / "lock.sha256"
    if stamp.exists() and stamp.read_text("utf-8") == digest(lock):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    say(f"downloading the wheels of {lock.relative_to(ROOT)}")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-d",
        str(folder),
    ]
    if lock.name == "cpu.txt":
        torch = [*command, "-r", str(ROOT / "requirements" / "torch-cpu.txt")]
        if subprocess.run(torch, capture_output=True, check=False).returncode:
            run(*torch, "-i", os.environ.get("TORCH_CPU_INDEX", TORCH_CPU_INDEX), "--retries", "1")
    run(*command, "-f", str(folder), "-r", str(lock))
    stamp.write_text(digest(lock), "utf-8")
    return folder


def make_bento(model: str | None, variant: str) -> Any:
    """Has the build make the Bento, in a process whose environment it may clean."""
    command = [sys.executable, "-P", "-m", "tools.release.build", "--variant", variant, "--output", "tag"]
    printed = run(*command, *(["--model", model] if model else []))
    return bentoml.bentos.get(printed.strip().removeprefix("__tag__:"))


def lay_out(bento: Any, context: Path, lock: Path, wheels: Path) -> None:
    """Fills the folder that the Containerfile copies from: code, weights, and what is installed."""
    shutil.copyfile(lock, context / "requirements.txt")
    (context / "wheels").mkdir()
    for wheel in wheels.glob("*.whl"):
        link_or_copy(wheel, context / "wheels" / wheel.name)
    code, weights = context / "code", context / "weights"
    shutil.copytree(bento.path, code)
    (weights / DEMO_WEIGHTS.parent).mkdir(parents=True)
    (code / DEMO_WEIGHTS).rename(weights / DEMO_WEIGHTS)
    for model in bento.info.all_models:
        stored = bentoml.models.get(model.tag)
        shutil.copytree(stored.path, weights / "models" / stored.tag.name / str(stored.tag.version))
    open_to_all(code)
    open_to_all(weights)


def build_image(name: str, containerfile: Path, context: Path, arguments: dict[str, str], *, cache: bool) -> None:
    """Builds without a network and with one time for all files, the same whatever the source's time is.

    Were it the source's, a commit would change every layer.
    """
    command = ["buildah", "build", "--quiet", "--format", "docker", "--layers", "--timestamp", str(EPOCH)]
    command += ["--identity-label=false", "--network", "none", *([] if cache else ["--no-cache"])]
    command += [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
    run(*command, "--tag", name, "--file", str(containerfile), str(context))


def reproducible(name: str) -> None:
    """Takes out of the image's configuration what is another one with each build; the layers stay where they are.

    OCI's format has none of it, but also no HEALTHCHECK.
    """
    config = json.loads(run("skopeo", "inspect", "--config", "--raw", f"containers-storage:{name}"))
    for field in RANDOM_FIELDS:
        config.pop(field, None)
    config["config"]["Hostname"] = config["config"]["Image"] = ""
    for step in config["history"]:
        step.pop("comment", None)
    content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    manifest = json.loads(raw_manifest(name))
    manifest["config"] |= {"size": len(content), "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        # The layers are not in this folder, and need not be: skopeo finds them by their digests in the storage.
        (Path(folder) / "version").write_text("Directory Transport Version: 1.1\n", "ascii")
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1), "utf-8")
        (Path(folder) / hashlib.sha256(content).hexdigest()).write_bytes(content)
        run("skopeo", "copy", "--quiet", f"dir:{folder}", f"containers-storage:{name}")


def raw_manifest(name: str) -> bytes:
    """The bytes whose SHA-256 is the image's digest."""
    return run("skopeo", "inspect", "--raw", f"containers-storage:{name}").encode()


def inspect(name: str) -> dict[str, Any]:
    """The image's manifest."""
    return dict(json.loads(raw_manifest(name)))


def write_sbom(name: str, path: Path) -> None:
    """Lists every package in the image, with the syft that is on the PATH."""
    check_tools(["syft"])
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        run("skopeo", "copy", "--quiet", f"containers-storage:{name}", f"oci:{folder}:image")
        path.write_text(
            run("syft", "scan", f"oci-dir:{folder}", "--source-name", name, "--output", "spdx-json"), "utf-8"
        )


def digest(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second place, without copying it where that can be done."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def say(text: str) -> None:
    """Tells on stderr what goes on."""
    print(f"== {text}", file=sys.stderr, flush=True)


def run(*command: str, **environment: str) -> str:
    """Runs a command; gives what it printed, and ends with what it said where it fails."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} … failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
