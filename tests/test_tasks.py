"""BackgroundTasks and every()."""

import functools
import math
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import BackgroundTasks, Cause, Group, GroupFailed, busy, every, stopping
from trio_run.testing import running

Times = dict[str, float]


async def work(times: Times, name: str, seconds: float) -> None:
    """Note when it began, and when it ended and how."""
    times[f"{name} began"] = trio.current_time()
    how = "cut"
    try:
        await trio.sleep(seconds)
        how = "done"
    finally:
        times[f"{name} {how}"] = trio.current_time()


async def fail(error: BaseException) -> None:
    raise error


# BackgroundTasks: where tasks come from.


async def test_tasks_given_before_the_group_runs_begin_with_it(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()
    tasks.start_soon(work, times, "early", 2)
    await trio.sleep(1)
    assert times == {}
    async with running(tasks):
        await trio.sleep(5)
    assert times == {"early began": 1, "early done": 3}


async def test_tasks_may_come_from_other_actors_and_from_outside(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()

    async def other() -> None:
        tasks.start_soon(work, times, "actor's", 4)
        await trio.sleep_forever()

    async with running(tasks, other):
        tasks.start_soon(work, times, "outside", 2)
        await trio.sleep(10)
    assert times == {
        "actor's began": 0,
        "actor's done": 4,
        "outside began": 0,
        "outside done": 2,
    }


async def test_tasks_may_come_from_a_task_of_its_own(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=1)

    async def parent() -> None:
        await work(times, "parent", 1)
        tasks.start_soon(work, times, "child", 1)

    async with running(tasks):
        tasks.start_soon(parent)
        await trio.sleep(10)
    assert times == {"parent began": 0, "parent done": 1, "child began": 1, "child done": 2}


async def test_start_soon_returns_before_the_task_begins() -> None:
    began: list[str] = []
    tasks = BackgroundTasks()

    async def task() -> None:
        began.append("task")

    async with running(tasks):
        tasks.start_soon(task)
        assert began == []
        await wait_all_tasks_blocked()
        assert began == ["task"]


async def test_the_end_of_the_last_task_stops_nobody(autojump_clock: MockClock) -> None:
    tasks = BackgroundTasks()
    tasks.start_soon(trio.sleep, 1)
    async with running(tasks) as group:
        await trio.sleep(5)
        assert group.ready


async def test_whoever_needs_it_may_start_tasks_while_it_drains(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()

    async def worker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            tasks.start_soon(work, times, "last", 3)

    group = Group()
    group.add(worker, needs=[group.add(tasks)])
    async with running(group):
        pass
    assert times == {"last began": 0, "last done": 3}


# BackgroundTasks: the limit.


async def test_the_limit_bounds_how_many_run_at_once_in_their_order(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=2)
    async with running(tasks):
        for name, seconds in [("a", 3), ("b", 1), ("c", 1), ("d", 1)]:
            tasks.start_soon(work, times, name, seconds)
        await trio.sleep(10)
    assert times == {
        "a began": 0,
        "b began": 0,
        "b done": 1,
        "c began": 1,
        "c done": 2,
        "d began": 2,
        "a done": 3,
        "d done": 3,
    }


async def test_without_a_limit_all_run_at_once(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()
    async with running(tasks):
        for number in range(1000):
            tasks.start_soon(work, times, str(number), 1)
        await trio.sleep(10)
    assert set(times.values()) == {0, 1}


async def test_those_that_wait_for_their_turn_are_still_done_after_the_interrupt(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=1)
    async with running(tasks):
        for name in "abc":
            tasks.start_soon(work, times, name, 2)
        await trio.sleep(1)
    assert times == {
        "a began": 0,
        "a done": 2,
        "b began": 2,
        "b done": 4,
        "c began": 4,
        "c done": 6,
    }
    assert tasks.status == "3 done"


@pytest.mark.parametrize("failing", [ValueError("no luck"), ExceptionGroup("x", [ValueError()])])
async def test_a_failed_task_makes_room_for_the_next(
    failing: Exception, autojump_clock: MockClock
) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=1)
    tasks.start_soon(fail, failing)
    tasks.start_soon(work, times, "next", 1)
    async with running(tasks):
        pass
    assert times == {"next began": 0, "next done": 1}


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", math.inf], ids=repr)
def test_a_bad_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be a positive whole number or None, not"):
        BackgroundTasks(limit=limit)


# BackgroundTasks: failures.


async def test_a_task_that_fails_is_logged_and_the_group_goes_on(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    times: Times = {}
    tasks = BackgroundTasks()
    async with running(tasks) as group:
        tasks.start_soon(work, times, "other", 5)
        tasks.start_soon(fail, ValueError("no luck"))
        await trio.sleep(1)
        assert group.ready
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "background tasks: fail failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no luck"
    assert times["other done"] == 5
    assert tasks.status == "1 done, 1 failed"


async def test_a_plain_function_is_a_failed_task(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []
    tasks = BackgroundTasks()
    async with running(tasks) as group:
        tasks.start_soon(called.append, 1)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        assert group.ready
    assert "background tasks: append failed" in caplog.text


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
async def test_rule_13_keyboard_interrupt_in_a_task_stops_the_group_and_propagates(
    raised: type[BaseException], autojump_clock: MockClock
) -> None:
    times: Times = {}

    async def other() -> None:
        with busy():
            await work(times, "other", 3)

    tasks = BackgroundTasks()
    tasks.start_soon(fail, raised())
    group = Group()
    group.add(tasks)
    group.add(other)
    with pytest.raises(BaseException) as caught:
        await group.run()
    error = caught.value
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split(raised)
        assert rest is None
    else:
        assert isinstance(error, raised)
    assert times == {"other began": 0, "other done": 3}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
async def test_rule_13_what_propagates_from_a_task_is_bare_for_python_to_exit_with(
    raised: type[BaseException],
) -> None:
    tasks = BackgroundTasks()
    tasks.start_soon(fail, raised())
    group = Group()
    group.add(tasks)
    with pytest.raises(raised):
        await group.run()


async def test_start_soon_refuses_what_cannot_be_called() -> None:
    tasks = BackgroundTasks()
    with pytest.raises(TypeError, match=r"start_soon\(\) takes an async function"):
        tasks.start_soon("soon")  # type: ignore[arg-type]
    assert tasks.status == ""


async def test_start_soon_refuses_a_coroutine_and_does_not_leave_it_un_awaited() -> None:
    with pytest.raises(TypeError, match=r"start_soon\(\) takes an async function"):
        BackgroundTasks().start_soon(trio.sleep(1))  # type: ignore[arg-type]  # noqa: ASYNC105


# BackgroundTasks: a stop.


async def test_a_stop_waits_for_the_running_tasks(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()
    async with running(tasks) as group:
        tasks.start_soon(work, times, "short", 2)
        tasks.start_soon(work, times, "long", 6)
        await trio.sleep(1)
    assert times["short done"] == 2
    assert times["long done"] == 6
    assert trio.current_time() == 6
    assert group.members[0].state.value == "stopped"


async def test_a_stop_of_an_idle_one_takes_no_time(autojump_clock: MockClock) -> None:
    tasks = BackgroundTasks()
    async with running(tasks):
        await trio.sleep(1)
    assert trio.current_time() == 1
    assert tasks.status == ""


@pytest.mark.parametrize("still_running", [True, False])
async def test_start_soon_after_the_interrupt_is_a_runtime_error_that_tells_the_cure(
    still_running: bool, autojump_clock: MockClock
) -> None:
    tasks = BackgroundTasks(name="mails")
    refused: list[str] = []

    async def task() -> None:
        while not stopping():
            await trio.sleep(1)
        with pytest.raises(RuntimeError, match="'mails' is stopping and takes no more") as caught:
            tasks.start_soon(trio.sleep, 1)
        refused.append(str(caught.value))

    async with running(tasks):
        if still_running:
            tasks.start_soon(task)
    assert len(refused) == still_running
    with pytest.raises(RuntimeError, match="should need it, so as to stop first"):
        tasks.start_soon(trio.sleep, 1)


async def test_the_grace_cuts_the_running_and_those_that_wait_never_begin(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=2)
    async with running(tasks, grace=5) as group:
        for name, seconds in [("a", 2), ("b", 50), ("c", 50), ("d", 1), ("e", 1)]:
            tasks.start_soon(work, times, name, seconds)
    assert times == {
        "a began": 0,
        "b began": 0,
        "a done": 2,
        "c began": 2,
        "b cut": 5,
        "c cut": 5,
    }
    assert group.members[0].status == "2 waiting, 1 done, 2 cut"


async def test_a_hard_cancel_cuts_busy_tasks_too(autojump_clock: MockClock) -> None:
    times: Times = {}
    tasks = BackgroundTasks()

    async def task() -> None:
        with busy():
            await work(times, "busy", 50)

    tasks.start_soon(task)
    async with running(tasks, grace=3):
        pass
    assert times == {"busy began": 0, "busy cut": 3}


async def test_a_task_that_fails_when_it_is_cut_is_logged_and_lets_nobody_begin(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    times: Times = {}
    tasks = BackgroundTasks(limit=1)

    async def stubborn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_when_cut)

    async def fail_when_cut() -> None:
        try:
            await trio.sleep(50)
        except trio.Cancelled:
            raise ValueError("no luck") from None

    tasks.start_soon(stubborn)
    tasks.start_soon(work, times, "waiting", 1)
    async with running(tasks, grace=3):
        pass
    assert times == {}
    assert "background tasks: stubborn failed" in caplog.text
    assert tasks.status == "1 waiting, 1 failed"


async def test_start_soon_once_it_has_been_cut_is_a_clear_error_or_counted_as_waiting(
    autojump_clock: MockClock,
) -> None:
    """At the end of the grace all are cut at once: who needs it may come later than its own end."""
    times: Times = {}
    said: list[str] = []
    tasks = BackgroundTasks()

    async def worker() -> None:
        try:
            with busy():
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            try:
                tasks.start_soon(work, times, "too late", 1)
            except RuntimeError as exc:
                said.append(str(exc))

    group = Group(grace=3)
    group.add(worker, needs=[group.add(tasks)])
    async with running(group):
        pass
    assert times == {}
    assert "running" not in tasks.status
    if said:
        assert "'background tasks'" in said[0]
    else:
        assert "1 waiting" in tasks.status


# BackgroundTasks: what is said of it.


async def test_its_status_counts_what_runs_and_waits_and_in_the_end_what_became_of_all(
    autojump_clock: MockClock,
) -> None:
    tasks = BackgroundTasks(limit=2)
    assert tasks.status == ""
    async with running(tasks) as group:
        for seconds in (1, 10, 10, 10):
            tasks.start_soon(trio.sleep, seconds)
        tasks.start_soon(fail, ValueError())
        assert tasks.status == "2 running, 3 waiting"
        await trio.sleep(5)
        assert tasks.status == "2 running, 2 waiting"
        group.stop()
        await wait_all_tasks_blocked()
        assert tasks.status == "2 running, 2 waiting, 1 done"
    assert group.members[0].status == "4 done, 1 failed"


async def test_thousands_are_told_with_commas() -> None:
    tasks = BackgroundTasks()
    for _ in range(1234):
        tasks.start_soon(trio.lowlevel.checkpoint)
    assert tasks.status == "1,234 waiting"
    async with running(tasks):
        pass
    assert tasks.status == "1,234 done"


async def test_its_name_is_its_actor_s() -> None:
    group = Group()
    assert group.add(BackgroundTasks()).name == "background tasks"
    assert group.add(BackgroundTasks(name="mails")).name == "mails"


# BackgroundTasks: context.

request: ContextVar[str] = ContextVar("request", default="none")


async def test_a_task_has_its_caller_s_context_variables_of_the_moment_it_was_given(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []
    tasks = BackgroundTasks(limit=1)

    async def task() -> None:
        seen.append(request.get())
        request.set("its own")
        await trio.sleep(1)

    async def caller(value: str) -> None:
        request.set(value)
        tasks.start_soon(task)
        request.set("later")
        await trio.sleep_forever()

    request.set("before")
    tasks.start_soon(task)
    request.set("after")
    async with running(
        tasks, functools.partial(caller, "first"), functools.partial(caller, "second")
    ):
        await trio.sleep(10)
    assert seen[0] == "before"
    assert sorted(seen[1:]) == ["first", "second"]
    assert request.get() == "after"


async def test_rule_09_a_task_is_asked_by_the_background_tasks_whoever_gave_it(
    autojump_clock: MockClock,
) -> None:
    """The caller's stop is not the task's; that of the background tasks is."""
    seen: Times = {}
    times: Times = {}
    tasks = BackgroundTasks()

    async def task() -> None:
        with busy():
            await work(times, "busy", 8)

    async def watch() -> None:
        while not stopping():
            await trio.sleep(1)
        seen["told"] = trio.current_time()

    async def caller() -> None:
        tasks.start_soon(task)
        tasks.start_soon(watch)
        await trio.sleep_forever()

    group = Group()
    group.add(tasks)
    member = group.add(caller)
    async with running(group):
        await wait_all_tasks_blocked()
        member.stop()
        await trio.sleep(4.5)
        assert member.state.value == "stopped"
        assert seen == {}
        group.stop(grace=2)  # from 4.5 on: pierces busy() in the task at 6.5
    assert seen == {"told": 5}
    assert times == {"busy began": 0, "busy cut": 6.5}


async def test_giving_a_task_leaves_the_caller_in_its_own_actor(autojump_clock: MockClock) -> None:
    seen: list[bool] = []
    tasks = BackgroundTasks()

    async def caller() -> None:
        tasks.start_soon(trio.sleep, 1)
        try:
            await trio.sleep_forever()
        finally:
            seen.append(stopping())

    group = Group()
    group.add(tasks)
    member = group.add(caller)
    async with running(group):
        await wait_all_tasks_blocked()
        member.stop()
        await member.wait_stopped()
        assert seen == [True]


# The ticker.


async def test_every_ticks_first_after_the_interval_and_then_at_each(
    autojump_clock: MockClock,
) -> None:
    ticks: list[float] = []
    async with running(every(10, lambda: ticks.append(trio.current_time()))):
        await trio.sleep(9)
        assert ticks == []
        await trio.sleep(26)
    assert ticks == [10, 20, 30]


async def test_every_calls_an_async_function_with_its_arguments(autojump_clock: MockClock) -> None:
    ticks: list[tuple[object, ...]] = []

    async def tick(*args: object) -> None:
        await trio.sleep(1)
        ticks.append((*args, trio.current_time()))

    async with running(every(10, tick, "a", 2)):
        await trio.sleep(25)
    assert ticks == [("a", 2, 11), ("a", 2, 21)]


async def test_every_does_not_drift(autojump_clock: MockClock) -> None:
    began: list[float] = []

    async def tick() -> None:
        began.append(trio.current_time())
        await trio.sleep(0.75)

    async with running(every(1, tick)):
        await trio.sleep(100.5)
    assert began == list(range(1, 101))


async def test_every_does_not_save_up_the_ticks_it_missed(autojump_clock: MockClock) -> None:
    began: list[float] = []

    async def tick() -> None:
        began.append(trio.current_time())
        await trio.sleep(25 if len(began) == 1 else 1)

    async with running(every(10, tick)):
        await trio.sleep(65)
    assert began == [10, 40, 50, 60]


async def test_every_as_long_as_its_interval_ticks_at_each(autojump_clock: MockClock) -> None:
    began: list[float] = []

    async def tick() -> None:
        began.append(trio.current_time())
        await trio.sleep(10)

    async with running(every(10, tick)):
        await trio.sleep(45)
    # Over exactly when the next is due: that one has been missed, or comes at once; never both.
    assert began in ([10, 20, 30, 40], [10, 30])


async def test_every_finishes_a_call_in_progress_at_a_stop_and_makes_no_other(
    autojump_clock: MockClock,
) -> None:
    times: Times = {}
    calls = 0

    async def tick() -> None:
        nonlocal calls
        calls += 1
        await work(times, "tick", 30)

    async with running(every(10, tick)):
        await trio.sleep(15)
    assert times == {"tick began": 10, "tick done": 40}
    assert calls == 1
    assert trio.current_time() == 40


async def test_every_stops_at_once_between_two_ticks(autojump_clock: MockClock) -> None:
    async with running(every(10, lambda: None)):
        await trio.sleep(15)
    assert trio.current_time() == 15


async def test_every_is_cut_in_a_call_at_the_end_of_the_grace(autojump_clock: MockClock) -> None:
    times: Times = {}
    async with running(every(10, work, times, "tick", 100), grace=5):
        await trio.sleep(12)
    assert times == {"tick began": 10, "tick cut": 17}


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_every_fails_as_an_actor_when_a_call_raises(
    kind: str, autojump_clock: MockClock
) -> None:
    error = ValueError("no luck")

    def plain() -> None:
        raise error

    group = Group()
    group.add(trio.sleep_forever)
    group.add(every(2, plain) if kind == "plain" else every(2, fail, error))
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    assert caught.value.exceptions == (error,)
    assert caught.value.report.cause.actor in ("plain every 2 s", "fail every 2 s")
    assert trio.current_time() == 2


async def test_every_says_in_its_name_what_it_calls() -> None:
    def reload() -> None: ...

    group = Group()
    assert group.add(every(0.5, reload)).name == "reload every 0.5 s"
    assert group.add(every(3600, functools.partial(reload))).name == "partial every 3600 s"


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_every_refuses_an_interval_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"every\(\) takes a positive number of seconds"):
        every(seconds, print)


def test_every_refuses_an_interval_that_is_no_number() -> None:
    with pytest.raises(TypeError):
        every("10", print)  # type: ignore[arg-type]


def test_every_refuses_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"every\(\) takes a number of seconds and a function"):
        every(10, "soon")  # type: ignore[arg-type]


async def test_a_stop_cause_reaches_an_actor_beside_background_tasks() -> None:
    seen: list[Cause] = []
    asked = trio.Event()

    def interrupt(cause: Cause) -> None:
        seen.append(cause)
        asked.set()

    group = Group()
    group.add(BackgroundTasks())
    group.add(asked.wait, interrupt)
    async with running(group):
        group.stop("enough")
    assert [cause.reason for cause in seen] == ["enough"]
