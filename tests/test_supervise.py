"""``python -m trio_run supervise``: any program as workers, real processes and signals."""

import contextlib
import os
import re
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio

from trio_run import _supervise
from trio_run.testing import open_program, read_to_end

from . import TIMEOUT
from .children import notifying, until
from .ports import free_port
from .programs import python, script
from .shop import gone, stop, url_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need signals")

# Says its version, its pid, and by which name it has its socket.
SAYS = """
    import os
    from trio_run import TCPListener, UnixListener, inherited_sockets, run

    def listener(name, sockets):
        async def say(stream):
            await stream.receive_some()
            await stream.send_all(f"one {os.getpid()} {name}".encode())
        kind = UnixListener if sockets[0].family == 1 else TCPListener
        return kind(say, sockets=sockets)

    found = inherited_sockets()
    assert all(each.type == 2 for each in found.pop("udp", ()))
    raise SystemExit(run(*(listener(*each) for each in found.items())))
"""
# As others do it, who know nothing of READY=1: a socket that blocks.
PLAIN = """
    import os, socket
    assert "NOTIFY_SOCKET" not in os.environ
    listening = socket.socket(fileno=3)
    while True:
        client, _ = listening.accept()
        client.recv(10)
        client.sendall(f"plain {os.getpid()} {os.environ['LISTEN_FDNAMES']}".encode())
        client.close()
"""


def supervise(*arguments: str, command: list[str]) -> list[str]:
    return python("-W", "error", "-m", "trio_run", "supervise", *arguments, "--", *command)


async def answer(address: str) -> list[str]:
    stream: trio.SocketStream
    if address.startswith("/"):
        stream = await trio.open_unix_socket(address)
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
    async with stream:
        await stream.send_all(b"hello")
        return (await read_to_end(stream)).decode().split()


async def pids(address: str, count: int) -> set[int]:
    """Those who answer, as soon as there are so many."""
    found: set[int] = set()
    with trio.fail_after(TIMEOUT):
        while len(found) < count:
            found.add(int((await answer(address))[1]))
    return found


async def test_workers_of_a_program_are_replaced_by_what_is_on_disk(tmp_path: Path) -> None:
    program = tmp_path / "says.py"
    source = script(SAYS)[-1]
    program.write_text(source)
    command = supervise(
        *("--listen", "web=0", "--workers", "2", "--name", "says"), command=python(str(program))
    )
    async with open_program(command) as it:
        address = await url_of(it)
        assert address.startswith("127.0.0.1:")
        assert (await answer(address))[::2] == ["one", "web"]
        first = await pids(address, 2)
        program.write_text(source.replace("one", "two"))
        it.signal(signal.SIGHUP)
        await gone(first)
        await pids(address, 2)
        assert (await answer(address))[::2] == ["two", "web"]
        await stop(it)
    assert "\nsays stopped in " in it.output
    assert "Traceback" not in it.output


async def test_one_that_ends_with_code_2_at_the_stop_has_not_refused_to_begin() -> None:
    worker = notifying(
        'signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))\nsay("READY=1")\nsignal.pause()'
    )
    async with open_program(supervise("--workers", "1", command=worker)) as it:
        await it.line_with(": ready, pid")
        it.signal(signal.SIGTERM)
        assert await it.exit_code() == 1
    assert "'workers 1' ended with exit code 2" in it.output
    assert "no worker can begin" not in it.output


async def test_sockets_of_several_kinds_have_their_names(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = ["--listen", "web=[::1]:0", "--listen", f"door=unix:{path}", "--uds-mode", "666"]
    async with open_program(
        supervise(*arguments, "--listen", "all=*:0", "--workers", "1", command=script(SAYS))
    ) as it:
        addresses = (await url_of(it)).split(", ")
        assert addresses[0].startswith("[::1]:")
        assert addresses[1] == str(path)
        assert addresses[2].startswith("0.0.0.0:")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert (await answer(str(path)))[2] == "door"
        assert (await answer(addresses[2]))[2] == "all"
        await stop(it)
    assert not path.exists()


async def test_sockets_that_were_handed_over_keep_their_names(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    arguments = ["--listen", "web=1", "--listen", "all=0", "--workers", "1"]
    command = supervise(*arguments, command=script(SAYS))
    handing_over = f"""
        import os, socket
        door = socket.socket(socket.AF_UNIX)
        door.bind({path!r})
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        given = [socket.create_server(("127.0.0.1", 0)), door, udp]
        for number, each in enumerate([os.dup(each.fileno()) for each in given], 3):
            os.dup2(each, number)
        os.environ |= {{"LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:door:udp"}}
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.execv({command[0]!r}, {command!r})
    """
    async with open_program(script(handing_over)) as it:
        web, _, _, other = (await url_of(it)).split(", ")
        assert (await answer(web))[2] == "web"
        assert (await answer(path))[2] == "door"
        assert (await answer(other))[2] == "all"
        await stop(it)


async def test_without_sockets_nothing_is_said_of_them() -> None:
    command = script("import signal; signal.pause()")
    async with open_program(supervise("--workers", "1", "--no-notify", command=command)) as it:
        await it.line_with(": ready")
        await stop(it)
    assert "serving" not in it.output


async def test_a_program_that_does_not_say_when_it_is_ready() -> None:
    arguments = ["--listen", "web=0", "--workers", "1", "--no-notify"]
    async with open_program(supervise(*arguments, command=script(PLAIN))) as it:
        address = await url_of(it)
        first = await answer(address)
        assert first[::2] == ["plain", "web"]
        it.signal(signal.SIGHUP)
        with trio.fail_after(TIMEOUT):
            other = first
            while other == first:
                with contextlib.suppress(trio.BrokenResourceError, IndexError):
                    other = await answer(address)  # the old one just ends at a signal
        await stop(it)
    assert "Traceback" not in it.output


async def test_where_it_serves_is_said_once_and_who_is_cut_too() -> None:
    deaf = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
    arguments = ["--no-notify", "--workers", "1", "--grace", "0.1"]
    source = f"""
        import sys
        from trio_run import _parent, _supervise
        _parent._SLACK = 0.2
        sys.exit(_supervise.main({[*arguments, "--listen", "web=0", "--", *deaf]!r}))
    """
    async with open_program(script(source)) as it:
        await url_of(it)
        line = await it.line_with("ready, pid ")
        await it.line_with("deaf")
        os.kill(int(line.rpartition(" ")[2]), signal.SIGKILL)
        await it.line_with("ready again")
        await until(lambda: it.output.count("deaf\n") == 2)
        await stop(it)
    assert it.output.count("serving at") == 1
    [cut] = re.findall("sh: .* is over: cut .*", it.output)
    assert cut.startswith(
        "sh: the grace of 0.3 s is over: cut workers (1 worker left, 1 restart) ("
    )
    source = source.replace("'--listen', 'web=0', ", "")
    async with open_program(script(source)) as it:
        await it.line_with("sh: ready")
        await stop(it)
    assert "serving at" not in it.output


@pytest.mark.parametrize("who", ["supervise", "workers"])
async def test_who_is_left_behind_with_the_socket_keeps_nobody_from_the_port(
    who: str, tmp_path: Path
) -> None:
    left, path = tmp_path / "left", tmp_path / "socket"
    keeps = f"""
        import os, signal, subprocess
        subprocess.Popen(
            ["sh", "-c", "echo $$ > {left}; exec sleep 1000 >/dev/null 2>&1"],
            pass_fds=[3, 4],
            start_new_session=True,
        )
        signal.pause()
    """
    port = free_port()
    arguments = ["--listen", f"web={port}", "--listen", f"door=unix:{path}", "--no-notify"]
    program = supervise(*arguments, "--workers", "1", command=script(keeps))
    if who == "workers":
        program = script(
            f"""
            import socket, sys
            from trio_run import Workers, run
            unix = socket.socket(socket.AF_UNIX)
            unix.bind({str(path)!r})
            unix.listen()
            sockets = {{"web": [socket.create_server(("127.0.0.1", {port}))], "door": [unix]}}
            sys.exit(run(Workers({script(keeps)!r}, 1, sockets=sockets, notify=False)))
            """
        )
    async with open_program(program) as it:
        await until(lambda: left.exists() and left.read_text())
        await stop(it)
    try:
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        with socket.create_server(("127.0.0.1", port)):
            pass
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


async def test_an_end_at_the_start_is_the_end(tmp_path: Path) -> None:
    ends = script("import sys; print('no way'); sys.exit(2)")
    async with open_program(supervise("--workers", "3", command=ends)) as it:
        assert await it.exit_code() == 2
    assert it.output.count("no way") == 1


async def test_a_failure_at_the_start_is_one() -> None:
    ends = script("raise SystemExit(3)")
    async with open_program(supervise("--workers", "1", command=ends)) as it:
        assert await it.exit_code() == 1
    assert "exit code 3 before it was ready" in it.output


async def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_program(supervise("--listen", f"web={where}", command=script(SAYS))) as it:
            assert await it.exit_code() == 2
    assert it.output == (
        f"cannot listen on {where}: it is in use; stop the process that listens there, or choose "
        "another\n"
    )


@pytest.mark.parametrize(
    ("listen", "sentence"),
    [
        ("8000", "--listen '8000' has no name: write NAME=PORT, NAME=HOST:PORT or NAME=unix:PATH"),
        (
            "a:b=1",
            "--listen 'a:b=1' has no name: write NAME=PORT, NAME=HOST:PORT or NAME=unix:PATH",
        ),
        ("web=http", "--listen: 'http' is neither PORT, HOST:PORT nor unix:PATH"),
        ("web=::1:80", "--listen: '::1:80' is neither PORT, HOST:PORT nor unix:PATH"),
        ("web=70000", "--listen: port must be a whole number from 0 to 65535, not 70000"),
        ("web=unix:", "--listen: the path of a UnixListener can't be empty"),
    ],
)
def test_a_place_that_makes_no_sense_is_one_sentence(
    listen: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _supervise.main(["--listen", listen, "--", *script("pass")]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


@pytest.mark.parametrize("words", [[], ["--"]])
def test_a_command_has_to_be_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _supervise.main(["--listen", "web=0", *words])
    assert caught.value.code == 2
    assert "there is no command: it comes last, after --" in capsys.readouterr().err


def test_a_program_has_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert _supervise.main(["--", "no-such-program"]) == 2
    assert capsys.readouterr().err == "there is no program 'no-such-program'\n"
