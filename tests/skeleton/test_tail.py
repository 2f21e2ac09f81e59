"""Tail: what a listener gets, when it is too slow, when it may not listen, and when we stop."""

import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_run import Group, WebSocketListener
from trio_run.skeleton import tail as tail_module
from trio_run.skeleton.database import Line
from trio_run.skeleton.hosts import Hosts
from trio_run.skeleton.tail import Tail

from .. import TIMEOUT

NOW = "2026-01-31T12:00:00.000Z"
GOING_AWAY = 1001


def lines(first: int, count: int = 1, text: str = "text") -> list[Line]:
    return [Line(number, NOW, "127.0.0.1", text) for number in range(first, first + count)]


class Service:
    """A tail that is listened to."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.tail = Tail(Hosts())
        self.listener = WebSocketListener(self.tail.serve, 0, host="127.0.0.1", name="tail")
        self.group = Group(grace=math.inf)
        self.group.add(self.listener)
        self._nursery = nursery
        self._streams: list[trio.SocketStream] = []

    async def listen(self, path: str = "/", **options: Any) -> WebSocketConnection:
        """Connect, and be counted as a listener.

        Who does not read messages takes little off the network.
        """
        client = trio.socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.connect(self.listener.addresses[0])
        stream = trio.SocketStream(client)
        self._streams.append(stream)
        return await wrap_client_stream(self._nursery, stream, "localhost", path, **options)

    async def close(self) -> None:
        """Have the clients hang up: the library's do not, and some here don't read as far as the
        goodbye.
        """
        for stream in self._streams:
            await stream.aclose()


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            service = Service(nursery)
            await nursery.start(service.group.run)
            yield service
            await service.close()
            service.group.stop()


async def receive(websocket: WebSocketConnection) -> tuple[list[int], int]:
    """The ids of the next message, and how many were skipped."""
    message = json.loads(await websocket.get_message())
    return [line["id"] for line in message["lines"]], message["skipped"]


async def test_each_listener_gets_each_line() -> None:
    async with serving() as service:
        one, other = await service.listen(), await service.listen()
        service.tail.publish([Line(7, NOW, "udp:192.0.2.1", "<b>grüße</b>")])
        for websocket in (one, other):
            assert json.loads(await websocket.get_message()) == {
                "lines": [
                    {"id": 7, "received": NOW, "source": "udp:192.0.2.1", "text": "<b>grüße</b>"}
                ],
                "skipped": 0,
            }


async def test_lines_that_come_together_are_sent_together_in_order() -> None:
    async with serving() as service:
        websocket = await service.listen()
        service.tail.publish(lines(1, 150))
        service.tail.publish(lines(151, 30))
        assert await receive(websocket) == (list(range(1, 101)), 0)
        assert await receive(websocket) == (list(range(101, 181)), 0)


async def test_who_comes_later_gets_what_comes_later() -> None:
    async with serving() as service:
        service.tail.publish(lines(1))
        websocket = await service.listen()
        service.tail.publish(lines(2))
        assert await receive(websocket) == ([2], 0)


async def test_who_has_left_is_forgotten() -> None:
    async with serving() as service:
        websocket = await service.listen()
        assert len(service.tail._listeners) == 1
        await websocket.aclose()
        while service.tail._listeners:
            await wait_all_tasks_blocked()
        service.tail.publish(lines(1))


async def test_what_a_listener_says_is_ignored() -> None:
    async with serving() as service:
        websocket = await service.listen()
        for _ in range(20):
            await websocket.send_message("hello")
        await websocket.ping()
        service.tail.publish(lines(1))
        assert await receive(websocket) == ([1], 0)


async def test_a_burst_larger_than_a_listener_may_have_waiting_is_skipped_in_part() -> None:
    async with serving() as service:
        websocket = await service.listen()
        service.tail.publish(lines(1, 700))
        service.tail.publish(lines(701, 700))  # before it could be sent any
        assert await receive(websocket) == (list(range(401, 501)), 400)
        assert await receive(websocket) == (list(range(501, 601)), 0)


async def test_one_that_does_not_read_skips_lines_and_is_told_and_others_do_not() -> None:
    """What it was sent and what it was told of is all there was; and memory is bounded."""
    count, batch = 50_000, 500
    async with serving() as service:
        quick, slow = await service.listen(), await service.listen()
        seen = 0
        for first in range(1, count, batch):
            service.tail.publish(lines(first, batch, "x" * 300))
            while seen < first + batch - 1:
                ids, skipped = await receive(quick)
                assert (ids[0], skipped) == (seen + 1, 0)
                seen = ids[-1]
        waiting = [len(listener._waiting) for listener in service.tail._listeners]
        assert sorted(waiting) == [0, 1_000]
        seen = told = 0
        while seen < count:
            ids, skipped = await receive(slow)
            assert ids == list(range(seen + skipped + 1, seen + skipped + len(ids) + 1))
            seen, told = ids[-1], told + skipped
        assert told > count / 2


async def test_what_was_published_before_the_stop_is_sent_before_the_goodbye() -> None:
    async with serving() as service:
        websocket = await service.listen()
        service.tail.publish(lines(1, 500))
        service.group.stop()
        ids: list[int] = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ids += (await receive(websocket))[0]
        assert ids == list(range(1, 501))
        assert closed.value.reason.code == GOING_AWAY


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:8000", "null"])
async def test_a_page_that_does_not_know_the_secret_path_may_not_listen(origin: str) -> None:
    handshake = (
        "GET /guess HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Origin: {origin}\r\n\r\n"
    )
    async with serving() as service:
        async with await trio.open_tcp_stream(*service.listener.addresses[0]) as client:
            await client.send_all(handshake.encode())
            assert (await client.receive_some()).startswith(b"HTTP/1.1 403 ")
        assert not service.tail._listeners


async def test_our_page_knows_it() -> None:
    async with serving() as service:
        own = [(b"Origin", b"http://127.0.0.1:8000")]
        websocket = await service.listen(service.tail.path, extra_headers=own)
        service.tail.publish(lines(1))
        assert await receive(websocket) == ([1], 0)
        assert Tail(Hosts()).path != Tail(Hosts()).path


def test_a_message_of_long_lines_has_fewer_of_them() -> None:
    listener = tail_module._Listener()
    listener.put(lines(1, 5, "x" * 2**17))
    assert [len(json.loads(listener._take())["lines"]) for _ in range(3)] == [2, 2, 1]
