"""Which connections are too old: their clients are to come back, to whomever a balancer chooses.

A client of a long life stays where it has come first, and a new server gets none. What becomes of a
connection past its age is its own affair: one drains, one of HTTP says in its next response that it
is the last.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import trio

from ._idle import IdleConnections

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Connection

_JITTER = 0.1  # of the age: those that came together do not come back together
_TURNS = 50  # looks in one age


class Age:
    """Since when a connection is there."""

    __slots__ = ("_connection", "idle_since")

    def __init__(self, connection: Connection, since: float) -> None:
        self._connection = connection
        self.idle_since = since

    def give_up(self) -> None:
        self.idle_since = math.inf  # once is enough
        self._connection.grow_old()


class Ages:
    """Those of one listener's connections.

    Args:
      most: seconds; math.inf for any.
      start_soon: as for IdleConnections.
    """

    def __init__(self, most: float, start_soon: Callable[..., object]) -> None:
        self._most = most
        self._ages: dict[Connection, Age] = {}
        self._looks = IdleConnections(most, start_soon, turn=most / _TURNS)

    def add(self, connection: Connection) -> None:
        if self._most < math.inf:
            earlier = self._most * _JITTER * random.random()
            age = self._ages[connection] = Age(connection, trio.current_time() - earlier)
            self._looks.add(age)

    def discard(self, connection: Connection) -> None:
        if self._most < math.inf:
            self._looks.discard(self._ages.pop(connection))
