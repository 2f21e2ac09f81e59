"""WebSockets of an ASGI app on HTTPListener: section 4, rule 10.

The clients are wsproto, by hand, and websockets.
"""

import contextlib
import logging
import random
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from trio_run import Group, HTTPListener, busy, cancel_on_stop, stopping
from trio_run._inside import place
from trio_run._listeners._stream import StreamListener

from .http_serving import App, only_http, serving_app
from .serving import (
    HOST,
    TIMEOUT,
    Server,
    lines_of,
    name_of,
    open_descriptors,
    read_and_close,
    read_to_end,
)

REQUEST = (
    b"GET /path HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GOING_AWAY = CloseConnection(code=1001, reason="going away")
NORMAL = CloseConnection(code=1000, reason="")
TOLD = {"type": "websocket.disconnect", "code": 1001, "reason": "going away"}
LOST = {"type": "websocket.disconnect", "code": 1006, "reason": ""}

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Client:
    """A client by hand: it does nothing by itself, so that each test says what it does and when."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._protocol = WSConnection(ConnectionType.CLIENT)

    async def open(self, *subprotocols: str) -> Event | None:
        """Ask for a WebSocket; the answer is returned."""
        await self.ask(*subprotocols)
        return await self.receive()

    async def ask(self, *subprotocols: str, behind: bytes = b"") -> None:
        request = Request(host="localhost", target="/path", subprotocols=list(subprotocols))
        await self.stream.send_all(self._protocol.send(request) + behind)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self._protocol.send(event))

    async def say(self, *texts: str) -> None:
        await self.stream.send_all(b"".join(self._protocol.send(TextMessage(t)) for t in texts))

    async def receive(self) -> Event | None:
        """The next event; None at a clean end of stream."""
        while True:
            for event in self._protocol.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                return None
            self._protocol.receive_data(bytes(data))

    async def hear(self) -> str:
        """The next message, whole."""
        parts: list[str] = []
        while True:
            event = await self.receive()
            assert isinstance(event, TextMessage), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts)

    async def is_closed(self, close: CloseConnection) -> None:
        """It gets this Close and nothing before, answers it, and then the stream ends."""
        await self.is_told(close)
        await self.send(close.response())
        assert await self.receive() is None

    async def is_told(self, close: CloseConnection) -> None:
        event = await self.receive()
        assert isinstance(event, CloseConnection), event
        assert (event.code, event.reason or "") == (close.code, close.reason)


@asynccontextmanager
async def listening(app: App, **options: Any) -> AsyncIterator[Server]:
    async with serving_app(only_http(app), **options) as server:
        yield server


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Client]:
    """A client whose WebSocket is open."""
    async with await server.connect() as stream:
        client = Client(stream)
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


# The scope.


async def test_the_scope_says_what_the_client_asked_for() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        return client.local_address

    async with listening(app) as server:
        local = await visit(
            server,
            talk,
            path="/caf%C3%A9?x=1&y",
            subprotocols=["chat", "superchat"],
            additional_headers={"X-Who": "me"},
            compression=None,
        )
    [scope] = scopes
    headers = dict(scope.pop("headers"))
    assert headers[b"x-who"] == b"me"
    assert headers[b"sec-websocket-version"] == b"13"
    assert headers[b"sec-websocket-protocol"] == b"chat, superchat"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"x=1&y",
        "root_path": "",
        "client": tuple(local),
        "server": tuple(server.address),
        "subprotocols": ["chat", "superchat"],
        "extensions": {"websocket.http.response": {}},
    }


async def test_the_scope_has_a_copy_of_the_lifespans_state() -> None:
    states: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["database"] = "open"
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        states.append(scope["state"].copy())
        scope["state"]["mine"] = True
        await echo(scope, receive, send)

    async with serving_app(app) as server:
        for _ in range(2):
            async with opened(server):
                pass
    assert states == [{"database": "open"}] * 2


async def test_over_tls_it_is_wss(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    schemes: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        for message in ("hello", bytes(300_000)):
            client.send(message)
            assert client.recv(TIMEOUT) == message
        trio.from_thread.run_sync(server.group.stop)
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(app, ssl_context=server_context) as server:
        received = await visit(server, talk, ssl=client_context, server_hostname="localhost")
        assert str(received) == "1001 (going away) going away"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert schemes == ["wss"]


@pytest.mark.parametrize("how", ["end", "reset", "torn"])
async def test_over_tls_a_client_that_vanishes_is_heard_of(
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recording()
    async with listening(app, ssl_context=server_context) as server:
        transport = await server.connect()
        stream = trio.SSLStream(transport, client_context, server_hostname="localhost")
        assert isinstance(await Client(stream).open(), AcceptConnection)
        if how == "reset":
            reset_on_close(transport)
        # A torn one is without a close_notify.
        await (stream if how == "end" else transport).aclose()
        await app.ended.wait()
    assert app.seen == [LOST]
    assert not tracebacks(caplog)


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    scopes: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    def talk() -> None:
        with websockets.sync.client.unix_connect(str(path), "ws://localhost/") as client:
            client.send("hello")
            assert client.recv(TIMEOUT) == "hello"
            trio.from_thread.run_sync(server.group.stop)
            with pytest.raises(websockets.exceptions.ConnectionClosedOK):
                client.recv(TIMEOUT)

    async with listening(app, path=path) as server:
        await trio.to_thread.run_sync(talk)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert scopes[0]["client"] is None
    assert scopes[0]["server"] == (str(path), None)


# The handshake: accepted.


async def test_accept_with_a_subprotocol_and_headers() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, subprotocol="chat", headers=[(b"X-Hello", b"you")])
        await receive()

    def talk(client: websockets.sync.client.ClientConnection) -> None:
        assert client.subprotocol == "chat"
        assert client.response is not None
        assert client.response.headers["x-hello"] == "you"

    async with listening(app) as server:
        await visit(server, talk, subprotocols=["superchat", "chat"])


@pytest.mark.parametrize("more", [{}, {"subprotocol": None, "headers": []}, {"headers": iter(())}])
async def test_accept_with_nothing(more: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, **more)
        await receive()

    async with listening(app) as server, await server.connect() as stream:
        accepted = await Client(stream).open("chat")
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol is None
        assert accepted.extensions == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"subprotocol": "other"}, "unexpected subprotocol other"),
        ({"headers": [(b"bad name", b"x")]}, "can't be sent"),
        ({"headers": [(b"name", b"a\r\nb: c")]}, "can't be sent"),
    ],
)
async def test_an_accept_that_cannot_be_is_an_error_and_500(
    more: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, **more)

    async with listening(app) as server:
        response = await refused(server, subprotocols=["chat"])
        assert response.status_code == 500
        [record] = tracebacks(caplog)
        assert isinstance(error_of(record), RuntimeError)
        assert text in str(error_of(record))


async def test_after_an_accept_that_cannot_be_the_app_may_try_another() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="other"):
            await accept(receive, send, subprotocol="other")
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await receive()

    async with listening(app) as server, await server.connect() as stream:
        accepted = await Client(stream).open("chat")
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "chat"


async def test_a_second_accept_is_an_error() -> None:
    errors: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()

        async def accept_it() -> None:
            try:
                await send({"type": "websocket.accept"})
            except RuntimeError as exc:
                errors.append(str(exc))

        async with trio.open_nursery() as nursery:  # at once, and later
            nursery.start_soon(accept_it)
            nursery.start_soon(accept_it)
        await accept_it()
        await say(send, "still open")
        await receive()

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"
        assert len(errors) == 2
        assert "websocket.accept" in errors[1]


async def test_data_right_behind_the_handshake_is_received() -> None:
    app = Recording()
    async with listening(app) as server, await server.connect() as stream:
        behind = frame(1, b"one") + frame(2, b"two") + frame(1, b"thr", fin=False) + b"\x80"
        client = Client(stream)
        await client.ask(behind=behind)
        assert isinstance(await client.receive(), AcceptConnection)
        await wait_all_tasks_blocked()
        assert [message.get("text") or message.get("bytes") for message in app.seen] == [
            "one",
            b"two",
        ]
        await stream.send_all(frame(0, b"ee")[1:])
        await wait_all_tasks_blocked()
        assert app.seen[2] == {"type": "websocket.receive", "text": "three"}


async def test_data_that_comes_before_it_is_accepted_is_received() -> None:
    go = trio.Event()
    app = Recording()

    async def waiting(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await app(scope, receive, send)

    async with listening(waiting) as server, await server.connect() as stream:
        client = Client(stream)
        await client.ask()
        await wait_all_tasks_blocked()
        await stream.send_all(frame(1, b"early") + frame(8, b""))
        await stream.send_eof()
        await wait_all_tasks_blocked()
        go.set()
        assert isinstance(await client.receive(), AcceptConnection)
        await client.is_told(CloseConnection(code=1005, reason=""))
        assert await client.receive() is None
        await app.ended.wait()
    assert [message.get("text", message.get("code")) for message in app.seen] == ["early", 1005]


async def test_it_is_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(echo) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert isinstance(client.stream, trio.SocketStream)
        [record] = [record for record in caplog.records if record.name == "trio_run.access"]
        assert record.getMessage().startswith(
            f'{name_of(client.stream)} "GET /path HTTP/1.1" 101 0 '
        )
    caplog.clear()
    caplog.set_level(logging.WARNING, logger="trio_run.access")
    async with listening(echo) as server, opened(server):
        pass
    assert not [record for record in caplog.records if record.name == "trio_run.access"]


# The handshake: refused.


@pytest.mark.parametrize("reason", [None, "", "not you"])
async def test_a_close_before_the_accept_is_403(reason: str | None) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": reason})
        after.append(await receive())
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await send({"type": "websocket.accept"})
        after.append("refused")

    async with listening(app) as server, await server.connect() as stream:
        response = await refused(server)
        assert response.status_code == 403
        why = reason or "the server refuses this WebSocket"
        assert response.body.decode() == f"403 Forbidden: {why}\n"
        await stream.send_all(REQUEST)
        assert await is_refused(stream) == b"HTTP/1.1 403 Forbidden"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert after == [LOST, "refused"] * 2


async def test_a_denial_response_arrives_whole_and_the_connection_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        start = {"status": 451, "headers": [(b"content-type", b"text/x"), (b"X-Why", b"law")]}
        await send({"type": "websocket.http.response.start", **start})
        for number in range(3):
            body = b"%d" % number * 100_000
            await send({"type": "websocket.http.response.body", "body": body, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"end"})
        after.append(await receive())
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await send({"type": "websocket.http.response.body", "body": b"more"})
        after.append("sent")

    async with listening(app) as server:
        async with await server.connect() as stream:
            client = Client(stream)
            rejected = await client.open()
            assert isinstance(rejected, RejectConnection)
            assert rejected.status_code == 451
            headers = dict(rejected.headers)
            assert headers[b"content-type"] == b"text/x"
            assert headers[b"x-why"] == b"law"
            assert headers[b"connection"] == b"close"
            assert b"date" in headers
            body = b""
            while isinstance(event := await client.receive(), RejectData):
                body += event.data
            assert event is None
            assert body == b"".join(b"%d" % number * 100_000 for number in range(3)) + b"end"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert after == [LOST, "sent"]
    [record] = [record for record in caplog.records if record.name == "trio_run.access"]
    assert '"GET /path HTTP/1.1" 451 ' in record.getMessage()
    assert not tracebacks(caplog)


async def test_a_denial_response_in_one_piece() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"nothing here"})

    async with listening(app) as server:
        response = await refused(server)
        assert response.status_code == 404
        assert response.headers["content-length"] == "12"
        assert response.body == b"nothing here"


async def test_a_denial_response_that_is_only_begun_is_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        raise ValueError("no good")

    async with listening(app) as server:
        assert (await refused(server)).status_code == 500
        [record] = tracebacks(caplog)
        assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("fails", [True, False])
async def test_a_denial_response_that_breaks_off_is_not_taken_for_the_whole(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        if fails:
            raise ValueError("no good")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        heard = b""
        with pytest.raises(trio.BrokenResourceError):  # a reset
            while data := await stream.receive_some():
                heard += data
        assert b"500" not in heard
        await wait_all_tasks_blocked()
        assert len(tracebacks(caplog)) == 1
        assert server.listener.status == "0 connections, 0 busy, 1 failed"


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.close"])
@pytest.mark.parametrize("body", [True, False])
async def test_a_denial_response_that_has_begun_is_the_only_answer(kind: str, body: bool) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        if body:
            piece = {"body": b"no", "more_body": True}
            await send({"type": "websocket.http.response.body", **piece})
        with pytest.raises(RuntimeError, match=f"{kind}' after websocket.http.response.start"):
            await send({"type": kind})
        await send({"type": "websocket.http.response.body", "body": b"thing"})

    async with listening(app) as server:
        response = await refused(server)
        assert response.status_code == 404
        assert response.body == (b"nothing" if body else b"thing")


@pytest.mark.parametrize("lets_pass", [True, False])
async def test_a_client_that_leaves_during_a_denial_response_is_one_line(
    lets_pass: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ended = trio.Event()
    left = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        piece = {"type": "websocket.http.response.body", "body": bytes(65536), "more_body": True}
        try:
            await send({"type": "websocket.http.response.start", "status": 404})
            await send(piece)
            await left.wait()
            while True:
                await send(piece)
        except OSError:
            if lets_pass:
                raise
            seen.append(await receive())
        finally:
            ended.set()

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
            reset_on_close(stream)
        left.set()
        await ended.wait()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, "left during")) == lets_pass
    assert not tracebacks(caplog)
    assert seen == ([] if lets_pass else [LOST])


async def test_an_app_that_raises_before_it_accepts_is_logged_and_its_client_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("no good")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"no good" not in answer
        [record] = tracebacks(caplog)
        assert record.levelno == logging.ERROR
        assert '"/path"' in record.getMessage()
        assert record.getMessage().endswith(f"for {name_of(stream)}")
        assert str(error_of(record)) == "no good"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy, 1 failed"


async def test_an_app_that_returns_without_an_answer_is_logged_and_its_client_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()

    async with listening(app) as server:
        assert (await refused(server)).status_code == 500
        [record] = tracebacks(caplog)
        assert "without having accepted or refused" in str(error_of(record))


@pytest.mark.parametrize("kind", ["websocket.send", "http.response.start", "nonsense"])
async def test_what_is_not_due_before_the_accept_is_a_clear_error(kind: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=f"{kind}' before it accepted or refused"):
            await send({"type": kind, "text": "hello"})
        await echo(scope, receive, send)

    async with listening(app) as server, opened(server) as client:
        await client.say("hello")
        assert await client.hear() == "hello"


async def test_an_app_whose_client_has_left_before_the_accept_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = trio.Event()
    app = Recording()

    async def waiting(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await app(scope, receive, send)

    async with listening(waiting) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
        go.set()
        await app.ended.wait()
    assert app.seen == [LOST]
    assert not tracebacks(caplog)


@pytest.mark.parametrize("how", ["accept", "accept and wait", "refuse", "fail"])
async def test_an_app_whose_client_has_reset_before_the_answer(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        if how == "refuse":
            await send({"type": "websocket.close"})
        elif how == "fail":
            raise ValueError("no good")
        elif how == "accept":
            await accept(receive, send)
        else:
            with pytest.raises(OSError, match="the client is gone"):
                await accept(receive, send)
            seen.append(await receive())
            seen.append(await receive())

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
            reset_on_close(stream)
        go.set()
        await wait_all_tasks_blocked()
        assert server.listener.status.startswith("0 connections, 0 busy")
    assert seen == ([LOST, LOST] if how == "accept and wait" else [])
    assert [str(error_of(record)) for record in tracebacks(caplog)] == (
        ["no good"] if how == "fail" else []
    )


# Bad handshakes.


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (REQUEST.replace(b"-Key:", b"-K:"), 400),
        (REQUEST.replace(b"-Version:", b"-V:"), 400),
        (REQUEST.replace(b"ub25jZQ==", b""), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n"), 400),
        (REQUEST.replace(b" 13", b" 12"), 426),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 400),
        (REQUEST.replace(b"localhost", b"\xff"), 400),
        (REQUEST.replace(b"localhost", b"xn--\xe9"), 400),
        (REQUEST.replace(b"Host: localhost\r\n", b""), 400),
    ],
)
async def test_a_bad_handshake_is_refused_with_one_line(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise AssertionError("it never comes to the app")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(sent)
        answer = await read_and_close(stream)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert status != 426 or b"\r\nSec-WebSocket-Version: 13\r\n" in answer
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, f"{status} for ")) == 1
    assert not tracebacks(caplog)


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
        REQUEST.replace(b": Upgrade", b": keep-alive"),
        REQUEST.replace(b": websocket", b": h2c"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: localhost\r\n", b""),
    ],
)
async def test_what_asks_for_no_websocket_is_a_request_like_others(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        body = scope["type"].encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(sent)
        await stream.send_eof()
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nhttp")
    assert not tracebacks(caplog)


async def test_a_handshake_behind_another_request() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        return None

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST + frame(1, b"hello"))
        heard = b""
        while not heard.endswith(b"\x81\x05hello"):
            heard += await stream.receive_some()
        assert heard.count(b"HTTP/1.1 204 ") == heard.count(b"HTTP/1.1 101 ") == 1


# How it ends, without a stop.


async def test_an_app_that_raises_is_logged_and_its_client_gets_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        assert isinstance(client.stream, trio.SocketStream)
        await client.say("hello")
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connections, 0 busy, 1 failed"
        await client.is_closed(CloseConnection(code=1011, reason=""))
        [record] = tracebacks(caplog)
        assert record.levelno == logging.ERROR
        assert record.getMessage().endswith(f"for {name_of(client.stream)}")
        assert str(error_of(record)) == "no good"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy, 1 failed"
        await server.stop()
        assert server.report.exit_code == 0


async def test_an_app_that_fails_with_more_than_one_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=1011, reason=""))
        [record] = tracebacks(caplog)
        error = error_of(record)
        assert isinstance(error, ExceptionGroup)
        assert {str(inner) for inner in error.exceptions} == {"one", "two"}


async def test_an_interrupt_from_the_keyboard_is_no_failure_of_the_app() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise KeyboardInterrupt

    group = Group()
    listener = HTTPListener(only_http(app), 0, host=HOST)
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await member.wait_ready()
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                await stream.send_all(REQUEST)
                await trio.sleep_forever()
    assert caught.value.subgroup(KeyboardInterrupt) is not None


async def test_an_app_that_returns_closes_with_1000() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await say(send, "hello")

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        assert client.recv(TIMEOUT) == "hello"
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(app) as server:
        assert str(await visit(server, talk)) == "1000 (OK)"
        async with opened(server) as client:
            assert await client.hear() == "hello"
            await client.is_closed(NORMAL)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"


@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": 4001, "reason": "enough"}, 4001, "enough"),
        ({"code": 1001, "reason": None}, 1001, ""),
        ({"reason": "é" * 100}, 1000, "é" * 61),
    ],
)
async def test_an_app_closes_with_code_and_reason(
    close: dict[str, Any], code: int, reason: str
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", **close})
        after.append(await receive())
        after.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=code, reason=reason))
        await wait_all_tasks_blocked()
        assert (
            after == [{"type": "websocket.disconnect", "code": code, "reason": reason}] * 2
        )  # what the client has answered


@pytest.mark.parametrize("code", [-1, 70_000, "x"])
async def test_a_close_that_cannot_be_is_an_error_and_1011(
    code: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": code})

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=1011, reason=""))
        assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011])
async def test_a_client_that_does_not_answer_the_close_is_left_after_10_s(
    code: int, clock: MockClock
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": code})
        after.append(await receive())

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.is_told(CloseConnection(code=code, reason=""))
        assert await client.receive() is None
        assert trio.current_time() - began == pytest.approx(10, abs=1)
        await wait_all_tasks_blocked()
        assert after == [LOST]
        assert server.listener.status == "0 connections, 0 busy"


async def test_the_time_to_answer_a_close_begins_when_it_is_sent(clock: MockClock) -> None:
    """The client is slow, but it goes on reading."""
    text = "x" * 50_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, send, text)
            await receive()
            await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await client.say("close it")
        await trio.sleep(20)
        assert await client.hear() == text
        await client.is_closed(NORMAL)


@pytest.mark.parametrize("how", ["close", "return", "raise"])
async def test_unread_messages_do_not_hold_up_the_end(
    how: str, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await wait_all_tasks_blocked()
        if how == "close":
            await send({"type": "websocket.close"})
            await wait_all_tasks_blocked()
            assert (await receive())["text"] == "b"  # and no other after it
            assert (await receive())["type"] == "websocket.disconnect"
        if how == "raise":
            raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.say(*"abcdef")
        await client.is_closed(CloseConnection(code=1011 if how == "raise" else 1000, reason=""))
        assert trio.current_time() - began < 1
    assert len(tracebacks(caplog)) == (how == "raise")


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (CloseConnection(code=1000, reason=None), (1000, "")),
        (CloseConnection(code=3001, reason="enough"), (3001, "enough")),
        (CloseConnection(code=1001, reason="moving on"), (1001, "moving on")),
        (CloseConnection(code=1005, reason=None), (1005, "")),
    ],
)
async def test_a_client_that_closes_is_answered_and_the_app_hears_of_it(
    sent: CloseConnection, seen: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.say("last words")
            if sent.code == 1005:
                await client.stream.send_all(frame(8, b""))
            else:
                await client.send(sent)
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            assert (event.code, event.reason or "") == seen
            assert await client.receive() is None
        await app.ended.wait()
        code, reason = seen
        assert app.seen == [
            {"type": "websocket.receive", "text": "last words"},
            {"type": "websocket.disconnect", "code": code, "reason": reason},
        ]
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, " for ")
    assert not tracebacks(caplog)


async def test_the_disconnect_is_made_of_plain_types() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await client.send(CloseConnection(code=1000, reason="bye"))
        await app.ended.wait()
    [message] = app.seen
    assert [type(value) for value in message.values()] == [str, int, str]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_vanishes_is_heard_of_with_1006(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recording()
    async with listening(app) as server:
        before = open_descriptors()
        async with opened(server) as client:
            await client.say("last words")
            await wait_all_tasks_blocked()
            if how == "reset":
                reset_on_close(client.stream)
        await app.ended.wait()
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "last words"}, LOST]
        assert server.listener.status == "0 connections, 0 busy"
        assert open_descriptors() == before
    assert not tracebacks(caplog)


async def test_a_client_that_vanishes_in_the_midst_of_a_message() -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.stream.send_all(frame(1, b"half", fin=False) + b"\x81")
        await app.ended.wait()
    assert app.seen == [LOST]


@pytest.mark.parametrize("how", ["close", "end", "reset"])
async def test_an_app_that_sends_to_a_client_that_has_left_gets_an_oserror(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = trio.Event()
    errors: list[OSError] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await left.wait()
        for kind in ({"type": "websocket.send", "text": "hello?"}, {"type": "websocket.close"}):
            try:
                await send(kind)
            except OSError as exc:
                errors.append(exc)
        await say(send, "nobody catches it")

    async with listening(app) as server:
        async with opened(server) as client:
            if how == "close":
                await client.send(NORMAL)
                await client.is_told(NORMAL)
            if how == "reset":
                reset_on_close(client.stream)
        await wait_all_tasks_blocked()
        left.set()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(errors) == 2
    assert len(lines_of(caplog, "left during")) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_fails_because_its_client_has_left_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As frameworks do, with errors of their own."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        message = await receive()
        raise ValueError(f"it has left with {message['code']}")

    async with listening(app) as server:
        async with opened(server):
            pass
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    [record] = lines_of(caplog, "left during")
    assert record.getMessage().endswith("it has left with 1006")
    assert not tracebacks(caplog)


@pytest.mark.parametrize("lets_fail", ["refused", "left"])
async def test_an_app_that_has_not_heard_of_the_end_fails_for_reasons_of_its_own(
    lets_fail: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if lets_fail == "refused":
            await send({"type": "websocket.close"})
        else:
            await accept(receive, send)
            await left.wait()
        raise ValueError("no good")

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await stream.receive_some()
        await wait_all_tasks_blocked()
        left.set()
    [record] = tracebacks(caplog)
    assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_app_that_sends_after_its_own_close_gets_an_oserror_and_one_line(
    grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await say(send, "hello?")
        if grouped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, send, "one")
                nursery.start_soon(say, send, "two")
        await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()  # the client has not answered yet
        await client.is_closed(NORMAL)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_fails_after_its_own_close_is_logged_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            raise ValueError("no good")
        finally:
            await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(NORMAL)
    [record] = tracebacks(caplog)
    assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("_again", range(10))  # which task is first is up to Trio
async def test_a_client_that_closes_while_several_tasks_send_is_an_oserror_to_each(
    _again: int, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []

    async def push(send: Send) -> None:
        try:
            while True:
                await say(send, "x" * 10_000)
        except Exception as exc:
            errors.append(exc)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(push, send)

    async with listening(app) as server, opened(server) as client:
        await client.hear()
        await client.send(NORMAL)
        while not isinstance(event := await client.receive(), CloseConnection):
            assert isinstance(event, TextMessage)
        assert await client.receive() is None
        await wait_all_tasks_blocked()
    assert [type(error).__mro__[1] for error in errors] == [OSError] * 3
    assert not tracebacks(caplog)


@pytest.mark.parametrize("_again", range(5))
async def test_a_client_that_closes_just_as_the_app_sends(_again: int) -> None:
    errors: list[Exception] = []
    sent = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await accept(receive, send)
        try:
            while True:
                await say(send, "x")
                sent += 1
        except Exception as exc:
            errors.append(exc)

    async with listening(app) as server:
        for number in range(20):
            async with opened(server) as client:
                await client.hear()
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                await client.send(NORMAL)
                while not isinstance(await client.receive(), CloseConnection):
                    pass
    assert all(isinstance(error, OSError) for error in errors), errors
    assert len(errors) == 20


async def test_receive_after_the_disconnect_can_be_cancelled() -> None:
    """An app that never looks at what it receives is not to stop the whole server."""
    cancelled: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        with trio.CancelScope() as scope_:
            scope_.cancel()
            for _ in range(10):
                assert (await receive())["type"] == "websocket.disconnect"
        cancelled.append(scope_.cancelled_caught)

    async with listening(app) as server:
        async with opened(server):
            pass
    assert cancelled == [True]


# Messages.


async def test_messages_of_every_kind_and_size_come_and_go() -> None:
    texts = ["", "x", "é" * 63, "x" * 125, "x" * 126, "x" * 65_535, "€" * 65_536, "x" * 2**20]

    def talk(client: websockets.sync.client.ClientConnection) -> None:
        for text in texts:
            client.send(text)
            assert client.recv(TIMEOUT) == text
            data = text.encode()
            client.send(data)
            assert client.recv(TIMEOUT) == data
        client.send(iter(["frag", "", "mented ", "é"]))  # one message
        assert client.recv(TIMEOUT) == "fragmented é"
        client.send(iter([b"", b"\0", b"\xff"]))
        assert client.recv(TIMEOUT) == b"\0\xff"
        client.send(iter(["", ""]))
        assert client.recv(TIMEOUT) == ""
        for number in range(200):
            client.send(str(number))
        assert [client.recv(TIMEOUT) for _ in range(200)] == [str(number) for number in range(200)]

    async with listening(echo) as server:
        await visit(server, talk, max_size=None)


async def test_the_app_receives_plain_text_or_bytes() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await client.say("text")
        await client.send(BytesMessage(data=b"bytes"))
        await wait_all_tasks_blocked()
        assert app.seen == [
            {"type": "websocket.receive", "text": "text"},
            {"type": "websocket.receive", "bytes": b"bytes"},
        ]
        assert type(app.seen[1]["bytes"]) is bytes


async def test_fragments_with_other_frames_in_between() -> None:
    app = Recording()
    euro = "€".encode()
    async with listening(app) as server, opened(server) as client:
        data = frame(1, b"a" + euro[:1], fin=False) + frame(9, b"ping") + frame(10, b"pong")
        data += frame(0, euro[1:2], fin=False) + frame(0, b"", fin=False) + frame(0, euro[2:])
        for number in range(len(data)):
            await client.stream.send_all(data[number : number + 1])
        assert await client.receive() == Pong(payload=b"ping")
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "a€"}]


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"text": "a", "bytes": None}, TextMessage("a")),
        ({"text": None, "bytes": b"a"}, BytesMessage(b"a")),
        ({"bytes": bytearray(b"a")}, BytesMessage(b"a")),
        ({"bytes": memoryview(b"a")}, BytesMessage(b"a")),
        ({"text": ""}, TextMessage("")),
        ({"bytes": b""}, BytesMessage(b"")),
    ],
)
async def test_what_the_app_may_send(message: dict[str, Any], heard: Message) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", **message})

    async with listening(app) as server, opened(server) as client:
        event = await client.receive()
        assert type(event) is type(heard)
        assert isinstance(event, Message)
        assert event.data == heard.data


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "websocket.send"}, "neither text nor bytes"),
        ({"type": "websocket.send", "text": None, "bytes": None}, "neither text nor bytes"),
        ({"type": "websocket.accept"}, "websocket.accept"),
        ({"type": "websocket.http.response.start", "status": 404}, "websocket.http.response.start"),
        ({"type": "nonsense"}, "nonsense"),
    ],
)
async def test_what_the_app_may_not_send_is_a_clear_error(
    message: dict[str, Any], text: str
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(RuntimeError, match=text):
            await send(message)
        await say(send, "still open")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"


async def test_text_that_is_no_unicode_is_an_error_and_breaks_nothing() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(UnicodeEncodeError):
            await say(send, "\ud800")
        await say(send, "still open")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
async def test_a_message_over_the_limit_ends_it_with_1009(
    kind: type[Message], caplog: pytest.LogCaptureFixture
) -> None:
    def make(size: int) -> Any:
        return "x" * size if kind is TextMessage else b"x" * size

    app = Recording()
    async with listening(app, max_message_size=10) as server, opened(server) as client:
        await client.send(kind(data=make(10)))
        await client.send(kind(data=make(4), message_finished=False))
        await client.send(kind(data=make(6), message_finished=True))
        await client.send(kind(data=make(11)))
        await client.is_closed(CloseConnection(code=1009, reason="more than 10 bytes"))
        await app.ended.wait()
        assert len(app.seen) == 3
        assert app.seen[-1]["code"] == 1009
    assert not tracebacks(caplog)


async def test_the_limit_is_in_bytes() -> None:
    app = Recording()
    async with listening(app, max_message_size=10) as server, opened(server) as client:
        await client.say("é" * 5)
        await client.say("é" * 5 + "e")
        await client.is_closed(CloseConnection(code=1009, reason="more than 10 bytes"))
        assert app.seen[0]["text"] == "é" * 5


@pytest.mark.parametrize("fragments", [False, True])
async def test_a_message_over_the_limit_is_refused_before_it_is_whole(fragments: bool) -> None:
    """Its client hears of it with a gigabyte still to come; what it sends on is thrown away."""
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await app(scope, receive, send)

    async with listening(here, max_message_size=1000) as server:
        async with opened(server) as client:
            if fragments:
                await client.stream.send_all(
                    frame(2, b"x" * 100, fin=False) + frame(0, b"x" * 100, fin=False) * 10
                )
            else:
                huge = b"\x82\xff" + struct.pack("!Q", 2**30) + bytes(4)
                await client.stream.send_all(huge + bytes(1001))
            await client.is_told(CloseConnection(code=1009, reason="more than 1000 bytes"))
            await app.ended.wait()
            if fragments:
                more = frame(0, b"x" * 100, fin=False) + frame(9, b"")
                await client.stream.send_all(more * 1000)
                await wait_all_tasks_blocked()
                assert len(connections[0].at_end.__self__._parts) == 1100
        assert [message["code"] for message in app.seen] == [1009]


async def test_a_message_of_nothing_but_empty_fragments_takes_no_room() -> None:
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await app(scope, receive, send)

    async with listening(here, max_message_size=10) as server, opened(server) as client:
        await client.stream.send_all(frame(1, b"", fin=False) + frame(0, b"", fin=False) * 10_000)
        await client.stream.send_all(frame(9, b""))
        assert await client.receive() == Pong(payload=b"")
        websocket = connections[0].at_end.__self__
        assert len(websocket._parts) < 10
        await client.stream.send_all(frame(0, b"end"))
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "end"}]


async def test_a_message_of_tiny_fragments_takes_no_more_room_than_it_has_bytes() -> None:
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await app(scope, receive, send)

    async with listening(here) as server, opened(server) as client:
        await client.stream.send_all(frame(1, b"a", fin=False) + frame(0, b"a", fin=False) * 9_999)
        await client.stream.send_all(frame(9, b""))
        assert await client.receive() == Pong(payload=b"")
        parts = connections[0].at_end.__self__._parts
        assert len(parts) == 10_000
        assert sys.getsizeof(parts) < 20_000
        await client.stream.send_all(frame(0, b"b"))
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "a" * 10_000 + "b"}]


async def test_a_ping_is_answered_and_a_pong_ignored() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.send(Ping(payload=b"idle"))
        assert await client.receive() == Pong(payload=b"idle")
        await client.send(Pong(payload=b"unasked"))
        await client.say("ask")
        assert await client.hear() == "begun"
        await client.send(Ping(payload=b"busy"))  # the app does not receive
        await client.send(Pong(payload=b"unasked"))
        assert await client.receive() == Pong(payload=b"busy")
        assert app.seen == ["ask"]
        app.go.set()


async def test_a_ping_behind_a_message_that_waits_is_answered() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        await client.say("next")
        await client.send(Ping(payload=b"busy"))
        assert await client.receive() == Pong(payload=b"busy")
        app.go.set()


async def test_another_librarys_keepalive_is_answered() -> None:
    def talk(client: websockets.sync.client.ClientConnection) -> bool:
        return client.ping().wait(TIMEOUT)

    async with listening(echo) as server:
        assert await visit(server, talk)


async def test_a_client_that_pings_while_it_closes_is_not_answered_after_the_close() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        await client.stream.send_all(frame(9, b"ping") + frame(1, b"text"))
        await client.is_closed(NORMAL)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"\xff"), 1007),
        (frame(1, b"\xc3", fin=False) + frame(0, b"x"), 1007),
        (frame(3, b"x"), 1002),
        (frame(1, b"x", mask=False), 1002),
        (frame(0, b"x"), 1002),
        (frame(1, b"x", fin=False) + frame(1, b"x"), 1002),
        (frame(9, b"x", fin=False), 1002),
        (b"\xc1\x81" + bytes(5), 1002),  # a reserved bit
        (b"\x82\xff" + b"\xff" * 12, 1002),  # a length that is negative
        (frame(8, b"x"), 1002),
        (frame(8, struct.pack("!H", 1006)), 1002),
        (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
@pytest.mark.parametrize("where", ["tcp", "unix"])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_what_makes_no_sense_ends_it_with_one_line(
    data: bytes,
    code: int,
    goes_on: bool,
    where: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recording()
    async with listening(app, **{"path": tmp_path / "socket"} if where == "unix" else {}) as server:
        async with opened(server) as client:
            await client.say("before")
            await client.stream.send_all(data + bytes(100_000 if goes_on else 0))
            await wait_all_tasks_blocked()
            await client.stream.send_all(bytes(100_000))  # it is not to be reset for that
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            assert event.code == code
            assert await client.receive() is None
        await app.ended.wait()
        await wait_all_tasks_blocked()
        assert [message.get("text", message.get("code")) for message in app.seen] == [
            "before",
            code,
        ]
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, f"{code} for ")) == 1
    assert not tracebacks(caplog)


async def test_what_makes_no_sense_after_our_close_ends_it(clock: MockClock) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.is_told(NORMAL)
        await client.stream.send_all(frame(3, b"x"))
        assert await client.receive() is None
        assert trio.current_time() - began < 1


# Backpressure, and several tasks.


async def test_an_app_waits_for_a_client_that_does_not_read() -> None:
    sent = 0
    text = "x" * 100_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await accept(receive, send)
        while sent < 200:
            await say(send, text)
            sent += 1

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert sent < 200
        for _ in range(200):
            assert await client.hear() == text
        await client.is_closed(NORMAL)


async def test_a_client_that_does_not_read_for_idle_timeout_is_lost(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[OSError] = []
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(OSError, match="takes nothing") as caught:
            while True:
                await say(send, "x" * 100_000)
        errors.append(caught.value)
        seen.append(await receive())

    async with listening(app, idle_timeout=7) as server, opened(server):
        began = trio.current_time()
        while not seen:
            await trio.sleep(0.1)
        assert 6 < trio.current_time() - began < 12
        assert seen == [LOST]
        await trio.sleep(5)
        assert server.listener.status == "0 connections, 0 busy"
    assert not tracebacks(caplog)


async def test_a_silent_client_is_asked_whether_it_is_still_there(clock: MockClock) -> None:
    async with listening(echo, idle_timeout=1, header_timeout=1) as server:
        async with opened(server) as client:
            for _ in range(2):
                assert await client.receive() == Ping(payload=b"")
                await client.send(Pong(payload=b""))
            assert trio.current_time() == pytest.approx(40, abs=1)
            await client.say("hello")
            assert await client.hear() == "hello"


async def test_a_client_that_does_not_answer_is_given_up(clock: MockClock) -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        assert await client.receive() == Ping(payload=b"")
        assert await client.receive() is None
        assert trio.current_time() == pytest.approx(40, abs=1)
        await app.ended.wait()
        assert app.seen == [LOST]


async def test_a_client_that_has_been_told_is_waited_for_without_asking(clock: MockClock) -> None:
    async with listening(echo, grace=100) as server, opened(server) as client:
        server.group.stop()
        await client.is_told(CloseConnection(code=1001, reason="going away"))
        await trio.sleep(50)
        await client.send(CloseConnection(code=1001))
        assert await client.receive() is None


@pytest.mark.parametrize(
    "change",
    [
        (b": websocket", b": websocket, h2c"),
        (b"Connection: Upgrade", b"Connection: Upgrade\r\nConnection: keep-alive"),
        (b"localhost", b"xn--fa-hia.de"),
    ],
)
async def test_an_odd_handshake_that_is_one(change: tuple[bytes, bytes]) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        await stream.send_all(REQUEST.replace(*change))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "message",
    [
        {"text": b"a"},
        {"bytes": "a"},
        {},
        {"type": "websocket.close", "code": 70000},
    ],
)
async def test_what_the_app_may_not_send(message: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(RuntimeError, match="the app sent"):
            await send({"type": "websocket.send", **message})
        await say(send, "still here")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still here"


async def test_a_client_waits_for_an_app_that_does_not_receive() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        text = "x" * 100_000
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(200):
                await client.say(text)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await wait_all_tasks_blocked()
            assert sent < 200
            app.go.set()
            for _ in range(200):
                assert await client.hear() == "done"
                assert await client.hear() == "begun"
        assert app.seen == ["ask"] + [text] * 200


async def test_a_client_that_vanishes_while_the_app_waits_for_it() -> None:
    errors: list[BaseException] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(OSError) as caught:
            while True:
                await say(send, "x" * 100_000)
        errors.append(caught.value)
        assert await receive() == LOST

    async with listening(app) as server:
        async with opened(server):
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert len(errors) == 1
        assert server.listener.status == "0 connections, 0 busy"


async def test_several_tasks_send_at_once_and_every_message_is_whole() -> None:
    async def push(send: Send, letter: str) -> None:
        for _ in range(20):
            await say(send, letter * 50_000)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for letter in "abcd":
                nursery.start_soon(push, send, letter)

    async with listening(app) as server, opened(server) as client:
        heard = sorted([await client.hear() for _ in range(80)])
        assert heard == [letter * 50_000 for letter in "abcd" for _ in range(20)]
        await client.is_closed(NORMAL)


async def test_several_tasks_receive_at_once_and_none_is_forgotten() -> None:
    seen: list[str] = []
    codes: list[int] = []

    async def take(receive: Receive) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message["text"])
        codes.append(message["code"])

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take, receive)

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        for text in "abc":  # one by one, and many
            await client.say(text)
            await wait_all_tasks_blocked()
        await client.say(*"defghi")
        await client.send(NORMAL)
        await client.is_told(NORMAL)
        await wait_all_tasks_blocked()
        assert seen == list("abcdefghi")
        assert codes == [1000] * 3


async def test_a_receive_that_is_cancelled_loses_no_message(clock: MockClock) -> None:
    seen: list[str] = []
    timeouts = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal timeouts
        await accept(receive, send)
        while True:
            with trio.move_on_after(1) as timeout:
                message = await receive()
            if timeout.cancelled_caught:
                timeouts += 1
            elif message["type"] == "websocket.receive":
                seen.append(message["text"])
            else:
                return

    async with listening(app) as server, opened(server) as client:
        for number in range(20):
            await client.say(str(number))
            await trio.sleep(number * 0.25)
    assert seen == [str(number) for number in range(20)]
    assert timeouts > 20


@pytest.mark.parametrize("_again", range(10))  # which task is first is up to Trio
async def test_a_receive_cancelled_in_the_very_moment_leaves_the_message_and_is_not_busy(
    _again: int,
) -> None:
    """A message and the cancel in one step of the scheduler: the app has not got it, so it is not
    in hand.
    """
    seen: list[Any] = []
    scopes: list[trio.CancelScope] = []
    connections: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await accept(receive, send)
        with trio.CancelScope() as cancelling:
            scopes.append(cancelling)
            seen.append(await receive())
        seen.append("cancelled")
        await trio.lowlevel.checkpoint()
        while not stopping():
            await say(send, "tick")
            await trio.sleep(0.001)
        with pytest.raises(OSError):
            while True:
                await say(send, "tick")
                await trio.sleep(0.001)
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        websocket = connections[0].at_end.__self__
        message = {"type": "websocket.receive", "text": "hello"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket._deliver, message)  # as the reader does, before the app
            scopes[0].cancel()
        while await client.hear() != "tick":
            pass
        server.group.stop()
        while isinstance(event := await client.receive(), TextMessage):
            pass
        assert event == GOING_AWAY
        await client.send(NORMAL)
        await server.stop()
    assert seen in (["cancelled", TOLD], [message, "cancelled", TOLD])


async def test_a_send_that_is_cancelled_midway_ends_the_connection() -> None:
    """What was sent is not the whole: nothing more can be sent after it."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.move_on_after(0.1):
            while True:
                await say(send, "x" * 1_000_000)
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await say(send, "more")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked(0.3)
        assert seen == [LOST]
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            while True:
                await client.hear()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_send_that_is_cancelled_before_a_byte_is_out_does_not_lose_the_websocket(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    sent: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        async def say_one(text: str) -> None:
            await say(send, text)
            sent.append(text)

        await accept(receive, send)
        for number in range(100):  # which task is first is up to Trio
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say_one, str(number))
                for _ in range(number % 5):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await say_one("the end")

    async with listening(app, ssl_context=server_context if tls else None) as server:
        stream: Any = await server.connect()
        if tls:
            stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
        async with stream:
            client = Client(stream)
            assert isinstance(await client.open(), AcceptConnection)
            heard = [await client.hear()]
            while heard[-1] != "the end":
                heard.append(await client.hear())
            await client.is_closed(NORMAL)
    assert heard == sent


async def test_what_it_says_of_itself() -> None:
    """An open WebSocket is idle, until the app has a message in hand."""
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connections, 0 busy"
        await client.say("ask")
        assert await client.hear() == "begun"
        assert server.listener.status == "1 connections, 1 busy"
        app.go.set()
        assert await client.hear() == "done"
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connections, 0 busy"


# At a stop.


async def test_an_idle_websocket_gets_1001_and_the_app_hears_of_it() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == [TOLD]
        assert server.detail == "1 drained, 0 cut"
        assert server.report.exit_code == 0


async def test_another_librarys_client_sees_1001() -> None:
    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        trio.from_thread.run_sync(server.group.stop)
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(echo) as server:
        received = await visit(server, talk)
        assert str(received) == "1001 (going away) going away"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_the_lifespan_shuts_down_after_the_last_websocket() -> None:
    seen: list[str] = []
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                seen.append(kind)
                await send({"type": f"lifespan.{kind}.complete"})
        else:
            await echo(scope, receive, send)
            await go.wait()
            seen.append("websocket")

    async with serving_app(app) as server, opened(server) as client:
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await wait_all_tasks_blocked()
        go.set()
        await server.stop()
        assert seen == ["startup", "websocket", "shutdown"]


async def test_a_message_in_hand_is_answered_first() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connections, 1 busy"
        app.go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", 1001]
        assert server.detail == "1 drained, 0 cut"


async def test_a_message_that_has_waited_for_the_app_is_in_hand_too() -> None:
    ask, go = trio.Event(), trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await ask.wait()
        await receive()
        await say(send, "begun")
        await go.wait()
        await say(send, "done")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        await wait_all_tasks_blocked()
        ask.set()
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
    assert seen == [TOLD]


async def test_a_message_handed_out_as_the_stop_comes_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell = StreamListener._drain_one

    def hand_out_and_tell(self: StreamListener, connection: Any) -> None:
        message = {"type": "websocket.receive", "text": "hello"}
        with contextlib.suppress(StopIteration):  # as the reader does, with no room to wait for
            connection.at_end.__self__._deliver(message).send(None)
        tell(self, connection)

    async with listening(echo) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        monkeypatch.setattr(StreamListener, "_drain_one", hand_out_and_tell)
        server.group.stop()
        assert await client.hear() == "hello"
        await client.is_closed(GOING_AWAY)
        await server.stop()


@pytest.mark.parametrize("before", [True, False])
async def test_messages_behind_the_one_in_hand_are_not_begun(before: bool) -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        if not before:
            server.group.stop()
            await wait_all_tasks_blocked()
        await client.say("second", "third", "fourth")
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        app.go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", 1001]


async def test_a_message_in_hand_is_answered_by_an_app_that_then_closes_itself() -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await say(send, "begun")
        await go.wait()
        await say(send, "done")
        await send({"type": "websocket.close", "code": 4000})

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        await client.is_closed(CloseConnection(code=4000, reason=""))
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("fails", [True, False])
async def test_an_app_that_returns_or_fails_with_a_message_in_hand(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await say(send, "begun")
        await go.wait()
        if fails:
            raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        await client.is_closed(CloseConnection(code=1011, reason="") if fails else GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut" + (", 1 failed" if fails else "")
    assert len(tracebacks(caplog)) == fails


async def test_a_client_that_leaves_with_a_message_in_hand_while_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Answering()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.say("ask")
            assert await client.hear() == "begun"
            server.group.stop()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        app.go.set()
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert app.seen == ["ask"]
    assert len(lines_of(caplog, "left during")) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_only_sends_gets_an_oserror_and_its_client_1001(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            while True:
                await say(send, "tick")
                await trio.sleep(0.001)
        finally:
            ended.set()

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "tick"
        server.group.stop()
        while isinstance(event := await client.receive(), TextMessage):
            assert event.data == "tick"
        assert event == GOING_AWAY
        await ended.wait()
        await client.send(GOING_AWAY.response())
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == 1
    assert not tracebacks(caplog)


async def test_an_app_inside_busy_is_told_when_the_block_ends() -> None:
    """And until then it goes on as if nothing were: it may ask its client, and gets the answer."""
    app = Answering(within_busy=True)
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        app.go.set()
        await wait_all_tasks_blocked()
        await client.say("body")
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", "body", 1001]
        assert server.detail == "1 drained, 0 cut"


async def test_an_app_that_only_sends_inside_busy_is_told_when_the_block_ends() -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            await say(send, "begun")
            await go.wait()
            await say(send, "done")
        with pytest.raises(OSError):
            await say(send, "more")
            await wait_all_tasks_blocked()
            await say(send, "still more")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        while isinstance(event := await client.receive(), TextMessage):
            assert event.data == "more"
        assert event == GOING_AWAY
        await client.send(GOING_AWAY.response())
        await server.stop()
    assert seen == [TOLD]


@pytest.mark.parametrize("lets_pass", [True, False])
async def test_a_handshake_in_progress_is_503_and_the_accept_an_oserror(
    lets_pass: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await go.wait()
        try:
            await send({"type": "websocket.accept"})
        except OSError as exc:
            seen.append(str(exc))
            if lets_pass:
                raise
        seen.append(await receive())

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await is_refused(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert seen[0] == "the server is going away"
    assert [message["code"] for message in seen[1:]] == ([] if lets_pass else [1001])
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == lets_pass
    assert not tracebacks(caplog)


async def test_a_handshake_in_progress_may_still_be_refused() -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"nothing here"})

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.endswith(b"nothing here")
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_a_handshake_that_comes_with_the_stop_is_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo) as server:
        stream = server.connect_now(REQUEST)
        server.group.stop()
        assert await is_refused(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, "going away")) == 1  # of the app, if it has come so far


async def test_a_handshake_that_is_being_sent_as_the_stop_comes_is_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        await stream.send_all(REQUEST[:50])
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        await stream.send_all(REQUEST[50:])
        assert (await read_and_close(stream)).startswith(b"HTTP/1.1 503 ")
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, "503 for ")) == 1


async def test_a_websocket_accepted_as_the_stop_comes_gets_1001() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        server.group.stop()
        seen.append(await receive())

    async with listening(app) as server, await server.connect() as stream:
        client = Client(stream)
        assert isinstance(await client.open(), AcceptConnection)
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert seen == [TOLD]


async def test_a_client_that_never_answers_the_close_is_cut_at_the_grace(clock: MockClock) -> None:
    async with listening(echo, grace=20) as server, opened(server) as client:
        await server.stop()
        assert server.report.duration == pytest.approx(20)
        assert server.detail == "0 drained, 1 cut"
        assert await client.receive() == GOING_AWAY
        assert await client.receive() is None


async def test_a_client_that_answers_late_is_drained(clock: MockClock) -> None:
    async with listening(echo, grace=20) as server, opened(server) as client:
        server.group.stop()
        assert await client.receive() == GOING_AWAY
        await trio.sleep(19)
        await client.send(GOING_AWAY.response())
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert server.report.duration == pytest.approx(19, abs=0.5)


async def test_a_client_that_leaves_instead_of_answering_is_drained() -> None:
    async with listening(echo) as server:
        async with opened(server) as client:
            server.group.stop()
            assert await client.receive() == GOING_AWAY
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("busily", [True, False])
async def test_an_app_that_never_returns_is_cut_at_the_grace(
    busily: bool, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            if busily:
                with busy():
                    await trio.sleep_forever()
            await trio.sleep_forever()
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async with listening(app, grace=20) as server, opened(server) as client:
        server.group.stop()
        if not busily:
            await client.is_closed(GOING_AWAY)
        await server.stop()
        assert server.report.duration == pytest.approx(20)
        assert ended == ["cancelled"]
        assert server.detail == ("0 drained, 1 cut" if busily else "1 drained, 0 cut")
    assert not tracebacks(caplog)


async def test_an_app_that_fails_as_it_is_cut_is_logged(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("no good")

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)

    async with listening(app, grace=1) as server, opened(server):
        await server.stop()
    assert len(tracebacks(caplog)) == 1
    assert "ValueError: no good" in caplog.text


async def test_a_message_that_is_being_sent_arrives_whole_and_then_the_close() -> None:
    text = "x" * 10_000_000
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await say(send, text)
        seen.append("sent")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert not seen
        server.group.stop()
        await wait_all_tasks_blocked()
        assert await client.hear() == text
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert seen == ["sent", TOLD]
        assert server.detail == "1 drained, 0 cut"


async def test_a_chatty_client_that_never_pauses_ends_too() -> None:
    begun: list[str] = []
    answered: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            begun.append(message["text"])
            await say(send, message["text"])

    async def push(client: Client) -> None:
        number = 0
        while not told:
            await client.say(str(number))
            number += 1
        await client.send(GOING_AWAY.response())

    told = False
    async with listening(app) as server, opened(server) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, client)
            while not isinstance(event := await client.receive(), CloseConnection):
                assert isinstance(event, TextMessage)
                answered.append(event.data)
                if len(answered) == 100:
                    server.group.stop()
            assert event == GOING_AWAY
            told = True
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert answered == begun


async def test_a_chatty_client_that_ignores_the_close_is_cut(clock: MockClock) -> None:
    async with listening(echo, grace=3) as server, opened(server) as client:
        data = frame(1, b"chat") * 100

        async def push() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.stream.send_all(data)
                    await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.sleep(1)
            await server.stop()
        assert server.detail == "0 drained, 1 cut"
        assert server.report.duration == pytest.approx(3, abs=0.5)


async def test_unread_messages_at_the_stop_do_not_hold_it_up(clock: MockClock) -> None:
    """The app does not receive, and the reader waits for it."""
    seen: list[Any] = []
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.say(*"abcdef")
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        go.set()
        await server.stop()
        assert server.report.duration < 1
        assert seen == [TOLD]


async def test_a_stop_while_the_apps_own_close_is_not_answered(clock: MockClock) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4000})
        assert (await receive())["code"] == 1001

    async with listening(app) as server, opened(server) as client:
        await client.is_told(CloseConnection(code=4000, reason=""))
        await server.stop()
        assert server.report.duration == pytest.approx(10, abs=0.5)
        assert server.detail == "1 drained, 0 cut"
        assert await client.receive() is None


async def test_a_stop_while_the_client_closes() -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await wait_all_tasks_blocked()
            await client.send(CloseConnection(code=3000, reason="bye"))
            server.group.stop()
            assert isinstance(await client.receive(), CloseConnection)
            assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert app.seen[-1]["code"] in (1001, 3000)


async def test_a_stop_with_clients_in_every_state(clock: MockClock) -> None:
    """All but the one that does not answer are drained, and nobody waits for another."""
    app = Answering()
    async with listening(app, grace=5) as server:
        async with opened(server) as idle, opened(server) as asking, opened(server):
            await asking.say("ask")
            assert await asking.hear() == "begun"
            server.group.stop()
            await idle.is_closed(GOING_AWAY)
            app.go.set()
            assert await asking.hear() == "done"
            await asking.is_closed(GOING_AWAY)
            await server.stop()
            assert server.detail == "2 drained, 1 cut"


async def test_an_app_may_see_that_it_is_stopping() -> None:
    seen: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        seen.append(stopping())
        await receive()
        seen.append(stopping())

    async with listening(app) as server, opened(server) as client:
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
    assert seen == [False, True]


async def test_cancel_on_stop_in_one_app_disturbs_no_other() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with cancel_on_stop():
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                with busy():
                    await say(send, message["text"])

    async with listening(app) as server, opened(server) as one, opened(server) as two:
        for client in (one, two):
            await client.say("hello")
            assert await client.hear() == "hello"
        server.group.stop()
        for client in (one, two):
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            await client.send(event.response())
        await server.stop()
        assert server.detail == "2 drained, 0 cut"


@asynccontextmanager
async def inside_another_actor(app: App) -> AsyncIterator[tuple[Group, Client]]:
    """There it is cancelled softly, not interrupted.

    The group must have ended when the client still listens.
    """
    listener = HTTPListener(only_http(app), 0, host=HOST)
    group = Group(grace=1000)

    async def actor(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    member = group.add(actor)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await member.wait_ready()
            client = Client(await trio.open_tcp_stream(*listener.addresses[0]))
            yield group, client
        await client.stream.aclose()


async def test_inside_another_actor_what_is_busy_finishes() -> None:
    go = trio.Event()
    seen: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            await receive()
            await say(send, "begun")
            await go.wait()
            seen.append("done")
        await receive()
        seen.append("not cancelled")

    async with inside_another_actor(app) as (group, client):
        assert isinstance(await client.open(), AcceptConnection)
        await client.say("ask")
        assert await client.hear() == "begun"
        group.stop()
        await wait_all_tasks_blocked()
        go.set()
    assert seen == ["done"]


@pytest.mark.parametrize("protected", [True, False])
async def test_inside_another_actor_a_handshake_in_progress_holds_nobody_up(
    protected: bool,
) -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with busy() if protected else trio.CancelScope():
            await go.wait()
            await accept(receive, send)
        await receive()

    async with inside_another_actor(app) as (group, client):
        await client.ask()
        await wait_all_tasks_blocked()
        group.stop()
        await wait_all_tasks_blocked()
        go.set()


async def test_inside_another_actor_an_app_that_fails_before_it_accepts_holds_nobody_up(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("mine")

    async with inside_another_actor(app) as (group, client):
        await client.ask()
        await wait_all_tasks_blocked()
        group.stop()
    assert [repr(error_of(record)) for record in tracebacks(caplog)] == [
        "ZeroDivisionError('mine')"
    ]


@pytest.mark.parametrize("seed", range(10))
async def test_at_a_random_moment_every_message_begun_is_answered(seed: int) -> None:
    chance = random.Random(seed)
    begun: set[str] = set()
    heard: set[str] = set()
    ended: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            begun.add(message["text"])
            for _ in range(chance.randrange(5)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.3:
                await trio.sleep(chance.random() / 50)
            await say(send, message["text"])
        ended.append(message)

    async def chat(client: Client, name: str) -> None:
        number = 0
        await client.say(f"{name}.{number}")
        while not isinstance(event := await client.receive(), CloseConnection):
            assert isinstance(event, TextMessage)
            heard.add(event.data)
            number += 1
            await client.say(f"{name}.{number}")
        assert event == GOING_AWAY
        await client.send(event.response())
        assert await client.receive() is None
        await client.stream.aclose()

    async with listening(app) as server:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                client = Client(await server.connect())
                assert isinstance(await client.open(), AcceptConnection)
                nursery.start_soon(chat, client, str(number))
            await trio.sleep(chance.random() / 5)
            server.group.stop()
        await server.stop()
        assert server.detail == "20 drained, 0 cut"
    assert heard == begun
    assert ended == [TOLD] * 20
