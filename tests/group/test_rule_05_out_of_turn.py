"""Rule 5 in a chain where somebody exits or fails out of turn, and rule 15 in the same way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Group, Member

from .helpers import Result, in_background

when_added = pytest.mark.parametrize("late", [False, True], ids=["before", "added"])


def errors_of(result: Result) -> list[Exception]:
    assert result.failed is not None
    return list(result.failed.exceptions)


class Service:
    """An actor in the test's hand: it says what happens to it, and ends when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[str] = []
        self._ended = trio.Event()
        self._error: Exception | None = None

    async def execute(self) -> None:
        self.events.append("runs")
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self.events.append("cancelled")
            raise
        if self._error is not None:
            raise self._error

    def interrupt(self, _cause: Cause) -> None:
        self.events.append("interrupted")

    def end(self, error: Exception | None = None) -> None:
        self._error = error
        self._ended.set()


def services(count: int) -> list[Service]:
    return [Service(f"service {number + 1}") for number in range(count)]


def last_of(chain: list[Service]) -> list[str]:
    """The last that happened to each."""
    return [service.events[-1] for service in chain]


@asynccontextmanager
async def running_chain(
    chain: list[Service], *, late: bool = False, **options: dict[str, Any]
) -> AsyncIterator[tuple[Group, Result]]:
    """Each needs the one before it. Options are for add(): service_2={"on_error": "ignore"}."""
    group = Group(grace=1000)
    previous: Member | None = None

    def add(service: Service) -> None:
        nonlocal previous
        needs = [previous] if previous else []
        previous = group.add(
            service, needs=needs, **options.get(service.name.replace(" ", "_"), {})
        )

    for service in chain[:1] if late else chain:
        add(service)
    async with in_background(group) as result:
        if late:
            for service in chain[1:]:
                add(service)
            await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs"] * len(chain)
        yield group, result


@when_added
async def test_rule_05_an_early_exit_in_the_middle_stops_the_rest_in_order(
    autojump_clock: MockClock, late: bool
) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (_, result):
        second.end()
        await wait_all_tasks_blocked()
        assert [first.events[-1], third.events[-1]] == ["runs", "interrupted"]
        third.end()
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]
        assert second.events == ["runs", "interrupted"]  # its turn came, though it had exited
        first.end()
    assert result.report.cause.actor == "service 2"


async def test_rule_05_a_second_exit_changes_nothing(autojump_clock: MockClock) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain) as (_, result):
        third.end()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "interrupted", "interrupted"]
        second.end()
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]
        first.end()
    assert result.report.cause.actor == "service 3"


@when_added
async def test_rule_05_a_failure_in_the_middle_stops_the_rest_in_order(
    autojump_clock: MockClock, late: bool
) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (_, result):
        error = RuntimeError("first")
        second.end(error)
        await wait_all_tasks_blocked()
        assert [first.events[-1], third.events[-1]] == ["runs", "interrupted"]
        third.end()
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]
        first.end()
    assert errors_of(result) == [error]


@when_added
async def test_rule_05_they_stop_in_order(autojump_clock: MockClock, late: bool) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (group, result):
        group.stop()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "runs", "interrupted"]
        third.end()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "interrupted", "interrupted"]
        second.end()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["interrupted", "interrupted", "interrupted"]
        first.end()
    assert [actor.outcome for actor in result.report.actors] == ["returned"] * 3


async def test_rule_05_a_failure_while_stopping_keeps_the_order(autojump_clock: MockClock) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain) as (group, result):
        group.stop()
        await wait_all_tasks_blocked()
        third.end()
        await wait_all_tasks_blocked()
        error = RuntimeError("while stopping")
        second.end(error)
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]  # and has its grace: it is not cancelled
        first.end()
    assert errors_of(result) == [error]
    assert result.report.cause.reason == "stop() was called"


async def test_rule_05_a_failure_that_is_ignored_while_stopping_keeps_the_order(
    autojump_clock: MockClock,
) -> None:
    chain = first, second, third = services(3)
    ignored, raised = RuntimeError("nobody minds"), RuntimeError("somebody does")
    async with running_chain(chain, service_2={"on_error": "ignore"}) as (group, result):
        group.stop()
        await wait_all_tasks_blocked()
        third.end()
        await wait_all_tasks_blocked()
        second.end(ignored)
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]
        first.end(raised)
    assert errors_of(result) == [raised]
    assert result.report.actors[1].error is ignored


@when_added
async def test_rule_05_an_exit_out_of_turn_keeps_the_order(
    autojump_clock: MockClock, late: bool
) -> None:
    chain = first, second, third = services(3)
    async with running_chain(chain, late=late) as (group, result):
        group.stop()
        await wait_all_tasks_blocked()
        third.end()
        await wait_all_tasks_blocked()
        first.end()  # before its turn
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "interrupted", "interrupted"]
        second.end()
    assert first.events == ["runs", "interrupted"]
    assert [actor.outcome for actor in result.report.actors] == ["returned"] * 3


@pytest.mark.parametrize("policy", ["stop", "ignore"])
async def test_rule_05_a_failure_out_of_turn_keeps_the_order(
    autojump_clock: MockClock, policy: str
) -> None:
    chain = first, second, third = services(3)
    error = RuntimeError("before its turn")
    async with running_chain(chain, service_1={"on_error": policy}) as (group, result):
        group.stop()
        await wait_all_tasks_blocked()
        third.end()
        await wait_all_tasks_blocked()
        first.end(error)
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "interrupted", "interrupted"]
        second.end()
    assert first.events == ["runs", "interrupted"]
    if policy == "stop":
        assert errors_of(result) == [error]
    else:
        assert result.report.actors[0].error is error


async def test_rule_15_a_nested_group_stops_in_its_turn(autojump_clock: MockClock) -> None:
    first, second = services(2)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(second)
    outer.add(inner, needs=[outer.add(first)])
    async with in_background(outer) as result:
        outer.stop()
        await wait_all_tasks_blocked()
        assert [first.events[-1], second.events[-1]] == ["runs", "interrupted"]
        second.end()
        await wait_all_tasks_blocked()
        assert first.events == ["runs", "interrupted"]
        first.end()
    assert result.report.exit_code == 0


async def test_rule_15_a_nested_group_keeps_its_own_order(autojump_clock: MockClock) -> None:
    chain = first, second, third = services(3)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(third, needs=[inner.add(second, needs=[inner.add(first)])])
    outer.add(inner)
    async with in_background(outer):
        outer.stop()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "runs", "interrupted"]
        third.end()
        await wait_all_tasks_blocked()
        assert last_of(chain) == ["runs", "interrupted", "interrupted"]
        first.end()  # before its turn
        second.end()
    assert first.events == ["runs", "interrupted"]
