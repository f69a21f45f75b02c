"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How good it is."""

    GOOD = "good"
    WARNING = "warning"
    """It serves, but not as it could, or not for long."""
    PROBLEM = "problem"
    """It does not serve."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        subject: What was looked at, in a word or two.
        state: How good it is.
        sentence: What was found, for the operator: it may name paths of this machine.
        remedy: What to do about it; None where nothing is wrong.
    """

    subject: str
    state: State
    sentence: str
    remedy: str | None = None


def good(subject: str, sentence: str) -> Finding:
    """Makes a finding of something that is as it should be."""
    return Finding(subject, State.GOOD, sentence)


def warning(subject: str, sentence: str, remedy: str) -> Finding:
    """Makes a finding of something that could be better."""
    return Finding(subject, State.WARNING, sentence, remedy)


def problem(subject: str, sentence: str, remedy: str) -> Finding:
    """Makes a finding of something that keeps the service from serving."""
    return Finding(subject, State.PROBLEM, sentence, remedy)


def size(count: float) -> str:
    """Writes a number of bytes for people, such as ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
