"""Section 4, rule 6: max_connections, and what is told about them."""

import contextlib

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import busy
from trio_run._listeners._connection import Connection
from trio_run.testing import read_exactly, read_to_end

from .serving import ask, echo, listening_at, read_and_close, serving, stuck


async def test_rule_06_further_clients_wait_in_the_kernels_queue() -> None:
    now = most = 0

    async def handler(stream: Connection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await echo(stream)
        now -= 1

    async with serving(handler, max_connections=2) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await server.connect()) for _ in range(6)]
        for client in clients:
            await client.send_all(b"hello")
        for index, client in enumerate(clients):
            assert await read_exactly(client, 5) == b"hello"
            await wait_all_tasks_blocked()
            waiting = len(clients) - index - 2
            expected = "2 connections" if waiting >= 0 else "1 connection"
            assert server.listener.status == f"{expected}, 0 busy"
            await client.aclose()
        assert most == 2


async def test_rule_06_no_socket_is_forgotten_when_there_is_room_again() -> None:
    first, second = listening_at(), listening_at()
    async with serving(echo, sockets=[first, second], max_connections=1) as server:
        addresses = server.listener.addresses
        for _ in range(2):
            clients = [await trio.open_tcp_stream(*address) for address in addresses]
            for client in clients:
                await client.send_all(b"hello")
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(ask_and_leave, client)


async def ask_and_leave(client: trio.SocketStream) -> None:
    async with client:
        with trio.fail_after(5):
            assert await read_exactly(client, 5) == b"hello"


async def test_rule_06_those_in_the_queue_are_served_at_a_stop_no_more_at_once() -> None:
    now = most = 0
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        async for chunk in stream:
            with busy():
                await go.wait()
                await stream.send_all(chunk)
        now -= 1

    async with serving(handler, max_connections=2) as server:
        clients = [server.connect_now(b"hello") for _ in range(9)]
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        for client in clients:
            assert await read_to_end(client) == b"hello"
            await client.aclose()
        await server.stop()
        assert server.detail == "9 drained, 0 cut"
        assert most == 2


async def test_rule_06_those_in_the_queue_count_as_cut_if_their_turn_never_comes(
    clock: MockClock,
) -> None:
    async with serving(stuck, max_connections=1, grace=1) as server:
        async with await server.connect() as client, await server.connect() as queued:
            await read_exactly(client, 6)
            await server.stop()
            assert await read_to_end(queued) == b""
            assert server.detail == "0 drained, 2 cut"


async def test_rule_06_the_status_and_the_reports_detail(clock: MockClock) -> None:
    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            if chunk == b"stuck":
                await stuck(stream)
            await stream.send_all(chunk)

    async with serving(handler, grace=1) as server:
        assert server.listener.status == "0 connections, 0 busy"
        async with await server.connect() as first, await server.connect() as second:
            async with await server.connect() as third:
                for client in (first, second):
                    assert await ask(client, b"hello") == b"hello"
                await third.send_all(b"stuck")
                await read_exactly(third, 6)
                assert server.listener.status == "3 connections, 1 busy"
                server.group.stop()
                for client in (first, second):
                    assert await read_and_close(client) == b""
                assert server.listener.status == "1 connection, 1 busy"
                await server.stop()
        assert server.detail == "2 drained, 1 cut"
