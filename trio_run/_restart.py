"""Restarting: when an actor is begun anew, after how long, and when that is enough.

Each life is a group of one, so that what an actor is promised in a group it is promised here. What
a group does when a Restarting itself fails is the group's business.
"""

from __future__ import annotations

import inspect
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Literal

import trio

from ._actor import check_seconds
from ._errors import GroupFailed, cannot_start, one_line
from ._group import Group, supervisor_of
from ._inside import place
from ._member import Life

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._actor import Cause
    from ._journal import Event
    from ._member import Member

_LIVES_TOLD = 20


class Backoff:
    """How long to wait before each life, and how many failures are too many.

    It has no clock and no task. All times are in seconds.
    """

    def __init__(self, first: float, most: float, limit: float, within: float) -> None:
        self._first = check_seconds("first", first)
        self._most = check_seconds("most", most)
        if first > most:
            raise ValueError(f"first={first:g} is more than most={most:g}: no wait can be both")
        self._within = check_seconds("within", within)
        is_whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit != math.inf and not (is_whole and limit >= 0):
            raise ValueError(f"limit must be a whole number, 0 or more, or math.inf, not {limit!r}")
        self._limit = limit
        self._wait = first
        self._failures: deque[tuple[float, Exception]] = deque()

    def wait_after(self, lived: float) -> float:
        """How long to wait after a life that lasted so long."""
        if lived > self._within:
            self._wait = self._first
        wait = self._wait
        self._wait = min(2 * wait, self._most)
        return wait * random.uniform(0.5, 1)  # so that many do not begin at the same time

    def failed(self, error: Exception, now: float) -> list[Exception] | None:
        """A life has failed now. Returns the failures, where they are too many."""
        if self._limit == math.inf:
            return None
        self._failures.append((now, error))
        while now - self._failures[0][0] > self._within:
            self._failures.popleft()
        if len(self._failures) <= self._limit:
            return None
        return [failure for _, failure in self._failures]


class Restarting:
    """An actor that begins another one anew when that has failed.

    What an actor is promised in a group, the actor of each life is promised too: its interrupt, its
    grace, ``busy()``, and so on. Between two lives this one is not ``ready``, and so neither is its
    group. A stop ends the wait, and nothing is begun after it. Each failure is logged with its
    traceback. A failure during a stop, KeyboardInterrupt and SystemExit are not for it: they go on
    their way.

    Args:
      make: a function without arguments that gives the actor of each life. A life that make() can't
        give, because it raises, has failed. An async function is its own ``make``.
      on: "failure": it returns when its actor does; "always": then it begins it anew, too.
      first: how many seconds it waits after the first life; then twice as long each time, times a
        random 0.5 to 1. A life longer than ``within`` sets that back.
      most: the longest wait, in seconds, before it is made random.
      limit: more failures than that many in ``within`` seconds are too many: then it fails, with an
        ExceptionGroup of them. ``math.inf`` for any number.
      within: see ``first`` and ``limit``.
      start_within: how many seconds each life may take to be ready. Then it is cut, and has failed
        with a TimeoutError.
      name: what it is called in logs and the report; the function's or class's, if None.

    Raises:
      TypeError, ValueError: if an argument can't be right. From :meth:`execute`: TypeError if
        make() gives no actor; CannotStart if the first life raises it; an ExceptionGroup if the
        failures are too many; RuntimeError outside a group.

    The idea is that of Erlang's supervisors, and of suture.
    """

    def __init__(
        self,
        make: Callable[..., object],  # an async function may take task_status
        *,
        on: Literal["failure", "always"] = "failure",
        first: float = 1.0,
        most: float = 60.0,
        limit: float = 10,
        within: float = 300.0,
        start_within: float | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(make) or (hasattr(make, "execute") and not isinstance(make, type)):
            raise TypeError(
                "Restarting() takes a function that makes the actor of each life, "
                f"Restarting(lambda: ...), not {make!r}"
            )
        if on not in ("failure", "always"):
            raise ValueError(f'on must be "failure" or "always", not {on!r}')
        if start_within is not None:
            check_seconds("start_within", start_within)
        self.name = name or _name_of(make)
        self._make: Callable[[], object] = (lambda: make) if _is_async(make) else make
        self._on = on
        self._start_within = start_within
        self._within = within
        self._backoff = Backoff(first, most, limit, within)
        self._here: Life | None = None  # what this actor is in its group
        self._has_own_end = False  # has the life that goes on exited, and no stop come before?
        self._group: Group | None = None  # of the life that goes on
        self._member: Member | None = None  # of the last life
        self._number = 0  # of that life
        self._ended: deque[str] = deque(maxlen=_LIVES_TOLD)  # how lives have ended by themselves
        self._is_over = False

    @property
    def ready(self) -> bool:
        """Does a life go on that is fit for work?"""
        return self._group is not None and self._group.ready

    @property
    def status(self) -> str:
        """What its actor says of itself, and in which life; in the end, what became of them."""
        if self._is_over:
            return self._tale()
        if self._group is None:
            return f"down: life {self._ended[-1]}" if self._ended else ""
        own = "" if self._member is None else self._member.status
        return own if self._number == 1 else f"life {self._number}: {own}".removesuffix(": ")

    @trio.lowlevel.enable_ki_protection
    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Begin one life after the other. Started when one of them is ready."""
        here = place.get()
        if here is None or not isinstance(here.inside, Life):
            raise RuntimeError("Restarting acts for the group it is in: add() it to one")
        if self._here is not None:
            raise RuntimeError(f"{self.name!r} has run before: a Restarting runs once")
        self._here = here.inside
        try:
            await self._live_again_and_again(self._here, task_status)
        finally:
            self._is_over = True

    @trio.lowlevel.enable_ki_protection
    def interrupt(self, cause: Cause) -> None:
        """Interrupt the actor of the life that goes on, if there is one."""
        if self._group is not None:
            self._group.interrupt(cause)

    async def _live_again_and_again(self, here: Life, task_status: trio.TaskStatus[None]) -> None:
        journal = supervisor_of(here.group).journal
        while not here.has_stop_come():
            self._number += 1
            began = trio.current_time()
            error = await self._live(here, task_status)
            now = trio.current_time()
            if error is not None:
                self._failed(here, error, now - began)
            elif self._on == "always" and self._has_own_end:
                self._ended.append(f"{self._number} returned after {now - began:.1f} s")
            elif self._on == "failure":
                return
            else:
                break
            wait = self._backoff.wait_after(now - began)
            if not here.has_stop_come():
                journal.life_is_due(here, self._number + 1, wait)
                with trio.move_on_after(wait):
                    await here.wait_until(lambda: here.is_stopping)
            if not here.has_stop_come():
                journal.restarted(here, self._number + 1, error)
        # A return before the interrupt would end the lame duck.
        await here.wait_until(lambda: here.is_stopping)

    async def _live(self, here: Life, task_status: trio.TaskStatus[None]) -> Exception | None:
        """One life. Returns what it failed with by itself, or None.

        Raises:
          Exception: what it failed with when a stop had come.
          TypeError: if make() gave no actor.
        """
        self._member = None
        self._has_own_end = False
        try:
            actor = _call(self._make)
        except Exception as exc:
            return exc
        group = Group(name=f"{here.name} (life {self._number})", grace=math.inf)
        supervisor_of(group).stand_in_for(here)
        group.on_event(self._heard)
        try:
            self._member = group.add(
                actor, name=here.name, daemon=False, start_within=self._start_within
            )
        except (TypeError, ValueError) as exc:
            what = f"the make() of {here.name!r} must give an actor or be an async function"
            raise TypeError(f"{what}, and gave {actor!r}: {exc}") from exc
        self._group = group
        is_first = here.ready_at is None
        failed: GroupFailed | None = None
        try:
            await group.run(task_status=task_status if is_first else trio.TASK_STATUS_IGNORED)
        except GroupFailed as exc:
            failed = exc
        finally:
            self._group = None
        if failed is not None:
            error = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
            if not self._has_own_end:
                raise error
            return error
        if self._member.outcome == "never started":  # a stop has come meanwhile
            await here.wait_until(lambda: here.is_stopping)
        if self._member.outcome == "cut" and not self._has_own_end:  # by a grace of its own
            here.cut()
            await trio.lowlevel.checkpoint_if_cancelled()
        return None

    def _heard(self, event: Event) -> None:
        """Something has happened in the group of a life."""
        here = self._here
        assert here is not None
        assert self._group is not None
        has_exited = event.kind == "stop began" and event.fields["actor"] is not None
        if has_exited and not here.has_stop_come():
            self._has_own_end = True
            # Its interrupt is left. For that it has as long as the group around gives this actor.
            grace = here.spec.grace
            self._group.stop(grace=here.group.grace if grace is None else grace)
        if event.kind in ("ready", "not ready") and event.actor is None:
            here.look_again()

    def _failed(self, here: Life, error: Exception, lived: float) -> None:
        """A life has failed by itself.

        Raises:
          Exception: if that is a failure of this actor.
        """
        if self._number == 1 and cannot_start(error):
            raise error
        self._ended.append(f"{self._number} failed after {lived:.1f} s: {one_line(error)}")
        supervisor_of(here.group).journal.life_failed(here, self._number, error)
        failures = self._backoff.failed(error, trio.current_time())
        if failures is not None:
            many = f"{here.name!r} failed {len(failures)} times in {self._within:g} s"
            raise ExceptionGroup(many, failures)

    def _tale(self) -> str:
        """How many lives there were, and what became of the last of them."""
        own = "" if self._member is None else self._member.status
        lives = [*self._ended]
        if not lives:
            return own
        if not lives[-1].startswith(f"{self._number} "):
            lives.append(f"{self._number} stopped: {own}".removesuffix(": "))
        count = "1 life" if self._number == 1 else f"{self._number:,} lives"
        return f"{count}: {'; '.join(lives[-_LIVES_TOLD:])}"


# Ctrl-C may land anywhere in what is the user's, and nowhere in our own bookkeeping.
@trio.lowlevel.disable_ki_protection
def _call(make: Callable[[], object]) -> object:
    return make()


def _is_async(make: object) -> bool:
    """Is it an async function, or an object that is called like one?"""
    if inspect.iscoroutinefunction(make):
        return True
    return not isinstance(make, type) and inspect.iscoroutinefunction(type(make).__call__)


def _name_of(make: object) -> str:
    name = getattr(getattr(make, "func", make), "__name__", None) or type(make).__name__
    return "restarting" if name == "<lambda>" else str(name)
