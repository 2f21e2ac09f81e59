"""Rule 15: groups nest."""

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    State,
)

from .helpers import (
    Worker,
    after,
    fails,
    failure_of,
    ignored,
    in_background,
    outcomes,
    part,
    ready_after,
)


async def test_rule_15_the_inner_group_stops_with_its_own_grace(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner", grace=4), Group(name="outer", grace=50)
    inner.add(trio.sleep_forever, ignored, name="stuck")
    inner_member = outer.add(inner)
    outer.add(Worker("other", closing=6))
    async with in_background(outer) as result:
        await trio.sleep(1)
        outer.stop("enough")
    assert inner.state is State.STOPPED
    assert result.ended_at == 7
    assert part(result.report, "inner").stopped == 5
    assert outcomes(result.report) == {"inner": "returned", "other": "returned"}
    assert inner_member.grace is None


async def test_rule_15_the_inner_group_has_the_outers_cause(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    outer.add(after(1), name="early")
    report = await outer.run()
    assert worker.causes == [report.cause] == [Cause(actor="early", reason="'early' returned")]


async def test_rule_15_the_inner_group_is_cut_when_the_outers_grace_is_over(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=3)
    need = Worker("need")
    need_member = inner.add(need)
    inner.add(trio.sleep_forever, ignored, name="stuck", needs=[need_member])
    outer.add(inner)
    async with in_background(outer) as result:
        outer.stop("enough")
    assert result.ended_at == 3
    assert outcomes(result.report) == {"inner": "cut"}
    assert need.causes == [Cause(reason="enough")]
    assert inner.state is State.STOPPED


async def test_rule_15_a_grace_given_to_the_inner_group_bounds_it(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=100)
    inner.add(trio.sleep_forever, ignored)
    outer.add(inner, grace=2)
    async with in_background(outer) as result:
        outer.stop()
    assert result.ended_at == 2
    assert outcomes(result.report) == {"inner": "cut"}


async def test_rule_15_an_inner_failure_is_a_group_in_a_group(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(fails(error, after=1), name="bad")
    outer.add(inner)
    worker = Worker()
    outer.add(worker)
    failed = await failure_of(outer)
    [nested] = failed.exceptions
    assert isinstance(nested, GroupFailed)
    assert nested.exceptions[0] is error
    assert nested.report.cause.actor == "bad"
    assert nested.report.name == "inner"
    assert failed.report.cause.actor == "inner"
    assert error.__notes__ == ["in actor 'bad' of group 'inner'"]
    assert nested.__notes__ == ["in actor 'inner' of group 'outer'"]
    assert worker.causes == [failed.report.cause]


async def test_rule_15_an_inner_failure_while_it_is_cut_is_not_lost(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_when_cut() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=3)
    inner.add(fails_when_cut, ignored)
    outer.add(inner)
    async with in_background(outer) as result:
        outer.stop()
    assert result.failed is not None
    [nested] = result.failed.exceptions
    assert isinstance(nested, GroupFailed)
    assert nested.exceptions[0] is error
    assert nested.report.cause.reason == "stop() was called"


async def test_rule_15_the_inner_group_returns_and_stops_the_outer(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(after(1))
    outer.add(inner)
    outer.add(Worker())
    assert (await outer.run()).cause.actor == "inner"


async def test_rule_15_the_inner_group_is_ready_when_all_of_it_is(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(ready_after(3))
    inner_member = outer.add(inner)
    user = outer.add(Worker("user"), needs=[inner_member])
    async with in_background(outer):
        assert (outer.state, inner.state, user.state) == (
            State.STARTING,
            State.STARTING,
            State.NEW,
        )
        await outer.members[1].wait_ready()
        assert trio.current_time() == 3
        outer.stop()


async def test_rule_15_the_inner_group_is_interrupted_while_it_starts(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", lame_duck=5), Group(name="outer")
    inner.add(ready_after(10), name="starter")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    user = Worker("user")
    outer.add(user, needs=outer.members)
    async with in_background(outer) as result:
        await trio.sleep(1)
        outer.stop()
    assert result.ended_at == 1
    assert result.failed is None
    assert outcomes(result.report) == {"inner": "returned", "user": "never started"}
    assert len(worker.causes) == 1


async def test_rule_15_the_inner_group_is_stopped_before_it_ran(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    outer.add(Worker())
    inner.stop("not today")
    report = await outer.run()
    assert report.cause.actor == "inner"
    assert worker.events == []


@pytest.mark.parametrize("how", ["stop", "member stop", "failure"])
async def test_rule_15_the_inner_lame_duck_is_for_a_stop_that_was_asked_for(
    how: str, autojump_clock: MockClock
) -> None:
    inner, outer = Group(name="inner", lame_duck=5), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    member = outer.add(inner)
    if how == "failure":
        outer.add(fails(ValueError(), after=1))
    outer.add(Worker())
    async with in_background(outer):
        if how == "stop":
            await trio.sleep(1)
            outer.stop()
        elif how == "member stop":
            await trio.sleep(1)
            member.stop()
            await member.wait_stopped()
            outer.stop()
    assert worker.asked_at == [1 if how == "failure" else 6]


async def test_rule_15_the_inner_group_has_a_status(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(after(1), on_return="ignore")
    inner.add(Worker())
    outer.add(inner)
    async with in_background(outer) as result:
        assert outer.members[0].status == "2 of 2 actors running"
        await trio.sleep(2)
        assert inner.status == "1 of 1 actors running"
        outer.stop()
    assert part(result.report, "inner").detail == "2 returned"


async def test_rule_15_three_deep(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    groups = [Group(name=name) for name in ("outer", "middle", "inner")]
    workers = [Worker(f"in {group.name}", closing=1) for group in groups]
    for group, worker in zip(groups, workers, strict=True):
        group.add(worker)
    groups[0].add(groups[1])
    groups[1].add(groups[2])
    groups[2].add(fails(error, after=1))
    failed = await failure_of(groups[0])
    leaf: BaseException = failed
    while isinstance(leaf, GroupFailed):
        [leaf] = leaf.exceptions
    assert leaf is error
    assert [worker.asked_at for worker in workers] == [[3], [2], [1]]


def test_rule_15_a_group_cannot_be_its_own_actor() -> None:
    group = Group(name="snake")
    with pytest.raises(ValueError, match="group 'snake' can't be an actor of itself"):
        group.add(group)
    assert group.members == ()
