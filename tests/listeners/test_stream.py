"""A connection is a stream: Trio's contract, its socket, and a handler that knows only Trio."""

import math
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from trio_run._inside import Inside
from trio_run._listeners import _linger, _tls
from trio_run._listeners._connection import Connection
from trio_run.testing import read_to_end

from .serving import HOST, ask, clog_stream, echo, name_of, serving


async def pair() -> tuple[Connection, Connection]:
    left, right = (Connection(end, "a peer", Inside()) for end in nonblocking_pair())
    return left, right


def nonblocking_pair() -> Iterator[socket.socket]:
    for end in socket.socketpair():
        end.setblocking(False)
        yield end


async def clogged_pair() -> tuple[Connection, Connection]:
    """Neither side can send."""
    left, right = await pair()
    clog_stream(left)
    clog_stream(right)
    return left, right


async def test_a_connection_obeys_trios_contract_of_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_linger, "LINGER", 0.01)
    await trio.testing.check_two_way_stream(pair, clogged_pair)


async def test_a_connection_obeys_trios_contract_of_a_half_closeable_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_linger, "LINGER", 0.01)
    await trio.testing.check_half_closeable_stream(pair, clogged_pair)


async def test_what_could_not_be_sent_is_its_senders_again() -> None:
    left, right = await pair()
    clog_stream(left)
    right.close()
    data = bytearray(b"a reply")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await left.send_all(data)
    data.clear()  # a BufferError, if the traceback still had a view of it
    assert caught.tb is not None
    left.close()


@pytest.mark.parametrize(
    "ends", ["waits", "has input", "has ended", "drains", "is to read no more"]
)
async def test_each_step_over_a_connection_looks_for_a_cancel(ends: str) -> None:
    left, right = await pair()
    left.begin()
    await left.send_all(b"x")
    await right.receive_some()
    if ends == "has input":
        await right.send_all(b"y")
    elif ends == "has ended":
        await right.send_eof()
    elif ends == "drains":
        left.first_request_by = -math.inf
        left.drain()
    elif ends == "is to read no more":
        left.end_input()
    for step in (left.receive_some, left.__anext__):
        with trio.CancelScope() as scope:
            scope.cancel()
            await step()
        assert scope.cancelled_caught
    if ends == "has input":
        assert await anext(left) == b"y"  # the cancel has lost nothing
    elif ends != "waits":
        with pytest.raises(StopAsyncIteration):
            await anext(left)
        assert await left.receive_some() == b""
    left.close()
    right.close()


async def test_a_connection_refuses_a_second_task_on_the_same_side() -> None:
    left, right = await pair()
    clog_stream(left)
    for use in (left.receive_some, lambda: left.send_all(b"x")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await use()
            nursery.cancel_scope.cancel()
    left.close()
    right.close()


async def test_a_close_wakes_reader_and_sender() -> None:
    left, right = await pair()
    clog_stream(left)
    woken: list[str] = []

    async def use(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, "reader", left.receive_some)
        nursery.start_soon(use, "sender", lambda: left.send_all(b"x"))
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(left)
    assert sorted(woken) == ["reader", "sender"]
    right.close()


async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    left, right = await pair()
    async with left, right:
        with trio.CancelScope() as scope:
            scope.cancel()
            await left.receive_some()
        await right.send_all(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await left.receive_some()
        assert await left.receive_some() == b"kept"


async def test_a_connection_has_the_options_and_the_addresses_of_its_socket() -> None:
    seen: list[object] = []

    async def handler(stream: Connection) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        seen.append(stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        seen.append(stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4))
        seen.append(stream.socket.getpeername())
        seen.append(stream.peer)
        await stream.send_all(repr(stream).encode())

    async with serving(handler) as server, await server.connect() as client:
        told = await read_to_end(client)
        mine = client.socket.getsockname()
        assert told.decode() == f"<Connection from {name_of(client)}>"
        assert seen == [1, b"\1\0\0\0", mine, mine]


async def test_two_tasks_may_close_a_connection_and_its_descriptor_is_used_again() -> None:
    """One of them lingers: it must not be taken for the reader of the next connection."""
    again = trio.Event()
    descriptors: list[int] = []

    async def handler(stream: Connection) -> None:
        descriptors.append(stream.socket.fileno())
        if await stream.receive_some(1) == b"a":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.aclose)
                await wait_all_tasks_blocked()  # it lingers: there was input that nobody read
                await stream.aclose()
                again.set()
        else:
            await echo(stream)

    with socket.socket() as late:  # made now, to leave the descriptor to the listener
        async with serving(handler) as server, await server.connect() as client:
            await client.send_all(b"a, and what nobody reads")
            await again.wait()
            late.connect(server.address)
            late.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(late)) as second:
                await second.send_all(b"b")
                await wait_all_tasks_blocked()
                assert await ask(second, b"hello") == b"hello"
    assert descriptors[0] == descriptors[1]


async def test_a_handler_for_serve_tcp_works_unchanged() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.send_all(b"bye")
        await stream.send_eof()

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        await client.send_eof()
        assert await read_to_end(client) == b"bye"


async def test_ending_our_side_of_a_broken_connection_is_a_broken_resource() -> None:
    bound = socket.create_server((HOST, 0))
    client = socket.create_connection(bound.getsockname())
    accepted, peer = bound.accept()
    accepted.setblocking(False)
    with bound, client:
        connection = Connection(accepted, peer, Inside())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # resets
        await trio.lowlevel.wait_readable(accepted)
        with pytest.raises(trio.BrokenResourceError):
            await connection.send_eof()
        connection.close()


async def test_a_tls_stream_has_the_credentials_of_its_connection(
    server_context: ssl.SSLContext,
) -> None:
    left, right = await pair()
    stream = _tls.TLSConnection(left, server_context)
    assert stream.credentials == left.credentials
    assert stream.credentials is not None
    assert stream.credentials.pid == os.getpid()
    left.close()
    right.close()
