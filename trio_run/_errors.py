"""What an exception means to us: a cancel, an exit, a failure, a sentence for a person.

Whatever somebody else's code raises is looked at here, and nowhere else. What is done about it is
decided by who called that code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ._report import Report


class CannotStart(Exception):
    """An actor cannot start, for a reason that a person can mend: a port in use, say.

    An actor raises it with a whole sentence, which :func:`run` prints alone, where any other
    failure gets its traceback.
    """


class GroupFailed(ExceptionGroup[Exception]):
    """Actors of a group failed: every failure, the cause's first, and the ``report``.

    The exceptions are the objects that the actors raised; each has a note that names its actor.
    """

    report: Report

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: Report) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.report = report
        return self

    def derive(self, excs: Sequence[Exception], /) -> GroupFailed:  # type: ignore[override]
        return GroupFailed(self.message, excs, self.report)


class Ending:
    """How a block of somebody else's code ended: ``with Ending() as ending: await fn()``.

    A Cancelled and a failure end the block, and are kept: ``cancelled`` says whether it was
    cancelled, ``error`` is what else it raised, or None. An exit (KeyboardInterrupt, SystemExit)
    goes on its way.
    """

    __slots__ = ("cancelled", "error")

    def __init__(self) -> None:
        self.cancelled = False
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if exc is not None:
            self.cancelled, self.error = split_cancelled(exc)
        return self.error is None or isinstance(self.error, Exception)


def split_cancelled(exc: BaseException) -> tuple[bool, BaseException | None]:
    """Whether there is a Cancelled in it, and what else there is."""
    if isinstance(exc, trio.Cancelled):
        return True, None
    if isinstance(exc, BaseExceptionGroup) and exc.subgroup(trio.Cancelled) is not None:
        return True, exc.split(trio.Cancelled)[1]
    return False, exc  # the object itself: a split would copy it


def add_note(error: BaseException, note: str) -> None:
    """Add a note to it."""
    error.add_note(note)


def exits_in(error: BaseException) -> list[BaseException]:
    """What Python is to exit with: for that it has to be raised bare, in no exception group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in exits_in(inner)]
    return [] if isinstance(error, Exception) else [error]


def failure_in(error: BaseException) -> Exception | None:
    """What is no exit in it: the object itself, if that is all there is."""
    if isinstance(error, Exception):
        return error
    if isinstance(error, BaseExceptionGroup):
        rest = error.subgroup(lambda leaf: isinstance(leaf, Exception))
        if isinstance(rest, Exception):
            return rest
    # A group that leaves by an exit has what failed in it as the cause.
    return error.__cause__ if isinstance(error.__cause__, GroupFailed) else None


def unwrapped(error: Exception) -> Exception:
    """The one thing that it is, where nurseries have wrapped it in groups of one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def cannot_start(error: BaseException | None) -> bool:
    """Is it made of CannotStart alone, so that their sentences say all there is to say?"""
    if isinstance(error, GroupFailed):
        return all(map(cannot_start, error.exceptions))
    return isinstance(error, CannotStart)


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback has it, whatever its text is."""
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be had)"
    return " ".join(f"{type(error).__name__}: {text}".split()).removesuffix(":")
