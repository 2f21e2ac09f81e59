"""Which clients have been silent for too long between their requests, and who of them is let go
before a stop.

A cancel scope around each wait for a request costs a quarter of the whole request. So a connection
only notes since when it is idle, and one task looks at all of them, at each when its time may be
over: that is once in the time that it has.

While a group is a lame duck, a balancer is to move its clients away. Were all who are idle closed
at its end, all would come back elsewhere in one instant. So in its second half they are closed
evenly, first those that have been idle longest: whom nobody has used for long, nobody is about to
use. In the first half none is, because its client would come back to us.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_MANY = 1000  # connections that have ended, and are still in the heap
_TURN = 0.05  # seconds from some who are let go to the next


class Waiting(Protocol):
    """A connection that may be idle."""

    idle_since: float  # math.inf while it is not

    def give_up(self) -> object:
        """It has been idle for too long."""


class IdleConnections:
    """Those of one listener.

    Args:
      seconds: how long one may be idle.
      start_soon: starts the task that looks; it ends when there is no connection any more.
      turn: look again after so many seconds at the latest. One that comes later may be due earlier,
        where it has been idle before.
    """

    def __init__(
        self, seconds: float, start_soon: Callable[..., object], *, turn: float = math.inf
    ) -> None:
        self._seconds = seconds
        self._turn = turn
        self._start_soon = start_soon
        self._connections: set[Waiting] = set()
        self._heap: list[tuple[float, int, Waiting]] = []  # when to look at which
        self._numbers = itertools.count()  # of two at the same time, the one that came first
        self._looking = trio.CancelScope()

    def add(self, connection: Waiting) -> None:
        self._connections.add(connection)
        self._look_later(connection, min(connection.idle_since, trio.current_time()))
        if len(self._connections) == 1:
            self._looking = trio.CancelScope()
            self._start_soon(self._look, self._looking)

    def discard(self, connection: Waiting) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._heap.clear()
            self._looking.cancel("there is no connection")
        elif len(self._heap) > 2 * len(self._connections) + _MANY:
            self._heap = [entry for entry in self._heap if entry[2] in self._connections]
            heapq.heapify(self._heap)

    async def let_go(self, ends: float) -> None:
        """Let them go, the one that has been idle longest first, until all are gone by then."""
        await trio.sleep(max(0.0, ends - trio.current_time()) / 2)  # it may be over already
        due = 0.0  # connections
        while (left := ends - trio.current_time()) > 0:
            idle = [each for each in self._connections if each.idle_since < math.inf]
            due += len(idle) * min(1, _TURN / left)
            for connection in heapq.nsmallest(int(due), idle, key=lambda each: each.idle_since):
                connection.give_up()
            due %= 1
            await trio.sleep(_TURN)

    def _look_later(self, connection: Waiting, since: float) -> None:
        entry = (since + self._seconds, next(self._numbers), connection)
        heapq.heappush(self._heap, entry)

    async def _look(self, looking: trio.CancelScope) -> None:
        with looking:
            while self._heap:
                await trio.sleep_until(min(self._heap[0][0], trio.current_time() + self._turn))
                now = trio.current_time()
                while self._heap and self._heap[0][0] <= now:
                    connection = heapq.heappop(self._heap)[2]
                    if connection in self._connections:
                        self._look_at(connection, now)

    def _look_at(self, connection: Waiting, now: float) -> None:
        since = connection.idle_since
        if since + self._seconds <= now:
            connection.give_up()
            since = now
        self._look_later(connection, now if since == math.inf else since)
