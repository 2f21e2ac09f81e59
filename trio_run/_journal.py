"""Journal: how a run is told while it goes on: lines on the logger ``trio_run``, and events.

What is told was decided elsewhere. How a run is told afterwards is decided in _report.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ._errors import cannot_start, one_line, tells_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from ._actor import Cause
    from ._member import Life, Member
    from ._report import Report

logger = logging.getLogger("trio_run")

_NAMES_IN_A_LINE = 10

Kind = Literal[
    "ready",
    "not ready",
    "stop began",
    "lame duck",
    "interrupted",
    "stopped",
    "failed",
    "restarted",
    "held up",
    "cut",
    "over",
]


@dataclass(frozen=True)
class Event:
    """Something that happened in a group, for :meth:`Group.on_event`.

    ``kind`` says what, ``actor`` the name of the actor that it is about, or None where it is about
    the group; ``when`` is in seconds from the group's start; ``fields`` has what else there is to
    know.

    The fields are, of an event about the group:

    - "ready", "not ready": none
    - "stop began": ``reason``, and ``actor``, ``error`` (the exception) and ``signal`` of its cause
    - "lame duck": ``seconds``
    - "held up": ``by`` (the actors' names), ``seconds`` (since the start or the stop began)
    - "over": ``exit_code``, ``seconds`` (that the stop took), ``report``

    And of one about an actor:

    - "ready": none
    - "interrupted", "cut": ``reason``
    - "stopped": ``outcome``, ``detail``
    - "failed": ``error`` (the exception), ``ignored`` (it stops nobody; so it is with a life of a
      :class:`Restarting`, too)
    - "restarted": ``lives`` (so far, with the one that begins), ``error`` (the exception that ended
      the last one; None: it returned)
    """

    kind: Kind
    actor: str | None
    when: float
    fields: Mapping[str, object]


class Journal:
    """The log and the events of one group."""

    __slots__ = (
        "_clock",
        "_functions",
        "_name",
        "_on_failure",
        "_was_ready",
        "is_of_a_worker",
        "life",
    )

    def __init__(
        self, name: str, clock: Callable[[], float], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._name = name
        self._clock = clock  # seconds from the group's start
        self._on_failure = on_failure  # called with what logging has raised
        self._functions: list[Callable[[Event], object]] = []
        self._was_ready = False  # as it was last said
        self.is_of_a_worker = False  # whose parent has a report for all
        # Of a Restarting, where the group is one life of that. It says itself when one begins and
        # ends, and so does the group around it who holds up what.
        self.life: Life | None = None

    def subscribe(self, function: Callable[[Event], object]) -> None:
        self._functions.append(function)

    def ready(self) -> None:
        self._was_ready = True
        self._log(self._level(logging.INFO), "ready")
        self._emit("ready")

    def readiness_changed(self, *, ready: bool) -> None:
        self._was_ready = ready
        if ready:
            self._log(self._level(logging.INFO), "ready again")
            self._emit("ready")
        else:
            self._log(self._level(logging.INFO), "not ready")
            self._emit("not ready")

    def actor_ready(self, life: Life) -> None:
        self._emit("ready", life)

    def never_starts(self, life: Life, missing: Sequence[Life]) -> None:
        self._log(
            logging.WARNING,
            "%r never starts: what it needs stopped before it was ready: %s",
            life.name,
            names_of(missing),
        )

    def start_held_up(self, seconds: float, by: Sequence[Life]) -> None:
        level = self._level_where_held_up()
        self._log(level, "%.0f s into the start, waiting for %s", seconds, names_of(by))
        self._emit("held up", by=tuple(life.name for life in by), seconds=seconds)

    def stop_began(self, cause: Cause) -> None:
        level = logging.INFO if cause.error is None else logging.ERROR
        if cannot_start(cause.error):
            level = logging.DEBUG  # who runs the group says it, once
        self._log(self._level(level), "stopping: %s", cause)
        self._emit(
            "stop began",
            reason=cause.reason,
            actor=cause.actor,
            error=cause.error,
            signal=cause.signal,
        )
        if self._was_ready:
            self._emit("not ready")

    def lame_duck(self, seconds: float) -> None:
        self._emit("lame duck", seconds=seconds)

    def lame_duck_ends_early(self, cause: Cause) -> None:
        self._log(logging.INFO, "the lame duck ends early: %s", cause)

    def stop_of_one(self, life: Life) -> None:
        self._log(_level_of_stop(life), "stopping %r alone", life.name)

    def interrupted(self, life: Life, cause: Cause) -> None:
        self._emit("interrupted", life, reason=cause.reason)

    def stopped(self, life: Life, *, alone: bool) -> None:
        if alone:
            level = _level_of_stop(life)
            self._log(level, "%r stopped alone: %s", life.name, life.member.outcome)
        if self._functions:
            self._emit("stopped", life, outcome=life.member.outcome, detail=life.status)

    def failed(self, life: Life, error: BaseException, *, ignored: bool, stopping: bool) -> None:
        """An actor failed. If its failure is the cause of the stop, that line tells of it."""
        what = one_line(error)
        if ignored:
            self._log(logging.ERROR, "%r failed: %s (ignored)", life.name, what, error=error)
        elif stopping:
            level = self._level(logging.ERROR)
            self._log(level, "while stopping: %r failed: %s", life.name, what)
        self._emit("failed", life, error=error, ignored=ignored)

    def life_failed(self, life: Life, number: int, error: BaseException) -> None:
        """A life of a Restarting failed."""
        what = one_line(error)
        self._log(logging.ERROR, "life %d of %r failed: %s", number, life.name, what, error=error)
        self._emit("failed", life, error=error, ignored=True)

    def life_is_due(self, life: Life, number: int, seconds: float) -> None:
        self._log(logging.INFO, "life %d of %r begins in %.1f s", number, life.name, seconds)

    def restarted(self, life: Life, number: int, error: BaseException | None) -> None:
        self._emit("restarted", life, lives=number, error=error)

    def held_up(self, seconds: float, by: Sequence[Life]) -> None:
        level = self._level_where_held_up()
        self._log(level, "%.0f s into the stop, waiting for %s", seconds, names_of(by))
        self._emit("held up", by=tuple(life.name for life in by), seconds=seconds)

    def cut(self, why: str, lives: Sequence[Life]) -> None:
        interrupted = [life for life in lives if life.interrupted_at is not None]
        others = [life for life in lives if life.interrupted_at is None]
        names = names_of(interrupted)
        if others:
            names += f" (and, not yet interrupted, {names_of(others)})"
        self._log(self._level_where_cut(logging.WARNING), "%s: cut %s", why, names.lstrip())
        for life in lives:
            self._emit("cut", life, reason=why)

    def stuck(self, life: Life, seconds: float) -> None:
        self._log(
            self._level_where_cut(logging.ERROR),
            "%r has not returned %g s after a hard cancel. It is here:\n%s",
            life.name,
            seconds,
            "".join(life.stacks()).rstrip(),
        )

    def over(self, report: Report) -> None:
        self._emit("over", exit_code=report.exit_code, seconds=report.duration, report=report)

    def report(self, report: Report) -> None:
        """At the end of the process. A worker's is of use where it tells more than its parent's."""
        has_ended_well = report.exit_code == 0 and not any(
            actor.outcome in ("failed", "cut") for actor in report.actors
        )
        level = logging.DEBUG if self.is_of_a_worker and has_ended_well else logging.INFO
        with contextlib.suppress(Exception):  # somebody's log handler: all there is to say was said
            logger.log(level, "%s", report)

    def _level(self, level: int) -> int:
        """The level of a line that whoever runs this group has a line of its own for."""
        return level if self.life is None else logging.DEBUG

    def _level_where_held_up(self) -> int:
        life = self.life
        is_said_around = life is not None and (life.is_stopping or not life.is_settled)
        return logging.DEBUG if is_said_around else logging.WARNING

    def _level_where_cut(self, level: int) -> int:
        return level if self.life is None or not self.life.was_cut else logging.DEBUG

    # What is not ours may raise: a log handler, a filter, a function that listens.

    def _log(
        self, level: int, text: str, *args: object, error: BaseException | None = None
    ) -> None:
        try:
            info = None if error is None else (type(error), error, _traceback_of(error))
            logger.log(level, f"%s: {text}", self._name, *args, exc_info=info)  # noqa: G004 - ours
        except BaseException as exc:
            self._on_failure(exc)

    def _emit(self, kind: Kind, life: Life | None = None, **fields: object) -> None:
        if not self._functions:
            return
        name = None if life is None else life.name
        event = Event(kind, name, self._clock(), MappingProxyType(fields))
        for function in self._functions:
            try:
                function(event)
            except BaseException as exc:
                what = one_line(exc)
                self._log(
                    logging.ERROR, "a function of on_event failed at %r: %s", kind, what, error=exc
                )


def _traceback_of(error: BaseException) -> TracebackType | None:
    """What is to be shown of it."""
    return None if tells_all(error) else error.__traceback__


def _level_of_stop(life: Life) -> int:
    return logging.DEBUG if life.stops_quietly else logging.INFO


def names_of(lives: Sequence[Life | Member]) -> str:
    """Their names, with the status of each: "api (12 connections, 3 busy), store"."""
    names = [
        f"{life.name} ({status})" if (status := life.status) else life.name
        for life in lives[:_NAMES_IN_A_LINE]
    ]
    if len(lives) > _NAMES_IN_A_LINE:
        names.append(f"and {len(lives) - _NAMES_IN_A_LINE:,} more")
    return ", ".join(names)
