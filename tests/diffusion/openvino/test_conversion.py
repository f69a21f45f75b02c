"""Where converted models lie, and what is done when one is not what it should be."""

import shutil
import threading
from pathlib import Path

import pytest

from sd_inpaint.diffusion.openvino.conversion import conversions_folder, find, folder_for, keep, locked
from sd_inpaint.settings import Settings

DIGESTS = {"config.json": "a" * 64, "diffusion_pytorch_model.safetensors": "b" * 64}


def write(folder: Path, content: bytes = b"weights") -> None:
    """Writes what a conversion consists of."""
    (folder / "unet.xml").write_bytes(b"<net/>")
    (folder / "unet.bin").write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The place of a conversion that is not there yet."""
    place = folder_for(tmp_path, DIGESTS, "bfloat16")
    place.parent.mkdir()
    return place


def test_place_follows_the_weights_and_the_format(tmp_path: Path) -> None:
    """Other weights, and the same weights in another format, lie elsewhere; the same ones lie in one place."""
    place = folder_for(tmp_path, DIGESTS, "bfloat16")
    assert place == folder_for(tmp_path, dict(reversed(DIGESTS.items())), "bfloat16")
    assert place.parent == folder_for(tmp_path, DIGESTS, "int8").parent
    assert place != folder_for(tmp_path, DIGESTS, "int8")
    assert place.parent != folder_for(tmp_path, DIGESTS | {"config.json": "c" * 64}, "bfloat16").parent


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"cache_dir": "/c", "state_dir": "/s"}, "/c/openvino"), ({"state_dir": "/s"}, "/s/openvino")],
    ids=["a folder of its own", "beside the jobs"],
)
def test_folder_is_the_operators(settings: dict[str, str], expected: str) -> None:
    """Conversions lie in the folder that was set for them, else beside the jobs."""
    assert conversions_folder(Settings.model_validate(settings)) == Path(expected)


def test_what_was_kept_is_found(folder: Path) -> None:
    """A conversion is found once it was kept, and not before."""
    assert find(folder) is None
    keep(folder, write)
    assert find(folder) == folder / "unet.xml"


@pytest.mark.parametrize("name", ["unet.xml", "unet.bin", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_or_foreign_files_are_not_found(folder: Path, name: str, damage: str) -> None:
    """A conversion of which one byte differs, or a file is missing, counts as none."""
    keep(folder, write)
    path = folder / name
    if damage == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
    assert find(folder) is None
    keep(folder, write)
    assert find(folder) is not None


def test_failure_leaves_nothing(folder: Path) -> None:
    """A conversion that breaks off leaves no file, and the one before it as it was."""
    keep(folder, write)

    def fail(part: Path) -> None:
        write(part, b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        keep(folder, fail)
    assert find(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_killed_processes_and_other_versions_left_is_deleted(folder: Path) -> None:
    """Half-written folders and the same format by another version go; another format stays."""
    others = [folder.parent / name for name in (".half", "bfloat16-openvino1", "int8-openvino1")]
    for other in others:
        other.mkdir()
    keep(folder, write)
    assert [other.exists() for other in others] == [False, False, True]


def test_one_converts_at_a_time(folder: Path) -> None:
    """Who comes second waits for the first, and finds what that one made."""
    shutil.rmtree(folder.parent)
    found: list[Path | None] = []

    def second() -> None:
        with locked(folder):
            found.append(find(folder))

    thread = threading.Thread(target=second)
    with locked(folder):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        keep(folder, write)
    thread.join(60)
    assert found == [folder / "unet.xml"]
