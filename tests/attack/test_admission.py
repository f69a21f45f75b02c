"""What a request passes before it has a place in the queue, and what it holds while it waits."""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sd_inpaint.admission import AdmittedRequest
from sd_inpaint.errors import DeadlineExceededError, ImageTooLargeError, QueueFullError
from sd_inpaint.imaging.preparation import Upload
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from sd_inpaint.work.memory_budget import MemoryBudget
from sd_inpaint.work.picture_work import PictureWork
from tests.support.bombs import FOR_EVER, run_length_bmp
from tests.support.edge import INPAINT, check_shape, form, make_app
from tests.support.pictures import photo, written
from tests.support.places import Folder
from tests.support.real_time import IMAGE, MASK, Process, SlowPainter, submission, wait_for

BLACK = written(photo().point(lambda value: 0))

SCARCE_BYTES = 4 * 1024**2
"""Room for one picture of the tests at a time, and for none ahead of its turn."""


@pytest.fixture
def painter() -> Iterator[SlowPainter]:
    """A painter without memory for pictures that wait."""
    settings = Settings(_env_file=None, model="demo", max_queue=4)  # type: ignore[call-arg]
    made = SlowPainter(settings, PictureWork(budget=MemoryBudget(SCARCE_BYTES)))
    made.start()
    assert made.engine.wait_loaded(20)
    yield made
    made.stop(0.0)
    assert made.budget.held_bytes == 0


def upload(image: bytes = IMAGE, mask: bytes = MASK, **parameters: Any) -> Upload:
    """Makes what a caller sends."""
    sent = InpaintParameters(prompt="a rose", **{"num_inference_steps": 2, **parameters})
    return Upload(image, mask, sent, max_pixels=sys.maxsize)


async def paint(painter: SlowPainter, sent: Upload) -> list[np.ndarray]:
    """Admits and paints; gives the pictures."""
    with await painter.admit(sent) as admitted:
        result = await painter.paint(admitted)
        return [variation.image.rgb for variation in result.variations]


@pytest.mark.parametrize("mask", [MASK, BLACK], ids=["hole", "black"])
def test_pixels_that_waited_in_their_files(painter: SlowPainter, mask: bytes) -> None:
    """Without room to wait in, pictures are decoded again when their turn comes, and give the same bytes."""
    sent = [upload(mask=mask, seed=seed, num_images=2) for seed in (3, 5)]

    async def run() -> list[list[np.ndarray]]:
        return await asyncio.gather(*(paint(painter, one) for one in sent))

    painted = asyncio.run(run())
    for one, pictures in zip(sent, painted, strict=True):
        expected = asyncio.run(painter.paint(one.decode()))
        for picture, variation in zip(pictures, expected.variations, strict=True):
            assert np.array_equal(picture, variation.image.rgb)


def test_waiting_requests_hold_no_pixels(painter: SlowPainter) -> None:
    """Of requests that wait only those near their turn have pixels, and no more than there is room for."""
    painter.slow.step_seconds = 0.05
    admitted: list[AdmittedRequest] = []

    async def one(seed: int) -> None:
        with await painter.admit(upload(seed=seed, num_inference_steps=10)) as request:
            admitted.append(request)
            await painter.paint(request)

    async def run() -> None:
        tasks = [asyncio.create_task(one(seed)) for seed in range(4)]
        while not all(task.done() for task in tasks):
            assert sum(request.preparation is not None for request in admitted) <= 1
            assert painter.budget.held_bytes <= SCARCE_BYTES
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert len(admitted) == 4


def test_jobs_wait_on_the_disk(painter: SlowPainter, tmp_path: Any) -> None:
    """An accepted job that waits has neither pixels nor files in memory, and is painted from the disk."""
    painter.slow.step_seconds = 0.05
    process = Process(painter, Folder(tmp_path / "jobs"))
    try:
        sent = [submission(seed=seed, num_inference_steps=10) for seed in range(3)]
        jobs = []
        for one in sent:
            request = asyncio.run(painter.admit(Upload(one.image, one.mask, one.parameters, sys.maxsize)))
            jobs.append(asyncio.run(process.runner.accept(one, request))[0])
        process.wait_ended(*jobs)
        for job, one in zip(jobs, sent, strict=True):
            kept = process.store.result(job.id).decode()
            expected = asyncio.run(painter.paint(one.decode()))
            assert np.array_equal(kept.variations[0].image.rgb, expected.variations[0].image.rgb)
        wait_for(lambda: painter.budget.held_bytes == 0)
    finally:
        process.stop()


def test_what_never_fits(painter: SlowPainter) -> None:
    """A picture that takes more memory than there will ever be is a 413 before it is decoded."""
    big = written(photo((400, 300)))
    with pytest.raises(ImageTooLargeError, match="memory"):
        asyncio.run(painter.admit(upload(big, big)))


def test_line_at_the_door_is_bounded(painter: SlowPainter) -> None:
    """More requests than may wait to be decoded are refused, and those that leave make room at once."""

    async def run() -> None:
        blocking = [
            asyncio.create_task(
                painter.work.workers.run(sum, FOR_EVER, cpu_seconds=600.0, memory_bytes=2**30, is_urgent=True)
            )
            for _ in range(painter.work.workers.size)
        ]
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(painter.admit(upload())) for _ in range(4)]
        await asyncio.sleep(0.1)
        with pytest.raises(QueueFullError) as refused:
            await painter.admit(upload())
        assert refused.value.facts["reason"] == "decoding"
        for task in (*waiting, *blocking):
            task.cancel()
        await asyncio.gather(*waiting, *blocking, return_exceptions=True)
        (await painter.admit(upload())).release()

    asyncio.run(run())


def test_deadline_counts_from_the_door() -> None:
    """A caller's deadline ends the wait for decoding too."""
    with make_app(painter=SlowPainter) as app:
        wait_for(lambda: app.client.get("/sd-inpaint/health").status_code == 200)
        workers = app.painter.work.workers

        async def block() -> None:
            tasks = [
                asyncio.create_task(workers.run(sum, FOR_EVER, cpu_seconds=600.0, memory_bytes=2**30, is_urgent=True))
                for _ in range(workers.size)
            ]
            await asyncio.sleep(0.1)
            started = time.monotonic()
            answer = await asyncio.to_thread(app.client.post, INPAINT, headers={"X-Deadline-Seconds": "0.5"}, **form())
            check_shape(answer, 504, DeadlineExceededError.code)
            assert 0.5 <= time.monotonic() - started < 10.0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(block())
        assert app.post().status_code == 200


def test_bombs_at_the_edge() -> None:
    """A bomb is a 4xx in every dialect's own endpoint, and the next caller is served."""
    bomb = run_length_bmp(7071, 7071)
    with make_app(painter=SlowPainter) as app:
        wait_for(lambda: app.client.get("/sd-inpaint/health").status_code == 200)
        check_shape(app.post(image=bomb, mask=bomb), 400, "invalid_image")
        assert app.client.post("/sd-inpaint/jobs", **form(image=bomb)).status_code == 400
        assert app.post().status_code == 200
        assert app.painter.budget.held_bytes == 0
