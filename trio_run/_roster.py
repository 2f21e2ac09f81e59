"""Roster: which actors a group has, what they are called, and what it remembers of those it had.

A group may run for months, and have many actors that come and go. One that has left for good is
forgotten: its line in the report is what is left of it, and the last of those are kept.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import TYPE_CHECKING

from ._errors import without_tracebacks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._member import Life
    from ._report import ActorReport

_LINES_KEPT = 1000


class Roster:
    """The lives of one group, in the order in which they were added."""

    def __init__(self) -> None:
        self._lives: dict[Life, int] = {}  # with their numbers
        self._numbers = itertools.count()
        self._lines: deque[tuple[int, ActorReport]] = deque()  # of those that were forgotten
        self._judges: dict[Life, None] = {}  # their actors say whether they are fit for work
        self._names: dict[str, int] = {}  # in use, with the last number that each was given

    def __iter__(self) -> Iterator[Life]:
        return iter(list(self._lives))

    def __len__(self) -> int:
        return len(self._lives)

    def __contains__(self, life: Life) -> bool:
        return life in self._lives

    def add(self, life: Life) -> None:
        self._lives[life] = next(self._numbers)
        if life.spec.has_ready:
            self._judges[life] = None

    def unique(self, name: str) -> str:
        """The name, or one made of it that nobody has."""
        unique = name
        while unique in self._names:
            self._names[name] += 1
            unique = f"{name}-{self._names[name]}"
        self._names[unique] = 1
        return unique

    def forget(self, life: Life, began_at: float) -> None:
        """Keep the line of one that has left for good, and nothing else of it."""
        self._judges.pop(life, None)
        number = self._lives.pop(life)
        line = life.report(began_at)
        if line.error is not None:
            without_tracebacks(line.error)
        self._lines.append((number, line))
        if len(self._lines) > _LINES_KEPT:
            _, oldest = self._lines.popleft()
            self._names.pop(oldest.name, None)

    @property
    def everybody(self) -> list[Life | ActorReport]:
        """All of them, in the order in which they were added; of who was forgotten, the line."""
        numbered: list[tuple[int, Life | ActorReport]] = [*self._lines]
        numbered.extend((number, life) for life, number in self._lives.items())
        numbered.sort(key=lambda one: one[0])
        return [one for _, one in numbered]

    @property
    def is_fit(self) -> bool:
        """Is every actor that says so itself fit for work?"""
        return all(life.is_fit for life in self._judges)

    def lines(self, began_at: float) -> tuple[ActorReport, ...]:
        """The report on each, of a group that began then."""
        lines = [*self._lines]
        lines.extend((number, life.report(began_at)) for life, number in self._lives.items())
        lines.sort(key=lambda numbered: numbered[0])
        return tuple(line for _, line in lines)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many ended in which way."""
        counts: Counter[str] = Counter(life.member.outcome for life in self._lives)
        counts.update(line.outcome for _, line in self._lines)
        return counts

    @property
    def running(self) -> int:
        """How many have not stopped."""
        return sum(life.stopped_at is None for life in self._lives)
