"""Memory of a mapped file."""

import mmap
import sys
from pathlib import Path

import pytest

from sd_inpaint.diffusion.openvino.mapped_file import pages_given_back

SIZE = 64 * 1024 * 1024


def resident_bytes(path: Path) -> int:
    """What of a mapped file is in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text("utf-8").splitlines())
    for line in lines:
        if line.endswith(f" {path}"):
            return next(int(each.split()[1]) * 1024 for each in lines if each.startswith("Rss:"))
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux gives back pages of a mapping")
def test_pages_go_and_come_back(tmp_path: Path) -> None:
    """What was read of a mapped file takes no memory afterwards, and is the same when it is read again."""
    path = (tmp_path / "weights.bin").resolve()
    path.write_bytes(b"\x07" * SIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with pages_given_back(path):
            assert sum(mapped[::4096]) == 7 * (SIZE // 4096)
        assert resident_bytes(path) == 0
        assert mapped[SIZE // 2] == 7
        assert resident_bytes(path) > 0
