"""A parent of processes that serve: the sockets that it binds for them, or that were handed to it,
the signals that it takes, the status page, and with what exit code it ends.

It holds the sockets from before the first worker until after the last. So no client is refused or
reset while workers are replaced. How workers are started, replaced and ended is decided in
_workers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from ._arguments import REFUSED, Refused
from ._errors import CannotStart, ProcessFailed, cannot_start
from ._group import Group
from ._listeners._bind import INTERNET, Endpoint, format_address
from ._listeners._tcp import TCPEndpoint
from ._listeners._unix import UnixEndpoint
from ._run import run
from ._signals import SignalReceiver
from ._status._listener import StatusPage
from ._terminal import ParentsSignals
from ._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ._actor import Cause
    from ._journal import Event

    Handlers = Mapping[str, Callable[[], object]]

logger = logging.getLogger("trio_run")

# Seconds past the workers' grace. One that hangs is ended by itself in the first five, and has
# written its stacks then.
_SLACK = 6.0
_AHEAD = 0.02  # seconds: newcomers are turned away so long before the workers' lame duck is over


class Doors:
    """An actor that holds sockets for others, and turns newcomers away at a stop.

    That is done before the workers accept what is left in the queue: who comes after that would be
    reset. With a lame duck they go on accepting, and it is done at the end of it.
    """

    name = "doors"

    def __init__(self, endpoints: Mapping[str, Sequence[Endpoint]], lame_duck: float) -> None:
        self._endpoints = endpoints
        self.lame_duck = lame_duck
        self._cause: Cause | None = None
        self._interrupted = trio.Event()
        self.hangup_was_ignored = False  # as nohup has it

    @property
    def sockets(self) -> dict[str, list[socket.socket]]:
        """By name, once it is open."""
        return {
            name: [each for endpoint in endpoints for each in endpoint.sockets]
            for name, endpoints in self._endpoints.items()
        }

    @property
    def addresses(self) -> list[Any]:
        return [each for endpoint in self._all() for each in endpoint.addresses]

    @contextmanager
    def opened(self, backlog: int | None) -> Iterator[None]:
        """Have the sockets listen while a block runs, in which Trio does not run yet.

        In it no signal for the workers ends or suspends this process before its handler is there,
        or after that. And children have exit codes, though whoever started this process may have
        ignored SIGCHLD.

        Raises:
          CannotStart: if they can't.
        """
        ignored = dict.fromkeys(("SIGHUP", "SIGTTIN", "SIGTTOU"), signal.SIG_IGN)
        wanted = {**ignored, "SIGCHLD": signal.SIG_DFL}
        here = [(getattr(signal, each, None), to) for each, to in wanted.items()]
        before = [(each, signal.signal(each, to)) for each, to in here if each is not None]
        self.hangup_was_ignored = (getattr(signal, "SIGHUP", None), signal.SIG_IGN) in before
        try:
            trio.run(self._open, 0xFFFF if backlog is None else backlog)
            yield
        finally:
            for endpoint in self._all():
                endpoint.disappear()
                endpoint.close()
            for each, to in before:
                signal.signal(each, to)

    async def _open(self, backlog: int) -> None:
        for endpoint in self._all():
            await endpoint.open(backlog)
            for listening in endpoint.sockets:
                if not endpoint.are_given:  # else another may have it, whose accept() would hang
                    listening.setblocking(True)  # as a program expects that is handed one

    def interrupt(self, cause: Cause) -> None:
        self._cause = cause
        self._interrupted.set()

    async def execute(self) -> None:
        """Hold them until interrupted."""
        await self._interrupted.wait()
        if self._cause is not None and self._cause.error is None:
            await trio.sleep(max(0.0, self.lame_duck - _AHEAD))
        for endpoint in self._all():
            endpoint.disappear()  # where it has a path, nobody finds it any more
            for listening in endpoint.sockets:
                if listening.family in INTERNET:  # workers would take it for a failure of others
                    endpoint.turn_newcomers_away(listening)

    def _all(self) -> list[Endpoint]:
        return [endpoint for endpoints in self._endpoints.values() for endpoint in endpoints]


class HandedOver(Endpoint):
    """A socket that is handed on, of whatever kind it is."""

    async def open(self, backlog: int) -> None:
        """It listens already, if it is to: whoever hands it over has seen to that."""

    def _turn_newcomers_away(self, listening: socket.socket) -> None:
        """Never called: it was given."""


def endpoint_of(given: socket.socket) -> Endpoint:
    """One that was handed over, for doors."""
    if given.family == socket.AF_UNIX:
        return UnixEndpoint("a parent", None, [given], mode=0o600)
    return TCPEndpoint("a parent", None, None, [given], reuse_port=False)


class _Workers(Workers):
    """Workers, of which the first one is taken at its word when it says that it can't begin."""

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await super().execute(task_status=task_status)
        except ProcessFailed as exc:
            if exc.exit_code == REFUSED and not self.was_ever_ready:
                raise CannotStart("no worker can begin: see above") from None
            raise


class Listening(Protocol):
    @property
    def addresses(self) -> Sequence[Any]: ...


def say_where(group: Group, listening: Listening, scheme: str) -> None:
    """Log where it listens, if anywhere, when the group is ready for the first time."""
    prefix = f"{scheme}://" if scheme else ""
    is_said = False

    def heard(event: Event) -> None:
        nonlocal is_said
        if event.kind == "ready" and event.actor is None and not is_said:
            is_said = True
            where = ", ".join(prefix + format_address(each) for each in listening.addresses)
            if where:
                logger.info("%s: serving at %s", group.name, where)

    group.on_event(heard)


def run_workers(
    name: str,
    doors: Doors,
    command: Sequence[str],
    workers: int | None,
    *,
    backlog: int | None = None,
    grace: float,
    ready_within: float,
    stuck_after: float | None,
    notify: bool = True,
    status_port: int | None,
    scheme: str = "",
) -> int:
    """Run workers of a command on the sockets of these doors until stopped.

    Returns the exit code.

    Raises:
      Refused, CannotStart: if something is not as it must be.
    """
    with doors.opened(backlog):
        children = _Workers(
            command,
            workers,
            cwd=_directory(),
            sockets=doors.sockets,
            notify=notify,
            ready_within=ready_within,
            stuck_after=stuck_after,
        )
        children.owns_sockets = False  # the doors do
        handlers = {
            "SIGHUP": children.replace,
            "SIGTTIN": children.more,
            "SIGTTOU": children.fewer,
        }
        return run_parent(
            name,
            doors,
            children,
            handlers,
            grace=grace,
            status_port=status_port,
            scheme=scheme,
        )


def _directory() -> str | None:
    """The working directory by the name that whoever started this process has for it.

    A link in it is followed anew by each worker: to the new release, once it has been moved. The
    kernel knows the old directory alone. None where nobody has said a name.
    """
    named = os.environ.get("PWD")
    try:
        return named if named and Path(named).samefile(os.curdir) else None
    except OSError:
        return None


def run_parent(
    name: str,
    doors: Doors,
    children: object,
    handlers: Handlers,
    *,
    grace: float,
    status_port: int | None,
    scheme: str = "",
) -> int:
    """Run children on the sockets of open doors until stopped. Returns the exit code.

    ``handlers`` are functions for signals, by the names of these. Where the children end because
    one has said by its exit code that it can't begin, the code is that, too.

    Raises:
      Refused: if something is not as it must be.
    """
    group = Group(name=name, grace=grace + _SLACK)
    if status_port is not None:
        try:
            group.add(StatusPage(status_port))
        except ImportError as exc:
            raise Refused(str(exc)) from None
    known = {signal.Signals[each]: function for each, function in handlers.items()}
    outlives_terminal = doors.hangup_was_ignored
    group.add(SignalReceiver(handlers=known) if outlives_terminal else ParentsSignals(known))
    member = group.add(children)
    # With a lame duck the workers go on accepting, and have to know of the stop at once.
    group.add(doors, needs=() if doors.lame_duck else (member,))
    say_where(group, doors, scheme)
    code = run(group, signals=())
    return REFUSED if code == 1 and cannot_start(group.report.cause.error) else code
