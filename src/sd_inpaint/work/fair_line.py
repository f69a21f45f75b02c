"""Whose turn it is where callers wait: those who wait for little beside others' many go first."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Who waits.

    Attributes:
        caller: A label that tells callers apart.
        weight: How much the caller may have, compared with others.
    """

    caller: str = ""
    weight: float = 1.0


NOBODY = Share()
"""Whoever is not known; all such are one caller."""


class FairLine:
    """The order of one line. Used under the lock of whoever has it.

    A caller's turns follow one another in virtual time, each as far from the next as it costs; a caller who had nothing
    starts at the turn that was served last. So a caller who floods the line delays another's single turn by no more
    than what is being worked on, and nobody waits for ever.

    Source: start-time fair queueing (Goyal, Vin and Cheng 1996).
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def join(self, share: Share, cost: float) -> float:
        """Returns the place of one more turn of a caller's; the least is served first."""
        start = max(self._now, self._ends.get(share.caller, 0.0))
        self._ends[share.caller] = start + cost / share.weight
        return start

    def serve(self, place: float) -> None:
        """Notes that the turn at a place has been served."""
        self._now = max(self._now, place)
        self._ends = {caller: end for caller, end in self._ends.items() if end > self._now}

    def clear(self) -> None:
        """Forgets all callers, since nobody waits: an empty line owes nobody anything."""
        self._now = 0.0
        self._ends.clear()
