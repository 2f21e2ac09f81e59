"""Damage: a database that is broken in its midst, where nobody has read or written for long.

Decides how often the whole of it is looked at: it takes a hundredth of the time. What is found is
said once in the log, and by ``/livez`` from then on. A disk that forgets is not mended by going on.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import trio

from . import database

if TYPE_CHECKING:
    from .store import Store

_SHARE = 0.01  # of the time
_SHORTEST_PAUSE = 10.0  # seconds


async def watch(store: Store) -> None:
    """Look for damage, again and again."""
    while True:
        began = trio.current_time()
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it can't be opened just now
            contextlib.closing(database.open_to_read(store.path)) as opened,
        ):
            if found := await _look(opened):
                store.report_damage(found)
        took = trio.current_time() - began
        await trio.sleep(max(_SHORTEST_PAUSE, took / _SHARE))


async def _look(opened: sqlite3.Connection) -> str:
    """What is wrong with it, if anything. A stop does not wait for that."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_at_cancel, opened)
        found = await trio.to_thread.run_sync(database.damage, opened)
        nursery.cancel_scope.cancel()
    return found


async def _interrupt_at_cancel(opened: sqlite3.Connection) -> None:
    try:
        await trio.sleep_forever()
    finally:
        opened.interrupt()
