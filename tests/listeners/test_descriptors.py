"""Section 4, rules 2, 3 and 6: a stop with fewer descriptors, or less room, than clients."""

import contextlib
import errno
import os
import signal
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import busy
from trio_run.testing import open_program, read_exactly, read_to_end

from ..programs import script
from .serving import (
    HOST,
    Server,
    ask,
    echo,
    lines_of,
    listening_at,
    read_and_close,
    serving,
    stuck,
)

SHORT = """
    import resource, sys, trio
    from trio_run import Group, SignalReceiver, TCPListener, busy
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    async def handler(stream):
        async for chunk in stream:
            with busy():
                await trio.sleep(0.01)
                await stream.send_all(chunk)
    async def main():
        group = Group(grace=30)
        listener = TCPListener(handler, 0, host="127.0.0.1")
        group.add(listener)
        group.add(SignalReceiver())
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: group.run(task_status=task_status))
            print("listens at", listener.addresses[0][1], flush=True)
        print(listener.status)
    trio.run(main)
"""


async def test_rule_03_all_who_have_come_are_served_however_few_descriptors_there_are() -> None:
    number = 200
    async with open_program(script(SHORT)) as program, trio.open_nursery() as nursery:
        port = int((await program.line_with("listens at")).split()[-1])
        clients = []
        for _ in range(number):
            client = socket.create_connection((HOST, port))
            client.sendall(b"hello")
            client.setblocking(False)
            clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
        await program.line_with("accepting is paused")
        program.signal(signal.SIGTERM)
        replies = []

        async def read(client: trio.SocketStream) -> None:
            replies.append(await read_and_close(client))

        for client in clients:
            nursery.start_soon(read, client)
        assert await program.exit_code() == 0
    assert replies == [b"hello"] * number
    assert "0 cut" in program.output


class ShortSocket(socket.socket):
    """A listening socket that cannot accept while ``short`` says so."""

    short = False

    def accept(self) -> Any:
        if self.short:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_rule_03_it_goes_on_when_its_own_connections_have_left(clock: MockClock) -> None:
    """What lacks are the descriptors of others."""
    bound: ShortSocket = listening_at(ShortSocket)
    async with serving(echo, sockets=[bound]) as server:
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
            bound.short = True
            queued = server.connect_now(b"queued")
            server.group.stop()
            assert await read_to_end(client) == b""
        await trio.sleep(2)
        bound.short = False
        assert await read_to_end(queued) == b"queued"
        await queued.aclose()
        await server.ended.wait()
    assert server.detail == "2 drained, 0 cut"


async def test_rule_03_without_descriptors_and_without_clients_it_does_not_wait(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    bound: ShortSocket = listening_at(ShortSocket)
    async with serving(echo, sockets=[bound]) as server:
        bound.short = True
        await server.stop()
        assert server.report.duration == 0
    assert len(lines_of(caplog, "accepting is paused")) == 1


async def test_rule_03_it_waits_until_the_grace_is_over(clock: MockClock) -> None:
    bound: ShortSocket = listening_at(ShortSocket)
    async with serving(echo, sockets=[bound], grace=3) as server:
        bound.short = True
        client = server.connect_now()
        await server.stop()
        assert server.report.duration == pytest.approx(3)
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
    assert server.detail == "0 drained, 0 cut"


# Rule 6.


def connections(server: Server) -> int:
    return int(server.listener.status.split()[0].replace(",", ""))


async def test_rule_06_at_a_stop_too_there_are_no_more_connections_than_may_be() -> None:
    most = 0

    async def handler(stream: trio.abc.Stream) -> None:
        nonlocal most
        async for chunk in stream:
            with busy():
                await trio.lowlevel.checkpoint()
                most = max(most, connections(server))
                await stream.send_all(chunk)

    async with serving(handler, max_connections=3) as server:
        clients = [server.connect_now(b"hello") for _ in range(20)]
        server.group.stop()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(check_answer, client)
        await server.ended.wait()
    assert most == 3
    assert server.detail == "20 drained, 0 cut"


async def check_answer(client: trio.abc.Stream) -> None:
    assert await read_and_close(client) == b"hello"


async def test_rule_06_those_in_the_queue_have_their_turn_until_the_grace_is_over(
    clock: MockClock,
) -> None:
    async with serving(stuck, max_connections=1, grace=2) as server:
        async with await server.connect() as client:
            await read_exactly(client, 6)
            queued = [server.connect_now(b"hello") for _ in range(3)]
            await server.stop()
            for other in queued:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await read_to_end(other) == b""
    assert server.detail == "0 drained, 4 cut"


async def test_rule_06_those_who_come_back_again_and_again_do_not_hold_up_the_stop() -> None:
    """Each has its turn once. Afterwards it is refused, if only after a second on TCP."""
    answered = 0
    under_load = trio.Event()

    async def come_again() -> None:
        nonlocal answered
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            while True:
                async with await server.connect() as client:
                    await client.send_all(b"hello")
                    await read_exactly(client, 5)
                    answered += 1
                    if answered == 20:
                        under_load.set()

    async with serving(echo, max_connections=2) as server, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(come_again)
        await under_load.wait()
        await server.stop()
        assert server.report.duration < 5  # of 30


@pytest.mark.parametrize("knows_its_queue", [True, False])
async def test_rule_06_an_idle_client_makes_room_at_a_stop_for_one_that_waits(
    monkeypatch: pytest.MonkeyPatch, knows_its_queue: bool
) -> None:
    getsockopt = socket.socket.getsockopt

    def without_info(self: socket.socket, level: int, option: int, *size: int) -> Any:
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return getsockopt(self, level, option, *size)

    if not knows_its_queue:
        monkeypatch.setattr(socket.socket, "getsockopt", without_info)
    async with serving(echo, max_connections=1) as server:
        async with await server.connect() as idle:
            assert await ask(idle, b"hello") == b"hello"
            queued = server.connect_now(b"queued")
            await wait_all_tasks_blocked()
            server.group.stop()
            assert await read_and_close(idle) == b""
            assert await read_and_close(queued) == b"queued"
        await server.ended.wait()
    assert server.detail == "2 drained, 0 cut"
