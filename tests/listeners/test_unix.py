"""UnixListener: the socket at its path, and what its clients see. Section 4, rules 1 to 7."""

# ruff: noqa: ASYNC240 - to look at a local file takes no time

import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
import ssl
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import CannotStart, TCPListener, UnixListener, busy
from trio_run._inside import Inside
from trio_run._listeners import _connection
from trio_run._listeners._connection import Connection
from trio_run._listeners._tls import TLSConnection
from trio_run.testing import Program, open_program, read_exactly, read_to_end

from .. import TIMEOUT
from ..programs import script
from .serving import (
    HOST,
    Conversation,
    Handler,
    Server,
    ask,
    begin,
    clog_stream,
    connected_to,
    echo,
    finish,
    lines_of,
    open_descriptors,
    read_and_close,
    send_for_ever,
    serving,
    stuck,
)
from .test_tcp import cannot_start

LONGEST = 107  # bytes in a path, on Linux


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: pytest's own leaves less room for what is in it."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def serving_at(
    path: object, handler: Handler = echo, **options: Any
) -> AbstractAsyncContextManager[Server]:
    return serving(handler, kind=UnixListener, path=path, **options)


def bound_at(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, kind)
    bound.bind(path)
    return bound


def names_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def number_of(path: Path) -> int:
    return path.lstat().st_ino


def of_length(directory: Path, length: int, name: str) -> Path:
    """A path of so many bytes, that ends with the name; all but its file is made."""
    fill = length - len(bytes(directory)) - len(name.encode()) - 2
    path = directory / ("d" * fill) / name
    path.parent.mkdir()
    assert len(bytes(path)) == length
    return path


# It serves the path, says whom, and answers each line with its number: in two pieces, and busy.
PROGRAM = """
    import sys, trio
    from trio_run import UnixListener, busy, run

    async def handler(stream):
        number = 0
        async for chunk in stream:
            for request in chunk:
                with busy():
                    number += 1
                    await stream.send_all(b"%d " % number)
                    if request == ord("w"):
                        await stream.receive_some(1)
                    await trio.lowlevel.checkpoint()
                    await stream.send_all(b"ok\\n")

    class Listener(UnixListener):
        async def execute(self, *, task_status):
            class Told:
                def started(_, addresses):
                    task_status.started(addresses)
                    print("listens at", addresses[0], flush=True)
            await super().execute(task_status=Told())

    sys.exit(run(Listener(handler, sys.argv[1])))
"""


@asynccontextmanager
async def program_at(path: Path) -> AsyncIterator[Program]:
    """A process that listens there."""
    async with open_program(script(PROGRAM, str(path))) as program:
        await program.line_with(f"listens at {path}")
        yield program


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a socket can be, in a directory of its own."""
    directory = tmp_path / "run"
    directory.mkdir()
    return directory / "the.sock"


@pytest.fixture
def stream_socket(path: Path) -> Iterator[socket.socket]:
    with bound_at(str(path)) as bound:
        yield bound


# Rule 1: where it listens.


async def test_rule_01_it_is_ready_when_it_listens_and_addresses_tells_where(path: Path) -> None:
    listener = UnixListener(echo, path)
    assert listener.addresses == ()
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            assert await nursery.start(listener.execute) == (str(path),)
            assert listener.addresses == (str(path),)
            connected_to(str(path)).close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [str, bytes, Path])
async def test_rule_01_a_path_is_a_str_or_bytes_or_a_path(path: Path, kind: Any) -> None:
    async with serving_at(kind(path)) as server, await trio.open_unix_socket(path) as client:
        assert server.listener.addresses == (str(path),)
        assert server.listener.name == f"unix:{path}"
        assert await ask(client, b"hello") == b"hello"
    assert names_in(path.parent) == []


async def test_rule_01_a_path_that_is_not_text(path: Path) -> None:
    odd = bytes(path.parent) + b"/\xff\xfe"
    async with serving_at(odd) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        assert names_in(path.parent) == [os.fsdecode(b"\xff\xfe")]
    assert names_in(path.parent) == []


@pytest.mark.parametrize("goes_away", [False, True])
async def test_rule_01_a_relative_path(
    path: Path, monkeypatch: pytest.MonkeyPatch, goes_away: bool
) -> None:
    """It means what it meant when it began to listen."""
    monkeypatch.chdir(path.parent)
    async with serving_at("the.sock") as server, await server.connect() as client:
        assert server.listener.addresses == ("the.sock",)
        assert await ask(client, b"hello") == b"hello"
        assert path.is_socket()
        if goes_away:
            monkeypatch.chdir("/")
    assert names_in(path.parent) == []


@pytest.mark.parametrize("name", ["s", "7", "so", "soc", "sock", "a.sock", "a" * 40, "ü"])
async def test_rule_01_a_path_as_long_as_can_be(tmp_path: Path, name: str) -> None:
    path = of_length(tmp_path, LONGEST, name)
    for _ in range(20):  # the name beside it is a random one
        async with serving_at(path) as server, await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
            assert names_in(path.parent) == [name]
        assert names_in(path.parent) == []


async def test_rule_01_a_path_with_no_room_for_a_name_beside_it(tmp_path: Path) -> None:
    path = of_length(tmp_path, LONGEST, "s")
    for name in "0123456789abcdef":
        path.with_name(name).touch()
    error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    assert str(path) in str(error)
    assert "shorter" in str(error)
    assert names_in(path.parent) == list("0123456789abcdef")


@pytest.mark.parametrize("taken", ["7", "8"])  # its own name, and another file's
async def test_rule_07_a_short_name_beside_it_is_one_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    path = of_length(tmp_path, LONGEST, "7")
    path.with_name("8").touch()
    random = iter([f"0000000{taken}", "00000009"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(random))
    seen: list[list[str]] = []
    listen = socket.socket.listen

    def watched(self: socket.socket, backlog: int) -> None:
        seen.append(names_in(path.parent))
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    async with serving_at(path):
        assert seen == [["8", "9"]]
        assert names_in(path.parent) == ["7", "8"]


@pytest.mark.parametrize("length", [LONGEST + 1, 1000])
def test_rule_01_a_path_that_is_too_long(length: int) -> None:
    path = "/" + "a" * (length - 1)
    with pytest.raises(ValueError, match=rf"{LONGEST} bytes.*{length}.*{path}"):
        UnixListener(echo, path)


def test_rule_01_bytes_count_and_not_letters() -> None:
    assert UnixListener(echo, "ü" * 53).name == "unix:" + "ü" * 53
    with pytest.raises(ValueError, match=f"{LONGEST} bytes.*108"):
        UnixListener(echo, "ü" * 54)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, "path"),
        ({"path": ""}, "path"),
        ({"path": "a.sock", "sockets": []}, "path"),
        ({"path": "a\0b"}, "zero byte"),
        ({"path": 5}, "int"),
        ({"path": "a.sock", "mode": "600"}, "mode.*600"),
        ({"path": "a.sock", "mode": 600}, "mode.*600"),  # 0o600 was meant
        ({"path": "a.sock", "mode": -1}, "mode.*-1"),
        ({"path": "a.sock", "backlog": 0}, "backlog"),
        ({"path": "a.sock", "drain": "soon"}, "drain"),
        ({"sockets": []}, "sockets"),
        ({"sockets": ["a.sock"]}, "sockets"),
    ],
)
def test_rule_01_a_bad_argument_is_told_at_once(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises((TypeError, ValueError), match=names):
        UnixListener(echo, **arguments)


async def test_rule_01_a_directory_that_is_not_there(path: Path) -> None:
    path = path.parent / "missing" / "the.sock"
    error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    assert f"{path}: No such file or directory" in str(error)
    assert error.errno == errno.ENOENT  # type: ignore[attr-defined]


async def test_rule_01_a_directory_that_is_none(path: Path) -> None:
    path.touch()
    error = await cannot_start(UnixListener(echo, path / "the.sock"))  # type: ignore[arg-type]
    assert f"{path}/the.sock: Not a directory" in str(error)


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Not as root, who may do everything."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


async def test_rule_01_a_directory_that_cannot_be_written(path: Path) -> None:
    path.parent.chmod(0o555)
    with without_rights():
        error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    path.parent.chmod(0o755)
    assert f"{path}: permission denied" in str(error)
    assert names_in(path.parent) == []


# Rule 1: abstract addresses, and sockets that are handed over.


async def test_rule_07_an_abstract_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"\0trio-run {os.getpid()}"
    before = names_in(Path.cwd())
    async with serving_at(address) as server:
        assert server.listener.addresses == (address,)
        assert server.listener.name == f"unix:@{address[1:]}"
        assert names_in(Path.cwd()) == before
        async with await server.connect() as client:
            assert await ask(client, b"hello") == b"hello"
            error = await cannot_start(UnixListener(echo, address))  # type: ignore[arg-type]
            assert f"@{address[1:]}: it is in use" in str(error)
            server.group.stop()
            assert await read_to_end(client) == b""
    async with serving_at(address.encode()) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"  # and it is free again


async def test_rule_07_the_path_of_a_given_socket_is_left_alone(
    path: Path, stream_socket: socket.socket
) -> None:
    path.chmod(0o640)
    number = number_of(path)
    abstract = bound_at(f"\0trio-run given {os.getpid()}")
    wanted = (str(path), abstract.getsockname())
    async with serving(echo, kind=UnixListener, sockets=[stream_socket, abstract]) as server:
        assert server.listener.addresses == wanted
        assert server.listener.name == "unix"
        for address in wanted:
            async with await trio.open_unix_socket(address) as client:
                assert await ask(client, b"hello") == b"hello"
    assert number_of(path) == number
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stream_socket.fileno() == abstract.fileno() == -1


async def listening_on(given: socket.socket) -> CannotStart:
    """It must fail, and close what it was given."""
    with given, pytest.raises(CannotStart) as caught:
        await UnixListener(echo, sockets=[given]).execute()
    assert isinstance(caught.value, OSError)
    assert given.fileno() == -1
    return caught.value


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_rule_01_a_given_socket_of_another_type(path: Path, kind: int) -> None:
    error = await listening_on(bound_at(str(path), kind))
    assert f"{path}: it is not a Unix stream socket" in str(error)
    assert path.is_socket()


async def test_rule_01_a_given_socket_of_another_family() -> None:
    given = socket.create_server((HOST, 0))
    port = given.getsockname()[1]
    assert f"{HOST}:{port}: it is not a Unix" in str(await listening_on(given))


async def test_rule_01_a_given_socket_that_is_not_bound() -> None:
    assert "cannot listen on a socket: it is not bound" in str(
        await listening_on(socket.socket(socket.AF_UNIX))
    )


async def test_rule_01_a_given_socket_that_cannot_listen(path: Path) -> None:
    given = bound_at(str(path))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{path}.other")
        other.listen()
        given.connect(other.getsockname())
        assert f"{path}: Invalid argument" in str(await listening_on(given))


# Rule 7: what is at the path already.


async def test_rule_07_a_stale_socket_is_replaced(path: Path) -> None:
    async with program_at(path) as program:
        program.signal(signal.SIGKILL)
        assert await program.exit_code() == -signal.SIGKILL
    stale = number_of(path)
    async with serving_at(path) as server, await server.connect() as client:
        assert number_of(path) != stale
        assert await ask(client, b"hello") == b"hello"
        assert names_in(path.parent) == [path.name]
    assert names_in(path.parent) == []


def a_file(path: Path) -> None:
    path.write_text("precious")


def a_link_to_a_stale_socket(path: Path) -> None:
    bound_at(f"{path}.other").close()
    path.symlink_to(f"{path}.other")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(f"{path}.other")


def a_socket_with_many_clients(path: Path) -> Iterator[socket.socket]:
    with bound_at(str(path)) as bound, contextlib.ExitStack() as stack:
        bound.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        yield bound


def a_live_socket(path: Path) -> Iterator[socket.socket]:
    with bound_at(str(path)) as bound:
        bound.listen()
        yield bound


def a_live_packet_socket(path: Path) -> Iterator[socket.socket]:
    with bound_at(str(path), socket.SOCK_SEQPACKET) as bound:
        bound.listen()
        yield bound


def a_datagram_socket(path: Path) -> Iterator[socket.socket]:
    with bound_at(str(path), socket.SOCK_DGRAM) as bound:
        yield bound


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_file, "something else"),
        (Path.mkdir, "something else"),
        (os.mkfifo, "something else"),
        (a_link_to_nothing, "something else"),
        (a_link_to_a_stale_socket, "something else"),
        (a_live_socket, "in use"),
        (a_socket_with_many_clients, "in use"),
        (a_live_packet_socket, "rong type"),
        (a_datagram_socket, "rong type"),
    ],
)
async def test_rule_07_anything_else_is_an_error_and_left_alone(
    path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    made = make(path)
    if isinstance(made, Iterator):
        next(made)
    before = path.lstat()
    names = names_in(path.parent)
    error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    assert str(error).startswith(f"cannot listen on {path}: ")
    assert reason in str(error)
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names_in(path.parent) == names
    if isinstance(made, Iterator):
        assert next(made, None) is None


async def test_rule_07_a_listener_on_the_path_goes_on_when_a_second_one_tries(path: Path) -> None:
    async with serving_at(path) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        with pytest.raises(CannotStart):
            await UnixListener(echo, path).execute()
        assert await ask(client, b"hello") == b"hello"
        async with await server.connect() as other:
            assert await ask(other, b"hello") == b"hello"
    assert names_in(path.parent) == []


async def test_rule_07_a_stale_socket_that_goes_while_we_look(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_at(str(path)).close()
    connect = socket.socket.connect

    def connect_late(self: socket.socket, address: Any) -> None:
        monkeypatch.undo()
        path.unlink()
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_late)
    async with serving_at(path) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"


# Rule 7: how it appears.


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
@pytest.mark.parametrize("mode", [None, 0o660, 0o777, 0o600])
@pytest.mark.parametrize("stale", [False, True])
async def test_rule_07_it_listens_and_has_its_mode_from_the_first_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, mode: int | None, stale: bool
) -> None:
    """Looked at just before and just after each thing that is done to a file."""
    seen: list[bool] = []
    before = None
    if stale:
        bound_at(str(path)).close()
        before = number_of(path)

    def look() -> None:
        found = number_of(path) if os.path.lexists(path) else None
        seen.append(found != before)
        if found != before:
            assert stat.S_IMODE(path.lstat().st_mode) == (0o600 if mode is None else mode)
            connected_to(str(path)).close()

    def watch(where: Any, name: str) -> None:
        real = getattr(where, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            look()
            try:
                return real(*args, **kwargs)
            finally:
                look()

        monkeypatch.setattr(where, name, watched)

    for name in ("chmod", "rename", "replace", "link", "unlink", "umask"):
        watch(os, name)
    for name in ("bind", "listen"):
        watch(socket.socket, name)
    options = {} if mode is None else {"mode": mode}
    old = os.umask(umask)
    try:
        async with serving_at(path, **options):
            monkeypatch.undo()
            assert seen[0] is False
            assert seen[-1] is True
            assert len(seen) >= 8
            look()
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("step", "stale"),
    [(step, stale) for step in ("bind", "chmod", "listen") for stale in (False, True)]
    + [("link", False), ("rename", True)],
)
async def test_rule_07_nothing_is_left_beside_it_when_a_step_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, stale: bool
) -> None:
    if stale:
        bound_at(str(path)).close()
    names = names_in(path.parent)
    numbers = [number_of(path) for _ in names]

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(os if hasattr(os, step) else socket.socket, step, fail)
        error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    assert str(error) == f"cannot listen on {path}: the disk is on fire"
    assert names_in(path.parent) == names
    assert [number_of(path) for _ in names] == numbers
    async with (
        serving_at(path) as server,
        await server.connect() as client,
    ):  # and it can begin anew
        assert await ask(client, b"hello") == b"hello"


# Rule 7: how it goes.


async def test_rule_07_the_path_is_removed_before_the_drain_has_ended(path: Path) -> None:
    handler = Conversation()
    async with serving_at(path, handler) as server, await server.connect() as client:
        await begin(client)
        assert names_in(path.parent) == [path.name]
        server.group.stop()
        await wait_all_tasks_blocked()
        assert names_in(path.parent) == []
        assert server.listener.status == "1 connection, 1 busy"
        handler.go.set()
        await finish(client)
        assert await read_to_end(client) == b""


async def test_rule_07_the_path_is_removed_when_it_is_cancelled(path: Path) -> None:
    listener = UnixListener(stuck, path)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.execute)
            async with await trio.open_unix_socket(path) as client:
                await read_exactly(client, 6)
                nursery.cancel_scope.cancel()
                assert await read_to_end(client) == b""
    assert names_in(path.parent) == []


async def test_rule_07_the_path_is_removed_when_it_was_cancelled_before_it_began(
    path: Path,
) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await UnixListener(echo, path).execute()
    assert scope.cancelled_caught
    assert names_in(path.parent) == []


@pytest.mark.parametrize("grace", [0, 1])
async def test_rule_07_the_path_is_removed_when_its_clients_are_cut(
    path: Path, clock: MockClock, grace: float
) -> None:
    async with serving_at(path, stuck, grace=grace) as server, await server.connect() as client:
        await read_exactly(client, 6)
        await server.stop()
        assert server.detail == "0 drained, 1 cut"
        assert names_in(path.parent) == []
        assert await read_to_end(client) == b""


async def test_rule_07_the_path_is_removed_when_the_listener_fails(path: Path) -> None:
    async def handler(stream: Connection) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with serving_at(path, handler) as server, await server.connect() as client:
            await read_to_end(client)
    assert names_in(path.parent) == []


def replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("precious")


def replace_by_socket(path: Path) -> None:
    path.unlink()
    bound_at(str(path)).close()


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path) -> None:
    path.rename(f"{path}.other")
    path.symlink_to(f"{path}.other")


@pytest.mark.parametrize(
    "replace", [replace_by_file, replace_by_socket, replace_by_directory, replace_by_link]
)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_rule_07_what_has_replaced_it_is_left_alone(
    path: Path, replace: Callable[[Path], None], cancelled: bool
) -> None:
    async with serving_at(path) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        replace(path)
        before, names = path.lstat(), names_in(path.parent)
        if cancelled:
            server.group.stop(grace=0)
        else:
            await server.stop()
        assert await read_to_end(client) == b""
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names_in(path.parent) == names


async def test_rule_07_a_path_that_is_gone_already_is_no_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_at(path) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        path.unlink()
        server.group.stop()
        assert await read_to_end(client) == b""
        await server.stop()
    assert server.detail == "1 drained, 0 cut"
    assert server.report.exit_code == 0
    assert not lines_of(caplog, "cannot remove")


async def test_rule_07_a_path_that_cannot_be_removed_is_a_line_and_no_client_is_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Conversation()
    async with serving_at(path, handler) as server, await server.connect() as client:
        await begin(client)
        path.parent.chmod(0o555)  # as for a process that has given up its rights
        with without_rights():
            server.group.stop()
            await wait_all_tasks_blocked()
        path.parent.chmod(0o755)
        handler.go.set()
        await finish(client)
        assert await read_to_end(client) == b""
        await server.stop()
    assert server.detail == "1 drained, 0 cut"
    [record] = lines_of(caplog, f"cannot remove {path}")
    assert record.levelno == logging.WARNING
    assert path.is_socket()


# Rule 7: one process after the other.


async def test_rule_07_another_takes_the_path_over_while_the_first_drains(path: Path) -> None:
    handler = Conversation()
    async with serving_at(path, handler) as first, await first.connect() as client:
        await begin(client)
        first.group.stop()
        await wait_all_tasks_blocked()
        async with serving_at(path) as second:
            async with await second.connect() as other:
                assert await ask(other, b"hello") == b"hello"
                handler.go.set()
                await finish(client)
                assert await read_to_end(client) == b""
                await first.stop()
                assert await ask(other, b"hello") == b"hello"
            async with await second.connect() as other:
                assert await ask(other, b"hello") == b"hello"
    assert names_in(path.parent) == []


async def load(path: Path, replies: list[bytes]) -> None:
    """A client that asks as fast as it can until the end of the stream, and sees nothing else."""
    async with await trio.open_unix_socket(path) as client:
        received = b""
        with contextlib.suppress(trio.BrokenResourceError):  # to have asked too late is no failure
            while True:
                await client.send_all(b"a")
                while not (received.endswith(b"\n")):
                    chunk = await client.receive_some()
                    if not chunk:
                        replies.append(received)
                        return
                    received += chunk
                replies.append(received)
                received = b""
        assert await read_to_end(client) == b""


async def test_rule_07_processes_take_the_path_over_and_no_client_of_any_fails(path: Path) -> None:
    """Client after client waits in the middle of its reply while the next process takes over."""
    clients = 8
    async with contextlib.AsyncExitStack() as stack:
        waiting: list[tuple[Program, trio.SocketStream]] = []
        for _ in range(3):
            program = await stack.enter_async_context(program_at(path))
            client = await stack.enter_async_context(await trio.open_unix_socket(path))
            await client.send_all(b"w")
            assert await read_exactly(client, 2) == b"1 "
            waiting.append((program, client))
            replies: list[list[bytes]] = [[] for _ in range(clients)]
            with trio.fail_after(TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for several in replies:
                        nursery.start_soon(load, path, several)
                    async with await trio.open_unix_socket(path) as fast:
                        for number in range(1, 101):
                            await fast.send_all(b"a")
                            assert await read_exactly(fast, len(b"%d ok\n" % number))
                    program.signal(signal.SIGTERM)
            assert names_in(path.parent) == []
            for several in replies:
                if several[-1] == b"":  # it had asked, and was told to go
                    several.pop()
                assert several == [b"%d ok\n" % (number + 1) for number in range(len(several))]
        last = await stack.enter_async_context(program_at(path))
        for program, client in waiting:
            await client.send_all(b"x")
            assert await read_to_end(client) == b"ok\n"
            await client.aclose()
            assert await program.exit_code() == 0
            assert "0 cut" in program.output
        async with await trio.open_unix_socket(path) as client:
            await client.send_all(b"a")
            assert await read_exactly(client, 5) == b"1 ok\n"
        last.signal(signal.SIGTERM)
        assert await last.exit_code() == 0
    assert names_in(path.parent) == []


# Who the client is.


def me() -> tuple[int, int, int]:
    return os.getpid(), os.geteuid(), os.getegid()


async def test_the_credentials_of_a_client_are_those_of_its_process(path: Path) -> None:
    seen: list[Any] = []

    async def handler(stream: Connection) -> None:
        seen.append(stream.credentials)
        await stream.send_all(repr(stream).encode())

    source = """
        import os, socket, sys
        client = socket.socket(socket.AF_UNIX)
        client.connect(sys.argv[1])
        print(os.getuid(), os.getgid(), client.recv(1000).decode(), flush=True)
        client.close()
    """
    async with serving_at(path, handler) as server:
        async with open_program(script(source, str(path))) as program:
            uid, gid, name = (await program.line_with("Connection")).split(maxsplit=2)
            assert await program.exit_code() == 0
            [credentials] = seen
            assert tuple(credentials) == (program.pid, int(uid), int(gid))
            assert (credentials.pid, credentials.uid, credentials.gid) == tuple(credentials)
            assert name == f"<Connection from process {program.pid} of user {uid}>"
        async with await server.connect() as client:
            assert str(os.getpid()) in (await read_to_end(client)).decode()
        assert tuple(seen[1]) == me()


async def test_the_credentials_over_tls(path: Path) -> None:
    seen: list[Any] = []

    async def handler(stream: TLSConnection) -> None:
        seen.append(stream.transport_stream.credentials)
        await stream.send_all(b"bye")

    server_context, client_context = contexts()
    async with serving_at(path, handler, ssl_context=server_context) as server:
        async with trio.SSLStream(
            await server.connect(), client_context, server_hostname="localhost"
        ) as client:
            assert await read_to_end(client) == b"bye"
    assert [tuple(credentials) for credentials in seen] == [me()]


@pytest.mark.parametrize("connects_by", ["tcp", "a platform that does not tell"])
async def test_there_are_no_credentials_where_nobody_tells(
    path: Path, monkeypatch: pytest.MonkeyPatch, connects_by: str
) -> None:
    async def handler(stream: Connection) -> None:
        assert stream.credentials is None
        await stream.send_all(repr(stream).encode())

    options: dict[str, Any] = {"kind": TCPListener}
    name = HOST
    if connects_by != "tcp":
        monkeypatch.delattr(socket, "SO_PEERCRED")
        options = {"kind": UnixListener, "path": path}
        name = "a client without a name"
    async with serving(handler, **options) as server, await server.connect() as client:
        assert (await read_to_end(client)).decode().startswith(f"<Connection from {name}")


def test_the_credentials_of_a_user_with_a_high_number() -> None:
    """Users are numbered up to 2**32 - 2, and where a directory service numbers them, high."""

    class Told(socket.socket):
        def getsockopt(self, *_: Any) -> Any:
            return struct.pack("iII", 7, 3_000_000_000, 4_000_000_000)

    with Told(socket.AF_UNIX) as told:
        connection = Connection(told, "", Inside())
        assert tuple(connection.credentials or ()) == (7, 3_000_000_000, 4_000_000_000)


async def test_rule_02_a_handler_that_fails_is_logged_with_the_clients_process(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: Connection) -> None:
        await stream.receive_some()
        raise ValueError("no good")

    async with serving_at(path, handler) as server, await server.connect() as client:
        await client.send_all(b"fail")
        assert await read_to_end(client) == b""
        [record] = lines_of(caplog, "the handler failed")
        assert record.levelno == logging.ERROR
        assert f"process {os.getpid()} of user {os.geteuid()}" in record.getMessage()
        async with await server.connect():
            pass  # and it goes on
        assert server.listener.status.endswith("1 failed")


async def test_rule_02_so_is_one_that_has_closed_its_stream(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: Connection) -> None:
        async with stream:
            await stream.receive_some()
            raise ValueError("no good")

    async with serving_at(path, handler) as server, await server.connect() as client:
        await client.send_all(b"fail")
        assert await read_to_end(client) == b""
        await server.stop()
        [record] = lines_of(caplog, "the handler failed")
        assert f"process {os.getpid()} of user" in record.getMessage()


async def test_rule_02_a_connection_that_breaks_is_a_line_with_the_clients_process(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = trio.Event()

    async def handler(stream: Connection) -> None:
        await stream.receive_some()
        await gone.wait()
        await stream.send_all(b"hello")

    async with serving_at(path, handler) as server:
        async with await server.connect() as client:
            await client.send_all(b"hello")
            await wait_all_tasks_blocked()
        gone.set()
        await wait_all_tasks_blocked()
        [record] = lines_of(caplog, "broke")
        assert record.levelno == logging.INFO
        assert not record.exc_info
        assert f"process {os.getpid()} of user" in record.getMessage()
        assert server.listener.status == "0 connections, 0 busy, 1 failed"


async def test_the_name_of_a_connection_that_is_closed(path: Path) -> None:
    names: list[str] = []

    async def handler(stream: Connection) -> None:
        await stream.aclose()
        names.append(repr(stream))

    async with serving_at(path, handler) as server, await server.connect() as client:
        assert await read_to_end(client) == b""
        await server.stop()
    assert names == [f"<Connection from process {os.getpid()} of user {os.geteuid()}>"]


# Rules 3 to 6, as the clients of a Unix socket see them.


async def test_rule_03_a_whoever_waits_in_the_accept_queue_is_served(path: Path) -> None:
    async with serving_at(path) as server:
        requests = [b"request %d" % number for number in range(300)]
        clients = [server.connect_now(request) for request in requests]
        server.group.stop()  # and up to here the listener has not run at all
        for client, request in zip(clients, requests, strict=True):
            assert await read_and_close(client) == request
        await server.stop()
        assert server.detail == "300 drained, 0 cut"


async def test_rule_03_a_those_above_max_connections_are_served_too(path: Path) -> None:
    async with serving_at(path, max_connections=2) as server:
        clients = [server.connect_now(b"hello") for _ in range(9)]
        await wait_all_tasks_blocked()
        server.group.stop()
        for client in clients:
            assert await read_and_close(client) == b"hello"
        await server.stop()
        assert server.detail == "9 drained, 0 cut"


async def test_rule_03_b_no_new_client_comes_while_the_old_ones_are_served(path: Path) -> None:
    handler = Conversation()
    async with serving_at(path, handler) as server, await server.connect() as client:
        await begin(client)
        same = path.with_name("same")
        same.hardlink_to(path)  # it cannot be reached there either
        server.group.stop()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            connected_to(str(same))
        with pytest.raises(FileNotFoundError):
            connected_to(str(path))
        handler.go.set()
        await finish(client)
        assert await read_to_end(client) == b""


@pytest.mark.parametrize("drain", ["eof", "cancel"])
@pytest.mark.parametrize("is_busy", [False, True])
async def test_rule_04_idle_connections_are_told_at_once_and_busy_ones_when_they_have_finished(
    path: Path, drain: str, is_busy: bool
) -> None:
    handler = Conversation()
    async with serving_at(path, handler, drain=drain) as server, await server.connect() as client:
        await begin(client)
        if is_busy:
            server.group.stop()
            await wait_all_tasks_blocked()
            assert server.listener.status == "1 connection, 1 busy"
        handler.go.set()
        await finish(client)
        await wait_all_tasks_blocked()
        server.group.stop()
        assert await read_and_close(client) == b""
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert handler.seen == [b"ask", b"body", b"" if drain == "eof" else "cancelled"]


async def test_rule_04_wait_leaves_handlers_alone(path: Path) -> None:
    async with serving_at(path, drain="wait") as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        await wait_all_tasks_blocked()
        assert await ask(client, b"and again") == b"and again"
        await client.send_eof()
        assert await read_to_end(client) == b""


async def test_rule_04_eof_what_has_arrived_is_read_first_and_what_comes_later_is_not(
    path: Path,
) -> None:
    go, told = trio.Event(), trio.Event()
    seen: list[bytes] = []

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.send_all(b"begun ")
            await told.wait()
        await go.wait()
        while chunk := await stream.receive_some(5):
            seen.append(chunk)
        await stream.send_all(b"bye")

    async with serving_at(path, handler) as server, await server.connect() as client:
        await read_exactly(client, 6)
        for word in (b"already", b" ", b"there"):
            await client.send_all(word)
        server.group.stop()
        await wait_all_tasks_blocked()
        told.set()
        await wait_all_tasks_blocked()
        await client.send_all(b" and too late")
        go.set()
        assert await read_to_end(client) == b"bye"
    assert b"".join(seen) == b"already there"


@pytest.mark.parametrize("drain", ["eof", "wait", "cancel"])
async def test_rule_05_unread_input_does_not_turn_the_end_into_a_reset(
    path: Path, drain: str
) -> None:
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

    async with serving_at(path, handler, drain=drain) as server, await server.connect() as client:
        await client.send_all(b"ask")
        await read_exactly(client, 6)
        await client.send_all(b"what nobody reads")
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        assert await read_to_end(client) == reply


@pytest.mark.parametrize("drain", ["eof", "cancel"])
@pytest.mark.parametrize("after", [1, 10, 100])
async def test_rule_05_a_pipelining_client_gets_every_reply_begun_then_the_end(
    path: Path, drain: str, after: int
) -> None:
    begun: list[int] = []

    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            for _ in range(chunk.count(b"\n")):
                with busy():
                    begun.append(len(begun) + 1)
                    await stream.send_all(b"%d " % len(begun))
                    await trio.lowlevel.checkpoint()
                    await stream.send_all(b"ok\n")

    async with serving_at(path, handler, drain=drain) as server, await server.connect() as client:
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


async def test_rule_05_a_slow_reader_gets_all_and_nobody_waits_for_it(
    path: Path, clock: MockClock
) -> None:
    """What was sent is with it, even if nobody has read it: so the close need not linger."""
    sent: list[int] = []

    async def handler(stream: Connection) -> None:
        with busy():
            await stream.receive_some()
            sent.append(clog_stream(stream))

    async with serving_at(path, handler) as server, await server.connect() as client:
        await client.send_all(b"ask")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() == began
        assert sent[0] > 65536
        assert len(await read_to_end(client)) == sent[0]


async def test_rule_06_the_status_and_the_reports_detail(path: Path, clock: MockClock) -> None:
    async def handler(stream: Connection) -> None:
        async for chunk in stream:
            if chunk == b"stuck":
                await stuck(stream)
            if chunk == b"fail":
                raise ValueError("no good")
            await stream.send_all(chunk)

    async with serving_at(path, handler, grace=1) as server:
        assert server.listener.status == "0 connections, 0 busy"
        async with await server.connect() as first, await server.connect() as second:
            async with await server.connect() as third:
                assert await ask(first, b"hello") == b"hello"
                await second.send_all(b"stuck")
                await read_exactly(second, 6)
                await third.send_all(b"fail")
                assert await read_to_end(third) == b""
                assert server.listener.status == "2 connections, 1 busy, 1 failed"
                await server.stop()
        assert server.detail == "1 drained, 1 cut, 1 failed"
        [actor] = server.report.actors
        assert actor.name == f"unix:{path}"
        assert actor.outcome == "cut"


# TLS.


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server, and for a client that trusts it."""
    authority = trustme.CA()
    server, client = (
        ssl.create_default_context(purpose)
        for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH)
    )
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_rule_05_tls_a_failed_handshake_is_a_line_with_the_clients_process(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_at(path, ssl_context=contexts()[0]) as server:
        async with await server.connect() as client:
            await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(trio.BrokenResourceError):
                await read_to_end(client)
        [record] = lines_of(caplog, f"no TLS handshake with process {os.getpid()} of user")
        assert record.levelno == logging.INFO
        assert not record.exc_info


# Descriptors.


async def test_no_descriptor_is_left_open(
    path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", 0.01)

    async def handler(stream: Connection) -> None:
        chunk = await stream.receive_some()
        assert stream.credentials
        if chunk == b"fail":
            raise ValueError("no good")
        if chunk == b"stuck":
            await stuck(stream)
        await stream.send_all(chunk)

    before = open_descriptors()
    for stale in (False, True):
        if stale:
            bound_at(str(path)).close()
        async with serving_at(path, handler, grace=1, max_connections=8) as server:
            requests = (b"fail", b"stuck", b"fine", b"", b"", b"")
            clients = [server.connect_now(request) for request in requests]
            clients += [server.connect_now() for _ in range(10)]
            await server.stop()
            for client in clients:
                await trio.aclose_forcefully(client)
        assert open_descriptors() == before
        assert names_in(path.parent) == []


async def test_rule_07_what_came_between_the_look_and_the_rename_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chmod = Path.chmod

    def put_something_there(self: Path, mode: int) -> None:
        path.write_text("mine")
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", put_something_there)
    error = await cannot_start(UnixListener(echo, path))  # type: ignore[arg-type]
    assert str(path) in str(error)
    assert path.read_text() == "mine"
    assert names_in(path.parent) == [path.name]
