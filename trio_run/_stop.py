"""Stop: when a group's stop begins, why, and until when it may take.

It has no task, no clock and no log: every time comes in as an argument. What a stop does is decided
in _supervisor, in what order in _order.

A request to stop may come at any moment, even from a signal handler that runs between two
instructions of another request. So a request is one object, it is recorded by one append, and all
else is read off the list: the first request is the cause, later ones can only shorten what remains.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import signal

    from ._actor import Cause


class Request(NamedTuple):
    """One request to stop. Times are in seconds, on the group's clock."""

    cause: Cause
    when: float
    lame_duck: float = 0.0  # for how long it goes on serving first
    deadline: float = math.inf
    why: str = ""  # it ends then
    forced_by: signal.Signals | None = None


class Stop:
    """A group's stop: its cause, its lame duck and its deadline."""

    __slots__ = ("_grace", "_lame_duck", "_lame_duck_ended", "_requests")

    def __init__(self, grace: float, lame_duck: float) -> None:
        self._grace = grace
        self._lame_duck = lame_duck
        self._lame_duck_ended = False
        self._requests: list[Request] = []

    def request(
        self, cause: Cause, now: float, *, lame_duck: bool = False, grace: float | None = None
    ) -> None:
        """Record a request. With lame_duck the first goes on serving for that long."""
        if not self._requests:
            deadline = now + self._grace
            why = f"the grace of {self._grace:g} s is over"
            if grace is not None and grace < self._grace:
                deadline, why = now + grace, f"the shortened grace of {grace:g} s is over"
            seconds = self._lame_duck if lame_duck else 0.0
            self._requests.append(Request(cause, now, seconds, deadline, why))
        elif grace is not None and now + grace < self.deadline:
            why = f"the shortened grace of {grace:g} s is over"
            self._requests.append(Request(cause, now, deadline=now + grace, why=why))
        elif self.is_lame_duck:
            self._requests.append(Request(cause, now))

    def force(
        self, cause: Cause, now: float, why: str, signum: signal.Signals | None = None
    ) -> None:
        """Record that it is to end now, and by what signal, if by one."""
        if not self._requests:
            self.request(cause, now)
        if signum is not None or now < self.deadline:
            self._requests.append(Request(cause, now, deadline=now, why=why, forced_by=signum))

    @property
    def requests(self) -> tuple[Request, ...]:
        """Those that had an effect, in their order."""
        return tuple(self._requests)

    @property
    def cause(self) -> Cause | None:
        """Why it stops; None as long as nobody has asked for it."""
        return self._requests[0].cause if self._requests else None

    @property
    def began(self) -> float:
        """When the first request came; math.inf before that."""
        return self._requests[0].when if self._requests else math.inf

    @property
    def is_lame_duck(self) -> bool:
        """Does it still serve, after the first request and before anything else?"""
        return (
            len(self._requests) == 1
            and self._requests[0].lame_duck > 0
            and not self._lame_duck_ended
        )

    @property
    def lame_duck_ends(self) -> float:
        """When it is over by itself; math.inf before the first request."""
        return self.began + (self._requests[0].lame_duck if self._requests else 0.0)

    def end_lame_duck(self) -> None:
        """Its time is over."""
        self._lame_duck_ended = True

    @property
    def deadline(self) -> float:
        """When everything that still runs is cut; math.inf for never."""
        return min((request.deadline for request in self._requests), default=math.inf)

    @property
    def why_deadline(self) -> str:
        """What is over then, in words."""
        return min(self._requests, key=lambda request: request.deadline).why

    @property
    def forced_by(self) -> signal.Signals | None:
        """The second signal, which cut it short."""
        return next((one.forced_by for one in self._requests if one.forced_by is not None), None)
