"""Room: how much of the disk the database may take, and what is done when there is no more.

Decides when there is no room for lines, and what makes some. To delete lines needs room, too: what
is written goes to SQLite's log first. So there is a reserve, a file of no use but to be removed
when the disk is full. And the log is emptied into the database, which has room where lines were
deleted. All of this is called in a thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    A = TypeVar("A")
    T = TypeVar("T")

RESERVE = 2**22  # bytes


class NoRoom(Exception):
    """Why no line can be stored, in some words; and what cures that."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.cure = cure


class Room:
    """The room of one database.

    Args:
      path: where the database is. The reserve is beside it.
      most: how many bytes it may have.
    """

    def __init__(self, path: Path, most: float) -> None:
        self._reserve = path.with_name(f"{path.name}-reserve")
        self._most = most

    def keep_reserve(self) -> None:
        """Make the reserve, if there is none, and the disk has room for more than that."""
        with contextlib.suppress(OSError):
            enough = shutil.disk_usage(self._reserve.parent).free > 2 * RESERVE
            if not self._reserve.exists() and enough:
                # Nothing that a file system would store in less.
                self._reserve.write_bytes(os.urandom(RESERVE))

    def give_up_reserve(self) -> bool:
        """Make room by that; False if there is none."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()
            return True
        return False

    def write_lines(
        self,
        function: Callable[[sqlite3.Connection, A], T],
        database: sqlite3.Connection,
        what: A,
    ) -> T:
        """Call this, which stores lines.

        Raises:
          NoRoom: if there is none.
        """
        if _size(database) > self._most:
            raise NoRoom(
                f"the database has its full size of {self._most / 1e6:g} MB",
                "give it more with --max-size, or keep lines for a shorter time with --retention",
            )
        return self._write(function, database, what)

    def free(
        self,
        function: Callable[[sqlite3.Connection, A], T],
        database: sqlite3.Connection,
        what: A,
    ) -> T:
        """Call this, which deletes lines.

        Raises:
          NoRoom: if there is none even for that.
        """
        try:
            return self._write(function, database, what)
        except NoRoom:
            if not self.give_up_reserve():
                raise
            return self._write(function, database, what)

    def _write(
        self,
        function: Callable[[sqlite3.Connection, A], T],
        database: sqlite3.Connection,
        what: A,
    ) -> T:
        try:
            return function(database, what)
        except sqlite3.OperationalError as exc:
            if not is_no_room(exc):
                raise
        try:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            return function(database, what)
        except sqlite3.OperationalError as exc:
            if not is_no_room(exc):
                raise
            raise NoRoom("the disk is full, or can't be written", "free some space there") from exc


def _size(database: sqlite3.Connection) -> int:
    """How many bytes of the database are in use."""
    ((size,),) = database.execute(
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )
    return int(size)


def is_no_room(error: sqlite3.Error) -> bool:
    """Has it failed because nothing more could be written?"""
    return error.sqlite_errorcode in {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_WRITE,  # a quota, or a limit of the process
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
