"""Rule 7: an interrupt is plain or async, or there is none; it may fail."""

import math

import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    busy,
)

from .helpers import Worker, after, fails, failure_of, in_background, outcomes, part


async def test_rule_07_an_interrupt_may_be_plain_or_async(autojump_clock: MockClock) -> None:
    asked = trio.Event()
    causes: list[Cause] = []

    def plain(cause: Cause) -> None:
        causes.append(cause)
        asked.set()

    async def later(cause: Cause) -> None:
        await trio.sleep(2)
        plain(cause)

    group = Group()
    group.add(asked.wait, plain, name="plain")
    group.add(asked.wait, later, name="async")
    async with in_background(group) as result:
        group.stop()
    assert causes == [result.report.cause] * 2
    assert result.ended_at == 2
    assert outcomes(result.report) == {"plain": "returned", "async": "returned"}


async def test_rule_07_the_pairs_interrupt_goes_before_the_actors_own(
    autojump_clock: MockClock,
) -> None:
    group = Group(grace=1)
    worker = Worker()
    causes: list[Cause] = []
    group.add(worker, causes.append)
    async with in_background(group):
        group.stop()
    assert len(causes) == 1
    assert worker.causes == []


async def test_rule_07_without_an_interrupt_it_is_cancelled_softly(
    autojump_clock: MockClock,
) -> None:
    done: list[float] = []

    async def idle() -> None:
        await trio.sleep_forever()

    async def works() -> None:
        with busy():
            await trio.sleep(5)
            done.append(trio.current_time())
        await trio.sleep_forever()

    group = Group()
    group.add(idle)
    group.add(works)
    async with in_background(group) as result:
        group.stop()
    assert done == [5]
    assert part(result.report, "idle").stopped == 0
    assert part(result.report, "works").stopped == 5
    assert outcomes(result.report) == {"idle": "returned", "works": "returned"}


async def test_rule_07_a_plain_interrupt_that_raises_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    def broken(cause: Cause) -> None:
        raise error

    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=math.inf)
    group.add(works, broken, name="victim")
    async with in_background(group) as result:
        await trio.sleep(3)
        group.stop()
    assert result.ended_at == 3
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert result.failed.exceptions[0] is error
    assert "'victim'" in error.__notes__[0]
    assert part(result.report, "victim").outcome == "failed"
    assert part(result.report, "victim").error is error


async def test_rule_07_an_async_interrupt_that_raises_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def broken(cause: Cause) -> None:
        await trio.sleep(2)
        raise error

    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=math.inf)
    group.add(works, broken, name="victim")
    async with in_background(group) as result:
        group.stop()
    assert result.ended_at == 2
    assert result.failed is not None
    assert result.failed.exceptions[0] is error
    assert "'victim'" in error.__notes__[0]


async def test_rule_07_execute_and_interrupt_both_fail(autojump_clock: MockClock) -> None:
    first, second = ValueError("execute"), OSError("interrupt")

    def broken(cause: Cause) -> None:
        raise second

    group = Group()
    group.add(fails(first), broken)
    failed = await failure_of(group)
    assert failed.exceptions == (first, second)
    assert failed.report.actors[0].error is first


async def test_rule_07_an_async_interrupt_that_hangs_is_cut_with_its_actor(
    autojump_clock: MockClock,
) -> None:
    async def hangs(cause: Cause) -> None:
        await trio.sleep_forever()

    group = Group(grace=8)
    group.add(after(1), hangs, name="gone")
    group.add(trio.sleep_forever, hangs, name="here", grace=3)
    report = await group.run()
    assert trio.current_time() == 9
    assert outcomes(report) == {"gone": "cut", "here": "cut"}
    assert part(report, "here").stopped == 4


async def test_rule_07_an_interrupt_that_raises_exits_by_its_own_policy(
    autojump_clock: MockClock,
) -> None:
    def broken(cause: Cause) -> None:
        raise ValueError("broken")

    group = Group()
    group.add(trio.sleep_forever, broken, name="victim", on_error="ignore")
    async with in_background(group) as result:
        group.stop()
    assert result.failed is None
    assert part(result.report, "victim").outcome == "failed"
