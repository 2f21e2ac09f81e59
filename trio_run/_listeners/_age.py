"""Which connections are too old: their clients are to come back, to whomever a balancer chooses.

A client of a long life stays where it has come first, and a new server gets none. So a connection
past its age drains, as at a stop. With HTTP a request may be on its way just then. So in the tenth
of the age before that a response says that it is the last, and past its age a connection drains
when nothing has come for a tenth of it: whoever asks more often than that has heard before.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import trio

from ._deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Connection


class Ages(Deadlines["Connection"]):
    """Those of one listener's connections.

    Args:
      most: seconds; math.inf for any.
      start_soon: as for Deadlines.
    """

    def __init__(self, most: float, start_soon: Callable[..., object]) -> None:
        super().__init__(start_soon)
        self._most = most
        self._tenth = most / 10

    def add(self, connection: Connection) -> None:
        if self._most < math.inf:
            # Those that came together do not come back together.
            earlier = self._tenth * random.random()
            connection.stays_until = trio.current_time() + self._most - earlier
            self._add(connection, connection.stays_until - self._tenth)

    def _look(self, connection: Connection, now: float) -> float:
        if connection.draining:
            return math.inf
        connection.is_old = True
        if now < connection.stays_until:
            return connection.stays_until
        tells = connection.since_when_idle
        since = -math.inf if tells is None else tells()
        if since + self._tenth > now:
            return min(since, now) + self._tenth
        connection.drain()
        return math.inf
