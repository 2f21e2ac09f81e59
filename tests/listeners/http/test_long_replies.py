"""A long reply, sent part by part to a client that takes it slowly: when it counts as sent."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners._sending import MUCH

from ..http_serving import Client, only_http, request, serving_app
from ..serving import Server, slow_client
from .helpers import body, leave_at_once, start

PART = 65536  # bytes
FEW = 10  # parts: there is room for all of them in the kernel
MANY = 40


class LongReply:
    """An app, and how far it has come."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self.size = parts * PART
        self.sent = 0  # bytes, as far as it knows
        self.error: OSError | None = None

    async def reply(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send(start())
        try:
            for left in reversed(range(self._parts)):
                await send(body(bytes(PART), more=left > 0))
                self.sent += PART
        except OSError as exc:
            self.error = exc


@contextlib.asynccontextmanager
async def replying(app: LongReply, **options: Any) -> AsyncIterator[tuple[Server, Client]]:
    """It replies to a client that has not begun to read."""
    async with (
        serving_app(only_http(app.reply), **options) as server,
        slow_client(server.address) as stream,
    ):
        client = Client(stream)
        await client.send(request())
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        yield server, client


async def test_the_app_may_be_ahead_of_its_client() -> None:
    app = LongReply(MANY)
    async with replying(app) as (_, client):
        assert MUCH / 2 < app.sent < 1.5 * MUCH
        assert len((await client.read()).body) == app.size
    assert app.sent == app.size


async def test_rule_05_it_is_not_finished_before_its_client_has_nearly_all_of_it() -> None:
    """The close waits for little: what is in the kernel may be cut by the client's next request."""
    app = LongReply(FEW)
    async with replying(app) as (server, client):
        assert app.sent == app.size - PART
        server.group.stop()
        await wait_all_tasks_blocked()
        await client.send(request())
        assert len((await client.read()).body) == app.size
        assert await client.read_to_end() == b""
    assert app.sent == app.size


async def test_the_next_one_may_be_as_long() -> None:
    app = LongReply(FEW)
    async with replying(app) as (_, client):
        assert len((await client.read()).body) == app.size
        await client.send(request())
        await wait_all_tasks_blocked()
        assert app.sent == 2 * app.size - PART
        assert len((await client.read()).body) == app.size


async def test_rule_10_the_app_hears_of_a_client_that_leaves_before_it_has_it() -> None:
    app = LongReply(FEW)
    async with replying(app) as (server, client):
        leave_at_once(client)
        await wait_all_tasks_blocked()
        assert app.error is not None
        assert app.sent == app.size - PART
        assert server.listener.status == "0 connections, 0 busy"


async def test_rule_05_it_ends_in_a_reset_where_the_grace_is_over_first() -> None:
    app = LongReply(FEW)
    async with replying(app, grace=0) as (server, client):
        await server.stop()
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await client.read()
    assert app.sent == app.size - PART


async def test_rule_08_a_reply_that_is_cut_is_not_waited_for(clock: MockClock) -> None:
    """The parts that were sent whole are no more use to its client than the one that was not."""
    async with replying(LongReply(MANY), grace=1) as (server, _):
        await server.stop()
        assert server.report.duration == pytest.approx(1)
