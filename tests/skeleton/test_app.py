"""The skeleton as people run it: real processes, what they say, and what is left when they are
gone.
"""

import math
import os
import signal
import socket
import sqlite3
import ssl
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trustme

from trio_run import Report
from trio_run.skeleton import app
from trio_run.skeleton.config import Config
from trio_run.testing import Program, open_program, read_to_end, running

from .. import TIMEOUT
from ..programs import python, script
from .database import locked, stored_in
from .running import FREE_PORTS, get, health, open_app, port_of, reads, where

NO_PORTS = {"port": 0, "udp_port": 0, "web_port": 0, "tail_port": 0, "health_port": 0}


async def connect(program: Program) -> trio.SocketStream:
    return await trio.open_tcp_stream(*await where(program))


async def send(program: Program, data: bytes) -> bytes:
    """As ``nc -N``: send it, end our side, and read to the end."""
    with trio.fail_after(TIMEOUT):
        async with await connect(program) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            return await read_to_end(stream)


async def stop(program: Program, signum: signal.Signals = signal.SIGTERM) -> None:
    program.signal(signum)
    assert await program.exit_code() == 0, program.output


async def send_over(program: Program, stream: trio.abc.Stream, data: bytes) -> bytes:
    """Send it, and read as many lines of answer."""
    received = b""
    with trio.fail_after(TIMEOUT):
        async with stream:
            await stream.send_all(data)
            while received.count(b"\n") < data.count(b"\n"):
                received += await stream.receive_some()
    return received


async def test_it_names_no_program_that_is_not_there(tmp_path: Path) -> None:
    options = [*FREE_PORTS, "--dir", str(tmp_path), "--unix", str(tmp_path / "socket")]
    nothing = {**os.environ, "PATH": str(tmp_path)}
    async with open_program(python("-m", "trio_run", *options), env=nothing) as program:
        _, port = await where(program)
        assert await program.line_with(f"send it a line: at 127.0.0.1:{port}")
        assert await program.line_with("over UDP: at 127.0.0.1:")
        assert await program.line_with(f"over the Unix socket: {tmp_path}/socket")
        line = await program.line_with("see how it is: http://127.0.0.1:")
        assert line.endswith("/")
        await stop(program, signal.SIGINT)


def descriptors_of(program: Program) -> int:
    return sum(1 for _ in Path(f"/proc/{program.pid}/fd").iterdir())


async def complaint(*options: str) -> str:
    """All that it says when it refuses to start."""
    async with open_program(python("-m", "trio_run", *FREE_PORTS, *options)) as program:
        assert await program.exit_code() == 1
        return program.output


async def test_it_says_how_to_try_each_door_and_on_ctrl_c_what_it_did(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        assert await send(program, b"hello\n") == b"ok 1\n"
        await stop(program, signal.SIGINT)
    assert stored_in(tmp_path) == {1: "hello"}
    started, report = program.output.split("collector stopped in ")
    said = [line.split(maxsplit=2)[1:] for line in started.splitlines()[:-1]]
    host, port = await where(program)
    udp, web, tail, health_port = [
        await port_of(program, door) for door in ("nc -u", "http:", "ws:", "curl")
    ]
    assert said == [
        ["INFO", "collector: ready"],
        ["INFO", f"lines are stored in {tmp_path}/lines.db"],
        ["INFO", f"send it a line: echo hello | nc -N {host} {port}"],
        ["INFO", f"over UDP: echo hello | nc -u -w 1 {host} {udp}"],
        ["INFO", f"see the lines: http://{host}:{web}/"],
        ["INFO", f"follow them: {sys.executable} -m websockets ws://{host}:{tail}/"],
        [
            "INFO",
            f"see how it is: http://{host}:{health_port}/, or curl {host}:{health_port}/readyz",
        ],
        ["INFO", f"stop it: Ctrl-C, or kill -TERM {program.pid}"],
        ["INFO", "collector: stopping: SIGINT received"],
    ]
    assert " s: SIGINT received (exit code 0)\n" in report
    rows = {line.split()[0]: " ".join(line.split()) for line in report.splitlines()[2:]}
    assert list(rows) == [
        "signals",
        "health",
        "store",
        "counts",
        "check",
        "tail",
        "retention",
        "web",
        "tcp",
        "udp",
        "greeting",
    ]
    assert rows["store"].endswith("returned 1 lines stored, 0 waiting")
    assert rows["counts"].endswith("returned 1 lines of 1 source")
    assert rows["tcp"].endswith("returned 0 drained, 0 cut")


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
        assert (
            await send(program, b"two\n")
            == b"error it could not be stored: the store has stopped\n"
        )
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


async def test_lines_come_in_at_every_door(
    tmp_path: Path, certificate: trustme.LeafCert, client_context: ssl.SSLContext
) -> None:
    pem = tmp_path / "cert.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    socket_path = tmp_path / "socket"
    options = ["--unix", str(socket_path), "--cert", str(pem), "--tls-port", "0"]
    async with open_app(tmp_path / "data", *options) as program:
        assert await send(program, b"tcp\n") == b"ok 1\n"
        tls = await trio.open_ssl_over_tcp_stream(
            "localhost", await port_of(program, "openssl"), ssl_context=client_context
        )
        assert await send_over(program, tls, b"tls\n") == b"ok 2\n"
        unix = await trio.open_unix_socket(str(socket_path))
        assert await send_over(program, unix, b"unix\n") == b"ok 3\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"udp\nlast", ("127.0.0.1", await port_of(program, "nc -u")))
        await stop(program)  # what the kernel has queued is still stored
    assert list(stored_in(tmp_path / "data").values()) == ["tcp", "tls", "unix", "udp", "last"]
    assert await program.line_with("over TLS, typed: openssl s_client -quiet -connect 127.0.0.1:")
    assert await program.line_with(f"over the Unix socket: echo hello | nc -NU {socket_path}")
    with closing(sqlite3.connect(tmp_path / "data" / "lines.db")) as database:
        sources = [source for (source,) in database.execute("SELECT source FROM lines")]
    assert sources == ["127.0.0.1"] * 2 + [f"unix:{os.getpid()}"] + ["udp:127.0.0.1"] * 2
    assert "counts" in program.output
    assert "5 lines of 3 sources" in program.output


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


async def test_in_its_lame_duck_it_goes_on_serving_and_says_503(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--lame-duck", "20", "--grace", "40") as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        assert await health(program) == (200, 200)
        program.signal(signal.SIGTERM)
        await program.line_with("stopping: SIGTERM")
        assert await health(program) == (200, 503)
        assert await send(program, b"two\n") == b"ok 2\n"
        await stop(program)  # a second one ends the lame duck


async def test_the_web_answers_503_for_as_long_as_a_client_is_served(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        await send(program, b"one\n")
        with locked(tmp_path) as lock:
            async with await connect(program) as client:
                await client.send_all(b"two\n")
                await program.line_with("is locked by another program")
                program.signal(signal.SIGTERM)
                await program.line_with("stopping: SIGTERM")
                assert await health(program) == (200, 503)
                lock.release()
                assert await client.receive_some() == b"ok 2\n"
        assert await program.exit_code() == 0
    assert "2 lines stored, 0 waiting" in program.output


async def test_a_load_balancer_is_never_told_to_send_to_one_that_refuses(tmp_path: Path) -> None:
    """Ready, then not ready, and only then unreachable: as seen by one who asks without pause."""
    async with open_app(tmp_path, "--lame-duck", "0.3") as program:
        host, port = "127.0.0.1", await port_of(program, "curl")
        seen: list[int] = []
        with trio.fail_after(TIMEOUT):
            while True:
                try:
                    seen.append((await get(host, port, "/readyz"))[0])
                except OSError:  # gone; or it came when the last one was just being told to end
                    break
                if len(seen) == 20:
                    program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
    assert sorted(set(seen), key=seen.index) == [200, 503]
    assert seen == sorted(seen)


async def test_post_quit_stops_it(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        port = await port_of(program, "http:")
        assert await get("127.0.0.1", port, "/quit", method="POST") == (202, b"stopping\n")
        assert await program.exit_code() == 0
    assert "collector: stopping: POST /quit from 127.0.0.1\n" in program.output


async def test_at_sighup_it_goes_on_with_a_new_log_file(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    async with open_app(tmp_path, "--log-file", str(log), log=log) as program:
        log.rename(old)
        program.signal(signal.SIGHUP)
        await reads(log, "reopened")
        await stop(program)
    assert "collector: ready" in old.read_text()
    assert "collector: ready" not in log.read_text()
    assert "collector stopped in " in log.read_text()
    assert log.read_text().startswith("20")  # with the date
    assert program.output == ""


async def test_at_sighup_without_a_log_file_it_says_so_and_goes_on(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        await where(program)
        program.signal(signal.SIGHUP)
        await program.line_with("there is no log file to reopen")
        assert await send(program, b"one\n") == b"ok 1\n"
        await stop(program)


async def test_what_is_past_its_retention_is_deleted(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--retention", "0.00001") as program:  # 0.864 s
        assert await send(program, b"one\ntwo\n") == b"ok 1\nok 2\n"
        await program.line_with("deleted 2 lines older than 1e-05 days")
        assert await send(program, b"three\n") == b"ok 3\n"
        await stop(program)
    assert 1 not in stored_in(tmp_path)


async def test_it_stops_from_the_doors_to_the_store(tmp_path: Path) -> None:
    def stopped(*names: str) -> float:
        return max(actors[name].stopped or 0.0 for name in names)

    def asked(name: str) -> float:
        return actors[name].interrupted or 0.0

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        reports.append(await group.run(task_status=task_status))

    config = Config(**NO_PORTS, dir=tmp_path, unix=tmp_path / "socket")
    group = app.make_group(config)
    reports: list[Report] = []
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            group.stop()
    actors = {actor.name: actor for actor in reports[0].actors}
    assert asked("web") >= stopped("tcp", "udp", "unix")
    assert min(map(asked, ("tail", "counts", "retention"))) >= stopped("web")
    assert asked("store") >= stopped("tail", "counts", "retention")
    assert {actor.outcome for actor in actors.values()} == {"returned"}


async def test_who_follows_and_does_not_read_is_not_waited_for_until_the_grace_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_GOODBYE", 0.1)
    config = Config(**NO_PORTS, dir=tmp_path, grace=math.inf)
    group = app.make_group(config)
    handshake = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with trio.fail_after(TIMEOUT):
        async with running(group):
            tail = next(member for member in group.members if member.name == "tail")
            (address,) = tail.actor.addresses
            async with await trio.open_tcp_stream(*address) as client:
                await client.send_all(handshake)
                assert (await client.receive_some()).startswith(b"HTTP/1.1 101 ")
                group.stop()
                await tail.wait_stopped()


async def test_a_second_signal_forces_it(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        await send(program, b"one\n")
        with locked(tmp_path):
            async with await connect(program) as client:
                await client.send_all(b"two\n")
                await program.line_with("is locked by another program")
                program.signal(signal.SIGTERM)
                await program.line_with("stopping: SIGTERM")
                program.signal(signal.SIGTERM)
                assert await program.exit_code() == 128 + signal.SIGTERM
    assert stored_in(tmp_path) == {1: "one"}


async def test_verbose_tells_of_each_batch(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--verbose") as program:
        await send(program, b"one\ntwo\n")
        await program.line_with("DEBUG   committed 2 lines: 2 lines stored, 2 waiting")
        assert await health(program) == (200, 200)
        await program.line_with("INFO    ")
        await program.line_with('"GET /livez')
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
        said = await complaint("--dir", directory)
        assert said == problem + "choose another directory with --dir or COLLECTOR_DIR\n"


async def test_a_database_that_is_not_one_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lines.db").write_bytes(os.urandom(8192))
    assert await complaint("--dir", str(tmp_path)) == (
        f"cannot use {tmp_path}/lines.db: file is not a database; move it away, "
        "or choose another directory with --dir or COLLECTOR_DIR\n"
    )


def test_a_setting_that_cannot_be_right_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.main(["--port", "70000"]) == 2
    assert capsys.readouterr().err == (
        "python -m trio_run: error: --port (COLLECTOR_PORT) must be a whole number from 0 to "
        "65535, "
        "not '70000'\n"
    )


async def test_the_environment_sets_what_the_command_line_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_DIR", str(tmp_path))
    monkeypatch.setenv("COLLECTOR_PORT", "nonsense")
    async with open_program(python("-m", "trio_run", *FREE_PORTS)) as program:
        assert await send(program, b"one\n") == b"ok 1\n"
        await stop(program)
    assert stored_in(tmp_path) == {1: "one"}


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            "trio_run._listeners._http._connection",  # which imports httptools
            "HTTPListener needs httptools and websockets: pip install 'trio-run[http]'\n",
        ),
        (
            "trio_websocket",
            "WebSocketListener needs trio-websocket: pip install 'trio-run[websocket]'\n",
        ),
    ],
)
async def test_without_an_extra_it_says_which_to_install(
    tmp_path: Path, module: str, sentence: str
) -> None:
    source = f"""
        import sys
        sys.modules[{module!r}] = None
        from trio_run.skeleton.app import main
        sys.exit(main(["--dir", {str(tmp_path)!r}]))
    """
    async with open_program(script(source)) as program:
        assert await program.exit_code() == 1
    assert program.output == sentence


async def test_a_log_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    said = await complaint("--dir", str(tmp_path), "--log-file", str(tmp_path))
    assert said == (
        f"cannot write the log to {tmp_path}: Is a directory; "
        "choose another file with --log-file or COLLECTOR_LOG_FILE\n"
    )


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (("127.0.0.1", 7000), {"host": "127.0.0.1", "port": 7000, "at": "127.0.0.1:7000"}),
        (("0.0.0.0", 7000), {"host": "127.0.0.1", "port": 7000, "at": "127.0.0.1:7000"}),
        (("::", 7000, 0, 0), {"host": "::1", "port": 7000, "at": "[::1]:7000"}),
        (("::1", 7000, 0, 0), {"host": "::1", "port": 7000, "at": "[::1]:7000"}),
        ("/run/socket", {"path": "/run/socket"}),
    ],
)
def test_the_commands_to_paste_have_an_address_that_can_be_connected_to(
    address: tuple[str, int] | str, place: dict[str, object]
) -> None:
    assert app._place(address) == place


def test_where_all_is_kept_nobody_looks_for_what_is_old(tmp_path: Path) -> None:
    names = [member.name for member in app.make_group(Config(dir=tmp_path)).members]
    assert "retention" in names
    group = app.make_group(Config(dir=tmp_path, retention=math.inf))
    assert [member.name for member in group.members] == [n for n in names if n != "retention"]


def test_the_doors_leave_some_of_the_grace_to_those_that_stop_after_them(tmp_path: Path) -> None:
    config = Config(dir=tmp_path, grace=20, lame_duck=10)
    graces = {member.name: member.grace for member in app.make_group(config).members}
    assert graces["tcp"] == graces["udp"] == 7
    assert graces["store"] is None
