"""A long reply, sent part by part to a client that takes it slowly: when it counts as sent."""

import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners._connection import Connection
from trio_run._listeners._sending import LITTLE, MUCH
from trio_run.testing import read_to_end

from ... import TIMEOUT
from ..http_serving import Client, only_http, request, serving_app
from ..serving import Server, serving, slow_client
from .helpers import body, leave_at_once, start

PART = 65536  # bytes
FEW = 10  # parts: there is room for all of them in the kernel
MANY = 40


class LongReply:
    """An app, and how far it has come. Where it is ``declared``, its end is an empty part."""

    def __init__(self, parts: int, *, size: int = PART, declared: bool = False) -> None:
        self._parts = [size] * parts + [0] * declared
        self.size = parts * size
        self._headers = [(b"content-length", b"%d" % self.size)] * declared
        self.sent = 0  # parts, as far as it knows
        self.error: OSError | None = None

    @property
    def all_but_the_end(self) -> int:
        return len(self._parts) - 1

    async def reply(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send(start(200, *self._headers))
        try:
            for number, size in enumerate(self._parts):
                await send(body(bytes(size), more=number < self.all_but_the_end))
                self.sent += 1
        except OSError as exc:
            self.error = exc


@contextlib.asynccontextmanager
async def replying(
    app: LongReply, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[Server, Client]]:
    """It replies to a client that has not begun to read."""
    async with (
        serving_app(only_http(app.reply), **options) as server,
        slow_client(server.address) as stream,
    ):
        client = Client(
            stream if tls is None else trio.SSLStream(stream, tls, server_hostname="localhost")
        )
        await client.send(request())
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        yield server, client


async def test_the_app_may_be_ahead_of_its_client() -> None:
    app = LongReply(MANY)
    async with replying(app) as (_, client):
        assert MUCH / 2 < app.sent * PART < 1.5 * MUCH
        assert len((await client.read()).body) == app.size
    assert app.sent == MANY


async def test_small_parts_are_not_ahead_for_they_may_be_news() -> None:
    app = LongReply(MANY * 64, size=PART // 64)
    async with replying(app) as (_, client):
        assert app.sent * PART / 64 < 8 * LITTLE
        assert len((await client.read()).body) == app.size


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_rule_05_it_is_not_finished_before_its_client_has_nearly_all_of_it(
    tls: bool, declared: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The close waits for little: what is in the kernel may be cut by the client's next request."""
    app = LongReply(FEW, declared=declared)
    contexts = {"tls": client_context, "ssl_context": server_context} if tls else {}
    async with replying(app, **contexts) as (server, client):
        assert app.sent == app.all_but_the_end
        server.group.stop()
        await wait_all_tasks_blocked()
        await client.send(request())
        assert len((await client.read()).body) == app.size
        assert await client.read_to_end() == b""
    assert app.error is None


async def test_the_next_one_may_be_as_long() -> None:
    app = LongReply(FEW)
    async with replying(app) as (_, client):
        assert len((await client.read()).body) == app.size
        await client.send(request())
        await wait_all_tasks_blocked()
        assert app.sent == FEW + app.all_but_the_end
        assert len((await client.read()).body) == app.size


async def test_rule_10_the_app_hears_of_a_client_that_leaves_before_it_has_it() -> None:
    app = LongReply(FEW)
    async with replying(app) as (server, client):
        leave_at_once(client)
        await wait_all_tasks_blocked()
        assert app.error is not None
        assert app.sent == app.all_but_the_end
        assert server.listener.status == "0 connections, 0 busy"


async def test_it_is_whole_for_a_client_that_takes_all_and_then_resets_the_connection() -> None:
    app = LongReply(FEW)
    async with replying(app) as (_, client):
        with socket.socket(fileno=os.dup(client.stream.socket.fileno())) as at_once:
            at_once.setblocking(True)
            at_once.settimeout(TIMEOUT)
            got = b""
            while not got.endswith(b"\r\n0\r\n\r\n"):
                got += at_once.recv(2**20)
        leave_at_once(client)
        await wait_all_tasks_blocked()
    assert (app.error, app.sent) == (None, FEW)


async def test_rule_05_it_ends_in_a_reset_where_somebody_closes_it_meanwhile() -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some()
        stream.more_follows = True
        for _ in range(FEW):
            await stream.send_all(bytes(PART))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_nearly_all_sent)
            await wait_all_tasks_blocked()
            await stream.aclose()

    async with serving(handler) as server, slow_client(server.address) as client:
        await client.send_all(b"ask")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(client)


async def test_rule_05_it_ends_in_a_reset_where_the_grace_is_over_first() -> None:
    app = LongReply(FEW)
    async with replying(app, grace=0) as (server, client):
        await server.stop()
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await client.read()
    assert app.sent == app.all_but_the_end


async def test_rule_08_a_reply_that_is_cut_is_not_waited_for(clock: MockClock) -> None:
    """The parts that were sent whole are no more use to its client than the one that was not."""
    async with replying(LongReply(MANY), grace=1) as (server, _):
        await server.stop()
        assert server.report.duration == pytest.approx(1)
