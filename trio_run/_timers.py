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

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    @property
    def next(self) -> float:
        """When the next one is due; math.inf if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call act() then; at math.inf never."""
        if when != math.inf:
            heapq.heappush(self._heap, (when, next(self._number), act))

    def fire(self, now: float) -> None:
        """Call those that are due."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
