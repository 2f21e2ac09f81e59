"""Store: the actor that owns the database, and writes lines in batches.

Decides when a line is stored: when its transaction has been committed, and not before. What a line is, and
what its sender is told, is decided in intake.py.

A commit waits for the disk, and costs the same for one line as for a thousand. So there are two batches:
while one is being committed, in a thread, the next gathers. When that is full, whoever has lines waits; and as an
intake that waits doesn't read, its clients wait too.

A batch is stored as a whole or not at all. A cancel can't come between: Trio doesn't give up a thread that has
begun, so a commit is waited for, and what it did is known. What was not committed is never said to be.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import TYPE_CHECKING

import trio

from trio_run import CannotStart, Cause

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_MOST_GATHERED = 10_000  # lines in a batch; then callers wait
_ROWS = 500  # in one statement
_LOCKED_TIMEOUT = (
    1.0  # seconds that a try waits for another program: a hard cancel waits for it too
)

# AUTOINCREMENT: an id is never used twice, and the ids of one transaction follow each other.
_TABLE = """\
CREATE TABLE lines (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  received TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
  text TEXT NOT NULL
)"""

_CURES = {
    sqlite3.SQLITE_BUSY: "stop the program that uses it",
    sqlite3.SQLITE_CORRUPT: "move it away",
    sqlite3.SQLITE_NOTADB: "move it away",
}


class NotStored(Exception):
    """The store stopped before these lines were committed: their sender has to send them again."""


class _Batch:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.first_id: int | None = None  # known once it is committed
        self.taken = trio.Event()  # it gathers no more
        self.settled = trio.Event()  # committed, or never going to be


class Store:
    """Keeps lines in the file ``lines.db`` of a directory.

    Whoever calls :meth:`save` should ``needs`` this actor: it is then interrupted after them, and has nothing left to
    do but to write what they left.
    """

    name = "store"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lines.db"
        self._gathering = _Batch()
        self._wake_up = trio.Event()  # there is something to write, or it is time to stop
        self._interrupted = False
        self._closed = False
        self._stored = 0
        self._waiting = 0

    @property
    def status(self) -> str:
        """One line for the log and the report."""
        return f"{self._stored:,} lines stored, {self._waiting:,} waiting"

    async def save(self, lines: Sequence[str]) -> range:
        """Store these lines, and return when they are committed: their ids, in order.

        Cancelled meanwhile, they may be stored or not, but all or none of them.

        Raises:
          NotStored: if the store has stopped, or stops before it has committed them.
        """
        if not lines:
            return range(0)
        self._waiting += len(lines)
        try:
            while len(self._gathering.lines) >= _MOST_GATHERED and not self._closed:
                await self._gathering.taken.wait()
            if self._closed:
                raise NotStored
            batch = self._gathering
            place = len(batch.lines)
            batch.lines += lines
            self._wake_up.set()
            await batch.settled.wait()
        finally:
            self._waiting -= len(lines)
        if batch.first_id is None:
            raise NotStored
        first_id = batch.first_id + place
        return range(first_id, first_id + len(lines))

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        # One connection, used by one thread at a time: this task waits for each before it starts the next.
        database = await trio.to_thread.run_sync(self._open)
        try:
            task_status.started()
            while batch := await self._next_batch():
                try:
                    batch.first_id = await self._commit(database, batch.lines)
                    self._stored += len(batch.lines)
                    logger.debug("committed %d lines: %s", len(batch.lines), self.status)
                finally:
                    batch.settled.set()
        finally:
            self._closed = True
            self._gathering.taken.set()
            self._gathering.settled.set()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(database.close)

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Write what has gathered, and return."""
        self._interrupted = True
        self._wake_up.set()

    async def _next_batch(self) -> _Batch | None:
        """Wait until there is something to write; None if there is not and it is time to stop."""
        while not self._gathering.lines:
            if self._interrupted:
                return None
            self._wake_up = trio.Event()
            await self._wake_up.wait()
        batch, self._gathering = self._gathering, _Batch()
        batch.taken.set()
        return batch

    async def _commit(self, database: sqlite3.Connection, lines: list[str]) -> int:
        """Commit these lines; the id of the first is returned."""
        locked = False
        while True:
            try:
                return await trio.to_thread.run_sync(_insert, database, lines)
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if not locked:
                    logger.warning("%s is locked by another program: waiting for it", self.path)
                locked = True

    def _open(self) -> sqlite3.Connection:
        """Open the database, or make it. In a thread."""
        elsewhere = "choose another directory with --dir"
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
                return _open_database(self.path)
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
        # A commit is one write to the log, and FULL has it on the disk before the commit returns: an
        # acknowledged line survives the death of this process, and that of the machine.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
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


def _insert(database: sqlite3.Connection, lines: list[str]) -> int:
    """Insert these lines in one transaction; the id of the first is returned. In a thread.

    With many rows to a statement: sqlite3 gives the interpreter lock away for each statement, and in a busy
    process has to wait for it. A statement for each row was a hundred times slower there.
    """
    last_id = 0
    with database:
        database.execute("BEGIN IMMEDIATE")
        for start in range(0, len(lines), _ROWS):
            rows = lines[start : start + _ROWS]
            values = ", ".join(["(?)"] * len(rows))
            inserted = database.execute(f"INSERT INTO lines (text) VALUES {values}", rows)
            assert inserted.lastrowid is not None
            last_id = inserted.lastrowid
    return last_id - len(lines) + 1
