"""A WebSocket of an ASGI app: its messages, and how it drains.

A message that the app has received is answered: the connection is busy from then until the app asks
for the next. When it drains, it is closed with 1001 (going away), and the app receives
websocket.disconnect with that code. The protocol is that of the library websockets.
"""

from __future__ import annotations

import contextlib
import math
import struct
from typing import TYPE_CHECKING, Any

import trio
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from ..._errors import Ending
from ._exchange import Exchange
from ._handshake import Handshake
from ._lifespan import ClientDisconnected, Message
from ._refusal import Refusal, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ._connection import HTTPConnection

_NORMAL, _GOING_AWAY, _LOST, _NOT_UTF8, _FAILED = 1000, 1001, 1006, 1007, 1011
_WHY = "going away"
_CLOSE_TIMEOUT = 10.0  # seconds for a client to answer our Close
_MAX_REASON = 123  # bytes
_DENIAL = "websocket.http.response."


class WebSocket:
    """One WebSocket, for the app: its scope, receive and send.

    Raises:
      Refusal: if the request is no handshake, or comes too late.
    """

    def __init__(self, http: HTTPConnection, scope: dict[str, Any]) -> None:
        if http.connection.draining:
            raise Refusal(503, _WHY)
        self._http = http
        self._connection = http.connection
        self._handshake = Handshake(http.parser, http.service.max_message_size)
        self._protocol = self._handshake.protocol
        self.settled = trio.Event()  # accepted or refused
        self.status = 0  # with which
        self.open = False
        self._closed = False  # nothing more is sent
        self._reading = trio.CancelScope()
        self.idle_since = math.inf
        self._has_pinged = False  # since the client was last heard
        self._parts = bytearray()  # of the message that is coming in
        self._is_text = False
        self._told_connect = False
        self._denying = False  # has the app begun a response of its own?
        self._heard = False  # has the app heard that it is closed?
        self._receiving = 0  # how many of the app's tasks wait for a message
        self._in_hand = False  # has it one to answer?
        self._message: Message | None = None  # the next one
        self._disconnect: Message | None = None
        self._arrived = trio.Event()
        self._room = trio.Event()
        self.scope = {
            **scope,
            "type": "websocket",
            "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": self._handshake.subprotocols,
            "extensions": {"websocket.http.response": {}},
        }
        del self.scope["method"]
        # The app may answer with a response of its own.
        self._denial = Exchange(http, scope, lambda _exchange: None, last=True)

    # The handshake.

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
            await self._write(lambda: self._handshake.accept(message))
            self.open = True
            self._settle(101)

    async def _refuse(self, status: int, reason: str) -> None:
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._http.stream.send_all(error_response(status, reason))
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
        with Ending() as ending:
            await self._http.service.app(self.scope, self.receive, self.send)
        failed = ending.error
        if failed is None and not self.settled.is_set():
            if ending.cancelled:
                self.settled.set()  # nobody answers any more
                return
            failed = RuntimeError(
                "the app returned without having accepted or refused the WebSocket"
            )
        if failed is not None:
            what = f'"{self.scope["raw_path"].decode("ascii")}" (WebSocket)'
            assert isinstance(failed, Exception)
            left = "left during" if self._heard else ""
            self._http.service.log_failure(self._connection, what, failed, left=left)
        if not self.settled.is_set():
            if self._denial.status:
                await self._http.reset()
                self._settle(self._denial.status)
            else:
                await self._refuse(500, "the server failed")
        elif failed is not None:
            await self._close(_FAILED)
        else:
            drains = self._connection.draining
            await self._close(_GOING_AWAY if drains else _NORMAL, _WHY if drains else None)
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
            await self._take_from_app(message["type"], message)
        except ClientDisconnected:
            self._heard = True
            raise

    async def _take_from_app(self, kind: str, message: MutableMapping[str, Any]) -> None:
        if self._closed:
            raise ClientDisconnected("the WebSocket is closed")
        if not self.open:
            await self._shake_hands(kind, message)
        elif kind == "websocket.close":
            await self._close(message.get("code", _NORMAL), message.get("reason"))
        elif kind != "websocket.send":
            raise RuntimeError(f"the app sent {kind!r} on an open WebSocket")
        elif isinstance(text := message.get("text"), str):
            await self._write(lambda: self._protocol.send_text(text.encode()))
        elif isinstance(data := message.get("bytes"), (bytes, bytearray, memoryview)):
            await self._write(lambda: self._protocol.send_binary(bytes(data)))
        else:
            raise RuntimeError("the app sent websocket.send with neither text nor bytes")

    # The connection.

    def client_left(self) -> None:
        """It has left before the app has accepted or refused it."""
        self._end(_LOST)

    def drain(self) -> None:
        """It drains, and the app has no message in hand."""
        if self.open and self._disconnect is None:
            self._message = None  # nobody waits for it
            self._end(_GOING_AWAY, _WHY)
            self._http.service.listener.start_soon(self._close, _GOING_AWAY, _WHY)

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

    async def _close(self, code: int, reason: str | None = "") -> None:
        """Send our Close. The connection ends when the client has answered it."""
        if self._closed:
            return
        with contextlib.suppress(ClientDisconnected):
            # As much of the reason as a frame can take.
            reason = (reason or "").encode()[:_MAX_REASON].decode(errors="ignore")
            await self._write(lambda: self._send_close(code, reason))
            self._end(code, reason)
        # At a stop, its client has as long as the grace.
        if not self._connection.draining:
            self._reading.deadline = trio.current_time() + _CLOSE_TIMEOUT

    def _send_close(self, code: int, reason: str) -> None:
        self._protocol.send_close(code, reason)
        self._closed = True
        self._room.set()  # what the app has not received, it is not to receive

    async def _write(self, make: Callable[[], bytes | None]) -> None:
        """Write what this returns, or has the protocol send, when it is our turn."""
        sending = self._http.sending
        await trio.lowlevel.checkpoint_if_cancelled()  # as yet nothing is lost
        await sending.take()
        try:
            if self._closed:
                raise ClientDisconnected("the WebSocket is closed")
            try:
                data = make() or b""
            except InvalidState:
                raise ClientDisconnected("the client has closed the WebSocket") from None
            except (ProtocolError, AttributeError, TypeError, ValueError, struct.error) as exc:
                raise RuntimeError(f"what the app sent can't be sent: {exc}") from exc
            await self._send(data + b"".join(self._protocol.data_to_send()))
        finally:
            sending.give_back()

    async def _send(self, data: bytes) -> None:
        try:
            await self._http.stream.send_all(data)
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
        silent = self._http.service.silent
        silent.add(self)
        try:
            with self._reading:
                data, self._http.parser.ahead = self._http.parser.ahead, b""
                while not await self._take(data) and (data := await self._receive()):
                    pass
        finally:
            silent.discard(self)
        self._closed = True
        self._end(_LOST)

    async def _receive(self) -> bytes:
        """What the client sends next; nothing if it is gone."""
        self.idle_since = trio.current_time()
        try:
            return bytes(await self._http.stream.receive_some())
        except trio.BrokenResourceError:
            return b""
        finally:
            self.idle_since = math.inf
            self._has_pinged = False

    def give_up(self) -> None:
        """Its client is silent: ask whether it is still there, or give it up."""
        if not self._has_pinged:
            self._has_pinged = True
            self._http.service.listener.start_soon(self._ping)
        elif not self._closed:
            self._reading.cancel("the client is silent")

    async def _ping(self) -> None:
        with contextlib.suppress(ClientDisconnected):
            await self._write(lambda: self._protocol.send_ping(b""))

    async def _take(self, data: bytes) -> bool:
        """Returns whether that was the end."""
        protocol = self._protocol
        was_open = protocol.state is State.OPEN  # then our Close has not been sent
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.CLOSE:
                break
            is_data = frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
            if is_data and not self._closed and not await self._gather(frame):
                break
        if protocol.eof_sent:  # both have closed, or the client broke the protocol
            is_closed_by_client = protocol.close_rcvd is not None and protocol.parser_exc is None
            close = protocol.close_rcvd if is_closed_by_client else protocol.close_sent
            assert close is not None
            if protocol.parser_exc is not None and was_open:
                self._http.service.log_refusal(self._connection, close.code, close.reason)
                self._connection.more_to_come = True
            self._end(close.code, close.reason)
            self._closed = True
            self._room.set()
        answer = b"".join(protocol.data_to_send())  # Pong, or Close
        if answer and was_open:
            sending = self._http.sending
            await sending.take()
            try:
                if protocol.eof_sent or not self._closed:
                    with contextlib.suppress(ClientDisconnected):
                        await self._send(answer)
            finally:
                sending.give_back()
        return protocol.eof_sent

    async def _gather(self, frame: Frame) -> bool:
        """Deliver the message that ends with this frame. False if it is none."""
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts += frame.data
        if frame.fin:
            whole, self._parts = self._parts, bytearray()
            if not self._is_text:
                await self._deliver({"type": "websocket.receive", "bytes": bytes(whole)})
                return True
            try:
                text = whole.decode()
            except UnicodeDecodeError:
                if not self._protocol.eof_sent:  # else there was more wrong
                    reason = "a text that is not UTF-8"
                    self._http.service.log_refusal(self._connection, _NOT_UTF8, reason)
                    self._connection.more_to_come = True
                    self._protocol.fail(_NOT_UTF8, reason)
                return False
            await self._deliver({"type": "websocket.receive", "text": text})
        return True

    async def _deliver(self, message: Message) -> None:
        while self._message is not None and self._disconnect is None and not self._closed:
            self._room = trio.Event()
            await self._room.wait()
        # An app that is busy when the connection drains goes on until it is not: what it has not
        # received by then is dropped in drain().
        if self._disconnect is None and not self._closed:
            self._message = message
            if self._receiving:
                self._take_in_hand()
            self._arrived.set()
