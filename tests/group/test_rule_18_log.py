"""Rules 18 and 19: what is logged, and on whose clock."""

import logging
import math
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    ActorReport,
    Cause,
    Group,
    GroupFailed,
    Report,
    busy,
    stopping,
)

from .. import TIMEOUT
from .helpers import (
    Worker,
    after,
    deaf,
    ends_in,
    fails,
    failure_of,
    ignored,
    in_background,
    messages,
    ready_after,
)

# 18. Everything is logged.


async def test_rule_18_who_caused_the_stop_and_why(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for actor in (after(1), fails(ValueError("broken"), after=1)):
        group = Group(name="app")
        group.add(actor, name="early")
        group.add(Worker())
        async with in_background(group):
            pass
    group = Group(name="app")
    group.add(Worker())
    async with in_background(group):
        group.stop("enough")
        group.stop("again")
    assert messages(caplog) == [
        "app: ready",
        "app: stopping: 'early' returned",
        "app: ready",
        "app: stopping: 'early' failed: ValueError: broken",
        "app: ready",
        "app: stopping: enough",
    ]
    levels = [record.levelno for record in caplog.records if "stopping" in record.getMessage()]
    assert levels == [logging.INFO, logging.ERROR, logging.INFO]


async def test_rule_18_a_stop_before_run_is_logged_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group(name="app")
    group.add(Worker())
    group.stop("changed my mind")
    await group.run()
    assert messages(caplog) == ["app: stopping: changed my mind"]


async def test_rule_18_a_failure_while_stopping_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    group.add(fails(ValueError("one"), after=1), name="first")
    group.add(fails(OSError("two"), after=2), ignored, name="second")
    await failure_of(group)
    assert messages(caplog, logging.ERROR) == [
        "app: stopping: 'first' failed: ValueError: one",
        "app: while stopping: 'second' failed: OSError: two",
    ]


async def test_rule_18_every_5_s_who_holds_it_up_and_its_status(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Busy(Worker):
        @property
        def status(self) -> str:
            return f"{20 - trio.current_time():g} left"

    group = Group(name="app", grace=100)
    need = group.add(Worker("need", closing=1))
    group.add(Busy("busy", closing=18), needs=[need])
    group.add(Worker("slow", closing=7))
    group.add(Worker("quick", closing=1))
    async with in_background(group):
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: 5 s into the stop, waiting for busy (15 left), slow",
        "app: 10 s into the stop, waiting for busy (10 left)",
        "app: 15 s into the stop, waiting for busy (5 left)",
    ]


async def test_rule_18_a_stuck_interrupt_holds_it_up_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(cause: Cause) -> None:
        await trio.sleep(8)

    group = Group(name="app")
    group.add(after(0), slow, name="gone")
    await group.run()
    assert messages(caplog, logging.WARNING) == ["app: 5 s into the stop, waiting for gone"]


async def test_rule_18_many_who_hold_it_up_fit_a_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    for number in range(1012):
        group.add(Worker(f"w{number}", closing=7))
    async with in_background(group):
        group.stop()
    names = ", ".join(f"w{number}" for number in range(10))
    assert messages(caplog, logging.WARNING) == [
        f"app: 5 s into the stop, waiting for {names}, and 1,002 more"
    ]


async def test_rule_18_a_status_that_raises_stops_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Worker):
        @property
        def status(self) -> str:
            raise ValueError("no status")

    group = Group(name="app")
    group.add(Broken("broken", closing=6))
    async with in_background(group) as result:
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: 5 s into the stop, waiting for broken (its status raised ValueError: no status)"
    ]
    assert "ValueError: no status" in result.report.actors[0].detail


async def test_rule_18_who_was_cut(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Worker):
        status = "3 jobs"

    group = Group(name="app", grace=4)
    group.add(Counting("one", closing=9))
    group.add(Worker("two", closing=9), grace=2)
    group.add(Worker("three", closing=1))
    async with in_background(group):
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: its grace of 2 s is over: cut two",
        "app: the grace of 4 s is over: cut one (3 jobs)",
    ]


async def test_rule_18_who_was_cut_from_outside(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    group.add(deaf(3), name="one")
    with trio.move_on_after(1):
        await group.run()
    assert "app: cancelled from outside: cut one" in messages(caplog, logging.WARNING)


async def test_rule_18_the_stacks_of_one_stuck_5_s_after_a_hard_cancel(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck_in_a_child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends_in, 20)

    group = Group(name="app", grace=3)
    group.add(stuck_in_a_child, name="stuck")
    group.add(deaf(7), name="late")
    async with in_background(group):
        group.stop()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    text = record.getMessage()
    assert text.startswith("app: 'stuck' has not returned 5 s after a hard cancel. It is here:\n")
    assert "stuck_in_a_child" in text
    assert "await trio.sleep(seconds)" in text  # the child's stack too
    assert "nursery" in text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_rule_18_the_stacks_of_one_stuck_after_its_interrupt_raised(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(cause: Cause) -> None:
        raise ValueError("broken")

    async def later(cause: Cause) -> None:
        raise ValueError("broken")

    group = Group(name="app", grace=math.inf)
    group.add(deaf(20), plain if kind == "plain" else later, name="stuck")
    async with in_background(group):
        group.stop()
    stacks = [line for line in messages(caplog, logging.ERROR) if "has not returned" in line]
    assert len(stacks) == 1
    assert "deaf_actor" in stacks[0]


async def test_rule_18_the_stack_of_an_interrupt_called_after_the_cut(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck_interrupt(cause: Cause) -> None:
        await ends_in(20)

    group = Group(name="app", grace=3)
    need = group.add(trio.sleep_forever, stuck_interrupt, name="need")
    group.add(deaf(10), ignored, name="user", needs=[need])
    async with in_background(group) as result:
        group.stop()
    assert result.ended_at == 30
    stacks = [line for line in messages(caplog, logging.ERROR) if "has not returned" in line]
    assert ["'user'" in line or "'need'" in line for line in stacks] == [True, True]
    assert "stuck_interrupt" in stacks[1]


async def test_rule_18_the_report_tells_what_became_of_each(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    class Counting(Worker):
        status = "3 jobs"

    group = Group(name="app", grace=4)
    need = group.add(ready_after(2), name="need")
    group.add(Counting("cut", closing=9), needs=[need])
    group.add(fails(error, after=3), name="bad")
    never = group.add(ready_after(math.inf), name="never ready")
    group.add(Worker("waiting"), needs=[never])
    failed = await failure_of(group)
    assert failed.report == Report(
        cause=Cause(actor="bad", error=error, reason="'bad' failed: ValueError: broken"),
        duration=4,
        exit_code=1,
        actors=(
            ActorReport("need", "cut", 2, 7, 7),
            ActorReport("cut", "cut", 2, 3, 7, detail="3 jobs"),
            ActorReport("bad", "failed", 0, 3, 3, error=error),
            ActorReport("never ready", "returned", None, 3, 3),
            ActorReport("waiting", "never started", None, None, None),
        ),
        name="app",
        began=3,
    )


# 19. Trio's clock.


async def test_rule_19_every_time_is_trios(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    group = Group(grace=86400, lame_duck=3600)
    group.add(ready_after(600), name="starter")
    group.add(trio.sleep_forever, ignored, name="by its own grace", grace=7200)
    group.add(trio.sleep_forever, ignored, name="by the group's")
    async with in_background(group) as result:
        await group.members[0].wait_ready()
        group.stop()
    report = result.report
    assert [actor.ready for actor in report.actors] == [600, 0, 0]
    assert [actor.interrupted for actor in report.actors] == [4200, 4200, 4200]
    assert [actor.stopped for actor in report.actors] == [4200, 11400, 87000]
    assert (report.began, report.duration) == (600, 86400)
    assert sum("into the stop" in line for line in messages(caplog)) >= 16559
    assert time.monotonic() - began < TIMEOUT


# What a fresh reading found.


async def test_rule_09_busy_work_left_in_anothers_nursery_stops_with_that_one(
    autojump_clock: MockClock,
) -> None:
    nurseries: list[trio.Nursery] = []

    async def host() -> None:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)
            await trio.sleep_forever()

    async def work() -> None:
        with busy():
            await trio.sleep_forever()

    async def guest() -> None:
        nurseries[0].start_soon(work)

    group = Group(grace=1)
    needed = group.add(host)
    group.add(guest, needs=[needed])
    async with in_background(group) as result:
        pass
    assert result.ended_at == 0


async def test_rule_14_member_stop_reaches_one_that_others_wait_for(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    slow = group.add(ready_after(1000), name="slow")
    waiting = group.add(trio.sleep_forever, name="waiting", needs=[slow])
    group.add(trio.sleep_forever, name="other")
    async with in_background(group):
        slow.stop()
        await slow.wait_stopped()
        await waiting.wait_stopped()
        assert trio.current_time() == 0
        group.stop()
    assert (slow.outcome, waiting.outcome) == ("returned", "never started")


async def test_rule_02_what_was_told_to_stop_starts_nobody(autojump_clock: MockClock) -> None:
    """It becomes ready in the moment in which it is told."""

    async def starts(*, task_status: trio.TaskStatus[None]) -> None:
        await go.wait()
        task_status.started()
        first.stop()
        await trio.sleep_forever()

    go = trio.Event()
    group = Group()
    first = group.add(starts)
    second = group.add(trio.sleep_forever, needs=[first])
    group.add(trio.sleep_forever)
    async with in_background(group):
        go.set()
        await second.wait_stopped()
        group.stop()
    assert second.outcome == "never started"


async def test_rule_02_an_inner_group_that_never_was_ready_starts_nobody(
    autojump_clock: MockClock,
) -> None:
    inner = Group(name="inner")
    inner.add(ready_after(1000))
    inner.add(trio.lowlevel.checkpoint)  # stops it
    outer = Group()
    needed = outer.add(inner, on_return="ignore")
    late = outer.add(trio.sleep_forever, needs=[needed])
    outer.add(trio.sleep_forever)
    async with in_background(outer):
        await late.wait_stopped()
        outer.stop()
    assert (needed.outcome, needed.ready_at) == ("returned", None)
    assert late.outcome == "never started"


async def test_rule_02_what_stopped_before_it_was_ready_can_not_be_needed(
    autojump_clock: MockClock,
) -> None:
    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise ValueError

    group = Group()
    member = group.add(broken, on_error="ignore")
    group.add(trio.sleep_forever)
    async with in_background(group):
        with pytest.raises(RuntimeError, match="which stopped before it was ready"):
            group.add(trio.sleep_forever, needs=[member])
        group.stop()


async def test_rule_11_the_same_exception_from_execute_and_interrupt_is_one_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("same")
    asked = trio.Event()

    async def execute() -> None:
        await asked.wait()
        raise error

    def interrupt(cause: Cause) -> None:
        asked.set()
        raise error

    group = Group()
    group.add(execute, interrupt)
    async with in_background(group) as result:
        group.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert len(error.__notes__) == 1


async def test_rule_13_failures_beside_an_exit_are_kept_through_nested_groups(
    autojump_clock: MockClock,
) -> None:
    inner_error, outer_error = ValueError("inner"), OSError("outer")

    def cleans_up_with(error: Exception) -> Callable[[], Awaitable[None]]:
        async def execute() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise error

        return execute

    inner, outer = Group(), Group()
    inner.add(fails(SystemExit(3), after=1))
    inner.add(cleans_up_with(inner_error))
    outer.add(inner)
    outer.add(cleans_up_with(outer_error))
    with pytest.raises(SystemExit) as caught:
        await outer.run()
    beside = caught.value.__cause__
    assert isinstance(beside, GroupFailed)
    assert beside.subgroup(lambda error: error is inner_error) is not None
    assert beside.subgroup(lambda error: error is outer_error) is not None


async def test_rule_18_one_cut_at_its_own_grace_is_not_cut_again_at_the_groups(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app", grace=2)
    group.add(deaf(20), name="stuck", grace=1)
    async with in_background(group):
        group.stop()
    assert len([line for line in messages(caplog, logging.WARNING) if ": cut " in line]) == 1
    assert len([line for line in messages(caplog, logging.ERROR) if "not returned" in line]) == 1


async def test_one_that_is_cut_before_its_turn_knows_that_it_is_stopping(
    autojump_clock: MockClock,
) -> None:
    seen: list[bool] = []

    async def store() -> None:
        try:
            await trio.sleep_forever()
        finally:
            seen.append(stopping())

    group = Group(grace=1)
    needed = group.add(store)
    group.add(deaf(5), needs=[needed])
    async with in_background(group):
        group.stop()
    assert seen == [True]


async def test_rule_18_every_five_seconds_is_not_at_once_where_a_float_rounds_down(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    begins = 26.100978556019818
    assert (begins + 40 - begins) // 5 == 7  # and not 8: it was due at once, for ever
    group = Group(grace=math.inf)
    group.add(Worker(closing=48))
    async with in_background(group):
        await trio.sleep(begins)
        group.stop()
    assert len([message for message in messages(caplog) if "into the stop" in message]) == 9
