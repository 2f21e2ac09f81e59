"""Section 4, rule 7: several processes and one path, a stale socket's or one that is taken over."""

# ruff: noqa: ASYNC240 - a look at a local path takes no time

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import CannotStart, Group, UnixListener
from trio_run.testing import open_program, read_to_end

from ..programs import script
from .serving import (
    ask,
    connected_to,
    echo,
    lines_of,
    serving,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """What is left of a process that was killed."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    return path


@pytest.fixture
def held(path: Path) -> Iterator[Callable[[], None]]:
    """The lock of the directory is another's, until this is called."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


# A stale socket.

SIX = """
    import os, signal, socket, sys
    from trio_run import UnixListener, run
    directory, rounds, processes = DIRECTORY, 12, 6
    async def echo(stream):
        async for chunk in stream:
            await stream.send_all(chunk)
    for number in range(rounds):
        path = f"{directory}/{number}"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        read, write = os.pipe()
        pids = []
        for _ in range(processes):
            pid = os.fork()
            if not pid:
                os.close(write)
                os.read(read, 1)  # until all are there
                os._exit(run(UnixListener(echo, path), grace=5))
            pids.append(pid)
        os.close(read)
        os.close(write)
        codes = []
        signal.alarm(30)  # or there would be two that listen, for ever
        while len(codes) < processes - 1:
            pid, status = os.wait()
            pids.remove(pid)
            codes.append(os.waitstatus_to_exitcode(status))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        os.kill(pids[0], signal.SIGTERM)
        os.waitpid(pids[0], 0)
        assert codes == [1] * (processes - 1), codes
        signal.alarm(0)
    print("one in each round")
"""


async def test_rule_07_of_six_processes_on_one_stale_socket_one_gets_it(tmp_path: Path) -> None:
    source = SIX.replace("DIRECTORY", repr(str(tmp_path)))
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 0, program.output
    assert "one in each round" in program.output
    assert program.output.count("it is in use; stop the process that listens there") == 12 * 5


async def test_rule_07_nobody_comes_between_the_look_at_a_stale_socket_and_its_replacement(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    rename = Path.rename

    def other() -> None:
        try:
            trio.run(UnixListener(echo, path).execute)
        except CannotStart as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=other, daemon=True)

    def rename_late(self: Path, target: Path) -> Path:
        thread.start()
        thread.join(0.2)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    async with serving(echo, kind=UnixListener, path=path) as server:
        await trio.to_thread.run_sync(thread.join, 10)
        [error] = errors
        assert error.startswith(f"cannot listen on {path}: it is in use")
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
        await server.stop()
    assert not path.exists()


# The lock.


async def test_rule_07_the_lock_is_waited_for(path: Path, held: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        group = Group()
        listener = group.add(UnixListener(echo, path))
        nursery.start_soon(group.run)
        await wait_all_tasks_blocked()
        assert not group.ready
        held()
        await listener.wait_ready()
        group.stop()


@pytest.mark.usefixtures("held")
async def test_rule_07_a_lock_that_is_never_free_is_an_error(
    path: Path, autojump_clock: MockClock
) -> None:
    with pytest.raises(CannotStart, match="another process has locked its directory"):
        await UnixListener(echo, path).execute()
    assert trio.current_time() == pytest.approx(5)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_rule_07_one_that_is_cancelled_while_it_waits_leaves_nothing(
    path: Path, held: Callable[[], None]
) -> None:
    with trio.move_on_after(0.05):
        await UnixListener(echo, path).execute()
    held()
    async with serving(echo, kind=UnixListener, path=path) as server:
        await server.stop()


async def test_rule_07_a_stop_does_not_wait_for_the_lock_and_leaves_the_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"
    async with serving(echo, kind=UnixListener, path=path) as server:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            await server.stop()
        finally:
            os.close(descriptor)
    assert len(lines_of(caplog, f"cannot remove {path}: another process has locked")) == 1
    assert path.is_socket()


@pytest.mark.parametrize("lack", ["of locks", "of rights"])
async def test_rule_07_where_the_directory_cannot_be_locked_it_goes_on_without(
    path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    def fail(*args: object) -> None:
        number = errno.EOPNOTSUPP if lack == "of locks" else errno.EACCES
        raise OSError(number, os.strerror(number))

    if lack == "of locks":
        monkeypatch.setattr(fcntl, "flock", fail)
    else:
        monkeypatch.setattr(os, "open", fail)
    async with serving(echo, kind=UnixListener, path=path) as server:
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
        await server.stop()
    assert not path.exists()


# Taking over.


async def test_rule_07_a_live_socket_is_left_alone(path: Path) -> None:
    async with serving(echo, kind=UnixListener, path=path) as server:
        with pytest.raises(CannotStart, match="it is in use"):
            await UnixListener(echo, path).execute()
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"


async def test_rule_07_take_over_replaces_it_and_no_client_fails(path: Path) -> None:
    over = threading.Event()
    answers: list[bytes] = []

    def connect_for_ever() -> None:
        while not over.is_set():
            with connected_to(str(path)) as client:
                client.settimeout(10)
                client.sendall(b"x")
                answers.append(client.recv(1))

    async with serving(echo, kind=UnixListener, path=path) as old:
        threads = [threading.Thread(target=connect_for_ever) for _ in range(4)]
        for thread in threads:
            thread.start()
        async with await old.connect() as early:
            assert await ask(early, b"early") == b"early"
            async with serving(echo, kind=UnixListener, path=path, take_over=True) as new:
                await trio.sleep(0.05)
                assert await ask(early, b"still") == b"still"
                await old.stop()
                assert await read_to_end(early) == b""
                assert path.is_socket()  # it is no longer its own to remove
                await trio.sleep(0.05)
                over.set()
                for thread in threads:
                    await trio.to_thread.run_sync(thread.join)
                async with await new.connect() as late:
                    assert await ask(late, b"late") == b"late"
                await new.stop()
    assert set(answers) == {b"x"}
    assert not path.exists()
    assert old.detail.endswith("0 cut")
    assert new.detail.endswith("0 cut")


async def test_rule_07_take_over_takes_a_stale_socket_and_an_empty_place_too(path: Path) -> None:
    for _ in range(2):
        async with serving(echo, kind=UnixListener, path=path, take_over=True) as server:
            async with await server.connect() as client:
                assert await ask(client, b"hello") == b"hello"
            await server.stop()
        assert not path.exists()


async def test_rule_07_take_over_leaves_alone_what_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(CannotStart, match="not a socket"):
        await UnixListener(echo, path, take_over=True).execute()
    assert path.read_text(encoding="utf-8") == "precious"


async def test_rule_07_a_path_taken_over_between_the_look_and_the_removal_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes it then: the lock is asked for in between, and what is there looked at again."""
    flock = fcntl.flock
    async with serving(echo, kind=UnixListener, path=path) as server:

        def flock_late(descriptor: int, how: int) -> None:
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path.with_name("other")))
            path.with_name("other").rename(path)
            flock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", flock_late)
        await server.stop()
    assert path.is_socket()


@pytest.mark.parametrize(
    "options", [{"path": "\0abstract"}, {"sockets": [socket.socket(socket.AF_UNIX)]}]
)
def test_rule_01_take_over_goes_with_a_path(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="take_over"):
        UnixListener(echo, take_over=True, **options)
