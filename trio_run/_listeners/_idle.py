"""Which clients have been silent for too long: between their requests, or on a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from ._deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting(Protocol):
    """A connection that may be idle."""

    idle_since: float  # math.inf while it is not

    def give_up(self) -> object:
        """It has been idle for too long."""


class IdleConnections(Deadlines[Waiting]):
    """Those of one listener.

    Args:
      seconds: how long one may be idle.
      start_soon: as for Deadlines.
    """

    def __init__(self, seconds: float, start_soon: Callable[..., object]) -> None:
        super().__init__(start_soon)
        self._seconds = seconds

    def add(self, connection: Waiting) -> None:
        self._add(connection, min(connection.idle_since, trio.current_time()) + self._seconds)

    def _look(self, connection: Waiting, now: float) -> float:
        since = min(connection.idle_since, now)  # one that is busy may be idle from now on
        if since + self._seconds <= now:
            connection.give_up()
            since = now
        return since + self._seconds
