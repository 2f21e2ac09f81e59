"""What code inside an actor may ask: busy, stopping, wait_stopping, cancel_on_stop.

This module decides what a stop means to the code it reaches: what is told, what is protected, and what
pierces the protection. When a stop comes, and to whom, is the group's business.

Code finds the actor it belongs to by one context variable, which Trio hands on to every task that a task
starts. Outside any actor it is unset, and nothing here has an effect.

How a soft cancel passes by a busy block. A cancel scope cannot be told to spare some of the tasks inside
it, but an inner scope can be shielded from it. So a busy block is a scope, open to every cancel while
nobody stops the actor; the moment the actor is interrupted, all its busy blocks are shielded, and only then
are its other scopes cancelled. A hard cancel takes the shields away again, and what was cancelled outside
shows through. Each of the three steps is plain code without a checkpoint, so no task can see one half done.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class Place(Protocol):
    """Where a task is: in an actor, or in one connection of an actor."""

    @property
    def inside(self) -> Inside: ...
    def enter_busy(self) -> trio.CancelScope | None: ...
    def leave_busy(self, shield: trio.CancelScope | None) -> None: ...


place: ContextVar[Place | None] = ContextVar("trio_run.place", default=None)


class Inside:
    """One actor, as the code inside it sees it."""

    __slots__ = ("_cancel_on_stop", "_hard", "_shields", "_stopping")

    def __init__(self) -> None:
        self._stopping = trio.Event()
        self._hard = False
        self._shields: set[trio.CancelScope] = set()
        self._cancel_on_stop: set[trio.CancelScope] = set()

    @property
    def inside(self) -> Inside:
        return self

    def lame_duck(self) -> bool:
        """Is its group about to stop, and still serving?"""
        return False

    def _soften(self) -> None:
        """The actor is interrupted: protect what is busy, and tell the rest."""
        if not self._hard:
            for shield in self._shields:
                shield.shield = True
        self._stopping.set()
        for scope in self._cancel_on_stop:
            scope.cancel("the actor was asked to stop")

    def _pierce(self) -> None:
        """The actor is being cut: nothing protects from here on."""
        self._hard = True
        for shield in self._shields:
            shield.shield = False

    def enter_busy(self) -> trio.CancelScope:
        shield = trio.CancelScope(shield=self._stopping.is_set() and not self._hard)
        shield.__enter__()
        self._shields.add(shield)
        return shield

    def leave_busy(self, shield: trio.CancelScope | None) -> None:
        assert shield is not None
        self._shields.discard(shield)


class busy:  # noqa: N801 - used as a function
    """Finish this block before being stopped: ``with busy(): ...``.

    Once the actor around it has been interrupted, the block is shielded: the cancel that stops an actor
    without an interrupt, that of :func:`cancel_on_stop`, and any other that comes from outside the block
    reaches the task only when the (outermost) block has ended. Only a hard cancel pierces it: the end of
    the grace period, a second signal, a cancellation of the whole group from outside. A timeout that must
    hold during a stop too belongs inside the block.

    In a listener's handler the block marks its connection as busy: the connection is asked to drain when
    the block has ended.

    Outside any actor it does nothing.
    """

    __slots__ = ("_place", "_shield")

    def __enter__(self) -> None:
        here = place.get()
        self._place = here
        self._shield = None if here is None else here.enter_busy()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The shield is never itself cancelled, so it catches nothing.
        if self._shield is not None:
            self._shield.__exit__(exc_type, exc, traceback)
        if self._place is not None:
            self._place.leave_busy(self._shield)


def stopping() -> bool:
    """Has the actor around this code been interrupted, or cut? False outside any actor."""
    here = place.get()
    return here is not None and here.inside._stopping.is_set()


async def wait_stopping() -> None:
    """Wait until the actor around this code is interrupted: outside any actor, for ever."""
    here = place.get()
    if here is None:
        await trio.sleep_forever()
    else:
        await here.inside._stopping.wait()


@contextmanager
def cancel_on_stop() -> Iterator[trio.CancelScope]:
    """Cancel this block when the actor around it is interrupted: ``with cancel_on_stop() as scope: ...``.

    The code after the block goes on, and may ask ``scope.cancelled_caught``. What is :class:`busy` inside
    the block finishes first. Entered when the stop has already begun, the block is cancelled at its first
    checkpoint. Outside any actor the scope is never cancelled.
    """
    here = place.get()
    with trio.CancelScope() as scope:
        if here is None:
            yield scope
            return
        inside = here.inside
        if inside._stopping.is_set():
            scope.cancel("the actor was asked to stop")
        inside._cancel_on_stop.add(scope)
        try:
            yield scope
        finally:
            inside._cancel_on_stop.discard(scope)
