"""What the figures say: medians with their spread, ratios of the same round, and the targets.

They are written as a table and as JSON. A ratio is always ours to the peer's, and it is taken
within each round: what disturbs one round disturbs both.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import chain, starmap
from pathlib import Path

from ._run import Measured, Remarks
from ._scenarios import FIGURES, SCENARIOS, TARGETS, Figure, Scenario, Target
from ._server import APART, CLIENT_CORE, SERVER_CORE

_UNSATURATED = (
    "Not at their limit (the client was slower, or the machine was busy): compare the CPU for one"
)
_PACKAGES = (
    "trio-run",
    "trio",
    "httptools",
    "uvloop",
    "hypercorn",
    "uvicorn",
    "granian",
    "trio-websocket",
    "websockets",
)


class Results:
    """All that was measured, to be asked about."""

    def __init__(self, measured: Sequence[Measured], remarks: Remarks) -> None:
        self.measured = measured
        self._remarks = remarks

    def counts(self, scenario: str) -> list[int]:
        return sorted({one.count for one in self.measured if one.scenario == scenario})

    def by_round(self, scenario: str, count: int, peer: str, figure: str) -> dict[int, float]:
        return {
            one.round: value
            for one in self.measured
            if (one.scenario, one.count, one.peer) == (scenario, count, peer)
            and (value := one.sample.get(figure)) is not None
        }

    def ratios(self, scenario: Scenario, count: int, peer: str, figure: str) -> list[float]:
        ours = self.by_round(scenario.name, count, scenario.peers[0], figure)
        theirs = self.by_round(scenario.name, count, peer, figure)
        return [ours[number] / theirs[number] for number in ours if theirs.get(number)]

    # The table.

    def table(self) -> str:
        parts = (self._by_count(), self._tables(), self._targets(), self._said())
        return "\n".join([*machine(), "", *chain.from_iterable(parts)])

    def _by_count(self) -> Iterator[str]:
        """What a stop costs with your number of connections."""
        scenario, figure = SCENARIOS[0], "exit"
        counts = self.counts(scenario.name)
        if len(counts) < 2:
            return
        yield f"{FIGURES[figure].title}, by the number of {scenario.about}"
        rows = [["", *(f"{count:,}" for count in counts)]]
        for peer in scenario.peers:
            cells = [self._middle(scenario.name, count, peer, figure) for count in counts]
            if any(cells):
                rows.append([peer, *cells])
        yield from aligned(rows)
        yield ""

    def _tables(self) -> Iterator[str]:
        for scenario in SCENARIOS:
            for count in self.counts(scenario.name):
                yield from self._table(scenario, count)
                yield ""

    def _table(self, scenario: Scenario, count: int) -> Iterator[str]:
        main, *others = scenario.figures
        figure = FIGURES[main]
        better = "more is better" if figure.more_is_better else "less is better"
        lost = f" Lost: {scenario.lost}." if scenario.lost else ""
        yield f"{scenario.name}: {scenario.about}; {count:,} {scenario.unit}"
        yield f"    {figure.title}, median and range; {better}.{lost}"
        head = ["", figure.title, "", "ours / peer", ""]
        rows = []
        for peer in scenario.peers:
            values = self._values(scenario.name, count, peer, main)
            if not values:
                continue
            ratios = self.ratios(scenario, count, peer, main)
            row = [peer, show(statistics.median(values), figure), spread(values, figure)]
            if peer == scenario.peers[0] or not ratios:
                row += ["", ""]
            else:
                row += [f"{statistics.median(ratios):.2f}", spread(ratios, None)]
            row += [self._middle(scenario.name, count, peer, other) for other in others]
            rows.append(row)
        told = [any(row[5 + number] for row in rows) for number in range(len(others))]
        head += [FIGURES[other].title for other in others]
        keep = [True] * 5 + told
        yield from aligned(
            [[c for c, k in zip(row, keep, strict=True) if k] for row in [head, *rows]]
        )

    def _values(self, scenario: str, count: int, peer: str, figure: str) -> list[float]:
        return list(self.by_round(scenario, count, peer, figure).values())

    def _middle(self, scenario: str, count: int, peer: str, figure: str) -> str:
        values = self._values(scenario, count, peer, figure)
        return show(statistics.median(values), FIGURES[figure]) if values else ""

    # The targets.

    def _targets(self) -> Iterator[str]:
        rows = list(filter(None, map(self._target, TARGETS)))
        if rows:
            yield "Targets"
            yield from aligned([["", "at", "reach", "dream", "measured", "range", ""], *rows])
            yield ""

    def _target(self, target: Target) -> list[str] | None:
        scenario = next(one for one in SCENARIOS if one.name == target.scenario)
        figure = FIGURES[target.figure]
        counts = self.counts(target.scenario)
        if not counts:
            return None
        count = target.count if target.count in counts else counts[-1]
        name = f"{scenario.name}: {figure.title}"
        if target.against is not None:
            values = self.ratios(scenario, count, target.against, target.figure)
            name += f" / {target.against}"
        else:
            values = self._values(scenario.name, count, scenario.peers[0], target.figure)
        if not values:
            return None
        unit = figure if target.against is None else None
        middle = statistics.median(values)
        if target.reach == 0:  # not one, in any round
            middle = max(values)
        sign = "≥" if figure.more_is_better else "≤"
        limits = [f"{sign} {show(limit, unit)}" for limit in (target.reach, target.dream)]
        verdict = _verdict(target, middle, more_is_better=figure.more_is_better)
        return [name, f"{count:,}", *limits, show(middle, unit), spread(values, unit), verdict]

    def _said(self) -> Iterator[str]:
        remarks = {
            **self._remarks,
            _UNSATURATED: self._unsaturated(),
        }
        for remark, whom in remarks.items():
            if whom:
                yield remark
                yield from (f"    {who}: {why}" for who, why in whom.items())

    def _unsaturated(self) -> dict[str, str]:
        """Servers that did not use their core up: the client was slower, or others used it too."""
        shares: dict[str, list[float]] = {}
        for one in self.measured:
            if (share := one.sample.get("share")) is not None:
                shares.setdefault(f"{one.scenario}, {one.peer}", []).append(share)
        middles = {whom: statistics.median(values) for whom, values in shares.items()}
        return {
            whom: f"{middle:.0%} of its core in use"
            for whom, middle in middles.items()
            if middle < 0.9
        }

    # The files.

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        everything = {
            "machine": list(machine()),
            "remarks": self._remarks,
            "measured": [asdict(one) for one in self.measured],
        }
        (directory / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        (directory / "table.txt").write_text(self.table() + "\n")


def machine() -> Iterator[str]:
    """What it was measured on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    apart = f"the server on core {SERVER_CORE}, the client on core {CLIENT_CORE}"
    yield f"{model}, {os.cpu_count()} cores; {apart if APART else 'one core for both'}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield f"Linux {platform.release()}, {python}"
    yield ", ".join(starmap("{} {}".format, _versions()))
    git = shutil.which("git")
    if git is not None:
        describe = [git, "describe", "--always", "--dirty=, and changes"]
        here = Path(__file__).parent
        told = subprocess.run(describe, cwd=here, capture_output=True, text=True, check=False)
        if told.stdout:
            yield f"at {told.stdout.strip()}"


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _verdict(target: Target, measured: float, *, more_is_better: bool) -> str:
    for limit, verdict in ((target.dream, "dreamt"), (target.reach, "reached")):
        if measured >= limit if more_is_better else measured <= limit:
            return verdict
    return "missed"


def show(value: float, figure: Figure | None) -> str:
    """A number as it is read; None is a ratio."""
    unit = figure.unit if figure else "ratio"
    if unit == "ratio":
        return f"{value:.2f}"
    if unit == "s":
        for each, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= each or each == 1e-6:
                return f"{value / each:.3g} {name}"
    if unit == "B":
        return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"
    if unit == "%":
        return f"{value:.0%}"
    return f"{value:,.0f}" + (" /s" if unit == "/s" else "")


def spread(values: Sequence[float], figure: Figure | None) -> str:
    return f"({show(min(values), figure)} … {show(max(values), figure)})" if len(values) > 1 else ""


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right, as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True) if width
        ]
        yield ("    " + "  ".join(cells)).rstrip()
