"""One at a time, of an app's tasks that read a request or write a response.

A :class:`trio.Lock` would do: this one costs nothing as long as nobody has to wait.
"""

from __future__ import annotations

import trio


class Turn:
    """``await take()``, then ``give_back()``."""

    __slots__ = ("_given_back", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._given_back: trio.Event | None = None  # where somebody waits for that

    async def take(self) -> None:
        """Not a checkpoint, where nobody else has it."""
        while self.is_taken:
            if self._given_back is None:
                self._given_back = trio.Event()
            await self._given_back.wait()
        self.is_taken = True

    def give_back(self) -> None:
        self.is_taken = False
        if self._given_back is not None:
            self._given_back.set()
            self._given_back = None
