"""Order: whose turn it is, to start and to be interrupted.

It knows who needs whom, and that daemons come last. It has no task, no clock and no log: when a
stop begins, and what is done to those whose turn has come, is decided elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

T = TypeVar("T", bound="Hashable")


class Order(Generic[T]):
    """Who is here, and whom each of them needs.

    Whatever is here may be waited for: one that somebody here needs is not interrupted yet, and a
    daemon is not while a worker (one that is no daemon) is here.
    """

    __slots__ = ("_daemons", "_unsettled", "_users", "_waiting", "_workers")

    def __init__(self) -> None:
        self._workers: dict[T, tuple[T, ...]] = {}  # each with what it needs
        self._daemons: dict[T, tuple[T, ...]] = {}
        self._users: dict[T, int] = {}  # how many of those that are here need it
        self._waiting: dict[T, list[T]] = {}  # who waits for it to settle
        self._unsettled: dict[T, int] = {}  # for how many does it wait?

    # Starting.

    def wait_for(self, one: T, needs: Iterable[T]) -> None:
        """It starts when all of these have settled. There is at least one of them."""
        needs = tuple(needs)
        self._unsettled[one] = len(needs)
        for need in needs:
            self._waiting.setdefault(need, []).append(one)

    def settle(self, need: T) -> list[T]:
        """It is ready, or never will be. Returns those that wait for nothing any more, in order."""
        free = []
        for one in self._waiting.pop(need, ()):
            if one in self._unsettled:
                self._unsettled[one] -= 1
                if self._unsettled[one] == 0:
                    del self._unsettled[one]
                    free.append(one)
        return free

    @property
    def waiting(self) -> list[T]:
        """All that wait for what they need."""
        return list(self._unsettled)

    def give_up(self, one: T) -> None:
        """It waits no longer, and never starts."""
        self._unsettled.pop(one, None)

    # Stopping.

    def enter(self, one: T, needs: Iterable[T] = (), *, daemon: bool = False) -> None:
        """It is here, and needs these. One that is here already stays as it is."""
        if one in self:
            return
        needs = tuple(needs)
        (self._daemons if daemon else self._workers)[one] = needs
        for need in needs:
            self._users[need] = self._users.get(need, 0) + 1

    def leave(self, one: T) -> list[T]:
        """It is here no longer. Returns those whose turn may have come by that."""
        is_worker = one in self._workers
        needs = (self._workers if is_worker else self._daemons).pop(one, ())
        freed = []
        for need in needs:
            self._users[need] -= 1
            if self._users[need] == 0:
                del self._users[need]
                freed.append(need)
        if is_worker and not self._workers:
            freed.extend(self._daemons)
        return freed

    def __contains__(self, one: T) -> bool:
        return one in self._workers or one in self._daemons

    def __len__(self) -> int:
        return len(self._workers) + len(self._daemons)

    @property
    def workers(self) -> int:
        """How many are here that are no daemons."""
        return len(self._workers)

    def is_needed(self, one: T) -> bool:
        """Does somebody need it who is here?"""
        return one in self._users

    def is_turn(self, one: T) -> bool:
        """Is it here, and may it be interrupted, when all are to stop?"""
        if one in self._daemons:
            return not (self._workers or self.is_needed(one))
        return one in self._workers and not self.is_needed(one)
