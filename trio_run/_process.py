"""Process: an actor that is a child process. When it is ready, how it is stopped, and what its end
is called.

How a child is started and ended is decided in _child, whose word is taken for what it says in
_notices, and what it writes is logged in _output.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from ._actor import check_seconds
from ._child import Child, Sockets
from ._errors import CannotStart, ProcessFailed
from ._inside import Inside, place
from ._notices import Notices
from ._output import Output

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ._actor import Cause

    Command = Sequence[str | os.PathLike[str]]
    SomeSockets = Mapping[str, Sequence[socket.socket]] | Sequence[socket.socket]

logger = logging.getLogger("trio_run")

_AT_ONCE = 100  # notices; then others get their turn
_ABORT = 2.0  # seconds for one that hangs to write where, and to end
_LONGEST = 1000  # characters of a status


class Process:
    """An actor that is a child process.

    It is ready when the command runs, or with ``notify`` when it has said so. Interrupted, it is
    sent ``stop_signal``, alone: what it has started itself it stops itself, as it knows best. When
    it is cut, it and its process group are killed. However it ends, nothing of its group is left.
    On Linux it is killed, too, when the thread ends in which this one runs: so it does not outlive
    this process, even one that is killed. The kernel forgets that when the child changes its user
    or group, or becomes a program that does (setuid). Such a child asks for it once more, with
    ``prctl(PR_SET_PDEATHSIG, SIGKILL)``, or the cgroup of a service kills it.

    An exit code of 0 is a return, and so is the end by ``stop_signal`` once that was sent. Anything
    else is a failure.

    It has nothing on stdin, a process group of its own, and each signal at its default, so that
    Ctrl-C at a terminal reaches this process alone. Of this one's descriptors it has stdout, stderr
    and its sockets. NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS and the like are never
    handed on.

    With ``notify`` it is spoken to as systemd speaks to a service. READY=1 is that it is ready,
    STATUS= is its status here, and from STOPPING=1 on it is not ready. It has until its group's
    ``start_within`` for the start, and its grace for the stop, which EXTEND_TIMEOUT_USEC= does not
    change. Only what comes from its process group counts: a command that has itself run in another
    session (``setsid``) is passed over, with a warning. NOTIFY_SOCKET is a path, below ``/dev/shm``
    or where temporary files are. A command that has another root directory does not find it. What a
    parent that is killed leaves of it there, the next one of the same user removes.

    Args:
      command: the program and its arguments. The program is looked for on the PATH of ``env``.
      env: its environment, None for that of this process.
      cwd: its working directory, None for that of this process.
      sockets: what it is to serve on, as :func:`inherited_sockets` returns it: lists of bound
        sockets by their names; or a list without names. They are not closed here.
      notify: does it say when it is ready?
      output: "inherit": it writes where this process does. "log": what it writes is logged, line by
        line, on the logger ``trio_run.process``. A line of more than 16 KiB is logged in parts,
        which have numbers: "[part 1] ...", and in the end "[part 3, the last] ...".
      stop_signal: what it is interrupted with.
      name: what it is called in logs and the report, the program's name if None.
      grace: how many seconds it may take to stop, None for as long as its group's.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      NotImplementedError: on Windows.
      CannotStart: from :meth:`execute`, if it can't be started.
      ProcessFailed: from :meth:`execute`, if it failed.
    """

    def __init__(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        sockets: SomeSockets | None = None,
        notify: bool = False,
        output: Literal["inherit", "log"] = "inherit",
        stop_signal: signal.Signals = signal.SIGTERM,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        if os.name != "posix":  # pragma: no cover - tested on Linux
            raise NotImplementedError("Process needs process groups and signals, as Unix has them")
        if output not in ("inherit", "log"):
            raise ValueError(f'output must be "inherit" or "log", not {output!r}')
        self.command = check_command(command)
        self.name = name or Path(self.command[0]).name
        self.grace = None if grace is None else check_seconds("grace", grace)
        self.watchdog: float | None = None  # seconds without a sign of life; set by Workers
        self.on_change: Callable[[], object] = lambda: None  # of its fitness; set by Workers
        self._env = None if env is None else check_environment(env)
        self._cwd = None if cwd is None else check_directory(cwd)
        self._sockets = Sockets(sockets)
        self._notify = notify
        self._logs = output == "log"
        self._stop_signal = check_signal(stop_signal)
        self._task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        self._inside = Inside()  # what it is in its group
        self._child: Child | None = None
        self._has_begun = self._runs = self._is_interrupted = self._is_hung = False
        self._was_ready = self._is_ready = False
        self._due = math.inf  # the next sign of life
        self._said = ""

    @property
    def pid(self) -> int | None:
        """The number of its process, while there is one."""
        return None if self._child is None else self._child.pid

    @property
    def ready(self) -> bool:
        """Is it fit for work?"""
        return self._is_ready

    @property
    def status(self) -> str:
        """What it says of itself; else its pid, and in the end how it ended."""
        if self._child is not None:
            return self._said or f"pid {self._child.pid}"
        return self._said

    @trio.lowlevel.enable_ki_protection
    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run it until it ends. Started when it is ready."""
        if self._has_begun:
            raise RuntimeError(f"{self.name!r} has run before: a Process runs once")
        self._has_begun = True
        self._task_status = task_status
        here = place.get()
        if here is not None:
            self._inside = here.inside
        with contextlib.ExitStack() as opened:
            try:
                await self._run(opened)
            finally:
                self._child = None
                self._unfit()

    @trio.lowlevel.enable_ki_protection
    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter to it
        """Send it the stop signal, as soon as it runs."""
        self._is_interrupted = True
        self._due = math.inf  # how long it takes to stop is bounded by its grace
        if self._runs:
            self._send_stop()

    async def _run(self, opened: contextlib.ExitStack) -> None:
        outputs: list[Output] = []
        try:
            notices = (
                opened.enter_context(contextlib.closing(Notices(self.name)))
                if self._notify
                else None
            )
            for _ in range(2 * self._logs):
                output = Output(self.name)
                opened.callback(output.close)
                outputs.append(output)
            stdout, stderr = (output.writing for output in outputs) if outputs else (None, None)
            child = self._child = Child(
                self.command,
                env=self._env,
                cwd=self._cwd,
                sockets=self._sockets,
                notify=notices.address if notices else None,
                watchdog=self.watchdog,
                outputs=(stdout, stderr),
            )
        except OSError as exc:
            raise self._cannot_start(exc.strerror or str(exc)) from exc
        for output in outputs:
            output.started()
        why, code = await self._accompany(child, notices, outputs)
        if why is not None:
            raise self._cannot_start(why)
        opened.close()  # what it wrote last is part of a failure
        failure = self._judge(code, outputs[1].last if outputs else ())
        if failure is not None:
            raise failure

    async def _accompany(
        self, child: Child, notices: Notices | None, outputs: Sequence[Output]
    ) -> tuple[str | None, int]:
        """Stay with it to the end. Returns why it could not start, if so, and its exit code."""
        try:
            async with trio.open_nursery() as nursery:
                for output in outputs:
                    nursery.start_soon(output.log)
                why = await child.launched()
                if why is None:
                    self._begin()
                    if notices is not None:
                        nursery.start_soon(self._listen, child, notices)
                    await child.exited()
                nursery.cancel_scope.cancel("it has ended")
        finally:
            self._runs = False
            if notices is not None:
                self._hear(child, notices)
            code = await child.end()
            self._said = _how(code)
        return why, code

    def _begin(self) -> None:
        """It runs."""
        self._runs = True
        if not self._notify:
            self._fit()
        if self._is_interrupted:
            self._send_stop()

    def _send_stop(self) -> None:
        assert self._child is not None
        self._child.signal(self._stop_signal)
        self._child.signal(signal.SIGCONT)  # else one that is paused would not hear of it

    # What it says.

    async def _listen(self, child: Child, notices: Notices) -> None:
        while not self._is_hung:
            with trio.CancelScope(deadline=self._due):
                await notices.wait()
            # What has come meanwhile counts, however late it is looked at.
            self._hear(child, notices)
            self._look_for_life(child)
        await trio.sleep(_ABORT)
        child.kill()

    def _hear(self, child: Child, notices: Notices) -> None:
        for _ in range(_AT_ONCE):
            said = notices.take(child.pid)
            if said is None:
                break
            if "STATUS" in said:
                self._said = " ".join(said["STATUS"].split())[:_LONGEST]
            if said.get("READY") == "1":
                self._fit()
            if said.get("STOPPING") == "1":
                self._due = math.inf
                self._unfit()
            if said.get("WATCHDOG") == "1" and self._due != math.inf:
                self._expect_life()

    def _expect_life(self) -> None:
        if self.watchdog is not None and not self._is_interrupted:
            self._due = trio.current_time() + self.watchdog

    def _look_for_life(self, child: Child) -> None:
        """Where there was none for too long, have it end, and write where it hangs if it can."""
        late = trio.current_time() - self._due
        if late < 0:
            return
        assert self.watchdog is not None
        if late > self.watchdog / 2:  # this process was held up itself, and the child may have been
            self._expect_life()
            return
        self._is_hung = True
        logger.error(
            "%s (pid %d): no sign of life for %g s: it is killed",
            *(self.name, child.pid, self.watchdog),
        )
        child.signal(signal.SIGABRT)

    def _fit(self) -> None:
        self._is_ready = True
        self._expect_life()  # it starts, or goes on after it has begun to stop
        if not self._was_ready:
            self._was_ready = True
            self._task_status.started()
        self._changed()

    def _unfit(self) -> None:
        self._is_ready = False
        self._changed()

    def _changed(self) -> None:
        self.on_change()
        self._inside.look_again()

    # What its end is called.

    def _judge(self, code: int, stderr: Sequence[str]) -> ProcessFailed | None:
        what = f"{self.name!r} {'ended with' if code >= 0 else 'was ended by'} {_how(code)}"
        if self._is_hung:
            what = f"{self.name!r} gave no sign of life for {self.watchdog:g} s: it was killed"
        elif self._is_interrupted and (code in (0, -self._stop_signal)):
            return None
        elif not self._was_ready:
            what += " before it was ready"
        elif code == 0:
            return None
        return ProcessFailed(
            what,
            command=self.command,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            stderr=stderr,
        )

    def _cannot_start(self, why: str) -> CannotStart:
        return CannotStart(f"cannot start {self.name!r} ({self.command[0]}): {why}")


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # those for real-time use have no names
        return f"signal {-code}"


def check_command(command: Command) -> tuple[str, ...]:
    """The command, where it can be one.

    Raises:
      TypeError, ValueError: if it can't.
    """
    if isinstance(command, (str, bytes, os.PathLike)) or not isinstance(command, Iterable):
        raise TypeError(
            f"command must be a list, of the program and its arguments, not {command!r}"
        )
    parts = tuple(_text_of("command must be of strings and paths", part) for part in command)
    if not parts or not parts[0]:
        raise ValueError("command must name a program")
    if any("\0" in part for part in parts):
        raise ValueError(f"there can be no zero byte in a command: {parts!r}")
    return parts


def check_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment, where it can be one.

    Raises:
      TypeError, ValueError: if it can't.
    """
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping, of names to values, not {env!r}")
    checked = dict(env)
    for name, value in checked.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"env must be of strings: {name!r} is {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"there can be no variable {name!r} that is {value!r}")
    return checked


def check_directory(cwd: str | os.PathLike[str]) -> str:
    """The directory, where it can be one.

    Raises:
      TypeError, ValueError: if it can't.
    """
    path = _text_of("cwd must be a string or a path", cwd)
    if "\0" in path:
        raise ValueError(f"there can be no zero byte in cwd: {path!r}")
    return path


def check_signal(number: signal.Signals) -> signal.Signals:
    """The signal, where it is one.

    Raises:
      ValueError: if it is none.
    """
    try:
        return signal.Signals(number)
    except ValueError:
        raise ValueError(f"stop_signal must be one, as signal.SIGTERM, not {number!r}") from None


def _text_of(what: str, part: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(part)
    except TypeError:
        raise TypeError(f"{what}, not {part!r}") from None
