"""What all tests share: an environment of their own, the edge in this process, and one real server."""

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before the service is imported: what a developer has set must not change what the tests see.
for _name in [name for name in os.environ if name.upper().startswith("SD_INPAINT_") or name == "LOAD_SD_INPAINT"]:
    del os.environ[_name]
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# As the service has it, and before torch is loaded, for its threads spin while they wait. Eight paintings by two
# threads, beside two busy processes: 10 s of a processor, 29 s without.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Jobs are kept in the user's cache folder, models and metrics in BentoML's: those of a developer's own server are none
# of the tests'.
_home = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = f"{_home.name}/cache"
os.environ["BENTOML_HOME"] = f"{_home.name}/bentoml"

import httpx
import hypothesis
import pytest

from tests.support.edge import App, connect, make_app
from tests.support.served import SERVER_BODY_BYTES, Served, Server

pytest_plugins = (
    "tests.support.browser",
    "tests.support.visit",
    "tests.support.containers",
    "tests.support.postgres_server",
    "tests.support.places",
    "tests.support.selection",
)


hypothesis.settings.register_profile("long", max_examples=10_000, deadline=None)
"""For fuzz runs by hand: ``--hypothesis-profile=long``."""


@pytest.fixture(scope="session", autouse=True)
def certificate_authorities() -> Iterator[None]:
    """Httpx reads them once: each ``httpx.get`` would anew, 25 ms of a processor, and thousands wait for a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture
def app(pytestconfig: pytest.Config) -> Iterator[App]:
    """The edge with default settings."""
    if url := pytestconfig.getoption("--url"):
        with connect(url) as client:
            yield App(client, None)
        return
    with make_app() as made:
        yield made


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights on disk, in diffusers' layout; not to be changed."""
    from tests.support.tiny_model import make_components, save

    return save(make_components(), tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo model, served for the whole session."""
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
