"""The worker: what a stop does with its jobs, and what a failure costs. The clock is Trio's for
tests, so it takes no time.
"""

import logging

import pytest
import trio
from trio.testing import MockClock

from trio_run import Group, Restarting
from trio_run.testing import running

from .. import jobs as module
from ..jobs import Jobs


async def test_a_stop_does_the_jobs_that_wait(autojump_clock: MockClock) -> None:
    jobs = Jobs()
    async with running(jobs, grace=60) as group:
        for _ in range(3):
            jobs.add(10)
        await trio.sleep(5)
        group.stop()
    assert (jobs.done, trio.current_time()) == (3, 30)


async def test_jobs_that_come_later_are_done_too(autojump_clock: MockClock) -> None:
    jobs = Jobs()
    async with running(jobs):
        for _ in range(2):
            jobs.add(1)
            await trio.sleep(5)
        assert jobs.status == "0 waiting, 2 done"


async def test_what_the_grace_leaves_no_time_for_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs()
    group = Group(grace=12)
    group.add(jobs)
    group.on_event(jobs.tell_lost)
    async with running(group):
        for _ in range(4):
            jobs.add(10)
        await trio.sleep(5)
    assert (jobs.done, trio.current_time()) == (1, 17)
    assert "never begun: 2\n" in caplog.text


async def test_a_job_that_fails_costs_itself_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(seconds: float) -> None:
        if seconds == 3:
            raise RuntimeError("not on a 3rd")

    monkeypatch.setattr(module, "work", work)
    caplog.set_level(logging.INFO)
    jobs = Jobs()
    async with running(Restarting(lambda: jobs, name="jobs")):
        for seconds in (1, 3, 2):
            jobs.add(seconds)
        await trio.sleep(2)
        assert jobs.status == "0 waiting, 2 done"
    assert "RuntimeError: not on a 3rd" in caplog.text
    assert "job 3 is done" in caplog.text
