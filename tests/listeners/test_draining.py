"""Section 4, rules 3 and 4: the order of a stop, and how a connection is told of it."""

import contextlib
import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, TCPListener, busy, cancel_on_stop, stopping
from trio_run._listeners._connection import Connection
from trio_run.testing import read_exactly, read_to_end, running

from .. import TIMEOUT
from .serving import (
    HOST,
    Conversation,
    ask,
    begin,
    clog_stream,
    echo,
    finish,
    read_and_close,
    serving,
    stuck,
)

# Rule 3: the order of a stop.


async def test_rule_03_b_new_clients_are_refused_while_the_old_ones_are_served() -> None:
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.send_all(b"begun ")
            await go.wait()
            await stream.send_all(b"done")

    async with serving(handler) as server, await server.connect() as client:
        await read_exactly(client, 6)
        server.group.stop()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)
        go.set()
        assert await read_to_end(client) == b"done"


async def test_rule_03_c_every_connection_is_told() -> None:
    async with serving(echo) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await server.connect()) for _ in range(50)]
        for client in clients:
            assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        for client in clients:
            assert await read_and_close(client) == b""
        await server.stop()
        assert server.detail == "50 drained, 0 cut"


async def test_rule_03_d_the_handlers_are_waited_for() -> None:
    go = trio.Event()
    returned = False

    async def handler(stream: Connection) -> None:
        nonlocal returned
        await echo(stream)
        await go.wait()
        returned = True

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        await wait_all_tasks_blocked()
        assert not server.ended.is_set()
        go.set()
        assert await read_and_close(client) == b""
        await server.stop()
        assert returned


async def test_rule_03_e_a_listener_that_was_cut_says_so(clock: MockClock) -> None:
    async with serving(stuck, grace=7) as server, await server.connect() as client:
        await read_exactly(client, 6)
        await server.stop()
        assert server.report.actors[0].outcome == "cut"


async def test_the_first_of_many_ends_before_the_last_is_drained() -> None:
    streams: list[Connection] = []
    left: list[int] = []  # how many others do not drain yet, when one ends

    async def handler(stream: Connection) -> None:
        streams.append(stream)
        await stream.send_all(await stream.receive_some())
        await read_to_end(stream)
        left.append(sum(not other.draining for other in streams))

    async with serving(handler) as server:
        clients = [server.connect_now(b"hello") for _ in range(250)]
        for client in clients:
            assert await read_exactly(client, 5) == b"hello"
        await server.stop()
        assert left[0] > 0
        assert left[-1] == 0
        for client in clients:
            assert await client.receive_some() == b""


async def test_a_client_that_leaves_while_others_are_drained_is_not_drained_itself() -> None:
    streams: list[Connection] = []

    async def handler(stream: Connection) -> None:
        streams.append(stream)
        await stream.send_all(await stream.receive_some())
        await read_to_end(stream)
        for other in streams:
            if not other.draining:
                other.close()

    async with serving(handler) as server:
        clients = [server.connect_now(b"hello") for _ in range(250)]
        for client in clients:
            assert await read_exactly(client, 5) == b"hello"
        await server.stop()
        assert any(not stream.draining for stream in streams)


# Rule 4: how a connection is told.


DRAINS = ["eof", "wait", "cancel"]


END = {"eof": b"", "cancel": "cancelled"}


@pytest.mark.parametrize("drain", DRAINS)
async def test_rule_04_an_idle_connection_is_told_at_once(drain: str) -> None:
    handler = Conversation()
    handler.go.set()
    async with serving(handler, drain=drain) as server, await server.connect() as client:
        await begin(client)
        await finish(client)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        if drain == "wait":  # left alone
            assert server.listener.status == "1 connection, 0 busy"
            await begin(client)
            await finish(client)
            await client.send_eof()
        assert await read_and_close(client) == b""
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert handler.seen[-1] == END.get(drain, b"")


@pytest.mark.parametrize("drain", DRAINS)
async def test_rule_04_a_busy_connection_is_told_when_the_outermost_block_ends(drain: str) -> None:
    handler = Conversation()
    async with serving(handler, drain=drain) as server, await server.connect() as client:
        await begin(client)
        server.group.stop()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        handler.go.set()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        await finish(client)
        if drain == "wait":
            await begin(client)
            await finish(client)
            await client.send_eof()
        assert await read_and_close(client) == b""
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert handler.seen[:2] == [b"ask", b"body"]
        assert handler.seen[-1] == END.get(drain, b"")


async def test_rule_04_wait_leaves_handlers_alone_until_the_grace_ends(clock: MockClock) -> None:
    async with serving(echo, drain="wait", grace=7) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() - began == pytest.approx(7)
        assert server.detail == "0 drained, 1 cut"


async def test_rule_04_eof_what_has_arrived_is_read_first_and_what_comes_later_is_not() -> None:
    go, told = trio.Event(), trio.Event()
    seen: list[bytes] = []

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.send_all(b"begun ")
            await told.wait()
        await go.wait()
        while chunk := await stream.receive_some(5):
            seen.append(chunk)
        seen.append(await stream.receive_some())  # and it stays at its end
        await stream.send_all(b"bye")

    async with serving(handler) as server, await server.connect() as client:
        await read_exactly(client, 6)
        await client.send_all(b"already there")
        server.group.stop()
        await wait_all_tasks_blocked()
        told.set()
        await wait_all_tasks_blocked()
        await client.send_all(b" and too late")
        go.set()
        assert await read_to_end(client) == b"bye"
    assert seen == [b"alrea", b"dy th", b"ere", b""]


async def test_rule_04_eof_a_reader_in_another_task_is_woken() -> None:
    async def handler(stream: Connection) -> None:
        ended = trio.Event()

        async def read() -> None:
            async for chunk in stream:
                await stream.send_all(chunk)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await ended.wait()
            await stream.send_all(b"bye")

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        assert await read_to_end(client) == b"bye"


@pytest.mark.parametrize("reads_too", [False, True])
@pytest.mark.parametrize("waits_first", [False, True])
async def test_rule_04_eof_a_blocked_sender_goes_on(reads_too: bool, waits_first: bool) -> None:
    size = 1 << 24
    read: list[bytes] = []

    async def read_all(stream: Connection) -> None:
        read.append(await stream.receive_some())

    async def handler(stream: Connection) -> None:
        async with trio.open_nursery() as nursery:
            if reads_too:
                nursery.start_soon(read_all, stream)
            if waits_first:
                size_of_clog = clog_stream(stream)
                await stream.wait_send_all_might_not_block()
                await stream.send_all(bytes(size - size_of_clog))
            else:
                await stream.send_all(bytes(size))

    async with serving(handler) as server, await server.connect() as client:
        await client.receive_some(1)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        assert not server.ended.is_set()
        assert len(await read_and_close(client)) == size - 1
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert read == [b""] * reads_too


async def test_rule_04_cancel_a_busy_block_in_the_clean_up_is_finished() -> None:
    async def handler(stream: Connection) -> None:
        try:
            await echo(stream)
        finally:
            with busy():
                await trio.lowlevel.checkpoint()
                await stream.send_all(b"bye")

    async with serving(handler, drain="cancel") as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        assert await read_to_end(client) == b"bye"


async def test_rule_04_every_drain_leaves_a_block_in_another_task_of_the_handler() -> None:
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        async def answer() -> None:
            with busy():
                await stream.send_all(b"begun ")
                await go.wait()
                await stream.send_all(b"done")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await stream.receive_some()

    async with serving(handler, drain="cancel") as server, await server.connect() as client:
        await read_exactly(client, 6)
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await read_to_end(client) == b"done"


# What a handler may ask.


async def test_a_handler_may_ask_whether_its_listener_stops() -> None:
    seen: list[object] = []

    async def handler(stream: Connection) -> None:
        seen.append(stopping())
        with cancel_on_stop() as scope:
            with busy():
                await stream.send_all(b"begun ")
                await go.wait()
                await stream.send_all(b"done ")
            await trio.sleep_forever()
        seen.append(scope.cancelled_caught)
        seen.append(stopping())
        await stream.send_all(b"bye")

    go = trio.Event()
    async with serving(handler, drain="wait") as server, await server.connect() as client:
        await read_exactly(client, 6)
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await read_to_end(client) == b"done bye"
    assert seen == [False, True, True]


# Wherever the listener runs.


async def test_rule_09_busy_protects_a_handler_of_a_listener_inside_another_actor() -> None:
    """That actor has no interrupt: its stop is a soft cancel of all that is in it."""
    go = trio.Event()

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.send_all(b"begun ")
            await go.wait()
            await stream.send_all(b"done")

    group = Group()
    listener = TCPListener(handler, 0, host=HOST)
    group.add(listener.execute)
    with trio.fail_after(TIMEOUT):
        async with running(group):
            async with await trio.open_tcp_stream(*listener.addresses[0]) as client:
                await read_exactly(client, 6)
                group.stop()
                await wait_all_tasks_blocked()
                go.set()
                assert await read_to_end(client) == b"done"


async def test_a_listener_runs_without_a_group() -> None:
    listener = TCPListener(echo, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*addresses[0]) as client:
                assert await ask(client, b"hello") == b"hello"
                nursery.cancel_scope.cancel()
                assert await read_to_end(client) == b""


async def test_a_listener_without_a_group_drains_when_it_is_interrupted() -> None:
    listener = TCPListener(echo, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*addresses[0]) as client:
                assert await ask(client, b"hello") == b"hello"
                listener.interrupt(None)  # type: ignore[arg-type]
                assert await read_to_end(client) == b""
    assert listener.status == "1 drained, 0 cut"
