"""Rules 16 and 17: the lame duck, and a second signal."""

import math
import signal

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    SignalReceiver,
    State,
    busy,
    stopping,
)

from .helpers import Worker, after, fails, ignored, in_background, part, ready_after

# 16. The lame duck.


async def test_rule_16_the_lame_duck_goes_on_serving(autojump_clock: MockClock) -> None:
    group = Group(grace=30, lame_duck=5)
    worker = Worker(closing=1)
    member = group.add(worker)
    group.add(trio.sleep_forever, name="no interrupt")
    async with in_background(group) as result:
        assert group.ready
        await trio.sleep(1)
        group.stop()
        assert group.state is State.LAME_DUCK
        assert not group.ready
        await trio.sleep(4)
        assert group.state is State.LAME_DUCK
        assert member.state is State.RUNNING
        assert worker.causes == []
        await trio.sleep(1.5)
        assert group.state is State.STOPPING
    assert worker.asked_at == [6]
    assert part(result.report, "no interrupt").stopped == 6
    assert (result.report.began, result.report.duration) == (1, 6)


async def test_rule_16_actors_are_not_told_before_it_ends(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, bool]] = []

    async def looks() -> None:
        while True:
            seen.append((trio.current_time(), stopping()))
            await trio.sleep(2)

    group = Group(lame_duck=5)
    group.add(looks, ignored, grace=2)
    async with in_background(group):
        group.stop()
    assert seen == [(0, False), (2, False), (4, False), (6, True)]


async def test_rule_16_another_stop_ends_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    async with in_background(group) as result:
        group.stop("first")
        await trio.sleep(2)
        group.stop("second")
        assert group.state is State.STOPPING
    assert worker.asked_at == [2]
    assert worker.causes == [Cause(reason="first")]
    assert result.report.cause.reason == "first"


@pytest.mark.parametrize("how", ["returns", "fails"])
async def test_rule_16_an_exit_ends_it(how: str, autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(3) if how == "returns" else fails(ValueError(), after=3))
    async with in_background(group) as result:
        group.stop("asked")
    assert worker.asked_at == [3]
    assert worker.causes == [Cause(reason="asked")]
    assert (result.failed is not None) is (how == "fails")


async def test_rule_16_an_ignored_exit_does_not_end_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(2), on_return="ignore")
    group.add(fails(ValueError(), after=3), on_error="ignore")
    async with in_background(group):
        group.stop()
    assert worker.asked_at == [5]


async def test_rule_16_the_last_one_to_exit_ends_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    daemon = Worker("daemon")
    group.add(daemon, daemon=True)
    group.add(after(2), on_return="ignore")
    async with in_background(group):
        group.stop()
    assert daemon.asked_at == [2]


async def test_rule_16_member_stop_during_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    one, other = Worker("one"), Worker("other")
    member = group.add(one)
    group.add(other)
    async with in_background(group):
        group.stop()
        await trio.sleep(1)
        member.stop()
        await member.wait_stopped()
        assert group.state is State.LAME_DUCK
    assert (one.asked_at, other.asked_at) == ([1], [5])


@pytest.mark.parametrize("how", ["returns", "fails"])
async def test_rule_16_none_after_an_exit(how: str, autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(1) if how == "returns" else fails(ValueError(), after=1))
    async with in_background(group):
        pass
    assert worker.asked_at == [1]


async def test_rule_16_the_grace_counts_from_the_stops_beginning(
    autojump_clock: MockClock,
) -> None:
    group = Group(grace=8, lame_duck=5)
    group.add(trio.sleep_forever, ignored)
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 9


async def test_rule_16_a_shorter_grace_shortens_it(autojump_clock: MockClock) -> None:
    group = Group(grace=30, lame_duck=10)
    worker = Worker(closing=1)
    group.add(worker)
    async with in_background(group) as result:
        group.stop(grace=4)
    assert worker.asked_at == [4]
    assert result.ended_at == 4


async def test_rule_16_none_while_starting(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    group.add(ready_after(10))
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 1


# 17. A second signal. (The rest of it is with SignalReceiver.)


async def test_rule_17_a_second_signal_cancels_hard(autojump_clock: MockClock) -> None:
    cleaned: list[float] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    group = Group(grace=math.inf)
    group.add(SignalReceiver(signal.SIGUSR1))
    group.add(works, name="works")
    async with in_background(group) as result:
        signal.raise_signal(signal.SIGUSR1)
        await trio.sleep(2)
        assert group.state is State.STOPPING
        signal.raise_signal(signal.SIGUSR1)
    assert cleaned == [2]
    assert result.report.exit_code == 128 + signal.SIGUSR1
    assert result.report.cause.signal is signal.SIGUSR1
    assert part(result.report, "works").outcome == "cut"
