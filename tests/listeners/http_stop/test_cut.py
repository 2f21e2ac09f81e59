"""A stop: what is cut, and a lifespan that fails."""

import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, TextMessage

from trio_run import (
    Group,
    GroupFailed,
    HTTPListener,
    SignalReceiver,
)
from trio_run.testing import ending, running

from ... import TIMEOUT
from ..http_serving import Client, request, serving_app
from ..serving import HOST, Server
from .helpers import App, Where, is_last, open_websocket

# Cut.


@asynccontextmanager
async def cutting(app: App, cut: str, where: Where) -> AsyncIterator[Server]:
    """A server; in the end it is cut."""
    listener = HTTPListener(app, **where.options)
    server = Server(listener, Group(grace=5))  # type: ignore[arg-type]
    server.group.add(listener)
    server.group.add(SignalReceiver())
    with trio.fail_after(TIMEOUT):
        with trio.CancelScope() as outside:
            async with running(server.group):
                yield server
                if cut == "from outside":
                    outside.cancel()
                elif cut == "grace 0":
                    server.group.stop(grace=0)
                elif cut == "a second signal":
                    for _ in range(2):
                        signal.raise_signal(signal.SIGTERM)
                        await wait_all_tasks_blocked()
                else:
                    server.group.stop()
                    await wait_all_tasks_blocked()
                    if cut == "a second stop":
                        server.group.stop(grace=0)
                await server.ended.wait()
    if cut != "from outside":
        assert server.report.actors[0].outcome == "cut"


async def test_cut_what_is_in_flight_is_cancelled_and_gets_no_byte(
    where: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, where) as server:
            client = await stack.enter_async_context(where.connected(server))
            await client.send(request("GET /work HTTP/1.1"))
            await app.begun.wait()
        assert (await ending(client.stream))[0] == b""
        if cut != "from outside":
            assert server.detail == "0 drained, 1 cut"
        assert sorted(app.seen[2:]) == ["lifespan is cancelled", "work is cancelled"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_cut_half_a_response_does_not_look_whole(
    where: Where, cut: str, version: str, clock: MockClock
) -> None:
    """The end of an HTTP/1.0 response may be that of its connection: there it must not be a clean
    one.
    """
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, where) as server:
            client = await stack.enter_async_context(where.connected(server))
            await client.send(request(f"GET /half HTTP/{version}"))
            await app.begun.wait()
        received, end = await ending(client.stream)
        if version == "1.1" or where.kind == "unix":
            assert not received.endswith(b"0\r\n\r\n")
        if version == "1.0" and where.kind != "unix":
            assert end == "reset"


async def test_cut_an_app_that_works_on_after_its_response_is_cancelled(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, tcp) as server:
            client = await stack.enter_async_context(tcp.connected(server))
            assert (await client.ask(request("GET /after HTTP/1.1"))).body == b"soon"
            await app.begun.wait()
        assert "after is cancelled" in app.seen


async def test_cut_a_websocket_with_a_message_in_hand_is_cancelled(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, tcp) as server:
            client = await stack.enter_async_context(tcp.connected(server))
            websocket = await open_websocket(client.stream, "/chat")
            await websocket.send(TextMessage(data="hello"))
            await app.begun.wait()
        assert "chat is cancelled" in app.seen


async def test_cut_a_lifespan_that_tells_of_it_has_not_failed(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    """As frameworks do: whatever ends their lifespan, they say that it failed."""
    app = App()

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
            await trio.sleep_forever()
        except trio.Cancelled:
            await send({"type": "lifespan.shutdown.failed", "message": "Traceback: Cancelled"})
            raise

    app.lifespan = lifespan  # type: ignore[method-assign]
    async with cutting(app, cut, tcp):
        pass
    assert app.seen[-1] == "lifespan is cancelled"


async def test_cut_a_shutdown_that_hangs_is_cancelled(clock: MockClock) -> None:
    app = App()
    ended = []

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    app.lifespan = lifespan  # type: ignore[method-assign]
    async with serving_app(app, grace=5) as server:
        await server.stop()
    assert ended == [pytest.approx(5)]
    assert server.report.actors[0].outcome == "cut"
    assert server.detail == "0 drained, 0 cut"


# The app's lifespan fails while it serves: that is a stop of its actor.


class Failing(App):
    """Its lifespan fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = trio.Event()

    async def lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await self.fail.wait()
        raise ValueError("the pool is gone")


@pytest.fixture(params=["the listener", "a function"])
def actor(request: pytest.FixtureRequest) -> Callable[[HTTPListener], Any]:
    """The listener is the actor, or a part of one."""

    def a_function(listener: HTTPListener) -> Any:
        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            await listener.execute(task_status=task_status)

        return serve

    return a_function if request.param == "a function" else lambda listener: listener


@asynccontextmanager
async def failing(group: Group) -> AsyncIterator[list[BaseException]]:
    """A group that runs, and then fails: with what, is known afterwards."""
    errors: list[BaseException] = []

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        with pytest.raises(GroupFailed) as caught:
            await group.run(task_status=task_status)
        errors.extend(caught.value.exceptions)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield errors


async def test_a_lifespan_that_fails_stops_what_waits_for_the_stop(
    actor: Callable[[HTTPListener], Any], clock: MockClock
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    member = group.add(actor(listener))
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        client = Client(one)
        await client.send(request("GET /ticks HTTP/1.1"))
        await app.begun.wait()
        app.fail.set()
        assert (await client.read()).body == b"tick bye"
        await client.read_to_end()
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]
    assert member.outcome == "failed"
    assert trio.current_time() == pytest.approx(0, abs=0.5)


async def test_a_lifespan_that_fails_waits_for_a_client_no_longer_than_the_grace(
    actor: Callable[[HTTPListener], Any], clock: MockClock
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    group.add(actor(listener))
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        client = Client(one)
        await client.send(request("GET /work HTTP/1.1"))
        await app.begun.wait()
        app.fail.set()
        await trio.sleep(10)
        assert "work is cancelled" in app.seen
        assert listener.status == "0 drained, 1 cut"
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]


async def test_a_lifespan_that_fails_closes_a_websocket_whose_client_does_not_answer(
    clock: MockClock,
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    member = group.add(listener)
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        websocket = await open_websocket(one, "/chat")
        app.fail.set()
        event = await websocket.receive()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1001, "going away")
        await member.wait_stopped()
        assert trio.current_time() == pytest.approx(5, abs=0.5)
        assert listener.status == "0 drained, 1 cut"
        assert app.seen[-1] == "chat ends"
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]


async def test_in_plain_trio_a_lifespan_that_fails_interrupts_the_listener() -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        with pytest.raises(ValueError, match="the pool is gone"):
            await listener.execute(task_status=task_status)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            async with await trio.open_tcp_stream(*address) as stream:
                client = Client(stream)
                await client.send(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                app.fail.set()
                await wait_all_tasks_blocked()
                app.go.set()
                await is_last(client, b"done ")
    assert listener.status == "1 drained, 0 cut"
