"""Rule 24: lives of random ends, stopped at random: nothing is begun after a stop, and so on.

Hypothesis draws what becomes of each life, the terms of a Restarting, and a stop. It runs on a mock
clock. All that happens goes into one list, in its order, and is looked at afterwards.

TRIO_RUN_EXAMPLES says how many to try, for a long run: 20000, say.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_run import CannotStart, Event, Group, GroupFailed, Report, Restarting, busy

EXAMPLES = int(os.environ.get("TRIO_RUN_EXAMPLES", "300"))
EPSILON = 1e-6
ENDS = 400.0  # then the group is stopped at last


@dataclass(frozen=True)
class LifePlan:
    """What becomes of one life."""

    does: Literal["fails", "returns", "hangs", "has no make", "can't start"]
    after: float = 0.0
    ready_after: float | None = None  # None: it is ready at once
    is_busy: bool = False
    raises_when_cancelled: bool = False


@dataclass(frozen=True)
class Plan:
    lives: tuple[LifePlan, ...]  # the last one is that of all later ones, too
    on: Literal["failure", "always"]
    first: float
    most: float
    limit: float
    within: float
    start_within: float | None
    stop: Literal["group", "member", "cancel", "interrupt"]
    stop_at: float
    lame_duck: float
    grace: float
    holds: float  # how long another actor holds up the interrupt, which it needs


seconds = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 20.0])
lives = st.builds(
    LifePlan,
    does=st.sampled_from(
        ["fails", "fails", "fails", "returns", "hangs", "has no make", "can't start"]
    ),
    after=seconds,
    ready_after=st.none() | seconds,
    is_busy=st.booleans(),
    raises_when_cancelled=st.booleans(),
)
plans = st.builds(
    Plan,
    lives=st.lists(lives, min_size=1, max_size=8).map(tuple),
    on=st.sampled_from(["failure", "always"]),
    first=st.sampled_from([0.5, 1.0, 2.0]),
    most=st.sampled_from([2.0, 7.0]),
    limit=st.sampled_from([0, 1, 2, 5, math.inf]),
    within=st.sampled_from([1.0, 10.0, 100.0]),
    start_within=st.none() | st.sampled_from([0.5, 2.0]),
    stop=st.sampled_from(["group", "member", "cancel", "interrupt"]),
    stop_at=st.floats(0, 30),
    lame_duck=st.sampled_from([0.0, 0.0, 3.0]),
    grace=st.sampled_from([3.5, 10.0, math.inf]),
    holds=st.sampled_from([0.0, 2.0]),
)


@dataclass
class Run:
    """One run of a plan: what happened, in its order."""

    plan: Plan
    happened: list[tuple[str, float, Any]] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)
    logged: list[BaseException] = field(default_factory=list)
    made: int = 0
    living: int = 0
    report: Report | None = None
    failed: GroupFailed | None = None

    def note(self, what: str, value: object = None) -> None:
        self.happened.append((what, trio.current_time(), value))

    def error(self, kind: type[Exception] = ValueError) -> Exception:
        self.raised.append(kind(f"number {len(self.raised)}"))
        return self.raised[-1]

    def make(self) -> Life:
        plan = self.plan.lives[min(self.made, len(self.plan.lives) - 1)]
        self.made += 1
        self.note("begun", self.made)
        if plan.does == "has no make":
            self.note("ended", self.made)
            raise self.error()
        return Life(self, plan, self.made)

    async def main(self) -> None:
        plan = self.plan
        group = Group(grace=plan.grace, lame_duck=plan.lame_duck)
        restarting = Restarting(
            self.make,
            on=plan.on,
            first=plan.first,
            most=plan.most,
            limit=plan.limit,
            within=plan.within,
            start_within=plan.start_within,
            name="restarting",
        )
        member = group.add(restarting)

        async def holder() -> None:
            with busy():
                try:
                    await member_stops.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(plan.holds)

        member_stops = trio.Event()
        group.add(holder, lambda _cause: member_stops.set(), needs=[member])
        group.on_event(self.heard)
        outer = Group(grace=math.inf)
        if plan.stop == "interrupt":
            outer.add(group)
        scope = trio.CancelScope()

        async def stop() -> None:
            await trio.sleep(plan.stop_at)
            if plan.stop == "member":
                self.note("stop")
                member.stop()
            elif plan.stop == "cancel":
                scope.cancel()
            elif plan.stop == "interrupt":
                outer.stop()
            else:
                self.note("stop")
                group.stop()
            await trio.sleep(ENDS)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            try:
                with scope:
                    self.report = await (outer if plan.stop == "interrupt" else group).run()
            except GroupFailed as failed:
                self.failed = failed
            nursery.cancel_scope.cancel()
        self.note("over")
        assert member.outcome != "never started" or not self.made
        self.detail = restarting.status

    def heard(self, event: Event) -> None:
        if event.kind == "stop began":
            self.note("stop")
        if event.kind == "failed":
            self.note("failed", event.fields["error"])


@dataclass
class Life:
    """The actor of one life."""

    run: Run
    plan: LifePlan
    number: int

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        run, plan = self.run, self.plan
        assert run.living == 0, "two live at the same time"
        run.living += 1
        try:
            if plan.ready_after is not None:
                await trio.sleep(plan.ready_after)
            task_status.started()
            if plan.is_busy:
                with busy():
                    await trio.sleep(plan.after)
            else:
                await trio.sleep(plan.after)
            if plan.does == "hangs":
                await trio.sleep_forever()
        except trio.Cancelled:
            if plan.raises_when_cancelled:
                raise run.error() from None
            raise
        finally:
            run.living -= 1
            run.note("ended", self.number)
        if plan.does == "fails":
            raise run.error()
        if plan.does == "can't start":
            raise run.error(CannotStart)


@contextmanager
def logged_errors() -> Iterator[list[BaseException]]:
    """The exceptions whose tracebacks are logged within the block."""
    errors: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                errors.append(record.exc_info[1])

    logger, handler = logging.getLogger("trio_run"), Handler()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield errors
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    elif error is not None:
        yield error


def nothing_is_begun_after_a_stop(run: Run) -> None:
    kinds = [what for what, _, _ in run.happened]
    assert "begun" not in kinds[kinds.index("stop") :]


def no_failure_is_lost(run: Run) -> None:
    kept = [*run.logged]
    kept += leaves(run.failed)
    for error in run.logged:
        kept += leaves(error)
    for error in run.raised:
        assert any(one is error for one in kept), f"{error!r} is lost"


def waits_are_within_their_bounds(run: Run) -> None:
    plan = run.plan
    begins = {number: when for what, when, number in run.happened if what == "begun"}
    ends = {number: when for what, when, number in run.happened if what == "ended"}
    wait = plan.first
    for number in sorted(begins)[1:]:
        if ends[number - 1] - begins[number - 1] > plan.within:
            wait = plan.first
        took = begins[number] - ends[number - 1]
        assert wait / 2 - EPSILON <= took <= wait + EPSILON
        wait = min(2 * wait, plan.most)


def too_many_failures_are_one_and_no_fewer_are(run: Run) -> None:
    plan = run.plan
    failures = [
        when
        for what, when, error in run.happened
        if what == "failed" and any(error is one for one in run.logged)
    ]
    too_many = [
        one
        for error in (run.failed.exceptions if run.failed else ())
        for one in (error.exceptions if isinstance(error, GroupFailed) else (error,))
        if isinstance(one, ExceptionGroup) and "times in" in str(one)
    ]
    if plan.limit == math.inf:
        assert not too_many
        return
    limit = int(plan.limit)
    over = [
        number
        for number in range(limit, len(failures))
        if failures[number] - failures[number - limit] <= plan.within
    ]
    if over:
        assert over == [len(failures) - 1]  # there is none after it
        [error] = too_many
        assert len(error.exceptions) > limit
    else:
        assert not too_many


def what_has_failed_before_the_stop_is_begun_anew(run: Run) -> None:
    """Where there was time for it, and it was no failure of its own."""
    kinds = [what for what, _, _ in run.happened]
    stop = run.happened[kinds.index("stop")][1]
    ends = [(when, number) for what, when, number in run.happened if what == "ended"]
    if ends and ends[-1][0] + run.plan.most + EPSILON < stop and run.plan.on == "always":
        raise AssertionError(f"life {ends[-1][1]} was the last, long before the stop")


@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(plans)
def test_rule_24_whatever_comes_of_the_lives(plan: Plan) -> None:
    run = Run(plan)
    with logged_errors() as run.logged:
        trio.run(run.main, clock=MockClock(autojump_threshold=0))
    assert run.living == 0
    nothing_is_begun_after_a_stop(run)
    no_failure_is_lost(run)
    waits_are_within_their_bounds(run)
    too_many_failures_are_one_and_no_fewer_are(run)
    what_has_failed_before_the_stop_is_begun_anew(run)
