"""What oklog/run and swift-service-lifecycle test of themselves, asked of a group, in our words.

Theirs on the left, ours on the right (without its ``test_``), or why it has no meaning here.

oklog/run, group_test.go and actors_test.go:

=========================================  ==================================================
TestZero                                   an_empty_group_returns_at_once
TestOne                                    the_failure_of_the_only_actor_is_raised
TestMany                                   the_first_failure_interrupts_the_others_and_is_raised
TestNilInterrupt                           actors_without_an_interrupt_lose_no_failure
TestContextHandler                         cancelled_from_outside_asks_cuts_and_passes_it_on
TestSignalError                            a_signal_is_the_cause_and_no_failure
=========================================  ==================================================

swift-service-lifecycle, ServiceGroupTests. Its services are stopped one by one, the last first;
ours all at once but for ``needs``, so the services here need each other in a chain. It can end a
group by cancelling it; ours always asks first and cancels when the grace is over.

=========================================  ==================================================
Run_whenAlreadyRunning                     a_running_group_does_not_run_again
Run_whenAlreadyFinished                    a_group_that_has_run_does_not_run_again
Run_whenNoService_andNoSignal              an_empty_group_returns_at_once Run_whenNoSignal
cancelled_from_outside_asks_cuts_and_passes_it_on whenRun_ShutdownGracefully
a_signal_is_the_cause_and_no_failure Run_whenServiceExitsEarly
an_early_exit_ends_the_group_and_is_no_failure . andIgnore
early_exits_that_are_ignored_leave_the_rest_alone . andShutdownGracefully
an_early_exit_in_the_middle_stops_the_rest_in_order . andShutdownGracefully_andThenCancels
a_second_exit_changes_nothing . andOtherRunningService
an_early_exit_ends_the_group_and_is_no_failure Run_whenServiceThrows
the_first_failure_interrupts_the_others_and_is_raised . andIgnore
a_failure_that_is_ignored_is_in_the_report_only . andShutdownGracefully
a_failure_in_the_middle_stops_the_rest_in_order . andShutdownGracefully_andOther...Throws
failures_while_stopping_are_raised_after_the_first CancellationSignal
a_stop_without_grace_cuts_everything_at_once . afterGracefulShutdownSignal
a_second_signal_cuts_everything GracefulShutdownOrdering                   they_stop_in_order .
whenServiceThrows                        a_failure_while_stopping_keeps_the_order .
whenServiceThrows_and...Shutsdown        a_failure_while_stopping_keeps_the_order . whenServiceExits
an_exit_out_of_turn_keeps_the_order . whenServiceExits_andIgnoringThrows
a_failure_that_is_ignored_while_stopping_keeps_the_order NestedServiceLifecycle
a_nested_group_stops_in_its_turn TriggerGracefulShutdown
an_exit_out_of_turn_keeps_the_order . serviceThrows_inOrder_graceful...
a_failure_while_stopping_keeps_the_order . serviceThrows_inOrder_ignore
a_failure_that_is_ignored_while_stopping_keeps_the_order . serviceThrows_outOfOrder_graceful...
a_failure_out_of_turn_keeps_the_order . serviceThrows_outOfOrder_ignore
a_failure_out_of_turn_keeps_the_order . whenNestedGroup
a_nested_group_keeps_its_own_order GracefulShutdownEscalation
what_does_not_stop_in_its_grace_is_cut . whenNoCancellationEscalation
what_does_not_stop_when_cut_is_waited_for GracefulShutdownWithMaximumDuration
what_stops_in_its_grace_is_not_cut CancellationEscalation
what_does_not_stop_when_cut_is_waited_for (its last resort, a fatal error)           none: a group
waits; the watchdog of run() ends the process =========================================
==================================================

Its ServiceGroupAddServiceTests:

=========================================  ==================================================
AddService_whenNotRunning                  none: add() before run() is what every test here does
AddService_whenRunning                     an_actor_added_while_running_runs_and_is_stopped
AddService_whenShuttingDown                nothing_is_added_to_a_group_that_stops[gracefully] .
whenCancelling                           nothing_is_added_to_a_group_that_stops[hard]
Run_whenAddedServiceExitsEarly_andIgnore   early_exits_that_are_ignored_leave_the_rest_alone[added]
. andShutdownGracefully
an_early_exit_in_the_middle_stops_the_rest_in_order[added] Run_whenAddedServiceThrows
a_failure_in_the_middle_stops_the_rest_in_order[added] GracefulShutdownOrdering_withAdded...
they_stop_in_order[added] . whenAddedServiceExits
an_exit_out_of_turn_keeps_the_order[added] =========================================
==================================================

Its GracefulShutdownTests, AsyncCancelOnGracefulShutdownSequenceTests and ClosureServiceTests:

=========================================  ==================================================
WithGracefulShutdownHandler                who_waits_for_the_stop_is_told[...]
. whenAlreadyShuttingDown                  who_asks_late_is_told_at_once
. whenNested                               who_waits_for_the_stop_is_told[...]
. cleansUpHandlerAfterScopeExit            a_block_that_was_left_is_not_cancelled
TaskShutdownGracefully                     who_waits_for_the_stop_is_told[foreign nursery]
TaskGroup..., ThrowingTaskGroup...         who_waits_for_the_stop_is_told[child]
CancelWhenGracefulShutdown                 a_block_is_cancelled_by_the_stop
ResumesCancelWhen...WithResult             a_block_that_ends_by_itself_keeps_its_result
IsShuttingDownGracefully                   who_waits_for_the_stop_is_told[...]
WaitForGracefulShutdown                    who_waits_for_the_stop_is_told[...]
. WhenAlreadyShutdown                      who_asks_late_is_told_at_once
. Cancellation                             waiting_for_the_stop_can_be_cancelled
WithTaskCancellationOrGraceful... (both)   a_block_is_cancelled_by_either
CancelWhen...SurvivesCancellation          a_block_cancelled_from_outside_still_cleans_up
. SurvivesErrorThrown                      an_error_while_cleaning_up_is_not_lost
finishesWhenShutdown                       a_loop_over_a_stream_ends_with_the_stop
finishesBaseFinishes                       a_loop_over_a_stream_ends_with_the_stream
runExecutesClosure, runPropagatesErrors    the_failure_of_the_only_actor_is_raised
=========================================  ==================================================

No task is free of a nursery here, and every nursery raises; a bare async function is an actor.

Not theirs any more, and so not here: the tests of its older API (LifecycleTests,
ServiceLauncherTests, ServiceRunnerTests), which the above replaced. UnixSignalTests are about its
signal source, where we have Trio's.
"""

import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    Member,
    Report,
    SignalReceiver,
    cancel_on_stop,
    stopping,
    wait_stopping,
)

settle = trio.testing.wait_all_tasks_blocked
Clock = trio.testing.MockClock  # every test asks for it: no real time passes
LONG = 3000.0  # a bound for a test that would hang: no real time
SIGNAL = signal.SIGURG  # nothing happens where nobody receives it
when_added = pytest.mark.parametrize("late", [False, True], ids=["before", "added"])


class Service:
    """An actor in the test's hand: it tells what happens to it, and ends when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[str] = []
        self._ended = trio.Event()
        self._error: Exception | None = None

    async def execute(self) -> None:
        self.told.append("runs")
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self.told.append("cancelled")
            with trio.move_on_after(LONG, shield=True):
                await self._ended.wait()
            raise
        if self._error is not None:
            raise self._error

    def interrupt(self, _cause: Cause) -> None:
        self.told.append("asked")

    def end(self, error: Exception | None = None) -> None:
        self._error = error
        self._ended.set()


def services(count: int) -> list[Service]:
    return [Service(f"service {number + 1}") for number in range(count)]


def told(chain: list[Service]) -> list[str]:
    """The last that each was told."""
    return [service.told[-1] for service in chain]


class Outcome:
    """What became of a group's run()."""

    report: Report | None = None
    failed: GroupFailed | None = None

    @property
    def errors(self) -> list[Exception]:
        assert self.failed is not None
        return list(self.failed.exceptions)


@asynccontextmanager
async def running(group: Group) -> AsyncIterator[Outcome]:
    """The group runs during the block, and is waited for at its end."""
    outcome = Outcome()

    async def run() -> None:
        try:
            outcome.report = await group.run()
        except GroupFailed as failed:
            outcome.failed = failed

    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await settle()
            yield outcome


@asynccontextmanager
async def running_chain(
    chain: list[Service], *, late: bool = False, **options: dict[str, Any]
) -> AsyncIterator[tuple[Group, Outcome]]:
    """Each needs the one before it. Options are for add(): service_2={"on_error": "ignore"}."""
    group = Group(grace=1000)
    previous: Member | None = None

    def add(service: Service) -> None:
        nonlocal previous
        needs = [previous] if previous else []
        previous = group.add(
            service, needs=needs, **options.get(service.name.replace(" ", "_"), {})
        )

    for service in chain[:1] if late else chain:
        add(service)
    async with running(group) as outcome:
        if late:
            for service in chain[1:]:
                add(service)
            await settle()
        assert told(chain) == ["runs"] * len(chain)
        yield group, outcome


# oklog/run.


async def test_an_empty_group_returns_at_once(autojump_clock: Clock) -> None:
    before = trio.current_time()
    report = await Group().run()
    assert trio.current_time() == before
    assert report.exit_code == 0
    assert report.actors == ()


async def test_the_failure_of_the_only_actor_is_raised(autojump_clock: Clock) -> None:
    error = RuntimeError("the database is gone")

    async def fail() -> None:
        raise error

    group = Group()
    group.add(fail, lambda cause: None)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    assert caught.value.exceptions == (error,)


async def test_the_first_failure_interrupts_the_others_and_is_raised(autojump_clock: Clock) -> None:
    error = RuntimeError("the database is gone")
    first, second = services(2)
    group = Group()
    group.add(first)
    group.add(second)
    async with running(group) as outcome:
        first.end(error)
        await settle()
        assert second.told == ["runs", "asked"]  # not cancelled
        second.end()
    assert outcome.errors == [error]


async def test_actors_without_an_interrupt_lose_no_failure(autojump_clock: Clock) -> None:
    errors = [RuntimeError("first"), RuntimeError("second"), RuntimeError("third")]
    group = Group()

    def add(error: Exception, interrupt: Callable[[Cause], None] | None) -> None:
        async def fail() -> None:
            raise error

        group.add(fail, interrupt)

    add(errors[0], lambda cause: None)
    add(errors[1], None)
    add(errors[2], None)
    group.add(trio.sleep_forever)
    async with running(group) as outcome:
        pass
    assert set(outcome.errors) == set(errors)
    assert outcome.failed is not None
    assert outcome.errors[0] is outcome.failed.report.cause.error


async def test_cancelled_from_outside_asks_cuts_and_passes_it_on(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group()
    group.add(service)
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await settle()
            outside.cancel()
            with trio.CancelScope(shield=True):
                await settle()
            assert sorted(service.told) == ["asked", "cancelled", "runs"]
            service.end()
    assert outside.cancelled_caught


async def test_a_signal_is_the_cause_and_no_failure(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group()
    group.add(SignalReceiver(SIGNAL))
    group.add(service)
    async with running(group) as outcome:
        signal.raise_signal(SIGNAL)
        await settle()
        assert service.told == ["runs", "asked"]
        service.end()
    assert outcome.report is not None
    assert outcome.report.cause.signal is SIGNAL
    assert outcome.report.exit_code == 0


# ServiceGroupTests: running twice.


async def test_a_running_group_does_not_run_again(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group()
    group.add(service)
    async with running(group):
        with pytest.raises(RuntimeError, match="runs once"):
            await group.run()
        assert service.told == ["runs"]
        service.end()


async def test_a_group_that_has_run_does_not_run_again(autojump_clock: Clock) -> None:
    group = Group()
    await group.run()
    with pytest.raises(RuntimeError, match="runs once"):
        await group.run()


# Early exits and failures.


async def test_an_early_exit_ends_the_group_and_is_no_failure(autojump_clock: Clock) -> None:
    first, second = services(2)
    group = Group()
    group.add(first)
    group.add(second)
    async with running(group) as outcome:
        first.end()
        await settle()
        assert second.told == ["runs", "asked"]
        second.end()
    assert outcome.report is not None
    assert outcome.report.cause.actor == "service 1"
    assert outcome.report.exit_code == 0


@when_added
async def test_early_exits_that_are_ignored_leave_the_rest_alone(
    autojump_clock: Clock, late: bool
) -> None:
    first, second = services(2)
    group = Group()
    group.add(first, on_return="ignore")
    if not late:
        group.add(second, on_error="ignore")
    async with running(group) as outcome:
        if late:
            group.add(second, on_error="ignore")
            await settle()
        first.end()
        await settle()
        assert second.told == ["runs"]
        error = RuntimeError("nobody minds")
        second.end(error)
    assert outcome.report is not None
    assert outcome.report.actors[1].error is error
    assert outcome.report.exit_code == 0


async def test_a_failure_that_is_ignored_is_in_the_report_only(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group()
    group.add(service, on_error="ignore")
    async with running(group) as outcome:
        error = RuntimeError("nobody minds")
        service.end(error)
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "failed"
    assert outcome.report.actors[0].error is error


@when_added
async def test_an_early_exit_in_the_middle_stops_the_rest_in_order(
    autojump_clock: Clock, late: bool
) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (_, outcome):
        second.end()
        await settle()
        assert [first.told[-1], third.told[-1]] == ["runs", "asked"]
        third.end()
        await settle()
        assert first.told == ["runs", "asked"]
        assert second.told == ["runs", "asked"]  # its turn came, though it had exited
        first.end()
    assert outcome.report is not None
    assert outcome.report.cause.actor == "service 2"


async def test_a_second_exit_changes_nothing(autojump_clock: Clock) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain) as (_, outcome):
        third.end()
        await settle()
        assert told(chain) == ["runs", "asked", "asked"]
        second.end()
        await settle()
        assert first.told == ["runs", "asked"]
        first.end()
    assert outcome.report is not None
    assert outcome.report.cause.actor == "service 3"


@when_added
async def test_a_failure_in_the_middle_stops_the_rest_in_order(
    autojump_clock: Clock, late: bool
) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (_, outcome):
        error = RuntimeError("first")
        second.end(error)
        await settle()
        assert [first.told[-1], third.told[-1]] == ["runs", "asked"]
        third.end()
        await settle()
        assert first.told == ["runs", "asked"]
        first.end()
    assert outcome.errors == [error]


async def test_failures_while_stopping_are_raised_after_the_first(autojump_clock: Clock) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain) as (_, outcome):
        errors = [RuntimeError("first"), RuntimeError("then")]
        second.end(errors[0])
        await settle()
        third.end()
        await settle()
        first.end(errors[1])
    assert outcome.errors == errors
    assert outcome.failed is not None
    assert outcome.failed.report.cause.error is errors[0]


# Order.


@when_added
async def test_they_stop_in_order(autojump_clock: Clock, late: bool) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (group, outcome):
        group.stop()
        await settle()
        assert told(chain) == ["runs", "runs", "asked"]
        third.end()
        await settle()
        assert told(chain) == ["runs", "asked", "asked"]
        second.end()
        await settle()
        assert told(chain) == ["asked", "asked", "asked"]
        first.end()
    assert outcome.report is not None
    assert [actor.outcome for actor in outcome.report.actors] == ["returned"] * 3


async def test_a_failure_while_stopping_keeps_the_order(autojump_clock: Clock) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain) as (group, outcome):
        group.stop()
        await settle()
        third.end()
        await settle()
        error = RuntimeError("while stopping")
        second.end(error)
        await settle()
        assert first.told == ["runs", "asked"]  # and has its grace: it is not cancelled
        first.end()
    assert outcome.errors == [error]
    assert outcome.failed is not None
    assert outcome.failed.report.cause.reason == "stop() was called"


async def test_a_failure_that_is_ignored_while_stopping_keeps_the_order(
    autojump_clock: Clock,
) -> None:
    chain = first, second, third = services(3)
    ignored, raised = RuntimeError("nobody minds"), RuntimeError("somebody does")
    async with running_chain(chain, service_2={"on_error": "ignore"}) as (group, outcome):
        group.stop()
        await settle()
        third.end()
        await settle()
        second.end(ignored)
        await settle()
        assert first.told == ["runs", "asked"]
        first.end(raised)
    assert outcome.errors == [raised]
    assert outcome.failed is not None
    assert outcome.failed.report.actors[1].error is ignored


@when_added
async def test_an_exit_out_of_turn_keeps_the_order(autojump_clock: Clock, late: bool) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (group, outcome):
        group.stop()
        await settle()
        third.end()
        await settle()
        first.end()  # before its turn
        await settle()
        assert told(chain) == ["runs", "asked", "asked"]
        second.end()
    assert first.told == ["runs", "asked"]
    assert outcome.report is not None
    assert [actor.outcome for actor in outcome.report.actors] == ["returned"] * 3


@pytest.mark.parametrize("policy", ["stop", "ignore"])
async def test_a_failure_out_of_turn_keeps_the_order(autojump_clock: Clock, policy: str) -> None:
    chain = first, second, third = services(3)
    error = RuntimeError("before its turn")
    async with running_chain(chain, service_1={"on_error": policy}) as (group, outcome):
        group.stop()
        await settle()
        third.end()
        await settle()
        first.end(error)
        await settle()
        assert told(chain) == ["runs", "asked", "asked"]
        second.end()
    assert first.told == ["runs", "asked"]
    if policy == "stop":
        assert outcome.errors == [error]
    else:
        assert outcome.report is not None
        assert outcome.report.actors[0].error is error


# Escalation.


async def test_what_does_not_stop_in_its_grace_is_cut(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group(grace=5)
    group.add(service)
    async with running(group) as outcome:
        group.stop()
        await trio.sleep(4.9)
        assert service.told == ["runs", "asked"]
        await trio.sleep(0.2)
        assert service.told == ["runs", "asked", "cancelled"]
        service.end()
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "cut"


async def test_what_stops_in_its_grace_is_not_cut(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group(grace=5)
    group.add(service)
    async with running(group) as outcome:
        group.stop()
        await trio.sleep(4.9)
        service.end()
    assert service.told == ["runs", "asked"]
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "returned"
    assert math.isclose(outcome.report.duration, 4.9)


async def test_what_does_not_stop_when_cut_is_waited_for(autojump_clock: Clock) -> None:
    (service,) = services(1)
    group = Group(grace=5)
    group.add(service)
    async with running(group) as outcome:
        group.stop()
        await trio.sleep(1000)
        assert service.told == ["runs", "asked", "cancelled"]
        assert (outcome.report, outcome.failed) == (None, None)
        service.end()
    assert outcome.report is not None
    assert math.isclose(outcome.report.duration, 1000)


async def test_a_stop_without_grace_cuts_everything_at_once(autojump_clock: Clock) -> None:
    chain = services(3)
    async with running_chain(chain) as (group, outcome):
        before = trio.current_time()
        group.stop(grace=0)
        await settle()
        assert trio.current_time() == before
        assert all("cancelled" in service.told for service in chain)
        for service in chain:
            service.end()
    assert [sorted(service.told) for service in chain] == [["asked", "cancelled", "runs"]] * 3
    assert outcome.report is not None
    assert [actor.outcome for actor in outcome.report.actors] == ["cut"] * 3


async def test_a_second_signal_cuts_everything(autojump_clock: Clock) -> None:
    chain = services(3)
    async with running_chain(chain) as (group, outcome):
        group.add(SignalReceiver(SIGNAL))
        await settle()
        signal.raise_signal(SIGNAL)
        await settle()
        assert told(chain) == ["runs", "runs", "asked"]
        signal.raise_signal(SIGNAL)
        await settle()
        assert all("cancelled" in service.told for service in chain)
        for service in chain:
            service.end()
    assert outcome.report is not None
    assert outcome.report.exit_code == 128 + SIGNAL


# Nested groups.


async def test_a_nested_group_stops_in_its_turn(autojump_clock: Clock) -> None:
    first, second = services(2)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(second)
    outer.add(inner, needs=[outer.add(first)])
    async with running(outer) as outcome:
        outer.stop()
        await settle()
        assert [first.told[-1], second.told[-1]] == ["runs", "asked"]
        second.end()
        await settle()
        assert first.told == ["runs", "asked"]
        first.end()
    assert outcome.report is not None
    assert outcome.report.exit_code == 0


async def test_a_nested_group_keeps_its_own_order(autojump_clock: Clock) -> None:
    chain = first, second, third = services(3)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(third, needs=[inner.add(second, needs=[inner.add(first)])])
    outer.add(inner)
    async with running(outer) as outcome:
        outer.stop()
        await settle()
        assert told(chain) == ["runs", "runs", "asked"]
        third.end()
        await settle()
        assert told(chain) == ["runs", "asked", "asked"]
        first.end()  # before its turn
        second.end()
    assert first.told == ["runs", "asked"]
    assert outcome.report is not None


# Adding.


async def test_an_actor_added_while_running_runs_and_is_stopped(autojump_clock: Clock) -> None:
    first, second = services(2)
    group = Group()
    group.add(first)
    async with running(group):
        group.add(second)
        await settle()
        assert second.told == ["runs"]
        first.end()
        await settle()
        assert second.told == ["runs", "asked"]
        second.end()


@pytest.mark.parametrize("grace", [1000, 0], ids=["gracefully", "hard"])
async def test_nothing_is_added_to_a_group_that_stops(autojump_clock: Clock, grace: float) -> None:
    first, second = services(2)
    group = Group()
    group.add(first)
    async with running(group):
        group.stop(grace=grace)
        await settle()
        with pytest.raises(RuntimeError, match="stopping"):
            group.add(second)
        first.end()
    assert second.told == []
    assert len(group.members) == 1


# GracefulShutdownTests: what code inside an actor may ask.

Start = Callable[[trio.Nursery, Callable[[], Awaitable[None]]], Awaitable[None]]


async def in_the_actor(outside: trio.Nursery, work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def in_a_child(outside: trio.Nursery, work: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)


async def in_a_grandchild(outside: trio.Nursery, work: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_a_child, outside, work)


async def in_a_foreign_nursery(outside: trio.Nursery, work: Callable[[], Awaitable[None]]) -> None:
    outside.start_soon(work)
    await wait_stopping()


@pytest.mark.parametrize(
    "start",
    [in_the_actor, in_a_child, in_a_grandchild, in_a_foreign_nursery],
    ids=["actor", "child", "grandchild", "foreign nursery"],
)
async def test_who_waits_for_the_stop_is_told(autojump_clock: Clock, start: Start) -> None:
    seen: list[bool] = []

    async def work() -> None:
        seen.append(stopping())
        await wait_stopping()
        seen.append(stopping())

    async with trio.open_nursery() as outside:
        group = Group()
        group.add(lambda: start(outside, work), lambda cause: None, name="worker")
        async with running(group) as outcome:
            assert seen == [False]
            group.stop()
    assert seen == [False, True]
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "returned"


async def test_who_asks_late_is_told_at_once(autojump_clock: Clock) -> None:
    async def work() -> None:
        await wait_stopping()
        await trio.sleep(1)
        before = trio.current_time()
        await wait_stopping()
        with cancel_on_stop() as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert stopping()
        assert trio.current_time() == before

    group = Group()
    group.add(work, lambda cause: None)
    async with running(group) as outcome:
        group.stop()
    assert outcome.report is not None


async def test_a_block_that_was_left_is_not_cancelled(autojump_clock: Clock) -> None:
    left: list[trio.CancelScope] = []

    async def work() -> None:
        with cancel_on_stop() as scope:
            await trio.sleep(1)
        left.append(scope)
        await wait_stopping()
        await trio.sleep(1)  # not cancelled either

    group = Group()
    group.add(work, lambda cause: None)
    async with running(group) as outcome:
        await trio.sleep(2)
        group.stop()
    assert outcome.report is not None
    assert outcome.report.duration == 1
    assert not left[0].cancel_called


async def test_a_block_is_cancelled_by_the_stop(autojump_clock: Clock) -> None:
    scopes: list[trio.CancelScope] = []

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block)
        await trio.sleep(1)  # the code after it goes on

    async def block() -> None:
        with cancel_on_stop() as scope:
            scopes.append(scope)
            await trio.sleep_forever()

    group = Group()
    group.add(work, lambda cause: None)
    async with running(group) as outcome:
        group.stop()
    assert scopes[0].cancelled_caught
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "returned"
    assert outcome.report.duration == 1


async def test_a_block_that_ends_by_itself_keeps_its_result(autojump_clock: Clock) -> None:
    async def work() -> None:
        with cancel_on_stop() as scope:
            await trio.sleep(1)
            result = "hello"
        assert result == "hello"
        assert not scope.cancelled_caught

    group = Group()
    group.add(work, lambda cause: None)
    report = await group.run()
    assert report.actors[0].outcome == "returned"


async def test_waiting_for_the_stop_can_be_cancelled(autojump_clock: Clock) -> None:
    async def work() -> None:
        with trio.move_on_after(1) as scope:
            await wait_stopping()
        assert scope.cancelled_caught
        assert not stopping()

    group = Group()
    group.add(work, lambda cause: None)
    report = await group.run()
    assert report.actors[0].outcome == "returned"


@pytest.mark.parametrize("by", ["stop", "cancel"])
async def test_a_block_is_cancelled_by_either(autojump_clock: Clock, by: str) -> None:
    ended: list[str] = []

    async def work() -> None:
        with cancel_on_stop():
            try:
                await trio.sleep_forever()
            finally:
                ended.append("the handler ran")

    group = Group()
    group.add(work, lambda cause: None)
    with trio.CancelScope() as outside:
        async with running(group):
            if by == "stop":
                group.stop()
            else:
                outside.cancel()
    assert ended == ["the handler ran"]
    assert outside.cancelled_caught == (by == "cancel")


async def test_a_block_cancelled_from_outside_still_cleans_up(autojump_clock: Clock) -> None:
    done: list[float] = []

    async def work() -> None:
        with cancel_on_stop():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                done.append(trio.current_time())

    group = Group()
    group.add(work, lambda cause: None)
    before = trio.current_time()
    with trio.move_on_after(2) as outside:
        await group.run()
    assert outside.cancelled_caught
    assert done == [before + 5]


async def test_an_error_while_cleaning_up_is_not_lost(autojump_clock: Clock) -> None:
    error = RuntimeError("while cleaning up")

    async def work() -> None:
        with cancel_on_stop():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                raise error

    group = Group()
    group.add(work, lambda cause: None)
    with trio.move_on_after(2), pytest.raises(GroupFailed) as caught:
        await group.run()
    assert caught.value.exceptions == (error,)


# AsyncCancelOnGracefulShutdownSequenceTests.


async def test_a_loop_over_a_stream_ends_with_the_stop(autojump_clock: Clock) -> None:
    source, stream = trio.open_memory_channel[int](math.inf)
    read: list[int] = []

    async def work() -> None:
        with cancel_on_stop():
            async for value in stream:
                read.append(value)  # noqa: PERF401

    group = Group()
    group.add(work, lambda cause: None)
    with source, stream:
        async with running(group) as outcome:
            await source.send(1)
            await settle()
            group.stop()
    assert read == [1]
    assert outcome.report is not None
    assert outcome.report.actors[0].outcome == "returned"


async def test_a_loop_over_a_stream_ends_with_the_stream(autojump_clock: Clock) -> None:
    source, stream = trio.open_memory_channel[int](math.inf)
    read: list[int] = []

    async def work() -> None:
        with cancel_on_stop():
            async for value in stream:
                read.append(value)  # noqa: PERF401

    group = Group()
    group.add(work, lambda cause: None, name="reader")
    with stream:
        async with running(group) as outcome:
            await source.send(1)
            source.close()
    assert read == [1]
    assert outcome.report is not None
    assert outcome.report.cause.actor == "reader"
