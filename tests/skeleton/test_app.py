"""The skeleton as people run it: real processes, what they say, and what is left when they are gone."""

import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from trio_run.skeleton import app

from ..process import TIMEOUT, Program, open_program
from .database import stored_in


@asynccontextmanager
async def open_app(directory: Path, *options: str) -> AsyncIterator[Program]:
    arguments = ["-W", "error", "-m", "trio_run", "--port", "0", "--dir", str(directory)]
    async with open_program(*arguments, *options) as program:
        yield program


async def where(program: Program) -> tuple[str, int]:
    """Where it says that lines can be sent to."""
    _, command = (await program.line_with("send it a line: ")).split("send it a line: ")
    *words, host, port = command.split()
    assert words == ["echo", "hello", "|", "nc", "-N"]
    return host, int(port)


async def connect(program: Program) -> trio.SocketStream:
    return await trio.open_tcp_stream(*await where(program))


async def send(program: Program, data: bytes) -> bytes:
    """As ``nc -N``: send it, end our side, and read to the end."""
    with trio.fail_after(TIMEOUT):
        async with await connect(program) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            return b"".join([data async for data in stream])


async def stop(program: Program, signum: signal.Signals = signal.SIGTERM) -> None:
    program.signal(signum)
    assert await program.exit_code() == 0, program.output


def descriptors_of(program: Program) -> int:
    return sum(1 for _ in Path(f"/proc/{program.pid}/fd").iterdir())


async def complaint(*options: str) -> str:
    """All that it says when it refuses to start."""
    async with open_program("-m", "trio_run", *options) as program:
        assert await program.exit_code() == 1
        return program.output


async def test_it_says_how_to_send_it_a_line_and_on_ctrl_c_what_it_did(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"hello\n") == b"ok 1\n"
        await stop(program, signal.SIGINT)
    assert stored_in(tmp_path) == {1: "hello"}
    started, report = program.output.split("collector stopped in ")
    said = [line.split(maxsplit=2)[1:] for line in started.splitlines()[:-1]]
    host, port = await where(program)
    assert said == [
        ["INFO", "collector: ready"],
        ["INFO", f"listening on {host} port {port}, storing in {tmp_path}/lines.db"],
        ["INFO", f"send it a line: echo hello | nc -N {host} {port}"],
        ["INFO", "collector: stopping: SIGINT received"],
    ]
    assert " s: SIGINT received (exit code 0)\n" in report
    rows = [line.split() for line in report.splitlines()[1:]]
    assert [row[0] for row in rows] == ["actor", "store", "intake", "greeting", "signals"]
    assert " ".join(rows[1]).endswith("returned 1 lines stored, 0 waiting")
    assert " ".join(rows[2]).endswith("returned 0 drained, 0 cut")


async def test_a_client_that_is_connected_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        async with await connect(program) as client:
            await client.send_all(b"hello\n")
            assert await client.receive_some() == b"ok 1\n"
            program.signal(signal.SIGTERM)
            assert await client.receive_some() == b""
        assert await program.exit_code() == 0
    assert "1 drained, 0 cut" in program.output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_what_was_acknowledged_is_there_when_it_is_gone(
    tmp_path: Path, signum: signal.Signals
) -> None:
    received = bytearray()

    async def send_lines() -> None:
        number = 0
        while True:
            try:
                await client.send_all(b"".join(b"line %d\n" % i for i in range(number, number + 9)))
            except trio.BrokenResourceError:
                return
            number += 9

    async with open_app(tmp_path) as program:
        with trio.fail_after(TIMEOUT):
            client = await connect(program)
            async with client, trio.open_nursery() as nursery:
                nursery.start_soon(send_lines)
                try:
                    while received.count(b"\n") <= 1_000:
                        received += await client.receive_some()
                    program.signal(signum)
                    while data := await client.receive_some():
                        received += data
                except trio.BrokenResourceError:
                    assert signum == signal.SIGKILL
                nursery.cancel_scope.cancel()
        assert await program.exit_code() == (-9 if signum == signal.SIGKILL else 0)
    answers = received[: received.rindex(b"\n")].decode().split("\n")
    assert len(answers) > 1_000
    stored = stored_in(tmp_path)
    assert answers == [f"ok {number}" for number in range(1, len(answers) + 1)]
    assert list(stored.values()) == [f"line {number}" for number in range(len(stored))]
    assert len(stored) >= len(answers)
    if signum != signal.SIGKILL:
        assert received.endswith(b"\n")
        assert len(stored) == len(answers)


async def test_it_goes_on_with_what_a_killed_one_has_left(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        program.signal(signal.SIGKILL)
        await program.exit_code()
    assert (tmp_path / "lines.db-wal").exists()  # the line is in the log only
    async with open_app(tmp_path) as program:
        assert await send(program, b"two\n") == b"ok 2\n"
        await stop(program)
    assert stored_in(tmp_path) == {1: "one", 2: "two"}


async def test_two_may_use_the_same_directory(tmp_path: Path) -> None:
    async with open_app(tmp_path) as one, open_app(tmp_path) as other:
        assert await send(one, b"one\n") == b"ok 1\n"
        assert await send(other, b"two\n") == b"ok 2\n"
        assert await send(one, b"three\n") == b"ok 3\n"
        await stop(one)
        assert await send(other, b"four\n") == b"ok 4\n"
        await stop(other)
    assert stored_in(tmp_path) == {1: "one", 2: "two", 3: "three", 4: "four"}


async def test_the_database_can_be_read_while_it_runs(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        assert stored_in(tmp_path) == {1: "one"}
        await stop(program)


async def test_a_database_that_breaks_stops_it_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
            database.execute("DROP TABLE lines")
        assert await send(program, b"two\n") == b"error it could not be stored\n"
        assert await program.exit_code() == 1
    assert "OperationalError: no such table: lines\nin actor 'store'" in program.output


async def test_descriptors_are_given_back_when_clients_have_left(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"first\n") == b"ok 1\n"
        before = descriptors_of(program)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(send, program, b"line\n" * 20)
        with trio.fail_after(TIMEOUT):
            while descriptors_of(program) > before:
                await trio.sleep(0.01)
        await stop(program)


async def test_with_max_connections_others_wait_their_turn(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--max-connections", "1") as program:
        async with await connect(program) as first, await connect(program) as second:
            await second.send_all(b"two\n")
            await first.send_all(b"one\n")
            assert await first.receive_some() == b"ok 1\n"
            await first.aclose()
            assert await second.receive_some() == b"ok 2\n"
        await stop(program)
    assert stored_in(tmp_path) == {1: "one", 2: "two"}


async def test_in_its_lame_duck_it_goes_on_serving(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--lame-duck", "20", "--grace", "40") as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        program.signal(signal.SIGTERM)
        await program.line_with("stopping: SIGTERM")
        assert await send(program, b"two\n") == b"ok 2\n"
        await stop(program)  # a second one ends the lame duck


async def test_verbose_tells_of_each_batch(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--verbose") as program:
        await send(program, b"one\ntwo\n")
        await program.line_with("DEBUG   committed 2 lines: 2 lines stored, 2 waiting")
        await stop(program)


async def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert await complaint("--port", str(port), "--dir", str(tmp_path)) == (
            f"cannot listen on 127.0.0.1:{port}: it is in use; "
            "stop the process that listens there, or choose another\n"
        )


async def test_a_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unwritable = "unable to open database file; see that the directory can be written, or "
    problems = {
        f"{tmp_path}/file": f"cannot use {tmp_path}/file: it is not a directory; ",
        f"{tmp_path}/file/below": f"cannot make {tmp_path}/file/below: Not a directory; ",
        "/proc": f"cannot use /proc/lines.db: {unwritable}",  # where even root can't make a file
    }
    for directory, problem in problems.items():
        said = await complaint("--port", "0", "--dir", directory)
        assert said == problem + "choose another directory with --dir\n"


async def test_a_database_that_is_not_one_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lines.db").write_bytes(os.urandom(8192))
    assert await complaint("--port", "0", "--dir", str(tmp_path)) == (
        f"cannot use {tmp_path}/lines.db: file is not a database; move it away, "
        "or choose another directory with --dir\n"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--port", "70000"], "port must be a whole number from 0 to 65535, not 70000"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--grace", "-1"], "grace must be a number of seconds, 0 or more, not -1.0"),
        (["--grace", "1", "--lame-duck", "2"], "lame_duck=2 leaves nothing of grace=1"),
        (["--max-connections", "0"], "max_connections must be a positive whole number"),
    ],
)
def test_an_option_that_cannot_be_right_is_a_usage_error(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        app.main(options)
    assert exited.value.code == 2
    assert f"python -m trio_run: error: {problem}" in capsys.readouterr().err


async def test_help_tells_every_option_and_its_default() -> None:
    async with open_program("-m", "trio_run", "--help") as program:
        assert await program.exit_code() == 0
    told = " ".join(program.output.split())
    for option in [
        "--host HOST the address or name to listen on (default: 127.0.0.1)",
        "--port PORT the port to listen on; 0 takes a free one (default: 7000)",
        "--dir DIR where the database is, lines.db; made if there is none (default: trio-run-data)",
        "--grace SECONDS how long a stop may take; what still runs then is cut (default: 30.0)",
        "--lame-duck SECONDS how long to go on serving once asked to stop; part of the grace (default: 0.0)",
        "--max-connections N how many clients to serve at once; more wait their turn (default: no limit)",
        "--verbose log details as well",
    ]:
        assert option in told


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (("127.0.0.1", 7000), "127.0.0.1"),
        (("0.0.0.0", 7000), "127.0.0.1"),
        (("::", 7000, 0, 0), "::1"),
        (("::1", 7000, 0, 0), "::1"),
    ],
)
async def test_the_command_to_paste_has_an_address_that_can_be_connected_to(
    address: tuple[str, int], host: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    intake = app.TCPListener(trio.sleep, 0)
    intake.addresses = (address,)
    await app._greet(intake, app.Store(tmp_path))
    assert caplog.messages == [
        f"listening on {address[0]} port 7000, storing in {tmp_path}/lines.db",
        f"send it a line: echo hello | nc -N {host} 7000",
    ]
