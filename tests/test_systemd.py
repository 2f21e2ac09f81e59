"""Rule P1: sockets that were handed over."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest
import trio

from trio_run import CannotStart, inherited_sockets
from trio_run.testing import open_program

from .ports import free_port

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def hand_over(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"LISTEN_{name}", value)


AS_SYSTEMD_DOES = """
import os, socket, sys
given = []
for kind in sys.argv[3:]:
    if kind == "tcp":
        given.append(socket.create_server(("127.0.0.1", 0)))
    elif kind == "file":
        given.append(open(os.devnull))
    else:
        given.append(socket.socket(*{"udp": (socket.AF_INET, socket.SOCK_DGRAM),
                                     "unix": (socket.AF_UNIX, socket.SOCK_STREAM)}[kind]))
for number, one in enumerate(given):
    os.dup2(one.fileno(), 50 + number)
os.closerange(3, 50)
for number in range(len(given)):
    os.dup2(50 + number, 3 + number)
    os.close(50 + number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def spawned(
    body: str, *, names: str | None = None, kinds: str = "tcp", count: int | None = None
) -> str:
    """What a program writes that is started as systemd starts its services."""
    number = len(kinds.split()) if count is None else count
    done = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD_DOES, textwrap.dedent(body), str(number), *kinds.split()],
        env=os.environ | ({} if names is None else {"LISTEN_FDNAMES": names}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_rule_p1_they_come_by_name() -> None:
    body = """
        from trio_run import inherited_sockets
        for name, sockets in inherited_sockets().items():
            print(name, [(one.fileno(), one.family.name, one.type.name) for one in sockets])
    """
    assert spawned(body, kinds="tcp unix udp tcp", names="web:control:web:").splitlines() == [
        "web [(3, 'AF_INET', 'SOCK_STREAM'), (5, 'AF_INET', 'SOCK_DGRAM')]",
        "control [(4, 'AF_UNIX', 'SOCK_STREAM')]",
        " [(6, 'AF_INET', 'SOCK_STREAM')]",
    ]


def test_rule_p1_without_names_they_have_the_one_that_systemd_gives_such() -> None:
    body = """
        from trio_run import inherited_sockets
        print({name: len(sockets) for name, sockets in inherited_sockets().items()})
    """
    assert spawned(body, kinds="tcp tcp") == "{'unknown': 2}\n"


def test_rule_p1_no_child_has_them() -> None:
    body = """
        import os, subprocess, sys
        from trio_run import inherited_sockets
        [[listening]] = inherited_sockets().values()
        print(listening.get_inheritable())
        looks = "import os; print([name for name in os.environ if name.startswith('LISTEN_')])"
        subprocess.run([sys.executable, "-c", looks], check=True)
        print(inherited_sockets())
    """
    assert sorted(spawned(body, names="web").splitlines()) == ["False", "[]", "{}"]


async def test_rule_p1_a_listener_serves_on_one() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    source = f"""
        import os, sys
        os.dup2({listening.fileno()}, 3)
        os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}}
        from trio_run import TCPListener, inherited_sockets, run
        async def hello(stream):
            await stream.send_all(b"hello")
        sys.exit(run(TCPListener(hello, sockets=inherited_sockets()["unknown"])))
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    async with trio.open_nursery() as nursery:
        start = trio.run_process
        process = await nursery.start(
            lambda **options: start(
                command,
                pass_fds=[listening.fileno()],
                capture_stderr=True,
                check=False,
                **options,
            )
        )
        listening.close()
        async with await trio.open_tcp_stream(*address) as client:
            assert await client.receive_some() == b"hello"
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None and not os.environ.get("CI"),
    reason="this test asks systemd-socket-activate: apt-get install systemd",
)
async def test_rule_p1_as_systemd_itself_hands_them_over() -> None:
    port = free_port()
    served = """
        import sys
        from trio_run import TCPListener, inherited_sockets, run
        async def hello(stream):
            await stream.send_all(b"hello")
        sockets = inherited_sockets()
        print(list(sockets), flush=True)
        sys.exit(run(TCPListener(hello, sockets=sockets["web"])))
    """
    command = [
        *("systemd-socket-activate", "-l", f"127.0.0.1:{port}", "--fdname=web"),
        *(sys.executable, "-c", textwrap.dedent(served)),
    ]
    async with open_program(command) as program:
        await program.line_with("Listening on")
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            assert await client.receive_some() == b"hello"
        assert "['web']\n" in program.output
        program.signal(15)  # type: ignore[arg-type] # it is SIGTERM
        assert await program.exit_code() == 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"FDS": "1"},
        {"PID": "1", "FDS": "1"},
        {"PID": "1", "FDS": "nonsense", "FDNAMES": "a:b:c"},
        {"PID": str(os.getpid())},
        {"PID": str(os.getpid()), "FDS": "0"},
        {"FDNAMES": "web"},
    ],
)
def test_rule_p1_where_there_are_none_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    hand_over(monkeypatch, **variables)
    assert inherited_sockets() == {}
    assert not set(VARIABLES) & set(os.environ)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PID": "me", "FDS": "1"}, "LISTEN_PID='me' in the environment is not a whole number"),
        ({"FDS": "many"}, "LISTEN_FDS='many' in the environment is not a whole number"),
        ({"FDS": "-1"}, "LISTEN_FDS='-1' in the environment"),
        ({"FDS": "1_0"}, "LISTEN_FDS='1_0' in the environment"),
        ({"FDS": "9" * 30}, "LISTEN_FDS='9+' in the environment"),
        (
            {"FDS": "2", "FDNAMES": "web"},
            "LISTEN_FDS tells of 2 descriptors, and LISTEN_FDNAMES='web' has 1 names",
        ),
        ({"FDS": "0", "FDNAMES": "web"}, "LISTEN_FDS tells of 0 descriptors"),
        ({"FDS": "999999999"}, r"descriptor \d+, of which LISTEN_FDS tells, is"),
    ],
)
def test_rule_p1_nonsense_in_the_environment_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    hand_over(monkeypatch, **{"PID": str(os.getpid()), **variables})
    with pytest.raises(CannotStart, match=message):
        inherited_sockets()
    assert not set(VARIABLES) & set(os.environ)


def test_rule_p1_what_is_no_open_socket_is_a_clear_error() -> None:
    body = """
        import sys
        from trio_run import CannotStart, inherited_sockets
        try:
            inherited_sockets()
        except CannotStart as exc:
            print(exc)
    """
    assert spawned(body, kinds="tcp file") == (
        "descriptor 4, of which LISTEN_FDS tells, is no socket: a listener can't use it\n"
    )
    assert spawned(body, kinds="tcp", count=2) == (
        "descriptor 4, of which LISTEN_FDS tells, is not open in this process: "
        "Bad file descriptor\n"
    )
