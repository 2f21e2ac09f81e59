"""jobs: the worker, and the jobs that wait for it.

Replace ``work``: that is your work. What it raises is logged, ends this life of the worker, and
costs that job alone: Restarting begins the worker anew. Jobs wait in memory. A stop does them
first, as far as its grace goes. What must not be lost belongs in a database. To delete the worker,
delete this file, its test, and what names it in app.py, web.py and ticker.py.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from trio_run import cancel_on_stop, stopping

if TYPE_CHECKING:
    from trio_run import Event

logger = logging.getLogger(__name__)

MOST_WAITING = 100
LONGEST = 10  # seconds: less than the grace, so that the job in hand can always be done


async def work(seconds: float) -> None:
    """Do one job: here that is to wait."""
    await trio.sleep(seconds)


class Full(Exception):
    """Too many jobs wait."""


class Jobs:
    """An actor that does jobs, one after the other. Each life of it does those that wait."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, float]] = deque()
        self._came = trio.Event()
        self._added = 0
        self.done = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    @property
    def status(self) -> str:
        """For the log, the report and the status page."""
        return f"{self.waiting} waiting, {self.done} done"

    def add(self, seconds: float) -> int:
        """Have a job done. Returns its number.

        Raises:
          ValueError: if it is no job.
          Full: if too many wait.
        """
        if not 0 <= seconds <= LONGEST:  # NaN is not
            raise ValueError(seconds)
        if self.waiting == MOST_WAITING:
            raise Full
        self._added += 1
        self._queue.append((self._added, seconds))
        self._came.set()
        return self._added

    async def execute(self) -> None:
        """One life: until it is stopped, and no job waits."""
        while self._queue or not stopping():
            with cancel_on_stop():  # a stop ends the wait for a job, and not the job
                await self._came.wait()
            if self._queue:
                await self._do_next()

    def interrupt(self, cause: object) -> None:
        """Without an interrupt a stop would cancel execute(). This one leaves it to stopping()."""

    async def _do_next(self) -> None:
        number, seconds = self._queue.popleft()
        if not self._queue:
            self._came = trio.Event()
        await work(seconds)
        self.done += 1
        logger.info("job %d is done", number)

    def tell_lost(self, event: Event) -> None:
        """Log at the end what was never begun: the grace was over, or the worker just down."""
        if event.kind == "over" and self._queue:
            logger.error("%d jobs are lost: they were never begun", self.waiting)
