"""Every order in which the tasks of a small group can wake, with a stop at each of its first steps.

The rules of a group are what has to be true of each run.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_run import Cause, Group, GroupFailed, Member, State, busy, wait_stopping

from .schedules import Schedule, schedules, use
from .seeds import IS_ALL, seeds

GRACE = 10.0  # seconds, on a clock that jumps
KINDS = ("return", "raise", "wait", "slow", "stuck", "plain", "busy", "late", "daemon", "bad")
STOPS = ("none", "stop", "zero", "cancel", "member", "twice", "raise")


@dataclass(frozen=True)
class Plan:
    kinds: tuple[str, ...]  # of the actors
    needs: bool  # does each need the one before?
    stop: str
    after: int  # steps

    def is_endless(self) -> bool:
        """Does nothing stop it?"""
        ends = {"return", "raise"}
        others = [kind for kind in self.kinds if kind != "daemon"]
        return self.stop in ("none", "member") and bool(others) and not ends.intersection(others)


class Boom(Exception):
    pass


class Run:
    """One run of a plan: what happened, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.events: list[tuple[str, str]] = []
        self.group = Group(grace=GRACE)
        self.members: list[Member] = []
        self.needs: list[list[Member]] = []
        self.is_over = False
        self.was_hard = plan.stop in ("zero", "cancel", "twice")
        for number, kind in enumerate(plan.kinds):
            name = f"{kind} {number}"
            needs = self.members[-1:] if plan.needs else []
            if kind == "daemon" and plan.kinds[number - 1] != "daemon":
                needs = []  # a daemon needs none but daemons
            self.needs.append(needs)
            interrupt: Any = None if kind in ("plain", "busy") else self.interrupt_of(name, kind)
            self.members.append(
                self.group.add(
                    self.execute_of(name, kind),
                    interrupt,
                    name=name,
                    needs=needs,
                    daemon=kind == "daemon",
                )
            )

    def note(self, what: str, name: str) -> None:
        assert not self.is_over, f"{name}: {what} after run() has returned"
        self.events.append((what, name))

    def execute_of(self, name: str, kind: str) -> Any:
        async def execute(*, task_status: trio.TaskStatus[None]) -> None:
            self.note("began", name)
            try:
                if kind == "late":
                    await trio.lowlevel.checkpoint()
                task_status.started()
                self.note("ready", name)
                if kind == "return":
                    await trio.lowlevel.checkpoint()
                elif kind == "raise":
                    await trio.lowlevel.checkpoint()
                    raise Boom(name)
                elif kind == "plain":
                    await trio.sleep_forever()
                elif kind == "busy":
                    with busy():
                        await trio.sleep(1)
                        self.note("finished", name)
                    await trio.sleep_forever()
                elif kind == "stuck":
                    await trio.sleep_forever()
                else:
                    await wait_stopping()
            finally:
                self.note("ended", name)

        return execute

    def interrupt_of(self, name: str, kind: str) -> Callable[[Cause], Any]:
        def plain(_cause: Cause) -> None:
            self.note("interrupted", name)
            if kind == "bad":
                raise Boom(name)

        async def slow(_cause: Cause) -> None:
            self.note("interrupted", name)
            await trio.sleep(1)
            self.note("interrupt ended", name)

        return slow if kind == "slow" else plain

    async def main(self) -> None:
        with trio.fail_after(10 * GRACE):
            async with trio.open_nursery() as nursery:
                running = trio.CancelScope()
                nursery.start_soon(self.stop, running)
                with running:
                    try:
                        await self.group.run()
                    except GroupFailed:
                        pass
                    finally:
                        self.is_over = True
                        nursery.cancel_scope.cancel()

    async def stop(self, running: trio.CancelScope) -> None:
        for _ in range(self.plan.after):
            await trio.lowlevel.checkpoint()
        if self.plan.stop == "cancel":
            running.cancel()
        elif self.plan.stop == "member":
            self.members[0].stop()
        elif self.plan.stop == "raise":
            with pytest.raises(RuntimeError):
                self.group.stop()
                self.group.add(trio.sleep_forever)
        elif self.plan.stop != "none":
            self.group.stop(grace=0 if self.plan.stop == "zero" else None)
            if self.plan.stop == "twice":
                await trio.lowlevel.checkpoint()
                self.group.stop(grace=0)
        if self.plan.is_endless() or self.plan.stop == "member":
            await trio.sleep(2 * GRACE)
            self.group.stop()

    def check(self) -> None:
        assert self.is_over
        assert self.group.state is State.STOPPED
        report = self.group.report
        by_name = {each.name: each for each in report.actors}
        assert list(by_name) == [member.name for member in self.members]
        assert {member.state for member in self.members} == {State.STOPPED}
        at = {event: self.events.index(event) for event in self.events}
        is_cut = any(each.outcome == "cut" for each in report.actors)
        for number, (kind, member) in enumerate(zip(self.plan.kinds, self.members, strict=True)):
            name, line = member.name, by_name[member.name]
            began = self.events.count(("began", name))
            assert began == self.events.count(("ended", name)) <= 1, name
            # Each that was started is interrupted exactly once, and no other.
            if kind not in ("plain", "busy"):
                assert self.events.count(("interrupted", name)) == began, name
                if kind == "slow" and not self.was_hard and not is_cut:
                    assert self.events.count(("interrupt ended", name)) == began
            assert (line.outcome == "never started") == (not began), line
            assert (line.interrupted is None) == (not began), line
            assert (line.stopped is None) == (not began), line
            if kind in ("raise", "bad") and began and not is_cut and not self.was_hard:
                assert line.outcome == "failed", line
            if kind == "busy" and ("ready", name) in at and not self.was_hard:
                assert ("finished", name) in at
            # Order.
            for need in self.needs[number] if began else ():
                needed = need.name
                assert at["ready", needed] < at["began", name]
                hears = ("interrupted", needed)
                if not (is_cut or self.was_hard) and hears in at and self.plan.stop != "member":
                    assert at["ended", name] < at[hears], f"{name} needs {needed}"
            is_in_turn = not (is_cut or self.was_hard or self.plan.stop == "member")
            if kind == "daemon" and began and is_in_turn:
                for other, other_kind in zip(self.members, self.plan.kinds, strict=True):
                    if other_kind != "daemon" and ("ended", other.name) in at:
                        is_needed = self.plan.needs and other is not member
                        assert is_needed or at["ended", other.name] < at["interrupted", name]
        assert report.cause is not None
        str(report)


def run_of(plan: Plan, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> Run:
    with monkeypatch.context() as patched:
        use(schedule, patched)
        run = Run(plan)
        trio.run(run.main, clock=MockClock(autojump_threshold=0))
    return run


def play(plan: Plan, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    run = None
    try:
        run = run_of(plan, schedule, monkeypatch)
        run.check()
    except BaseException as exc:
        exc.add_note(f"{plan} {schedule.chosen} {run and run.events}")
        raise


def plan_of(rng: random.Random, number: int) -> Plan:
    kinds = tuple(rng.choice(KINDS) for _ in range(number))
    return Plan(kinds, rng.random() < 0.5, rng.choice(STOPS), rng.randrange(8))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("trio_run"), "disabled", True)


def pairs() -> list[Plan]:
    """All of them, with each stop after each number of steps."""
    return [
        Plan(kinds, needs, stop, after)
        for kinds in itertools.product(KINDS, repeat=2)
        for needs in (False, True)
        for stop in STOPS
        for after in range(8)
    ]


@pytest.mark.parametrize(("most", "usual", "many"), [(1, 100, 10**9), (2, 5, 500)])
def test_a_pair_in_every_order(
    most: int, usual: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but so many batches are in the order in which the tasks were made."""
    plans = pairs()
    random.Random(seeds(1, 1).start).shuffle(plans)
    for plan in plans[: many if IS_ALL else usual]:
        for schedule in schedules(most):
            play(plan, schedule, monkeypatch)


def test_three_in_a_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds(1000, 200_000):
        rng = random.Random(seed)
        plan = plan_of(rng, 3)
        chosen = {batch: rng.randrange(720) for batch in range(60)}
        play(plan, Schedule(chosen), monkeypatch)
