"""A client that leaves, or is slow: what its app notices, and when."""

import socket
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from ..http_serving import Client, answer, only_http, request, serving_app
from ..serving import listening_at
from .helpers import body, start

MANY = 20


def leave(client: trio.SocketStream, how: str) -> None:
    if how == "resets":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.socket.close()


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_the_streams_of_clients_that_have_left_end(how: str) -> None:
    """Server-sent events of which none is due: Starlette waits for nothing but its client."""
    ended = 0

    async def events() -> Any:
        nonlocal ended
        try:
            yield "data: hello\n\n"
            await trio.sleep_forever()
        finally:
            ended += 1

    async def endpoint(_request: Any) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", endpoint)])
    async with serving_app(app) as server:
        clients = [await server.connect() for _ in range(MANY)]
        for client in clients:
            await client.send_all(request())
            assert await client.receive_some()
        await wait_all_tasks_blocked()
        assert server.listener.status == f"{MANY} connections, {MANY} busy"
        for client in clients:
            leave(client, how)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
        assert ended == MANY
        report = await server.stop()
    assert report.duration < 1


async def test_a_client_that_ends_its_side_may_still_be_answered() -> None:
    heard: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        heard.append((await receive())["type"])
        await answer(send, b"to you still")

    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        await client.send(request())
        await wait_all_tasks_blocked()
        await stream.send_eof()
        assert (await client.read()).body == b"to you still"
    assert heard == ["http.disconnect"]


async def test_a_client_that_leaves_with_much_ahead_is_noticed() -> None:
    """More than is read ahead of its app: the end itself can't be read."""
    heard = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    async with serving_app(app) as server:
        client = await server.connect()
        await client.send_all(request() + bytes(100_000))
        await wait_all_tasks_blocked()
        assert not heard.is_set()
        await client.send_eof()
        await heard.wait()
        await client.aclose()


async def test_a_response_ends_the_wait_for_a_client_with_much_ahead() -> None:
    heard: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            heard.append((await receive())["type"])

        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            await answer(send, b"hello")

    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        await client.send(request() + bytes(100_000))
        assert (await client.read()).body == b"hello"
    assert heard == ["http.disconnect"]


async def test_a_client_that_reads_slowly_is_not_cut(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes some in each while, though never so much that there is room for the next piece."""
    size = 20_000_000
    mock_clock.autojump_threshold = 0.05  # seconds that the kernels have for their part

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"%d" % size)))
        await send(body(bytes(size)))

    large = listening_at()
    large.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)  # its connections inherit it
    small = trio.socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    # Segments of the size that they have on a network: the window opens in smaller steps, though
    # still of 120,000 bytes.
    small.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    options = {"sockets": [large], "idle_timeout": 2}
    async with serving_app(app, **options) as server, trio.SocketStream(small) as client:
        await small.connect(server.address)
        await client.send_all(request())
        await wait_all_tasks_blocked()
        got = 0
        while got < 400_000:
            got += len(await client.receive_some(20_000))
            await trio.sleep(0.15)
        assert server.listener.status == "1 connection, 1 busy"
        leave(client, "resets")
        await wait_all_tasks_blocked()
    assert "taken nothing" not in caplog.text


async def test_the_log_says_of_a_client_that_takes_nothing_that_it_was_too_slow(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.autojump_threshold = 0.02

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(bytes(2**26)))

    async with serving_app(app, idle_timeout=8) as server, await server.connect() as client:
        await client.send_all(request())
        await trio.sleep(40)
        assert server.listener.status == "0 connections, 0 busy"
    assert 'was too slow for "GET /"' in caplog.text
    assert "left" not in caplog.text
