"""Timers: what is to be done at which time. When it is looked at is decided in _supervisor."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """Functions to call, each at its time; of two at the same time the one that was set first."""

    __slots__ = ("_acts", "_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._acts: dict[int, Callable[[], None]] = {}  # not those that were cancelled
        self._numbers = itertools.count()

    @property
    def next(self) -> float:
        """When the next one is due; math.inf if there is none."""
        while self._heap and self._heap[0][1] not in self._acts:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def at(self, when: float, act: Callable[[], None]) -> int:
        """Call act() then; at math.inf never. Returns a number by which to cancel it."""
        number = next(self._numbers)
        if when != math.inf:
            self._acts[number] = act
            heapq.heappush(self._heap, (when, number))
        return number

    def cancel(self, number: int) -> None:
        """Do not call it, and keep nothing that it refers to."""
        self._acts.pop(number, None)

    def fire(self, now: float) -> None:
        """Call those that are due."""
        while self.next <= now:
            _, number = heapq.heappop(self._heap)
            self._acts.pop(number)()
