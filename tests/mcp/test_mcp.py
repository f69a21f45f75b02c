"""The tools, as the protocol's official client calls them: over stdin and stdout, and over HTTP."""

import base64
import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from sd_inpaint.mcp.folders import Folders
from sd_inpaint.mcp.pictures import Pictures
from sd_inpaint.mcp.service import RemoteService
from sd_inpaint.mcp.tools import Tools
from sd_inpaint.schema import InpaintParameters
from tests.support.live_edge import LiveEdge, live_edge
from tests.support.pictures import SIZE, opened, photo, written
from tests.support.processes import free_port, wait_for
from tests.support.real_time import SlowPainter
from tests.support.repository import ROOT

BOX = {"box": [20, 10, 50, 40]}

FEW = {"num_inference_steps": 3}

MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEdge]:
    """The service, whose device only takes its time."""
    with live_edge(painter=SlowPainter, state_dir=tmp_path_factory.mktemp("jobs")) as edge:
        yield edge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture."""
    (tmp_path / "photo.png").write_bytes(written(photo()))
    return tmp_path


def tools(served: LiveEdge, folder: Path | None) -> Tools:
    """The tools, in this process."""
    folders = None if folder is None else Folders([folder])
    return Tools(RemoteService(served.url), Pictures(folders, max_bytes=MAX_BYTES, max_pixels=1_000_000))


def run(server: Any, work: Callable[[Client], Awaitable[None]]) -> None:
    """Connects to a server, and does some work with it."""

    async def connected() -> None:
        async with Client(server, read_timeout_seconds=120) as client:
            await work(client)

    anyio.run(connected)


def text_of(result: Any) -> str:
    """The words of an answer."""
    return " ".join(part.text for part in result.content if part.type == "text")


def pictures_of(result: Any) -> list[np.ndarray]:
    """The pictures of an answer."""
    return [opened(base64.b64decode(part.data)) for part in result.content if part.type == "image"]


def check_painted(painted: np.ndarray) -> None:
    """Asserts that a picture is the photograph, but for the box."""
    sent = np.asarray(photo())
    inside = np.zeros(sent.shape[:2], bool)
    inside[10:40, 20:50] = True
    assert painted.shape == sent.shape
    assert np.array_equal(painted[~inside], sent[~inside])
    assert not np.array_equal(painted[inside], sent[inside])


def test_tools_say_what_they_take(served: LiveEdge, folder: Path) -> None:
    """Each tool has a description, and its options are the schema's, with their bounds."""

    async def work(client: Client) -> None:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {"inpaint", "remove", "extend", "make_mask", "job", "result", "cancel"}
        assert all(tool.description for tool in listed.values())
        options = listed["inpaint"].input_schema["$defs"]["PaintOptions"]["properties"]
        assert set(options) == set(InpaintParameters.model_fields) - {"prompt"}
        assert (options["num_inference_steps"]["minimum"], options["num_inference_steps"]["maximum"]) == (1, 150)

    run(tools(served, folder).server(), work)


def test_it_paints_and_shows_progress(served: LiveEdge, folder: Path) -> None:
    """A picture by its path is repainted within a box, shown, written to a new file, and its job is gone after it."""
    steps = []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        steps.append((step, total))

    async def work(client: Client) -> None:
        arguments = {"image": "photo.png", "mask": BOX, "prompt": "a rose", "options": FEW, "output": "rose.png"}
        result = await client.call_tool("inpaint", arguments, progress_callback=progress)
        assert not result.is_error, text_of(result)
        (painted,) = pictures_of(result)
        check_painted(painted)
        assert np.array_equal(opened((folder / "rose.png").read_bytes()), painted)
        assert "rose.png" in text_of(result)
        again = await client.call_tool("inpaint", arguments)
        assert again.is_error
        assert "exists already" in text_of(again)

    run(tools(served, folder).server(), work)
    assert steps == sorted(set(steps))
    assert steps[-1] == (3, 3)


def test_content_instead_of_paths(served: LiveEdge) -> None:
    """Without folders, pictures come as content or data URLs; a path is refused, and so is an output."""
    data = base64.b64encode(written(photo())).decode()

    async def work(client: Client) -> None:
        for image in ({"type": "image", "data": data, "mimeType": "image/png"}, f"data:image/png;base64,{data}"):
            sent = {"image": image, "mask": BOX, "prompt": "a rose", "options": FEW}
            (painted,) = pictures_of(await client.call_tool("inpaint", sent))
            check_painted(painted)
        for wrong in ({"image": "/etc/hostname"}, {"output": "rose.png"}):
            refused = await client.call_tool("inpaint", {**sent, **wrong})
            assert refused.is_error
            assert "[invalid_parameter]" in text_of(refused)

    run(tools(served, None).server(), work)


def test_room_that_is_too_large_is_not_made(served: LiveEdge, folder: Path) -> None:
    """A picture with its room is bounded as any picture is, before there is one."""

    async def work(client: Client) -> None:
        refused = await client.call_tool("extend", {"image": "photo.png", "right": 8000, "bottom": 8000})
        assert refused.is_error
        assert "image_too_large" in text_of(refused)

    run(tools(served, folder).server(), work)


def test_extend_remove_and_masks(served: LiveEdge, folder: Path) -> None:
    """A picture gets room on its sides, loses what a mask covers, and a shape becomes a mask that is a picture."""

    async def work(client: Client) -> None:
        wide = await client.call_tool("extend", {"image": "photo.png", "left": 20, "bottom": 7, "options": FEW})
        (larger,) = pictures_of(wide)
        assert larger.shape[:2] == (SIZE[1] + 7, SIZE[0] + 20)
        (mask,) = pictures_of(
            await client.call_tool("make_mask", {"image": "photo.png", "shape": BOX, "output": "mask.png"})
        )
        assert mask.shape[:2] == SIZE[::-1]
        assert mask[10:40, 20:50].min() == 255
        assert mask.max(axis=2).astype(bool).sum() == 30 * 30
        gone = await client.call_tool("remove", {"image": "photo.png", "mask": "mask.png", "options": FEW})
        check_painted(pictures_of(gone)[0])
        assert served.painter.slow.batches

    run(tools(served, folder).server(), work)


def test_jobs(served: LiveEdge, folder: Path) -> None:
    """Without waiting, a call gives a job, which can be looked up, read and cancelled."""

    async def work(client: Client) -> None:
        sent = {"image": "photo.png", "mask": BOX, "prompt": "a rose", "wait": False}
        job = (await client.call_tool("inpaint", sent | {"options": FEW})).structured_content["job_id"]
        await wait_done(client, job)
        check_painted(pictures_of(await client.call_tool("result", {"job_id": job}))[0])
        long = (await client.call_tool("inpaint", sent | {"options": {"num_inference_steps": 150}})).structured_content
        early = await client.call_tool("result", {"job_id": long["job_id"]})
        assert "[job_not_ready]" in text_of(early)
        await client.call_tool("cancel", {"job_id": long["job_id"]})
        after = await client.call_tool("job", {"job_id": long["job_id"]})
        assert after.structured_content["state"] == "cancelled"
        assert "[job_not_found]" in text_of(await client.call_tool("job", {"job_id": "nothing"}))

    run(tools(served, folder).server(), work)


def test_a_picture_that_is_too_large_to_show_is_kept(
    served: LiveEdge, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not painted for nothing: its job keeps it, and gives it into a file."""
    monkeypatch.setattr("sd_inpaint.mcp.tools.MAX_SHOWN_BYTES", 100)

    async def work(client: Client) -> None:
        refused = await client.call_tool(
            "inpaint", {"image": "photo.png", "mask": BOX, "prompt": "a rose", "options": FEW}
        )
        assert refused.is_error
        (job,) = re.findall(r"Job (\S+) keeps it", text_of(refused))
        kept = await client.call_tool("result", {"job_id": job, "show": False, "output": "kept.png"})
        assert not kept.is_error, text_of(kept)
        check_painted(opened((folder / "kept.png").read_bytes()))

    run(tools(served, folder).server(), work)


def test_a_call_that_is_broken_off_cancels_its_job(served: LiveEdge, folder: Path) -> None:
    """Nobody waits for the picture any more, so the device does not paint it."""

    def cancelled() -> int:
        outcomes = httpx.get(f"{served.url}/sd-inpaint/info").json()["queue"]["outcomes"]
        return int(outcomes.get("cancelled", 0))

    async def work(client: Client) -> None:
        before = cancelled()
        begun = anyio.Event()

        async def progress(step: float, total: float | None, message: str | None) -> None:
            begun.set()

        long = {"image": "photo.png", "mask": BOX, "prompt": "a rose", "options": {"num_inference_steps": 150}}
        async with anyio.create_task_group() as calls:
            calls.start_soon(functools.partial(client.call_tool, "inpaint", long, progress_callback=progress))
            await begun.wait()
            calls.cancel_scope.cancel()
        for _ in range(200):
            if cancelled() > before:
                return
            await anyio.sleep(0.1)
        raise AssertionError("the job went on")

    run(tools(served, folder).server(), work)


async def wait_done(client: Client, job_id: str) -> None:
    """Looks a job up until it is done."""
    for _ in range(600):
        if (await client.call_tool("job", {"job_id": job_id})).structured_content["state"] == "done":
            return
        await anyio.sleep(0.1)
    raise AssertionError("it did not end")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": "nothing.png"}, "[invalid_parameter]"),
        ({"image": {"data": "%%%"}}, "[invalid_parameter]"),
        ({"image": {"data": "A" * (2 * MAX_BYTES)}}, "[body_too_large]"),
        ({"image": {"data": base64.b64encode(b"no picture").decode()}}, "[invalid_image]"),
        ({"mask": {}}, "exactly one"),
        ({"mask": {"data": base64.b64encode(written(photo((8, 8)))).decode()}}, "[size_mismatch]"),
        ({"options": {"num_inference_steps": 151}}, "num_inference_steps"),
        ({"options": {"steps": 1}}, "steps"),
        ({"prompt": "(a rose:9)"}, "[invalid_parameter]"),
        ({"output": "rose.txt"}, "[invalid_parameter]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_are_words_with_codes(served: LiveEdge, folder: Path, wrong: dict[str, Any], words: str) -> None:
    """What cannot be done is said in words that an assistant can act on, with the service's own code."""

    async def work(client: Client) -> None:
        sent = {"image": "photo.png", "mask": BOX, "prompt": "a rose", "options": FEW}
        refused = await client.call_tool("inpaint", sent | wrong)
        assert refused.is_error
        assert words in text_of(refused)
        assert not pictures_of(refused)

    run(tools(served, folder).server(), work)


def environment() -> dict[str, str]:
    """That of a command of this tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.mark.slow
def test_over_stdin_with_a_service_of_its_own(folder: Path) -> None:
    """The command that an assistant starts reads a file of its folder, paints with the demo model and writes a file.

    The keys of a server that the same folder's settings are for are not asked for.
    """
    (folder / ".env").write_text("SD_INPAINT_API_KEYS=a-key-of-a-server\n", "utf-8")
    arguments = ["-m", "sd_inpaint", "mcp", "--demo", "--root", str(folder)]
    command = StdioServerParameters(command=sys.executable, args=arguments, env=environment(), cwd=str(folder))

    async def work(client: Client) -> None:
        options = {"num_inference_steps": 1, "guidance_scale": 1, "region": "full"}
        sent = {"image": "photo.png", "mask": BOX, "prompt": "a rose", "options": options, "output": "rose.png"}
        result = await client.call_tool("inpaint", sent, read_timeout_seconds=200)
        assert not result.is_error, text_of(result)
        check_painted(opened((folder / "rose.png").read_bytes()))

    run(command, work)


@contextlib.contextmanager
def served_over_http(url: str, log: Path, **settings: str) -> Iterator[str]:
    """The command with --http; gives its address."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sd_inpaint", "mcp", "--http", "--port", str(port), "--server", url],
            env={**environment(), **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(
            f"{address}/nothing",
            status=401 if settings else 404,
            seconds=60,
            log=log.read_text,
            is_running=lambda: process.poll() is None,
        )
        yield f"{address}/mcp"
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


@contextlib.asynccontextmanager
async def transport(url: str, headers: dict[str, str]) -> AsyncIterator[Any]:
    """A connection with headers of its own."""
    import httpx2

    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams


@pytest.mark.slow
def test_over_http_with_keys(tmp_path: Path) -> None:
    """Over HTTP the service's own keys are asked for, and passed on: a caller sees only jobs of that key."""
    keys = "first-key,second-key"
    data = base64.b64encode(written(photo())).decode()
    jobs: list[str] = []

    async def submit(client: Client) -> None:
        sent = {"image": {"data": data}, "mask": BOX, "prompt": "a rose", "options": FEW}
        (painted,) = pictures_of(await client.call_tool("inpaint", sent))
        check_painted(painted)
        jobs.append((await client.call_tool("inpaint", sent | {"wait": False})).structured_content["job_id"])
        assert not (await client.call_tool("job", {"job_id": jobs[0]})).is_error

    async def look(client: Client) -> None:
        assert "[job_not_found]" in text_of(await client.call_tool("job", {"job_id": jobs[0]}))

    with (
        live_edge(painter=SlowPainter, state_dir=tmp_path / "jobs", api_keys=keys) as edge,
        served_over_http(edge.url, tmp_path / "log", SD_INPAINT_API_KEYS=keys) as url,
    ):
        assert httpx.post(url, json={}).status_code == 401
        assert httpx.post(url, json={}, headers={"X-API-Key": "wrong"}).json()["code"] == "unauthorized"
        run(transport(url, {"Authorization": "Bearer first-key"}), submit)
        run(transport(url, {"X-API-Key": "second-key"}), look)


@pytest.mark.slow
def test_over_http_other_sites_are_refused(served: LiveEdge, tmp_path: Path) -> None:
    """Without keys, neither a page of another site nor a name that is not this machine's reaches a tool."""
    with served_over_http(served.url, tmp_path / "log") as url:
        ask = functools.partial(httpx.post, url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert ask(headers={"Origin": "https://evil.example"}).json()["code"] == "forbidden_origin"
        assert ask(headers={"Host": "evil.example"}).json()["code"] == "forbidden_host"
