"""Hosts on this machine, each with an address and processes of its own: network namespaces on a bridge."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.support.tools import give_up, need


def ip(*arguments: str) -> str:
    """Runs ``ip``; gives what it printed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: Of its namespace.
        address: Reached from this machine and from the other hosts.
    """

    name: str
    address: str

    @property
    def within(self) -> tuple[str, ...]:
        """What a command is preceded by to run there."""
        return ("ip", "netns", "exec", self.name)

    def kill(self) -> int:
        """Kills all its processes at once, as a power cut does; gives how many there were."""
        pids = [int(pid) for pid in ip("netns", "pids", self.name).split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


class Network:
    """A bridge that this machine is on as well. 198.18.0.0/15 is kept for tests: nobody's real network has it."""

    def __init__(self) -> None:
        number = os.getpid() % 250 + 1
        self._prefix = f"sdi{number}"
        self._net = f"198.18.{number}"
        self._hosts: list[Host] = []
        self.address = f"{self._net}.1"

    def open(self) -> None:
        """Makes the bridge."""
        ip("link", "add", self._prefix, "type", "bridge")
        ip("address", "add", f"{self.address}/24", "dev", self._prefix)
        ip("link", "set", self._prefix, "up")

    def add(self) -> Host:
        """Makes one more host."""
        number = len(self._hosts) + 2
        host = Host(f"{self._prefix}h{number}", f"{self._net}.{number}")
        ip("netns", "add", host.name)
        self._hosts.append(host)
        ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("link", "set", host.name, "master", self._prefix, "up")
        ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", host.name, "link", "set", device, "up")
        return host

    def close(self) -> None:
        """Ends everything that runs on it, and leaves nothing of it."""
        for host in self._hosts:
            host.kill()
            ip("netns", "delete", host.name)
        ip("link", "delete", self._prefix)


@contextmanager
def network() -> Iterator[Network]:
    """A network for as long as the block lasts; skips the test where none can be made."""
    if os.getuid() != 0:
        give_up("needs root, for network namespaces")
    need("test-tools")
    made = Network()
    try:
        made.open()
    except AssertionError as error:
        give_up(f"no network can be made here: {error}")
    try:
        yield made
    finally:
        made.close()
