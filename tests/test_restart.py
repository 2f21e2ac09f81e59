"""Rule 24: an actor that is begun anew."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import signal
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    CannotStart,
    Cause,
    Event,
    Group,
    GroupFailed,
    Report,
    Restarting,
    SignalReceiver,
    TCPListener,
    busy,
    cancel_on_stop,
    current_group,
    stopping,
    wait_stopping,
)
from trio_run._restart import Backoff

from .group.helpers import Worker, failure_of, in_background, part
from .ports import free_port

exactly = partial(Restarting, first=1, most=1)  # it waits 0.5 to 1 s
BOOM = ValueError("boom")


class Flaky:
    """Its first lives fail after a second each; the next goes on."""

    def __init__(self, failures: int = 1, error: Exception = BOOM, lasts: float = 1.0) -> None:
        self.failures = failures
        self.error = error
        self.lasts = lasts
        self.begun: list[float] = []

    async def __call__(self) -> None:
        self.begun.append(trio.current_time())
        if len(self.begun) <= self.failures:
            await trio.sleep(self.lasts)
            raise self.error
        await trio.sleep_forever()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]


async def run_for(group: Group, seconds: float) -> Report:
    async with in_background(group) as result:
        await trio.sleep(seconds)
        group.stop()
    assert result.failed is None
    return result.report


async def test_rule_24_one_that_failed_is_begun_anew_after_a_wait(
    autojump_clock: MockClock,
) -> None:
    flaky = Flaky(failures=4)
    group = Group()
    group.add(Restarting(flaky, first=2, most=10))
    await run_for(group, 100)
    waits = [later - earlier - 1 for earlier, later in itertools.pairwise(flaky.begun)]
    assert len(waits) == 4
    for wait, longest in zip(waits, (2, 4, 8, 10), strict=True):
        assert longest / 2 <= wait <= longest


async def test_rule_24_only_that_actor_is_begun_anew(autojump_clock: MockClock) -> None:
    worker = Worker()
    group = Group()
    group.add(worker)
    group.add(exactly(Flaky()))
    await run_for(group, 10)
    assert worker.events == ["worker begins", "worker is interrupted", "worker ends"]


async def test_rule_24_a_return_ends_it_and_stops_the_group(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(trio.sleep_forever, name="other")
    group.add(Restarting(partial(trio.sleep, 3), name="job"))
    report = await group.run()
    assert report.cause.reason == "'job' returned"
    assert (part(report, "job").stopped, part(report, "job").detail) == (3, "")


async def test_rule_24_always_begins_one_that_returned_anew_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group(name="shop")
    group.add(exactly(partial(trio.sleep, 3), on="always", name="job", limit=0))
    report = await run_for(group, 5)
    assert part(report, "job").detail == "2 lives: 1 returned after 3.0 s; 2 stopped"
    [line] = [message for message in messages(caplog) if "life" in message]
    assert line.startswith("shop: life 2 of 'job' begins in ")


async def test_rule_24_an_always_that_returns_at_a_stop_is_not_begun_anew(
    autojump_clock: MockClock,
) -> None:
    begun = []

    async def job() -> None:
        begun.append(trio.current_time())
        await wait_stopping()

    async def slow() -> None:
        with busy():
            await trio.sleep(5)

    group = Group()
    group.add(Restarting(lambda: (job, begun)[0], on="always", first=0, most=0, name="job"))
    group.add(slow)
    await run_for(group, 1)
    assert begun == [0]


async def test_rule_24_a_life_longer_than_within_sets_the_wait_back(
    autojump_clock: MockClock,
) -> None:
    backoff = Backoff(1, 60, math.inf, within=300)
    for lived, longest in ((0, 1), (300, 2), (10, 4), (301, 1), (0, 2)):
        assert longest / 2 <= backoff.wait_after(lived) <= longest
    for _ in range(2000):
        assert backoff.wait_after(0) <= 60


async def test_rule_24_the_wait_is_random() -> None:
    assert len({Backoff(1, 60, 10, 300).wait_after(0) for _ in range(10)}) > 1


async def test_rule_24_too_many_failures_are_a_failure_with_all_of_them_inside(
    autojump_clock: MockClock,
) -> None:
    errors: list[Exception] = []

    async def failing() -> None:
        await trio.sleep(1)
        errors.append(ValueError(f"number {len(errors) + 1}"))
        raise errors[-1]

    group = Group()
    group.add(exactly(failing, limit=3))
    failed = await failure_of(group)
    [error] = failed.exceptions
    assert isinstance(error, ExceptionGroup)
    assert list(error.exceptions) == errors
    assert len(errors) == 4
    assert error.message == "'failing' failed 4 times in 300 s"
    assert error.__notes__ == ["in actor 'failing' of group 'group'"]
    assert failed.report.cause.error is error


async def test_rule_24_failures_that_are_long_ago_do_not_count(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=10, lasts=4)
    group = Group()
    group.add(exactly(flaky, limit=2, within=10))  # the third comes after 9 to 10 s
    assert len(part((await failure_of(group)).report, "Flaky").detail.split(";")) == 3
    flaky = Flaky(failures=10, lasts=6)
    group = Group()
    group.add(exactly(flaky, limit=2, within=10))
    await run_for(group, 100)
    assert len(flaky.begun) == 11


async def test_rule_24_a_limit_of_none_at_all_and_one_without_end(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    group.add(exactly(Flaky(), limit=0))
    [error] = (await failure_of(group)).exceptions
    assert isinstance(error, ExceptionGroup)
    assert error.exceptions == (BOOM,)
    flaky = Flaky(failures=30, lasts=0)
    group = Group()
    group.add(exactly(flaky, limit=math.inf))
    await run_for(group, 2000)
    assert len(flaky.begun) == 31


async def test_rule_24_cannot_start_in_the_first_life_is_a_failure_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    error = CannotStart("no key in /etc/shop")
    group = Group()
    group.add(Restarting(Flaky(error=error, lasts=0)))
    failed = await failure_of(group)
    assert failed.exceptions == (error,)
    assert part(failed.report, "Flaky").detail == ""
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_rule_24_cannot_start_in_a_later_life_is_one_failure(
    autojump_clock: MockClock,
) -> None:
    lives = 0

    async def actor() -> None:
        nonlocal lives
        lives += 1
        await trio.sleep(1)
        if lives < 3:
            raise CannotStart("gone") if lives == 2 else BOOM
        await trio.sleep_forever()

    group = Group()
    group.add(exactly(actor))
    await run_for(group, 20)
    assert lives == 3


async def test_rule_24_start_within_bounds_the_start_of_each_life(
    autojump_clock: MockClock,
) -> None:
    class Store:
        status = "connecting"
        lives = 0

        async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
            Store.lives += 1
            if Store.lives == 2:
                task_status.started()
            with busy():  # to be cut is a hard cancel
                await trio.sleep(100)

    group = Group()
    group.add(exactly(Store, start_within=3))
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        assert 3.5 <= trio.current_time() <= 4
        await trio.sleep(50)
        group.stop(grace=0)
    [actor] = group.members
    assert actor.status.startswith(
        "2 lives: 1 failed after 3.0 s: TimeoutError: actor 'Store' was not ready within 3 s: "
        "connecting; 2"
    )


# While it is down.


async def test_rule_24_while_it_is_down_its_group_is_not_ready(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = Group(name="shop")
    events: list[Event] = []
    group.on_event(events.append)
    group.add(exactly(Flaky(), name="upstream", first=1))
    async with in_background(group):
        assert group.ready
        await trio.sleep(1.4)
        assert not group.ready
        await trio.sleep(1)
        assert group.ready
        group.stop()
    assert [(event.kind, event.actor) for event in events] == [
        ("ready", "upstream"),
        ("ready", None),
        ("not ready", None),
        ("failed", "upstream"),
        ("restarted", "upstream"),
        ("ready", None),
        ("stop began", None),
        ("not ready", None),
        ("interrupted", "upstream"),
        ("stopped", "upstream"),
        ("over", None),
    ]
    fields = {event.kind: dict(event.fields) for event in events}
    assert fields["failed"] == {"error": BOOM, "ignored": True}
    assert fields["restarted"] == {"lives": 2, "error": BOOM}
    lines = messages(caplog)
    assert lines[:3] == [
        "shop: ready",
        "shop: not ready",
        "shop: life 1 of 'upstream' failed: ValueError: boom",
    ]
    assert lines[3].startswith("shop: life 2 of 'upstream' begins in ")
    assert lines[4:] == ["shop: ready again", "shop: stopping: stop() was called"]
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is BOOM
    assert record.levelno == logging.ERROR


async def test_rule_24_one_that_was_stopped_alone_does_not_count_in_readiness(
    autojump_clock: MockClock,
) -> None:
    group = Group()
    member = group.add(Restarting(Flaky(), first=50))
    group.add(trio.sleep_forever)
    async with in_background(group):
        await trio.sleep(2)
        assert not group.ready
        member.stop()
        assert group.ready
        await member.wait_stopped()
        assert trio.current_time() == 2
        assert member.outcome == "returned"
        group.stop()


async def test_rule_24_its_actor_may_say_that_it_is_not_fit(autojump_clock: MockClock) -> None:
    class Upstream:
        ready = True

        async def execute(self) -> None:
            await trio.sleep(1)
            self.ready = False
            await trio.sleep_forever()

    group = Group()
    group.add(Restarting(Upstream))
    async with in_background(group):
        assert group.ready
        await trio.sleep(2)
        assert not group.ready
        group.stop()


async def test_rule_24_it_is_ready_when_a_life_first_is(autojump_clock: MockClock) -> None:
    lives = 0

    async def upstream(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        await trio.sleep(1)
        if lives < 3:
            raise BOOM
        task_status.started()
        await trio.sleep_forever()

    group = Group()
    member = group.add(exactly(upstream))
    group.add(trio.sleep_forever, needs=[member], name="user")
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        assert lives == 3
        assert 4 <= trio.current_time() <= 5
        group.stop()


async def test_rule_24_the_status_says_in_which_life_it_is(autojump_clock: MockClock) -> None:
    class Upstream:
        status = "3 busy"
        count = 0

        async def execute(self) -> None:
            Upstream.count += 1
            await trio.sleep(1)
            if Upstream.count == 1:
                raise BOOM
            await trio.sleep_forever()

    group = Group()
    restarting = exactly(Upstream)
    assert (restarting.status, restarting.ready) == ("", False)
    group.add(restarting)
    async with in_background(group) as result:
        assert restarting.status == "3 busy"
        await trio.sleep(1.2)
        assert restarting.status == "down: life 1 failed after 1.0 s: ValueError: boom"
        await trio.sleep(1)
        assert restarting.status == "life 2: 3 busy"
        group.stop()
    assert (
        part(result.report, "Upstream").detail
        == "2 lives: 1 failed after 1.0 s: ValueError: boom; 2 stopped: 3 busy"
    )


async def test_rule_24_the_report_tells_of_the_last_20_lives(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(exactly(Flaky(failures=30), limit=99))
    detail = part(await run_for(group, 1000), "Flaky").detail
    count, lives = detail.split(": ", 1)
    assert count == "31 lives"
    told = lives.split("; ")
    assert [int(life.split()[0]) for life in told] == list(range(12, 32))
    assert told[0] == "12 failed after 1.0 s: ValueError: boom"
    assert told[-1] == "31 stopped"


# Stops.


class Deaf:
    """Is slow to be ready, and slower to go. Its first two lives fail."""

    status = "counting"
    lives = 0

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(6)
        Deaf.lives += 1
        if Deaf.lives == 2:
            raise BOOM
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(1 if Deaf.lives == 1 else 100)
        raise BOOM

    def interrupt(self, _cause: Cause) -> None:
        pass


async def test_rule_24_who_holds_up_what_is_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    Deaf.lives = 0
    group = Group(grace=7)
    group.add(Restarting(Deaf))
    group.add(trio.sleep_forever)
    with caplog.at_level("INFO"):
        with contextlib.suppress(GroupFailed):
            async with in_background(group):
                await trio.sleep(40)
                group.stop()
    said = [each for each in messages(caplog) if "waiting for" in each or ": cut " in each]
    assert said[:7] == [
        "group: 5 s into the start, waiting for Deaf (counting)",
        "Deaf (life 2): 5 s into the start, waiting for Deaf (counting)",
        "Deaf (life 3): 5 s into the start, waiting for Deaf (counting)",
        "group: 5 s into the stop, waiting for Deaf (life 3: counting)",
        "group: the grace of 7 s is over: cut Deaf (life 3: counting)",
        "group: 10 s into the stop, waiting for Deaf (life 3: counting)",
        "group: 15 s into the stop, waiting for Deaf (life 3: counting)",
    ]
    assert sum("has not returned 5 s after" in each for each in messages(caplog)) == 1


@pytest.mark.parametrize("at", [0.0, 0.5, 1.2])
async def test_rule_24_a_stop_ends_it_at_once_and_nothing_is_begun_after_it(
    autojump_clock: MockClock, at: float
) -> None:
    flaky = Flaky(failures=5)
    group = Group()
    group.add(Restarting(flaky, first=50))
    report = await run_for(group, at)
    assert flaky.begun == [0]
    assert trio.current_time() == at
    assert part(report, "Flaky").outcome == "returned"


@pytest.mark.parametrize("on", ["failure", "always"])
async def test_rule_24_nothing_is_begun_after_a_stop_though_the_interrupt_comes_later(
    autojump_clock: MockClock, on: Any
) -> None:
    flaky = Flaky()
    group = Group(lame_duck=9)
    store = group.add(exactly(flaky, on=on))
    group.add(Worker(closing=5), needs=[store])
    async with in_background(group) as result:
        await trio.sleep(1.2)
        group.stop()
    assert flaky.begun == [0]
    assert part(result.report, "Flaky").stopped == 15.2
    assert part(result.report, "Flaky").interrupted == 15.2


async def test_rule_24_an_always_that_returns_in_a_lame_duck_does_not_end_it(
    autojump_clock: MockClock,
) -> None:
    begun = []

    async def job() -> None:
        begun.append(trio.current_time())
        await trio.sleep(2)

    group = Group(lame_duck=9)
    group.add(Restarting(job, on="always"))
    report = await run_for(group, 1)
    assert begun == [0]
    assert (part(report, "job").stopped, report.duration) == (10, 9)


async def test_rule_24_a_stop_before_it_was_ever_ready_is_no_failure(
    autojump_clock: MockClock,
) -> None:
    async def starting(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        raise BOOM

    def no_luck() -> object:
        raise BOOM

    for make in (starting, no_luck):
        group = Group()
        daemon = group.add(Restarting(make, first=50, name="daemon"), daemon=True)
        group.add(Worker(closing=3))
        report = await run_for(group, 2)
        assert part(report, "daemon").outcome == "returned"
        assert daemon.outcome == "returned"


async def test_rule_24_a_failure_before_the_stop_is_logged_and_no_failure_of_the_group(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def execute(self) -> None:
            raise BOOM

        async def interrupt(self, _cause: Cause) -> None:
            await trio.sleep(3)

    group = Group()
    group.add(Restarting(Failing))
    report = await run_for(group, 1)
    assert part(report, "Failing").detail == "1 life: 1 failed after 3.0 s: ValueError: boom"
    assert "life 1 of 'Failing' failed: ValueError: boom" in caplog.text
    assert "begins in" not in caplog.text


async def test_rule_24_a_failure_after_a_stop_has_come_is_no_restart(
    autojump_clock: MockClock,
) -> None:
    flaky = Flaky(lasts=4)
    group = Group(lame_duck=9)
    group.add(exactly(flaky))
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (BOOM,)
    assert flaky.begun == [0]


async def test_rule_24_a_failure_when_it_is_interrupted_is_raised_itself(
    autojump_clock: MockClock,
) -> None:
    error = OSError("disk full")

    async def saves() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    group.add(Restarting(saves))
    async with in_background(group) as result:
        group.stop()
    assert result.failed is not None
    assert result.failed.exceptions == (error,)
    assert isinstance(error.__context__, trio.Cancelled)
    assert part(result.failed.report, "saves").outcome == "failed"


async def test_rule_24_a_stop_that_make_brings_about_comes_first(
    autojump_clock: MockClock,
) -> None:
    begun = []

    async def actor() -> None:
        begun.append(1)

    def make() -> object:
        group.stop("make() has stopped it")
        return actor

    group = Group()
    group.add(trio.sleep_forever)
    group.add(Restarting(make), daemon=True)
    assert (await group.run()).cause.reason == "make() has stopped it"
    assert begun == []


async def test_rule_24_a_stop_by_who_hears_of_the_restart_comes_first(
    autojump_clock: MockClock,
) -> None:
    flaky = Flaky()
    group = Group()
    group.on_event(lambda event: group.stop() if event.kind == "restarted" else None)
    group.add(exactly(flaky))
    report = await group.run()
    assert flaky.begun == [0]
    assert part(report, "Flaky").detail == "1 life: 1 failed after 1.0 s: ValueError: boom"


async def test_rule_24_cancelled_from_outside_it_is_cut(autojump_clock: MockClock) -> None:
    for make in (trio.sleep_forever, Flaky(failures=5)):  # in a life, and between two
        group = Group()
        member = group.add(Restarting(make, first=50))
        with trio.move_on_after(2) as scope:
            await group.run()
        assert scope.cancelled_caught
        assert member.outcome == "cut"


async def test_rule_24_cancelled_from_outside_a_failure_is_not_lost(
    autojump_clock: MockClock,
) -> None:
    async def saves() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise BOOM

    group = Group()
    group.add(Restarting(saves))
    with trio.move_on_after(2):
        failed = await failure_of(group)
    assert failed.exceptions == (BOOM,)


# What an actor is promised in a group.


async def test_rule_24_its_actor_is_interrupted_once_with_the_cause(
    autojump_clock: MockClock,
) -> None:
    worker = Worker(closing=2)
    group = Group()
    group.add(Restarting(lambda: worker, name="worker"))
    report = await run_for(group, 1)
    assert worker.causes == [report.cause]
    assert worker.causes[0] is report.cause
    assert worker.asked_at == [1]
    assert part(report, "worker").stopped == 3


async def test_rule_24_one_that_failed_is_interrupted_with_its_own_failure(
    autojump_clock: MockClock,
) -> None:
    causes: list[Cause] = []

    class Failing:
        async def execute(self) -> None:
            if not causes:
                raise BOOM
            await trio.sleep_forever()

        async def interrupt(self, cause: Cause) -> None:
            causes.append(cause)

    group = Group()
    group.add(exactly(Failing))
    report = await run_for(group, 5)
    assert [cause.error for cause in causes] == [BOOM, None]
    assert causes[1] == report.cause


async def test_rule_24_a_failure_with_one_of_its_interrupt_is_both(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    also = OSError("not closed")

    class Failing:
        async def execute(self) -> None:
            raise BOOM

        def interrupt(self, _cause: Cause) -> None:
            raise also

    group = Group()
    group.add(exactly(Failing, limit=0))
    [error] = (await failure_of(group)).exceptions
    assert isinstance(error, ExceptionGroup)
    [both] = error.exceptions
    assert isinstance(both, GroupFailed)
    assert both.exceptions == (BOOM, also)


@pytest.mark.parametrize(("own", "expected"), [(None, 7), (3, 3)])
async def test_rule_24_a_stuck_interrupt_does_not_hold_up_the_next_life_for_ever(
    autojump_clock: MockClock, own: float | None, expected: float
) -> None:
    begun: list[float] = []

    class Failing:
        async def execute(self) -> None:
            begun.append(trio.current_time())
            if len(begun) == 1:
                raise BOOM
            await trio.sleep_forever()

        async def interrupt(self, _cause: Cause) -> None:
            if len(begun) == 1:
                await trio.sleep_forever()

    group = Group(grace=7)
    group.add(Restarting(Failing, first=0), grace=own)
    async with in_background(group):
        await trio.sleep(100)
        group.stop(grace=0)
    assert begun == [0, expected]


async def test_rule_24_busy_and_the_rest_work_as_ever(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, object]] = []

    async def actor() -> None:
        with busy():
            with cancel_on_stop() as scope:
                await trio.sleep_forever()
            seen.append(("cancelled", scope.cancelled_caught))
            seen.append(("stopping", stopping()))
            await wait_stopping()
            await trio.sleep(3)
            seen.append(("finished", trio.current_time()))
        await trio.sleep_forever()

    group = Group()
    group.add(Restarting(actor))
    report = await run_for(group, 1)
    assert seen == [("cancelled", True), ("stopping", True), ("finished", 4)]
    assert part(report, "actor").outcome == "returned"


async def test_rule_24_code_in_a_life_is_in_the_group(autojump_clock: MockClock) -> None:
    seen: list[Group | None] = []

    async def actor() -> None:
        seen.append(current_group())
        group.stop()
        await trio.sleep_forever()

    group = Group()
    group.add(Restarting(actor))
    await group.run()
    assert seen == [group]


@pytest.mark.parametrize("whose", ["group", "member", "actor"])
async def test_rule_24_what_outlasts_a_grace_is_cut(autojump_clock: MockClock, whose: str) -> None:
    class Stubborn:
        if whose == "actor":
            grace = 4

        async def execute(self) -> None:
            with busy():
                await trio.sleep_forever()

    group = Group(grace=4 if whose == "group" else 30)
    group.add(Restarting(Stubborn), grace=4 if whose == "member" else None)
    async with in_background(group) as result:
        await trio.sleep(1)
        group.stop()
    assert result.ended_at == 5
    assert part(result.report, "Stubborn").outcome == "cut"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_rule_24_an_exit_is_no_failure(
    autojump_clock: MockClock, error: type[BaseException]
) -> None:
    async def actor() -> None:
        raise error

    worker = Worker(closing=1)
    group = Group()
    group.add(worker)
    group.add(Restarting(actor))
    with pytest.raises(error):
        await group.run()
    assert worker.events[-1] == "worker ends"


async def test_rule_24_a_life_may_be_a_signal_receiver(autojump_clock: MockClock) -> None:
    group = Group()
    group.add(trio.sleep_forever)
    group.add(Restarting(lambda: SignalReceiver(signal.SIGTERM)), daemon=True)
    async with in_background(group) as result:
        signal.raise_signal(signal.SIGTERM)
    assert result.report.cause.signal is signal.SIGTERM
    group = Group()
    group.add(Worker(closing=100))
    group.add(Restarting(lambda: SignalReceiver(signal.SIGTERM)), daemon=True)
    async with in_background(group) as result:
        signal.raise_signal(signal.SIGTERM)
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGTERM)
    assert result.report.exit_code == 128 + signal.SIGTERM


async def test_rule_24_a_life_may_be_a_group(autojump_clock: MockClock) -> None:
    inner: list[Group] = []
    flaky = Flaky()

    def make() -> Group:
        inner.append(Group(name="inner"))
        inner[-1].add(flaky)
        inner[-1].add(trio.sleep_forever)
        return inner[-1]

    group = Group()
    group.add(exactly(make))
    report = await run_for(group, 5)
    assert len(inner) == 2
    assert "2 lives: 1 failed after 1.0 s: GroupFailed: " in part(report, "make").detail
    group = Group()
    group.add(exactly(lambda: inner[0], limit=0))
    [too_many] = (await failure_of(group)).exceptions
    assert isinstance(too_many, ExceptionGroup)
    assert "has run before" in str(too_many.exceptions[0])


async def test_rule_24_a_life_may_be_a_restarting(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=5)
    group = Group(name="shop")
    events: list[Event] = []
    group.on_event(events.append)
    group.add(exactly(lambda: exactly(flaky, limit=1), name="outer"))
    report = await run_for(group, 20)
    assert len(flaky.begun) == 6
    assert "3 lives: 1 failed after" in part(report, "outer").detail
    assert {event.actor for event in events if event.kind == "restarted"} == {"outer"}


@pytest.mark.parametrize("stops_alone", [True, False])
@pytest.mark.parametrize("at", [0.5, 1.2])
async def test_rule_24_in_a_restarting_nothing_is_begun_after_a_stop_either(
    autojump_clock: MockClock, at: float, stops_alone: bool
) -> None:
    flaky = Flaky(failures=5, error=ValueError("boom"))
    inner = Restarting(flaky, first=2)
    group = Group(lame_duck=0 if stops_alone else 9)
    member = group.add(Restarting(lambda: inner))
    group.add(Worker(closing=8), needs=[member])
    async with in_background(group) as result:
        await trio.sleep(at)
        if stops_alone:
            member.stop()
            await trio.sleep(10)
        group.stop()
    assert len(flaky.begun) == 1
    assert (result.failed is None) == (at == 1.2)  # else its failure came after the stop


@pytest.mark.parametrize("fixed", [True, False])
async def test_rule_24_a_life_may_be_a_listener(autojump_clock: MockClock, fixed: bool) -> None:
    port = free_port() if fixed else 0
    listeners: list[TCPListener] = []
    fail = trio.Event()

    async def echo(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    class Failing(TCPListener):
        async def execute(self, **options: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fails_once)
                await super().execute(**options)

        async def fails_once(self) -> None:
            if len(listeners) == 1:
                await fail.wait()
                raise BOOM

    def make() -> TCPListener:
        listeners.append(Failing(echo, port, host="127.0.0.1"))
        return listeners[-1]

    async def asks(listener: TCPListener) -> None:
        async with await trio.open_tcp_stream(*listener.addresses[0]) as client:
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"

    group = Group()
    group.add(exactly(make))
    async with trio.open_nursery() as nursery:
        await nursery.start(group.run)
        await asks(listeners[0])
        async with await trio.open_tcp_stream(*listeners[0].addresses[0]):  # one goes on
            fail.set()
            await wait_all_tasks_blocked()
            assert not group.ready
            await trio.sleep(2)
            assert group.ready
            await asks(listeners[1])
        group.stop()
    assert len(listeners) == 2


# What make() may be, and what not.


async def test_rule_24_a_make_that_raises_is_a_life_that_failed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    makes: list[float] = []

    def make() -> Callable[[], Awaitable[None]]:
        makes.append(trio.current_time())
        if len(makes) < 3:
            raise BOOM
        return trio.sleep_forever

    group = Group()
    group.add(exactly(make))
    report = await run_for(group, 5)
    assert len(makes) == 3
    assert part(report, "make").detail == (
        "3 lives: 1 failed after 0.0 s: ValueError: boom; 2 failed after 0.0 s: ValueError: boom; "
        "3 stopped"
    )
    assert "life 1 of 'make' failed: ValueError: boom" in caplog.text


async def test_rule_24_a_make_that_cannot_start_is_a_failure_at_once() -> None:
    error = CannotStart("no such file")

    def make() -> object:
        raise error

    group = Group()
    group.add(Restarting(make))
    assert (await failure_of(group)).exceptions == (error,)


@pytest.mark.parametrize("given", ["a string", 7, trio.lowlevel.checkpoint, Worker])
async def test_rule_24_what_is_no_actor_is_an_error_at_once(given: Any) -> None:
    actor = given() if given is trio.lowlevel.checkpoint else given  # a coroutine
    group = Group()
    group.add(Restarting(lambda: actor, name="job"))
    [error] = (await failure_of(group)).exceptions
    assert isinstance(error, TypeError)
    assert str(error).startswith(
        "the make() of 'job' must give an actor or be an async function, and gave "
    )


async def test_rule_24_an_async_function_is_its_own_make(autojump_clock: MockClock) -> None:
    class Called:
        async def __call__(self) -> None:
            await trio.sleep(1)

        async def method(self) -> None:
            await trio.sleep(1)

    names = ["sleep", "Called", "method", "restarting"]
    makes = [partial(trio.sleep, 1), Called(), Called().method, lambda: Called().method]
    for make, name in zip(makes, names, strict=True):
        group = Group()
        restarting = Restarting(make)
        assert restarting.name == name
        group.add(restarting)
        report = await group.run()
        assert report.cause.actor == name
    assert trio.current_time() == 4


@pytest.mark.parametrize("make", [7, Worker()])
def test_rule_24_make_is_a_function(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Restarting\(\) takes a function that makes the actor"):
        Restarting(make)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "error"}, 'on must be "failure" or "always"'),
        ({"first": -1}, "first must be a number of seconds"),
        ({"first": 61}, "first=61 is more than most=60"),
        ({"most": math.nan}, "most must be a number of seconds"),
        ({"limit": -1}, "limit must be a whole number"),
        ({"limit": 1.5}, "limit must be a whole number"),
        ({"limit": True}, "limit must be a whole number"),
        ({"within": -1}, "within must be a number of seconds"),
        ({"start_within": -1}, "start_within must be a number of seconds"),
    ],
)
def test_rule_24_an_argument_that_cannot_be_right_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Restarting(trio.sleep_forever, **options)


async def test_rule_24_it_belongs_in_a_group_and_runs_once(autojump_clock: MockClock) -> None:
    restarting = Restarting(partial(trio.sleep, 1))
    with pytest.raises(RuntimeError, match=r"add\(\) it to one"):
        await restarting.execute()
    group = Group()
    group.add(restarting)
    await group.run()
    group = Group()
    group.add(restarting)
    [error] = (await failure_of(group)).exceptions
    assert "a Restarting runs once" in str(error)


async def test_rule_24_a_life_that_is_over_is_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("trio_run"), "disabled", True)  # pytest keeps records
    lives: list[weakref.ref[object]] = []

    class Actor:
        async def execute(self) -> None:
            lives.append(weakref.ref(self))
            await trio.sleep(400)
            raise ValueError(self)

    group = Group()
    group.add(Restarting(Actor))
    async with in_background(group):
        await trio.sleep(3000)
        gc.collect()
        assert [life() is None for life in lives][:-2] == [True] * (len(lives) - 2)
        assert len(lives) > 5
        group.stop()
