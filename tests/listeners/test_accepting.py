"""Section 4, rules 2 and 3: errors of accept(), and who waits in the kernel's queue at a stop."""

import contextlib
import errno
import itertools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, TCPListener
from trio_run._listeners import _connection
from trio_run._listeners._connection import Connection
from trio_run.testing import open_program, read_exactly, read_to_end, running

from .. import TIMEOUT
from ..programs import script
from .serving import HOST, Server, ask, echo, lines_of, listening_at, read_and_close, serving


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


# Errors of accept().


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


# Who waits in the queue at a stop.


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


# Several who accept.


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
