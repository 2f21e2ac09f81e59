"""Rules 2 to 15: groups of random actors, stopped at random, under a random scheduler.

Hypothesis draws a plan of a group (what each actor does, and when) and a list of stops, and seeds
Trio's scheduler. The plan is run on a mock clock; everything that the actors see goes into a list
of events, in the order in which it happened; then one check for each rule looks at that list and
at the report.

TRIO_RUN_EXAMPLES says how many plans to try, for a long run: 20000, say.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import hypothesis
import pytest
import trio
import trio.testing
from hypothesis import strategies as st

from trio_run import Cause, Group, GroupFailed, Member, Report, State, busy
from trio_run.testing import running

hypothesis.register_random(trio._core._run._r)
trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True

EXAMPLES = int(os.environ.get("TRIO_RUN_EXAMPLES", "300"))
BACKSTOP = 500.0  # then all is cancelled from outside: some plans have no other end
EPSILON = 1e-6


# The plan: what Hypothesis draws.


@dataclass(frozen=True)
class InterruptPlan:
    """What an interrupt does, besides telling its execute."""

    does: Literal["plain", "plain raises", "async", "async raises", "hangs"] = "plain"
    after: float = 0.0  # an async one takes so long
    ignores: float = 0.0  # and so long to end once it is cancelled


@dataclass(frozen=True)
class ActorPlan:
    """What an actor does, and how it was added."""

    does: Literal["returns", "raises", "hangs"] = "hangs"
    after: float = 0.0  # when it is ready
    busy: float | None = None  # it begins with a busy block of so many seconds
    heeds: float | None = (
        0.0  # told by its interrupt, it returns after so many seconds; None: it does not care
    )
    ignores: float = 0.0  # so long it takes to end once it is cancelled
    when_cancelled: Literal["ends", "raises", "returns"] = "ends"
    starts: Literal["at once", "reports", "raises first", "returns first"] = "at once"
    ready_after: float = 0.0  # for the last three: it takes task_status
    in_child: bool = False  # all this happens in a task of its own nursery
    interrupt: InterruptPlan | None = None
    group: "GroupPlan | None" = None  # it is a group, and all of the above does not matter
    needs: frozenset[int] = frozenset()  # the indexes of earlier actors
    daemon: bool = False
    grace: float | None = None
    on_return: Literal["stop", "ignore"] = "stop"
    on_error: Literal["stop", "ignore"] = "stop"
    added_at: float | None = None  # None: before run()
    stopped_at: float | None = None  # Member.stop(); negative: before run()


@dataclass(frozen=True)
class GroupPlan:
    grace: float
    lame_duck: float
    actors: tuple[ActorPlan, ...]


@dataclass(frozen=True)
class Stop:
    """A stop of the outermost group."""

    at: float  # negative: before run()
    how: Literal["stop", "cancel"] = "stop"
    grace: float | None = None


seconds = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
short = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 3.0])
graces = st.sampled_from([0.0, 1.0, 2.0, 4.0, 10.0, math.inf])
policies = st.sampled_from(["stop", "ignore"])
interrupt_plans = st.builds(
    InterruptPlan,
    does=st.sampled_from(["plain", "plain", "plain raises", "async", "async raises", "hangs"]),
    after=seconds,
    ignores=short,
)


@st.composite
def actor_plans(draw: st.DrawFn, earlier: list[ActorPlan], depth: int) -> ActorPlan:
    daemon = draw(st.sampled_from([False, False, False, True]))
    possible = [i for i, plan in enumerate(earlier) if plan.daemon or not daemon]
    needs = draw(st.frozensets(st.sampled_from(possible), max_size=2)) if possible else frozenset()
    grace = draw(st.none() | graces)
    on_return, on_error = draw(policies), draw(policies)
    added_at = draw(st.sampled_from([None, None, None, 0.0, 1.0, 2.0, 4.0]))
    stopped_at = draw(st.sampled_from([None, None, None, None, -1.0, 0.0, 1.0, 2.0, 4.0]))
    placed = {
        "needs": needs,
        "daemon": daemon,
        "grace": grace,
        "on_return": on_return,
        "on_error": on_error,
        "added_at": added_at,
        "stopped_at": stopped_at,
    }
    if depth and draw(st.integers(0, 4)) == 4:
        return ActorPlan(group=draw(group_plans(depth=depth - 1)), **placed)
    return draw(
        st.builds(
            ActorPlan,
            does=st.sampled_from(["hangs", "hangs", "hangs", "returns", "raises"]),
            after=st.sampled_from([0.0, 1.0, 3.0, 6.0, 12.0]),
            busy=st.none() | st.none() | seconds,
            heeds=st.none() | short,
            ignores=short,
            when_cancelled=st.sampled_from(["ends", "ends", "raises", "returns"]),
            starts=st.sampled_from(
                ["at once", "at once", "at once", "reports", "raises first", "returns first"]
            ),
            ready_after=short,
            in_child=st.booleans(),
            interrupt=st.none() | interrupt_plans | interrupt_plans,
            **{key: st.just(value) for key, value in placed.items()},
        )
    )


@st.composite
def group_plans(draw: st.DrawFn, depth: int = 2) -> GroupPlan:
    grace = draw(graces)
    lame_duck = draw(st.sampled_from([0.0, 0.0, 0.5, 1.5]))
    if grace and lame_duck >= grace:
        lame_duck = 0.0
    actors: list[ActorPlan] = []
    for _ in range(draw(st.sampled_from([3, 4, 5, 2, 1, 0] if depth == 2 else [2, 1, 3, 0]))):
        actors.append(draw(actor_plans(actors, depth)))
    return GroupPlan(grace, lame_duck, tuple(actors))


stops = st.builds(
    Stop,
    at=st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0]),
    how=st.sampled_from(["stop", "stop", "stop", "cancel"]),
    grace=st.none() | graces,
)


# The run: what happened.


class Boom(Exception):
    """A failure that the plan asked for."""


@dataclass(frozen=True)
class Event:
    time: float
    who: str  # the actor's path, "" for what is done to the outermost group
    what: str
    error: BaseException | None = None
    cause: Cause | None = None
    grace: float | None = None


@dataclass
class Recorder:
    events: list[Event] = field(default_factory=list)

    def see(
        self,
        who: str,
        what: str,
        *,
        error: BaseException | None = None,
        cause: Cause | None = None,
        grace: float | None = None,
    ) -> None:
        self.events.append(Event(trio.current_time(), who, what, error, cause, grace))

    def of(self, who: str, *what: str) -> list[Event]:
        return [event for event in self.events if event.who == who and event.what in what]

    def first(self, who: str, *what: str) -> Event | None:
        return next(iter(self.of(who, *what)), None)

    def position(self, event: Event) -> int:
        return next(i for i, other in enumerate(self.events) if other is event)


EXITS = ("returned", "raised", "cancelled")
INTERRUPT_EXITS = tuple(f"interrupt {exit_}" for exit_ in EXITS)


def exit_by(error: BaseException) -> str:
    failed = any(not isinstance(leaf, trio.Cancelled) for leaf in leaves(error))
    return "raised" if failed else "cancelled"


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


class Leaf:
    """An actor that does what its plan says, and records what it sees."""

    def __init__(self, plan: ActorPlan, path: str, recorder: Recorder) -> None:
        self.plan = plan
        self.path = path
        self.recorder = recorder
        self.told = trio.Event()

    def see(
        self, what: str, *, error: BaseException | None = None, cause: Cause | None = None
    ) -> None:
        self.recorder.see(self.path, what, error=error, cause=cause)

    def boom(self, where: str) -> Boom:
        error = Boom(f"{self.path} {where}")
        self.see("will raise", error=error)
        return error

    async def execute(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.see("began")
        try:
            if self.plan.in_child:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.work, task_status)
            else:
                await self.work(task_status)
        except BaseException as exc:
            self.see(exit_by(exc), error=exc)
            raise
        self.see("returned")

    async def execute_at_once(self) -> None:
        await self.execute()

    async def work(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self.live(task_status)
        except trio.Cancelled:
            self.see("saw cancel")
            with trio.CancelScope(shield=True):
                await trio.sleep(self.plan.ignores)
            if self.plan.when_cancelled == "raises":
                raise self.boom("when cancelled") from None
            if self.plan.when_cancelled == "ends":
                raise

    async def live(self, task_status: trio.TaskStatus[None]) -> None:
        plan = self.plan
        if plan.starts != "at once":
            await trio.sleep(plan.ready_after)
            if plan.starts == "raises first":
                raise self.boom("before it was ready")
            if plan.starts == "returns first":
                return
            task_status.started()
        if plan.busy is not None:
            with busy():
                try:
                    await trio.sleep(plan.busy)
                except trio.Cancelled:
                    self.see("busy block cancelled")
                    raise
        until = math.inf if plan.does == "hangs" else plan.after
        with trio.move_on_after(until):
            if plan.heeds is None:
                await trio.sleep_forever()
            await self.told.wait()
            await trio.sleep(plan.heeds)
            return
        if plan.does == "raises":
            raise self.boom("in execute")

    def interrupt(self, cause: Cause) -> object:
        assert self.plan.interrupt is not None
        self.see("interrupted", cause=cause)
        self.told.set()
        if self.plan.interrupt.does == "plain raises":
            raise self.boom("in its interrupt")
        return None if self.plan.interrupt.does == "plain" else self.interrupt_later()

    async def interrupt_later(self) -> None:
        plan = self.plan.interrupt
        assert plan is not None
        self.see("interrupt began")
        how = "interrupt returned"
        try:
            await trio.sleep(math.inf if plan.does == "hangs" else plan.after)
            if plan.does == "async raises":
                how = "interrupt raised"
                raise self.boom("in its async interrupt")
        except trio.Cancelled:
            how = "interrupt cancelled"
            with trio.CancelScope(shield=True):
                await trio.sleep(plan.ignores)
            raise
        finally:
            self.see(how)


class RecordedGroup(Group):
    """A group that records what an actor does: the outermost and the nested ones."""

    def __init__(self, plan: GroupPlan, path: str, recorder: Recorder) -> None:
        super().__init__(name=path or "group", grace=plan.grace, lame_duck=plan.lame_duck)
        self.plan = plan
        self.path = path
        self.recorder = recorder
        self.began_at = self.ended_at = 0.0
        self.paths: dict[str, Member] = {}  # of those that were added, in that order
        self.inner: dict[str, RecordedGroup] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Report:
        self.began_at = trio.current_time()
        self.recorder.see(self.path, "began")
        try:
            report = await super().run(task_status=task_status)
        except BaseException as exc:
            self.recorder.see(self.path, exit_by(exc), error=exc)
            raise
        else:
            assert report == self.report
            self.recorder.see(self.path, "returned")
            return report
        finally:
            self.ended_at = trio.current_time()

    execute = run

    def interrupt(self, cause: Cause) -> None:
        self.recorder.see(self.path, "interrupted", cause=cause)
        super().interrupt(cause)

    def plan_of(self, path: str) -> ActorPlan:
        return self.plan.actors[int(path.rpartition(".")[2])]

    def needing(self, path: str) -> list[str]:
        """Who needs the actor at the path. One that was added before it does not."""
        index = int(path.rpartition(".")[2])
        paths = list(self.paths)
        later = paths[paths.index(path) + 1 :]
        return [other for other in later if index in self.plan_of(other).needs]

    def workers(self) -> list[str]:
        return [path for path in self.paths if not self.plan_of(path).daemon]


@dataclass
class Run:
    """One plan, run: what the checks look at."""

    plan: GroupPlan
    recorder: Recorder
    group: RecordedGroup
    failed: GroupFailed | None = None
    events_by_its_end: int = 0
    tasks_before: int = 0
    tasks_after: int = 0

    def groups(self) -> Iterator[RecordedGroup]:
        """Every group that ran."""
        todo = [self.group]
        while todo:
            group = todo.pop()
            todo += group.inner.values()
            if self.recorder.first(group.path, "began") is not None:
                yield group

    def actors(self) -> Iterator[tuple[RecordedGroup, str, ActorPlan, Member]]:
        """Every actor that was added to a group that ran."""
        for group in self.groups():
            for path, member in group.paths.items():
                yield group, path, group.plan_of(path), member


Action = tuple[float, Callable[[], None]]


def build(plan: GroupPlan, path: str, recorder: Recorder, actions: list[Action]) -> RecordedGroup:
    """Make the group, and say what is to be done to it later."""
    group = RecordedGroup(plan, path, recorder)
    for index, actor_plan in enumerate(plan.actors):
        actor_path = f"{path}.{index}"
        actor: object
        if actor_plan.group is not None:
            actor = build(actor_plan.group, actor_path, recorder, actions)
        else:
            actor = Leaf(actor_plan, actor_path, recorder)

        def add(
            actor: object = actor, plan: ActorPlan = actor_plan, path: str = actor_path
        ) -> None:
            add_actor(group, actor, plan, path)

        def stop(path: str = actor_path) -> None:
            if path in group.paths:
                recorder.see(path, "stopped alone")
                group.paths[path].stop()

        if actor_plan.added_at is None:
            add()
        else:
            actions.append((actor_plan.added_at, add))
        if actor_plan.stopped_at is not None:
            actions.append((actor_plan.stopped_at, stop))
    return group


def add_actor(group: RecordedGroup, actor: object, plan: ActorPlan, path: str) -> None:
    stops_now = group.state in (State.LAME_DUCK, State.STOPPING, State.STOPPED)
    needs = [
        group.paths[needed]
        for index in sorted(plan.needs)
        if (needed := f"{group.path}.{index}") in group.paths
    ]
    options = {
        "name": path,
        "needs": needs,
        "daemon": plan.daemon,
        "grace": plan.grace,
        "on_return": plan.on_return,
        "on_error": plan.on_error,
    }
    try:
        if isinstance(actor, Leaf):
            execute = actor.execute_at_once if plan.starts == "at once" else actor.execute
            interrupt = actor.interrupt if plan.interrupt else None
            member = group.add(execute, interrupt, **options)
        else:
            member = group.add(actor, **options)
            group.inner[path] = actor
    except RuntimeError:
        told = group.recorder.first(group.path, "stop", "interrupted")  # maybe before it ran
        hopeless = any(
            need._life.stop_requested
            or need.interrupted_at is not None
            or (need.state is State.STOPPED and need.ready_at is None)
            for need in needs
        )
        assert stops_now or told is not None or hopeless, "rule 14: add() works while nothing stops"
    else:
        assert not stops_now, "rule 14: add() is an error on a group that stops"
        group.paths[path] = member
        group.recorder.see(path, "added")


async def run_plan(plan: GroupPlan, planned_stops: list[Stop]) -> Run:
    recorder = Recorder()
    actions: list[Action] = []
    run = Run(plan, recorder, build(plan, "", recorder, actions))
    outside = trio.CancelScope()

    def stop(grace: float | None) -> None:
        recorder.see("", "stop", grace=grace)
        run.group.stop(grace=grace)

    def cancel() -> None:
        recorder.see("", "cancel")
        outside.cancel()

    for planned in planned_stops:
        how = cancel if planned.how == "cancel" else lambda grace=planned.grace: stop(grace)
        actions.append((planned.at, how))
    actions.append((BACKSTOP, cancel))
    actions.sort(key=lambda action: action[0])

    async def act() -> None:
        start = trio.current_time()
        for at, action in actions:
            if at >= 0:
                await trio.sleep_until(start + at)
                action()
        await trio.sleep_forever()

    for at, action in actions:
        if at < 0:
            action()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        run.tasks_before = trio.lowlevel.current_statistics().tasks_living
        with outside:
            try:
                await run.group.run()
            except GroupFailed as exc:
                run.failed = exc
        run.tasks_after = trio.lowlevel.current_statistics().tasks_living
        run.events_by_its_end = len(recorder.events)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return run


# The checks: one for each rule.


def check_rule_02_starts_when_what_it_needs_is_ready(run: Run) -> None:
    for group, path, _, _ in run.actors():
        began = run.recorder.first(path, "began")
        for other in group.needing(path):
            other_began = run.recorder.first(other, "began")
            if other_began is not None:
                assert began is not None
                ready_at = group.paths[path].ready_at
                assert ready_at is not None
                assert ready_at <= other_began.time


def check_rule_03_the_cause_is_the_first_exit_or_stop(run: Run) -> None:
    for group in run.groups():
        cause = group.report.cause
        begins = group.began_at + group.report.began
        first = next((event for event in run.recorder.events if begins_stop(group, event)), None)
        told = run.recorder.first(group.path, "interrupted", "stop")
        if told is not None and (told.cause is cause or cause.reason == "stop() was called"):
            assert first is told
        elif cause.error is not None or cause.reason.endswith(" returned"):
            assert first is not None
            assert first.who == cause.actor
            exit_ = run.recorder.first(cause.actor, *EXITS)
            saw = run.recorder.first(cause.actor, "saw cancel")
            if not run.recorder.of(cause.actor, "stopped alone") and first is exit_:
                # What a cancellation made it do is not what made the group stop.
                assert saw is None
        else:  # nobody did anything that could be seen
            assert first is None or first.time >= begins
            if cause.reason == "cancelled from outside":
                # (A group inside another one is cancelled when that one cuts it.)
                assert group is not run.group or run.recorder.of("", "cancel")
            else:
                assert "keep it running" in cause.reason
                for path in group.workers():
                    stopped_at = group.paths[path].stopped_at
                    assert stopped_at is not None
                    assert stopped_at <= begins or group.plan_of(path).added_at is not None


def begins_stop(group: RecordedGroup, event: Event) -> bool:
    """Is this by itself a reason for the group to stop?"""
    if event.who == group.path:
        return event.what in ("stop", "interrupted")
    if event.who not in group.paths:
        return False
    plan = group.plan_of(event.who)
    if event.what == "returned":
        if returned_too_early(group, event.who):
            return plan.on_error == "stop"
        alone = group.recorder.first(event.who, "stopped alone")
        before = group.recorder.position(event)
        asked = alone is not None and group.recorder.position(alone) < before
        return plan.on_return == "stop" and not asked
    plain_raises = plan.interrupt is not None and plan.interrupt.does == "plain raises"
    failed = event.what in ("raised", "interrupt raised") or (
        event.what == "interrupted" and plain_raises
    )
    return failed and plan.on_error == "stop"


def returned_too_early(group: RecordedGroup, path: str) -> bool:
    """Did it return before it was ready, when nobody had asked it to?"""
    plan, member = group.plan_of(path), group.paths[path]
    exit_ = group.recorder.first(path, "returned")
    if plan.starts == "at once" or plan.group is not None or exit_ is None:
        return False
    asked_before = member.interrupted_at is not None and member.interrupted_at < exit_.time
    return (
        member.ready_at is None
        and not asked_before
        and not group.recorder.of(path, "saw cancel")
        and isinstance(member.error, RuntimeError)  # asked in the same moment: either is right
    )


def check_rule_04_interrupted_exactly_once(run: Run) -> None:
    for group, path, plan, member in run.actors():
        began = run.recorder.first(path, "began") is not None
        if member in group.members:  # one that left for good, and was owed nothing, is forgotten
            assert (member.interrupted_at is not None) == began
        if plan.interrupt is not None or plan.group is not None:
            assert len(run.recorder.of(path, "interrupted")) == began


def check_rule_04_the_interrupt_gets_the_cause(run: Run) -> None:
    for group, path, _, _ in run.actors():
        told = run.recorder.first(path, "interrupted")
        if told is not None and not run.recorder.of(path, "stopped alone"):
            assert told.cause is group.report.cause


def check_rule_04_no_interrupt_before_execute_began(run: Run) -> None:
    for _, path, _, member in run.actors():
        for told in run.recorder.of(path, "interrupted"):
            began = run.recorder.first(path, "began")
            assert began is not None
            assert run.recorder.position(began) < run.recorder.position(told)
            assert member.interrupted_at == told.time


def check_rule_05_interrupted_after_all_that_need_it(run: Run) -> None:
    for group, path, _, member in run.actors():
        if member.interrupted_at is not None:
            alone = bool(run.recorder.of(path, "stopped alone"))
            for other in group.needing(path):
                added = run.recorder.first(other, "added")
                assert added is not None
                if alone and added.time >= member.interrupted_at:
                    continue  # it came to need an actor that had been asked to stop
                assert_stopped_before(run, group, other, path, with_interrupt=not alone)


def check_rule_06_daemons_are_interrupted_last(run: Run) -> None:
    for group, path, plan, member in run.actors():
        alone = run.recorder.of(path, "stopped alone")
        if plan.daemon and member.interrupted_at is not None and not alone:
            for other in group.workers():
                assert_stopped_before(run, group, other, path, with_interrupt=True)


def assert_stopped_before(
    run: Run, group: RecordedGroup, first: str, then: str, *, with_interrupt: bool
) -> None:
    """The first had stopped, and its interrupt had finished, when the other was interrupted."""
    stopped_at = group.paths[first].stopped_at
    interrupted_at = group.paths[then].interrupted_at
    assert stopped_at is not None
    assert interrupted_at is not None
    assert stopped_at <= interrupted_at
    told = run.recorder.first(then, "interrupted")
    kinds = (*EXITS, *INTERRUPT_EXITS) if with_interrupt else EXITS
    ends = run.recorder.of(first, *kinds)
    if told is not None and ends:
        assert run.recorder.position(ends[-1]) < run.recorder.position(told)


def check_rule_08_the_bound_on_time(run: Run) -> None:
    for group in run.groups():
        assert group.ended_at <= group_deadline(run, group) + ignoring(group) + EPSILON
    for group, path, plan, member in run.actors():
        if plan.group is None:
            assert member.stopped_at is not None
            assert member.stopped_at <= hard_deadline(run, group, path) + plan.ignores + EPSILON


def check_rule_09_busy_is_cancelled_hard_only(run: Run) -> None:
    for group, path, _, _ in run.actors():
        for event in run.recorder.of(path, "busy block cancelled"):
            assert event.time >= hard_deadline(run, group, path) - EPSILON


def hard_deadline(run: Run, group: RecordedGroup, path: str) -> float:
    """From when on the actor at the path is cancelled hard."""
    plan, member = group.plan_of(path), group.paths[path]
    when = group_deadline(run, group)
    if member.interrupted_at is not None:
        grace = plan.grace
        if grace is None and member.interrupted_at < stop_begins(group):
            grace = group.plan.grace  # it was stopped alone
        if grace is not None:
            when = min(when, member.interrupted_at + grace)
    raised = [
        event for event in run.recorder.of(path, "will raise") if "interr" in str(event.error)
    ]
    return min([when, *(event.time for event in raised)])


def group_deadline(run: Run, group: RecordedGroup) -> float:
    """From when on the whole group is cancelled hard."""
    when = stop_begins(group) + group.plan.grace
    if group is not run.group:
        outer = next(outer for outer in run.groups() if group.path in outer.inner)
        return min(when, hard_deadline(run, outer, group.path))
    began = run.recorder.first("", "began")
    assert began is not None
    for event in run.recorder.of("", "cancel"):
        when = min(when, event.time)
    for event in run.recorder.of("", "stop"):
        before = run.recorder.position(event) < run.recorder.position(began)
        if event.grace is not None and not before:
            when = min(when, event.time + event.grace)
    return max(when, began.time)


def stop_begins(group: RecordedGroup) -> float:
    return group.began_at + group.report.began


def ignoring(group: RecordedGroup) -> float:
    """How long the group may take from a hard cancel on.

    All its actors are cancelled at once, but interrupts that are left are called in order.
    """
    took: dict[str, float] = {}

    def over(path: str) -> float:
        if path not in took:
            plan = group.plan_of(path)
            execute = ignoring(group.inner[path]) if path in group.inner else plan.ignores
            before = group.needing(path) + (group.workers() if plan.daemon else [])
            interrupt = plan.interrupt.ignores if plan.interrupt else 0.0
            took[path] = max([execute, *map(over, before)]) + interrupt
        return took[path]

    return max(map(over, group.paths), default=0.0)


def check_rule_10_nothing_is_left_running(run: Run) -> None:
    for _, path, _, member in run.actors():
        assert len(run.recorder.of(path, *EXITS)) == len(run.recorder.of(path, "began"))
        begun = run.recorder.of(path, "interrupt began")
        assert len(run.recorder.of(path, *INTERRUPT_EXITS)) == len(begun)
        assert member.state is State.STOPPED
    late = run.recorder.events[run.events_by_its_end :]
    our_own_doing = {
        "stop",
        "cancel",
        "stopped alone",
        "added",
    }  # the last to groups that never ran
    assert {event.what for event in late} <= our_own_doing
    assert run.tasks_after == run.tasks_before
    assert all(group.state is State.STOPPED for group in run.groups())


def check_rule_11_no_failure_is_lost(run: Run) -> None:
    expected = {id(error) for error in failures_to_raise(run, run.group)}
    raised = set() if run.failed is None else {id(error) for error in booms(run.failed)}
    assert raised == expected
    for group, path, _, member in run.actors():
        asked_for = {id(event.error) for event in run.recorder.of(path, "will raise")}
        if asked_for:  # the report has its first
            assert member.error is not None
            reported = {id(error) for error in booms(member.error)}
            assert asked_for & reported or returned_too_early(group, path)
        told = {actor.name: actor.error for actor in group.report.actors}
        assert told[path] is member.error


def failures_to_raise(run: Run, group: RecordedGroup) -> Iterator[BaseException]:
    """What the plan asked for, and nobody ignores."""
    for path in group.paths:
        if group.plan_of(path).on_error == "ignore":
            continue
        if path in group.inner:
            yield from failures_to_raise(run, group.inner[path])
        for event in run.recorder.of(path, "will raise"):
            assert event.error is not None
            yield event.error


def booms(error: BaseException) -> list[Boom]:
    return [leaf for leaf in leaves(error) if isinstance(leaf, Boom)]


def check_rule_11_the_causes_failure_comes_first(run: Run) -> None:
    for group in run.groups():
        ended = run.recorder.first(group.path, *EXITS)
        if ended is None or not isinstance(ended.error, GroupFailed):
            continue
        assert ended.error.report == group.report
        cause = ended.error.report.cause
        if cause.actor in group.paths and cause.error is not None:
            assert ended.error.exceptions[0] is cause.error
        for error in ended.error.exceptions:
            assert any("in actor" in note for note in error.__notes__)


def check_report_agrees_with_what_the_actors_saw(run: Run) -> None:
    for group in run.groups():
        assert [actor.name for actor in group.report.actors] == list(group.paths)
        for actor in group.report.actors:
            check_outcome(run, group, actor.name, actor.outcome)
        ended = run.recorder.first(group.path, *EXITS)
        assert ended is not None
        assert group.report.exit_code == isinstance(ended.error, GroupFailed)
        assert str(group.report)


def check_outcome(run: Run, group: RecordedGroup, path: str, outcome: str) -> None:
    member = group.paths[path]
    exit_ = run.recorder.first(path, *EXITS)
    assert (outcome == "never started") == (exit_ is None)
    assert (outcome == "failed") == (member.error is not None)
    if member.error is not None:
        assert booms(member.error) or group.inner.get(path) or returned_too_early(group, path)
    elif exit_ is not None:
        deadline = hard_deadline(run, group, path)
        if run.recorder.of(path, "interrupt cancelled"):
            assert outcome == "cut"
        elif exit_.what == "returned" or exit_.time < deadline - EPSILON:
            assert outcome == "returned"
        elif exit_.time > deadline + EPSILON:
            assert outcome == "cut"


CHECKS = [
    check_rule_02_starts_when_what_it_needs_is_ready,
    check_rule_03_the_cause_is_the_first_exit_or_stop,
    check_rule_04_interrupted_exactly_once,
    check_rule_04_the_interrupt_gets_the_cause,
    check_rule_04_no_interrupt_before_execute_began,
    check_rule_05_interrupted_after_all_that_need_it,
    check_rule_06_daemons_are_interrupted_last,
    check_rule_08_the_bound_on_time,
    check_rule_09_busy_is_cancelled_hard_only,
    check_rule_10_nothing_is_left_running,
    check_rule_11_no_failure_is_lost,
    check_rule_11_the_causes_failure_comes_first,
    check_report_agrees_with_what_the_actors_saw,
]


class _Formats(logging.Handler):
    """Formats every record, as a real handler would, and forgets it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


@contextmanager
def log_formatted_and_forgotten() -> Iterator[None]:
    logger = logging.getLogger("trio_run")
    handler = _Formats()
    logger.addHandler(handler)
    logger.propagate = False  # else pytest keeps every line of every example
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.removeHandler(handler)


@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(
    plan=group_plans(), planned_stops=st.lists(stops, max_size=3), scheduler=st.random_module()
)
def test_random_groups_keep_the_rules(
    plan: GroupPlan, planned_stops: list[Stop], scheduler: object
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    with log_formatted_and_forgotten():
        run = trio.run(run_plan, plan, planned_stops, clock=clock)
    for check in CHECKS:
        check(run)


# What the above found, each as small as it gets.


async def test_an_actor_whose_interrupt_was_cut_is_cut_though_its_execute_returns_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def execute() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async def interrupt(_cause: Cause) -> None:
        await trio.sleep_forever()

    group = Group(grace=1)
    group.add(execute, interrupt)
    async with running(group, wait_ready=False):
        await trio.sleep(0.5)
        group.stop()
        await group.members[0].wait_stopped()
    assert "cut" in group.status


def test_what_an_outside_cancel_made_an_actor_raise_is_not_the_cause() -> None:
    async def execute() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while cleaning up")

    async def main() -> Report:
        group = Group()
        group.add(execute)
        with trio.move_on_after(1):
            try:
                return await group.run()
            except GroupFailed as failed:
                return failed.report
        raise AssertionError("no failure is lost")

    for seed in range(20):  # whoever is woken first
        trio._core._run._r.seed(seed)
        report = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert report.cause.reason == "cancelled from outside"


@pytest.mark.parametrize("by", ["grace", "outside"])
async def test_an_actor_cut_before_it_is_ready_and_interrupted_has_not_failed(
    by: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def execute(task_status: trio.TaskStatus[None]) -> None:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()

    async def hold_up() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    group = Group(grace=1)
    group.add(execute, lambda cause: None, daemon=True)  # its turn comes when the other has stopped
    group.add(hold_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        await trio.sleep(0.5)
        if by == "grace":
            group.stop()
        else:
            nursery.cancel_scope.cancel()
    assert group.members[0].error is None


def test_an_actor_that_begins_when_the_grace_is_over_is_cut_too() -> None:
    async def ignore() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async def main() -> float:
        group = Group(grace=0)
        group.add(ignore)
        async with running(group, wait_ready=False):
            await trio.sleep(1)
            added = group.add(trio.sleep_forever, daemon=True)  # its turn comes 4 s later
            group.stop()
            await added.wait_stopped()
            return trio.current_time()

    for seed in range(20):  # in some of them run() is woken before the new actor
        trio._core._run._r.seed(seed)
        stopped = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert stopped == 1
