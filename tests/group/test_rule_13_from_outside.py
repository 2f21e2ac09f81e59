"""Rule 13: cancelled from outside, KeyboardInterrupt and SystemExit."""

import contextlib
import math
import signal

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    State,
    busy,
)

from .helpers import Worker, after, ctrl_c_raises, ends_in, fails, ignored, press_ctrl_c


async def test_rule_13_cancelled_from_outside_it_stops_hard_at_once(
    autojump_clock: MockClock,
) -> None:
    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=100, lame_duck=50)
    need = Worker("need", closing=9)
    need_member = group.add(need)
    user = Worker("user", closing=9)
    group.add(user, needs=[need_member])
    daemon = Worker("daemon", closing=9)
    group.add(daemon, daemon=True)
    group.add(works, name="works")
    with trio.move_on_after(1) as scope:
        await group.run()
        pytest.fail("Cancelled did not propagate")
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert group.state is State.STOPPED
    for worker in (need, user, daemon):
        assert worker.causes == [Cause(reason="cancelled from outside")]


async def test_rule_13_async_interrupts_are_called_inside_the_cancelled_scope(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def interrupt(cause: Cause) -> None:
        seen.append("called")
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    group = Group()
    group.add(trio.sleep_forever, interrupt)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert seen == ["called", "cancelled"]
    assert trio.current_time() == 1


async def test_rule_13_cancelled_before_it_began(autojump_clock: MockClock) -> None:
    worker = Worker()
    group = Group()
    group.add(worker)
    with trio.CancelScope() as scope:
        scope.cancel()
        await group.run()
    assert scope.cancelled_caught
    assert worker.events == ["worker begins", "worker is interrupted"]


@pytest.mark.parametrize("lame_duck", [0, 10])
async def test_rule_13_cancelled_while_stopping(
    lame_duck: float, autojump_clock: MockClock
) -> None:
    group = Group(grace=100, lame_duck=lame_duck)
    worker = Worker(closing=50)
    group.add(worker)
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(after(1, lambda: group.stop("asked first")))
            await group.run()
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert worker.causes == [Cause(reason="asked first")]


async def test_rule_13_one_that_returns_when_it_is_cancelled_is_not_the_cause(
    autojump_clock: MockClock,
) -> None:
    async def returns() -> None:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()

    group = Group()
    causes: list[Cause] = []
    for _ in range(20):  # that one of them is first, and not run(), is up to the scheduler
        group.add(returns, causes.append)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert causes == [Cause(reason="cancelled from outside")] * 20


async def test_rule_13_cancelled_with_a_failing_actor(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    worker = Worker()
    group = Group()
    group.add(fails_when_cancelled)
    group.add(worker)
    with pytest.raises(GroupFailed) as caught:
        with trio.move_on_after(1):
            await group.run()
    assert caught.value.exceptions[0] is error
    assert len(worker.causes) == 1
    assert caught.value.report.exit_code == 1


async def test_rule_13_cancelled_it_waits_for_those_that_clean_up(
    autojump_clock: MockClock,
) -> None:
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await ends_in(4)

    group = Group()
    group.add(tidy)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert trio.current_time() == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_rule_13_an_exit_in_an_actor_stops_the_others_gracefully(
    error: BaseException, autojump_clock: MockClock
) -> None:
    worker = Worker(closing=3)
    group = Group()
    group.add(fails(error, after=1), name="exits")
    group.add(worker)
    with pytest.raises(type(error)) as caught:
        await group.run()
    assert caught.value is error
    assert trio.current_time() == 4
    assert worker.causes[0].actor == "exits"
    assert worker.causes[0].error is error
    assert worker.events[-1] == "worker ends"


async def test_rule_13_an_exit_alongside_a_failure(autojump_clock: MockClock) -> None:
    error, exits = ValueError("broken"), SystemExit(3)
    group = Group()
    group.add(fails(error, after=1), name="bad")
    group.add(fails(exits, after=1), name="exits")
    with pytest.raises(SystemExit) as caught:
        await group.run()
    assert caught.value is exits
    assert isinstance(exits.__cause__, GroupFailed)
    assert exits.__cause__.exceptions == (error,)


async def test_rule_13_an_exit_whose_errors_are_ignored_propagates(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails(SystemExit(3)), on_error="ignore")
    group.add(Worker())
    with pytest.raises(SystemExit):
        await group.run()


async def test_rule_13_an_exit_in_an_interrupt_propagates(autojump_clock: MockClock) -> None:
    def interrupt(cause: Cause) -> None:
        raise SystemExit(3)

    worker = Worker(closing=2)
    group = Group()
    group.add(after(1), interrupt)
    group.add(worker)
    with pytest.raises(SystemExit):
        await group.run()
    assert trio.current_time() == 3


async def test_rule_13_an_exit_in_an_inner_group_stops_the_outer(autojump_clock: MockClock) -> None:
    error = SystemExit(3)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(fails(error, after=1))
    inner_worker, outer_worker = Worker(closing=2), Worker(closing=3)
    inner.add(inner_worker)
    outer.add(inner)
    outer.add(outer_worker)
    with pytest.raises(SystemExit) as caught:
        await outer.run()
    assert caught.value is error
    assert (inner_worker.asked_at, outer_worker.asked_at) == ([1], [3])


def test_rule_13_the_first_ctrl_c_stops_gracefully() -> None:
    worker = Worker(closing=5)
    group = Group()
    group.add(worker)
    group.add(after(1, press_ctrl_c), on_return="ignore")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert worker.events[-1] == "worker ends"
    assert worker.causes[0].reason == "KeyboardInterrupt"
    assert group.state is State.STOPPED


def test_rule_13_the_second_ctrl_c_stops_hard() -> None:
    ended: list[float] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    group = Group(grace=math.inf)
    group.add(works)
    group.add(after(1, press_ctrl_c), ignored, on_return="ignore")
    group.add(after(3, press_ctrl_c), ignored, on_return="ignore")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert ended == [3]
    assert group.state is State.STOPPED


def test_rule_13_ctrl_c_in_the_code_of_an_actor() -> None:
    """Trio raises it wherever Python code of ours is running: there too it is first graceful, then
    hard.
    """
    worker = Worker(closing=5)
    ended: list[str] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep(1000)
            ended.append("whole")
        finally:
            ended.append("works")

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    group = Group(grace=math.inf)
    group.add(worker)
    group.add(works)
    group.add(after(1, press), name="first")
    group.add(after(10, press), ignored, name="second")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert worker.events[-1] == "worker ends"
    assert worker.causes[0].actor == "first"
    assert ended == ["works"]
