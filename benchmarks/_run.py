"""Whose turn it is: every round gives each peer one turn.

So a noisy moment is noisy to all of them.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ._scenarios import Scenario
from ._server import LeftOut
from ._turn import Sample, Turn


@dataclass(frozen=True)
class Measured:
    """One turn, over."""

    scenario: str
    count: int
    round: int
    peer: str
    sample: Sample
    took: float  # seconds, all in all
    timeline: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    scenarios: Sequence[Scenario]
    peers: Sequence[str] | None  # None is all
    counts: Sequence[int] | None  # None is the scenario's own
    rounds: int
    seconds: float
    quick: bool

    def counts_of(self, scenario: Scenario) -> Sequence[int]:
        return self.counts or (scenario.quick if self.quick else scenario.counts)

    def peers_of(self, scenario: Scenario) -> list[str]:
        return [peer for peer in scenario.peers if self.peers is None or peer in self.peers]

    def turns(self) -> Iterator[tuple[Scenario, int, int, str]]:
        for scenario in self.scenarios:
            for count in self.counts_of(scenario):
                for number in range(1, min(self.rounds, scenario.most_rounds or self.rounds) + 1):
                    for peer in self.peers_of(scenario):
                        yield scenario, count, number, peer


LEFT_OUT, FAILED, SUSPECT = "Left out", "Failed", "Not to be believed"
Remarks = dict[str, dict[str, str]]  # under a title, of whom, what


def carry_out(plan: Plan) -> tuple[list[Measured], Remarks]:
    """All that was measured, and what is to be said of it.

    A peer that fails in a scenario has no further turns in it.
    """
    turns = list(plan.turns())
    measured: list[Measured] = []
    remarks: Remarks = {LEFT_OUT: {}, FAILED: {}, SUSPECT: {}}
    chance = random.Random(5)
    progress = _Progress(len(turns))
    with tempfile.TemporaryDirectory(prefix="trio-run-benchmarks-") as scratch:
        for scenario, count, number, peer in turns:
            progress.show(f"{scenario.name} {count:,} {peer}")
            whom = f"{scenario.name}, {peer}"
            if whom in remarks[LEFT_OUT] or whom in remarks[FAILED]:
                continue
            turn = Turn(peer, count, plan.seconds, Path(scratch), chance)
            began = time.perf_counter()
            try:
                sample = scenario.measure(turn)
            except LeftOut as exc:
                remarks[LEFT_OUT][whom] = str(exc)
                continue
            except Exception as exc:
                remarks[FAILED][whom] = "".join(traceback.format_exception(exc)).strip()
                continue
            timeline = _thinned(turn.timeline)
            took = time.perf_counter() - began
            measured.append(Measured(scenario.name, count, number, peer, sample, took, timeline))
            if tracebacks := sum(server.tracebacks for server in turn.servers):
                told = f"{tracebacks:,} tracebacks on stderr, which cost time"
                remarks[SUSPECT][whom] = told
    progress.end()
    return measured, remarks


def _thinned(timeline: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Enough of it to be drawn."""
    step = len(timeline) // 100 + 1
    return [*timeline[::step], *timeline[-1:]]


class _Progress:
    """A bar on stderr; where that is no terminal, a line now and then."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._done = -1
        self._began = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def show(self, what: str) -> None:
        self._done += 1
        share = self._done / self._turns
        if self._on_terminal:
            passed = time.monotonic() - self._began
            left = f"{passed / share - passed:.0f} s left" if self._done > 2 else ""
            bar = "#" * round(share * 30)
            print(f"\r[{bar:.<30}] {share:4.0%} {left:>12}  {what:40.40}", end="", file=sys.stderr)
        elif self._done * 20 // self._turns != (self._done - 1) * 20 // self._turns:
            print(f"{share:4.0%} {what}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._on_terminal:
            print("\r" + " " * 95 + "\r", end="", file=sys.stderr)
