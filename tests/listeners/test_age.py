"""max_age and max_requests: clients of a long life come back, to whomever a balancer chooses."""

import math
import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketRequest
from wsproto.events import TextMessage

from trio_run import HTTPListener, TCPListener, UnixListener, WebSocketListener, busy
from trio_run._listeners._connection import Connection
from trio_run.testing import read_to_end, read_until

from .http_serving import Client, answer, only_http, request, serving_app
from .http_stop.helpers import goes_away, is_last, open_websocket
from .http_websocket.helpers import REQUEST as HANDSHAKE
from .serving import HOST, ask, echo, serving


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_a_connection_past_its_age_drains(drain: str, clock: MockClock) -> None:
    async with serving(echo, max_age=10, drain=drain) as server:
        async with await server.connect() as old:
            await trio.sleep(5)
            async with await server.connect() as young:
                assert await ask(old, b"hello") == b"hello"
                assert await old.receive_some() == b""
                assert 9 <= trio.current_time() <= 10.5
                assert await ask(young, b"hello") == b"hello"
                assert await young.receive_some() == b""
                assert 14 <= trio.current_time() <= 15.5
        assert server.listener.status == "0 connections, 0 busy"


async def test_those_that_came_together_do_not_leave_together(clock: MockClock) -> None:
    ended: list[float] = []
    async with serving(echo, max_age=20) as server, trio.open_nursery() as nursery:

        async def stay() -> None:
            async with await server.connect() as client:
                assert await client.receive_some() == b""
                ended.append(trio.current_time())

        for _ in range(50):
            nursery.start_soon(stay)
    assert min(ended) >= 18
    assert max(ended) <= 20.5
    assert max(ended) - min(ended) > 0.8
    assert len(set(ended)) > 3


async def test_what_is_busy_is_finished_and_one_that_drains_already_is_left_alone(
    clock: MockClock,
) -> None:
    async def handler(stream: Any) -> None:
        async for chunk in stream:
            with busy():
                await trio.sleep(8)
                await stream.send_all(chunk)

    async with serving(handler, max_age=10) as server, await server.connect() as client:
        await trio.sleep(5)
        await client.send_all(b"hello")
        await trio.sleep(2)
        server.group.stop()
        assert await read_to_end(client) == b"hello"
        assert trio.current_time() == pytest.approx(13, abs=0.2)


async def test_a_websocket_past_its_age_goes_away(clock: MockClock) -> None:
    async def handler(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        while True:
            await websocket.send_message(await websocket.get_message())

    options: dict[str, Any] = {"kind": WebSocketListener, "port": 0, "host": HOST, "max_age": 10}
    async with serving(handler, **options) as server, await server.connect() as stream:
        websocket = await open_websocket(stream, "/")
        await websocket.say("hello")
        assert await websocket.receive() == TextMessage("hello")
        await goes_away(websocket)
        assert 9 <= trio.current_time() <= 10.5


async def stream_until(when: float, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    while trio.current_time() < when:
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
        await trio.sleep(1)
    await send({"type": "http.response.body", "body": b"the last"})


@only_http
async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"] == "/stream":
            await stream_until(25, send)
        else:
            await answer(send)
            await trio.sleep(60 if scope["path"] == "/and/go/on" else 0)
        return
    assert (await receive())["type"] == "websocket.connect"
    await trio.sleep(15 if scope["path"] == "/slow" else 0)
    await send({"type": "websocket.accept"})
    assert await receive() == {"type": "websocket.disconnect", "code": 1001, "reason": "going away"}


async def test_a_client_that_asks_often_hears_before_that_a_response_is_the_last(
    clock: MockClock,
) -> None:
    """So no request is on its way to a connection that ends."""
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        client = Client(stream)
        while "connection" not in (await client.ask(request())).headers:
            await trio.sleep(0.9)
        assert 8 <= trio.current_time() <= 10
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("path", [None, "/", "/and/go/on"])
async def test_an_idle_connection_past_its_age_ends(path: str | None, clock: MockClock) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        client = Client(stream)
        if path is not None:
            await client.ask(request(f"GET {path} HTTP/1.1"))
        assert await client.read_to_end() == b""
        assert 9 <= trio.current_time() <= 10


def send_at_drain(stream: trio.SocketStream, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this sent just before the server lets the connection drain."""
    drain = Connection.drain

    def send_and_drain(connection: Connection) -> None:
        stream.socket._sock.send(data)  # type: ignore[attr-defined]
        drain(connection)

    monkeypatch.setattr(Connection, "drain", send_and_drain)


async def test_a_request_that_is_there_when_an_idle_connection_drains_is_answered(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        send_at_drain(stream, request(), monkeypatch)
        await is_last(Client(stream), b"")


async def test_a_websocket_that_is_asked_for_as_its_connection_drains_is_told_to_come_back(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        send_at_drain(stream, HANDSHAKE, monkeypatch)
        assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        going_away = b"\x88\x0c\x03\xe9going away"
        assert await read_until(stream, b"away") == going_away


async def test_a_response_past_the_age_is_finished_and_so_is_what_is_asked_next(
    clock: MockClock,
) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        client = Client(stream)
        response = await client.ask(request("GET /stream HTTP/1.1"))
        assert response.body.endswith(b"the last")
        assert "connection" not in response.headers
        await trio.sleep(0.9)
        await client.send(request())
        await is_last(client, b"")


async def test_after_a_response_past_the_age_the_connection_ends_soon(clock: MockClock) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        client = Client(stream)
        await client.ask(request("GET /stream HTTP/1.1"))
        assert trio.current_time() == pytest.approx(25, abs=0.1)
        assert await client.read_to_end() == b""
        assert trio.current_time() == pytest.approx(26, abs=0.1)


async def test_a_websocket_that_begins_past_the_age_goes_away_soon(clock: MockClock) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        await Client(stream).ask(request("GET /stream HTTP/1.1"))
        await goes_away(await open_websocket(stream, "/"))
        assert trio.current_time() <= 26.1


async def test_a_websocket_whose_app_is_slow_to_accept_it_is_accepted_past_the_age(
    clock: MockClock,
) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        await goes_away(await open_websocket(stream, "/slow"))
        assert 15 <= trio.current_time() <= 16.1


async def test_a_stop_hurries_a_handshake_that_is_past_the_age(
    clock: MockClock, server_context: ssl.SSLContext
) -> None:
    options: dict[str, Any] = {"ssl_context": server_context, "max_age": 2}
    async with serving(echo, **options) as server, await server.connect() as client:
        await client.send_all(b"\x16\x03")
        await trio.sleep(3)
        server.group.stop()
        assert await client.receive_some() == b""
        assert trio.current_time() == pytest.approx(3.5, abs=0.1)


async def test_an_old_websocket_of_an_app_goes_away(clock: MockClock) -> None:
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        await goes_away(await open_websocket(stream, "/"))
        assert 9 <= trio.current_time() <= 10.5
        await server.stop()
    assert "failed" not in server.detail


@pytest.mark.parametrize(("most", "least"), [(1, 1), (9, 9), (50, 45)])
async def test_a_connection_ends_with_so_many_requests(most: int, least: int) -> None:
    seen = set()
    async with serving_app(app, max_requests=most) as server:
        for _ in range(20):
            async with await server.connect() as stream:
                client = Client(stream)
                count = 1
                while "connection" not in (await client.ask(request())).headers:
                    count += 1
                assert await client.read_to_end() == b""
                seen.add(count)
    assert least <= min(seen)
    assert max(seen) <= most
    assert (len(seen) > 1) is (most > least)


def test_what_can_not_be_meant() -> None:
    for wrong in (0, -1, math.nan, True, "5", None):
        with pytest.raises(ValueError, match=f"max_age must be .* for no limit, not {wrong!r}"):
            TCPListener(echo, 0, max_age=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='with drain="wait" none does'):
        UnixListener(echo, "path", max_age=5, drain="wait")
    for wrong in (0, -1, 1.5, math.nan, True, "5"):
        with pytest.raises(ValueError, match=f"max_requests must be .* or None, not {wrong!r}"):
            HTTPListener(app, 0, max_requests=wrong)  # type: ignore[arg-type]
