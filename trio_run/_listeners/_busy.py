"""What busy() does to a connection: which of its tasks are busy, and whether a reply was cut.

Busy blocks may overlap, one in each of several tasks. Which blocks a task is in is kept in a
context variable, because a task inherits it from the code that started it. What becomes of a
connection that is busy no longer, or whose reply was cut, is decided in _connection.
"""

from __future__ import annotations

import abc
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._inside import Inside


class _Block:
    """A busy block of a connection."""

    __slots__ = ("connection", "is_open", "is_tidying_up", "outer", "sent_before")

    def __init__(self, connection: Busyness, outer: _Block | None, sent_before: int) -> None:
        self.connection = connection
        self.outer = outer  # the one around it
        self.sent_before = sent_before  # bytes
        # In a finally clause after a cancel: what is cut then is no reply.
        exc = sys.exception()
        self.is_tidying_up = exc is not None and isinstance(exc, trio.Cancelled)
        self.is_open = True


_block: ContextVar[_Block | None] = ContextVar("trio_run.block", default=None)


def _innermost(block: _Block | None) -> _Block | None:
    """The first of these that is open: this one, and those around it.

    One that has ended stays where it is: to set the variable back costs as much as to set it. And a
    task that was started in it has it for ever.
    """
    while block is not None and not block.is_open:
        block = block.outer
    return block


class Busyness(abc.ABC):
    """A connection, as far as busy() is concerned with it."""

    __slots__ = (
        "_broken",
        "_busy",
        "_occupied",
        "_sent",
        "_sent_whole",
        "_torn",
        "inside",
        "shielded",
    )

    def __init__(self, inside: Inside, *, shielded: bool) -> None:
        self.inside = inside
        self.shielded = shielded  # may its handler be cancelled softly?
        self._busy = self._occupied = 1  # until its handler begins
        self._sent = 0  # bytes
        self._sent_whole = 0  # how many of them were whole replies
        self._torn = False
        self._broken = False  # the client is gone

    @abc.abstractmethod
    def _became_less_busy(self) -> None: ...

    @property
    def sent(self) -> int:
        """How many bytes have been sent in all."""
        return self._sent

    def occupy(self) -> None:
        """It is busy, in no task's block, until release()."""
        self._busy += 1
        self._occupied += 1

    def release(self) -> None:
        self._occupied -= 1
        self._busy -= 1
        self._became_less_busy()

    def enter_busy(self) -> trio.CancelScope | None:
        self._busy += 1
        _block.set(_Block(self, _innermost(_block.get()), self._sent))
        # A shield costs as much as a cancel scope: only where there is something to shield from.
        if self.shielded or self.inside.cancels_on_stop:
            return self.inside.enter_busy()
        return None

    def leave_busy(self, shield: trio.CancelScope | None, exc: BaseException | None) -> None:
        if shield is not None:
            self.inside.leave_busy(shield, exc)
        block = _innermost(_block.get())
        if block is not None and block.connection is self:  # else it was entered in another task
            block.is_open = False
            if _innermost(block.outer) is None:
                if exc is None:
                    self._sent_whole = self._sent
                elif not block.is_tidying_up:
                    self._tear(block.sent_before)
        self._busy -= 1
        self._became_less_busy()

    def is_busy_here(self) -> bool:
        """Is the running task to finish something? Then it may read what it needs for that."""
        if self._occupied:
            return True
        block = _innermost(_block.get()) if self._busy else None
        return block is not None and block.connection is self

    # Whether a reply was cut.

    def _tear(self, sent_before: int) -> None:
        """It is to end in a reset: what was sent since then is not the whole of a reply.

        If that was inside a busy block, nothing that was sent in the block is.
        """
        block = _innermost(_block.get())
        while block is not None:
            sent_before = block.sent_before
            block = _innermost(block.outer)
        self._sent_whole = max(self._sent_whole, sent_before)
        self._torn = True

    def settle(self) -> None:
        """Its client knows what it got: it need not end in a reset."""
        self._torn = False

    @property
    def is_torn(self) -> bool:
        """Is there a client who got less than the whole?"""
        return self._torn and not self._broken
