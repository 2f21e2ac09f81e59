"""The database: its tables, and each thing that is done with them, as one transaction.

Decides how lines are kept, found and deleted. When, and what a failure means, is decided in
store.py; which lines are old, in age.py. All of this is called in a thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, NamedTuple

from .age import TABLE as AGES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOCKED_TIMEOUT = 1.0  # seconds that a try waits for another program: a cut waits for it too

_ROWS = 300  # in one statement: SQLite takes 999 values at the least
_DELETED_AT_ONCE = 1_000  # lines; then commits have their turn
_MOST_FOUND = 2**22  # characters in one answer, and a line

# AUTOINCREMENT: an id is never used twice, and the ids of one transaction follow each other.
_LINES = """\
CREATE TABLE lines (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  received TEXT NOT NULL,
  source TEXT NOT NULL,
  text TEXT NOT NULL
)"""


class NotOurs(Exception):
    """It is the database of another program."""


class Damaged(Exception):
    """The database is broken: what can be read is not what was written."""


class SearchTooLong(Exception):
    """A search was given up: there are too many lines to look at, and too few that match."""


class Line(NamedTuple):
    """A line that is stored."""

    id: int
    received: str  # when, by the clock of that time: UTC, as ISO 8601 has it
    source: str  # who sent it: see intake.py
    text: str


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the database, or make it.

    Raises:
      NotOurs: if there is another one.
      sqlite3.Error: if it can't be opened.
    """
    # isolation_level=None: transactions begin where we say so, and `with database` ends them.
    database = sqlite3.connect(
        path, timeout=LOCKED_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        found = _tables(database)
        if found and _LINES not in found:
            raise NotOurs
        _keep_from_others(path)
        # A commit is one write to the log, and FULL has it on the disk before the commit returns:
        # an acknowledged line survives the death of this process, and that of the machine.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # What a large transaction needs beside the database: there may be no other place to write
        # to.
        database.execute("PRAGMA temp_store = MEMORY")
        # And what is deleted is not overwritten: on a full disk there would be no room for that.
        database.execute("PRAGMA secure_delete = OFF")
        with database:
            database.execute("BEGIN IMMEDIATE")
            found = _tables(database)  # another process may just have made it
            for table in (_LINES, AGES):
                if table not in found:
                    database.execute(table)
    except BaseException:
        database.close()
        raise
    return database


def _keep_from_others(path: Path) -> None:
    """What others send us is not for everyone on this machine. A new log gets the same rights."""
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(OSError):  # there is none yet, or it is not ours to change
            file.chmod(0o600)


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the database that open_to_write() has opened."""
    database = sqlite3.connect(path, check_same_thread=False)
    database.text_factory = lambda text: text.decode(errors="replace")  # where it is damaged
    return database


def is_damage(error: sqlite3.Error) -> bool:
    """Has it failed because the database is broken?"""
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def damage(database: sqlite3.Connection) -> str:
    """What is wrong with the database, if anything: all of it is read. Nothing if interrupted."""
    try:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        is_broken = is_damage(exc) or exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR
        return str(exc) if is_broken else ""
    return "" if found == "ok" else " ".join(found.split())


def _tables(database: sqlite3.Connection) -> list[str]:
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [sql for (sql,) in database.execute(query)]


def insert(database: sqlite3.Connection, rows: Sequence[tuple[str, str, str]]) -> list[Line]:
    """Insert these.

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


def latest(database: sqlite3.Connection, limit: int, containing: str, give_up: float) -> list[Line]:
    """The last lines that contain this, the newest first.

    Raises:
      SearchTooLong: if they are not found until then, by time.monotonic().
    """
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


def delete_some(database: sqlite3.Connection, last_id: int) -> int:
    """Delete some of the lines up to that one; how many is returned."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        return database.execute(
            "DELETE FROM lines WHERE id IN "
            "(SELECT id FROM lines WHERE id <= ? ORDER BY id LIMIT ?)",
            [last_id, _DELETED_AT_ONCE],
        ).rowcount
