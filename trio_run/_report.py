"""Report: what a group did, and the timeline that a person reads.

This module decides how a run is told. What is told was decided elsewhere.
"""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ._actor import Cause, Outcome
from ._errors import one_line
from ._picture import drawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME_WIDTH = 18
_BAR_WIDTHS = (10, 40)
_MOST_LINES = 100
_DETAIL_WIDTH = 14  # the least that is left to the details


@dataclass(frozen=True)
class ActorReport:
    """One actor's part of a :class:`Report`.

    ``outcome`` is "returned", "failed", "cut" (ended by a hard cancel) or "never started".
    ``ready``, ``interrupted`` and ``stopped`` are in seconds from the group's start; None where it
    never came to that. ``error`` is the exception it failed with, or None; ``detail`` the last
    value of its ``status``.
    """

    name: str
    outcome: Outcome
    ready: float | None
    interrupted: float | None
    stopped: float | None
    error: BaseException | None = None
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a group. ``str(report)`` is a timeline to print.

    ``cause`` says why it stopped; ``began`` when, in seconds from the group's start; ``duration``
    how many seconds the stop took. ``exit_code`` is what the process should exit with: 0 stopped as
    asked, 1 an actor failed, 128 + n forced by a second signal n. ``actors`` has one
    :class:`ActorReport` each, in the order in which they were added; of those that left a running
    group the last 1,000.
    """

    cause: Cause
    duration: float
    exit_code: int
    actors: tuple[ActorReport, ...]
    name: str = "group"
    began: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """It as plain data, which ``json.dumps`` takes: exceptions in one line, signals by name."""
        cause = self.cause
        return {
            "name": self.name,
            "cause": {
                "actor": cause.actor,
                "error": None if cause.error is None else one_line(cause.error),
                "signal": None if cause.signal is None else cause.signal.name,
                "reason": cause.reason,
            },
            "began": self.began,
            "duration": self.duration,
            "exit_code": int(self.exit_code),
            "actors": [
                {
                    "name": actor.name,
                    "outcome": actor.outcome,
                    "ready": actor.ready,
                    "interrupted": actor.interrupted,
                    "stopped": actor.stopped,
                    "error": None if actor.error is None else one_line(actor.error),
                    "detail": actor.detail,
                }
                for actor in self.actors
            ],
        }

    def svg(self, *, marks: Mapping[float, str] | None = None) -> str:
        """The timeline as a picture: an SVG, for a page or a file.

        It is light or dark as the reader's system is. Within a page of your own, CSS for
        ``.trio-run`` may set its colours: ``--ink``, ``--soft``, ``--line``, ``--works``,
        ``--stops`` and ``--cut``.

        Args:
          marks: moments to mark, such as the end of the grace: seconds from the beginning of the
            stop, each with its text.

        Raises:
          ValueError: if a moment is before the beginning of the stop, or never.
        """
        actors, others = _to_show(self)
        shown = [replace(actor, name=_shorten(actor.name)) for actor in actors]
        return drawn(self, shown, _counted(others), marks or {})

    def __str__(self) -> str:
        # A narrower terminal wraps: a table cut off would tell less.
        return _timeline(self, max(80, shutil.get_terminal_size((80, 24)).columns))


def _timeline(report: Report, width: int) -> str:
    took, code = f"{report.duration:.2f} s", f"exit code {report.exit_code}"
    head = f"{report.name} stopped in {took}: {report.cause} ({code})"
    lines = textwrap.wrap(head, width, subsequent_indent="  ")
    if not report.actors:
        return "\n".join(lines)
    actors, others = _to_show(report)
    details = [_detail(actor) for actor in actors]
    columns = [
        ["actor", *(_shorten(actor.name) for actor in actors)],
        ["ready", *(_seconds(actor.ready) for actor in actors)],
        ["stop", *(_seconds(actor.interrupted, report.began) for actor in actors)],
    ]
    widths = [max(map(len, column)) for column in columns]
    outcome_width = max(len("outcome"), *(len(actor.outcome) for actor in actors))
    detail_width = max(map(len, details))
    least, most = _BAR_WIDTHS
    room = width - sum(widths) - 2 * (len(widths) + 1) - outcome_width
    scale = f"{_seconds(report.duration)} s"
    least = max(least, len("0 s ") + len(scale))
    bar_width = max(least, min(most, room - (detail_width + 2 if detail_width else 0)))
    detail_width = max(_DETAIL_WIDTH, room - bar_width - 2)
    scale = f"0 s{scale:>{bar_width - 3}}"
    bars = [scale, *(_bar(actor, report, bar_width) for actor in actors)]
    outcomes = ["outcome", *(actor.outcome for actor in actors)]
    for row in range(len(actors) + 1):
        name, ready, interrupted = (column[row] for column in columns)
        line = (
            f"{name:<{widths[0]}}  {ready:>{widths[1]}}  {interrupted:>{widths[2]}}  {bars[row]}  "
            f"{outcomes[row]:<{outcome_width}}  "
        )
        detail = textwrap.wrap(details[row - 1], detail_width) if row else []
        lines.append((line + (detail[0] if detail else "")).rstrip())
        lines.extend(" " * len(line) + rest for rest in detail[1:])
    if others:
        lines.append(_counted(others))
    return "\n".join(lines)


def _to_show(report: Report) -> tuple[list[ActorReport], list[ActorReport]]:
    """Those that are worth a line, and the others: of very many the ones that took longest."""
    if len(report.actors) <= _MOST_LINES:
        return list(report.actors), []

    def weight(numbered: tuple[int, ActorReport]) -> tuple[bool, float]:
        actor = numbered[1]
        return actor.outcome in ("failed", "cut"), actor.stopped or 0.0

    ranked = sorted(enumerate(report.actors), key=weight, reverse=True)
    shown = sorted(ranked[:_MOST_LINES], key=lambda numbered: numbered[0])
    return [actor for _, actor in shown], [actor for _, actor in ranked[_MOST_LINES:]]


def _counted(others: Sequence[ActorReport]) -> str:
    """What became of those that have no line; "" if there are none."""
    if not others:
        return ""
    counts = Counter(actor.outcome for actor in others)
    rest = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    return f"and {len(others):,} more: {rest}"


def _bar(actor: ActorReport, report: Report, width: int) -> str:
    """When it was interrupted and how long it took, on the time line of the stop."""
    if actor.interrupted is None or actor.stopped is None or actor.stopped < report.began:
        return " " * width
    unit = width / report.duration if report.duration else 0.0
    first = max(0, min(width - 1, int((actor.interrupted - report.began) * unit)))
    last = max(first, min(width - 1, int((actor.stopped - report.began) * unit)))
    return (" " * first + "=" * (last - first + 1)).ljust(width)


def _detail(actor: ActorReport) -> str:
    parts = [actor.detail]
    if actor.error is not None:
        parts.insert(0, one_line(actor.error))
    return "; ".join(filter(None, parts))


def _seconds(when: float | None, since: float = 0.0) -> str:
    if when is None:
        return "-"
    seconds = round(when - since, 2)
    if abs(seconds) < 1000:
        return f"{seconds:.2f}"
    return f"{seconds:.0f}" if abs(seconds) < 100_000 else f"{seconds / 86400:.0f}d"


def _shorten(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 3] + "..."
