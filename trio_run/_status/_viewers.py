"""Viewers: who looks at the page just now, when each of them gets to see more, and until when.

A viewer has a task and a timer while he looks, and nobody else has. What he sees is decided by who
lets him in. When the time of the page is over, each is sent what there is to say at the end. One
who does not take what he is sent is waited for no longer than the grace of the page.

No ring is missed. There is one bell for all, and a new one only when that has been rung. Each takes
the bell, looks, and waits for that bell: whatever happens after he has taken it rings it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_AT_LEAST_EVERY = 1.0  # seconds: a status line says nothing when it changes
_AT_MOST_EVERY = 0.1  # seconds
_LAST_WORD = 0.1  # seconds that it may take after a hard cancel
_SETTLING = 0.05  # seconds of them, for the others that are cut to end


class Viewers:
    """Who looks.

    Args:
      most: how many may look at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._bell = trio.Event()
        self._end = trio.Event()

    @property
    def are_too_many(self) -> bool:
        return self._count >= self._most

    @property
    def is_over(self) -> bool:
        return self._end.is_set()

    def ring(self) -> None:
        """Something has happened."""
        self._bell.set()

    def end(self) -> None:
        """Have each see the last, and leave."""
        self._end.set()
        self._bell.set()

    async def look(
        self,
        show: Callable[[], Awaitable[object]],
        receive: Callable[[], Awaitable[object]],
        is_settled: Callable[[], bool],
    ) -> None:
        """Show it again and again, until the end, or until the client has left.

        Args:
          show: shows how it is now.
          receive: that of ASGI, after the request: it returns when the client has left.
          is_settled: is it known how it ended? After a hard cancel that is waited for, briefly.
        """
        has_left = False

        async def wait_for_leaving() -> None:
            nonlocal has_left
            await receive()
            has_left = True
            nursery.cancel_scope.cancel("the viewer has left")

        self._count += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_leaving)
                try:
                    await self._show_again_and_again(show)
                except trio.Cancelled:
                    if not has_left:
                        await self._show_last(show, is_settled)
                    raise
                nursery.cancel_scope.cancel("it is over")
        finally:
            self._count -= 1

    async def _show_again_and_again(self, show: Callable[[], Awaitable[object]]) -> None:
        while not self.is_over:
            bell = self._next_bell()
            await show()
            with trio.move_on_after(_AT_MOST_EVERY):
                await self._end.wait()
            with trio.move_on_after(_AT_LEAST_EVERY - _AT_MOST_EVERY):
                await bell.wait()
        await show()

    async def _show_last(
        self, show: Callable[[], Awaitable[object]], is_settled: Callable[[], bool]
    ) -> None:
        """The page was cut, and what it was cut in the midst of may be the last."""
        self.end()
        with trio.move_on_after(_LAST_WORD, shield=True):
            with trio.move_on_after(_SETTLING):
                while not is_settled():
                    await self._next_bell().wait()
            await show()

    def _next_bell(self) -> trio.Event:
        """One that has not been rung."""
        if self._bell.is_set():
            self._bell = trio.Event()
        return self._bell
