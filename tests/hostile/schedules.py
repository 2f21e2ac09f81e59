"""Every order in which Trio can wake the tasks of a program, one after the other.

Trio wakes in batches: all tasks that can go on have one step each, in an order that it chooses at
random. Here the choice is made from outside. Of each batch every permutation can be had; a program
with ten batches of four tasks has far too many, so at most so many batches of one run are in
another order than that in which the tasks were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio


@dataclass
class Schedule:
    """Which permutation each batch gets, by number: 0 is the order that it has."""

    chosen: dict[int, int] = field(default_factory=dict)  # batch -> permutation
    choices: list[int] = field(default_factory=list)  # how many permutations each batch had

    def shuffle(self, batch: list[Any]) -> None:
        """In the place of :meth:`random.Random.shuffle`."""
        number = self.chosen.get(len(self.choices), 0)
        self.choices.append(math.factorial(len(batch)))
        rest = batch[:]
        for at in range(len(batch)):
            number, which = divmod(number, len(rest))
            batch[at] = rest.pop(which)

    def random(self) -> float:
        return 0.5

    def uniform(self, first: float, _last: float) -> float:
        return first


def schedules(most: int) -> Iterator[Schedule]:
    """All in which at most so many batches are in another order. Run each before the next is taken.

    What follows a change is known only when it has been run.
    """
    waiting = [Schedule()]
    while waiting:
        schedule = waiting.pop()
        yield schedule
        if len(schedule.chosen) < most:
            first = max(schedule.chosen, default=-1) + 1
            for batch in range(first, len(schedule.choices)):
                waiting += [
                    Schedule({**schedule.chosen, batch: number})
                    for number in range(1, schedule.choices[batch])
                ]


def use(schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Trio wake tasks by it."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio._core._run, "_r", schedule)
