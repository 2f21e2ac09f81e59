"""max_age and max_requests: clients of a long life come back, to whomever a balancer chooses."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketRequest
from wsproto.events import TextMessage

from trio_run import HTTPListener, TCPListener, UnixListener, WebSocketListener, busy
from trio_run.testing import read_to_end

from .http_serving import Client, answer, only_http, request, serving_app
from .http_stop.helpers import goes_away, is_last, open_websocket
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


@only_http
async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await answer(send)
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    assert await receive() == {"type": "websocket.disconnect", "code": 1001, "reason": "going away"}


async def test_the_next_response_of_an_old_connection_is_its_last(clock: MockClock) -> None:
    """Until then it stays open: no request is on its way to one that ends."""
    async with serving_app(app, max_age=10) as server, await server.connect() as stream:
        client = Client(stream)
        for _ in range(4):
            response = await client.ask(request())
            assert "connection" not in response.headers
            await trio.sleep(2)
        await trio.sleep(5)
        await client.send(request())
        await is_last(client, b"")


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
