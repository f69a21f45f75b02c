"""Where weights come from."""

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from sd_inpaint.diffusion import sources, weights
from sd_inpaint.diffusion.direct_loading import load_directly
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import DEFAULT_MODEL, Settings
from tests.support.tiny_model import make_components, make_fitting_vae, save


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A tiny model on disk, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def load(folder: Path, **settings: object) -> Any:
    """Loads a folder in float32 on the CPU."""
    return weights.load(Settings(model=str(folder), device="cpu", **settings))  # type: ignore[arg-type]


def weights_path(folder: Path) -> Path:
    """The UNet's file."""
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_folder_loads_and_knows_what_it_holds(folder: Path) -> None:
    """A folder in diffusers' layout loads; each file's SHA-256 is known, and sizes come from its config."""
    backend = load(folder)
    digest = hashlib.sha256(weights_path(folder).read_bytes()).hexdigest()
    assert backend.info["files"]["unet/diffusion_pytorch_model.safetensors"] == digest
    assert backend.limits.native_size == 64
    assert backend.limits.stride == 4


def test_autoencoder_is_of_the_class_that_its_config_names(folder: Path, tmp_path: Path) -> None:
    """Diffusers' inpainting pipeline knows two classes; any other is refused by its name."""
    vae = make_fitting_vae()
    vae.save_pretrained(folder / "vae")
    backend = load(folder)
    assert type(backend._model.vae) is type(vae)
    assert backend.limits.stride == 4
    config = json.loads((folder / "vae" / "config.json").read_text("utf-8"))
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}), "utf-8")
    with pytest.raises(WeightsError, match="VQModel"):
        load(folder, state_dir=tmp_path / "other")


def test_embedded_model_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD_INPAINT_MODEL=demo needs nothing but the package."""
    monkeypatch.setattr(sources, "snapshot_download", lambda *a, **k: pytest.fail("reached for the network"))
    backend = weights.load(Settings(model="demo", device="cpu"))
    assert backend.limits.native_size >= 64


def test_half_precision_variant_is_cast_up(folder: Path) -> None:
    """Where only the fp16 variant is there, as at the pinned revision, it loads and computes in float32."""
    for name in ("unet", "vae"):
        path = folder / name / "diffusion_pytorch_model.safetensors"
        tensors = {key: tensor.half() for key, tensor in load_file(path).items()}
        save_file(tensors, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
        path.unlink()
    path = folder / "text_encoder" / "model.safetensors"
    path.rename(path.with_name("model.fp16.safetensors"))
    backend = load(folder)
    assert backend._model.unet.dtype is torch.float32
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in backend.info["files"]


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_file_is_read_as_diffusers_reads_it(folder: Path, stored: torch.dtype, dtype: torch.dtype) -> None:
    """Read tensor by tensor into its format and layout, a module equals the one that diffusers' own loader makes."""
    path = weights_path(folder)
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    options: dict[str, Any] = {"dtype": dtype, "device": torch.device("cpu"), "channels_last": True}
    ours = load_directly(UNet2DConditionModel, path.parent, path, **options)
    theirs = UNet2DConditionModel.from_pretrained(path.parent, dtype=dtype)
    assert ours is not None
    assert ours.config.sample_size == theirs.config.sample_size
    for (name, tensor), (their_name, their_tensor) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == their_name
        assert torch.equal(tensor, their_tensor)
        assert tensor.is_contiguous(memory_format=torch.channels_last) or tensor.ndim != 4


def test_file_with_other_names_is_left_to_diffusers(folder: Path) -> None:
    """An autoencoder of an earlier version names its attention otherwise: diffusers knows how, and it loads as ever."""
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    options: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "channels_last": False}
    assert load_directly(AutoencoderKL, path.parent, path, **options) is not None
    before = load_file(path)
    old = {
        name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value"): t for name, t in before.items()
    }
    save_file({name.replace("to_out.0", "proj_attn"): tensor for name, tensor in old.items()}, path)
    assert load_directly(AutoencoderKL, path.parent, path, **options) is None
    loaded = load(folder)._model.vae.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("length", [4, 100, -1], ids=["no header", "half a header", "half a tensor"])
def test_file_that_ends_too_early_is_an_error(folder: Path, length: int) -> None:
    """Whatever part of a file is there, loading it says that the folder could not be loaded."""
    path = weights_path(folder)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match="could not be loaded"):
        load(folder)


def test_verification_goes_on_beside_other_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing has a thread of its own, whose findings loading waits for; what is to be downloaded is not begun."""
    let_go = threading.Event()
    verify = sources.verify
    monkeypatch.setattr(sources, "verify", lambda source: let_go.wait(60) and verify(source))
    settings = Settings(model=str(folder), device="cpu")
    verification = sources.Verification.begin(settings)
    assert verification is not None
    let_go.set()
    assert weights.load(settings, verification).info["files"] == verify(sources.locate(settings)).files
    assert sources.Verification.begin(Settings(model=str(folder / "not there"))) is None


def test_pickle_is_refused_unless_allowed_by_name(folder: Path) -> None:
    """A pickle can run code: it loads only where an operator says so."""
    path = weights_path(folder)
    torch.save(load_file(path), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()
    with pytest.raises(WeightsError, match="SD_INPAINT_ALLOW_PICKLE"):
        load(folder)
    assert load(folder, allow_pickle=True).limits.native_size == 64


def test_damaged_file_is_named(folder: Path) -> None:
    """A file that differs from the manifest by one byte is refused by its name."""
    path = weights_path(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / sources.CHECKSUMS).write_text(f"{digest}  unet/{path.name}\n", "utf-8")
    load(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"unet/diffusion_pytorch_model\.safetensors is damaged"):
        load(folder)


def test_folder_must_stay_what_was_first_loaded(folder: Path, tmp_path: Path) -> None:
    """A folder without a manifest is held to what it was at its first load, until the operator says otherwise."""
    load(folder, state_dir=tmp_path / "state")
    load(folder, state_dir=tmp_path / "state")
    path = weights_path(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"unet/diffusion_pytorch_model\.safetensors is not what it was") as refused:
        load(folder, state_dir=tmp_path / "state")
    (manifest,) = (tmp_path / "state" / "weights").iterdir()
    assert str(manifest) in str(refused.value)
    manifest.unlink()
    load(folder, state_dir=tmp_path / "state")


def test_what_never_loaded_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    """A folder that did not load may be repaired."""
    config = folder / "vae" / "config.json"
    content = config.read_text("utf-8")
    config.write_text(json.dumps(json.loads(content) | {"_class_name": "VQModel"}), "utf-8")
    with pytest.raises(WeightsError, match="VQModel"):
        load(folder, state_dir=tmp_path / "state")
    config.write_text(content, "utf-8")
    load(folder, state_dir=tmp_path / "state")


def test_state_that_cannot_be_written_keeps_no_model_from_loading(folder: Path, tmp_path: Path) -> None:
    """Where no checksums can be kept, the model still loads."""
    (tmp_path / "file").write_bytes(b"")
    load(folder, state_dir=tmp_path / "file")


def test_demo_model_has_a_manifest() -> None:
    """Each file of the demo model that is loaded is listed, so that damage is noticed."""
    source = sources.locate(Settings(model="demo"))
    assert sources.read_manifest(source.folder) == sources.verify(source).files


def test_file_that_the_manifest_lists_must_be_there(folder: Path) -> None:
    """A manifest tells of files that got lost."""
    (folder / sources.CHECKSUMS).write_text(f"{'0' * 64}  unet/second.safetensors\n", "utf-8")
    with pytest.raises(WeightsError, match=r"unet/second\.safetensors"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_folder_without_a_part_is_refused(folder: Path, part: str) -> None:
    """Whatever part is missing, the error says which."""
    shutil.rmtree(folder / part)
    with pytest.raises(WeightsError, match=part):
        load(folder)


def test_truncated_file_is_refused(folder: Path) -> None:
    """Half a safetensors file is an error at load, with a sentence."""
    path = weights_path(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="could not be loaded"):
        load(folder)


def test_model_that_does_not_inpaint_is_refused(tmp_path: Path) -> None:
    """A text-to-image UNet, of four input channels, is refused with the figure."""
    components = make_components()
    config = dict(components["unet"].config) | {"in_channels": 4}
    components["unet"] = type(components["unet"]).from_config(config)
    with pytest.raises(WeightsError, match="takes 4 channels, not 9"):
        load(save(components, tmp_path / "model"))


def test_path_that_is_no_folder_says_what_to_do() -> None:
    """A path that leads nowhere is told in two lines."""
    with pytest.raises(WeightsError) as missing:
        sources.locate(Settings(model="/nowhere/model"))
    assert len(str(missing.value).splitlines()) == 2


def test_offline_start_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no weights in the cache and no network wanted, the error says in two lines what to do."""

    def nothing(*args: object, **options: object) -> str:
        assert options.get("local_files_only"), "reached for the network"
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(sources, "snapshot_download", nothing)
    with pytest.raises(WeightsError) as missing:
        sources.locate(Settings(offline=True))
    lines = str(missing.value).splitlines()
    assert len(lines) == 2
    assert "SD_INPAINT_MODEL" in lines[1]


def test_mirrors_are_tried_in_order_at_the_pinned_revision(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that does not answer is passed over; the name shown to callers stays the guide's."""
    asked: list[tuple[str, str]] = []

    def download(repository: str, *, revision: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        asked.append((repository, revision))
        if repository == sources.MIRRORS[DEFAULT_MODEL][0]:
            raise OSError("401")
        return str(tiny_model)

    monkeypatch.setattr(sources, "snapshot_download", download)
    monkeypatch.setattr(sources, "_ask", lambda mirror, revision: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    source = sources.locate(Settings())
    assert asked == [(mirror, sources.PINNED_REVISION) for mirror in sources.MIRRORS[DEFAULT_MODEL]]
    assert source.name == DEFAULT_MODEL
