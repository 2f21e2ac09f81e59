"""Section 4, rule 5: a client gets each reply begun, whole, and then the end of the stream."""

import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import busy
from trio_run._listeners import _linger
from trio_run._listeners._connection import Connection
from trio_run.testing import read_exactly, read_to_end

from .. import TIMEOUT
from .serving import ask, clog_stream, read_and_close, send_for_ever, serving, slow_client


@pytest.mark.parametrize("drain", ["eof", "cancel"])
@pytest.mark.parametrize("after", [1, 10, 100])
async def test_rule_05_a_pipelining_client_gets_every_reply_begun_then_the_end(
    drain: str, after: int
) -> None:
    """It never pauses: it is not served for ever, and sees an end of stream and no reset."""
    begun: list[int] = []

    async def handler(stream: Connection) -> None:
        number = 0
        rest = b""
        while chunk := await stream.receive_some(1000):
            *requests, rest = (rest + chunk).split(b"\n")
            for _ in requests:
                with busy():
                    number += 1
                    begun.append(number)
                    await stream.send_all(b"%d " % number)
                    await trio.lowlevel.checkpoint()
                    await stream.send_all(b"ok\n")

    async with serving(handler, drain=drain) as server, await server.connect() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever, client, b"x" * 99 + b"\n")
            replies = b""
            async for chunk in client:
                replies += chunk
                if replies.count(b"\n") >= after:
                    server.group.stop()
            nursery.cancel_scope.cancel()
        await client.aclose()
        await server.stop()
    assert replies == b"".join(b"%d ok\n" % number for number in begun)
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("drain", ["eof", "wait", "cancel"])
async def test_rule_05_unread_input_does_not_eat_the_reply(drain: str) -> None:
    reply = bytes(100_000)
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        while await stream.receive_some(3):
            with busy():
                await stream.send_all(b"begun ")
                await go.wait()
                await stream.send_all(reply)
            if drain != "cancel":
                return

    async with serving(handler, drain=drain) as server, await server.connect() as client:
        await client.send_all(b"ask")
        await read_exactly(client, 6)
        await client.send_all(b"what nobody reads")
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        assert await read_to_end(client) == reply


async def test_rule_05_unread_input_does_not_eat_the_reply_of_a_handler_that_failed() -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some(3)
        await stream.send_all(b"sorry")
        raise ValueError("no good")

    async with serving(handler) as server, await server.connect() as client:
        await client.send_all(b"ask and ask again")
        assert await read_to_end(client) == b"sorry"


async def test_rule_05_a_slow_reader_gets_all_even_after_the_listener_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_linger, "LINGER", 0.001)
    sent: list[int] = []

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.receive_some()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 30)
            sent.append(clog_stream(stream))

    async with serving(handler) as server:
        async with slow_client(server.address) as client:
            await client.send_all(b"ask")
            await wait_all_tasks_blocked()
            await server.stop()
            assert sent[0] > 65536
            assert len(await read_to_end(client)) == sent[0]


async def test_rule_05_a_reply_is_not_finished_before_its_client_has_nearly_all_of_it() -> None:
    """The close waits for little: what is in the kernel may be cut by the client's next request."""
    size = 2_000_000

    async def handler(stream: Connection) -> None:
        async for _ in stream:
            with busy():
                await stream.send_all(bytes(size))

    async with serving(handler) as server:
        async with slow_client(server.address) as client:
            await client.send_all(b"ask")
            await wait_all_tasks_blocked()
            server.group.stop()
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 1 busy"
            await client.send_all(b"ask again")
            assert len(await read_to_end(client)) == 2 * size


async def test_rule_05_a_request_while_the_reply_is_on_its_way_does_not_eat_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_linger, "LINGER", TIMEOUT)
    sent: list[int] = []

    async def handler(stream: Connection) -> None:
        await stream.receive_some()
        sent.append(clog_stream(stream))

    async with serving(handler) as server, server.connect_now(b"ask") as client:
        await wait_all_tasks_blocked()
        await client.send_all(b"ask again")  # the handler has returned, and nobody reads that
        assert len(await read_and_close(client)) == sent[0]


@pytest.mark.parametrize("drain", ["eof", "cancel"])
async def test_rule_05_the_close_lingers_2_seconds_at_most(drain: str, clock: MockClock) -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some(3)

    async with serving(handler, drain=drain) as server, await server.connect() as client:
        await client.send_all(b"ask and ask again")
        began = trio.current_time()
        assert await read_to_end(client) == b""
        assert trio.current_time() == began  # the end of the stream does not wait for that
        await server.stop()
        assert trio.current_time() - began == pytest.approx(2)


async def test_rule_05_the_linger_ends_with_the_grace(clock: MockClock) -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some(3)

    async with serving(handler, grace=1) as server, await server.connect() as client:
        await client.send_all(b"ask and ask again")
        assert await read_to_end(client) == b""
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() - began == pytest.approx(1)


async def test_rule_05_the_close_is_immediate_when_nothing_is_left(clock: MockClock) -> None:
    thanked = trio.Event()

    async def handler(stream: Connection) -> None:
        await stream.send_all(await stream.receive_some())
        await stream.receive_some()
        thanked.set()
        await stream.receive_some()

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        await client.send_all(b"thanks")  # with it the kernel acknowledges the reply
        await thanked.wait()
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() == began
        assert await read_to_end(client) == b""


async def test_rule_05_a_request_after_the_connection_was_told_gets_no_byte() -> None:
    go = trio.Event()
    seen: list[bytes] = []

    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            seen.append(chunk)
            with busy():
                await stream.send_all(chunk)
        await go.wait()
        seen.append(await stream.receive_some())

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        await wait_all_tasks_blocked()
        await client.send_all(b"too late")
        go.set()
        assert await read_to_end(client) == b""
    assert seen == [b"hello", b""]


async def test_rule_05_a_request_begun_after_the_stop_may_still_be_read_whole() -> None:
    """Its header had arrived when the connection was told; its body comes while it is busy."""
    seen = trio.Event()

    async def handler(stream: Connection) -> None:
        while await stream.receive_some(7):
            with busy():
                seen.set()
                body = await stream.receive_some(4)
                await stream.send_all(b"got " + body)

    async with serving(handler) as server, server.connect_now(b"LENGTH4") as client:
        server.group.stop()
        await seen.wait()
        await client.send_all(b"body")
        assert await read_exactly(client, 8) == b"got body"
        assert await read_to_end(client) == b""
