"""The task that looks at idle connections, when clients come and go within one of its turns."""

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners._http._idle import IdleConnections


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
