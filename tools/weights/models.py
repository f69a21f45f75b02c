"""Puts weights into BentoML's model store with each file's SHA-256, and checks them there."""

import argparse
import datetime as dt
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import bentoml

from sd_inpaint.diffusion import sources
from sd_inpaint.errors import InpaintError, WeightsError
from sd_inpaint.settings import DEFAULT_MODEL, Settings
from tools.weights import autoencoder

EPOCH = 315532800
"""Seconds: 1 January 1980, the time of a model where SOURCE_DATE_EPOCH says nothing.

It is written into each Bento that holds the model, so the moment of a download must not be in it.
"""


def main() -> None:
    """Runs one command; a failure is one or two lines and exit code 1."""
    args = make_parser().parse_args()
    try:
        args.run(args)
    except InpaintError as error:
        sys.exit(str(error))


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser; what it gives has ``run``, a function of what it gives."""
    parser = argparse.ArgumentParser(prog="scripts/models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pull", help="download at a pinned revision")
    command.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="Hub id")
    command.add_argument("--revision", help="commit, branch or tag; the default model has a pinned one")
    command.set_defaults(run=lambda args: pull(args.model, args.revision))
    command = commands.add_parser("import", help="import a folder in diffusers' layout, or a checkpoint in one file")
    command.add_argument("path", help="folder, .safetensors, .ckpt, or sd-inpaint:VERSION")
    command.add_argument("--config-from", metavar="MODEL", help="folder or sd-inpaint:VERSION with a file's tokenizer")
    command.add_argument(
        "--vae", metavar="MODEL", help="folder or Hub id of an autoencoder to use instead of the model's own"
    )
    command.add_argument("--vae-revision", metavar="COMMIT", help="of the autoencoder on the Hub")
    command.add_argument("--version", help="its name in the store; by default a digest of its content")
    command.set_defaults(run=take)
    command = commands.add_parser("verify", help="compare every file with its SHA-256")
    command.add_argument("versions", nargs="*", metavar="version")
    command.set_defaults(run=verify_all)
    command = commands.add_parser("list", help="list the models in the store")
    command.set_defaults(run=show_versions)
    command = commands.add_parser("full-size", help="write a model of the real size with random weights, 2.1 GB")
    command.add_argument("folder", type=Path, help="target folder; must be empty or not exist")
    command.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    command.add_argument("--scheduler", choices=("pndm", "ddim"), default="pndm", help="(default: %(default)s)")
    command.set_defaults(run=write_full_size)
    return parser


def write_full_size(args: argparse.Namespace) -> None:
    """Writes a model with random weights into a folder; the store is not touched."""
    # Only here, since it takes seconds to load.
    from tools.weights import full_size

    full_size.write(args.folder, scheduler=args.scheduler, seed=args.seed)


def pull(model: str, revision: str | None) -> None:
    """Downloads a model, or goes on where a download broke off, and puts it into the store as its commit."""
    settings = Settings(_env_file=None, model=model, revision=revision, offline=False)  # type: ignore[call-arg]  # added at run time
    source = sources.verify(sources.locate(settings))
    if source.revision is None:
        raise WeightsError(f"{model} is a folder, not a model on the Hub.\nTo take a folder: scripts/models import.")
    put(source.folder, source.revision, {"model": model, "revision": source.revision})


def take(args: argparse.Namespace) -> None:
    """Puts a folder, or what is in a checkpoint, into the store, by default as a digest of its content."""
    if args.vae is None and args.vae_revision is not None:
        raise WeightsError("--vae-revision says which commit of --vae to use.\nGive --vae too.")
    labels, allow_pickle = {"model": "imported"}, Settings.read().allow_pickle
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it says while it loads is for its own callers
    with tempfile.TemporaryDirectory() as work:
        folder = folder_of(args.path)
        if folder is None:
            # Only here, since it takes seconds to load.
            from tools.weights.single_file import convert

            path, folder = Path(args.path), Path(work) / "model"
            convert(path, configs_of(args.config_from), folder, allow_pickle=allow_pickle)
            labels |= {"file": path.name, "sha256": sources.sha256(path)}
        elif args.config_from is not None:
            raise WeightsError(f"{args.path} is a folder, and has its own configs.\n--config-from is for a file.")
        if not Path(args.path).exists():
            labels |= {"from": folder.name}  # the version that was named
        if args.vae is not None:
            vae, vae_labels = autoencoder.locate(args.vae, args.vae_revision, allow_pickle=allow_pickle)
            labels |= vae_labels
            model, folder = folder, Path(work) / "swapped"
            autoencoder.swap(model, vae, folder)
        take_folder(folder, args.version, labels)


def folder_of(model: str) -> Path | None:
    """Gives the folder that is named, or that ``sd-inpaint:VERSION`` is in; None for a file."""
    name, _, version = model.partition(":")
    if name == sources.STORE_NAME and version:
        if (folder := sources.stored(version)) is None:
            raise WeightsError(f"{model} is not in the store.\nSee scripts/models list.")
        return folder
    return Path(model) if Path(model).is_dir() else None


def configs_of(model: str | None) -> Path | None:
    """Gives the folder of the model that was named, else of the guide's model, if that was pulled.

    Raises:
        WeightsError: If the one that was named is not there.
    """
    if model is None:
        return sources.stored(sources.PINNED_REVISION)
    if (folder := folder_of(model)) is None:
        raise WeightsError(f"--config-from {model} does not exist.\nGive a folder, or one of scripts/models list.")
    return folder


def take_folder(folder: Path, version: str | None, labels: dict[str, str]) -> None:
    """Puts a folder in diffusers' layout into the store."""
    sources.verify(sources.Source(str(folder), folder))
    content = "".join(f"{digest}  {name}\n" for name, digest in digests(folder).items())
    put(folder, version or hashlib.sha256(content.encode()).hexdigest()[:16], labels)


def put(folder: Path, version: str, labels: dict[str, str]) -> None:
    """Copies what serves into the store with its manifest; what is there already is verified instead."""
    tag = f"{sources.STORE_NAME}:{version}"
    listed = digests(folder)
    there = sources.stored(version)
    if there is not None and sources.read_manifest(there) != listed:
        raise WeightsError(
            f"{tag} is in the store with different content.\n"
            f"Delete it first (bentoml models delete {tag}), or choose a version."
        )
    if there is not None:
        verify(version)
        return
    created = dt.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)), dt.UTC)
    with bentoml.models.create(tag, labels=labels) as model:
        root = Path(model.path)
        for name, digest in listed.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, root / name)
            if sources.sha256(root / name) != digest:
                raise WeightsError(f"{name} changed while it was copied.\nCheck the disk and try again.")
        manifest = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
        (root / sources.CHECKSUMS).write_text(manifest, "utf-8")
        object.__setattr__(model.info, "creation_time", created)
    open_to_all(Path(bentoml.models.get(tag).path))
    print(f"{tag} is in the store: {len(listed)} files, {sum((folder / n).stat().st_size for n in listed):,} bytes")


def verify_all(args: argparse.Namespace) -> None:
    """Compares what was named, or everything in the store."""
    for version in args.versions or versions():
        verify(version)


def verify(version: str) -> None:
    """Compares every file of a version with the manifest.

    Raises:
        WeightsError: If the version is not there, or a file is damaged, missing or not listed; the message names it.
    """
    folder = sources.stored(version)
    if folder is None:
        raise WeightsError(f"{sources.STORE_NAME}:{version} is not in the store.\nSee scripts/models list.")
    listed, found = sources.read_manifest(folder), digests(folder)
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not listed" if name not in listed else "is damaged"
            raise WeightsError(
                f"{name} of {sources.STORE_NAME}:{version} {what}.\n"
                f"Delete the version (bentoml models delete {sources.STORE_NAME}:{version}) and pull it again."
            )
    print(f"{sources.STORE_NAME}:{version} is intact: {len(listed)} files")


def digests(folder: Path) -> dict[str, str]:
    """Path → SHA-256 of what serves, in the order of the paths; pickles, pictures and BentoML's own file are not it."""
    names = [sources.INDEX, *(f"{part}/*" for part in sources.FOLDERS + sources.OPTIONAL_FOLDERS)]
    files = sorted({path for name in names for path in folder.glob(name) if path.suffix in sources.SUFFIXES})
    return {path.relative_to(folder).as_posix(): sources.sha256(path) for path in files if path.is_file()}


def show_versions(_: argparse.Namespace) -> None:
    """Prints what is in the store."""
    for version in versions():
        print(f"{sources.STORE_NAME}:{version}")


def versions() -> list[str]:
    """What is in the store, in order."""
    try:
        found = [model.tag for model in bentoml.models.list(sources.STORE_NAME)]
    except bentoml.exceptions.NotFound:  # which is how BentoML says that there is none
        return []
    return sorted(tag.version for tag in found if tag.version and sources.stored(tag.version) is not None)


def open_to_all(folder: Path) -> None:
    """Lets every user read what is in a folder, whatever the umask was; BentoML makes it for its owner only."""
    everybody_reads = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
    everybody_enters = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
    for path in (folder, *folder.rglob("*")):
        runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(everybody_reads | (everybody_enters if runs else 0))


if __name__ == "__main__":
    main()
