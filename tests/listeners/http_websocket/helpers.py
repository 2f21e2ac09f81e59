"""What the tests of WebSockets of an app share."""

import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from wsproto.events import (
    AcceptConnection,
)

from trio_run import busy
from trio_run.testing import read_to_end

from ... import TIMEOUT
from ..http_serving import App, only_http, serving_app
from ..serving import Server
from ..websocket_client import WebSocketClient

REQUEST = (
    b"GET /path HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


TOLD = {"type": "websocket.disconnect", "code": 1001, "reason": "going away"}


LOST = {"type": "websocket.disconnect", "code": 1006, "reason": ""}


Receive = Callable[[], Awaitable[dict[str, Any]]]


Send = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def listening(app: App, **options: Any) -> AsyncIterator[Server]:
    async with serving_app(only_http(app), **options) as server:
        yield server


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[WebSocketClient]:
    """A client whose WebSocket is open."""
    async with await server.connect() as stream:
        client = WebSocketClient(stream)
        assert isinstance(await client.open(), AcceptConnection)
        yield client


async def visit(
    server: Server, talk: Callable[[websockets.sync.client.ClientConnection], Any], **options: Any
) -> Any:
    """What another library's client makes of it, in a thread: the result of talk."""
    host, port = server.address
    scheme = "wss" if "ssl" in options else "ws"
    path = options.pop("path", "/")

    def connect() -> Any:
        with websockets.sync.client.connect(
            f"{scheme}://{host}:{port}{path}", proxy=None, open_timeout=TIMEOUT, **options
        ) as client:
            return talk(client)

    return await trio.to_thread.run_sync(connect)


async def refused(server: Server, **options: Any) -> Any:
    """The response that another library's client gets instead of a WebSocket."""
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        await visit(server, lambda client: None, **options)
    return caught.value.response


async def accept(receive: Receive, send: Send, **more: Any) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **more})


async def say(send: Send, text: str) -> None:
    await send({"type": "websocket.send", "text": text})


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class Recording:
    """An app that accepts, and what it receives, to the end."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended = trio.Event()

    async def __call__(self, _scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while not self.seen or self.seen[-1]["type"] == "websocket.receive":
            self.seen.append(await receive())
        self.ended.set()


class Answering:
    """An app that says "begun", and "done" when it is let go; and what it has received."""

    def __init__(self, *, within_busy: bool = False) -> None:
        self.seen: list[Any] = []
        self.go = trio.Event()
        self._within_busy = within_busy

    async def __call__(self, _scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            self.seen.append(message["text"])
            if self._within_busy:
                with busy(), busy():
                    await self._answer(send)
                    self.seen.append((await receive()).get("text"))
                    await say(send, "done")
            else:
                await self._answer(send)
                await say(send, "done")
        self.seen.append(message["code"])

    async def _answer(self, send: Send) -> None:
        await say(send, "begun")
        await self.go.wait()


def reset_on_close(stream: trio.abc.Stream) -> None:
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    """What wsproto would not send. The mask is zero, so that it changes nothing."""
    size = len(payload)
    assert size < 126
    head = bytes([opcode | (0x80 if fin else 0), size | (0x80 if mask else 0)])
    return head + (bytes(4) if mask else b"") + payload


def error_of(record: logging.LogRecord) -> BaseException:
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return record.exc_info[1]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


async def is_refused(stream: trio.abc.Stream) -> bytes:
    """The status line of an HTTP answer that is followed by a clean end of stream."""
    return (await read_to_end(stream)).split(b"\r\n")[0]
