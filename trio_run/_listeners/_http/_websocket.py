"""A WebSocket of an ASGI app: its handshake, its messages, and how it is told to end. wsproto
speaks the protocol.

A message that the app has received is answered: the connection is busy from then until the app asks
for the next. Told to end, it is closed with 1001 (going away), and the app receives
websocket.disconnect with that code.
"""

from __future__ import annotations

import contextlib
import re
import struct
from typing import TYPE_CHECKING, Any

import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ..._errors import split_cancelled
from ._exchange import Exchange
from ._lifespan import ClientDisconnected, Message
from ._protocol import Refusal, error_response

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from .._connection import Connection
    from .._tls import TLSConnection
    from ._protocol import Protocol
    from ._service import Service

_NORMAL, _GOING_AWAY, _LOST, _TOO_BIG, _FAILED = 1000, 1001, 1006, 1009, 1011
_WHY = "going away"
_CLOSE_TIMEOUT = 10.0  # seconds for a client to answer our Close
_DENIAL = "websocket.http.response."
_SILENT = 20.0  # seconds, until a client is asked; and again, until it is given up
_UPGRADE = [(b"host", b"-"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class WebSocket:
    """One WebSocket, for the app: its scope, receive and send.

    Raises:
      Refusal: if the request is no handshake, or comes too late.
    """

    def __init__(
        self,
        service: Service,
        connection: Connection,
        stream: Connection | TLSConnection,
        protocol: Protocol,
        scope: dict[str, Any],
        request: h11.Request,
    ) -> None:
        self._service = service
        self._connection = connection
        self._stream = stream
        self._protocol = protocol
        self._websocket = WSConnection(ConnectionType.SERVER)
        self.settled = trio.Event()  # accepted or refused
        self.status = 0  # with which
        self.open = False
        self._closed = False  # nothing more is sent
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._parts = bytearray()  # of the message that is coming in
        self._told_connect = False
        self._denying = False  # has the app begun a response of its own?
        self._heard = False  # has the app been told that it is closed?
        self._receiving = 0  # how many of the app's tasks wait for a message
        self._in_hand = False  # has it one to answer?
        self._message: Message | None = None  # the next one
        self._disconnect: Message | None = None
        self._arrived = trio.Event()
        self._room = trio.Event()
        if connection.draining:
            raise Refusal(503, _WHY)
        self.scope = {
            **scope,
            "type": "websocket",
            "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": self._read_handshake(request),
            "extensions": {"websocket.http.response": {}},
        }
        del self.scope["method"]
        # The app may answer with a response of its own.
        self._denial = Exchange(service, connection, stream, protocol, scope, last=True)

    # The handshake.

    def _read_handshake(self, request: h11.Request) -> list[str]:
        """Returns the subprotocols that the client speaks."""
        # Chunks are none either: whether those that say so have arrived yet is a matter of chance.
        if any(name == b"transfer-encoding" for name, _ in request.headers) or not isinstance(
            self._protocol.next_event(), h11.EndOfMessage
        ):
            raise Refusal(400, "a WebSocket handshake has no body")
        # wsproto keeps what it is given, and takes offence at some names of hosts.
        own = [each for each in request.headers if each[0].startswith(b"sec-websocket-")]
        try:
            self._websocket.initiate_upgrade_connection([*_UPGRADE, *own], request.target)
        except (RemoteProtocolError, UnicodeError) as exc:
            hint = getattr(exc, "event_hint", None)
            if isinstance(hint, RejectConnection):
                headers = [*hint.headers, (b"Upgrade", b"websocket")]
                raise Refusal(hint.status_code, str(exc), headers) from None
            raise Refusal(400, f"this is no WebSocket handshake: {exc}") from None
        keys = [value for name, value in request.headers if name == b"sec-websocket-key"]
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
        (handshake,) = self._websocket.events()
        assert isinstance(handshake, Request)
        return list(handshake.subprotocols)

    async def _shake_hands(self, kind: str, message: MutableMapping[str, Any]) -> None:
        if kind.startswith(_DENIAL):
            try:
                await self._denial.send({**message, "type": kind.removeprefix("websocket.")})
            finally:
                if self._denial.complete or self._denial.broken:
                    self._settle(self._denial.status)
            self._denying = True
        elif self._denying:
            raise RuntimeError(f"the app sent {kind!r} after {_DENIAL}start")
        elif kind == "websocket.close":
            await self._refuse(403, message.get("reason") or "the server refuses this WebSocket")
        elif kind != "websocket.accept":
            raise RuntimeError(f"the app sent {kind!r} before it accepted or refused the WebSocket")
        elif self._connection.draining:
            await self._refuse(503, _WHY)
            raise ClientDisconnected("the server is going away")
        else:
            await self._write(
                AcceptConnection(
                    subprotocol=message.get("subprotocol"),
                    extra_headers=list(message.get("headers", ())),
                )
            )
            self.open = True
            self._settle(101)

    async def _refuse(self, status: int, reason: str) -> None:
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(error_response(status, reason))
        finally:
            self._settle(status)

    def _settle(self, status: int) -> None:
        self.status = status
        if not self.open:
            self._closed = True
            self._end(_GOING_AWAY if self._connection.draining else _LOST)
        self.settled.set()

    # The app.

    async def run(self) -> None:
        """The app's task. Raises nothing that is the app's."""
        failed: Exception | None = None
        try:
            await self._service.app(self.scope, self.receive, self.send)
            if not self.settled.is_set():
                failed = RuntimeError(
                    "the app returned without having accepted or refused the WebSocket"
                )
        except BaseException as exc:
            cancelled, error = split_cancelled(exc)
            if error is not None and not isinstance(error, Exception):
                raise
            if cancelled and error is None:
                self.settled.set()  # nobody answers any more
                raise
            failed = error
        if failed is not None:
            what = f'"{self.scope["raw_path"].decode("ascii")}" (WebSocket)'
            self._service.tell_failure(self._connection, what, failed, left=self._heard)
        if not self.settled.is_set():
            if self._denial.status:
                await (
                    self._connection.reset()
                )  # the client is not to take what it has for the whole
                self._settle(self._denial.status)
            else:
                await self._refuse(500, "the server failed")
        elif failed is not None:
            await self._close(_FAILED)
        else:
            told = self._connection.draining
            await self._close(_GOING_AWAY if told else _NORMAL, _WHY if told else None)
        self._release()

    async def receive(self) -> Message:
        """ASGI's receive: websocket.connect, the messages, websocket.disconnect."""
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        self._release()
        self._receiving += 1
        try:
            while self._message is None and self._disconnect is None:
                if self._arrived.is_set():
                    self._arrived = trio.Event()
                await self._arrived.wait()
        except trio.Cancelled:
            if self._message is not None and self._receiving == 1:
                self._release()  # it came in this very moment: nobody has it
            raise
        finally:
            self._receiving -= 1
        if self._message is None:
            assert self._disconnect is not None
            self._heard = True
            await trio.lowlevel.checkpoint()
            return self._disconnect
        message, self._message = self._message, None
        self._take_in_hand()
        self._room.set()
        return message

    def _take_in_hand(self) -> None:
        if not self._in_hand:
            self._in_hand = True
            self._connection.occupy()

    def _release(self) -> None:
        if self._in_hand:
            self._in_hand = False
            self._connection.release()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's send.

        Raises:
          ClientDisconnected: if there is nobody to send it to.
          RuntimeError: if it is not the app's turn to send this.
        """
        try:
            await self._send(message["type"], message)
        except ClientDisconnected:
            self._heard = True
            raise

    async def _send(self, kind: str, message: MutableMapping[str, Any]) -> None:
        if self._closed:
            raise ClientDisconnected("the WebSocket is closed")
        if not self.open:
            await self._shake_hands(kind, message)
        elif kind == "websocket.close":
            await self._close(message.get("code", _NORMAL), message.get("reason"))
        elif kind != "websocket.send":
            raise RuntimeError(f"the app sent {kind!r} on an open WebSocket")
        elif isinstance(text := message.get("text"), str):
            await self._write(TextMessage(data=text))
        elif isinstance(data := message.get("bytes"), (bytes, bytearray, memoryview)):
            await self._write(BytesMessage(data=bytes(data)))
        else:
            raise RuntimeError("the app sent websocket.send with neither text nor bytes")

    # The connection.

    def tell(self) -> None:
        """It is told to end, and the app has no message in hand."""
        if self.open and self._disconnect is None:
            self._message = None  # nobody has asked for it
            self._end(_GOING_AWAY, _WHY)
            self._service.listener.start_soon(self._close, _GOING_AWAY, _WHY)

    def _end(self, code: int, reason: str | None = None) -> None:
        """The app is to receive no more than what it has."""
        if self._disconnect is None:
            self._disconnect = {
                "type": "websocket.disconnect",
                "code": int(code),
                "reason": reason or "",
            }
        self._arrived.set()
        self._room.set()

    async def _close(self, code: int, reason: str | None = None) -> None:
        """Send our Close. The connection ends when the client has answered it."""
        if self._closed:
            return
        with contextlib.suppress(ClientDisconnected):
            await self._write(CloseConnection(code=code, reason=reason))
        # At a stop, its client has as long as the grace.
        if not self._connection.draining:
            self._reading.deadline = trio.current_time() + _CLOSE_TIMEOUT

    async def _write(self, event: Event) -> None:
        async with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()  # as yet nothing is lost
            if self._closed:
                raise ClientDisconnected("the WebSocket is closed")
            try:
                data = self._websocket.send(event)
            except (LocalProtocolError, h11.LocalProtocolError, struct.error) as exc:
                if self._websocket.state is ConnectionState.REMOTE_CLOSING:
                    raise ClientDisconnected("the client has closed the WebSocket") from None
                raise RuntimeError(f"what the app sent can't be sent: {exc}") from exc
            if isinstance(event, CloseConnection):
                self._closed = True
                self._room.set()  # what the app has not received, it is not to receive
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._lose()
                raise ClientDisconnected(f"the client is gone: {exc}") from exc
            except trio.Cancelled:
                self._lose()  # what was sent is not the whole
                raise

    def _lose(self) -> None:
        self._closed = True
        self._end(_LOST)
        self._reading.cancel("the connection is broken")

    async def read(self) -> None:
        """Read until both sides have closed, or the client is gone."""
        with self._reading:
            data = self._protocol.ahead
            while not await self._take(data) and (data := await self._receive()):
                pass
        self._closed = True
        self._end(_LOST)

    async def _receive(self) -> bytes:
        """What the client sends next; nothing if it is gone.

        A silent one is asked whether it is still there.
        """
        asked = False
        while True:
            with trio.move_on_after(_SILENT):
                try:
                    return bytes(await self._stream.receive_some())
                except trio.BrokenResourceError:
                    return b""
            if asked and not self._closed:
                return b""
            asked = True
            with contextlib.suppress(ClientDisconnected):
                await self._write(Ping())

    async def _take(self, data: bytes) -> bool:
        """Returns whether that was the end."""
        self._websocket.receive_data(data)
        for event in self._websocket.events():
            if isinstance(event, Ping):
                with contextlib.suppress(ClientDisconnected):
                    await self._write(event.response())
            elif isinstance(event, CloseConnection):
                if self._websocket.state is ConnectionState.OPEN:
                    self._service.tell_refusal(self._connection, event.code, event.reason or "")
                    self._connection.more_to_come = True
                self._end(event.code, event.reason)
                await self._close(event.code, event.reason)
                return True
            elif isinstance(event, (TextMessage, BytesMessage)):
                await self._gather(event)
        return False

    async def _gather(self, event: TextMessage | BytesMessage) -> None:
        if self._closed:
            return
        text = isinstance(event, TextMessage)
        self._parts += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._parts) > self._service.max_message_size:
            self._end(_TOO_BIG)
            await self._close(_TOO_BIG, f"more than {self._service.max_message_size} bytes")
        elif event.message_finished:
            whole, self._parts = self._parts, bytearray()
            message = {"text": whole.decode()} if text else {"bytes": bytes(whole)}
            await self._deliver({"type": "websocket.receive", **message})

    async def _deliver(self, message: Message) -> None:
        while self._message is not None and self._disconnect is None and not self._closed:
            self._room = trio.Event()
            await self._room.wait()
        # Told while busy, the app goes on until it is not: what nobody has asked for by then is
        # dropped in tell().
        if self._disconnect is None and not self._closed:
            self._message = message
            if self._receiving:
                self._take_in_hand()
            self._arrived.set()
