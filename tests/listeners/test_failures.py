"""Section 4, rule 2: a handler that fails ends its own connection only, and leaves nothing open."""

import logging
import socket
import ssl

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import busy
from trio_run._listeners._connection import Connection
from trio_run.testing import read_exactly, read_to_end

from .serving import ask, lines_of, name_of, open_descriptors, serving, stuck


async def test_rule_02_a_handlers_exception_is_logged_and_counted_and_closes_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            if chunk == b"fail":
                raise ValueError("no good")
            await stream.send_all(chunk)

    async with serving(handler) as server:
        async with await server.connect() as other, await server.connect() as client:
            assert await ask(other, b"before") == b"before"
            assert await ask(client, b"hello") == b"hello"
            await client.send_all(b"fail")
            assert await read_to_end(client) == b""
            assert await ask(other, b"after") == b"after"
            [record] = lines_of(caplog, "the handler failed")
            assert record.levelno == logging.ERROR
            assert record.getMessage().endswith(f"for {name_of(client)}")
            assert record.exc_info is not None
            assert str(record.exc_info[1]) == "no good"
            assert server.listener.status == "1 connection, 0 busy, 1 failed"
            server.group.stop()
            assert await read_to_end(other) == b""
        await server.stop()
        assert server.detail == "1 drained, 0 cut, 1 failed"
        assert server.report.exit_code == 0


async def test_rule_02_a_connection_that_breaks_is_a_line_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some()
        await stream.receive_some()

    async with serving(handler) as server:
        async with await server.connect() as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
            await client.send_all(b"hello")
            await wait_all_tasks_blocked()
            name = name_of(client)  # and closing now resets
        await wait_all_tasks_blocked()
        await server.stop()
    [record] = lines_of(caplog, f"the connection from {name} broke")
    assert record.levelno == logging.INFO
    assert not record.exc_info
    assert server.detail.endswith("1 failed")


async def test_rule_02_what_a_handlers_nursery_raises_is_logged_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("no good")

    async def handler(stream: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)

    async with serving(handler) as server:
        async with await server.connect() as client:
            assert await read_to_end(client) == b""
        await server.stop()
    [record] = lines_of(caplog, "the handler failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)
    assert server.detail == "0 drained, 0 cut, 1 failed"


async def test_rule_02_a_handler_that_fails_when_it_is_cut_is_logged_and_counted_as_cut(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("no good")

    async def handler(stream: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await stream.send_all(b"begun")

    async with serving(handler, grace=1) as server, await server.connect() as client:
        await read_exactly(client, 5)
        await server.stop()
    [record] = lines_of(caplog, "the handler failed")
    assert record.exc_info is not None
    assert "Cancelled" not in repr(record.exc_info[1])
    assert server.detail == "0 drained, 1 cut, 1 failed"


async def test_rule_02_a_handler_that_closed_its_socket_does_not_take_the_server_down() -> None:
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        if await stream.receive_some() == b"close":
            stream.socket.close()
            await go.wait()
        else:
            with busy():
                await stream.send_all(b"begun ")
                await go.wait()
                await stream.send_all(b"done")

    async with serving(handler) as server:
        async with await server.connect() as client, await server.connect() as other:
            await client.send_all(b"close")
            await other.send_all(b"go")
            assert await read_exactly(other, 6) == b"begun "
            assert await read_to_end(client) == b""
            server.group.stop()
            await wait_all_tasks_blocked()
            go.set()
            assert await read_to_end(other) == b"done"


async def test_no_descriptor_is_left_open(
    clock: MockClock, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        chunk = await stream.receive_some()
        if chunk == b"fail":
            raise ValueError("no good")
        if chunk == b"stuck":
            await stuck(stream)
        await stream.send_all(chunk)

    before = open_descriptors()
    for context in (None, server_context):
        async with serving(handler, grace=1, ssl_context=context, max_connections=8) as server:
            clients: list[trio.abc.Stream] = []
            for request in (b"fail", b"stuck", b"fine", b"", b"", b""):
                client: trio.abc.Stream = await server.connect()
                if context is not None:
                    client = trio.SSLStream(client, client_context, server_hostname="localhost")
                if request:
                    await client.send_all(request)
                clients.append(client)
            clients += [server.connect_now() for _ in range(10)]
            await server.stop()
            for client in clients:
                await trio.aclose_forcefully(client)
        assert open_descriptors() == before
