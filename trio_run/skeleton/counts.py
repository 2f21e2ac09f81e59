"""Counts: the background task that counts lines by their source.

Decides what is counted, and that nobody waits for it: the store hands over what it has committed
and goes on. Asked
to stop, it counts what it was handed, and returns: so in the end it has counted every line that was
stored until then.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from .database import Line

if TYPE_CHECKING:
    from trio_run import Cause

_MOST_SOURCES = 1_000  # each takes memory, and anyone can make up more
OTHERS = "others"


class Counts:
    """How many lines each source has sent since the start.

    Past a thousand sources, new ones are counted together.
    """

    name = "counts"

    def __init__(self) -> None:
        self._by_source: Counter[str] = Counter()
        # No bound: the store hands over no faster than it commits, and counting is quicker.
        self._handed, self._due = trio.open_memory_channel[Sequence[Line]](math.inf)

    @property
    def status(self) -> str:
        """One line for the log and the report."""
        count = len(self._by_source)
        return f"{self._by_source.total():,} lines of {count:,} source{'' if count == 1 else 's'}"

    def by_source(self) -> dict[str, int]:
        """The counts, the largest first."""
        return dict(self._by_source.most_common())

    def add(self, lines: Sequence[Line]) -> None:
        """Have these counted, soon."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it was cut
            self._handed.send_nowait(lines)

    async def execute(self) -> None:
        with self._due:
            async for lines in self._due:
                for source, count in Counter(line.source for line in lines).items():
                    known = source in self._by_source or len(self._by_source) < _MOST_SOURCES
                    self._by_source[source if known else OTHERS] += count

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Count what is left, and return."""
        self._handed.close()
