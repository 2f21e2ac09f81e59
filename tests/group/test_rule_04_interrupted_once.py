"""Rule 4: every actor that was started is interrupted exactly once."""

import trio
from trio.testing import MockClock

from trio_run import (
    ActorReport,
    Cause,
    Group,
)

from .helpers import Worker, after, fails, in_background, outcomes, part, ready_after


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
