"""run: one process. Its signals, its exit code, and what it says on stderr.

What happens between is decided by the group. How a process ends that does not end by itself is
decided in _watchdog.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import trio

from ._actor import check_seconds
from ._arrivals import Arrivals
from ._errors import GroupFailed, cannot_start, in_words, one_line, tells_all
from ._group import Group, supervisor_of
from ._notify import Notifier
from ._signals import SignalReceiver
from ._watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("trio_run")


def run(
    *actors: object,
    name: str = "group",
    grace: float = 30.0,
    lame_duck: float = 0.0,
    abort_after: float = 5.0,
    stuck_after: float | None = None,
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM),
) -> int:
    """Run actors as this process, until they stop: ``sys.exit(run(...))``.

    A plain function around :func:`trio.run`. It adds a :class:`SignalReceiver`, writes what happens
    to stderr (to the ``trio_run`` logger; where nobody has set up logging, it does so for this
    logger and this call), and the traceback of each actor that failed.

    It ends. If the process still runs ``abort_after`` seconds past the grace, be it that an actor
    ignores cancellation, that Python code blocks the event loop, or that a thread that is no daemon
    goes on (counted from the end of the main thread), the stacks of all threads go to stderr, and
    the process exits with code 1. With an endless grace it never comes to that. Code in C that
    never gives the interpreter back can be ended only where ``stuck_after`` is given; else by
    whoever started the process, with SIGKILL.

    Where a service manager has set NOTIFY_SOCKET, it says there how the group is: see
    :class:`SystemdNotifier`.

    When the stop begins, it freezes what there is for the garbage collector (``gc.freeze()``):
    most of it goes away then, and the collector is not to walk through it meanwhile. It is left so,
    for the end of the process.

    Args:
      actors: what :meth:`Group.add` takes. Or a single :class:`Group`, for actors that need each
        other: it is run itself, with its own name, grace and lame duck.
      name, grace, lame_duck: those of the :class:`Group` that is made of the actors.
      abort_after: how many seconds past the grace the process is given.
      stuck_after: how many seconds the event loop may take to come round, as long as the program
        runs. Then all stacks go to stderr, once; after twice that the process exits with code 1. A
        process that is paused (SIGSTOP) for so long may be ended when it goes on. None is never.
      signals: those that stop it; () for none, and Ctrl-C then raises KeyboardInterrupt.

    Returns:
      The exit code: 0 stopped as asked, 1 an actor failed, 128 + n forced by a second signal n.

    Raises:
      KeyboardInterrupt, SystemExit: if an actor raised it.
      RuntimeError: in a Trio program, where a group is run with ``await group.run()``.
      TypeError, ValueError: if an argument can't be right.
    """
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("run() begins a Trio program: in one, write await group.run()")
    check_seconds("abort_after", abort_after)
    if stuck_after is not None and not check_seconds("stuck_after", stuck_after):
        raise ValueError("stuck_after must be more than 0 seconds, or None")
    with Arrivals() as arrivals:
        arrivals.hear(signals)
        group = _make_group(actors, name, grace, lame_duck)
        if signals:
            group.add(SignalReceiver(*signals))
        watchdog = Watchdog(group.grace, abort_after, stuck_after)
        arrivals.on_arrival = watchdog.signal_arrived
        for member in group.members:  # the group may have a receiver of its own
            if isinstance(member.actor, SignalReceiver):
                member.actor.arrivals = arrivals
                arrivals.hear(member.actor.signals)

        def stop_is_over_in(seconds: float) -> None:
            watchdog.stop_is_over_in(seconds)
            _freeze()

        supervisor_of(group).requests.on_deadline = stop_is_over_in
        try:
            with _logging_to_stderr():
                notifier = Notifier.from_environment(abort_after)
                return trio.run(_main, group, watchdog, notifier)
        finally:
            watchdog.over()
            _forget_unwritten()


def _make_group(actors: tuple[object, ...], name: str, grace: float, lame_duck: float) -> Group:
    if len(actors) == 1 and isinstance(actors[0], Group):
        if (name, grace, lame_duck) != ("group", 30.0, 0.0):
            raise TypeError(
                "run(group) takes name, grace and lame_duck from the group: give them there"
            )
        return actors[0]
    group = Group(name=name, grace=grace, lame_duck=lame_duck)
    for actor in actors:
        group.add(actor)
    return group


async def _main(group: Group, watchdog: Watchdog, notifier: Notifier | None) -> int:
    trio.lowlevel.spawn_system_task(watchdog.live, name="trio_run watchdog")
    if notifier is not None:
        notifier.attach(group)
        trio.lowlevel.spawn_system_task(notifier.live, name="trio_run notifier")
    try:
        report = await group.run()
    except GroupFailed as failed:
        report = failed.report
        _print_failures(failed)
        if cannot_start(failed):  # that sentence tells it all
            return report.exit_code
    except BaseException as exc:
        if isinstance(exc.__cause__, GroupFailed):  # beside an exit
            _print_failures(exc.__cause__)
        raise
    supervisor_of(group).journal.report(report)
    return report.exit_code


def _print_failures(failed: GroupFailed) -> None:
    """Print each failure on stderr: its traceback, or its sentence where that says all."""
    for error in failed.exceptions:
        if isinstance(error, GroupFailed):
            _print_failures(error)
        elif tells_all(error):
            _print(f"{in_words(error)}\n")
        else:
            _print(_traceback_of(error))  # with the note that names the actor


def _traceback_of(error: Exception) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as exc:  # it is somebody else's object
        return f"{one_line(error)}\n(its traceback can't be had: {one_line(exc)})\n"


def _print(text: str) -> None:
    """Print it on stderr, if there is one that takes it: its end is no failure of the program."""
    with contextlib.suppress(Exception):
        print(text, end="", file=sys.stderr, flush=True)  # noqa: T201


def _forget_unwritten() -> None:
    """Leave nothing for a stderr that does not take it, on a full disk, say.

    It is no failure of the program, and Python would end with code 120.
    """
    try:
        sys.stderr.flush()
    except Exception:
        with contextlib.suppress(Exception):  # there may be no stderr
            _flush_to_nowhere(sys.stderr)


def _flush_to_nowhere(stream: TextIO) -> None:
    descriptor = stream.fileno()
    own = os.dup(descriptor)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
        stream.flush()
    finally:
        os.dup2(own, descriptor)
        os.close(own)


def _freeze() -> None:
    with contextlib.suppress(AttributeError):  # PyPy's collector is another
        gc.freeze()


class _Handler(logging.StreamHandler[TextIO]):
    """As its base, and a stderr that can't be written to is no failure of the program."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Where nobody has set up logging, show our own lines on stderr: INFO, if no level is set."""
    if logger.hasHandlers():
        yield
        return
    handler = _Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
