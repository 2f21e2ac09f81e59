"""What SIGHUP means to a parent of processes that serve: a reload, or that its terminal was closed.

Who closes a terminal expects that what runs there ends. Else it would keep its port, and nobody
would see it. What is to live on is started otherwise: with nohup, by a service manager, or it is
let go by its shell (disown), which then sends no SIGHUP.
"""

from __future__ import annotations

import math
import os
import signal
from typing import TYPE_CHECKING

import trio

from ._group import current_group
from ._signals import SignalReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOOK = 1.0  # seconds from one look at the terminal to the next


def has_terminal() -> bool:
    """Is there one that this process would hear of if it was closed?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class ParentsSignals(SignalReceiver):
    """It stops the group, too, at a SIGHUP that comes because the terminal was closed."""

    def __init__(self, handlers: Mapping[signal.Signals, Callable[[], object]]) -> None:
        super().__init__(handlers=handlers)
        self._had_terminal = has_terminal()
        self._gone_since = math.inf

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            await super().execute(task_status=task_status)  # it ends by a cancel alone

    async def _look(self) -> None:
        while has_terminal():  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(_LOOK)
        self._gone_since = trio.current_time()

    def _is_dealt_with(self, signum: signal.Signals) -> bool:
        if signum != signal.SIGHUP or not self._had_terminal or has_terminal():
            return False
        # One that has lived on without its terminal is a service from then on. When it was seen
        # last says nothing: we may have been suspended since.
        if trio.current_time() - self._gone_since > 2 * _LOOK:
            return False
        group = current_group()
        assert group is not None
        group.stop("its terminal was closed")
        return True
