"""Section 4, rule 4: busy blocks that overlap, in several tasks, and a stop among them."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio_websocket
from trio.testing import wait_all_tasks_blocked

from trio_run import Cause, TCPListener, WebSocketListener, busy
from trio_run.testing import read_exactly, read_to_end

from .serving import (
    HOST,
    Server,
    begin,
    serving,
)

Answer = Callable[[bytes], Awaitable[None]]


class Pipelining:
    """A handler of requests of one byte: each is answered in a busy block of its own task."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self._go: dict[bytes, trio.Event] = {}

    def let_go(self, request: bytes) -> None:
        self._go[request].set()

    async def answer(self, request: bytes, send: Answer) -> None:
        with busy():
            self.begun.append(request)
            self._go[request] = trio.Event()
            await self._go[request].wait()
            await send(request.upper())

    async def reading_itself(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            while request := bytes(await stream.receive_some(1)):
                nursery.start_soon(self.answer, request, stream.send_all)

    async def reading_in_a_child(self, stream: trio.abc.Stream) -> None:
        """The handler itself answers every second one."""
        send_channel, receive_channel = trio.open_memory_channel[bytes](100)

        async def read() -> None:
            async with send_channel:
                while request := bytes(await stream.receive_some(1)):
                    await send_channel.send(request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async for request in receive_channel:
                nursery.start_soon(self.answer, request, stream.send_all)
                with contextlib.suppress(trio.EndOfChannel):
                    await self.answer(await receive_channel.receive(), stream.send_all)

    async def on_websocket(self, request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        async with trio.open_nursery() as nursery:
            while True:
                message = await websocket.get_message()
                nursery.start_soon(self.answer, message, websocket.send_message)


@asynccontextmanager
async def connected(
    server: Server, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None
) -> AsyncIterator[trio.abc.Stream]:
    stream: trio.abc.Stream = await server.connect()
    if contexts is not None:
        stream = trio.SSLStream(stream, contexts[1], server_hostname="localhost")
    async with stream:
        yield stream


@pytest.mark.parametrize("reading", ["reading_itself", "reading_in_a_child"])
@pytest.mark.parametrize("drain", ["eof", "cancel"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_rule_04_the_reader_is_ended_at_once_and_the_connection_with_the_last_block(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], tls: bool, drain: str, reading: str
) -> None:
    service = Pipelining()
    options = {"drain": drain} | ({"ssl_context": contexts[0]} if tls else {})
    async with serving(getattr(service, reading), **options) as server:
        async with connected(server, contexts if tls else None) as client:
            for request in (b"a", b"b"):
                await client.send_all(request)
                await wait_all_tasks_blocked()
            assert service.begun == [b"a", b"b"]
            server.group.stop()
            await wait_all_tasks_blocked()
            for request in (b"c", b"d"):
                await client.send_all(request)
                await wait_all_tasks_blocked()
            service.let_go(b"a")
            assert await read_exactly(client, 1) == b"A"
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 1 busy"
            service.let_go(b"b")
            assert await read_to_end(client) == b"B"
        await server.stop()
    assert service.begun == [b"a", b"b"]
    assert server.detail == "1 drained, 0 cut"


async def test_rule_04_what_has_arrived_before_the_stop_is_read_first() -> None:
    service = Pipelining()
    go = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.answer, bytes(await stream.receive_some(1)), stream.send_all)
            await go.wait()  # it does not read as the stop comes
            while request := bytes(await stream.receive_some(1)):
                nursery.start_soon(service.answer, request, stream.send_all)

    async with serving(handler) as server:
        async with await server.connect() as client:
            await client.send_all(b"ab")
            await wait_all_tasks_blocked()
            server.group.stop()
            await wait_all_tasks_blocked()
            await client.send_all(b"c")
            await wait_all_tasks_blocked()
            go.set()
            await wait_all_tasks_blocked()
            assert service.begun == [b"a", b"b"]
            service.let_go(b"a")
            service.let_go(b"b")
            assert sorted(await read_to_end(client)) == sorted(b"AB")
        await server.stop()
    assert service.begun == [b"a", b"b"]


async def test_rule_04_a_task_started_in_a_block_may_read_what_that_needs() -> None:
    go = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        body = b""

        async def read() -> None:
            nonlocal body
            body = await read_exactly(stream, 4)

        await read_exactly(stream, 3)
        with busy():
            await stream.send_all(b"begun ")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
            with busy():
                await go.wait()
            await stream.send_all(body)

    async with serving(handler) as server:
        async with await server.connect() as client:
            await begin(client)
            server.group.stop()
            await wait_all_tasks_blocked()
            await client.send_all(b"body")
            await wait_all_tasks_blocked()
            go.set()
            assert await read_to_end(client) == b"body"
        await server.stop()
    assert server.detail == "1 drained, 0 cut"


async def test_rule_04_a_reader_started_in_a_block_is_ended_when_that_block_ends() -> None:
    """Though another one goes on."""
    service = Pipelining()
    ended = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        async def read() -> None:
            assert await stream.receive_some() == b""
            ended.set()

        async with trio.open_nursery() as nursery:
            for request in (b"a", b"b"):
                nursery.start_soon(service.answer, request, stream.send_all)
            await wait_all_tasks_blocked()
            with busy():
                with busy():
                    nursery.start_soon(read)
                service.let_go(b"a")
                await wait_all_tasks_blocked()
                service.begun.append(b"block")

    async with serving(handler) as server:
        async with await server.connect() as client:
            assert await read_exactly(client, 1) == b"A"
            server.group.stop()
            with trio.fail_after(10):
                await ended.wait()
            assert server.listener.status == "1 connection, 1 busy"
            service.let_go(b"b")
            assert await read_to_end(client) == b"B"
        await server.stop()


async def test_a_block_that_another_task_leaves_is_left() -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        block = busy()

        async def leave() -> None:
            await stream.receive_some(1)
            block.__exit__(None, None, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await wait_all_tasks_blocked()
            block.__enter__()
        assert await stream.receive_some() == b""

    async with serving(handler) as server:
        async with await server.connect() as client:
            await wait_all_tasks_blocked()
            server.group.stop()
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 1 busy"
            await client.send_all(b"x")
            assert await read_to_end(client) == b""
        await server.stop()
    assert server.detail == "1 drained, 0 cut"


# Rule 9.


@asynccontextmanager
async def websocket(server: Server) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    stream = await server.connect()
    async with stream, trio.open_nursery() as nursery:
        client = await trio_websocket.wrap_client_stream(nursery, stream, "localhost", "/")
        async with client:
            yield client


async def test_rule_09_no_message_is_handed_out_after_the_stop_and_the_close_waits_for_all() -> (
    None
):
    service = Pipelining()

    def listen(handler: Any, **options: Any) -> WebSocketListener:
        return WebSocketListener(handler, 0, host=HOST, **options)

    async with serving(service.on_websocket, kind=listen) as server:
        async with websocket(server) as client:
            for request in (b"a", b"b"):
                await client.send_message(request)
                await wait_all_tasks_blocked()
            assert service.begun == [b"a", b"b"]
            server.group.stop()
            await wait_all_tasks_blocked()
            await client.send_message(b"c")
            await wait_all_tasks_blocked()
            service.let_go(b"a")
            assert await client.get_message() == b"A"
            await wait_all_tasks_blocked()
            service.let_go(b"b")
            assert await client.get_message() == b"B"
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await client.get_message()
            assert closed.value.reason.code == 1001
        await server.stop()
    assert service.begun == [b"a", b"b"]
    assert server.detail == "1 drained, 0 cut"


# Where no group stops: nothing has shielded the blocks then.


async def test_a_listener_in_plain_trio_cancels_a_handler_when_its_last_block_ends() -> None:
    service = Pipelining()
    listener = TCPListener(service.reading_itself, 0, host=HOST, drain="cancel")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: listener.execute(task_status=task_status))
        async with await trio.open_tcp_stream(*listener.addresses[0]) as client:
            for request in (b"a", b"b"):
                await client.send_all(request)
                await wait_all_tasks_blocked()
            listener.interrupt(Cause())
            await wait_all_tasks_blocked()
            await client.send_all(b"c")
            await wait_all_tasks_blocked()
            service.let_go(b"a")
            assert await read_exactly(client, 1) == b"A"
            service.let_go(b"b")
            assert await read_to_end(client) == b"B"
    assert service.begun == [b"a", b"b"]
    assert listener.status == "1 drained, 0 cut"
