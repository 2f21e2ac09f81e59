"""The task that looks at idle connections, when clients come and go within one of its turns."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners import _idle
from trio_run._listeners._idle import IdleConnections


class Client:
    def __init__(self) -> None:
        self.idle_since = math.inf
        self.gave_up_at = math.inf

    def give_up(self) -> None:
        self.gave_up_at = trio.current_time()


async def test_the_only_connection_may_end_before_its_task_has_begun() -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        client = Client()
        idle.add(client)
        idle.discard(client)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_who_comes_after_that_is_looked_at(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        first, second = Client(), Client()
        idle.add(first)
        idle.discard(first)
        second.idle_since = trio.current_time()
        idle.add(second)
        await trio.sleep(100)
        assert (first.gave_up_at, second.gave_up_at) == (math.inf, 75)
        idle.discard(second)


async def test_who_has_ended_is_not_looked_at_and_forgotten_in_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_idle, "_MANY", 10)
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        lasting = Client()
        idle.add(lasting)
        for number in range(1000):
            await trio.sleep(0.1)
            client = Client()
            client.idle_since = trio.current_time()
            idle.add(client)
            idle.discard(client)
            assert client.gave_up_at == math.inf, number
            assert len(idle._heap) <= 13
        # One that is busy is looked at again, and one that has become idle when its time is over.
        lasting.idle_since = trio.current_time()
        await trio.sleep(200)
        assert lasting.gave_up_at >= 175
        idle.discard(lasting)


async def test_who_has_ended_before_its_time_is_passed_over(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        first, second = Client(), Client()
        first.idle_since = second.idle_since = trio.current_time()
        idle.add(first)
        idle.add(second)
        idle.discard(first)
        await trio.sleep(80)
        assert (first.gave_up_at, second.gave_up_at) == (math.inf, 75)
        idle.discard(second)


async def test_a_lame_duck_that_is_over_when_it_is_heard_of_lets_nobody_go(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        client = Client()
        client.idle_since = trio.current_time()
        idle.add(client)
        await idle.let_go(trio.current_time() - 1)
        assert client.gave_up_at == math.inf
        idle.discard(client)
