"""Notification: what a service manager hears of a group, and when, as systemd's services say it.

It listens to the group's events, and looks at the group now and then. What it says decides nothing
in the program, and what fails here harms nothing: a datagram that can't be sent waits for the next.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Self

import trio

from ._actor import State
from ._group import current_group
from ._journal import names_of
from ._signals import SignalReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._group import Group
    from ._journal import Event

logger = logging.getLogger("trio_run")

_BEAT = 5.0  # seconds between two looks
_FOR_NOW = 3 * _BEAT  # what has no bound is extended by so much, again and again
_SLACK = 5.0  # seconds past abort_after: who is ended then has his stacks written first
_LEAST_PING = 0.01  # seconds, whatever the environment says
_LONGEST = 1000  # characters of a status
_UNSENT = 16  # datagrams
_RELOAD = getattr(signal, "SIGHUP", None)


class Notifier:
    """Says how a group is, to whoever listens at an address.

    Args:
      address: that of a datagram socket; a leading @ is an abstract one.
      watchdog: how many seconds may pass between two pings of the event loop; None for any number.
      abort_after: how many seconds past its grace the process may take.
    """

    def __init__(self, address: str, watchdog: float | None, abort_after: float) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._ping_every = math.inf if watchdog is None else max(_LEAST_PING, watchdog / 2)
        self._abort_after = abort_after
        self._unsent: deque[bytes] = deque(maxlen=_UNSENT)
        self._group: Group | None = None
        self._start_ends = math.inf  # on Trio's clock, as the next
        self._stop_ends = math.inf
        self._reason = ""  # of the stop
        self._has_said_ready = self._has_said_stopping = False
        self._is_reloading = self._owes_ready = False
        self._status = ""

    @classmethod
    def from_environment(cls, abort_after: float) -> Self | None:
        """For whom the environment names, or None. Takes the variables out of it."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        if not address:
            return None
        seconds: float | None = None
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        if pid == str(os.getpid()) and re.fullmatch("[0-9]{1,18}", microseconds):
            seconds = int(microseconds) / 1e6 or None
        return cls(address, seconds, abort_after)

    def attach(self, group: Group) -> None:
        """Say how this group is, from now on."""
        self._group = group
        self._socket = _open(self._address)
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._start_ends = trio.current_time() + group.start_within
        group.on_event(self._heard)
        for member in group.members:
            if isinstance(member.actor, SignalReceiver):
                member.actor.around_handler = self._around_handler
        self._look()
        self._extend()

    async def live(self) -> None:
        """Look at the group now and then, and ping. Raises nothing; ends when it is cancelled."""
        next_look, next_ping = trio.current_time() + _BEAT, -math.inf
        if self._ping_every == math.inf:
            next_ping = math.inf
        try:
            while True:
                now = trio.current_time()
                if now >= next_ping:
                    self._repeat(WATCHDOG="1")
                    next_ping = now + self._ping_every
                if now >= next_look:
                    self._look()
                    self._extend()
                    next_look = now + _BEAT
                await trio.sleep_until(min(next_look, next_ping))
        finally:
            self._look()
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    # What happens in the program.

    def _heard(self, event: Event) -> None:
        if event.kind == "stop began":
            self._reason = str(event.fields["reason"])
        if event.actor is None:  # of very many actors each has its own, too
            self._look()
        if event.kind == "stop began":
            self._extend()

    def _around_handler(self, signum: signal.Signals) -> contextlib.AbstractContextManager[None]:
        return self._reloading() if signum == _RELOAD else contextlib.nullcontext()

    @contextlib.contextmanager
    def _reloading(self) -> Iterator[None]:
        if not self._has_said_ready or self._has_said_stopping:
            yield  # the manager's word for it is another: it is starting, or stopping
            return
        self._is_reloading = True
        self._say(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        self._extend()
        try:
            yield
        finally:
            self._is_reloading, self._owes_ready = False, True
            self._look()

    # What is said of it.

    def _look(self) -> None:
        """Say what has changed."""
        group = self._group
        assert group is not None
        status = _in_words(group, self._reason)
        changed = {"STATUS": status} if status != self._status else {}
        self._status = status
        is_stopping = group.state in (State.LAME_DUCK, State.STOPPING, State.STOPPED)
        if is_stopping and not self._has_said_stopping:
            self._has_said_stopping = True
            self._stop_ends = trio.current_time() + group.grace + self._abort_after + _SLACK
            self._say(STOPPING="1", **changed)
        elif group.ready and (self._owes_ready or not self._has_said_ready):
            self._has_said_ready, self._owes_ready = True, False
            self._say(READY="1", **changed)
        elif changed:
            self._say(**changed)
        self._send()

    def _extend(self) -> None:
        """Ask for the time that is left to what goes on, if anything does."""
        if self._has_said_stopping:
            ends = self._stop_ends
        elif not self._has_said_ready:
            ends = self._start_ends + _SLACK
        elif self._is_reloading or self._owes_ready:
            ends = math.inf
        else:
            return
        left = ends - trio.current_time()
        if left == math.inf:
            left = _FOR_NOW + self._abort_after
        if left > 0:
            self._repeat(EXTEND_TIMEOUT_USEC=str(int(left * 1e6)))

    def _repeat(self, **variables: str) -> None:
        """Say what is said again and again, unless something else still waits to be sent."""
        if not self._unsent:
            self._say(**variables)

    def _say(self, **variables: str) -> None:
        lines = [f"{name}={value}" for name, value in variables.items()]
        self._unsent.append("\n".join(lines).encode(errors="backslashreplace"))
        self._send()

    def _send(self) -> None:
        """Send what there is, as far as there is room for it."""
        while self._unsent and self._socket is not None:
            try:
                self._socket.sendto(self._unsent[0], self._address)
            except OSError:  # it may be full, or gone
                return
            self._unsent.popleft()


class SystemdNotifier:
    """A daemon that says how its group is, as a service of ``Type=notify`` is to say it.

    :func:`run` does that by itself. This is for who runs a group of their own. It says READY=1 when
    the group is first ready, STATUS= in words, STOPPING=1 when a stop begins, EXTEND_TIMEOUT_USEC=
    while a start, a reload or a stop goes on, RELOADING=1 while the handler of SIGHUP of a
    :class:`SignalReceiver` of the group runs, and WATCHDOG=1 from the event loop.

    Where NOTIFY_SOCKET is not set, it does nothing. Where it is, it and WATCHDOG_USEC and
    WATCHDOG_PID are taken out of the environment, so that no child has them. Whatever fails in it
    harms nothing.

    Raises:
      RuntimeError: from :meth:`execute`, outside a group.
    """

    name = "systemd"
    daemon = True

    def __init__(self) -> None:
        self._notifier = Notifier.from_environment(0.0)

    async def execute(self) -> None:
        """Say how the group is, until the end."""
        group = current_group()
        if group is None:
            raise RuntimeError("SystemdNotifier says how its group is: add() it to one")
        if self._notifier is None:
            await trio.sleep_forever()
        else:
            self._notifier.attach(group)
            await self._notifier.live()


def _open(address: str) -> socket.socket | None:
    family = getattr(socket, "AF_UNIX", None)
    try:
        if family is None or address[0] not in "/@":
            raise OSError("it is neither a path nor an abstract address")
        sending = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as exc:
        with contextlib.suppress(Exception):  # somebody's log handler
            logger.warning("NOTIFY_SOCKET=%r can't be used: %s", address, exc)
        return None
    sending.setblocking(False)
    return sending


def _in_words(group: Group, reason: str) -> str:
    """How a group is: one line for a person."""
    state = group.state
    try:
        if state in (State.NEW, State.STARTING):
            late = [one for one in group.members if one.state is State.STARTING]
            text = f"starting, waiting for {names_of(late)}" if late else "starting"
        elif state is State.RUNNING:
            unfit = [one for one in group.members if not getattr(one.actor, "ready", True)]
            text = f"not ready: {names_of(unfit)}" if unfit else f"ready: {group.status}"
        elif state is State.STOPPING:
            late = [one for one in group.members if one.state is State.STOPPING]
            text = f"stopping: {reason}" + (f", waiting for {names_of(late)}" if late else "")
        else:
            text = f"{state.value}: {reason or group.status}"
        return " ".join(text.split())[:_LONGEST]
    except Exception:  # it asks objects that are not ours
        return state.value
