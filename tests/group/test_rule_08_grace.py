"""Rules 8 and 10: until when a stop may take, and when run() returns."""

import math

import pytest
import trio
from trio.testing import MockClock

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    State,
    busy,
)

from .helpers import Worker, after, ends_in, fails, ignored, in_background, outcomes, part

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
