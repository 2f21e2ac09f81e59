"""Rule 25: a group that runs for months forgets what has left it for good."""

from __future__ import annotations

import gc
import logging
import weakref
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, busy
from trio_run.testing import running


class Idle:
    async def execute(self) -> None:
        await trio.sleep_forever()


async def test_one_that_was_stopped_alone_leaves_its_line(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(trio.sleep_forever, name="server")
    actor = Idle()
    known = weakref.ref(actor)
    async with running(group):
        await trio.sleep(1)
        member = group.add(actor, name="visitor")
        del actor
        await trio.sleep(1)
        member.stop()
        await member.wait_stopped()
        del member
        await wait_all_tasks_blocked()
        assert [member.name for member in group.members] == ["server"]
        gc.collect()
        assert known() is None
    assert group.status == "2 returned"


async def test_the_report_has_the_lines_in_their_order(autojump_clock: MockClock) -> None:
    group = Group()
    reports = []
    first = group.add(trio.sleep_forever, name="first")
    group.add(trio.lowlevel.checkpoint, name="second", on_return="ignore")
    group.add(trio.sleep_forever, name="third")

    async def run() -> None:
        reports.append(await group.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(1)
        first.stop()
        await trio.sleep(1)
        group.stop()
    [report] = reports
    assert [actor.name for actor in report.actors] == ["first", "second", "third"]
    assert [actor.stopped for actor in report.actors] == [1, 0, 2]


async def test_one_that_is_owed_its_interrupt_is_kept(autojump_clock: MockClock) -> None:
    interrupted: list[Cause] = []
    group = Group()
    group.add(trio.lowlevel.checkpoint, interrupted.append, name="job", on_return="ignore")
    group.add(trio.sleep_forever)
    async with running(group):
        await wait_all_tasks_blocked()
        assert group.members[0].name == "job"
        group.stop("now")
    assert [cause.reason for cause in interrupted] == ["now"]


async def test_the_last_thousand_lines_are_kept_and_their_names(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(trio.sleep_forever, name="server")
    reports = []

    async def run(task_status: trio.TaskStatus[None]) -> None:
        reports.append(await group.run(task_status=task_status))

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        for _ in range(1500):
            group.add(trio.lowlevel.checkpoint, name="job", on_return="ignore")
            await wait_all_tasks_blocked()
        assert len(group.members) == 1
        group.stop()
    [report] = reports
    names = [actor.name for actor in report.actors]
    assert len(names) == 1001
    assert len(set(names)) == 1001
    assert names[0] == "server"


async def test_an_ignored_failure_is_kept_without_its_traceback(autojump_clock: MockClock) -> None:
    async def fails() -> None:
        try:
            raise KeyError("the context")
        except KeyError as exc:
            raise ExceptionGroup("two", [ValueError("one"), TypeError("two")]) from exc

    group = Group()
    group.add(fails, on_error="ignore")
    group.add(trio.sleep_forever)
    reports = []

    async def run(task_status: trio.TaskStatus[None]) -> None:
        reports.append(await group.run(task_status=task_status))

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await wait_all_tasks_blocked()
        group.stop()
    error = reports[0].actors[0].error
    assert isinstance(error, ExceptionGroup)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
    assert error.exceptions[0].__traceback__ is None


async def test_the_stop_of_one_is_logged_as_a_group_s_is(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Slow(Idle):
        status = "3 jobs"

        async def execute(self) -> None:
            self.over = trio.Event()
            await self.over.wait()
            await trio.sleep(7)

        def interrupt(self, _cause: Cause) -> None:
            self.over.set()

    group = Group(name="shop")
    member = group.add(Slow(), name="till")
    group.add(trio.sleep_forever)
    async with running(group):
        member.stop()
        await member.wait_stopped()
        await trio.sleep(20)
        lines = caplog.messages.copy()
    assert lines == [
        "shop: ready",
        "shop: stopping 'till' alone",
        "shop: 5 s into the stop, waiting for till (3 jobs)",
        "shop: 'till' stopped alone: returned",
    ]


async def test_one_that_has_stopped_alone_holds_up_no_stop(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(seconds: float) -> None:
        with busy():
            await trio.sleep(seconds)

    group = Group(name="shop")
    member = group.add(partial(slow, 4), name="one")
    group.add(partial(slow, 9), name="other")
    async with running(group):
        member.stop()
        await trio.sleep(1)
    assert [message for message in caplog.messages if "waiting for" in message] == [
        "shop: 5 s into the stop, waiting for other"
    ]


async def test_twenty_thousand_small_groups_leave_the_collector_alone() -> None:
    frozen = gc.get_freeze_count()
    for _ in range(50):
        group = Group()
        group.add(trio.lowlevel.checkpoint)
        await group.run()
    assert gc.get_freeze_count() == frozen
