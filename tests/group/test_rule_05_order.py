"""Rules 5 and 6: what needs another stops first, and daemons stop last."""

import math

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    State,
)

from .helpers import (
    Worker,
    after,
    deaf,
    fails,
    failure_of,
    ignored,
    in_background,
    outcomes,
    part,
    ready_after,
)

# 5. An actor is interrupted only after everything that needs it has stopped.


async def test_rule_05_a_chain_stops_from_its_end(autojump_clock: MockClock) -> None:
    group = Group()
    store, cache, api = Worker("store"), Worker("cache", closing=2), Worker("api", closing=3)
    store_member = group.add(store)
    cache_member = group.add(cache, needs=[store_member])
    group.add(api, needs=[cache_member, store_member])
    alone = Worker("alone")
    group.add(alone)
    async with in_background(group):
        group.stop()
    assert (api.asked_at, cache.asked_at, store.asked_at) == ([0], [3], [5])
    assert alone.asked_at == [0]
    assert store.causes == api.causes


async def test_rule_05_a_diamond_stops_from_its_top(autojump_clock: MockClock) -> None:
    group = Group()
    base, left, right, top = (
        Worker("base"),
        Worker("left", closing=4),
        Worker("right", closing=1),
        Worker("top", closing=2),
    )
    base_member = group.add(base)
    sides = [group.add(side, needs=[base_member]) for side in (left, right)]
    group.add(top, needs=sides)
    async with in_background(group):
        group.stop()
    assert (top.asked_at, left.asked_at, right.asked_at, base.asked_at) == ([0], [2], [2], [6])


async def test_rule_05_an_interrupt_that_goes_on_counts_as_not_stopped(
    autojump_clock: MockClock,
) -> None:
    asked = trio.Event()

    async def flush(cause: Cause) -> None:
        asked.set()
        await trio.sleep(5)

    group = Group()
    store = Worker("store")
    store_member = group.add(store)
    user = group.add(asked.wait, flush, name="user", needs=[store_member])
    async with in_background(group):
        group.stop()
        await user.wait_stopped()
        assert trio.current_time() == 0
    assert store.asked_at == [5]


async def test_rule_05_the_same_for_an_interrupt_after_member_stop(
    autojump_clock: MockClock,
) -> None:
    asked = trio.Event()

    async def flush(cause: Cause) -> None:
        asked.set()
        await trio.sleep(5)

    group = Group()
    store = Worker("store")
    store_member = group.add(store)
    user = group.add(asked.wait, flush, name="user", needs=[store_member])
    group.add(Worker())
    async with in_background(group):
        user.stop()
        store_member.stop()
        await store_member.wait_stopped()
        group.stop()
    assert store.asked_at == [5]


async def test_rule_05_a_failed_user_is_interrupted_first_too(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    need = group.add(Worker("need", events=events))
    group.add(fails(ValueError()), lambda cause: events.append("bad is interrupted"), needs=[need])
    await failure_of(group)
    assert events == ["need begins", "bad is interrupted", "need is interrupted", "need ends"]


async def test_rule_05_the_grace_cuts_what_has_not_had_its_turn(autojump_clock: MockClock) -> None:
    group = Group(grace=10)
    need = Worker("need")
    need_member = group.add(need)
    group.add(deaf(15), ignored, name="user", needs=[need_member])
    async with in_background(group) as result:
        group.stop("enough")
    assert part(result.report, "need").stopped == 10
    assert part(result.report, "need").outcome == "cut"
    assert need.asked_at == [15]
    assert need.causes == [Cause(reason="enough")]
    assert result.ended_at == 15


async def test_rule_05_one_that_never_started_holds_up_nobody(autojump_clock: MockClock) -> None:
    group = Group()
    base = Worker("base")
    base_member = group.add(base)
    never = group.add(ready_after(math.inf))
    group.add(Worker("waiting"), needs=[base_member, never])
    async with in_background(group) as result:
        group.stop()
    assert base.asked_at == [0]
    assert result.ended_at == 0


# 6. Daemons.


async def test_rule_06_a_daemon_does_not_keep_the_group_alive(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(Worker("daemon"), daemon=True)
    group.add(after(2), name="job", on_return="ignore")
    report = await group.run()
    assert report.cause.actor == "job"
    assert (report.began, report.exit_code) == (2, 0)
    assert outcomes(report) == {"daemon": "returned", "job": "returned"}


async def test_rule_06_only_daemons(autojump_clock: MockClock) -> None:
    group = Group()
    worker = Worker()
    group.add(worker, daemon=True)
    await group.run()
    assert trio.current_time() == 0
    assert len(worker.causes) == 1


async def test_rule_06_daemons_outlive_the_rest(autojump_clock: MockClock) -> None:
    async def slow(cause: Cause) -> None:
        await trio.sleep(7)

    group = Group()
    health = Worker("health")
    group.add(health, daemon=True)
    group.add(Worker("worker", closing=4))
    group.add(after(0), slow)
    await group.run()
    assert health.asked_at == [7]


async def test_rule_06_a_daemon_needed_by_a_daemon_is_last(autojump_clock: MockClock) -> None:
    group = Group()
    logs, health, api = Worker("logs"), Worker("health", closing=3), Worker("api", closing=2)
    logs_member = group.add(logs, daemon=True)
    group.add(health, daemon=True, needs=[logs_member])
    group.add(api, needs=[logs_member])
    async with in_background(group):
        group.stop()
    assert (api.asked_at, health.asked_at, logs.asked_at) == ([0], [2], [5])


async def test_rule_06_daemon_may_be_the_actors_own(autojump_clock: MockClock) -> None:
    class Daemon(Worker):
        daemon = True

    group = Group()
    assert group.add(Daemon("daemon")).daemon
    assert not group.add(Daemon("no daemon"), daemon=False).daemon
    async with in_background(group):
        assert group.state is State.RUNNING
        group.stop()


async def test_rule_06_a_daemon_that_exits_stops_the_group_as_any_other(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(after(1), name="daemon", daemon=True)
    group.add(Worker())
    assert (await group.run()).cause.actor == "daemon"


async def test_rule_06_a_daemon_cannot_need_what_it_outlives() -> None:
    group = Group()
    member = group.add(Worker())
    with pytest.raises(ValueError, match="'health' is a daemon and needs 'worker', which is none"):
        group.add(Worker("health"), daemon=True, needs=[member])
    assert group.members == (member,)
