"""One table for every listener for streams: a client in each state, at each kind of stop, and what
comes of it.
"""

import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from trio_run import (
    Group,
    HTTPListener,
    SignalReceiver,
    TCPListener,
    UnixListener,
    WebSocketListener,
    busy,
)
from trio_run._listeners._stream import StreamListener

from .. import TIMEOUT
from .serving import (
    HOST,
    Server,
    connected_to,
)

GRACE = 4.0  # less than the 5 s after which a group logs who holds it up
LINGER = 2.0
FIRST_REQUEST = 0.5
BIG = bytes(range(256)) * (1 << 14)  # more than the buffers of any socket hold
SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOPS = ["grace", "grace_over", "no_grace", "second_signal", "cancelled"]


# What is served: requests of four bytes, on a stream, as messages, or over HTTP.

LENGTHS = {"ping": 4, "fill": len(BIG)}  # of the answers; the others have eight bytes


class Service:
    def __init__(self) -> None:
        self.go = trio.Event()  # lets go of what it holds
        self.begun = self.answered = 0  # of the pings
        self.in_block = trio.Event()

    async def on_stream(self, stream: trio.abc.Stream) -> None:
        async def read() -> bytes:
            request = b""
            while len(request) < 4 and (chunk := await stream.receive_some(4 - len(request))):
                request += chunk
            return request if len(request) == 4 else b""

        await self._serve(read, stream.send_all)

    async def on_websocket(self, request: Any) -> None:
        websocket = await request.accept()
        await self._serve(websocket.get_message, websocket.send_message)

    async def on_asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in ("http", "websocket"), "there is no lifespan"
        if scope["type"] == "http":
            await self._on_request(scope["path"][1:], receive, send)
            return

        async def read() -> bytes:
            message = await receive()
            return message["bytes"] if message["type"] == "websocket.receive" else b""

        async def write(data: bytes) -> None:
            await send({"type": "websocket.send", "bytes": data})

        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        await self._serve(read, write)

    async def _on_request(self, request: str, receive: Any, send: Any) -> None:
        async def read() -> bytes:
            body, message = b"", {"more_body": True}
            while message.get("more_body"):
                message = await receive()
                body += message.get("body", b"")
            return body

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        headers = [(b"Content-Length", b"%d" % LENGTHS.get(request, 8))]
        if request == "last":
            headers.append((b"Connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._answer(request.encode(), read, write)
        await send({"type": "http.response.body"})

    async def _serve(
        self,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[object]],
    ) -> None:
        try:
            while request := await read():
                if request == b"open":  # an upload, and not busy with it
                    await write(b"part")
                    if await read() != b"body":
                        return
                with busy():
                    await self._answer(request, read, write)
                if request == b"last":
                    return
        finally:
            with busy():  # has something to tidy up, which must not change what its client sees
                await trio.lowlevel.checkpoint()

    async def _answer(
        self,
        request: bytes,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[object]],
    ) -> None:
        self.in_block.set()
        if request == b"ping":
            self.begun += 1
            await write(b"po")
            await trio.lowlevel.checkpoint()
            await write(b"ng")
            self.answered += 1
        elif request in (b"hold", b"last"):
            await write(b"part")
            await self.go.wait()
            await write(b"done")
        elif request == b"take":
            await write(b"part")
            body = await read()
            await write(b"done" if body == b"body" else b"torn")
        elif request == b"fill":
            await write(BIG)
        else:
            assert request == b"open"
            await write(b"done")


# The transports: how a client speaks, and what an end looks like.


class Layer(Protocol):
    """A protocol of a client above its socket, without any input or output."""

    ready: bool
    farewell: str  # how the server said goodbye in this protocol, "" if it has not

    def hello(self) -> bytes: ...
    def encode(self, data: bytes) -> bytes: ...
    def decode(self, data: bytes) -> tuple[bytes, bytes]: ...  # what it says, and our answer
    def half_close(self) -> bytes | None: ...  # None is the layer's below


class TLS:
    def __init__(self, context: ssl.SSLContext) -> None:
        self.ready = False
        self.farewell = ""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
        return self._outgoing.read()

    def encode(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        self._incoming.write(data)
        said = b""
        try:
            if not self.ready:
                self._object.do_handshake()
                self.ready = True
            while chunk := self._object.read(1 << 20):
                said += chunk
            self.farewell = "close_notify"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # where we have closed it too
            self.farewell = "close_notify"
        return said, self._outgoing.read()

    def half_close(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.unwrap()
        return self._outgoing.read()


class WebSocket:
    def __init__(self) -> None:
        self.ready = False
        self._protocol = ClientProtocol(parse_uri("ws://localhost/"), max_size=None)

    @property
    def farewell(self) -> str:
        close = self._protocol.close_rcvd
        return f"Close {close.code}" if close is not None else ""

    def hello(self) -> bytes:
        self._protocol.send_request(self._protocol.connect())
        return b"".join(self._protocol.data_to_send())

    def encode(self, data: bytes) -> bytes:
        if self.farewell:  # nothing may be sent any more
            return b""
        self._protocol.send_binary(data)
        return b"".join(self._protocol.data_to_send())

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        self._protocol.receive_data(data)
        said = b""
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self.ready = event.status_code == 101
                said += b"" if self.ready else b"%d" % event.status_code
            elif event.opcode is Opcode.BINARY:
                said += event.data
        return said, b"".join(self._protocol.data_to_send())

    def half_close(self) -> bytes:
        self._protocol.send_close(1000)
        return b"".join(self._protocol.data_to_send())


class HTTP:
    """Requests that need not wait for each other's responses."""

    ready = True

    def __init__(self) -> None:
        self._received = b""
        self._missing = 0  # bytes of a body
        self._connection = ""  # the header of the last response

    @property
    def farewell(self) -> str:
        """It is "close" where the last response is whole, and says that it is the last."""
        return "" if self._missing else self._connection

    def hello(self) -> bytes:
        return b""

    def encode(self, data: bytes) -> bytes:
        if data == b"body":
            return data
        method, more = (b"POST", b"Content-Length: 4\r\n") if data == b"take" else (b"GET", b"")
        return b"%s /%s HTTP/1.1\r\nHost: test\r\n%s\r\n" % (method, data, more)

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        self._received += data
        said = b""
        while self._received:
            if not self._missing:
                head, end, rest = self._received.partition(b"\r\n\r\n")
                if not end:
                    break
                self._received = rest
                said += self._read_head(head.decode().lower().split("\r\n"))
            body = self._received[: self._missing]
            said += body
            self._received = self._received[len(body) :]
            self._missing -= len(body)
        return said, b""

    def _read_head(self, lines: list[str]) -> bytes:
        status = lines[0].split()[1]
        headers = dict(line.split(": ", 1) for line in lines[1:])
        self._connection = headers.get("connection", "")
        self._missing = int(headers["content-length"])
        return b"" if status == "200" else status.encode()

    def half_close(self) -> None:
        return None


@dataclass(frozen=True)
class Transport:
    name: str
    listener: Callable[..., StreamListener]
    tls: bool = False
    layer: type[Layer] | None = None  # above TCP, a Unix socket, or TLS
    header: bytes = b""  # of a proxy, which the listener expects

    @property
    def handler(self) -> str:
        """The method of Service that it is served by."""
        return {HTTPListener: "on_asgi", WebSocketListener: "on_websocket"}.get(
            self.listener, "on_stream"
        )

    @property
    def traits(self) -> set[str]:
        """What a row of the table may call it."""
        kinds = {{None: "stream", HTTP: "http", WebSocket: "websocket"}[self.layer]}
        if self.listener is HTTPListener and self.layer is WebSocket:
            kinds.add("asgi")
        if self.tls:
            return kinds | {"tls"} | {f"{kind}+tls" for kind in kinds}
        return kinds | {f"plain {kind}" for kind in kinds}

    def ends(self, word: str) -> set[str]:
        """What a client of this transport sees where the table says that word."""
        tls = "close_notify " if self.tls else ""
        websocket = "Close 1001 " if self.layer is WebSocket else ""
        last = "close " if self.layer is HTTP else websocket
        half = {"eof" if self.listener is UnixListener else "reset"}  # a Unix socket knows none
        if "asgi" in self.traits:
            half = {"eof", "reset"}  # the app is a task of its own: it may be cut a little later
        torn = half if "asgi" in self.traits else {"reset"}
        return {
            "goodbye": {websocket + tls + "eof"},
            "goodbye, last": {last + tls + "eof"},  # in HTTP after a response that says so
            "goodbye, maybe last": {websocket + tls + "eof", last + tls + "eof"},
            "Close 1000": {"Close 1000 " + tls + "eof"},
            "Close, cut": {websocket + "eof"},
            "refused": {tls + "eof"},  # in HTTP
            "eof": {"eof"},
            "reset": {"reset"},
            "half": half,
            "torn": torn,
            "either": {"eof", "reset"},
            "reset, or gone": {"reset", "gone"},
            "gone": {"gone"},
        }[word]


TRANSPORTS = [
    Transport("tcp", TCPListener),
    Transport("tcp+tls", TCPListener, tls=True),
    Transport("unix", UnixListener),
    Transport("unix+tls", UnixListener, tls=True),
    Transport("ws", WebSocketListener, layer=WebSocket),
    Transport("wss", WebSocketListener, tls=True, layer=WebSocket),
    Transport("http", HTTPListener, layer=HTTP),
    Transport("https", HTTPListener, tls=True, layer=HTTP),
    Transport("asgi+ws", HTTPListener, layer=WebSocket),
    Transport("asgi+wss", HTTPListener, tls=True, layer=WebSocket),
    Transport("proxy+tcp", TCPListener, header=b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\n"),
    Transport("proxy+https", HTTPListener, tls=True, layer=HTTP, header=b"PROXY UNKNOWN\r\n"),
]


class Client:
    """It reads all the time, unless it is told to pause, and hangs up at the end of the stream."""

    def __init__(self, address: Any, layers: list[Layer], header: bytes) -> None:
        self.got = b""
        self.end = ""
        self.answers_the_end = True
        self._layers = layers
        self._socket = connected_to(address)
        self._socket.sendall(header)
        if isinstance(address, tuple):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(self._socket)
        self._reading = trio.CancelScope()
        self._paused = False
        self._news = trio.Event()
        self._open = False
        self._queued: list[bytes] = []  # until its handshakes are done
        self._out = bytearray()
        self._held = b""  # the other half of what was sent by half
        self._halve = False

    # Speaking: at once, without a checkpoint.

    def shake_hands(self, *, halve: type[Layer] | None = None) -> None:
        """Begin with it; of the first flight of one of the protocols send the first half only."""
        self._halved_layer = halve
        self._start(0)

    def send(self, data: bytes, *, half: bool = False) -> None:
        if not self._open:
            self._queued.append(data)
            return
        self._halve = half
        self._down(data, len(self._layers))

    def send_the_rest(self) -> None:
        self._put(b"")

    def half_close(self) -> None:
        for level, layer in reversed(list(enumerate(self._layers))):
            if (data := layer.half_close()) is not None:
                self._down(data, level)
                return
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """On a Unix socket it is one because there are replies that this client has not read."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
        self._finish("gone")

    def _start(self, level: int) -> None:
        if level == len(self._layers):
            self._open = True
            for data in self._queued:
                self.send(data)
        else:
            layer = self._layers[level]
            self._halve = type(layer) is self._halved_layer
            self._down(layer.hello(), level)
            if layer.ready:
                self._start(level + 1)

    def _down(self, data: bytes, level: int) -> None:
        for layer in reversed(self._layers[:level]):
            data = layer.encode(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        data = self._held + data
        keep = len(data) // 2 if self._halve else len(data)
        self._halve = False
        data, self._held = data[:keep], data[keep:]
        self._out += data
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # the reader sees what has become of it
            self._out.clear()

    def _up(self, data: bytes, level: int = 0) -> None:
        if level == len(self._layers):
            self.got += data
            return
        layer = self._layers[level]
        was_ready = layer.ready
        said, answer = layer.decode(data)
        if answer and (self.answers_the_end or not layer.farewell):
            self._down(answer, level)
        if layer.ready and not was_ready:
            self._start(level + 1)
        if said and layer.ready:
            self._up(said, level + 1)
        else:
            self.got += said  # a refusal

    # Listening.

    async def run(self) -> None:
        while not self.end:
            with trio.CancelScope() as self._reading:
                if not self._paused:
                    await self._read()
            if self._paused:
                await self._change()

    async def _read(self) -> None:
        while not self.end:
            try:
                data = await self._stream.recv(1 << 20)
            except ConnectionResetError:
                self._finish("reset")
            except trio.ClosedResourceError:  # by reset()
                return
            else:
                if data:
                    self._up(data)
                    self._tell()
                else:
                    self._finish("eof")

    def pause(self) -> None:
        self._paused = True
        self._reading.cancel()

    def resume(self) -> None:
        self._paused = False
        self._tell()

    async def received(self, data: bytes) -> None:
        while self.got != data:
            assert not self.end, f"{self.end} after {self.got[:100]!r}"
            await self._change()

    async def opened(self) -> None:
        while not self._open:
            await self._change()

    async def ended(self) -> None:
        while not self.end:
            await self._change()

    async def pour(self, data: bytes) -> None:
        """Send that for ever, as fast as the server takes it."""
        while not self.end:
            if self._out:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._socket)
                self._flush()
            else:
                self.send(data)
                await trio.lowlevel.checkpoint()

    async def _change(self) -> None:
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _finish(self, how: str) -> None:
        farewells = [layer.farewell for layer in reversed(self._layers) if layer.farewell]
        self.end = " ".join([*farewells, how]) if how != "gone" else how
        self._out.clear()
        self.close()
        self._tell()

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


# One cell of the table: a client, and the server that it is with.


@dataclass
class Cell:
    transport: Transport
    stop: str
    server: Server
    service: Service
    nursery: trio.Nursery
    clock: MockClock
    client_context: ssl.SSLContext
    outside: trio.CancelScope  # around the group
    clients: list[Client] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return self.clients[-1]

    def connect(self) -> Client:
        layers: list[Layer] = [TLS(self.client_context)] if self.transport.tls else []
        if self.transport.layer is not None:
            layers.append(self.transport.layer())
        client = Client(self.server.address, layers, self.transport.header)
        self.clients.append(client)
        self.nursery.start_soon(client.run)
        return client

    async def connected(self) -> Client:
        """A client that has done its handshakes, and that the listener has accepted."""
        client = self.connect()
        client.shake_hands()
        await client.opened()
        await settle()
        return client


async def settle() -> None:
    """Everything that can happen without time passing has happened, in the kernel too."""
    await wait_all_tasks_blocked(0.002)


# What a client does before the stop.


async def ask(cell: Cell) -> None:
    client = await cell.connected()
    client.send(b"ping")
    await client.received(b"pong")


async def say_nothing(cell: Cell) -> None:
    await cell.connected()


async def begin(cell: Cell, request: bytes = b"hold") -> None:
    client = await cell.connected()
    client.send(request)
    await client.received(b"part")


async def upload(cell: Cell) -> None:
    await begin(cell, b"take")
    cell.client.send(b"body", half=True)


async def upload_outside_busy(cell: Cell) -> None:
    await begin(cell, b"open")
    cell.client.send(b"body", half=True)


async def half_close(cell: Cell) -> None:
    await begin(cell)
    cell.client.half_close()


async def read_nothing(cell: Cell, request: bytes = b"fill") -> None:
    client = await cell.connected()
    client.pause()
    client.send(request)
    await cell.service.in_block.wait()


async def hang_on(cell: Cell) -> None:
    """It does not hang up when it is to, nor answer a Close, and has half a request on its way."""
    await ask(cell)
    cell.client.answers_the_end = False
    cell.client.send(b"ping", half=True)


async def reset_idle(cell: Cell) -> None:
    await read_nothing(cell, b"ping")
    await settle()
    cell.client.reset()


async def reset_busy(cell: Cell) -> None:
    await read_nothing(cell, b"hold")
    await settle()
    cell.client.reset()


async def hold_unread(cell: Cell) -> None:
    await read_nothing(cell, b"hold")


async def pipeline(cell: Cell) -> None:
    await begin(cell)
    for _ in range(1000):
        cell.client.send(b"ping")


async def pipeline_past_the_last(cell: Cell) -> None:
    client = await cell.connected()
    for request in [b"last"] + 100 * [b"ping"]:
        client.send(request)
    await client.received(b"part")


async def queue(cell: Cell) -> None:
    """Behind another client, which is idle: there is room for one."""
    await ask(cell)
    client = cell.connect()
    client.send(b"ping")
    client.shake_hands()


async def begin_tls(cell: Cell) -> None:
    client = cell.connect()
    client.send(b"ping")
    client.shake_hands(halve=TLS)


async def begin_http(cell: Cell) -> None:
    client = cell.connect()
    client.send(b"ping")
    client.shake_hands(halve=WebSocket)


# What it does during the stop.


def reset(cell: Cell) -> None:
    cell.client.reset()


def ask_again(cell: Cell) -> None:
    cell.client.send(b"ping")


async def let_go(cell: Cell) -> None:
    cell.service.go.set()


async def send_the_rest(cell: Cell) -> None:
    cell.client.send_the_rest()


async def read_all(cell: Cell) -> None:
    cell.client.resume()
    await cell.client.received(BIG)


async def go_on_for_ever(cell: Cell) -> None:
    cell.service.go.set()
    await cell.client.pour(b"ping")


# What it sees, and what the report says.


@dataclass(frozen=True)
class Seen:
    # All that it was sent; or "torn", some of BIG; "begun", an answer to all that were begun;
    # "some", a part of those.
    got: bytes | str
    end: str  # a word of Transport.ends
    detail: str = "1 drained, 0 cut"
    outcome: str = "returned"
    most: float = 0.0  # seconds that the stop took, at the most


def told(got: bytes | str, end: str = "goodbye", **more: Any) -> Seen:
    """It was answered whole, and told to end."""
    return Seen(got, end, **more)


def cut(got: bytes | str, end: str = "eof", **more: Any) -> Seen:
    """It was not."""
    return Seen(got, end, **({"detail": "0 drained, 1 cut", "outcome": "cut"} | more))


def half(got: bytes | str, **more: Any) -> Seen:
    """It was cut in the midst of an answer."""
    return cut(got, "half", **more)


@dataclass(frozen=True)
class Case:
    """A row: what a client does, and a column for each kind of stop.

    grace          it goes on as a client should: sends the rest, reads, hangs up
    grace_over     it does nothing more, and the grace is over
    no_grace       a grace of 0
    second_signal  a signal, it does nothing more, and another signal if the group still runs
    cancelled      the group is cancelled from outside
    """

    name: str
    before: Callable[[Cell], Awaitable[None]]
    grace: Seen
    grace_over: Seen
    no_grace: Seen
    second_signal: Seen
    cancelled: Seen
    at_once: Callable[[Cell], None] | None = None  # at the moment of the stop
    meanwhile: Callable[[Cell], None] | None = None  # during the stop, where it lasts
    after: Callable[[Cell], Awaitable[None]] | None = None  # and this with grace
    only: str = ""  # the transports that have this at all, by a trait
    unless: str = ""  # those that have it not
    room: int | None = None  # max_connections
    but: dict[str, dict[str, Seen]] = field(default_factory=dict)  # by traits: what differs there

    def seen(self, transport: Transport, stop: str) -> Seen:
        for traits, row in self.but.items():
            if stop in row and not transport.traits.isdisjoint(traits.split(" or ")):
                return row[stop]
        seen: Seen = getattr(self, stop)
        return seen


NO_CLIENT = "0 drained, 0 cut"
FAILED = "1 drained, 0 cut, 1 failed"
GONE = Seen(b"", "gone", NO_CLIENT + ", 1 failed")

TABLE = [
    Case(
        "idle",
        before=ask,
        grace=told(b"pong"),
        grace_over=told(b"pong"),
        no_grace=cut(b"pong"),
        second_signal=told(b"pong"),  # that has nothing left to cut
        cancelled=cut(b"pong"),
    ),
    Case(
        "silent",
        before=say_nothing,
        grace=told(b""),
        grace_over=told(b""),
        no_grace=cut(b""),
        second_signal=told(b""),
        cancelled=cut(b""),
        but={
            "stream or http": {  # it has only just come, and may be about to ask
                "grace": told(b"", most=FIRST_REQUEST),
                "grace_over": told(b"", most=FIRST_REQUEST),
                "second_signal": cut(b""),
            }
        },
    ),
    Case(
        "asks at the moment of the stop",
        before=ask,
        at_once=ask_again,
        grace=told("begun", "goodbye, maybe last"),
        grace_over=told("begun", "goodbye, maybe last"),
        no_grace=cut("some", "either"),  # it may have been read, and even be in its block
        second_signal=told("begun", "goodbye, maybe last"),
        cancelled=cut("some", "either"),
    ),
    Case(
        "idle and does not hang up",
        before=hang_on,
        grace=told(b"pong", most=LINGER),
        grace_over=told(b"pong", most=LINGER),
        no_grace=cut(b"pong"),
        second_signal=told(b"pong"),
        cancelled=cut(b"pong"),
        but={
            "websocket": {  # its answer to the Close is waited for
                "grace": cut(b"pong", "Close, cut", most=GRACE),
                "grace_over": cut(b"pong", "Close, cut", most=GRACE),
                "second_signal": cut(b"pong", "Close, cut"),
            },
            "plain http": {  # its half of a request has come, and the rest is waited for
                "grace": cut(b"pong", "reset", most=GRACE),
                "grace_over": cut(b"pong", "reset", most=GRACE),
                "no_grace": cut(b"pong", "reset"),
                "second_signal": cut(b"pong", "reset"),
                "cancelled": cut(b"pong", "reset"),
            },
        },
    ),
    Case(
        "mid-request",
        before=begin,
        after=let_go,
        grace=told(b"partdone"),
        grace_over=half(b"part", most=GRACE),
        no_grace=half(b"part"),
        second_signal=half(b"part"),
        cancelled=half(b"part"),
    ),
    Case(
        "mid-upload",
        before=upload,
        after=send_the_rest,
        grace=told(b"partdone"),
        grace_over=half(b"part", most=GRACE),
        no_grace=half(b"part"),
        second_signal=half(b"part"),
        cancelled=half(b"part"),
    ),
    Case(
        "mid-upload outside busy",
        unless="http",  # where a request is busy from its first byte
        before=upload_outside_busy,
        grace=told(b"part"),
        grace_over=told(b"part"),
        no_grace=cut(b"part"),
        second_signal=told(b"part"),
        cancelled=cut(b"part"),
    ),
    Case(
        "half-closed mid-request",  # in TLS by a close_notify, in a WebSocket by a Close
        before=half_close,
        after=let_go,
        grace=told(b"partdone"),
        grace_over=half(b"part", most=GRACE),
        no_grace=half(b"part"),
        second_signal=half(b"part"),
        cancelled=half(b"part"),
        but={
            "asgi": {  # as below, and the connection has ended, only the app is there yet
                "grace": told(b"part", "Close 1000", detail=NO_CLIENT),
                "grace_over": cut(b"part", "Close 1000", detail=NO_CLIENT, most=GRACE),
                "no_grace": cut(b"part", "Close 1000", detail=NO_CLIENT),
                "second_signal": cut(b"part", "Close 1000", detail=NO_CLIENT),
                "cancelled": cut(b"part", "Close 1000", detail=NO_CLIENT),
            },
            "websocket": {  # it has had its Close by then: in a WebSocket that ends both ways
                "grace": told(b"part", "Close 1000"),
                "grace_over": cut(b"part", "Close 1000", most=GRACE),
                "no_grace": cut(b"part", "Close 1000"),
                "second_signal": cut(b"part", "Close 1000"),
                "cancelled": cut(b"part", "Close 1000"),
            },
            "stream+tls": {  # its close_notify is unread
                "grace_over": cut(b"part", "reset", most=GRACE),
                "no_grace": cut(b"part", "reset"),
                "second_signal": cut(b"part", "reset"),
                "cancelled": cut(b"part", "reset"),
            },
        },
    ),
    Case(
        "slow reader",
        before=read_nothing,
        after=read_all,
        grace=told(BIG),
        grace_over=half("torn", most=GRACE),
        no_grace=half("torn"),
        second_signal=half("torn"),
        cancelled=half("torn"),
        but={
            "http": {  # what has been sent before may be waited for
                "grace_over": half("torn", most=GRACE + LINGER),
                "no_grace": half("torn", most=LINGER),
                "second_signal": half("torn", most=LINGER),
                "cancelled": half("torn", most=LINGER),
            }
        },
    ),
    Case(
        "slow reader that resets while stopping",
        before=read_nothing,
        meanwhile=reset,
        grace=Seen(b"", "gone", FAILED),
        grace_over=Seen(b"", "gone", FAILED),
        no_grace=half("torn"),
        second_signal=Seen(b"", "gone", FAILED),
        cancelled=half("torn"),
        but={
            "websocket or http": {  # who tells of it as of any other close
                "grace": Seen(b"", "gone"),
                "grace_over": Seen(b"", "gone"),
                "second_signal": Seen(b"", "gone"),
            },
            "http": {  # what has been sent before may be waited for
                "no_grace": cut("torn", "reset, or gone", most=LINGER),
                "cancelled": cut("torn", "reset, or gone", most=LINGER),
            },
        },
    ),
    Case(
        "reset before, idle",
        before=reset_idle,
        grace=GONE,
        grace_over=GONE,
        no_grace=replace(GONE, outcome="cut"),
        second_signal=GONE,
        cancelled=replace(GONE, outcome="cut"),
        but={
            "websocket or http": {
                "grace": replace(GONE, detail=NO_CLIENT),
                "grace_over": replace(GONE, detail=NO_CLIENT),
                "no_grace": replace(GONE, detail=NO_CLIENT, outcome="cut"),
                "second_signal": replace(GONE, detail=NO_CLIENT),
                "cancelled": replace(GONE, detail=NO_CLIENT, outcome="cut"),
            }
        },
    ),
    Case(
        "reset before, mid-request",
        before=reset_busy,
        after=let_go,
        grace=Seen(b"", "gone", FAILED),
        grace_over=cut(b"", "gone", most=GRACE),
        no_grace=cut(b"", "gone"),
        second_signal=cut(b"", "gone"),
        cancelled=cut(b"", "gone"),
        but={
            "asgi": {  # the connection has ended, only the app is there yet
                "grace": Seen(b"", "gone", NO_CLIENT),
                "grace_over": cut(b"", "gone", detail=NO_CLIENT, most=GRACE),
                "no_grace": cut(b"", "gone", detail=NO_CLIENT),
                "second_signal": cut(b"", "gone", detail=NO_CLIENT),
                "cancelled": cut(b"", "gone", detail=NO_CLIENT),
            },
            "websocket or http": {"grace": Seen(b"", "gone")},
        },
    ),
    Case(
        "resets while stopping, mid-request",
        before=hold_unread,
        meanwhile=reset,
        after=let_go,
        grace=Seen(b"", "gone", FAILED),
        grace_over=cut(b"", "gone", most=GRACE),
        no_grace=half(b"part"),
        second_signal=cut(b"", "gone"),
        cancelled=half(b"part"),
        but={
            "asgi": {  # its connection has ended, and the app is cut
                "grace_over": Seen(b"", "gone", outcome="cut", most=GRACE),
                "second_signal": Seen(b"", "gone", outcome="cut"),
            },
            "websocket or http": {"grace": Seen(b"", "gone")},
        },
    ),
    Case(
        "pipelining",
        before=pipeline,
        after=go_on_for_ever,
        grace=told("begun"),
        grace_over=cut(b"part", "torn", most=GRACE),
        no_grace=cut(b"part", "torn"),
        second_signal=cut(b"part", "torn"),
        cancelled=cut(b"part", "torn"),
    ),
    Case(
        "pipelining past the last answer",  # the handler returns with the rest unread
        before=pipeline_past_the_last,
        after=go_on_for_ever,
        grace=told(b"partdone"),
        grace_over=cut(b"part", "torn", most=GRACE),
        no_grace=cut(b"part", "torn"),
        second_signal=cut(b"part", "torn"),
        cancelled=cut(b"part", "torn"),
        but={
            "tls": {  # what is unread has left the kernel, or not
                "grace_over": cut(b"part", "either", most=GRACE),
                "no_grace": cut(b"part", "either"),
                "second_signal": cut(b"part", "either"),
                "cancelled": cut(b"part", "either"),
            },
            "websocket": {
                "grace_over": cut(b"part", "either", most=GRACE),
                "no_grace": cut(b"part", "either"),
                "second_signal": cut(b"part", "either"),
                "cancelled": cut(b"part", "either"),
            },
            "http": {"grace": told(b"partdone", "goodbye, last")},
        },
    ),
    Case(
        "in the accept queue",
        before=queue,
        room=1,
        grace=told(b"pong", detail="2 drained, 0 cut"),
        grace_over=told(b"pong", detail="2 drained, 0 cut"),
        no_grace=cut(b"", "reset"),  # nobody has accepted it, so nobody cuts it
        second_signal=told(b"pong", detail="2 drained, 0 cut"),
        cancelled=cut(b"", "reset"),
        but={
            "websocket": {
                "grace": told(b"503", "refused", detail="2 drained, 0 cut"),
                "grace_over": told(b"503", "refused", detail="2 drained, 0 cut"),
                "second_signal": told(b"503", "refused", detail="2 drained, 0 cut"),
            },
            "http": {
                "grace": told(b"pong", "goodbye, last", detail="2 drained, 0 cut"),
                "grace_over": told(b"pong", "goodbye, last", detail="2 drained, 0 cut"),
                "second_signal": told(b"pong", "goodbye, last", detail="2 drained, 0 cut"),
            },
        },
    ),
    Case(
        "in its TLS handshake, where it stays",
        before=begin_tls,
        only="tls",  # without TLS there is none
        grace=told(b"", "eof", most=FIRST_REQUEST),
        grace_over=told(b"", "eof", most=FIRST_REQUEST),
        no_grace=cut(b""),
        second_signal=cut(b""),
        cancelled=cut(b""),
    ),
    Case(
        "in its TLS handshake, and goes on",
        before=begin_tls,
        after=send_the_rest,
        only="tls",
        grace=told(b"pong"),
        grace_over=told(b"", "eof", most=FIRST_REQUEST),
        no_grace=cut(b""),
        second_signal=cut(b""),
        cancelled=cut(b""),
        but={
            "websocket": {"grace": told(b"503", "refused")},
            "http": {"grace": told(b"pong", "goodbye, last")},
        },
    ),
    Case(
        "in its HTTP handshake",
        before=begin_http,
        only="websocket",  # streams have none
        grace=told(b"503", "refused"),
        grace_over=told(b"503", "refused"),
        no_grace=cut(b""),
        second_signal=told(b"503", "refused"),
        cancelled=cut(b""),
        but={
            "plain asgi": {  # a half of a request has come, and the rest is waited for
                "grace": cut(b"", "reset", most=GRACE),
                "grace_over": cut(b"", "reset", most=GRACE),
                "no_grace": cut(b"", "reset"),
                "second_signal": cut(b"", "reset"),
                "cancelled": cut(b"", "reset"),
            },
            "asgi+tls": {  # no byte of it has come out of TLS
                "grace": told(b"", "refused", most=FIRST_REQUEST),
                "grace_over": told(b"", "refused", most=FIRST_REQUEST),
                "second_signal": cut(b""),
            },
        },
    ),
]


# How a cell is played, and checked.


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Time stands still, but for a test that would hang."""
    autojump_clock.autojump_threshold = 2.0
    return autojump_clock


@pytest.fixture(autouse=True)
def _no_stray_signals() -> Iterator[None]:
    """A signal that nobody receives fails the test, where it would end the whole test run."""
    stray: list[int] = []
    before = {number: signal.signal(number, lambda n, _: stray.append(n)) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert stray == []


def descriptors() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            found.add(f"{descriptor.name} {descriptor.readlink()}")
    return found


def tasks() -> set[trio.lowlevel.Task]:
    found: set[trio.lowlevel.Task] = set()
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        found.add(task)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def listing(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@asynccontextmanager
async def nothing_left_behind(directory: Path) -> AsyncIterator[None]:
    before = descriptors(), tasks(), listing(directory)
    yield
    assert (descriptors(), tasks(), listing(directory)) == before


@asynccontextmanager
async def playing(
    case: Case,
    transport: Transport,
    stop: str,
    directory: Path,
    clock: MockClock,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> AsyncIterator[Cell]:
    service = Service()
    where: dict[str, Any] = {"port": 0, "host": HOST}
    if transport.listener is UnixListener:
        where = {"path": directory / "socket"}
    listener = transport.listener(
        getattr(service, transport.handler),
        ssl_context=contexts[0] if transport.tls else None,
        max_connections=case.room,
        proxy_protocol=bool(transport.header),
        **where,
    )
    server = Server(listener, Group(grace=0 if stop == "no_grace" else GRACE))
    server.group.add(listener)
    if stop == "second_signal":
        server.group.add(SignalReceiver())
    outside = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with outside:
            await server.group.run(task_status=task_status)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            cell = Cell(transport, stop, server, service, nursery, clock, contexts[1], outside)
            try:
                yield cell
            finally:
                for client in cell.clients:
                    client.close()
            nursery.cancel_scope.cancel()


async def play(case: Case, cell: Cell) -> float:
    """Bring the client to its state, and stop. Returns how long the stop took."""
    await case.before(cell)
    await settle()
    began = trio.current_time()
    ended = cell.server.ended
    if cell.stop == "cancelled":
        cell.outside.cancel()
    elif cell.stop == "second_signal":
        signal.raise_signal(signal.SIGTERM)
    else:
        cell.server.group.stop()
    if case.at_once is not None:
        case.at_once(cell)
    await settle()
    if case.meanwhile is not None and not ended.is_set():
        case.meanwhile(cell)
        await settle()
    if cell.stop == "grace" and case.after is not None:
        await case.after(cell)
    elif cell.stop == "second_signal" and not ended.is_set():
        signal.raise_signal(signal.SIGTERM)
    cell.clock.autojump_threshold = 0.02
    await ended.wait()
    took = trio.current_time() - began
    cell.clock.autojump_threshold = 2.0
    cell.client.resume()
    await cell.client.ended()
    return took


def check(seen: Seen, cell: Cell, took: float, caplog: pytest.LogCaptureFixture) -> None:
    client, service = cell.client, cell.service
    if seen.got == "torn":
        assert BIG.startswith(client.got)
        assert len(client.got) < len(BIG)
    elif seen.got == "some":
        assert (b"pong" * (1 + service.begun)).startswith(client.got)
    elif seen.got == "begun":
        assert service.answered == service.begun
        head = b"partdone" if service.go.is_set() else b""
        assert client.got == head + b"pong" * service.begun
    else:
        assert client.got == seen.got
    assert client.end in cell.transport.ends(seen.end)
    details = {seen.detail}
    if "maybe last" in seen.end:  # then it may have ended the connection before all drain
        details.add(NO_CLIENT)
    member = cell.server.group.members[0]
    assert member.status in details
    assert member.outcome == seen.outcome
    assert took <= seen.most
    if cell.stop == "grace_over" and seen.outcome == "cut":
        assert took >= GRACE
    if cell.stop != "cancelled":  # then there is none
        report = cell.server.report
        assert report.actors[0].detail == member.status
        assert report.actors[0].outcome == seen.outcome
        forced = cell.stop == "second_signal" and seen.outcome == "cut"
        assert report.exit_code == (128 + signal.SIGTERM if forced else 0)
    # A client's doings are no error of the server.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


CELLS = [
    pytest.param(case, transport, stop, id=f"{transport.name}-{case.name}-{stop}")
    for case in TABLE
    for transport in TRANSPORTS
    for stop in STOPS
    if (not case.only or case.only in transport.traits) and case.unless not in transport.traits
]


@pytest.mark.parametrize(("case", "transport", "stop"), CELLS)
async def test_what_a_client_sees_and_what_the_report_says(
    case: Case,
    transport: Transport,
    stop: str,
    tmp_path: Path,
    clock: MockClock,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with nothing_left_behind(tmp_path):
        async with playing(case, transport, stop, tmp_path, clock, contexts) as cell:
            took = await play(case, cell)
            check(case.seen(transport, stop), cell, took, caplog)
