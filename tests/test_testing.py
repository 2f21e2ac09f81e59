"""trio_run.testing: what the tests of a program are given, and what becomes of them."""

import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_run import (
    Datagram,
    Group,
    GroupFailed,
    HTTPListener,
    SignalReceiver,
    State,
    TCPListener,
    UDPListener,
    UnixListener,
    busy,
    testing,
)
from trio_run.testing import (
    connect,
    ending,
    open_program,
    read_exactly,
    read_to_end,
    read_until,
    running,
    wait_stopped,
)

HOST = "127.0.0.1"


async def echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def work(log: list[str]) -> None:
    """Needs ten seconds to stop."""
    log.append("begun")
    try:
        with busy():
            await trio.sleep_forever()
    except trio.Cancelled:
        log.append(f"cancelled at {trio.current_time():g}")
        raise


async def fail_after(seconds: float, error: BaseException) -> None:
    await trio.sleep(seconds)
    raise error


class SlowToStart:
    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(3)
        task_status.started()
        await trio.sleep_forever()


class SlowToStop:
    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.stopping = trio.Event()

    async def execute(self) -> None:
        await self.stopping.wait()
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    def interrupt(self, _cause: object) -> None:
        self.stopping.set()


# running().


async def test_the_block_begins_when_every_actor_is_ready(autojump_clock: MockClock) -> None:
    async with running(SlowToStart(), trio.sleep_forever) as group:
        assert trio.current_time() == 3
        assert group.state is State.RUNNING
    assert [actor.ready for actor in group.report.actors] == [3, 0]


async def test_the_block_may_begin_at_once(autojump_clock: MockClock) -> None:
    async with running(SlowToStart(), wait_ready=False) as group:
        await wait_all_tasks_blocked()
        assert (trio.current_time(), group.state) == (0, State.STARTING)
        await trio.sleep(4)
        assert group.ready


async def test_a_block_that_ends_at_once_starts_nothing() -> None:
    log: list[str] = []
    async with running(lambda: work(log), wait_ready=False) as group:
        assert group.state is State.NEW
    assert log == []
    assert group.report.actors[0].outcome == "never started"


async def test_at_the_end_of_the_block_the_group_stops_gracefully(
    autojump_clock: MockClock,
) -> None:
    async with running(SlowToStop(20)) as group:
        await trio.sleep(5)
    assert trio.current_time() == 25
    assert group.report.actors[0].outcome == "returned"
    assert group.report.cause.reason == "the block around it has ended"


async def test_its_settings_are_the_group_s(autojump_clock: MockClock) -> None:
    async with running(SlowToStop(20), name="shop", grace=7, lame_duck=2, start_within=9) as group:
        assert (group.name, group.grace, group.lame_duck, group.start_within) == ("shop", 7, 2, 9)
    assert trio.current_time() == 7
    assert group.report.actors[0].outcome == "cut"


async def test_a_group_is_run_itself() -> None:
    given = Group(grace=5)
    given.add(trio.sleep_forever)
    async with running(given) as group:
        assert group is given
        assert group.ready


async def test_a_group_has_its_own_settings() -> None:
    with pytest.raises(TypeError, match=r"running\(group\) takes the name and the times from the"):
        async with running(Group(), grace=5):
            pass


async def test_a_group_in_a_group_is_an_actor() -> None:
    inner = Group(name="inner")
    inner.add(trio.sleep_forever)
    async with running(inner, trio.sleep_forever) as group:
        assert group is not inner
        assert inner.ready
    assert inner.report.name == "inner"


async def test_a_stop_that_has_begun_is_only_waited_for(autojump_clock: MockClock) -> None:
    async with running(SlowToStop(1), lame_duck=10) as group:
        group.stop("enough")
    assert trio.current_time() == 11  # the lame duck was not ended early
    assert group.report.cause.reason == "enough"


async def test_a_group_that_has_stopped_by_itself_leaves_the_block_alone(
    autojump_clock: MockClock,
) -> None:
    async def closing_time() -> None:
        await trio.sleep(5)

    async with running(closing_time) as group:
        await trio.sleep(10)
        assert group.state is State.STOPPED
        assert group.report.cause.actor == "closing_time"
    assert trio.current_time() == 10


async def test_a_group_without_actors_stops_at_once() -> None:
    async with running() as group:
        await wait_stopped(group)


async def test_a_failure_cancels_the_block_and_is_raised(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    with pytest.raises(GroupFailed) as caught:
        async with running(lambda: fail_after(5, error), SlowToStop(2)):
            await trio.sleep_forever()
    assert caught.value.exceptions == (error,)
    assert caught.value.__context__ is None
    assert trio.current_time() == 7  # when all had stopped


async def test_a_failure_at_the_start_is_raised(autojump_clock: MockClock) -> None:
    with pytest.raises(GroupFailed):
        async with running(SlowToStart(), lambda: fail_after(1, ValueError())):
            pytest.fail("it has begun")


async def test_a_failure_at_the_end_is_raised(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    with pytest.raises(GroupFailed) as caught:
        async with running(SlowToStop(2, error)) as group:
            pass
    assert caught.value.exceptions == (error,)
    assert group.report.exit_code == 1


async def test_an_exit_is_raised(autojump_clock: MockClock) -> None:
    with pytest.raises(SystemExit):
        async with running(lambda: fail_after(5, SystemExit(3))):
            await trio.sleep_forever()


async def test_the_block_s_exception_is_raised_as_it_is(autojump_clock: MockClock) -> None:
    log: list[str] = []
    error, reason = ValueError("wrong"), KeyError("because")
    with pytest.raises(ValueError, match="wrong") as caught:
        async with running(lambda: work(log), grace=100):
            await trio.sleep(5)
            raise error from reason
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (reason, None)
    assert log == ["begun", "cancelled at 5"]  # hard: nobody waits for the grace of a failed test


async def test_a_group_of_exceptions_that_the_block_raises_stays_one() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running(trio.sleep_forever):
            raise ExceptionGroup("wrong", [ValueError()])
    assert caught.value.message == "wrong"


async def test_the_block_s_exception_and_a_failure_are_both_raised(
    autojump_clock: MockClock,
) -> None:
    wrong, broken = ValueError("wrong"), KeyError("broken")

    async def breaks() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise broken

    with pytest.raises(ExceptionGroup) as caught:
        async with running(breaks):
            await wait_all_tasks_blocked()
            raise wrong
    errors = sorted(caught.value.exceptions, key=lambda error: isinstance(error, GroupFailed))
    assert errors[0] is wrong
    assert isinstance(errors[1], GroupFailed)
    assert errors[1].exceptions == (broken,)


@pytest.mark.parametrize("where", ["in the block", "while it leaves"])
async def test_cancelled_it_stops_hard_and_passes_it_on(
    where: str, autojump_clock: MockClock
) -> None:
    log: list[str] = []
    with trio.move_on_after(5) as outside:
        async with running(lambda: work(log), grace=100) as group:
            if where == "in the block":
                await trio.sleep_forever()
    assert outside.cancelled_caught
    assert trio.current_time() == 5
    assert log == ["begun", "cancelled at 5"]
    assert group.report.actors[0].outcome == "cut"


async def test_a_failure_while_it_is_cancelled_is_not_lost(autojump_clock: MockClock) -> None:
    async def breaks() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(5):
        async with running(breaks):
            await trio.sleep_forever()
    [failed] = caught.value.exceptions  # what trio leaves when it has taken the Cancelled out
    assert isinstance(failed, GroupFailed)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Group, TCPListener]]:
    listener = TCPListener(echo, 0, host=HOST)
    async with running(listener) as group:
        yield group, listener


async def test_it_works_in_a_fixture(served: tuple[Group, TCPListener]) -> None:
    group, listener = served
    assert group.ready
    async with await connect(listener) as client:
        await client.send_all(b"hello")
        assert await read_exactly(client, 5) == b"hello"


# wait_stopped(), and the report of a group.


async def test_a_group_that_stops_by_a_signal_can_be_waited_for() -> None:
    async with running(SignalReceiver(signal.SIGTERM), trio.sleep_forever) as group:
        signal.raise_signal(signal.SIGTERM)
        report = await wait_stopped(group)
        assert report.cause.signal is signal.SIGTERM
        assert await wait_stopped(group) == report == group.report


async def test_the_wait_for_a_group_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with running(trio.sleep_forever) as group:
        with trio.move_on_after(5) as scope:
            await wait_stopped(group)
        assert scope.cancelled_caught


async def test_there_is_no_report_before_it_has_stopped(autojump_clock: MockClock) -> None:
    async with running(SlowToStop(2), name="shop") as group:
        with pytest.raises(RuntimeError, match="'shop' is running: it has a report when it has"):
            _ = group.report
        group.stop()
        await trio.sleep(1)
        with pytest.raises(RuntimeError, match="'shop' is stopping"):
            _ = group.report


# connect().


@pytest.mark.parametrize("host", [HOST, "::1", "0.0.0.0", "::", None])
async def test_connect_finds_a_tcp_listener(host: str | None) -> None:
    listener = TCPListener(echo, 0, host=host)
    async with running(listener):
        async with await connect(listener) as client:
            await client.send_all(b"hello")
            assert await read_exactly(client, 5) == b"hello"
            assert client.socket.getpeername()[0] in (HOST, "::1")


@pytest.mark.parametrize(("host", "there"), [("0.0.0.0", HOST), ("::", "::1")])
async def test_connect_goes_to_this_machine_where_every_interface_is_listened_on(
    host: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    open_tcp_stream = trio.open_tcp_stream

    async def remember(host: str, port: int) -> trio.SocketStream:
        hosts.append(host)
        return await open_tcp_stream(host, port)

    monkeypatch.setattr(trio, "open_tcp_stream", remember)
    listener = TCPListener(echo, 0, host=host)
    async with running(listener), await connect(listener):
        assert hosts == [there]  # not every platform takes the other for an address


async def test_connect_finds_a_unix_listener(tmp_path: Path) -> None:
    listener = UnixListener(echo, tmp_path / "socket")
    async with running(listener):
        for where in (listener, tmp_path / "socket", str(tmp_path / "socket")):
            async with await connect(where) as client:
                await client.send_all(b"hello")
                assert await read_exactly(client, 5) == b"hello"


async def test_connect_takes_an_address() -> None:
    listener = TCPListener(echo, 0, host=HOST)
    async with running(listener):
        _, port = listener.addresses[0]
        async with await connect((HOST, port)) as client:
            await client.send_all(b"hello")
            assert await read_exactly(client, 5) == b"hello"


async def test_connect_finds_an_http_listener() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})

    listener = HTTPListener(app, 0, host=HOST)
    async with running(listener):
        async with await connect(listener) as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert await read_until(client, b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            assert (await read_to_end(client)).endswith(b"\r\n\r\nhello")


async def test_connect_speaks_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    listener = TCPListener(echo, 0, host=HOST, ssl_context=contexts[0])
    async with running(listener) as group:
        async with await connect(listener, ssl_context=contexts[1]) as client:
            await client.send_all(b"hello\n")
            assert await read_until(client, b"\n") == b"hello\n"
            group.stop()
            assert await ending(client) == (b"", "eof")


async def test_a_handshake_that_fails_leaves_nothing_open(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    listener = TCPListener(echo, 0, host=HOST, ssl_context=contexts[0])
    async with running(listener) as group:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await connect(listener, ssl_context=contexts[1], server_hostname="elsewhere")
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        group.stop()
        await wait_stopped(group)  # no client holds it up


@pytest.mark.parametrize("host", [HOST, "::1", None])
async def test_connect_makes_a_socket_for_datagrams(host: str | None) -> None:
    async def reply(datagram: Datagram) -> None:
        await datagram.reply(datagram.data.upper())

    listener = UDPListener(reply, 0, host=host)
    async with running(listener):
        with await connect(listener) as client:
            await client.send(b"hello")
            assert await client.recv(100) == b"HELLO"


async def test_a_socket_that_can_t_be_connected_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[trio.socket.SocketType] = []
    make = trio.socket.socket

    def remember(*args: Any) -> trio.socket.SocketType:
        made.append(make(*args))
        return made[-1]

    listener = UDPListener(echo, 0, host=HOST)
    async with running(listener):
        monkeypatch.setattr(trio.socket, "socket", remember)
        with trio.CancelScope() as scope:
            scope.cancel()
            await connect(listener)
        assert scope.cancelled_caught
    assert [client.fileno() for client in made] == [-1]


async def test_who_does_not_listen_can_t_be_connected_to() -> None:
    listener = TCPListener(echo, 0, host=HOST, name="shop")
    with pytest.raises(RuntimeError, match=r"^shop does not listen: connect to it inside running"):
        await connect(listener)


async def test_after_the_block_a_connection_is_refused() -> None:
    listener = TCPListener(echo, 0, host=HOST)
    async with running(listener):
        pass
    with pytest.raises(OSError, match="all attempts to connect to"):
        await connect(listener)


# Reading.


async def test_what_is_read_exactly_may_come_in_pieces() -> None:
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"hel")
        assert await read_exactly(client, 2) == b"he"
        nursery.start_soon(server.send_all, b"lo and more")
        assert await read_exactly(client, 3) == b"llo"
        assert await read_exactly(client, 0) == b""
        await server.send_eof()
        assert await read_to_end(client) == b" and more"


async def test_read_until_leaves_what_comes_after() -> None:
    client, server = memory_stream_pair()
    await server.send_all(b"one\r\ntwo\r\nthree")
    assert await read_until(client, b"\r\n") == b"one\r\n"
    assert await read_until(client, b"\r\n") == b"two\r\n"
    assert await client.receive_some() == b"three"


async def test_an_early_end_says_what_has_come() -> None:
    client, server = memory_stream_pair()
    await server.send_all(b"hel")
    await server.send_eof()
    with pytest.raises(EOFError, match="the stream ended after b'hel'"):
        await read_exactly(client, 5)
    with pytest.raises(EOFError, match="the stream ended after b''"):
        await read_until(client, b"\n")


async def test_a_reply_that_was_cut_ends_in_a_reset(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02  # the kernel's time

    async def begins(stream: trio.abc.Stream) -> None:
        with busy():
            await stream.send_all(b"begun")
            await trio.sleep_forever()

    listener = TCPListener(begins, 0, host=HOST)
    async with running(listener, grace=0) as group:
        client, other = await connect(listener), await connect(listener)
        async with client, other:
            assert await read_exactly(other, 5) == b"begun"
            await read_exactly(client, 1)
            group.stop()
            assert await ending(client) == (b"egun", "reset")
            with pytest.raises(trio.BrokenResourceError):
                await read_to_end(other)


async def test_tls_that_ends_without_a_goodbye_is_truncated(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    client, server = memory_stream_pair()
    over_tls = trio.SSLStream(client, contexts[1], server_hostname="localhost")
    serving = trio.SSLStream(server, contexts[0], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving.do_handshake)
        await over_tls.do_handshake()
    await serving.send_all(b"hello")
    await trio.aclose_forcefully(server)
    assert await ending(over_tls) == (b"hello", "truncated")


# open_program().

TALKS = """
import sys
print("ready")
print("on stderr", file=sys.stderr)
sys.stdout.write("no newline")
sys.stdout.flush()
sys.stdin.read() and print("there was something to read")
sys.exit(7)
"""

WAITS = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("interrupted"))
print("ready")
signal.pause()
time.sleep(1000)
"""

SERVES = """
import sys, trio
from trio_run import run
sys.exit(run(trio.sleep_forever, name="shop"))
"""


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_program_s_output_and_its_exit_code() -> None:
    async with open_program(python(TALKS)) as program:
        assert await program.line_with("read") == "ready"
        assert await program.line_with("stderr") == "on stderr"
        assert await program.exit_code() == 7
        assert await program.line_with("newline") == "no newline"
    assert program.output == "ready\non stderr\nno newline"


async def test_a_line_that_does_not_come_any_more() -> None:
    async with open_program(python("print('hello')")) as program:
        with pytest.raises(EOFError, match=r"no line with 'ready' in:\nhello"):
            await program.line_with("ready")


async def test_a_line_that_has_not_ended_is_waited_for() -> None:
    source = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("rea", end="")
signal.sigwait({signal.SIGTERM})
print("dy")
"""
    lines: list[str] = []

    async def wait() -> None:
        lines.append(await program.line_with("rea"))

    async with open_program(python(source)) as program, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        while program.output != "rea":
            await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        assert lines == []
        program.signal(signal.SIGTERM)
    assert lines == ["ready"]


async def test_a_program_gets_signals() -> None:
    async with open_program(python(WAITS)) as program:
        await program.line_with("ready")
        program.signal(signal.SIGTERM)
        await program.line_with("interrupted")
        program.signal(signal.SIGKILL)
        assert await program.exit_code() == -signal.SIGKILL
        program.signal(signal.SIGTERM)  # nobody is hit who has its number now


async def test_where_there_are_no_signals_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_HAS_SIGNALS", False)
    async with open_program(python(WAITS)) as program:
        with pytest.raises(NotImplementedError, match="can't send SIGTERM to a process: have the"):
            program.signal(signal.SIGTERM)


async def test_a_program_has_a_report() -> None:
    async with open_program(python(SERVES)) as program:
        await program.line_with("shop: ready")
        with pytest.raises(EOFError, match=r"there is no report in:\n(.*\n)*shop: ready"):
            _ = program.report
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
    first, *lines = program.report.splitlines()
    assert first.startswith("shop stopped in ")
    assert "SIGTERM received (exit code 0)" in first
    assert [line.split()[0] for line in lines] == ["actor", "sleep_forever", "signals"]


async def test_a_program_has_its_environment_and_its_directory(tmp_path: Path) -> None:
    source = "import os; print(os.environ.get('SHOP'), os.getcwd(), 'HOME' in os.environ)"
    async with open_program(python(source), env={"SHOP": "yes"}, cwd=tmp_path) as program:
        assert await program.exit_code() == 0
    assert program.output == f"yes {tmp_path} False\n"


async def test_a_program_that_is_not_there_can_t_be_started(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_program([tmp_path / "shop"]):
            pytest.fail("it has begun")


async def test_a_program_is_killed_at_the_end_of_the_block() -> None:
    async with open_program(python(WAITS)) as program:
        await program.line_with("ready")
        assert is_there(program.pid)
    assert not is_there(program.pid)


async def test_a_program_is_killed_when_the_block_raises() -> None:
    error = ValueError("wrong")
    with pytest.raises(ValueError, match="wrong") as caught:
        async with open_program(python(WAITS)) as program:
            raise error
    assert caught.value is error
    assert not is_there(program.pid)


async def test_a_program_is_killed_when_the_block_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with open_program(python(WAITS)) as program:
            await program.line_with("ready")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not is_there(program.pid)


async def test_what_it_leaves_behind_does_not_hold_up_the_end() -> None:
    source = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("ready", child.pid)
"""
    async with open_program(python(source), timeout=1) as program:
        _, child = (await program.line_with("ready")).split()
        with pytest.raises(trio.TooSlowError, match="no end of the program and its output within"):
            await program.exit_code()
    os.kill(int(child), signal.SIGKILL)


async def test_a_wait_has_a_bound_and_says_what_was_written() -> None:
    async with open_program(python(WAITS), timeout=2) as program:
        await program.line_with("ready")
        with pytest.raises(trio.TooSlowError, match=r"no line with 'x' within 2 s; .*:\nready"):
            await program.line_with("x")


async def test_what_is_no_text_is_shown_all_the_same() -> None:
    source = "import sys; sys.stdout.buffer.write(b'gr\\xfc\\xdfe\\n')"
    async with open_program(python(source)) as program:
        assert await program.line_with("gr") == "gr��e"


# All of it.


def test_what_is_public_is_what_is_listed() -> None:
    own = {
        name
        for name, value in vars(testing).items()
        if getattr(value, "__module__", "") == testing.__name__ and not name.startswith("_")
    }
    assert own == set(testing.__all__)
