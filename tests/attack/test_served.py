"""Floods against ``bentoml serve``: it stays under its memory, answers probes, and serves whoever else calls."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.bombs import png_of_one_colour, run_length_bmp
from tests.support.edge import HEALTH, INPAINT, form
from tests.support.pictures import hole, photo, written
from tests.support.processes import family
from tests.support.served import Server

pytestmark = pytest.mark.slow

CAP = 3 * 1024**3
"""A third of what the same floods took before there was a cap."""

FLOOD_SECONDS = 10.0
"""How long the callers of a flood wait."""

HEALTH_SECONDS = 5.0
"""On a machine with nothing else to do it is a tenth."""

SMALL = form(image=written(photo((512, 512))), mask=written(hole((512, 512))))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a cap."""
    folder = tmp_path_factory.mktemp("attacked")
    made = Server(
        folder / "serve.log", SD_INPAINT_MAX_MEMORY_BYTES=str(CAP), SD_INPAINT_STATE_DIR=str(folder / "state")
    )
    made.wait()
    yield made
    made.stop()
    assert "Traceback" not in made.log.read_text()


def resident(pid: int) -> int:
    """The memory of a process and its descendants, what they share counted once."""
    pids = [pid]
    for parent in pids:
        pids += [child for child in family(parent) if child not in pids]
    total = 0
    for one in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@dataclass
class Watch:
    """What somebody else sees meanwhile."""

    peak_bytes: int = 0
    health_seconds: float = 0.0
    statuses: list[int] = field(default_factory=list)


@contextlib.asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watch]:
    """Looks at health and memory all the time."""
    watch = Watch()
    ended = asyncio.Event()

    async def look() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            while not ended.is_set():
                started = time.monotonic()
                watch.statuses.append((await client.get(HEALTH)).status_code)
                watch.health_seconds = max(watch.health_seconds, time.monotonic() - started)
                watch.peak_bytes = max(watch.peak_bytes, await asyncio.to_thread(resident, server.process.pid))
                await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield watch
    finally:
        ended.set()
        await looking


async def flood(client: httpx.AsyncClient, path: str, count: int, **fields: object) -> list[int]:
    """Sends so many requests at once; gives the statuses of those that were answered in time."""

    async def one() -> int | None:
        with contextlib.suppress(httpx.TimeoutException):
            return (await client.post(path, **form(**fields), timeout=FLOOD_SECONDS)).status_code
        return None

    return [status for status in await asyncio.gather(*(one() for _ in range(count))) if status is not None]


FIFTY = (8660, 5773)


def thin_mask() -> bytes:
    """Fifty megapixels with one white column."""
    mask = hole(FIFTY)
    mask.paste(0, (0, 0, *FIFTY))
    mask.paste(255, (4000, 0, 4001, FIFTY[1]))
    return written(mask)


FLOODS = {
    "jobs of 50 megapixels": (
        "/sd-inpaint/jobs",
        lambda: {"image": png_of_one_colour(*FIFTY, 4), "mask": thin_mask(), "mask_grow": "256"},
    ),
    "jobs of black masks": (
        "/sd-inpaint/jobs",
        lambda: {"image": png_of_one_colour(*FIFTY), "mask": png_of_one_colour(*FIFTY, 1), "num_images": "4"},
    ),
    "thin pictures": (
        INPAINT,
        lambda: {
            "image": png_of_one_colour(65_535, 762),
            "mask": png_of_one_colour(65_535, 762, 1),
            "mask_grow": "256",
        },
    ),
    "run-length BMP": (
        INPAINT,
        lambda: {"image": run_length_bmp(2000, 2000), "mask": run_length_bmp(2000, 2000), "mask_invert": "true"},
    ),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.timeout(600)
def test_flood(server: Server, name: str) -> None:
    """Thirty-two requests at once, each made to take as much as it can, meet a bound; others are served meanwhile."""
    path, make = FLOODS[name]

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client, watching(server) as watch:
            flooding = asyncio.create_task(flood(client, path, 32, **make()))
            await asyncio.sleep(1.0)
            answer = await client.post(INPAINT, **SMALL)
            while answer.status_code == 429:
                await asyncio.sleep(int(answer.headers["retry-after"]))
                answer = await client.post(INPAINT, **SMALL)
            assert answer.status_code == 200
            statuses = await flooding
        assert set(statuses) <= {200, 202, 413, 429}
        assert set(watch.statuses) == {200}
        assert watch.health_seconds < HEALTH_SECONDS
        assert watch.peak_bytes < CAP

    asyncio.run(run())
