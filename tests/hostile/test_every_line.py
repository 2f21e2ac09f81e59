"""A signal at every executed line of the core: Ctrl-C, and a handler that calls stop().

A handler of Python runs between two instructions of whatever runs. So each line that the core
executes in a small program is interrupted once, in a run of its own. By default every few lines,
from another first line each day; TEST_HOSTILE=all takes every one.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_run
from trio_run import Cause, Group, Restarting, State, busy, cancel_on_stop, wait_stopping

PACKAGE = Path(trio_run.__file__).parent
CORE = {
    str(PACKAGE / f"_{name}.py")
    for name in (
        [
            "actor",
            "bell",
            "delays",
            "errors",
            "failures",
            "group",
            "inside",
            "journal",
            "member",
            "order",
            "report",
            "requests",
            "restart",
            "roster",
            "stop",
            "supervisor",
            "timers",
        ]
    )
}
STEP = 1 if os.environ.get("TEST_HOSTILE") == "all" else 5
HANG = 20  # seconds: a bound for a run that hangs, not a measure


@contextmanager
def at_line(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Call act() before the line of the core with that number, counted within the block."""
    count = [0]

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        # In these two Ctrl-C may land: all that they do is to call what is the user's.
        if frame.f_code.co_filename not in CORE or frame.f_code.co_name in (
            "_call",
            "_unprotected",
        ):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == number:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def some_of(lines: int) -> range:
    first = datetime.date.today().toordinal() % STEP
    return range(1 + first, lines + 1, STEP)


class Program:
    """A group that does a bit of everything."""

    def __init__(self) -> None:
        self.group = Group(grace=5)
        self.began: list[str] = []
        self.interrupted: list[str] = []

    async def main(self) -> None:
        group = self.group
        with trio.fail_after(HANG):
            try:
                store = group.add(self.store, self.closes("store"))
                group.add(self.api, needs=[store])
                group.add(self.slow, self.closes_slowly, daemon=True)
            except RuntimeError:  # the stop has come
                assert group.state is State.NEW
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.use)
                await group.run()

    async def use(self) -> None:
        await wait_all_tasks_blocked()
        if self.group.state is State.RUNNING:
            try:
                visitor = self.group.add(self.visitor)
            except RuntimeError:  # the stop has come
                return
            await trio.lowlevel.checkpoint()
            visitor.stop()
            await visitor.wait_stopped()

    def closes(self, name: str) -> Callable[[Cause], None]:
        return lambda _cause: self.interrupted.append(name)

    async def closes_slowly(self, _cause: Cause) -> None:
        self.interrupted.append("slow")
        await trio.lowlevel.checkpoint()

    async def store(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.began.append("store")
        task_status.started()
        await wait_stopping()

    async def api(self) -> None:
        with busy():
            await trio.lowlevel.checkpoint()
        with cancel_on_stop():
            await trio.sleep_forever()

    async def slow(self) -> None:
        self.began.append("slow")
        await wait_stopping()

    async def visitor(self) -> None:
        with busy():
            await trio.lowlevel.checkpoint()
        await trio.sleep_forever()


class Stopping(Program):
    """At rest it is stopped, where nothing else has done that."""

    def __init__(self) -> None:
        super().__init__()
        self.is_requested = False
        self.lines = 0  # that had been executed by then
        self.count = [0]

    def alarm(self, *_: object) -> None:
        self.is_requested = True
        self.group.stop("the alarm")

    async def use(self) -> None:
        await super().use()
        await wait_all_tasks_blocked()
        self.lines = self.count[0]
        if not self.is_requested:
            self.group.stop()

    def run(self, number: int, act: Callable[[], None]) -> None:
        with at_line(number, act) as self.count:
            trio.run(self.main)

    def check(self, at: str) -> None:
        assert self.group.state in (State.NEW, State.STOPPED), at
        assert len(set(self.interrupted)) == len(self.interrupted), at
        # Ctrl-C may come when an actor has begun, and has not said so.
        assert set(self.began) <= set(self.interrupted), at


def test_rule_13_ctrl_c_at_every_line() -> None:
    program = Stopping()
    program.run(-1, lambda: None)
    lines = program.count[0]
    for number in some_of(lines):
        at = f"at line {number} of {lines}"
        program = Stopping()
        try:
            program.run(number, lambda: signal.raise_signal(signal.SIGINT))
        except KeyboardInterrupt:
            pass
        except BaseExceptionGroup as group:
            _, rest = group.split(KeyboardInterrupt)
            assert rest is None, at
        program.check(at)


def test_a_handler_of_a_signal_may_stop_it_at_every_line() -> None:
    program = Stopping()
    program.run(-1, lambda: None)
    lines = program.lines
    assert lines > 1000
    before = signal.getsignal(signal.SIGALRM)
    try:
        for number in some_of(lines):
            program = Stopping()
            signal.signal(signal.SIGALRM, program.alarm)
            program.run(number, lambda: signal.raise_signal(signal.SIGALRM))
            program.check(f"at line {number} of {lines}")
    finally:
        signal.signal(signal.SIGALRM, before)


class Restarted(Stopping):
    """An actor whose first life fails; in its second all is stopped."""

    def __init__(self) -> None:
        super().__init__()
        lives = iter(("first life", "second life"))
        self.group.add(Restarting(lambda: Life(self, next(lives)), first=0, name="lives"))

    async def main(self) -> None:
        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.use)
                await self.group.run()

    async def use(self) -> None:
        await wait_all_tasks_blocked()
        self.lines = self.count[0]
        self.group.stop()


class Life:
    def __init__(self, program: Restarted, name: str) -> None:
        self.program = program
        self.name = name
        self.is_interrupted = trio.Event()

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.program.began.append(self.name)
        task_status.started()
        if self.name == "first life":
            raise ValueError("boom")
        await self.is_interrupted.wait()

    def interrupt(self, _cause: Cause) -> None:
        self.program.interrupted.append(self.name)
        self.is_interrupted.set()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGALRM])
def test_rule_24_a_signal_at_every_line_of_a_restart(
    signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("trio_run"), "disabled", True)
    program = Restarted()
    program.run(-1, lambda: None)
    assert program.began == ["first life", "second life"]
    lines = program.count[0] if signum == signal.SIGINT else program.lines
    assert lines > 500
    before = signal.getsignal(signum)
    try:
        for number in some_of(lines):
            at = f"at line {number} of {lines}"
            program = Restarted()
            if signum == signal.SIGALRM:
                signal.signal(signum, program.alarm)
            try:
                program.run(number, lambda: signal.raise_signal(signum))
            except KeyboardInterrupt:
                pass
            except BaseExceptionGroup as group:
                # A failure after the stop has come is a failure.
                _, rest = group.split((KeyboardInterrupt, ValueError))
                assert rest is None, at
            program.check(at)
    finally:
        signal.signal(signum, before)
