"""Store: when a line is stored, what a batch is, what a stop, a failure and a cancel do to it."""

import logging
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import CannotStart, Cause, Group, every
from trio_run.skeleton import database as database_module
from trio_run.skeleton import store as store_module
from trio_run.skeleton.database import Line, SearchTooLong
from trio_run.skeleton.store import NotStored, Store

from .. import TIMEOUT
from .database import locked, stored_in

MANY = 10_000  # lines are a full batch


@asynccontextmanager
async def open_nursery() -> AsyncIterator[trio.Nursery]:
    """As Trio's, and what hangs in it is a failure."""
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            yield nursery


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Store]:
    """A store that runs; it is interrupted in the end, and must then return."""
    store = Store(directory)
    async with open_nursery() as nursery:
        await nursery.start(store.execute)
        yield store
        store.interrupt(Cause())


class Saving:
    """A save() in the background."""

    def __init__(self) -> None:
        self.ids: range | None = None
        self.failed = False
        self.over = trio.Event()

    async def run(self, store: Store, lines: list[str]) -> None:
        try:
            await store.room()
            self.ids = await store.save(lines, "test")
        except NotStored:
            self.failed = True
        self.over.set()


async def start_saving(nursery: trio.Nursery, store: Store, lines: list[str]) -> Saving:
    saving = Saving()
    nursery.start_soon(saving.run, store, lines)
    await wait_all_tasks_blocked()
    return saving


def batches(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many lines each commit had."""
    return [
        record.args[0]
        for record in caplog.records
        if record.msg.startswith("committed") and isinstance(record.args, tuple)
    ]


async def execute_until_it_fails(
    store: Store, failures: list[str], *, task_status: trio.TaskStatus[None]
) -> None:
    try:
        await store.execute(task_status=task_status)
    except sqlite3.Error as exc:
        failures.append(str(exc))


async def test_lines_are_committed_when_save_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        assert list(await store.save(["one", "two"], "test")) == [1, 2]
        assert stored_in(tmp_path) == {1: "one", 2: "two"}
        assert list(await store.save(["three"], "test")) == [3]
        assert stored_in(tmp_path) == {1: "one", 2: "two", 3: "three"}
        assert store.status == "3 lines stored, 0 waiting"


async def test_any_text_is_stored_as_it_is(tmp_path: Path) -> None:
    lines = ["", "a\0b", "grüße 🐟", "'; DROP TABLE lines; --", "tab\tand\rreturn"]
    async with running(tmp_path) as store:
        await store.save(lines, "test")
    assert list(stored_in(tmp_path).values()) == lines


async def test_more_lines_than_a_statement_takes_keep_their_order(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(1, 1_235)]
    async with running(tmp_path) as store:
        assert await store.save(lines, "test") == range(1, 1_235)
        assert store.status == "1,234 lines stored, 0 waiting"
    assert stored_in(tmp_path) == dict(enumerate(lines, start=1))


async def test_no_lines_are_nothing_to_wait_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as store:
        assert list(await store.save([], "test")) == []
        assert list(await store.save(["one"], "test")) == [1]
    assert batches(caplog) == [1]


async def test_ids_go_on_after_a_restart_and_are_never_used_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.save(["one", "two"], "test")
    with closing(sqlite3.connect(tmp_path / "lines.db")) as database, database:
        database.execute("DELETE FROM lines")
    async with running(tmp_path) as store:
        assert list(await store.save(["three"], "test")) == [3]


async def test_while_a_batch_is_being_committed_the_next_one_gathers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as store, open_nursery() as nursery:
        with locked(tmp_path) as lock:
            savings = [
                await start_saving(nursery, store, [f"{number}a", f"{number}b"])
                for number in range(4)
            ]
            assert store.status == "0 lines stored, 8 waiting"
            lock.release()
    assert batches(caplog) == [2, 6]
    assert [saving.ids for saving in savings] == [range(i, i + 2) for i in (1, 3, 5, 7)]
    assert list(stored_in(tmp_path).values()) == ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b"]


async def test_when_the_next_batch_is_full_callers_wait_for_the_one_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as store, open_nursery() as nursery:
        with locked(tmp_path) as lock:
            await start_saving(nursery, store, ["first"])
            await start_saving(nursery, store, ["x"] * MANY)
            last = await start_saving(nursery, store, ["last"])
            lock.release()
    assert batches(caplog) == [1, MANY, 1]
    assert last.ids == range(MANY + 2, MANY + 3)


async def test_interrupted_it_writes_what_has_gathered_and_returns(tmp_path: Path) -> None:
    async with open_nursery() as nursery:
        async with running(tmp_path) as store:
            with locked(tmp_path) as lock:
                first = await start_saving(nursery, store, ["first"])
                second = await start_saving(nursery, store, ["second"])
                store.interrupt(Cause())
                lock.release()
        assert store.status == "2 lines stored, 0 waiting"
    assert (first.ids, second.ids) == (range(1, 2), range(2, 3))
    assert stored_in(tmp_path) == {1: "first", 2: "second"}


async def test_once_it_has_stopped_nothing_is_stored_and_the_caller_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        pass
    with pytest.raises(NotStored):
        await store.save(["late"], "test")
    assert stored_in(tmp_path) == {}


async def test_it_leaves_the_database_and_its_reserve_behind(tmp_path: Path) -> None:
    async with running(tmp_path / "new" / "directory") as store:
        await store.save(["one"], "test")
    left = sorted(path.name for path in (tmp_path / "new" / "directory").iterdir())
    assert left == ["lines.db", "lines.db-reserve"]


async def test_when_a_commit_fails_everyone_who_waits_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failures: list[str] = []
    async with open_nursery() as nursery:
        await nursery.start(execute_until_it_fails, store, failures)
        with locked(tmp_path) as lock:
            lock.database.execute("DROP TABLE lines")
            savings = [
                await start_saving(nursery, store, lines)
                for lines in (["committing"], ["x"] * MANY, ["waiting for room"])
            ]
            lock.database.commit()
    assert failures == ["no such table: lines"]
    assert [saving.failed for saving in savings] == [True, True, True]
    assert store.status == "0 lines stored, 0 waiting"


async def test_a_batch_that_fails_is_not_stored_in_part(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON lines WHEN new.text = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    store = Store(tmp_path)
    failures: list[str] = []
    async with open_nursery() as nursery:
        await nursery.start(execute_until_it_fails, store, failures)
        with pytest.raises(NotStored):
            await store.save(["good"] * 700 + ["bad"], "test")
    assert failures == ["refused"]
    assert stored_in(tmp_path) == {}


async def test_cut_while_it_commits_it_still_tells_what_was_committed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with open_nursery() as waiting:
        async with open_nursery() as nursery:
            await nursery.start(store.execute)
            with locked(tmp_path) as lock:
                committing = await start_saving(waiting, store, ["committing"])
                gathered = await start_saving(waiting, store, ["gathered"])
                nursery.cancel_scope.cancel()
                lock.release()
    assert committing.ids == range(1, 2)
    assert gathered.failed
    assert stored_in(tmp_path) == {1: "committing"}


async def test_cut_while_another_program_has_it_locked_it_stores_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with open_nursery() as waiting:
        async with open_nursery() as nursery:
            await nursery.start(store.execute)
            with locked(tmp_path):
                saving = await start_saving(waiting, store, ["line"])
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await saving.over.wait()
    assert saving.failed
    assert stored_in(tmp_path) == {}


async def test_a_caller_that_gives_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as store, open_nursery() as nursery:
        with locked(tmp_path) as lock:
            async with open_nursery() as impatient:
                given_up = await start_saving(impatient, store, ["given up"])
                impatient.cancel_scope.cancel()
            other = await start_saving(nursery, store, ["other"])
            assert store.status == "0 lines stored, 1 waiting"
            lock.release()
    assert given_up.ids is None
    assert other.ids == range(2, 3)
    assert stored_in(tmp_path) == {1: "given up", 2: "other"}


async def test_locked_by_another_program_it_says_so_once_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_to_insert(database: sqlite3.Connection, rows: list[tuple[str, str, str]]) -> list[Line]:
        tries.append(rows)
        return insert(database, rows)

    tries: list[list[tuple[str, str, str]]] = []
    insert = database_module.insert
    monkeypatch.setattr(database_module, "insert", try_to_insert)
    monkeypatch.setattr(database_module, "LOCKED_TIMEOUT", 0.0)
    async with running(tmp_path) as store, open_nursery() as nursery:
        with locked(tmp_path) as lock:
            saving = await start_saving(nursery, store, ["line"])
            with trio.fail_after(30):
                while len(tries) < 5:
                    await trio.sleep(0.01)
            assert saving.ids is None
            lock.release()
    assert caplog.messages == [
        f"{tmp_path / 'lines.db'} is locked by another program: waiting for it"
    ]
    assert saving.ids == range(1, 2)


async def test_many_stores_may_write_the_same_database(tmp_path: Path) -> None:
    async def save_some(store: Store, name: int) -> None:
        for number in range(5):
            (line_id,) = await store.save([f"{name} {number}"], "test")
            ids[line_id] = f"{name} {number}"

    ids: dict[int, str] = {}
    stores = [Store(tmp_path) for _ in range(8)]
    async with open_nursery() as running:
        async with open_nursery() as nursery:
            for store in stores:  # at the same time: one of them makes the file
                nursery.start_soon(running.start, store.execute)
            for name, store in enumerate(stores):
                nursery.start_soon(save_some, store, name)
        for store in stores:
            store.interrupt(Cause())
    assert len(ids) == 40
    assert stored_in(tmp_path) == ids


async def test_when_it_collides_with_another_that_starts_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collide_once(path: Path) -> sqlite3.Connection:
        tries.append(path)
        if len(tries) == 1:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return open_database(path)

    tries: list[Path] = []
    open_database = database_module.open_to_write
    monkeypatch.setattr(database_module, "open_to_write", collide_once)
    monkeypatch.setattr(database_module, "LOCKED_TIMEOUT", 60.0)
    async with running(tmp_path) as store:
        assert list(await store.save(["one"], "test")) == [1]
    assert len(tries) == 2


async def test_a_table_and_an_index_that_a_person_added_do_no_harm(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.save(["one"], "test")
    with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
        database.execute("CREATE TABLE notes (text)")
        database.execute("CREATE INDEX by_time ON lines (received)")
    async with running(tmp_path) as store:
        assert list(await store.save(["two"], "test")) == [2]


async def refused(directory: Path) -> str:
    """The sentence with which it refuses to start."""
    with pytest.raises(CannotStart) as caught, trio.fail_after(TIMEOUT):
        await Store(directory).execute(task_status=trio.TASK_STATUS_IGNORED)
    return str(caught.value)


async def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    sentence = await refused(tmp_path / "file")
    assert sentence == (
        f"cannot use {tmp_path}/file: it is not a directory; choose another directory with --dir "
        f"or COLLECTOR_DIR"
    )
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sentence = await refused(tmp_path / "file" / "below")
    assert sentence == (
        f"cannot make {tmp_path}/file/below: Not a directory; choose another directory with "
        f"--dir or COLLECTOR_DIR"
    )


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.db"
    path.write_text("Dear diary, today I did not write a database.")
    assert await refused(tmp_path) == (
        f"cannot use {path}: file is not a database; move it away, "
        "or choose another directory with --dir or COLLECTOR_DIR"
    )
    assert path.read_text() == "Dear diary, today I did not write a database."


async def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE lines (verse TEXT)")
    before = path.read_bytes()
    assert await refused(tmp_path) == (
        f"cannot use {path}: it is the database of another program; "
        "choose another directory with --dir or COLLECTOR_DIR"
    )
    assert path.read_bytes() == before


async def test_a_database_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.db"
    path.mkdir()
    assert await refused(tmp_path) == (
        f"cannot use {path}: unable to open database file; see that the directory can be written, "
        "or choose another directory with --dir or COLLECTOR_DIR"
    )


async def test_a_database_that_another_program_keeps_for_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCKED_TIMEOUT", 0.0)
    path = tmp_path / "lines.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert await refused(tmp_path) == (
            f"cannot use {path}: database is locked; stop the program that uses it, "
            "or choose another directory with --dir or COLLECTOR_DIR"
        )


def insert_old(directory: Path, count: int) -> None:
    """Lines that have been there for a million seconds."""
    with closing(sqlite3.connect(directory / "lines.db")) as database, database:
        database.executemany(
            "INSERT INTO lines (received, source, text) VALUES ('', 'test', ?)", [("old",)] * count
        )
        database.executemany(
            "INSERT INTO ages SELECT ?, max(id), 'test' FROM lines", [(0.0,), (1e6,)]
        )


async def test_the_latest_lines_are_found_the_newest_first(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        assert await store.latest(10) == []
        before = datetime.now(UTC).replace(microsecond=0)
        await store.save(["one", "two"], "127.0.0.1")
        await store.save(["three"], "udp:127.0.0.1")
        three, two = await store.latest(2)
        assert (three.id, three.source, three.text) == (3, "udp:127.0.0.1", "three")
        assert (two.id, two.source, two.text) == (2, "127.0.0.1", "two")
        assert three.received.endswith("Z")
        assert before <= datetime.fromisoformat(three.received) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["100 \\", "a_b", "GRÜSSE", "grüße", "axb", "100 %"]),
        ("b", ["a_b", "axb"]),
        ("B", ["a_b", "axb"]),
        ("gr", ["GRÜSSE", "grüße"]),
        ("üß", ["grüße"]),
        ("%", ["100 %"]),
        ("_", ["a_b"]),
        ("\\", ["100 \\"]),
        ("' OR 1=1 --", []),
    ],
)
async def test_a_search_finds_text_as_it_is_written(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    async with running(tmp_path) as store:
        await store.save(["100 %", "axb", "grüße", "GRÜSSE", "a_b", "100 \\"], "test")
        assert [line.text for line in await store.latest(10, text)] == found


async def test_a_search_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as store:
        await store.save(["line"] * 5_000, "test")
        monkeypatch.setattr(store_module, "_SEARCH_TIMEOUT", -1.0)
        with pytest.raises(SearchTooLong):
            await store.latest(10, "needle")
        monkeypatch.undo()
        assert len(await store.latest(10, "line")) == 10


async def test_a_read_that_fails_is_no_search_that_takes_too_long(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
            database.execute("DROP TABLE lines")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await store.latest(10)


async def test_it_reads_while_another_program_writes(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.save(["one"], "test")
        with locked(tmp_path):
            assert [line.text for line in await store.latest(10, "one")] == ["one"]


async def test_reads_that_come_together_are_all_answered(tmp_path: Path) -> None:
    async def read(store: Store) -> None:
        counts.append(len(await store.latest(100)))

    counts: list[int] = []
    async with running(tmp_path) as store:
        await store.save(["line"] * 50, "test")
        async with open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read, store)
    assert counts == [50] * 20


async def test_lines_that_are_older_are_deleted_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as store:
        insert_old(tmp_path, 2_345)
        await store.save(["new"], "test")
        assert await store.delete_older_than(3600) == 2_345
        assert stored_in(tmp_path) == {2_346: "new"}
        assert await store.delete_older_than(3600) == 0
    assert caplog.messages == ["deleted 2345 lines older than 0.0416667 days"]


async def test_when_all_are_older_all_are_deleted_and_ids_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        assert await store.delete_older_than(0) == 0  # there is none
        insert_old(tmp_path, 3)
        assert await store.delete_older_than(3600) == 3
        assert list(await store.save(["new"], "test")) == [4]


async def test_for_ever_is_an_age_that_no_line_has(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        insert_old(tmp_path, 1)
        assert await store.delete_older_than(math.inf) == 0


async def test_commits_take_their_turn_while_old_lines_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def delete() -> None:
        await store.delete_older_than(3600)
        done.append("deleted")

    async def save() -> None:
        for number in range(5):
            await store.save([f"line {number}"], "test")
        done.append("saved")

    done: list[str] = []
    monkeypatch.setattr(database_module, "_DELETED_AT_ONCE", 1)
    async with running(tmp_path) as store:
        insert_old(tmp_path, 200)
        async with open_nursery() as nursery:
            nursery.start_soon(delete)
            nursery.start_soon(save)
    assert done == ["saved", "deleted"]
    assert list(stored_in(tmp_path).values()) == [f"line {number}" for number in range(5)]


async def test_a_deletion_does_not_hold_up_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_some(database: sqlite3.Connection, first_kept: int) -> int:
        deletions.append(first_kept)
        trio.from_thread.run_sync(group.stop)
        return delete(database, first_kept)

    deletions: list[int] = []
    delete = database_module.delete_some
    monkeypatch.setattr(database_module, "delete_some", delete_some)
    group = Group()
    store = Store(tmp_path)
    storing = group.add(store)
    group.add(every(0.01, store.delete_older_than, 3600), needs=[storing])
    async with running(tmp_path):
        insert_old(tmp_path, 5_000)
    with trio.fail_after(TIMEOUT):
        await group.run()
    assert len(deletions) == 1
    assert len(stored_in(tmp_path)) == 4_000


async def test_locked_by_another_program_a_deletion_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCKED_TIMEOUT", 0.0)
    async with running(tmp_path) as store:
        insert_old(tmp_path, 1)
        async with open_nursery() as nursery:
            with locked(tmp_path) as lock:
                nursery.start_soon(store.delete_older_than, 3600)
                with trio.fail_after(TIMEOUT):
                    while not caplog.messages:
                        await trio.sleep(0.01)
                assert stored_in(tmp_path) == {1: "old"}
                lock.release()
    assert stored_in(tmp_path) == {}


async def test_each_batch_is_published_when_it_is_committed_before_its_senders_are_told(
    tmp_path: Path,
) -> None:
    def publish(lines: Sequence[Line]) -> None:
        assert [line.text for line in lines] == list(stored_in(tmp_path).values())[-len(lines) :]
        happened.append([(line.id, line.source, line.text) for line in lines])

    happened: list[object] = []
    store = Store(tmp_path, publish=[publish, publish])
    async with open_nursery() as nursery:
        await nursery.start(store.execute)
        happened.append(list(await store.save(["one", "two"], "me")))
        happened.append(list(await store.save(["three"], "you")))
        store.interrupt(Cause())
    first, second = [(1, "me", "one"), (2, "me", "two")], [(3, "you", "three")]
    assert happened == [first, first, [1, 2], second, second, [3]]


async def test_what_was_not_committed_is_not_published(tmp_path: Path) -> None:
    published: list[Line] = []
    store = Store(tmp_path, publish=[published.extend])
    failures: list[str] = []
    async with open_nursery() as nursery:
        await nursery.start(execute_until_it_fails, store, failures)
        with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
            database.execute("DROP TABLE lines")
        with pytest.raises(NotStored):
            await store.save(["one"], "test")
    assert published == []
    assert len(failures) == 1


async def test_cut_it_closes_only_when_who_reads_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_slowly(*asked: Any) -> list[Line]:
        trio.from_thread.run_sync(reading.set)
        assert may_read.wait(TIMEOUT)
        return latest(*asked)

    async def read() -> None:
        found.extend(await store.latest(10))

    reading, may_read = trio.Event(), threading.Event()
    found: list[Line] = []
    latest = database_module.latest
    monkeypatch.setattr(database_module, "latest", read_slowly)
    store = Store(tmp_path)
    async with open_nursery() as readers:
        async with open_nursery() as nursery:
            await nursery.start(store.execute)
            await store.save(["one"], "test")
            readers.start_soon(read)
            await reading.wait()
            nursery.cancel_scope.cancel()
            readers.start_soon(trio.to_thread.run_sync, may_read.set)
    assert [line.text for line in found] == ["one"]


async def test_what_is_found_is_bounded_in_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MOST_FOUND", 1000)
    async with running(tmp_path) as store:
        await store.save(["x" * 400] * 10, "test")
        assert len(await store.latest(10)) == 3


async def test_a_search_that_waits_too_long_for_its_turn_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else many of them would hold up a stop, one after the other."""
    monkeypatch.setattr(store_module, "_SEARCH_TIMEOUT", 0.0)
    async with running(tmp_path) as store:
        await store.save(["x"] * 9_000, "test")
        with pytest.raises(SearchTooLong):
            await store.latest(10, "nowhere")


def test_a_large_transaction_needs_no_place_for_temporary_files(tmp_path: Path) -> None:
    """In a container there may be none that can be written to."""
    with closing(database_module.open_to_write(tmp_path / "lines.db")) as database:
        assert database.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY
