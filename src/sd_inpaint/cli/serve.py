"""``sd-inpaint serve``: BentoML serves the package's own service, in this process, with options as settings."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sd_inpaint
from sd_inpaint.cli.options import example

if TYPE_CHECKING:
    from sd_inpaint.settings import Settings

SERVICE = "sd_inpaint.http.service:SDInpaint"

NEUTRAL_FOLDER = Path(sd_inpaint.__file__).parent / "demo_model"
"""Has no module in it. BentoML puts the folder that it serves from before all others on the import path: in the current
one, somebody's ``torch.py`` would be taken for torch."""

EXAMPLES = example(
    "sd-inpaint serve --demo",
    "sd-inpaint serve --port 8001 --device cuda:1",
    "sd-inpaint serve --host 0.0.0.0 --api-keys-file keys.toml",
)


def serve(
    demo: Annotated[bool, typer.Option("--demo", help="Serve the small demo model, which needs no download.")] = False,
    host: Annotated[
        str | None,
        typer.Option(help="IP address to listen on; 0.0.0.0 is all of this machine's.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="BENTOML_PORT", help="Port to listen on.")] = 8000,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder, or sd-inpaint:VERSION.", show_default="the API guide's model")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda, cuda:0, …", show_default="auto")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.", show_default="auto")] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, from sd-inpaint keys; requests then need one.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where jobs are kept.", show_default="in the user's cache")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Start also where other machines can call without a key.")
    ] = False,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTION]...", help="Options of bentoml serve.", show_default=False)
    ] = None,
) -> None:
    """Serve the API and the page, by default at http://127.0.0.1:8000.

    Each option sets one setting and goes before the environment and .env; docs/settings.md has all settings.
    """
    from sd_inpaint.http.bento.address import check_address, check_port
    from sd_inpaint.settings import DEMO_MODEL, Settings

    if demo and model is not None:
        raise typer.BadParameter("--demo names a model too. Give one of them.", param_hint="--model")
    chosen = {
        "SD_INPAINT_HOST": host,
        "SD_INPAINT_MODEL": DEMO_MODEL if demo else model,
        "SD_INPAINT_DEVICE": device,
        "SD_INPAINT_DTYPE": dtype,
        "SD_INPAINT_API_KEYS_FILE": api_keys_file,
        "SD_INPAINT_STATE_DIR": state_dir,
        "SD_INPAINT_OFFLINE": "true" if offline else None,
        "SD_INPAINT_ALLOW_OPEN": "true" if allow_open else None,
    }
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    settings = Settings.read()
    _keep_folder(settings)
    address = host or os.environ.get("BENTOML_HOST") or settings.host
    check_address(address, settings)
    check_port(address, port)
    command = ["bentoml", "serve", SERVICE, "--working-dir", str(NEUTRAL_FOLDER)]
    command += ["--host", address, "--port", str(port), *(more or [])]
    # Another program in this process's place: its signals, its exit code, and none of this one's modules.
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])


def _keep_folder(settings: "Settings") -> None:
    """Puts what depends on the current folder into the environment: its ``.env``, and paths that begin there."""
    from dotenv import dotenv_values

    from sd_inpaint.settings import ENV_PREFIX

    for name, value in dotenv_values(".env").items():
        if value is not None and name.upper().startswith((ENV_PREFIX, "LOAD_SD_INPAINT")):
            os.environ.setdefault(name, value)
    for field, value in settings:
        if isinstance(value, Path):
            os.environ[f"{ENV_PREFIX}{field.upper()}"] = str(value.absolute())
    model = Path(settings.model).expanduser()
    if settings.model.startswith(".") or model.is_dir():
        os.environ["SD_INPAINT_MODEL"] = str(model.absolute())
