"""Which clients have been silent for too long: the task that looks, and when it has nobody to look
at.
"""

import math

import trio

from trio_run._listeners._http._idle import IdleConnections


class Silent:
    """A connection that has been idle for ever."""

    idle_since = -math.inf

    def give_up(self) -> None:
        raise AssertionError("it has ended")


async def test_a_connection_that_ends_at_once_leaves_nobody_to_look_at() -> None:
    async with trio.open_nursery() as nursery:
        idle = IdleConnections(10, nursery.start_soon)
        connection = Silent()
        idle.add(connection)
        idle.discard(connection)  # before the task that looks has begun
