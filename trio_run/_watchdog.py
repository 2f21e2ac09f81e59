"""Watchdog: the end of a process that does not end by itself, or whose event loop hangs.

It works in real time, and from threads of its own: what it watches over may block everything else.
They are raw threads, started when there is something to watch, as a signal handler may do it.

What Python code holds up, a thread of Python can end: it has the interpreter for itself then, so
that the stacks it writes are whole. Code in C that never gives the interpreter back leaves only
faulthandler's timer, which needs no interpreter. There is one in a process, and whoever wants may
cancel it: so the event loop sets it anew, as long as it comes round.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import math
import os
import sys
import threading
import time

import trio

_SLACK = 0.25  # seconds for what the group says of who hangs, where that is due just then
_POLL = 0.05  # seconds
_LATER = 0.5  # seconds that the timer is later than the thread


class Watchdog:
    """Ends this process when its stop takes too long, or its event loop hangs.

    Args:
      grace: how many seconds a stop may take, as long as the group has not said better.
      abort_after: how many seconds more the process is given.
      stuck_after: how many seconds the event loop may take to come round; None for any number.
    """

    def __init__(self, grace: float, abort_after: float, stuck_after: float | None) -> None:
        self._grace = grace
        self._abort_after = abort_after
        self._stuck_after = stuck_after
        self._signal_came = False
        self._due = math.inf  # on the monotonic clock, as the next
        self._round_at = math.inf
        self._is_over = False
        self._has_thread = False

    # What may be said to it, also by a signal handler.

    def signal_arrived(self) -> None:
        """The first gives the stop its time; another says that somebody wants it to end."""
        seconds = 0.0 if self._signal_came else self._grace
        self._signal_came = True
        self._set(min(self._due, time.monotonic() + seconds + self._abort_after))

    def stop_is_over_in(self, seconds: float) -> None:
        """The group says in how many seconds its stop is to be over."""
        self._set(time.monotonic() + seconds + self._abort_after + _SLACK)

    def _set(self, due: float) -> None:
        self._due = due
        if due < math.inf:
            self._start_thread()

    def _start_thread(self) -> None:
        if not self._has_thread:
            self._has_thread = True
            _thread.start_new_thread(self._watch, ())

    # What the event loop does.

    async def live(self) -> None:
        """Say again and again that the event loop comes round: a system task."""
        seconds = self._stuck_after
        if seconds is None:
            return
        self._round_at = time.monotonic()
        self._start_thread()
        while True:
            self._round_at = time.monotonic()
            if (stderr := _stderr()) is not None:
                faulthandler.dump_traceback_later(2 * seconds + _LATER, exit=True, file=stderr)
            await trio.sleep(seconds / 4)

    def over(self) -> None:
        """The run is over. What a program does after it is its own affair: not so its threads."""
        self._is_over = True
        if self._stuck_after is not None:
            faulthandler.cancel_dump_traceback_later()
        if _threads_left():
            _thread.start_new_thread(self._watch_threads, ())

    # Its threads.

    def _watch(self) -> None:
        said = False
        while not self._is_over:
            now = time.monotonic()
            if now >= self._due:
                self._end(f"it has not ended within {self._abort_after:g} s past its grace")
            if self._stuck_after is not None:
                late = now - self._round_at
                if late >= 2 * self._stuck_after:
                    self._end(f"its event loop has not come round for {late:.1f} s")
                if late >= self._stuck_after and not said:
                    said = True
                    self._write(f"the event loop has not come round for {late:.1f} s: all stacks")
                said = said and late >= self._stuck_after
            time.sleep(_POLL)

    def _watch_threads(self) -> None:
        threading.main_thread().join()
        time.sleep(self._abort_after)
        names = ", ".join(repr(thread.name) for thread in _threads_left())
        if names:
            self._end(f"{self._abort_after:g} s after its main thread these threads run: {names}")

    def _end(self, why: str) -> None:
        self._write(f"the process is ended: {why}: all stacks")
        os._exit(1)

    def _write(self, what: str) -> None:
        if (stderr := _stderr()) is not None:
            with contextlib.suppress(OSError):
                os.write(stderr, f"trio_run: {what}\n".encode())
                faulthandler.dump_traceback(stderr, all_threads=True)


def _threads_left() -> list[threading.Thread]:
    """Those that would keep the process alive."""
    main = threading.main_thread()
    return [one for one in threading.enumerate() if not one.daemon and one is not main]


def _stderr() -> int | None:
    """The descriptor of stderr; None if the process has none.

    Where it was closed when the process began, whatever file was opened first has the number 2.
    """
    try:
        return None if sys.__stderr__ is None else sys.__stderr__.fileno()
    except (OSError, ValueError):
        return None
