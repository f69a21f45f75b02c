"""The client against the real edge, behind a socket: pictures, jobs, progress, errors."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_inpaint.client import NO_RETRIES, AsyncClient, Client, NoAnswerError, Progress, Retries, ServiceError
from sd_inpaint.errors import (
    InvalidImageError,
    InvalidParameterError,
    JobNotFoundError,
    JobNotReadyError,
    SizeMismatchError,
    UnauthorizedError,
)
from tests.support.live_edge import LiveEdge, live_edge
from tests.support.pictures import hole, opened, photo, written
from tests.support.real_time import wait_for

KEY = "zweiter-schlüssel"


@pytest.fixture(scope="module")
def edge() -> Iterator[LiveEdge]:
    """An edge that needs a key, for the whole module."""
    with live_edge(api_keys=(KEY,), root_path="/paint") as live:
        yield live


@pytest.fixture
def client(edge: LiveEdge) -> Iterator[Client]:
    """A client of it."""
    with Client(edge.url, key=KEY, retries=NO_RETRIES) as made:
        yield made


def expected(seed: int) -> np.ndarray:
    """What the fake painter makes."""
    pixels = np.asarray(photo()).copy()
    pixels[np.asarray(hole()) > 127] = seed % 251
    return pixels


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "Pillow", "array", "floats"])
def test_a_picture_may_be_given_in_any_form(client: Client, tmp_path: Path, kind: str) -> None:
    """Paths, bytes, Pillow pictures and arrays all give the same result."""

    def given(picture: Image.Image) -> Any:
        path = tmp_path / f"{picture.mode}.png"
        path.write_bytes(written(picture))
        floats = (np.asarray(picture) / 255).astype(np.float32)
        forms = {"path": path, "text": str(path), "bytes": path.read_bytes(), "Pillow": picture}
        return {**forms, "array": np.asarray(picture), "floats": floats}[kind]

    result = client.inpaint(given(photo()), given(hole()), "a rose", seed=7, num_inference_steps=3)
    assert (np.asarray(result.image) == expected(7)).all()
    assert (result.seed, result.steps, result.pictures[0].media_type) == (7, 3, "image/png")
    assert result.request_id
    assert result.model == "demo"


@pytest.mark.parametrize("order", ["I;16", "I;16B"])
def test_of_16_bits_the_high_byte_counts(client: Client, order: str) -> None:
    """A deep picture of Pillow's is read as its file is."""
    high = np.asarray(photo().convert("L")).astype(np.uint16)
    samples = (high * 256 + 37).astype("<u2" if order == "I;16" else ">u2")
    picture = Image.frombytes(order, photo().size, samples.tobytes())
    painted = np.asarray(client.inpaint(picture, hole(), "a rose").image)
    assert np.array_equal(painted[0, :, 0], high[0])


def test_a_key_from_a_file_ends_its_line(edge: LiveEdge) -> None:
    """Blanks around a key are none of it; what no header can have is refused at once, and not shown."""
    with Client(edge.url, key=f" {KEY}\n", retries=NO_RETRIES) as client:
        client.info()
    with pytest.raises(ValueError, match="no key has") as caught:
        Client(edge.url, key="secret\nX-Other: 1")
    assert "secret" not in str(caught.value)


def test_several_pictures_come_in_the_order_of_their_seeds(client: Client) -> None:
    """With num_images, each picture has its own seed and its own format's file."""
    result = client.inpaint(photo(), hole(), "a rose", seed=5, num_images=3)
    assert [picture.seed for picture in result.pictures] == [5, 6, 7]
    assert all((np.asarray(picture.image) == expected(picture.seed)).all() for picture in result.pictures)
    webp = client.inpaint(photo(), hole(), "a rose", num_images=2, output_format="webp", quality=80)
    assert [picture.image.format for picture in webp.pictures] == ["WEBP", "WEBP"]


def test_json_is_read_too(client: Client) -> None:
    """output_format=json gives the same result as the picture itself."""
    result = client.inpaint(photo(), hole(), "a rose", seed=3, output_format="json")
    assert (opened(result.data) == expected(3)).all()
    assert (result.seed, result.steps, result.model) == (3, 50, "demo")


def test_a_preview_says_how_large_the_picture_is(client: Client) -> None:
    """A preview is a PNG; beside it stands the size that a mask needs."""
    data, size = client.preview(photo())
    assert size == (70, 53)
    assert opened(data).shape == (53, 70, 3)


def test_progress_is_reported_to_the_end(client: Client) -> None:
    """The callback gets the job's states, the last of them done."""
    seen: list[Progress] = []
    client.inpaint(photo(), hole(), "a rose", on_progress=seen.append)
    assert seen[-1].job.state == "done"
    assert {each.job.id for each in seen} == {seen[0].job.id}


def test_a_job_is_removed_when_its_result_was_read(client: Client) -> None:
    """Painting leaves nothing on the server; with the caller's own key, the job stays for a second call."""
    result = client.inpaint(photo(), hole(), "a rose")
    assert result.job_id is not None
    with pytest.raises(JobNotFoundError):
        client.job(result.job_id)
    kept = client.inpaint(photo(), hole(), "a rose", idempotency_key="mine")
    assert kept.job_id is not None
    assert client.job(kept.job_id).state == "done"


def test_one_key_paints_once(client: Client, edge: LiveEdge) -> None:
    """A second submission under the same Idempotency-Key is the same job."""
    before = len(edge.painter.requests)
    first = client.submit(photo(), hole(), "a rose", idempotency_key="once")
    client.wait(first.id)
    second = client.submit(photo(), hole(), "a rose", idempotency_key="once")
    assert (second.id, first.was_there, second.was_there) == (first.id, False, True)
    assert len(edge.painter.requests) == before + 1


def test_a_job_can_be_cancelled(client: Client, edge: LiveEdge) -> None:
    """Until a job has ended it has no result; a cancelled one never has."""
    edge.painter.held = True
    try:
        job = client.submit(photo(), hole(), "a rose")
        with pytest.raises(JobNotReadyError):
            client.result(job.id)
        with pytest.raises(TimeoutError, match=job.id):
            client.wait(job.id, timeout=0.0)
        client.cancel(job.id)
    finally:
        edge.painter.held = False
    assert client.wait(job.id).state == "cancelled"
    with pytest.raises(JobNotFoundError):
        client.result(job.id)


def test_a_call_that_is_broken_off_cancels_its_job(client: Client, edge: LiveEdge) -> None:
    """If the caller's own callback fails, the server does not go on painting for nobody."""
    cancelled = edge.painter.cancelled
    edge.painter.held = True

    def fail(progress: Progress) -> None:
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            client.inpaint(photo(), hole(), "a rose", on_progress=fail)
        # The answer to a cancel may come before the painter has heard of it.
        wait_for(lambda: edge.painter.cancelled == cancelled + 1)
    finally:
        edge.painter.held = False


class TestErrors:
    """Codes as classes."""

    def test_the_services_refusal_has_its_class(self, client: Client) -> None:
        """A code of the service is the class of errors.py, with the status and the request's id."""
        with pytest.raises(SizeMismatchError) as caught:
            client.inpaint(photo(), hole((10, 10)), "a rose")
        error = caught.value
        assert isinstance(error, ServiceError)
        assert (error.status, error.code, error.facts["mask_size"]) == (400, "size_mismatch", [10, 10])
        assert error.request_id

    def test_parameters_are_checked_before_anything_is_sent(self, client: Client, edge: LiveEdge) -> None:
        """A value out of the schema's bounds is refused here, by name."""
        with pytest.raises(InvalidParameterError, match="num_inference_steps") as caught:
            client.inpaint(photo(), hole(), "a rose", num_inference_steps=0)
        assert not isinstance(caught.value, ServiceError)
        with pytest.raises(InvalidParameterError, match="colour"):
            client.inpaint(photo(), hole(), "a rose", colour=True)  # type: ignore[call-arg]

    def test_arrays_of_another_kind_are_refused(self, client: Client) -> None:
        """An array that is no picture is refused with its shape or type; another object by its type."""
        with pytest.raises(InvalidImageError, match=r"\(5,\)"):
            client.inpaint(np.zeros(5, np.uint8), hole(), "a rose")
        with pytest.raises(InvalidImageError, match="int64"):
            client.inpaint(np.zeros((5, 5), np.int64), hole(), "a rose")
        with pytest.raises(TypeError, match="int"):
            client.inpaint(3, hole(), "a rose")  # type: ignore[arg-type]

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_levels_without_a_white_are_refused(self, client: Client, mode: str) -> None:
        """Pillow would cut such levels off at 255, or have them all black."""
        with pytest.raises(InvalidImageError, match="which level is white"):
            client.inpaint(photo(), hole().convert(mode), "a rose")

    def test_a_wrong_key_is_unauthorized(self, edge: LiveEdge) -> None:
        """Without the key, the service's 401 is raised."""
        with Client(edge.url, retries=NO_RETRIES) as client, pytest.raises(UnauthorizedError):
            client.info()

    def test_nobody_there(self) -> None:
        """A server that is not there is named, after the tries are used up."""
        waits: list[float] = []
        retries = Retries(most=2, first_seconds=0.01)
        with (
            Client("http://127.0.0.1:9", retries=retries, on_retry=lambda _, seconds: waits.append(seconds)) as client,
            pytest.raises(NoAnswerError, match=r"127\.0\.0\.1:9"),
        ):
            client.health()
        assert len(waits) == 2

    @pytest.mark.parametrize("address", ["localhost:8000", "ftp://x", "http://", "http://x/?q=1"])
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        """What is no http address is a ValueError at once."""
        with pytest.raises(ValueError, match="is not an address"):
            Client(address)


def test_server_and_key_come_from_the_environment(edge: LiveEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, the client reads SD_INPAINT_SERVER and SD_INPAINT_KEY."""
    monkeypatch.setenv("SD_INPAINT_SERVER", f"{edge.url}/")
    monkeypatch.setenv("SD_INPAINT_KEY", KEY)
    with Client() as client:
        assert client.server == edge.url
        assert client.info()["model"] == "demo"


def test_threads_share_a_client(client: Client) -> None:
    """Several threads use one client at once; each gets its own picture."""
    results: dict[int, np.ndarray] = {}

    def paint(seed: int) -> None:
        results[seed] = np.asarray(client.inpaint(photo(), hole(), "a rose", seed=seed).image)

    threads = [threading.Thread(target=paint, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((results[seed] == expected(seed)).all() for seed in range(4))


def test_the_same_calls_can_be_awaited(edge: LiveEdge) -> None:
    """AsyncClient paints several pictures at once, with progress, and raises the same errors."""

    async def run() -> None:
        async with AsyncClient(edge.url, key=KEY, retries=NO_RETRIES) as client:
            seen: list[Progress] = []
            results = await asyncio.gather(
                *(client.inpaint(photo(), hole(), "a rose", seed=seed, on_progress=seen.append) for seed in range(3))
            )
            assert all((np.asarray(result.image) == expected(result.seed)).all() for result in results)
            assert [progress.job.state for progress in seen].count("done") == 3
            job = await client.submit(photo(), hole(), "a rose")
            assert (await client.wait(job.id)).state == "done"
            assert (await client.result(job.id)).job_id == job.id
            assert (await client.job(job.id)).has_ended
            assert (await client.preview(photo()))[1] == (70, 53)
            assert (await client.info())["model"] == (await client.health())["model"]
            await client.cancel(job.id)
            with pytest.raises(JobNotFoundError):
                await client.job(job.id)

    asyncio.run(run())


def test_a_task_that_is_cancelled_cancels_its_job(edge: LiveEdge) -> None:
    """A cancelled task takes its job with it."""

    async def run() -> None:
        async with AsyncClient(edge.url, key=KEY) as client:
            started = asyncio.Event()
            task = asyncio.ensure_future(client.inpaint(photo(), hole(), "a rose", on_progress=lambda _: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    cancelled = edge.painter.cancelled
    edge.painter.held = True
    try:
        asyncio.run(run())
        wait_for(lambda: edge.painter.cancelled == cancelled + 1)
    finally:
        edge.painter.held = False
