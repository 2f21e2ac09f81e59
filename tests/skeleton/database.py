"""The skeleton's database, as the tests see it from outside: through a connection of their own."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


def stored_in(directory: Path) -> dict[int, str]:
    """Every line that is committed, by id."""
    with closing(sqlite3.connect(directory / "lines.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(database.execute("SELECT id, text FROM lines ORDER BY id"))


class Lock:
    """Another program that has the database locked."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        database.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self.database.rollback()


@contextmanager
def locked(directory: Path) -> Iterator[Lock]:
    """Lock the database: until released, or the end."""
    with closing(sqlite3.connect(directory / "lines.db", isolation_level=None)) as database:
        yield Lock(database)
