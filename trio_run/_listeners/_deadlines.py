"""When to look at which connection, because its time may be over by then.

A cancel scope around each wait costs a quarter of a whole HTTP request. So a connection only notes
since when it waits, and one task looks at all of them.
"""

from __future__ import annotations

import abc
import heapq
import itertools
import math
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MANY = 1000  # connections that have ended, and are still in the heap
_LEAST = 0.05  # seconds from one look at a connection to the next


class Deadlines(abc.ABC, Generic[T]):
    """Those of one listener's connections.

    Args:
      start_soon: starts the task that looks; it ends when there is nothing to look at any more.
    """

    def __init__(self, start_soon: Callable[..., object]) -> None:
        self.connections: set[T] = set()
        self._start_soon = start_soon
        self._heap: list[tuple[float, int, T]] = []  # when to look at which
        self._numbers = itertools.count()  # of two at the same time, the one that came first
        self._sleep = trio.CancelScope()  # until it is time for the first
        self._is_looking = False

    @abc.abstractmethod
    def _look(self, connection: T, now: float) -> float:
        """Do what is to be done. Returns when to look again, math.inf for never."""

    def _add(self, connection: T, when: float) -> None:
        self.connections.add(connection)
        self._look_later(connection, when)
        self._sleep.deadline = min(self._sleep.deadline, when)
        if not self._is_looking:
            self._is_looking = True
            self._start_soon(self._look_at_all)

    def discard(self, connection: T) -> None:
        if connection not in self.connections:  # nobody's time is limited, as a rule
            return
        self.connections.remove(connection)
        if not self.connections:
            self._heap.clear()
            self._sleep.deadline = -math.inf
        elif len(self._heap) > 2 * len(self.connections) + _MANY:
            self._heap = [entry for entry in self._heap if entry[2] in self.connections]
            heapq.heapify(self._heap)

    def _look_later(self, connection: T, when: float) -> None:
        if when < math.inf:
            heapq.heappush(self._heap, (when, next(self._numbers), connection))

    async def _look_at_all(self) -> None:
        try:
            while self._heap:
                with trio.CancelScope(deadline=self._heap[0][0]) as self._sleep:
                    await trio.sleep_forever()
                now = trio.current_time()
                while self._heap and self._heap[0][0] <= now:
                    connection = heapq.heappop(self._heap)[2]
                    if connection in self.connections:
                        again = self._look(connection, now)
                        self._look_later(connection, max(again, now + _LEAST))
        finally:
            self._is_looking = False
