"""Several devices, each in a process of its own, as they are served."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.edge import HEALTH, INPAINT
from tests.support.pictures import hole, photo, written
from tests.support.real_time import wait_for
from tests.support.served import SERVE, Server
from tests.support.sleeping import DEADLY_SEED, STEP_SECONDS

SIZE = (64, 64)
FORM = {"num_inference_steps": "4", "region": "full", "prompt": "a rose"}
SLEEPING = (*SERVE[:-1], "tests.support.sleeping_service:SDInpaint")
JOBS = "/sd-inpaint/jobs"
INFO = "/sd-inpaint/info"


@contextlib.contextmanager
def serving(folder: Path, workers: int, *, step_seconds: float, **settings: str) -> Iterator[Server]:
    """Serves so many sleeping devices, from when all work."""
    folder.mkdir(exist_ok=True)
    server = Server(
        folder / "log",
        serve=SLEEPING,
        SD_INPAINT_WORKERS=str(workers),
        SD_INPAINT_STATE_DIR=str(folder / "state"),
        **{STEP_SECONDS: str(step_seconds)},
        **settings,
    )
    try:
        server.wait()
        wait_for(lambda: devices(server)["working"] == workers, 60)
        yield server
    finally:
        server.stop()


def devices(server: Server) -> dict[str, int]:
    """How many work, and how many are lost."""
    counts: dict[str, int] = httpx.get(server.url + INFO, timeout=30).json()["devices"]
    return counts


def parent(process: int) -> int:
    """The id of a process's parent; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def device_processes(server: Server) -> list[int]:
    """The ids of the processes that have a device."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"sd_inpaint.engine.device_process" in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [process for process in found if server.process.pid in (parent(process), parent(parent(process)))]


def upload(seed: int) -> dict[str, Any]:
    """Arguments for a request with a seed."""
    files = {"image": ("i.png", written(photo(SIZE))), "mask": ("m.png", written(hole(SIZE)))}
    return {"files": files, "data": {**FORM, "seed": str(seed)}}


async def paint(server: Server, count: int) -> tuple[list[httpx.Response], float]:
    """Paints so many pictures, all at once; gives the answers, and how long it took."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        await client.post(INPAINT, **upload(0))
        started = time.monotonic()
        answers = await asyncio.gather(*(client.post(INPAINT, **upload(seed)) for seed in range(1, count + 1)))
        return list(answers), time.monotonic() - started


def test_four_devices_paint_nearly_four_times_as_much(tmp_path: Path) -> None:
    """The service itself takes little: four devices that sleep give 3.4 times the pictures of one."""
    seconds = {}
    for workers in (1, 4):
        with serving(tmp_path / str(workers), workers, step_seconds=0.4) as server:
            answers, seconds[workers] = asyncio.run(paint(server, 8))
            assert {answer.status_code for answer in answers} == {200}
    assert seconds[1] / seconds[4] > 3.4, seconds


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two devices with a short queue."""
    with serving(tmp_path_factory.mktemp("two"), 2, step_seconds=0.2, SD_INPAINT_MAX_QUEUE="6") as server:
        yield server


def job(server: Server, address: str) -> dict[str, Any]:
    """Looks a job up."""
    shown: dict[str, Any] = httpx.get(server.url + address, timeout=30).json()
    return shown


def test_kill_of_one_device_loses_no_job(two: Server) -> None:
    """The other paints what was on it; health says that one is lost, and then no more; requests see nothing of it."""
    addresses = []
    for seed in range(1, 5):
        accepted = httpx.post(two.url + JOBS, **upload(seed), timeout=30)
        assert accepted.status_code == 202, accepted.text
        addresses.append(accepted.json()["url"])
    wait_for(lambda: sum(job(two, address)["state"] == "running" for address in addresses) == 2)
    first, _ = sorted(device_processes(two))
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: devices(two)["lost"] == 1)
    assert httpx.get(two.url + HEALTH, timeout=30).json()["problems"][0]["code"] == "device_lost"
    answer = httpx.post(two.url + INPAINT, **upload(5), timeout=60)
    assert answer.status_code == 200
    wait_for(lambda: all(job(two, address)["state"] == "done" for address in addresses), 60)
    wait_for(lambda: devices(two) == {"working": 2, "lost": 0}, 60)
    assert httpx.get(two.url + HEALTH, timeout=30).json()["status"] == "healthy"
    for seed, address in enumerate(addresses, start=1):
        again = httpx.post(two.url + INPAINT, **upload(seed), timeout=60)
        kept = httpx.get(f"{two.url}{address}/result", timeout=30)
        assert kept.content == again.content


def test_queue_bound_holds_for_all_devices_together(two: Server) -> None:
    """Six canvases may wait or run, not six for each device: of ten at once, four are told to come again."""
    requests = [upload(seed) for seed in range(10)]
    for request in requests:
        # Long enough for all to come before the first is done.
        request["data"]["num_inference_steps"] = "15"

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=two.url, timeout=120) as client:
            return list(await asyncio.gather(*(client.post(INPAINT, **request) for request in requests)))

    answers = asyncio.run(flood())
    codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [200] * 6 + [429] * 4
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


def test_cancelled_job_frees_its_device(two: Server) -> None:
    """A job that is deleted while it runs ends before its device's next step."""
    request = upload(1)
    request["data"]["num_inference_steps"] = "150"
    address = httpx.post(two.url + JOBS, **request, timeout=30).json()["url"]
    wait_for(lambda: job(two, address)["step"] > 0)
    assert httpx.delete(two.url + address, timeout=30).status_code == 204
    wait_for(lambda: httpx.get(two.url + INFO, timeout=30).json()["queue"]["jobs"] == 0)


def test_metrics_count_the_devices(two: Server) -> None:
    """An operator sees how many work."""
    wait_for(lambda: 'sd_inpaint_devices{state="working"} 2.0' in httpx.get(two.url + "/metrics", timeout=30).text)


def test_picture_that_kills_devices_is_given_up(two: Server) -> None:
    """It gets an error after a few of them, and the service goes on."""
    answer = httpx.post(two.url + INPAINT, **upload(DEADLY_SEED), timeout=120)
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    wait_for(lambda: devices(two) == {"working": 2, "lost": 0}, 60)
    assert httpx.post(two.url + INPAINT, **upload(1), timeout=60).status_code == 200


def test_processes_end_with_the_server(tmp_path: Path) -> None:
    """Also where it is killed: no card stays occupied."""
    with serving(tmp_path / "killed", 2, step_seconds=0.05) as server:
        processes = device_processes(server)
        assert len(processes) == 2
        os.kill(parent(processes[0]), signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 30)
