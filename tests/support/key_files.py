"""Files of API keys in tests."""

from pathlib import Path

from sd_inpaint.callers.key_file import POLL_SECONDS, KeyFile, digest
from tests.support.simulation import Clock


def table(name: str, key: str, **more: object) -> str:
    """Writes one key as the file has it."""
    lines = "".join(f"{field} = {value}\n" for field, value in more.items())
    return f'[[key]]\nname = "{name}"\nsha256 = "{digest(key.encode()).hex()}"\n{lines}'


class Watched:
    """A file, what is read of it, and the clocks."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "keys.toml"
        self.path.write_text(text)
        self.clock = Clock()
        self.now = Clock(1_700_000_000.0)
        self.file = KeyFile(self.path, clock=self.clock, now=self.now)

    def names(self) -> list[str]:
        """The names of the keys that are good, after the next look at the file."""
        self.clock.now += POLL_SECONDS
        return [key.name for key in self.file.good_keys()]
