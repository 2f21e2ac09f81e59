"""Section 4, rules 3 and 4: a client that has only just come has half a second for its first
request.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import busy
from trio_run._listeners import _connection
from trio_run.testing import read_exactly, read_to_end

from .. import TIMEOUT
from .serving import ask, echo, serving

HALF = 0.5


async def answering(stream: trio.abc.Stream) -> None:
    """Requests of four bytes."""
    while request := await stream.receive_some(4):
        with busy():
            while len(request) < 4:
                request += await stream.receive_some(4 - len(request))
            await stream.send_all(bytes(request).upper())


@pytest.fixture(params=["tcp", "tls"])
def context(
    request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    return contexts if request.param == "tls" else None


Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | None


@asynccontextmanager
async def silent_client(
    context: Contexts, handler: Any = answering, **options: Any
) -> AsyncIterator[tuple[Any, trio.abc.Stream]]:
    """A client that has come and said nothing, and whose handler waits for its request."""
    if context is not None:
        options["ssl_context"] = context[0]
    async with serving(handler, **options) as server:
        client: trio.abc.Stream = await server.connect()
        if context is not None:
            tls = trio.SSLStream(client, context[1], server_hostname="localhost")
            await tls.do_handshake()
            client = tls
        async with client:
            await wait_all_tasks_blocked()
            yield server, client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("drain", ["eof", "cancel"])
@pytest.mark.parametrize("halved", [False, True])
async def test_rule_04_a_request_that_comes_just_after_the_stop_is_answered(
    context: Contexts, drain: str, halved: bool
) -> None:
    async with silent_client(context, drain=drain) as (server, client):
        server.group.stop()
        await wait_all_tasks_blocked()
        for part in (b"as", b"ks") if halved else (b"asks",):
            await client.send_all(part)
            await wait_all_tasks_blocked()
        assert await read_to_end(client) == b"ASKS"
        await server.ended.wait()
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_04_that_request_is_the_last(context: Contexts, drain: str) -> None:
    async with silent_client(context, drain=drain) as (server, client):
        server.group.stop()
        await wait_all_tasks_blocked()
        await client.send_all(b"asks")
        assert await read_exactly(client, 4) == b"ASKS"
        await wait_all_tasks_blocked()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(b"more")
            assert await read_to_end(client) == b""
        await server.ended.wait()
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_04_one_that_stays_silent_is_let_go_half_a_second_after_it_came(
    clock: MockClock, context: Contexts, drain: str
) -> None:
    async with silent_client(context, drain=drain) as (server, client):
        came = trio.current_time()
        await trio.sleep(0.2)
        server.group.stop()
        assert await read_to_end(client) == b""
        await server.ended.wait()
        # A real handshake takes a moment, in which this clock may jump.
        assert trio.current_time() - came == pytest.approx(HALF, abs=0.1)
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_04_one_that_has_been_silent_for_long_is_let_go_at_once(
    clock: MockClock, context: Contexts, drain: str
) -> None:
    async with silent_client(context, drain=drain) as (server, client):
        await trio.sleep(1)
        began = trio.current_time()
        server.group.stop()
        assert await read_to_end(client) == b""
        assert trio.current_time() == began
        await server.ended.wait()


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_04_one_that_has_asked_already_is_let_go_at_once(
    clock: MockClock, context: Contexts, drain: str
) -> None:
    async with silent_client(context, drain=drain) as (server, client):
        await client.send_all(b"asks")
        assert await read_exactly(client, 4) == b"ASKS"
        began = trio.current_time()
        server.group.stop()
        assert await read_to_end(client) == b""
        assert trio.current_time() == began
        await server.ended.wait()


async def test_rule_04_a_handler_that_reads_late_reads_what_has_arrived(clock: MockClock) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        await trio.sleep(2)
        await echo(stream)

    async with silent_client(None, handler) as (server, client):
        server.group.stop()
        await trio.sleep(1)
        await client.send_all(b"hello")
        assert await read_to_end(client) == b"hello"
        assert trio.current_time() == pytest.approx(2, abs=0.1)


async def test_rule_04_inside_a_block_it_may_be_waited_for_longer(clock: MockClock) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        with busy():
            assert await read_exactly(stream, 5) == b"hello"
            await stream.send_all(b"done")

    async with silent_client(None, handler) as (server, client):
        server.group.stop()
        await trio.sleep(3)
        await client.send_all(b"hello")
        assert await read_to_end(client) == b"done"


async def test_rule_04_a_server_that_speaks_first_waits_for_an_answer(clock: MockClock) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 ready")
        await echo(stream)

    async with silent_client(None, handler) as (server, client):
        assert await read_exactly(client, 9) == b"220 ready"
        server.group.stop()
        await wait_all_tasks_blocked()
        assert await ask(client, b"EHLO") == b"EHLO"
        assert await read_to_end(client) == b""


@pytest.mark.usefixtures("patient")
async def test_rule_03_a_tls_a_client_in_the_queue_that_has_begun_its_handshake_is_answered(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = contexts[1].wrap_bio(arrived, leaving, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    async with silent_client(contexts, max_connections=1) as (server, first):
        await first.send_all(b"asks")
        assert await read_exactly(first, 4) == b"ASKS"
        client = server.connect_now(leaving.read())
        await wait_all_tasks_blocked()
        server.group.stop()
        assert await read_to_end(first) == b""
        await first.aclose()  # that makes room
        arrived.write(await client.receive_some())
        tls.do_handshake()
        await client.send_all(leaving.read())
        await wait_all_tasks_blocked()
        tls.write(b"asks")
        await client.send_all(leaving.read())
        arrived.write(await read_to_end(client))
        assert tls.read() == b"ASKS"
        await client.aclose()
        await server.ended.wait()
    assert server.detail == "2 drained, 0 cut"
