"""What every listener for streams does: accept, hand connections to a handler, drain, close.

Decides who is accepted when, what a connection sees when it is told to end, and how it is closed. Where the
listening sockets come from is each listener's own business.

A connection's input is not ended by shutting its socket down for reading: the kernel resets such a connection
as soon as more input arrives after our end has been sent, and a client that sends without pause would go on
being served. Instead the bytes that have arrived when it is told are counted, and its handler may read that
many; then it reads end of file, and a reader that waits is woken to that. What arrives later is never
read: the close lingers and throws it away.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import logging
import math
import socket as stdlib_socket
import ssl
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import trio

from .._errors import split_cancelled
from .._inside import Inside, place
from ._bind import check_given, format_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .._actor import Cause

logger = logging.getLogger("trio_run")

Drain = Literal["eof", "wait", "cancel"]

_RECEIVE_SIZE = 65536
_LINGER = 2.0  # seconds for a client to read our end of stream, and to close
_ACKNOWLEDGED = 0.02  # seconds, to look again whether it has all that was sent
_HANDSHAKE_TIMEOUT = 10.0
_FIRST_REQUEST = 0.5  # seconds for a client that is on its way in when the stop begins
_ACCEPT_AT_ONCE = 100  # then others get their turn
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_PAUSE = 0.1  # seconds without accepting when descriptors or memory have run out

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOT_LISTENING = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})


class _InputEnded(trio.BrokenResourceError):
    """Told to end in the midst of TLS. The handler never sees it: it reads end of file."""


class Credentials(NamedTuple):
    """Whose process it is at the other end of a Unix socket."""

    pid: int
    uid: int
    gid: int


class Connection(trio.abc.HalfCloseableStream):
    """One client's stream: used like a :class:`trio.SocketStream`, and it can be told to end.

    ``socket`` is its Trio socket, for options and addresses, not for reading: that would not be told; ``peer`` the client's address, or on a
    Unix socket its :class:`Credentials`.
    """

    __slots__ = (
        "_busy",
        "_closed",
        "_hurried",
        "_left",
        "_lingering",
        "_patience",
        "_raises_at_end",
        "_read_up",
        "_reading",
        "_sending",
        "_sent_eof",
        "_socket",
        "_trio_socket",
        "at_end",
        "inside",
        "more_to_come",
        "peer",
        "send_timeout",
        "shaking_hands",
        "shielded",
        "told",
    )

    def __init__(
        self, socket: stdlib_socket.socket, peer: object, inside: Inside, *, shielded: bool = False
    ) -> None:
        self._socket = socket
        self._trio_socket: trio.socket.SocketType | None = None
        self.peer = peer if isinstance(peer, tuple) else _credentials(socket) or peer
        self.inside = inside
        self.at_end: Callable[[], object] | None = None  # how it is told, where not by end of file
        self.shaking_hands = False
        self.send_timeout = math.inf  # seconds in which it takes nothing of what is sent
        self.more_to_come = False  # it is still sending what nobody will read: linger for that
        self._hurried = False
        self._patience = math.inf  # seconds
        self.shielded = shielded  # may its handler be cancelled softly?
        self._busy = 1  # until its handler begins
        self.told = False
        self._left: int | None = None  # told to end: this many bytes may still be read
        self._read_up = False  # nothing is read any more, busy or not
        self._raises_at_end = False
        self._reading = False
        self._sending = False
        self._lingering = False
        self._sent_eof = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Connection from {self.who}>"

    @property
    def socket(self) -> trio.socket.SocketType:
        if self._trio_socket is None:
            self._trio_socket = trio.socket.from_stdlib_socket(self._socket)
        return self._trio_socket

    @property
    def credentials(self) -> Credentials | None:
        """Whose process the client is, on a Unix socket; None elsewhere, or where the platform does not tell."""
        return self.peer if isinstance(self.peer, Credentials) else None

    @property
    def who(self) -> str:
        """The client, for a log line."""
        if isinstance(self.peer, Credentials):
            return f"process {self.peer.pid} of user {self.peer.uid}"
        return format_address(self.peer)

    @property
    def local_address(self) -> object:
        """Where it was accepted."""
        return self._socket.getsockname()

    @property
    def hung_up(self) -> bool:
        """Has the client ended its side, and has all that it sent been read? Known without waiting."""
        try:
            return not self._socket.recv(1, stdlib_socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # What busy() does in its handler.

    @property
    def busy(self) -> bool:
        return self._busy > 0 and not self.shaking_hands

    def occupy(self) -> None:
        """It is busy, in no task's block, until leave_busy(None)."""
        self._busy += 1

    def enter_busy(self) -> trio.CancelScope | None:
        self._busy += 1
        # A shield costs as much as a cancel scope: only where there is something to be shielded from.
        if self.shielded or self.inside.cancels_on_stop:
            return self.inside.enter_busy()
        return None

    def leave_busy(self, shield: trio.CancelScope | None) -> None:
        if shield is not None:
            self.inside.leave_busy(shield)
        self._busy -= 1
        if self.told and self._busy == 0:
            self._end()

    # Draining.

    def hurry(self) -> None:
        """From now on do not wait long for the rest of its handshake."""
        self._hurried = True
        self._patience = _FIRST_REQUEST
        if self.shaking_hands and self._reading:
            trio.lowlevel.notify_closing(self._socket)  # to wait anew

    def tell(self) -> None:
        """Tell it to end: at once, or when its busy block ends."""
        self.told = True
        if self._busy == 0:
            self._end()

    def _end(self) -> None:
        if self.at_end is not None:
            self.at_end()
        elif self._left is None and not self._closed:
            self._left = _unread(self._socket)
            if self._left == 0 and self._reading:
                trio.lowlevel.notify_closing(self._socket)  # a sender wakes too, and just goes on

    # The stream.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is None:
            max_bytes = _RECEIVE_SIZE
        elif max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._reading:
            raise trio.BusyResourceError("another task is receiving from this connection")
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        self._reading = True
        try:
            while (data := self._receive_now(max_bytes)) is None:
                try:
                    if self._hurried and self.shaking_hands:
                        await self._wait_hurried()
                    else:
                        await trio.lowlevel.wait_readable(self._socket)
                except trio.ClosedResourceError:
                    pass  # the connection is closed, told to end, or hurried: look again
                waited = True
        finally:
            self._reading = False
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def _wait_hurried(self) -> None:
        # Bounded is the client's time, not ours, who may be busy with many others.
        began = trio.current_time()
        with trio.move_on_after(self._patience) as waiting:
            await trio.lowlevel.wait_readable(self._socket)
        self._patience = max(0.0, self._patience - (trio.current_time() - began))
        if waiting.cancelled_caught:
            raise trio.BrokenResourceError("it took too long")

    def _receive_now(self, max_bytes: int) -> bytes | None:
        """What can be read without waiting; None if there is nothing yet."""
        self._check_open()
        # What is busy may read what it needs to finish.
        if self._left is not None and (self._busy == 0 or self._read_up):
            if self._left == 0:
                if self._raises_at_end:
                    raise _InputEnded("the listener is draining")
                return b""
            max_bytes = min(max_bytes, self._left)
        try:
            data = self._socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
        if self._left is not None:
            self._left = max(0, self._left - len(data)) if data else 0
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._claim_sending()
        if (
            not self._raises_at_end
        ):  # TLS has looked already, and what it gives us is lost if we don't send it
            await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        self._sending = True
        try:
            self._check_sendable()
            with memoryview(data).cast("B") as view:
                sent = 0
                while sent < len(view):
                    try:
                        sent += self._socket.send(view[sent:] if sent else view)
                    except BlockingIOError:
                        await self._wait_writable()
                        waited = True
                    except OSError as exc:
                        raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
        finally:
            self._sending = False
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        self._claim_sending()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            self._check_sendable()
            await self._wait_writable()
        finally:
            self._sending = False

    def _claim_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")

    async def _wait_writable(self) -> None:
        with trio.move_on_after(self.send_timeout):
            while True:
                try:
                    return await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    self._check_open()  # a reader was woken, and we with it
        raise trio.BrokenResourceError("the client takes nothing of what is sent")

    async def send_eof(self) -> None:
        self._claim_sending()
        await trio.lowlevel.checkpoint()
        self._check_open()
        if not self._sent_eof:
            try:
                self._socket.shutdown(stdlib_socket.SHUT_WR)
            except OSError as exc:
                raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
            self._sent_eof = True

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """As :meth:`trio.SocketStream.setsockopt`."""
        self._socket.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """As :meth:`trio.SocketStream.getsockopt`."""
        return self._socket.getsockopt(level, option, *([buffersize] if buffersize else []))

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this connection was already closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._sent_eof:
            raise trio.ClosedResourceError("can't send after sending EOF")

    # Closing.

    async def aclose(self) -> None:
        """Close it. Lingers where a plain close would reset the connection and eat a reply."""
        try:
            await self.finish()
        finally:
            self.close()
        await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """Make it safe to close: linger, if input is unread or output not yet with the client."""
        if self._closed or self._lingering or self._sending:  # what is being sent is lost anyway
            return
        if not (self.more_to_come or _unread(self._socket) or _unsent(self._socket)):
            return
        self._lingering = True
        try:
            with trio.move_on_after(_LINGER):
                await self._linger()
        # The client is gone; somebody else has closed the connection; or somebody else still reads from it.
        except (OSError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            self._lingering = False

    async def _linger(self) -> None:
        """End our side, and throw input away until the client ends its own.

        One that sends nothing may keep its side open for long: then until it has all that was sent.
        """
        sends = self.more_to_come or _unread(self._socket) > 0
        self._socket.shutdown(stdlib_socket.SHUT_WR)
        while True:
            try:
                if not self._socket.recv(_RECEIVE_SIZE):
                    return
                sends = True
                await trio.lowlevel.checkpoint()
            except BlockingIOError:
                if not sends and not _unsent(self._socket):
                    return
                with trio.move_on_after(math.inf if sends else _ACKNOWLEDGED):
                    await trio.lowlevel.wait_readable(self._socket)

    def reset(self) -> None:
        """Close it so that the client sees that something is missing."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _NO_LINGER)
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._reading or self._sending or self._lingering:
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TLSConnection(trio.abc.Stream):
    """A :class:`trio.SSLStream` that reads a plain end of file when its connection is told to end.

    All that it does not say itself it leaves to the SSLStream.
    """

    def __init__(self, connection: Connection, context: ssl.SSLContext) -> None:
        connection._raises_at_end = True
        self._connection = connection
        self._stream = trio.SSLStream(connection, context, server_side=True)
        self._ahead: bytes | bytearray = b""
        self._closing = trio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read_ahead(self) -> None:
        """Wait for input. It may have come with the end of the handshake, and so have left the socket."""
        self._ahead = await self.receive_some()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._ahead:
            await trio.lowlevel.checkpoint()
            data = self._ahead[:max_bytes]
            self._ahead = self._ahead[len(data) :]
            return data
        try:
            return await self._stream.receive_some(max_bytes)
        except _InputEnded:
            return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    @property
    def credentials(self) -> Credentials | None:
        """As :attr:`Connection.credentials`."""
        return self._connection.credentials

    async def aclose(self) -> None:
        """Close it, with a close_notify, and as :meth:`Connection.aclose`."""
        try:
            async with self._closing:  # two at once would lose the close_notify
                self._connection._left = 0
                self._connection._read_up = True
                # OpenSSL sends no close_notify while it holds input that nobody has read.
                with contextlib.suppress(
                    trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
                ):
                    while await self.receive_some():
                        pass
                if not self._connection._closed:
                    await self._stream.aclose()
        finally:
            self._connection.close()


class StreamListener(abc.ABC):
    """What the listeners for streams share. Each has its own way to :meth:`_open` its sockets."""

    def __init__(
        self,
        handler: Callable[[Any], Awaitable[object]],
        *,
        name: str,
        backlog: int | None,
        ssl_context: ssl.SSLContext | None,
        drain: Drain,
        max_connections: int | None,
        sockets: Sequence[stdlib_socket.socket] | None,
        grace: float | None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"the handler must be an async function of one stream, not {handler!r}")
        if drain not in ("eof", "wait", "cancel"):
            raise ValueError(f'drain must be "eof", "wait" or "cancel", not {drain!r}')
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
        if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "ssl_context is one for clients: make one for a server, with "
                "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            )
        check_given(sockets)
        for what, number in (("max_connections", max_connections), ("backlog", backlog)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{what} must be a positive whole number or None, not {number!r}")
        self.name = name
        self.grace = grace
        self.owner: object = self  # the actor whose interrupt is ours
        self.addresses: tuple[Any, ...] = ()
        self._handler = handler
        self._backlog = 0xFFFF if backlog is None else backlog  # the kernel has a limit of its own
        self._ssl_context = ssl_context
        self._drain = drain
        self._most = sys.maxsize if max_connections is None else max_connections
        self._sockets = list(sockets or ())
        self._accepting = trio.CancelScope()
        self._connections: set[Connection] = set()
        self._waiting: deque[Connection] = deque()  # accepted at the stop, above max_connections
        self._room = trio.Event()
        self._exhausted = False  # short of descriptors or memory, and has said so
        self._draining = False
        self._first_request_by = math.inf
        self._accepted = self._drained = self._cut = self._failed = 0

    @property
    def status(self) -> str:
        """How many connections, and how many of them are busy; in the end, how many were drained and cut."""
        if self._draining and not self._connections:
            told = f"{self._drained:,} drained, {self._cut:,} cut"
        else:
            busy = sum(connection.busy for connection in self._connections)
            told = f"{len(self._connections):,} connections, {busy:,} busy"
        return told + (f", {self._failed:,} failed" if self._failed else "")

    @abc.abstractmethod
    async def _open(self) -> None:
        """Have the sockets in _sockets listen. Whatever happens, they are closed in the end."""

    def _disappear(self) -> None:  # noqa: B027 - not every address is a thing that can be removed
        """No client is to come any more. Called while the sockets still listen, and in any case in the end."""

    def _address(self, listening: stdlib_socket.socket) -> object:
        return listening.getsockname()

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Begin to drain."""
        self._accepting.cancel("the listener was interrupted")

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen, and serve until interrupted and drained. Started with its addresses when it listens."""
        here = place.get()
        self._inside = Inside() if here is None else here.inside
        # Where we are the actor itself, nobody cancels a handler softly: we see to it that it is told.
        ours = getattr(self._inside, "actor", None) is self.owner
        self._shielded = not ours or self._drain == "cancel"
        try:
            await self._open()
            self.addresses = tuple(map(self._address, self._sockets))
            async with trio.open_nursery() as self._nursery:
                task_status.started(self.addresses)
                try:
                    with self._accepting:
                        async with trio.open_nursery() as acceptors:
                            for listening in self._sockets:
                                acceptors.start_soon(self._accept, listening)
                finally:
                    self._draining = True
                await self._start_draining()
            # The handlers have kept theirs to themselves.
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            self._disappear()
            for listening in self._sockets:
                listening.close()
            self._cut += len(self._connections)  # those that still waited for their turn
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    async def _start_draining(self) -> None:
        self._disappear()
        self._first_request_by = trio.current_time() + _FIRST_REQUEST
        for listening in self._sockets:
            # What the kernel has accepted is a client's connection: closing would reset it. Nobody is served
            # meanwhile, or clients that come back at once would never let the queue become empty.
            most = self._accepted + self._backlog
            while self._accepted <= most and await self._accept_some(listening):
                pass
            listening.close()
        for connection in self._connections:
            connection.hurry()
            self._tell(connection)

    def _tell(self, connection: Connection) -> None:
        if self._drain != "wait":
            connection.tell()

    # Accepting.

    async def _accept(self, listening: stdlib_socket.socket) -> None:
        while True:
            while len(self._connections) >= self._most:
                if self._room.is_set():
                    self._room = trio.Event()
                await self._room.wait()
            await trio.lowlevel.wait_readable(listening)
            await self._accept_some(listening)

    async def _accept_some(self, listening: stdlib_socket.socket) -> bool:
        """Accept what is there and there is room for. Returns False when the queue is empty."""
        for _ in range(_ACCEPT_AT_ONCE):
            if len(self._connections) >= self._most and not self._draining:
                break
            try:
                accepted, peer = listening.accept()
            except BlockingIOError:
                self._exhausted = False  # all are in
                return False
            except OSError as exc:
                if exc.errno in _NOT_LISTENING:
                    raise
                if exc.errno in _EXHAUSTED:
                    await self._pause(exc)
                    # When we drain, those who leave make room; where there is nobody, others may for a moment.
                    return bool(self._connections) or trio.current_time() < self._first_request_by
                continue  # that client is gone already
            self._accepted += 1
            accepted.setblocking(False)
            self._admit(Connection(accepted, peer, self._inside, shielded=self._shielded))
        return True

    async def _pause(self, exc: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            logger.error("%s: accepting is paused: %s (%s)", self.name, exc.strerror, self.status)
        if self._draining:
            for connection in self._connections:
                self._tell(connection)
        await trio.sleep(_PAUSE)

    def _admit(self, connection: Connection) -> None:
        serving = len(self._connections) - len(self._waiting)
        self._connections.add(connection)
        if serving < self._most:
            self._nursery.start_soon(self._serve, connection)
        else:
            self._waiting.append(connection)

    # Serving.

    async def _serve(self, connection: Connection) -> None:
        """The task of one connection."""
        place.set(connection)
        cut = False
        try:
            await self._converse(connection)
        except BaseException as exc:
            cut, error = split_cancelled(exc)
            if error is not None and not isinstance(error, Exception):
                raise
            if error is not None:
                self._tell_failure(connection, error)
        finally:
            connection.close()
            self._connections.discard(connection)
            self._room.set()
        self._cut += cut
        if self._draining and not cut:
            self._drained += 1
            if self._waiting:
                self._nursery.start_soon(self._serve, self._waiting.popleft())

    async def _converse(self, connection: Connection) -> None:
        stream: Connection | TLSConnection = connection
        if self._ssl_context is not None:
            stream = TLSConnection(connection, self._ssl_context)
            if not await self._handshake(stream, connection):
                return
        if self._draining:
            # It was still on its way in when the stop came: it is owed an answer to its first request.
            if isinstance(stream, TLSConnection):
                with (
                    trio.move_on_after(_FIRST_REQUEST),
                    contextlib.suppress(trio.BrokenResourceError),
                ):
                    await stream.read_ahead()
            else:
                with trio.move_on_at(self._first_request_by):
                    await trio.lowlevel.wait_readable(connection._socket)
            self._tell(connection)
        try:
            # One that was told before its handler began is owed its first request: it is told by end of file.
            if self._drain == "cancel" and not connection.told:
                with trio.CancelScope() as scope:
                    connection.at_end = scope.cancel
                    connection.leave_busy(None)
                    await self._handler(stream)
            else:
                connection.leave_busy(None)
                await self._handler(stream)
        except Exception as exc:
            self._tell_failure(connection, exc)
            await connection.finish()  # without a close_notify: what was sent may not be the whole
        else:
            if stream is connection:
                await connection.finish()
            else:
                with trio.move_on_after(_LINGER):
                    await stream.aclose()

    async def _handshake(self, stream: TLSConnection, connection: Connection) -> bool:
        reason = "it took too long"
        connection.shaking_hands = True
        with trio.move_on_after(_HANDSHAKE_TIMEOUT):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as exc:
                reason = str(exc.__cause__ or exc)
            else:
                connection.shaking_hands = False
                return True
        logger.info("%s: no TLS handshake with %s: %s", self.name, connection.who, reason)
        return False

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task that a stop waits for, as it does for handlers."""
        self._nursery.start_soon(function, *args)

    def count_failure(self) -> None:
        self._failed += 1

    def _tell_failure(self, connection: Connection, error: Exception) -> None:
        self.count_failure()
        if isinstance(error, trio.BrokenResourceError):  # the client's doing, no mistake of ours
            logger.info("%s: the connection from %s broke: %s", self.name, connection.who, error)
        else:
            logger.error("%s: the handler failed for %s", self.name, connection.who, exc_info=error)


def _credentials(socket: stdlib_socket.socket) -> Credentials | None:
    if not hasattr(stdlib_socket, "SO_PEERCRED"):
        return None
    layout = struct.Struct("iII")
    told = socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_PEERCRED, layout.size)
    return Credentials(*layout.unpack(told))


if sys.platform == "win32":  # pragma: no cover - tested on Linux

    def _unread(socket: stdlib_socket.socket) -> int:
        """How many bytes have arrived and not been read."""
        try:
            return len(socket.recv(_RECEIVE_SIZE, stdlib_socket.MSG_PEEK))
        except OSError:
            return 0

    def _unsent(_socket: stdlib_socket.socket) -> int:
        """How many bytes have been sent and not been acknowledged. It can't be known here."""
        return 0

else:
    import fcntl
    import termios

    def _count(socket: stdlib_socket.socket, what: int) -> int:
        count = bytearray(4)
        try:
            fcntl.ioctl(socket, what, count)  # into a bytearray: with bytes it takes twice as long
        except (OSError, ValueError):  # the handler has closed it
            return 0
        return int.from_bytes(count, sys.byteorder)

    def _unread(socket: stdlib_socket.socket) -> int:
        """How many bytes have arrived and not been read."""
        return _count(socket, termios.FIONREAD)

    def _unsent(socket: stdlib_socket.socket) -> int:
        """How many bytes have been sent and not been acknowledged: known on Linux, 0 elsewhere."""
        count = _count(socket, termios.TIOCOUTQ) if sys.platform == "linux" else 0
        # What is in a Unix socket is with the client already: a close does not take it back.
        return count if count and socket.family != stdlib_socket.AF_UNIX else 0
