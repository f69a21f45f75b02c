"""``sd-inpaint doctor``: one screen that says what is wrong, and how to mend it."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint import environment
from sd_inpaint.cli.options import AsJson, example

if TYPE_CHECKING:
    from sd_inpaint.diagnosis.finding import Finding

EXAMPLES = example(
    "sd-inpaint doctor", "sd-inpaint doctor --port 8001 --json", "sd-inpaint doctor --server http://localhost:8000"
)

STYLES = {"good": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Check this running service instead, with the key in {environment.KEY}."),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Check for the demo model, as sd-inpaint serve --demo.")] = False,
    host: Annotated[
        str | None, typer.Option(help="IP address that would be served.", show_default="SD_INPAINT_HOST")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="BENTOML_PORT", help="Port that would be served.")
    ] = 8000,
    as_json: AsJson = False,
) -> None:
    """Check what the service needs: device, memory, weights, disk, port, keys. Exit code 1 if it would not serve.

    It reads the settings as sd-inpaint serve does, and changes nothing.
    """
    from sd_inpaint.diagnosis.finding import State
    from sd_inpaint.diagnosis.server import check_server

    findings = (
        check_server(server, os.environ.get(environment.KEY)) if server else _examine(demo=demo, host=host, port=port)
    )
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _show(findings)
    if any(finding.state is State.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _examine(*, demo: bool, host: str | None, port: int) -> "list[Finding]":
    """Checks everything; settings that cannot be read are the only finding."""
    from sd_inpaint.diagnosis.address import check_listening
    from sd_inpaint.diagnosis.disk import check_disk
    from sd_inpaint.diagnosis.finding import problem
    from sd_inpaint.diagnosis.machine import check_device, check_packages
    from sd_inpaint.diagnosis.secrets import check_credentials, check_keys
    from sd_inpaint.diagnosis.weights import check_weights
    from sd_inpaint.errors import SettingsError
    from sd_inpaint.settings import DEMO_MODEL, Settings

    try:
        settings = Settings.read()
    except SettingsError as error:
        return [check_packages(), problem("settings", str(error), "Change it in the environment or in .env.")]
    if demo:
        settings = settings.model_copy(update={"model": DEMO_MODEL})
    weights = check_weights(settings)
    return [
        check_packages(),
        *check_device(settings, weights.folder),
        *weights.findings,
        check_disk(settings),
        *check_listening(settings, host or os.environ.get("BENTOML_HOST") or settings.host, port),
        check_keys(settings),
        check_credentials(settings),
    ]


def _show(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        # Texts, for a path may hold what markup would take for its own.
        table.add_row(Text(finding.state, STYLES[finding.state]), Text(finding.subject), Text(finding.sentence))
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", "bold"))
    Console(highlight=False, soft_wrap=False).print(table)
