"""``sd-inpaint models``: weights in BentoML's model store."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint.cli.options import AsJson, example

if TYPE_CHECKING:
    from sd_inpaint.model_store.store import StoredModel

app = typer.Typer(
    no_args_is_help=True, help="Download, import, verify and list weights. They are kept in BentoML's model store."
)


@app.command(epilog=example("sd-inpaint models pull", "sd-inpaint models pull ID --revision COMMIT"))
def pull(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Hub id.", show_default="the API guide's model")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag.", show_default="pinned for the default model, else main")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a model at a pinned revision; a download that broke off goes on."""
    from sd_inpaint.model_store import intake
    from sd_inpaint.settings import DEFAULT_MODEL

    _show_stored(intake.pull(model or DEFAULT_MODEL, revision), as_json=as_json)


@app.command(
    "import", epilog=example("sd-inpaint models import my-model/", "sd-inpaint models import model.safetensors")
)
def take(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder, .safetensors or .ckpt file, or sd-inpaint:VERSION.")
    ],
    config_from: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder or sd-inpaint:VERSION with a file's tokenizer.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder or Hub id of an autoencoder to use instead.")
    ] = None,
    vae_revision: Annotated[str | None, typer.Option(metavar="COMMIT", help="Of the autoencoder on the Hub.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Name in the store.", show_default="a digest of its content")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a folder in diffusers' layout, or a checkpoint in one file. Pickles need SD_INPAINT_ALLOW_PICKLE=true."""
    from sd_inpaint.model_store import intake
    from sd_inpaint.settings import Settings

    wanted = intake.Import(path, config_from, vae, vae_revision, version, allow_pickle=Settings.read().allow_pickle)
    _show_stored(intake.take(wanted), as_json=as_json)


@app.command(epilog=example("sd-inpaint models convert", "SD_INPAINT_MODEL=demo sd-inpaint models convert --int8"))
def convert(
    int8: Annotated[bool, typer.Option("--int8", help="Quantise it for SD_INPAINT_QUANTIZE=int8; needs NNCF.")] = False,
    picture: Annotated[
        list[Path] | None, typer.Option(help="To calibrate --int8 with; may be repeated.", show_default="soft colours")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert the model of SD_INPAINT_MODEL for OpenVINO, which the server else does when it first starts."""
    from sd_inpaint.model_store import conversion
    from sd_inpaint.settings import Settings

    path = conversion.convert(Settings.read(), int8=int8, pictures=picture or [])
    print(json.dumps({"path": str(path)}) if as_json else f"The converted model is {path}")


@app.command(epilog=example("sd-inpaint models verify"))
def verify(
    versions: Annotated[list[str] | None, typer.Argument(metavar="[VERSION]...", show_default="all of them")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file with its SHA-256."""
    from sd_inpaint.model_store import store

    intact = []
    for version in versions or [model.version for model in store.models()]:
        intact.append(store.verify(version))
        if not as_json:
            print(f"{intact[-1].tag} is intact: {intact[-1].files} files")
    if as_json:
        print(json.dumps([_record(model) for model in intact]))


@app.command("list", epilog=example("sd-inpaint models list --json"))
def show(as_json: AsJson = False) -> None:
    """List the models in the store."""
    from sd_inpaint.model_store import store

    found = store.models()
    if as_json:
        print(json.dumps([_record(model) for model in found]))
    else:
        for model in found:
            print(model.tag)


def _show_stored(model: "StoredModel", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_record(model)))
    else:
        print(f"{model.tag} is in the store: {model.files} files, {model.size:,} bytes")


def _record(model: "StoredModel") -> dict[str, object]:
    return {"tag": model.tag, **asdict(model)}
