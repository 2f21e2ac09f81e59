"""jobs: the worker, and the jobs that wait for it.

Replace ``work``: that is your work. What it raises is logged, ends this life of the worker, and
costs that job alone: Restarting begins the worker anew. Jobs wait in memory. A stop does them
first, as far as its grace goes. What must not be lost belongs in a database. To delete the worker,
delete this file, its test, and what names it in app.py, web.py and ticker.py.
"""

import logging
from collections import deque

import trio

from trio_run import Event, busy

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
        self._waiting: deque[tuple[int, float]] = deque()
        self._came = trio.Event()
        self._added = 0
        self.done = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

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
        self._waiting.append((self._added, seconds))
        self._came.set()
        return self._added

    async def execute(self) -> None:
        """One life."""
        while True:
            with busy():  # a stop waits for this block, and ends the wait below
                while self._waiting:
                    number, seconds = self._waiting.popleft()
                    await work(seconds)
                    self.done += 1
                    logger.info("job %d is done", number)
            self._came = trio.Event()
            await self._came.wait()

    def tell_lost(self, event: Event) -> None:
        """Log at the end what was never begun: the grace was over, or the worker just down."""
        if event.kind == "over" and self._waiting:
            logger.error("jobs that are lost, for they were never begun: %d", self.waiting)
