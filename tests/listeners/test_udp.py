"""UDPListener: where it listens, what becomes of each datagram, and how it drains.

Section 4, rules 1, 2 and 8.
"""

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import (
    CannotStart,
    Cause,
    Datagram,
    Group,
    GroupFailed,
    Report,
    UDPListener,
    busy,
    cancel_on_stop,
    stopping,
    wait_stopping,
)
from trio_run.testing import open_program, running

from .. import TIMEOUT
from ..programs import python
from .serving import (
    HOST,
    Handler,
    Server,
    lines_of,
    open_descriptors,
    serving,
)

LONGEST = 65507  # bytes of data in a datagram over IPv4
SO_MEMINFO = 55
SO_RCVBUFFORCE = 33


@asynccontextmanager
async def listening(handler: Handler, **options: Any) -> AsyncIterator[Server]:
    """A UDPListener in a group; its sockets are closed in the end."""
    if "sockets" not in options:
        options = {"port": 0, "host": HOST} | options
    kind: Any = UDPListener
    async with serving(handler, kind=kind, **options) as server:
        yield server
    assert all(given.fileno() == -1 for given in options.get("sockets", ()))


def udp_at(address: Any = (HOST, 0), kind: type[socket.socket] = socket.socket) -> Any:
    """A bound socket."""
    bound = kind(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(address)
    return bound


@contextmanager
def client_of(address: Any) -> Iterator[socket.socket]:
    """A client that hears nobody but the address: another port of the server's would not do."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect(address)
        client.setblocking(False)
        yield client


async def receive(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    return client.recv(65536)


async def ask(client: socket.socket, request: bytes) -> bytes:
    client.send(request)
    return await receive(client)


def is_silent(client: socket.socket) -> bool:
    try:
        client.recv(65536)
    except BlockingIOError:
        return True
    return False


def meminfo(bound: socket.socket) -> tuple[int, ...]:
    """What the kernel says of a socket: first the bytes in its queue, last how many datagrams it
    dropped.
    """
    return struct.unpack("9I", bound.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))


def queue(bound: socket.socket, client: socket.socket, *messages: bytes) -> None:
    """Send, and see that each message is in the kernel's queue. No task runs meanwhile."""
    deadline = time.monotonic() + TIMEOUT
    for message in messages:
        before = meminfo(bound)[0]
        client.send(message)
        while meminfo(bound)[0] == before:
            assert time.monotonic() < deadline


def flood(bound: socket.socket, client: socket.socket, dropped: int) -> int:
    """Send until the kernel has dropped so many. Returns how many were sent."""
    sent = 0
    deadline = time.monotonic() + TIMEOUT
    while meminfo(bound)[-1] < dropped:
        client.send(b"x")
        sent += 1
        assert time.monotonic() < deadline
    return sent


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def name_of(client: socket.socket) -> str:
    host, port = client.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def echo(datagram: Datagram) -> None:
    await datagram.reply(datagram.data)


class Gate:
    """A handler that waits at a gate, and replies; what it has begun and finished."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.finished: list[bytes] = []
        self.go = trio.Event()
        self.at_once = self.most = 0

    async def __call__(self, datagram: Datagram) -> None:
        self.begun.append(datagram.data)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go.wait()
        await datagram.reply(datagram.data)
        self.at_once -= 1
        self.finished.append(datagram.data)


async def cannot_start(listener: UDPListener) -> CannotStart:
    """Run it alone: it must fail, before it is ready, with an OSError too."""
    group = Group()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), pytest.raises(GroupFailed) as caught:
        await group.run()
    assert member.ready_at is None
    [error] = caught.value.exceptions
    assert isinstance(error, CannotStart)
    assert isinstance(error, OSError)
    assert "\n" not in str(error)
    return error


# Rule 1: where it listens.


async def test_rule_01_it_is_ready_when_it_listens_and_addresses_tells_where() -> None:
    group = Group()
    listener = UDPListener(echo, 0, host=HOST)
    assert listener.addresses == ()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT):
        async with running(group, wait_ready=False):
            await member.wait_ready()
            [(host, port)] = listener.addresses
            assert host == HOST
            assert port > 0
            with client_of((host, port)) as client:
                assert await ask(client, b"hello") == b"hello"


async def test_rule_01_a_given_port_is_used() -> None:
    with udp_at() as bound:  # closed again: nobody is given that port soon
        port = bound.getsockname()[1]
    async with listening(echo, port=port) as server:
        assert server.address == (HOST, port)
        assert server.listener.name == f"udp:{port}"
        with client_of(server.address) as client:
            assert await ask(client, b"hello") == b"hello"


def test_rule_01_it_has_a_name() -> None:
    assert UDPListener(echo, 0).name == "udp"
    assert UDPListener(echo, 53).name == "udp:53"
    assert UDPListener(echo, 53, name="dns").name == "dns"


async def test_rule_01_no_host_is_one_port_on_every_interface() -> None:
    with udp_at() as bound:  # closed again: nobody is given that port soon
        port = bound.getsockname()[1]
    async with listening(echo, host=None, port=port) as server:
        assert {address[:2] for address in server.listener.addresses} == {
            ("0.0.0.0", port),
            ("::", port),
        }
        for host in (HOST, "::1"):
            with client_of((host, port)) as client:
                assert await ask(client, b"hello") == b"hello"


async def test_rule_01_no_host_and_port_0() -> None:
    async with listening(echo, host=None) as server:
        for host, port in (address[:2] for address in server.listener.addresses):
            with client_of(("::1" if ":" in host else HOST, port)) as client:
                assert await ask(client, b"hello") == b"hello"


@pytest.mark.parametrize(("host", "written"), [(HOST, HOST), ("::1", "::1"), (None, "*")])
async def test_rule_01_a_port_in_use(host: str | None, written: str) -> None:
    with udp_at((host or HOST, 0)) as other:
        port = other.getsockname()[1]
        before = open_descriptors()
        error = await cannot_start(UDPListener(echo, port, host=host))
        assert f"{written}:{port}" in str(error)
        assert "in use" in str(error)
        assert open_descriptors() == before


async def test_rule_01_the_error_has_its_number() -> None:
    with udp_at() as other:
        error = await cannot_start(UDPListener(echo, other.getsockname()[1], host=HOST))
        assert isinstance(error, OSError)
        assert error.errno == errno.EADDRINUSE


async def test_rule_01_nobody_takes_a_port_over() -> None:
    """With SO_REUSEADDR anyone could, and the datagrams would go there."""
    async with listening(echo) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError) as caught:
                other.bind(server.address)
            assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["a..b", "x" * 70, b"\xff", "no\0name"])
async def test_rule_01_a_name_that_cannot_be(host: str | bytes) -> None:
    error = await cannot_start(UDPListener(echo, 0, host=host))
    assert ":0" in str(error)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((None, 0), {}, "the handler must be an async function"),
        ((echo, 0), {"max_tasks": 0}, "max_tasks must be a positive whole number, not 0"),
        ((echo, 0), {"max_tasks": -1}, "max_tasks"),
        ((echo, 0), {"max_tasks": 1.5}, "max_tasks"),
        ((echo, 0), {"max_tasks": None}, "max_tasks"),
        ((echo, -1), {}, "port must be a whole number"),
        ((echo, 65536), {}, "port must be a whole number"),
        ((echo, "53"), {}, "port must be a whole number"),
        ((echo, 0), {"host": 127}, "host must be"),
        ((echo,), {}, "UDPListener takes either a port or sockets"),
        ((echo, 0), {"sockets": [0]}, "UDPListener takes either a port or sockets"),
        ((echo,), {"sockets": []}, "sockets must be a list of bound sockets"),
        ((echo,), {"sockets": [3]}, "sockets must be a list of bound sockets"),
    ],
)
def test_rule_01_a_bad_argument_is_a_clear_error(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        UDPListener(*arguments, **options)


@pytest.mark.parametrize("options", [{"host": HOST}, {"reuse_port": True}])
def test_rule_01_host_and_reuse_port_go_with_a_port(options: dict[str, Any]) -> None:
    with udp_at() as bound, pytest.raises(ValueError, match="go with a port"):
        UDPListener(echo, sockets=[bound], **options)


# Handing sockets over.


async def test_sockets_that_are_given_are_used_and_closed() -> None:
    bound = [udp_at(), udp_at(("::1", 0))]
    addresses = tuple(given.getsockname() for given in bound)
    async with listening(echo, sockets=bound) as server:
        assert server.listener.addresses == addresses
        for address in addresses:
            with client_of(address) as client:
                assert await ask(client, b"hello") == b"hello"
    assert [given.fileno() for given in bound] == [-1, -1]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_sockets_of_the_wrong_kind(kind: str, tmp_path: Path) -> None:
    if kind == "tcp":
        wrong = socket.create_server((HOST, 0))
        where = name_of(wrong)
    else:
        wrong = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        where = str(tmp_path / "socket")
        wrong.bind(where)
    right = udp_at()
    error = await cannot_start(UDPListener(echo, sockets=[right, wrong]))
    assert where in str(error)
    assert "not a UDP socket" in str(error)
    assert [right.fileno(), wrong.fileno()] == [-1, -1]


async def test_a_socket_that_is_not_bound() -> None:
    given = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    error = await cannot_start(UDPListener(echo, sockets=[given]))
    assert "not bound" in str(error)
    assert given.fileno() == -1


async def test_reuse_port_shares_a_port() -> None:
    async with listening(echo, reuse_port=True) as first:
        port = first.address[1]
        async with listening(echo, port=port, reuse_port=True) as second:
            for _ in range(40):  # by the sender's port the kernel chooses one of the two
                with client_of(first.address) as client:
                    assert await ask(client, b"hello") == b"hello"
            assert first.listener.status != "0 handled"
            assert second.listener.status != "0 handled"
        with client_of(first.address) as client:
            assert await ask(client, b"hello") == b"hello"


async def test_reuse_port_is_for_those_who_ask_for_it() -> None:
    async with listening(echo, reuse_port=True) as server:
        error = await cannot_start(UDPListener(echo, server.address[1], host=HOST))
        assert "in use" in str(error)


# Rule 2: a handler that fails.


@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_rule_02_a_handler_that_raises_is_logged_with_the_sender_and_others_go_on(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(datagram: Datagram) -> None:
        if datagram.data == b"bad":
            raise ValueError("no such thing")
        await echo(datagram)

    async with listening(handler, host=host) as server:
        with client_of(server.address) as client:
            client.send(b"bad")
            assert await ask(client, b"good") == b"good"
            [line] = lines_of(caplog, name_of(client))
            assert line.levelname == "ERROR"
            assert line.name == "trio_run"
            assert line.exc_info is not None
            assert str(line.exc_info[1]) == "no such thing"
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 handled, 1 failed"
    assert server.detail == "1 handled, 1 failed"
    assert server.report.exit_code == 0


async def test_rule_02_an_exception_group_is_one_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(datagram: Datagram) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")

    async def fail(word: str) -> None:
        raise ValueError(word)

    async with listening(handler) as server:
        with client_of(server.address) as client:
            client.send(b"bad")
            await wait_all_tasks_blocked()
            [line] = lines_of(caplog, name_of(client))
            assert line.exc_info is not None
            group = line.exc_info[1]
            assert isinstance(group, ExceptionGroup)
            assert {str(error) for error in group.exceptions} == {"one", "two"}
    assert server.detail == "1 failed"


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        BaseExceptionGroup("several", [ValueError("x"), KeyboardInterrupt()]),
    ],
)
async def test_rule_02_what_ends_the_program_ends_it(error: BaseException) -> None:
    async def handler(datagram: Datagram) -> None:
        if datagram.data == b"end":
            raise error
        await trio.sleep_forever()

    bound = udp_at()
    listener = UDPListener(handler, sockets=[bound])
    group = Group()
    group.add(listener)
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        client.send(b"wait")
        client.send(b"end")
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            await group.run()
    assert bound.fileno() == -1
    assert listener.status == "1 cut"


# Rule 8: datagrams, and replies.


async def test_rule_08_a_datagram_has_data_and_the_address_of_its_sender() -> None:
    seen: list[Datagram] = []

    async def handler(datagram: Datagram) -> None:
        seen.append(datagram)
        await echo(datagram)

    async with listening(handler) as server:
        with client_of(server.address) as client:
            for data in (b"hello", b"", bytes(LONGEST)):
                assert await ask(client, data) == data
            assert [datagram.data for datagram in seen] == [b"hello", b"", bytes(LONGEST)]
            assert {datagram.address for datagram in seen} == {client.getsockname()}
            assert repr(seen[0]) == f"<Datagram of 5 bytes from {name_of(client)}>"


@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_rule_08_each_reply_goes_to_the_client_that_sent(host: str) -> None:
    gate = Gate()
    async with listening(gate, host=host) as server:
        with client_of(server.address) as one, client_of(server.address) as two:
            one.send(b"one")
            two.send(b"two")
            await wait_all_tasks_blocked()
            gate.go.set()
            assert await receive(one) == b"one"
            assert await receive(two) == b"two"
            await wait_all_tasks_blocked()
            assert is_silent(one)
            assert is_silent(two)


async def test_rule_08_a_reply_can_be_any_bytes_and_there_can_be_several() -> None:
    async def handler(datagram: Datagram) -> None:
        await datagram.reply(bytearray(b"one"))
        await datagram.reply(memoryview(b"two"))

    async with listening(handler) as server:
        with client_of(server.address) as client:
            assert await ask(client, b"x") == b"one"
            assert await receive(client) == b"two"


async def test_rule_08_a_reply_is_a_checkpoint() -> None:
    async def handler(datagram: Datagram) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await datagram.reply(b"not sent")
        assert scope.cancelled_caught
        await datagram.reply(b"sent")

    async with listening(handler) as server:
        with client_of(server.address) as client:
            assert await ask(client, b"x") == b"sent"


async def test_rule_08_a_reply_that_is_too_long_is_an_error_for_its_handler() -> None:
    async def handler(datagram: Datagram) -> None:
        with pytest.raises(OSError) as caught:
            await datagram.reply(bytes(LONGEST + 1))
        assert caught.value.errno == errno.EMSGSIZE
        await datagram.reply(b"too long")

    async with listening(handler) as server:
        with client_of(server.address) as client:
            assert await ask(client, b"x") == b"too long"


class Narrow(socket.socket):
    """A socket whose send buffer is full, so many times."""

    full = 0

    def sendto(self, *arguments: Any) -> int:
        if self.full:
            self.full -= 1
            raise BlockingIOError
        return super().sendto(*arguments)


@pytest.mark.parametrize("full", [1, 5, 12])
async def test_rule_08_replies_wait_while_the_send_buffer_is_full(full: int) -> None:
    gate = Gate()
    bound = udp_at(kind=Narrow)
    async with listening(gate, sockets=[bound]) as server:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(5))
            await wait_all_tasks_blocked()
            bound.full = full
            gate.go.set()
            replies = [await receive(client) for _ in range(5)]
            assert sorted(replies) == numbered(5)
            assert bound.full == 0
    assert server.detail == "5 handled"


async def test_rule_08_an_error_while_a_reply_waits_is_its_own_and_the_next_has_its_turn() -> None:
    errors: list[int | None] = []

    async def handler(datagram: Datagram) -> None:
        await gate.go.wait()
        try:
            await datagram.reply(bytes(LONGEST + 1) if datagram.data == b"0" else datagram.data)
        except OSError as exc:
            errors.append(exc.errno)

    gate = Gate()
    bound = udp_at(kind=Narrow)
    async with listening(handler, sockets=[bound]) as server:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(3))
            await wait_all_tasks_blocked()
            bound.full = 3
            gate.go.set()
            assert sorted([await receive(client), await receive(client)]) == [b"1", b"2"]
    assert errors == [errno.EMSGSIZE]
    assert server.detail == "3 handled"


class Clogged(Narrow):
    """A socket that can't be written to, once it has been given one that can't."""

    clogged: socket.socket | None = None

    def fileno(self) -> int:
        return super().fileno() if self.clogged is None else self.clogged.fileno()


async def test_rule_08_a_reply_from_elsewhere_does_not_hang_when_the_listener_closes() -> None:
    kept: list[Datagram] = []

    async def handler(datagram: Datagram) -> None:
        kept.append(datagram)

    async def reply_too_late() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await kept[0].reply(b"late")

    ours, theirs = socket.socketpair()
    bound = udp_at(kind=Clogged)
    with ours, theirs, client_of(bound.getsockname()) as client:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        async with serving(handler, kind=UDPListener, sockets=[bound]) as server:
            client.send(b"x")
            await wait_all_tasks_blocked()
            bound.full, bound.clogged = 1, ours
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reply_too_late)
                await wait_all_tasks_blocked()
                await server.stop()
        bound.clogged = None
    assert bound.fileno() == -1
    with pytest.raises(OSError):
        await kept[0].reply(b"later still")


async def test_rule_08_no_more_than_max_tasks_run_and_the_others_wait_in_the_kernel() -> None:
    gate = Gate()
    bound = udp_at()
    async with listening(gate, sockets=[bound], max_tasks=2) as server:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(7))
            await wait_all_tasks_blocked()
            assert sorted(gate.begun) == numbered(2)
            assert server.listener.status == "2 datagrams in work"
            gate.go.set()
            replies = [await receive(client) for _ in range(7)]
            assert sorted(replies) == numbered(7)
            assert gate.most == 2
            await wait_all_tasks_blocked()
            assert server.listener.status == "7 handled"


async def test_rule_08_max_tasks_is_for_all_sockets_together() -> None:
    gate = Gate()
    gate.go.set()
    bound = [udp_at(), udp_at(), udp_at(("::1", 0))]
    async with listening(gate, sockets=bound, max_tasks=1):
        with (
            client_of(bound[0].getsockname()) as one,
            client_of(bound[1].getsockname()) as two,
            client_of(bound[2].getsockname()) as three,
        ):
            clients = (one, two, three)
            for given, client in zip(bound, clients, strict=True):
                queue(given, client, *numbered(10))
            for client in clients:
                assert [await receive(client) for _ in range(10)] == numbered(10)
    assert gate.most == 1


async def test_rule_08_a_flood_of_datagrams_leaves_others_their_turn() -> None:
    """They are not all taken in one go, between two turns of another task."""
    seen: set[int] = set()
    begun = 0

    async def handler(datagram: Datagram) -> None:
        nonlocal begun
        begun += 1

    async def look() -> None:
        while begun < 350:
            seen.add(begun)
            await trio.lowlevel.checkpoint()

    bound = udp_at()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    async with listening(handler, sockets=[bound]) as server, trio.open_nursery() as nursery:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(350))
            nursery.start_soon(look)
    assert len(seen - {0}) >= 2
    assert server.detail == "350 handled"


# What the kernel reports: drops, and the fate of replies.


@pytest.fixture
def small() -> Iterator[socket.socket]:
    """A bound socket that holds few datagrams."""
    with udp_at() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        yield bound


async def test_rule_08_what_the_kernel_dropped_is_reported(small: socket.socket) -> None:
    gate = Gate()
    async with listening(gate, sockets=[small], max_tasks=1) as server:
        with client_of(server.address) as client:
            queue(small, client, b"first")
            await wait_all_tasks_blocked()
            sent = 1 + flood(small, client, dropped=1234)
            told = "1,234 dropped by the kernel"
            assert server.listener.status == f"1 datagrams in work, {told}"
            gate.go.set()
    assert server.detail == f"{sent - 1234} handled, {told}"


async def test_rule_08_what_was_dropped_while_it_drained_is_nothing_it_lost(
    small: socket.socket,
) -> None:
    gate = Gate()
    async with listening(gate, sockets=[small], max_tasks=1) as server:
        with client_of(server.address) as client:
            queue(small, client, b"first")
            await wait_all_tasks_blocked()
            server.group.stop()
            await wait_all_tasks_blocked()
            flood(small, client, dropped=10)
            gate.go.set()
    assert server.detail == "1 handled"


async def test_rule_08_drops_are_told_after_a_cut_too(
    small: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    gate = Gate()
    async with listening(gate, sockets=[small], max_tasks=1, grace=0) as server:
        with client_of(server.address) as client:
            queue(small, client, b"first")
            await wait_all_tasks_blocked()
            flood(small, client, dropped=10)
    assert server.detail == "20 cut, 10 dropped by the kernel"


class Mute(socket.socket):
    """A socket of a kernel that does not tell what it dropped."""

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        if option == SO_MEMINFO:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return super().getsockopt(level, option, *size)


async def test_rule_08_where_the_kernel_does_not_tell_nothing_is_said() -> None:
    async with listening(echo, sockets=[udp_at(kind=Mute)]) as server:
        assert server.listener.status == "0 handled"
        with client_of(server.address) as client:
            assert await ask(client, b"hello") == b"hello"
    assert server.detail == "1 handled"


class Faulty(socket.socket):
    """A socket from which the next attempts to receive fail."""

    errors: tuple[int, ...] = ()

    def recvfrom(self, *arguments: Any) -> Any:
        if self.errors:
            number, *rest = self.errors
            self.errors = tuple(rest)
            raise OSError(number, os.strerror(number))
        return super().recvfrom(*arguments)


ABOUT_REPLIES = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETRESET, errno.EHOSTUNREACH)


@pytest.mark.parametrize("stop", [False, True])
async def test_rule_08_an_error_about_a_reply_hides_no_datagram(stop: bool) -> None:
    gate = Gate()
    bound = udp_at(kind=Faulty)
    async with listening(gate, sockets=[bound]) as server:
        with client_of(server.address) as client:
            bound.errors = ABOUT_REPLIES
            queue(bound, client, b"hello")
            if stop:
                server.group.stop()
            gate.go.set()
            assert await receive(client) == b"hello"
            assert bound.errors == ()
    assert server.detail == "1 handled"


@pytest.mark.parametrize("stop", [False, True])
async def test_rule_08_a_client_that_is_gone_ends_nothing(stop: bool) -> None:
    """A connected socket is told by the kernel that nobody is there for a reply."""
    gate = Gate()
    bound = udp_at()
    gone = udp_at()
    bound.connect(gone.getsockname())
    gone.connect(bound.getsockname())
    async with listening(gate, sockets=[bound]) as server:
        queue(bound, gone, b"gone")
        await wait_all_tasks_blocked()
        address = gone.getsockname()
        gone.close()
        gate.go.set()
        await wait_all_tasks_blocked()
        with udp_at(address) as client:
            client.connect(bound.getsockname())
            client.setblocking(False)
            queue(bound, client, b"there")
            if stop:
                server.group.stop()
            assert await receive(client) == b"there"
    assert server.detail == "2 handled"


async def test_rule_08_any_other_error_is_a_failure() -> None:
    bound = udp_at(kind=Faulty)
    bound.errors = (errno.EIO,)
    group = Group()
    group.add(UDPListener(echo, sockets=[bound]))
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        client.send(b"x")
        with pytest.raises(GroupFailed) as caught:
            await group.run()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert bound.fileno() == -1


# Rule 8: the stop.


@pytest.mark.parametrize("max_tasks", [1, 3, 1000])
async def test_rule_08_what_was_queued_is_handled_and_nothing_that_comes_later(
    max_tasks: int,
) -> None:
    gate = Gate()
    bound = udp_at()
    async with listening(gate, sockets=[bound], max_tasks=max_tasks) as server:
        with client_of(server.address) as client, client_of(server.address) as late:
            queue(bound, client, b"first")
            await wait_all_tasks_blocked()
            queue(bound, client, *numbered(20))
            server.group.stop()
            await wait_all_tasks_blocked()
            assert not server.ended.is_set()
            assert server.listener.status == "21 datagrams in work"
            queue(bound, late, *numbered(20))
            gate.go.set()
            replies = [await receive(client) for _ in range(21)]
            assert sorted(replies) == sorted([b"first", *numbered(20)])
            await server.ended.wait()
            assert is_silent(late)
    assert gate.most <= max_tasks
    assert len(gate.finished) == 21
    assert server.detail == "21 handled"
    assert server.report.actors[0].outcome == "returned"


async def test_rule_08_queued_on_several_sockets() -> None:
    gate = Gate()
    bound = [udp_at(), udp_at(("::1", 0))]
    async with listening(gate, sockets=bound, max_tasks=1) as server:
        with (
            client_of(bound[0].getsockname()) as one,
            client_of(bound[1].getsockname()) as two,
        ):
            queue(bound[0], one, *numbered(5))
            await wait_all_tasks_blocked()
            queue(bound[1], two, *numbered(5))
            server.group.stop()
            gate.go.set()
            assert [await receive(one) for _ in range(5)] == numbered(5)
            assert [await receive(two) for _ in range(5)] == numbered(5)
    assert server.detail == "10 handled"


async def test_rule_08_senders_that_never_stop_do_not_hold_up_the_stop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(datagram: Datagram) -> None:
        await trio.sleep(1)
        client.send(b"more")
        client.send(b"more")

    bound = udp_at()
    async with listening(handler, sockets=[bound], max_tasks=1) as server:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(3))
            server.group.stop()
            await server.ended.wait()
            assert server.report.duration == 3
    assert server.detail == "3 handled"


class Endless(socket.socket):
    """A socket whose queue is full again as soon as something is taken."""

    taken = 0

    def recvfrom(self, _size: int, _flags: int = 0) -> Any:  # type: ignore[override]
        self.taken += 1
        return super().recvfrom(1, socket.MSG_PEEK)


async def test_rule_08_a_flood_that_is_faster_does_not_hold_up_the_stop() -> None:
    gate = Gate()
    bound = udp_at(kind=Endless)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    size = bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    async with listening(gate, sockets=[bound], max_tasks=1) as server:
        with client_of(server.address) as client:
            queue(bound, client, b"x")
            await wait_all_tasks_blocked()
            assert bound.taken == 1
            server.group.stop()
            gate.go.set()
            await server.ended.wait()
    assert bound.taken <= size / 32  # and a datagram takes more than 32 bytes of the buffer
    assert server.detail == f"{bound.taken} handled"


@pytest.mark.parametrize("is_busy", [False, True])
async def test_rule_08_handlers_finish_busy_or_not(
    is_busy: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(datagram: Datagram) -> None:
        await datagram.reply(b"begun")
        assert not stopping()
        if is_busy:
            with busy():
                await trio.sleep(10)
        else:
            await trio.sleep(10)
        assert stopping()
        await datagram.reply(b"done")

    async with listening(handler) as server:
        with client_of(server.address) as client:
            assert await ask(client, b"x") == b"begun"
            server.group.stop()
            await server.ended.wait()
            assert await receive(client) == b"done"
            assert 9 < server.report.duration <= 10
    assert server.detail == "1 handled"


async def test_rule_08_a_handler_is_told_of_the_stop_if_it_asks() -> None:
    async def handler(datagram: Datagram) -> None:
        with cancel_on_stop():
            await datagram.reply(b"begun")
            await trio.sleep_forever()
        await wait_stopping()
        await datagram.reply(b"stopped")

    async with listening(handler) as server:
        with client_of(server.address) as client:
            assert await ask(client, b"x") == b"begun"
            server.group.stop()
            assert await receive(client) == b"stopped"
    assert server.detail == "1 handled"


async def test_rule_08_a_handler_that_fails_while_draining_is_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(datagram: Datagram) -> None:
        await wait_stopping()
        if datagram.data == b"0":
            raise ValueError("too late")

    bound = udp_at()
    async with listening(handler, sockets=[bound], max_tasks=1) as server:
        with client_of(server.address) as client:
            queue(bound, client, *numbered(3))
            name = name_of(client)
    assert server.detail == "2 handled, 1 failed"
    assert len(lines_of(caplog, name)) == 1


@pytest.mark.parametrize("own", [False, True])
async def test_rule_08_what_is_left_at_the_end_of_the_grace_is_cut_and_counted(
    own: bool, autojump_clock: trio.testing.MockClock
) -> None:
    graces: dict[str, Any] = {"grace": 5}
    gate = Gate()
    bound = udp_at()
    group = Group(grace=30 if own else 5)
    listener = UDPListener(gate, sockets=[bound], max_tasks=3, **(graces if own else {}))
    member = group.add(listener)
    report: Report | None = None

    async def run() -> None:
        nonlocal report
        report = await group.run()

    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await member.wait_ready()
            queue(bound, client, *numbered(10))
            await wait_all_tasks_blocked()
            group.stop()
    assert report is not None
    assert report.duration == 5
    assert report.actors[0].outcome == "cut"
    assert report.actors[0].detail == "10 cut"
    assert len(gate.begun) == 3
    assert bound.fileno() == -1


async def test_rule_08_a_handler_that_fails_when_it_is_cut_is_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(datagram: Datagram) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on the way out")

    async with listening(handler, grace=1) as server:
        with client_of(server.address) as client:
            client.send(b"x")
            await wait_all_tasks_blocked()
            name = name_of(client)
    [line] = lines_of(caplog, name)
    assert line.exc_info is not None
    assert "on the way out" in repr(line.exc_info[1])
    assert server.detail == "1 failed, 1 cut"
    assert server.report.actors[0].outcome == "cut"


async def test_rule_08_with_no_grace_it_is_cut_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with listening(Gate(), grace=0) as server:
        with client_of(server.address) as client:
            client.send(b"x")
            await wait_all_tasks_blocked()
            report = await server.stop()
    assert report.duration == 0
    assert server.detail == "1 cut"


async def test_rule_08_an_outside_cancel_cuts_everything() -> None:
    gate = Gate()
    bound = udp_at()
    listener = UDPListener(gate, sockets=[bound], max_tasks=2)
    group = Group()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await member.wait_ready()
            queue(bound, client, *numbered(5))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
        assert is_silent(client)
    assert member.outcome == "cut"
    assert listener.status == "5 cut"  # those that the kernel still had, too
    assert bound.fileno() == -1


async def test_rule_08_an_outside_cancel_while_it_drains() -> None:
    gate = Gate()
    bound = udp_at()
    listener = UDPListener(gate, sockets=[bound], max_tasks=2)
    group = Group()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await member.wait_ready()
            queue(bound, client, *numbered(5))
            await wait_all_tasks_blocked()
            group.stop()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert member.outcome == "cut"
    assert listener.status == "5 cut"


async def test_rule_08_the_port_is_free_again_and_no_descriptor_is_left() -> None:
    before = open_descriptors()
    async with listening(echo, host=None) as server:
        addresses = server.listener.addresses
        with client_of((HOST, addresses[0][1])) as client:
            client.send(b"hello")
    assert open_descriptors() == before
    for address in addresses:
        with socket.socket(
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM
        ) as again:
            if again.family == socket.AF_INET6:
                again.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            again.bind(address)


# Without a group.


async def test_it_works_without_a_group() -> None:
    gate = Gate()
    bound = udp_at()
    listener = UDPListener(gate, sockets=[bound], max_tasks=1)
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        async with trio.open_nursery() as nursery:
            assert await nursery.start(listener.execute) == listener.addresses
            queue(bound, client, *numbered(3))
            await wait_all_tasks_blocked()
            listener.interrupt(Cause())
            gate.go.set()
            assert [await receive(client) for _ in range(3)] == numbered(3)
    assert listener.status == "3 handled"
    assert bound.fileno() == -1


async def test_without_a_group_it_is_cancelled_as_anything_else() -> None:
    gate = Gate()
    bound = udp_at()
    listener = UDPListener(gate, sockets=[bound])
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(listener.execute)
                queue(bound, client, *numbered(3))
                await wait_all_tasks_blocked()
                scope.cancel()
    assert scope.cancelled_caught
    assert listener.status == "3 cut"
    assert bound.fileno() == -1


async def test_interrupted_before_it_listens_it_still_hands_out_what_is_queued() -> None:
    """As when a parent process handed over a socket on which datagrams were waiting."""
    bound = udp_at()
    listener = UDPListener(echo, sockets=[bound])
    with trio.fail_after(TIMEOUT), client_of(bound.getsockname()) as client:
        queue(bound, client, *numbered(3))
        listener.interrupt(Cause())
        await listener.execute()
        assert sorted([await receive(client) for _ in range(3)]) == numbered(3)


# A real process.

COLLECTOR = """
import socket
import sys

import trio

from trio_run import UDPListener, run, wait_stopping

BUFFER, FORCE, COUNT = map(int, sys.argv[1:])
seen = set()


async def handler(datagram):
    seen.add(datagram.data)
    if datagram.data == b"first":
        print("full house", flush=True)
        await wait_stopping()
    await trio.lowlevel.checkpoint()


def bind():
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    try:
        bound.setsockopt(socket.SOL_SOCKET, FORCE, BUFFER)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return bound


sockets, room = [], 0
while room < COUNT:  # more of them, where the kernel does not give one that is large enough
    sockets.append(bind())
    share = sockets[-1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2048
    room += share
print("listens", share, *(bound.getsockname()[1] for bound in sockets), flush=True)
code = run(UDPListener(handler, sockets=sockets, max_tasks=1))
print("seen", len(seen))
sys.exit(code)
"""


def queued_at(ports: set[int]) -> int:
    """How many bytes the kernel has queued on these ports, of whatever process."""
    total = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) in ports:
            total += int(fields[4].split(":")[1], 16)
    return total


def size_in_queue(message: bytes) -> int:
    with udp_at() as bound, client_of(bound.getsockname()) as client:
        queue(bound, client, message)
        return meminfo(bound)[0]


@pytest.mark.parametrize("buffer", [32 << 20, 100 << 10], ids=["one socket", "many sockets"])
async def test_rule_08_20000_datagrams_before_a_sigterm_are_handled(buffer: int) -> None:
    count = 20_000
    arguments = map(str, (buffer, SO_RCVBUFFORCE, count))
    with trio.fail_after(TIMEOUT):
        async with open_program(python("-c", COLLECTOR, *arguments)) as program:
            _, share, *ports = (await program.line_with("listens")).split()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"first", (HOST, int(ports[0])))
                await program.line_with("full house")
                for number in range(1, count):
                    message = b"%05d" % number
                    client.sendto(message, (HOST, int(ports[number // int(share)])))
            everything = (count - 1) * size_in_queue(b"00000")
            while queued_at(set(map(int, ports))) < everything:
                await trio.sleep(0.01)
            program.signal(signal.SIGTERM)
            assert await program.exit_code() == 0
            assert f"seen {count}\n" in program.output
            assert "20,000 handled" in program.output
            assert "dropped" not in program.output
