"""Section 4, rule 5: a reply that was cut ends in a reset, so that nobody takes a half for the
whole.
"""

import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import HTTPListener, UnixListener, busy
from trio_run.testing import ending, read_exactly, read_to_end

from .serving import (
    HOST,
    clog_stream,
    lines_of,
    serving,
    stuck,
)

BIG = bytes(range(256)) * (1 << 16)  # 16 MB: more than the buffers of any socket hold
SMALL = bytes(range(256)) * 48  # 12 kB: the kernel takes that at once, a slow client does not

Stream = trio.abc.Stream
Handler = Callable[[Any], Awaitable[None]]


async def read_to_reset(client: Stream) -> bytes:
    """All there is until a reset. A clean end of stream is an error."""
    got, end = await ending(client)
    assert end == "reset"
    return got


async def failing(stream: Stream) -> None:
    with busy():
        await stream.send_all(b"begun ")
        raise ValueError("no good")


async def sending_much(stream: Stream) -> None:
    with busy():
        await stream.send_all(BIG)


async def sending_much_outside_of_a_block(stream: Stream) -> None:
    await stream.send_all(BIG)


async def saying_nothing(stream: Stream) -> None:
    with busy():
        await trio.sleep_forever()


@pytest.mark.parametrize("handler", [sending_much, sending_much_outside_of_a_block])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("drain", ["eof", "cancel", "wait"])
async def test_rule_05_half_a_reply_at_the_end_of_the_grace_ends_in_a_reset(
    clock: MockClock,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    tls: bool,
    drain: str,
    handler: Handler,
) -> None:
    options = {"ssl_context": contexts[0]} if tls else {}
    async with serving(handler, drain=drain, grace=3, **options) as server:
        client: Stream = await server.connect()
        if tls:
            client = trio.SSLStream(client, contexts[1], server_hostname="localhost")
        async with client:
            begin = bytes(await client.receive_some(6))
            await wait_all_tasks_blocked()
            await server.stop()
            # At the grace: of the reply itself nobody waits for anything.
            assert server.report.duration <= 3
            got = begin + await read_to_reset(client)
            assert BIG.startswith(got)
            assert len(got) < len(BIG)


@pytest.mark.parametrize("handler", [stuck, failing, saying_nothing])
@pytest.mark.parametrize("nested", [False, True])
async def test_rule_05_a_block_that_was_cut_or_left_by_an_exception_ends_in_a_reset(
    clock: MockClock, handler: Handler, nested: bool
) -> None:
    async def inside(stream: Stream) -> None:
        with busy():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handler, stream)

    async with serving(inside if nested else handler, grace=3) as server:
        async with await server.connect() as client:
            await wait_all_tasks_blocked()
            await server.stop()
            said = b"" if handler is saying_nothing else b"begun "
            assert await read_to_reset(client) == said


async def test_rule_05_an_exception_that_the_handler_catches_has_cut_a_reply_too() -> None:
    async def handler(stream: Stream) -> None:
        async with stream:
            with contextlib.suppress(ValueError):
                await failing(stream)

    async with serving(handler) as server, await server.connect() as client:
        assert await read_to_reset(client) == b"begun "


async def test_rule_05_an_exception_that_is_dealt_with_inside_the_block_has_not() -> None:
    async def handler(stream: Stream) -> None:
        with busy():
            with contextlib.suppress(ValueError):
                await failing(stream)
            await stream.send_all(b"done")

    async with serving(handler) as server, await server.connect() as client:
        assert await read_to_end(client) == b"begun done"


async def test_rule_05_a_block_of_the_clean_up_after_a_cancel_has_cut_nothing(
    clock: MockClock,
) -> None:
    async def handler(stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with busy():
                await trio.lowlevel.checkpoint()

    async with serving(handler, grace=3) as server, await server.connect() as client:
        await wait_all_tasks_blocked()
        await server.stop()
        assert await read_to_end(client) == b""
    assert server.detail == "0 drained, 1 cut"


# What was sent before.


async def answering_one_and_then(stream: Stream, then: Handler) -> None:
    with busy():
        await stream.send_all(SMALL)
    await then(stream)


async def one_and_then_stuck(stream: Stream) -> None:
    await answering_one_and_then(stream, stuck)


async def one_and_then_failing(stream: Stream) -> None:
    await answering_one_and_then(stream, failing)


def slow_client(address: Any) -> socket.socket:
    """Its kernel takes a few kilobytes only, until it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    client.setblocking(False)
    return client


def stream_of(client: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(client))


@pytest.mark.parametrize("handler", [one_and_then_stuck, one_and_then_failing])
@pytest.mark.parametrize("half_closes", [False, True])
async def test_rule_05_the_reset_does_not_eat_the_reply_before(
    handler: Handler, half_closes: bool
) -> None:
    async with serving(handler, grace=0.1) as server:
        async with stream_of(slow_client(server.address)) as client:
            if half_closes:
                await client.send_eof()
            await trio.sleep(0.05)
            server.group.stop()
            await trio.sleep(0.3)  # the grace is over
            assert not server.ended.is_set()
            assert await read_exactly(client, len(SMALL)) == SMALL
            with contextlib.suppress(AssertionError):  # of the half it may get something
                assert b"begun ".startswith(await read_to_reset(client))
            await server.ended.wait()


async def test_rule_05_the_reply_before_is_waited_for_2_seconds_at_most(clock: MockClock) -> None:
    async with serving(one_and_then_stuck, grace=3) as server:
        with slow_client(server.address):
            await trio.sleep(1)
            await server.stop()
            assert server.report.duration == pytest.approx(5, abs=0.2)
    assert server.detail == "0 drained, 1 cut"


async def test_rule_05_nobody_waits_for_a_client_that_has_left(clock: MockClock) -> None:
    async with serving(one_and_then_stuck, grace=3) as server:
        client = slow_client(server.address)
        await trio.sleep(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await trio.sleep(1)
        await server.stop()
        assert server.report.duration == pytest.approx(3)


async def test_rule_05_nobody_waits_any_longer_for_a_client_that_leaves_meanwhile() -> None:
    async with serving(one_and_then_stuck, grace=0.1) as server:
        client = slow_client(server.address)
        await trio.sleep(0.05)
        server.group.stop()
        await trio.sleep(0.3)  # the grace is over
        assert not server.ended.is_set()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with trio.fail_after(1):
            await server.ended.wait()


async def test_http_the_reset_after_a_failure_does_not_eat_the_response_before() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        whole = scope["path"] == "/whole"
        body = SMALL if whole else b"half"
        await send({"type": "http.response.body", "body": body, "more_body": not whole})
        if not whole:
            raise ValueError("no good")

    listener = HTTPListener(app, 0, host=HOST)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: listener.execute(task_status=task_status))
        async with stream_of(slow_client(listener.addresses[0])) as client:
            for path in (b"whole", b"half"):
                await client.send_all(b"GET /" + path + b" HTTP/1.1\r\nHost: test\r\n\r\n")
            await trio.sleep(0.3)  # it has failed
            got = await read_to_reset(client)
            assert SMALL in got
        nursery.cancel_scope.cancel()


# Where there is no reset.


@pytest.mark.parametrize("handler", [stuck, failing])
@pytest.mark.parametrize("tls", [False, True], ids=["unix", "unix+tls"])
async def test_rule_05_on_a_unix_socket_it_is_an_end_of_stream_and_logged(
    clock: MockClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    tls: bool,
    handler: Handler,
) -> None:
    options = {"ssl_context": contexts[0]} if tls else {}
    path = tmp_path / "socket"
    async with serving(
        handler, kind=UnixListener, path=path, name="shop", grace=3, **options
    ) as server:
        client: Stream = await server.connect()
        if tls:
            client = trio.SSLStream(client, contexts[1], server_hostname="localhost")
        async with client:
            assert await read_exactly(client, 6) == b"begun "
            await wait_all_tasks_blocked()
            await server.stop()
            if tls:  # no close_notify: that would be the whole
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
            else:
                assert await read_to_end(client) == b""
    [record] = lines_of(caplog, "half a reply")
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("shop: process ")


async def test_rule_05_a_client_that_has_left_got_no_half(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: Stream) -> None:
        with busy():
            await stream.receive_some()
            await stream.send_all(b"hello")

    async with serving(handler, kind=UnixListener, path=tmp_path / "socket") as server:
        client = await server.connect()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert lines_of(caplog, "broke")
    assert not lines_of(caplog, "half a reply")


async def test_a_sender_that_is_cancelled_before_its_first_byte_has_cut_nothing() -> None:
    async def handler(stream: Any) -> None:
        clog_stream(stream)
        with trio.move_on_after(0.05):
            await stream.send_all(b"never sent")
        await stream.wait_send_all_might_not_block()

    async with serving(handler) as server, await server.connect() as client:
        await trio.sleep(0.1)
        await read_to_end(client)


async def test_a_connection_that_is_closed_in_the_midst_of_a_send_is_reset() -> None:
    """Whoever closes it: the client is not to take what it has for the whole."""

    async def handler(stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream)
            await wait_all_tasks_blocked()
            await stream.aclose()

    async def send(stream: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(BIG)

    async with serving(handler) as server, await server.connect() as client:
        await wait_all_tasks_blocked(0.01)
        await read_to_reset(client)
