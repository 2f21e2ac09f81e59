"""Objects of a user that raise wherever they are touched: the group keeps its promises all the
same.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_run import Cause, Group, GroupFailed, State, busy
from trio_run.testing import running


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """It takes no note, and no attribute at all."""

    code: int = 7


class NotesNoList(Exception):
    __notes__ = "these are no list"  # type: ignore[assignment] # that is the point


class SetsNothing(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("no attributes")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class NeverTrue(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equal")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class Underivable(ExceptionGroup[Exception]):
    def derive(self, _excs: Any) -> Any:
        raise RuntimeError("no derive")


def deep(depth: int = 600) -> Exception:
    error: Exception = ValueError("at the bottom")
    for _ in range(depth):
        error = ExceptionGroup("deep", [error])
    return error


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "frozen": Frozen,
    "notes that are no list": NotesNoList,
    "sets nothing": SetsNothing,
    "mute": Mute,
    "never true": NeverTrue,
    "underivable": lambda: Underivable("underivable", [ValueError()]),
    "600 deep": deep,
}


async def in_execute(error: Exception, group: Group) -> None:
    async def actor() -> None:
        raise error

    group.add(actor, name="bad")


async def in_plain_interrupt(error: Exception, group: Group) -> None:
    def interrupt(_cause: Cause) -> None:
        raise error

    group.add(trio.sleep_forever, interrupt, name="bad")
    group.add(trio.lowlevel.checkpoint)


async def in_async_interrupt(error: Exception, group: Group) -> None:
    async def interrupt(_cause: Cause) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    group.add(trio.sleep_forever, interrupt, name="bad")
    group.add(trio.lowlevel.checkpoint)


async def in_both(error: Exception, group: Group) -> None:
    async def execute() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    def interrupt(_cause: Cause) -> None:
        raise error

    group.add(execute, interrupt, name="bad")
    group.add(trio.lowlevel.checkpoint)


@pytest.mark.parametrize("where", [in_execute, in_plain_interrupt, in_async_interrupt, in_both])
@pytest.mark.parametrize("kind", EXCEPTIONS)
async def test_rule_11_the_object_itself_is_raised_whatever_it_does(
    kind: str,
    where: Callable[[Exception, Group], Awaitable[None]],
    autojump_clock: MockClock,
) -> None:
    error = EXCEPTIONS[kind]()
    group = Group(grace=5)
    finished = []

    async def polite() -> None:
        with busy():
            await trio.sleep(2)
            finished.append(True)
        await trio.sleep_forever()

    group.add(polite)
    await where(error, group)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    assert len(caught.value.exceptions) == 1
    assert caught.value.exceptions[0] is error
    assert finished == [True]
    assert group.state is State.STOPPED
    assert "bad" in str(caught.value.report)


class Raising(logging.Handler):
    def emit(self, _record: logging.LogRecord) -> None:
        raise OSError("the disk of the log is full")


class RaisingFilter(logging.Filter):
    def filter(self, _record: logging.LogRecord) -> bool:
        raise OSError("the filter is broken")


@pytest.mark.parametrize("by", ["handler", "filter"])
@pytest.mark.parametrize("fails", [True, False])
async def test_rule_11_what_logging_raises_is_a_failure_beside_the_first(
    by: str, fails: bool, autojump_clock: MockClock
) -> None:
    logger = logging.getLogger("trio_run")
    handler, log_filter = Raising(), RaisingFilter()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler) if by == "handler" else logger.addFilter(log_filter)
    error = ValueError("the failure")
    finished = []

    async def polite() -> None:
        with busy():
            await trio.sleep(7)  # held up, which is logged, too
            finished.append(True)

    async def first() -> None:
        await trio.sleep(1)
        if fails:
            raise error

    group = Group()
    group.add(polite)
    group.add(first)
    try:
        with pytest.raises(GroupFailed) as caught:
            await group.run()
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(log_filter)
        logger.setLevel(before)
    *own, beside = caught.value.exceptions
    assert own == ([error] if fails else [])
    assert isinstance(beside, OSError)
    assert "in the logging of group 'group'" in beside.__notes__
    assert finished == [True]


async def test_an_exit_out_of_logging_stops_the_group_and_is_raised() -> None:
    class Exiting(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise SystemExit(3)

    logger = logging.getLogger("trio_run")
    handler = Exiting()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    group = Group()
    group.add(trio.sleep_forever)
    try:
        with pytest.raises(SystemExit):
            await group.run()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert group.state is State.STOPPED


async def test_a_group_subclass_keeps_its_attributes_when_its_actor_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    class Detailed(ExceptionGroup[Exception]):
        detail = ""

    error = Detailed("two", [ValueError(), TypeError()])
    error.detail = "kept"

    async def actor() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    group = Group()
    group.add(actor)
    group.add(trio.lowlevel.checkpoint)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    assert caught.value.exceptions[0] is error
    assert error.detail == "kept"


async def test_rule_27_what_a_listener_to_events_raises_is_logged_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_event: object) -> None:
        raise ValueError("no luck")

    heard = []
    group = Group()
    group.on_event(broken)
    group.on_event(lambda event: heard.append(event.kind))
    group.add(trio.lowlevel.checkpoint)
    assert (await group.run()).exit_code == 0
    assert heard[-1] == "over"
    assert "group: a function of on_event failed at 'over': ValueError: no luck" in caplog.messages


async def test_a_ready_that_raises_is_not_ready() -> None:
    class Unsure:
        @property
        def ready(self) -> bool:
            raise RuntimeError("who knows")

        async def execute(self) -> None:
            await trio.sleep_forever()

    group = Group()
    # hasattr() at add() sees an AttributeError only: an instance that raises something else later
    actor = type("Late", (), {"ready": True, "execute": Unsure.execute})()
    group.add(actor)
    async with running(group, wait_ready=False):
        await trio.testing.wait_all_tasks_blocked()
        assert group.ready
        type(actor).ready = Unsure.ready
        assert not group.ready


async def test_an_interrupt_sees_its_own_actor_s_context_and_leaves_it_alone() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="nobody")
    seen = []

    def actor(name: str) -> tuple[Any, Any]:
        async def execute() -> None:
            variable.set(name)
            await trio.sleep_forever()

        def interrupt(_cause: Cause) -> None:
            seen.append(variable.get())
            variable.set("an interrupt")
            member[name].stop()

        return execute, interrupt

    group = Group(grace=0)
    member = {name: group.add(*actor(name), name=name) for name in ("one", "two")}
    async with running(group, wait_ready=False):
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(seen) == ["one", "two"]
    assert variable.get() == "nobody"
