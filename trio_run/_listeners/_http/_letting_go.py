"""Which idle clients are let go before a stop, and when.

While a group is a lame duck, a balancer is to move its clients away. Were all who are idle closed
at its end, all would come back elsewhere in one instant. So in its second half they are closed
evenly, first those that have been idle longest: whom nobody has used for long, nobody is about to
use. In the first half none is, because its client would come back to us.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from .._idle import Waiting

_TURN = 0.05  # seconds from some who are let go to the next


async def let_go(connections: AbstractSet[Waiting], ends: float) -> None:
    """Let them go, the one that has been idle longest first, until all are gone by then.

    The set may change meanwhile.
    """
    await trio.sleep(max(0.0, ends - trio.current_time()) / 2)  # it may be over already
    due = 0.0  # connections
    while (left := ends - trio.current_time()) > 0:
        idle = [each for each in connections if each.idle_since < math.inf]
        due += len(idle) * min(1, _TURN / left)
        for connection in heapq.nsmallest(int(due), idle, key=lambda each: each.idle_since):
            connection.give_up()
        due %= 1
        await trio.sleep(_TURN)
