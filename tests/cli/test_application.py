"""The command as a whole: how it starts, how it ends, and that its page says what it does."""

import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import sd_inpaint
from sd_inpaint.cli.application import app
from tests.support.repository import ROOT, run

PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")

HEAVY = {"torch", "diffusers", "transformers", "bentoml", "starlette", "httpx", "huggingface_hub", "cv2"}

HELP_SECONDS = 1.0
"""Of processor time; it takes 0.4, half of it for the schema, whose fields are options. With torch it would take 3."""

COMMAND = typer.main.get_command(app)


def parse(line: str) -> None:
    """Reads a command line as the command would, without running it; raises click's error if it is wrong."""
    command, arguments = COMMAND, shlex.split(line)[1:]
    context = None
    while isinstance(command, typer.core.TyperGroup):
        context = command.make_context(command.name, list(arguments), parent=context)
        _, command, arguments = command.resolve_command(context, context._protected_args + context.args)
        assert command is not None, line
    command.make_context(command.name, list(arguments), parent=context)


def examples(text: str) -> Iterator[str]:
    """The command lines of a text."""
    yield from re.findall(r"^`?(sd-inpaint [^`\n]+)`?$", text, re.MULTILINE)


def words(command: typer.core.TyperGroup | typer.core.TyperCommand) -> Iterator[typer.core.TyperCommand]:
    """Each command that can be run."""
    if isinstance(command, typer.core.TyperGroup):
        for each in command.commands.values():
            yield from words(each)
    else:
        yield command


def test_help_is_there_at_once() -> None:
    """--help loads nothing that serves or computes, and takes a fraction of a second of processor time."""
    probe = (
        "import sys\nfrom sd_inpaint.cli.application import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "serve" in done.stdout
    assert not HEAVY & set(done.stderr.split())
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < HELP_SECONDS


def test_version() -> None:
    """--version is the package's."""
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"sd-inpaint {sd_inpaint.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "verify", "nowhere"], 1, "sd-inpaint:nowhere is not in the store.\nSee sd-inpaint models list."),
        (["keys", "list", "--file", "/dev/null/keys"], 1, "It cannot be read"),
        (["serve", "--host", "0.0.0.0"], 1, "SD_INPAINT_API_KEYS"),  # noqa: S104  # it is refused
        (["serve", "--port", "0"], 2, "--port"),
        (["serve", "--demo", "--model", "other"], 2, "--model"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_failures_are_lines_and_a_code(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """What fails says so on stderr, without a traceback, and stdout stays empty."""
    done = run(sys.executable, "-P", "-m", "sd_inpaint", *arguments, cwd=tmp_path, BENTOML_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_shells_complete_its_words() -> None:
    """A shell that asks for completions gets the words that fit."""
    asked = {"_SD_INPAINT_COMPLETE": "complete_bash", "COMP_WORDS": "sd-inpaint mod", "COMP_CWORD": "1"}
    done = run(sys.executable, "-P", "-m", "sd_inpaint", **asked)
    assert done.stdout.split() == ["models"]


def test_page_has_every_word() -> None:
    """The page's table has each word of the command, with a section or a page of its own, and nothing else."""
    rows = re.findall(r"^\| (\[`.+?) \|", PAGE, re.MULTILINE)
    listed = [each for row in rows for each in re.findall(r"\[`(.+?)`\]\((.+?)\)", row)]
    assert isinstance(COMMAND, typer.core.TyperGroup)
    assert {word for word, _ in listed} == set(COMMAND.commands)
    for word, target in listed:
        assert target == f"{word}.md" or f"\n## {word}\n" in PAGE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, for examples that name files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lay_out(folder: Path, line: str) -> str:
    """Makes the files and folders that an example names, with this folder as home; returns the line without ``~``."""
    line = line.replace("~/", "")
    for word in shlex.split(line)[2:]:
        if word.endswith("/") or word == "Pictures":
            (folder / word).mkdir(exist_ok=True)
        elif re.fullmatch(r"[\w-]+\.\w+", word):
            (folder / word).touch()
    return line


@pytest.mark.parametrize("line", list(examples(PAGE)))
def test_examples_of_the_page_are_understood(folder: Path, line: str) -> None:
    """Each command line on the page is one that the command takes."""
    parse(lay_out(folder, line))


@pytest.mark.parametrize("command", list(words(COMMAND)), ids=lambda command: command.name)
def test_examples_of_the_help_are_understood(folder: Path, command: typer.core.TyperCommand) -> None:
    """Each word's help ends with examples, and the command takes them."""
    lines = list(examples(command.epilog or ""))
    assert lines
    for line in lines:
        parse(lay_out(folder, line))


def test_wrong_example_would_be_found() -> None:
    """The two tests above can fail."""
    with pytest.raises(Exception, match="No such option"):
        parse("sd-inpaint serve --nonsense")


def test_examples_with_keys_run(folder: Path) -> None:
    """The page's examples of keys work one after another."""
    lines = list(examples(PAGE.partition("## keys")[2]))
    assert len(lines) == 4
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, line
    assert [path.name for path in folder.iterdir()] == ["keys.toml"]
