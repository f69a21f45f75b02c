"""``/sd-inpaint/jobs/{id}/events``: what a reader of the stream is told."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from sd_inpaint.errors import JobNotFoundError
from sd_inpaint.http.endpoints import job_events
from sd_inpaint.http.endpoints.jobs import describe
from sd_inpaint.http.wire import sse
from sd_inpaint.imaging import codecs
from sd_inpaint.jobs.running_job import REGION
from sd_inpaint.picture import Picture
from tests.support.events import read_events
from tests.support.jobs import JobsApp, make_jobs_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[JobsApp]:
    """The edge with default settings."""
    with make_jobs_app(tmp_path) as made:
        yield made


def test_stream_tells_progress_and_ends_with_the_job(app: JobsApp) -> None:
    """The stream tells progress in order, shows previews, ends with the job, and then with 204 for who has seen it."""
    address = app.accept(num_inference_steps="60")
    response = app.get(address + "/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.text.startswith("retry: ")
    told = read_events(response.text)
    names = [name for name, _ in told]
    assert names[-1] == "done"
    assert set(names[:-1]) == {"progress", "preview"}
    progress = [data for name, data in told if name == "progress"]
    steps = [data["step"] for data in progress]
    assert len(progress) >= 3
    assert steps == sorted(steps)
    assert {"state", "queue_position", "seconds_left", "steps"} <= progress[0].keys()
    assert all(data["image"].startswith("data:image/png;base64,iVBOR") for name, data in told if name == "preview")
    last = told[-1][1]
    assert last["result"] == address + "/result"
    assert app.get(address + "/events", **{"Last-Event-ID": last["id:"]}).status_code == 204
    for seen in ("1", "nonsense", ""):
        again = read_events(app.get(address + "/events", **{"Last-Event-ID": seen}).text)
        assert [name for name, _ in again] == ["done"]


def test_a_preview_says_which_part_it_shows() -> None:
    """The event has the box that the preview's file carries; none where an earlier version wrote the file."""
    picture = Picture(np.zeros((4, 5, 3), np.uint8))
    with_region = codecs.encode(picture, text={REGION: "10.00,20.50,40.00,50.25"})
    assert job_events.preview_event(7, with_region)["region"] == [10.0, 20.5, 40.0, 50.25]
    assert job_events.preview_event(7, codecs.encode(picture)) == {
        "step": 7,
        "image": "data:image/png;base64," + base64.b64encode(codecs.encode(picture)).decode(),
        "region": None,
    }


def test_keep_alive(app: JobsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without news says that it is alive, and ends when its job is deleted or the server stops."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(job_events, "POLL_SECONDS", 0.05)
    app.painter.slow.step_seconds = 1.0
    address = app.accept(num_inference_steps="150")
    job = app.runner.store.get(address.rpartition("/")[2])

    async def read(stream: AsyncIterator[str]) -> list[str]:
        pieces = []
        async for piece in stream:
            pieces.append(piece)
            if piece == ": keep-alive\n\n":
                app.runner.store.remove(job.id)
        return pieces

    pieces = asyncio.run(asyncio.wait_for(read(job_events.stream_events(app.runner, job, describe)), 20))
    assert ": keep-alive\n\n" in pieces
    assert pieces[-1].startswith("event: cancelled\n")


def test_stream_of_a_job_that_vanishes(app: JobsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose job is not there any more ends."""
    address = app.accept(num_inference_steps="150")
    job = app.runner.store.get(address.rpartition("/")[2])

    def gone(identity: str) -> None:
        raise JobNotFoundError("There is no such job.")

    monkeypatch.setattr(app.runner.store, "get", gone)

    async def read() -> list[str]:
        return [piece async for piece in job_events.stream_events(app.runner, job, describe)]

    assert asyncio.run(asyncio.wait_for(read(), 20))[-1].startswith("event: progress\n")
