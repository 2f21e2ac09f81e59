"""Room: a disk that is full, a database that has its full size, and how both heal."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from trio_run import CannotStart, Cause
from trio_run.skeleton import database as database_module
from trio_run.skeleton import room as room_module
from trio_run.skeleton.room import NoRoom, Room
from trio_run.skeleton.store import NotStored, Store
from trio_run.testing import Program

from .. import TIMEOUT
from .database import stored_in
from .running import get, open_app, port_of, where

FULL = "the disk is full, or can't be written"
LONG = "x" * 60_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(
    directory: Path, *, clock: Callable[[], float] | None = None, max_size: float = 1e9
) -> AsyncIterator[Store]:
    store = Store(directory, max_size=max_size, clock=clock or Clock())
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.execute)
            yield store
            store.interrupt(Cause())


def pages(store: Store) -> int:
    (count,) = store._writer.execute("PRAGMA page_count").fetchone()
    return int(count)


def allow_pages(store: Store, count: int) -> None:
    """To SQLite, a database that may not grow is a disk that is full."""
    store._writer.execute(f"PRAGMA max_page_count = {count}")


async def save_until_refused(store: Store) -> tuple[int, str]:
    """How many lines were stored, and why the next one is not."""
    count = 0
    while True:
        try:
            await store.save([LONG], "test")
        except NotStored as exc:
            return count, str(exc)
        count += 1


async def test_on_a_full_disk_lines_are_refused_until_there_is_room_and_both_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as store:
        await store.save(["one"], "test")
        allow_pages(store, pages(store))
        for _ in range(3):
            with pytest.raises(NotStored, match=FULL):
                await store.save([LONG], "test")
        assert store.trouble == FULL
        assert store.status == f"1 lines stored, 0 waiting; refused: {FULL}"
        assert [line.text for line in await store.latest(10)] == ["one"]
        allow_pages(store, 1_000)
        assert await store.save([LONG], "test") == range(2, 3)
        assert store.trouble == ""
    assert caplog.messages == [
        f"no line can be stored in {tmp_path}/lines.db: {FULL}; free some space there",
        "lines are stored again: 3 were refused",
    ]


async def test_a_database_has_no_more_than_its_size_and_a_batch_until_lines_are_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with running(tmp_path, clock=clock, max_size=1e6) as store:
        count, reason = await save_until_refused(store)
        assert reason == "the database has its full size of 1 MB"
        assert count == 17  # of 60 kB: the last one begins within it
        await store.delete_older_than(100)
        clock.now = 100
        assert await store.delete_older_than(100) == 17
        assert (await save_until_refused(store))[0] == 17
    assert (tmp_path / "lines.db").stat().st_size < 1e6 + len(LONG) + 4096 * 4
    sentence = (
        f"no line can be stored in {tmp_path}/lines.db: the database has its full size of 1 MB; "
        "give it more with --max-size, or keep lines for a shorter time with --retention"
    )
    assert caplog.messages == [sentence] * 2


def no_room(*asked: object) -> int:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


async def test_where_not_even_the_reserve_makes_room_to_delete_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "delete_some", no_room)
    async with running(tmp_path) as store:
        reserve = tmp_path / "lines.db-reserve"
        assert reserve.stat().st_size == room_module.RESERVE
        assert await store.delete_older_than(100) == 0
        assert await store.delete_older_than(100) == 0
        assert reserve.exists()  # the disk has room here
        await store.save(["one"], "test")
    assert caplog.messages == [
        f"no line can be stored in {tmp_path}/lines.db: {FULL}; free some space there"
    ]


def test_another_failure_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fail(database: sqlite3.Connection, what: list[int]) -> None:
        if what.pop():
            no_room()
        database.execute("SELECT * FROM nowhere")

    room = Room(tmp_path / "lines.db", 1e9)
    with closing(sqlite3.connect(":memory:")) as database:
        for fails_before in ([0], [0, 1]):
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                room.write_lines(fail, database, fails_before)


def test_without_a_reserve_there_is_nothing_to_give_up(tmp_path: Path) -> None:
    room = Room(tmp_path / "lines.db", 1e9)
    with closing(sqlite3.connect(":memory:")) as database, pytest.raises(NoRoom):
        room.free(no_room, database, None)
    assert not room.give_up_reserve()


def test_no_reserve_is_made_that_would_leave_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "RESERVE", 2**60)
    Room(tmp_path / "lines.db", 1e9).keep_reserve()
    assert list(tmp_path.iterdir()) == []


async def test_where_it_cannot_open_the_database_it_gives_up_the_reserve_and_then_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = tmp_path / "lines.db-reserve"
    reserve.touch()
    monkeypatch.setattr(database_module, "open_to_write", no_room)
    with pytest.raises(CannotStart) as caught:
        await Store(tmp_path).execute(task_status=trio.TASK_STATUS_IGNORED)
    assert not reserve.exists()
    assert str(caught.value) == (
        f"cannot use {tmp_path}/lines.db: database or disk is full; free some space there, "
        "or choose another directory with --dir or COLLECTOR_DIR"
    )


# As people have it: a real process on a real, small disk.


class Disk:
    """12 MB, of which a test takes what it wants."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Another program takes all that is left."""
        with (self.path / "other").open("ab", buffering=0) as file:
            for size in (2**16, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> int:
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this test mounts a small disk, which needs root")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


async def send(program: Program, *lines: str) -> list[str]:
    """What they are answered."""
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(*await where(program)) as stream:
            await stream.send_all("".join(f"{line}\n" for line in lines).encode())
            await stream.send_eof()
            answers = b"".join([answer async for answer in stream])
    return answers.decode().splitlines()


async def shown(program: Program, search: str = "") -> list[str]:
    """The lines on the page, as they begin."""
    port = await port_of(program, "http:")
    status, body = await get("127.0.0.1", port, f"/lines?limit=1000&search={search}")
    assert status == 200
    return [line["text"][:10] for line in json.loads(body)["lines"]]


async def stop(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert await program.exit_code() == 0, program.output


async def test_a_disk_that_the_lines_have_filled_heals_when_they_are_old(disk: Disk) -> None:
    async with open_app(disk.path, "--retention", "0.00005") as program:  # 4 s
        (answer,) = await send(program, "first")
        while answer.startswith("ok "):
            (answer,) = await send(program, LONG)
        assert answer == f"error it could not be stored: {FULL}"
        assert await shown(program, "first") == ["first"]
        await program.line_with("deleted ")
        with trio.fail_after(TIMEOUT):
            while not (await send(program, "healed"))[0].startswith("ok "):
                await trio.sleep(0.1)
        await program.line_with("lines are stored again: ")
        assert "healed" in await shown(program, "healed")
        await stop(program)
    assert "Traceback" not in program.output


async def test_it_starts_on_a_full_disk_shows_what_there_is_and_heals(disk: Disk) -> None:
    async with open_app(disk.path) as program:
        assert await send(program, "one") == ["ok 1"]
        disk.fill()
        while (await send(program, LONG))[0].startswith("ok "):
            pass  # there was room in what the database has already
        await stop(program)
    disk.fill()
    assert disk.free() == 0
    async with open_app(disk.path, "--retention", "0.00002") as program:  # 2 s
        assert await shown(program, "one") == ["one"]
        disk.fill()  # what the reserve has left, too
        await program.line_with("deleted ")
        (disk.path / "other").unlink()
        assert (await send(program, LONG))[0].startswith("ok ")
        await stop(program)
    assert "Traceback" not in program.output


async def test_what_is_acknowledged_while_the_disk_fills_up_and_it_is_killed_is_there(
    disk: Disk,
) -> None:
    acknowledged = []
    async with open_app(disk.path) as program:
        while True:
            (answer,) = await send(program, f"{len(acknowledged)} {LONG}")
            if not answer.startswith("ok "):
                break
            acknowledged.append(len(acknowledged))
        program.signal(signal.SIGKILL)
        await program.exit_code()
    async with open_app(disk.path) as program:
        assert len(await shown(program)) > 0
        await stop(program)
    stored = [int(text.split()[0]) for text in stored_in(disk.path).values()]
    assert stored[: len(acknowledged)] == acknowledged
