"""Rule P6: what who looks at the page is sent, and that he holds up nothing."""

import gc
import socket
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, GroupFailed, Restarting, State, StatusPage, busy
from trio_run._status._news import News
from trio_run._status._snapshot import as_data, connections_in
from trio_run._status._viewers import Viewers
from trio_run.testing import running, wait_stopped

from .helpers import Slow, serving


async def test_a_viewer_sees_a_stop_from_its_beginning_to_its_end() -> None:
    slow = Slow()
    group = Group(name="shop")
    group.add(slow)
    async with serving(group) as site, site.looking() as messages:
        first = await anext(messages)
        assert not first["over"]
        assert first["group"]["state"] == "running"
        assert ["ready", None] in [[one["kind"], one["actor"]] for one in first["events"]]
        group.stop("enough")
        kinds = []
        async for message in messages:
            assert message["run"] == first["run"]
            kinds += [(one["kind"], one["actor"]) for one in message["events"]]
            if message["group"]["state"] == "stopping" and not message["over"]:
                (held, page) = message["group"]["actors"]
                if held["interrupted"] is not None:
                    assert (held["state"], page["state"]) == ("stopping", "running")
                    slow.let_go.set()
        assert message["over"]  # and a clean end of the stream
        assert message["group"]["exit_code"] == 0
        assert message["group"]["cause"]["reason"] == "enough"
        assert message["group"]["actors"][0]["outcome"] == "returned"
        assert kinds[0] == ("stop began", None)
        assert kinds.count(("stopped", "slow")) == 1
    assert group.report.actors[-1].outcome == "returned"


async def test_a_viewer_sees_how_it_ends_when_all_is_cut() -> None:
    async def hangs() -> None:
        with busy():
            await trio.sleep_forever()

    group = Group(grace=0.3)
    group.add(hangs)
    async with serving(group) as site, site.looking() as messages:
        await anext(messages)
        group.stop()
        async for message in messages:
            last = message
        assert last["over"]
        assert (last["rest"], last["group"]["exit_code"]) == ([], 0)
        assert last["group"]["actors"][0]["cut"]
        assert last["group"]["duration"] >= 0.3
        assert ["cut", "hangs"] in [[one["kind"], one["actor"]] for one in last["events"]]


async def test_who_has_not_stopped_when_all_is_cut_is_named_and_no_exit_code_is() -> None:
    async def cleans_up_and_fails() -> None:
        with busy():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await let_go.wait()
                raise ValueError("no luck")

    let_go = trio.Event()
    group = Group(grace=0.3)
    for number in range(12):
        group.add(cleans_up_and_fails, name=f"a{number}")
    with pytest.raises(GroupFailed):
        async with serving(group) as site, site.looking() as messages:
            await anext(messages)
            group.stop()
            async for message in messages:
                last = message
            assert last["over"]
            assert last["rest"] == [f"a{number}" for number in range(10)]
            assert last["rest_left_out"] == 2
            assert last["group"]["exit_code"] is None
            let_go.set()
    assert group.report.exit_code == 1


async def test_a_viewer_who_takes_nothing_holds_up_no_stop() -> None:
    slow = Slow(status="x" * 2**24)  # more than the kernel keeps for a connection
    slow.let_go.set()
    group = Group()
    group.add(slow)
    page = StatusPage(0)
    member = group.add(page)
    async with running(group):
        with socket.create_connection(page.addresses[0]) as viewer:
            viewer.setblocking(False)
            viewer.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while page._app.viewers._count == 0:
                await trio.sleep(0.01)
            group.stop()
            report = await wait_stopped(group)
    assert member.outcome == "cut"
    assert report.duration < 5
    assert report.exit_code == 0


async def test_a_viewer_who_leaves_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    group = Group()
    group.add(trio.sleep_forever)
    async with serving(group) as site:
        async with site.looking() as messages:
            await anext(messages)
            assert site.page._app.viewers._count == 1
        while site.page._app.viewers._count or "0 connections" not in site.page.status:
            await trio.sleep(0.01)
    assert "without having finished" not in caplog.text
    assert "the app failed" not in caplog.text


async def test_too_many_viewers_are_refused_and_the_probes_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_run._status._app._VIEWERS", 1)
    group = Group()
    group.add(trio.sleep_forever)
    async with serving(group) as site, site.looking() as messages:
        await anext(messages)
        refused = await site.ask("/events")
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert (await site.ask("/readyz")).status_code == 200


async def test_while_nobody_looks_there_is_no_timer() -> None:
    group = Group()
    group.add(trio.sleep_forever)
    async with serving(group) as site:
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(100):
            group.add(trio.lowlevel.checkpoint, on_return="ignore")
        await wait_all_tasks_blocked()
        statistics = trio.lowlevel.current_statistics()
        assert statistics.tasks_living == tasks
        # A viewer's are a second at the most. What is left is the group's: it looks after 5 seconds
        # who is still starting.
        assert statistics.seconds_to_next_deadline > 2
        async with site.looking() as messages:
            assert len((await anext(messages))["events"]) == 200
            await trio.lowlevel.checkpoint()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline <= 1


async def test_groups_that_came_later_are_heard_of_as_soon_as_somebody_looks() -> None:
    group, inner = Group(name="shop"), Group(name="office")
    group.add(trio.sleep_forever)
    async with serving(group) as site:
        inner.add(trio.sleep_forever)
        group.add(inner)
        async with site.looking() as messages:
            await anext(messages)
            inner.stop("early")
            async for message in messages:
                if [one for one in message["events"] if one["group"] == "shop/office"]:
                    break
        group.stop()


# On a clock that jumps.


async def test_he_sees_more_when_something_happens_and_each_second(
    autojump_clock: MockClock,
) -> None:
    viewers = Viewers(2)
    shown: list[float] = []

    async def show() -> None:
        shown.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(viewers.look, show, trio.sleep_forever, lambda: True)
        await trio.sleep(1.5)  # he has seen it at 0 and 1
        viewers.ring()  # at once
        await trio.sleep(0.05)
        viewers.ring()  # a tenth of a second after the last
        await trio.sleep(0.5)
        viewers.end()
        viewers.ring()
    assert shown == pytest.approx([0, 1, 1.5, 1.6, 2.05])
    assert viewers.is_over
    viewers.ring()  # nobody is there


async def test_who_leaves_is_shown_nothing_more(autojump_clock: MockClock) -> None:
    viewers = Viewers(2)
    shown: list[float] = []

    async def show() -> None:
        shown.append(trio.current_time())

    async def leaves() -> None:
        await trio.sleep(2.5)

    await viewers.look(show, leaves, lambda: True)
    assert shown == [0, 1, 2]
    assert not viewers.is_over


async def test_the_last_word_after_a_cut_takes_no_longer_than_a_tenth_of_a_second(
    autojump_clock: MockClock,
) -> None:
    viewers = Viewers(2)
    tries: list[float] = []

    async def show() -> None:
        tries.append(trio.current_time())
        if len(tries) > 1:
            await trio.sleep_forever()

    with trio.move_on_after(0.7):
        await viewers.look(show, trio.sleep_forever, lambda: True)
    assert tries == [0, 0.7]
    assert trio.current_time() == pytest.approx(0.8)


async def test_after_a_cut_the_others_have_a_moment_to_end_before_the_last_word(
    autojump_clock: MockClock,
) -> None:
    viewers = Viewers(2)
    shown: list[float] = []
    has_ended = False

    async def show() -> None:
        shown.append(trio.current_time())

    async def looks() -> None:
        with trio.move_on_after(0.7):
            await viewers.look(show, trio.sleep_forever, lambda: has_ended)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks)
        await trio.sleep(0.71)
        viewers.ring()  # not yet
        await trio.sleep(0.01)
        has_ended = True
        viewers.ring()
    assert shown == pytest.approx([0, 0.72])


# What is shown.


async def test_of_very_many_actors_those_that_matter_are_shown(autojump_clock: MockClock) -> None:
    async def fails() -> None:
        raise ValueError("no luck")

    async def works(seconds: float) -> None:
        await trio.sleep(seconds)

    group = Group()
    group.add(fails, on_error="ignore")
    for number in range(10):
        group.add(lambda number=number: works(number), name=f"w{number}", on_return="ignore")
    group.add(trio.sleep_forever, name="stays")
    async with running(group):
        await trio.sleep(7.5)
        shown = as_data(group, 5)
        names = [actor["name"] for actor in shown["actors"]]
        assert names == ["fails", "w7", "w8", "w9", "stays"]
        assert shown["left_out"] == 7
        everything = as_data(group)
        assert len(everything["actors"]) == 12
        assert everything["left_out"] == 0


async def test_events_are_put_in_words(autojump_clock: MockClock) -> None:
    lives = 0

    async def upstream() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            raise OSError("it has gone away")
        await trio.sleep_forever()

    async def deaf() -> None:
        with busy():
            await trio.sleep_forever()

    async def fails() -> None:
        with busy():
            await trio.sleep(20)
        raise ValueError("no luck")

    heard: list[None] = []
    news = News(lambda: heard.append(None))
    group = Group(grace=10, lame_duck=2)
    group.add(Restarting(upstream, name="upstream"))
    for number in range(11):
        group.add(deaf, name=f"deaf{number}")
    news.hear_of(group)
    news.hear_of(group)  # is the same
    async with running(group):
        await trio.sleep(3)
        group.stop("enough")
    events, number = news.since(0)
    assert len(heard) == number == len(events)
    assert news.since(number) == ([], number)
    assert news.since(number - 1)[0] == events[-1:]
    texts = {}
    for event in events:
        texts.setdefault((event["kind"], event["actor"]), event["text"])
    assert texts["failed", "upstream"] == "OSError: it has gone away (ignored)"
    assert texts["restarted", "upstream"] == "life 2 begins"
    assert texts["stop began", None] == "enough"
    assert texts["lame duck", None] == "it goes on serving for 2 s"
    assert texts["held up", None].endswith(" and 1 more")
    assert texts["stopped", "deaf0"] == "cut"
    assert texts["stopped", "upstream"].startswith("returned: 2 lives: ")
    assert texts["cut", "deaf0"] == "the grace of 10 s is over"
    assert texts["over", None] == "after 10.00 s, with exit code 0"
    assert texts["ready", None] == ""
    assert news.counts["group", "cut"] == 11


async def test_of_groups_that_are_over_little_is_kept() -> None:
    group = Group(name="shop")
    group.add(trio.sleep_forever)
    news = News(lambda: None)
    async with running(group):
        groups = []
        for number in range(150):
            inner = Group(name=f"job {number}")
            inner.add(trio.sleep_forever)
            groups.append(weakref.ref(inner))
            member = group.add(inner)
            news.hear_of(group)
            member.stop()
            while inner.state is not State.STOPPED:
                await trio.lowlevel.checkpoint()
        inner, member = Group(), None
        await wait_all_tasks_blocked()
        gc.collect()
        assert [ref() for ref in groups] == [None] * 150
        kept = {path for path, _ in news.counts}
        assert kept == {"shop", *(f"shop/job {number}" for number in range(50, 150))}
        assert news.counts["shop/job 149", "over"] == 1


async def test_a_failure_that_stops_all_is_one_line(autojump_clock: MockClock) -> None:
    async def fails() -> None:
        raise ValueError("two\nlines")

    news = News(lambda: None)
    group = Group()
    group.add(fails)
    group.add(trio.sleep_forever)
    news.hear_of(group)
    with pytest.raises(GroupFailed):
        await group.run()
    texts = {event["kind"]: event["text"] for event in news.since(0)[0]}
    assert texts["failed"] == "ValueError: two lines"
    shown = as_data(group)
    assert (shown["state"], shown["exit_code"]) == ("stopped", 1)
    assert shown["cause"]["error"] == "ValueError: two lines"
    assert group.state is State.STOPPED


@pytest.mark.parametrize(
    ("status", "numbers"),
    [
        ("1,234 connections, 5 busy", (1234, 5)),
        ("1 connection, 1 busy", (1, 1)),
        ("life 2: 12 connections, 3 busy, 1 failed", (12, 3)),
        ("12 drained, 0 cut", None),
        ("it has 12 connections, 3 busy", None),
    ],
)
def test_connections_are_read_off_a_status(status: str, numbers: tuple[int, int] | None) -> None:
    assert connections_in(status) == numbers
