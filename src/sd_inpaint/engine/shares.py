"""How the device is shared between callers: weighted fair queueing, at the grain of one denoising step."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from sd_inpaint.engine.canvas_jobs import CanvasRequest

TOLERANCE = 1e-9
"""Virtual seconds that rounding may add up to."""


MOST_GONE = 4
"""How much callers who have gone count at most, as a multiple of those who are here. If newcomers came and went without
end, virtual time would stand still, and whoever waits for it would wait for ever."""


class Claim(IntEnum):
    """How strong a request's claim to the device is; the smallest goes first."""

    DUE = 0
    """It has waited as long as it may."""

    ELIGIBLE = 1
    WAITS = 2
    """Its caller was served ahead of the others, for whom it now waits."""


@dataclass(frozen=True, slots=True)
class Turn:
    """When a request has its turn.

    Attributes:
        claim: Decides first.
        finishes: Decides between equal claims: the virtual time at which a device as fast as the caller's share would
            have finished it.
    """

    claim: Claim
    finishes: float


@dataclass(slots=True)
class _Share:
    """One caller's share.

    Attributes:
        weight: How much of the device this caller may have, compared with others.
        served_to: Virtual time up to which the caller has been served.
        ended_at: Device time at which the caller's last canvas ended.
    """

    weight: float
    served_to: float
    ended_at: float = 0.0


class Shares:
    """Virtual time, and how far each caller has been served in it. Used under the queue's lock.

    Virtual time runs as the device works, divided by the weights of the callers who are *active*: who have something
    in the queue, or were served ahead of virtual time and have not waited for it yet. In it, a caller's requests
    follow one another: each starts where the one before finishes, or now if the caller had nothing. A request is
    eligible once virtual time has reached its start, and of those the one goes first that finishes first. So nobody's
    request finishes later, but for a step, than if they had their share of the device to themselves: beside one caller
    who floods the queue, another's takes at most twice as long as on an idle device.

    A caller who was served ahead has their next request wait, but never longer than their share allows for that request
    alone: then it is due, and goes first. So a short request after a long one is not kept waiting for the long one.

    Source: fair queueing (Demers, Keshav and Shenker 1989) in the virtual time of Parekh and Gallager (1993), with the
    eligibility of WF²Q and the lower bound on virtual time of WF²Q+ (Bennett and Zhang 1996 and 1997). That a request
    becomes due is ours.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._worked = 0.0
        self._shares: dict[str, _Share] = {}

    def join(self, caller: str, weight: float, *, had_nothing: bool) -> CanvasRequest:
        """Lets a caller's new request take part.

        Args:
            caller: Whose.
            weight: The caller's, from now on.
            had_nothing: Whether nothing else of the caller's is in the queue: no claim is left from before.
        """
        share = self._shares.setdefault(caller, _Share(weight, self._now))
        share.weight = weight
        if had_nothing:
            share.served_to = max(share.served_to, self._now)
        return CanvasRequest(self._worked, is_delayed=had_nothing and share.served_to > self._now)

    def turns(
        self, caller: str, requests: Sequence[tuple[CanvasRequest, float]], waiting: Collection[str]
    ) -> list[Turn]:
        """Returns the turns of a caller's requests.

        Args:
            caller: Who has requests in the queue.
            requests: Each with the device time that it still needs, in seconds, in the caller's own order.
            waiting: All callers who have something in the queue.
        """
        share = self._shares[caller]
        others = sum(self._shares[name].weight for name in waiting) - share.weight
        turns: list[Turn] = []
        starts = share.served_to
        for request, left_seconds in requests:
            if request.is_delayed and self._slack(share, request, left_seconds, others) <= TOLERANCE:
                claim = Claim.DUE
            elif request.served_seconds or starts <= self._now + TOLERANCE:
                claim = Claim.ELIGIBLE
            else:
                claim = Claim.WAITS
            starts += left_seconds / share.weight
            turns.append(Turn(claim, starts))
        return turns

    def slack(self, caller: str, request: CanvasRequest, left_seconds: float, waiting: Collection[str]) -> float:
        """Returns how long a request may still wait beside the others' shares, in seconds; none where below 0.

        Args:
            caller: Whose it is.
            request: The request.
            left_seconds: The device time that it still needs.
            waiting: As for :meth:`turns`.
        """
        share = self._shares[caller]
        return self._slack(
            share, request, left_seconds, sum(self._shares[name].weight for name in waiting) - share.weight
        )

    def _slack(self, share: _Share, request: CanvasRequest, left_seconds: float, others: float) -> float:
        waited = self._worked - max(request.came_at, share.ended_at) - request.served_seconds
        length = request.served_seconds + left_seconds
        return others / share.weight * length - waited

    def serve(self, seconds: Mapping[str, float], *, ended: Collection[str], waiting: Collection[str]) -> None:
        """Accounts for time on the device.

        Args:
            seconds: What each caller had of it.
            ended: Callers of whose canvases one has ended.
            waiting: Callers who have something in the queue after it.
        """
        self._worked += sum(seconds.values())
        for caller, had in seconds.items():
            share = self._shares[caller]
            share.served_to += had / share.weight
            if caller in ended:
                share.ended_at = self._worked
        self._advance(sum(seconds.values()), waiting)
        if waiting:
            # Callers who left before they had their share leave it to the others.
            self._now = max(self._now, min(self._shares[caller].served_to for caller in waiting))
        else:
            # An idle device owes nobody anything.
            self._shares.clear()

    def _advance(self, seconds: float, waiting: Collection[str]) -> None:
        """Moves virtual time on; callers who have nothing left stay active until it has reached what they had."""
        while True:
            for caller in [c for c, share in self._shares.items() if c not in waiting and share.served_to <= self._now]:
                del self._shares[caller]
            here = sum(share.weight for caller, share in self._shares.items() if caller in waiting)
            gone = sum(share.weight for caller, share in self._shares.items() if caller not in waiting)
            weights = here + min(gone, MOST_GONE * here) if here else gone
            if not weights:
                return
            leaves = min((s.served_to for c, s in self._shares.items() if c not in waiting), default=math.inf)
            if self._now + seconds / weights < leaves:
                self._now += seconds / weights
                return
            seconds -= (leaves - self._now) * weights
            self._now = leaves
