"""``scripts/models``: weights from the Hub, or from a folder, into BentoML's store, and from there into a Bento."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from hub import Hub
from sd_inpaint import weights
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import DEFAULT_MODEL, Settings
from test_scripts import run
from test_weights import save
from tiny_model import make_components

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
TAG = f"sd-inpaint:{weights.PINNED_REVISION}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as the Hub has the real one: safetensors in half precision only, pickles beside them."""
    folder = save(make_components(), tmp_path_factory.mktemp("published"))
    for path in folder.rglob("*.safetensors"):
        (path.parent / f"{path.stem}.bin").write_bytes(b"a pickle")
        path.rename(path.with_suffix(".fp16.safetensors"))
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    """A Hub that has the model in the mirror, and whose guide's repository is gone."""
    with Hub(published, weights.PINNED_REVISION, weights.MIRRORS[DEFAULT_MODEL][:1]) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of BentoML, which this process looks into as well."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    return tmp_path / "store" / "models" / "sd-inpaint"


def models(hub: Hub | None, tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs ``scripts/models`` with a Hub, or none, and an empty cache of its client."""
    url = hub.url if hub else "http://127.0.0.1:9"
    environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    return run("scripts/models", *arguments, **environment)


def test_pull_goes_on_where_the_line_broke(hub: Hub, store: Path, tmp_path: Path) -> None:
    """A connection cut in the middle of the UNet costs only the rest of it, and what arrives is what was published."""
    hub.breaks[UNET] = 10_000
    done = models(hub, tmp_path, "pull")
    assert done.returncode == 0, done.stderr
    assert f"{TAG} is in the store" in done.stdout
    asked = [(method, bytes_) for method, path, bytes_ in hub.seen if path.endswith(UNET) and method == "GET"]
    assert asked == [("GET", None), ("GET", "bytes=10000-")]
    assert (store / weights.PINNED_REVISION / UNET).read_bytes() == (hub.folder / UNET).read_bytes()
    assert not [path for _, path, _ in hub.seen if path.endswith(".bin")]


def test_pulled_weights_serve_offline_with_nothing_set(hub: Hub, store: Path, tmp_path: Path) -> None:
    """What was pulled loads as the guide's model at the pinned commit, and no network is reached for."""
    assert models(hub, tmp_path, "pull").returncode == 0
    hub.seen.clear()
    source = weights.verify(weights.locate(Settings(_env_file=None)))  # type: ignore[call-arg]  # added at run time
    assert (source.name, source.revision) == (DEFAULT_MODEL, weights.PINNED_REVISION)
    assert source.folder == store / weights.PINNED_REVISION
    assert weights.load(Settings(_env_file=None, device="cpu", offline=True)).stride == 4  # type: ignore[call-arg]  # as above
    assert hub.seen == []


def test_two_pulls_put_the_same_bytes_into_the_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    """The store of one machine is that of another, whatever the hour, the folder and the umask."""
    assert models(hub, tmp_path, "pull").returncode == 0
    first = {path.relative_to(store): path for path in store.rglob("*") if path.is_file()}
    before = os.umask(0o077)
    try:
        done = run(
            *("scripts/models", "pull"),
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "other-hub"),
            BENTOML_HOME=str(tmp_path / "other"),
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    other = tmp_path / "other" / "models" / "sd-inpaint"
    second = {path.relative_to(other): path for path in other.rglob("*") if path.is_file()}
    assert first.keys() == second.keys()
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name
        assert name == Path("latest") or path.stat().st_mode == second[name].stat().st_mode, name


@pytest.mark.parametrize("name", [UNET, "unet/config.json"])
def test_one_wrong_byte_is_refused_by_name(hub: Hub, store: Path, tmp_path: Path, name: str) -> None:
    """A file that differs in one byte from what the Hub says it is does not reach the store."""
    hub.wrong.add(name)
    done = models(hub, tmp_path, "pull")
    assert done.returncode == 1
    assert f"{name} is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(store.glob("*/*"))


def test_deleted_repositories_are_told_with_their_status(hub: Hub, store: Path, tmp_path: Path) -> None:
    """Where the mirror is gone as the guide's own is, both are named with the Hub's 401, at once."""
    hub.names = ()
    done = models(hub, tmp_path, "pull")
    assert done.returncode == 1
    for mirror in weights.MIRRORS[DEFAULT_MODEL]:
        assert f"{mirror}: HTTP 401" in done.stderr
    assert len(hub.seen) == 2


def test_second_mirror_is_asked_where_the_first_is_gone(hub: Hub, store: Path, tmp_path: Path) -> None:
    """Should the guide's repository come back and the mirror go, nothing has to be set."""
    hub.names = weights.MIRRORS[DEFAULT_MODEL][1:]
    done = models(hub, tmp_path, "pull")
    assert done.returncode == 0, done.stderr
    assert (store / weights.PINNED_REVISION / UNET).is_file()


def test_verify_names_the_file_that_rotted(published: Path, store: Path, tmp_path: Path) -> None:
    """An imported folder verifies, until one bit of it changes on the disk."""
    done = models(None, tmp_path, "import", published, "--version", "mine")
    assert done.returncode == 0, done.stderr
    assert models(None, tmp_path, "list").stdout == "sd-inpaint:mine\n"
    assert models(None, tmp_path, "verify").returncode == 0
    content = bytearray((store / "mine" / UNET).read_bytes())
    content[5000] ^= 1
    (store / "mine" / UNET).write_bytes(content)
    done = models(None, tmp_path, "verify")
    assert done.returncode == 1
    assert f"{UNET} of sd-inpaint:mine is damaged" in done.stderr
    with pytest.raises(WeightsError, match="is damaged"):
        weights.load(Settings(_env_file=None, model="sd-inpaint:mine", device="cpu"))  # type: ignore[call-arg]  # as above


def test_import_refuses_what_is_no_model(store: Path, tmp_path: Path) -> None:
    """A folder without the model's parts is refused in two lines."""
    (tmp_path / "empty").mkdir()
    done = models(None, tmp_path, "import", tmp_path / "empty")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert "has no folder unet" in done.stderr


def test_model_that_is_not_in_the_store_is_told(store: Path) -> None:
    """A version that nobody imported is a sentence that says how to see what is there."""
    with pytest.raises(WeightsError, match="scripts/models list"):
        weights.locate(Settings(_env_file=None, model="sd-inpaint:nowhere"))  # type: ignore[call-arg]  # as above
    done = run("scripts/build", "--model", "real")
    assert done.returncode == 1
    assert "scripts/models pull" in done.stderr


def test_bento_of_the_real_model_holds_its_weights(hub: Hub, store: Path, tmp_path: Path) -> None:
    """A Bento with the guide's model refers to the commit, and takes the weights from its own folder wherever it is."""
    assert models(hub, tmp_path, "pull").returncode == 0
    done = run("scripts/build", "--model", "real", "--version", "full", "--output", "tag")
    assert (done.returncode, done.stdout) == (0, "__tag__:sd-inpaint:full\n"), done.stderr
    bento = tmp_path / "bento"
    shutil.copytree(tmp_path / "store" / "bentos" / "sd-inpaint" / "full", bento)
    assert f"- tag: {TAG}" in (bento / "bento.yaml").read_text("utf-8")
    shutil.copytree(store / weights.PINNED_REVISION, bento / "models" / "sd-inpaint" / weights.PINNED_REVISION)
    code = (
        "import json; from sd_inpaint import weights; from sd_inpaint.settings import Settings;"
        "source = weights.verify(weights.locate(Settings.read(None))); print(json.dumps([source.name, str(source.folder)]))"
    )
    python = str(ROOT / ".venv" / "bin" / "python")
    empty = str(tmp_path / "nothing")
    found = run(python, "-c", code, cwd=tmp_path, PYTHONPATH=str(bento / "src"), BENTOML_HOME=empty, HF_HOME=empty)
    assert found.returncode == 0, found.stderr
    folder = bento / "models" / "sd-inpaint" / weights.PINNED_REVISION
    assert json.loads(found.stdout) == [DEFAULT_MODEL, str(folder)]
