"""Journal: how a run is told while it goes on: the lines on the logger ``trio_run``.

What is told was decided elsewhere. How a run is told afterwards is decided in _report.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._errors import cannot_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._actor import Cause
    from ._member import Life

logger = logging.getLogger("trio_run")

_NAMES_IN_A_LINE = 10


class Journal:
    """The log of one group."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def ready(self) -> None:
        logger.info("%s: ready", self._name)

    def never_starts(self, life: Life, missing: Sequence[Life]) -> None:
        logger.warning(
            "%s: %r never starts: what it needs stopped before it was ready: %s",
            self._name,
            life.name,
            _names(missing),
        )

    def stop_began(self, cause: Cause) -> None:
        level = logging.INFO if cause.error is None else logging.ERROR
        if cannot_start(cause.error):
            level = logging.DEBUG  # who runs the group says it, once
        logger.log(level, "%s: stopping: %s", self._name, cause)

    def lame_duck_ends_early(self, cause: Cause) -> None:
        logger.info("%s: the lame duck ends early: %s", self._name, cause)

    def failure_ignored(self, what: str, error: Exception) -> None:
        logger.error("%s: %s (ignored)", self._name, what, exc_info=error)

    def failed_while_stopping(self, what: str) -> None:
        logger.error("%s: while stopping: %s", self._name, what)

    def held_up(self, seconds: float, by: Sequence[Life]) -> None:
        logger.warning("%s: %.0f s into the stop, waiting for %s", self._name, seconds, _names(by))

    def cut(self, why: str, lives: Sequence[Life]) -> None:
        interrupted = [life for life in lives if life.interrupted_at is not None]
        others = [life for life in lives if life.interrupted_at is None]
        names = _names(interrupted)
        if others:
            names += f" (and, not yet interrupted, {_names(others)})"
        logger.warning("%s: %s: cut %s", self._name, why, names.lstrip())

    def stuck(self, life: Life, seconds: float) -> None:
        logger.error(
            "%s: %r has not returned %g s after a hard cancel. It is here:\n%s",
            self._name,
            life.name,
            seconds,
            "".join(life.stacks()).rstrip(),
        )


def _names(lives: Sequence[Life]) -> str:
    """Their names, with the status of each: "api (12 connections, 3 busy), store"."""
    names = [
        f"{life.name} ({status})" if (status := life.status) else life.name
        for life in lives[:_NAMES_IN_A_LINE]
    ]
    if len(lives) > _NAMES_IN_A_LINE:
        names.append(f"and {len(lives) - _NAMES_IN_A_LINE:,} more")
    return ", ".join(names)
