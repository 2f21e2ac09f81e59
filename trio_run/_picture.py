"""The picture of a report: its timeline as SVG.

This module decides how it is drawn. Which actors have a row is decided in _report.
"""

from __future__ import annotations

import bisect
import html
import itertools
import math
import re
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._report import ActorReport, Report

_WIDTH, _ROW, _BAR = 760, 28, 14
_HEAD, _TOP = 34, 62  # where the lines of the moments begin, and the rows
_LETTER = 7.0  # how wide a letter is, about
_CAPITAL, _BROAD, _IDEOGRAPH = 9.5, 12.0, 14.0  # and those that are wider
_BOLD = 1.1  # as much wider
_MOST_NAME = 240.0  # how wide a name may be
_LEAD = 0.15  # of the stop's duration: how much of the time before it is shown
_TICKS = 5  # at the least, of the scale
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE = """
.trio-run { --ink: #1b1f24; --soft: #59626d; --line: #8a929c; --works: #9fc3e6; --stops: #2a6fb0;
  --cut: #c22f3f; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  .trio-run { --ink: #e7eaed; --soft: #9ba5b0; --line: #7a838d; --works: #34536f;
    --stops: #62a8e8; --cut: #ff7480; }
}
.trio-run text { fill: var(--ink); }
.trio-run .head { font-weight: 600; }
.trio-run .soft { fill: var(--soft); font-size: 12px; }
.trio-run text.bad { fill: var(--cut); }
.trio-run line { stroke: var(--line); }
.trio-run line.mark { stroke-dasharray: 3 3; }
.trio-run .works { fill: var(--works); }
.trio-run .stops { fill: var(--stops); }
.trio-run .cut { fill: var(--cut); }
"""


def drawn(
    report: Report, actors: Sequence[ActorReport], others: str, marks: Mapping[float, str]
) -> str:
    """It as SVG, with a row for each of these actors.

    Args:
      others: what there is to say of those that have no row.
      marks: moments to mark, in seconds from the beginning of the stop, each with its text.

    Raises:
      ValueError: if a moment is before the beginning of the stop, or never.
    """
    for moment in marks:
        if not 0 <= moment < math.inf:
            raise ValueError(f"a mark is at a number of seconds from 0 on, not at {moment!r}")
    actors = [replace(actor, name=_fitted(actor.name, _MOST_NAME)) for actor in actors]
    head = f"{report.name} stopped in {report.duration:.2f} s: {report.cause}"
    last = max(report.duration, *marks, 0.001)
    first = -min(_LEAD * last, report.began)
    left = 20 + max((_wide(actor.name) for actor in actors), default=0)
    right = 20 + _LETTER * max((len(actor.outcome) for actor in actors), default=0)
    unit = (_WIDTH - left - right) / (last - first)
    bottom = _TOP + _ROW * len(actors)

    def x(seconds: float) -> float:
        return left + (seconds - first) * unit

    shapes = [_text(0, 14, _fitted(head, _WIDTH / _BOLD), "head")]
    moments = [(0.0, "the stop begins"), *sorted(marks.items())]
    for number, (when, text) in enumerate(moments):
        y = _HEAD + 14 * (number % 2)
        kind = "mark" if number else "begin"
        shapes.append(_line(x(when), y + 4, x(when), bottom, kind))
        is_late = when > (first + last) / 2
        shown = _fitted(text, x(when) if is_late else _WIDTH - x(when))
        shapes.append(_text(x(when), y, shown, "soft", "end" if is_late else "start"))
    for row, actor in enumerate(actors):
        y = _TOP + _ROW * row
        shapes.append(_text(left - 10, y + _ROW / 2 + 4.5, actor.name, anchor="end"))
        for start, end, kind in _phases(actor, report.began):
            if end <= first:
                continue
            start = max(start, first)
            shapes.append(
                f'<rect class="{kind}" x="{x(start):.1f}" y="{y + (_ROW - _BAR) / 2:.1f}" '
                f'width="{max(2.0, (end - start) * unit):.1f}" height="{_BAR}" rx="2">'
                f"<title>{_escaped(_told(actor))}</title></rect>"
            )
        kind = "bad" if actor.outcome in ("cut", "failed") else ""
        shapes.append(_text(_WIDTH - right + 10, y + _ROW / 2 + 4.5, actor.outcome, kind))
    for second in _ticks(first, last):
        shapes.append(_line(x(second), bottom, x(second), bottom + 5))
        text = f"{second:g} s".replace("-", "\N{MINUS SIGN}")
        shapes.append(_text(x(second), bottom + 19, text, "soft", "middle"))
    if others:
        shapes.append(_text(0, bottom + 40, _fitted(others, _WIDTH), "soft"))
    height = bottom + (50 if others else 26)
    return (
        f'<svg class="trio-run" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {_WIDTH} {height}" aria-label="{_escaped(head)}">'
        f"<style>{_STYLE}</style>{''.join(shapes)}</svg>\n"
    )


def _phases(actor: ActorReport, began: float) -> Iterator[tuple[float, float, str]]:
    """When it worked, and when it was about to stop, in seconds from the beginning of the stop."""
    if actor.stopped is None:
        return
    stopped = actor.stopped - began
    interrupted = stopped if actor.interrupted is None else actor.interrupted - began
    if actor.ready is not None:
        yield actor.ready - began, min(interrupted, stopped), "works"
    if stopped > interrupted:
        yield interrupted, stopped, "cut" if actor.outcome == "cut" else "stops"


def _told(actor: ActorReport) -> str:
    return f"{actor.name}: {actor.outcome}" + (f", {actor.detail}" if actor.detail else "")


def _ticks(first: float, last: float) -> list[float]:
    """Where the scale says the time: at round numbers."""
    rough = (last - first) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(each * power for each in (1, 2, 5) if each * power <= rough)
    numbers = range(math.ceil(first / step), math.floor(last / step) + 1)
    return [round(number * step, 9) for number in numbers]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "tick") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{_escaped(text)}</text>"
    )


def _wide(text: str) -> float:
    """How wide it is, about."""
    return sum(map(_wide_of, text))


def _wide_of(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return _IDEOGRAPH
    if letter in "MWmw@%":
        return _BROAD
    return _CAPITAL if letter.isupper() else _LETTER


def _fitted(text: str, room: float) -> str:
    """It, or as much of it as has room."""
    text = " ".join(text.split())
    if _wide(text) <= room:
        return text
    room -= _wide("...")
    widths = itertools.accumulate(map(_wide_of, text))
    return text[: bisect.bisect_right(list(widths), room)] + "..."


def _escaped(text: str) -> str:
    """Text that is no markup, and has nothing that XML can't have."""
    return html.escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split())))
