"""The version of what is built here, from git's tags: a tag ``v1.2.3`` is that release."""

import re
import subprocess

import sd_inpaint
from tools import ROOT

_DESCRIBED = re.compile(r"(?:v(?P<tag>\d[\w.]*)-(?P<commits>\d+)-g)?(?P<commit>[0-9a-f]{7,40})(?P<dirty>-dirty)?")


def source_version() -> str:
    """Gives a release's version on its tag, else one that says what it was built from, such as ``0.1.0+7.g1a2b3c4``.

    Without git, or in a folder that is no clone, it is the one in the source.
    """
    command = ["git", "-C", str(ROOT), "describe", "--tags", "--long", "--always", "--dirty", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return sd_inpaint.__version__
    return version_of(done.stdout.strip(), sd_inpaint.__version__)


def version_of(described: str, fallback: str) -> str:
    """Gives the version of what ``git describe --tags --long --always --dirty`` says.

    Args:
        described: Such as ``v0.1.0-7-g1a2b3c4-dirty``, or only the commit where there is no tag.
        fallback: The version where there is no tag.
    """
    found = _DESCRIBED.fullmatch(described)
    if found is None:
        return fallback
    if found["tag"] and found["commits"] == "0" and not found["dirty"]:
        return found["tag"]
    parts = [found["commits"] or "", f"g{found['commit'][:7]}", "dirty" if found["dirty"] else ""]
    return f"{found['tag'] or fallback}+{'.'.join(filter(None, parts))}"
