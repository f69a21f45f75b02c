"""The image: built twice and compared, and looked into."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import Built, Workshop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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
