"""BackgroundTasks and every: work that is not an actor of its own.

Decides how fire-and-forget work is kept, limited and waited for, and when a ticker ticks.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
from collections import deque
from typing import TYPE_CHECKING

import trio

from ._errors import split_cancelled
from ._inside import busy, place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._actor import Cause

logger = logging.getLogger("trio_run")


class BackgroundTasks:
    """An actor for fire-and-forget work that a stop waits for.

    Whoever starts tasks while it drains should ``needs`` this actor, and so stop first. A task that
    fails is logged and stops nobody. Interrupted, it takes no more, and returns when the last task
    has ended, those that still waited for their turn included; what is left at the end of the grace
    is cut.

    The idea is that of the background helper in "Let's Go Further".

    Args:
      limit: how many tasks may run at once; the others wait for their turn. None is no limit.
      name: its name in the report and the log.

    Raises:
      ValueError: if the limit is not a positive whole number.
    """

    def __init__(self, *, limit: int | None = None, name: str = "background tasks") -> None:
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"limit must be a positive whole number or None, not {limit!r}")
        self.name = name
        self._limit = math.inf if limit is None else limit
        self._waiting: deque[
            tuple[Callable[..., Awaitable[object]], tuple[object, ...], contextvars.Context]
        ]
        self._waiting = deque()
        self._nursery: trio.Nursery | None = None
        self._interrupted = trio.Event()
        self._running = self._done = self._failed = self._cut = 0

    @property
    def status(self) -> str:
        """How many tasks run and wait; when it has been interrupted, what became of all as well."""
        counts = {"running": self._running, "waiting": len(self._waiting)}
        if self._interrupted.is_set():
            counts |= {"done": self._done, "failed": self._failed, "cut": self._cut}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run ``await fn(*args)`` in the background. Returns at once.

        The task inherits the caller's context variables, but belongs to this actor: ``busy()`` in
        it is this actor's. May be called before the group runs: the tasks begin when this actor
        does, or never.

        Raises:
          RuntimeError: if this actor has been interrupted or cut.
          TypeError: if fn can't be called.
        """
        if self._interrupted.is_set():
            raise RuntimeError(
                f"{self.name!r} is stopping and takes no more tasks: whoever starts tasks while "
                "draining should need it, so as to stop first"
            )
        if inspect.iscoroutine(fn):
            fn.close()  # else Python warns that it was never awaited
        if not callable(fn):
            raise TypeError(f"start_soon() takes an async function and its arguments, not {fn!r}")
        self._waiting.append((fn, args, contextvars.copy_context()))
        self._fill()

    async def execute(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._here = place.get()
            self._fill()
            try:
                await self._interrupted.wait()
            finally:
                self._interrupted.set()  # cut: it takes no more either

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        self._interrupted.set()

    def _fill(self) -> None:
        while self._nursery is not None and self._waiting and self._running < self._limit:
            fn, args, context = self._waiting.popleft()
            self._running += 1
            context.run(place.set, self._here)
            context.run(self._nursery.start_soon, self._run, fn, args)

    async def _run(self, fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await fn(*args)
        except BaseException as exc:
            cancelled, error = split_cancelled(exc)
            if error is not None and not isinstance(error, Exception):
                raise
            if error is not None:
                self._failed += 1
                logger.error("%s: %s failed", self.name, _name(fn), exc_info=error)
            if cancelled:
                self._cut += error is None
                self._nursery = None  # the grace is over: those that wait don't begin
        else:
            self._done += 1
        finally:
            self._running -= 1
        self._fill()


class _Ticker:
    """What :func:`every` returns."""

    def __init__(self, seconds: float, fn: Callable[..., object], args: tuple[object, ...]) -> None:
        self.name = f"{_name(fn)} every {seconds:g} s"
        self._seconds = seconds
        self._fn = fn
        self._args = args

    async def execute(self) -> None:
        next_tick = trio.current_time() + self._seconds
        while True:
            await trio.sleep_until(next_tick)
            with busy():
                pending = self._fn(*self._args)
                if inspect.isawaitable(pending):
                    await pending
            missed = (trio.current_time() - next_tick) // self._seconds
            next_tick += self._seconds * (missed + 1)


def every(seconds: float, fn: Callable[..., object], *args: object) -> _Ticker:
    """An actor that calls ``fn(*args)``, plain or async, every so many seconds, not at once.

    A call that takes longer than the interval delays the next one to the next full interval: ticks
    are missed, not saved up (as with Go's Ticker). At a stop a call that has begun is finished; one
    that raises is a failure of the actor.

    Raises:
      ValueError: if seconds is not a positive number.
      TypeError: if fn can't be called.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"every() takes a positive number of seconds, not {seconds!r}")
    if not callable(fn):
        raise TypeError(f"every() takes a number of seconds and a function, not {fn!r}")
    return _Ticker(seconds, fn, args)


def _name(fn: object) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__
