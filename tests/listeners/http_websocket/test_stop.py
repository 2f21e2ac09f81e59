"""A WebSocket at a stop."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    TextMessage,
)

from trio_run import Group, HTTPListener, busy, cancel_on_stop, stopping
from trio_run._listeners._stream import StreamListener
from trio_run.testing import read_to_end, running

from ... import TIMEOUT
from ..http_serving import App, only_http, serving_app
from ..serving import HOST, lines_of, read_and_close
from ..websocket_client import GOING_AWAY, WebSocketClient
from .helpers import (
    REQUEST,
    TOLD,
    Answering,
    Receive,
    Recording,
    Send,
    accept,
    echo,
    error_of,
    frame,
    is_refused,
    listening,
    opened,
    say,
    tracebacks,
    visit,
)


async def test_an_idle_websocket_gets_1001_and_the_app_hears_of_it() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == [TOLD]
        assert server.detail == "1 drained, 0 cut"
        assert server.report.exit_code == 0


async def test_another_librarys_client_sees_1001() -> None:
    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        trio.from_thread.run_sync(server.group.stop)
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(echo) as server:
        received = await visit(server, talk)
        assert str(received) == "1001 (going away) going away"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_the_lifespan_shuts_down_after_the_last_websocket() -> None:
    seen: list[str] = []
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                seen.append(kind)
                await send({"type": f"lifespan.{kind}.complete"})
        else:
            await echo(scope, receive, send)
            await go.wait()
            seen.append("websocket")

    async with serving_app(app) as server, opened(server) as client:
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await wait_all_tasks_blocked()
        go.set()
        await server.stop()
        assert seen == ["startup", "websocket", "shutdown"]


async def test_a_message_in_hand_is_answered_first() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 1 busy"
        app.go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", 1001]
        assert server.detail == "1 drained, 0 cut"


async def test_a_message_that_has_waited_for_the_app_is_in_hand_too() -> None:
    ask, go = trio.Event(), trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await ask.wait()
        await receive()
        await say(send, "begun")
        await go.wait()
        await say(send, "done")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        await wait_all_tasks_blocked()
        ask.set()
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
    assert seen == [TOLD]


async def test_a_message_handed_out_as_the_stop_comes_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell = StreamListener._drain_one

    def hand_out_and_tell(self: StreamListener, connection: Any) -> None:
        message = {"type": "websocket.receive", "text": "hello"}
        connection.at_end.__self__._deliver(message)  # as when it comes
        tell(self, connection)

    async with listening(echo) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        monkeypatch.setattr(StreamListener, "_drain_one", hand_out_and_tell)
        server.group.stop()
        assert await client.hear() == "hello"
        await client.is_closed(GOING_AWAY)
        await server.stop()


@pytest.mark.parametrize("before", [True, False])
async def test_messages_behind_the_one_in_hand_are_not_begun(before: bool) -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        if not before:
            server.group.stop()
            await wait_all_tasks_blocked()
        await client.say("second", "third", "fourth")
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        app.go.set()
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", 1001]


async def test_a_message_in_hand_is_answered_by_an_app_that_then_closes_itself() -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await say(send, "begun")
        await go.wait()
        await say(send, "done")
        await send({"type": "websocket.close", "code": 4000})

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        await client.is_closed(CloseConnection(code=4000, reason=""))
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("fails", [True, False])
async def test_an_app_that_returns_or_fails_with_a_message_in_hand(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await say(send, "begun")
        await go.wait()
        if fails:
            raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        await client.is_closed(CloseConnection(code=1011, reason="") if fails else GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut" + (", 1 failed" if fails else "")
    assert len(tracebacks(caplog)) == fails


async def test_a_client_that_leaves_with_a_message_in_hand_while_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Answering()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.say("ask")
            assert await client.hear() == "begun"
            server.group.stop()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        app.go.set()
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert app.seen == ["ask"]
    assert len(lines_of(caplog, "left during")) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_only_sends_gets_an_oserror_and_its_client_1001(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            while True:
                await say(send, "tick")
                await trio.sleep(0.001)
        finally:
            ended.set()

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "tick"
        server.group.stop()
        while isinstance(event := await client.receive(), TextMessage):
            assert event.data == "tick"
        assert event == GOING_AWAY
        await ended.wait()
        await client.send(GOING_AWAY.response())
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == 1
    assert not tracebacks(caplog)


async def test_an_app_inside_busy_is_told_when_the_block_ends() -> None:
    """And until then it goes on as if nothing were: it may ask its client, and gets the answer."""
    app = Answering(within_busy=True)
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        app.go.set()
        await wait_all_tasks_blocked()
        await client.say("body")
        assert await client.hear() == "done"
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert app.seen == ["ask", "body", 1001]
        assert server.detail == "1 drained, 0 cut"


async def test_an_app_that_only_sends_inside_busy_is_told_when_the_block_ends() -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            await say(send, "begun")
            await go.wait()
            await say(send, "done")
        with pytest.raises(OSError):
            await say(send, "more")
            await wait_all_tasks_blocked()
            await say(send, "still more")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "begun"
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await client.hear() == "done"
        while isinstance(event := await client.receive(), TextMessage):
            assert event.data == "more"
        assert event == GOING_AWAY
        await client.send(GOING_AWAY.response())
        await server.stop()
    assert seen == [TOLD]


@pytest.mark.parametrize("lets_pass", [True, False])
async def test_a_handshake_in_progress_is_503_and_the_accept_an_oserror(
    lets_pass: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await go.wait()
        try:
            await send({"type": "websocket.accept"})
        except OSError as exc:
            seen.append(str(exc))
            if lets_pass:
                raise
        seen.append(await receive())

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        assert await is_refused(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert seen[0] == "the server is going away"
    assert [message["code"] for message in seen[1:]] == ([] if lets_pass else [1001])
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == lets_pass
    assert not tracebacks(caplog)


async def test_a_handshake_in_progress_may_still_be_refused() -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"nothing here"})

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        go.set()
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.endswith(b"nothing here")
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


async def test_a_handshake_that_comes_with_the_stop_is_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo) as server:
        stream = server.connect_now(REQUEST)
        server.group.stop()
        assert await is_refused(stream) == b"HTTP/1.1 503 Service Unavailable"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, "going away")) == 1  # of the app, if it has come so far


async def test_a_handshake_that_is_being_sent_as_the_stop_comes_is_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        await stream.send_all(REQUEST[:50])
        await wait_all_tasks_blocked()
        server.group.stop()
        await wait_all_tasks_blocked()
        await stream.send_all(REQUEST[50:])
        assert (await read_and_close(stream)).startswith(b"HTTP/1.1 503 ")
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert len(lines_of(caplog, "503 for ")) == 1


async def test_a_websocket_accepted_as_the_stop_comes_gets_1001() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        server.group.stop()
        seen.append(await receive())

    async with listening(app) as server, await server.connect() as stream:
        client = WebSocketClient(stream)
        assert isinstance(await client.open(), AcceptConnection)
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert seen == [TOLD]


async def test_a_client_that_answers_late_is_drained(clock: MockClock) -> None:
    async with listening(echo, grace=20) as server, opened(server) as client:
        server.group.stop()
        assert await client.receive() == GOING_AWAY
        await trio.sleep(19)
        await client.send(GOING_AWAY.response())
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
        assert server.report.duration == pytest.approx(19, abs=0.5)


async def test_a_client_that_leaves_instead_of_answering_is_drained() -> None:
    async with listening(echo) as server:
        async with opened(server) as client:
            server.group.stop()
            assert await client.receive() == GOING_AWAY
        await server.stop()
        assert server.detail == "1 drained, 0 cut"


@pytest.mark.parametrize("busily", [True, False])
async def test_an_app_that_never_returns_is_cut_at_the_grace(
    busily: bool, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            if busily:
                with busy():
                    await trio.sleep_forever()
            await trio.sleep_forever()
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async with listening(app, grace=20) as server, opened(server) as client:
        server.group.stop()
        if not busily:
            await client.is_closed(GOING_AWAY)
        await server.stop()
        assert server.report.duration == pytest.approx(20)
        assert ended == ["cancelled"]
        assert server.detail == ("0 drained, 1 cut" if busily else "1 drained, 0 cut")
    assert not tracebacks(caplog)


async def test_an_app_that_fails_as_it_is_cut_is_logged(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("no good")

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)

    async with listening(app, grace=1) as server, opened(server):
        await server.stop()
    assert len(tracebacks(caplog)) == 1
    assert "ValueError: no good" in caplog.text


async def test_a_message_that_is_being_sent_arrives_whole_and_then_the_close() -> None:
    text = "x" * 10_000_000
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await say(send, text)
        seen.append("sent")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert not seen
        server.group.stop()
        await wait_all_tasks_blocked()
        assert await client.hear() == text
        await client.is_closed(GOING_AWAY)
        await server.stop()
        assert seen == ["sent", TOLD]
        assert server.detail == "1 drained, 0 cut"


async def test_a_chatty_client_that_never_pauses_ends_too() -> None:
    begun: list[str] = []
    answered: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            begun.append(message["text"])
            await say(send, message["text"])

    async def push(client: WebSocketClient) -> None:
        number = 0
        while not told:
            await client.say(str(number))
            number += 1
        await client.send(GOING_AWAY.response())

    told = False
    async with listening(app) as server, opened(server) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, client)
            while not isinstance(event := await client.receive(), CloseConnection):
                assert isinstance(event, TextMessage)
                answered.append(event.data)
                if len(answered) == 100:
                    server.group.stop()
            assert event == GOING_AWAY
            told = True
        assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert answered == begun


async def test_a_chatty_client_that_ignores_the_close_is_cut(clock: MockClock) -> None:
    async with listening(echo, grace=3) as server, opened(server) as client:
        data = frame(1, b"chat") * 100

        async def push() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.stream.send_all(data)
                    await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.sleep(1)
            await server.stop()
        assert server.detail == "0 drained, 1 cut"
        assert server.report.duration == pytest.approx(3, abs=0.5)


async def test_unread_messages_at_the_stop_do_not_hold_it_up(clock: MockClock) -> None:
    """The app does not receive, and the reader waits for it."""
    seen: list[Any] = []
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.say(*"abcdef")
        await wait_all_tasks_blocked()
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        go.set()
        await server.stop()
        assert server.report.duration < 1
        assert seen == [TOLD]


async def test_a_stop_while_the_apps_own_close_is_not_answered(clock: MockClock) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4000})
        assert (await receive())["code"] == 1001

    async with listening(app) as server, opened(server) as client:
        await client.is_told(CloseConnection(code=4000, reason=""))
        await server.stop()
        assert server.report.duration == pytest.approx(10, abs=0.5)
        assert server.detail == "1 drained, 0 cut"
        assert await client.receive() is None


async def test_a_stop_while_the_client_closes() -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await wait_all_tasks_blocked()
            await client.send(CloseConnection(code=3000, reason="bye"))
            server.group.stop()
            assert isinstance(await client.receive(), CloseConnection)
            assert await client.receive() is None
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert app.seen[-1]["code"] in (1001, 3000)


async def test_a_stop_with_clients_in_every_state(clock: MockClock) -> None:
    """All but the one that does not answer are drained, and nobody waits for another."""
    app = Answering()
    async with listening(app, grace=5) as server:
        async with opened(server) as idle, opened(server) as asking, opened(server):
            await asking.say("ask")
            assert await asking.hear() == "begun"
            server.group.stop()
            await idle.is_closed(GOING_AWAY)
            app.go.set()
            assert await asking.hear() == "done"
            await asking.is_closed(GOING_AWAY)
            await server.stop()
            assert server.detail == "2 drained, 1 cut"


async def test_an_app_may_see_that_it_is_stopping() -> None:
    seen: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        seen.append(stopping())
        await receive()
        seen.append(stopping())

    async with listening(app) as server, opened(server) as client:
        server.group.stop()
        await client.is_closed(GOING_AWAY)
        await server.stop()
    assert seen == [False, True]


async def test_cancel_on_stop_in_one_app_disturbs_no_other() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with cancel_on_stop():
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                with busy():
                    await say(send, message["text"])

    async with listening(app) as server, opened(server) as one, opened(server) as two:
        for client in (one, two):
            await client.say("hello")
            assert await client.hear() == "hello"
        server.group.stop()
        for client in (one, two):
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            await client.send(event.response())
        await server.stop()
        assert server.detail == "2 drained, 0 cut"


@asynccontextmanager
async def inside_another_actor(app: App) -> AsyncIterator[tuple[Group, WebSocketClient]]:
    """There it is cancelled softly, not interrupted.

    The group must have ended when the client still listens.
    """
    listener = HTTPListener(only_http(app), 0, host=HOST)
    group = Group(grace=1000)

    async def actor(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    member = group.add(actor)
    with trio.fail_after(TIMEOUT):
        async with running(group, wait_ready=False):
            await member.wait_ready()
            client = WebSocketClient(await trio.open_tcp_stream(*listener.addresses[0]))
            yield group, client
        await client.stream.aclose()


async def test_inside_another_actor_what_is_busy_finishes() -> None:
    go = trio.Event()
    seen: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with busy():
            await receive()
            await say(send, "begun")
            await go.wait()
            seen.append("done")
        await receive()
        seen.append("not cancelled")

    async with inside_another_actor(app) as (group, client):
        assert isinstance(await client.open(), AcceptConnection)
        await client.say("ask")
        assert await client.hear() == "begun"
        group.stop()
        await wait_all_tasks_blocked()
        go.set()
    assert seen == ["done"]


@pytest.mark.parametrize("protected", [True, False])
async def test_inside_another_actor_a_handshake_in_progress_holds_nobody_up(
    protected: bool,
) -> None:
    go = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with busy() if protected else trio.CancelScope():
            await go.wait()
            await accept(receive, send)
        await receive()

    async with inside_another_actor(app) as (group, client):
        await client.ask()
        await wait_all_tasks_blocked()
        group.stop()
        await wait_all_tasks_blocked()
        go.set()


async def test_inside_another_actor_an_app_that_fails_before_it_accepts_holds_nobody_up(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("mine")

    async with inside_another_actor(app) as (group, client):
        await client.ask()
        await wait_all_tasks_blocked()
        group.stop()
    assert [repr(error_of(record)) for record in tracebacks(caplog)] == [
        "ZeroDivisionError('mine')"
    ]


@pytest.mark.parametrize("seed", range(10))
async def test_at_a_random_moment_every_message_begun_is_answered(seed: int) -> None:
    chance = random.Random(seed)
    begun: set[str] = set()
    heard: set[str] = set()
    ended: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            begun.add(message["text"])
            for _ in range(chance.randrange(5)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.3:
                await trio.sleep(chance.random() / 50)
            await say(send, message["text"])
        ended.append(message)

    async def chat(client: WebSocketClient, name: str) -> None:
        number = 0
        await client.say(f"{name}.{number}")
        while not isinstance(event := await client.receive(), CloseConnection):
            assert isinstance(event, TextMessage)
            heard.add(event.data)
            number += 1
            await client.say(f"{name}.{number}")
        assert event == GOING_AWAY
        await client.send(event.response())
        assert await client.receive() is None
        await client.stream.aclose()

    async with listening(app) as server:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                client = WebSocketClient(await server.connect())
                assert isinstance(await client.open(), AcceptConnection)
                nursery.start_soon(chat, client, str(number))
            await trio.sleep(chance.random() / 5)
            server.group.stop()
        await server.stop()
        assert server.detail == "20 drained, 0 cut"
    assert heard == begun
    assert ended == [TOLD] * 20
