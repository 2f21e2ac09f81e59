"""A stop: wherever the listener runs, and the lame duck."""

import contextlib
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import (
    Cause,
    Group,
    HTTPListener,
)
from trio_run.testing import connect, running

from ... import TIMEOUT
from ..http_serving import Client, answer, only_http, request
from ..serving import HOST, Server
from .helpers import App, Where, goes_away, is_ended, is_last, open_websocket

# Where the listener runs.


async def works_like_any_other(
    server_address: Any, app: App, stop: Callable[[], object], ended: trio.Event
) -> None:
    """One is idle, one in flight, one in the accept queue, one a WebSocket."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect() -> Client:
            stream = await trio.open_tcp_stream(*server_address[:2])
            return Client(await stack.enter_async_context(stream))

        idle = await connect()
        await idle.ask(request("GET /echo HTTP/1.1"))
        at_work = await connect()
        await at_work.send(request("POST /work HTTP/1.1", "Content-Length: 4", body=b"bo"))
        half = await connect()
        await half.send(request("GET /half HTTP/1.1"))
        websocket = await open_websocket((await connect()).stream, "/chat")
        await wait_all_tasks_blocked()
        queued = socket.create_connection(server_address[:2])
        queued.sendall(request("GET /echo HTTP/1.1"))
        queued.setblocking(False)
        in_queue = Client(trio.SocketStream(trio.socket.from_stdlib_socket(queued)))
        await stack.enter_async_context(in_queue.stream)

        stop()
        await is_ended(idle)
        await goes_away(websocket)
        assert (
            await in_queue.read()
        ).status == 200  # it may still have been accepted like any other
        await is_ended(in_queue)
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        assert "shutdown" not in app.seen
        await at_work.send(b"dy")
        app.go.set()
        await is_last(at_work, b"done body")
        await is_last(half, b"first second", told=False)
        await ended.wait()
    assert app.seen[-2:] == ["shutdown", "lifespan ends"]
    assert not [what for what in app.seen if "cancelled" in what]


async def test_member_stop_stops_the_listener_alone(tcp: Where) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group()
    member = group.add(listener)
    other = group.add(trio.sleep_forever, name="other")
    stopped = trio.Event()

    async def wait_stopped() -> None:
        await member.wait_stopped()
        stopped.set()

    with trio.fail_after(TIMEOUT):
        async with running(group), trio.open_nursery() as nursery:
            nursery.start_soon(wait_stopped)
            await works_like_any_other(listener.addresses[0], app, member.stop, stopped)
            assert other.state.name == "RUNNING"
            group.stop()
    assert member.outcome == "returned"
    assert listener.status == "5 drained, 0 cut"


@pytest.mark.parametrize("who_stops", ["the inner group", "the outer group"])
async def test_rule_15_in_a_group_within_a_group(who_stops: str) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(listener)
    outer.add(inner)
    server = Server(listener, outer)  # type: ignore[arg-type]
    stop = inner.stop if who_stops == "the inner group" else outer.stop
    with trio.fail_after(TIMEOUT):
        async with running(server.group):
            await works_like_any_other(listener.addresses[0], app, stop, server.ended)
    # The one in the queue may be answered, and leave, before the listener is interrupted.
    assert listener.status in ("4 drained, 0 cut", "5 drained, 0 cut")


async def test_in_a_function_actor_what_is_in_flight_is_answered() -> None:
    """Such an actor has no interrupt: its stop is a soft cancel, which ends only what is idle."""
    app = App()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    server = Server(listener, Group())  # type: ignore[arg-type]
    server.group.add(serve)
    with trio.fail_after(TIMEOUT):
        async with running(server.group):
            async with (
                await trio.open_tcp_stream(*listener.addresses[0]) as idle,
                await trio.open_tcp_stream(*listener.addresses[0]) as stream,
            ):
                await Client(idle).ask(request("GET /echo HTTP/1.1"))
                at_work = Client(stream)
                await at_work.send(request("POST /work HTTP/1.1", "Content-Length: 4", body=b"bo"))
                await wait_all_tasks_blocked()
                server.group.stop()
                assert await idle.receive_some() == b""
                await wait_all_tasks_blocked()
                assert "shutdown" not in app.seen
                await at_work.send(b"dy")
                app.go.set()
                await is_last(at_work, b"done body")
            await server.ended.wait()
    assert app.seen[-2:] == ["shutdown", "lifespan ends"]


async def test_in_a_function_actor_it_is_cut_at_the_grace(clock: MockClock) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    server = Server(listener, Group(grace=5))  # type: ignore[arg-type]
    server.group.add(serve)
    with trio.fail_after(TIMEOUT):
        async with running(server.group):
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                await stream.send_all(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                await server.stop()
                assert trio.current_time() == pytest.approx(5)
    assert server.report.actors[0].outcome == "cut"
    assert listener.status == "0 drained, 1 cut"


async def test_in_plain_trio_it_drains_when_it_is_interrupted() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    ended = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)
        ended.set()

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            await works_like_any_other(
                address, app, lambda: listener.interrupt(Cause(reason="enough")), ended
            )
    assert listener.status == "5 drained, 0 cut"


async def test_in_plain_trio_a_cancel_cuts_it() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                nursery.cancel_scope.cancel()
    assert sorted(app.seen[2:]) == ["lifespan is cancelled", "work is cancelled"]
    assert listener.status == "0 drained, 1 cut"


async def test_interrupted_twice_is_interrupted_once() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*address) as stream:
                client = Client(stream)
                await client.send(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                for _ in range(3):
                    listener.interrupt(Cause())
                    await wait_all_tasks_blocked()
                app.go.set()
                await is_last(client, b"done ")
    assert app.seen.count("shutdown") == 1


async def test_a_stop_while_the_app_starts_up_ends_it_at_once(clock: MockClock) -> None:
    seen = []
    starting = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        starting.set()
        try:
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    group = Group()
    group.add(HTTPListener(app, 0, host=HOST))
    with trio.fail_after(TIMEOUT):
        async with running(group, wait_ready=False):
            await starting.wait()
    assert seen == ["ended"]
    assert trio.current_time() == 0


# Lame duck.


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await answer(send)


@pytest.mark.parametrize("whose", ["its own group's", "the outer group's"])
async def test_rule_10_while_its_group_is_a_lame_duck_responses_end_their_connections(
    whose: str, clock: MockClock
) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(lame_duck=10)
    if whose == "its own group's":
        group.add(listener)
    else:
        inner = Group(name="inner")
        inner.add(listener)
        group.add(inner)
    server = Server(listener, group)  # type: ignore[arg-type]
    with trio.fail_after(TIMEOUT):
        async with running(server.group), contextlib.AsyncExitStack() as stack:
            clients = []
            for _ in range(3):
                stream = await stack.enter_async_context(await server.connect())
                clients.append(Client(stream))
                response = await clients[-1].ask(request("GET /echo HTTP/1.1"))
                assert "connection" not in response.headers
            idle, asks, at_work = clients
            await at_work.send(request("GET /work HTTP/1.1"))
            await app.begun.wait()
            group.stop()
            await trio.sleep(5)
            assert not group.ready
            app.go.set()
            await is_last(at_work, b"done ")
            await asks.send(request("GET /echo HTTP/1.1"))
            await is_last(asks, b"")
            new = Client(await stack.enter_async_context(await server.connect()))
            await new.send(request("GET /echo HTTP/1.1"))
            await is_last(new, b"")
            assert "shutdown" not in app.seen
            await is_ended(idle)  # it is let go, in the second half
            assert 5 < trio.current_time() < 10
            await server.ended.wait()
            assert trio.current_time() == pytest.approx(10)


@pytest.mark.parametrize("whose", ["its own group's", "the outer group's"])
async def test_idle_connections_are_let_go_evenly_in_the_second_half_of_a_lame_duck(
    whose: str, clock: MockClock
) -> None:
    """The one that has been idle longest is first. Those that come meanwhile have their turn."""
    listener = HTTPListener(only_http(answers), 0, host=HOST)
    group = inner = Group(lame_duck=4)
    if whose == "the outer group's":
        inner = Group(name="inner")
        group.add(inner)
    inner.add(listener)
    ended: list[tuple[int, float]] = []

    async def stay(number: int, stream: trio.SocketStream) -> None:
        await is_ended(Client(stream))
        ended.append((number, trio.current_time() - began))

    with trio.fail_after(TIMEOUT):
        async with running(group), contextlib.AsyncExitStack() as stack:
            async with trio.open_nursery() as nursery:

                async def come(number: int) -> None:
                    stream = await connect(listener)
                    await stack.enter_async_context(stream)
                    if number < 20:  # who comes later just stays
                        await Client(stream).ask(request())
                    nursery.start_soon(stay, number, stream)

                for number in range(20):
                    await come(number)
                    await trio.sleep(0.1)
                group.stop()
                began = trio.current_time()
                await trio.sleep(2.4)
                assert len(ended) in (3, 4, 5)
                await come(20)
    assert [number for number, _ in ended] == list(range(21))
    times = [when for _, when in ended]
    assert times[0] > 2
    assert times[-1] <= 4.01
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.3


@pytest.mark.parametrize(
    "what", ["its group", "the outer group", "it alone", "the inner group alone", "the listener"]
)
async def test_rule_10_from_the_moment_of_a_stop_responses_end_their_connections(what: str) -> None:
    """Not only from the moment at which the connections drain, which is a little later."""
    stops: dict[str, Callable[[], object]] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "no lifespan"
        stops[what]()
        await answer(send)

    listener = HTTPListener(app, 0, host=HOST)
    inner, outer = Group(name="inner"), Group(name="outer")
    stops |= {
        "its group": inner.stop,
        "the outer group": outer.stop,
        "it alone": inner.add(listener).stop,
        "the inner group alone": outer.add(inner).stop,
        "the listener": lambda: listener.interrupt(Cause()),
    }
    server = Server(listener, inner)  # type: ignore[arg-type]
    with trio.fail_after(TIMEOUT):
        async with running(outer), await server.connect() as stream:
            await Client(stream).send(request())
            await is_last(Client(stream), b"")
            await server.ended.wait()


async def test_all_listeners_of_an_actor_let_go_and_serve_until_their_turn_to_stop(
    clock: MockClock,
) -> None:
    """Somebody needs them, and takes longer than the lame duck."""
    listeners = [HTTPListener(only_http(answers), 0, host=HOST, name=name) for name in "ab"]
    over = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                await nursery.start(listener.execute)
            task_status.started()

    async def take_long(_cause: Cause) -> None:
        await trio.sleep(3)
        over.set()

    group = Group(lame_duck=2)
    group.add(over.wait, take_long, name="user", needs=[group.add(serve)])
    with trio.fail_after(TIMEOUT):
        async with running(group):
            async with await connect(listeners[0]) as first, await connect(listeners[1]) as second:
                group.stop()
                for client in map(Client, (first, second)):
                    await is_ended(client)
                    assert 1 < trio.current_time() <= 2.1
            await trio.sleep(0.5)
            async with await connect(listeners[0]) as stream:
                await Client(stream).send(request())
                await is_last(Client(stream), b"")
            assert 2 < trio.current_time() < 5
