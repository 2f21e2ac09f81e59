"""Rule 2: all start at once; one with needs, when these are ready."""

import logging
import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    Group,
    GroupFailed,
    State,
)

from .helpers import (
    Worker,
    after,
    fails_to_start,
    failure_of,
    in_background,
    messages,
    outcomes,
    ready_after,
)


async def test_rule_02_all_run_at_the_same_time(autojump_clock: MockClock) -> None:
    ping, pong = trio.Event(), trio.Event()

    async def first() -> None:
        ping.set()
        await pong.wait()

    async def second() -> None:
        await ping.wait()
        pong.set()
        await trio.sleep_forever()

    group = Group()
    group.add(first)
    group.add(second)
    assert (await group.run()).cause.actor == "first"


async def test_rule_02_each_is_in_a_scope_of_its_own(autojump_clock: MockClock) -> None:
    group = Group()
    one = group.add(trio.sleep_forever, name="one")
    other = group.add(trio.sleep_forever, name="other")
    async with in_background(group):
        one.stop()
        await one.wait_stopped()
        await wait_all_tasks_blocked()
        assert other.state is State.RUNNING
        group.stop()


async def test_rule_02_a_chain_starts_as_each_becomes_ready(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(ready_after(3), name="first")
    second = group.add(ready_after(2), name="second", needs=[first])
    third = group.add(Worker("third"), needs=[second])
    async with in_background(group) as result:
        assert (first.state, second.state) == (State.STARTING, State.NEW)
        assert group.state is State.STARTING
        assert not group.ready
        await third.wait_ready()
        assert trio.current_time() == 5
        assert group.state is State.RUNNING
        assert group.ready
        group.stop()
    assert [actor.ready for actor in result.report.actors] == [3, 5, 5]


async def test_rule_02_a_diamond_waits_for_its_slower_side(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    base = group.add(Worker("base", events=events))
    left = group.add(ready_after(7), name="left", needs=[base])
    right = group.add(ready_after(2), name="right", needs=[base])
    top = group.add(Worker("top", events=events), needs=[left, right])
    async with in_background(group):
        await right.wait_ready()
        await wait_all_tasks_blocked()
        assert top.state is State.NEW
        await top.wait_ready()
        assert trio.current_time() == 7
        group.stop()
    assert events == [
        "base begins",
        "top begins",
        "top is interrupted",
        "top ends",
        "base is interrupted",
        "base ends",
    ]


async def test_rule_02_without_task_status_it_is_ready_at_once(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(trio.sleep_forever, name="need")
    user = group.add(trio.sleep_forever, name="user", needs=[need])
    async with in_background(group):
        assert trio.current_time() == 0
        assert (need.state, user.state) == (State.RUNNING, State.RUNNING)
        group.stop()


async def test_rule_02_what_it_needs_failed_so_it_never_starts(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(fails_to_start, name="need")
    user = Worker("user")
    group.add(user, needs=[need])
    failed = await failure_of(group)
    assert outcomes(failed.report) == {"need": "failed", "user": "never started"}
    assert user.events == []


async def test_rule_02_what_it_needs_failed_and_was_ignored(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group()
    need = group.add(fails_to_start, name="need", on_error="ignore")
    users = [Worker("user"), Worker("user of user")]
    user = group.add(users[0], needs=[need])
    indirect = group.add(users[1], needs=[user])
    bystander = group.add(Worker("bystander"))
    async with in_background(group) as result:
        for member in (need, user, indirect):
            with pytest.raises(RuntimeError, match=f"'{member.name}' stopped before it was ready"):
                await member.wait_ready()
            await member.wait_stopped()
        assert bystander.state is State.RUNNING
        group.stop()
    assert outcomes(result.report) == {
        "need": "failed",
        "user": "never started",
        "user of user": "never started",
        "bystander": "returned",
    }
    assert all(not worker.events for worker in users)
    warnings = [line for line in messages(caplog) if "never starts" in line]
    assert len(warnings) == 2
    assert "'user' never starts: what it needs stopped before it was ready: need" in warnings[0]


async def test_rule_02_nothing_can_start_so_the_group_ends(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(fails_to_start, name="need", on_error="ignore")
    group.add(Worker("user"), needs=[need])
    report = await group.run()
    assert trio.current_time() == 1
    assert report.exit_code == 0


async def test_rule_02_returned_before_started_is_a_failure(autojump_clock: MockClock) -> None:
    async def hasty(*, task_status: trio.TaskStatus[None]) -> None:
        pass

    group = Group()
    group.add(hasty)
    group.add(Worker())
    failed = await failure_of(group)
    [error] = failed.exceptions
    assert isinstance(error, RuntimeError)
    assert str(error) == "actor 'hasty' returned before it called task_status.started()"


async def test_rule_02_started_twice_is_a_failure(autojump_clock: MockClock) -> None:
    async def eager(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        task_status.started()

    group = Group()
    group.add(eager)
    failed = await failure_of(group)
    assert str(failed.exceptions[0]) == "actor 'eager' called task_status.started() twice"


async def test_rule_02_nursery_start_returns_when_all_are_ready(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(ready_after(3))
    group.add(ready_after(2), needs=[first])
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        assert trio.current_time() == 5
        assert group.ready
        group.stop()


async def test_rule_02_nursery_start_of_a_group_stopped_before_it_was_ready(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(ready_after(math.inf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after(2, group.stop))
        await nursery.start(group.run)
        assert trio.current_time() == 2
    assert group.state is State.STOPPED


async def test_rule_02_nursery_start_is_not_told_of_an_ignored_failure(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails_to_start, on_error="ignore")
    group.add(ready_after(math.inf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after(2, group.stop))
        await nursery.start(group.run)
    assert group.state is State.STOPPED


async def test_rule_02_nursery_start_raises_what_kept_it_from_ready(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails_to_start)
    async with trio.open_nursery() as nursery:
        with pytest.raises(GroupFailed) as caught:
            await nursery.start(group.run)
    assert isinstance(caught.value.exceptions[0], OSError)
