"""What the client of a WebSocket sends: its messages, as far as the app has room for them.

Where it is heard that something has come, it is read then and there and the app woken, without a
task in between: to hand a message from one task to another costs as much as to parse it. Elsewhere,
and with TLS, the task of the connection reads. It sends what the protocol answers, in any case.
What the app receives and sends is decided in _websocket.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING

import trio
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from ._lifespan import ClientDisconnected, Message

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

    from ._connection import HTTPConnection

LOST = 1006
_NOT_UTF8 = 1007
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Incoming(abc.ABC):
    """A WebSocket, as far as it is read."""

    def __init__(self, http: HTTPConnection, protocol: ServerProtocol) -> None:
        self._http = http
        self._connection = http.connection
        self._protocol = protocol
        self.open = False
        self._closed = False  # nothing more is sent
        self._reading = trio.CancelScope()
        self.idle_since = math.inf
        self._has_pinged = False  # since the client was last heard
        self._hears = False  # is it read as soon as something has come?
        self._frames: deque[Frame] = deque()  # that have come, and are not gathered
        self._was_open = True  # before they came: our Close has not been sent
        self._has_fed = False  # what follows from them is still to be concluded
        self._answer = b""  # to them: Pong, or Close
        self._is_read_up = False
        self._failure: Exception | None = None
        self._stirred = trio.Event()  # there is something to do for the connection's task
        self._parts = bytearray()  # of the message that is coming in
        self._is_text = False
        self._message: Message | None = None  # the next one
        self._disconnect: Message | None = None

    @abc.abstractmethod
    def give_up(self) -> None:
        """Its client is silent."""

    @abc.abstractmethod
    def _wake_app(self) -> None:
        """There is a message, or the end."""

    @abc.abstractmethod
    async def _send(self, data: bytes) -> None: ...

    async def read(self) -> None:
        """Read until both sides have closed, or the client is gone."""
        silent = self._http.service.silent
        silent.add(self)
        data, self._http.parser.ahead = self._http.parser.ahead, b""
        if data:
            self._feed(data)
        if self._http.stream is self._connection:
            self._hears = self._connection.call_at_input(self._go_on)
        try:
            with self._reading:
                await self._read()
        finally:
            silent.discard(self)
            self._hears = False
            self._closed = True
            self._end(LOST)

    async def _read(self) -> None:
        while True:
            self._take()
            if self._failure is not None:
                raise self._failure
            if self._answer:
                await self._send_answer()
            elif self._is_read_up:
                return
            elif self._hears or self._has_fed:
                await self._stirred.wait()
                self._stirred = trio.Event()
            else:
                self._feed(await self._receive())

    def client_left(self) -> None:
        """It has left before the app has accepted or refused it."""
        self._end(LOST)

    def _go_on(self) -> None:
        """Something has come, or the app has room."""
        if not self._hears:
            self._stir()
            return
        try:
            self._take()
        except Exception as exc:  # this may be the task of _readiness
            self._failure = exc
            self._stir()

    def _stir(self) -> None:
        self._stirred.set()

    def _has_room(self) -> bool:
        return self._message is None or self._disconnect is not None or self._closed

    def _take(self) -> None:
        """Take what has come, as far as the app has room for it."""
        has_read = False
        while not (self._answer or self._is_read_up):
            if self._has_fed:
                while self._frames:
                    if self._frames[0].opcode in _DATA and not self._has_room():
                        self.idle_since = math.inf
                        return
                    self._gather(self._frames.popleft())
                self._conclude()
            elif not self._hears:
                break
            elif has_read:
                if self._connection.may_have_input:
                    self._stir()  # others get their turn before there is more
                break
            elif (data := self._receive_now()) is None:
                break
            else:
                has_read = True
                self._feed(data)
        else:
            self._stir()
            return
        if self.idle_since == math.inf:
            self.idle_since = trio.current_time()

    def _receive_now(self) -> bytes | None:
        """What has come; nothing if the client is gone, and None if it is only silent."""
        try:
            return self._connection.receive_now()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def _receive(self) -> bytes:
        """What comes next; nothing if the client is gone."""
        try:
            return bytes(await self._http.stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    def _feed(self, data: bytes) -> None:
        self.idle_since = math.inf
        self._has_pinged = False
        if not data:
            self._is_read_up = True
            return
        self._was_open = self._protocol.state is State.OPEN
        self._protocol.receive_data(data)
        self._frames.extend(self._protocol.events_received())  # type: ignore[arg-type]
        self._has_fed = True

    def _gather(self, frame: Frame) -> None:
        """Deliver the message that ends with this frame."""
        if self._closed or frame.opcode not in _DATA:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        whole = bytes(frame.data)
        if not frame.fin or self._parts:
            self._parts += whole
            if not frame.fin:
                return
            whole, self._parts = bytes(self._parts), bytearray()
        if not self._is_text:
            self._deliver({"type": "websocket.receive", "bytes": whole})
            return
        try:
            text = whole.decode()
        except UnicodeDecodeError:
            self._frames.clear()
            if not self._protocol.eof_sent:  # else there was more wrong
                reason = "a text that is not UTF-8"
                self._http.service.log_refusal(self._connection, _NOT_UTF8, reason)
                self._connection.more_to_come = True
                self._protocol.fail(_NOT_UTF8, reason)
        else:
            self._deliver({"type": "websocket.receive", "text": text})

    def _deliver(self, message: Message) -> None:
        # An app that is busy when the connection drains goes on until it is not: what it has not
        # received by then is dropped in drain().
        if self._disconnect is None:
            self._message = message
            self._wake_app()

    def _conclude(self) -> None:
        """All that has come is gathered: see whether that was the end, and what is to be sent."""
        self._has_fed = False
        protocol = self._protocol
        if protocol.eof_sent:  # both have closed, or the client broke the protocol
            is_closed_by_client = protocol.close_rcvd is not None and protocol.parser_exc is None
            close = protocol.close_rcvd if is_closed_by_client else protocol.close_sent
            assert close is not None
            if protocol.parser_exc is not None and self._was_open:
                self._http.service.log_refusal(self._connection, close.code, close.reason)
                self._connection.more_to_come = True
            self._end(close.code, close.reason)
            self._closed = True
            self._is_read_up = True
        if self._was_open:
            self._answer = b"".join(protocol.data_to_send())

    async def _send_answer(self) -> None:
        sending = self._http.sending
        await sending.take()
        try:
            answer, self._answer = self._answer, b""
            if self._is_read_up or not self._closed:
                with contextlib.suppress(ClientDisconnected):
                    await self._send(answer)
        finally:
            sending.give_back()

    def _end(self, code: int, reason: str | None = None) -> None:
        """The app is to receive no more than what it has."""
        if self._disconnect is None:
            self._disconnect = {
                "type": "websocket.disconnect",
                "code": int(code),
                "reason": reason or "",
            }
        self._wake_app()
        self._stir()
