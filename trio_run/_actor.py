"""Actor, Cause, Member: one actor's life inside a group.

This module decides what counts as an actor, how it is started, how its interrupt is called, and what its
end is called: returned, failed, cut, or never started. When it is started and interrupted, and what its
end means for the others, is the group's business: a member only reports to it.
"""

from __future__ import annotations

import enum
import functools
import inspect
import math
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import trio

from ._errors import split_cancelled
from ._inside import Inside, place

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable, Iterable, Iterator

Outcome = Literal["returned", "failed", "cut", "never started"]
_T = TypeVar("_T")
_OUR_FRAMES = frozenset({__file__, trio.lowlevel.wait_task_rescheduled.__code__.co_filename})
Policy = Literal["stop", "ignore"]


class Actor(Protocol):
    """What a group runs: an *execute* and, where it wants a say in how it stops, an *interrupt*.

    ``async execute()`` does the work, and returns when it is over. It may take ``task_status``, as for
    :meth:`trio.Nursery.start`: then it is ready when it calls ``task_status.started()``, and else at once.

    ``interrupt(cause)``, plain or async, asks it to return soon; it is called exactly once in a stop, with the
    :class:`Cause`, after execute has begun, even when execute has already returned. An actor without one is
    cancelled instead, softly: see :func:`busy`.

    Optional attributes: ``name`` (str), ``daemon`` (bool), ``grace`` (seconds), and ``status``: one line for
    logs, such as "12 connections, 3 busy". Its last value is the actor's detail in the :class:`Report`.

    The idea is oklog/run's.
    """

    async def execute(self) -> object: ...


class State(enum.Enum):
    """Where a group or an actor is in its life."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    LAME_DUCK = "lame duck"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Cause:
    """Why a group stops.

    ``actor`` is the name of the actor that exited first, or None; ``error`` the exception it raised, or None;
    ``signal`` the signal that asked for the stop, or None; ``reason`` says it in words. str(cause) is the reason.
    """

    actor: str | None = None
    error: BaseException | None = None
    signal: signal.Signals | None = None
    reason: str = ""

    def __str__(self) -> str:
        return self.reason


class _Owner(Protocol):
    """The group, as far as a member needs it."""

    def _may_start(self, member: Member) -> bool: ...
    def _member_began(self, member: Member) -> None: ...
    def _member_ready(self) -> None: ...
    def _member_exited(self, member: Member) -> None: ...
    def _cancel_from_outside(self) -> None: ...
    def _member_failed(self, member: Member, error: BaseException) -> None: ...
    def _member_asked(self, member: Member) -> None: ...
    def _interrupt_failed(self, member: Member, error: BaseException) -> None: ...
    def _interrupt_finished(self, member: Member) -> None: ...
    def _signalled(self, signum: signal.Signals) -> bool: ...
    def _is_lame_duck(self) -> bool: ...


class Member(Inside):
    """An actor in its group: what :meth:`Group.add` returns."""

    __slots__ = (
        "_asked",
        "_blockers",
        "_dependents",
        "_excused",
        "_execute",
        "_group",
        "_interrupt",
        "_interrupt_cut",
        "_interrupt_scope",
        "_interrupt_task",
        "_needs",
        "_outcome",
        "_over",
        "_scope",
        "_settled",
        "_stopped",
        "_takes_status",
        "_task",
        "_was_cut",
        "actor",
        "daemon",
        "error",
        "grace",
        "interrupted_at",
        "name",
        "on_error",
        "on_return",
        "ready_at",
        "stopped_at",
    )

    def __init__(
        self,
        group: _Owner,
        actor: object,
        execute: Callable[..., Awaitable[object]],
        interrupt: Callable[[Cause], object] | None,
        *,
        name: str,
        grace: float | None,
        daemon: bool,
        needs: Iterable[Member],
        on_return: Policy,
        on_error: Policy,
    ) -> None:
        super().__init__()
        self._group = group
        self.actor = actor
        self.name = name
        self.grace = grace
        self.daemon = daemon
        self.on_return = on_return
        self.on_error = on_error
        self.error: BaseException | None = None
        self.ready_at: float | None = None  # on Trio's clock, as the next two
        self.interrupted_at: float | None = None
        self.stopped_at: float | None = None
        self._execute = execute
        self._takes_status = _takes_task_status(execute)
        self._interrupt = interrupt
        self._needs = tuple(needs)
        self._dependents: list[Member] = []
        self._scope = trio.CancelScope()
        self._interrupt_scope: trio.CancelScope | None = None
        self._excused = False  # may it return before it is ready?
        self._interrupt_cut = False
        self._interrupt_task: trio.lowlevel.Task | None = None
        self._task: trio.lowlevel.Task | None = None  # set once it has begun
        self._settled = trio.Event()  # ready, or never going to be
        self._stopped = trio.Event()
        self._outcome: Outcome = "never started"
        self._was_cut = False
        self._asked = False  # has Member.stop() been called?
        self._blockers = 0  # how many that need it are not over yet
        self._over = False  # stopped, interrupted, and its interrupt finished

    def __repr__(self) -> str:
        return f"<Member {self.name!r} {self.state.value}>"

    # What anyone may ask.

    @property
    def state(self) -> State:
        """NEW (not begun), STARTING (begun, not ready), RUNNING, STOPPING (interrupted) or STOPPED."""
        if self.stopped_at is not None:
            return State.STOPPED
        if self._task is None:
            return State.NEW
        if self._stopping.is_set():
            return State.STOPPING
        return State.STARTING if self.ready_at is None else State.RUNNING

    def stop(self) -> None:
        """Stop this one actor, by the rules of a group's stop; the group goes on.

        It is interrupted once everything that ``needs`` it has stopped, has its own grace (where it has
        none, its group's) from then on, and does not stop the group by returning. Calling it again, or once
        the actor has stopped, does nothing.
        """
        if not self._asked and self.stopped_at is None:
            self._asked = True
            self._group._member_asked(self)

    async def wait_ready(self) -> None:
        """Wait until the actor is ready.

        Raises:
          RuntimeError: if it has stopped, or can never start, without having been ready.
        """
        await self._settled.wait()
        if self.ready_at is None:
            raise RuntimeError(f"actor {self.name!r} stopped before it was ready")

    async def wait_stopped(self) -> None:
        """Wait until the actor has stopped: its execute has returned, or is never going to start."""
        await self._stopped.wait()

    @property
    def outcome(self) -> Outcome:
        """What its end is called, once it has stopped."""
        if self.error is not None:
            return "failed"
        return "cut" if self._interrupt_cut else self._outcome

    @property
    def status(self) -> str:
        """The actor's one line for logs, "" where it has none."""
        try:
            return str(getattr(self.actor, "status", ""))
        except Exception as exc:  # a log line is no reason to stop anything
            return f"its status raised {exc!r}"

    def lame_duck(self) -> bool:
        return self._group._is_lame_duck()

    # What its group does with it.

    @property
    def _finished(self) -> bool:
        """Its execute is over, and so is its interrupt if that has begun."""
        return self.stopped_at is not None and self._interrupt_scope is None

    def _exit(self) -> None:
        """It has stopped, or is never going to begin."""
        self._pierce()  # whatever it has left in somebody else's nursery is theirs to stop
        self.stopped_at = trio.current_time()
        self._settled.set()
        self._stopped.set()
        self._group._member_exited(self)

    @trio.lowlevel.enable_ki_protection
    async def _live(self) -> None:
        """Its task: wait for what it needs, execute, report. It never raises."""
        error: BaseException | None = None
        cancelled = False
        try:
            with self._scope:
                for need in self._needs:
                    await need._settled.wait()
                if not self._needs or self._group._may_start(self):
                    await self._begin()
        except BaseException as exc:
            cancelled, error = split_cancelled(exc)
        cancelled = cancelled or self._scope.cancelled_caught
        # What is outside our own scope is the group's: -inf says that the whole group has been cancelled.
        outside = trio.current_effective_deadline() == -math.inf
        if error is not None:
            self._outcome = "failed"
        elif self._task is None:
            self._outcome = "never started"
        elif cancelled and (self._hard or outside):
            self._outcome = "cut"
        else:
            self._outcome = "returned"
            told = self._stopping.is_set() or self._hard or outside  # then it may return early
            if self._takes_status and self.ready_at is None and not told and not self._excused:
                self._outcome = "failed"
                error = RuntimeError(
                    f"actor {self.name!r} returned before it called task_status.started()"
                )
        if outside:
            self._group._cancel_from_outside()  # before the failure, which came of it
        if error is not None:
            self._group._member_failed(self, error)
        self._exit()

    async def _begin(self) -> None:
        self._task = trio.lowlevel.current_task()
        place.set(self)
        self._group._member_began(self)
        if self._takes_status:
            pending = _call(self._execute, task_status=MemberStatus(self))
        else:
            self._now_ready()
            pending = _call(self._execute)
        if not inspect.isawaitable(pending):
            raise TypeError(
                f"actor {self.name!r} must be an async function: {self._execute!r} returned {pending!r}"
            )
        await _unprotected(pending)

    def _now_ready(self) -> None:
        self.ready_at = trio.current_time()
        self._settled.set()
        self._group._member_ready()

    def _ask(self, cause: Cause) -> Awaitable[object] | None:
        """Interrupt it. What is still to be awaited of an async interrupt is returned."""
        self.interrupted_at = trio.current_time()
        self._soften()
        if self._interrupt is None:
            self._scope.cancel(cause.reason)
            return None
        outside = place.set(self)
        try:
            pending = _call(self._interrupt, cause)
        finally:
            place.reset(outside)
        if not inspect.isawaitable(pending):
            return None
        self._interrupt_scope = trio.CancelScope()
        return pending

    @trio.lowlevel.enable_ki_protection
    async def _finish_interrupt(self, pending: Awaitable[object]) -> None:
        """The task of an async interrupt. It never raises."""
        assert self._interrupt_scope is not None
        self._interrupt_task = trio.lowlevel.current_task()
        place.set(self)
        cancelled, error = False, None
        try:
            with self._interrupt_scope:
                await _unprotected(pending)
        except BaseException as exc:
            cancelled, error = split_cancelled(exc)
        self._interrupt_cut = cancelled or self._interrupt_scope.cancelled_caught
        self._interrupt_scope = None
        if error is not None:
            self._group._interrupt_failed(self, error)
        self._group._interrupt_finished(self)

    def _cut(self) -> None:
        """Cancel it hard, and its interrupt."""
        self._was_cut = True
        self._stopping.set()
        self._pierce()
        self._scope.cancel("it was cut")
        if self._interrupt_scope is not None:
            self._interrupt_scope.cancel("it was cut")

    def _stacks(self) -> Iterator[str]:
        """Where its tasks are: for one that does not end."""
        if self.stopped_at is None:
            assert self._task is not None
            yield from _task_stacks(self._task)
        if self._interrupt_scope is not None:
            assert self._interrupt_task is not None
            yield from _task_stacks(self._interrupt_task)


class MemberStatus:
    """What an execute that takes task_status is given: Trio's start protocol."""

    __slots__ = ("_member",)

    def __init__(self, member: Member) -> None:
        self._member = member

    def started(self, _value: object = None) -> None:
        name = self._member.name
        if self._member.ready_at is not None:
            raise RuntimeError(f"actor {name!r} called task_status.started() twice")
        if self._member.stopped_at is not None:
            raise RuntimeError(f"actor {name!r} called task_status.started() after it had stopped")
        self._member._now_ready()

    def excuse(self) -> None:
        """It will return without having been ready, and that is no error."""
        self._member._excused = True


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
        if frame.filename not in _OUR_FRAMES:  # the same in every stack
            yield from traceback.format_list([frame])
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _task_stacks(child)


def read_actor(
    actor: object, interrupt: object = None
) -> tuple[Callable[..., Awaitable[object]], Callable[[Cause], object] | None, str]:
    """Check what add() was given: an actor object, an async function, or a pair of functions.

    Returns its execute, its interrupt and a name for it. Raises TypeError for anything else.
    """
    execute = getattr(actor, "execute", None)
    if execute is not None and not isinstance(actor, type):
        name = getattr(actor, "name", None) or type(actor).__name__
        if interrupt is None:
            interrupt = getattr(actor, "interrupt", None)
    else:
        execute = actor
        inner = actor.func if isinstance(actor, functools.partial) else actor
        name = getattr(inner, "__name__", None) or type(actor).__name__
    _check_execute(actor, execute, name)
    if interrupt is not None:
        _check_interrupt(interrupt, name)
    return (
        cast("Callable[..., Awaitable[object]]", execute),
        cast("Callable[[Cause], object] | None", interrupt),
        str(name),
    )


def _check_execute(actor: object, execute: object, name: str) -> None:
    if inspect.iscoroutine(actor):
        actor.close()  # else Python warns that it was never awaited
        raise TypeError(f"add() takes the async function itself: add({name}), not add({name}(...))")
    if isinstance(actor, type):
        raise TypeError(f"add() takes an actor, not its class: add({actor.__name__}(...))")
    if not callable(execute):
        raise TypeError(
            f"an actor is an async function or an object with an async execute(), not {actor!r}"
        )
    if inspect.isasyncgenfunction(execute) or inspect.isgeneratorfunction(execute):
        raise TypeError(
            f"actor {name!r} must be an async function, not a generator (it has a yield)"
        )


def _check_interrupt(interrupt: object, name: str) -> None:
    if not callable(interrupt):
        raise TypeError(
            f"the interrupt of actor {name!r} must be a function that takes the cause, not {interrupt!r}"
        )
    signature = _signature(interrupt)
    try:
        if signature is not None:
            signature.bind(Cause())
    except TypeError:
        raise TypeError(
            f"the interrupt of actor {name!r} must take one argument, the cause of the stop: "
            f"{interrupt!r} takes {signature}"
        ) from None


def _takes_task_status(execute: object) -> bool:
    function = getattr(execute, "__func__", execute)
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        signature = _signature(execute)
        return signature is not None and "task_status" in signature.parameters
    # The same for a plain function, without the cost: a group may have very many.
    return "task_status" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _signature(function: object) -> inspect.Signature | None:
    """None where there is none to look at, as with some builtins."""
    try:
        return inspect.signature(cast("Any", function))
    except (TypeError, ValueError):
        return None
