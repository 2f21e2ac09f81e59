"""What the tests of a group share."""

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import (
    ActorReport,
    Cause,
    Event,
    Group,
    GroupFailed,
    Report,
)
from trio_run.testing import running, wait_stopped


class Worker:
    """Works until it is interrupted, then takes some seconds to close. It keeps what happens."""

    def __init__(
        self, name: str = "worker", *, closing: float = 0.0, events: list[str] | None = None
    ) -> None:
        self.name = name
        self.closing = closing
        self.events = [] if events is None else events
        self.causes: list[Cause] = []
        self.asked_at: list[float] = []
        self._asked = trio.Event()

    async def execute(self) -> None:
        self.events.append(f"{self.name} begins")
        await self._asked.wait()
        await trio.sleep(self.closing)
        self.events.append(f"{self.name} ends")

    def interrupt(self, cause: Cause) -> None:
        self.events.append(f"{self.name} is interrupted")
        self.causes.append(cause)
        self.asked_at.append(trio.current_time())
        self._asked.set()


class Result:
    """What became of a group in the background."""

    report: Report
    failed: GroupFailed | None = None
    ended_at: float | None = None


@asynccontextmanager
async def in_background(group: Group) -> AsyncIterator[Result]:
    """Run the group while the block runs, from its first rest on; then wait for its own end."""
    result = Result()

    def look(event: Event) -> None:
        if event.kind == "over":
            result.ended_at = trio.current_time()

    group.on_event(look)
    try:
        async with running(group, wait_ready=False):
            await wait_all_tasks_blocked()
            yield result
            await wait_stopped(group)
    except GroupFailed as failed:
        result.failed = failed
    result.report = group.report


async def failure_of(group: Group) -> GroupFailed:
    """Run the group, which has to fail."""
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    return caught.value


def part(report: Report, name: str) -> ActorReport:
    """One actor's part of the report."""
    [found] = [actor for actor in report.actors if actor.name == name]
    return found


def outcomes(report: Report) -> dict[str, str]:
    return {actor.name: actor.outcome for actor in report.actors}


def after(
    seconds: float, act: Callable[[], object] = lambda: None
) -> Callable[[], Awaitable[None]]:
    """An actor that does something after some seconds, and returns."""

    async def driver() -> None:
        await trio.sleep(seconds)
        act()

    return driver


def fails(error: BaseException, *, after: float = 0.0) -> Callable[[], Awaitable[None]]:
    """An actor that raises this."""

    async def failing() -> None:
        await trio.sleep(after)
        raise error

    return failing


def ready_after(seconds: float) -> Callable[..., Awaitable[None]]:
    """An actor that becomes ready after some seconds, and runs until it is cancelled."""

    async def slow_starter(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(seconds)
        task_status.started()
        await trio.sleep_forever()

    return slow_starter


async def fails_to_start(*, task_status: trio.TaskStatus[None]) -> None:
    await trio.sleep(1)
    raise OSError("no room")


async def ends_in(seconds: float) -> None:
    """Whatever is asked or cancelled, this takes so long."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


def deaf(seconds: float) -> Callable[[], Awaitable[None]]:
    """An actor that can't be cancelled for some seconds."""

    async def deaf_actor() -> None:
        await ends_in(seconds)

    return deaf_actor


def ignored(cause: Cause) -> None:
    """An interrupt that does nothing."""


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "trio_run" and record.levelno >= level
    ]


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Python's own handler of SIGINT, whatever the tests were started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@trio.lowlevel.enable_ki_protection
def press_ctrl_c() -> None:
    """From an actor, so that Trio delivers it to its main task, which is in run()."""
    signal.raise_signal(signal.SIGINT)
