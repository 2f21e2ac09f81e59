"""Damage: a database that breaks in its midst, as real disks break, and who hears of it."""

import json
import logging
import os
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause
from trio_run.skeleton import damage as damage_module
from trio_run.skeleton import database as database_module
from trio_run.skeleton.database import Damaged
from trio_run.skeleton.store import Store
from trio_run.testing import open_program

from .. import TIMEOUT
from ..programs import python
from .running import FREE_PORTS, get, port_of, where

PAGE = 4096
LINES = 5_000  # of 1,000 bytes: more than SQLite keeps in its log
QUICK = """
import sys
from trio_run.skeleton import app, damage
damage._SHORTEST_PAUSE = 0.1
sys.exit(app.main())
"""


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Store]:
    store = Store(directory)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.execute)
            yield store
            store.interrupt(Cause())


async def fill(directory: Path) -> None:
    async with running(directory) as store:
        await store.save([f"{number} {'x' * 1000}" for number in range(LINES)], "test")


def destroy(directory: Path, content: bytes, page: int | None = None) -> None:
    """What is in a page, by default one in the midst, is something else from now on."""
    path = directory / "lines.db"
    if page is None:
        page = path.stat().st_size // PAGE // 2
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(content)


@pytest.mark.parametrize("content", [bytes(PAGE), b"\xa5" * PAGE, os.urandom(PAGE)])
async def test_a_page_that_is_another_is_found_and_said_once(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(tmp_path)
    destroy(tmp_path, content)
    async with running(tmp_path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(damage_module.watch, store)
        while not store.damage:
            await trio.sleep(0.01)
        store.report_damage("and again")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/lines.db is damaged, and lines may be lost: ")
    assert "\n" not in message


@pytest.mark.parametrize(("takes", "pause"), [(0.0, 10.0), (2.0, 200.0)])
async def test_it_looks_again_and_again_a_hundredth_of_the_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
    takes: float,
    pause: float,
) -> None:
    async def look(opened: sqlite3.Connection) -> str:
        looked.append(trio.current_time())
        await trio.sleep(takes)
        return ""

    looked: list[float] = []
    monkeypatch.setattr(damage_module, "_look", look)
    with trio.move_on_after(3 * (takes + pause) + 1):
        await damage_module.watch(Store(tmp_path))
    assert looked == [number * (takes + pause) for number in range(4)]


async def test_a_sound_database_is_not_damaged_while_lines_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        with closing(database_module.open_to_read(store.path)) as opened:
            for number in range(50):
                await store.save([f"{number} {'x' * 1000}"] * 100, "test")
                assert await damage_module._look(opened) == ""


async def test_a_stop_does_not_wait_for_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_for_ever(opened: sqlite3.Connection) -> str:
        opened.set_progress_handler(began.set, 1_000)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            opened.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT max(i) FROM n"
            )
        return ""

    began = threading.Event()
    monkeypatch.setattr(database_module, "damage", look_for_ever)
    async with running(tmp_path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(damage_module.watch, store)
        await trio.to_thread.run_sync(began.wait)
        nursery.cancel_scope.cancel()
    assert store.damage == ""


def test_a_look_that_is_interrupted_or_can_not_be_had_finds_nothing(tmp_path: Path) -> None:
    class Failing:
        def __init__(self, code: int) -> None:
            self.code = code

        def execute(self, _: str) -> None:
            error = sqlite3.OperationalError("it failed")
            error.sqlite_errorcode = self.code
            raise error

    def found(code: int) -> str:
        return database_module.damage(Failing(code))  # type: ignore[arg-type]

    assert found(sqlite3.SQLITE_INTERRUPT) == ""
    assert found(sqlite3.SQLITE_BUSY) == ""
    assert found(sqlite3.SQLITE_IOERR_READ) == "it failed"
    assert found(sqlite3.SQLITE_CORRUPT) == "it failed"


async def test_where_it_can_not_be_opened_for_a_look_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_to_read(path: Path) -> sqlite3.Connection:
        tries.append(path)
        if len(tries) == 1:
            raise sqlite3.OperationalError("unable to open database file")
        return really(path)

    await fill(tmp_path)
    destroy(tmp_path, bytes(PAGE))
    monkeypatch.setattr(damage_module, "_SHORTEST_PAUSE", 0.01)
    tries: list[Path] = []
    really = database_module.open_to_read
    async with running(tmp_path) as store, trio.open_nursery() as nursery:
        monkeypatch.setattr(database_module, "open_to_read", open_to_read)
        nursery.start_soon(damage_module.watch, store)
        while not store.damage:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert len(tries) == 2


async def test_who_reads_or_deletes_what_is_broken_hears_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await fill(tmp_path)
    destroy(tmp_path, bytes(PAGE))
    async with running(tmp_path) as store:
        with pytest.raises(Damaged, match="malformed"):
            await store.latest(10, "nowhere")
        assert "malformed" in store.damage
        assert len(await store.latest(10)) == 10  # what is sound can be read
    async with running(tmp_path) as store:
        assert await store.delete_older_than(0) < LINES
        assert "malformed" in store.damage
    assert len(caplog.messages) == 2


async def test_a_deletion_that_fails_otherwise_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
            database.execute("DROP TABLE ages")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await store.delete_older_than(10)


async def test_text_that_is_broken_can_be_read(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.save(["one"], "test")
        with closing(sqlite3.connect(tmp_path / "lines.db")) as database, database:
            database.execute("UPDATE lines SET text = CAST(x'6f6eff' AS TEXT)")
        (line,) = await store.latest(10)
        assert line.text == "on\N{REPLACEMENT CHARACTER}"


async def test_while_it_runs_the_log_and_the_health_and_the_page_say_so(tmp_path: Path) -> None:
    await fill(tmp_path)
    options = [*FREE_PORTS, "--dir", str(tmp_path)]
    async with open_program(python("-W", "error", "-c", QUICK, *options)) as program:
        health, web = [await port_of(program, door) for door in ("curl", "http:")]
        await where(program)
        assert await get("127.0.0.1", health, "/livez") == (200, b"alive\n")
        destroy(tmp_path, bytes(PAGE))
        await program.line_with("is damaged, and lines may be lost: ")
        status, body = await get("127.0.0.1", health, "/livez")
        assert (status, body[:25]) == (503, b"the database is damaged: ")
        _, body = await get("127.0.0.1", web, "/status")
        assert json.loads(body)["damage"]
        status, body = await get("127.0.0.1", web, "/lines?search=nowhere")
        assert status == 503
        assert json.loads(body)["error"].startswith("the database is damaged: ")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "Traceback" not in program.output
