"""Group: rules 1 to 8 and 10 to 19, each with at least one test that is named for it."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    ActorReport,
    Cause,
    Group,
    GroupFailed,
    Member,
    Report,
    SignalReceiver,
    State,
    busy,
    stopping,
)

from .process import open_program

HANG = 60  # seconds: a bound for a test that would hang, not a measure


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
    """Run the group while the block runs, from its first rest on; then wait for its end."""
    result = Result()

    async def run() -> None:
        try:
            result.report = await group.run()
        except GroupFailed as failed:
            result.failed, result.report = failed, failed.report
        result.ended_at = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield result


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


# 1. An empty group returns at once; a group runs once.


async def test_rule_01_an_empty_group_returns_at_once(autojump_clock: MockClock) -> None:
    group = Group()
    report = await group.run()
    assert trio.current_time() == 0
    assert report.actors == ()
    assert report.exit_code == 0
    assert group.state is State.STOPPED


async def test_rule_01_a_second_run_is_an_error(autojump_clock: MockClock) -> None:
    group = Group(name="once")
    group.add(Worker())
    async with in_background(group) as result:
        with pytest.raises(RuntimeError, match="'once' has run before: a group runs once"):
            await group.run()
        assert group.state is State.RUNNING
        group.stop("enough")
    assert result.report.cause.reason == "enough"
    with pytest.raises(RuntimeError, match="a group runs once"):
        await group.run()


async def test_rule_01_a_thousand_actors(autojump_clock: MockClock) -> None:
    group = Group()
    workers = [Worker(f"worker {number}", closing=1) for number in range(1000)]
    members = [group.add(worker) for worker in workers]
    group.add(after(1, group.stop))
    report = await group.run()
    assert report.duration == 1
    assert all(len(worker.causes) == 1 for worker in workers)
    assert {member.state for member in members} == {State.STOPPED}


async def test_rule_01_a_chain_of_a_thousand(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    needs: list[Member] = []
    for number in range(1000):
        needs = [group.add(Worker(f"{number}", events=events), needs=needs)]
    async with in_background(group):
        group.stop()
    assert events[:1000] == [f"{number} begins" for number in range(1000)]
    assert [event for event in events if event.endswith("ends")] == [
        f"{number} ends" for number in reversed(range(1000))
    ]


# 2. All at once, each in a scope of its own; with needs, when these are ready.


async def test_rule_02_all_run_at_the_same_time(autojump_clock: MockClock) -> None:
    ping, pong = trio.Event(), trio.Event()

    async def first() -> None:
        ping.set()
        await pong.wait()

    async def second() -> None:
        await ping.wait()
        pong.set()
        await trio.sleep_forever()

    group = Group()
    group.add(first)
    group.add(second)
    assert (await group.run()).cause.actor == "first"


async def test_rule_02_each_is_in_a_scope_of_its_own(autojump_clock: MockClock) -> None:
    group = Group()
    one = group.add(trio.sleep_forever, name="one")
    other = group.add(trio.sleep_forever, name="other")
    async with in_background(group):
        one.stop()
        await one.wait_stopped()
        await wait_all_tasks_blocked()
        assert other.state is State.RUNNING
        group.stop()


async def test_rule_02_a_chain_starts_as_each_becomes_ready(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(ready_after(3), name="first")
    second = group.add(ready_after(2), name="second", needs=[first])
    third = group.add(Worker("third"), needs=[second])
    async with in_background(group) as result:
        assert (first.state, second.state) == (State.STARTING, State.NEW)
        assert group.state is State.STARTING
        assert not group.ready
        await third.wait_ready()
        assert trio.current_time() == 5
        assert group.state is State.RUNNING
        assert group.ready
        group.stop()
    assert [actor.ready for actor in result.report.actors] == [3, 5, 5]


async def test_rule_02_a_diamond_waits_for_its_slower_side(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    base = group.add(Worker("base", events=events))
    left = group.add(ready_after(7), name="left", needs=[base])
    right = group.add(ready_after(2), name="right", needs=[base])
    top = group.add(Worker("top", events=events), needs=[left, right])
    async with in_background(group):
        await right.wait_ready()
        await wait_all_tasks_blocked()
        assert top.state is State.NEW
        await top.wait_ready()
        assert trio.current_time() == 7
        group.stop()
    assert events == [
        "base begins",
        "top begins",
        "top is interrupted",
        "top ends",
        "base is interrupted",
        "base ends",
    ]


async def test_rule_02_without_task_status_it_is_ready_at_once(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(trio.sleep_forever, name="need")
    user = group.add(trio.sleep_forever, name="user", needs=[need])
    async with in_background(group):
        assert trio.current_time() == 0
        assert (need.state, user.state) == (State.RUNNING, State.RUNNING)
        group.stop()


async def test_rule_02_what_it_needs_failed_so_it_never_starts(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(fails_to_start, name="need")
    user = Worker("user")
    group.add(user, needs=[need])
    failed = await failure_of(group)
    assert outcomes(failed.report) == {"need": "failed", "user": "never started"}
    assert user.events == []


async def test_rule_02_what_it_needs_failed_and_was_ignored(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group()
    need = group.add(fails_to_start, name="need", on_error="ignore")
    users = [Worker("user"), Worker("user of user")]
    user = group.add(users[0], needs=[need])
    indirect = group.add(users[1], needs=[user])
    bystander = group.add(Worker("bystander"))
    async with in_background(group) as result:
        for member in (need, user, indirect):
            with pytest.raises(RuntimeError, match=f"'{member.name}' stopped before it was ready"):
                await member.wait_ready()
            await member.wait_stopped()
        assert bystander.state is State.RUNNING
        group.stop()
    assert outcomes(result.report) == {
        "need": "failed",
        "user": "never started",
        "user of user": "never started",
        "bystander": "returned",
    }
    assert all(not worker.events for worker in users)
    warnings = [line for line in messages(caplog) if "never starts" in line]
    assert len(warnings) == 2
    assert "'user' never starts: what it needs stopped before it was ready: need" in warnings[0]


async def test_rule_02_nothing_can_start_so_the_group_ends(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(fails_to_start, name="need", on_error="ignore")
    group.add(Worker("user"), needs=[need])
    report = await group.run()
    assert trio.current_time() == 1
    assert report.exit_code == 0


async def test_rule_02_returned_before_started_is_a_failure(autojump_clock: MockClock) -> None:
    async def hasty(*, task_status: trio.TaskStatus[None]) -> None:
        pass

    group = Group()
    group.add(hasty)
    group.add(Worker())
    failed = await failure_of(group)
    [error] = failed.exceptions
    assert isinstance(error, RuntimeError)
    assert str(error) == "actor 'hasty' returned before it called task_status.started()"


async def test_rule_02_started_twice_is_a_failure(autojump_clock: MockClock) -> None:
    async def eager(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        task_status.started()

    group = Group()
    group.add(eager)
    failed = await failure_of(group)
    assert str(failed.exceptions[0]) == "actor 'eager' called task_status.started() twice"


async def test_rule_02_nursery_start_returns_when_all_are_ready(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(ready_after(3))
    group.add(ready_after(2), needs=[first])
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        assert trio.current_time() == 5
        assert group.ready
        group.stop()


async def test_rule_02_nursery_start_of_a_group_stopped_before_it_was_ready(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(ready_after(math.inf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after(2, group.stop))
        await nursery.start(group.run)
        assert trio.current_time() == 2
    assert group.state is State.STOPPED


async def test_rule_02_nursery_start_is_not_told_of_an_ignored_failure(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails_to_start, on_error="ignore")
    group.add(ready_after(math.inf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after(2, group.stop))
        await nursery.start(group.run)
    assert group.state is State.STOPPED


async def test_rule_02_nursery_start_raises_what_kept_it_from_ready(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails_to_start)
    async with trio.open_nursery() as nursery:
        with pytest.raises(GroupFailed) as caught:
            await nursery.start(group.run)
    assert isinstance(caught.value.exceptions[0], OSError)


# 3. A stop begins once, and has one cause.


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
    with trio.fail_after(HANG):
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

    with trio.fail_after(HANG):
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
        with trio.fail_after(HANG):
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


# 4. Every actor that was started is interrupted exactly once, with the cause, and all at the same
# time.


async def test_rule_04_every_started_actor_is_interrupted_exactly_once(
    autojump_clock: MockClock,
) -> None:
    group = Group(grace=3)
    workers = [Worker("quick"), Worker("slow", closing=2), Worker("too slow", closing=9)]
    for worker in workers:
        group.add(worker)
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop("enough")
        await trio.sleep(1)
        group.stop("once more", grace=0.5)
    assert [worker.causes for worker in workers] == [[Cause(reason="enough")]] * 3
    assert [worker.asked_at for worker in workers] == [[1.0]] * 3
    assert outcomes(result.report) == {"quick": "returned", "slow": "cut", "too slow": "cut"}


async def test_rule_04_even_one_that_has_already_exited(autojump_clock: MockClock) -> None:
    group = Group()
    causes: list[Cause] = []
    group.add(after(1), causes.append, name="job", on_return="ignore")
    group.add(fails(OSError(), after=2), causes.append, name="bad", on_error="ignore")
    group.add(after(5), causes.append, name="last")
    report = await group.run()
    assert causes == [report.cause] * 3
    assert part(report, "job").interrupted == 5
    assert part(report, "job").stopped == 1


async def test_rule_04_an_exited_actors_slow_interrupt_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async def slow(cause: Cause) -> None:
        await trio.sleep(7)

    group = Group()
    group.add(after(1), slow, name="job")
    report = await group.run()
    assert trio.current_time() == 8
    assert part(report, "job").outcome == "returned"


async def test_rule_04_a_stuck_interrupt_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    async def stuck(cause: Cause) -> None:
        await trio.sleep_forever()

    group = Group(grace=20)
    before, after_it = Worker("before"), Worker("after")
    group.add(before)
    group.add(trio.sleep_forever, stuck, name="stuck")
    group.add(after_it)
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert before.asked_at == after_it.asked_at == [1]
    assert part(result.report, "before").stopped == part(result.report, "after").stopped == 1
    assert part(result.report, "stuck").stopped == 21


async def test_rule_04_a_raising_interrupt_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    def broken(cause: Cause) -> None:
        raise ValueError("broken")

    group = Group()
    workers = [Worker("before"), Worker("after")]
    group.add(workers[0])
    group.add(trio.sleep_forever, broken)
    group.add(workers[1])
    async with in_background(group) as result:
        group.stop()
    assert [len(worker.causes) for worker in workers] == [1, 1]
    assert result.report.exit_code == 1


async def test_rule_04_a_stop_as_soon_as_they_start(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group(grace=0)

    async def stops_at_once() -> None:
        group.stop()

    group.add(Worker("before", events=events))
    group.add(stops_at_once)
    group.add(Worker("after", events=events))
    group.add(Worker("daemon", events=events), daemon=True)
    await group.run()
    for name in ("before", "after", "daemon"):
        assert events.count(f"{name} is interrupted") == 1
        assert events.index(f"{name} begins") < events.index(f"{name} is interrupted")


async def test_rule_04_what_was_never_started_is_not_interrupted(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(ready_after(10))
    waiting = Worker("waiting")
    group.add(waiting, needs=[need])
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert waiting.events == []
    assert part(result.report, "waiting") == ActorReport(
        "waiting", "never started", None, None, None
    )


async def test_rule_04_a_stop_in_the_moment_it_could_start(autojump_clock: MockClock) -> None:
    async def ready_and_stops(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        task_status.started()
        group.stop()

    group = Group()
    need = group.add(ready_and_stops)
    waiting = [Worker(f"waiting {number}") for number in range(10)]
    for worker in waiting:
        group.add(worker, needs=[need])
    report = await group.run()
    assert all(worker.events == [] for worker in waiting)
    assert part(report, "waiting 0").outcome == "never started"


# 5. An actor is interrupted only after everything that needs it has stopped.


async def test_rule_05_a_chain_stops_from_its_end(autojump_clock: MockClock) -> None:
    group = Group()
    store, cache, api = Worker("store"), Worker("cache", closing=2), Worker("api", closing=3)
    store_member = group.add(store)
    cache_member = group.add(cache, needs=[store_member])
    group.add(api, needs=[cache_member, store_member])
    alone = Worker("alone")
    group.add(alone)
    async with in_background(group):
        group.stop()
    assert (api.asked_at, cache.asked_at, store.asked_at) == ([0], [3], [5])
    assert alone.asked_at == [0]
    assert store.causes == api.causes


async def test_rule_05_a_diamond_stops_from_its_top(autojump_clock: MockClock) -> None:
    group = Group()
    base, left, right, top = (
        Worker("base"),
        Worker("left", closing=4),
        Worker("right", closing=1),
        Worker("top", closing=2),
    )
    base_member = group.add(base)
    sides = [group.add(side, needs=[base_member]) for side in (left, right)]
    group.add(top, needs=sides)
    async with in_background(group):
        group.stop()
    assert (top.asked_at, left.asked_at, right.asked_at, base.asked_at) == ([0], [2], [2], [6])


async def test_rule_05_an_interrupt_that_goes_on_counts_as_not_stopped(
    autojump_clock: MockClock,
) -> None:
    asked = trio.Event()

    async def flush(cause: Cause) -> None:
        asked.set()
        await trio.sleep(5)

    group = Group()
    store = Worker("store")
    store_member = group.add(store)
    user = group.add(asked.wait, flush, name="user", needs=[store_member])
    async with in_background(group):
        group.stop()
        await user.wait_stopped()
        assert trio.current_time() == 0
    assert store.asked_at == [5]


async def test_rule_05_the_same_for_an_interrupt_after_member_stop(
    autojump_clock: MockClock,
) -> None:
    asked = trio.Event()

    async def flush(cause: Cause) -> None:
        asked.set()
        await trio.sleep(5)

    group = Group()
    store = Worker("store")
    store_member = group.add(store)
    user = group.add(asked.wait, flush, name="user", needs=[store_member])
    group.add(Worker())
    async with in_background(group):
        user.stop()
        store_member.stop()
        await store_member.wait_stopped()
        group.stop()
    assert store.asked_at == [5]


async def test_rule_05_a_failed_user_is_interrupted_first_too(autojump_clock: MockClock) -> None:
    events: list[str] = []
    group = Group()
    need = group.add(Worker("need", events=events))
    group.add(fails(ValueError()), lambda cause: events.append("bad is interrupted"), needs=[need])
    await failure_of(group)
    assert events == ["need begins", "bad is interrupted", "need is interrupted", "need ends"]


async def test_rule_05_the_grace_cuts_what_has_not_had_its_turn(autojump_clock: MockClock) -> None:
    group = Group(grace=10)
    need = Worker("need")
    need_member = group.add(need)
    group.add(deaf(15), ignored, name="user", needs=[need_member])
    async with in_background(group) as result:
        group.stop("enough")
    assert part(result.report, "need").stopped == 10
    assert part(result.report, "need").outcome == "cut"
    assert need.asked_at == [15]
    assert need.causes == [Cause(reason="enough")]
    assert result.ended_at == 15


async def test_rule_05_one_that_never_started_holds_up_nobody(autojump_clock: MockClock) -> None:
    group = Group()
    base = Worker("base")
    base_member = group.add(base)
    never = group.add(ready_after(math.inf))
    group.add(Worker("waiting"), needs=[base_member, never])
    async with in_background(group) as result:
        group.stop()
    assert base.asked_at == [0]
    assert result.ended_at == 0


# 6. Daemons.


async def test_rule_06_a_daemon_does_not_keep_the_group_alive(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(Worker("daemon"), daemon=True)
    group.add(after(2), name="job", on_return="ignore")
    report = await group.run()
    assert report.cause.actor == "job"
    assert (report.began, report.exit_code) == (2, 0)
    assert outcomes(report) == {"daemon": "returned", "job": "returned"}


async def test_rule_06_only_daemons(autojump_clock: MockClock) -> None:
    group = Group()
    worker = Worker()
    group.add(worker, daemon=True)
    await group.run()
    assert trio.current_time() == 0
    assert len(worker.causes) == 1


async def test_rule_06_daemons_outlive_the_rest(autojump_clock: MockClock) -> None:
    async def slow(cause: Cause) -> None:
        await trio.sleep(7)

    group = Group()
    health = Worker("health")
    group.add(health, daemon=True)
    group.add(Worker("worker", closing=4))
    group.add(after(0), slow)
    await group.run()
    assert health.asked_at == [7]


async def test_rule_06_a_daemon_needed_by_a_daemon_is_last(autojump_clock: MockClock) -> None:
    group = Group()
    logs, health, api = Worker("logs"), Worker("health", closing=3), Worker("api", closing=2)
    logs_member = group.add(logs, daemon=True)
    group.add(health, daemon=True, needs=[logs_member])
    group.add(api, needs=[logs_member])
    async with in_background(group):
        group.stop()
    assert (api.asked_at, health.asked_at, logs.asked_at) == ([0], [2], [5])


async def test_rule_06_daemon_may_be_the_actors_own(autojump_clock: MockClock) -> None:
    class Daemon(Worker):
        daemon = True

    group = Group()
    assert group.add(Daemon("daemon")).daemon
    assert not group.add(Daemon("no daemon"), daemon=False).daemon
    async with in_background(group):
        assert group.state is State.RUNNING
        group.stop()


async def test_rule_06_a_daemon_that_exits_stops_the_group_as_any_other(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(after(1), name="daemon", daemon=True)
    group.add(Worker())
    assert (await group.run()).cause.actor == "daemon"


async def test_rule_06_a_daemon_cannot_need_what_it_outlives() -> None:
    group = Group()
    member = group.add(Worker())
    with pytest.raises(ValueError, match="'health' is a daemon and needs 'worker', which is none"):
        group.add(Worker("health"), daemon=True, needs=[member])
    assert group.members == (member,)


# 7. Interrupts.


async def test_rule_07_an_interrupt_may_be_plain_or_async(autojump_clock: MockClock) -> None:
    asked = trio.Event()
    causes: list[Cause] = []

    def plain(cause: Cause) -> None:
        causes.append(cause)
        asked.set()

    async def later(cause: Cause) -> None:
        await trio.sleep(2)
        plain(cause)

    group = Group()
    group.add(asked.wait, plain, name="plain")
    group.add(asked.wait, later, name="async")
    async with in_background(group) as result:
        group.stop()
    assert causes == [result.report.cause] * 2
    assert result.ended_at == 2
    assert outcomes(result.report) == {"plain": "returned", "async": "returned"}


async def test_rule_07_the_pairs_interrupt_goes_before_the_actors_own(
    autojump_clock: MockClock,
) -> None:
    group = Group(grace=1)
    worker = Worker()
    causes: list[Cause] = []
    group.add(worker, causes.append)
    async with in_background(group):
        group.stop()
    assert len(causes) == 1
    assert worker.causes == []


async def test_rule_07_without_an_interrupt_it_is_cancelled_softly(
    autojump_clock: MockClock,
) -> None:
    done: list[float] = []

    async def idle() -> None:
        await trio.sleep_forever()

    async def works() -> None:
        with busy():
            await trio.sleep(5)
            done.append(trio.current_time())
        await trio.sleep_forever()

    group = Group()
    group.add(idle)
    group.add(works)
    async with in_background(group) as result:
        group.stop()
    assert done == [5]
    assert part(result.report, "idle").stopped == 0
    assert part(result.report, "works").stopped == 5
    assert outcomes(result.report) == {"idle": "returned", "works": "returned"}


async def test_rule_07_a_plain_interrupt_that_raises_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    def broken(cause: Cause) -> None:
        raise error

    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=math.inf)
    group.add(works, broken, name="victim")
    async with in_background(group) as result:
        await trio.sleep(3)
        group.stop()
    assert result.ended_at == 3
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert result.failed.exceptions[0] is error
    assert "'victim'" in error.__notes__[0]
    assert part(result.report, "victim").outcome == "failed"
    assert part(result.report, "victim").error is error


async def test_rule_07_an_async_interrupt_that_raises_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def broken(cause: Cause) -> None:
        await trio.sleep(2)
        raise error

    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=math.inf)
    group.add(works, broken, name="victim")
    async with in_background(group) as result:
        group.stop()
    assert result.ended_at == 2
    assert result.failed is not None
    assert result.failed.exceptions[0] is error
    assert "'victim'" in error.__notes__[0]


async def test_rule_07_execute_and_interrupt_both_fail(autojump_clock: MockClock) -> None:
    first, second = ValueError("execute"), OSError("interrupt")

    def broken(cause: Cause) -> None:
        raise second

    group = Group()
    group.add(fails(first), broken)
    failed = await failure_of(group)
    assert failed.exceptions == (first, second)
    assert failed.report.actors[0].error is first


async def test_rule_07_an_async_interrupt_that_hangs_is_cut_with_its_actor(
    autojump_clock: MockClock,
) -> None:
    async def hangs(cause: Cause) -> None:
        await trio.sleep_forever()

    group = Group(grace=8)
    group.add(after(1), hangs, name="gone")
    group.add(trio.sleep_forever, hangs, name="here", grace=3)
    report = await group.run()
    assert trio.current_time() == 9
    assert outcomes(report) == {"gone": "cut", "here": "cut"}
    assert part(report, "here").stopped == 4


async def test_rule_07_an_interrupt_that_raises_exits_by_its_own_policy(
    autojump_clock: MockClock,
) -> None:
    def broken(cause: Cause) -> None:
        raise ValueError("broken")

    group = Group()
    group.add(trio.sleep_forever, broken, name="victim", on_error="ignore")
    async with in_background(group) as result:
        group.stop()
    assert result.failed is None
    assert part(result.report, "victim").outcome == "failed"


# 8. Grace.


async def test_rule_08_the_groups_grace_bounds_the_whole_stop(autojump_clock: MockClock) -> None:
    group = Group(grace=10)
    need = group.add(Worker("need", closing=6))
    group.add(Worker("user", closing=6), needs=[need])
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 11
    assert outcomes(result.report) == {"need": "cut", "user": "returned"}
    assert part(result.report, "need").interrupted == 7


async def test_rule_08_an_actors_grace_counts_from_its_interrupt(autojump_clock: MockClock) -> None:
    group = Group(grace=100)
    need = group.add(trio.sleep_forever, ignored, name="need", grace=5)
    group.add(Worker("user", closing=20), needs=[need])
    async with in_background(group) as result:
        group.stop()
    assert (part(result.report, "need").interrupted, part(result.report, "need").stopped) == (
        20,
        25,
    )
    assert outcomes(result.report) == {"need": "cut", "user": "returned"}


async def test_rule_08_whichever_grace_ends_first(autojump_clock: MockClock) -> None:
    class Patient(Worker):
        grace = 100

    group = Group(grace=10)
    group.add(Patient("patient", closing=50))
    group.add(Patient("overruled", closing=50), grace=4)
    async with in_background(group) as result:
        group.stop()
    assert part(result.report, "patient").stopped == 10
    assert part(result.report, "overruled").stopped == 4


async def test_rule_08_a_hard_cancel_pierces_busy(autojump_clock: MockClock) -> None:
    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=10)
    group.add(works, name="works")
    group.add(works, name="by its own grace", grace=2)
    async with in_background(group) as result:
        group.stop()
    assert outcomes(result.report) == {"works": "cut", "by its own grace": "cut"}
    assert [actor.stopped for actor in result.report.actors] == [10, 2]


async def test_rule_08_grace_0_is_at_once(autojump_clock: MockClock) -> None:
    group = Group(grace=0)
    need = Worker("need", closing=1)
    need_member = group.add(need)
    user = Worker("user", closing=1)
    group.add(user, needs=[need_member])
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 1
    assert outcomes(result.report) == {"need": "cut", "user": "cut"}
    assert need.causes == user.causes == [result.report.cause]


async def test_rule_08_an_actors_grace_0_is_at_once(autojump_clock: MockClock) -> None:
    group = Group()
    worker = Worker("hasty", closing=1)
    group.add(worker, grace=0)
    group.add(Worker("other", closing=3))
    async with in_background(group) as result:
        group.stop()
    assert part(result.report, "hasty").stopped == 0
    assert outcomes(result.report) == {"hasty": "cut", "other": "returned"}
    assert len(worker.causes) == 1


async def test_rule_08_grace_inf_is_never(autojump_clock: MockClock) -> None:
    group = Group(grace=math.inf)
    group.add(Worker("patient", closing=1e4), grace=math.inf)
    async with in_background(group) as result:
        group.stop()
    assert result.ended_at == 1e4
    assert outcomes(result.report) == {"patient": "returned"}


async def test_rule_08_cleaning_up_after_the_cut_is_waited_for(autojump_clock: MockClock) -> None:
    cleaned: list[float] = []

    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await ends_in(3)
            cleaned.append(trio.current_time())

    group = Group(grace=2)
    group.add(tidy, ignored)
    async with in_background(group) as result:
        group.stop()
    assert cleaned == [5]
    assert result.ended_at == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grace": -1}, "grace must be a number of seconds, 0 or more, not -1"),
        ({"grace": math.nan}, "grace must be a number of seconds, 0 or more, not nan"),
        ({"lame_duck": -1}, "lame_duck must be a number of seconds, 0 or more, not -1"),
        ({"grace": 5, "lame_duck": 5}, "leaves nothing of grace=5"),
    ],
)
def test_rule_08_a_time_that_cannot_be_right(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Group(**arguments)


def test_rule_08_an_actors_grace_that_cannot_be_right() -> None:
    group = Group()
    with pytest.raises(ValueError, match="grace must be a number of seconds"):
        group.add(Worker(), grace=-1)
    with pytest.raises(TypeError, match="grace must be a number of seconds, not 'long'"):
        group.add(Worker(), grace="long")  # type: ignore[arg-type]
    assert group.members == ()


# 10. run() returns when everything has returned, never before.


@pytest.mark.parametrize(
    "cause", ["stop", "failure", "interrupt raises", "cancelled", "SystemExit"]
)
async def test_rule_10_run_returns_when_all_is_over(cause: str, autojump_clock: MockClock) -> None:
    still: list[str] = []

    async def stubborn() -> None:
        still.append("execute")
        await ends_in(20)
        still.remove("execute")

    async def slow_interrupt(why: Cause) -> None:
        still.append("interrupt")
        await ends_in(30)
        still.remove("interrupt")

    def interrupt(why: Cause) -> None:
        if cause == "interrupt raises":
            raise ValueError

    group = Group(grace=4)
    group.add(stubborn)
    group.add(trio.sleep_forever, slow_interrupt)
    group.add(trio.sleep_forever, interrupt)
    if cause in ("stop", "interrupt raises"):
        group.add(after(1, group.stop))
    elif cause != "cancelled":
        group.add(fails(ValueError() if cause == "failure" else SystemExit(), after=1))
    raised: type[BaseException] | None = None
    try:
        with trio.move_on_at(1 if cause == "cancelled" else math.inf) as scope:
            await group.run()
    except (GroupFailed, SystemExit) as error:
        raised = type(error)
    assert (
        raised
        is {
            "stop": None,
            "cancelled": None,
            "failure": GroupFailed,
            "interrupt raises": GroupFailed,
            "SystemExit": SystemExit,
        }[cause]
    )
    assert scope.cancelled_caught is (cause == "cancelled")
    assert still == []
    assert trio.current_time() == 31
    assert group.state is State.STOPPED


# 11. Errors never pass in silence.


async def test_rule_11_a_stop_is_no_failure(autojump_clock: MockClock) -> None:
    group = Group(name="app")
    group.add(trio.sleep_forever, name="one")
    async with in_background(group) as result:
        await trio.sleep(2)
        group.stop("enough")
    report = result.report
    assert result.failed is None
    assert (report.name, report.cause, report.exit_code) == ("app", Cause(reason="enough"), 0)
    assert (report.began, report.duration) == (2, 0)


async def test_rule_11_every_failure_the_causes_first(autojump_clock: MockClock) -> None:
    errors = [ValueError("cause"), OSError("while stopping"), KeyError("in an interrupt")]

    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await ends_in(1)
            raise errors[1]

    async def broken(cause: Cause) -> None:
        await trio.sleep(2)
        raise errors[2]

    group = Group(name="app")
    group.add(fails_when_cancelled, name="second")
    group.add(trio.sleep_forever, broken, name="third")
    group.add(fails(errors[0], after=1), name="first")
    failed = await failure_of(group)
    assert [id(error) for error in failed.exceptions] == [id(error) for error in errors]
    assert [error.__notes__ for error in errors] == [
        [f"in actor {name!r} of group 'app'"] for name in ("first", "second", "third")
    ]
    assert failed.report.cause.error is errors[0]
    assert failed.report.exit_code == 1
    assert "3 failures" in str(failed)
    assert "app" in str(failed)


async def test_rule_11_two_failures_at_once(autojump_clock: MockClock) -> None:
    errors = [ValueError("one"), OSError("two")]
    group = Group()
    for error in errors:
        group.add(fails(error, after=1))
    failed = await failure_of(group)
    assert set(failed.exceptions) == set(errors)
    assert failed.exceptions[0] is failed.report.cause.error


async def test_rule_11_a_failure_while_stopping_is_raised_after_a_stop(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    group.add(fails_late)
    async with in_background(group) as result:
        group.stop("enough")
    assert result.failed is not None
    assert result.failed.exceptions[0] is error
    assert result.report.cause == Cause(reason="enough")
    assert result.report.exit_code == 1


async def test_rule_11_a_failure_of_one_that_is_cut_is_kept(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise error

    group = Group(grace=1)
    group.add(fails_late, ignored)
    async with in_background(group) as result:
        group.stop()
    assert result.failed is not None
    [nested] = result.failed.exceptions
    assert isinstance(nested, ExceptionGroup)
    assert nested.exceptions == (error,)


async def test_rule_11_an_exception_group_is_the_object_itself(autojump_clock: MockClock) -> None:
    class Mine(ExceptionGroup[Exception]):
        pass

    error = Mine("several", [ValueError("one"), OSError("two")])
    group = Group()
    group.add(fails(error))
    failed = await failure_of(group)
    assert failed.exceptions[0] is error


@pytest.mark.parametrize("policy", ["stop", "ignore"])
async def test_rule_11_an_exception_that_cannot_be_printed(policy: str) -> None:
    # In a program, which can be killed: a group that waits for ever can't be cancelled.
    source = f"""
        import trio
        from trio_run import Group, GroupFailed

        class Unprintable(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        async def bad():
            raise Unprintable

        async def waits():
            await asked.wait()
            print("was interrupted")

        async def main():
            group.add(bad, on_error={policy!r})
            group.add(waits, lambda cause: asked.set())
            group.add(soon)
            try:
                print("exit code", (await group.run()).exit_code)
            except GroupFailed as failed:
                print("raised", type(failed.exceptions[0]))

        async def soon():
            await trio.sleep(0.1)

        asked = trio.Event()
        group = Group()
        trio.run(main)
    """
    async with open_program(source=source) as program:
        await program.line_with("was interrupted")
        await program.line_with("Unprintable" if policy == "stop" else "exit code 0")
        assert await program.exit_code() == 0


async def test_rule_11_not_an_async_function_is_a_failure(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(lambda: None, name="plain")
    failed = await failure_of(group)
    assert isinstance(failed.exceptions[0], TypeError)
    assert "actor 'plain' must be an async function" in str(failed.exceptions[0])


async def test_rule_11_group_failed_can_be_split(autojump_clock: MockClock) -> None:
    errors = [ValueError("one"), OSError("two")]
    group = Group()
    for error in errors:
        group.add(fails(error, after=1))
    failed = await failure_of(group)
    matched, rest = failed.split(OSError)
    assert isinstance(matched, GroupFailed)
    assert isinstance(rest, GroupFailed)
    assert matched.exceptions[0] is errors[1]
    assert rest.exceptions[0] is errors[0]
    assert matched.report is rest.report is failed.report
    caught: list[BaseExceptionGroup] = []
    try:
        raise failed
    except* OSError as some:
        caught.append(some)
    except* ValueError as others:
        caught.append(others)
    assert [type(group) for group in caught] == [GroupFailed, GroupFailed]
    assert [group.exceptions for group in caught] == [(errors[1],), (errors[0],)]


# 12. on_return and on_error.


async def test_rule_12_an_ignored_return_stops_nobody(autojump_clock: MockClock) -> None:
    group = Group()
    job = group.add(after(1), name="job", on_return="ignore")
    worker = group.add(Worker())
    async with in_background(group):
        await job.wait_stopped()
        await trio.sleep(5)
        assert (group.state, worker.state) == (State.RUNNING, State.RUNNING)
        group.stop()


async def test_rule_12_an_ignored_failure_stops_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("broken")
    group = Group()
    bad = group.add(fails(error, after=1), name="bad", on_error="ignore")
    worker = group.add(Worker())
    async with in_background(group) as result:
        await bad.wait_stopped()
        await trio.sleep(5)
        assert (group.state, worker.state) == (State.RUNNING, State.RUNNING)
        group.stop()
    assert result.failed is None
    assert result.report.exit_code == 0
    assert part(result.report, "bad").outcome == "failed"
    assert part(result.report, "bad").error is error
    [record] = [record for record in caplog.records if "'bad' failed" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_rule_12_the_other_policy_still_holds(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(after(2), name="returns", on_error="ignore")
    group.add(Worker())
    assert (await group.run()).cause.actor == "returns"
    error = ValueError()
    group = Group()
    group.add(fails(error), name="fails", on_return="ignore")
    group.add(Worker())
    assert (await failure_of(group)).report.cause.error is error


async def test_rule_12_all_ignore_and_it_is_an_errgroup(autojump_clock: MockClock) -> None:
    group = Group()
    for seconds in (3, 1, 2):
        group.add(after(seconds), name=f"job {seconds}", on_return="ignore", on_error="ignore")
    group.add(fails(ValueError()), name="bad", on_return="ignore", on_error="ignore")
    report = await group.run()
    assert trio.current_time() == 3
    assert report.cause.actor == "job 3"
    assert report.exit_code == 0


async def test_rule_12_an_ignored_failure_is_not_raised_with_others(
    autojump_clock: MockClock,
) -> None:
    kept, raised = ValueError("ignored"), OSError("raised")
    group = Group()
    group.add(fails(kept, after=1), name="ignored", on_error="ignore")
    group.add(fails(raised, after=2), name="raised")
    failed = await failure_of(group)
    assert failed.exceptions == (raised,)
    assert part(failed.report, "ignored").error is kept


@pytest.mark.parametrize("key", ["on_return", "on_error"])
def test_rule_12_a_policy_that_is_none(key: str) -> None:
    group = Group()
    with pytest.raises(ValueError, match=f'{key} must be "stop" or "ignore", not \'go on\''):
        group.add(Worker(), **{key: "go on"})  # type: ignore[arg-type]
    assert group.members == ()


# 13. Cancelled from outside; KeyboardInterrupt and SystemExit.


async def test_rule_13_cancelled_from_outside_it_stops_hard_at_once(
    autojump_clock: MockClock,
) -> None:
    async def works() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=100, lame_duck=50)
    need = Worker("need", closing=9)
    need_member = group.add(need)
    user = Worker("user", closing=9)
    group.add(user, needs=[need_member])
    daemon = Worker("daemon", closing=9)
    group.add(daemon, daemon=True)
    group.add(works, name="works")
    with trio.move_on_after(1) as scope:
        await group.run()
        pytest.fail("Cancelled did not propagate")
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert group.state is State.STOPPED
    for worker in (need, user, daemon):
        assert worker.causes == [Cause(reason="cancelled from outside")]


async def test_rule_13_async_interrupts_are_called_inside_the_cancelled_scope(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def interrupt(cause: Cause) -> None:
        seen.append("called")
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    group = Group()
    group.add(trio.sleep_forever, interrupt)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert seen == ["called", "cancelled"]
    assert trio.current_time() == 1


async def test_rule_13_cancelled_before_it_began(autojump_clock: MockClock) -> None:
    worker = Worker()
    group = Group()
    group.add(worker)
    with trio.CancelScope() as scope:
        scope.cancel()
        await group.run()
    assert scope.cancelled_caught
    assert worker.events == ["worker begins", "worker is interrupted"]


@pytest.mark.parametrize("lame_duck", [0, 10])
async def test_rule_13_cancelled_while_stopping(
    lame_duck: float, autojump_clock: MockClock
) -> None:
    group = Group(grace=100, lame_duck=lame_duck)
    worker = Worker(closing=50)
    group.add(worker)
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(after(1, lambda: group.stop("asked first")))
            await group.run()
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert worker.causes == [Cause(reason="asked first")]


async def test_rule_13_one_that_returns_when_it_is_cancelled_is_not_the_cause(
    autojump_clock: MockClock,
) -> None:
    async def returns() -> None:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()

    group = Group()
    causes: list[Cause] = []
    for _ in range(20):  # that one of them is first, and not run(), is up to the scheduler
        group.add(returns, causes.append)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert causes == [Cause(reason="cancelled from outside")] * 20


async def test_rule_13_cancelled_with_a_failing_actor(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    worker = Worker()
    group = Group()
    group.add(fails_when_cancelled)
    group.add(worker)
    with pytest.raises(GroupFailed) as caught:
        with trio.move_on_after(1):
            await group.run()
    assert caught.value.exceptions[0] is error
    assert len(worker.causes) == 1
    assert caught.value.report.exit_code == 1


async def test_rule_13_cancelled_it_waits_for_those_that_clean_up(
    autojump_clock: MockClock,
) -> None:
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await ends_in(4)

    group = Group()
    group.add(tidy)
    with trio.move_on_after(1) as scope:
        await group.run()
    assert scope.cancelled_caught
    assert trio.current_time() == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_rule_13_an_exit_in_an_actor_stops_the_others_gracefully(
    error: BaseException, autojump_clock: MockClock
) -> None:
    worker = Worker(closing=3)
    group = Group()
    group.add(fails(error, after=1), name="exits")
    group.add(worker)
    with pytest.raises(type(error)) as caught:
        await group.run()
    assert caught.value is error
    assert trio.current_time() == 4
    assert worker.causes[0].actor == "exits"
    assert worker.causes[0].error is error
    assert worker.events[-1] == "worker ends"


async def test_rule_13_an_exit_alongside_a_failure(autojump_clock: MockClock) -> None:
    error, exits = ValueError("broken"), SystemExit(3)
    group = Group()
    group.add(fails(error, after=1), name="bad")
    group.add(fails(exits, after=1), name="exits")
    with pytest.raises(SystemExit) as caught:
        await group.run()
    assert caught.value is exits
    assert isinstance(exits.__cause__, GroupFailed)
    assert exits.__cause__.exceptions == (error,)


async def test_rule_13_an_exit_whose_errors_are_ignored_propagates(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(fails(SystemExit(3)), on_error="ignore")
    group.add(Worker())
    with pytest.raises(SystemExit):
        await group.run()


async def test_rule_13_an_exit_in_an_interrupt_propagates(autojump_clock: MockClock) -> None:
    def interrupt(cause: Cause) -> None:
        raise SystemExit(3)

    worker = Worker(closing=2)
    group = Group()
    group.add(after(1), interrupt)
    group.add(worker)
    with pytest.raises(SystemExit):
        await group.run()
    assert trio.current_time() == 3


async def test_rule_13_an_exit_in_an_inner_group_stops_the_outer(autojump_clock: MockClock) -> None:
    error = SystemExit(3)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(fails(error, after=1))
    inner_worker, outer_worker = Worker(closing=2), Worker(closing=3)
    inner.add(inner_worker)
    outer.add(inner)
    outer.add(outer_worker)
    with pytest.raises(SystemExit) as caught:
        await outer.run()
    assert caught.value is error
    assert (inner_worker.asked_at, outer_worker.asked_at) == ([1], [3])


def test_rule_13_the_first_ctrl_c_stops_gracefully() -> None:
    worker = Worker(closing=5)
    group = Group()
    group.add(worker)
    group.add(after(1, press_ctrl_c), on_return="ignore")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert worker.events[-1] == "worker ends"
    assert worker.causes[0].reason == "KeyboardInterrupt"
    assert group.state is State.STOPPED


def test_rule_13_the_second_ctrl_c_stops_hard() -> None:
    ended: list[float] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    group = Group(grace=math.inf)
    group.add(works)
    group.add(after(1, press_ctrl_c), ignored, on_return="ignore")
    group.add(after(3, press_ctrl_c), ignored, on_return="ignore")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert ended == [3]
    assert group.state is State.STOPPED


def test_rule_13_ctrl_c_in_the_code_of_an_actor() -> None:
    """Trio raises it wherever Python code of ours is running: there too it is first graceful, then
    hard.
    """
    worker = Worker(closing=5)
    ended: list[str] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep(1000)
            ended.append("whole")
        finally:
            ended.append("works")

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    group = Group(grace=math.inf)
    group.add(worker)
    group.add(works)
    group.add(after(1, press), name="first")
    group.add(after(10, press), ignored, name="second")
    with ctrl_c_raises(), pytest.raises(KeyboardInterrupt):
        trio.run(group.run, clock=MockClock(autojump_threshold=0))
    assert worker.events[-1] == "worker ends"
    assert worker.causes[0].actor == "first"
    assert ended == ["works"]


# 14. add() on a running group; Member.stop().


async def test_rule_14_add_on_a_running_group(autojump_clock: MockClock) -> None:
    group = Group()
    first = group.add(Worker("first"))
    async with in_background(group) as result:
        await trio.sleep(2)
        second = group.add(Worker("second"), needs=[first])
        assert second.state is State.NEW
        await second.wait_ready()
        assert trio.current_time() == 2
        assert group.members == (first, second)
        group.stop()
    assert part(result.report, "second").ready == 2
    assert part(result.report, "second").outcome == "returned"


@pytest.mark.parametrize("daemon", [False, True])
async def test_rule_14_add_from_an_actor_as_it_starts(
    daemon: bool, autojump_clock: MockClock
) -> None:
    group = Group()
    late = Worker("late")

    async def adds() -> None:
        group.add(late)
        await trio.sleep(1)

    group.add(adds, daemon=daemon)
    group.add(Worker())
    report = await group.run()
    assert len(late.causes) == 1
    assert outcomes(report) == {"adds": "returned", "worker": "returned", "late": "returned"}


async def test_rule_14_add_on_a_group_that_is_not_ready(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(ready_after(2))
    async with in_background(group):
        group.add(ready_after(5))
        await trio.sleep(3)
        assert group.state is State.STARTING
        await trio.sleep(3)
        assert group.state is State.RUNNING
        group.stop()


async def test_rule_14_add_on_a_stopping_group_is_an_error(autojump_clock: MockClock) -> None:
    group = Group(name="app", lame_duck=5)
    member = group.add(Worker(closing=5))
    late = Worker("late")
    async with in_background(group) as result:
        group.stop()
        assert group.state is State.LAME_DUCK
        with pytest.raises(RuntimeError, match="group 'app' is lame duck: 'late' was not added"):
            group.add(late)
        await trio.sleep(7)
        assert group.state is State.STOPPING
        with pytest.raises(RuntimeError, match="group 'app' is stopping: 'late' was not added"):
            group.add(late)
    with pytest.raises(RuntimeError, match="group 'app' is stopped: 'late' was not added"):
        group.add(late)
    assert group.members == (member,)
    assert late.events == []
    assert outcomes(result.report) == {"worker": "returned"}


async def test_rule_14_add_right_after_stop_is_an_error(autojump_clock: MockClock) -> None:
    group = Group()
    refused: list[str] = []

    async def stops_and_adds() -> None:
        group.stop()
        with pytest.raises(RuntimeError):
            group.add(Worker("late"))
        refused.append("late")

    group.add(stops_and_adds)
    await group.run()
    assert refused == ["late"]


async def test_rule_14_member_stop_stops_that_one_alone(autojump_clock: MockClock) -> None:
    one, other = Worker("one", closing=2), Worker("other")
    group = Group()
    member = group.add(one)
    group.add(other)
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
        await wait_all_tasks_blocked()
        assert member.state is State.STOPPING
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 3
        assert member.state is State.STOPPED
        member.stop()
        await trio.sleep(4)
        assert group.state is State.RUNNING
        group.stop()
    assert len(one.causes) == 1
    assert one.causes[0].reason == "'one' alone was stopped"
    assert part(result.report, "one").outcome == "returned"
    assert other.asked_at == [7]


async def test_rule_14_member_stop_keeps_the_order(autojump_clock: MockClock) -> None:
    store, cache, api = Worker("store"), Worker("cache", closing=1), Worker("api", closing=3)
    group = Group()
    store_member = group.add(store)
    cache_member = group.add(cache, needs=[store_member])
    api_member = group.add(api, needs=[cache_member])
    group.add(Worker())
    async with in_background(group):
        store_member.stop()
        await trio.sleep(2)
        assert store_member.state is State.RUNNING
        api_member.stop()
        await trio.sleep(4)
        assert (api_member.state, cache_member.state) == (State.STOPPED, State.RUNNING)
        cache_member.stop()
        await store_member.wait_stopped()
        assert group.state is State.RUNNING
        group.stop()
    assert (api.asked_at, cache.asked_at, store.asked_at) == ([2], [6], [7])


async def test_rule_14_member_stop_waits_for_needs_that_the_groups_stop_ends(
    autojump_clock: MockClock,
) -> None:
    need, user = Worker("need"), Worker("user", closing=2)
    group = Group()
    need_member = group.add(need)
    group.add(user, needs=[need_member])
    async with in_background(group) as result:
        need_member.stop()
        await trio.sleep(1)
        group.stop("enough")
    assert (user.asked_at, need.asked_at) == ([1], [3])
    assert need.causes == [result.report.cause]


async def test_rule_14_member_stop_has_the_actors_grace(autojump_clock: MockClock) -> None:
    group = Group(grace=100)
    member = group.add(trio.sleep_forever, ignored, name="stuck", grace=4)
    worker = group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 4
        assert worker.state is State.RUNNING
        group.stop()
    assert part(result.report, "stuck").outcome == "cut"
    assert result.report.exit_code == 0


async def test_rule_14_member_stop_has_the_groups_grace_where_it_has_none(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(grace=6)
    member = group.add(trio.sleep_forever, ignored, name="stuck")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 6
        assert group.state is State.RUNNING
        group.stop()
    assert part(result.report, "stuck").outcome == "cut"
    assert "group: its grace of 6 s is over: cut stuck" in messages(caplog)


async def test_rule_14_member_stop_without_an_interrupt_is_soft(autojump_clock: MockClock) -> None:
    async def works() -> None:
        with busy():
            await trio.sleep(5)
        await trio.sleep_forever()

    group = Group()
    member = group.add(works)
    group.add(Worker())
    async with in_background(group):
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 5
        group.stop()


async def test_rule_14_member_stop_before_run(autojump_clock: MockClock) -> None:
    first, user, other = Worker("first"), Worker("user"), Worker("other")
    group = Group()
    member = group.add(first)
    user_member = group.add(user, needs=[member])
    group.add(other)
    member.stop()
    async with in_background(group) as result:
        assert (member.state, user_member.state) == (State.STOPPED, State.STOPPED)
        with pytest.raises(RuntimeError, match="'first' stopped before it was ready"):
            await member.wait_ready()
        assert group.state is State.RUNNING
        await trio.sleep(1)
        group.stop()
    assert first.events == user.events == []
    assert other.asked_at == [1]
    assert outcomes(result.report) == {
        "first": "never started",
        "user": "never started",
        "other": "returned",
    }


async def test_rule_14_all_members_stopped_before_run(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(Worker()).stop()
    report = await group.run()
    assert trio.current_time() == 0
    assert outcomes(report) == {"worker": "never started"}


async def test_rule_14_member_stop_while_it_waits_to_start(autojump_clock: MockClock) -> None:
    waiting = Worker("waiting")
    group = Group()
    need = group.add(ready_after(5))
    member = group.add(waiting, needs=[need])
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 1
        await trio.sleep(9)
        assert group.state is State.RUNNING
        group.stop()
    assert waiting.events == []
    assert part(result.report, "waiting").outcome == "never started"


async def test_rule_14_member_stop_in_the_moment_it_was_added(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(Worker("need"))
    late = Worker("late", closing=2)
    late_user = Worker("late user")
    async with in_background(group) as result:
        member = group.add(late)
        member.stop()
        user = group.add(late_user, needs=[need])
        user.stop()
        await member.wait_stopped()
        await user.wait_stopped()
        assert group.state is State.RUNNING
        group.stop()
    assert late.events == [] or len(late.causes) == 1
    assert late_user.events == []
    assert part(result.report, "late user").outcome == "never started"


async def test_rule_14_member_stop_in_the_moment_it_could_start(
    autojump_clock: MockClock,
) -> None:
    async def ready_and_stops(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        task_status.started()
        member.stop()
        await trio.sleep(1)

    group = Group()
    waiting = Worker("waiting")
    member = group.add(waiting, needs=[group.add(ready_and_stops)])
    report = await group.run()
    assert waiting.events == []
    assert part(report, "waiting").outcome == "never started"


async def test_rule_14_member_stop_while_it_starts(autojump_clock: MockClock) -> None:
    group = Group()
    member = group.add(ready_after(10), name="starter")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
        await member.wait_stopped()
        assert trio.current_time() == 0
        assert group.state is State.RUNNING
        group.stop()
    assert result.failed is None
    assert part(result.report, "starter").outcome == "returned"


async def test_rule_14_member_stop_and_then_its_failure_stops_the_group(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    member = group.add(fails_late, name="bad")
    group.add(Worker())
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert result.report.cause.actor == "bad"


async def test_rule_14_member_stop_and_then_its_interrupts_failure_stops_the_group(
    autojump_clock: MockClock,
) -> None:
    async def broken(cause: Cause) -> None:
        await trio.sleep(1)
        raise ValueError("broken")

    group = Group(grace=math.inf)
    member = group.add(trio.sleep_forever, broken, name="bad")
    group.add(Worker())
    async with in_background(group) as result:
        member.stop()
    assert result.ended_at == 1
    assert result.report.cause.actor == "bad"


async def test_rule_14_member_stop_of_the_last_one_ends_the_group(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    member = group.add(Worker("last"))
    daemon = Worker("daemon")
    group.add(daemon, daemon=True)
    async with in_background(group) as result:
        await trio.sleep(1)
        member.stop()
    assert result.ended_at == 1
    assert result.report.cause.actor == "last"
    assert daemon.asked_at == [1]


async def test_rule_14_a_group_stop_while_a_member_stops(autojump_clock: MockClock) -> None:
    async def slow(cause: Cause) -> None:
        called.append(cause)
        await trio.sleep(8)

    called: list[Cause] = []
    need = Worker("need")
    group = Group()
    need_member = group.add(need)
    user = group.add(trio.sleep_forever, slow, name="user", grace=10, needs=[need_member])
    async with in_background(group) as result:
        user.stop()
        await trio.sleep(4)
        group.stop()
    assert len(called) == 1
    assert part(result.report, "user").stopped == 10
    assert need.asked_at == [10]


async def test_rule_14_states_of_a_member(autojump_clock: MockClock) -> None:
    group = Group()
    need = group.add(ready_after(1))

    async def slow(cause: Cause) -> None:
        await trio.sleep(1)

    member = group.add(ready_after(1), slow, grace=3, needs=[need])
    states = [member.state]
    async with in_background(group):
        states.append(member.state)
        await need.wait_ready()
        await wait_all_tasks_blocked()
        states.append(member.state)
        await member.wait_ready()
        states.append(member.state)
        group.stop()
        await wait_all_tasks_blocked()
        states.append(member.state)
        await member.wait_stopped()
        states.append(member.state)
    assert states == [
        State.NEW,
        State.NEW,
        State.STARTING,
        State.RUNNING,
        State.STOPPING,
        State.STOPPED,
    ]


async def test_rule_14_names_are_unique() -> None:
    group = Group()
    names = [group.add(Worker(name)).name for name in ("a", "a", "a-2", "a")]
    assert len(set(names)) == 4
    assert names[:2] == ["a", "a-2"]


# 15. Groups nest.


async def test_rule_15_the_inner_group_stops_with_its_own_grace(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner", grace=4), Group(name="outer", grace=50)
    inner.add(trio.sleep_forever, ignored, name="stuck")
    inner_member = outer.add(inner)
    outer.add(Worker("other", closing=6))
    async with in_background(outer) as result:
        await trio.sleep(1)
        outer.stop("enough")
    assert inner.state is State.STOPPED
    assert result.ended_at == 7
    assert part(result.report, "inner").stopped == 5
    assert outcomes(result.report) == {"inner": "returned", "other": "returned"}
    assert inner_member.grace is None


async def test_rule_15_the_inner_group_has_the_outers_cause(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    outer.add(after(1), name="early")
    report = await outer.run()
    assert worker.causes == [report.cause] == [Cause(actor="early", reason="'early' returned")]


async def test_rule_15_the_inner_group_is_cut_when_the_outers_grace_is_over(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=3)
    need = Worker("need")
    need_member = inner.add(need)
    inner.add(trio.sleep_forever, ignored, name="stuck", needs=[need_member])
    outer.add(inner)
    async with in_background(outer) as result:
        outer.stop("enough")
    assert result.ended_at == 3
    assert outcomes(result.report) == {"inner": "cut"}
    assert need.causes == [Cause(reason="enough")]
    assert inner.state is State.STOPPED


async def test_rule_15_a_grace_given_to_the_inner_group_bounds_it(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=100)
    inner.add(trio.sleep_forever, ignored)
    outer.add(inner, grace=2)
    async with in_background(outer) as result:
        outer.stop()
    assert result.ended_at == 2
    assert outcomes(result.report) == {"inner": "cut"}


async def test_rule_15_an_inner_failure_is_a_group_in_a_group(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(fails(error, after=1), name="bad")
    outer.add(inner)
    worker = Worker()
    outer.add(worker)
    failed = await failure_of(outer)
    [nested] = failed.exceptions
    assert isinstance(nested, GroupFailed)
    assert nested.exceptions[0] is error
    assert nested.report.cause.actor == "bad"
    assert nested.report.name == "inner"
    assert failed.report.cause.actor == "inner"
    assert error.__notes__ == ["in actor 'bad' of group 'inner'"]
    assert nested.__notes__ == ["in actor 'inner' of group 'outer'"]
    assert worker.causes == [failed.report.cause]


async def test_rule_15_an_inner_failure_while_it_is_cut_is_not_lost(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("broken")

    async def fails_when_cut() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    inner, outer = Group(name="inner", grace=50), Group(name="outer", grace=3)
    inner.add(fails_when_cut, ignored)
    outer.add(inner)
    async with in_background(outer) as result:
        outer.stop()
    assert result.failed is not None
    [nested] = result.failed.exceptions
    assert isinstance(nested, GroupFailed)
    assert nested.exceptions[0] is error
    assert nested.report.cause.reason == "stop() was called"


async def test_rule_15_the_inner_group_returns_and_stops_the_outer(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(after(1))
    outer.add(inner)
    outer.add(Worker())
    assert (await outer.run()).cause.actor == "inner"


async def test_rule_15_the_inner_group_is_ready_when_all_of_it_is(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(ready_after(3))
    inner_member = outer.add(inner)
    user = outer.add(Worker("user"), needs=[inner_member])
    async with in_background(outer):
        assert (outer.state, inner.state, user.state) == (
            State.STARTING,
            State.STARTING,
            State.NEW,
        )
        await outer.members[1].wait_ready()
        assert trio.current_time() == 3
        outer.stop()


async def test_rule_15_the_inner_group_is_interrupted_while_it_starts(
    autojump_clock: MockClock,
) -> None:
    inner, outer = Group(name="inner", lame_duck=5), Group(name="outer")
    inner.add(ready_after(10), name="starter")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    user = Worker("user")
    outer.add(user, needs=outer.members)
    async with in_background(outer) as result:
        await trio.sleep(1)
        outer.stop()
    assert result.ended_at == 1
    assert result.failed is None
    assert outcomes(result.report) == {"inner": "returned", "user": "never started"}
    assert len(worker.causes) == 1


async def test_rule_15_the_inner_group_is_stopped_before_it_ran(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    outer.add(inner)
    outer.add(Worker())
    inner.stop("not today")
    report = await outer.run()
    assert report.cause.actor == "inner"
    assert worker.events == []


@pytest.mark.parametrize("how", ["stop", "member stop", "failure"])
async def test_rule_15_the_inner_lame_duck_is_for_a_stop_that_was_asked_for(
    how: str, autojump_clock: MockClock
) -> None:
    inner, outer = Group(name="inner", lame_duck=5), Group(name="outer")
    worker = Worker()
    inner.add(worker)
    member = outer.add(inner)
    if how == "failure":
        outer.add(fails(ValueError(), after=1))
    outer.add(Worker())
    async with in_background(outer):
        if how == "stop":
            await trio.sleep(1)
            outer.stop()
        elif how == "member stop":
            await trio.sleep(1)
            member.stop()
            await member.wait_stopped()
            outer.stop()
    assert worker.asked_at == [1 if how == "failure" else 6]


async def test_rule_15_the_inner_group_has_a_status(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(after(1), on_return="ignore")
    inner.add(Worker())
    outer.add(inner)
    async with in_background(outer) as result:
        assert outer.members[0].status == "2 of 2 actors running"
        await trio.sleep(2)
        assert inner.status == "1 of 1 actors running"
        outer.stop()
    assert part(result.report, "inner").detail == "2 returned"


async def test_rule_15_three_deep(autojump_clock: MockClock) -> None:
    error = ValueError("broken")
    groups = [Group(name=name) for name in ("outer", "middle", "inner")]
    workers = [Worker(f"in {group.name}", closing=1) for group in groups]
    for group, worker in zip(groups, workers, strict=True):
        group.add(worker)
    groups[0].add(groups[1])
    groups[1].add(groups[2])
    groups[2].add(fails(error, after=1))
    failed = await failure_of(groups[0])
    leaf: BaseException = failed
    while isinstance(leaf, GroupFailed):
        [leaf] = leaf.exceptions
    assert leaf is error
    assert [worker.asked_at for worker in workers] == [[3], [2], [1]]


def test_rule_15_a_group_cannot_be_its_own_actor() -> None:
    group = Group(name="snake")
    with pytest.raises(ValueError, match="group 'snake' can't be an actor of itself"):
        group.add(group)
    assert group.members == ()


# 16. The lame duck.


async def test_rule_16_the_lame_duck_goes_on_serving(autojump_clock: MockClock) -> None:
    group = Group(grace=30, lame_duck=5)
    worker = Worker(closing=1)
    member = group.add(worker)
    group.add(trio.sleep_forever, name="no interrupt")
    async with in_background(group) as result:
        assert group.ready
        await trio.sleep(1)
        group.stop()
        assert group.state is State.LAME_DUCK
        assert not group.ready
        await trio.sleep(4)
        assert group.state is State.LAME_DUCK
        assert member.state is State.RUNNING
        assert worker.causes == []
        await trio.sleep(1.5)
        assert group.state is State.STOPPING
    assert worker.asked_at == [6]
    assert part(result.report, "no interrupt").stopped == 6
    assert (result.report.began, result.report.duration) == (1, 6)


async def test_rule_16_actors_are_not_told_before_it_ends(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, bool]] = []

    async def looks() -> None:
        while True:
            seen.append((trio.current_time(), stopping()))
            await trio.sleep(2)

    group = Group(lame_duck=5)
    group.add(looks, ignored, grace=2)
    async with in_background(group):
        group.stop()
    assert seen == [(0, False), (2, False), (4, False), (6, True)]


async def test_rule_16_another_stop_ends_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    async with in_background(group) as result:
        group.stop("first")
        await trio.sleep(2)
        group.stop("second")
        assert group.state is State.STOPPING
    assert worker.asked_at == [2]
    assert worker.causes == [Cause(reason="first")]
    assert result.report.cause.reason == "first"


@pytest.mark.parametrize("how", ["returns", "fails"])
async def test_rule_16_an_exit_ends_it(how: str, autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(3) if how == "returns" else fails(ValueError(), after=3))
    async with in_background(group) as result:
        group.stop("asked")
    assert worker.asked_at == [3]
    assert worker.causes == [Cause(reason="asked")]
    assert (result.failed is not None) is (how == "fails")


async def test_rule_16_an_ignored_exit_does_not_end_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(2), on_return="ignore")
    group.add(fails(ValueError(), after=3), on_error="ignore")
    async with in_background(group):
        group.stop()
    assert worker.asked_at == [5]


async def test_rule_16_the_last_one_to_exit_ends_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    daemon = Worker("daemon")
    group.add(daemon, daemon=True)
    group.add(after(2), on_return="ignore")
    async with in_background(group):
        group.stop()
    assert daemon.asked_at == [2]


async def test_rule_16_member_stop_during_it(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    one, other = Worker("one"), Worker("other")
    member = group.add(one)
    group.add(other)
    async with in_background(group):
        group.stop()
        await trio.sleep(1)
        member.stop()
        await member.wait_stopped()
        assert group.state is State.LAME_DUCK
    assert (one.asked_at, other.asked_at) == ([1], [5])


@pytest.mark.parametrize("how", ["returns", "fails"])
async def test_rule_16_none_after_an_exit(how: str, autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    worker = Worker()
    group.add(worker)
    group.add(after(1) if how == "returns" else fails(ValueError(), after=1))
    async with in_background(group):
        pass
    assert worker.asked_at == [1]


async def test_rule_16_the_grace_counts_from_the_stops_beginning(
    autojump_clock: MockClock,
) -> None:
    group = Group(grace=8, lame_duck=5)
    group.add(trio.sleep_forever, ignored)
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 9


async def test_rule_16_a_shorter_grace_shortens_it(autojump_clock: MockClock) -> None:
    group = Group(grace=30, lame_duck=10)
    worker = Worker(closing=1)
    group.add(worker)
    async with in_background(group) as result:
        group.stop(grace=4)
    assert worker.asked_at == [4]
    assert result.ended_at == 4


async def test_rule_16_none_while_starting(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=5)
    group.add(ready_after(10))
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 1


# 17. A second signal. (The rest of it is with SignalReceiver.)


async def test_rule_17_a_second_signal_cancels_hard(autojump_clock: MockClock) -> None:
    cleaned: list[float] = []

    async def works() -> None:
        try:
            with busy():
                await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    group = Group(grace=math.inf)
    group.add(SignalReceiver(signal.SIGUSR1))
    group.add(works, name="works")
    async with in_background(group) as result:
        signal.raise_signal(signal.SIGUSR1)
        await trio.sleep(2)
        assert group.state is State.STOPPING
        signal.raise_signal(signal.SIGUSR1)
    assert cleaned == [2]
    assert result.report.exit_code == 128 + signal.SIGUSR1
    assert result.report.cause.signal is signal.SIGUSR1
    assert part(result.report, "works").outcome == "cut"


# 18. Everything is logged.


async def test_rule_18_who_caused_the_stop_and_why(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for actor in (after(1), fails(ValueError("broken"))):
        group = Group(name="app")
        group.add(actor, name="early")
        group.add(Worker())
        async with in_background(group):
            pass
    group = Group(name="app")
    group.add(Worker())
    async with in_background(group):
        group.stop("enough")
        group.stop("again")
    assert messages(caplog) == [
        "app: ready",
        "app: stopping: 'early' returned",
        "app: ready",
        "app: stopping: 'early' failed: ValueError: broken",
        "app: ready",
        "app: stopping: enough",
    ]
    levels = [record.levelno for record in caplog.records if "stopping" in record.getMessage()]
    assert levels == [logging.INFO, logging.ERROR, logging.INFO]


async def test_rule_18_a_stop_before_run_is_logged_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group(name="app")
    group.add(Worker())
    group.stop("changed my mind")
    await group.run()
    assert messages(caplog) == ["app: stopping: changed my mind"]


async def test_rule_18_a_failure_while_stopping_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    group.add(fails(ValueError("one"), after=1), name="first")
    group.add(fails(OSError("two"), after=2), ignored, name="second")
    await failure_of(group)
    assert messages(caplog, logging.ERROR) == [
        "app: stopping: 'first' failed: ValueError: one",
        "app: while stopping: 'second' failed: OSError: two",
    ]


async def test_rule_18_every_5_s_who_holds_it_up_and_its_status(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Busy(Worker):
        @property
        def status(self) -> str:
            return f"{20 - trio.current_time():g} left"

    group = Group(name="app", grace=100)
    need = group.add(Worker("need", closing=1))
    group.add(Busy("busy", closing=18), needs=[need])
    group.add(Worker("slow", closing=7))
    group.add(Worker("quick", closing=1))
    async with in_background(group):
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: 5 s into the stop, waiting for busy (15 left), slow",
        "app: 10 s into the stop, waiting for busy (10 left)",
        "app: 15 s into the stop, waiting for busy (5 left)",
    ]


async def test_rule_18_a_stuck_interrupt_holds_it_up_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(cause: Cause) -> None:
        await trio.sleep(8)

    group = Group(name="app")
    group.add(after(0), slow, name="gone")
    await group.run()
    assert messages(caplog, logging.WARNING) == ["app: 5 s into the stop, waiting for gone"]


async def test_rule_18_many_who_hold_it_up_fit_a_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    for number in range(1012):
        group.add(Worker(f"w{number}", closing=7))
    async with in_background(group):
        group.stop()
    names = ", ".join(f"w{number}" for number in range(10))
    assert messages(caplog, logging.WARNING) == [
        f"app: 5 s into the stop, waiting for {names}, and 1,002 more"
    ]


async def test_rule_18_a_status_that_raises_stops_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Worker):
        @property
        def status(self) -> str:
            raise ValueError("no status")

    group = Group(name="app")
    group.add(Broken("broken", closing=6))
    async with in_background(group) as result:
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: 5 s into the stop, waiting for broken (its status raised ValueError: no status)"
    ]
    assert "ValueError: no status" in result.report.actors[0].detail


async def test_rule_18_who_was_cut(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Worker):
        status = "3 jobs"

    group = Group(name="app", grace=4)
    group.add(Counting("one", closing=9))
    group.add(Worker("two", closing=9), grace=2)
    group.add(Worker("three", closing=1))
    async with in_background(group):
        group.stop()
    assert messages(caplog, logging.WARNING) == [
        "app: its grace of 2 s is over: cut two",
        "app: the grace of 4 s is over: cut one (3 jobs)",
    ]


async def test_rule_18_who_was_cut_from_outside(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app")
    group.add(deaf(3), name="one")
    with trio.move_on_after(1):
        await group.run()
    assert "app: cancelled from outside: cut one" in messages(caplog, logging.WARNING)


async def test_rule_18_the_stacks_of_one_stuck_5_s_after_a_hard_cancel(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck_in_a_child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends_in, 20)

    group = Group(name="app", grace=3)
    group.add(stuck_in_a_child, name="stuck")
    group.add(deaf(7), name="late")
    async with in_background(group):
        group.stop()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    text = record.getMessage()
    assert text.startswith("app: 'stuck' has not returned 5 s after a hard cancel. It is here:\n")
    assert "stuck_in_a_child" in text
    assert "await trio.sleep(seconds)" in text  # the child's stack too
    assert "nursery" in text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_rule_18_the_stacks_of_one_stuck_after_its_interrupt_raised(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(cause: Cause) -> None:
        raise ValueError("broken")

    async def later(cause: Cause) -> None:
        raise ValueError("broken")

    group = Group(name="app", grace=math.inf)
    group.add(deaf(20), plain if kind == "plain" else later, name="stuck")
    async with in_background(group):
        group.stop()
    stacks = [line for line in messages(caplog, logging.ERROR) if "has not returned" in line]
    assert len(stacks) == 1
    assert "deaf_actor" in stacks[0]


async def test_rule_18_the_stack_of_an_interrupt_called_after_the_cut(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck_interrupt(cause: Cause) -> None:
        await ends_in(20)

    group = Group(name="app", grace=3)
    need = group.add(trio.sleep_forever, stuck_interrupt, name="need")
    group.add(deaf(10), ignored, name="user", needs=[need])
    async with in_background(group) as result:
        group.stop()
    assert result.ended_at == 30
    stacks = [line for line in messages(caplog, logging.ERROR) if "has not returned" in line]
    assert ["'user'" in line or "'need'" in line for line in stacks] == [True, True]
    assert "stuck_interrupt" in stacks[1]


async def test_rule_18_the_report_tells_what_became_of_each(autojump_clock: MockClock) -> None:
    error = ValueError("broken")

    class Counting(Worker):
        status = "3 jobs"

    group = Group(name="app", grace=4)
    need = group.add(ready_after(2), name="need")
    group.add(Counting("cut", closing=9), needs=[need])
    group.add(fails(error, after=3), name="bad")
    never = group.add(ready_after(math.inf), name="never ready")
    group.add(Worker("waiting"), needs=[never])
    failed = await failure_of(group)
    assert failed.report == Report(
        cause=Cause(actor="bad", error=error, reason="'bad' failed: ValueError: broken"),
        duration=4,
        exit_code=1,
        actors=(
            ActorReport("need", "cut", 2, 7, 7),
            ActorReport("cut", "cut", 2, 3, 7, detail="3 jobs"),
            ActorReport("bad", "failed", 0, 3, 3, error=error),
            ActorReport("never ready", "returned", None, 3, 3),
            ActorReport("waiting", "never started", None, None, None),
        ),
        name="app",
        began=3,
    )


# 19. Trio's clock.


async def test_rule_19_every_time_is_trios(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    group = Group(grace=86400, lame_duck=3600)
    group.add(ready_after(600), name="starter")
    group.add(trio.sleep_forever, ignored, name="by its own grace", grace=7200)
    group.add(trio.sleep_forever, ignored, name="by the group's")
    async with in_background(group) as result:
        await group.members[0].wait_ready()
        group.stop()
    report = result.report
    assert [actor.ready for actor in report.actors] == [600, 0, 0]
    assert [actor.interrupted for actor in report.actors] == [4200, 4200, 4200]
    assert [actor.stopped for actor in report.actors] == [4200, 11400, 87000]
    assert (report.began, report.duration) == (600, 86400)
    assert sum("into the stop" in line for line in messages(caplog)) >= 16559
    assert time.monotonic() - began < HANG


# What a fresh reading found.


async def test_rule_09_busy_work_left_in_anothers_nursery_stops_with_that_one(
    autojump_clock: MockClock,
) -> None:
    nurseries: list[trio.Nursery] = []

    async def host() -> None:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)
            await trio.sleep_forever()

    async def work() -> None:
        with busy():
            await trio.sleep_forever()

    async def guest() -> None:
        nurseries[0].start_soon(work)

    group = Group(grace=1)
    needed = group.add(host)
    group.add(guest, needs=[needed])
    async with in_background(group) as result:
        pass
    assert result.ended_at == 0


async def test_rule_14_member_stop_reaches_one_that_others_wait_for(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    slow = group.add(ready_after(1000), name="slow")
    waiting = group.add(trio.sleep_forever, name="waiting", needs=[slow])
    group.add(trio.sleep_forever, name="other")
    async with in_background(group):
        slow.stop()
        await slow.wait_stopped()
        await waiting.wait_stopped()
        assert trio.current_time() == 0
        group.stop()
    assert (slow.outcome, waiting.outcome) == ("returned", "never started")


async def test_rule_02_what_was_told_to_stop_starts_nobody(autojump_clock: MockClock) -> None:
    """It becomes ready in the moment in which it is told."""

    async def starts(*, task_status: trio.TaskStatus[None]) -> None:
        await go.wait()
        task_status.started()
        first.stop()
        await trio.sleep_forever()

    go = trio.Event()
    group = Group()
    first = group.add(starts)
    second = group.add(trio.sleep_forever, needs=[first])
    group.add(trio.sleep_forever)
    async with in_background(group):
        go.set()
        await second.wait_stopped()
        group.stop()
    assert second.outcome == "never started"


async def test_rule_02_an_inner_group_that_never_was_ready_starts_nobody(
    autojump_clock: MockClock,
) -> None:
    inner = Group(name="inner")
    inner.add(ready_after(1000))
    inner.add(trio.lowlevel.checkpoint)  # stops it
    outer = Group()
    needed = outer.add(inner, on_return="ignore")
    late = outer.add(trio.sleep_forever, needs=[needed])
    outer.add(trio.sleep_forever)
    async with in_background(outer):
        await late.wait_stopped()
        outer.stop()
    assert (needed.outcome, needed.ready_at) == ("returned", None)
    assert late.outcome == "never started"


async def test_rule_02_what_stopped_before_it_was_ready_can_not_be_needed(
    autojump_clock: MockClock,
) -> None:
    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise ValueError

    group = Group()
    member = group.add(broken, on_error="ignore")
    group.add(trio.sleep_forever)
    async with in_background(group):
        with pytest.raises(RuntimeError, match="which stopped before it was ready"):
            group.add(trio.sleep_forever, needs=[member])
        group.stop()


async def test_rule_11_the_same_exception_from_execute_and_interrupt_is_one_failure(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("same")
    asked = trio.Event()

    async def execute() -> None:
        await asked.wait()
        raise error

    def interrupt(cause: Cause) -> None:
        asked.set()
        raise error

    group = Group()
    group.add(execute, interrupt)
    async with in_background(group) as result:
        group.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert len(error.__notes__) == 1


async def test_rule_13_failures_beside_an_exit_are_kept_through_nested_groups(
    autojump_clock: MockClock,
) -> None:
    inner_error, outer_error = ValueError("inner"), OSError("outer")

    def cleans_up_with(error: Exception) -> Callable[[], Awaitable[None]]:
        async def execute() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise error

        return execute

    inner, outer = Group(), Group()
    inner.add(fails(SystemExit(3), after=1))
    inner.add(cleans_up_with(inner_error))
    outer.add(inner)
    outer.add(cleans_up_with(outer_error))
    with pytest.raises(SystemExit) as caught:
        await outer.run()
    beside = caught.value.__cause__
    assert isinstance(beside, GroupFailed)
    assert beside.subgroup(lambda error: error is inner_error) is not None
    assert beside.subgroup(lambda error: error is outer_error) is not None


async def test_rule_18_one_cut_at_its_own_grace_is_not_cut_again_at_the_groups(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(name="app", grace=2)
    group.add(deaf(20), name="stuck", grace=1)
    async with in_background(group):
        group.stop()
    assert len([line for line in messages(caplog, logging.WARNING) if ": cut " in line]) == 1
    assert len([line for line in messages(caplog, logging.ERROR) if "not returned" in line]) == 1


async def test_one_that_is_cut_before_its_turn_knows_that_it_is_stopping(
    autojump_clock: MockClock,
) -> None:
    seen: list[bool] = []

    async def store() -> None:
        try:
            await trio.sleep_forever()
        finally:
            seen.append(stopping())

    group = Group(grace=1)
    needed = group.add(store)
    group.add(deaf(5), needs=[needed])
    async with in_background(group):
        group.stop()
    assert seen == [True]
