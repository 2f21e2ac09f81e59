"""Testing: an hour in a millisecond

The last change: it does not even start. A lame duck that is not shorter than
the grace would leave no time to stop: that is a ValueError, and its text says
so. What can't be right is said before anything runs.

This lesson tests the station of the last one. How do you test that a reading
which has begun is in the logbook, or that a radio which never answers is given
up? Nobody wants to wait for it.

In Trio a test runs on another clock. When all tasks sleep, MockClock jumps to
the moment when the first wakes up. All times in trio_run are Trio's. So an hour
takes a millisecond, and every run is the same.

trio_run.testing has what such a test needs besides: running() runs a group in
the background while a block runs, and stops it at the end of the block.

Under pytest you need no main() like this one: the fixture autojump_clock of
pytest-trio is the same clock.
"""

from __future__ import annotations

import logging
import time

import trio
from trio.testing import MockClock, memory_stream_pair

from trio_run import Group, busy
from trio_run.lessons.lesson_11_readiness import Logbook, answer
from trio_run.testing import running

NEEDS = ()
BEFORE = 0
TRY = """\
There is nothing to type: these are tests."""


async def test_a_client_gets_its_answer() -> None:
    """A handler needs no group: there busy() does nothing."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, server)
        await client.send_all(b"roof\n")
        assert await client.receive_some() == b"20.0 degrees\n"
        await client.aclose()


async def test_a_reading_that_has_begun_is_in_the_logbook() -> None:
    group, logbook = Group(grace=7200), Logbook()

    async def measure() -> None:
        with busy():
            await trio.sleep(3600)
            logbook.write("roof", 20.5)

    group.add(measure, needs=[group.add(logbook)])
    async with running(group):
        await trio.sleep(60)  # it has begun, and the block ends: the group is stopped
    assert logbook.lines == ["roof 20.5"]


async def test_a_radio_that_does_not_answer_is_given_up() -> None:
    async with running(Logbook(), grace=30) as group:
        await trio.sleep(86400)
    [logbook] = group.report.actors
    assert (logbook.outcome, group.report.duration) == ("returned", 1)
    print(group.report)


def main(_port: int) -> None:
    # Who is waited for is logged every five seconds, and one of the stops takes an hour.
    logging.getLogger("trio_run").setLevel(logging.ERROR)
    for test in (
        test_a_client_gets_its_answer,
        test_a_reading_that_has_begun_is_in_the_logbook,
        test_a_radio_that_does_not_answer_is_given_up,
    ):
        clock = MockClock(autojump_threshold=0)
        began = time.perf_counter()
        trio.run(test, clock=clock)
        took = time.perf_counter() - began
        print(f"passed: {test.__name__}")
        print(f"        {clock.current_time():,.0f} s for Trio, {1000 * took:.1f} ms for us")


CHANGE = """\
In test_a_reading_that_has_begun_is_in_the_logbook(), change

    with busy():

into

    if True:

Which line of the test finds it?"""

ELSEWHERE = """\
In Go tests used to sleep a little and hope, or the code was handed a clock. By
now there is testing/synctest: in its bubble, time moves on when every goroutine
is blocked, and then at once."""
