"""run: one process. Its signals, its exit code, what it says on stderr, and the watchdog.

What happens between is the group's business.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import signal
import sys
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from ._errors import CannotStart, GroupFailed, cannot_start
from ._group import Group
from ._signals import SignalReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("trio_run")

_STDERR = 2  # the descriptor: sys.stderr may be anything
_SLACK = 0.25  # seconds for what the group says of who hangs, where that is due just then
_SHORTEST, _LONGEST = 0.01, 1e9  # seconds: the timer takes neither 0 nor infinity


def run(
    *actors: object,
    name: str = "group",
    grace: float = 30.0,
    lame_duck: float = 0.0,
    abort_after: float = 5.0,
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM),
) -> int:
    """Run actors as this process, until they stop: ``sys.exit(run(...))``.

    A plain function around :func:`trio.run`. It adds a :class:`SignalReceiver`, writes what happens
    to stderr (to the ``trio_run`` logger; where nobody has set up logging, it does so for this
    logger and this call), and the traceback of each actor that failed.

    It always ends. If the process still runs ``abort_after`` seconds past the grace, be it that an
    actor ignores cancellation or that it blocks the event loop, the stacks of all threads go to
    stderr, and the process exits with code 1. (With an endless grace it never comes to that.)

    Args:
      actors: what :meth:`Group.add` takes. Or a single :class:`Group`, for actors that need each
        other: it is run itself, with its own name, grace and lame duck.
      name, grace, lame_duck: those of the :class:`Group` that is made of the actors.
      abort_after: how many seconds past the grace the process is given.
      signals: those that stop it; () for none, and Ctrl-C then raises KeyboardInterrupt.

    Returns:
      The exit code: 0 stopped as asked, 1 an actor failed, 128 + n forced by a second signal n.

    Raises:
      KeyboardInterrupt, SystemExit: if an actor raised it.
      TypeError, ValueError: if an argument can't be right.
    """
    if len(actors) == 1 and isinstance(actors[0], Group):
        group = actors[0]
        if (name, grace, lame_duck) != ("group", 30.0, 0.0):
            raise TypeError(
                "run(group) takes name, grace and lame_duck from the group: give them there"
            )
    else:
        group = Group(name=name, grace=grace, lame_duck=lame_duck)
        for actor in actors:
            group.add(actor)
    watchdog = _Watchdog(group.grace, abort_after)
    group._supervisor.requests.on_deadline = watchdog.stop_is_over_in
    if signals:
        group.add(SignalReceiver(*signals))
    for member in group.members:  # the group may have one of its own
        if isinstance(member.actor, SignalReceiver):
            member.actor._on_arrival = watchdog.signal_arrived
    try:
        with _logging_to_stderr():
            return trio.run(_main, group)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _main(group: Group) -> int:
    try:
        report = await group.run()
    except GroupFailed as failed:
        report = failed.report
        _tell_failures(failed)
        if cannot_start(failed):  # that sentence tells it all
            return report.exit_code
    except BaseException as exc:
        if isinstance(exc.__cause__, GroupFailed):  # beside an exit
            _tell_failures(exc.__cause__)
        raise
    logger.info("%s", report)
    return report.exit_code


def _tell_failures(failed: GroupFailed) -> None:
    """Each failure on stderr: its traceback, or its sentence where that says all."""
    for error in failed.exceptions:
        if isinstance(error, GroupFailed):
            _tell_failures(error)
        elif isinstance(error, CannotStart):
            print(error, file=sys.stderr)  # noqa: T201
        else:
            traceback.print_exception(error)  # with the note that names the actor


class _Watchdog:
    """Ends the process when it has not stopped some time after it should have.

    faulthandler's timer needs no thread of ours and no event loop. The group says when the stop is
    to be over; and as a blocked event loop never gets to that, the arrival of a signal sets the
    timer too, until the group says better.
    """

    def __init__(self, grace: float, abort_after: float) -> None:
        if not abort_after >= 0:
            raise ValueError(
                f"abort_after must be a number of seconds, 0 or more, not {abort_after!r}"
            )
        self._grace = grace
        self._abort_after = abort_after
        self._signalled = False
        self._due = math.inf  # on the monotonic clock

    def signal_arrived(self) -> None:
        """It may only bring the end nearer: somebody who keeps pressing Ctrl-C wants it to end."""
        seconds = 0.0 if self._signalled else self._grace
        self._signalled = True
        self._set(min(self._due, time.monotonic() + seconds + self._abort_after))

    def stop_is_over_in(self, seconds: float) -> None:
        self._set(time.monotonic() + seconds + self._abort_after + _SLACK)

    def _set(self, due: float) -> None:
        self._due = due
        timeout = max(_SHORTEST, due - time.monotonic())
        faulthandler.cancel_dump_traceback_later()
        if timeout < _LONGEST:
            faulthandler.dump_traceback_later(timeout, exit=True, file=_STDERR)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Where nobody has set up logging, show our own lines on stderr."""
    if logger.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
