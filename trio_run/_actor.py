"""Actor, Cause, State: what counts as an actor, and the reading of what add() was given.

What becomes of an actor is decided in _member, and when, in _supervisor.
"""

from __future__ import annotations

import enum
import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable

Outcome = Literal["returned", "failed", "cut", "never started"]
Policy = Literal["stop", "ignore"]


class Actor(Protocol):
    """What a group runs: an *execute* and, where it wants a say in how it stops, an *interrupt*.

    ``async execute()`` does the work, and returns when it is over. It may take ``task_status``, as
    for :meth:`trio.Nursery.start`: then it is ready when it calls ``task_status.started()``, else
    at once.

    ``interrupt(cause)``, plain or async, makes it return soon. It is called exactly once in a stop,
    with the :class:`Cause`, after execute has begun, even when execute has already returned. An
    actor without one is cancelled instead, softly: see :func:`busy`.

    Optional attributes: ``name`` (str), ``daemon`` (bool), ``grace`` (seconds); ``status``: one
    line for logs, such as "12 connections, 3 busy", whose last value is the actor's detail in the
    :class:`Report`; and ``ready`` (bool): is it fit for work just now? A group is ready only while
    all of its actors are.

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

    ``actor`` is the name of the actor that exited first, or None; ``error`` the exception it
    raised, or None; ``signal`` the signal that requested the stop, or None; ``reason`` says it in
    words. str(cause) is the reason.
    """

    actor: str | None = None
    error: BaseException | None = None
    signal: signal.Signals | None = None
    reason: str = ""

    def __str__(self) -> str:
        return self.reason


class Spec(NamedTuple):
    """What add() was given, checked: how one actor is to be run."""

    actor: object
    execute: Callable[..., Awaitable[object]]
    interrupt: Callable[[Cause], object] | None
    takes_status: bool  # does its execute take task_status?
    name: str
    grace: float | None  # seconds; None for its group's
    daemon: bool
    on_return: Policy
    on_error: Policy
    start_within: float | None  # seconds
    has_ready: bool  # does its actor say whether it is fit for work?


def read_actor(
    actor: object,
    interrupt: object,
    *,
    name: str | None,
    grace: float | None,
    daemon: bool | None,
    on_return: Policy,
    on_error: Policy,
    start_within: float | None,
) -> Spec:
    """Check what add() was given: an actor object, an async function, or a pair of functions.

    Raises TypeError or ValueError for anything else, with a sentence that says how to mend it.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the name of an actor must be a string, not {name!r}")
    execute = getattr(actor, "execute", None)
    if execute is not None and not isinstance(actor, type):
        name = name or str(getattr(actor, "name", None) or type(actor).__name__)
        if interrupt is None:
            interrupt = getattr(actor, "interrupt", None)
    else:
        execute = actor
        inner = actor.func if isinstance(actor, functools.partial) else actor
        name = name or str(getattr(inner, "__name__", None) or type(actor).__name__)
    _check_execute(actor, execute, name)
    if interrupt is not None:
        _check_interrupt(interrupt, name)
    if grace is None:
        grace = getattr(actor, "grace", None)
    if grace is not None:
        check_seconds("grace", grace)
    if start_within is not None:
        check_seconds("start_within", start_within)
    for key, policy in (("on_return", on_return), ("on_error", on_error)):
        if policy not in ("stop", "ignore"):
            raise ValueError(f'{key} must be "stop" or "ignore", not {policy!r}')
    return Spec(
        actor=actor,
        execute=cast("Callable[..., Awaitable[object]]", execute),
        interrupt=cast("Callable[[Cause], object] | None", interrupt),
        takes_status=_takes_task_status(execute),
        name=name,
        grace=grace,
        daemon=bool(getattr(actor, "daemon", False) if daemon is None else daemon),
        on_return=on_return,
        on_error=on_error,
        start_within=start_within,
        has_ready=execute is not actor and hasattr(actor, "ready"),
    )


def check_seconds(name: str, seconds: float) -> float:
    """The seconds, where they are a number of them."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {seconds!r}")
    return seconds


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
            f"the interrupt of actor {name!r} must be a function that takes the cause, "
            f"not {interrupt!r}"
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
