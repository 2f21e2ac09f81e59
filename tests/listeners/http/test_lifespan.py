"""The app's lifespan: it starts before the first request, and shuts down after the last."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import CannotStart, Group, GroupFailed, HTTPListener

from ... import TIMEOUT
from ..http_serving import App, Client, answer, request, serving_app
from ..serving import (
    HOST,
    lines_of,
    listening_at,
    serving,
)
from .helpers import Scopes, body, client_of, failures, running, start


class Lifespan:
    """An app whose lifespan does what it is told to, and notes what happened."""

    def __init__(self, up: str = "complete", down: str = "complete") -> None:
        self.up = up
        self.down = down
        self.seen: list[Any] = []
        self.go = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            try:
                await self.live(scope, receive, send)
            except trio.Cancelled:
                self.seen.append("cancelled")
                raise
        else:
            self.seen.append(scope["path"])
            scope["state"]["count"] += 1
            await answer(send, b"%d" % scope["state"]["count"])

    async def live(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["count"] = 1
        assert await receive() == {"type": "lifespan.startup"}
        self.seen.append("startup")
        await self.do("startup", self.up, send)
        if self.up == "complete":
            assert await receive() == {"type": "lifespan.shutdown"}
            self.seen.append("shutdown")
            await self.do("shutdown", self.down, send)

    async def do(self, when: str, what: str, send: Any) -> None:
        if what == "raise":
            raise ZeroDivisionError(f"at {when}")
        if what == "wait":
            await self.go.wait()
        elif what == "fail":
            await send({"type": f"lifespan.{when}.failed", "message": f"no {when} today"})
        elif what == "fail silently":
            await send({"type": f"lifespan.{when}.failed"})
        elif what == "fail and raise":
            await send({"type": f"lifespan.{when}.failed", "message": f"no {when} today"})
            raise ZeroDivisionError(f"at {when}")
        elif what.startswith("complete"):
            await send({"type": f"lifespan.{when}.complete"})
            if what == "complete and stay":
                await trio.sleep_forever()


async def failure_of(app: App, **options: Any) -> BaseException:
    """Run it in a group, which fails."""
    group = Group()
    group.add(HTTPListener(app, **{"port": 0, "host": HOST} | options))
    with trio.fail_after(TIMEOUT), pytest.raises(GroupFailed) as caught:
        await group.run()
    (error,) = caught.value.exceptions
    return error


async def test_the_app_starts_up_before_the_first_request_and_shuts_down_after_the_last() -> None:
    app = Lifespan()
    async with serving_app(app) as server:
        assert app.seen == ["startup"]
        async with await server.connect() as stream:
            await Client(stream).ask(request())
    assert app.seen == ["startup", "/", "shutdown"]


async def test_each_request_has_its_own_copy_of_the_state() -> None:
    async with client_of(Lifespan()) as client:
        for _ in range(2):
            assert (await client.ask(request())).body == b"2"


async def test_the_scope_of_the_lifespan() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async with serving_app(app):
        pass
    assert seen == [
        {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    ]


@pytest.mark.parametrize(
    ("up", "said"),
    [
        ("fail", "no startup today"),
        ("fail and raise", "no startup today"),
        ("fail silently", "the app's start-up failed"),
    ],
)
async def test_a_start_up_that_fails_is_said_with_the_apps_own_words(up: str, said: str) -> None:
    with listening_at() as taken:  # it does not even try to listen
        error = await failure_of(Lifespan(up), port=taken.getsockname()[1])
    assert isinstance(error, CannotStart)
    assert not isinstance(error, OSError)
    assert str(error) == said


@pytest.mark.parametrize("received", [False, True])
async def test_an_app_that_raises_in_its_start_up_is_served_without_a_lifespan(
    received: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Scopes()

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        if received:
            await receive()
        raise ZeroDivisionError("what lifespan?")

    async with client_of(raising) as client:
        assert (await client.ask(request())).status == 200
    assert "state" not in app.seen[0]
    assert len(lines_of(caplog, "the app raised in its lifespan")) == received


@pytest.mark.parametrize("up", ["return", "wait"])
async def test_an_app_whose_lifespan_returns_before_it_has_started_up_has_none(up: str) -> None:
    app = Lifespan(up)

    async def without_state(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        else:
            await answer(send, b"%d" % ("state" in scope))

    app.go.set()
    async with client_of(without_state) as client:
        assert (await client.ask(request())).body == b"0"
    assert app.seen == ["startup"]


async def test_an_app_whose_lifespan_returns_after_it_has_started_up_is_served() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["a"] = "b"
            await send({"type": "lifespan.startup.complete"})
        else:
            await answer(send, scope["state"]["a"].encode())

    async with client_of(app) as client:
        assert (await client.ask(request())).body == b"b"


async def test_an_app_that_raises_while_it_serves_drains_the_listener_and_fails() -> None:
    crash, go = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await crash.wait()
            raise ZeroDivisionError("while serving")
        await send(start())
        await send(body(b"half ", more=True))
        await go.wait()
        await send(body(b"whole"))

    listener = HTTPListener(app, 0, host=HOST)
    group = Group()
    group.add(listener)
    failed: list[GroupFailed] = []
    async with running(group, failed):
        async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
            client = Client(stream)
            await client.send(request())
            await wait_all_tasks_blocked(0.02)
            crash.set()
            await wait_all_tasks_blocked(0.02)
            go.set()
            assert (await client.read()).body == b"half whole"
            assert await client.read_to_end() == b""
    (error,) = failed[0].exceptions
    assert repr(error) == "ZeroDivisionError('while serving')"


@pytest.mark.parametrize(
    ("down", "kind", "said"),
    [
        ("fail", RuntimeError, "the app's shutdown failed: no shutdown today"),
        ("fail silently", RuntimeError, "the app's shutdown failed"),
        ("raise", ZeroDivisionError, "at shutdown"),
        ("fail and raise", ZeroDivisionError, "at shutdown"),
    ],
)
async def test_a_shutdown_that_fails_is_the_listeners_failure(
    down: str, kind: type[Exception], said: str
) -> None:
    app = Lifespan(down=down)
    listener = HTTPListener(app, 0, host=HOST)
    group = Group()
    group.add(listener)
    failed: list[GroupFailed] = []
    async with running(group, failed):
        async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
            assert (await Client(stream).ask(request())).status == 200
        group.stop()
    (error,) = failed[0].exceptions
    assert type(error) is kind
    assert said in str(error)
    if down == "fail and raise":
        assert "the app's shutdown failed: no shutdown today" in error.__notes__
    assert app.seen == ["startup", "/", "shutdown"]


async def test_an_app_that_goes_on_listening_after_its_shutdown_is_not_waited_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})

    async with serving_app(app) as server:
        pass
    assert server.report.actors[0].outcome == "returned"


async def test_an_app_that_stays_after_its_shutdown_has_a_second_to_return(
    clock: MockClock,
) -> None:
    app = Lifespan(down="complete and stay")
    async with serving_app(app) as server:
        await server.stop()
        assert trio.current_time() == pytest.approx(1, abs=0.5)
    assert app.seen == ["startup", "shutdown", "cancelled"]
    assert server.report.actors[0].outcome == "returned"


async def test_a_stop_during_the_start_up_cancels_it() -> None:
    app = Lifespan("wait")
    listener = HTTPListener(app, 0, host=HOST)
    group = Group()
    group.add(listener)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await wait_all_tasks_blocked()
            group.stop()
    assert app.seen == ["startup", "cancelled"]
    assert listener.addresses == ()
    assert group.members[0].outcome == "returned"


async def test_a_listener_that_cannot_listen_still_shuts_the_app_down() -> None:
    app = Lifespan()
    with listening_at() as taken:
        taken.listen()
        error = await failure_of(app, port=taken.getsockname()[1])
    assert isinstance(error, CannotStart)
    assert "it is in use" in str(error)
    assert app.seen == ["startup", "shutdown"]


@pytest.mark.parametrize("down", ["wait", "raise", "fail"])
async def test_that_it_cannot_listen_is_told_whatever_the_shutdown_does(
    down: str, clock: MockClock
) -> None:
    app = Lifespan(down=down)
    group = Group(grace=5)
    with listening_at() as taken:
        taken.listen()
        group.add(HTTPListener(app, taken.getsockname()[1], host=HOST))
        with trio.fail_after(TIMEOUT), pytest.raises(GroupFailed) as caught:
            await group.run()
    assert trio.current_time() == pytest.approx(5 if down == "wait" else 0, abs=0.5)
    (error,) = caught.value.exceptions
    assert isinstance(error, CannotStart)
    assert "it is in use" in str(error)
    assert app.seen == ["startup", "shutdown"] + ["cancelled"] * (down == "wait")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("lifespan.shutdown.complete", "where lifespan.startup.complete or .failed is due"),
        ("http.response.start", "where lifespan.startup.complete or .failed is due"),
    ],
)
async def test_a_message_that_is_not_due_in_the_lifespan_is_an_error(
    message: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": message})

    async with serving_app(app):
        pass
    assert told in failures(caplog)[0]


async def test_a_cut_during_the_shutdown_ends_it(clock: MockClock) -> None:
    app = Lifespan(down="wait")
    async with serving(app, kind=HTTPListener, port=0, host=HOST, grace=3) as server:
        await server.stop()
        assert 3 <= trio.current_time() < 4
    assert app.seen == ["startup", "shutdown", "cancelled"]
    assert server.report.actors[0].outcome == "cut"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["lifespan", "http"])
async def test_what_is_no_exception_passes_through(
    exception: type[BaseException], where: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == where:
            raise exception
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()

    with pytest.RaisesGroup(exception, flatten_subgroups=True, allow_unwrapped=True):
        async with client_of(app) as client:
            await client.send(request())
            await trio.sleep_forever()
