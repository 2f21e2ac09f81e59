"""One client's HTTP/1.1: when a request is read, who answers it, and when the connection is kept.

It is busy from the first byte of a request to the last of its response. In between it is idle: when
it drains, it reads end of file, after what has already arrived.

The app runs in the connection's own task, since a task for each request costs more than all the
rest. So while an app goes on after its response, somebody else has to serve what the client sends
next: then a task of its own takes the connection over (_overtake). What is refused is decided in
_parser and _request, what the app receives and sends in _exchange and _websocket.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ..._inside import busy, place
from .._bind import format_address
from .._turn import Turn
from ._exchange import Exchange
from ._parser import Parser
from ._refusal import Headers, Refusal, error_response
from ._request import read_scope, wants_websocket
from ._service import access_logger
from ._websocket import WebSocket

if TYPE_CHECKING:
    from .._connection import Connection
    from .._tls import TLSConnection
    from ._service import Service

_CLIENT_LEFT = 499  # in the access log, as nginx has it
_SKIP_BODY = 2.0  # seconds for the rest of a body that its app has left


class HTTPConnection:
    """A connection, request by request."""

    __slots__ = (
        "_addresses",
        "_began",
        "_exchange",
        "_forwarded_for",
        "_hears_of_input",
        "_is_busy",
        "_sent_before",
        "_websocket",
        "connection",
        "idle_since",
        "parser",
        "reading",
        "requests_left",
        "sending",
        "service",
        "stream",
    )

    def __init__(
        self, service: Service, connection: Connection, stream: Connection | TLSConnection
    ) -> None:
        self.service = service
        self.connection = connection
        self.stream = stream
        self.parser = Parser()
        self.reading = Turn()
        self.sending = Turn()
        self._addresses: tuple[Any, Any] | None = None  # of the client, and our own
        self._forwarded_for = ""  # the client, where a proxy has said it
        self._began = 0.0  # the exchange that the access log is to tell of
        self._exchange: Exchange | None = None  # whose app runs in the connection's task
        self._websocket: WebSocket | None = None  # that its app has not accepted or refused yet
        self._is_busy = False
        self.requests_left = service.how_many_requests()
        self._sent_before = 0  # bytes, when the request came
        self.idle_since = math.inf

    async def serve(self) -> None:
        self.connection.send_timeout = self.service.idle_timeout
        self.connection.since_when_idle = self._since_when_idle
        self._hears_of_input = self.connection.call_at_input(self._input_came)
        place.set(self.connection.inside)
        if self.service.context is None:
            self.service.context = contextvars.copy_context()
        self.service.idle.add(self)
        await self._go_on()

    async def _go_on(self, exchange: Exchange | None = None) -> None:
        """Serve it in this task; the exchange is one that is still to be finished."""
        try:
            await self._serve(exchange)
        finally:
            if self._is_ours():
                self._end()
                self.parser.close()
                self.connection.call_at_input(None)
                self.connection.since_when_idle = None
                self.service.idle.discard(self)

    def _is_ours(self) -> bool:
        """Does the running task decide what becomes of the connection?"""
        return self.connection.task is trio.lowlevel.current_task()

    async def _serve(self, exchange: Exchange | None) -> None:
        """Serve request after request, until the connection is to end or is taken over."""
        connection, parser = self.connection, self.parser
        try:
            keep = exchange is None or await self._finish(exchange)
            while keep:
                if parser.ahead:  # the next has come with the one before
                    await trio.lowlevel.checkpoint()  # the others', and our new context's, turn
                    is_there = self._read_head() or await self._wait_for_head()
                else:
                    exchange = None  # its scope is not to be kept meanwhile
                    is_there = await self._wait_for_head()
                if not is_there:
                    break
                if wants_websocket(parser):
                    await self._serve_websocket(self._read_scope())
                    return
                exchange = await self._run(self._read_scope())
                if exchange is None:
                    return
                keep = await self._finish(exchange)
            if parser.ahead or self._is_still_sent():
                connection.more_to_come = True  # it goes on with its body, or sends ahead
        except Refusal as refusal:
            self.service.log_refusal(connection, refusal.status, refusal.reason)
            connection.more_to_come = True
            await self._send_error(refusal.status, refusal.reason, refusal.headers)
        except BaseException:
            if self._is_busy and self._is_ours():
                await self.reset()
            raise

    # A request.

    def _begin(self) -> None:
        """Something of a request has come."""
        self._is_busy = True
        self.idle_since = math.inf
        self._sent_before = self.connection.sent
        self.connection.occupy()

    def _end(self) -> None:
        if self._is_busy:
            self._is_busy = False
            self.connection.release()

    async def reset(self) -> None:
        """End it so that the client does not take what it has of a response for the whole."""
        await self.connection.reset(self._sent_before)

    def _read_head(self) -> bool:
        is_whole = self.parser.read_head()
        if self.parser.has_begun:
            self._begin()
        return is_whole

    async def _wait_for_head(self) -> bool:
        """Wait for a request. False if the client leaves, drains, or stays silent."""
        if not self._is_busy and self.idle_since == math.inf:
            self.idle_since = trio.current_time()
        while not self._is_busy:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return False
            if not data:
                return False
            self.parser.ahead += data
            if self._read_head():
                return True
        return await self._read_slowly()

    def give_up(self) -> None:
        """It has been idle for too long. What has arrived by now is still answered."""
        self.connection.drain()

    async def _read_slowly(self) -> bool:
        """A head that does not come at once."""
        with trio.move_on_after(self.service.header_timeout):
            while True:
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError as exc:
                    raise Refusal(400, "the client left in the midst of its request") from exc
                if not data:
                    raise Refusal(400, "the client hung up in the midst of its request")
                self.parser.ahead += data
                if self.parser.read_head():
                    return True
        raise Refusal(408, f"no whole request for {self.service.header_timeout:g} s")

    def _since_when_idle(self) -> float:
        return self.idle_since

    def _read_scope(self) -> dict[str, Any]:
        self.requests_left -= 1
        client, server = self._addresses or self._look_up_addresses()
        scope = read_scope(self.parser, self.service.scheme, client, server)
        proxies = self.service.proxies
        if proxies and proxies.has(client):
            self._forwarded_for = proxies.believe(scope)
        if self.service.state is not None:
            scope["state"] = self.service.state.copy()
        return scope

    def _look_up_addresses(self) -> tuple[Any, Any]:
        peer, local = self.connection.peer, self.connection.local_address
        if isinstance(peer, tuple) and isinstance(local, tuple):
            self._addresses = peer[:2], local[:2]
        else:
            # A Unix socket's own name is the one that it was bound to, before it was moved to its
            # path.
            known = self.service.listener.addresses
            server = known[0] if len(known) == 1 and self.connection.is_unix else local
            self._addresses = None, (format_address(server), None)
        return self._addresses

    # Its response.

    async def _run(self, scope: dict[str, Any]) -> Exchange | None:
        """Run the app, in this task. None if another has taken the connection over, or is to."""
        task = trio.lowlevel.current_task()
        scope_around = task._cancel_status  # Trio has no public name for the innermost scope
        exchange = self._exchange = Exchange(self, scope, self._settle)
        if access_logger.isEnabledFor(logging.INFO):
            self._began = time.perf_counter()
        try:
            # To the app's busy() the connection does not matter: it is busy anyway, until the
            # response is complete.
            if self.connection.shielded:
                with busy():
                    await exchange.run()
            else:
                await exchange.run()
        finally:
            is_ours = self._exchange is exchange
            if is_ours:
                self._exchange = None
        if not is_ours:
            return None
        if task._cancel_status is not scope_around:
            # By a generator that it did not close, say. It would cut what comes next.
            self.service.log_open_scope(self.connection, scope)
            self._exchange = exchange
            self.connection.task = None
            self._look_after(exchange)
            return None
        # What the app has put into context variables is nothing to the next request.
        task.context = self._fresh_context()
        return exchange

    async def _finish(self, exchange: Exchange) -> bool:
        """What is left to do of an exchange. Returns whether there may be another."""
        is_complete = exchange.complete  # what a task of the app's still sends does not count
        if exchange.status and not is_complete:
            await self.reset()
        if self.reading.is_taken:  # a task of the app's has to hear of the end
            await self.reading.take()
            self.reading.give_back()
        if exchange.refusal is not None and not is_complete:  # else its client has an answer
            raise exchange.refusal
        status, length = exchange.status, exchange.length
        if not (status or exchange.broken):
            length = await self._send_error(500, "the server failed")
            status = _CLIENT_LEFT if exchange.left else 500
        if not exchange.complete:
            exchange.length = length
            self._log_exchange(exchange, status or _CLIENT_LEFT)
        if not is_complete or exchange.broken or exchange.is_last or self.connection.draining:
            return False
        if not self.parser.is_whole and not await self._skip_body():
            return False
        self.parser.begin()
        return True

    async def _send_error(self, status: int, reason: str, headers: Headers = ()) -> int:
        """Returns how many bytes its body has."""
        response = error_response(status, reason, headers, body=self.parser.method != b"HEAD")
        with contextlib.suppress(
            # The latter where a task of the app's still sends: then there is nothing to add.
            *(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
        ):
            await self.stream.send_all(response)
        return len(response.partition(b"\r\n\r\n")[2])

    async def _skip_body(self) -> bool:
        """Read what the app has left of its request. Returns whether that is done."""
        parser = self.parser
        with (
            trio.move_on_after(_SKIP_BODY),
            contextlib.suppress(Refusal, trio.BrokenResourceError),
        ):
            while True:
                parser.read_body()
                if parser.is_whole:
                    return True
                data = await self.stream.receive_some()
                if not data:
                    break
                parser.ahead += data
        return False

    def _is_still_sent(self) -> bool:
        """Is a body, which its app did not wait for, still on its way?"""
        with contextlib.suppress(Refusal):
            self.parser.read_body()
        return self.parser.has_begun and not self.parser.is_whole

    # An app that goes on when its exchange is over.

    def _settle(self, exchange: Exchange) -> None:
        if exchange.complete:
            self._end()
            self._log_exchange(exchange, exchange.status)
        if (
            exchange.is_last
            or exchange.broken
            or self.parser.ahead
            or not self._hears_of_input
            or self.stream.has_input()
        ):
            self._look_after(exchange)
        else:
            self.idle_since = trio.current_time()

    def _input_came(self) -> None:
        """Something has come that no task waits for, or the connection drains."""
        if self._websocket is not None and self.connection.hung_up:
            self._websocket.client_left()
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.complete:
            self._look_after(exchange)
        elif exchange.input_ended is not None and self.connection.input_has_ended:
            exchange.input_ended.set()

    def _look_after(self, exchange: Exchange) -> None:
        """See to the connection, unless the app has returned by then."""
        if not exchange.is_looked_after:
            exchange.is_looked_after = True
            self.idle_since = math.inf  # until it is seen what has come
            # The app's context is not that of the next request.
            context = self._fresh_context()
            context.run(self.service.listener.start_soon, self._overtake, exchange)

    async def _overtake(self, exchange: Exchange) -> None:
        if self._exchange is exchange:
            self._exchange = None
            go_on = partial(self._go_on, exchange)
            await self.service.listener.take_over(self.connection, self.stream, go_on)

    def _fresh_context(self) -> contextvars.Context:
        """The context of a connection's task, as it was when it began."""
        context = self.service.context
        assert context is not None
        return context.copy()

    # A WebSocket.

    async def _serve_websocket(self, scope: dict[str, Any]) -> None:
        connection = self.connection
        websocket = self._websocket = WebSocket(self, scope)
        connection.at_end = websocket.drain
        place.set(connection)  # the app's busy() is to count
        self._began = time.perf_counter()
        self.service.listener.start_soon(websocket.run)
        await websocket.settled.wait()
        if access_logger.isEnabledFor(logging.INFO):
            self._log_access(scope, websocket.status, 0)
        self._end()
        self._websocket = None
        connection.since_when_idle = None  # past its age it drains, whatever it does
        try:
            if websocket.open:
                await websocket.read()
        finally:
            connection.at_end = None  # they know each other, and would keep each other alive

    def _log_exchange(self, exchange: Exchange, status: int) -> None:
        if self._began and access_logger.isEnabledFor(logging.INFO):
            self._log_access(exchange.scope, status, exchange.length)

    def _log_access(self, scope: dict[str, Any], status: int, length: int) -> None:
        query = scope["query_string"]
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        access_logger.info(
            '%s "%s %s HTTP/%s" %d %d %.3f',
            self._forwarded_for or self.connection.who,
            scope["method"],
            target.decode("ascii").replace('"', "%22"),
            scope["http_version"],
            status,
            length,
            time.perf_counter() - self._began,
        )
