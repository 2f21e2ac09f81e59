"""One client's HTTP/1.1: when a request is read, who answers it, and when the connection is kept.

It is busy from the first byte of a request to the last of its response. In between it is idle: told
to end, it reads end of file, after what has already arrived. What is refused is decided in
_protocol and _request, what the app receives and sends in _exchange and _websocket.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import h11
import trio

from ..._inside import busy
from .._bind import format_address
from .._connection import FIRST_REQUEST
from ._exchange import Exchange
from ._protocol import Event, Headers, Protocol, Refusal, error_response
from ._request import read_scope, wants_websocket
from ._service import access_logger
from ._websocket import WebSocket

if TYPE_CHECKING:
    from .._connection import Connection
    from .._tls import TLSConnection
    from ._service import Service

_MAX_UNREAD = 65536  # bytes of a body that its app has left: more is not worth the connection
_CLIENT_LEFT = 499  # in the access log, as nginx has it
_SKIP_BODY = 2.0  # seconds for those


class HTTPConnection:
    """A connection, request by request."""

    __slots__ = (
        "_addresses",
        "_began",
        "_connection",
        "_protocol",
        "_service",
        "_stream",
        "_waiting",
        "_websocket",
    )

    def __init__(
        self, service: Service, connection: Connection, stream: Connection | TLSConnection
    ) -> None:
        self._service = service
        self._connection = connection
        self._stream = stream
        self._protocol = Protocol()
        self._addresses: dict[str, Any] | None = None
        self._began = trio.current_time()
        self._waiting = trio.CancelScope()  # for a request
        self._websocket: WebSocket | None = None  # what has become of it

    async def serve(self) -> None:
        connection = self._connection
        connection.send_timeout = self._service.idle_timeout
        connection.at_end = self._wait_no_longer
        keep = True
        while keep:
            # The next may have come with the one before.
            if not self._protocol.ahead and not await self._wait_for_request():
                return
            connection.at_end = None
            with busy():
                keep = await self._answer()
            if self._websocket is not None:
                await self._websocket.read()
                return
            keep = keep and not connection.draining and await self._skip_body()
        if self._is_still_sent() or self._protocol.ahead:
            connection.more_to_come = True  # it goes on with its body, or sends ahead

    async def _wait_for_request(self) -> bool:
        """Wait for the first bytes of one. False if the client leaves, drains, or stays silent."""
        with (
            trio.move_on_after(self._service.idle_timeout) as self._waiting,
            contextlib.suppress(trio.BrokenResourceError),
        ):
            # Empty lines before a request are none.
            while data := await self._stream.receive_some():
                if data := data.lstrip(b"\r\n"):
                    self._protocol.receive_data(bytes(data))
                    return True
        return False

    def _wait_no_longer(self) -> None:
        """Told to end before its first request: a client that has only just come is about to send
        it.
        """
        self._waiting.deadline = min(self._waiting.deadline, self._began + FIRST_REQUEST)

    async def _answer(self) -> bool:
        """One request and its response. Returns whether there may be another."""
        try:
            request = await self._read_request()
            addresses = self._addresses or self._look_up_addresses()
            scope = read_scope(request, self._service.scheme, addresses)
            if self._service.state is not None:
                scope["state"] = self._service.state.copy()
            if wants_websocket(request):
                await self._open_websocket(scope, request)
                return False
            return await self._exchange(scope)
        except Refusal as refusal:
            self._service.tell_refusal(self._connection, refusal.status, refusal.reason)
            self._connection.more_to_come = True
            await self._send_error(refusal.status, refusal.reason, refusal.headers)
            return False

    async def _exchange(self, scope: dict[str, Any]) -> bool:
        exchange = Exchange(self._service, self._connection, self._stream, self._protocol, scope)
        began = time.perf_counter()
        self._service.listener.start_soon(exchange.run)
        try:
            await exchange.over.wait()
        finally:
            if exchange.status and not exchange.complete:
                await (
                    self._connection.reset()
                )  # its client is not to take what it has for the whole
        if exchange.refusal is not None:
            raise exchange.refusal
        status, length = exchange.status, exchange.length
        if not (exchange.status or exchange.broken):
            length = await self._send_error(500, "the server failed")
            status = _CLIENT_LEFT if exchange.left else 500
        if access_logger.isEnabledFor(logging.INFO):
            self._log_access(scope, status or _CLIENT_LEFT, length, began)
        return exchange.complete and self._protocol.our_state is h11.DONE

    async def _send_error(self, status: int, reason: str, headers: Headers = ()) -> int:
        """Returns how many bytes its body has."""
        response = error_response(status, reason, headers, body=self._protocol.method != b"HEAD")
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(response)
        return len(response.partition(b"\r\n\r\n")[2])

    async def _open_websocket(self, scope: dict[str, Any], request: h11.Request) -> None:
        connection = self._connection
        websocket = WebSocket(
            self._service, connection, self._stream, self._protocol, scope, request
        )
        connection.at_end = websocket.tell
        began = time.perf_counter()
        self._service.listener.start_soon(websocket.run)
        await websocket.settled.wait()
        if access_logger.isEnabledFor(logging.INFO):
            self._log_access(scope, websocket.status, 0, began)
        if websocket.open:
            self._websocket = websocket

    async def _read_request(self) -> h11.Request:
        event = self._protocol.next_event()
        if event is h11.NEED_DATA:
            event = await self._read_slowly()
        assert isinstance(event, h11.Request)
        return event

    async def _read_slowly(self) -> Event:
        """A head that does not come at once."""
        with trio.move_on_after(self._service.header_timeout):
            while True:
                self._protocol.receive_data(await self._receive())
                if (event := self._protocol.next_event()) is not h11.NEED_DATA:
                    return event
        raise Refusal(408, "the headers were not complete in time")

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def _skip_body(self) -> bool:
        """Get ready for the next request: read what the app has left of the last.

        Returns whether that is done.
        """
        protocol = self._protocol
        until = trio.current_time() + _SKIP_BODY
        size = 0
        with contextlib.suppress(Refusal):
            while size < _MAX_UNREAD and not protocol.they_are_waiting_for_100_continue:
                if protocol.their_state is h11.DONE:
                    self._start_next_cycle()
                    return True
                event = protocol.next_event()
                if isinstance(event, h11.Data):
                    size += len(event.data)
                elif event is h11.NEED_DATA:
                    with trio.move_on_at(until) as waiting:
                        protocol.receive_data(await self._receive())
                    if waiting.cancelled_caught:
                        break
        self._connection.more_to_come = True
        return False

    def _start_next_cycle(self) -> None:
        ahead = self._protocol.ahead
        if ahead[:1] in (b"\r", b"\n"):
            # Empty lines before a request are none, but h11 takes offence, and can't be made to
            # forget them.
            self._protocol = Protocol()
            if ahead := ahead.lstrip(b"\r\n"):  # to h11, nothing is the end of the stream
                self._protocol.receive_data(ahead)
        else:
            self._protocol.start_next_cycle()

    def _is_still_sent(self) -> bool:
        """Is some of a body, that its response did not wait for, still on its way?"""
        with contextlib.suppress(Refusal):
            while self._protocol.their_state is h11.SEND_BODY:
                if self._protocol.next_event() is h11.NEED_DATA:
                    return True
        return False

    def _look_up_addresses(self) -> dict[str, Any]:
        peer, local = self._connection.peer, self._connection.local_address
        if isinstance(peer, tuple) and isinstance(local, tuple):
            self._addresses = {"client": peer[:2], "server": local[:2]}
        else:
            # A Unix socket's own name is the one that it was bound to, before it was moved to its
            # path.
            known = self._service.listener.addresses
            server = known[0] if len(known) == 1 else local
            self._addresses = {"client": None, "server": (format_address(server), None)}
        return self._addresses

    def _log_access(self, scope: dict[str, Any], status: int, length: int, began: float) -> None:
        query = scope["query_string"]
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        access_logger.info(
            '%s "%s %s HTTP/%s" %d %d %.3f',
            self._connection.who,
            scope["method"],
            target.decode("ascii").replace('"', "%22"),
            scope["http_version"],
            status,
            length,
            time.perf_counter() - began,
        )
