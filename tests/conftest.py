"""What tests of several modules share: pictures, an app around a painter that needs no model, and a real server."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before the service is imported: what a developer has set must not change what the tests see, and a second application
# in one process cannot have a second set of BentoML's metrics.
for _name in [name for name in os.environ if name.upper().startswith("SD_INPAINT_") or name == "LOAD_SD_INPAINT"]:
    del os.environ[_name]
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# Accepted jobs are kept in the user's cache folder, and those of a developer's own server are none of the tests'.
_cache = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _cache.name
_METRICS_OFF = '{"services": {"SDInpaint": {"metrics": {"enabled": false}}}}'

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from processes import wait_for
from sd_inpaint.codecs import Picture
from sd_inpaint.engine import EngineState
from sd_inpaint.errors import InpaintError
from sd_inpaint.schema import InpaintRequest, InpaintResult, Variation
from sd_inpaint.settings import Settings

pytest_plugins = ("browser", "containers", "postgres_server", "places")

ROOT = Path(__file__).resolve().parent.parent
_configured: list[bool] = []
START_SECONDS = 120.0
SERVER_BODY_BYTES = 3_000_000
"""Body limit of the shared server: low, so that going over it is quick."""

SERVE = (sys.executable, "-m", "bentoml", "serve", "service:SDInpaint")
INPAINT = "/sd-inpaint/inpaint"
HEALTH = "/sd-inpaint/health"
SIZE = (70, 53)
"""Width and height that no stride divides."""

BENTOML_WARNINGS = (
    "ignore:GitWildMatchPattern:DeprecationWarning",
    "ignore::pydantic.warnings.PydanticDeprecatedSince211:_bentoml_(sdk|impl)",
)


def pytest_configure(config: pytest.Config) -> None:
    """Lets warnings pass that are BentoML's own; all others are errors."""
    for line in BENTOML_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets the tests of the contract run against a service that is there already."""
    parser.addoption(
        "--url", help="of a service of the embedded model: runs the tests that need nothing but its address"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what looks inside, where there is only an address."""
    if config.getoption("--url"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("contract") is None])
        items[:] = [item for item in items if item.get_closest_marker("contract") is not None]


def photo(size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Returns a picture in which no two neighbours are alike."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 7 + columns, columns * 5 + rows, rows * columns], axis=-1) % 256
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def hole(size: tuple[int, int] = SIZE, mode: str = "L") -> Image.Image:
    """Returns a mask whose middle is white and whose rest is black."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle([size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2], fill=255)
    return mask.convert(mode)


def written(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Returns the bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> np.ndarray:
    """Returns the pixels of a picture file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def form(**changes: Any) -> dict[str, Any]:
    """Returns arguments for ``client.post`` that are a good request but for ``changes``.

    Bytes and tuples are sent as files, anything else as text; None leaves a field out.
    """
    fields: dict[str, Any] = {"image": written(photo()), "mask": written(hole())}
    fields |= {"prompt": "a rose", "num_inference_steps": "2", **changes}
    files = {name: ("upload", value) if isinstance(value, bytes) else value for name, value in fields.items()}
    return {
        "files": {name: value for name, value in files.items() if isinstance(value, tuple)},
        "data": {name: value for name, value in files.items() if not isinstance(value, (tuple, type(None)))},
    }


def check_shape(response: Any, status: int, code: str) -> dict[str, Any]:
    """Asserts status, code and the shape that every error has; returns the body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert 10 < len(body["error"]) < 500
    assert body["error"].endswith(".")
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    return body


class FakePainter:
    """Paints every hole in a colour made from the seed, at once or when told to, without a model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = SimpleNamespace(
            state=EngineState.READY, reason=None, backend=None, outcomes={}, waiting_jobs=0, waiting_seconds=0.0
        )
        self.refusal: InpaintError | None = None
        self.failure: Exception | None = None
        self.late_failure: Exception | None = None
        self.held = False
        self.requests: list[InpaintRequest] = []
        self.deadlines: list[float | None] = []
        self.cancelled = 0
        self.stopped = False

    def start(self) -> None:
        """Has nothing to load."""

    def stop(self, drain_seconds: float) -> None:
        """Notes that it was called."""
        self.stopped = True

    def check_open(self) -> None:
        """Raises what the test wants."""
        if self.refusal is not None:
            raise self.refusal

    def info(self) -> dict[str, object]:
        """Gives what the real one gives, as far as the edge looks at it."""
        return {"model": self.settings.model, "status": str(self.engine.state), "limits": {}}

    async def paint(
        self,
        request: InpaintRequest,
        *,
        progress: Any = None,
        deadline_seconds: float | None = None,
        promised: bool = False,
    ) -> InpaintResult:
        """Paints, fails, or waits to be cancelled."""
        import asyncio

        self.requests.append(request)
        self.deadlines.append(deadline_seconds)
        if self.failure is not None:
            raise self.failure
        if progress is not None:
            progress.follow((), None, 1, lambda painted: request.image)
        if self.late_failure is not None:
            await asyncio.sleep(0.05)
            raise self.late_failure
        try:
            while self.held:  # noqa: ASYNC110  # the test lets go of it from another thread
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        parameters = request.parameters
        seeds = range(parameters.seed, parameters.seed + parameters.num_images)
        first, *further = (self._variation(request, seed) for seed in seeds)
        return InpaintResult(
            image=first.image,
            seed=first.seed,
            further=tuple(further),
            steps=parameters.num_inference_steps,
            inference_seconds=0.5,
            regions=("0,0,70,53 x1.000",) if parameters.region == "mask" else (),
        )

    @staticmethod
    def _variation(request: InpaintRequest, seed: int) -> Variation:
        rgb = request.image.rgb.copy()
        rgb[request.mask > 127] = seed % 251
        return Variation(Picture(rgb, request.image.alpha, request.image.icc_profile, request.image.exif), seed)


class App:
    """The whole edge around a :class:`FakePainter`, in this process; with ``--url`` the one that is served there."""

    def __init__(self, client: Any, painter: Any) -> None:
        self.client = client
        self.painter = painter

    def painted(self) -> int:
        """How many requests have reached the painter so far."""
        if self.painter is not None:
            return len(self.painter.requests)
        queue = self.client.get("/sd-inpaint/info").json()["queue"]
        return int(queue["jobs"] + sum(queue["outcomes"].values()))

    def post(self, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """Posts a request that is good but for ``changes``."""
        return self.client.post(INPAINT, headers=headers, **form(**changes))


def _configure_bentoml(patch: pytest.MonkeyPatch, service: Any) -> None:
    """Has BentoML read its configuration for the first app only: the same for each, it takes a fifth of a second."""
    patch.setenv("BENTOML_CONFIG_OVERRIDES", _METRICS_OFF)
    if _configured:
        patch.setattr(service.EdgedService, "inject_config", lambda _: None)
    _configured.append(True)


@contextlib.contextmanager
def make_app(*, painter: Callable[[Settings], Any] = FakePainter, **overrides: Any) -> Iterator[App]:
    """Serves the edge with these settings; one at a time, since BentoML keeps the current service in a global."""
    import service

    settings = Settings(_env_file=None, **{"model": "demo", **overrides})
    painters: list[Any] = []

    def make_painter(settings: Settings) -> Any:
        painters.append(painter(settings))
        return painters[-1]

    with pytest.MonkeyPatch.context() as patch:
        _configure_bentoml(patch, service)
        patch.setattr(service, "SETTINGS", settings)
        patch.setattr(service, "Painter", make_painter)
        with TestClient(service.SDInpaint.to_asgi(), raise_server_exceptions=False) as client:
            yield App(client, painters[0])


@contextlib.contextmanager
def connect(url: str) -> Iterator[httpx.Client]:
    """A client of the service that is served at an address."""
    with httpx.Client(base_url=url, timeout=300) as client:
        yield client


@pytest.fixture
def app(pytestconfig: pytest.Config) -> Iterator[App]:
    """The edge with default settings."""
    if url := pytestconfig.getoption("--url"):
        with connect(url) as client:
            yield App(client, None)
        return
    with make_app() as made:
        yield made


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A service that somebody has started.

    Attributes:
        url: Without a slash at its end.
        port: On this machine.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.port = int(self.url.rpartition(":")[2])


class Server(Served):
    """``bentoml serve``, as an operator runs it."""

    def __init__(
        self,
        log: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        within: tuple[str, ...] = (),
        **settings: str,
    ) -> None:
        super().__init__(f"http://{address}:{port or free_port()}")
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BENTOML_CONFIG")}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*within, *SERVE, "--host", address, "--port", str(self.port)],
                cwd=ROOT,
                env={**environment, "LOAD_SD_INPAINT": "true", "SD_INPAINT_MODEL": "demo", **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, path: str = HEALTH, status: int = 200) -> httpx.Response:
        """Waits until ``path`` is answered with ``status``."""
        return wait_for(
            self.url + path,
            status=status,
            seconds=START_SECONDS,
            log=self.log.read_text,
            is_running=lambda: self.process.poll() is None,
        )

    def stop(self) -> int:
        """Stops it as an operator does; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The embedded model, served for the whole session."""
    if url := pytestconfig.getoption("--url"):
        yield Served(url)
        return
    limit = {"SD_INPAINT_MAX_BODY_BYTES": str(SERVER_BODY_BYTES)}
    made = Server(tmp_path_factory.mktemp("server") / "serve.log", **limit)
    try:
        made.wait()
        yield made
    finally:
        made.stop()
