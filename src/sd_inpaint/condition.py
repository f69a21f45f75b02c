"""What is wrong while the service still serves, and the figures by which an operator sees it coming."""

import math
from dataclasses import dataclass
from typing import Final

from sd_inpaint.engine.lifecycle import Engine
from sd_inpaint.errors import StateUnavailableError
from sd_inpaint.imaging.credentials import ContentCredentials
from sd_inpaint.jobs.job import StoreSpace
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.work.memory_budget import MemoryBudget, resident_bytes

LOW_DISK_BYTES: Final = 512 * 1024**2
"""Less than the results of four pictures of the largest size."""

STALLED_SECONDS: Final = 300.0
"""No turn takes so long: the largest canvas's step takes a minute on a slow CPU (docs/benchmarks.md)."""

EXPIRY_WARNING_DAYS: Final = 14
"""Enough to get another certificate."""

PROBLEMS: Final = (
    "state_unavailable",
    "disk_low",
    "memory_high",
    "loop_stalled",
    "device_lost",
    "certificate_expired",
    "certificate_expires_soon",
)
"""The codes of all problems."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        code: One of ``PROBLEMS``.
        sentence: For whoever asks, without a key: no path, no address.
    """

    code: str
    sentence: str


class Condition:
    """The condition of one process. Lives as long as it; any thread may ask.

    Args:
        engine: Whose loop should turn.
        runner: Whose store should be usable.
        budget: What memory should stay under.
        credentials: Whose certificate should be valid; None where results are not signed.
    """

    def __init__(
        self, engine: Engine, runner: JobRunner, budget: MemoryBudget, credentials: ContentCredentials | None = None
    ) -> None:
        self._engine = engine
        self._runner = runner
        self._budget = budget
        self._credentials = credentials
        self.space: StoreSpace | None = None

    def look_at_disk(self) -> None:
        """Reads how much of the state folder's disk is used; may take as long as that disk does."""
        try:
            self.space = self._runner.space()
        except StateUnavailableError:
            self.space = None

    def problems(self) -> tuple[Problem, ...]:
        """Returns what is wrong now; the disk as it was last looked at."""
        found = []
        if (trouble := self._runner.trouble()) is not None:
            found.append(Problem("state_unavailable", trouble))
        if self.space is not None and self.space.free_bytes < LOW_DISK_BYTES:
            free = self.space.free_bytes // 1024**2
            found.append(Problem("disk_low", f"The disk that keeps accepted jobs has {free} MiB left."))
        if (resident := resident_bytes()) > self._budget.max_bytes:
            used, most = resident // 1024**2, self._budget.max_bytes // 1024**2
            found.append(Problem("memory_high", f"The process takes {used} MiB of memory, and should take {most}."))
        if self._engine.waiting_canvases and (age := self._engine.turn_age_seconds) > STALLED_SECONDS:
            since = (
                "The device's thread has ended" if math.isinf(age) else f"The device has done nothing for {age:.0f} s"
            )
            found.append(Problem("loop_stalled", f"{since}, and pictures wait for it."))
        if lost := self._engine.lost_devices:
            found.append(
                Problem("device_lost", f"{lost} of {lost + self._engine.devices} devices are lost, and loading.")
            )
        if self._credentials is not None:
            found += _problems_of(self._credentials)
        return tuple(found)

    def figures(self) -> dict[str, object]:
        """Returns the figures behind them, for ``/sd-inpaint/info``."""
        space = self.space
        age = self._engine.turn_age_seconds
        return {
            "problems": [problem.code for problem in self.problems()],
            "state": {
                "trouble": self._runner.trouble(),
                "used_bytes": None if space is None else space.used_bytes,
                "max_bytes": None if space is None else space.max_bytes,
                "free_bytes": None if space is None else space.free_bytes,
            },
            "memory": {
                "resident_bytes": resident_bytes(),
                "held_bytes": self._budget.held_bytes,
                "max_bytes": self._budget.max_bytes,
            },
            "loop": {"turn_age_seconds": None if math.isinf(age) else round(age, 3)},
        }


def _problems_of(credentials: ContentCredentials) -> list[Problem]:
    until, days = f"{credentials.valid_until:%Y-%m-%d %H:%M} UTC", credentials.days_left
    if days < 0:
        sentence = f"The certificate that results are signed with expired on {until}. Nothing is painted without one."
        return [Problem("certificate_expired", sentence)]
    if days < EXPIRY_WARNING_DAYS:
        return [
            Problem("certificate_expires_soon", f"The certificate that results are signed with expires on {until}.")
        ]
    return []
