"""Faults of real workers, as clients behind their socket see them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from trio_run import Workers, _workers

from .children import exists, notifying, open_descriptors, until
from .programs import script
from .test_workers import GOOD, all_ready, at_once, pids

# Each line is answered with the worker's pid. After "hang" it hangs, with the interpreter's lock.
SERVES = """
    import ctypes, logging, os, sys
    from trio_run import TCPListener, inherited_sockets, run
    logging.basicConfig(level="DEBUG")
    async def answer(stream):
        async for line in stream:
            logging.info("a line")
            if line == b"hang\\n":
                os.mkdir(os.path.join(sys.argv[1], str(os.getpid())))
                ctypes.PyDLL(None).sleep(1000)
            await stream.send_all(b"%d\\n" % os.getpid())
    sys.exit(run(TCPListener(answer, sockets=inherited_sockets()["web"])))
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class Clients:
    """Several that connect, send a line, and want its answer, again and again."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.answered: list[int] = []  # by whom
        self.refused = self.ended_early = 0
        self.is_over = False

    async def come(self) -> None:
        while not self.is_over:
            try:
                stream = await trio.open_tcp_stream(*self.address)
            except OSError:
                self.refused += 1
                continue
            async with stream:
                try:
                    self.answered.append(await ask(stream))
                except (trio.BrokenResourceError, EOFError):
                    self.ended_early += 1

    async def are_answered(self, more: int = 50) -> None:
        enough = len(self.answered) + more
        await until(lambda: len(self.answered) >= enough)


def descriptors(pid: int) -> dict[int, str]:
    """Those of a process, and what each is of."""
    found = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that with which this lists its own
            found[int(each.name)] = str(each.readlink())
    return found


def highest_descriptor() -> int:
    return max(int(each.name) for each in Path("/proc/self/fd").iterdir())


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def ask(stream: trio.SocketStream) -> int:
    """Who serves there.

    Raises:
      EOFError, trio.BrokenResourceError: if it ends before that is said.
    """
    await stream.send_all(b"who\n")
    said = b""
    while not said.endswith(b"\n"):
        more = await stream.receive_some()
        if not more:
            raise EOFError
        said += more
    return int(said)


async def test_rule_p4_one_that_is_killed_fails_what_it_has_in_work_alone(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    clients = Clients(listening.getsockname())
    workers = Workers(script(SERVES), 2, sockets={"web": [listening]})
    async with all_ready(workers, 2), trio.open_nursery() as nursery:
        async with await trio.open_tcp_stream(*clients.address) as held:
            victim = await ask(held)
            for _ in range(5):
                nursery.start_soon(clients.come)
            await clients.are_answered()
            os.kill(victim, signal.SIGKILL)
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                while True:
                    await ask(held)
        await until(lambda: workers.status == "2 workers, 2 ready, 1 restart")
        assert clients.ended_early <= 5  # each of them had one in work
        early, before = clients.ended_early, len(clients.answered)
        await clients.are_answered()
        assert victim not in clients.answered[before:]
        assert clients.ended_early == early
        assert clients.refused == 0
        clients.is_over = True


async def test_rule_p4_while_one_hangs_the_other_serves(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_once(monkeypatch)
    clients = Clients(listening.getsockname())
    workers = Workers(
        script(SERVES, str(tmp_path)), 2, sockets={"web": [listening]}, stuck_after=1.0
    )
    async with all_ready(workers, 2), trio.open_nursery() as nursery:
        async with await trio.open_tcp_stream(*clients.address) as hanging:
            await hanging.send_all(b"hang\n")
            await until(lambda: names_in(tmp_path))
            [hung] = map(int, names_in(tmp_path))
            for _ in range(5):
                nursery.start_soon(clients.come)
            await clients.are_answered(5)
            assert exists(hung)
            await until(lambda: workers.status == "2 workers, 2 ready, 1 restart")
        await clients.are_answered()
        assert hung not in clients.answered
        assert (clients.refused, clients.ended_early) == (0, 0)
        clients.is_over = True


async def test_rule_p4_a_worker_has_no_descriptor_of_another_s(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_once(monkeypatch)
    left, right = socket.socketpair()
    with left, right, (tmp_path / "mine").open("w") as file:
        for each in (left, right, file):
            os.set_inheritable(each.fileno(), True)
        mine = descriptors(os.getpid())
        expected = {0: "/dev/null", 1: mine[1], 2: mine[2], 3: mine[listening.fileno()]}
        workers = Workers(notifying(GOOD), 2, sockets=[listening])
        async with all_ready(workers, 2):
            os.kill(pids(workers)[0], signal.SIGKILL)
            await until(lambda: workers.status == "2 workers, 2 ready, 1 restart")
            for pid in pids(workers):  # the socket by which it has just said READY=1 may be left
                await until(lambda pid=pid: descriptors(pid) == expected)


async def test_rule_p4_they_serve_on_where_nothing_can_be_written(
    listening: socket.socket,
) -> None:
    clients = Clients(listening.getsockname())
    full = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *script(SERVES)]
    workers = Workers(full, 2, sockets={"web": [listening]})
    async with all_ready(workers, 2) as group:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(clients.come)
            await clients.are_answered()
            clients.is_over = True
        assert workers.status == "2 workers, 2 ready"
        for pid in pids(workers):
            assert (descriptors(pid)[1], descriptors(pid)[2]) == ("/dev/full", "/dev/full")
    assert (clients.refused, clients.ended_early) == (0, 0)
    assert group.report.actors[0].outcome == "returned"


async def test_rule_p4_without_descriptors_it_is_tried_again(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_workers, "_FIRST", 0.05)
    monkeypatch.setattr(_workers, "_MOST", 0.05)
    monkeypatch.setattr(_workers, "_LIMIT", 1000)
    workers = Workers(script(SERVES), 2, sockets={"web": [listening]})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []

    def failures() -> int:
        return caplog.text.count("Too many open files")

    async with all_ready(workers, 2):
        before = open_descriptors()
        async with await trio.open_tcp_stream(*listening.getsockname()) as client:
            server = await ask(client)
            [victim] = set(pids(workers)) - {server}
            try:
                limit = highest_descriptor() + 1
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
                with pytest.raises(OSError, match="Too many open files"):
                    while True:
                        fillers.append(os.dup(0))
                os.kill(victim, signal.SIGKILL)
                await until(failures)
                for more in (1, 2):  # at another step of the start each time
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit + more, limits[1]))
                    seen = failures()
                    await until(lambda seen=seen: failures() > seen)  # type: ignore[misc]
                    assert await ask(client) == server
                    assert workers.status == f"2 workers, 1 ready, {workers._restarts} restarts"
            finally:
                for each in fillers:
                    os.close(each)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await until(lambda: len(pids(workers)) == 2)
            assert await ask(client) == server
        assert open_descriptors() == before
