"""Delays: what is logged of those who take long, and what is done when their time is over.

How long each may take was decided by who added it. What it means to be cut is decided in _member.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._failures import Failures
    from ._journal import Journal
    from ._member import Life
    from ._timers import Timers

_INTERVAL = 5.0  # seconds between two lines on who holds it up
_STUCK_AFTER = 5.0  # seconds


class Delays:
    """Watches over the starts, the stops and the cuts of one group's lives."""

    def __init__(
        self, timers: Timers, journal: Journal, failures: Failures, lives: Iterable[Life]
    ) -> None:
        self._timers = timers
        self._journal = journal
        self._failures = failures
        self._lives = lives
        self._watches_starts = False
        self._own: dict[Life, list[int]] = {}  # the timers that are about one life alone

    def forget(self, life: Life) -> None:
        """It has left for good: nothing is due for it any more."""
        for number in self._own.pop(life, ()):
            self._timers.cancel(number)

    def _at(self, when: float, act: Callable[[], None], life: Life | None) -> None:
        number = self._timers.at(when, act)
        if life is not None:
            self._own.setdefault(life, []).append(number)

    # Starts.

    def starting(self, life: Life) -> None:
        """Its execute has begun, and it is not ready yet."""
        now = trio.current_time()
        if not self._watches_starts:
            self._watches_starts = True
            self._every(now, self._log_start_holdups, None)
        within = life.spec.start_within
        if within is not None:
            self._at(now + within, partial(self._give_up_on, life, within), life)

    def start_of_all(self, within: float) -> None:
        """All actors of the group are to be ready within that many seconds."""
        self._timers.at(trio.current_time() + within, partial(self._give_up_on_all, within))

    def _give_up_on_all(self, within: float) -> None:
        for life in self._lives:
            self._give_up_on(life, within)

    def _give_up_on(self, life: Life, within: float) -> None:
        if not life.began or life.is_settled or life.is_stopping:
            return
        status = life.status
        detail = f": {status}" if status else ""
        what = f"actor {life.name!r} was not ready within {within:g} s{detail}"
        self._failures.add(life, TimeoutError(what))
        self.cut([life], f"it was not ready within {within:g} s")

    def _log_start_holdups(self, since: float) -> bool:
        late = [
            life
            for life in self._lives
            if life.began and not life.is_settled and not life.is_stopping
        ]
        if late:
            self._journal.start_held_up(trio.current_time() - since, late)
        self._watches_starts = bool(late)
        return bool(late)

    # Stops.

    def stopping(self, began: float) -> None:
        """The interrupts of all begin, in a stop that began then."""
        self._every(began, self._log_stop_holdups, None)

    def stopping_alone(self, life: Life) -> None:
        self._every(trio.current_time(), partial(self._log_holdup_of_one, life), life)

    def interrupted(self, life: Life, grace: float) -> None:
        """It has that many seconds from now on."""
        if not life.is_finished:
            due = trio.current_time() + grace
            self._at(due, partial(self._cut_late, life, grace), life)

    def _cut_late(self, life: Life, grace: float) -> None:
        if not life.is_finished:
            self.cut([life], f"its grace of {grace:g} s is over")

    def _log_stop_holdups(self, since: float) -> bool:
        late = [
            life for life in self._lives if life.interrupted_at is not None and not life.is_finished
        ]
        self._journal.held_up(trio.current_time() - since, late)
        return True

    def _log_holdup_of_one(self, life: Life, since: float) -> bool:
        if not life.is_finished:
            self._journal.held_up(trio.current_time() - since, [life])
        return not life.is_finished

    # Cuts.

    def cut(self, lives: Sequence[Life], why: str) -> None:
        """Cancel them hard."""
        self._journal.cut(why, lives)
        self._timers.at(trio.current_time() + _STUCK_AFTER, partial(self._log_stuck, lives))
        for life in lives:
            life.cut()

    def _log_stuck(self, lives: Sequence[Life]) -> None:
        for life in lives:
            if not life.is_finished:
                self._journal.stuck(life, _STUCK_AFTER)

    def _every(self, since: float, log: Callable[[float], bool], life: Life | None) -> None:
        """Call log(since) at every interval since then, as long as it returns True."""
        now = trio.current_time()
        due = since + ((now - since) // _INTERVAL + 1) * _INTERVAL
        if due <= now:  # rounded down twice: it would be due at once, again and again
            due += _INTERVAL

        def act() -> None:
            if log(since):
                self._every(since, log, life)

        self._at(due, act, life)
