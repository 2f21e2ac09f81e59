"""Section 4, rule 3: no client is reset that connects between the last look and the close."""

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import TCPListener, UnixListener

from .serving import HOST, connected_to, echo, serving


class Latecomers:
    """Each time that a listening socket says that nobody is there, a client connects, and asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clients: list[socket.socket] = []
        self.refused: list[int] = []
        self.address: Any = None  # from when on
        self._accept: Callable[[socket.socket], Any] = socket.socket.accept
        monkeypatch.setattr(socket.socket, "accept", lambda bound: self._look(bound))

    def _look(self, bound: socket.socket) -> Any:
        try:
            return self._accept(bound)
        except BlockingIOError:
            if self.address is not None:
                self._come()
            raise

    def _come(self) -> None:
        unix = not isinstance(self.address, tuple)
        client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        client.setblocking(False)
        number = client.connect_ex(self.address)
        if number not in (0, errno.EINPROGRESS):
            self.refused.append(number)
            client.close()
            return
        self.clients.append(client)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            client.send(b"hello")

    async def outcomes(self) -> list[str]:
        return [await self._outcome(client) for client in self.clients]

    async def _outcome(self, client: socket.socket) -> str:
        with client:
            try:
                await trio.lowlevel.wait_writable(client)
                if number := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return errno.errorcode[number]
                await trio.lowlevel.wait_readable(client)
                return client.recv(100).decode()
            except OSError as exc:
                return errno.errorcode[exc.errno or 0]


async def test_rule_03_a_tcp_who_connects_after_the_last_look_is_served_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latecomers = Latecomers(monkeypatch)
    async with serving(echo) as server:
        latecomers.address = server.address
        await server.stop()
        latecomers.address = None
        # The second one is refused when its kernel has tried once more, a second later.
        assert await latecomers.outcomes() == ["hello", "ECONNREFUSED"]
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("abstract", [False, True])
async def test_rule_03_a_unix_who_connects_after_the_last_look_is_served_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool
) -> None:
    latecomers = Latecomers(monkeypatch)
    path = f"\0{tmp_path}" if abstract else str(tmp_path / "socket")
    async with serving(echo, kind=UnixListener, path=path) as server:
        if not abstract:  # the path itself is removed before the last look
            (tmp_path / "other").hardlink_to(path)
        latecomers.address = path if abstract else str(tmp_path / "other")
        await server.stop()
        latecomers.address = None
        assert await latecomers.outcomes() == ["hello"]
        assert latecomers.refused == [errno.ECONNREFUSED]
    assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("kind", [TCPListener, UnixListener])
async def test_rule_03_a_socket_that_was_given_goes_on_in_other_hands(
    kind: Any, tmp_path: Path
) -> None:
    bound = socket.socket(socket.AF_INET if kind is TCPListener else socket.AF_UNIX)
    bound.bind((HOST, 0) if kind is TCPListener else str(tmp_path / "socket"))
    with bound.dup() as same:
        async with serving(echo, kind=kind, sockets=[bound]) as server:
            await server.stop()
        with connected_to(same.getsockname()) as client:
            same.settimeout(10)
            with same.accept()[0] as accepted:
                client.sendall(b"hello")
                assert accepted.recv(5) == b"hello"


async def test_rule_03_where_the_kernel_knows_no_filter_it_stops_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setsockopt = socket.socket.setsockopt

    def without_filters(self: socket.socket, level: int, option: int, *value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, 26):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        setsockopt(self, level, option, *value)

    monkeypatch.setattr(socket.socket, "setsockopt", without_filters)
    async with serving(echo) as server, await server.connect() as client:
        await client.send_all(b"hello")
        await wait_all_tasks_blocked()
        await server.stop()
    assert server.detail == "1 drained, 0 cut"
