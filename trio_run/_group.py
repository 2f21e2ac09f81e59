"""Group: what may be asked of a group, and the checks of what it is given.

What it does is done by its supervisor: see _supervisor for the order of events of a stop.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ._actor import Cause, Policy, State, check_seconds, read_actor
from ._inside import place
from ._member import Life, Member, life_of
from ._supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._journal import Event
    from ._report import Report


class Group:
    """Actors that run together, and stop together: the first to exit stops all.

    Args:
      name: what it is called in logs and reports.
      grace: how many seconds a stop may take, from its beginning, the lame duck included; then
        everything that still runs is cancelled hard. 0 is at once, ``math.inf`` is never.
      lame_duck: for how many seconds, after a stop by a signal or :meth:`stop`, the group goes on
        serving with ``ready`` false, so that load balancers move away. Shorter than ``grace``.
      start_within: how many seconds its actors may take until all are ready. Whoever is not by then
        is cut, and has failed with a TimeoutError.

    Raises:
      ValueError: if a time is negative or not a number, or the lame duck leaves nothing of the
      grace.

    A group runs once. It is itself an actor, and so may be added to another group: then it stops
    with its own grace, and is cut when the outer one's is over. Add the group, not a function that
    runs it: to the group a soft cancel of that function is a cancellation from outside, and so a
    hard stop.

    The idea is oklog/run's.
    """

    def __init__(
        self,
        *,
        name: str = "group",
        grace: float = 30.0,
        lame_duck: float = 0.0,
        start_within: float = math.inf,
    ) -> None:
        self.name = name
        self.grace = check_seconds("grace", grace)
        self.lame_duck = check_seconds("lame_duck", lame_duck)
        if 0 < grace <= lame_duck:
            raise ValueError(
                f"lame_duck={lame_duck:g} leaves nothing of grace={grace:g}, which bounds the "
                "whole stop: make the grace longer"
            )
        self.start_within = check_seconds("start_within", start_within)
        self._supervisor = Supervisor(self, name, grace, lame_duck, start_within)

    def __repr__(self) -> str:
        return f"<Group {self.name!r} {self.state.value}, {len(self._supervisor.roster)} actors>"

    @property
    def state(self) -> State:
        """NEW, STARTING, RUNNING (every actor has been ready), LAME_DUCK, STOPPING or STOPPED."""
        return self._supervisor.state

    @property
    def ready(self) -> bool:
        """Should it be sent work? True from the moment every actor is ready until a stop begins.

        Not while an actor says of itself that it is not ``ready``. One whose failure was ignored,
        and what can never start for that, is not waited for.
        """
        return self._supervisor.is_ready

    @property
    def members(self) -> tuple[Member, ...]:
        """Every actor in it, in the order in which they were added.

        Not one that was stopped alone or returned without stopping the group, once that is over.
        """
        return tuple(life.member for life in self._supervisor.roster)

    @property
    def status(self) -> str:
        """One line for logs: how many of its actors run; in the end, what became of them."""
        roster = self._supervisor.roster
        if self.state is State.STOPPED:
            return ", ".join(f"{count:,} {what}" for what, count in roster.outcomes.items())
        return f"{roster.running} of {len(roster)} actors running"

    @property
    def report(self) -> Report:
        """What became of it, once it has stopped: what :meth:`run` has returned.

        Raises:
          RuntimeError: if it has not stopped yet.
        """
        if self.state is not State.STOPPED:
            raise RuntimeError(
                f"group {self.name!r} is {self.state.value}: it has a report when it has stopped"
            )
        return self._supervisor.report()

    @trio.lowlevel.enable_ki_protection
    def add(
        self,
        actor: object,
        interrupt: Callable[[Cause], object] | None = None,
        *,
        name: str | None = None,
        grace: float | None = None,
        needs: Iterable[Member] = (),
        daemon: bool | None = None,
        on_return: Policy = "stop",
        on_error: Policy = "stop",
        start_within: float | None = None,
    ) -> Member:
        """Add an actor: an object with an async ``execute()``, an async function, or a pair.

        Works before the group runs, and while it does: then the actor starts at once.

        Args:
          actor: see :class:`Actor`.
          interrupt: with an async function, the other half of the pair: ``interrupt(cause)``, plain
            or async. It goes before the actor's own.
          name: what it is called in logs and the report; the actor's own, or its function's or
            class's, if None.
          grace: how many seconds it may take to stop from its interrupt on. Its own ``grace`` if
            None, else as long as the group's.
          needs: members of this group that it uses. It starts when they are ready, and they are
            interrupted only after it has stopped.
          daemon: it does not keep the group alive, and is interrupted last of all. Its own
            ``daemon`` if None.
          on_return: "stop" the group when it returns, or "ignore" that.
          on_error: "stop" the group when it fails, or "ignore": log it, keep it in the report, go
            on.
          start_within: how many seconds it may take to be ready, once it has begun; then it is cut,
            and has failed with a TimeoutError. None for as long as it takes.

        Raises:
          TypeError, ValueError: if an argument can't be right. Nothing is added then.
          RuntimeError: if the group is stopping or has stopped; if the stop of what the actor needs
            was requested, or that stopped before it was ready.
        """
        spec = read_actor(
            actor,
            interrupt,
            name=name,
            grace=grace,
            daemon=daemon,
            on_return=on_return,
            on_error=on_error,
            start_within=start_within,
        )
        if actor is self:
            raise ValueError(f"group {self.name!r} can't be an actor of itself")
        if isinstance(actor, Group):
            spec = spec._replace(grace=grace)  # a group sees to its own
        lives = self._check_needs(needs, spec.name, actor, daemon=spec.daemon)
        self._supervisor.check_thread("Group.add()")
        if self._supervisor.requests.is_requested:
            raise RuntimeError(
                f"group {self.name!r} is {self.state.value}: {spec.name!r} was not added"
                if self.state is not State.NEW
                else f"group {self.name!r} was stopped before it ran: {spec.name!r} was not added"
            )
        life = Life(self._supervisor, spec, self._supervisor.roster.unique(spec.name), lives)
        self._supervisor.add(life)
        return life.member

    def on_event(self, function: Callable[[Event], object]) -> None:
        """Call ``function(event)`` whenever something happens in this group.

        It is called at once, in Trio's thread, and is to return at once. What it raises is logged,
        and stops nothing. Any number of functions may be given; they are called in their order.

        Args:
          function: a plain function of one :class:`Event`.

        Raises:
          TypeError: if it can't be called.
        """
        if not callable(function):
            raise TypeError(f"on_event() takes a function of one event, not {function!r}")
        self._supervisor.journal.subscribe(function)

    @trio.lowlevel.enable_ki_protection
    def stop(self, reason: str | None = None, *, grace: float | None = None) -> None:
        """Begin to stop, gracefully. Returns at once; may be called many times, and from anywhere.

        From another thread or a signal handler too; before :meth:`run`, which then starts nothing.
        Once a stop has begun another call ends the lame duck and may shorten the grace; it changes
        nothing else.

        Args:
          reason: why, for the report and the log.
          grace: how many seconds the rest of the stop may take. It can shorten the group's grace,
            not lengthen it.
        """
        if grace is not None:
            check_seconds("grace", grace)
        cause = Cause(reason=reason or "stop() was called")
        self._supervisor.requests.request(cause, lame_duck=True, grace=grace)

    @trio.lowlevel.enable_ki_protection
    def interrupt(self, cause: Cause) -> None:
        """Begin to stop because the group around this one does: as :meth:`stop`, for its cause."""
        requested = cause.actor is None and cause.error is None  # and not brought on by an exit
        self._supervisor.requests.request(cause, lame_duck=requested)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Report:
        """Run every actor until all have stopped.

        ``task_status.started()`` is called when every actor is ready, for
        ``nursery.start(group.run)``.

        Returns:
          The :class:`Report`, where no actor failed.

        Raises:
          GroupFailed: if an actor failed whose failure is not ignored: with every failure and the
          report.
          KeyboardInterrupt, SystemExit: if an actor raised it, after all others have stopped
            gracefully. trio.Cancelled: if cancelled from outside: everything has then been
            cancelled hard and has stopped.
          RuntimeError: if it has run before.
        """
        supervisor = self._supervisor
        if self.state is not State.NEW:
            raise RuntimeError(f"group {self.name!r} has run before: a group runs once")
        await supervisor.run(task_status)
        report = supervisor.report()
        supervisor.journal.over(report)
        supervisor.failures.throw(report)
        if supervisor.was_cancelled:
            await trio.lowlevel.checkpoint_if_cancelled()
        return report

    execute = run

    def _check_needs(
        self, needs: Iterable[Member], name: str, actor: object, *, daemon: bool
    ) -> tuple[Life, ...]:
        try:
            needed = tuple(dict.fromkeys(needs))
        except TypeError:
            raise TypeError(
                f"{name!r} needs {needs!r}: give a list of the members that add() returned"
            ) from None
        for need in needed:
            if need is actor or (
                isinstance(need, Member) and need.actor is actor and hasattr(actor, "execute")
            ):
                raise ValueError(f"{name!r} can't need itself")
            if not isinstance(need, Member):
                raise TypeError(
                    f"{name!r} needs {need!r}: give the member that add() returned for it"
                )
            life = life_of(need)
            if life.keeper is not self._supervisor:
                raise ValueError(
                    f"{name!r} needs {need.name!r}, which is a member of another group: "
                    "let the group need the other group instead"
                )
            if life.stop_requested or life.interrupted_at is not None:
                raise RuntimeError(f"{name!r} needs {need.name!r}, whose stop has been requested")
            if life.stopped_at is not None and life.ready_at is None:
                raise RuntimeError(
                    f"{name!r} needs {need.name!r}, which stopped before it was ready"
                )
            if daemon and not need.daemon:
                raise ValueError(
                    f"{name!r} is a daemon and needs {need.name!r}, which is none: "
                    "daemons outlive the rest"
                )
        return tuple(map(life_of, needed))


def current_group() -> Group | None:
    """The group around this code: that of the actor which runs it. None outside any actor."""
    here = place.get()
    return None if here is None else here.inside.group


def supervisor_of(group: Group) -> Supervisor:
    """What does the group's work: for those who need more than may be asked of a group."""
    return group._supervisor
