"""Age: which lines are old, whatever becomes of the clock of the machine, and who counts."""

import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_run import Cause
from trio_run.skeleton import database as database_module
from trio_run.skeleton.age import Age
from trio_run.skeleton.store import Store
from trio_run.testing import Program, open_program

from .. import TIMEOUT
from ..programs import python
from .database import locked, stored_in
from .running import FREE_PORTS, where

WEEK = 7 * 24 * 60 * 60


class Clock:
    """One that a test sets forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(database_module.open_to_write(tmp_path / "lines.db")) as opened:
        yield opened


def store_line(database: sqlite3.Connection) -> None:
    database_module.insert(database, [("", "test", "line")])


def test_a_line_is_old_when_the_time_has_passed_and_not_before(
    database: sqlite3.Connection,
) -> None:
    clock = Clock()
    age = Age(clock)
    for _ in range(3):  # at 0, 40 and 80 s
        store_line(database)
        assert age.last_older_than(database, 100) == 0
        clock.now += 40
    assert age.last_older_than(database, 100) == 1  # it is 120: what was there at 20
    clock.now = 179
    assert age.last_older_than(database, 100) == 2
    clock.now = 180
    assert age.last_older_than(database, 100) == 3
    clock.now = 1_000
    assert age.last_older_than(database, 100) == 3


def test_no_time_makes_a_line_as_old_as_infinity(database: sqlite3.Connection) -> None:
    clock = Clock()
    age = Age(clock)
    store_line(database)
    age.last_older_than(database, float("inf"))
    clock.now = 1e12
    assert age.last_older_than(database, float("inf")) == 0


def test_the_time_between_two_runs_does_not_count(database: sqlite3.Connection) -> None:
    """Nobody knows how long it was."""
    clock = Clock()
    first = Age(clock)
    store_line(database)
    first.last_older_than(database, 100)
    clock.now = 60
    first.last_older_than(database, 100)
    clock.now = 1e9
    second = Age(clock)
    for seconds in (0, 60, 39):  # it looks who counts, takes over, counts
        clock.now += seconds
        assert second.last_older_than(database, 100) == 0
    clock.now += 1
    assert second.last_older_than(database, 100) == 1


def test_the_time_that_two_share_is_counted_once(database: sqlite3.Connection) -> None:
    clock = Clock()
    ages = [Age(clock), Age(clock)]
    store_line(database)
    found = []
    while not any(found):
        found = [age.last_older_than(database, WEEK) for age in ages]
        clock.now += 60
    assert clock.now - 60 == WEEK
    assert found == [1, 1]


def test_when_the_one_that_counts_is_gone_the_other_goes_on(database: sqlite3.Connection) -> None:
    clock = Clock()
    gone, other = Age(clock), Age(clock)
    store_line(database)
    for age in (gone, other):
        age.last_older_than(database, 1000)
    while not other.last_older_than(database, 1000):
        clock.now += 60
    assert 1000 <= clock.now <= 1000 + 2 * 60


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.booleans()), max_size=60))
def test_whoever_looks_and_is_begun_anew_no_line_is_taken_for_older_than_it_is(
    looks: list[tuple[int, int, bool]],
) -> None:
    clock = Clock()
    ages = [Age(clock) for _ in range(3)]
    stored_at = [0.0]  # by id; there is no 0
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for table in (database_module._LINES, database_module.AGES):
            database.execute(table)
        for who, seconds, is_begun_anew in looks:
            clock.now += seconds
            store_line(database)
            stored_at.append(clock.now)
            if is_begun_anew:
                ages[who] = Age(clock)
            last = ages[who].last_older_than(database, 100)
            assert last == 0 or clock.now - stored_at[last] >= 100


async def test_what_is_stored_while_a_look_waits_for_the_database_is_not_older_than_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as store:
        with locked(tmp_path) as lock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.delete_older_than, 100)  # at 0, if it could
                while not caplog.messages:  # that it waits
                    await trio.sleep(0.01)
                clock.now = 50
                lock.database.execute("INSERT INTO lines VALUES (1, '', 'test', 'at 50')")
                lock.database.commit()
        clock.now = 100
        assert await store.delete_older_than(100) == 0
        clock.now = 150
        assert await store.delete_older_than(100) == 1


@asynccontextmanager
async def running(directory: Path, clock: Clock) -> AsyncIterator[Store]:
    store = Store(directory, clock=clock)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.execute)
            yield store
            store.interrupt(Cause())


def marks(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "lines.db")) as database:
        (count,) = database.execute("SELECT count(*) FROM ages").fetchone()
        return int(count)


async def test_marks_that_are_of_no_use_any_more_are_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as store:
        for _ in range(50):
            clock.now += 60
            await store.delete_older_than(600)
    assert marks(tmp_path) == 11


async def test_a_database_that_knows_no_ages_yet_keeps_its_lines_and_learns(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, Clock()) as store:
        await store.save(["one"], "test")
    with closing(sqlite3.connect(tmp_path / "lines.db")) as database:
        database.execute("DROP TABLE ages")
    clock = Clock()
    async with running(tmp_path, clock) as store:
        assert await store.delete_older_than(WEEK) == 0
        clock.now = WEEK
        assert await store.delete_older_than(WEEK) == 1


# As people run it: the clock of the machine is another in each life, and may be set in between.

LOOKS = """
import datetime, sys, time
from trio_run.skeleton import app, store

ahead = float(sys.argv.pop(1))  # seconds, in which days go by
looks = 0

class Clock(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.datetime.now(zone) + datetime.timedelta(seconds=ahead)

async def look(store, seconds):
    global looks
    await store.delete_older_than(seconds)
    looks += 1
    if looks == 5:
        print("looked five times", flush=True)

real_time = time.time
store.datetime = Clock
time.time = lambda: real_time() + ahead
every = app.every
app.every = lambda seconds, delete, old: every(0.02, look, delete.__self__, old)
sys.exit(app.main())
"""


async def life(directory: Path, ahead: float, *lines: str) -> None:
    """The clock is so much ahead: these lines are acknowledged, and it looks for old ones."""
    options = [*FREE_PORTS, "--dir", str(directory)]
    async with open_program(python("-W", "error", "-c", LOOKS, str(ahead), *options)) as program:
        await acknowledged(program, *lines)
        await program.line_with("looked five times")
        program.signal(signal.SIGTERM)
        assert await program.exit_code() == 0, program.output
    assert "deleted" not in program.output


async def acknowledged(program: Program, *lines: str) -> None:
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(*await where(program)) as stream:
            await stream.send_all("".join(f"{line}\n" for line in lines).encode())
            await stream.send_eof()
            answers = b"".join([answer async for answer in stream])
    assert answers.count(b"ok ") == len(lines)


@pytest.mark.parametrize(
    "clocks",
    [
        (0, -120, 0),  # set back by two minutes
        (120, 0, 0),  # ahead, and then right
        (0, 10 * WEEK, 0),  # far ahead, in a life in between
        (10 * WEEK, 0, 20 * WEEK),
        (-10 * WEEK, 0, 0),  # a machine that has lost its time begins in the past
    ],
)
async def test_no_setting_of_the_clock_deletes_a_line(
    tmp_path: Path, clocks: tuple[float, ...]
) -> None:
    for number, ahead in enumerate(clocks):
        await life(tmp_path, ahead, f"life {number}", "more")
    expected = [text for number in range(len(clocks)) for text in (f"life {number}", "more")]
    assert list(stored_in(tmp_path).values()) == expected
