"""Rule 1: an empty group returns at once, and a group runs once."""

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Group,
    Member,
    State,
)

from .helpers import Worker, after, in_background


async def test_rule_01_an_empty_group_returns_at_once(autojump_clock: MockClock) -> None:
    group = Group()
    report = await group.run()
    assert trio.current_time() == 0
    assert report.actors == ()
    assert report.exit_code == 0
    assert group.state is State.STOPPED


async def test_rule_01_a_second_run_is_an_error(autojump_clock: MockClock) -> None:
    group = Group(name="once")
    group.add(Worker())
    async with in_background(group) as result:
        with pytest.raises(RuntimeError, match="'once' has run before: a group runs once"):
            await group.run()
        assert group.state is State.RUNNING
        group.stop("enough")
    assert result.report.cause.reason == "enough"
    with pytest.raises(RuntimeError, match="a group runs once"):
        await group.run()


async def test_rule_01_a_thousand_actors(autojump_clock: MockClock) -> None:
    group = Group()
    workers = [Worker(f"worker {number}", closing=1) for number in range(1000)]
    members = [group.add(worker) for worker in workers]
    group.add(after(1, group.stop))
    report = await group.run()
    assert report.duration == 1
    assert all(len(worker.causes) == 1 for worker in workers)
    assert {member.state for member in members} == {State.STOPPED}


async def test_rule_01_a_chain_of_a_thousand(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    needs: list[Member] = []
    for number in range(1000):
        needs = [group.add(Worker(f"{number}", events=events), needs=needs)]
    async with in_background(group):
        group.stop()
    assert events[:1000] == [f"{number} begins" for number in range(1000)]
    assert [event for event in events if event.endswith("ends")] == [
        f"{number} ends" for number in reversed(range(1000))
    ]
