"""``sd-inpaint models``: weights from the Hub, or from a folder, into BentoML's store, and from there into a Bento."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from safetensors.torch import load_file

from sd_inpaint.diffusion import sources, weights
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import DEFAULT_MODEL, Settings
from tests.support.hub import Hub, models
from tests.support.repository import ROOT, run
from tests.support.tiny_model import make_fitting_vae

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
CHUNK = 10 * 1024 * 1024
"""Bytes that the Hub's client keeps at once; of a chunk that broke off it keeps nothing."""

TAG = f"sd-inpaint:{sources.PINNED_REVISION}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as the Hub has the real one: safetensors in half precision only, pickles beside them."""
    folder = tmp_path_factory.mktemp("published") / "model"
    demo = ROOT / "src" / "sd_inpaint" / "demo_model"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    for path in list(folder.rglob("*.safetensors")):
        (path.parent / f"{path.stem}.bin").write_bytes(b"a pickle")
        path.rename(path.with_suffix(".fp16.safetensors"))
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    """A Hub that has the model in the mirror, and whose guide's repository is gone."""
    with Hub(published, sources.PINNED_REVISION, sources.MIRRORS[DEFAULT_MODEL][:1]) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of BentoML, which this process looks into as well."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    return tmp_path / "store" / "models" / "sd-inpaint"


@dataclass(frozen=True)
class Pulled:
    """What one pull over a bad line left.

    Attributes:
        home: BentoML's folder.
        seen: What the Hub was asked.
    """

    home: Path
    seen: list[tuple[str, str, str | None]]

    @property
    def store(self) -> Path:
        """Where the versions are."""
        return self.home / "models" / "sd-inpaint"


@pytest.fixture(scope="module")
def pulled(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Pulled:
    """The guide's model, pulled while the connection was cut in the middle of the UNet; not to be changed."""
    folder = tmp_path_factory.mktemp("pulled")
    with Hub(published, sources.PINNED_REVISION, sources.MIRRORS[DEFAULT_MODEL][:1]) as hub:
        hub.breaks[UNET] = CHUNK + 100_000
        done = models(hub, folder, "pull", BENTOML_HOME=str(folder / "home"))
        assert done.returncode == 0, done.stderr
        assert f"{TAG} is in the store" in done.stdout
    return Pulled(folder / "home", hub.seen)


def test_pull_goes_on_where_the_line_broke(pulled: Pulled, published: Path) -> None:
    """A connection cut in the middle of the UNet costs only the rest of it, and what arrives is what was published."""
    asked = [(method, bytes_) for method, path, bytes_ in pulled.seen if path.endswith(UNET) and method == "GET"]
    assert asked == [("GET", None), ("GET", f"bytes={CHUNK}-")]
    assert (pulled.store / sources.PINNED_REVISION / UNET).read_bytes() == (published / UNET).read_bytes()
    assert not [path for _, path, _ in pulled.seen if path.endswith(".bin")]


def test_pulled_weights_serve_offline_with_nothing_set(pulled: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pulled loads as the guide's model at the pinned commit, and no network is reached for."""
    monkeypatch.setenv("BENTOML_HOME", str(pulled.home))
    monkeypatch.setattr(sources, "snapshot_download", lambda *a, **k: pytest.fail("reached for the network"))
    source = sources.verify(sources.locate(Settings(_env_file=None)))  # type: ignore[call-arg]  # added at run time
    assert (source.name, source.revision) == (DEFAULT_MODEL, sources.PINNED_REVISION)
    assert source.folder == pulled.store / sources.PINNED_REVISION
    assert weights.load(Settings(_env_file=None, device="cpu")).limits.stride > 1  # type: ignore[call-arg]  # as above


def test_two_pulls_put_the_same_bytes_into_the_store(pulled: Pulled, hub: Hub, store: Path, tmp_path: Path) -> None:
    """The store of one machine is that of another, whatever the hour, the folder and the umask."""
    before = os.umask(0o077)
    try:
        done = models(hub, tmp_path, "pull")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    first, second = (
        {path.relative_to(root): path for path in root.rglob("*") if path.is_file()} for root in (pulled.store, store)
    )
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
    for mirror in sources.MIRRORS[DEFAULT_MODEL]:
        assert f"{mirror}: HTTP 401" in done.stderr
    assert len([path for _, path, _ in hub.seen if path.startswith("/api/models/")]) == 2


def test_verify_names_the_file_that_rotted(published: Path, store: Path, tmp_path: Path) -> None:
    """An imported folder serves by its name, until one bit of it changes on the disk."""
    done = models(None, tmp_path, "import", published, "--version", "mine")
    assert done.returncode == 0, done.stderr
    assert "sd-inpaint:mine is in the store" in done.stdout
    assert weights.load(Settings(_env_file=None, model="sd-inpaint:mine", device="cpu")).limits.stride > 1  # type: ignore[call-arg]  # added at run time
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
    with pytest.raises(WeightsError, match="sd-inpaint models list"):
        sources.locate(Settings(_env_file=None, model="sd-inpaint:nowhere"))  # type: ignore[call-arg]  # as above
    done = run("scripts/build", "--model", "real")
    assert done.returncode == 1
    assert "scripts/models pull" in done.stderr


@pytest.mark.parametrize("command", ["list", "verify"])
def test_empty_store_is_no_error(store: Path, tmp_path: Path, command: str) -> None:
    """Where nothing was imported yet, there is nothing to list or to verify."""
    done = models(None, tmp_path, command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bento_of_the_real_model_holds_its_weights(pulled: Pulled, tmp_path: Path) -> None:
    """A Bento with the guide's model refers to the commit, and takes the weights from its own folder wherever it is."""
    options = ("--model", "real", "--version", "full", "--output", "tag")
    done = run("scripts/build", *options, BENTOML_HOME=str(pulled.home))
    assert (done.returncode, done.stdout) == (0, "__tag__:sd-inpaint:full\n"), done.stderr
    bento = Path(shutil.copytree(pulled.home / "bentos" / "sd-inpaint" / "full", tmp_path / "bento"))
    assert f"- tag: {TAG}" in (bento / "bento.yaml").read_text("utf-8")
    folder = bento / "models" / "sd-inpaint" / sources.PINNED_REVISION
    shutil.copytree(pulled.store / sources.PINNED_REVISION, folder)
    code = (
        "import json; from sd_inpaint.settings import Settings;"
        "from sd_inpaint.diffusion.sources import locate, verify;"
        "source = verify(locate(Settings.read(None))); print(json.dumps([source.name, str(source.folder)]))"
    )
    empty = str(tmp_path / "nothing")
    found = run(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        PYTHONPATH=str(bento / "src"),
        BENTOML_HOME=empty,
        HF_HOME=empty,
        HF_HUB_OFFLINE="1",
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [DEFAULT_MODEL, str(folder)]


@pytest.fixture(scope="module")
def fitting_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder for the demo model's latents, of the class whose decoder is shown what is kept, untrained."""
    folder = tmp_path_factory.mktemp("vae")
    vae = make_fitting_vae()
    vae.register_to_config(scaling_factor=1.0)
    vae.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("where", ["folder", "hub", "pickle"])
def test_another_autoencoder_takes_the_place_of_a_models_own(
    pulled: Pulled, fitting_vae: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """``import --vae`` makes a version of its own, which the service and diffusers' pipeline load.

    The published one for Stable Diffusion 1.5 is on the Hub as a pickle: taken by leave, and kept as safetensors.
    """
    shutil.copytree(pulled.home, store.parents[1], dirs_exist_ok=True)
    published = Path(shutil.copytree(fitting_vae, tmp_path / "published"))
    if where == "pickle":
        file = published / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    commit = "ab" * 20
    with Hub(published, commit, ("someone/asymmetric",)) as hub:
        named = [published] if where == "folder" else ["someone/asymmetric", "--vae-revision", commit]
        command = ("import", TAG, "--vae", *named, "--version", "fitting")
        if where == "pickle":
            refused = models(hub, tmp_path, *command)
            assert refused.returncode == 1
            assert "SD_INPAINT_ALLOW_PICKLE=true" in refused.stderr
        done = models(hub, tmp_path, *command, SD_INPAINT_ALLOW_PICKLE=str(where == "pickle"))
    assert done.returncode == 0, done.stderr
    assert "sd-inpaint:fitting is in the store" in done.stdout
    kept = load_file(store / "fitting" / "vae" / "diffusion_pytorch_model.safetensors")
    expected = load_file(fitting_vae / "diffusion_pytorch_model.safetensors")
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    assert (store / "fitting" / UNET).read_bytes() == (store / sources.PINNED_REVISION / UNET).read_bytes()
    settings = Settings(_env_file=None, model="sd-inpaint:fitting", device="cpu")  # type: ignore[call-arg]  # at run time
    assert type(weights.load(settings)._model.vae).__name__ == "AsymmetricAutoencoderKL"  # type: ignore[attr-defined]
    # With the safetensors of the fp16 variant, as the Hub's are.
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(store / "fitting", variant="fp16", safety_checker=None)
    assert type(pipeline.vae).__name__ == "AsymmetricAutoencoderKL"
    labels = (store / "fitting" / "model.yaml").read_text("utf-8")
    assert f"from: {sources.PINNED_REVISION}" in labels
    assert where == "folder" or ("vae: someone/asymmetric" in labels and commit in labels)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"scaling_factor": 0.13025}, "scaling factor 0.13025"),
        ({"latent_channels": 16}, "channels 16"),
        ({"down_block_out_channels": [8, 16, 16, 16]}, "stride 8"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_autoencoder_of_other_latents_is_refused(
    fitting_vae: Path, store: Path, tmp_path: Path, config: dict[str, object], words: str
) -> None:
    """An autoencoder to which the UNet's latents mean nothing is refused, by what differs."""
    other = Path(shutil.copytree(fitting_vae, tmp_path / "other"))
    known = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps(known | config), "utf-8")
    done = models(None, tmp_path, "import", DEMO, "--vae", other)
    assert done.returncode == 1
    assert words in done.stderr
    assert not store.exists() or not list(store.iterdir())


DEMO = ROOT / "src" / "sd_inpaint" / "demo_model"


def test_autoencoder_that_is_nowhere_is_refused(store: Path, tmp_path: Path) -> None:
    """A name that is neither a folder nor had from the Hub is told in two lines."""
    done = models(None, tmp_path, "import", DEMO, "--vae", "someone/nothing")
    assert done.returncode == 1
    assert "--vae someone/nothing is no folder" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


class Code:
    """Something that a pickle of numbers has no need of."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Would make a file where it is unpickled."""
        return Path.touch, (Path("was-run"),)


def broken_config(folder: Path) -> None:
    """Cuts the config off."""
    (folder / "config.json").write_text("{", "utf-8")


def other_layers(folder: Path) -> None:
    """Has the config say another number of layers than the file has."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"layers_per_up_block": 2}), "utf-8")


def other_name(folder: Path) -> None:
    """Gives the weights a name that diffusers does not look for."""
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "vae-ema.safetensors")


def cut_off(folder: Path) -> None:
    """Cuts the weights off."""
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def hostile_pickle(folder: Path) -> None:
    """Has a pickle that would run code in the weights' place."""
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"state_dict": {}, "callbacks": Code()}, folder / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken_config, "cannot be read as a config"),
        (other_layers, "tensors that its config asks for"),
        (other_name, "has no diffusion_pytorch_model.safetensors"),
        (cut_off, "could not be loaded as it is"),
        (hostile_pickle, "holds more than numbers"),
    ],
)
def test_broken_autoencoder_is_refused(
    fitting_vae: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    """What the service could not load is not taken into the store; no pickle's code is run, even by leave."""
    monkeypatch.chdir(tmp_path)
    broken = Path(shutil.copytree(fitting_vae, tmp_path / "broken"))
    damage(broken)
    done = models(None, tmp_path, "import", DEMO, "--vae", broken, SD_INPAINT_ALLOW_PICKLE="true")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 2), done.stderr
    assert words in done.stderr
    assert not store.exists() or not list(store.iterdir())
    assert not list(tmp_path.glob("**/was-run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{empty}", "--vae", "{vae}"], "has no folder unet"),
        (["{demo}", "--vae", "{vae}", "--vae-revision", "main"], "has no revisions"),
        (["{demo}", "--vae-revision", "main"], "--vae-revision says which commit"),
        (["sd-inpaint:none", "--vae", "{vae}"], "is not in the store"),
    ],
)
def test_import_says_what_does_not_go_together(
    fitting_vae: Path, store: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """An option that would do nothing, and a model that is none, are told and not passed over."""
    (tmp_path / "empty").mkdir()
    named = [each.format(empty=tmp_path / "empty", demo=DEMO, vae=fitting_vae) for each in arguments]
    done = models(None, tmp_path, "import", *named)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 2), done.stderr
    assert words in done.stderr
