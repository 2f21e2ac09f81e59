"""Requests: how a stop is requested. From where, and what is recorded and logged of it.

What a request changes is decided in _stop; what is done then, in _supervisor.

A signal handler may request a stop between any two instructions of the program. So a request is
recorded as one object (_stop says how), and the bell may be rung at any moment (_bell says how). It
is logged later, in one of Trio's tasks. A request from another thread, or from before the run, is
put by, and is taken when the run begins or by Trio's ``run_sync_soon``.
"""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._actor import Cause
from ._bell import Bell
from ._stop import Stop

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from ._journal import Journal


class Requests:
    """The stop of one group, as those see it who request it."""

    def __init__(self, stop: Stop, journal: Journal) -> None:
        self.stop = stop
        # Set by trio_run.run(): called with the seconds until the stop is to be over.
        self.on_deadline: Callable[[float], None] | None = None
        self.serves = False  # is there something that a lame duck could go on with?
        self._journal = journal
        self._bell: Bell | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._early: deque[Callable[[], None]] = deque()
        self._logged = 0
        self._signal_came = False
        self._is_over = False

    @property
    def is_requested(self) -> bool:
        """Has one come, of whatever kind?"""
        return bool(self._early) or self.stop.cause is not None

    @property
    def has_begun(self) -> bool:
        """Has the run?"""
        return self._token is not None

    @property
    def is_here(self) -> bool:
        """Is this the thread in which the group runs? Before it runs, every one is."""
        return self._token is None or self._is_over or _is_here(self._token)

    def begin(self) -> Bell:
        """The run begins, in this task. Returns the bell that is rung at each request."""
        self._bell = Bell()
        self._token = trio.lowlevel.current_trio_token()
        self._take_early()
        return self._bell

    def end(self) -> None:
        """The run is over: a request has no effect from here on."""
        self._is_over = True

    # From anywhere: another thread, a signal handler, before the group runs.

    def request(self, cause: Cause, *, lame_duck: bool = False, grace: float | None = None) -> None:
        record = partial(self._record, cause, lame_duck=lame_duck, grace=grace)
        if self._token is not None and _is_here(self._token):
            record()
        else:
            self._early.append(record)
            # It is looked at only now: begin() sets it first, and then takes what has come early.
            if self._token is not None:
                with contextlib.suppress(trio.RunFinishedError):  # then it has stopped
                    self._token.run_sync_soon(self._take_early)

    def _take_early(self) -> None:
        while self._early:
            self._early[0]()
            self._early.popleft()

    def _record(self, cause: Cause, *, lame_duck: bool, grace: float | None) -> None:
        if not self._is_over:
            serves = lame_duck and self.serves
            self.stop.request(cause, trio.current_time(), lame_duck=serves, grace=grace)
            self._say_deadline()
            self._ring()

    # From one of Trio's tasks.

    def request_and_log(self, cause: Cause, *, lame_duck: bool = False) -> None:
        self._record(cause, lame_duck=lame_duck, grace=None)
        self.log()

    def force(self, cause: Cause, why: str, signum: signal.Signals | None = None) -> None:
        """The stop is to end now."""
        self.stop.force(cause, trio.current_time(), why, signum)
        self.log()
        self._say_deadline()
        self._ring()

    def signalled(self, signum: signal.Signals) -> bool:
        """A signal requests a stop. Returns whether it was a second one, and cut the stop short."""
        cause = Cause(signal=signum, reason=f"{signum.name} received")
        is_stopping = self.stop.cause is not None and not self.stop.is_lame_duck
        if self._signal_came and is_stopping:
            self.force(cause, f"forced by a second signal, {signum.name}", signum)
            return True
        self._signal_came = True
        self.request_and_log(cause, lame_duck=True)
        return False

    def log(self) -> None:
        """Log the requests that have not been logged yet."""
        requests = self.stop.requests
        for number in range(self._logged, len(requests)):
            request = requests[number]
            if number == 0:
                self._journal.stop_began(request.cause)
                if request.lame_duck:
                    self._journal.lame_duck(request.lame_duck)
            elif number == 1 and request.when < requests[0].when + requests[0].lame_duck:
                self._journal.lame_duck_ends_early(request.cause)
        self._logged = len(requests)

    def _say_deadline(self) -> None:
        if self.on_deadline is not None:
            self.on_deadline(max(0.0, self.stop.deadline - trio.current_time()))

    def _ring(self) -> None:
        assert self._bell is not None
        self._bell.ring()


def _is_here(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # not in a Trio program at all
        return False
