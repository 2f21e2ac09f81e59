"""Rule 23: a start has its bounds, and the log says who holds it up."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from trio_run import Group, GroupFailed
from trio_run.testing import running


class Slow:
    status = "connecting to db.example"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(self.seconds)
        task_status.started()
        await trio.sleep_forever()


async def test_an_actor_that_is_not_ready_in_time_is_cut_and_has_failed(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(trio.sleep_forever)
    group.add(Slow(60), name="store", start_within=3)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    [error] = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert str(error) == ("actor 'store' was not ready within 3 s: connecting to db.example")
    report = caught.value.report
    assert (report.actors[1].outcome, report.actors[1].stopped) == ("failed", 3)
    assert report.cause.error is error


async def test_a_group_that_is_not_ready_in_time_names_each_that_is_not(
    autojump_clock: MockClock,
) -> None:
    async def silent(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    group = Group(start_within=3)
    group.add(Slow(1), name="quick")
    late = group.add(silent)
    group.add(trio.sleep_forever, name="user", needs=[late])
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    assert list(map(str, caught.value.exceptions)) == [
        "actor 'silent' was not ready within 3 s",
    ]
    outcomes = {actor.name: actor.outcome for actor in caught.value.report.actors}
    assert outcomes == {"quick": "returned", "silent": "failed", "user": "never started"}


async def test_who_is_ready_in_time_is_left_alone(autojump_clock: MockClock) -> None:
    group = Group(start_within=3)
    group.add(Slow(2), start_within=2.5)
    async with running(group):
        await trio.sleep(10)
        assert group.ready


async def test_a_stop_ends_the_watch(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(Slow(60), start_within=3)
    async with running(group, wait_ready=False):
        await trio.sleep(1)
    assert group.members[0].outcome == "returned"


async def test_one_added_later_has_its_time_from_its_own_begin(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(trio.sleep_forever)
    async with running(group):
        await trio.sleep(100)
        group.add(Slow(60), name="late", start_within=3, on_error="ignore")
        await trio.sleep(10)
    assert trio.current_time() == 110


async def test_an_ignored_one_that_is_late_stops_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group()
    group.add(trio.sleep_forever)
    group.add(Slow(60), name="cache", start_within=3, on_error="ignore")
    async with running(group):
        assert trio.current_time() == 3
    assert any("'cache' failed: TimeoutError" in message for message in caplog.messages)


async def test_every_five_seconds_the_log_says_who_holds_up_the_start(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group()
    group.add(Slow(11), name="store")
    async with running(group):
        await trio.sleep(20)
    assert [message for message in caplog.messages if "into the start" in message] == [
        f"group: {seconds} s into the start, waiting for store (connecting to db.example)"
        for seconds in (5, 10)
    ]


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="start_within must be a number of seconds"):
        Group(start_within=seconds)
    with pytest.raises(ValueError, match="start_within must be a number of seconds"):
        Group().add(trio.sleep_forever, start_within=seconds)
