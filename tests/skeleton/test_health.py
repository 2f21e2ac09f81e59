"""Health: what is answered at a port of its own, for as long as anything of us is there."""

import json
import signal
import socket
from pathlib import Path

import pytest
import trio

from trio_run import StatusPage
from trio_run.skeleton.app import make_group
from trio_run.skeleton.config import Config
from trio_run.skeleton.store import Store
from trio_run.testing import open_program

from .. import TIMEOUT
from ..programs import python
from .running import FREE_PORTS, get, health, open_app, port_of, where

FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
from trio_run.skeleton.app import main
sys.exit(main())
"""


async def test_it_says_how_the_collector_is(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        port = await port_of(program, "curl")
        assert await get("127.0.0.1", port, "/livez") == (200, b"alive\n")
        assert await get("127.0.0.1", port, "/readyz") == (200, b"ready\n")
        status, body = await get("127.0.0.1", port, "/status")
        assert status == 200
        names = [actor["name"] for actor in json.loads(body)["actors"]]
        assert names[:3] == ["signals", "health", "store"]
        status, body = await get("127.0.0.1", port, "/metrics")
        assert (status, body[:7]) == (200, b"# HELP ")
        status, body = await get("127.0.0.1", port, "/")
        assert (status, body[:15]) == (200, b"<!doctype html>")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0


def test_with_a_damaged_database_it_is_not_alive(tmp_path: Path) -> None:
    group = make_group(Config(dir=tmp_path))
    [page] = [member.actor for member in group.members if isinstance(member.actor, StatusPage)]
    [store] = [member.actor for member in group.members if isinstance(member.actor, Store)]
    assert page._app._livez(group).status == 200
    store.report_damage("page 7 is blank")
    answer = page._app._livez(group)
    assert (answer.status, answer.body) == (503, b"the database is damaged: page 7 is blank\n")


async def test_it_may_be_asked_by_the_names_that_are_set(tmp_path: Path) -> None:
    async with open_app(tmp_path, "--names", "logs.example.org") as program:
        port = await port_of(program, "curl")
        for name, expected in (("logs.example.org", b"200"), ("other.example.org", b"403")):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(f"GET /status HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
                assert (await stream.receive_some()).split()[1] == expected
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0


async def test_systemd_hears_how_the_collector_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the unit with Type=notify has it, and ExecReload=."""
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        await manager.bind(address)

        async def hears(word: bytes) -> None:
            with trio.fail_after(TIMEOUT):
                while word not in await manager.recv(4096):
                    pass

        async with open_app(tmp_path) as program:
            await hears(b"READY=1")
            program.signal(signal.SIGHUP)
            await hears(b"RELOADING=1")
            await hears(b"READY=1")
            program.signal(signal.SIGTERM)
            await hears(b"STOPPING=1")
            assert await program.exit_code() == 0


async def test_who_asks_for_a_websocket_there_is_refused(tmp_path: Path) -> None:
    async with open_app(tmp_path) as program:
        async with await trio.open_tcp_stream(
            "127.0.0.1", await port_of(program, "curl")
        ) as stream:
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 403 ")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0
        assert "Traceback" not in program.output


async def test_it_answers_while_idle_clients_have_taken_all_their_places(tmp_path: Path) -> None:
    """More of them than the process may have descriptors: they wait in the kernel's queue."""
    options = [*FREE_PORTS, "--dir", str(tmp_path)]
    async with open_program(python("-W", "error", "-c", FEW_DESCRIPTORS, *options)) as program:
        host, port = await where(program)
        web = await port_of(program, "http:")
        clients = []
        with trio.fail_after(TIMEOUT):
            for door in (port, web):
                clients += [await trio.open_tcp_stream(host, door) for _ in range(450)]
            assert await health(program) == (200, 200)
            for client in clients:
                await client.aclose()
            assert (await get(host, web, "/lines"))[0] == 200
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "Traceback" not in program.output
