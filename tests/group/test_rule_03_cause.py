"""Rule 3: a stop begins once, and has one cause."""

import math
import signal
import threading

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    State,
)

from .. import TIMEOUT
from .helpers import (
    Worker,
    after,
    deaf,
    fails,
    failure_of,
    ignored,
    in_background,
    outcomes,
    part,
)


async def test_rule_03_the_first_return_stops_all(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(after(2), name="early")
    group.add(after(3), name="late")
    worker = Worker(closing=5)
    group.add(worker)
    report = await group.run()
    assert report.cause == Cause(actor="early", reason="'early' returned")
    assert worker.causes == [report.cause]
    assert report.exit_code == 0
    assert (report.began, report.duration) == (2, 5)


async def test_rule_03_the_first_failure_stops_all(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    group = Group()
    group.add(fails(error, after=1), name="bad")
    worker = Worker()
    group.add(worker)
    report = (await failure_of(group)).report
    assert report.cause == Cause(
        actor="bad", error=error, reason="'bad' failed: ValueError: broken"
    )
    assert report.cause.error is error
    assert worker.causes == [report.cause]
    assert report.exit_code == 1


async def test_rule_03_stop_any_number_of_times(autojump_clock: MockClock) -> None:
    group = Group()
    worker = Worker(closing=1)
    group.add(worker)
    async with in_background(group) as result:
        group.stop("the first")
        group.stop("the second")
        await trio.sleep(0.5)
        group.stop("the third")
    group.stop("the last")
    assert result.report.cause == Cause(reason="the first")
    assert worker.causes == [result.report.cause]
    assert group.state is State.STOPPED


async def test_rule_03_the_cause_is_the_first_of_two_in_one_moment(
    autojump_clock: MockClock,
) -> None:
    group = Group()

    async def stops_and_fails() -> None:
        await trio.sleep(1)
        group.stop("asked")
        raise ValueError("too late to be the cause")

    group.add(stops_and_fails)
    failed = await failure_of(group)
    assert failed.report.cause == Cause(reason="asked")


async def test_rule_03_stop_before_run_starts_nothing(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker, user, daemon = Worker("worker"), Worker("user"), Worker("daemon")
    member = group.add(worker)
    group.add(user, needs=[member])
    group.add(daemon, daemon=True)
    group.stop("changed my mind")
    group.stop("again")
    with pytest.raises(RuntimeError, match="was stopped before it ran: 'late' was not added"):
        group.add(Worker("late"))
    report = await group.run()
    assert trio.current_time() == 0
    assert worker.events == user.events == daemon.events == []
    assert report.cause == Cause(reason="changed my mind")
    assert report.exit_code == 0
    assert set(outcomes(report).values()) == {"never started"}
    assert {(actor.ready, actor.interrupted, actor.stopped) for actor in report.actors} == {
        (None, None, None)
    }
    await member.wait_stopped()
    assert member.state is State.STOPPED
    with pytest.raises(RuntimeError, match="'worker' stopped before it was ready"):
        await member.wait_ready()


async def test_rule_03_stop_before_run_by_nursery_start() -> None:
    group = Group()
    group.add(Worker())
    group.stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
    assert group.state is State.STOPPED


async def test_rule_03_stop_from_another_thread() -> None:
    group = Group()
    worker = Worker()
    group.add(worker)
    with trio.fail_after(TIMEOUT):
        async with in_background(group) as result:
            thread = threading.Thread(target=group.stop, args=("from a thread",))
            thread.start()
    thread.join()
    assert result.report.cause == Cause(reason="from a thread")
    assert len(worker.causes) == 1


async def test_rule_03_stop_from_many_threads_at_once() -> None:
    group = Group()
    worker = Worker()
    group.add(worker)
    barrier = threading.Barrier(8)

    def stop() -> None:
        barrier.wait()
        group.stop("from a thread")

    with trio.fail_after(TIMEOUT):
        async with in_background(group):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(trio.to_thread.run_sync, stop)
    assert len(worker.causes) == 1


async def test_rule_03_stop_from_a_signal_handler() -> None:
    group = Group()
    group.add(Worker())
    before = signal.signal(signal.SIGUSR1, lambda number, frame: group.stop("by a handler"))
    try:
        with trio.fail_after(TIMEOUT):
            async with in_background(group) as result:
                signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert result.report.cause == Cause(reason="by a handler")


def test_rule_03_stop_when_trio_is_over() -> None:
    group = Group()
    group.add(after(0))
    trio.run(group.run)
    group.stop()
    thread = threading.Thread(target=group.stop)
    thread.start()
    thread.join()
    assert group.state is State.STOPPED


async def test_rule_03_a_later_stop_shortens_the_grace(autojump_clock: MockClock) -> None:
    group = Group(grace=100)
    group.add(deaf(0), ignored)  # returns: the stop begins at 0
    group.add(trio.sleep_forever, ignored, name="stuck")
    async with in_background(group) as result:
        await trio.sleep(10)
        group.stop(grace=5)
        await trio.sleep(1)
        group.stop(grace=50)
    assert result.ended_at == 15
    assert part(result.report, "stuck").outcome == "cut"


async def test_rule_03_a_stop_never_lengthens_the_grace(autojump_clock: MockClock) -> None:
    group = Group(grace=10)
    group.add(trio.sleep_forever, ignored)
    async with in_background(group) as result:
        group.stop(grace=1000)
        await trio.sleep(9)
        group.stop(grace=math.inf)
    assert result.ended_at == 10


@pytest.mark.parametrize("grace", [-1, math.nan])
async def test_rule_03_stop_with_no_time_at_all_is_an_error(grace: float) -> None:
    group = Group()
    with pytest.raises(ValueError, match="grace must be a number of seconds, 0 or more"):
        group.stop(grace=grace)
    group.add(after(0))
    assert (await group.run()).cause.actor == "driver"
