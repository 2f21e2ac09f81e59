"""WebSocketListener: how a WebSocket is opened, and how it drains.

The protocol is spoken by trio-websocket.
What happens to connections in general is decided in _stream, where they are listened for in _tcp.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import trio

from .._inside import stopping
from ._connection import Connection
from ._stream import StreamListener
from ._tcp import TCPEndpoint

if TYPE_CHECKING:
    import socket as stdlib_socket
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from trio_websocket import WebSocketConnection, WebSocketRequest

    from ._tls import TLSConnection

_NORMAL, _GOING_AWAY, _INTERNAL_ERROR = 1000, 1001, 1011  # codes of a Close
_WHY = "going away"
_SERVER_ERROR, _UNAVAILABLE = 500, 503  # of a handshake
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class WebSocketListener(StreamListener):
    """An actor that serves WebSockets, and closes them with 1001 (going away) when interrupted.

    It needs the extra ``websocket``, which is trio-websocket. ``handler(request)`` is one for
    :func:`trio_websocket.serve_websocket`: it calls ``await request.accept()``, and the WebSocket
    is closed when it returns. It may let ConnectionClosed pass. Any other exception is logged with
    the client's address, and its client gets Close 1011, or 500 if it was not accepted yet.

    Interrupted, the listener answers new handshakes with 503 and sends every open WebSocket Close
    1001. One whose handler is inside :class:`busy` gets it when that block ends. The listener waits
    for the clients to close and the handlers to return, until its grace or its group's is over. The
    rest is cut. The handlers get no further message then, but ConnectionClosed. A message that they
    have is answered if ``with busy():`` comes right after ``get_message()``.

    Its status is "12 connections, 3 busy", and once it has stopped "12 drained, 0 cut".

    Args:
      handler: an async function of one :class:`trio_websocket.WebSocketRequest`.
      message_queue_size: how many messages are read ahead of the handler.
      max_message_size: how many bytes a message may have. A longer one ends the connection with
        Close 1009.
      connect_timeout: how many seconds a client may take for its handshake.
      disconnect_timeout: how many seconds it may take to answer the Close when its handler has
        returned.
      port, host, backlog, ssl_context, proxy_protocol, max_connections, max_age, reuse_port,
        sockets, name, grace: as for :class:`TCPListener`.

    Raises:
      ImportError: if the extra is not installed.
      TypeError, ValueError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there: an OSError that names the
        address too.
    """

    def __init__(
        self,
        handler: Callable[[WebSocketRequest], Awaitable[object]],
        port: int | None = None,
        *,
        host: str | bytes | None = None,
        backlog: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy_protocol: bool = False,
        max_connections: int | None = None,
        max_age: float = math.inf,
        reuse_port: bool = False,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        message_queue_size: int = 1,
        max_message_size: int = 2**20,
        connect_timeout: float = 10.0,
        disconnect_timeout: float = 10.0,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        try:
            import trio_websocket
        except ImportError as exc:
            raise ImportError(
                "WebSocketListener needs trio-websocket: pip install 'trio-run[websocket]'"
            ) from exc
        self._library: Any = trio_websocket
        if not callable(handler):
            raise TypeError(
                f"the handler must be an async function of one request, not {handler!r}"
            )
        endpoint = TCPEndpoint("WebSocketListener", host, port, sockets, reuse_port=reuse_port)
        for what, number, least in (
            ("message_queue_size", message_queue_size, 0),
            ("max_message_size", max_message_size, 1),
            ("connect_timeout", connect_timeout, 0),
            ("disconnect_timeout", disconnect_timeout, 0),
        ):
            if not (isinstance(number, (int, float)) and number >= least):
                raise ValueError(f"{what} must be a number from {least} on, not {number!r}")
        super().__init__(
            endpoint,
            self._serve_websocket,
            backlog=backlog,
            ssl_context=ssl_context,
            proxy_protocol=proxy_protocol,
            max_connections=max_connections,
            max_age=max_age,
            name=name or ("wss" if ssl_context else "ws") + (f":{port}" if port else ""),
            grace=grace,
            shields=True,  # the ConnectionClosed of one task cancels those beside it
        )
        self._websocket_handler = handler
        self._sizes = {
            "message_queue_size": message_queue_size,
            "max_message_size": max_message_size,
        }
        self._connect_timeout = connect_timeout
        self._disconnect_timeout = disconnect_timeout

    async def _serve_websocket(
        self, connection: Connection, stream: Connection | TLSConnection
    ) -> None:
        async with trio.open_nursery() as nursery:
            conversation = _Conversation(self._library, nursery, connection)
            connection.at_drain = conversation.drain
            connection.at_end = conversation.end
            try:
                request = await self._read_request(conversation, stream)
                if request is not None:
                    failure = await conversation.hold(request, self._websocket_handler)
                    if failure is not None:
                        self.log_failure(connection, failure)
                    connection.settle()  # the Close says what its client got
                    await self._close(conversation, failed=failure is not None)
            finally:
                connection.at_drain = conversation.draining.set
                connection.at_end = conversation.draining.set  # and no new task: the nursery closes
            if nursery.child_tasks:
                nursery.cancel_scope.cancel("the WebSocket is closed")

    async def _read_request(
        self, conversation: _Conversation, stream: Connection | TLSConnection
    ) -> WebSocketRequest | None:
        """The client's handshake.

        None if none comes in time, or if we are going away. Then it is refused.
        """
        request: WebSocketRequest | None = None
        with conversation.opening, trio.move_on_after(self._connect_timeout):
            request = await self._library.wrap_server_stream(
                conversation, _Stream(conversation, stream), **self._sizes
            )
        if not (self.draining or conversation.draining.is_set()):
            return request
        # If the library has refused it already, as malformed, there is nothing more to say.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(_REFUSAL)
        return None

    async def _close(self, conversation: _Conversation, *, failed: bool) -> None:
        going_away = self.draining or conversation.draining.is_set() or stopping()
        code = _INTERNAL_ERROR if failed else _GOING_AWAY if going_away else _NORMAL
        if going_away:  # its client has as long as the grace
            await conversation.close(code)
        else:
            with trio.move_on_after(self._disconnect_timeout):
                await conversation.close(code)


class _Stream:
    """A listener's stream, as the library wants one.

    The library looks for the addresses of Trio's own streams only. And at the end of a closing
    handshake its reader and its aclose() both close the stream: two at once take the close_notify
    from each other.
    """

    def __init__(self, conversation: _Conversation, stream: Connection | TLSConnection) -> None:
        self._stream = stream
        self._closing = False
        self._closed = conversation.is_closed
        self._connection = conversation.connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def transport_stream(self) -> Any:
        return self

    @property
    def socket(self) -> Any:
        return self

    def getpeername(self) -> Any:
        """Of the client, where a proxy has said who that is."""
        # It may have come to the proxy by a Unix socket: the library knows of none.
        peer = self._connection.peer
        return peer if isinstance(peer, tuple) else self._connection.socket.getpeername()

    def getsockname(self) -> Any:
        local = self._connection.local_address
        return local if isinstance(local, tuple) else self._connection.socket.getsockname()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what isinstance() asks
        return trio.SocketStream if isinstance(self._stream, Connection) else trio.SSLStream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        # The library's reader asks once more after it has closed: no error for that.
        return b"" if self._closing else await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        if not self._closing:
            self._closing = True
            try:
                if isinstance(self._stream, Connection):
                    await self._stream.finish()
                    self._stream.close()
                else:
                    await self._stream.aclose()
            finally:
                self._closed()


class _Conversation:
    """A WebSocket: who closes it, when, and with which code.

    To the library it is the nursery of its reader.
    """

    def __init__(self, library: Any, nursery: trio.Nursery, connection: Connection) -> None:
        from wsproto.utilities import LocalProtocolError

        self._protocol_error = LocalProtocolError
        self.draining = trio.Event()
        self._ended = False
        self.opening = trio.CancelScope()  # around the client's part of the handshake
        self._library = library
        self._nursery = nursery
        self.connection = connection
        self._request: Any = None
        self._websocket: WebSocketConnection | None = None  # once it is open
        self._receiving: dict[trio.CancelScope, bool] = {}  # is it in a busy block?
        self._read_up = trio.Event()  # closed by both sides, or the client is gone
        self._reader: trio.lowlevel.Task | None = None

    def start_soon(self, read: Callable[[], Awaitable[object]]) -> None:
        self._nursery.start_soon(self._read, read)

    async def _read(self, read: Callable[[], Awaitable[object]]) -> None:
        """The library's reader.

        It is not to fail for what a client does: that would cancel the handler.
        """
        self._reader = trio.lowlevel.current_task()
        # The first is a handshake that is not ASCII. The other is a malformed one, whose client
        # left before it got the refusal.
        with contextlib.suppress(UnicodeError, self._library.ConnectionClosed):
            while not self._read_up.is_set():
                # A ping that crosses our Close needs no answer. The client's Close is still to
                # come.
                with contextlib.suppress(self._protocol_error):
                    await read()
                    self._read_up.set()
        self._read_up.set()
        if self._websocket is None:
            self.opening.cancel("the client is gone")

    def is_closed(self) -> None:
        """Nothing more can be read.

        The library's reader may not see that, if it has not closed the stream itself: it waits for
        someone to take a message, for ever if the Close could not be sent.
        """
        if trio.lowlevel.current_task() is not self._reader:
            self._read_up.set()

    def drain(self) -> None:
        """We are going away: whoever is in no busy block is to receive nothing more."""
        self.draining.set()
        if self._websocket is None:
            self.opening.cancel(_WHY)
        for scope, busy in self._receiving.items():
            if not busy:
                scope.cancel(_WHY)

    def end(self) -> None:
        """It drains, and no busy block is left. This is called after each further block too."""
        self._ended = True
        for scope in self._receiving:
            scope.cancel(_WHY)
        if self._websocket is not None:
            self._nursery.start_soon(self._go_away, self._websocket)

    async def _go_away(self, websocket: WebSocketConnection) -> None:
        await trio.lowlevel.checkpoint()  # its handler may have a message in hand: it is busy then
        if not self.connection.busy:
            await websocket.aclose(_GOING_AWAY, _WHY)

    def _gone_away(self) -> Any:
        """What the library raises when a connection is closed."""
        return self._library.ConnectionClosed(self._library.CloseReason(_GOING_AWAY, _WHY))

    async def hold(
        self, request: WebSocketRequest, handler: Callable[[WebSocketRequest], Awaitable[object]]
    ) -> Exception | None:
        """Call the handler. Returns what it raised, unless that was the end of the connection."""
        self._request = request
        accept = request.accept

        async def accept_unless_draining(**options: Any) -> WebSocketConnection:
            if self._ended or (self.draining.is_set() and not self.connection.is_busy_here()):
                await request.reject(_UNAVAILABLE)
                raise self._gone_away()
            websocket = await accept(**options)
            self._open(websocket)
            return websocket

        request.accept = accept_unless_draining  # type: ignore[method-assign]
        error: BaseException | None = None
        try:
            await handler(request)
        except BaseExceptionGroup as group:
            error = group.split(self._library.ConnectionClosed)[1]
        except Exception as exc:
            error = None if isinstance(exc, self._library.ConnectionClosed) else exc
        if error is not None and not isinstance(error, Exception):
            raise error
        return error

    def _open(self, websocket: WebSocketConnection) -> None:
        get_message = websocket.get_message

        async def get_message_unless_draining() -> str | bytes:
            # What is handed out can be answered. So nothing more is, even before our Close is out.
            with trio.CancelScope() as scope:
                self._receiving[scope] = busy = self.connection.is_busy_here()
                try:
                    if self.draining.is_set() and not busy:
                        scope.cancel(_WHY)
                    return await get_message()
                finally:
                    del self._receiving[scope]
            raise self._gone_away()

        websocket.get_message = get_message_unless_draining  # type: ignore[method-assign]
        self._websocket = websocket
        if self.draining.is_set() and not self.connection.busy:
            self.end()

    async def close(self, code: int) -> None:
        """Close it, if nobody has, and wait until the client has.

        One that was never opened is refused.
        """
        if self._websocket is None:
            status = _UNAVAILABLE if code == _GOING_AWAY else _SERVER_ERROR
            # It may have been refused already, or the client be gone.
            with contextlib.suppress(self._protocol_error, self._library.ConnectionClosed):
                await self._request.reject(status)
        else:
            if code != _GOING_AWAY or not self._ended or self.connection.busy:
                reason = _WHY if code == _GOING_AWAY else None
                self._nursery.start_soon(self._websocket.aclose, code, reason)
            await self._read_up.wait()
