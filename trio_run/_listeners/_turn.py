"""One at a time, of the tasks that read, write or close the same thing.

A :class:`trio.Lock` would do: this one costs nothing as long as nobody has to wait.
"""

from __future__ import annotations

import trio


class Turn:
    """``await take()``, then ``give_back()``; who waits first is first."""

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: trio.lowlevel.ParkingLot | None = None

    async def take(self) -> None:
        """Not a checkpoint, where nobody else has it."""
        if self.is_taken:
            if self._waiting is None:
                self._waiting = trio.lowlevel.ParkingLot()
            await self._waiting.park()
        self.is_taken = True

    def give_back(self) -> None:
        # The next in turn gets it from us, so that nobody can come in between.
        if not (self._waiting and self._waiting.unpark()):
            self.is_taken = False
