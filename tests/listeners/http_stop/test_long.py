"""A stop: TLS, timeouts, long responses, slow clients, WebSockets."""

import contextlib
import math
import os
import socket
import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request as Handshake
from wsproto.events import TextMessage

from ..http_serving import answer, request
from ..serving import (
    clog,
    lines_of,
)
from .helpers import App, Where, drained, goes_away, is_ended, is_last, open_websocket, stopped

# TLS.


def client_hello(context: ssl.SSLContext) -> bytes:
    leaving = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), leaving, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return leaving.read()


async def test_rule_05_tls_a_handshake_never_finished_does_not_hold_up_the_stop(
    tls: Where, client_context: ssl.SSLContext, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with tls.serving(app) as server, await server.connect() as stream:
        await stream.send_all(client_hello(client_context)[:50])
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() - began <= 1
    assert len(lines_of(caplog, "no TLS handshake")) == 1
    drained(server, 1)


# Timeouts, and long responses.


async def test_rule_10_slow_headers_hold_up_a_stop_no_longer_than_their_timeout(
    where: Where, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with where.serving(app, header_timeout=8, grace=math.inf) as server:
        async with where.connected(server) as client:
            await client.send(b"G")
            await wait_all_tasks_blocked()
            await trio.sleep(3)
            server.group.stop()
            for _ in range(4):
                await trio.sleep(1)
                await client.send(b"E")
            response = await client.read()
            assert (response.status, response.headers["connection"]) == (408, "close")
            await is_ended(client)
            assert trio.current_time() == pytest.approx(8)
    drained(server, 1)
    assert len(lines_of(caplog, ": 408 for ")) == 1


async def test_rule_10_an_upload_that_stalls_holds_up_a_stop_no_longer_than_the_idle_timeout(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app, idle_timeout=20, grace=math.inf) as server:
        async with where.connected(server) as client:
            await client.send(request("POST /echo HTTP/1.1", "Content-Length: 10", body=b"hello"))
            await wait_all_tasks_blocked()
            server.group.stop()
            response = await client.read()
            assert (response.status, response.headers["connection"]) == (408, "close")
            await is_ended(client)
            assert trio.current_time() == pytest.approx(20)
    assert server.detail.startswith("1 drained, 0 cut")


async def test_rule_10_a_client_that_takes_nothing_holds_up_a_stop_no_longer_than_the_idle_timeout(
    tcp: Where, clock: MockClock
) -> None:
    app = App()

    async def big(receive: Any, send: Any) -> None:
        await answer(send, bytes(20_000_000))

    app.big = big  # type: ignore[attr-defined]
    async with tcp.serving(app, idle_timeout=20, grace=math.inf) as server:
        async with tcp.connected(server) as client:
            await client.send(request("GET /big HTTP/1.1"))
            await wait_all_tasks_blocked()
            await server.stop()
            assert trio.current_time() == pytest.approx(20)
    assert server.detail == "1 drained, 0 cut"
    assert "big raises ClientDisconnected" in app.seen


async def test_a_long_response_that_asks_whether_it_stops_ends_itself(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app, grace=math.inf) as server, where.connected(server) as client:
        await client.send(request("GET /ticks HTTP/1.1"))
        await trio.sleep(2.5)
        server.group.stop()
        await is_last(client, b"tick tick tick bye", told=False)
        assert trio.current_time() == pytest.approx(2.5)
    drained(server, 1)


# WebSockets.


async def test_rule_10_a_websocket_that_waits_gets_1001_and_its_app_too(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = await open_websocket(client.stream, "/chat")
        app.go.set()
        await websocket.send(TextMessage(data="hello"))
        assert await websocket.hear() == "hello!"
        await wait_all_tasks_blocked()
        await stopped(server)
        assert app.seen[-2:] == ["1001 going away", "chat ends"]
        await goes_away(websocket)
    drained(server, 1)


async def test_rule_10_a_websocket_with_a_message_in_hand_answers_it_first(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = await open_websocket(client.stream, "/chat")
        await websocket.send(TextMessage(data="one"))
        await websocket.send(TextMessage(data="two"))
        await app.begun.wait()
        await stopped(server)
        assert app.seen[-1] == "chat begins"
        app.go.set()
        assert await websocket.hear() == "one!"
        await goes_away(websocket)
        await server.ended.wait()
        assert app.seen[2:4] == ["1001 going away", "chat ends"]
    drained(server, 1)


async def test_rule_10_a_websocket_whose_app_only_sends_is_closed(
    where: Where, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = await open_websocket(client.stream, "/news")
        assert await websocket.hear() == "news"
        await trio.sleep(0.5)
        server.group.stop()
        await goes_away(websocket)
        await server.ended.wait()
        assert app.seen[2] == "news raises ClientDisconnected"
        assert trio.current_time() == pytest.approx(1)
    drained(server, 1)
    assert not [record for record in caplog.records if record.exc_info]


async def test_rule_10_a_websocket_inside_busy_is_told_when_the_block_ends(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = await open_websocket(client.stream, "/busy_news")
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        assert await websocket.hear() == "old news"
        await goes_away(websocket)
        await server.ended.wait()
        assert app.seen[2:4] == ["1001", "busy_news ends"]
    drained(server, 1)


async def test_rule_09_a_websocket_handshake_in_progress_gets_503(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(
            WSConnection(ConnectionType.CLIENT).send(
                Handshake(host="localhost", target="/slow_accept")
            )
        )
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (503, "close")
        await is_ended(client)
    drained(server, 1)


async def test_rule_09_a_websocket_handshake_half_sent_gets_503(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        data = WSConnection(ConnectionType.CLIENT).send(Handshake(host="localhost", target="/chat"))
        await client.send(data[:-10])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(data[-10:])
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (503, "close")
        await is_ended(client)
    drained(server, 1)
    assert "chat begins" not in app.seen


# What a slow client has before it.


async def test_rule_05_a_response_still_in_the_kernel_is_not_lost_with_the_stop(
    tcp: Where, clock: MockClock
) -> None:
    """The client's window is full: the close lingers, and it gets what is left."""
    app = App()
    async with tcp.serving(app) as server, tcp.connected(server) as client:
        sender = socket.socket(fileno=os.dup(client.stream.socket.fileno()))
        with sender:
            await client.send(request("POST /ignore HTTP/1.1", "Content-Length: 100000000"))
            await app.begun.wait()
            clog(sender)  # it has sent all that it can, and reads nothing
            await stopped(server)
            app.go.set()
            await wait_all_tasks_blocked()
        await is_last(client, b"ignored")
    drained(server, 1)
