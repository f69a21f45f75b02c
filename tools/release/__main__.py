"""Makes a release: the wheel, the image, a list of what is in them, and the SHA-256 of each file."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sd_inpaint.diffusion.sources import sha256
from tools import ROOT
from tools.release.build import check_lock, source_time
from tools.release.sbom import write_sbom
from tools.release.version import source_version
from tools.release.wheel import NAMES, build_wheel

LOCK = "requirements/cpu.txt"

RELEASED = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


def main() -> None:
    """Builds, and says what was built; a failure is a few lines and exit code 1."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="any commit will do, and no image is made")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the files (default: %(default)s)")
    args = parser.parse_args()
    version = source_version()
    problems = release_problems(version, (ROOT / "CHANGELOG.md").read_text("utf-8"))
    if problems and not args.dry_run:
        sys.exit("This is no release:\n" + "\n".join(f"- {problem}" for problem in problems))
    check_lock(LOCK)
    args.output.mkdir(parents=True, exist_ok=True)
    files = make_files(args.output, version)
    if not args.dry_run:
        files.append(make_image(args.output, version))
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    (args.output / "SHA256SUMS").write_text(sums, "ascii")
    print(sums, end="")
    for problem in problems:
        print(f"Not a release yet: {problem}", file=sys.stderr)


def release_problems(version: str, changelog: str) -> list[str]:
    """Says what keeps a version from being released."""
    if not RELEASED.fullmatch(version):
        return [f"this is {version}. Release a commit with a tag, such as v0.2.0, and nothing changed beside it."]
    problems = []
    headings = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    newest = next(((name, rest) for name, rest in headings if name != "Unreleased"), ("none", ""))
    if newest[0] != version:
        problems.append(f"the newest version in CHANGELOG.md is {newest[0]}, the tag is v{version}.")
    elif not re.fullmatch(r" - \d{4}-\d{2}-\d{2}", newest[1]):
        problems.append(f"{version} has no date in CHANGELOG.md.")
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## ")[0]
    if unreleased.strip():
        problems.append("CHANGELOG.md still has changes under Unreleased.")
    return problems


def make_files(folder: Path, version: str) -> list[Path]:
    """Makes the wheel and its list of packages; refuses a wheel that a second build makes otherwise."""
    wheel = build_wheel(folder, version)
    digest = sha256(wheel)
    with tempfile.TemporaryDirectory() as other:
        if sha256(build_wheel(Path(other), version)) != digest:
            sys.exit(f"Two builds of {wheel.name} differ.")
    sbom = folder / f"sd_inpaint-{version}.cdx.json"
    write_sbom(sbom, version=version, wheel_sha256=digest, lock=ROOT / LOCK, seconds=source_time(NAMES))
    return [wheel, sbom]


def make_image(folder: Path, version: str) -> Path:
    """Makes the image without weights, as a tar for docker load and podman load."""
    path = folder / f"sd-inpaint-{version}.image.tar"
    command = [sys.executable, "-P", "-m", "tools.release.image", "--tag", f"localhost/sd-inpaint:{version}"]
    done = subprocess.run([*command, "--output", str(path)], stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return path


if __name__ == "__main__":
    main()
