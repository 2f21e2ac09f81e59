"""Store: the actor that owns the database: it writes lines in batches, finds them again, and
forgets the old ones.

Decides when a line is stored: when its transaction has been committed, and not before. What a line
is, and what its sender is told, is decided in intake.py.

A commit waits for the disk, and costs the same for one line as for a thousand. So there are two
batches: while one is being committed, in a thread, the next gathers. When that is full, whoever has
lines waits; and as an intake that waits doesn't read, its clients wait too.

A batch is stored as a whole or not at all. A cancel can't come between: Trio doesn't give up a
thread that has begun, so a commit is waited for, and what it did is known. What was not committed
is never said to be.

Who reads has a connection of its own, and holds up no commit: SQLite's log (WAL) shows it the
database as it was when it began. Old lines are deleted few at a time, and commits take their turn
in between.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import trio

from trio_run import CannotStart, Cause, stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_GATHERED = 10_000  # lines in a batch; then callers wait
_ROWS = 300  # in one statement: SQLite takes 999 values at the least
_DELETED_AT_ONCE = 1_000  # lines; then commits have their turn
_LOCKED_TIMEOUT = (
    1.0  # seconds that a try waits for another program: a hard cancel waits for it too
)
_MOST_FOUND = 2**22  # characters in one answer, and a line
_SEARCH_TIMEOUT = 3.0  # seconds: no search can hold up a stop for longer

# AUTOINCREMENT: an id is never used twice, and the ids of one transaction follow each other.
_TABLE = """\
CREATE TABLE lines (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  received TEXT NOT NULL,
  source TEXT NOT NULL,
  text TEXT NOT NULL
)"""

_CURES = {
    sqlite3.SQLITE_BUSY: "stop the program that uses it",
    sqlite3.SQLITE_CORRUPT: "move it away",
    sqlite3.SQLITE_NOTADB: "move it away",
}


class NotStored(Exception):
    """The store stopped before these lines were committed: their sender has to send them again."""


class SearchTooLong(Exception):
    """A search was given up: there are too many lines to look at, and too few that match."""


class Line(NamedTuple):
    """A line that is stored."""

    id: int
    received: str  # when: UTC, as ISO 8601 has it
    source: str  # who sent it: see intake.py
    text: str


class _Batch:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []  # a Line each, but for its id
        self.first_id: int | None = None  # known once it is committed
        self.taken = trio.Event()  # it gathers no more
        self.settled = trio.Event()  # committed, or never going to be


class Store:
    """Keeps lines in the file ``lines.db`` of a directory.

    Whoever calls it should ``needs`` this actor: it is then interrupted after them, and has nothing
    left to do but to write what they left.

    Args:
      directory: where the file is; made if there is none.
      publish: functions to call with each batch once it is committed, before its senders are told.
        They are plain functions, and quick: the next commit waits for them.
    """

    name = "store"

    def __init__(
        self, directory: Path, *, publish: Sequence[Callable[[Sequence[Line]], object]] = ()
    ) -> None:
        self.path = directory / "lines.db"
        self._publish = publish
        self._gathering = _Batch()
        self._wake_up = trio.Event()  # there is something to write, or it is time to stop
        self._interrupted = False
        self._closed = False
        self._stored = 0
        self._waiting = 0
        # Two connections, each used by one thread at a time.
        self._writing, self._reading = trio.Lock(), trio.Lock()
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection

    @property
    def status(self) -> str:
        """One line for the log and the report."""
        return f"{self._stored:,} lines stored, {self._waiting:,} waiting"

    async def save(self, lines: Sequence[str], source: str) -> range:
        """Store these lines, and return when they are committed: their ids, in order.

        Cancelled meanwhile, they may be stored or not, but all or none of them.

        Raises:
          NotStored: if the store has stopped, or stops before it has committed them.
        """
        if not lines:
            return range(0)
        self._waiting += len(lines)
        try:
            while len(self._gathering.rows) >= _MOST_GATHERED and not self._closed:
                await self._gathering.taken.wait()
            if self._closed:
                raise NotStored
            batch = self._gathering
            place = len(batch.rows)
            received = _time(datetime.now(UTC))
            batch.rows += [(received, source, line) for line in lines]
            self._wake_up.set()
            await batch.settled.wait()
        finally:
            self._waiting -= len(lines)
        if batch.first_id is None:
            raise NotStored
        first_id = batch.first_id + place
        return range(first_id, first_id + len(lines))

    async def latest(self, limit: int, containing: str = "") -> list[Line]:
        """The last lines, the newest first; those that contain a text, whatever the case of its
        letters (A to Z).

        Raises:
          SearchTooLong: if it takes too long to find them.
        """
        give_up = time.monotonic() + _SEARCH_TIMEOUT  # the wait for its turn included
        async with self._reading:
            return await trio.to_thread.run_sync(_latest, self._reader, limit, containing, give_up)

    async def delete_older_than(self, seconds: float) -> int:
        """Delete the lines that were received longer ago than that; how many is returned.

        It can wait: asked to stop, it leaves the rest to the next run.
        """
        since = _time(datetime.fromtimestamp(max(0.0, time.time() - seconds), UTC))
        async with self._reading:
            first_kept = await trio.to_thread.run_sync(_first_since, self._reader, since)
        deleted = 0
        while not stopping() and (count := await self._write(_delete_some, first_kept)):
            deleted += count
        if deleted:
            logger.info("deleted %d lines received before %s", deleted, since)
        return deleted

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._writer, self._reader = await trio.to_thread.run_sync(self._open)
        try:
            task_status.started()
            while batch := await self._next_batch():
                try:
                    lines = await self._write(_insert, batch.rows)
                    batch.first_id = lines[0].id
                    self._stored += len(lines)
                    logger.debug("committed %d lines: %s", len(lines), self.status)
                    for publish in self._publish:
                        publish(lines)
                finally:
                    batch.settled.set()
        finally:
            self._closed = True
            self._gathering.taken.set()
            self._gathering.settled.set()
            with trio.CancelScope(shield=True):
                async with self._reading, self._writing:
                    self._reader.close()  # first: the last to close tidies up, and has to write
                    await trio.to_thread.run_sync(self._writer.close)

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Write what has gathered, and return."""
        self._interrupted = True
        self._wake_up.set()

    async def _next_batch(self) -> _Batch | None:
        """Wait until there is something to write; None if there is not and it is time to stop."""
        while not self._gathering.rows:
            if self._interrupted:
                return None
            self._wake_up = trio.Event()
            await self._wake_up.wait()
        batch, self._gathering = self._gathering, _Batch()
        batch.taken.set()
        return batch

    async def _write(self, function: Callable[[sqlite3.Connection, Any], T], what: object) -> T:
        """Call this in a thread, as a transaction; again and again while another program has the
        database locked.
        """
        locked = False
        while True:
            try:
                async with (
                    self._writing
                ):  # whoever waits has it next: a commit comes between two deletions
                    return await trio.to_thread.run_sync(function, self._writer, what)
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if not locked:
                    logger.warning("%s is locked by another program: waiting for it", self.path)
                locked = True

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Open the database, or make it; and again, for reading. In a thread."""
        elsewhere = "choose another directory with --dir or COLLECTOR_DIR"
        directory = self.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError as exc:
            raise CannotStart(
                f"cannot use {directory}: it is not a directory; {elsewhere}"
            ) from exc
        except OSError as exc:
            raise CannotStart(f"cannot make {directory}: {exc.strerror}; {elsewhere}") from exc
        give_up = time.monotonic() + _LOCKED_TIMEOUT
        while True:
            try:
                writer = _open_database(self.path)
                return writer, sqlite3.connect(self.path, check_same_thread=False)
            except _NotOurs as exc:
                raise CannotStart(
                    f"cannot use {self.path}: it is the database of another program; {elsewhere}"
                ) from exc
            except sqlite3.Error as exc:
                code = exc.sqlite_errorcode & 0xFF
                if code == sqlite3.SQLITE_BUSY and time.monotonic() < give_up:
                    # SQLite doesn't wait for everything: two that make the log at once collide.
                    time.sleep(0.01)
                    continue
                cure = _CURES.get(code, "see that the directory can be written")
                raise CannotStart(f"cannot use {self.path}: {exc}; {cure}, or {elsewhere}") from exc


class _NotOurs(Exception):
    pass


def _open_database(path: Path) -> sqlite3.Connection:
    # isolation_level=None: transactions begin where we say so, and `with database` ends them.
    database = sqlite3.connect(
        path, timeout=_LOCKED_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        found = _tables(database)
        if found and _TABLE not in found:
            raise _NotOurs
        # A commit is one write to the log, and FULL has it on the disk before the commit returns:
        # an acknowledged line survives the death of this process, and that of the machine.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # What a large transaction needs beside the database: there may be no other place to write
        # to.
        database.execute("PRAGMA temp_store = MEMORY")
        with database:
            database.execute("BEGIN IMMEDIATE")
            if not _tables(database):  # another process may just have made it
                database.execute(_TABLE)
    except BaseException:
        database.close()
        raise
    return database


def _tables(database: sqlite3.Connection) -> list[str]:
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [sql for (sql,) in database.execute(query)]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# What follows is called in a thread.


def _insert(database: sqlite3.Connection, rows: Sequence[tuple[str, str, str]]) -> list[Line]:
    """Insert these in one transaction.

    With many rows to a statement: sqlite3 gives the interpreter lock away for each statement, and
    in a busy process has to wait for it. A statement for each row was a hundred times slower there.
    """
    last_id = 0
    with database:
        database.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            places = ", ".join(["(?, ?, ?)"] * len(some))
            values = [value for row in some for value in row]
            inserted = database.execute(
                f"INSERT INTO lines (received, source, text) VALUES {places}", values
            )
            assert inserted.lastrowid is not None
            last_id = inserted.lastrowid
    return [Line(line_id, *row) for line_id, row in enumerate(rows, start=last_id - len(rows) + 1)]


def _latest(
    database: sqlite3.Connection, limit: int, containing: str, give_up: float
) -> list[Line]:
    pattern = "".join(f"\\{char}" if char in "\\%_" else char for char in containing)
    query = "SELECT id, received, source, text FROM lines"
    values: list[object] = [limit]
    if containing:
        query += " WHERE text LIKE ? ESCAPE '\\'"
        values.insert(0, f"%{pattern}%")
    lines: list[Line] = []
    size = 0
    database.set_progress_handler(lambda: time.monotonic() > give_up, 10_000)
    try:
        for row in database.execute(query + " ORDER BY id DESC LIMIT ?", values):
            lines.append(Line(*row))
            size += len(lines[-1].text)
            if size > _MOST_FOUND:
                break
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise SearchTooLong from None
    finally:
        database.set_progress_handler(None, 0)
    return lines


def _first_since(database: sqlite3.Connection, since: str) -> int:
    """The id of the first line that was received since then, or of the next to come.

    Lines come in the order of time, so that all before it are older, and no others have to be
    looked at. Where the clock was set back, some stay a little longer; but lines from the future
    keep no others.
    """
    row = database.execute(
        "SELECT coalesce((SELECT id FROM lines WHERE received BETWEEN ? AND ? ORDER BY id LIMIT 1),"
        " (SELECT max(id) + 1 FROM lines), 0)",
        [since, _time(datetime.now(UTC))],
    ).fetchone()
    return int(row[0])


def _delete_some(database: sqlite3.Connection, first_kept: int) -> int:
    """Delete some of the lines before that one; how many is returned."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        return database.execute(
            "DELETE FROM lines WHERE id IN (SELECT id FROM lines WHERE id < ? ORDER BY id LIMIT ?)",
            [first_kept, _DELETED_AT_ONCE],
        ).rowcount
