"""The task that looks at idle connections, when clients come and go while it sleeps."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners import _deadlines
from trio_run._listeners._http._letting_go import let_go
from trio_run._listeners._idle import IdleConnections


class Client:
    def __init__(self) -> None:
        self.idle_since = math.inf
        self.gave_up_at = math.inf
        self.looks = 0

    def give_up(self) -> None:
        self.looks += 1
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
    monkeypatch.setattr(_deadlines, "_MANY", 10)
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


async def test_one_that_comes_later_and_is_due_earlier_is_looked_at_then(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        first, second = Client(), Client()
        first.idle_since = trio.current_time()
        idle.add(first)
        await trio.sleep(1)
        second.idle_since = trio.current_time() - 50
        idle.add(second)
        await trio.sleep(80)
        assert (first.gave_up_at, second.gave_up_at) == (75, 26)
        idle.discard(first)
        idle.discard(second)


async def test_however_short_the_time_is_it_looks_no_more_than_20_times_a_second(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(1e-9, nursery.start_soon)
        client = Client()
        client.idle_since = trio.current_time()
        idle.add(client)
        await trio.sleep(10)
        assert 190 < client.looks <= 201
        idle.discard(client)


async def test_a_lame_duck_that_is_over_when_it_is_heard_of_lets_nobody_go(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(75, nursery.start_soon)
        client = Client()
        client.idle_since = trio.current_time()
        idle.add(client)
        await let_go(idle.connections, trio.current_time() - 1)
        assert client.gave_up_at == math.inf
        idle.discard(client)
