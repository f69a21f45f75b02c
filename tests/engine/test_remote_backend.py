"""A backend in a process of its own."""

import gc
import logging
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from sd_inpaint.engine.backend import DeviceLostError
from sd_inpaint.engine.remote_backend import RemoteBackend
from sd_inpaint.errors import ContentFlaggedError, SettingsError
from sd_inpaint.settings import Settings
from tests.support.simulation import make_task
from tests.support.sleeping import DEADLY_SEED, FLAGGED_SEED, MAKE, STEP_SECONDS, SleepingBackend

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def refuse(settings: Settings) -> SleepingBackend:
    """Makes nothing."""
    logging.getLogger("bentoml.sd_inpaint.test").warning("about to refuse %s", settings.device)
    raise SettingsError("there is no such device.")


@pytest.fixture
def remote() -> Iterator[RemoteBackend]:
    """One that is closed at the end."""
    backend = RemoteBackend(MAKE, SETTINGS)
    yield backend
    backend.close()


def painted(backend: RemoteBackend | SleepingBackend, seed: int) -> np.ndarray:
    """Takes one canvas from its start to its end."""
    canvas = backend.begin(make_task(steps=2, seed=seed), low_memory=False)
    for _ in range(canvas.steps):
        (prediction,) = backend.predict([canvas], low_memory=False)  # type: ignore[list-item]
        backend.preview(canvas, prediction)  # type: ignore[arg-type]
        backend.advance(canvas, prediction)  # type: ignore[arg-type]
    return backend.finish(canvas, low_memory=False)  # type: ignore[arg-type]


def test_same_pictures_as_in_the_own_process(remote: RemoteBackend) -> None:
    """What is painted apart is what is painted here, to the byte; the facts are the same too."""
    own = SleepingBackend(0.01)
    assert remote.pid != os.getpid()
    assert remote.info["pid"] == remote.pid
    assert remote.limits == own.limits
    assert remote.resident_bytes > 0
    assert np.array_equal(painted(remote, 7), painted(own, 7))


def test_errors_come_back_as_they_are(remote: RemoteBackend) -> None:
    """An error of one canvas reaches its caller by its class, and the process goes on."""
    with pytest.raises(ContentFlaggedError, match="flagged"):
        painted(remote, FLAGGED_SEED)
    assert painted(remote, 1).shape == (64, 64, 3)


def test_canvases_that_end_are_forgotten(remote: RemoteBackend) -> None:
    """A canvas that nobody holds any more leaves the process with the next step of another."""
    dropped = remote.begin(make_task(), low_memory=False)
    kept = remote.begin(make_task(), low_memory=False)
    number = dropped.number
    del dropped
    gc.collect()
    remote.predict([kept], low_memory=False)
    with pytest.raises(KeyError):
        remote._call("predict", [number], low_memory=False)


def test_killed_process_is_a_lost_device(remote: RemoteBackend) -> None:
    """Where the process is gone, every call says so."""
    os.kill(remote.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(DeviceLostError):
            painted(remote, 1)


def test_process_that_dies_of_a_canvas_is_a_lost_device(remote: RemoteBackend) -> None:
    """The exit code is part of the message."""
    with pytest.raises(DeviceLostError, match="exit code 3"):
        remote.begin(make_task(seed=DEADLY_SEED), low_memory=False)


def test_failure_to_load_says_why_and_logs_here(caplog: pytest.LogCaptureFixture) -> None:
    """The operator reads the reason, and what the process logged, as from the server itself; the process is gone."""
    with caplog.at_level(logging.WARNING), pytest.raises(SettingsError, match="no such device"):
        RemoteBackend(f"{__name__}:refuse", SETTINGS)
    assert "about to refuse auto" in caplog.text


def test_process_does_not_heed_a_stop_that_its_server_drains_after(remote: RemoteBackend) -> None:
    """A SIGTERM for the whole group of processes leaves it to the server when the last picture is done."""
    os.kill(remote.pid, signal.SIGTERM)
    os.kill(remote.pid, signal.SIGINT)
    assert painted(remote, 1).shape == (64, 64, 3)


def test_process_ends_in_the_middle_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone needs nothing any more: the process does not finish what it was asked."""
    monkeypatch.setenv(STEP_SECONDS, "600")
    remote = RemoteBackend(MAKE, SETTINGS)
    canvas = remote.begin(make_task(), low_memory=False)
    remote._connection.send(("predict", ([canvas.number],), {"low_memory": False}))
    remote._connection.close()
    assert remote._process.wait(30) == 0


def test_process_ends_with_its_backend(remote: RemoteBackend) -> None:
    """Closing ends the process; there is no signal that it could outlive."""
    remote.close()
    assert remote._process.returncode == 0
    with pytest.raises(DeviceLostError):
        remote.release_memory()
