"""Pictures, drawn when the guide is built.

``.. stop-picture:: a_stop`` runs examples/a_stop.py and draws what its group did.
``.. times-picture::`` draws which time is shorter than which. They are SVG within the page, in the
colours of its theme.
"""

import html
import inspect
import logging
import math
import runpy
from pathlib import Path

import trio
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from trio.testing import MockClock

from trio_run import Group, Report, run

WIDTH, ROW, BAR = 760, 30, 14
TOP = 44  # room for the scale


class Drawing:
    """An SVG whose x axis is seconds."""

    def __init__(self, first: float, last: float, rows: int, *, left: int, right: int) -> None:
        self.first, self.last, self.left = first, last, left
        self.unit = (WIDTH - left - right) / (last - first)
        self.height = TOP + rows * ROW + 34
        self.shapes: list[str] = []

    def x(self, seconds: float) -> float:
        return self.left + (seconds - self.first) * self.unit

    def bar(self, row: int, start: float, end: float, kind: str) -> None:
        start = max(start, self.first)
        self.shapes.append(
            f'<rect class="{kind}" x="{self.x(start):.1f}" y="{TOP + row * ROW + (ROW - BAR) / 2}" '
            f'width="{max(2.0, (end - start) * self.unit):.1f}" height="{BAR}" rx="2"/>'
        )

    def text(self, row: float, x: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self.shapes.append(
            f'<text class="{kind}" x="{x:.1f}" y="{TOP + row * ROW + ROW / 2 + 4.5:.1f}" '
            f'text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def line(self, seconds: float, text: str, rows: int, kind: str, level: int = 0) -> None:
        """A moment: a vertical line with a text above it, at one of two levels."""
        x = self.x(seconds)
        y = 14 + 16 * level
        self.shapes.append(
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 5}" y2="{TOP + rows * ROW}"/>'
        )
        anchor = "end" if seconds > (self.first + self.last) / 2 else "start"
        self.shapes.append(
            f'<text class="moment" x="{x:.1f}" y="{y}" '
            f'text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def scale(self, rows: int, step: int) -> None:
        y = TOP + rows * ROW
        for second in range(math.ceil(self.first), math.floor(self.last) + 1):
            if second % step == 0:
                x = self.x(second)
                self.shapes.append(
                    f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>'
                )
                text = f"{second} s".replace("-", "\N{MINUS SIGN}")
                self.text(rows + 0.25, x, text, "small", "middle")

    def svg(self, description: str) -> str:
        return (
            '<div class="picture"><svg class="trio-run" role="img" '
            f'viewBox="0 0 {WIDTH} {self.height}" aria-label="{html.escape(description)}">'
            f"{''.join(self.shapes)}</svg></div>"
        )


def stop(report: Report, group: Group) -> str:
    """What a group did, from shortly before its stop on: a bar for each actor."""
    marks = {}
    if group.lame_duck:
        marks[group.lame_duck] = "the lame duck is over"
    if report.duration >= group.grace:
        marks[group.grace] = f"the grace of {group.grace:g} s is over"
    return f'<div class="picture">{report.svg(marks=marks)}</div>{_legend()}'


def _legend() -> str:
    kinds = {"works": "works", "stops": "interrupted", "cut": "interrupted, and cut in the end"}
    keys = (
        '<span><svg class="trio-run" viewBox="0 0 28 12">'
        f'<rect class="{kind}" width="28" height="12" rx="2"/></svg> {text}</span>'
        for kind, text in kinds.items()
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def times(lame_duck: float = 5, outside: float = 40) -> str:
    """Which time is shorter than which, with the defaults of run() and a manager that waits."""
    defaults = inspect.signature(run).parameters
    grace, abort_after = defaults["grace"].default, defaults["abort_after"].default
    rows = [
        ("lame_duck", 0, lame_duck, "works"),
        ("grace", 0, grace, "stops"),
        ("abort_after", grace, grace + abort_after, "abort"),
        ("Docker, Kubernetes", 0, outside, "outside"),
    ]
    drawing = Drawing(0, outside, len(rows), left=210, right=30)
    drawing.line(0, "SIGTERM", len(rows), "begin")
    drawing.line(grace, "what runs is cut", len(rows), "moments", level=1)
    drawing.line(grace + abort_after, "exit code 1", len(rows), "grace")
    drawing.line(outside, "SIGKILL", len(rows), "grace", level=1)
    for row, (name, start, end, kind) in enumerate(rows):
        drawing.bar(row, start, end, kind)
        drawing.text(row, 200, name, anchor="end")
    drawing.scale(len(rows), 5)
    return drawing.svg(
        f"From SIGTERM on: a lame duck of {lame_duck:g} s is within the grace of {grace:g} s. "
        f"abort_after adds {abort_after:g} s. "
        f"The process manager waits for {outside:g} s, which is more."
    )


class StopPicture(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = Path(self.env.srcdir, "examples", f"{self.arguments[0]}.py")
        self.env.note_dependency(file)
        report, group = _run_example(file)
        return [
            nodes.raw("", stop(report, group), format="html"),
            nodes.literal_block(str(report), str(report), language="none", classes=["report"]),
        ]


def _run_example(file: Path) -> tuple[Report, Group]:
    """Run its main() on a clock that jumps; and the group, for its times."""
    groups: list[Group] = []

    class Seen(Group):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            groups.append(self)

    example = runpy.run_path(str(file))
    main = example["main"]
    main.__globals__["Group"] = Seen
    logger = logging.getLogger("trio_run")
    logger.disabled = True
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0)), groups[0]
    finally:
        logger.disabled = False


class TimesPicture(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", times(), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("stop-picture", StopPicture)
    app.add_directive("times-picture", TimesPicture)
    return {"parallel_read_safe": True}
