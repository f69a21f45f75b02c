"""``scripts/bench peers``: a whole run with a tiny model, and what is made of its figures."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import sd_inpaint
from tools.bench import peers, peers_report

PICTURE = {"seconds": 10.0, "steps": 3, "step_seconds": 2.0}


def test_whole_run_gives_a_table_figures_and_a_plot(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides paint in turn, in processes of their own, and every row of the report has its figure."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    index = (Path(sd_inpaint.__file__).parent / "demo_model" / "model_index.json").read_text("utf-8")
    (model / "model_index.json").write_text(index, "utf-8")
    sizes = ["--side", "64", "--large-side", "256", "--hole", "40", "--steps", "2", "--rounds", "1"]
    peers.main(["--model", str(model), "--device", "cpu", *sizes, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "peers.json").read_text("utf-8"))
    for name in ("diffusers", "this service"):
        (picture,) = found["rounds"][name]
        assert picture["steps"] == 2
        assert picture["whole_seconds"] > picture["seconds"] > 2 * picture["step_seconds"] > 0
        assert found["peak_bytes"][name] > 1e8
        assert found["facts"][name]["gemm"] > 1e8
    assert found["step_flops"] > 1e6
    assert found["large"]["plain_seconds"] > 8 * 20 * found["large"]["row_seconds"]
    assert 1 < found["around_milliseconds"]["least"] <= found["around_milliseconds"]["median"]
    table = capsys.readouterr().out
    assert (tmp_path / "out" / "peers.md").read_text("utf-8") in table
    assert "| this service | torch-float32 |" in table
    assert len(ET.parse(tmp_path / "out" / "peers.svg").getroot()) == 2 + 3 * 2  # noqa: S314  # written above


def test_longer_pictures_are_derived_from_their_steps() -> None:
    """What surrounds the steps counts once; a scheduler's extra step stays one."""
    assert peers.whole_seconds(PICTURE, 20, 3) == 10 + 17 * 2
    assert peers.whole_seconds(PICTURE, 20, 2) == 10 + 18 * 2
    assert peers.whole_seconds(PICTURE, 3, 3) == 10


def test_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """In benchmarks.md a new run replaces the last one, and nothing else."""
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Before\n{peers_report.BEGIN}\nold\n{peers_report.END}\n## After\n", "utf-8")
    for table in ("first\n", "second\n"):
        peers_report.put(tmp_path, table)
    text = page.read_text("utf-8")
    assert re.fullmatch(r"# Before\n<!--.*-->\n\nsecond\n\n!.*svg\)\n\n<!--.*-->\n## After\n", text)
