"""Member and Life: one actor's life inside a group.

A Life is what the group lives: how an actor is started, how its interrupt is called, how it is cut,
and what its end is called. It returns how it ended. When it is started and interrupted, and what
its end means for the others, is decided in _supervisor. A Member is a life as its user sees it.
"""

from __future__ import annotations

import inspect
import math
import traceback
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import trio

from ._actor import State
from ._errors import one_line, split_cancelled
from ._inside import Inside, place
from ._report import ActorReport

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Iterator

    from ._actor import Cause, Outcome, Spec
    from ._group import Group

_T = TypeVar("_T")
_FRAMES_IN_EVERY_STACK = frozenset(
    {__file__, trio.lowlevel.wait_task_rescheduled.__code__.co_filename}
)


class Keeper(Protocol):
    """The group around a life, as far as the life needs it."""

    @property
    def group(self) -> Group: ...
    def became_ready(self, life: Life) -> None: ...
    def stop_one(self, life: Life) -> None: ...
    def is_leaving(self) -> bool: ...
    def has_stop_come(self, life: Life) -> bool: ...
    def look_again(self) -> None: ...


class End(NamedTuple):
    """How an execute or an interrupt ended."""

    error: BaseException | None
    cancelled: bool
    outside: bool = False  # was the whole group cancelled?


class Life(Inside):
    """One actor's life. Its group reads and keeps what it says of itself here."""

    __slots__ = (
        "began",
        "context",
        "error",
        "execute_task",
        "interrupt_scope",
        "interrupt_task",
        "interrupt_was_cut",
        "interrupted_at",
        "keeper",
        "may_return_early",
        "member",
        "name",
        "needs",
        "outcome",
        "ready_at",
        "scope",
        "spec",
        "stop_requested",
        "stopped_at",
        "stops_quietly",
        "was_cut",
    )

    def __init__(self, keeper: Keeper, spec: Spec, name: str, needs: tuple[Life, ...]) -> None:
        super().__init__()
        self.keeper = keeper
        self.spec = spec
        self.name = name
        self.needs = needs
        self.member = Member(self)
        self.context: contextvars.Context | None = None  # what it is to be launched in
        self.began = False
        self.ready_at: float | None = None  # on Trio's clock, as the next two
        self.interrupted_at: float | None = None
        self.stopped_at: float | None = None
        self.error: BaseException | None = None
        self.outcome: Outcome = "never started"  # of its execute
        self.scope = trio.CancelScope()
        self.execute_task: trio.lowlevel.Task | None = None
        self.interrupt_scope: trio.CancelScope | None = None  # while its interrupt runs
        self.interrupt_task: trio.lowlevel.Task | None = None
        self.interrupt_was_cut = False
        self.was_cut = False
        self.stop_requested = False  # of this one alone
        self.stops_quietly = False  # then: is it told elsewhere why?
        self.may_return_early = False  # before it is ready

    # What code inside the actor may ask of it.

    @property
    def actor(self) -> object:
        return self.spec.actor

    @property
    def group(self) -> Group:
        return self.keeper.group

    @trio.lowlevel.enable_ki_protection
    def stop(self, *, quietly: bool = False) -> None:
        """Stop this one actor, by the rules of a group's stop."""
        self.stops_quietly = quietly
        self.keeper.stop_one(self)

    def is_leaving(self) -> bool:
        return self.is_stopping or self.stop_requested or self.keeper.is_leaving()

    def has_stop_come(self) -> bool:
        return self.keeper.has_stop_come(self)

    @trio.lowlevel.enable_ki_protection
    def look_again(self) -> None:
        self.keeper.look_again()

    # What its group asks.

    @property
    def is_settled(self) -> bool:
        """Is it ready, or has it been, or will it never be?"""
        return self.ready_at is not None or self.stopped_at is not None

    @property
    def is_finished(self) -> bool:
        """Its execute is over, and so is its interrupt if that has begun."""
        return self.stopped_at is not None and self.interrupt_scope is None

    @property
    def is_fit(self) -> bool:
        """Is it fit for work, as far as its actor says so? One that is stopped does not count."""
        if self.stopped_at is not None or self.stop_requested:
            return True
        try:
            return bool(getattr(self.spec.actor, "ready", True))
        except Exception:  # who can't say that it is fit is not
            return False

    @property
    def status(self) -> str:
        """The actor's one line for logs, "" where it has none."""
        try:
            return str(getattr(self.spec.actor, "status", ""))
        except Exception as exc:  # a log line is no reason to stop anything
            return f"its status raised {one_line(exc)}"

    def report(self, began_at: float) -> ActorReport:
        """Its line in the report of a group that began then."""

        def since(when: float | None) -> float | None:
            return None if when is None or not self.began else when - began_at

        return ActorReport(
            name=self.name,
            outcome=self.member.outcome,
            ready=since(self.ready_at),
            interrupted=since(self.interrupted_at),
            stopped=since(self.stopped_at),
            error=self.error,
            detail=self.status,
        )

    def stacks(self) -> Iterator[str]:
        """Where its tasks are: for one that does not end."""
        if self.stopped_at is None:
            assert self.execute_task is not None
            yield from _task_stacks(self.execute_task)
        if self.interrupt_scope is not None:
            assert self.interrupt_task is not None
            yield from _task_stacks(self.interrupt_task)

    # What its group does with it.

    def begin(self) -> None:
        """Its task begins."""
        self.began = True
        self.execute_task = trio.lowlevel.current_task()
        place.set(self)

    def execute(self) -> Awaitable[object]:
        """Call execute. What is left to await of it is returned."""
        execute = self.spec.execute
        if self.spec.takes_status:
            pending = _call(execute, task_status=LifeStatus(self))
        else:
            self.become_ready()
            pending = _call(execute)
        if not inspect.isawaitable(pending):
            raise TypeError(
                f"actor {self.name!r} must be an async function: {execute!r} returned {pending!r}"
            )
        return pending

    def conclude(self, end: End) -> End:
        """Name what its end is called. An end that was too early is a failure."""
        if end.error is None:
            if end.cancelled and (self.is_hard or end.outside):
                self.outcome = "cut"
                return end
            early = self.may_return_early or self.is_stopping or end.outside
            if self.ready_at is not None or not self.spec.takes_status or early:
                self.outcome = "returned"
                return end
            text = f"actor {self.name!r} returned before it called task_status.started()"
            end = end._replace(error=RuntimeError(text))
        self.outcome = "failed"
        return end

    def become_ready(self) -> None:
        self.ready_at = trio.current_time()
        self.wake_waiters()
        self.keeper.became_ready(self)

    def interrupt(self, cause: Cause) -> Awaitable[object] | None:
        """Interrupt it. What is left to await of an async interrupt is returned.

        The interrupt runs in the context of the actor's own task.

        Raises:
          BaseException: what the interrupt raised.
        """
        assert self.execute_task is not None
        self.interrupted_at = trio.current_time()
        self.soften()
        if self.spec.interrupt is None:
            self.scope.cancel(cause.reason)
            return None
        pending = self.execute_task.context.run(_call, self.spec.interrupt, cause)
        if not inspect.isawaitable(pending):
            return None
        self.interrupt_scope = trio.CancelScope()
        return pending

    async def finish_interrupt(self, pending: Awaitable[object]) -> End:
        """Await the rest of an async interrupt, in a task of its own. Raises nothing."""
        assert self.interrupt_scope is not None
        self.interrupt_task = trio.lowlevel.current_task()
        end = await end_of(self.interrupt_scope, lambda: pending)
        self.interrupt_was_cut = end.cancelled
        self.interrupt_scope = None
        return end

    def cut(self) -> None:
        """Cancel it hard, and its interrupt."""
        self.was_cut = True
        self.harden()
        self.scope.cancel("it was cut")
        if self.interrupt_scope is not None:
            self.interrupt_scope.cancel("it was cut")

    def close(self) -> None:
        """It has stopped, or is never going to begin."""
        self.pierce()  # whatever it has left in somebody else's nursery is theirs to stop
        self.stopped_at = trio.current_time()
        self.wake_waiters()


class Member:
    """An actor in its group: what :meth:`Group.add` returns."""

    __slots__ = ("_life",)

    def __init__(self, life: Life) -> None:
        self._life = life

    def __repr__(self) -> str:
        return f"<Member {self.name!r} {self.state.value}>"

    @property
    def name(self) -> str:
        """What it is called in logs and the report; unique in its group."""
        return self._life.name

    @property
    def actor(self) -> object:
        """What was added."""
        return self._life.spec.actor

    @property
    def daemon(self) -> bool:
        """Does it leave the group free to stop, and is it interrupted last of all?"""
        return self._life.spec.daemon

    @property
    def grace(self) -> float | None:
        """How many seconds it may take to stop, from its interrupt on; None: as its group."""
        return self._life.spec.grace

    @property
    def ready_at(self) -> float | None:
        """When it was ready, on Trio's clock; None if it has not been."""
        return self._life.ready_at

    @property
    def interrupted_at(self) -> float | None:
        """When it was interrupted, on Trio's clock; None if it has not been."""
        return self._life.interrupted_at

    @property
    def stopped_at(self) -> float | None:
        """When its execute had returned, on Trio's clock; None if it has not."""
        return self._life.stopped_at

    @property
    def state(self) -> State:
        """NEW (not begun), STARTING (not ready), RUNNING, STOPPING (interrupted) or STOPPED."""
        life = self._life
        if life.stopped_at is not None:
            return State.STOPPED
        if not life.began:
            return State.NEW
        if life.is_stopping:
            return State.STOPPING
        return State.STARTING if life.ready_at is None else State.RUNNING

    @property
    def outcome(self) -> Outcome:
        """What its end is called, once it has stopped."""
        life = self._life
        if life.error is not None:
            return "failed"
        return "cut" if life.interrupt_was_cut else life.outcome

    @property
    def error(self) -> BaseException | None:
        """What it failed with, or None."""
        return self._life.error

    @property
    def status(self) -> str:
        """The actor's one line for logs, "" where it has none."""
        return self._life.status

    def stop(self) -> None:
        """Stop this one actor, by the rules of a group's stop; the group goes on.

        It is interrupted once everything that ``needs`` it has stopped, has its own grace (where it
        has none, its group's) from then on, and does not stop the group by returning. Calling it
        again, or once the actor has stopped, does nothing.
        """
        self._life.stop()

    async def wait_ready(self) -> None:
        """Wait until the actor is ready.

        Raises:
          RuntimeError: if it has stopped, or can never start, without having been ready.
        """
        life = self._life
        await life.wait_until(lambda: life.is_settled)
        if self._life.ready_at is None:
            raise RuntimeError(f"actor {self.name!r} stopped before it was ready")

    async def wait_stopped(self) -> None:
        """Wait until the actor has stopped: its execute has returned, or will never start."""
        life = self._life
        await life.wait_until(lambda: life.stopped_at is not None)


def life_of(member: Member) -> Life:
    """What its group lives of it."""
    return member._life


class LifeStatus:
    """What an execute that takes task_status is given: Trio's start protocol."""

    __slots__ = ("_life",)

    def __init__(self, life: Life) -> None:
        self._life = life

    @trio.lowlevel.enable_ki_protection
    def started(self, _value: object = None) -> None:
        name = self._life.name
        if self._life.ready_at is not None:
            raise RuntimeError(f"actor {name!r} called task_status.started() twice")
        if self._life.stopped_at is not None:
            raise RuntimeError(f"actor {name!r} called task_status.started() after it had stopped")
        self._life.become_ready()

    def excuse(self) -> None:
        """It will return without having been ready, and that is no error."""
        self._life.may_return_early = True


@trio.lowlevel.enable_ki_protection
async def end_of(scope: trio.CancelScope, start: Callable[[], Awaitable[object]]) -> End:
    """Call start() and await what it returns, in the scope. Raises nothing."""
    cancelled, error = False, None
    with scope:
        try:
            pending = start()
            del start
            await _unprotected(pending)
        except BaseException as exc:  # in the scope: on its way out a group would be copied
            cancelled, error = split_cancelled(exc)
    # What is outside our scope is the group's: -inf says that the whole group has been cancelled.
    outside = trio.current_effective_deadline() == -math.inf
    return End(error, cancelled, outside)


# Ctrl-C may land anywhere in what is the user's, and nowhere in our own bookkeeping.


@trio.lowlevel.disable_ki_protection
def _call(function: Callable[..., _T], *args: object, **options: object) -> _T:
    return function(*args, **options)


@trio.lowlevel.disable_ki_protection
async def _unprotected(pending: Awaitable[object]) -> None:
    await pending


def _task_stacks(task: trio.lowlevel.Task) -> Iterator[str]:
    yield f"task {task.name}:\n"
    for frame in traceback.StackSummary.extract(task.iter_await_frames()):
        if frame.filename not in _FRAMES_IN_EVERY_STACK:
            yield from traceback.format_list([frame])
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _task_stacks(child)
