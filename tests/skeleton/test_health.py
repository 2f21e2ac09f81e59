"""Health: what is answered at a port of its own, for as long as anything of us is there."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from trio_run import Group
from trio_run.skeleton.health import Health
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


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Group, Store]]:
    group = Group(grace=40, lame_duck=30)
    store = Store(directory)
    group.add(store)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(group.run)
            yield group, store
            group.stop()
            group.stop()  # and no lame duck


async def ask(group: Group, store: Store, path: str) -> tuple[int, bytes]:
    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    messages: list[dict[str, Any]] = []
    await Health(group, store)({"type": "http", "path": path}, None, send)
    start, body = messages
    return start["status"], body["body"]


async def test_it_is_alive_and_ready_and_in_the_lame_duck_not_ready(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        assert await ask(*service, "/livez") == (200, b"alive\n")
        assert await ask(*service, "/readyz") == (200, b"running\n")
        service[0].stop()
        assert await ask(*service, "/livez") == (200, b"alive\n")
        assert await ask(*service, "/readyz") == (503, b"lame duck\n")
        assert (await ask(*service, "/lines"))[0] == 404


async def test_before_the_start_is_over_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    service = Group(), Store(tmp_path)
    assert (await ask(*service, "/livez"))[0] == 200
    assert (await ask(*service, "/readyz"))[0] == 503


async def test_with_a_damaged_database_it_is_not_alive(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        service[1].report_damage("page 7 is blank")
        assert await ask(*service, "/livez") == (503, b"the database is damaged: page 7 is blank\n")


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
