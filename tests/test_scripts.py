"""``scripts/``: commands and nothing else, from any folder, and what each of them promises."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support import tools
from tests.support.processes import free_port
from tests.support.repository import ROOT, run, tracked

SCRIPTS = sorted(path for path in tracked() if path.is_relative_to(ROOT / "scripts"))


def modules(script: Path) -> set[str]:
    """The modules that a command runs; ``$1`` in a name stands for each of the words of its ``case``."""
    text = script.read_text("utf-8")
    found = set(re.findall(r" -m (tools[\w.]*)", text)) | set(re.findall(r" module=(tools[\w.]+\w)", text))
    for words, prefix in re.findall(r"^ *(.+)\) module=(tools[\w.]+\.)\$1 ;;$", text, re.MULTILINE):
        found |= {prefix + word.strip() for word in words.split("|")}
    return {name for name in found if not text.count(f"{name}.$1")}


STARTED_BY_OTHERS = {"tools.bench.contestants"}
"""Processes of a command: nobody runs them by hand."""

RUN = {script.name: modules(script) for script in SCRIPTS}


class TestCommands:
    """What all of them have in common."""

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
    def test_is_a_command_that_says_how_it_is_called(self, script: Path) -> None:
        """Each file is an executable shell script without suffix; its header says what it does and how it is called."""
        assert script.is_file()
        assert not script.suffix
        assert os.access(script, os.X_OK)
        shebang, *lines = script.read_text("utf-8").splitlines()
        assert shebang == "#!/usr/bin/env bash"
        header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("# "))]
        assert header[0].endswith((".", ":")) or header[1].endswith((".", ":")), "it does not begin with a sentence"
        assert any(re.match(rf"#   scripts/{script.name}( |$)", line) for line in header), (
            "no line shows how to call it"
        )

    def test_every_module_that_is_run_can_be_run(self) -> None:
        """No command names a module that is not there or has nothing to run."""
        assert sum(len(names) for names in RUN.values()) >= 13
        for script, names in RUN.items():
            for name in names:
                spec = importlib.util.find_spec(name)
                assert spec, f"scripts/{script} runs {name}"
                main = importlib.util.find_spec(f"{name}.__main__") if spec.submodule_search_locations else spec
                assert main, f"scripts/{script} runs {name}"
                assert 'if __name__ == "__main__":' in Path(str(main.origin)).read_text("utf-8"), name

    def test_every_module_that_can_be_run_has_a_command(self) -> None:
        """Nobody has to know where in tools/ something is to run it."""
        paths = [path for path in (ROOT / "tools").rglob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")]
        runnable = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in paths}
        assert runnable - STARTED_BY_OTHERS == set().union(*RUN.values())

    @pytest.mark.parametrize("script", ["bench", "demo-model"])
    @pytest.mark.parametrize("arguments", [(), ("nonsense",), ("../demo",)])
    def test_unknown_word_is_a_usage_error(self, script: str, arguments: tuple[str, ...]) -> None:
        """What is none of a command's words is answered with them, before anything is set up."""
        done = run(f"scripts/{script}", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"usage: scripts/{script} ")

    def test_paths_are_those_of_the_callers_folder(self, tmp_path: Path) -> None:
        """A command is run from anywhere: what it reads and writes by a relative path is the caller's."""
        # And no module of the caller's is taken for one of ours.
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools" / "__init__.py").write_text("raise SystemExit('the caller's')\n", "ascii")
        (tmp_path / "json.py").write_text("raise SystemExit('the caller's')\n", "ascii")
        (tmp_path / "device.json").write_text(
            '{"canvases": [{"width": 64, "height": 64, "step_seconds": {"1": 0.1}}]}', "ascii"
        )
        options = "--device device.json --mix 64x64:2 --per-minute 1 --pictures 10 --json"
        done = run(ROOT / "scripts" / "capacity", "simulate", *options.split(), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert '"refused": 0.0' in done.stdout


class TestTools:
    """``scripts/test-tools`` and its like: what installs tools, and what becomes of tests without them."""

    @pytest.mark.parametrize("script", ["container-tools", "deploy-tools", "test-tools"])
    def test_check_says_what_is_missing_and_installs_nothing(self, tmp_path: Path, script: str) -> None:
        """With ``--check`` a machine without the tools is told so in a line, and stays as it is."""
        commands = tmp_path / "bin"
        commands.mkdir()
        for name in ("bash", "cat", "cksum", "dirname", "realpath"):
            found = shutil.which(name)
            assert found
            (commands / name).symlink_to(found)
        for folder in ("scripts", "requirements"):
            shutil.copytree(ROOT / folder, tmp_path / "clone" / folder)
        before = sorted(tmp_path.rglob("*"))
        done = run(tmp_path / "clone" / "scripts" / script, "--check", cwd=tmp_path, PATH=str(commands))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Missing: ")
        assert len(done.stderr.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before

    def test_tests_without_their_tools_are_skipped_or_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A test whose tool is missing is skipped with the command that installs it; where all must run, it fails."""
        monkeypatch.setattr(tools, "_missing", lambda script: "Missing: chromium")
        for outcome, value in ((pytest.skip.Exception, ""), (pytest.fail.Exception, "1")):
            monkeypatch.setenv(tools.REQUIRE, value)
            with pytest.raises(outcome, match=r"^Missing: chromium; scripts/test-tools installs it$"):
                tools.need("test-tools")


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
