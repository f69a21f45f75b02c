"""The repository itself: that its files agree with one another."""

import itertools
import re
import sys
import tomllib
from enum import StrEnum
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sd_inpaint
from sd_inpaint.http.wire.errors import STATUSES
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tests.support.repository import ROOT, imported_modules, pins, tracked
from tests.support.selection import HEAVY_PATHS, LONG
from tests.support.tools import REQUIRE

README = (ROOT / "README.md").read_text("utf-8")
API = (ROOT / "docs" / "api.md").read_text("utf-8")
SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "MODEL-LICENSE.md", *sorted((ROOT / "docs").glob("*.md"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

FOREIGN = {
    "an index": re.compile(
        r"(?:pythonhosted|pypi|pytorch)\.org/(?!project/)|registry\.npmjs|--(?:extra-)?index-url|--find-links"
    ),
    "a machine": re.compile(r"(?<![\w.])/(?:root|work|opt|home)/\w"),
}

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""The one index that may be named: torch's CPU build is on no other, and the lock has the hashes of its files."""


def setting_name(field: str) -> str:
    """The name of a setting in the environment."""
    return "LOAD_SD_INPAINT" if field == "load" else f"SD_INPAINT_{field}".upper()


SETTINGS = {setting_name(name): field for name, field in Settings.model_fields.items()}

MAX_README_LINES = 130
"""More than that is reference, and belongs into docs/."""

MAX_WHY_LINES = 10
"""A decision that takes more is several, or has figures that belong into docs/benchmarks.md."""

NEVER_SENT = {"invalid_settings", "invalid_weights"}
"""Codes of errors that end the start or the load; callers are told ``model_failed``."""


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or of a higher one."""
    level = heading.partition(" ")[0]
    after = page.split(f"\n{heading}\n")[1]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def drawing() -> set[str]:
    """The paths in the README's drawing of the folders; a folder ends with a slash."""
    lines = section(README, "## Where things are").split("```")[1].splitlines()
    found: set[str] = set()
    parents: dict[int, str] = {}
    for line in filter(None, lines):
        indent = len(line) - len(line.lstrip())
        name = line.split()[0]
        parents = {depth: parent for depth, parent in parents.items() if depth < indent}
        path = "".join(parents[depth] for depth in sorted(parents)) + name
        if name.endswith("/"):
            parents[indent] = name
        found.add(path)
    return found


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, wherever it does."""
    return {name.partition(".")[0] for name in imported_modules(path)}


class TestSettings:
    """Each setting, in each place that tells of it."""

    def test_example_names_each_setting_once_with_its_default(self) -> None:
        """Whoever copies .env.example and removes every comment sign has the defaults."""
        lines = re.findall(r"^#?([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
        assert sorted(name for name, _ in lines) == sorted(SETTINGS)
        given = {name: value for name, value in lines if value}
        defaults = Settings.read(None)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            assert Settings.read(None) == defaults
        unset = {name for name, value in lines if not value}
        assert unset == {name for name, field in SETTINGS.items() if field.default in (None, ())}

    def test_example_says_something_about_each_setting(self) -> None:
        """Above each line there is one that says what it sets."""
        lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
        for above, line in itertools.pairwise(lines):
            if re.match(r"#?[A-Z0-9_]+=", line):
                assert above.startswith("# "), line

    def test_page_has_one_row_for_each_setting(self) -> None:
        """The tables of docs/settings.md have each setting once, with its default."""
        page = SETTINGS_PAGE.replace(section(SETTINGS_PAGE, "### What the limits count"), "")
        listed = re.findall(r"^\| `((?:LOAD_)?SD_INPAINT\w*)` \| (.+?) \|", page, re.MULTILINE)
        rows = dict(listed)
        assert len(listed) == len(rows)
        assert rows.keys() == SETTINGS.keys()
        defaults = Settings.read(None)
        for name, field in SETTINGS.items():
            if field.default not in (None, ()):
                shown = rows[name].strip("`")
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(name, shown)
                    assert Settings.read(None) == defaults, name


class TestDocs:
    """What README and docs/ say is so."""

    def test_every_parameter_has_a_row(self) -> None:
        """The table of fields has each parameter, its bounds and its choices."""
        rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", section(API, "### Fields"), re.MULTILINE))
        assert rows.keys() == {*InpaintParameters.model_fields, "image", "mask"}
        for name, field in InpaintParameters.model_fields.items():
            if isinstance(field.default, StrEnum):
                assert all(f"`{choice}`" in rows[name] for choice in type(field.default)), name
            for bound in field.metadata:
                limit = getattr(bound, "ge", getattr(bound, "le", getattr(bound, "max_length", None)))
                if limit is not None and limit < 2**32:
                    assert f"{limit:g}" in rows[name].replace(",", ""), f"{name}: {limit}"

    def test_every_parameter_has_its_default(self) -> None:
        """The table of fields has each parameter's default, as it is sent in a form."""
        rows = dict(re.findall(r"^\| `([a-z_]+)` \| \w+ \| (.+?) \|", section(API, "### Fields"), re.MULTILINE))
        for name, field in InpaintParameters.model_fields.items():
            if field.is_required():
                assert rows[name] == "required", name
            elif field.default not in (None, ""):
                default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
                assert rows[name].strip("`").lower() == default.lower(), name

    def test_every_code_is_listed_with_its_status(self) -> None:
        """The table of errors has each code that callers can meet, with the status that the server answers."""
        rows = re.findall(r"^\| (\d{3}(?:, \d{3})*) \| (.+) \|$", section(API, "## Errors"), re.MULTILINE)
        listed = {
            code: {int(s) for s in statuses.split(", ")}
            for statuses, codes in rows
            for code in re.findall(r"`([a-z_]+)`", codes)
        }
        assert listed.keys() == STATUSES.keys() - NEVER_SENT
        for code, statuses in listed.items():
            assert STATUSES[code] in statuses, code

    def test_every_module_is_in_the_drawing(self) -> None:
        """The README's drawing has each part of the package and each folder of code, and nothing else."""
        drawn = drawing()
        for path in drawn:
            assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
        package = ROOT / "src" / "sd_inpaint"
        modules = {f"src/sd_inpaint/{path.name}" for path in package.glob("*.py")} - {
            "src/sd_inpaint/__init__.py",
            "src/sd_inpaint/__main__.py",  # which is cli/
        }
        packages = {f"{path.parent.relative_to(ROOT)}/" for path in package.rglob("__init__.py")}
        assert modules | packages | {"service.py"} <= drawn
        code = {
            f"{path.relative_to(ROOT).parts[0]}/" for path in tracked() if path.suffix == ".py" and path.parent != ROOT
        }
        assert code - {"src/"} <= drawn

    def test_readme_is_short(self) -> None:
        """A newcomer reads the README in a few minutes: reference is elsewhere."""
        assert len(README.splitlines()) <= MAX_README_LINES

    @pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
    def test_every_link_leads_somewhere(self, page: Path) -> None:
        """No link within the repository is dead: the file exists, and has the heading."""
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
            name, _, anchor = target.partition("#")
            file = (page.parent / name) if name else page
            assert file.exists(), f"{page.name} → {target}"
            if anchor:
                assert anchor in anchors(file.read_text("utf-8")), f"{page.name} → {target}"

    def test_every_decision_is_short_and_in_the_contents(self) -> None:
        """An entry of docs/why.md is a question, a choice and what would change it, and can be found from the top."""
        why = (ROOT / "docs" / "why.md").read_text("utf-8")
        contents = why.partition("\n## ")[0]
        for heading in re.findall(r"^### (.+)$", why, re.MULTILINE):
            entry = section(why, f"### {heading}").strip()
            assert re.findall(r"^\*\*(.+?)\*\*", entry, re.MULTILINE) == [
                "Question.",
                "Choice.",
                "What would change it.",
            ]
            assert len(entry.splitlines()) <= MAX_WHY_LINES, heading
            (anchor,) = anchors(f"### {heading}\n")
            assert f"(#{anchor})" in contents, heading

    def test_every_page_is_linked_from_the_readme(self) -> None:
        """Whoever starts at the README finds each page of docs/."""
        for page in (ROOT / "docs").glob("*.md"):
            assert f"(docs/{page.name})" in README

    def test_the_demo_sends_what_the_readme_shows(self) -> None:
        """Photo, mask and prompt of scripts/demo are those of the README's curl."""
        demo = (ROOT / "tools" / "demo.py").read_text("utf-8")
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
        extras = PYPROJECT["project"]["optional-dependencies"]
        wanted = [
            Requirement(line) for line in [*PYPROJECT["project"]["dependencies"], *extras["c2pa"], *extras["postgres"]]
        ]
        if name != "cuda":
            wanted += [Requirement(line) for line in extras["openvino"]]
        if name == "dev":
            wanted += [Requirement(line) for line in extras["dev"]]
        for requirement in wanted:
            for version in locked[canonicalize_name(requirement.name)]:
                assert requirement.specifier.contains(version), f"{requirement} is locked to {version}"
        blocks = re.split(r"\n(?=\S)", lock.read_text("utf-8").strip())
        assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))

    def test_locks_agree(self) -> None:
        """Tests run with what is served; CUDA serves with what the CPU does, but for torch and OpenVINO."""
        cpu, cuda, dev = (pins(ROOT / "requirements" / f"{name}.txt") for name in ("cpu", "cuda", "dev"))
        assert cpu.items() <= dev.items()
        of_cpus = {"torch", "openvino", "openvino-telemetry"}
        assert {k: v for k, v in cpu.items() if k not in of_cpus}.items() <= cuda.items()

    def test_cpu_lock_can_never_take_a_cuda_build(self) -> None:
        """Without the CPU wheel, an install stops; it does not download gigabytes."""
        assert pins(ROOT / "requirements" / "cpu.txt")["torch"] == {"2.13.0+cpu", "2.13.0"}
        assert 'torch==2.13.0 ; sys_platform == "darwin"' in (ROOT / "requirements" / "cpu.txt").read_text("utf-8")
        assert not any(name.startswith(("nvidia-cu", "triton")) for name in pins(ROOT / "requirements" / "cpu.txt"))

    @pytest.mark.parametrize("extra", ["", "dev"])
    def test_every_import_is_a_declared_dependency(self, extra: str) -> None:
        """Nothing is imported that only comes along with something else."""
        extras = PYPROJECT["project"]["optional-dependencies"]
        lines = [*PYPROJECT["project"]["dependencies"]]
        lines += [line for each in ("c2pa", "postgres", "mcp", "openvino") for line in extras[each]]
        paths = [ROOT / "service.py", *(ROOT / "src").rglob("*.py")]
        if extra:
            lines += extras[extra]
            paths = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
        declared = {canonicalize_name(Requirement(line).name) for line in lines}
        owners = packages_distributions()
        own = {"sd_inpaint", "service", "tests", "tools"}
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
        """No file names an index or a path of the machine it was made on, but for PyTorch's public one."""
        for path in tracked():
            if path == Path(__file__) or path.suffix in (".safetensors", ".png", ".jpg", ".webp", ".npz"):
                continue
            text = re.sub(rf"{re.escape(TORCH_INDEX)}(?![\w/])", "", path.read_text("utf-8"))
            for what, pattern in FOREIGN.items():
                found = [match[0] for match in pattern.finditer(text)]
                if {"scripts", "tools"} & {part.name for part in path.relative_to(ROOT).parents}:
                    found = [name for name in found if not name.startswith("--")]  # an option of a command
                assert not found, f"{path.relative_to(ROOT)} names {what}: {found[0]}"

    def test_changelog_has_the_version(self) -> None:
        """The newest version in CHANGELOG.md is the code's."""
        versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
        assert versions[0] == sd_inpaint.__version__

    def test_ci_runs_check_tools_and_test_and_nothing_else(self) -> None:
        """What CI does, anybody can do with the same commands; it skips nothing for want of a tool."""
        lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
        commands = [line for line in lines[3:] if not line.startswith("#")]
        tools = {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*-tools")}
        beside = {"scripts/setup dev &", "scripts/check &"}
        assert len(commands) == len(set(commands)) + 1  # "wait $!" is there twice
        assert set(commands[:-1]) == {*tools, *beside, "scripts/image --prepare", "wait $!"}
        # What goes on beside the rest is waited for, so that its failure is CI's.
        order = [line for line in commands if line in {*beside, "wait $!"}]
        assert order == ["scripts/setup dev &", "wait $!", "scripts/check &", "wait $!"]
        assert commands[-2:] == ["wait $!", f"{REQUIRE}=1 scripts/test"]


class TestTests:
    """How the tests stand to each other."""

    def test_modules_that_begin_early_are_there(self) -> None:
        """A module that is moved or renamed keeps its place in the order."""
        assert [
            name for name in (*LONG, *(f"tests/{part}" for part in HEAVY_PATHS)) if not (ROOT / name).exists()
        ] == []

    def test_test_modules_do_not_import_each_other(self) -> None:
        """What test modules share is in tests/support/: each of them can be moved, changed and run by itself."""
        for path in (ROOT / "tests").rglob("*.py"):
            lent = {name for name in imported_modules(path) if re.match(r"tests\.(\w+\.)*test_", name)}
            assert not lent, f"{path.relative_to(ROOT)} imports {lent}"
