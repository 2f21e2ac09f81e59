"""A client's stream that can be made to drain: what its handler reads, sends and closes.

This file decides what a handler sees of a connection that drains. When it drains is decided in
_stream, how a close loses nothing in _linger.

The input of a connection is not ended by shutting its socket down for reading. The kernel would
reset the connection as soon as more input arrives after our end of stream has been sent, and a
client that sends without a pause would go on being served. Instead the bytes that have arrived when
it drains are counted, and its handler may read that many. Then it reads end of file, and a reader
that waits is woken to that. What arrives later is never read: the close lingers and throws it away.

A client that has only just come is about to send its first request. It has half a second for that
since its handler began, before its connection drains or after.

A task inside busy() may read what it needs to finish. Where busy blocks overlap, one in each of
several tasks, a task that is in none reads end of file at once, and the connection has ended when
the last block has.
"""

from __future__ import annotations

import math
import socket as stdlib_socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from ._bind import format_address
from ._linger import linger, reset_at_close, unread, unsent, wait_acknowledged
from ._readiness import Watch
from ._sending import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .._inside import Inside

FIRST_REQUEST = 0.5  # seconds for a client that has only just come, before it is made to leave

_RECEIVE_SIZE = 65536  # bytes


class InputEnded(trio.BrokenResourceError):
    """A connection drains in the midst of TLS. Its handler reads end of file instead."""


class Credentials(NamedTuple):
    """Whose process it is at the other end of a Unix socket."""

    pid: int
    uid: int
    gid: int


class Connection(Sender, trio.abc.HalfCloseableStream):
    """One client's stream: used like a :class:`trio.SocketStream`, and its listener can drain it.

    ``peer`` is the client's address, or on a Unix socket its :class:`Credentials`. ``socket`` is
    its Trio socket, for options and addresses. Do not read from that: such a read does not end when
    the connection drains.
    """

    __slots__ = (
        "_at_input",
        "_has_asked",
        "_input_is_over",
        "_left",
        "_left_is_final",
        "_lingering",
        "_patience",
        "_reading",
        "_trio_socket",
        "_watch",
        "at_drain",
        "at_end",
        "draining",
        "first_request_by",
        "is_old",
        "more_to_come",
        "peer",
        "scope",
        "shaking_hands",
        "since_when_idle",
        "stays_until",
        "task",
        "told_address",
    )

    def __init__(
        self,
        socket: stdlib_socket.socket,
        peer: object,
        inside: Inside,
        *,
        shielded: bool = False,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(socket, inside, shielded=shielded)
        self._watch = watch or Watch(socket)
        self._trio_socket: trio.socket.SocketType | None = None
        self.peer = peer if isinstance(peer, tuple) else _credentials(socket) or peer
        self.told_address: object = None  # where a proxy has accepted it
        # How it drains, where not by end of file. By a cancel of this scope; at once, and when it
        # drains and is not busy.
        self.scope: trio.CancelScope | None = None
        self.task: trio.lowlevel.Task | None = None  # that decides what becomes of it
        self.at_drain: Callable[[], object] | None = None
        self.at_end: Callable[[], object] | None = None
        self.shaking_hands = False
        self.more_to_come = False  # it is still sending what nobody will read: linger for that
        self.draining = False
        self.is_old = False  # its next response is to say that it is the last
        self.stays_until = math.inf  # then it is past its age
        # Where it is to be idle before it drains for its age; math.inf while it is not.
        self.since_when_idle: Callable[[], float] | None = None
        self.first_request_by = math.inf  # known when its handler begins
        self._has_asked = False  # has anything of a request come?
        self._left: int | None = None  # how many bytes may still be read, once it drains
        self._left_is_final = False
        self._input_is_over = False  # nothing is read any more, busy or not
        self._patience = math.inf  # seconds in which the rest of a handshake has to come
        self._at_input: Callable[[], object] | None = None
        self._reading = False
        self._lingering = False

    def __repr__(self) -> str:
        return f"<Connection from {self.who}>"

    @property
    def socket(self) -> trio.socket.SocketType:
        if self._trio_socket is None:
            self._trio_socket = trio.socket.from_stdlib_socket(self._socket)
            # It may be closed behind our back: from now on Trio waits for it.
            self._watch.forget()
            watched, self._watch = self._watch, Watch(self._socket)
            if self._reading:
                watched.wake()
        return self._trio_socket

    @property
    def credentials(self) -> Credentials | None:
        """Whose process the client is, on a Unix socket. None elsewhere, or if nobody knows."""
        return self.peer if isinstance(self.peer, Credentials) else None

    @property
    def who(self) -> str:
        """The client, for a log line."""
        if isinstance(self.peer, Credentials):
            return f"process {self.peer.pid} of user {self.peer.uid}"
        who = format_address(self.peer)
        return who if who.isprintable() else ascii(who)  # one behind a proxy may name itself

    @property
    def local_address(self) -> object:
        """Where it was accepted, by the proxy in front of us if that has said so."""
        return self.told_address or self._socket.getsockname()

    @property
    def is_unix(self) -> bool:
        return self._socket.family == getattr(stdlib_socket, "AF_UNIX", None)

    @property
    def hung_up(self) -> bool:
        """Has the client ended its side, and has all that it sent been read? Does not wait."""
        if not self._watch.may_have_input:
            return False
        try:
            return not self._socket.recv(1, stdlib_socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def input_has_ended(self) -> bool:
        """Is it known, without having read all, that the client sends no more?"""
        return self._watch.has_ended

    @property
    def may_have_input(self) -> bool:
        """Is it not known that there is nothing to read?"""
        return self._watch.may_have_input

    def has_input(self) -> bool:
        """Is there something to read, or the end? Does not wait."""
        if self._watch.may_have_input:
            try:
                self._socket.recv(1, stdlib_socket.MSG_PEEK)
            except BlockingIOError:
                self._watch.found_nothing()
            except OSError:
                return True
        return self._watch.may_have_input

    def call_at_input(self, function: Callable[[], object] | None) -> bool:
        """Call this when something has come that no task waits for, and when it drains.

        Returns False where it can't be noticed that something has come.
        """
        self._at_input = function
        return self._watch.call(function)

    def begin(self) -> None:
        """Its handler begins."""
        self._left = None  # what had arrived by then may have been a handshake
        self.first_request_by = trio.current_time() + FIRST_REQUEST
        self.release()

    # What busy() does in its handler.

    @property
    def busy(self) -> bool:
        return self._busy > 0 and not self.shaking_hands

    def _became_less_busy(self) -> None:
        if self.draining:
            self._end_if_idle()

    # Draining.

    def drain(self) -> None:
        """End it: at once for a task that is not busy, for the others when their blocks end."""
        self.draining = True
        if self.at_drain is not None:
            self.at_drain()
        # In an actor that stops, what is busy is shielded from a cancel. Else that has to wait.
        is_shielded = self.inside.is_stopping or not self._busy
        if self.scope is not None and is_shielded and not self._has_only_just_come():
            self.scope.cancel("the listener drains")
        if self._busy and self.at_end is None and not self._is_owed_a_request():
            self._left = self._unread()
        self._end_if_idle()

    def _has_only_just_come(self) -> bool:
        return not self._has_asked and trio.current_time() < self.first_request_by

    def _is_owed_a_request(self) -> bool:
        """Has its client only just come, and sent nothing yet?"""
        # What has arrived of TLS may be no more than half of a record.
        return self._has_only_just_come() and (self._carries_tls or not self._unread())

    def _unread(self) -> int:
        return 0 if self._watch.is_surely_empty() else unread(self._socket)

    def has_asked(self) -> None:
        """Something of a request has come. If it drains already, this request is the last."""
        if not self._has_asked:
            self._has_asked = True
            self.first_request_by = -math.inf
            if self.draining and self.at_end is None and self._left is None:
                self._left = self._unread()
                self._left_is_final = True

    def _end_if_idle(self) -> None:
        if self._busy or (self.at_end is None and self._is_owed_a_request()):
            self._wake_reader()  # for it to see what has become of it
        elif self.scope is not None and not self._has_only_just_come():
            self.scope.cancel("the listener drains")
        elif self.at_end is not None:
            self._left = None
            self.at_end()
        else:
            if not self._left_is_final:
                self._left = self._unread()
                self._left_is_final = True
            self._wake_reader()

    def end_input(self) -> None:
        """Nothing that arrives is read any more, busy or not."""
        self._input_is_over = True
        self._wake_reader()

    def hurry(self) -> None:
        """From now on do not wait long for the rest of its handshake."""
        self._patience = min(self._patience, FIRST_REQUEST)
        if self.shaking_hands:
            self._wake_reader()

    def carry_tls(self) -> None:
        """An end by draining is an InputEnded from now on: TLS makes the end of file of it."""
        self._carries_tls = True

    # Receiving.

    def receive_some(self, max_bytes: int | None = None) -> Coroutine[Any, Any, bytes]:
        return self._receive(max_bytes)

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return self._receive(None, stop_at_end=True)

    async def _receive(self, max_bytes: int | None, *, stop_at_end: bool = False) -> bytes:
        if max_bytes is None:
            max_bytes = _RECEIVE_SIZE
        elif max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._reading:
            raise trio.BusyResourceError("another task is receiving from this connection")
        # A wait looks for a cancel itself.
        if self._watch.may_have_input or self.draining or self._input_is_over:
            await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        self._reading = True
        try:
            # Who has waited looks again: there is input, or it was closed, drains or is in a hurry.
            while (data := self.receive_now(max_bytes)) is None:
                if self.shaking_hands and self._patience < math.inf:
                    await self._wait_patiently()
                elif self.draining and self._is_owed_a_request():
                    with trio.move_on_at(self.first_request_by):
                        await self._watch.wait()
                else:
                    await self._watch.wait()
                waited = True
        finally:
            self._reading = False
        if waited:
            self._waited = True
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        if stop_at_end and not data:
            raise StopAsyncIteration
        return data

    def receive_now(self, max_bytes: int = _RECEIVE_SIZE) -> bytes | None:
        """What can be read without waiting; None if there is nothing yet.

        Whoever calls this at each input is the only one who reads.
        """
        if self._closed:
            self._check_open()
        if self.draining or self._input_is_over:
            max_bytes = self._readable(max_bytes)
            if max_bytes == 0:
                if self._carries_tls:
                    raise InputEnded("the listener is draining")
                return b""
        watch = self._watch
        if not watch.may_have_input:
            return None
        try:
            data = self._socket.recv(max_bytes)
        except BlockingIOError:
            watch.found_nothing()
            return None
        except OSError as exc:
            self._broken = True
            raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
        watch.has_read(len(data), max_bytes)
        if self._left is not None:
            self._left = max(0, self._left - len(data)) if data else 0
        # With TLS it begins with a handshake, and behind a proxy with a header.
        if not self._has_asked and not (self._carries_tls or self.shaking_hands):
            self.has_asked()
        return data

    def _readable(self, max_bytes: int) -> int:
        """How many bytes this task may read, of a connection whose input has an end."""
        if self._input_is_over:
            return 0
        if self.is_busy_here():
            return max_bytes
        if self._left is None:
            if self._has_asked or self._is_owed_a_request():
                return max_bytes
            self._left = self._unread()
        self._left_is_final = True  # a task has heard of the end
        return min(max_bytes, self._left)

    async def _wait_patiently(self) -> None:
        """Wait for input as long as its patience lasts: only the time that it waits is counted.

        The time in which we are busy with other connections is not this client's.
        """
        began = trio.current_time()
        with trio.move_on_after(self._patience) as waiting:
            await self._watch.wait()
        self._patience = max(0.0, self._patience - (trio.current_time() - began))
        if waiting.cancelled_caught and not unread(self._socket):
            raise trio.BrokenResourceError("it took too long")

    def _wake_reader(self) -> None:
        if self._reading and not self._closed:
            self._watch.wake()
        elif self._at_input is not None:
            self._at_input()

    # Options.

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """As :meth:`trio.SocketStream.setsockopt`."""
        self._socket.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """As :meth:`trio.SocketStream.getsockopt`."""
        return self._socket.getsockopt(level, option, *([buffersize] if buffersize else []))

    # Closing.

    @property
    def closed(self) -> bool:
        return self._closed

    async def aclose(self) -> None:
        """Close it. Lingers where a plain close would reset the connection and eat a reply."""
        try:
            await self.finish()
        finally:
            self.close()
        await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """Make it safe to close: linger, if anything is still on its way.

        One that is to end in a reset waits until its client has what was sent before.
        """
        if self._closed or self._lingering:
            return
        if self.is_torn:
            await wait_acknowledged(self._socket, self._sent - self._sent_whole)
            return
        if self._sending:  # what is being sent is lost anyway
            return
        if not (self.more_to_come or self._is_anything_on_its_way()):
            return
        self._lingering = True
        try:
            await linger(self._socket, more_to_come=self.more_to_come)
        except (OSError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # it can't be waited for: see linger()
        finally:
            self._lingering = False

    def _is_anything_on_its_way(self) -> bool:
        """Is there input that nobody has read, or output that the client does not have yet?"""
        may_have_sent = self._sent or self._trio_socket is not None
        return bool(unread(self._socket) or (may_have_sent and unsent(self._socket)))

    async def reset(self, sent_before: int) -> None:
        """Close it so that the client sees that a reply is not whole.

        What was sent before that reply, so many bytes of all, is waited for. Nothing of the reply
        itself is: a send that was cut knows no more than its own part of it.
        """
        self._torn, self._sent_whole = True, sent_before
        await self.aclose()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._torn or self._has_sent_half:
                reset_at_close(self._socket)
            self._watch.forget()
            if self._reading:
                self._watch.wake()
            if self._sending or self._lingering:
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _credentials(socket: stdlib_socket.socket) -> Credentials | None:
    if not hasattr(stdlib_socket, "SO_PEERCRED"):
        return None
    layout = struct.Struct("iII")
    packed = socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_PEERCRED, layout.size)
    return Credentials(*layout.unpack(packed))
