"""Rule 27: what is told while a group runs; and the report as plain data."""

from __future__ import annotations

import json
import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Cause, Event, Group, GroupFailed, TCPListener, busy, current_group
from trio_run._inside import Inside
from trio_run.testing import running


def recorded(group: Group) -> list[Event]:
    events: list[Event] = []
    group.on_event(events.append)
    return events


def kinds(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.actor) for event in events]


async def test_the_events_of_a_whole_run(autojump_clock: MockClock) -> None:
    group = Group(lame_duck=2)
    events = recorded(group)
    group.add(trio.sleep_forever, name="one")
    async with running(group):
        await trio.sleep(1)
        group.stop("enough")
    assert kinds(events) == [
        ("ready", "one"),
        ("ready", None),
        ("stop began", None),
        ("not ready", None),
        ("lame duck", None),
        ("interrupted", "one"),
        ("stopped", "one"),
        ("over", None),
    ]
    assert [event.when for event in events] == [0, 0, 1, 1, 1, 3, 3, 3]
    fields = {event.kind: dict(event.fields) for event in events}
    assert fields["stop began"] == {
        "reason": "enough",
        "actor": None,
        "error": None,
        "signal": None,
    }
    assert fields["lame duck"] == {"seconds": 2}
    assert fields["interrupted"] == {"reason": "enough"}
    assert fields["stopped"] == {"outcome": "returned", "detail": ""}
    assert (fields["over"]["exit_code"], fields["over"]["seconds"]) == (0, 2)


async def test_the_events_of_a_failure_and_a_cut(autojump_clock: MockClock) -> None:
    group = Group(grace=7)
    events = recorded(group)
    error = ValueError("broken")

    async def fails() -> None:
        raise error

    async def slow() -> None:
        with busy():
            await trio.sleep_forever()

    group.add(slow)
    group.add(fails)
    with pytest.raises(GroupFailed):
        await group.run()
    told = kinds(events)
    assert told.index(("failed", "fails")) < told.index(("stop began", None))
    assert told.index(("held up", None)) < told.index(("cut", "slow"))
    fields = {event.kind: dict(event.fields) for event in events}
    assert fields["failed"] == {"error": error, "ignored": False}
    assert fields["held up"] == {"by": ("slow",), "seconds": 5}
    assert fields["cut"] == {"reason": "the grace of 7 s is over"}
    assert fields["stop began"]["error"] is error


def test_on_event_takes_a_function() -> None:
    with pytest.raises(TypeError, match=r"on_event\(\) takes a function of one event, not 7"):
        Group().on_event(7)  # type: ignore[arg-type] # that is the point


class Upstream:
    ready = True

    async def execute(self) -> None:
        await trio.sleep_forever()


async def test_a_group_is_ready_only_while_all_its_actors_are(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    upstream = Upstream()
    inner.add(upstream)
    outer.add(inner)
    told = recorded(outer)
    bell = outer.add(trio.sleep_forever, name="bell")
    async with running(outer):
        assert (inner.ready, outer.ready) == (True, True)
        upstream.ready = False
        assert (inner.ready, outer.ready) == (False, False)
        bell.stop()  # something happens, and so it is looked at
        await wait_all_tasks_blocked()
        assert ("not ready", None) in kinds(told)
        upstream.ready = True
        outer.add(trio.lowlevel.checkpoint, on_return="ignore")
        await wait_all_tasks_blocked()
        assert kinds(told).count(("ready", None)) == 2
        assert outer.ready
        outer.stop()
        assert not outer.ready


async def test_an_inner_group_says_so_to_the_one_around_it(autojump_clock: MockClock) -> None:
    inner, outer = Group(name="inner"), Group(name="outer")
    upstream = Upstream()
    inner.add(upstream)
    bell = inner.add(trio.sleep_forever)
    outer.add(inner)
    told = recorded(outer)
    async with running(outer):
        upstream.ready = False
        bell.stop()  # in the inner group alone
        await wait_all_tasks_blocked()
        assert kinds(told)[-1] == ("not ready", None)


async def test_one_that_was_stopped_alone_does_not_count_in_readiness() -> None:
    group = Group()
    upstream = Upstream()
    member = group.add(upstream)
    group.add(trio.sleep_forever)
    async with running(group):
        upstream.ready = False
        assert not group.ready
        member.stop()
        assert group.ready


async def test_a_group_of_unfit_actors_is_ready_when_they_are() -> None:
    group = Group()
    upstream = Upstream()
    upstream.ready = False
    group.add(upstream)
    told = recorded(group)
    async with running(group):
        assert ("ready", None) not in kinds(told)
        upstream.ready = True
        group.add(trio.lowlevel.checkpoint, on_return="ignore")
        await wait_all_tasks_blocked()
        assert ("ready", None) in kinds(told)


async def test_current_group_is_the_one_around_the_code() -> None:
    seen = []

    async def actor() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async def child() -> None:
        seen.append(current_group())
        await trio.lowlevel.checkpoint()

    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(actor)
    outer.add(inner)
    await outer.run()
    assert seen == [inner]
    assert current_group() is None


async def test_a_handler_of_a_listener_without_a_group_has_none() -> None:
    seen = []

    async def handler(_stream: trio.abc.Stream) -> None:
        seen.append(current_group())

    listener = TCPListener(handler, 0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(listener.execute)
        async with await trio.open_tcp_stream(*address) as client:
            assert await client.receive_some() == b""
        listener.interrupt(Cause())
    assert seen == [None]


def test_code_in_no_group_has_nobody_to_look_again() -> None:
    inside = Inside()
    inside.look_again()
    assert not inside.is_leaving()
    assert not inside.has_stop_come()


async def test_a_report_is_plain_data() -> None:
    async def fails() -> None:
        raise ValueError("two\nlines")

    group = Group(name="shop")
    group.add(fails)
    group.add(trio.sleep_forever)
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    data = json.loads(json.dumps(caught.value.report.as_dict()))
    assert data["cause"] == {
        "actor": "fails",
        "error": "ValueError: two lines",
        "signal": None,
        "reason": "'fails' failed: ValueError: two lines",
    }
    assert (data["name"], data["exit_code"]) == ("shop", 1)
    assert [actor["outcome"] for actor in data["actors"]] == ["failed", "returned"]
    assert data["actors"][0]["error"] == "ValueError: two lines"
    assert data["actors"][1]["error"] is None


async def test_a_report_of_a_signal_names_it() -> None:
    from trio_run import Cause, Report

    cause = Cause(signal=signal.SIGTERM, reason="SIGTERM received")
    report = Report(cause=cause, duration=1.0, exit_code=0, actors=())
    assert report.as_dict()["cause"]["signal"] == "SIGTERM"
    assert report.as_dict()["actors"] == []
