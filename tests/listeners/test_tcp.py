"""TCPListener: where it listens. Section 4, rule 1."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from trio_run import CannotStart, Group, GroupFailed, TCPListener
from trio_run.testing import running

from .. import TIMEOUT
from .serving import HOST, ask, echo, listening_at, open_descriptors, serving


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another socket listens on."""
    with socket.create_server((HOST, 0)) as other:
        yield other.getsockname()[1]


async def cannot_start(listener: TCPListener) -> CannotStart:
    """Run it alone: it must fail before it is ready, with an OSError too, and leave nothing."""
    before = open_descriptors()
    group = Group()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), pytest.raises(GroupFailed) as caught:
        await group.run()
    assert open_descriptors() == before
    assert member.ready_at is None
    [error] = caught.value.exceptions
    assert isinstance(error, CannotStart)
    assert isinstance(error, OSError)
    assert "\n" not in str(error)
    return error


async def test_rule_01_it_is_ready_when_it_listens_and_addresses_tells_where() -> None:
    group = Group()
    listener = TCPListener(echo, 0, host=HOST)
    assert listener.addresses == ()
    member = group.add(listener)
    with trio.fail_after(TIMEOUT):
        async with running(group, wait_ready=False):
            await member.wait_ready()
            [(host, port)] = listener.addresses
            assert host == HOST
            assert port > 0
            with socket.create_connection((host, port)):  # with no checkpoint since it was ready
                group.stop()


async def test_rule_01_started_gives_the_addresses() -> None:
    listener = TCPListener(echo, 0, host=HOST)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(listener.execute) == listener.addresses
        nursery.cancel_scope.cancel()


async def test_rule_01_a_given_port_is_used() -> None:
    with listening_at() as bound:  # closed again: nobody is given that port soon
        port = bound.getsockname()[1]
    async with serving(echo, port=port) as server:
        assert server.address == (HOST, port)
        assert server.listener.name == f"tcp:{port}"


async def test_rule_01_ipv6() -> None:
    async with serving(echo, host="::1") as server, await server.connect() as client:
        assert server.address[0] == "::1"
        assert await ask(client, b"hello") == b"hello"


async def test_rule_01_no_host_is_every_interface() -> None:
    async with serving(echo, host=None) as server:
        assert {address[0] for address in server.listener.addresses} == {"0.0.0.0", "::"}
        for address in server.listener.addresses:
            host = "::1" if ":" in address[0] else HOST
            async with await trio.open_tcp_stream(host, address[1]) as client:
                assert await ask(client, b"hello") == b"hello"


async def test_rule_01_a_port_in_use(taken: int) -> None:
    error = await cannot_start(TCPListener(echo, taken, host=HOST))
    assert f"{HOST}:{taken}" in str(error)
    assert "in use" in str(error)


@pytest.mark.parametrize(
    ("used", "free"),
    [
        ((HOST, socket.AF_INET), ("::1", socket.AF_INET6)),
        (("::1", socket.AF_INET6), (HOST, socket.AF_INET)),
    ],
)
async def test_rule_01_a_port_in_use_on_one_interface_only(
    used: tuple[str, int], free: tuple[str, int]
) -> None:
    """Half a listener is none, and nothing is left bound."""
    with socket.create_server((used[0], 0), family=used[1]) as other:
        port = other.getsockname()[1]
        error = await cannot_start(TCPListener(echo, port))
        assert f"*:{port}" in str(error)
        with socket.create_server((free[0], port), family=free[1]):
            pass


async def test_rule_01_no_host_is_one_port_for_both_families() -> None:
    with listening_at() as bound:  # closed again: nobody is given that port soon
        port = bound.getsockname()[1]
    async with serving(echo, host=None, port=port) as server:
        assert [address[1] for address in server.listener.addresses] == [port, port]
        for host in (HOST, "::1"):
            async with await trio.open_tcp_stream(host, port) as client:
                assert await ask(client, b"hello") == b"hello"


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_rule_01_no_host_is_every_interface_there_is(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bind = socket.socket.bind

    def bind_ipv4(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(number, os.strerror(number))
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind_ipv4)
    async with serving(echo, host=None) as server:
        [(host, _)] = server.listener.addresses
        assert host == "0.0.0.0"


async def test_rule_01_a_port_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(socket.socket, "bind", bind)
    error = await cannot_start(TCPListener(echo, 80, host=HOST))
    assert f"{HOST}:80" in str(error)
    assert "permission denied" in str(error)


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1"])
async def test_rule_01_an_address_that_is_not_ours(host: str) -> None:
    error = await cannot_start(TCPListener(echo, 7000, host=host))
    assert host in str(error)
    assert "7000" in str(error)


@pytest.mark.parametrize("host", ["", "300.1.1.1", "no\0host", "no..host", "a" * 64, "no host"])
async def test_rule_01_a_host_name_that_cannot_be(host: str) -> None:
    error = await cannot_start(TCPListener(echo, 7000, host=host))
    assert f"{host}:7000" in str(error)


async def test_rule_01_an_unknown_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    error = await cannot_start(TCPListener(echo, 7000, host="nobody.invalid"))
    assert "nobody.invalid:7000" in str(error)
    assert "Name or service not known" in str(error)


async def test_rule_01_a_socket_that_cannot_listen() -> None:
    first, second = socket.socket(), socket.socket()
    for bound in (first, second):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind((HOST, 0))
    second.bind(first.getsockname())
    with first, second:
        first.listen()
        before = open_descriptors()
        listener = TCPListener(echo, sockets=[second])
        with pytest.raises(CannotStart) as caught:
            await listener.execute()
        assert f"{HOST}:{first.getsockname()[1]}" in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert open_descriptors() == before - 1  # the second one is closed


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
async def test_rule_01_a_socket_of_another_kind(family: int) -> None:
    kind = socket.SOCK_STREAM if family == socket.AF_UNIX else socket.SOCK_DGRAM
    with socket.socket(family, kind) as bound:
        bound.bind("\0trio-run" if family == socket.AF_UNIX else (HOST, 0))
        listener = TCPListener(echo, sockets=[bound])
        with pytest.raises(CannotStart, match=r"trio-run|127"):
            await listener.execute()
        assert bound.fileno() == -1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, "port"),
        ({"port": 7000, "sockets": []}, "port"),
        ({"port": -1}, "-1"),
        ({"port": 65536}, "65536"),
        ({"port": "http"}, "http"),
        ({"port": 0, "backlog": 0}, "backlog"),
        ({"port": 0, "backlog": 1.5}, "backlog"),
        ({"port": 0, "max_connections": 0}, "max_connections"),
        ({"port": 0, "max_connections": "many"}, "max_connections"),
        ({"port": 0, "drain": "soon"}, "drain"),
        ({"port": 0, "ssl_context": "cert.pem"}, "ssl_context"),
        ({"port": 0, "ssl_context": ssl.create_default_context()}, "ssl_context"),
        ({"port": 0, "host": 5}, "host"),
        ({"sockets": []}, "sockets"),
        ({"sockets": 5}, "sockets"),
    ],
)
def test_rule_01_a_bad_argument_is_told_at_once(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises((TypeError, ValueError), match=names):
        TCPListener(echo, **arguments)


def test_rule_01_a_handler_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="handler"):
        TCPListener(None, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [-1, float("nan"), "soon"])
def test_rule_01_a_grace_that_cannot_be(seconds: object) -> None:
    with pytest.raises((TypeError, ValueError), match="grace"):
        Group().add(TCPListener(echo, 0, grace=seconds))  # type: ignore[arg-type]


def test_rule_01_its_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert TCPListener(echo, 7000).name == "tcp:7000"
    assert TCPListener(echo, 0).name == "tcp"
    assert TCPListener(echo, 0, ssl_context=context).name == "tls"
    assert TCPListener(echo, 0, name="intake").name == "intake"


async def test_given_sockets_are_listened_on_and_closed() -> None:
    first, second = listening_at(), listening_at()
    wanted = (first.getsockname(), second.getsockname())
    async with serving(echo, sockets=(first, second)) as server:
        assert server.listener.addresses == wanted
        for address in wanted:
            async with await trio.open_tcp_stream(*address) as client:
                assert await ask(client, b"hello") == b"hello"
    assert first.fileno() == second.fileno() == -1


async def test_two_listeners_share_a_port() -> None:
    """One stops: from then on the other gets every client."""
    async with serving(echo, reuse_port=True) as first:
        port = first.address[1]
        async with serving(echo, port=port, reuse_port=True) as second:
            await first.stop()
            for _ in range(10):
                async with await second.connect() as client:
                    assert await ask(client, b"hello") == b"hello"


async def test_without_reuse_port_a_port_is_not_shared() -> None:
    async with serving(echo, reuse_port=True) as first:
        port = first.address[1]
        error = await cannot_start(TCPListener(echo, port, host=HOST))
        assert f"{HOST}:{port}" in str(error)


async def test_a_port_is_free_again_at_once() -> None:
    """Connections of the last run that the kernel still remembers are no obstacle."""
    async with serving(echo) as server:
        port = server.address[1]
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
            await server.stop()  # the server closes first: the address is in TIME_WAIT
    async with serving(echo, port=port) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"


async def test_accepted_sockets_do_not_delay_small_writes() -> None:
    seen: list[int] = []

    async def handler(stream: Any) -> None:
        seen.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async with serving(handler) as server, await server.connect() as client:
        assert await client.receive_some() == b""
    assert seen[0] != 0
