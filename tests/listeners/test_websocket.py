"""WebSocketListener: section 4, rule 9, and rules 1 to 6 as far as they are its own.

The clients are wsproto and websockets.
"""

import contextlib
import gc
import random
import signal
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio_websocket
import websockets.exceptions
import websockets.sync.client
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from trio_run import busy, cancel_on_stop, stopping
from trio_run._inside import place
from trio_run._listeners import _connection
from trio_run._listeners._connection import Connection
from trio_run._listeners._websocket import WebSocketListener
from trio_run.testing import open_program, read_to_end

from .. import TIMEOUT
from ..programs import python
from .serving import (
    HOST,
    Server,
    clog_stream,
    lines_of,
    name_of,
    open_descriptors,
    serving,
)
from .websocket_client import GOING_AWAY, NORMAL, WebSocketClient

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Handler = Callable[[WebSocketRequest], Awaitable[object]]


@asynccontextmanager
async def listening(handler: Handler, **options: Any) -> AsyncIterator[Server]:
    if "sockets" not in options:
        options = {"port": 0, "host": HOST} | options
    async with serving(handler, kind=WebSocketListener, **options) as server:
        yield server


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[WebSocketClient]:
    """A client whose WebSocket is open."""
    async with await server.connect() as stream:
        client = WebSocketClient(stream)
        assert isinstance(await client.open(), AcceptConnection)
        yield client


async def echo(request: WebSocketRequest) -> None:
    """As for serve_websocket, which lets ConnectionClosed pass."""
    websocket = await request.accept()
    while True:
        message = await websocket.get_message()
        with busy():
            await websocket.send_message(message)


class Answering:
    """A handler that says "begun", and "done" when it is let go; and what it has seen."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.go = trio.Event()

    async def __call__(self, request: WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            while True:
                self.seen.append(await websocket.get_message())
                with busy():
                    with busy():
                        await websocket.send_message("begun")
                        await self.go.wait()
                    self.seen.append(await websocket.get_message())  # not told yet: it reads on
                    await websocket.send_message("done")
        except ConnectionClosed as exc:
            self.seen.append(exc.reason and exc.reason.code)
            raise


def reset_on_close(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def answer_of(stream: trio.abc.Stream) -> bytes:
    """The first line of an HTTP answer that is followed by the end of the stream."""
    async with stream:
        answer = await read_to_end(stream)
    return answer.split(b"\r\n")[0]


# Rule 1: what it is given.


async def test_rule_01_it_tells_where_it_listens_and_serves_there() -> None:
    async with listening(echo, name="chat") as server:
        assert server.listener.name == "chat"
        async with opened(server) as client:
            await client.say("hello")
            assert await client.hear() == "hello"
            await client.send(BytesMessage(data=b"\0\1"))
            event = await client.receive()
            assert isinstance(event, Message)
            assert event.data == b"\0\1"


def test_rule_01_its_name_says_the_protocol_and_the_port() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert WebSocketListener(echo, 7000).name == "ws:7000"
    assert WebSocketListener(echo, 0).name == "ws"
    assert WebSocketListener(echo, 7000, ssl_context=context).name == "wss:7000"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"handler": None}, TypeError, "an async function of one request, not None"),
        ({"port": None}, ValueError, "WebSocketListener takes either a port or sockets"),
        ({"port": 70000}, ValueError, "port must be"),
        (
            {"message_queue_size": -1},
            ValueError,
            "message_queue_size must be a number from 0 on, not -1",
        ),
        ({"max_message_size": 0}, ValueError, "max_message_size must be a number from 1 on, not 0"),
        ({"connect_timeout": -1}, ValueError, "connect_timeout must be a number from 0 on, not -1"),
        (
            {"disconnect_timeout": float("nan")},
            ValueError,
            "disconnect_timeout must be a number from 0 on, not nan",
        ),
        (
            {"connect_timeout": None},
            ValueError,
            "connect_timeout must be a number from 0 on, not None",
        ),
    ],
)
def test_rule_01_a_bad_argument_is_an_error_at_once(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        WebSocketListener(**({"handler": echo, "port": 0} | arguments))


def test_rule_01_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-run\[websocket\]'"):
        WebSocketListener(echo, 0)


async def test_a_handler_for_serve_websocket_works_unchanged() -> None:
    """It sees the same, served by us and by trio_websocket."""
    seen: list[tuple[object, ...]] = []

    async def handler(request: WebSocketRequest) -> None:
        assert isinstance(request.remote, trio_websocket.Endpoint)
        headers = [(b"X-Hello", b"you")]
        websocket = await request.accept(subprotocol="chat", extra_headers=headers)
        assert isinstance(websocket.local, trio_websocket.Endpoint)
        ports = (websocket.local.port, request.remote.port)
        await websocket.send_message(" ".join(map(str, ports)))
        seen.append(
            (
                str(request.remote.address),
                str(websocket.local.address),
                websocket.local.is_ssl,
                request.path,
                request.proposed_subprotocols,
                websocket.subprotocol,
                websocket.path,
                await websocket.get_message(),
            )
        )
        await websocket.aclose(code=3000, reason="enough")

    async def visit(host: str, port: int) -> None:
        async with await trio.open_tcp_stream(host, port) as stream:
            client = WebSocketClient(stream)
            accepted = await client.open("chat")
            assert isinstance(accepted, AcceptConnection)
            assert accepted.subprotocol == "chat"
            assert (b"x-hello", b"you") in accepted.extra_headers
            assert await client.hear() == f"{port} {stream.socket.getsockname()[1]}"
            await client.say("hello")
            await client.is_closed(CloseConnection(code=3000, reason="enough"))

    async with listening(handler) as server:
        await visit(*server.address)
    async with trio.open_nursery() as nursery:
        theirs = await nursery.start(trio_websocket.serve_websocket, handler, HOST, 0, None)
        await visit(HOST, theirs.port)
        nursery.cancel_scope.cancel()
    assert seen[0] == seen[1]


# Rule 2: what fails.


async def test_rule_02_a_handler_that_fails_is_logged_with_the_address_and_its_client_gets_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        await websocket.get_message()
        raise ValueError("no good")

    async with listening(handler) as server, opened(server) as other:
        async with opened(server) as client:
            assert isinstance(client.stream, trio.SocketStream)
            await client.say("hello")
            await client.is_closed(CloseConnection(code=1011, reason=""))
            [record] = lines_of(caplog, "the handler failed")
            assert record.getMessage().endswith(f"for {name_of(client.stream)}")
            assert record.exc_info is not None
            assert str(record.exc_info[1]) == "no good"
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy, 1 failed"
        server.group.stop()
        await other.is_closed(GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut, 1 failed"
        assert server.report.exit_code == 0


async def test_rule_02_a_handler_that_fails_before_it_accepts_is_logged_and_the_client_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        raise ValueError("no good")

    async with listening(handler) as server, await server.connect() as stream:
        refusal = await WebSocketClient(stream).open()
        assert isinstance(refusal, RejectConnection)
        assert refusal.status_code == 500
        [record] = lines_of(caplog, "the handler failed")
        assert record.getMessage().endswith(f"for {name_of(stream)}")


async def test_rule_02_a_failure_is_logged_even_if_its_client_has_to_be_cut(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise ValueError("no good")

    async with listening(handler, grace=1) as server, opened(server) as client:
        assert await client.receive() == CloseConnection(code=1011, reason="")
        await server.stop()
        assert lines_of(caplog, "the handler failed")
        assert server.detail == "0 drained, 1 cut, 1 failed"


async def test_rule_02_a_failure_while_busy_at_the_stop_is_1011_too() -> None:
    go = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        with busy():
            await websocket.send_message("begun")
            await go.wait()
            raise ValueError("no good")

    async with listening(handler) as server, opened(server) as client:
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        await client.is_closed(CloseConnection(code=1011, reason=""))
        await server.stop()
        assert server.detail == "1 drained, 0 cut, 1 failed"


@pytest.mark.parametrize("mixed", [False, True])
async def test_rule_02_the_end_of_the_connection_is_no_failure_in_a_group_of_errors_either(
    mixed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive(websocket: WebSocketConnection, *, fails: bool) -> None:
        try:
            await websocket.get_message()
        except ConnectionClosed:
            if fails:
                raise ValueError("no good") from None
            raise

    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            for nursery, fails in ((outer, mixed), (inner, False)):
                nursery.start_soon(lambda fails: receive(websocket, fails=fails), fails)

    async with listening(handler) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
        failed = lines_of(caplog, "the handler failed")
        assert len(failed) == mixed
        assert server.detail == "1 drained, 0 cut" + (", 1 failed" if mixed else "")
        for record in failed:
            assert record.exc_info is not None
            error = record.exc_info[1]
            assert isinstance(error, ExceptionGroup)
            assert error.subgroup(ValueError) is not None
            assert error.subgroup(ConnectionClosed) is None


async def test_rule_02_the_end_of_the_connection_is_no_failure_when_the_handler_is_cut(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.get_message)
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            await trio.lowlevel.checkpoint()

    async with listening(handler, grace=1) as server, opened(server):
        await server.stop()
        assert server.detail == "0 drained, 1 cut"
        assert not lines_of(caplog, "the handler failed")


@pytest.mark.parametrize("at", ["idle", "mid-message", "busy"])
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_rule_02_a_client_that_vanishes_is_no_failure(
    at: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Answering()
    before = open_descriptors()
    async with listening(handler) as server:
        async with opened(server) as client:
            assert isinstance(client.stream, trio.SocketStream)
            if at == "mid-message":
                await client.stream.send_all(b"\x81\xfe\x10\x00")
            if at == "busy":
                await client.say("hello")
                assert await client.hear() == "begun"
            await wait_all_tasks_blocked()
            if how == "reset":
                reset_on_close(client.stream)
        handler.go.set()
        await wait_all_tasks_blocked()
        assert handler.seen[-1] == 1006
        assert server.listener.status == "0 connections, 0 busy"
    assert server.detail == "0 drained, 0 cut"
    assert not lines_of(caplog, "failed")
    assert open_descriptors() == before


async def test_rule_02_a_client_that_closes_is_answered_and_its_handler_hears_of_it() -> None:
    handler = Answering()
    async with listening(handler) as server:
        async with opened(server) as client:
            await client.send(CloseConnection(code=3001, reason="enough"))
            assert await client.receive() == CloseConnection(code=3001, reason="enough")
            assert await client.receive() is None
        await wait_all_tasks_blocked()
        assert handler.seen == [3001]
        assert server.listener.status == "0 connections, 0 busy"


async def test_rule_02_a_message_that_is_too_big_ends_the_connection_with_1009(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo, max_message_size=10) as server:
        async with opened(server) as client:
            await client.say("x" * 10)
            assert await client.hear() == "x" * 10
            await client.say("x" * 11)
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            assert event.code == 1009
            await client.send(event.response())
            assert await client.receive() is None
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, "failed")


async def test_rule_02_a_frame_that_makes_no_sense_ends_the_connection(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(echo) as server:
        began = trio.current_time()
        async with opened(server) as client:
            await client.stream.send_all(b"\x81\x01x")  # not masked
            assert await client.receive() is None
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
        assert trio.current_time() - began < 1
    assert not lines_of(caplog, "failed")


# The handshake.


async def test_a_handler_that_returns_without_accepting_is_answered_for() -> None:
    async def handler(request: WebSocketRequest) -> None:
        pass

    async with listening(handler) as server, await server.connect() as stream:
        refusal = await WebSocketClient(stream).open()
        assert isinstance(refusal, RejectConnection)
        assert refusal.status_code == 500
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"


async def test_a_handler_may_reject() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403, body=b"not you")

    async with listening(handler) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"\r\n\r\nnot you")


@pytest.mark.parametrize("sent", [b"", REQUEST[:50]])
async def test_a_client_has_so_long_for_its_handshake(sent: bytes, clock: MockClock) -> None:
    async with listening(echo, connect_timeout=3) as server, await server.connect() as stream:
        began = trio.current_time()
        await stream.send_all(sent)
        assert await read_to_end(stream) == b""
        assert trio.current_time() - began == pytest.approx(3)


@pytest.mark.parametrize("sent", [b"", REQUEST[:50]])
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_a_client_that_leaves_in_its_handshake_is_forgotten_at_once(
    sent: bytes, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(echo) as server:
        async with await server.connect() as stream:
            await stream.send_all(sent)
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 0 busy"
            if how == "reset":
                reset_on_close(stream)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, "failed")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (REQUEST.replace(b"13", b"8"), b"426"),
        (REQUEST.replace(b"localhost", b"\xff"), b""),
        (REQUEST.replace(b" Upgrade\r", b" Upgrade\xff\r"), b""),
    ],
)
async def test_a_malformed_handshake_is_refused_at_once(
    sent: bytes, status: bytes, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        began = trio.current_time()
        await stream.send_all(sent)
        answer = await answer_of(stream)
        assert trio.current_time() - began < 1
        assert answer.split(b" ")[1:2] == ([status] if status else [])
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, "failed")


async def test_a_malformed_handshake_whose_client_has_left_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library wants to tell it of its mistake, and raises where nobody catches it."""

    async def send_all(self: Connection, data: bytes) -> None:
        raise trio.BrokenResourceError("it has left")

    async with listening(echo) as server, await server.connect() as stream:
        monkeypatch.setattr(Connection, "send_all", send_all)
        await stream.send_all(b"nonsense\r\n\r\n")
        assert await read_to_end(stream) == b""
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, "failed")


# Rule 9: open connections.


async def test_rule_09_an_idle_connection_gets_1001_and_the_closing_handshake_completes() -> None:
    handler = Answering()
    async with listening(handler) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert handler.seen == [1001]
        assert server.detail == "1 drained, 0 cut"
        assert server.report.exit_code == 0


async def test_rule_09_a_client_of_another_library_sees_1001() -> None:
    async with listening(echo) as server:
        host, port = server.address

        def talk() -> object:
            with websockets.sync.client.connect(f"ws://{host}:{port}") as client:
                client.send("hello")
                assert client.recv() == "hello"
                trio.from_thread.run_sync(server.group.stop)
                with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
                    client.recv()
                return caught.value.rcvd

        received = await trio.to_thread.run_sync(talk)
        await server.stop()
        assert str(received) == "1001 (going away) going away"
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_a_busy_connection_finishes_first_and_nested_blocks_count_as_one() -> None:
    handler = Answering()
    async with listening(handler) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        assert server.listener.status == "1 connection, 1 busy"
        server.group.stop()
        await wait_all_tasks_blocked()
        handler.go.set()
        await wait_all_tasks_blocked()
        await client.say("body")
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert handler.seen == ["ask", "body", 1001]
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_messages_queued_behind_a_busy_one_are_not_begun() -> None:
    handler = Answering()
    async with listening(handler, message_queue_size=5) as server, opened(server) as client:
        for text in ("ask", "body", "second", "third"):
            await client.say(text)
        assert await client.hear() == "begun"
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        handler.go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        assert handler.seen == ["ask", "body", 1001]


@pytest.mark.parametrize("_again", range(10))  # which task is first is up to Trio
async def test_rule_09_a_message_handed_out_as_the_stop_comes_is_answered(
    _again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = WebSocketListener._drain_one
    websockets: list[WebSocketConnection] = []

    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        websockets.append(websocket)
        while True:
            message = await websocket.get_message()
            with busy():
                await websocket.send_message("and whom?")
                await websocket.send_message(f"{message} {await websocket.get_message()}")

    def hand_out_and_tell(self: WebSocketListener, connection: Connection) -> None:
        websockets[0]._send_channel.send_nowait("hello")  # as the library's reader does
        tell(self, connection)

    async with listening(handler) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        monkeypatch.setattr(WebSocketListener, "_drain_one", hand_out_and_tell)
        server.group.stop()
        assert await client.hear() == "and whom?"
        await wait_all_tasks_blocked()
        await client.say("you")
        assert await client.hear() == "hello you"
        await client.is_closed(GOING_AWAY)


async def test_rule_09_a_client_that_does_not_answer_the_close_is_cut_at_the_grace(
    clock: MockClock,
) -> None:
    async with listening(echo, grace=20, disconnect_timeout=5) as server:
        async with opened(server) as client:
            await server.stop()
            assert server.report.duration == pytest.approx(20)
            assert server.detail == "0 drained, 1 cut"
            assert await client.receive() == GOING_AWAY
            assert await client.receive() is None


async def test_rule_09_a_client_that_answers_late_is_drained(clock: MockClock) -> None:
    async with listening(echo, grace=20, disconnect_timeout=5) as server:
        async with opened(server) as client:
            server.group.stop()
            assert await client.receive() == GOING_AWAY
            await trio.sleep(19)
            await client.send(GOING_AWAY.response())
            assert await client.receive() is None
            await server.stop()
            assert server.detail == "1 drained, 0 cut"
            assert server.report.duration == pytest.approx(19)


async def test_rule_09_a_client_that_leaves_instead_of_answering_is_drained() -> None:
    async with listening(echo) as server:
        async with opened(server) as client:
            server.group.stop()
            assert await client.receive() == GOING_AWAY
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_a_client_that_left_with_messages_that_nobody_took_is_not_waited_for(
    clock: MockClock,
) -> None:
    """The library's reader waits for someone to take them, and our Close can't be sent."""
    go = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        with busy():
            await go.wait()

    async with listening(handler) as server:
        async with opened(server) as client:
            await client.say("first", "second", "third")
            await wait_all_tasks_blocked(0.01)
            reset_on_close(client.stream)
        server.group.stop()
        await wait_all_tasks_blocked(0.01)
        go.set()
        began = trio.current_time()
        await server.ended.wait()
        assert trio.current_time() - began < 1
    assert server.detail == "1 drained, 0 cut"


async def test_rule_09_what_a_client_sends_across_our_close_does_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo, max_message_size=10) as server, opened(server) as client:
        server.group.stop()
        await wait_all_tasks_blocked()
        for _ in range(3):
            await client.send(Ping(payload=b"still there?"))
            await client.say("late")
            await client.say("far too late")  # and too big
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert not lines_of(caplog, "failed")


async def test_rule_09_a_ping_is_answered_while_a_busy_connection_drains() -> None:
    handler = Answering()
    async with listening(handler) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        await client.send(Ping(payload=b"still there?"))
        assert await client.receive() == Pong(payload=b"still there?")
        handler.go.set()
        await client.say("body")
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)


async def test_rule_09_a_handler_busy_again_after_the_end_does_not_end_the_closing_handshake() -> (
    None
):
    saved = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        try:
            await echo(request)
        except ConnectionClosed:
            for _ in range(2):
                with busy():
                    await trio.lowlevel.checkpoint()
            saved.set()

    async with listening(handler) as server, opened(server) as client:
        server.group.stop()
        await saved.wait()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        await client.is_closed(GOING_AWAY)


async def test_rule_09_a_handler_that_returned_before_the_stop_waits_for_its_client() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()

    async with listening(handler) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        await client.is_closed(NORMAL)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("stops", [False, True])
async def test_rule_09_a_client_has_so_long_to_answer_when_its_handler_has_returned(
    stops: bool, clock: MockClock
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()

    async with listening(handler, disconnect_timeout=3) as server, opened(server) as client:
        began = trio.current_time()
        assert await client.receive() == NORMAL
        if stops:
            server.group.stop()
        assert await client.receive() is None
        assert trio.current_time() - began == pytest.approx(3)
        await server.stop()
        assert server.detail == f"{stops:d} drained, 0 cut"


async def test_rule_09_a_handler_that_ends_by_cancel_on_stop_says_1001(clock: MockClock) -> None:
    seen: list[bool] = []

    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        seen.append(stopping())
        with cancel_on_stop() as scope:
            await websocket.get_message()
        seen.extend([scope.cancelled_caught, stopping()])

    async with listening(handler, disconnect_timeout=3) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        event = await client.receive()
        assert isinstance(event, CloseConnection)
        assert event.code == 1001
        assert seen == [False, True, True]
        await trio.sleep(10)  # as long as the grace
        await client.send(event.response())
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_work_that_outlives_its_connection_may_end_its_busy_block() -> None:
    go = trio.Event()
    ended = trio.Event()

    async def outlive() -> None:
        with busy():
            await go.wait()
        ended.set()

    async with trio.open_nursery() as nursery:

        async def handler(request: WebSocketRequest) -> None:
            await request.accept()
            nursery.start_soon(outlive)

        async with listening(handler) as server:
            async with opened(server) as client:
                await wait_all_tasks_blocked()
                server.group.stop()
                await client.is_closed(NORMAL)
            await server.stop()
            go.set()
            await ended.wait()


async def test_rule_09_the_clients_own_close_at_the_stop_is_answered() -> None:
    async with listening(echo) as server:
        async with opened(server) as client:
            await client.send(CloseConnection(code=1000, reason="bye"))
            server.group.stop()
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            assert event.code in (1000, 1001)
            assert await client.receive() is None
        await server.stop()
        assert server.detail.endswith(" 0 cut")


async def test_rule_09_without_a_group_it_drains_when_it_is_interrupted(clock: MockClock) -> None:
    listener = WebSocketListener(echo, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*address) as stream:
                client = WebSocketClient(stream)
                assert isinstance(await client.open(), AcceptConnection)
                listener.interrupt(None)  # type: ignore[arg-type]
                await trio.sleep(25)  # there is no grace
                assert listener.status == "1 connection, 0 busy"
                await client.is_closed(GOING_AWAY)
    assert listener.status == "1 drained, 0 cut"


# Rule 9: new handshakes.


async def test_rule_09_a_client_that_has_not_begun_its_handshake_gets_503(
    clock: MockClock,
) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        await wait_all_tasks_blocked()
        server.group.stop()
        assert await answer_of(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert server.report.duration < 1


async def test_rule_09_a_client_that_is_gone_when_it_is_to_get_503_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def send_all(self: Connection, data: bytes) -> None:
        raise trio.BrokenResourceError("it has left")

    async with listening(echo) as server, await server.connect():
        await wait_all_tasks_blocked()
        monkeypatch.setattr(Connection, "send_all", send_all)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_a_client_whose_handler_has_not_accepted_yet_gets_503() -> None:
    go = trio.Event()
    seen: list[object] = []

    async def handler(request: WebSocketRequest) -> None:
        await go.wait()
        try:
            await request.accept()
        except ConnectionClosed as exc:
            seen.append(exc.reason and exc.reason.code)
            raise

    async with listening(handler) as server, await server.connect() as stream:
        client = WebSocketClient(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.open)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        server.group.stop()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        go.set()
        refused = await client.receive()
        assert isinstance(refused, RejectConnection)
        assert refused.status_code == 503
        await server.stop()
        assert seen == [1001]
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_a_handshake_that_arrives_as_the_stop_comes_gets_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell = WebSocketListener._drain_one
    arrived: list[Callable[[], object]] = []

    async def keep(self: WebSocketConnection, event: Any) -> None:
        assert self._connection_proposal is not None
        proposal = WebSocketRequest(self, event)
        arrived.append(lambda: self._connection_proposal.set_value(proposal))

    def arrive_and_tell(self: WebSocketListener, connection: Connection) -> None:
        arrived[0]()  # as the library's reader does, when the request is whole
        tell(self, connection)

    async def handler(request: WebSocketRequest) -> None:
        raise AssertionError("never called")

    monkeypatch.setattr(WebSocketConnection, "_handle_request_event", keep)
    async with listening(handler) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(WebSocketListener, "_drain_one", arrive_and_tell)
        server.group.stop()
        assert await answer_of(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_clients_in_the_accept_queue_get_503(clock: MockClock) -> None:
    async with listening(echo) as server:
        clients = [server.connect_now(sent) for sent in (REQUEST, REQUEST[:50], b"")]
        server.group.stop()
        for client in clients:
            assert await answer_of(client) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "3 drained, 0 cut"


async def test_rule_09_told_inside_accept_it_is_opened_and_then_closed_with_1001() -> None:
    seen: list[int] = []

    accepted = trio.Event()
    go = trio.Event()

    async def clogged(request: WebSocketRequest) -> None:
        here = place.get()
        assert isinstance(here, Connection)
        seen.append(clog_stream(here))
        await request.accept()
        accepted.set()
        await go.wait()

    async with listening(clogged) as server, await server.connect() as stream:
        client = WebSocketClient(stream)
        await client.send(Request(host="localhost", target="/"))
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        [left] = seen
        assert not accepted.is_set()
        while left:
            left -= len(await stream.receive_some(left))
        assert isinstance(await client.receive(), AcceptConnection)
        await client.is_closed(GOING_AWAY)
        go.set()
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_09_a_handler_that_accepts_inside_busy_is_not_refused() -> None:
    go = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        with busy():
            await go.wait()
            websocket = await request.accept()
            await websocket.send_message("hello")
        await websocket.get_message()

    async with listening(handler) as server, await server.connect() as stream:
        client = WebSocketClient(stream)
        await client.send(Request(host="localhost", target="/"))
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert isinstance(await client.receive(), AcceptConnection)
        assert await client.hear() == "hello"
        await client.is_closed(GOING_AWAY)


@pytest.mark.parametrize("how", ["malformed", "left", "half closed"])
async def test_rule_09_a_handshake_that_fails_as_the_stop_comes_is_no_failure(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(echo) as server:
        async with await server.connect() as stream:
            await wait_all_tasks_blocked()
            if how == "malformed":
                await stream.send_all(b"nonsense\r\n\r\nand more of it")
            if how == "half closed":
                await stream.send_eof()
            if how == "left":
                reset_on_close(stream)
                await stream.aclose()
            server.group.stop()
            if how != "left":
                await read_to_end(stream)
        await server.stop()
    assert not lines_of(caplog, "failed")
    assert server.detail.endswith(" 0 cut")


# Rules 5 and 6: TLS, and how many.


@pytest.mark.parametrize("_again", range(10))  # which task is first is up to Trio
async def test_rule_05_tls_the_closing_handshake_then_a_close_notify(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], _again: int
) -> None:
    seen: list[object] = []

    async def handler(request: WebSocketRequest) -> None:
        assert isinstance(request.remote, trio_websocket.Endpoint)
        seen.append((request.remote.is_ssl, request.remote.port))
        await echo(request)

    async with listening(handler, ssl_context=contexts[0]) as server:
        transport = await server.connect()
        port = transport.socket.getsockname()[1]
        stream = trio.SSLStream(transport, contexts[1], server_hostname="localhost")
        async with stream:
            client = WebSocketClient(stream)
            assert isinstance(await client.open(), AcceptConnection)
            await client.say("hello")
            assert await client.hear() == "hello"
            server.group.stop()
            await client.is_closed(GOING_AWAY)  # a stream that just ends would be an error
        await server.stop()
        assert seen == [(True, port)]
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("sent", [b"", REQUEST[:50]])
async def test_rule_05_tls_a_client_still_in_its_handshake_gets_503(
    sent: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with listening(echo, ssl_context=contexts[0]) as server:
        transport = await server.connect()
        stream = trio.SSLStream(transport, contexts[1], server_hostname="localhost")
        await stream.do_handshake()
        if sent:
            await stream.send_all(sent)
        await wait_all_tasks_blocked()
        server.group.stop()
        assert await answer_of(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_05_tls_a_client_in_the_accept_queue_gets_503(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)
    async with listening(echo, ssl_context=contexts[0]) as server:
        transport = server.connect_now()
        server.group.stop()
        await wait_all_tasks_blocked()
        stream = trio.SSLStream(transport, contexts[1], server_hostname="localhost")
        await stream.send_all(REQUEST)
        assert await answer_of(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_rule_06_further_clients_wait_until_there_is_room() -> None:
    async with listening(echo, max_connections=1) as server, await server.connect() as stream:
        first = WebSocketClient(stream)
        await first.open()
        async with await server.connect() as other:
            second = WebSocketClient(other)
            await second.send(Request(host="localhost", target="/"))
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 0 busy"
            await stream.aclose()
            assert isinstance(await second.receive(), AcceptConnection)
            server.group.stop()
            await second.is_closed(GOING_AWAY)


async def test_rule_06_those_who_wait_for_room_at_the_stop_get_503() -> None:
    async with listening(echo, max_connections=1) as server:
        async with opened(server) as first:
            queued = [server.connect_now(REQUEST) for _ in range(3)]
            server.group.stop()
            await first.is_closed(GOING_AWAY)
        for client in queued:
            assert await answer_of(client) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "4 drained, 0 cut"


# Nothing is left behind.


async def test_no_task_and_no_descriptor_is_left(
    clock: MockClock, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        message = await websocket.get_message()
        if message == "fail":
            raise ValueError("no good")
        if message == "stuck":
            with busy():
                await trio.sleep_forever()
        await websocket.get_message()

    descriptors = open_descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for context in (None, contexts[0]):
        async with listening(handler, grace=1, ssl_context=context, max_connections=9) as server:
            streams: list[trio.abc.Stream] = []
            for say in ("fail", "stuck", "idle", "handshake", "half", "gone"):
                stream: trio.abc.Stream = await server.connect()
                if context is not None:
                    stream = trio.SSLStream(stream, contexts[1], server_hostname="localhost")
                streams.append(stream)
                if say == "half":
                    await stream.send_all(REQUEST[:50])
                elif say != "handshake":
                    client = WebSocketClient(stream)
                    await client.open()
                    await client.say(say)
                    if say == "gone":
                        await trio.aclose_forcefully(stream)
            await server.stop()
            for stream in streams:
                await trio.aclose_forcefully(stream)
        assert open_descriptors() == descriptors
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_nothing_is_kept_of_a_message() -> None:
    def scopes() -> int:
        gc.collect()
        return sum(type(thing) is trio.CancelScope for thing in gc.get_objects())

    async with listening(echo) as server, opened(server) as client:
        counts = []
        for _ in range(2):
            for _ in range(20):
                await client.say("hello")
                assert await client.hear() == "hello"
            await wait_all_tasks_blocked()
            counts.append(scopes())
        assert counts[0] == counts[1]
        server.group.stop()
        await client.is_closed(GOING_AWAY)


# Under load.

SERVER = """
import collections, os, sys, trio
from trio_run import busy, run
from trio_run._listeners._websocket import WebSocketListener

begun = collections.Counter()

async def handler(request):
    websocket = await request.accept()
    while True:
        number, size = (await websocket.get_message()).split()
        with busy():
            begun[number] += 1
            await trio.sleep(0.001)
            await websocket.send_message(f"{number} {begun[number]} " + "." * int(size))

listener = WebSocketListener(handler, 0, host="127.0.0.1")

async def announce():
    while not listener.addresses:
        await trio.sleep(0.01)
    print("port", listener.addresses[0][1])
    await trio.sleep_forever()

announce.daemon = True
before = len(os.listdir("/proc/self/fd"))
code = run(listener, announce)
print("descriptors", before, len(os.listdir("/proc/self/fd")))
print("status:", listener.status)
print("begun", " ".join(f"{number}={count}" for number, count in begun.items()))
sys.exit(code)
"""


async def ask_for_ever(
    client: WebSocketClient, number: int, replies: list[int], size: int, *, ahead: int
) -> None:
    """Requests and replies, some requests ahead, until the Close, which it answers."""
    for _ in range(ahead):
        await client.say(f"{number} {size}")
    heard = ""
    while True:
        event = await client.receive()
        if isinstance(event, CloseConnection):
            assert heard == ""  # none is truncated
            assert event.code == 1001
            await client.send(event.response())
            assert await client.receive() is None
            return
        assert isinstance(event, TextMessage), event
        heard += event.data
        if event.message_finished:
            replies[number] += 1
            assert heard == f"{number} {replies[number]} " + "." * size
            heard = ""
            with contextlib.suppress(
                trio.BrokenResourceError
            ):  # it has closed: what it said counts
                await client.say(f"{number} {size}")


@pytest.mark.parametrize("_round", range(5))
async def test_under_load_no_reply_that_was_begun_is_lost_when_it_is_stopped(_round: int) -> None:
    replies = [0] * 200
    go = trio.Event()

    async def live(address: tuple[str, int], number: int, *, task_status: Any) -> None:
        async with await trio.open_tcp_stream(*address) as stream:
            client = WebSocketClient(stream)
            assert isinstance(await client.open(), AcceptConnection)
            task_status.started()
            await go.wait()
            size, ahead = (0, 6000)[number % 2], (1, 1, 3)[number % 3]
            await ask_for_ever(client, number, replies, size, ahead=ahead)

    async with open_program(python("-W", "error", "-c", SERVER)) as program:
        port = int((await program.line_with("port")).split()[1])
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                for number in range(len(replies)):
                    await nursery.start(live, (HOST, port), number)
                go.set()
                delay = random.uniform(0, 0.5)
                print(f"stopped after {delay} s")  # shown if it fails
                await trio.sleep(delay)
                program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "Error" not in program.output
    assert f"status: {len(replies)} drained, 0 cut\n" in program.output
    _, before, after = (await program.line_with("descriptors")).split()
    assert before == after
    begun = (await program.line_with("begun")).split()[1:]
    assert {f"{number}={count}" for number, count in enumerate(replies) if count} == set(begun)
