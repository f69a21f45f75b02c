"""Which port would be served, and who could call."""

import socket
from collections.abc import Iterator

import pytest

from sd_inpaint.diagnosis.address import check_listening
from sd_inpaint.diagnosis.finding import State
from sd_inpaint.settings import Settings
from tests.support.processes import free_port


def settings(**changes: object) -> Settings:
    """An operator's settings, but for the changes the defaults."""
    return Settings(_env_file=None, **changes)  # type: ignore[arg-type,call-arg]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_free_port_on_this_machine() -> None:
    """By default only this machine can call."""
    assert [f.state for f in check_listening(settings(), "127.0.0.1", free_port())] == [State.GOOD, State.GOOD]


def test_taken_port(taken: int) -> None:
    """A port that another program has is a problem that names the next one."""
    port, _ = check_listening(settings(), "127.0.0.1", taken)
    assert port.state is State.PROBLEM
    assert port.sentence == f"Port {taken} of 127.0.0.1 cannot be used (Address already in use)."
    assert f"--port {taken + 1}" in str(port.remedy)


def test_address_of_another_machine() -> None:
    """An address that is none of this machine's cannot be listened on."""
    assert check_listening(settings(), "192.0.2.1", free_port())[0].state is State.PROBLEM


@pytest.mark.parametrize(
    ("changes", "state"), [({}, State.PROBLEM), ({"api_keys": "a"}, State.GOOD), ({"allow_open": True}, State.GOOD)]
)
def test_open_to_other_machines(changes: dict[str, object], state: State) -> None:
    """An address that other machines reach needs keys, or the operator's word."""
    assert check_listening(settings(**changes), "0.0.0.0", free_port())[1].state is state  # noqa: S104  # bound for a moment
