"""Streams: accept, drain, close.

Section 4, rules 2 to 6, with TCP and TLS, and Trio's stream contract.
"""

import contextlib
import errno
import itertools
import logging
import math
import os
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, TCPListener, busy, cancel_on_stop, stopping
from trio_run._inside import Inside
from trio_run._listeners import _connection, _linger, _tls
from trio_run._listeners._connection import Connection
from trio_run.testing import connect, open_program, read_exactly, read_to_end, running

from .. import TIMEOUT
from ..programs import script
from .serving import (
    HOST,
    Conversation,
    Server,
    ask,
    begin,
    clog_stream,
    echo,
    finish,
    lines_of,
    listening_at,
    name_of,
    open_descriptors,
    read_and_close,
    send_for_ever,
    serving,
    slow_client,
    stuck,
)


class FaultySocket(socket.socket):
    """A listening socket whose accept() does something else first, as often as it has steps."""

    steps: list[Callable[[], None]]
    tried_at: list[float]

    def accept(self) -> Any:
        self.tried_at.append(trio.current_time())
        if self.steps:
            self.steps.pop(0)()
        return super().accept()


def faulty(*steps: Callable[[], None]) -> FaultySocket:
    bound: FaultySocket = listening_at(FaultySocket)
    bound.steps = list(steps)
    bound.tried_at = []
    return bound


def failing(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


# The stream: a Connection obeys Trio's contract.


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


# Rule 2: a handler's failure, and the kernel's.


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


async def test_rule_02_a_lack_of_descriptors_pauses_accepting_and_is_logged_once(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    lacks = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
    bound = faulty(*map(failing, lacks))
    async with serving(echo, sockets=[bound]) as server:
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
        [record] = lines_of(caplog, "accepting is paused")
        assert record.levelno == logging.ERROR
        assert os.strerror(errno.EMFILE) in record.getMessage()
        tries = bound.tried_at[: len(lacks) + 1]
        assert [round(b - a, 3) for a, b in itertools.pairwise(tries)] == [0.1] * 4
        bound.steps = [failing(errno.EMFILE)]  # a second time: that is news
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
        assert len(lines_of(caplog, "accepting is paused")) == 2


async def test_rule_02_other_errors_of_accept_are_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bound = faulty(failing(errno.ECONNABORTED), failing(errno.EPERM), failing(errno.EPROTO))
    async with serving(echo, sockets=[bound]) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        assert not lines_of(caplog, "paused")


async def test_rule_02_a_lack_of_descriptors_while_draining_is_waited_out(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are idle are told already then: they make room for those that wait."""
    told = trio.Event()

    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)
        told.set()

    def lack() -> None:
        if not told.is_set():
            bound.steps.append(lack)
            failing(errno.EMFILE)()

    bound = faulty()
    async with serving(handler, sockets=[bound]) as server, await server.connect() as idle:
        assert await ask(idle, b"hello") == b"hello"
        bound.steps = [lack]
        async with server.connect_now(b"queued") as queued:
            server.group.stop()
            assert await read_to_end(queued) == b"queued"
        assert await read_to_end(idle) == b""
        await server.stop()
    assert len(lines_of(caplog, "accepting is paused")) == 1
    assert server.detail == "2 drained, 0 cut"


async def test_rule_02_a_process_out_of_descriptors_serves_all_in_the_end() -> None:
    source = """
        import resource, sys, trio
        from trio_run import TCPListener, run
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        async def handler(stream):
            async for chunk in stream:
                await stream.send_all(chunk)
        class Listener(TCPListener):
            async def execute(self, *, task_status):
                class Told:
                    def started(_, addresses):
                        print("listens at", addresses[0][1], flush=True)
                        task_status.started(addresses)
                await super().execute(task_status=Told())
        sys.exit(run(Listener(handler, 0, host="127.0.0.1")))
    """
    async with open_program(script(source)) as program, contextlib.AsyncExitStack() as stack:
        port = int((await program.line_with("listens at")).split()[-1])
        clients = [
            await stack.enter_async_context(await trio.open_tcp_stream(HOST, port))
            for _ in range(40)
        ]
        for client in clients:
            await client.send_all(b"hello")
        assert await read_exactly(clients[0], 5) == b"hello"
        await program.line_with("accepting is paused")
        program.signal(signal.SIGTERM)
        with trio.fail_after(TIMEOUT):
            for client in clients[1:]:
                assert await read_to_end(client) == b"hello"
        for client in clients:
            await client.aclose()
        assert await program.exit_code() == 0
        assert program.output.count("accepting is paused") == program.output.count("Too many open")
        assert "40 drained, 0 cut" in program.output


async def test_rule_02_a_socket_that_no_longer_listens_is_a_failure_of_the_listener() -> None:
    bound = faulty(failing(errno.EINVAL))
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(echo, sockets=[bound]) as server, await server.connect() as client:
            assert await read_to_end(client) == b""
    assert caught.group_contains(OSError, match=os.strerror(errno.EINVAL))


# Rule 3: the order of a stop.


async def test_rule_03_a_whoever_waits_in_the_accept_queue_is_served() -> None:
    async with serving(echo) as server:
        requests = [b"request %d" % number for number in range(300)]
        clients = [server.connect_now(request) for request in requests]
        server.group.stop()  # and up to here the listener has not run at all
        for client, request in zip(clients, requests, strict=True):
            assert await read_and_close(client) == request
        await server.stop()
        assert server.detail == "300 drained, 0 cut"


@asynccontextmanager
async def serving_one(**options: Any) -> AsyncIterator[Server]:
    """A server with room for one client, who is idle: the next ones wait in the kernel's queue."""
    async with serving(echo, max_connections=1, **options) as server:
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_and_close, client)
                yield server
                await server.stop()


async def test_rule_03_a_the_first_request_of_a_queued_client_may_still_be_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)
    async with serving_one() as server:
        async with server.connect_now() as client:
            server.group.stop()
            await wait_all_tasks_blocked()  # it has been accepted
            await client.send_all(b"late")
            assert await read_to_end(client) == b"late"
        await server.stop()
        assert server.detail == "2 drained, 0 cut"


async def test_rule_03_a_a_queued_client_that_says_nothing_is_let_go(clock: MockClock) -> None:
    async with serving_one() as server, server.connect_now() as client:
        began = trio.current_time()
        server.group.stop()
        assert await read_to_end(client) == b""
        assert trio.current_time() - began == pytest.approx(0.5)


async def test_rule_03_a_cancel_a_queued_client_is_not_reset() -> None:
    async with serving_one(drain="cancel") as server, server.connect_now(b"hello") as client:
        server.group.stop()
        assert await read_to_end(client) in (b"", b"hello")


async def test_rule_03_a_wait_a_queued_client_is_served_like_any_other() -> None:
    async with serving(echo, drain="wait") as server, server.connect_now(b"hello") as client:
        server.group.stop()
        assert await read_exactly(client, 5) == b"hello"
        assert await ask(client, b"and again") == b"and again"
        await client.send_eof()
        assert await read_to_end(client) == b""


async def test_rule_03_a_no_client_is_reset_while_the_queue_of_another_socket_is_emptied() -> None:
    late: list[trio.SocketStream] = []

    def connect_to_first() -> None:
        with contextlib.suppress(ConnectionRefusedError):  # then it knows where it is
            late.append(server.connect_now(b"hello"))

    first, second = listening_at(), faulty()
    async with serving(echo, sockets=[first, second]) as server:
        second.steps = [connect_to_first]
        await server.stop()
        for client in late:
            async with client:
                assert await read_to_end(client) == b"hello"


async def test_rule_03_a_clients_that_never_stop_coming_do_not_hold_up_the_stop() -> None:
    """What is already in the queue is accepted: that is 4096 at most, by the kernel's own limit."""
    accepted = 0

    def come_again() -> None:
        nonlocal accepted
        accepted += 1
        assert accepted <= 4 * 4096, "it accepts for ever"
        socket.create_connection(bound.getsockname()).close()
        bound.steps.append(come_again)

    bound = faulty()
    async with serving(echo, sockets=[bound], backlog=64) as server:
        bound.steps = [come_again]
        await server.stop()
        assert server.report.actors[0].outcome == "returned"


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


# Rule 5: what a client sees.


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


# Rule 5, TLS.


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


# Rule 6: max_connections, and what is told about them.


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


# Descriptors.


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


async def test_rule_03_a_clients_that_come_back_at_once_do_not_hold_up_the_stop() -> None:
    """Nobody is served while the queue is emptied: so nobody comes back into it."""
    served = 0
    under_load = trio.Event()

    async def handler(stream: Connection) -> None:
        nonlocal served
        served += 1
        if served == 1000:
            under_load.set()
        await echo(stream)

    async def come_and_go() -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            while True:
                async with await server.connect() as client:
                    await client.send_all(b"hello")
                    await client.send_eof()
                    await read_to_end(client)

    async with serving(handler) as server, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(come_and_go)
        await under_load.wait()
        await server.stop()
        assert server.report.actors[0].outcome == "returned"


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


async def test_rule_03_a_with_cancel_a_client_in_the_queue_is_served_too() -> None:
    group = Group()
    listener = TCPListener(echo, 0, host=HOST, drain="cancel")
    group.add(listener)
    async with running(group):
        with socket.create_connection(listener.addresses[0]) as client:
            client.sendall(b"hello")
            listener.interrupt(Cause())
            group.stop()
            client.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            assert await read_to_end(stream) == b"hello"


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


async def test_two_workers_on_the_same_socket_share_those_who_come_at_once() -> None:
    """Each takes one at a time, so that whoever wakes first does not take them all."""
    clients = 20
    served = [0, 0]

    def counting(worker: int) -> Callable[[trio.abc.Stream], Awaitable[None]]:
        async def handler(stream: trio.abc.Stream) -> None:
            served[worker] += 1
            await stream.send_all(b"x")

        return handler

    with socket.create_server((HOST, 0), backlog=clients) as bound:
        address = bound.getsockname()
        waiting = [socket.create_connection(address) for _ in range(clients)]
        group = Group()
        for worker in range(2):
            group.add(TCPListener(counting(worker), sockets=[bound.dup()]))
        async with running(group):
            for client in waiting:
                with trio.socket.from_stdlib_socket(client) as stream:
                    assert await stream.recv(1) == b"x"
    assert served == [clients // 2] * 2
