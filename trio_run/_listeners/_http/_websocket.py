"""A WebSocket of an ASGI app: its messages, and how it drains.

A message that the app has received is answered: the connection is busy from then until the app asks
for the next. When it drains, it is closed with 1001 (going away), and the app receives
websocket.disconnect with that code. The protocol is that of the library websockets.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import trio
from websockets.exceptions import InvalidState, ProtocolError

from ..._errors import Ending
from ._exchange import Exchange
from ._handshake import Handshake
from ._incoming import LOST, Incoming
from ._lifespan import ClientDisconnected, Message
from ._refusal import Refusal, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ._connection import HTTPConnection

_NORMAL, _GOING_AWAY, _FAILED = 1000, 1001, 1011
_WHY = "going away"
_CLOSE_TIMEOUT = 10.0  # seconds for a client to answer our Close
_MAX_REASON = 123  # bytes
_DENIAL = "websocket.http.response."


class WebSocket(Incoming):
    """One WebSocket, for the app: its scope, receive and send.

    Raises:
      Refusal: if the request is no handshake, or comes too late.
    """

    def __init__(self, http: HTTPConnection, scope: dict[str, Any]) -> None:
        if http.service.listener.draining:  # one that drains by its age is closed once it is open
            raise Refusal(503, _WHY)
        self._handshake = Handshake(http.parser, http.service.max_message_size)
        super().__init__(http, self._handshake.protocol)
        self.settled = trio.Event()  # accepted or refused
        self.status = 0  # with which
        self._told_connect = False
        self._denying = False  # has the app begun a response of its own?
        self._heard = False  # has the app heard that it is closed?
        self._receiving = 0  # how many of the app's tasks wait for a message
        self._in_hand = False  # has it one to answer?
        self._arrivals = trio.lowlevel.ParkingLot()  # who waits for a message
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
        elif self._http.service.listener.draining:
            await self._refuse(503, _WHY)
            raise ClientDisconnected("the server is going away")
        else:
            await self._write(self._handshake.accept, message)
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
            self._end(_GOING_AWAY if self._connection.draining else LOST)
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
            if self._message is not None:
                await trio.lowlevel.checkpoint()
            while self._message is None and self._disconnect is None:
                await self._arrivals.park()
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
        self._connection.has_waited()
        if self._has_fed:
            self._go_on()
        return message

    def _wake_app(self) -> None:
        if self._message is not None and self._receiving:
            self._take_in_hand()
        self._arrivals.unpark_all()

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
            await self._write(self._send_text, text)
        elif isinstance(data := message.get("bytes"), (bytes, bytearray, memoryview)):
            await self._write(self._protocol.send_binary, bytes(data))
        else:
            raise RuntimeError("the app sent websocket.send with neither text nor bytes")

    # The connection.

    def drain(self) -> None:
        """It drains, and the app has no message in hand."""
        if self.open and self._disconnect is None:
            self._message = None  # nobody waits for it
            self._end(_GOING_AWAY, _WHY)
            self._http.service.listener.start_soon(self._close, _GOING_AWAY, _WHY)

    async def _close(self, code: int, reason: str | None = "") -> None:
        """Send our Close. The connection ends when the client has answered it."""
        if self._closed:
            return
        with contextlib.suppress(ClientDisconnected):
            # As much of the reason as a frame can take.
            reason = (reason or "").encode()[:_MAX_REASON].decode(errors="ignore")
            await self._write(self._send_close, code, reason)
            self._end(code, reason)
        # At a stop, its client has as long as the grace.
        if not self._connection.draining:
            self._reading.deadline = trio.current_time() + _CLOSE_TIMEOUT

    def _send_text(self, text: str) -> None:
        self._protocol.send_text(text.encode())

    def _send_close(self, code: int, reason: str) -> None:
        self._protocol.send_close(code, reason)
        self._closed = True
        self._stir()  # what the app has not received, it is not to receive

    async def _write(self, make: Callable[..., bytes | None], *args: Any) -> None:
        """Write what this returns, or has the protocol send, when it is our turn."""
        sending = self._http.sending
        await trio.lowlevel.checkpoint_if_cancelled()  # as yet nothing is lost
        await sending.take()
        try:
            if self._closed:
                raise ClientDisconnected("the WebSocket is closed")
            try:
                data = make(*args) or b""
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
        self._end(LOST)
        self._reading.cancel("the connection is broken")

    def give_up(self) -> None:
        """Its client is silent: ask whether it is still there, or give it up."""
        if not self._has_pinged:
            self._has_pinged = True
            self._http.service.listener.start_soon(self._ping)
        elif not self._closed:
            self._reading.cancel("the client is silent")

    async def _ping(self) -> None:
        with contextlib.suppress(ClientDisconnected):
            await self._write(self._protocol.send_ping, b"")
