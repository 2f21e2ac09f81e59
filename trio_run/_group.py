"""Group: who runs, who is asked to stop, in what order, until when.

The order of events of a stop
-----------------------------

1. A cause: an actor exits, ``stop()`` is called, a signal or a parent's interrupt comes, ``run()`` is cancelled.
   The first of them is recorded where it happens, in plain code without a checkpoint: from that moment on the
   state is no longer RUNNING and ``add()`` refuses. Later ones can only shorten what remains: they end a
   lame duck, bring the deadline nearer, or set it to now.
2. The lame duck, if there is one: everything goes on, ``ready`` is false.
3. Everything that has begun and that nothing unfinished needs is interrupted; daemons when all else is over.
   An actor is *over* when its execute has returned, it has been interrupted, and its interrupt has finished.
   Each one that is over may release what it needed.
4. At an actor's own deadline it is cut; at the group's, everything is, whether its turn had come or not.
   The interrupts that are left are still called, in order, each when its turn comes.
5. When everything is over, ``run()`` returns or raises.

Why it is race-free
-------------------

Everything here runs in Trio's thread, and nothing but :meth:`Group._wait` has a checkpoint once the actors are started. Actors, signals and
callers record what happened and ring the bell; one task, that of ``run()``, acts on it. So interrupts are called
from one place only, never from within the code that brought the stop about, and two things can't be
decided at the same time. The bell is replaced before the state is looked at: a ring during the look is heard in
the next round. An actor is interrupted only after it has begun, and its execute runs on from there to its first
checkpoint before anyone else gets the floor: an interrupt finds what execute has set up by then.

What cannot be seen from here: a cancellation of ``run()`` from outside reaches the actors as it does in plain
Trio, all at once and in no order. The bell's wait is cancelled with them, or else the first actor to exit notices;
the group then waits for the rest behind a shield, and the Cancelled goes on its way at the end.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import logging
import math
import signal as signals
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._actor import Cause, Member, MemberStatus, Policy, State, read_actor
from ._errors import GroupFailed, cannot_start, exits_in, failure_in, one_line
from ._inside import place
from ._report import ActorReport, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ._inside import Place

logger = logging.getLogger("trio_run")

_HOLDUP_INTERVAL = 5.0
_STUCK_AFTER = 5.0
_NAMES_IN_A_LINE = 10


class Group:
    """Actors that run together, and stop together: the first to exit stops all.

    Args:
      name: what it is called in logs and reports.
      grace: how many seconds a stop may take, from its beginning, the lame duck included; then everything that still
        runs is cancelled hard. 0 is at once, ``math.inf`` is never.
      lame_duck: for how many seconds, after a stop by a signal or :meth:`stop`, the group goes on serving with
        ``ready`` false, so that load balancers move away. Shorter than ``grace``.

    Raises:
      ValueError: if a time is negative or not a number, or the lame duck leaves nothing of the grace.

    A group runs once. It is itself an actor, and so may be added to another group: then it stops with its own grace,
    and is cut when the outer one's is over. Add the group, not a function that runs it: to the group a soft cancel of
    that function is a cancellation from outside, and so a hard stop.

    The idea is oklog/run's.
    """

    def __init__(self, *, name: str = "group", grace: float = 30.0, lame_duck: float = 0.0) -> None:
        self.name = name
        self.grace = _check_seconds("grace", grace)
        self.lame_duck = _check_seconds("lame_duck", lame_duck)
        if 0 < grace <= lame_duck:
            raise ValueError(
                f"lame_duck={lame_duck:g} leaves nothing of grace={grace:g}, which bounds the whole stop: "
                "make the grace longer"
            )
        self._state = State.NEW
        self._members: list[Member] = []
        self._names: dict[str, int] = {}  # and the last number each was given
        self._cause: Cause | None = None
        self._failures: list[tuple[Member, Exception]] = []
        self._exits: list[BaseException] = []  # KeyboardInterrupt, SystemExit and the like, bare
        self._signal: signals.Signals | None = None  # the first that asked for a stop
        self._forced: signals.Signals | None = None  # the one that cut the stop short
        # Set by trio_run.run(): told when the stop is to be over, in seconds from now.
        self._on_deadline: Callable[[float], None] | None = None
        # From here on it is of use only while the group runs.
        self._token: trio.lowlevel.TrioToken | None = None
        self._around: Place | None = None  # where it runs: in an actor of another group
        self._nursery: trio.Nursery | None = None
        self._bell = trio.Event()
        self._began_at = 0.0
        self._stopping_at = 0.0
        self._deadline = math.inf
        self._why_deadline = ""
        self._interrupting = False  # have the interrupts begun?
        self._froze = False  # the garbage collector
        self._cutting = False  # is the deadline past?
        self._cancelled_outside = False
        self._unready = 0  # not ready yet, and not given up on
        self._running = 0  # not daemons, not stopped
        self._workers = 0  # not daemons, not over
        self._left = 0  # not over
        self._due: deque[Member] = deque()  # whose turn to be interrupted may have come
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = itertools.count()

    def __repr__(self) -> str:
        return f"<Group {self.name!r} {self._state.value}, {len(self._members)} actors>"

    @property
    def state(self) -> State:
        """NEW, STARTING, RUNNING (every actor has been ready), LAME_DUCK, STOPPING or STOPPED."""
        return self._state

    @property
    def ready(self) -> bool:
        """Should it be sent work? True from the moment every actor is ready until a stop begins.

        One whose failure was ignored, and what can never start for that, is not waited for.
        """
        return self._state is State.RUNNING

    @property
    def members(self) -> tuple[Member, ...]:
        """Every actor ever added, in order."""
        return tuple(self._members)

    @property
    def status(self) -> str:
        """One line for logs: how many of its actors run; in the end, what became of them."""
        if self._state is State.STOPPED:
            outcomes = Counter(member.outcome for member in self._members)
            return ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
        running = sum(member.stopped_at is None for member in self._members)
        return f"{running} of {len(self._members)} actors running"

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
    ) -> Member:
        """Add an actor: an object with an async ``execute()``, an async function, or a pair of functions.

        Works before the group runs, and while it does: then the actor starts at once.

        Args:
          actor: see :class:`Actor`.
          interrupt: with an async function, the other half of the pair: ``interrupt(cause)``, plain or async. It
            goes before the actor's own.
          name: what it is called in logs and the report; the actor's own, or its function's or class's, if None.
          grace: how many seconds it may take to stop from its interrupt on. Its own ``grace`` if None, else as
            long as the group's.
          needs: members of this group that it uses. It starts when they are ready, and they are interrupted
            only after it has stopped.
          daemon: it does not keep the group alive, and is interrupted last of all. Its own ``daemon`` if None.
          on_return: "stop" the group when it returns, or "ignore" that.
          on_error: "stop" the group when it fails, or "ignore": log it, keep it in the report, go on.

        Raises:
          TypeError, ValueError: if an argument can't be right. Nothing is added then.
          RuntimeError: if the group is stopping or has stopped; if what the actor needs was told to stop, or
            stopped before it was ready.
        """
        execute, asked, default_name = read_actor(actor, interrupt)
        if actor is self:
            raise ValueError(f"group {self.name!r} can't be an actor of itself")
        if grace is None and not isinstance(actor, Group):  # a group sees to its own grace
            grace = getattr(actor, "grace", None)
        if grace is not None:
            _check_seconds("grace", grace)
        daemon = bool(getattr(actor, "daemon", False) if daemon is None else daemon)
        for key, policy in (("on_return", on_return), ("on_error", on_error)):
            if policy not in ("stop", "ignore"):
                raise ValueError(f'{key} must be "stop" or "ignore", not {policy!r}')
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of an actor must be a string, not {name!r}")
        wanted = name or default_name
        needed = self._check_needs(needs, wanted, actor, daemon)
        if self._cause is not None or self._state is State.STOPPED:
            raise RuntimeError(
                f"group {self.name!r} is {self._state.value}: {wanted!r} was not added"
                if self._state is not State.NEW
                else f"group {self.name!r} was stopped before it ran: {wanted!r} was not added"
            )
        member = Member(
            self,
            actor,
            execute,
            asked,
            name=self._unique(wanted),
            grace=grace,
            daemon=daemon,
            needs=needed,
            on_return=on_return,
            on_error=on_error,
        )
        self._members.append(member)
        self._unready += 1
        self._running += not member.daemon
        for need in needed:
            need._dependents.append(member)
            need._blockers += 1
        if self._nursery is not None:
            self._start(member)
        return member

    def stop(self, reason: str | None = None, *, grace: float | None = None) -> None:
        """Begin to stop, gracefully. Returns at once, and may be called any number of times, from anywhere.

        From another thread too; before :meth:`run`, which then starts nothing. Once a stop has begun another
        call ends the lame duck and may shorten the grace; it changes nothing else.

        Args:
          reason: why, for the report and the log.
          grace: how many seconds the rest of the stop may take. It can shorten the group's grace, not lengthen it.
        """
        if grace is not None:
            _check_seconds("grace", grace)
        if self._token is not None and not _is_here(self._token):
            with contextlib.suppress(trio.RunFinishedError):  # then it has stopped
                self._token.run_sync_soon(partial(self.stop, reason, grace=grace))
            return
        cause = Cause(reason=reason or "stop() was called")
        self._request_stop(cause, lame_duck=True, grace=grace)

    def interrupt(self, cause: Cause) -> None:
        """Begin to stop because the group that this one is an actor of does: as :meth:`stop`, for its cause."""
        asked = cause.actor is None and cause.error is None  # and not brought on by an actor's exit
        self._request_stop(cause, lame_duck=asked)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Report:
        """Run every actor until all have stopped.

        ``task_status.started()`` is called when every actor is ready, for ``nursery.start(group.run)``.

        Returns:
          The :class:`Report`, where no actor failed.

        Raises:
          GroupFailed: if an actor failed whose failure is not ignored: with every failure and the report.
          KeyboardInterrupt, SystemExit: if an actor raised it, after all others have stopped gracefully.
          trio.Cancelled: if cancelled from outside: everything has then been cancelled hard and has stopped.
          RuntimeError: if it has run before.
        """
        if self._state is not State.NEW:
            raise RuntimeError(f"group {self.name!r} has run before: a group runs once")
        report = await self._run(task_status)
        failures = self._failures_that_count()
        failed: GroupFailed | None = None
        if failures:
            count = "an actor failed" if len(failures) == 1 else f"{len(failures)} failures"
            failed = GroupFailed(f"group {self.name!r}: {count}", failures, report)
        if self._exits and failed is not None:
            raise self._exits[0] from failed
        if self._exits:
            raise self._exits[0]
        if failed is not None:
            raise failed
        if self._cancelled_outside:
            await trio.lowlevel.checkpoint_if_cancelled()
        return report

    execute = run

    # One task acts: that of run().

    @trio.lowlevel.enable_ki_protection
    async def _run(self, task_status: trio.TaskStatus[None]) -> Report:
        self._token = trio.lowlevel.current_trio_token()
        self._around = place.get()
        self._began_at = self._stopping_at = trio.current_time()
        self._state = State.STARTING
        asked, self._cause = self._cause, None
        if asked is not None:
            self._request_stop(asked)  # before it ran: it starts nothing
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._start_all()
            if self._running == 0:
                self._request_stop(Cause(reason="there was nothing to keep it running"))
            await self._supervise(task_status)
        self._nursery = None
        self._state = State.STOPPED
        if self._froze:
            gc.unfreeze()
        return self._report()

    async def _start_all(self) -> None:
        daemons = [member for member in self._members if member.daemon]
        others = [member for member in self._members if not member.daemon]
        for member in daemons:
            self._start(member)
        if daemons:
            # They run to their first checkpoint before the rest begins: signals are received by then.
            await trio.lowlevel.cancel_shielded_checkpoint()
        for member in others:
            self._start(member)

    async def _supervise(self, task_status: trio.TaskStatus[None]) -> None:
        told = False
        while True:
            self._bell = trio.Event()
            self._fire_timers()
            if self._state is State.STOPPING and not self._interrupting:
                self._begin_interrupts()
            self._interrupt_due()
            if self._interrupting and not self._cutting and trio.current_time() >= self._deadline:
                self._cut_all()
            over = self._interrupting and self._left == 0
            if self.ready and not told:
                told = True
                task_status.started()
            if over:
                if not told:
                    self._excuse(task_status)
                return
            await self._wait()

    def _excuse(self, task_status: trio.TaskStatus[None]) -> None:
        """It stops without having been ready: where no actor failed, that is no error of the caller's start()."""
        if isinstance(task_status, MemberStatus):
            task_status.excuse()
        elif not self._failures_that_count() and not self._exits:
            task_status.started()

    async def _wait(self) -> None:
        """Wait for the bell, or the next timer."""
        deadline = self._timers[0][0] if self._timers else math.inf
        try:
            with trio.CancelScope(deadline=deadline, shield=self._cancelled_outside):
                await self._bell.wait()
        except trio.Cancelled:
            self._cancel_from_outside()
        except KeyboardInterrupt as exc:
            # Nobody receives SIGINT, and run() is in Trio's main task.
            self._exit_with(exc, Cause(error=exc, reason="KeyboardInterrupt"))

    def _begin_interrupts(self) -> None:
        self._interrupting = True
        # Most of what there is goes away now, by reference counts: the collector is not to walk through all of it meanwhile.
        with contextlib.suppress(AttributeError):  # PyPy's is another
            if not gc.get_freeze_count():  # else somebody has a use for that
                gc.freeze()
                self._froze = True
        self._left = len(self._members)
        self._workers = sum(not member.daemon for member in self._members)
        for member in self._members:
            member._blockers = len(member._dependents)
        for member in self._members:
            if member._task is None and member._needs:
                member._scope.cancel("its group is stopping")  # it waits for these: never starts
            self._check_over(member)
        self._due.extend(self._members)

    def _interrupt_due(self) -> None:
        """Interrupt those whose turn it is. Each may release others: go on until there is none."""
        while self._due:
            member = self._due.popleft()
            if member.interrupted_at is not None or member._task is None or member._blockers:
                continue
            if self._interrupting:
                if member.daemon and self._workers:
                    continue
            elif not member._asked or member.stopped_at is not None:
                continue
            self._interrupt(member)

    def _interrupt(self, member: Member) -> None:
        assert self._nursery is not None
        cause = self._cause or Cause(reason=f"{member.name!r} alone was stopped")
        pending: Awaitable[object] | None = None
        try:
            pending = member._ask(cause)
        except BaseException as exc:
            self._interrupt_failed(member, exc)
        if pending is not None:
            name = f"interrupt of {member.name}"
            self._nursery.start_soon(member._finish_interrupt, pending, name=name)
        grace = member.grace
        if grace is None and not self._interrupting:
            grace = self.grace
        if grace is not None and not member._finished:
            self._at(trio.current_time() + grace, partial(self._cut_late, member, grace))
        if self._cutting and not member._finished and (pending is not None or not member._was_cut):
            self._cut([member], "the grace is over")
        self._check_over(member)

    def _check_over(self, member: Member) -> None:
        """It has exited, or been interrupted, or its interrupt has finished: was that the last of the three?"""
        begun = member._task is not None
        if not self._interrupting or member._over or not member._finished:
            return
        if begun and member.interrupted_at is None:
            return
        member._over = True
        self._left -= 1
        for need in member._needs:
            need._blockers -= 1
            self._due.append(need)
        if not member.daemon:
            self._workers -= 1
            if self._workers == 0:
                self._due.extend(other for other in self._members if other.daemon)

    def _cut_late(self, member: Member, grace: float) -> None:
        if not member._finished:
            self._cut([member], f"its grace of {grace:g} s is over")

    def _cut_all(self) -> None:
        self._cutting = True
        late = [
            member
            for member in self._members
            if member._task is not None and not member._finished and not member._was_cut
        ]
        self._cut(late, self._why_deadline)

    def _cut(self, members: list[Member], why: str) -> None:
        if members:
            asked = [member for member in members if member.interrupted_at is not None]
            unasked = [member for member in members if member.interrupted_at is None]
            names = _names(asked) + (f" (and, not yet asked, {_names(unasked)})" if unasked else "")
            logger.warning("%s: %s: cut %s", self.name, why, names.lstrip())
            self._at(trio.current_time() + _STUCK_AFTER, partial(self._log_stuck, members))
        for member in members:
            member._cut()

    # Anyone may bring about a change: recorded here, in plain code, and the bell rung.

    def _request_stop(
        self, cause: Cause, *, lame_duck: bool = False, grace: float | None = None
    ) -> None:
        if self._state is State.NEW:
            self._cause = self._cause or cause
            return
        if self._state is State.STOPPED:
            return
        now = trio.current_time()
        if self._cause is None:
            logger.log(_level(cause), "%s: stopping: %s", self.name, cause)
            self._cause = cause
            self._stopping_at = now
            if lame_duck and self.lame_duck and self._state is State.RUNNING:
                self._state = State.LAME_DUCK
                self._at(now + self.lame_duck, self._end_lame_duck)
            else:
                self._state = State.STOPPING
            self._set_deadline(now + self.grace, f"the grace of {self.grace:g} s is over")
            self._at(now + _HOLDUP_INTERVAL, self._log_holdups)
        elif self._state is State.LAME_DUCK:
            logger.info("%s: the lame duck ends early: %s", self.name, cause)
            self._end_lame_duck()
        if grace is not None:
            self._set_deadline(now + grace, f"the shortened grace of {grace:g} s is over")
        self._bell.set()

    def _is_lame_duck(self) -> bool:
        """Its own, or that of a group around it."""
        if self._state is State.LAME_DUCK:
            return True
        return self._around is not None and self._around.inside.lame_duck()

    def _end_lame_duck(self) -> None:
        if self._state is State.LAME_DUCK:
            self._state = State.STOPPING

    def _set_deadline(self, when: float, why: str) -> None:
        """The stop is to be over by then: it only ever comes nearer."""
        if when < self._deadline:
            self._deadline = when
            self._why_deadline = why
            self._at(when, self._end_lame_duck)
            self._tell_deadline()
            self._bell.set()

    def _tell_deadline(self) -> None:
        if self._on_deadline is not None:
            self._on_deadline(max(0.0, self._deadline - trio.current_time()))

    def _signalled(self, signum: signals.Signals) -> bool:
        """A signal asks for a stop. Returns whether it was a second one, and cut the stop short."""
        if self._signal is not None and self._state is State.STOPPING:
            self._forced = signum
            why = f"forced by a second signal, {signum.name}"
            self._set_deadline(trio.current_time(), why)
            return True
        self._signal = signum
        self._request_stop(Cause(signal=signum, reason=f"{signum.name} received"), lame_duck=True)
        self._tell_deadline()
        return False

    def _cancel_from_outside(self) -> None:
        if not self._cancelled_outside:
            self._cancelled_outside = True
            cause = Cause(reason="cancelled from outside")
            self._request_stop(cause)
            self._set_deadline(trio.current_time(), cause.reason)

    def _start(self, member: Member) -> None:
        assert self._nursery is not None
        if self._cause is not None or member._asked:
            member._exit()
        else:
            self._nursery.start_soon(member._live, name=member.name)

    def _may_start(self, member: Member) -> bool:
        """All that it needs is settled: is it ready too, and is nobody stopping it?"""
        missing = [need for need in member._needs if need.ready_at is None]
        if missing and self._cause is None:
            logger.warning(
                "%s: %r never starts: what it needs stopped before it was ready: %s",
                self.name,
                member.name,
                _names(missing),
            )
        told = member._asked or any(need._asked for need in member._needs)
        return not missing and self._cause is None and not told

    def _member_began(self, member: Member) -> None:
        if self._cause is not None or member._asked:
            self._due.append(member)
            self._bell.set()
        if self._cutting:
            member._cut()  # it begins after the deadline

    def _member_ready(self) -> None:
        self._unready -= 1
        if self._unready == 0 and self._state is State.STARTING:
            self._state = State.RUNNING
            logger.info("%s: ready", self.name)
            self._bell.set()

    def _member_asked(self, member: Member) -> None:
        if self._nursery is None:
            return  # it has not run yet, and will not start this one
        for waiting in (member, *member._dependents):
            if waiting._task is None and waiting._needs:
                waiting._scope.cancel("it can't start any more")
        self._due.append(member)
        self._bell.set()

    def _member_failed(self, member: Member, error: BaseException) -> None:
        if error is member.error:
            return  # its execute and its interrupt raised the same
        error.add_note(f"in actor {member.name!r} of group {self.name!r}")
        member.error = member.error or error
        what = f"{member.name!r} failed: {one_line(error)}"
        cause = Cause(actor=member.name, error=error, reason=what)
        for leaf in exits_in(error):
            self._exit_with(leaf, cause)
        failure = failure_in(error)
        if isinstance(error.__cause__, GroupFailed) and failure is None:
            failure = error.__cause__  # what failed in an inner group beside its exit
        if failure is None:
            return
        self._failures.append((member, failure))
        if member.on_error == "ignore":
            logger.error("%s: %s (ignored)", self.name, what, exc_info=failure)
            return
        if self._cause is not None:
            logger.error("%s: while stopping: %s", self.name, what)
        self._request_stop(cause)

    def _exit_with(self, error: BaseException, cause: Cause) -> None:
        """KeyboardInterrupt or the like: the first is a graceful stop, a second KeyboardInterrupt a hard one."""
        self._request_stop(cause)
        if self._exits and isinstance(error, KeyboardInterrupt):
            self._set_deadline(trio.current_time(), "forced by a second KeyboardInterrupt")
        self._exits.append(error)

    def _interrupt_failed(self, member: Member, error: BaseException) -> None:
        self._member_failed(member, error)
        if member.stopped_at is None:
            self._cut([member], "its interrupt failed")

    def _member_exited(self, member: Member) -> None:
        if member.ready_at is None:
            self._member_ready()  # it never will be: nobody waits for it any more
        self._running -= not member.daemon
        if self._state is not State.STOPPING:
            returned = member._outcome == "returned" and not member._asked
            if returned and member.on_return == "stop":
                self._request_stop(Cause(actor=member.name, reason=f"{member.name!r} returned"))
            elif self._running == 0:
                reason = f"{member.name!r} stopped, and nothing is left to keep it running"
                self._request_stop(Cause(actor=member.name, reason=reason))
        self._release_needs(member)

    def _interrupt_finished(self, member: Member) -> None:
        self._release_needs(member)

    def _release_needs(self, member: Member) -> None:
        if self._interrupting:
            self._check_over(member)
        elif member._finished:
            for need in member._needs:
                need._blockers -= 1
                self._due.append(need)
        self._bell.set()

    # Timers, and what is said at them.

    def _at(self, when: float, act: Callable[[], None]) -> None:
        if when != math.inf:
            heapq.heappush(self._timers, (when, next(self._timer_number), act))

    def _fire_timers(self) -> None:
        now = trio.current_time()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _log_holdups(self) -> None:
        now = trio.current_time()
        late = [
            member
            for member in self._members
            if member.interrupted_at is not None and not member._finished
        ]
        if late:
            seconds = now - self._stopping_at
            logger.warning(
                "%s: %.0f s into the stop, waiting for %s", self.name, seconds, _names(late)
            )
        self._at(now + _HOLDUP_INTERVAL, self._log_holdups)

    def _log_stuck(self, members: list[Member]) -> None:
        for member in members:
            if not member._finished:
                logger.error(
                    "%s: %r has not returned %g s after a hard cancel. It is here:\n%s",
                    self.name,
                    member.name,
                    _STUCK_AFTER,
                    "".join(member._stacks()).rstrip(),
                )

    def _failures_that_count(self) -> list[Exception]:
        return [error for member, error in self._failures if member.on_error == "stop"]

    def _report(self) -> Report:
        assert self._cause is not None
        if self._forced is not None:
            exit_code = 128 + self._forced
        else:
            exit_code = int(bool(self._failures_that_count() or self._exits))
        return Report(
            cause=self._cause,
            duration=trio.current_time() - self._stopping_at,
            exit_code=exit_code,
            actors=tuple(_actor_report(member, self._began_at) for member in self._members),
            name=self.name,
            began=self._stopping_at - self._began_at,
        )

    # What add() looks at.

    def _check_needs(
        self, needs: Iterable[Member], name: str, actor: object, daemon: bool
    ) -> tuple[Member, ...]:
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
            if need._group is not self:
                raise ValueError(
                    f"{name!r} needs {need.name!r}, which is a member of another group: "
                    "let the group need the other group instead"
                )
            if need._asked or need.interrupted_at is not None:
                raise RuntimeError(f"{name!r} needs {need.name!r}, which was told to stop")
            if need.stopped_at is not None and need.ready_at is None:
                raise RuntimeError(
                    f"{name!r} needs {need.name!r}, which stopped before it was ready"
                )
            if daemon and not need.daemon:
                raise ValueError(
                    f"{name!r} is a daemon and needs {need.name!r}, which is none: daemons outlive the rest"
                )
        return needed

    def _unique(self, name: str) -> str:
        unique = name
        while unique in self._names:
            self._names[name] += 1
            unique = f"{name}-{self._names[name]}"
        self._names[unique] = 1
        return unique


def _actor_report(member: Member, began_at: float) -> ActorReport:
    def since(when: float | None) -> float | None:
        return None if when is None or member._task is None else when - began_at

    return ActorReport(
        name=member.name,
        outcome=member.outcome,
        ready=since(member.ready_at),
        interrupted=since(member.interrupted_at),
        stopped=since(member.stopped_at),
        error=member.error,
        detail=member.status,
    )


def _check_seconds(name: str, seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {seconds!r}")
    return seconds


def _level(cause: Cause) -> int:
    if cannot_start(cause.error):
        return logging.DEBUG  # who runs the group says it, once
    return logging.INFO if cause.error is None else logging.ERROR


def _is_here(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # not in a Trio program at all
        return False


def _names(members: Sequence[Member]) -> str:
    """Their names, with the status of each: "api (12 connections, 3 busy), store"."""
    said = [
        f"{member.name} ({status})" if (status := member.status) else member.name
        for member in members[:_NAMES_IN_A_LINE]
    ]
    if len(members) > _NAMES_IN_A_LINE:
        said.append(f"and {len(members) - _NAMES_IN_A_LINE:,} more")
    return ", ".join(said)
