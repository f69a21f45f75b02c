"""Where weights come from: the Hub, BentoML's store, a folder; pinned, and verified file by file. No torch."""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public by its documentation

import sd_inpaint
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import DEFAULT_MODEL, DEMO_MODEL, Settings

PINNED_REVISION = "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb"
"""The commit that both mirrors below share; a branch could change under a running fleet."""

MIRRORS = {DEFAULT_MODEL: ("stable-diffusion-v1-5/stable-diffusion-inpainting", DEFAULT_MODEL)}
"""Repositories with the same files, in the order they are tried.

The guide's own was deleted in August 2024 (the Hub answers 401), so the mirror comes first.
"""

CHECKSUMS = "SHA256SUMS"
"""A manifest in the format of ``sha256sum``; where a model's folder has one, each file is checked against it."""

STORE_NAME = "sd-inpaint"
"""The model's name in BentoML's store, where ``sd-inpaint models`` puts weights; a version is a commit or a digest."""

FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

OPTIONAL_FOLDERS = ("safety_checker", "feature_extractor")

INDEX = "model_index.json"

AUTOENCODERS = ("AutoencoderKL", "AsymmetricAutoencoderKL")
"""The classes that diffusers' inpainting pipeline supports; the second fits the hole to the kept pixels."""

SUBJECTS = "subjects.json"
"""Names of all that the model can paint: a list of texts, where there is such a file."""

SUFFIXES = (".safetensors", ".json", ".txt")
"""Of the files that serve."""

DOWNLOAD = [
    INDEX,
    "scheduler/*.json",
    "tokenizer/*",
    "*/config.json",
    "feature_extractor/*.json",
    "*/*.fp16.safetensors",
]
"""The half-precision files only: at the pinned revision the float32 UNet and VAE exist as pickles, and these are half
the download; they are cast up where the device computes in float32."""

COMMIT_LENGTH = 40
"""Of the Hub's commits, in hexadecimal digits; small files in its cache are named by a digest of the same kind."""

ASK_SECONDS = 10.0
"""How long a repository may take to answer."""

logger = logging.getLogger("bentoml.sd_inpaint.sources")


@dataclass(frozen=True, slots=True)
class Source:
    """A model on this disk.

    Attributes:
        name: The name shown to callers.
        folder: In diffusers' layout.
        revision: The Hub's commit; None for a folder of one's own.
        files: SHA-256 of each file that was loaded, by its path in the folder.
    """

    name: str
    folder: Path
    revision: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether nothing came along that says what its files should be: neither a commit nor a manifest."""
        return self.revision is None and not (self.folder / CHECKSUMS).is_file()

    def subjects(self) -> list[str] | None:
        """Returns all that the model can paint, for one that can paint only a few things; None without such a list."""
        file = self.folder / SUBJECTS
        return [str(name) for name in json.loads(file.read_bytes())] if file.is_file() else None


def locate(settings: Settings) -> Source:
    """Returns the configured model's folder, downloading it if that is needed and allowed.

    Raises:
        WeightsError: If there is no such model; the second line of the message says what to do.
    """
    if settings.model == DEMO_MODEL:
        return Source(DEMO_MODEL, Path(sd_inpaint.__file__).parent / "demo_model", revision=None)
    if settings.model.startswith(f"{STORE_NAME}:"):
        return _from_store(settings.model)
    path = Path(settings.model).expanduser()
    if path.is_dir():
        return Source(settings.model, path)
    if path.is_file() or path.is_absolute() or settings.model.startswith("."):
        raise WeightsError(
            f"SD_INPAINT_MODEL={settings.model} is not a folder.\n"
            "Use a folder in diffusers' layout (with model_index.json), a Hub id, or demo."
        )
    revision = wanted_revision(settings)
    if len(revision) == COMMIT_LENGTH and (folder := stored(revision)) is not None:
        return Source(settings.model, folder, revision)
    return _download(settings.model, revision, offline=settings.offline)


def wanted_revision(settings: Settings) -> str:
    """Returns the operator's commit, branch or tag, else the pinned commit of a known model, else ``main``."""
    return settings.revision or (PINNED_REVISION if settings.model in MIRRORS else "main")


def download_folder() -> Path:
    """Returns the folder that downloads go to, which the Hub's client shares with other programs."""
    return Path(constants.HF_HUB_CACHE)


def ask_mirrors(model: str, revision: str) -> dict[str, str | None]:
    """Asks each repository of a model whether it can be downloaded; returns why not, or None where it can."""
    return {mirror: _ask(mirror, revision) for mirror in MIRRORS.get(model, (model,))}


def stored(version: str) -> Path | None:
    """Gives the folder of a version that is baked into this Bento, or lies in BentoML's store on this machine."""
    own = Path(sd_inpaint.__file__).resolve().parents[2] / "models"
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"
    folders = (root / STORE_NAME / version for root in (own, home))
    return next((folder for folder in folders if (folder / CHECKSUMS).is_file()), None)


def _from_store(tag: str) -> Source:
    version = tag.partition(":")[2]
    folder = stored(version)
    if folder is None:
        raise WeightsError(
            f"SD_INPAINT_MODEL={tag} is neither in this Bento nor in BentoML's store.\n"
            "Add it with sd-inpaint models import; sd-inpaint models list shows the store's contents."
        )
    return Source(tag, folder, version if len(version) == COMMIT_LENGTH else None)


def verify(source: Source) -> Source:
    """Hashes the files that will be loaded, and compares them with the folder's manifest, if it has one.

    Files in the Hub's cache are links to blobs that are named by their SHA-256, which is as good as a manifest; small
    ones by git's own digest.

    Raises:
        WeightsError: If a file differs from its manifest, or is missing.
    """
    manifest = read_manifest(source.folder)
    files: dict[str, str] = {}
    for folder in FOLDERS + OPTIONAL_FOLDERS:
        if folder in FOLDERS and not (source.folder / folder).is_dir():
            raise WeightsError(
                f"{source.folder} has no folder {folder}, so it is not a model in diffusers' layout.\n"
                f"It needs model_index.json and the folders {', '.join(FOLDERS)}."
            )
        for path in sorted((source.folder / folder).glob("*")):
            name = f"{folder}/{path.name}"
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            files[name] = sha256(path)
            _check_digest(name, path, files[name], manifest.get(name))
    missing = sorted(
        name for name in manifest if name not in files and name.split("/")[0] in FOLDERS + OPTIONAL_FOLDERS
    )
    if missing:
        raise WeightsError(f"{source.folder} lacks files that its {CHECKSUMS} lists:\n{', '.join(missing)}.")
    return Source(source.name, source.folder, source.revision, files)


class Verification:
    """Verifies a model in a thread of its own: hashing takes as long as reading, and other work can go on meanwhile."""

    def __init__(self, source: Source) -> None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="verification")
        self._future = executor.submit(verify, source)
        executor.shutdown(wait=False)

    @classmethod
    def begin(cls, settings: Settings) -> "Verification | None":
        """Begins with the configured model, if it is on this disk; None where it is to be downloaded first, or wrong.

        What is wrong is said by :func:`locate`, in its turn.
        """
        try:
            return cls(locate(settings.model_copy(update={"offline": True})))
        except WeightsError:
            return None

    def result(self) -> Source:
        """Waits for the end; returns the source with its digests.

        Raises:
            WeightsError: As :func:`verify` does.
        """
        return self._future.result()


def _check_digest(name: str, path: Path, found: str, listed: str | None) -> None:
    blob = path.resolve()
    kind, expected = "SHA-256", listed
    if expected is None and path.is_symlink() and len(blob.name) in (COMMIT_LENGTH, len(found)):
        expected = blob.name
        if len(expected) == COMMIT_LENGTH:
            kind, found = "git digest", _git_digest(path)
    if expected is not None and expected != found:
        raise WeightsError(
            f"{name} is damaged: its {kind} is {found}, expected {expected}.\nDelete {blob} and start again."
        )


def _download(model: str, revision: str, *, offline: bool) -> Source:
    """Takes the model from the local cache, else from the first mirror that answers."""
    mirrors = MIRRORS.get(model, (model,))
    for mirror in mirrors:
        try:
            folder = snapshot_download(mirror, revision=revision, allow_patterns=DOWNLOAD, local_files_only=True)
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        if _has_weights(Path(folder)):
            return Source(model, Path(folder), Path(folder).name)
    reasons = []
    if not offline and os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("1", "true", "yes", "on"):
        for mirror in mirrors:
            if (trouble := _ask(mirror, revision)) is not None:
                reasons.append(f"{mirror}: {trouble}")
                continue
            try:
                logger.info("Downloading %s at %s (about 2 GB for Stable Diffusion 1.5).", mirror, revision)
                folder = snapshot_download(mirror, revision=revision, allow_patterns=DOWNLOAD)
            except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
                reasons.append(f"{mirror}: {first_line(error)}")
                continue
            if _has_weights(Path(folder)):
                return Source(model, Path(folder), Path(folder).name)
            reasons.append(f"{mirror}: no half-precision safetensors at {revision}")
    why = "; ".join(reasons) or "downloads are off"
    raise WeightsError(
        f"The weights of {model} at {revision[:12]} are not on this machine and could not be downloaded ({why}).\n"
        "Set SD_INPAINT_MODEL to a folder that holds them, or to demo for the small model that comes with this package."
    )


def _ask(mirror: str, revision: str) -> str | None:
    """Returns why a repository cannot be downloaded, or None; the Hub's client would first retry for a minute."""
    url = f"{constants.ENDPOINT}/api/models/{mirror}/revision/{revision}"
    try:
        with urlopen(Request(url, headers=build_hf_headers()), timeout=ASK_SECONDS):  # noqa: S310 — the Hub's own address
            return None
    except HTTPError as error:
        # The Hub's answers for a deleted, private or misspelt repository; other errors may be temporary.
        return f"HTTP {error.code}" if error.code in (401, 403, 404) else None
    except (URLError, OSError) as error:
        return f"unreachable ({getattr(error, 'reason', error)})"


def _has_weights(folder: Path) -> bool:
    return all(any((folder / name).glob("*.safetensors")) for name in ("unet", "vae", "text_encoder"))


def read_manifest(folder: Path) -> dict[str, str]:
    """Gives path → SHA-256 from a folder's ``SHA256SUMS``; nothing where it has none."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    return parse_manifest(path.read_text("utf-8"))


def parse_manifest(text: str) -> dict[str, str]:
    """Gives path → SHA-256 from what ``sha256sum`` wrote."""
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return {name.strip().removeprefix("*").removeprefix("./"): digest for digest, name in lines}


def sha256(path: Path) -> str:
    """Gives a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def first_line(error: Exception) -> str:
    """Returns the first line of a library's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
