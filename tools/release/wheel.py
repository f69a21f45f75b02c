"""Makes the wheel from a copy of what serves: the same source gives the same bytes, on any machine."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.release.build import copy_sources, source_time

NAMES = ["pyproject.toml", "README.md", "LICENSE", "MODEL-LICENSE.md", "src/sd_inpaint/**"]

_VERSION_LINE = re.compile(r'^__version__ = ".*"$', re.MULTILINE)


def build_wheel(folder: Path, version: str) -> Path:
    """Builds it into a folder, with the setuptools that is installed here; gives its path.

    It has files of its own only, so it is the same for every platform and every Python that the project supports.
    """
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        copy_sources(stage, NAMES)
        package = stage / "src" / "sd_inpaint" / "__init__.py"
        package.write_text(_VERSION_LINE.sub(f'__version__ = "{version}"', package.read_text("utf-8")), "utf-8")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--wheel-dir", str(folder), str(stage)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(source_time(NAMES))},
            capture_output=True,
            text=True,
            check=False,
            umask=0o022,
        )
    if done.returncode:
        sys.exit(f"The wheel could not be built:\n{done.stdout}{done.stderr}")
    (wheel,) = folder.glob(f"sd_inpaint-{version}-*.whl")
    return wheel
