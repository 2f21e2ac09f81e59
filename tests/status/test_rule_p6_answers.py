"""Rule P6: what each path of a StatusPage answers, and to whom."""

import builtins
import importlib
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

from trio_run import CannotStart, Group, GroupFailed, State, StatusPage, TCPListener
from trio_run._status import _metrics
from trio_run.testing import connect, read_to_end, running

from .helpers import Slow, serving


class Upstream:
    ready = True
    status = "0 connections, 0 busy"

    async def execute(self) -> None:
        await trio.sleep_forever()


async def test_the_probes() -> None:
    group = Group(lame_duck=20)
    upstream = Upstream()
    group.add(upstream)
    async with serving(group) as site:
        ready = await site.ask("/readyz")
        assert (ready.status_code, ready.text) == (200, "ready\n")
        assert ready.headers["cache-control"] == "no-store"
        upstream.ready = False
        unfit = await site.ask("/readyz")
        assert (unfit.status_code, unfit.text) == (503, "not ready\n")
        assert (await site.ask("/livez")).text == "alive\n"
        upstream.ready = True
        group.stop()
        leaving = await site.ask("/readyz")
        assert (leaving.status_code, leaving.text) == (503, "lame duck\n")
        assert (await site.ask("/livez")).status_code == 200
        group.stop()  # which ends the lame duck


async def test_it_answers_before_the_others_are_ready_and_after_they_have_been_interrupted() -> (
    None
):
    async def slow_starter(*, task_status: trio.TaskStatus[None]) -> None:
        await begin.wait()
        task_status.started()
        await trio.sleep_forever()

    begin = trio.Event()
    group, slow, page = Group(), Slow(), StatusPage(0)
    group.add(slow_starter)
    group.add(slow)
    group.add(page)
    async with running(group, wait_ready=False):
        while not page.addresses:
            await trio.lowlevel.checkpoint()
        assert await probed(page) == b"503"
        begin.set()
        while not group.ready:
            await trio.lowlevel.checkpoint()
        assert await probed(page) == b"200"
        group.stop()
        await slow.interrupted.wait()
        assert await probed(page) == b"503"
        assert await probed(page, b"/livez") == b"200"
        slow.let_go.set()


async def probed(page: StatusPage, path: bytes = b"/readyz", host: bytes = b"10.0.0.1") -> bytes:
    """The status, as a probe sees it that asks by whatever name."""
    async with await trio.open_tcp_stream(*page.addresses[0]) as stream:
        await stream.send_all(b"GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" % (path, host))
        return (await read_to_end(stream)).split()[1]


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (lambda: None, (200, "alive\n")),
        (lambda: "", (200, "alive\n")),
        (lambda: "the disk is broken", (503, "the disk is broken\n")),
        (lambda: 1 / 0, (503, "the check raised ZeroDivisionError: division by zero\n")),
    ],
)
async def test_a_check_may_say_that_the_program_had_better_be_begun_anew(
    check: Callable[[], Any], expected: tuple[int, str]
) -> None:
    async with serving(Group(), check=check) as site:
        site.group.add(trio.sleep_forever)
        answer = await site.ask("/livez")
        assert (answer.status_code, answer.text) == expected
        assert (await site.ask("/readyz")).status_code == 200


async def test_a_connection_ends_with_its_answer() -> None:
    async with serving(Group()) as site:
        for path in ("/", "/livez", "/readyz", "/status", "/metrics", "/nothing"):
            assert (await site.ask(path)).headers["connection"] == "close", path


async def test_the_probes_are_answered_while_many_are_silent() -> None:
    async with serving(Group()) as site, AsyncExitStack() as silent:
        for _ in range(120):
            await silent.enter_async_context(await connect(site.page.addresses[0][:2]))
        while "120 connections" not in site.page.status:
            await trio.sleep(0.01)
        assert (await site.ask("/livez")).status_code == 200


@pytest.mark.parametrize("data", [b"", b"GET /livez HT"])
async def test_who_asks_nothing_gives_his_place_to_a_probe(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_run._status._listener._MOST_CONNECTIONS", 1)
    monkeypatch.setattr("trio_run._status._listener._TIMEOUT", 0.1)
    async with serving(Group()) as site, await connect(site.page.addresses[0][:2]) as silent:
        if data:
            await silent.send_all(data)
        while "1 connection" not in site.page.status:
            await trio.sleep(0.01)
        assert (await site.ask("/livez")).status_code == 200


# /status.


async def test_the_status_is_the_group_and_its_actors() -> None:
    async def reads(stream: trio.abc.Stream) -> None:
        await stream.receive_some()

    async def fails() -> None:
        raise ValueError("no luck")

    group, inner = Group(name="shop", grace=20), Group(name="office", grace=float("inf"))
    slow = Slow(status="two\nlines")
    inner.add(slow)
    inner.add(fails, on_error="ignore")
    group.add(inner)
    listener = TCPListener(reads, 0, host="127.0.0.1", name="door")
    group.add(listener)
    async with serving(group) as site, await connect(listener):
        shown = (await site.ask("/status")).json()
        assert list(shown) == [
            *("name", "state", "ready", "status", "start", "now", "cause", "began", "ends"),
            *("duration", "exit_code", "actors", "left_out"),
        ]
        assert [shown[key] for key in ("name", "state", "ready", "start")] == [
            *("shop", "running", True, 0)
        ]
        assert {shown[key] for key in ("cause", "began", "ends", "duration", "exit_code")} == {None}
        office, door, status = shown["actors"]
        assert list(door) == [
            *("name", "outcome", "ready", "interrupted", "stopped", "error", "detail"),
            *("connections", "busy", "state", "fit", "cut", "daemon", "group"),
        ]
        assert (door["name"], door["detail"]) == ("door", "1 connection, 0 busy")
        assert (door["connections"], door["busy"], door["fit"]) == (1, 0, True)
        assert (status["daemon"], door["daemon"], door["group"]) == (True, False, None)
        assert office["group"]["start"] >= 0
        still, failed = office["group"]["actors"]
        assert (failed["outcome"], failed["error"]) == ("failed", "ValueError: no luck")
        assert (still["name"], still["outcome"]) == ("slow", None)
        group.stop("enough", grace=7)
        await slow.interrupted.wait()
        shown = (await site.ask("/status")).json()
        assert shown["cause"] == {
            "actor": None,
            "error": None,
            "signal": None,
            "reason": "enough",
        }
        assert shown["ends"] - shown["began"] == pytest.approx(7)
        assert shown["now"] - shown["began"] == pytest.approx(shown["duration"])
        assert (shown["state"], shown["exit_code"]) == ("stopping", 0)
        inside = shown["actors"][0]["group"]
        assert (inside["ends"], inside["state"]) == (None, "stopping")
        slow.let_go.set()


async def test_a_group_inside_that_has_stopped_or_not_begun_is_shown_too() -> None:
    group = Group()
    done, waits = Group(name="done"), Group(name="waits")

    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    group.add(trio.sleep_forever)
    async with serving(group) as site:
        group.add(done, on_return="ignore")
        slow_start = group.add(never_ready)
        group.add(waits, needs=[slow_start])
        while done.state is not State.STOPPED:
            await trio.lowlevel.checkpoint()
        names = {actor["name"]: actor for actor in (await site.ask("/status")).json()["actors"]}
        assert names["done"]["outcome"] == "returned"
        assert names["waits"]["state"] == "new"
        assert names["waits"]["group"]["start"] is None
        assert names["waits"]["group"]["now"] == 0
        text = (await site.ask("/metrics")).text
        assert 'trio_run_age_seconds{group="group/waits"} 0.0' in text


# /metrics.


@pytest.fixture
def counter() -> Iterator[prometheus_client.Counter]:
    made = prometheus_client.Counter("orders", "Orders that came in.")
    yield made
    prometheus_client.REGISTRY.unregister(made)


async def test_the_metrics_are_of_the_group_and_of_the_program(
    counter: prometheus_client.Counter,
) -> None:
    counter.inc(3)
    group, inner, slow = Group(name="shop"), Group(name="back office"), Slow()
    inner.add(Upstream())
    group.add(inner)
    group.add(slow)
    async with serving(group, name="status") as site:
        answer = await site.ask("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        found = samples(answer.text)
        assert found["orders_total", ()] == 3
        assert found["trio_run_ready", ("shop",)] == 1
        assert found["trio_run_ready", ("shop/back office",)] == 1
        assert found["trio_run_state", ("shop", "running")] == 1
        assert found["trio_run_state", ("shop", "stopping")] == 0
        assert found["trio_run_actor_ready", ("Upstream", "shop/back office")] == 1
        assert found["trio_run_connections", ("status", "shop")] == 1
        assert found["trio_run_busy_connections", ("Upstream", "shop/back office")] == 0
        assert found["trio_run_stop_seconds", ("shop",)] == 0
        assert found["trio_run_events_total", ("shop", "ready")] == 4  # the last: the group
        group.stop()
        await slow.interrupted.wait()
        found = samples((await site.ask("/metrics")).text)
        assert found["trio_run_stop_seconds", ("shop",)] > 0
        assert found["trio_run_actor_ready", ("slow", "shop")] == 0
        assert found["trio_run_state", ("shop", "stopping")] == 1
        slow.let_go.set()


async def test_any_name_has_samples_of_its_own() -> None:
    group, outer, inner = Group(name="\ud800"), Group(name="x"), Group(name="y")
    slashed = Group(name="x/y")
    for one in (inner, slashed):
        one.add(trio.sleep_forever, name="a\udcff")
    outer.add(inner)
    group.add(outer)
    group.add(slashed)
    async with serving(group) as site:
        answer = await site.ask("/metrics")
        assert answer.status_code == 200
        lines = [line.rpartition(" ")[0] for line in answer.text.splitlines() if line[0] != "#"]
        assert len(lines) == len(set(lines))
        found = samples(answer.text)
        for path in ("\\ud800/x/y", "\\ud800/x\\/y"):
            assert found["trio_run_actor_ready", ("a\\udcff", path)] == 1
            assert found["trio_run_events_total", (path, "ready")] == 2


@pytest.mark.parametrize("path", ["/metrics", "/status"])
async def test_events_of_groups_that_came_later_are_counted(path: str) -> None:
    group, inner = Group(name="shop"), Group(name="office")
    group.add(trio.sleep_forever)
    async with serving(group) as site:
        inner.add(trio.sleep_forever)
        group.add(inner)
        assert (await site.ask(path)).status_code == 200
        inner.add(trio.lowlevel.checkpoint, on_return="ignore")
        await wait_all_tasks_blocked()
        found = samples((await site.ask("/metrics")).text)
        assert found["trio_run_events_total", ("shop/office", "stopped")] == 1


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """As prometheus_client reads them: by the name, and the values of the labels."""
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_without_the_extra_the_metrics_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really = builtins.__import__

    def not_installed(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return really(name, *args, **options)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "__import__", not_installed)
            importlib.reload(_metrics)
        monkeypatch.setattr("trio_run._status._app.metrics", _metrics.metrics)
        async with serving(Group()) as site:
            site.group.add(trio.sleep_forever)
            answer = await site.ask("/metrics")
            sentence = "/metrics needs prometheus_client: pip install 'trio-run[metrics]'\n"
            assert (answer.status_code, answer.text) == (501, sentence)
            assert (await site.ask("/status")).status_code == 200
    finally:
        importlib.reload(_metrics)


async def test_a_collector_that_fails_is_the_failure_of_that_answer_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def describe(self) -> list[Any]:
            return []

        def collect(self) -> list[Any]:
            raise OSError("no such sensor")

    broken: Any = Broken()
    prometheus_client.REGISTRY.register(broken)
    try:
        async with serving(Group()) as site:
            site.group.add(trio.sleep_forever)
            assert (await site.ask("/metrics")).status_code == 500
            assert (await site.ask("/readyz")).status_code == 200
    finally:
        prometheus_client.REGISTRY.unregister(broken)
    assert any("the app failed at" in record.getMessage() for record in caplog.records)


# What is refused.


async def test_it_may_be_asked_by_the_names_of_this_machine_alone() -> None:
    async with serving(Group(), host="127.0.0.1") as site:
        site.group.add(trio.sleep_forever)
        for host in ("127.0.0.1:1", "localhost", "[::1]:80", "LOCALHOST:1", socket.gethostname()):
            assert (await site.ask("/status", Host=host)).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", ":80", ""):
            for path in ("/", "/status", "/metrics", "/events", "/nothing"):
                answer = await site.ask(path, Host=host)
                assert answer.status_code == 403, (host, path)
            assert (await site.ask("/readyz", Host=host)).status_code == 200


async def test_it_may_be_asked_by_the_names_that_are_given() -> None:
    async with serving(Group(), names=["Shop", "shop.example.org"], can_stop=True) as site:
        for host in ("shop", "SHOP:8081", "shop.example.org:80", "localhost"):
            for path in ("/", "/metrics"):
                assert (await site.ask(path, Host=host)).status_code == 200, host
        assert (await site.ask("/", Host="example.org")).status_code == 403
        token = site.page._app._guard.token
        stop = {"Host": "shop", "Origin": "http://shop", "X_Stop_Token": token}
        assert (await site.ask("/stop", "POST", **stop)).status_code == 202


async def test_a_host_that_is_none_is_not_ours() -> None:
    async with serving(Group()) as site:
        site.group.add(trio.sleep_forever)
        assert await probed(site.page, b"/status", b"[::1") == b"400"
        guard = site.page._app._guard
        assert not guard.is_asked_as_us({b"host": b"[::1"}, "127.0.0.1")
        assert not guard.is_asked_as_us({}, "127.0.0.1")
        assert guard.is_asked_as_us({b"host": b"10.0.0.7:80"}, "::ffff:10.0.0.7")
        assert guard.is_asked_as_us({b"host": b"[fe80::1]"}, "fe80::1%eth0")


async def test_methods_and_paths() -> None:
    async with serving(Group()) as site:
        site.group.add(trio.sleep_forever)
        assert (await site.ask("/nothing")).status_code == 404
        assert (await site.ask("/stop", "POST")).status_code == 404  # it may not be stopped here
        for path in ("/", "/livez", "/readyz", "/status", "/metrics", "/events"):
            answer = await site.ask(path, "POST")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
            head = await site.ask(path, "HEAD")
            assert (head.status_code, head.content) == (200, b"")


async def test_a_websocket_is_refused() -> None:
    async with serving(Group()) as site:
        site.group.add(trio.sleep_forever)
        async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 403 ")


# The page, and its button.


async def test_the_page_allows_nothing_but_its_own_script_and_style() -> None:
    async with serving(Group(name="<b>shop & {{TOKEN}}")) as site:
        site.group.add(trio.sleep_forever)
        answer = await site.ask("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert policy.count("'sha256-") == 2
        assert "<title>&lt;b&gt;shop &amp; {{TOKEN}}</title>" in answer.text
        assert '<meta name="stop-token" content="">' in answer.text
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "").lower().replace(
            "http-equiv", ""
        )
        assert (await site.ask("/")).text == answer.text


async def test_only_the_page_itself_may_stop_the_group() -> None:
    async with serving(Group(lame_duck=20), can_stop=True) as site:
        site.group.add(trio.sleep_forever)
        page = (await site.ask("/")).text
        [token] = [part.split('"')[0] for part in page.split('name="stop-token" content="')[1:]]
        ours = f"http://127.0.0.1:{site.port}"
        assert (await site.ask("/stop")).status_code == 405
        assert (await site.ask("/stop", "HEAD")).status_code == 405
        for headers in (
            {},
            {"Origin": ours},
            {"Origin": ours, "X_Stop_Token": token[:-1]},
            {"Origin": "http://evil.example", "X_Stop_Token": token},
            {"Origin": "null", "X_Stop_Token": token},
            {"Origin": f"{ours}0", "X_Stop_Token": token},
            {"Host": "evil.example", "Origin": "http://evil.example", "X_Stop_Token": token},
        ):
            assert (await site.ask("/stop", "POST", **headers)).status_code == 403, headers
        assert site.group.ready
        answer = await site.ask("/stop", "POST", Origin=ours, X_Stop_Token=token)
        assert (answer.status_code, answer.text) == (202, "stopping\n")
        assert site.group.state is State.LAME_DUCK
        # A program that is no browser sends no Origin. A second one ends the lame duck.
        assert (await site.ask("/stop", "POST", X_Stop_Token=token)).status_code == 202
    reason = "a stop was requested on the status page by 127.0.0.1"
    assert site.group.report.cause.reason == reason


# Where it is, and where it can't be.


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
async def test_it_may_be_at_a_path(tmp_path: Path) -> None:
    path = tmp_path / "status"
    page = StatusPage(path=path, can_stop=True)
    assert page.name == f"status:{path}"
    async with running(page, trio.sleep_forever) as group:
        async with await trio.open_unix_socket(path) as stream:
            token = page._app._guard.token.encode()
            await stream.send_all(
                b"POST /stop HTTP/1.0\r\nHost: proxy\r\nX-Stop-Token: %s\r\n\r\n" % token
            )
            assert b" 202 " in await read_to_end(stream)
    assert group.report.cause.reason == "a stop was requested on the status page"


def test_what_can_not_be_right_is_said() -> None:
    for options in ({}, {"port": 1, "path": "x"}):
        with pytest.raises(ValueError, match="takes either a port or a path"):
            StatusPage(**options)  # type: ignore[arg-type] # that is the point
    with pytest.raises(TypeError, match="check must be a function without arguments, not 7"):
        StatusPage(0, check=7)  # type: ignore[arg-type] # that is the point
    for names in ("shop", [7]):
        with pytest.raises(TypeError, match="names must be several strings, not "):
            StatusPage(0, names=names)  # type: ignore[arg-type] # that is the point
    assert StatusPage(8081).name == "status:8081"
    assert StatusPage(8081, name="how").name == "how"


async def test_outside_a_group_there_is_nothing_to_show() -> None:
    with pytest.raises(RuntimeError, match="add\\(\\) it to one"):
        await StatusPage(0).execute()


async def test_a_port_in_use_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        group = Group()
        group.add(StatusPage(taken.getsockname()[1]))
        group.add(trio.sleep_forever)
        with pytest.raises(GroupFailed) as caught:
            await group.run()
    assert isinstance(caught.value.exceptions[0], CannotStart)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_run._listeners._http._connection", None)
    with pytest.raises(ImportError, match=r"StatusPage: .*pip install 'trio-run\[http\]'"):
        StatusPage(0)
