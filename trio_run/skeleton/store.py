"""Store: the actor that owns the database: it writes lines in batches, finds them again, and
forgets the old ones.

Decides when a line is stored: when its transaction has been committed, and not before. What a line
is, and what its sender is told, is decided in intake.py.

A commit waits for the disk, and costs the same for one line as for a thousand. So there are two
batches: while one is being committed, in a thread, the next gathers. When that is full, whoever has
lines waits for its turn; and as an intake that waits doesn't read, its clients wait too.

A batch is stored as a whole or not at all. A cancel can't come between: Trio doesn't give up a
thread that has begun, so a commit is waited for, and what it did is known. What was not committed
is never said to be.

Who reads has a connection of its own, and holds up no commit: SQLite's log (WAL) shows it the
database as it was when it began. Old lines are deleted few at a time, and commits take their turn
in between. Which are old is decided in age.py, how all this is done in database.py, and what makes
room on a disk that is full in room.py. While there is none, lines are refused.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_run import CannotStart, Cause, stopping

from . import database
from .age import Age
from .room import NoRoom, Room, is_no_room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .database import Line

    A = TypeVar("A")
    T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_LINES, _MOST_CHARACTERS = 10_000, 2**22  # in a batch, and one caller's lines; then they wait
_DAY = 24 * 60 * 60  # seconds
_SEARCH_TIMEOUT = 3.0  # seconds: no search can hold up a stop for longer

_CURES = {
    sqlite3.SQLITE_BUSY: "stop the program that uses it",
    sqlite3.SQLITE_CORRUPT: "move it away",
    sqlite3.SQLITE_NOTADB: "move it away",
    sqlite3.SQLITE_FULL: "free some space there",
}


class NotStored(Exception):
    """These lines were not committed, and why: their sender has to send them again."""


class _Batch:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []  # a Line each, but for its id
        self.characters = 0
        self.refusal = "the store has stopped"  # why it is not committed, if it is not
        self.first_id: int | None = None  # known once it is committed
        self.taken = trio.Event()  # it gathers no more
        self.settled = trio.Event()  # committed, or never going to be

    @property
    def is_full(self) -> bool:
        return len(self.rows) >= _MOST_LINES or self.characters >= _MOST_CHARACTERS


class Store:
    """Keeps lines in the file ``lines.db`` of a directory.

    Whoever calls it should ``needs`` this actor: it is then interrupted after them, and has nothing
    left to do but to write what they left.

    Args:
      directory: where the file is; made if there is none.
      max_size: how many bytes it may have, and a batch.
      publish: functions to call with each batch once it is committed, before its senders are told.
        They are plain functions, and quick: the next commit waits for them.
      clock: the seconds that pass, by a clock that nobody can set.
    """

    name = "store"

    def __init__(
        self,
        directory: Path,
        *,
        max_size: float = math.inf,
        publish: Sequence[Callable[[Sequence[Line]], object]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = directory / "lines.db"
        self.damage = ""  # what is broken, if it is known
        self.trouble = ""  # why lines are refused, if they are
        self._refused = 0
        self._room = Room(self.path, max_size)
        self._publish = publish
        self._gathering = _Batch()
        self._wake_up = trio.Event()  # there is something to write, or it is time to stop
        self._interrupted = False
        self._closed = False
        self._stored = 0
        self._waiting = 0
        self._age = Age(clock)
        self._turns = trio.Lock()  # of who waits for room
        # Two connections, each used by one thread at a time.
        self._writing, self._reading = trio.Lock(), trio.Lock()
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection

    @property
    def status(self) -> str:
        """One line for the log and the report."""
        told = f"{self._stored:,} lines stored, {self._waiting:,} waiting"
        return f"{told}; refused: {self.trouble}" if self.trouble else told

    async def room(self) -> None:
        """Wait until there is room for more lines. It is given in the order of the calls.

        Call it before save(), at once before the lines are made of what has arrived: so they have
        somewhere to go, and many who wait take little memory.
        """
        if not (self._gathering.is_full or self._turns.locked()):
            return
        async with self._turns:
            while self._gathering.is_full and not self._closed:
                await self._gathering.taken.wait()

    async def save(self, lines: Sequence[str], source: str) -> range:
        """Store these lines, and return when they are committed: their ids, in order.

        Cancelled meanwhile, they may be stored or not, but all or none of them.

        Raises:
          NotStored: if they can't be, or the store has stopped.
        """
        if not lines:
            return range(0)
        batch = self._gathering
        if self._closed:
            raise NotStored(batch.refusal)
        self._waiting += len(lines)
        try:
            place = len(batch.rows)
            received = _time(datetime.now(UTC))
            batch.rows += [(received, source, line) for line in lines]
            batch.characters += sum(map(len, lines))
            self._wake_up.set()
            await batch.settled.wait()
        finally:
            self._waiting -= len(lines)
        if batch.first_id is None:
            raise NotStored(batch.refusal)
        first_id = batch.first_id + place
        return range(first_id, first_id + len(lines))

    async def latest(self, limit: int, containing: str = "") -> list[Line]:
        """The last lines, the newest first; those that contain a text, whatever the case of its
        letters (A to Z).

        Raises:
          SearchTooLong: if it takes too long to find them.
          Damaged: if the database is broken.
        """
        give_up = time.monotonic() + _SEARCH_TIMEOUT  # the wait for its turn included
        try:
            async with self._reading:
                return await trio.to_thread.run_sync(
                    database.latest, self._reader, limit, containing, give_up
                )
        except sqlite3.DatabaseError as exc:
            if not database.is_damage(exc):
                raise
            self.report_damage(str(exc))
            raise database.Damaged(str(exc)) from exc

    async def delete_older_than(self, seconds: float) -> int:
        """Delete the lines that are older than that; how many is returned.

        Call it every minute or so: the age of the lines is counted from one call to the next. It
        can wait: at a stop it leaves the rest to the next run.
        """
        deleted = 0
        try:
            last_id = await self._write(self._room.free, self._age.last_older_than, seconds)
            while not stopping():
                count = await self._write(self._room.free, database.delete_some, last_id)
                if not count:
                    break
                deleted += count
        except NoRoom as exc:
            self._complain(exc)
        except sqlite3.DatabaseError as exc:
            if not database.is_damage(exc):
                raise
            self.report_damage(str(exc))
        await trio.to_thread.run_sync(self._room.keep_reserve)
        if deleted:
            logger.info("deleted %d lines older than %g days", deleted, seconds / _DAY)
        return deleted

    def report_damage(self, found: str) -> None:
        """Say that the database is broken: in the log, and to who looks at ``damage``."""
        if not self.damage:
            logger.critical(
                "%s is damaged, and lines may be lost: %s; stop, and put a copy in its place, "
                "or what can be saved by: sqlite3 lines.db .recover",
                self.path,
                found,
            )
        self.damage = found

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._writer, self._reader = await trio.to_thread.run_sync(self._open)
        try:
            task_status.started()
            while batch := await self._next_batch():
                try:
                    await self._commit(batch)
                except NoRoom as exc:
                    batch.refusal = str(exc)
                    self._refused += len(batch.rows)
                    self._complain(exc)
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

    async def _commit(self, batch: _Batch) -> None:
        lines = await self._write(self._room.write_lines, database.insert, batch.rows)
        batch.first_id = lines[0].id
        self._stored += len(lines)
        logger.debug("committed %d lines: %s", len(lines), self.status)
        if self.trouble:
            logger.info("lines are stored again: %d were refused", self._refused)
            self.trouble, self._refused = "", 0
        for publish in self._publish:
            publish(lines)

    def _complain(self, problem: NoRoom) -> None:
        if str(problem) != self.trouble:
            logger.error("no line can be stored in %s: %s; %s", self.path, problem, problem.cure)
        self.trouble = str(problem)

    async def _write(
        self,
        call: Callable[[Callable[[sqlite3.Connection, A], T], sqlite3.Connection, A], T],
        function: Callable[[sqlite3.Connection, A], T],
        what: A,
    ) -> T:
        """Call this in a thread, as a transaction; again and again while another program has the
        database locked.
        """
        locked = False
        while True:
            try:
                async with (
                    self._writing
                ):  # whoever waits has it next: a commit comes between two deletions
                    return await trio.to_thread.run_sync(call, function, self._writer, what)
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
        give_up = time.monotonic() + database.LOCKED_TIMEOUT
        while True:
            try:
                writer = database.open_to_write(self.path)
                self._room.keep_reserve()
                return writer, database.open_to_read(self.path)
            except database.NotOurs as exc:
                raise CannotStart(
                    f"cannot use {self.path}: it is the database of another program; {elsewhere}"
                ) from exc
            except sqlite3.Error as exc:
                code = exc.sqlite_errorcode & 0xFF
                if code == sqlite3.SQLITE_BUSY and time.monotonic() < give_up:
                    # SQLite doesn't wait for everything: two that make the log at once collide.
                    time.sleep(0.01)
                    continue
                if is_no_room(exc) and self._room.give_up_reserve():
                    continue
                cure = _CURES.get(code, "see that the directory can be written")
                raise CannotStart(f"cannot use {self.path}: {exc}; {cure}, or {elsewhere}") from exc


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
