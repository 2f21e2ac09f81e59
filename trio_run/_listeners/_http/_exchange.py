"""One HTTP request and its response: what the app receives, what it may send, and when the exchange
is over.

When a request is read, and what becomes of the connection afterwards, is decided in _connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from ..._errors import Ending, one_line
from .._sending import SendTimeout
from ._lifespan import ClientDisconnected, Message
from ._refusal import Refusal
from ._response import CONTINUE, Response

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ._connection import HTTPConnection

MAX_AHEAD = 65536  # bytes of the next requests that are read while the app answers this one
MAX_UNREAD = 65536  # bytes of a body that its app has left: more is not worth the connection

_AT_ONCE = 131072  # bytes of a body
_DISCONNECT = "http.disconnect"


class Exchange:
    """One request, for the app: its scope, receive and send.

    ``settled()`` is called when nothing more is sent or read for it: its response is complete, or
    there is nobody to answer. The app may go on.
    """

    __slots__ = (
        "_body",
        "_has_all",
        "_heard",
        "_http",
        "_hung_up",
        "_last",
        "_receiving",
        "_response",
        "_returned",
        "_settled",
        "_start",
        "_why_left",
        "broken",
        "complete",
        "input_ended",
        "is_looked_after",
        "length",
        "refusal",
        "scope",
    )

    def __init__(
        self,
        http: HTTPConnection,
        scope: dict[str, Any],
        settled: Callable[[Exchange], object],
        *,
        last: bool = False,
    ) -> None:
        self._http = http
        self.scope = scope
        self._settled = settled
        self.length = 0  # bytes of the response's body
        self.complete = False
        self.broken = False  # the client is gone, or broke the protocol
        self.refusal: Refusal | None = None  # how it did
        self.is_looked_after = False  # by a task that will serve what comes next
        self.input_ended: trio.Event | None = None  # where somebody waits for that
        self._last = last  # is the connection to end with it?
        self._start: MutableMapping[str, Any] | None = None
        self._response: Response | None = None  # once some of it may have been sent
        self._body = b""  # of the request: read, and not given to the app yet
        self._has_all = False  # has the app the whole request?
        self._hung_up = False  # has the client ended its side?
        self._why_left = "left during"
        self._returned = False  # has the app?
        self._heard = False  # has the app heard that there is nobody to answer?
        self._receiving: trio.CancelScope | None = None

    @property
    def status(self) -> int:
        """Of the response, once some of it may have been sent; else 0."""
        return 0 if self._response is None else self._response.status

    @property
    def is_last(self) -> bool:
        """Has the response said that the connection ends with it?"""
        return self._response is not None and self._response.is_last

    @property
    def is_over(self) -> bool:
        """Is nothing more to be sent, or read for it?"""
        return self.complete or self.broken or self._returned

    @property
    def left(self) -> bool:
        """Is the client gone, or has it at least ended its side?"""
        return self.broken or self._hung_up

    async def run(self) -> None:
        """Run the app. Raises nothing that is the app's."""
        with Ending() as ending:
            await self._http.service.app(self.scope, self.receive, self.send)
        self._returned = True
        self._settle()
        if ending.error is not None:
            assert isinstance(ending.error, Exception)
            self._log_failure(ending.error)
        elif not (ending.cancelled or self.complete or self.broken):
            what = "without having finished its response" if self._start else "without a response"
            self._log_failure(RuntimeError(f"the app returned {what}"))

    def _log_failure(self, error: Exception) -> None:
        if self.refusal is not None:
            return  # what its client did is logged
        what = f'"{self.scope["method"]} {self.scope["raw_path"].decode("ascii")}"'
        self._http.service.log_failure(
            self._http.connection, what, error, left=self._why_left if self.left else ""
        )

    def _settle(self) -> None:
        """Nothing more is to be sent. Who still reads is stopped."""
        if self._receiving is not None:
            self._receiving.cancel("the exchange is over")
        if not self._returned:
            self._settled(self)

    def _break(self, refusal: Refusal | None = None) -> None:
        self.broken = True
        self.refusal = self.refusal or refusal
        self._settle()

    # The request.

    async def receive(self) -> Message:
        """ASGI's receive: the body, piece by piece; then, when there is no one to answer any more,
        http.disconnect.
        """
        if not self.is_over:
            reading = self._http.reading
            await reading.take()
            try:
                if not (self._has_all or self.is_over):
                    piece = await self._receive_body()
                    if piece is not None:
                        return piece
                await self._wait_disconnect()
            except Refusal as refusal:
                self._break(refusal)
            except ClientDisconnected:
                pass  # its body was to be asked for
            finally:
                reading.give_back()
        if self._heard:
            await trio.lowlevel.checkpoint()  # it may ask again and again
        # The first time it hears at once: it may ask in a cancelled scope, so as not to wait.
        self._heard = True
        return {"type": _DISCONNECT}

    async def _receive_body(self) -> Message | None:
        """The next piece of the body. None if the client is gone, or needs no answer any more."""
        parser = self._http.parser
        while True:
            body = self._body + parser.read_body()
            self._body = b""
            while parser.has_more:
                await trio.lowlevel.cancel_shielded_checkpoint()  # what was read is not to be lost
                body += parser.read_body()
            if body or parser.is_whole:
                self._has_all = parser.is_whole
                return {"type": "http.request", "body": body, "more_body": not self._has_all}
            # Who sends already sends the response: then it is not to be asked for.
            if parser.expects_continue and not (self._http.sending.is_taken or self.status):
                await self._ask_for_body()
            data = await self._read(self._http.service.idle_timeout, _AT_ONCE)
            if data is None:
                return None
            if not data:
                raise Refusal(400, "the client hung up in the midst of its request")
            parser.ahead += data

    async def _ask_for_body(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # then it may be asked for again
        self._http.parser.expects_continue = False
        await self._write(None)

    async def _wait_disconnect(self) -> None:
        """Wait until the client hangs up, or has its answer.

        Its next requests are put by, as far as there is room.
        """
        parser, connection = self._http.parser, self._http.connection
        while not self.is_over:
            if not parser.ahead and connection.hung_up:
                self._hung_up = True
                return
            if len(parser.ahead) < MAX_AHEAD:
                data = await self._read(math.inf)
                if data is None:
                    return
                self._hung_up = not data
                parser.ahead += data
            elif connection.input_has_ended:
                self._hung_up = True
            else:
                await self._wait_input_ended()
            if self._hung_up:
                return

    async def _wait_input_ended(self) -> None:
        """Wait until the exchange is over, or the client is known to have sent all that it will."""
        self.input_ended = trio.Event()
        with trio.CancelScope() as self._receiving:
            try:
                await self.input_ended.wait()
            finally:
                self._receiving = None

    async def _read(self, seconds: float, at_once: int = MAX_AHEAD) -> bytes | None:
        """What the client sends next; b"" if that is nothing, None when the exchange is over.

        Raises:
          Refusal: if it sends nothing for so long.
        """
        with trio.move_on_after(seconds) as self._receiving:
            try:
                return bytes(await self._http.stream.receive_some(at_once))
            except (trio.BrokenResourceError, trio.ClosedResourceError):  # of the latter kind: cut
                self._receiving = None
                self._break()
                return None
            finally:
                self._receiving = None
        if self.is_over:
            return None
        raise Refusal(408, f"nothing of the body has come for {seconds:g} s")

    # The response.

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's send.

        Raises:
          ClientDisconnected: if there is nobody to send it to.
          RuntimeError: if it is not the app's turn to send this.
        """
        kind = message["type"]
        if self.broken or (self._returned and not self.complete):
            raise ClientDisconnected("the client is gone")
        if self.complete:
            raise RuntimeError(f"the app sent {kind!r} after the end of its response")
        if kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("the app sent a second http.response.start")
            self._start = message
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the app sent {kind!r}, which is no part of an HTTP response")

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._start is None:
            raise RuntimeError("the app sent http.response.body before http.response.start")
        if not isinstance(body, bytes):
            if not isinstance(body, (bytearray, memoryview)):
                raise RuntimeError(f"the app sent a body of {type(body).__name__}, not bytes")
            body = bytes(body)
        await trio.lowlevel.checkpoint_if_cancelled()  # as yet nothing is lost
        await self._write(body, more=more)
        if self.scope["method"] != "HEAD":
            self.length += len(body)
        if not more:
            self.complete = True
            self._settle()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        """A piece of the body as it is written; the first after the head."""
        # The head comes only now, as ASGI wants it: if the app fails before, its client gets a 500.
        response = self._response or self._begin(None if more else len(body))
        try:
            data = response.body(body, more=more)
        except ValueError as exc:
            raise RuntimeError(f"the app's response can't be sent: {exc}") from exc
        if self._response is None:
            self._response = response
            data = response.head + data
        return data

    def _begin(self, length: int | None) -> Response:
        assert self._start is not None
        try:
            return Response(
                self._start,
                length,
                method=self.scope["method"],
                version=self.scope["http_version"],
                last=self._is_last(),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise RuntimeError(
                f"the app's http.response.start can't be sent: {one_line(exc)}"
            ) from exc

    def _is_last(self) -> bool:
        """Is the connection to end with this response?"""
        connection, parser = self._http.connection, self._http.parser
        return (
            self._last
            or not parser.keeps_alive
            or self._http.requests_left <= 0
            or connection.is_old
            or connection.draining
            or self._http.service.listener.is_leaving
            or not (parser.is_whole or self._is_little_left())
        )

    def _is_little_left(self) -> bool:
        """Is it worth while to read the rest of the request, if its app does not?"""
        parser = self._http.parser
        if parser.expects_continue:
            return False
        try:
            self._body += parser.read_body()
        except Refusal:
            return False
        return parser.left is not None and parser.left <= MAX_UNREAD

    async def _write(self, body: bytes | None, *, more: bool = True) -> None:
        """Write a piece of the body, or that it may be sent (None), when it is our turn."""
        sending = self._http.sending
        await sending.take()
        try:
            if self.complete:
                raise RuntimeError("the app sent some more after the end of its response")
            if self.broken or self._returned:
                raise ClientDisconnected("the client is gone")
            data = CONTINUE if body is None else self._framed(body, more=more)
            connection = self._http.connection
            connection.more_follows = more and body is not None
            await self._http.stream.send_all(data)
            if connection.may_hold_much and not more:
                await connection.wait_nearly_all_sent()
            if self._returned:  # meanwhile: then the connection is reset, and this is lost
                raise ClientDisconnected("the app has returned")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            if isinstance(exc, SendTimeout):
                self._why_left = "was too slow for"
            self._break()
            raise ClientDisconnected(f"the client is gone: {exc}") from exc
        except trio.Cancelled:
            self._break()  # what was sent is not the whole
            raise
        finally:
            sending.give_back()
