"""What an exception means to us: a cancel, an exit, a failure, a sentence for a person.

Whatever somebody else's code raises is looked at here, and nowhere else. What is done about it is
decided by who called that code.
"""

from __future__ import annotations

import contextlib
import operator
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ._report import Report


class CannotStart(Exception):
    """An actor cannot start, for a reason that a person can mend: a port in use, say.

    An actor raises it with a whole sentence, which :func:`run` prints alone, where a failure of
    Python code gets its traceback.
    """


class ProcessFailed(Exception):
    """A child process ended otherwise than by exit code 0, or by the signal that stopped it.

    ``command`` is what ran, a tuple. ``exit_code`` and ``signal`` are numbers, and one of them is
    None. ``stderr`` has the last lines that it wrote there, where they are logged. :func:`run`
    prints its text without a traceback.
    """

    def __init__(
        self,
        what: str,
        *,
        command: tuple[str, ...],
        exit_code: int | None,
        signal: int | None,
        stderr: Sequence[str],
    ) -> None:
        lines = "".join(f"\n  {line}" for line in stderr)
        super().__init__(f"{what}. Last on its stderr:{lines}" if lines else what)
        self.command = command
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = "\n".join(stderr)


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
    """Whether there is a Cancelled in it, and what else there is: the objects themselves."""
    rest = _without(exc, lambda leaf: isinstance(leaf, trio.Cancelled))
    return rest is not exc, rest


def exits_in(error: BaseException) -> list[BaseException]:
    """What Python is to exit with: for that it has to be raised bare, in no exception group."""
    return [leaf for leaf in _leaves(error) if not isinstance(leaf, Exception)]


def failure_in(error: BaseException) -> Exception | None:
    """What is no exit in it: the object itself, if that is all there is."""
    rest = _without(error, lambda leaf: not isinstance(leaf, Exception))
    if isinstance(rest, Exception):
        return rest
    # A group that leaves by an exit has what failed in it as the cause.
    return error.__cause__ if isinstance(error.__cause__, GroupFailed) else None


def add_note(error: BaseException, note: str) -> None:
    """Add a note to it, if it takes one: a frozen dataclass, say, takes none."""
    with contextlib.suppress(Exception):
        error.add_note(note)


def without_tracebacks(error: BaseException) -> None:
    """Take its traceback off, and those of what it came from: they keep all their frames had."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.with_traceback(None)
            rest += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                rest += one.exceptions


def _leaves(error: BaseException) -> list[BaseException]:
    """What is in it, in its order. It may be nested deeper than Python lets a function be."""
    leaves = []
    rest = [error]
    while rest:
        one = rest.pop()
        if isinstance(one, BaseExceptionGroup):
            rest.extend(reversed(one.exceptions))
        else:
            leaves.append(one)
    return leaves


def _without(
    error: BaseException, unwanted: Callable[[BaseException], bool]
) -> BaseException | None:
    """It without the leaves that are unwanted; each group that has none of them is kept itself.

    Unlike BaseExceptionGroup.split(), which copies every group that it looks into.
    """
    kept: dict[int, BaseException | None] = {}
    rest = [(error, False)]
    while rest:
        one, are_parts_known = rest.pop()
        if not isinstance(one, BaseExceptionGroup):
            kept[id(one)] = None if unwanted(one) else one
        elif not are_parts_known:
            rest.append((one, True))
            rest.extend((part, False) for part in one.exceptions)
        else:
            parts = [part for whole in one.exceptions if (part := kept[id(whole)]) is not None]
            same = len(parts) == len(one.exceptions) and all(
                map(operator.is_, parts, one.exceptions)
            )
            kept[id(one)] = one if same else _derived(one, parts) if parts else None
    return kept[id(error)]


def _derived(group: BaseExceptionGroup[BaseException], parts: list[BaseException]) -> BaseException:
    """A group like that one, of some of its parts."""
    try:
        derived: BaseException = group.derive(parts)
    except Exception:  # it is somebody else's method
        derived = BaseExceptionGroup(group.message, parts)
    derived = derived.with_traceback(group.__traceback__)
    with contextlib.suppress(Exception):
        derived.__cause__ = group.__cause__
        derived.__context__ = group.__context__
        derived.__suppress_context__ = group.__suppress_context__
    for note in _notes_of(group):
        add_note(derived, note)
    return derived


def _notes_of(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", [])
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


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


def tells_all(error: BaseException) -> bool:
    """Is its text all there is to say? A traceback would show code of ours alone."""
    return all(isinstance(leaf, (CannotStart, ProcessFailed)) for leaf in _leaves(error))


def in_words(error: BaseException) -> str:
    """The text of one that tells all; of several the texts, each once."""
    if not isinstance(error, BaseExceptionGroup):
        return str(error)
    texts = dict.fromkeys(str(leaf).replace("\n", "\n  ") for leaf in _leaves(error))
    return "\n  ".join([f"{error.message}:", *texts])


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback has it, whatever its text is."""
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be had)"
    return " ".join(f"{type(error).__name__}: {text}".split()).removesuffix(":")
