"""Age: how old the lines are at the least, whatever the clock of the machine says or has said.

That clock may be ahead or behind, and be set in either direction, while we run and while we do not.
So the time at which a line was received is for people to read, and says nothing of its age. What
counts is the time in which a collector has run since, by a clock that nobody can set: so much has
passed for certain.

The table holds marks: when the database had this age, in seconds, the lines up to that id were in
it. Once it is older by a week than a mark, those lines are older than a week.

Several processes may use a database, and the time that they share must not be counted twice. So one
of them counts: the one that has made the last mark. Another takes over when it has come twice and
found the same mark: nobody counts any more. A restart costs the time of two marks, at the most, by
which lines are then kept longer.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

TABLE = """\
CREATE TABLE ages (
  age REAL NOT NULL,
  last_id INTEGER NOT NULL,
  counted_by TEXT NOT NULL
)"""


class Age:
    """Counts for one process.

    Args:
      clock: gives seconds, and is never set.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._name = secrets.token_hex()
        self._marked = 0.0  # when we have made our last mark
        self._found = 0  # the last mark that we have found

    def last_older_than(self, database: sqlite3.Connection, seconds: float) -> int:
        """Make a mark, if it is for us to count; the id of the last line that is older than that.

        It is 0 if there is none. All before it are older, too. Called in a thread.
        """
        with database:
            database.execute("BEGIN IMMEDIATE")
            now = self._clock()  # what we find here was stored before
            number, age, counted_by = database.execute(
                "SELECT rowid, age, counted_by FROM ages ORDER BY rowid DESC LIMIT 1"
            ).fetchone() or (0, 0.0, "")
            is_ours = counted_by == self._name
            if is_ours or number == self._found:
                if is_ours:
                    age += now - self._marked
                number += 1
                database.execute(
                    "INSERT INTO ages SELECT ?, coalesce(max(id), 0), ? FROM lines",
                    [age, self._name],
                )
                self._marked = now  # before the commit: if that fails, too little is counted
            self._found = number
            (old,) = database.execute(
                "SELECT max(rowid) FROM ages WHERE age <= ?", [age - seconds]
            ).fetchone()
            if old is None:
                return 0
            database.execute("DELETE FROM ages WHERE rowid < ?", [old])
            (last_id,) = database.execute(
                "SELECT last_id FROM ages WHERE rowid = ?", [old]
            ).fetchone()
            return int(last_id)
