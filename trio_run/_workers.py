"""Workers: how many processes serve on the same sockets, and when one of them is begun anew.

How one process is started, spoken to and ended is decided in _process. How long to wait before a
worker is begun anew, and how many failures are too many, is decided in _restart.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ._actor import Cause, check_seconds
from ._child import Sockets
from ._cores import cores
from ._errors import ProcessFailed, one_line
from ._group import supervisor_of
from ._inside import place
from ._listeners._bind import INTERNET, stop_listening
from ._listeners._tcp import turn_newcomers_away
from ._member import Life
from ._process import Process
from ._restart import Backoff
from ._systemd import is_inherited

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger("trio_run")

_FIRST, _MOST, _LIMIT, _WITHIN = 1.0, 60.0, 10, 300.0  # as rule 24 has them
_REPLACED = Cause(reason="it is replaced")
_FEWER = Cause(reason="there is to be one fewer")
_STOPPED = Cause(reason="a stop ends the replacing")
_UNWANTED = Cause(reason="the replacing was cancelled")
_OLD_ONES = (
    "The old workers go on. One of them that ends by itself is begun anew from what is there now"
)


class _Worker:
    """One process of a slot. It is the task status of that process, too."""

    def __init__(
        self,
        process: Process,
        ready_within: float,
        grace: float,
        on_ready: Callable[[_Worker], None],
    ) -> None:
        self.process = process
        self.process.on_change = self._changed
        self.began = trio.current_time()
        # It ends by the deadline: that of its start, and later that of its stop.
        self.scope = trio.CancelScope(deadline=self.began + ready_within)
        self.was_ready = self.has_ended = self.is_stopping = False
        self.was_late = False  # is it killed for not having been ready in time?
        self._pid: int | None = None  # once it was ready
        self.error: Exception | None = None
        self._grace = grace
        self._on_ready = on_ready

    def __str__(self) -> str:
        """Its name, and the pid that tells it from its successor."""
        return self.process.name + ("" if self._pid is None else f" (pid {self._pid})")

    @property
    def is_settled(self) -> bool:
        """Is it ready, or has it been, or will it never be?"""
        return self.was_ready or self.has_ended

    def started(self, _value: object = None) -> None:
        if not self.scope.cancel_called:  # else it was too late
            self.was_ready = True
            self._pid = self.process.pid
            if not self.is_stopping:
                self.scope.deadline = math.inf
            self._on_ready(self)

    def _changed(self) -> None:
        """It has said READY=1 or STOPPING=1: a stop of its own has to end, too."""
        if self.was_ready and not self.is_stopping:
            if self.process.ready:
                self.scope.deadline = math.inf
            elif self.scope.deadline == math.inf:
                self.scope.deadline = trio.current_time() + self._grace

    def returned(self) -> ProcessFailed:
        """What is wrong with it where it has ended well, but nobody has asked it to."""
        return ProcessFailed(
            f"{self.process.name!r} ended with exit code 0, and nobody had stopped it",
            command=self.process.command,
            exit_code=0,
            signal=None,
            stderr=(),
        )

    def stop(self, cause: Cause, grace: float) -> None:
        if not self.is_stopping:
            self.is_stopping = True
            self.was_late = self.scope.cancel_called
            self.scope.deadline = trio.current_time() + grace
            self.process.interrupt(cause)


class _Slot:
    """Where one worker is to serve, whichever that is just now."""

    def __init__(self, number: int, *, is_of_the_start: bool) -> None:
        self.number = number
        # What ends there before it was ready for the first time is a failure of all.
        self.is_of_the_start = is_of_the_start
        self.is_closed = False
        self.worker: _Worker
        self.begin_afresh()

    def begin_afresh(self) -> None:
        """What has failed there until now does not count any more."""
        self._backoff = Backoff(_FIRST, _MOST, _LIMIT, _WITHIN)
        self.too_many: list[Exception] = []  # failures, once it has used up its attempts

    def ended(self, worker: _Worker) -> float:
        """One has ended there by itself. Returns how long to wait before the next."""
        now = trio.current_time()
        lived = now - worker.began
        if lived > _WITHIN:
            self.begin_afresh()
        error = worker.error or worker.returned()
        self.too_many = self._backoff.failed(error, now) or self.too_many
        return self._backoff.wait_after(lived)


class _Round:
    """One replacing of all workers."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.was_whole = False
        self.waiting = 0  # calls; where all were cancelled it ends


class Workers:
    """An actor that is several processes of one command, on the same listening sockets.

    This process binds the sockets and holds them. So no connection is refused or reset while a
    worker is begun anew or replaced. Each worker gets them as systemd hands them over, and finds
    them with :func:`inherited_sockets`. With ``notify`` it says READY=1 when it serves, as
    :func:`run` does.

    It is ``ready`` while one of its workers is. A worker that ends by itself, with whatever code,
    is begun anew by the terms of a :class:`Restarting`, which are counted for each. An end with
    code 0 counts as a failure, too. One that fails too often is tried on, at the longest wait,
    while others serve or may come back. At the start that is otherwise: the first begins alone, and
    the others when it is ready. One that ends before it was ready, or is not ready within
    ``ready_within``, is a failure at once.

    Interrupted, it signals each worker with SIGTERM and waits until they have ended. The sockets
    are closed then. Those that this process has bound itself, unlike those of
    :func:`inherited_sockets`, take no new client from the interrupt on.

    Its status is "4 workers, 3 ready, 2 draining, 1 restart, 8 replaced".

    Args:
      command: the program and its arguments, for each worker.
      count: how many workers; None for as many as there are cores for this process, by its affinity
        and the quota of its cgroup.
      env, cwd: as for :class:`Process`.
      sockets: what the workers serve on: bound sockets by their names, as
        :func:`inherited_sockets` returns them, or a list of some without names.
      notify: does a worker say when it is ready? Else it is ready when it runs.
      ready_within: how many seconds a worker may take until it is ready.
      stuck_after: how many seconds a worker's event loop may take to come round; then it is killed,
        and begun anew. It hears of it as WATCHDOG_USEC. It goes with ``notify``. None is never.
      name: its name in logs and the report, "workers" if None.
      grace: how many seconds a worker may take to stop, None for as long as the group's. That
        bounds a stop of its own accord (STOPPING=1), too; then it is begun anew.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      CannotStart, ProcessFailed: from :meth:`execute`, for a worker that could not start, ended
        before it was ready, or was not ready in time at the start. It is killed then. An
        ExceptionGroup if all failed too often; RuntimeError outside a group.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        count: int | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        sockets: Mapping[str, Sequence[socket.socket]] | Sequence[socket.socket] | None = None,
        notify: bool = True,
        ready_within: float = 60.0,
        stuck_after: float | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        if count is not None and (type(count) is not int or count < 1):
            raise ValueError(f"count must be a positive whole number or None, not {count!r}")
        if not check_seconds("ready_within", ready_within):
            raise ValueError("ready_within must be more than 0 seconds")
        if stuck_after is not None:
            if not check_seconds("stuck_after", stuck_after):
                raise ValueError("stuck_after must be more than 0 seconds, or None")
            if not notify:
                raise ValueError("stuck_after goes with notify: a worker has to give signs of life")
        self.name = name or "workers"
        self.grace = None if grace is None else check_seconds("grace", grace)
        # Else somebody else turns newcomers away, at the end of a lame duck, and closes them.
        self.owns_sockets = True
        self._count = count
        self._process = partial(Process, command, env=env, cwd=cwd, sockets=sockets, notify=notify)
        self._process()  # if something can't be right, it is said here
        self._sockets = Sockets(sockets).each
        self._ready_within = ready_within
        self._stuck_after = stuck_after
        self._here: Life | None = None  # what this actor is in its group
        self._task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        self._nursery: trio.Nursery
        self._slots: list[_Slot] = []
        self._alive: set[_Worker] = set()
        self._failures: list[Exception] = []
        self._next: _Round | None = None  # the replacing that is wanted
        self.was_ever_ready = self._is_stopping = self._is_over = False
        self._restarts = self._replaced = 0

    @property
    def ready(self) -> bool:
        """Is one of the workers?"""
        return any(slot.worker.process.ready for slot in self._slots)

    @property
    def status(self) -> str:
        """How many workers there are, are ready, still drain, and were begun anew."""
        ready = sum(slot.worker.process.ready for slot in self._slots)
        parts = [_many(len(self._slots), "worker")]
        if self._is_stopping and self._alive:
            parts = [f"{_many(len(self._alive), 'worker')} left"]
        elif not self._is_stopping:
            parts.append(f"{ready:,} ready")
            if self._draining():
                parts.append(f"{self._draining():,} draining")
        if self._restarts:
            parts.append(_many(self._restarts, "restart"))
        if self._replaced:
            parts.append(f"{self._replaced:,} replaced")
        return ", ".join(parts)

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where the workers listen: the address of each socket."""
        return tuple(each.getsockname() for each in self._sockets)

    @trio.lowlevel.enable_ki_protection
    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the workers until interrupted. Started when one of them is ready."""
        here = place.get()
        if here is None or not isinstance(here.inside, Life):
            raise RuntimeError("Workers acts for the group it is in: add() it to one")
        if self._here is not None:
            raise RuntimeError(f"{self.name!r} has run before: a Workers runs once")
        self._here = here.inside
        self._task_status = task_status
        here.inside.call_at_lame_duck(lambda _ends: self._changed())  # it ends the replacing
        try:
            async with trio.open_nursery() as self._nursery:
                self._open(is_of_the_start=True)  # alone: what it can't do, none can
                await self._replace_when_wanted(self._here)
        finally:
            self._is_stopping = self._is_over = True
            if self.owns_sockets:
                self._close_sockets()
        if len(self._failures) > 1:
            raise ExceptionGroup(f"workers of {self.name!r} failed", self._failures)
        if self._failures:
            raise self._failures[0]

    @trio.lowlevel.enable_ki_protection
    def interrupt(self, cause: Cause) -> None:
        """Signal each worker to stop."""
        if self.owns_sockets and not self._is_over:
            for each in self._sockets:
                is_tcp = each.family in INTERNET and each.type == socket.SOCK_STREAM
                if is_tcp and sys.platform == "linux" and not is_inherited(each):
                    with contextlib.suppress(OSError):  # an imitation of a kernel
                        turn_newcomers_away(each)
        self._stop(cause, math.inf)  # whoever interrupts it cuts it, too

    def _close_sockets(self) -> None:
        for each in self._sockets:
            if not is_inherited(each):
                stop_listening(each)
            each.close()

    async def replace(self) -> bool:
        """Replace each worker, one after the other, with one that is begun anew from disk.

        The new one is started; when it is ready, the old one is signalled, and the next has its
        turn. The old ones finish what they have, within their grace. They may still be at that when
        this returns. A call while workers are being replaced waits for that, and has them replaced
        once more; of several such calls that is done once. It does not begin while more old ones
        than there are workers still drain, so that these do not pile up. A stop ends it.

        Cancelled, it ends with the worker whose turn it is: the new one is stopped if it is not
        ready yet. Those that are replaced by then stay so, and the old ones that are left go on
        serving. Where another call waits for the same, it goes on for that one.

        Returns:
          Whether all were replaced. False if a new one was not ready within ``ready_within``: that
          is logged, and the old ones that are left go on serving; or if a stop came, if only its
          lame duck.

        Raises:
          RuntimeError: if it has not begun to run.
        """
        if self._here is None:
            raise RuntimeError(f"{self.name!r} does not run: there are no workers to replace")
        if self._is_stopping:
            await trio.lowlevel.checkpoint()
            return False
        await trio.lowlevel.checkpoint_if_cancelled()  # then it does not begin at all
        if self._next is None:
            self._next = _Round()
            self._here.wake_waiters()
        wanted = self._next
        wanted.waiting += 1
        try:
            await wanted.over.wait()
        finally:
            wanted.waiting -= 1
            self._here.wake_waiters()
        return wanted.was_whole

    def more(self) -> None:
        """Begin one more worker. While it does not run, or stops, this does nothing."""
        if self._begins_any():
            self._open(is_of_the_start=False)
            logger.info("%s: one more worker: %d", self.name, len(self._slots))

    def fewer(self) -> None:
        """Stop one worker: the last that is not ready, if there is one, or else the last.

        The only one that there is stays.
        """
        if self._begins_any() and len(self._slots) > 1:
            unfit = [each for each in self._slots if not each.worker.process.ready]
            slot = (unfit or self._slots)[-1]
            self._slots.remove(slot)
            slot.is_closed = True
            slot.worker.stop(_FEWER, self._grace())
            logger.info("%s: one worker fewer: %d", self.name, len(self._slots))
            self._changed()

    # One worker.

    def _open(self, *, is_of_the_start: bool) -> None:
        number = self._slots[-1].number + 1 if self._slots else 1
        slot = _Slot(number, is_of_the_start=is_of_the_start)
        slot.worker = self._begin(slot)
        self._slots.append(slot)

    def _begin(self, slot: _Slot) -> _Worker:
        """Begin a worker, and have what becomes of it looked after."""
        process = self._process(name=f"{self.name} {slot.number}")
        process.watchdog = self._stuck_after
        on_ready = partial(self._became_ready, slot)
        worker = _Worker(process, self._ready_within, self._grace(), on_ready)
        self._alive.add(worker)
        self._nursery.start_soon(self._keep, slot, worker)
        return worker

    async def _keep(self, slot: _Slot, worker: _Worker) -> None:
        """Live one life, and begin the next where that is due."""
        await self._live(worker)
        if worker.is_stopping or not self._begins_any():
            self._ended_in_a_stop(worker)
        elif slot.worker is worker and slot.is_of_the_start:
            assert worker.error is not None
            self._fail(worker.error)
        elif slot.worker is worker:
            await self._begin_anew(slot, worker)

    async def _live(self, worker: _Worker) -> None:
        """One life, from its start to its end."""
        name = worker.process.name
        try:
            with worker.scope:
                await worker.process.execute(task_status=worker)
        except Exception as exc:
            worker.error = exc
        finally:
            worker.has_ended = True
            self._alive.discard(worker)
            self._changed()
        if worker.scope.cancelled_caught and worker.is_stopping:
            if worker.was_late:
                logger.warning("%s: killed: it was not ready in time", worker)
            else:
                logger.warning("%s: killed: its grace of %g s is over", worker, self._grace())
        elif worker.scope.cancelled_caught or not (
            worker.was_ready or worker.is_stopping or worker.error  # else its word came too late
        ):
            late = f"was not ready within {self._ready_within:g} s"
            if worker.was_ready:
                late = f"began to stop by itself, and had not ended {self._grace():g} s later"
            worker.error = ProcessFailed(
                f"{name!r} {late}: it was killed",
                command=worker.process.command,
                exit_code=None,
                signal=signal.SIGKILL,
                stderr=(),
            )

    def _became_ready(self, slot: _Slot, worker: _Worker) -> None:
        logger.info("%s: ready, pid %d", worker.process.name, worker.process.pid)
        slot.is_of_the_start = False
        assert self._here is not None
        if not self.was_ever_ready:
            self.was_ever_ready = True
            self._task_status.started()
            if self._begins_any():
                for _ in range((self._count or cores()) - 1):
                    self._open(is_of_the_start=True)
        self._changed()

    def _ended_in_a_stop(self, worker: _Worker) -> None:
        """Its own, or that of all."""
        if worker.error is not None:
            logger.error("%s: failed while stopping: %s", worker, one_line(worker.error))
            if not self._begins_any():
                self._failures.append(worker.error)

    async def _begin_anew(self, slot: _Slot, worker: _Worker) -> None:
        """It has ended by itself: wait, and begin the next."""
        assert self._here is not None
        name, was_given_up = worker.process.name, bool(slot.too_many)
        wait = slot.ended(worker)
        if slot.too_many:
            many = f"{name!r} failed {len(slot.too_many)} times in {_WITHIN:g} s"
            if not self.ready and all(each.too_many for each in self._slots):
                self._fail(ExceptionGroup(many, slot.too_many))
                return
            if not was_given_up:
                logger.error("%s: %s: tried on, after up to %g s each", self.name, many, _MOST)
        what = "it returned" if worker.error is None else one_line(worker.error)
        logger.error("%s: ended by itself, begun anew in %.1f s: %s", worker, wait, what)
        with trio.move_on_after(wait):
            await self._here.wait_until(
                lambda: self._is_stopping or slot.is_closed or slot.worker is not worker
            )
        if self._begins_any() and not slot.is_closed and slot.worker is worker:
            self._restarts += 1
            slot.worker = self._begin(slot)
            journal = supervisor_of(self._here.group).journal
            journal.restarted(self._here, self._restarts + 1, worker.error)

    # All of them.

    def _begins_any(self) -> bool:
        """Does it run, and has no stop come, not even one with a lame duck?"""
        here = self._here
        return here is not None and not self._is_stopping and not here.has_stop_come()

    def _grace(self) -> float:
        """How long a worker has that is stopped while the others go on."""
        assert self._here is not None
        return self._here.group.grace if self.grace is None else self.grace

    def _draining(self) -> int:
        """How many are left of those that were to end while the others go on."""
        return sum(worker.is_stopping for worker in self._alive)

    def _changed(self) -> None:
        assert self._here is not None
        self._here.wake_waiters()
        self._here.look_again()

    def _stop(self, cause: Cause, grace: float) -> None:
        self._is_stopping = True
        for worker in list(self._alive):
            worker.stop(cause, grace)
        self._changed()

    def _fail(self, error: Exception) -> None:
        """There is something that a new worker does not mend. The others have time to end."""
        self._failures.append(error)
        logger.error("%s: all workers are stopped: %s", self.name, one_line(error))
        self._stop(Cause(self.name, error, reason="a worker failed"), self._grace())

    # Replacing.

    async def _replace_when_wanted(self, here: Life) -> None:
        current: _Round | None = None
        try:
            while not self._is_stopping:
                await here.wait_until(lambda: self._is_stopping or self._next is not None)
                current, self._next = self._next, None
                if current is not None:
                    current.was_whole = await self._replace_all(here, current)
                    current.over.set()
        finally:
            for each in (current, self._next):
                if each is not None:
                    each.over.set()

    async def _replace_all(self, here: Life, current: _Round) -> bool:
        if self._draining() > len(self._slots):
            old = _many(self._draining(), "old worker")
            logger.info("%s: replacing waits for %s to drain", self.name, old)
        await here.wait_until(
            lambda: (
                self._draining() <= len(self._slots)
                or not current.waiting
                or not self._begins_any()
            )
        )
        for slot in list(self._slots):
            if not self._begins_any():
                return False
            if not current.waiting:
                return self._replace_no_more()
            if not slot.is_closed and not await self._replace_one(here, current, slot):
                return False
        logger.info("%s: replaced, all %d", self.name, len(self._slots))
        return True

    async def _replace_one(self, here: Life, current: _Round, slot: _Slot) -> bool:
        new = self._begin(slot)
        await here.wait_until(
            lambda: (
                new.is_settled or slot.is_closed or not current.waiting or not self._begins_any()
            )
        )
        if not self._begins_any():
            new.stop(_STOPPED, self._grace())
            return False
        if slot.is_closed:
            new.stop(_FEWER, self._grace())
            return True
        if not new.is_settled:
            new.stop(_UNWANTED, self._grace())
            return self._replace_no_more()
        if new.has_ended:
            what = "it returned" if new.error is None else one_line(new.error)
            logger.error("%s: not replaced: %s. %s", self.name, what, _OLD_ONES)
            return False
        old, slot.worker = slot.worker, new
        slot.begin_afresh()
        old.stop(_REPLACED, self._grace())
        self._replaced += 1
        self._changed()
        return True

    def _replace_no_more(self) -> bool:
        logger.info("%s: not replaced any further: that was cancelled", self.name)
        return False


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
