"""busy, stopping, wait_stopping, cancel_on_stop: rules 9 and 20."""

import itertools
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, Member, busy, cancel_on_stop, stopping, wait_stopping
from trio_run.testing import running, wait_stopped

Times = dict[str, float]


async def note(times: Times, what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work, and note when it ended and how: "x done" or "x cancelled"."""
    try:
        await work()
    except BaseException:  # out of a nursery, a Cancelled comes in a group
        times[f"{what} cancelled"] = trio.current_time()
        raise
    times[f"{what} done"] = trio.current_time()


async def busy_for(seconds: float) -> None:
    with busy():
        await trio.sleep(seconds)


async def at_depth(depth: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work in the innermost of so many nurseries, each in a task of the one around it."""
    if depth == 0:
        await work()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_depth, depth - 1, work)


def interruptible(execute: Callable[[], Awaitable[object]]) -> Any:
    """The execute, in an actor whose interrupt does nothing: it sees for itself when it is asked to
    stop.
    """

    class Interruptible:
        async def execute(self) -> None:
            await execute()

        def interrupt(self, _cause: Cause) -> None: ...

    return Interruptible()


# Rule 9: busy() against a soft cancel.


async def test_rule_09_a_busy_block_is_finished_and_the_next_checkpoint_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with busy():
            await note(times, "block", partial(trio.sleep, 5))
        times["code without a checkpoint"] = trio.current_time()
        await note(times, "checkpoint", trio.lowlevel.checkpoint)

    async with running(actor):
        pass
    assert times == {"block done": 5, "code without a checkpoint": 5, "checkpoint cancelled": 5}


async def test_rule_09_without_busy_the_actor_is_cancelled_at_once(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async with running(lambda: note(times, "sleep", partial(trio.sleep, 5))):
        pass
    assert times == {"sleep cancelled": 0}


@pytest.mark.parametrize("depth", [1, 2, 7])
async def test_rule_09_of_many_tasks_the_idle_are_cancelled_at_once_the_busy_at_their_block_s_end(
    depth: int, autojump_clock: MockClock
) -> None:
    times: Times = {}

    async def work(name: str, seconds: float) -> None:
        if seconds:
            await busy_for(seconds)
        await note(times, name, trio.sleep_forever)

    async def actor() -> None:
        async with trio.open_nursery() as nursery:
            for name, seconds in [("idle", 0), ("short", 2), ("long", 6), ("idle too", 0)]:
                nursery.start_soon(
                    at_depth, depth, lambda name=name, seconds=seconds: work(name, seconds)
                )

    async with running(actor):
        pass
    assert times == {
        "idle cancelled": 0,
        "idle too cancelled": 0,
        "short cancelled": 2,
        "long cancelled": 6,
    }


async def test_rule_09_a_nursery_inside_the_block_is_protected_with_all_its_tasks(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with busy():
            await at_depth(3, lambda: note(times, "deep inside", partial(trio.sleep, 4)))
        await note(times, "outside", trio.sleep_forever)

    async with running(actor):
        pass
    assert times == {"deep inside done": 4, "outside cancelled": 4}


async def test_rule_09_a_busy_block_in_a_busy_block_ends_with_the_outer_one(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with busy():
            await busy_for(1)
            await busy_for(1)
            await note(times, "rest of the outer", partial(trio.sleep, 3))
        await note(times, "after", trio.sleep_forever)

    async with running(actor):
        pass
    assert times == {"rest of the outer done": 5, "after cancelled": 5}


async def test_rule_09_busy_and_cancel_on_stop_nested_in_every_way_up_to_four_deep(
    autojump_clock: MockClock,
) -> None:
    """At a stop a task is cancelled by what lies inside its innermost busy block, and by that
    alone.
    """
    ended: dict[tuple[str, ...], float] = {}
    nests = [
        nest
        for depth in range(5)
        for nest in itertools.product(["busy", "cancel_on_stop", "nursery"], repeat=depth)
    ]

    async def leaf(nest: tuple[str, ...]) -> None:
        try:
            await trio.sleep(10)
        finally:
            ended[nest] = trio.current_time()

    async def descend(nest: tuple[str, ...], left: tuple[str, ...]) -> None:
        if not left:
            await leaf(nest)
        elif left[0] == "busy":
            with busy():
                await descend(nest, left[1:])
        elif left[0] == "cancel_on_stop":
            with cancel_on_stop():
                await descend(nest, left[1:])
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(descend, nest, left[1:])

    def expected(nest: tuple[str, ...], *, soft: bool) -> float:
        inside_busy = nest[len(nest) - nest[::-1].index("busy") :] if "busy" in nest else None
        if inside_busy is None:
            return 1 if soft or "cancel_on_stop" in nest else 10
        return 1 if "cancel_on_stop" in inside_busy else 10

    soft = [lambda nest=nest: descend(nest, nest) for nest in nests]
    async with running(*soft):
        await trio.sleep(1)
    assert ended == {nest: expected(nest, soft=True) for nest in nests}

    # The same where an interrupt leaves the actor's scope alone.
    ended.clear()
    began = trio.current_time()
    asked = [interruptible(lambda nest=nest: descend(nest, nest)) for nest in nests]
    group = Group()
    for actor in asked:
        group.add(actor, on_return="ignore")
    async with running(group):
        await trio.sleep(1)
    assert {nest: when - began for nest, when in ended.items()} == {
        nest: expected(nest, soft=False) for nest in nests
    }


async def test_rule_09_busy_in_cancel_on_stop_is_finished_first(autojump_clock: MockClock) -> None:
    times: Times = {}

    async def actor() -> None:
        with cancel_on_stop() as scope:
            with busy():
                await note(times, "busy", partial(trio.sleep, 3))
            await note(times, "idle", trio.sleep_forever)
        assert scope.cancelled_caught
        await note(times, "after", partial(trio.sleep, 1))

    async with running(interruptible(actor)):
        pass
    assert times == {"busy done": 3, "idle cancelled": 3, "after done": 4}


async def test_rule_09_cancel_on_stop_in_busy_is_cancelled_and_the_block_goes_on(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with busy():
            with cancel_on_stop() as scope:
                await note(times, "reading", trio.sleep_forever)
            assert scope.cancelled_caught
            await note(times, "last words", partial(trio.sleep, 2))
        await note(times, "after", trio.sleep_forever)

    async with running(actor):
        pass
    assert times == {"reading cancelled": 0, "last words done": 2, "after cancelled": 2}


async def test_rule_09_cancel_on_stop_leaves_alone_a_block_that_ended_before(
    autojump_clock: MockClock,
) -> None:
    scopes: list[trio.CancelScope] = []

    async def actor() -> None:
        with cancel_on_stop() as scope:
            scopes.append(scope)
        await wait_stopping()

    async with running(interruptible(actor)):
        pass
    assert [scope.cancel_called for scope in scopes] == [False]


async def test_rule_09_busy_entered_once_the_stop_has_begun_protects_too(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with busy():
                await note(times, "clean-up", partial(trio.sleep, 2))
            await note(times, "after", trio.lowlevel.checkpoint)

    async with running(actor):
        pass
    assert times == {"clean-up done": 2, "after cancelled": 2}


async def test_cancel_on_stop_entered_once_the_stop_has_begun_is_cancelled_at_its_first_checkpoint(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        await wait_stopping()
        with cancel_on_stop() as scope:
            times["before the checkpoint"] = trio.current_time()
            await note(times, "checkpoint", trio.lowlevel.checkpoint)
        assert scope.cancelled_caught
        await note(times, "after", partial(trio.sleep, 1))

    async with running(interruptible(actor)):
        pass
    assert times == {"before the checkpoint": 0, "checkpoint cancelled": 0, "after done": 1}


async def test_cancel_on_stop_whose_block_ends_without_a_checkpoint_caught_nothing() -> None:
    caught: list[bool] = []

    async def actor() -> None:
        await wait_stopping()
        with cancel_on_stop() as scope:
            pass
        caught.append(scope.cancelled_caught)

    async with running(interruptible(actor)):
        pass
    assert caught == [False]


# Rule 9: a hard cancel pierces it.


async def test_rule_09_the_end_of_the_group_s_grace_pierces_busy(autojump_clock: MockClock) -> None:
    times: Times = {}
    async with running(lambda: note(times, "work", partial(busy_for, 100)), grace=7) as group:
        await trio.sleep(1)
    assert times == {"work cancelled": 8}
    assert group.members[0].state.value == "stopped"


async def test_rule_09_the_end_of_the_actor_s_own_grace_pierces_busy(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    group = Group(grace=50)
    group.add(lambda: note(times, "short", partial(busy_for, 100)), grace=3)
    group.add(lambda: note(times, "long", partial(busy_for, 100)))
    async with running(group):
        pass
    assert times == {"short cancelled": 3, "long cancelled": 50}


async def test_rule_09_a_grace_of_0_pierces_busy_at_once(autojump_clock: MockClock) -> None:
    times: Times = {}
    async with running(lambda: note(times, "work", partial(busy_for, 100)), grace=0):
        await trio.sleep(1)
    assert times == {"work cancelled": 1}


async def test_rule_09_an_endless_grace_never_pierces_busy(autojump_clock: MockClock) -> None:
    times: Times = {}
    async with running(lambda: note(times, "work", partial(busy_for, 1000)), grace=math.inf):
        pass
    assert times == {"work done": 1000}


async def test_rule_09_a_second_stop_with_less_grace_pierces_busy(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    async with running(lambda: note(times, "work", partial(busy_for, 100))) as group:
        group.stop()
        await trio.sleep(2)
        group.stop(grace=0)
    assert times == {"work cancelled": 2}


@pytest.mark.parametrize("stopped_before", [False, True])
async def test_rule_09_a_cancel_from_outside_the_group_pierces_busy(
    stopped_before: bool, autojump_clock: MockClock
) -> None:
    times: Times = {}
    group = Group()
    group.add(lambda: note(times, "work", lambda: at_depth(3, partial(busy_for, 100))))
    with trio.move_on_after(5) as scope:
        async with running(group):
            if stopped_before:
                group.stop()
    assert scope.cancelled_caught
    assert times == {"work cancelled": 5}


async def test_rule_09_a_hard_cancel_pierces_every_block_of_a_nest_in_every_task(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def nest(name: str) -> None:
        with busy(), cancel_on_stop(), busy():
            await at_depth(2, lambda: note(times, name, partial(busy_for, 100)))

    async def actor() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(nest, name)

    async with running(actor, grace=4):
        pass
    assert times == {"a cancelled": 4, "b cancelled": 4, "c cancelled": 4}


async def test_rule_09_busy_entered_after_the_hard_cancel_does_not_protect(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        try:
            await busy_for(100)
        finally:
            await note(times, "clean-up", partial(busy_for, 1))

    async with running(actor, grace=4):
        pass
    assert times == {"clean-up cancelled": 4}


# Rule 9: actors with an interrupt.


class CancelsItself:
    """An actor whose interrupt cancels a scope of its own, in which it works."""

    def __init__(self, execute: Callable[[], Awaitable[object]]) -> None:
        self.scope = trio.CancelScope()
        self._execute = execute

    async def execute(self) -> None:
        with self.scope:
            await self._execute()

    def interrupt(self, _cause: Cause) -> None:
        self.scope.cancel()


class CancelsItselfLater(CancelsItself):
    async def interrupt(self, _cause: Cause) -> None:  # type: ignore[override]
        await trio.sleep(1)
        self.scope.cancel()


@pytest.mark.parametrize(("kind", "asked"), [(CancelsItself, 0), (CancelsItselfLater, 1)])
async def test_rule_09_busy_protects_from_an_interrupt_that_cancels_the_actor_s_own_scope(
    kind: type[CancelsItself], asked: float, autojump_clock: MockClock
) -> None:
    times: Times = {}

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, times, "idle", trio.sleep_forever)
            await note(times, "block", partial(busy_for, 5))
            await note(times, "after", trio.sleep_forever)

    async with running(kind(work)):
        pass
    assert times == {"idle cancelled": asked, "block done": 5, "after cancelled": 5}


async def test_rule_09_an_actor_with_an_interrupt_is_pierced_at_the_end_of_the_grace(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    async with running(CancelsItself(lambda: note(times, "work", partial(busy_for, 100))), grace=6):
        pass
    assert times == {"work cancelled": 6}


async def test_rule_09_an_actor_with_an_interrupt_is_not_cancelled_within_its_grace(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    actor = interruptible(lambda: note(times, "idle", partial(trio.sleep, 20)))
    async with running(actor, grace=25):
        pass
    assert times == {"idle done": 20}


async def test_an_async_interrupt_belongs_to_its_actor(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    class Actor:
        async def execute(self) -> None:
            await trio.sleep_forever()

        async def interrupt(self, _cause: Cause) -> None:
            seen.append(stopping())
            await wait_stopping()
            with cancel_on_stop() as scope:
                await trio.sleep_forever()
            seen.append(scope.cancelled_caught)

    async with running(Actor(), grace=3):
        pass
    assert seen == [True, True]


async def test_a_plain_interrupt_belongs_to_its_actor() -> None:
    seen: list[bool] = []

    class Actor:
        async def execute(self) -> None:
            await wait_stopping()

        def interrupt(self, _cause: Cause) -> None:
            seen.append(stopping())

    async with running(Actor()):
        pass
    assert seen == [True]


async def test_rule_09_a_task_that_a_plain_interrupt_starts_in_its_actor_may_be_busy(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    class Actor:
        async def execute(self) -> None:
            async with trio.open_nursery() as self.nursery:
                await trio.sleep_forever()

        def interrupt(self, _cause: Cause) -> None:
            self.nursery.start_soon(note, times, "farewell", partial(busy_for, 2))
            self.nursery.start_soon(self.cancel_soon)

        async def cancel_soon(self) -> None:
            await trio.sleep(1)
            self.nursery.cancel_scope.cancel()

    async with running(Actor()):
        pass
    assert times == {"farewell done": 2}


# Time limits of the user's own, and errors.


async def test_rule_09_a_time_limit_inside_the_block_holds_during_a_stop_too(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with busy():
            with trio.move_on_after(3) as limit:
                await note(times, "slow", trio.sleep_forever)
            assert limit.cancelled_caught
            await note(times, "rest", partial(trio.sleep, 1))

    async with running(actor):
        pass
    assert times == {"slow cancelled": 3, "rest done": 4}


async def test_rule_09_a_time_limit_around_the_block_holds_while_nobody_stops_the_actor(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with trio.move_on_after(3) as limit:
            await note(times, "slow", partial(busy_for, 100))
        assert limit.cancelled_caught
        await note(times, "rest", trio.sleep_forever)

    async with running(actor):
        await trio.sleep(10)
    assert times == {"slow cancelled": 3, "rest cancelled": 10}


async def test_rule_09_a_time_limit_around_the_block_waits_for_its_end_during_a_stop(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with trio.move_on_after(3):
            await note(times, "slow", partial(busy_for, 5))
            await note(times, "after", trio.sleep_forever)

    async with running(interruptible(actor)):
        pass
    assert times == {"slow done": 5, "after cancelled": 5}


async def test_an_error_passes_through_every_kind_of_block_as_it_is() -> None:
    error = ValueError("as it is")
    caught: list[BaseException] = []

    async def actor() -> None:
        try:
            with cancel_on_stop(), busy(), cancel_on_stop(), busy():
                await trio.lowlevel.checkpoint()
                raise error
        except ValueError as exc:
            caught.append(exc)

    group = Group()
    group.add(actor)
    await group.run()
    assert caught == [error]


async def test_rule_09_a_block_left_by_an_error_protects_no_longer(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def actor() -> None:
        with pytest.raises(ValueError):
            with busy():
                raise ValueError
        await note(times, "idle", trio.sleep_forever)

    async with running(actor):
        pass
    assert times == {"idle cancelled": 0}


# Whose stop it is.


async def test_every_task_of_an_actor_sees_its_stop_and_no_other_actor_does(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    seen: dict[str, bool] = {}

    async def see(name: str) -> None:
        seen[f"{name} before"] = stopping()
        await note(times, name, wait_stopping)
        seen[f"{name} after"] = stopping()

    async def two(name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(see, f"{name} near")
            nursery.start_soon(at_depth, 4, lambda: see(f"{name} deep"))

    group = Group()
    one: Member = group.add(interruptible(lambda: two("one")))
    group.add(interruptible(lambda: two("other")))
    async with running(group):
        await trio.sleep(1)
        one.stop()
        await trio.sleep(4)
    assert times == {
        "one near done": 1,
        "one deep done": 1,
        "other near done": 5,
        "other deep done": 5,
    }
    assert all(value is name.endswith("after") for name, value in seen.items())
    assert len(seen) == 8


async def test_a_task_in_a_nursery_of_another_sees_the_stop_of_the_actor_that_started_it() -> None:
    times: Times = {}

    async def actor() -> None:
        outside.start_soon(note, times, "task", wait_stopping)
        await wait_stopping()

    async with trio.open_nursery() as outside:
        async with running(interruptible(actor)):
            await wait_all_tasks_blocked()
            assert times == {}
    assert list(times) == ["task done"]


async def test_who_asks_once_the_stop_has_begun_does_not_wait(autojump_clock: MockClock) -> None:
    times: Times = {}

    async def actor() -> None:
        await wait_stopping()
        await trio.sleep(1)
        await note(times, "second", wait_stopping)
        assert stopping()

    async with running(interruptible(actor)):
        pass
    assert times == {"second done": 1}


async def test_the_wait_for_the_stop_can_be_cancelled(autojump_clock: MockClock) -> None:
    async def actor() -> None:
        with trio.move_on_after(1) as scope:
            await wait_stopping()
        assert scope.cancelled_caught
        assert not stopping()

    async with running(interruptible(actor)) as group:
        await wait_stopped(group)
    assert trio.current_time() == 1


async def test_rule_09_member_stop_lets_its_busy_blocks_end_and_its_own_alone(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    group = Group()
    one = group.add(lambda: note(times, "one", partial(busy_for, 6)), on_return="ignore")
    group.add(lambda: note(times, "other", partial(busy_for, 9)), on_return="ignore")
    async with running(group):
        one.stop()
        await one.wait_stopped()
        assert trio.current_time() == 6
        await wait_stopped(group)
    assert times == {"one done": 6, "other done": 9}


async def test_rule_15_code_in_an_inner_group_is_asked_by_the_inner_group(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}

    async def of_inner() -> None:
        await note(times, "told inner", wait_stopping)
        await note(times, "inner", partial(busy_for, 5))

    inner = Group(name="inner")
    inner.add(interruptible(of_inner))
    outer = Group(name="outer")
    outer.add(inner, on_return="ignore")
    outer.add(interruptible(lambda: note(times, "told outer", wait_stopping)))
    async with running(outer):
        await trio.sleep(1)
        inner.stop()
        await trio.sleep(10)
        assert times == {"told inner done": 1, "inner done": 6}
    assert times["told outer done"] == 11


async def test_rule_09_the_outer_group_s_hard_cancel_pierces_busy_in_an_inner_one(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    inner = Group(name="inner", grace=math.inf)
    inner.add(lambda: at_depth(2, lambda: note(times, "work", partial(busy_for, 100))))
    outer = Group(grace=8)
    outer.add(inner)
    async with running(outer):
        pass
    assert times == {"work cancelled": 8}


async def test_stopping_may_be_asked_from_a_thread_of_the_actor() -> None:
    seen: list[bool] = []

    async def actor() -> None:
        seen.append(await trio.to_thread.run_sync(stopping))
        await wait_stopping()
        seen.append(await trio.to_thread.run_sync(stopping))

    group = Group()
    group.add(interruptible(actor))
    async with running(group):
        while not seen:
            await trio.lowlevel.checkpoint()
    assert seen == [False, True]


# Rule 20: outside any actor.


async def test_rule_20_outside_any_actor_busy_does_nothing(autojump_clock: MockClock) -> None:
    with trio.move_on_after(2) as limit:
        with busy(), busy():
            await trio.sleep_forever()
    assert limit.cancelled_caught
    assert trio.current_time() == 2


def test_rule_20_busy_and_stopping_work_outside_trio_too() -> None:
    with busy():
        assert not stopping()


async def test_rule_20_outside_any_actor_a_block_of_cancel_on_stop_ends_as_any_other() -> None:
    with cancel_on_stop() as scope:
        await trio.lowlevel.checkpoint()
    assert not scope.cancel_called


async def test_rule_20_outside_any_actor_nothing_is_stopping_and_the_waits_are_for_ever(
    autojump_clock: MockClock,
) -> None:
    assert not stopping()
    for wait in (wait_stopping, trio.sleep_forever):
        with trio.move_on_after(1e6) as limit:
            with cancel_on_stop() as scope:
                await wait()
        assert limit.cancelled_caught
        assert not scope.cancel_called


async def test_rule_20_a_stop_of_a_group_means_nothing_to_code_outside_it(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, times, "outside", wait_stopping)
        async with running(trio.sleep_forever):
            assert not stopping()
        assert not stopping()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert times == {"outside cancelled": 1}
