"""One HTTP request and its response: what the app receives, what it may send, and when the exchange
is over.

When a request is read, and what becomes of the connection afterwards, is decided in _connection.
"""

from __future__ import annotations

import contextlib
import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
import trio

from ..._errors import one_line, split_cancelled
from ..._inside import busy, place
from ._lifespan import ClientDisconnected, Message
from ._protocol import REASONS, Refusal, date_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from .._connection import Connection
    from .._tls import TLSConnection
    from ._protocol import Protocol
    from ._service import Service

_NO_GUARD = contextlib.nullcontext()
_BODY_SIZE = 65536  # bytes that the app is given at once, and that are read ahead of it
_WITHOUT_BODY = (204, 304)
_FRAMING = (b"content-length", b"transfer-encoding")
_DISCONNECT = "http.disconnect"


class Exchange:
    """One request, for the app: its scope, receive and send."""

    __slots__ = (
        "_connection",
        "_hung_up",
        "_last",
        "_protocol",
        "_read_up",
        "_reading",
        "_receiving",
        "_returned",
        "_sending",
        "_service",
        "_start",
        "_stream",
        "_told",
        "broken",
        "complete",
        "length",
        "over",
        "refusal",
        "scope",
        "status",
    )

    def __init__(
        self,
        service: Service,
        connection: Connection,
        stream: Connection | TLSConnection,
        protocol: Protocol,
        scope: dict[str, Any],
        *,
        last: bool = False,
    ) -> None:
        self._service = service
        self._connection = connection
        self._stream = stream
        self._protocol = protocol
        self.scope = scope
        self.over = trio.Event()  # nothing more is sent, nor read for it
        self.status = 0  # of the response, once some of it may have been sent
        self.length = 0  # bytes of its body
        self.complete = False
        self.broken = False  # the client is gone, or broke the protocol
        self.refusal: Refusal | None = None  # how it did
        self._last = last  # is the connection to end with it?
        self._start: MutableMapping[str, Any] | None = None
        self._read_up = False  # has the app the whole request?
        self._hung_up = False  # has the client ended its side?
        self._returned = False  # has the app?
        self._told = False  # has the app heard that there is nobody to answer?
        self._receiving: trio.CancelScope | None = None
        self._reading = trio.Lock()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """The app's task. It may go on when the exchange is over. Raises nothing of the app's."""
        # To the app's busy() the connection does not matter: it is busy anyway, until the response
        # is complete.
        place.set(self._connection.inside)
        try:
            with busy() if self._connection.shielded else _NO_GUARD:
                await self._service.app(self.scope, self.receive, self.send)
        except BaseException as exc:
            _, error = split_cancelled(exc)
            if error is not None and not isinstance(error, Exception):
                raise
            if error is not None:
                self._tell_failure(error)
        else:
            if not (self.complete or self.broken):
                what = (
                    "without having finished its response" if self._start else "without a response"
                )
                self._tell_failure(RuntimeError(f"the app returned {what}"))
        finally:
            self._returned = True
            self._end()

    def _tell_failure(self, error: Exception) -> None:
        if self.refusal is not None:
            return  # what its client did is told already
        what = f'"{self.scope["method"]} {self.scope["raw_path"].decode("ascii")}"'
        self._service.tell_failure(self._connection, what, error, left=self.left)

    @property
    def left(self) -> bool:
        """Is the client gone, or has it at least ended its side?"""
        return self.broken or self._hung_up

    def _end(self) -> None:
        """Nothing more is to be sent. Who still reads is stopped first."""
        if self._receiving is None:
            self.over.set()
        else:
            self._receiving.cancel("the exchange is over")

    def _break(self, refusal: Refusal | None = None) -> None:
        self.broken = True
        self.refusal = refusal
        self._end()

    # The request.

    async def receive(self) -> Message:
        """ASGI's receive: the body, piece by piece; then, when there is no one to answer any more,
        http.disconnect.
        """
        await _acquire(self._reading)
        try:
            if not self._read_up:
                piece = await self._receive_body()
                if piece is not None:
                    return piece
            await self._wait_disconnect()
        except Refusal as refusal:
            self._break(refusal)
        except ClientDisconnected:
            pass  # its body was to be asked for
        finally:
            self._reading.release()
        if self._told:
            await trio.lowlevel.checkpoint()  # it may ask again and again
        # The first time it hears at once: it may ask in a cancelled scope, so as not to wait.
        self._told = True
        return {"type": _DISCONNECT}

    async def _receive_body(self) -> Message | None:
        """The next piece of the body. None if the client is gone, or needs no answer any more."""
        pieces = []
        size = 0
        while not self.over.is_set():
            event = self._protocol.next_event()
            if isinstance(event, h11.Data):
                pieces.append(event.data)
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._read_up = True
            if self._read_up or size >= _BODY_SIZE or (pieces and event is h11.NEED_DATA):
                body = b"".join(pieces)
                return {"type": "http.request", "body": body, "more_body": not self._read_up}
            if event is h11.NEED_DATA:
                # Who sends already sends the response: then it is not to be asked for.
                if self._protocol.they_are_waiting_for_100_continue and not self._sending.locked():
                    await self._send_now(h11.InformationalResponse(status_code=100, headers=[]))
                data = await self._read(self._service.idle_timeout)
                if data is None:
                    break
                self._protocol.receive_data(bytes(data))
        return None

    async def _wait_disconnect(self) -> None:
        """Wait until the client hangs up, or has its answer.

        Its next requests are put by, as far as there is room.
        """
        if self._connection.hung_up:
            self._hung_up = True
            return
        while not self.over.is_set():
            if len(self._protocol.ahead) >= _BODY_SIZE:
                await self.over.wait()
                return
            data = await self._read(math.inf)
            if not data:
                self._hung_up = data is not None
                return
            self._protocol.receive_data(bytes(data))

    async def _read(self, seconds: float) -> bytes | bytearray | None:
        """What the client sends next; b"" if that is nothing, None when the exchange is over.

        Raises:
          Refusal: if it sends nothing for so long.
        """
        with trio.move_on_after(seconds) as self._receiving:
            try:
                return await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):  # of the latter kind: cut
                self.broken = True
                return b""
            finally:
                self._receiving = None
                if self.complete or self.broken or self._returned:
                    self.over.set()
        if self.over.is_set():
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
        ended = self.over.is_set() and not self.complete  # the app has returned
        if self.broken or ended:
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
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise RuntimeError(f"the app sent a body of {type(body).__name__}, not bytes")
        events: list[h11.Event] = []
        if not self.status:
            # Only now, as ASGI wants it: if the app fails before, its client gets a 500.
            try:
                events.append(self._head(self._start, None if more else len(body)))
            except (h11.LocalProtocolError, AttributeError, KeyError, TypeError, ValueError) as exc:
                raise RuntimeError(
                    f"the app's http.response.start can't be sent: {one_line(exc)}"
                ) from exc
        if self.scope["method"] == "HEAD":
            body = b""
        elif body:
            if self._start["status"] in _WITHOUT_BODY:
                raise RuntimeError(
                    f"the app sent a body with status {self._start['status']}, which has none"
                )
            events.append(h11.Data(data=body))
        if not more:
            events.append(h11.EndOfMessage())
        await self._send_now(*events, status=self._start["status"])
        self.length += len(body)
        if not more:
            self.complete = True
            self._end()

    async def _send_now(self, *events: h11.Event, status: int = 0) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # as yet nothing is lost
        await _acquire(self._sending)
        try:
            if self.complete:
                raise RuntimeError("the app sent some more after the end of its response")
            if self.broken:
                raise ClientDisconnected("the client is gone")
            data = b"".join([self._protocol.send(event) or b"" for event in events])
            self.status = self.status or status
            await self._stream.send_all(data)
        except h11.LocalProtocolError as exc:
            raise RuntimeError(f"the app's response can't be sent: {exc}") from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._break()
            raise ClientDisconnected(f"the client is gone: {exc}") from exc
        except trio.Cancelled:
            self._break()  # what was sent is not the whole
            raise
        finally:
            self._sending.release()

    def _head(self, start: MutableMapping[str, Any], length: int | None) -> h11.Response:
        status = start["status"]
        headers = list(start.get("headers", ()))
        names = {name.lower() for name, _ in headers}
        if b"date" not in names:
            headers.append((b"date", date_of(int(time.time()))))
        if b"server" not in names:
            headers.append((b"server", b"trio-run"))
        framed = b"content-length" in names or b"transfer-encoding" in names
        if (
            framed and status == HTTPStatus.NO_CONTENT
        ):  # it must not say how long nothing is: RFC 9110, 8.6
            headers = [header for header in headers if header[0].lower() not in _FRAMING]
        if (
            length is not None
            and not framed
            and status not in _WITHOUT_BODY
            and (length or self.scope["method"] != "HEAD")
        ):
            headers.append((b"content-length", b"%d" % length))
        if self._is_last():
            headers.append((b"connection", b"close"))
        return h11.Response(status_code=status, headers=headers, reason=REASONS.get(status, b""))

    def _is_last(self) -> bool:
        """Is the connection to end with this response?"""
        connection = self._connection
        return (
            self._last
            or connection.draining
            or connection.inside.lame_duck()
            or self._protocol.they_are_waiting_for_100_continue
        )


async def _acquire(lock: trio.Lock) -> None:
    """Without a checkpoint, where it is free."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
