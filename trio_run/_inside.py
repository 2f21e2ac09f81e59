"""What code inside an actor may ask: busy, stopping, wait_stopping, cancel_on_stop.

This file decides what a stop means to the code it reaches: what is protected, and what pierces the
protection. When a stop comes, and to whom, is decided by the group.

Code finds the actor it belongs to by one context variable, which Trio hands on to every task that a
task starts. Outside any actor it is unset, and nothing here has an effect.

How a soft cancel passes by a busy block: a cancel scope cannot spare some of the tasks inside it,
but an inner scope can be shielded from it. So a busy block is a scope, open to every cancel while
nobody stops the actor. When the actor is interrupted, all its busy blocks are shielded, and only
then are its other scopes cancelled. A hard cancel takes the shields away again, and what was
cancelled outside shows through. Each of the three steps is plain code without a checkpoint, so no
task can see one half done.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._group import Group


class Place(Protocol):
    """Where a task is: in an actor, or in one connection of an actor."""

    @property
    def inside(self) -> Inside: ...
    def enter_busy(self) -> trio.CancelScope | None: ...
    def leave_busy(self, shield: trio.CancelScope | None, exc: BaseException | None) -> None: ...


place: ContextVar[Place | None] = ContextVar("trio_run.place", default=None)


class Inside:
    """One actor, as the code inside it sees it."""

    __slots__ = (
        "_at_lame_duck",
        "_scopes_to_cancel",
        "_shields",
        "_waiters",
        "is_hard",
        "is_stopping",
    )

    def __init__(self) -> None:
        self.is_stopping = False  # has it been interrupted, or cut?
        self.is_hard = False  # does nothing protect any more?
        # There may be very many actors: what few of them use is made when it is used.
        self._shields: set[trio.CancelScope] | None = None
        self._scopes_to_cancel: set[trio.CancelScope] | None = None
        self._waiters: trio.lowlevel.ParkingLot | None = None
        self._at_lame_duck: list[Callable[[float], object]] | None = None

    @property
    def inside(self) -> Inside:
        return self

    @property
    def cancels_on_stop(self) -> bool:
        """Is there a block of cancel_on_stop in it?"""
        return bool(self._scopes_to_cancel)

    @property
    def group(self) -> Group | None:
        """The group that the actor is in."""
        return None

    def is_leaving(self) -> bool:
        """Has a stop begun, of the actor or of a group around it? It may still be served."""
        return self.is_stopping

    def call_at_lame_duck(self, function: Callable[[float], object]) -> None:
        """Call this when a group around it becomes a lame duck, with the time at which that ends.

        Each group around it may become one in turn.
        """
        if self._at_lame_duck is None:
            self._at_lame_duck = []
        self._at_lame_duck.append(function)

    def call_no_more(self, function: Callable[[float], object]) -> None:
        """Take that back."""
        assert self._at_lame_duck is not None
        self._at_lame_duck.remove(function)

    def begin_lame_duck(self, ends: float) -> None:
        """A group around it is a lame duck until then, on Trio's clock."""
        for function in tuple(self._at_lame_duck or ()):
            function(ends)

    def has_stop_come(self) -> bool:
        """Has a stop been requested, of the actor or of its group?"""
        return self.is_stopping

    def look_again(self) -> None:
        """The actor's fitness for work has changed: its group is to look at it."""

    def soften(self) -> None:
        """The actor is interrupted: protect what is busy, and cancel what is to end by that."""
        if not self.is_hard:
            for shield in self._shields or ():
                shield.shield = True
        self.is_stopping = True
        self.wake_waiters()
        for scope in self._scopes_to_cancel or ():
            scope.cancel("the actor was interrupted")

    def harden(self) -> None:
        """The actor is being cut."""
        self.is_stopping = True
        self.wake_waiters()
        self.pierce()

    def pierce(self) -> None:
        """Nothing protects from here on."""
        self.is_hard = True
        for shield in self._shields or ():
            shield.shield = False

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until is_so(). It is asked again whenever wake_waiters() is called."""
        await trio.lowlevel.checkpoint()
        while not is_so():
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            await self._waiters.park()

    def wake_waiters(self) -> None:
        """Something has changed that wait_until() may wait for."""
        if self._waiters is not None:
            self._waiters.unpark_all()

    def enter_busy(self) -> trio.CancelScope:
        shield = trio.CancelScope(shield=self.is_stopping and not self.is_hard)
        shield.__enter__()
        if self._shields is None:
            self._shields = set()
        self._shields.add(shield)
        return shield

    def leave_busy(
        self,
        shield: trio.CancelScope | None,
        exc: BaseException | None,  # noqa: ARG002 - an actor has nothing half done to show
    ) -> None:
        assert shield is not None
        assert self._shields is not None
        self._shields.discard(shield)

    def enter_cancel_on_stop(self, scope: trio.CancelScope) -> None:
        if self.is_stopping:
            scope.cancel("the actor was interrupted")
        if self._scopes_to_cancel is None:
            self._scopes_to_cancel = set()
        self._scopes_to_cancel.add(scope)

    def leave_cancel_on_stop(self, scope: trio.CancelScope) -> None:
        assert self._scopes_to_cancel is not None
        self._scopes_to_cancel.discard(scope)


class busy:  # noqa: N801 - used as a function
    """Finish this block before being stopped: ``with busy(): ...``.

    Once the actor around it has been interrupted, the block is shielded: the cancel that stops an
    actor without an interrupt, that of :func:`cancel_on_stop`, and any other that comes from
    outside the block reaches the task only when the (outermost) block has ended. Only a hard cancel
    pierces it: the end of the grace period, a second signal, a cancellation of the whole group from
    outside. A timeout that must hold during a stop too belongs inside the block.

    In a listener's handler the block marks its connection as busy: the connection drains when the
    block has ended. One whose block was cut, or left by an exception, ends in a reset, so that its
    client does not take half of a reply for the whole.

    Outside any actor, and in a worker thread (``trio.to_thread.run_sync``), it does nothing.
    """

    __slots__ = ("_place", "_shield")

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> None:
        if hasattr(self, "_place"):
            raise RuntimeError("a busy() serves one block once: write `with busy():` for each")
        # A worker thread inherits the place, but there is no task in it that a stop could reach.
        here = place.get() if trio.lowlevel.in_trio_task() else None
        self._place = here
        self._shield = None if here is None else here.enter_busy()

    @trio.lowlevel.enable_ki_protection
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
            self._place.leave_busy(self._shield, exc)


def stopping() -> bool:
    """Has the actor around this code been interrupted, or cut? False outside any actor."""
    here = place.get()
    return here is not None and here.inside.is_stopping


async def wait_stopping() -> None:
    """Wait until the actor around this code is interrupted: outside any actor, for ever."""
    here = place.get()
    if here is None:
        await trio.sleep_forever()
    else:
        inside = here.inside
        await inside.wait_until(lambda: inside.is_stopping)


class cancel_on_stop:  # noqa: N801 - used as a function
    """Cancel this block when its actor is interrupted: ``with cancel_on_stop() as scope: ...``.

    The code after the block goes on, and may ask ``scope.cancelled_caught``. What is :class:`busy`
    inside the block finishes first. Entered when the stop has already begun, the block is cancelled
    at its first checkpoint. Outside any actor the scope is never cancelled.
    """

    __slots__ = ("_inside", "_scope")

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> trio.CancelScope:
        if hasattr(self, "_scope"):
            raise RuntimeError(
                "a cancel_on_stop() serves one block once: write `with cancel_on_stop():` for each"
            )
        here = place.get()
        self._inside = None if here is None else here.inside
        self._scope = trio.CancelScope()
        self._scope.__enter__()
        if self._inside is not None:
            self._inside.enter_cancel_on_stop(self._scope)
        return self._scope

    @trio.lowlevel.enable_ki_protection
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._inside is not None:
            self._inside.leave_cancel_on_stop(self._scope)
        return self._scope.__exit__(exc_type, exc, traceback)
