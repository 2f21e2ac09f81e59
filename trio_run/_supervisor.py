"""Supervisor: the one task that acts. It starts, interrupts and cuts the lives of a group.

The order of events of a stop
-----------------------------

1. A request: an actor exits, ``stop()`` is called, a signal or a parent's interrupt comes,
   ``run()`` is cancelled. It is recorded where it happens, in plain code without a checkpoint. From
   then on the group is no longer RUNNING, and ``add()`` refuses. Later requests only shorten what
   remains.
2. The lame duck, if there is one: everything goes on, and the group is not ready.
3. Whatever has begun and is needed by nobody who is still here is interrupted, daemons when all
   else has left. An actor has left when its execute has returned, it has been interrupted, and its
   interrupt has finished. Whoever leaves may free what it needed.
4. At an actor's own deadline it is cut. At the group's everything is cut, whether its turn has come
   or not. The interrupts that are left are still called, in order, each when its turn comes.
5. When all have left, ``run()`` returns or raises.

Why it is race-free
-------------------

Everything here runs in Trio's thread, and nothing but _wait has a checkpoint once the actors are
started. What happens is recorded, and the bell is rung; one task, that of ``run()``, acts on it. So
interrupts are called from one place only, never from within the code that brought the stop about.
The bell is cleared before the look: a ring during the look is heard in the next round.

An actor is interrupted only after it has begun, and its execute runs on to its first checkpoint
before anyone else has the floor: an interrupt finds what execute has set up by then. There are two
exceptions to the one task. One that begins after the deadline is cut in its own task. One whose
async interrupt failed is cut in the task of that interrupt.

A signal handler may call ``stop()`` between any two instructions of this. So a request is recorded
as one object (_stop says how), and the bell may be rung at any moment (_bell says how). Another
thread's ``stop()`` is handed over by Trio's ``run_sync_soon``.

What cannot be seen from here: a cancellation of ``run()`` from outside reaches the actors as it
does in plain Trio, all at once and in no order. The wait for the bell is cancelled with them, or
else the first actor to exit notices. Then the supervisor waits for the rest behind a shield, and
the Cancelled goes on its way at the end.
"""

from __future__ import annotations

import contextvars
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._actor import Cause, State
from ._delays import Delays
from ._failures import Failures
from ._inside import place
from ._journal import Journal
from ._member import LifeStatus, end_of
from ._order import Order
from ._report import Report
from ._requests import Requests
from ._roster import Roster
from ._stop import Stop
from ._timers import Timers

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ._bell import Bell
    from ._group import Group
    from ._inside import Place
    from ._member import Life


class Supervisor:
    """Runs the lives of one group, and stops them."""

    def __init__(
        self, group: Group, name: str, grace: float, lame_duck: float, start_within: float
    ) -> None:
        self.group = group
        self.roster = Roster()
        self.was_cancelled = False  # from outside
        self._name = name
        self._grace = grace
        self._start_within = start_within
        self.began_at = self._ended_at = 0.0  # on Trio's clock
        self._stop = Stop(grace, lame_duck)
        self.journal = Journal(name, self.clock, lambda error: self.failures.add_own(error))
        self.requests = Requests(self._stop, self.journal)
        self.failures = Failures(name, self.requests, self.journal)
        self._timers = Timers()
        self._delays = Delays(self._timers, self.journal, self.failures, self.roster)
        self._order: Order[Life] = Order()
        self._bell: Bell | None = None
        self._around: Place | None = None  # where it runs: in an actor of another group
        self._nursery: trio.Nursery | None = None
        self._unsettled = 0  # neither ready nor given up on
        self._is_ready = False  # has every actor been ready?
        self._was_fit = True  # at the last look
        self._was_lame_duck = False
        self._is_over = False
        self._interrupting = False  # have the interrupts begun?
        self._cutting = False  # is the deadline past?
        self._free: deque[Life] = deque()  # what they needed has settled
        self._to_stop: deque[Life] = deque()  # alone
        self._due: deque[Life] = deque()  # whose turn to be interrupted may have come

    @property
    def state(self) -> State:
        if self._is_over:
            return State.STOPPED
        if not self.requests.has_begun:
            return State.NEW
        if self._stop.cause is None:
            return State.RUNNING if self._is_ready else State.STARTING
        return State.LAME_DUCK if self._stop.is_lame_duck else State.STOPPING

    @property
    def is_ready(self) -> bool:
        """Is it fit for work?"""
        return self.state is State.RUNNING and self.roster.is_fit

    @property
    def exit_code(self) -> int:
        """What the process should exit with, as far as is known."""
        if self._stop.forced_by is not None:
            return 128 + self._stop.forced_by
        return int(bool(self.failures))

    def clock(self) -> float:
        """Seconds from its start; from its end on they stand still."""
        return (self._ended_at if self._is_over else trio.current_time()) - self.began_at

    # What may be asked of it.

    def add(self, life: Life) -> None:
        """Have it live: at once, if the group runs and what it needs is ready."""
        self.roster.add(life)
        self._unsettled += 1
        self._order.enter(life, life.needs, daemon=life.spec.daemon)
        unsettled = [need for need in life.needs if not need.is_settled]
        if unsettled:
            self._order.wait_for(life, unsettled)
            if self._nursery is not None:
                life.context = contextvars.copy_context()
        elif self._nursery is not None:
            self._launch(life)

    def stop_one(self, life: Life) -> None:
        """Stop this one alone. A signal handler may call it, too."""
        self.check_thread("Member.stop()")
        if not life.stop_requested and life.stopped_at is None:
            life.stop_requested = True  # before the run: then it is not started
            if self._bell is not None:
                self._to_stop.append(life)
                self._bell.ring()

    def check_thread(self, what: str) -> None:
        """While the group runs it is changed in its own thread only.

        Raises:
          RuntimeError: in another thread.
        """
        if not self.requests.is_here:
            raise RuntimeError(
                f"{what} was called outside the thread in which group {self._name!r} runs: "
                "use trio.from_thread.run_sync()"
            )

    def look_again(self) -> None:
        self._ring()

    def has_stop_come(self, life: Life) -> bool:
        """Has one come, of the group or of this one?"""
        if self._stop.cause is not None or life.stop_requested:
            return True
        if self._around is None or self.journal.life is None:
            return False
        return self._around.inside.has_stop_come()

    def stand_in_for(self, life: Life) -> None:
        """It runs one life of a Restarting, which is this: code in it is in the group of that."""
        self.group = life.group
        self.journal.life = life

    def is_leaving(self) -> bool:
        """Has a stop begun, of it or of a group around it?"""
        if self._stop.cause is not None:
            return True
        return self._around is not None and self._around.inside.is_leaving()

    def report(self) -> Report:
        """What became of it all, once it is over."""
        cause = self._stop.cause
        assert cause is not None
        return Report(
            cause=cause,
            duration=self._ended_at - self._stop.began,
            exit_code=self.exit_code,
            actors=self.roster.lines(self.began_at),
            name=self._name,
            began=self._stop.began - self.began_at,
        )

    # The one task.

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run until all have left."""
        self.began_at = trio.current_time()
        self._delays.start_of_all(self._start_within)
        self._around = place.get()
        if self._around is not None:
            self._around.inside.call_at_lame_duck(self._begin_lame_duck)
        self._bell = self.requests.begin()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._start_all()
            await self._supervise(task_status)
        if self._around is not None:
            self._around.inside.call_no_more(self._begin_lame_duck)
        self._nursery = None
        self._is_over = True
        self._ended_at = trio.current_time()
        self.requests.end()

    async def _start_all(self) -> None:
        first = [life for life in self.roster if not life.needs]  # the others wait for those
        daemons = [life for life in first if life.spec.daemon]
        for life in daemons:
            self._launch(life)
        if daemons:
            # They run to their first checkpoint before the rest begins: signals are received by
            # then.
            await trio.lowlevel.cancel_shielded_checkpoint()
        for life in first:
            if not life.spec.daemon:
                self._launch(life)
        if not self._order.workers:
            self.requests.request_and_log(Cause(reason="there was nothing to keep it running"))

    async def _supervise(self, task_status: trio.TaskStatus[None]) -> None:
        assert self._bell is not None
        has_started = False
        while True:
            self._bell.clear()
            self._look()
            if not has_started and self.state is State.RUNNING:
                has_started = True
                task_status.started()
            if self._interrupting and not self._order:
                break
            await self._wait()
        if not has_started:
            self._excuse(task_status)

    def _look(self) -> None:
        now = trio.current_time()
        self.requests.log()
        ends = min(self._stop.lame_duck_ends, self._stop.deadline)
        if self._stop.is_lame_duck and now >= ends:
            self._stop.end_lame_duck()
        if self._stop.is_lame_duck and not self._was_lame_duck:
            self._was_lame_duck = True
            self._begin_lame_duck(self._stop.lame_duck_ends)
        self._timers.fire(now)
        while self._to_stop:
            self._begin_stop_of(self._to_stop.popleft())
        while self._free:
            self._launch(self._free.popleft())
        self._judge_readiness()
        if self.state is State.STOPPING and not self._interrupting:
            self._begin_interrupts()
        self._interrupt_due()
        if self._interrupting and not self._cutting and now >= self._stop.deadline:
            self._cut_all()

    async def _wait(self) -> None:
        """Wait for the bell, or for the next time at which something is due."""
        due = self._timers.next
        if self._stop.is_lame_duck:
            due = min(due, self._stop.lame_duck_ends)
        if not self._cutting:
            due = min(due, self._stop.deadline)
        assert self._bell is not None
        try:
            with trio.CancelScope(deadline=due, shield=self.was_cancelled):
                await self._bell.wait()
        except trio.Cancelled:
            self._cancel_from_outside()
        except KeyboardInterrupt as exc:
            # Nobody receives SIGINT, and run() is in Trio's main task.
            self.failures.add_exit(exc, Cause(error=exc, reason="KeyboardInterrupt"))

    def _excuse(self, task_status: trio.TaskStatus[None]) -> None:
        """It ends and was never ready: where no actor failed, the caller's start() is no error."""
        if isinstance(task_status, LifeStatus):
            task_status.excuse()
        elif not self.failures:
            task_status.started()

    # Starting.

    def _launch(self, life: Life) -> None:
        """Start it, if it still may: what it needs has settled."""
        assert self._nursery is not None
        missing = [need for need in life.needs if need.ready_at is None]
        if missing and self._stop.cause is None:
            self.journal.never_starts(life, missing)
        if missing or self._is_refused(life):
            self._close(life)
        elif life.context is None:
            self._nursery.start_soon(self._live, life, name=life.name)
        else:
            life.context.run(partial(self._nursery.start_soon, self._live, life, name=life.name))

    def _is_refused(self, life: Life) -> bool:
        """Has a stop come, of the group, of this one, or of what it needs?"""
        return self.has_stop_come(life) or any(need.stop_requested for need in life.needs)

    @trio.lowlevel.enable_ki_protection
    async def _live(self, life: Life) -> None:
        """The task of one life. It raises nothing."""
        if life.needs and self._is_refused(life):
            self._close(life)
            return
        if self._interrupting or life.stop_requested:
            self._due.append(life)  # the stop has come before it began
            self._ring()
        if self._cutting:
            life.cut()
        life.begin()
        if life.spec.takes_status:
            self._delays.starting(life)
            self._ring()  # something new may be due
        end = life.conclude(await end_of(life.scope, life.execute))
        if end.outside:
            self._cancel_from_outside()  # before the failure, which came of it
        if end.error is not None:
            self.failures.add(life, end.error)
        self._close(life)

    def became_ready(self, life: Life) -> None:
        """It is ready, or never will be: those that wait for it go on."""
        if life.ready_at is not None:
            self.journal.actor_ready(life)
        self._unsettled -= 1
        self._free.extend(self._order.settle(life))
        if not self._unsettled and not self._is_ready:
            self._is_ready = self.requests.serves = True
            self._was_fit = self.roster.is_fit
            if self._stop.cause is None and self._was_fit:
                self.journal.ready()
        self._ring()

    def _judge_readiness(self) -> None:
        """Log it if the actors' fitness for work has changed, and say so to the group around."""
        if self.state is not State.RUNNING or self._was_fit == self.roster.is_fit:
            return
        self._was_fit = not self._was_fit
        self.journal.readiness_changed(ready=self._was_fit)
        if self._around is not None:
            self._around.inside.look_again()

    # Stopping.

    def _begin_lame_duck(self, ends: float) -> None:
        """It is one until then, or a group around it is."""
        for life in self.roster:
            life.begin_lame_duck(ends)

    def _begin_stop_of(self, life: Life) -> None:
        """Stop it alone; what waits for it can never start."""
        for waiting in self._order.waiting:
            if waiting is life or life in waiting.needs:
                self._order.give_up(waiting)
                self._close(waiting)
        if life.began and life.stopped_at is None and not self._interrupting:
            self.journal.stop_of_one(life)
            self._delays.stopping_alone(life)
        self._due.append(life)

    def _begin_interrupts(self) -> None:
        self._interrupting = True
        self._delays.stopping(self._stop.began)
        for life in self._order.waiting:
            self._order.give_up(life)
            self._close(life)
        for life in self.roster:
            if life.began and life.interrupted_at is None:
                # One that has returned is owed its interrupt, and is here until then.
                self._order.enter(life, life.needs, daemon=life.spec.daemon)
        self._due.extend(self.roster)

    def _interrupt_due(self) -> None:
        """Interrupt those whose turn it is. Each may free others: go on until there is none."""
        while self._due:
            life = self._due.popleft()
            if life.interrupted_at is not None or not life.began:
                continue
            if self._interrupting:
                is_turn = self._order.is_turn(life)
            else:
                wanted = life.stop_requested and life.stopped_at is None
                is_turn = wanted and not self._order.is_needed(life)
            if is_turn:
                self._interrupt(life)

    def _interrupt(self, life: Life) -> None:
        assert self._nursery is not None
        cause = self._stop.cause or Cause(reason=f"{life.name!r} alone was stopped")
        pending: Awaitable[object] | None = None
        try:
            pending = life.interrupt(cause)
        except BaseException as exc:
            self._interrupt_failed(life, exc)
        self.journal.interrupted(life, cause)
        if pending is not None:
            assert life.execute_task is not None
            start = partial(self._nursery.start_soon, self._finish_interrupt, life, pending)
            life.execute_task.context.run(partial(start, name=f"interrupt of {life.name}"))
        grace = life.spec.grace
        if grace is None and not self._interrupting:
            grace = self._grace
        if grace is not None:
            self._delays.interrupted(life, grace)
        if self._cutting and not life.is_finished and (pending is not None or not life.was_cut):
            self._delays.cut([life], "the grace is over")
        self._check_left(life)

    @trio.lowlevel.enable_ki_protection
    async def _finish_interrupt(self, life: Life, pending: Awaitable[object]) -> None:
        """The task of an async interrupt. It raises nothing."""
        end = await life.finish_interrupt(pending)
        if end.error is not None:
            self._interrupt_failed(life, end.error)
        self._check_left(life)

    def _cut_all(self) -> None:
        self._cutting = True
        late = [
            life for life in self.roster if life.began and not life.is_finished and not life.was_cut
        ]
        if late:
            self._delays.cut(late, self._stop.why_deadline)

    def _cancel_from_outside(self) -> None:
        if not self.was_cancelled:
            self.was_cancelled = True
            cause = Cause(reason="cancelled from outside")
            self.requests.force(cause, cause.reason)

    # What comes of an end.

    def _interrupt_failed(self, life: Life, error: BaseException) -> None:
        self.failures.add(life, error)
        if life.stopped_at is None:
            self._delays.cut([life], "its interrupt failed")

    def _close(self, life: Life) -> None:
        """Its execute is over, or never begins."""
        life.close()
        alone = life.stop_requested and life.began and not self._interrupting
        self.journal.stopped(life, alone=alone)
        if life.ready_at is None:
            self.became_ready(life)
        returned = life.outcome == "returned" and not life.stop_requested
        if returned and life.spec.on_return == "stop" and self.state is not State.STOPPING:
            self.requests.request_and_log(Cause(actor=life.name, reason=f"{life.name!r} returned"))
        self._check_left(life)

    def _check_left(self, life: Life) -> None:
        """It has exited, been interrupted, or finished its interrupt: has it left by that?"""
        owed = life.began and life.interrupted_at is None
        if life.is_finished and not (self._interrupting and owed):
            self._due.extend(self._order.leave(life))
            if not self._order.workers and self.state is not State.STOPPING:
                reason = f"{life.name!r} stopped, and nothing is left to keep it running"
                self.requests.request_and_log(Cause(actor=life.name, reason=reason))
            owed = owed and life.spec.interrupt is not None
            if self._stop.cause is None and not owed and life in self.roster:
                self.roster.forget(life, self.began_at)
                self._delays.forget(life)
        self._ring()

    def _ring(self) -> None:
        assert self._bell is not None
        self._bell.ring()
