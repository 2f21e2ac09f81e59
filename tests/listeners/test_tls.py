"""Section 4, rule 5, TLS: the handshake, and the end of file and the close_notify at a stop."""

import contextlib
import logging
import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners import _connection, _tls
from trio_run._listeners._connection import Connection
from trio_run.testing import connect, read_exactly, read_to_end

from .. import TIMEOUT
from .serving import ask, clog_stream, echo, lines_of, name_of, serving


async def test_rule_05_tls_the_handler_sees_end_of_file_and_the_client_a_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    seen: list[bytes] = []

    async def handler(stream: trio.SSLStream[Any]) -> None:
        while chunk := await stream.receive_some():
            await stream.send_all(chunk)
        seen.append(bytes(chunk))
        seen.append(bytes(await stream.receive_some()))
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"bye " + stream.version().encode())

    async with serving(handler, ssl_context=server_context) as server:
        async with await connect(server.listener, ssl_context=client_context) as client:
            assert await ask(client, b"hello") == b"hello"
            server.group.stop()
            assert await read_to_end(client) == b"bye TLSv1.3"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert seen == [b"", b""]


async def test_rule_05_tls_cancel_an_idle_client_gets_a_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, ssl_context=server_context, drain="cancel") as server:
        async with await connect(server.listener, ssl_context=client_context) as client:
            assert await ask(client, b"hello") == b"hello"
            server.group.stop()
            assert await read_to_end(client) == b""


async def test_rule_05_tls_a_handler_that_raises_sends_no_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: trio.SSLStream[Any]) -> None:
        await stream.send_all(b"half a ")
        raise ValueError("no good")

    async with serving(handler, ssl_context=server_context) as server:
        async with await connect(server.listener, ssl_context=client_context) as client:
            assert await read_exactly(client, 7) == b"half a "
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()


async def test_rule_05_tls_the_close_is_bounded_for_a_client_that_does_not_read(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, clock: MockClock
) -> None:
    async def handler(stream: trio.SSLStream[Connection]) -> None:
        await stream.receive_some()
        clog_stream(stream.transport_stream)  # the close_notify has no room now

    async with serving(handler, ssl_context=server_context) as server:
        client = await connect(server.listener, ssl_context=client_context)
        try:
            await client.send_all(b"hello")
            await trio.sleep(10)
            assert server.listener.status == "0 connections, 0 busy"
        finally:
            await trio.aclose_forcefully(client)


async def test_rule_05_tls_a_failed_handshake_is_a_line(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: trio.SSLStream[Any]) -> None:
        raise AssertionError("never called")

    async with serving(handler, ssl_context=server_context) as server:
        async with await server.connect() as client:
            await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(trio.BrokenResourceError):
                await read_to_end(client)
            [record] = lines_of(caplog, "no TLS handshake with")
            assert name_of(client) in record.getMessage()
            assert record.levelno == logging.INFO
            assert not record.exc_info
        assert server.listener.status == "0 connections, 0 busy"


async def test_rule_05_tls_a_handshake_that_takes_too_long_is_a_line(
    server_context: ssl.SSLContext, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, ssl_context=server_context) as server:
        async with await server.connect() as client:
            began = trio.current_time()
            assert await read_to_end(client) == b""
            assert trio.current_time() - began == pytest.approx(_tls.HANDSHAKE_TIMEOUT)
            [record] = lines_of(caplog, "no TLS handshake with")
            assert f"{name_of(client)}: it took too long" in record.getMessage()


async def test_rule_05_tls_a_client_that_never_shakes_hands_does_not_hold_up_the_stop(
    server_context: ssl.SSLContext, clock: MockClock
) -> None:
    async with serving(echo, ssl_context=server_context) as server:
        async with await server.connect() as client:
            await wait_all_tasks_blocked()
            await server.stop()
            assert server.report.duration == pytest.approx(_connection.FIRST_REQUEST)
            assert await read_to_end(client) == b""


async def test_rule_05_tls_a_handshake_under_way_at_the_stop_is_finished_and_answered(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)
    async with serving(echo, ssl_context=server_context) as server:
        connected = await server.connect()
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        async with trio.SSLStream(connected, client_context, server_hostname="localhost") as client:
            assert await ask(client, b"hello") == b"hello"
            assert await read_to_end(client) == b""


async def test_rule_05_tls_a_client_that_trickles_its_handshake_does_not_hold_up_the_stop(
    server_context: ssl.SSLContext, clock: MockClock
) -> None:
    async with serving(echo, ssl_context=server_context) as server:
        async with await server.connect() as client, trio.open_nursery() as nursery:

            async def trickle() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    for byte in b"\x16\x03\x01\x02\x00" + bytes(100):
                        await client.send_all(bytes([byte]))
                        await trio.sleep(0.2)

            nursery.start_soon(trickle)
            await wait_all_tasks_blocked()
            await server.stop()
            assert server.report.duration == pytest.approx(_connection.FIRST_REQUEST)
            nursery.cancel_scope.cancel()
