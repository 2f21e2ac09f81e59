"""Rule 14: add() on a running group, and Member.stop()."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    Cause,
    Group,
    State,
    busy,
)

from .helpers import Worker, ignored, in_background, messages, outcomes, part, ready_after


async def test_rule_14_add_on_a_running_group(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(Worker("first"))
    async with in_background(group) as result:
        await trio.sleep(2)
        second = group.add(Worker("second"), needs=[first])
        assert second.state is State.NEW
        await second.wait_ready()
        assert trio.current_time() == 2
        assert group.members == (first, second)
        group.stop()
    assert part(result.report, "second").ready == 2
    assert part(result.report, "second").outcome == "returned"


@pytest.mark.parametrize("daemon", [False, True])
async def test_rule_14_add_from_an_actor_as_it_starts(
    daemon: bool, autojump_clock: MockClock
) -> None:
    group = Group()
    late = Worker("late")

    async def adds() -> None:
        group.add(late)
        await trio.sleep(1)

    group.add(adds, daemon=daemon)
    group.add(Worker())
    report = await group.run()
    assert len(late.causes) == 1
    assert outcomes(report) == {"adds": "returned", "worker": "returned", "late": "returned"}


async def test_rule_14_add_on_a_group_that_is_not_ready(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(ready_after(2))
    async with in_background(group):
        group.add(ready_after(5))
        await trio.sleep(3)
        assert group.state is State.STARTING
        await trio.sleep(3)
        assert group.state is State.RUNNING
        group.stop()


async def test_rule_14_add_on_a_stopping_group_is_an_error(autojump_clock: MockClock) -> None:
    group = Group(name="app", lame_duck=5)
    member = group.add(Worker(closing=5))
    late = Worker("late")
    async with in_background(group) as result:
        group.stop()
        assert group.state is State.LAME_DUCK
        with pytest.raises(RuntimeError, match="group 'app' is lame duck: 'late' was not added"):
            group.add(late)
        await trio.sleep(7)
        assert group.state is State.STOPPING
        with pytest.raises(RuntimeError, match="group 'app' is stopping: 'late' was not added"):
            group.add(late)
    with pytest.raises(RuntimeError, match="group 'app' is stopped: 'late' was not added"):
        group.add(late)
    assert group.members == (member,)
    assert late.events == []
    assert outcomes(result.report) == {"worker": "returned"}


async def test_rule_14_add_right_after_stop_is_an_error(autojump_clock: MockClock) -> None:
    group = Group()
    refused: list[str] = []

    async def stops_and_adds() -> None:
        group.stop()
        with pytest.raises(RuntimeError):
            group.add(Worker("late"))
        refused.append("late")

    group.add(stops_and_adds)
    await group.run()
    assert refused == ["late"]


async def test_rule_14_member_stop_stops_that_one_alone(autojump_clock: MockClock) -> None:
    one, other = Worker("one", closing=2), Worker("other")
    group = Group()
    member = group.add(one)
    group.add(other)
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
        await wait_all_tasks_blocked()
        assert member.state is State.STOPPING
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 3
        assert member.state is State.STOPPED
        member.stop()
        await trio.sleep(4)
        assert group.state is State.RUNNING
        group.stop()
    assert len(one.causes) == 1
    assert one.causes[0].reason == "'one' alone was stopped"
    assert part(result.report, "one").outcome == "returned"
    assert other.asked_at == [7]


async def test_rule_14_member_stop_keeps_the_order(autojump_clock: MockClock) -> None:
    store, cache, api = Worker("store"), Worker("cache", closing=1), Worker("api", closing=3)
    group = Group()
    store_member = group.add(store)
    cache_member = group.add(cache, needs=[store_member])
    api_member = group.add(api, needs=[cache_member])
    group.add(Worker())
    async with in_background(group):
        store_member.stop()
        await trio.sleep(2)
        assert store_member.state is State.RUNNING
        api_member.stop()
        await trio.sleep(4)
        assert (api_member.state, cache_member.state) == (State.STOPPED, State.RUNNING)
        cache_member.stop()
        await store_member.wait_stopped()
        assert group.state is State.RUNNING
        group.stop()
    assert (api.asked_at, cache.asked_at, store.asked_at) == ([2], [6], [7])


async def test_rule_14_member_stop_waits_for_needs_that_the_groups_stop_ends(
    autojump_clock: MockClock,
) -> None:
    need, user = Worker("need"), Worker("user", closing=2)
    group = Group()
    need_member = group.add(need)
    group.add(user, needs=[need_member])
    async with in_background(group) as result:
        need_member.stop()
        await trio.sleep(1)
        group.stop("enough")
    assert (user.asked_at, need.asked_at) == ([1], [3])
    assert need.causes == [result.report.cause]


async def test_rule_14_member_stop_has_the_actors_grace(autojump_clock: MockClock) -> None:
    group = Group(grace=100)
    member = group.add(trio.sleep_forever, ignored, name="stuck", grace=4)
    worker = group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 4
        assert worker.state is State.RUNNING
        group.stop()
    assert part(result.report, "stuck").outcome == "cut"
    assert result.report.exit_code == 0


async def test_rule_14_member_stop_has_the_groups_grace_where_it_has_none(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(grace=6)
    member = group.add(trio.sleep_forever, ignored, name="stuck")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 6
        assert group.state is State.RUNNING
        group.stop()
    assert part(result.report, "stuck").outcome == "cut"
    assert "group: its grace of 6 s is over: cut stuck" in messages(caplog)


async def test_rule_14_member_stop_without_an_interrupt_is_soft(autojump_clock: MockClock) -> None:
    async def works() -> None:
        with busy():
            await trio.sleep(5)
        await trio.sleep_forever()

    group = Group()
    member = group.add(works)
    group.add(Worker())
    async with in_background(group):
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 5
        group.stop()


async def test_rule_14_member_stop_before_run(autojump_clock: MockClock) -> None:
    first, user, other = Worker("first"), Worker("user"), Worker("other")
    group = Group()
    member = group.add(first)
    user_member = group.add(user, needs=[member])
    group.add(other)
    member.stop()
    async with in_background(group) as result:
        assert (member.state, user_member.state) == (State.STOPPED, State.STOPPED)
        with pytest.raises(RuntimeError, match="'first' stopped before it was ready"):
            await member.wait_ready()
        assert group.state is State.RUNNING
        await trio.sleep(1)
        group.stop()
    assert first.events == user.events == []
    assert other.asked_at == [1]
    assert outcomes(result.report) == {
        "first": "never started",
        "user": "never started",
        "other": "returned",
    }


async def test_rule_14_all_members_stopped_before_run(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(Worker()).stop()
    report = await group.run()
    assert trio.current_time() == 0
    assert outcomes(report) == {"worker": "never started"}


async def test_rule_14_member_stop_while_it_waits_to_start(autojump_clock: MockClock) -> None:
    waiting = Worker("waiting")
    group = Group()
    need = group.add(ready_after(5))
    member = group.add(waiting, needs=[need])
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 1
        await trio.sleep(9)
        assert group.state is State.RUNNING
        group.stop()
    assert waiting.events == []
    assert part(result.report, "waiting").outcome == "never started"


async def test_rule_14_member_stop_in_the_moment_it_was_added(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(Worker("need"))
    late = Worker("late", closing=2)
    late_user = Worker("late user")
    async with in_background(group) as result:
        member = group.add(late)
        member.stop()
        user = group.add(late_user, needs=[need])
        user.stop()
        await member.wait_stopped()
        await user.wait_stopped()
        assert group.state is State.RUNNING
        group.stop()
    assert late.events == [] or len(late.causes) == 1
    assert late_user.events == []
    assert part(result.report, "late user").outcome == "never started"


async def test_rule_14_member_stop_in_the_moment_it_could_start(
    autojump_clock: MockClock,
) -> None:
    async def ready_and_stops(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        task_status.started()
        member.stop()
        await trio.sleep(1)

    group = Group()
    waiting = Worker("waiting")
    member = group.add(waiting, needs=[group.add(ready_and_stops)])
    report = await group.run()
    assert waiting.events == []
    assert part(report, "waiting").outcome == "never started"


async def test_rule_14_member_stop_while_it_starts(autojump_clock: MockClock) -> None:
    group = Group()
    member = group.add(ready_after(10), name="starter")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 0
        assert group.state is State.RUNNING
        group.stop()
    assert result.failed is None
    assert part(result.report, "starter").outcome == "returned"


async def test_rule_14_member_stop_and_then_its_failure_stops_the_group(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    member = group.add(fails_late, name="bad")
    group.add(Worker())
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert result.report.cause.actor == "bad"


async def test_rule_14_member_stop_and_then_its_interrupts_failure_stops_the_group(
    autojump_clock: MockClock,
) -> None:
    async def broken(cause: Cause) -> None:
        await trio.sleep(1)
        raise ValueError("broken")

    group = Group(grace=math.inf)
    member = group.add(trio.sleep_forever, broken, name="bad")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
    assert result.ended_at == 1
    assert result.report.cause.actor == "bad"


async def test_rule_14_member_stop_of_the_last_one_ends_the_group(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    member = group.add(Worker("last"))
    daemon = Worker("daemon")
    group.add(daemon, daemon=True)
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
    assert result.ended_at == 1
    assert result.report.cause.actor == "last"
    assert daemon.asked_at == [1]


async def test_rule_14_a_group_stop_while_a_member_stops(autojump_clock: MockClock) -> None:
    async def slow(cause: Cause) -> None:
        called.append(cause)
        await trio.sleep(8)

    called: list[Cause] = []
    need = Worker("need")
    group = Group()
    need_member = group.add(need)
    user = group.add(trio.sleep_forever, slow, name="user", grace=10, needs=[need_member])
    async with in_background(group) as result:
        user.stop()
        await trio.sleep(4)
        group.stop()
    assert len(called) == 1
    assert part(result.report, "user").stopped == 10
    assert need.asked_at == [10]


async def test_rule_14_states_of_a_member(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(ready_after(1))

    async def slow(cause: Cause) -> None:
        await trio.sleep(1)

    member = group.add(ready_after(1), slow, grace=3, needs=[need])
    states = [member.state]
    async with in_background(group):
        states.append(member.state)
        await need.wait_ready()
        await wait_all_tasks_blocked()
        states.append(member.state)
        await member.wait_ready()
        states.append(member.state)
        group.stop()
        await wait_all_tasks_blocked()
        states.append(member.state)
        await member.wait_stopped()
        states.append(member.state)
    assert states == [
        State.NEW,
        State.NEW,
        State.STARTING,
        State.RUNNING,
        State.STOPPING,
        State.STOPPED,
    ]


async def test_rule_14_names_are_unique() -> None:
    group = Group()
    names = [group.add(Worker(name)).name for name in ("a", "a", "a-2", "a")]
    assert len(set(names)) == 4
    assert names[:2] == ["a", "a-2"]


async def test_rule_14_who_waits_for_another_goes_on_waiting(autojump_clock: MockClock) -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(5)
        task_status.started()
        await trio.sleep_forever()

    group = Group()
    store = group.add(slow, name="store")
    user = group.add(trio.sleep_forever, name="user", needs=[store])
    visitor = group.add(trio.sleep_forever, name="visitor")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        await trio.sleep(1)
        visitor.stop()
        await user.wait_ready()
        assert trio.current_time() == 5
        group.stop()
