"""Who may have input to read: on Linux one edge-triggered epoll for the connections of a listener,
elsewhere Trio's wait_readable.

A socket is registered once, and its reader parks until an event comes. So a wait costs no system
call, a stop asks for all connections at once, and that a client leaves is known though nobody
reads. What follows from edges:

1. An event comes once. It is kept: ``may_have_input`` is true until a read has shown that nothing
   is there. A read has shown that by EAGAIN, or by giving less than it was asked for.
2. A short read proves nothing once the end of the input has been announced (EPOLLRDHUP, EPOLLHUP,
   EPOLLERR): no further event comes, so one reads on to the end.
3. A short read of a Unix socket proves nothing: it stops where descriptors were sent. Nor does one
   after EPOLLPRI: it stops at urgent data.
4. An event may be false. A descriptor number may be used again while an event for its predecessor
   is on its way, or while a duplicate of that is open elsewhere. So an event is a reason to read,
   and no more than that: EAGAIN takes it back.
5. Events are taken by one task, and nothing else runs between two of them.
6. A socket that its handler has got hold of may be closed behind our back, and then no event
   comes. So from then on Trio waits for it, which is told of every close.

What is read, and what is done with it, is decided in _connection.
"""

from __future__ import annotations

import contextlib
import select
import socket as stdlib_socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator

_AT_ONCE = 1000  # events, then others get their turn
_FRESH = 0.001  # seconds in which a look at all events stays true enough


class _Woken(outcome.Outcome[None]):
    """What a task is woken with. A Value may be used once, and to make one for each wake takes
    longer than all else that is done for it here.
    """

    def unwrap(self) -> None:
        pass

    def send(self, gen: Generator[Any, None, Any]) -> Any:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[Any, None]) -> Any:
        return await agen.asend(None)


WOKEN = _Woken()


class Watch:
    """What is known of one socket's input, as Trio tells it. One task at a time may wait."""

    __slots__ = ("_socket", "has_ended", "may_have_input", "trusts_short_reads")

    def __init__(self, socket: stdlib_socket.socket) -> None:
        self._socket = socket
        self.may_have_input = True
        self.has_ended = False  # the client sends no more, as far as is known
        self.trusts_short_reads = False

    def wait(self) -> Awaitable[None]:
        """Wait until there may be input, or its end, or until wake(). To be awaited at once."""
        return self._wait()

    async def _wait(self) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self._socket)
        self.may_have_input = True

    def wake(self) -> None:
        """Let the waiting task go on. Who waits to send wakes too, and has to look again."""
        trio.lowlevel.notify_closing(self._socket)

    def has_read(self, size: int, asked: int) -> None:
        """A read gave ``size`` of ``asked`` bytes; none at all at the end of the input."""
        if size == 0:
            self.has_ended = True
        elif size < asked and self.trusts_short_reads and not self.has_ended:
            self.may_have_input = False

    def found_nothing(self) -> None:
        """A read would have blocked."""
        self.may_have_input = self.has_ended = False

    def call(self, function: Callable[[], object] | None) -> bool:
        """Call this when input comes that no task waits for. False: it can't be noticed."""
        return function is None

    def is_surely_empty(self) -> bool:
        """Is there nothing to read, as far as can be known without a look at this socket?"""
        return False

    def forget(self) -> None:
        """The socket is to be closed, or is not ours alone any more."""


class _EpollWatch(Watch):
    """The same, told by epoll."""

    __slots__ = ("_call", "_epoll", "_task")

    def __init__(self, socket: stdlib_socket.socket, epoll: Readiness) -> None:
        super().__init__(socket)
        self.trusts_short_reads = socket.family != stdlib_socket.AF_UNIX
        self._epoll = epoll
        self._task: trio.lowlevel.Task | None = None
        self._call: Callable[[], object] | None = None

    def wait(self) -> Awaitable[None]:
        # A frame of our own, or a bound method, would be memory of each connection at rest.
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self)  # noqa: ASYNC105 - our caller does

    def __call__(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The waiting task is cancelled."""
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, WOKEN)

    def notice(self, flags: int) -> None:
        """An event has come."""
        self.may_have_input = True
        if flags != _INPUT:
            self.has_ended = self.has_ended or flags & _ENDS != 0
            self.trusts_short_reads = self.trusts_short_reads and not flags & select.EPOLLPRI
        if self._task is not None:
            self.wake()
        elif self._call is not None:
            self._call()

    def call(self, function: Callable[[], object] | None) -> bool:
        self._call = function
        return True

    def is_surely_empty(self) -> bool:
        self._epoll.look_again()
        return not self.may_have_input

    def forget(self) -> None:
        self._epoll.forget(self._socket)


class Readiness:
    """The watches of one listener, and the task that takes their events."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watches: list[_EpollWatch | None] = []  # by descriptor: smaller than a dict
        self._looked = 0.0

    def watch(self, socket: stdlib_socket.socket) -> Watch:
        """Watch this socket, which does not block, until it is forgotten."""
        if self._epoll is not None:
            number = socket.fileno()
            with contextlib.suppress(OSError):  # the kernel has a limit for them
                self._epoll.register(number, _EVENTS)
                self._watches.extend(None for _ in range(number + 1 - len(self._watches)))
                watch = self._watches[number] = _EpollWatch(socket, self)
                return watch
        return Watch(socket)

    def forget(self, socket: stdlib_socket.socket) -> None:
        # A close takes it out of the epoll. A duplicate may keep it there: rule 4.
        number = socket.fileno()
        if number >= 0:  # else it was closed behind our back
            self._watches[number] = None

    def look_again(self) -> None:
        """Take the events that there are, unless that was done just now."""
        if time.perf_counter() - self._looked > _FRESH:
            while self._take():
                pass

    def _take(self) -> bool:
        """Returns whether there may be more."""
        assert self._epoll is not None
        events = self._epoll.poll(0, _AT_ONCE)
        watches = self._watches
        for number, flags in events:
            if (watch := watches[number]) is not None:
                watch.notice(flags)
        self._looked = time.perf_counter()
        return len(events) == _AT_ONCE

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In this block events are taken, whoever is cancelled in it."""
        try:
            self._epoll = select.epoll()
        except (AttributeError, OSError):  # not Linux; or it is short of descriptors
            yield
            return
        # In a nursery of our own what the block raises would come out as a group.
        ended = trio.Event()
        taking = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._take_events, taking, ended, name=Readiness)
        try:
            yield
        finally:
            taking.cancel("the listener is over")
            with trio.CancelScope(shield=True):
                await ended.wait()
            self._epoll.close()

    async def _take_events(self, taking: trio.CancelScope, ended: trio.Event) -> None:
        assert self._epoll is not None
        with taking:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._take()
        ended.set()


_ENDS = _EVENTS = _INPUT = 0
if hasattr(select, "epoll"):  # pragma: no branch - tested on Linux
    _INPUT = select.EPOLLIN
    _ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _EVENTS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
