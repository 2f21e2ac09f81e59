"""How a WebSocket ends without a stop."""

import logging
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import (
    CloseConnection,
    TextMessage,
)

from trio_run import Group, HTTPListener
from trio_run.testing import running

from ... import TIMEOUT
from ..http_serving import only_http
from ..serving import (
    HOST,
    lines_of,
    name_of,
    open_descriptors,
)
from ..websocket_client import NORMAL
from .helpers import (
    LOST,
    REQUEST,
    Receive,
    Recording,
    Send,
    accept,
    error_of,
    frame,
    listening,
    opened,
    reset_on_close,
    say,
    tracebacks,
    visit,
)


async def test_an_app_that_raises_is_logged_and_its_client_gets_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        assert isinstance(client.stream, trio.SocketStream)
        await client.say("hello")
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy, 1 failed"
        await client.is_closed(CloseConnection(code=1011, reason=""))
        [record] = tracebacks(caplog)
        assert record.levelno == logging.ERROR
        assert record.getMessage().endswith(f"for {name_of(client.stream)}")
        assert str(error_of(record)) == "no good"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy, 1 failed"
        await server.stop()
        assert server.report.exit_code == 0


async def test_an_app_that_fails_with_more_than_one_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=1011, reason=""))
        [record] = tracebacks(caplog)
        error = error_of(record)
        assert isinstance(error, ExceptionGroup)
        assert {str(inner) for inner in error.exceptions} == {"one", "two"}


async def test_an_interrupt_from_the_keyboard_is_no_failure_of_the_app() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise KeyboardInterrupt

    group = Group()
    listener = HTTPListener(only_http(app), 0, host=HOST)
    member = group.add(listener)
    with trio.fail_after(TIMEOUT), pytest.raises(KeyboardInterrupt):
        async with running(group, wait_ready=False):
            await member.wait_ready()
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                await stream.send_all(REQUEST)
                await trio.sleep_forever()


async def test_an_app_that_returns_closes_with_1000() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await say(send, "hello")

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        assert client.recv(TIMEOUT) == "hello"
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(app) as server:
        assert str(await visit(server, talk)) == "1000 (OK)"
        async with opened(server) as client:
            assert await client.hear() == "hello"
            await client.is_closed(NORMAL)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"


@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": 4001, "reason": "enough"}, 4001, "enough"),
        ({"code": 1001, "reason": None}, 1001, ""),
        ({"reason": "é" * 100}, 1000, "é" * 61),
    ],
)
async def test_an_app_closes_with_code_and_reason(
    close: dict[str, Any], code: int, reason: str
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", **close})
        after.append(await receive())
        after.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=code, reason=reason))
        await wait_all_tasks_blocked()
        assert after == [{"type": "websocket.disconnect", "code": code, "reason": reason}] * 2


@pytest.mark.parametrize("code", [-1, 70_000, "x"])
async def test_a_close_that_cannot_be_is_an_error_and_1011(
    code: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": code})

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(CloseConnection(code=1011, reason=""))
        assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011])
async def test_a_client_that_does_not_answer_the_close_is_left_after_10_s(
    code: int, clock: MockClock
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": code})
        after.append(await receive())

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.is_told(CloseConnection(code=code, reason=""))
        assert await client.receive() is None
        assert trio.current_time() - began == pytest.approx(10, abs=1)
        await wait_all_tasks_blocked()
        assert after == [{**LOST, "code": code}]
        assert server.listener.status == "0 connections, 0 busy"


async def test_the_time_to_answer_a_close_begins_when_it_is_sent(clock: MockClock) -> None:
    """The client is slow, but it goes on reading."""
    text = "x" * 50_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, send, text)
            await receive()
            await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await client.say("close it")
        await trio.sleep(20)
        assert await client.hear() == text
        await client.is_closed(NORMAL)


@pytest.mark.parametrize("how", ["close", "return", "raise"])
async def test_unread_messages_do_not_hold_up_the_end(
    how: str, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await wait_all_tasks_blocked()
        if how == "close":
            await send({"type": "websocket.close"})
            await wait_all_tasks_blocked()
            assert (await receive())["text"] == "b"  # and no other after it
            assert (await receive())["type"] == "websocket.disconnect"
        if how == "raise":
            raise ValueError("no good")

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.say(*"abcdef")
        await client.is_closed(CloseConnection(code=1011 if how == "raise" else 1000, reason=""))
        assert trio.current_time() - began < 1
    assert len(tracebacks(caplog)) == (how == "raise")


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (CloseConnection(code=1000, reason=None), (1000, "")),
        (CloseConnection(code=3001, reason="enough"), (3001, "enough")),
        (CloseConnection(code=1001, reason="moving on"), (1001, "moving on")),
        (CloseConnection(code=1005, reason=None), (1005, "")),
    ],
)
async def test_a_client_that_closes_is_answered_and_the_app_hears_of_it(
    sent: CloseConnection, seen: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.say("last words")
            if sent.code == 1005:
                await client.stream.send_all(frame(8, b""))
            else:
                await client.send(sent)
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            assert (event.code, event.reason or "") == seen
            assert await client.receive() is None
        await app.ended.wait()
        code, reason = seen
        assert app.seen == [
            {"type": "websocket.receive", "text": "last words"},
            {"type": "websocket.disconnect", "code": code, "reason": reason},
        ]
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert not lines_of(caplog, " for ")
    assert not tracebacks(caplog)


async def test_the_disconnect_is_made_of_plain_types() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await client.send(CloseConnection(code=1000, reason="bye"))
        await app.ended.wait()
    [message] = app.seen
    assert [type(value) for value in message.values()] == [str, int, str]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_client_that_vanishes_is_heard_of_with_1006(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recording()
    async with listening(app) as server:
        before = open_descriptors()
        async with opened(server) as client:
            await client.say("last words")
            await wait_all_tasks_blocked()
            if how == "reset":
                reset_on_close(client.stream)
        await app.ended.wait()
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "last words"}, LOST]
        assert server.listener.status == "0 connections, 0 busy"
        assert open_descriptors() == before
    assert not tracebacks(caplog)


async def test_a_client_that_vanishes_in_the_midst_of_a_message() -> None:
    app = Recording()
    async with listening(app) as server:
        async with opened(server) as client:
            await client.stream.send_all(frame(1, b"half", fin=False) + b"\x81")
        await app.ended.wait()
    assert app.seen == [LOST]


@pytest.mark.parametrize("how", ["close", "end", "reset"])
async def test_an_app_that_sends_to_a_client_that_has_left_gets_an_oserror(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = trio.Event()
    errors: list[OSError] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await left.wait()
        for kind in ({"type": "websocket.send", "text": "hello?"}, {"type": "websocket.close"}):
            try:
                await send(kind)
            except OSError as exc:
                errors.append(exc)
        await say(send, "nobody catches it")

    async with listening(app) as server:
        async with opened(server) as client:
            if how == "close":
                await client.send(NORMAL)
                await client.is_told(NORMAL)
            if how == "reset":
                reset_on_close(client.stream)
        await wait_all_tasks_blocked()
        left.set()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(errors) == 2
    assert len(lines_of(caplog, "left during")) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_fails_because_its_client_has_left_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As frameworks do, with errors of their own."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        message = await receive()
        raise ValueError(f"it has left with {message['code']}")

    async with listening(app) as server:
        async with opened(server):
            pass
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    [record] = lines_of(caplog, "left during")
    assert record.getMessage().endswith("it has left with 1006")
    assert not tracebacks(caplog)


@pytest.mark.parametrize("lets_fail", ["refused", "left"])
async def test_an_app_that_has_not_heard_of_the_end_fails_for_reasons_of_its_own(
    lets_fail: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if lets_fail == "refused":
            await send({"type": "websocket.close"})
        else:
            await accept(receive, send)
            await left.wait()
        raise ValueError("no good")

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await stream.receive_some()
        await wait_all_tasks_blocked()
        left.set()
    [record] = tracebacks(caplog)
    assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_app_that_sends_after_its_own_close_gets_an_oserror_and_one_line(
    grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close"})
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await say(send, "hello?")
        if grouped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, send, "one")
                nursery.start_soon(say, send, "two")
        await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()  # the client has not answered yet
        await client.is_closed(NORMAL)
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, '"/path" (WebSocket)')) == 1
    assert not tracebacks(caplog)


async def test_an_app_that_fails_after_its_own_close_is_logged_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        try:
            raise ValueError("no good")
        finally:
            await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await client.is_closed(NORMAL)
    [record] = tracebacks(caplog)
    assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("_again", range(10))  # which task is first is up to Trio
async def test_a_client_that_closes_while_several_tasks_send_is_an_oserror_to_each(
    _again: int, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []

    async def push(send: Send) -> None:
        try:
            while True:
                await say(send, "x" * 10_000)
        except Exception as exc:
            errors.append(exc)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(push, send)

    async with listening(app) as server, opened(server) as client:
        await client.hear()
        await client.send(NORMAL)
        while not isinstance(event := await client.receive(), CloseConnection):
            assert isinstance(event, TextMessage)
        assert await client.receive() is None
        await wait_all_tasks_blocked()
    assert [type(error).__mro__[1] for error in errors] == [OSError] * 3
    assert not tracebacks(caplog)


@pytest.mark.parametrize("_again", range(5))
async def test_a_client_that_closes_just_as_the_app_sends(_again: int) -> None:
    errors: list[Exception] = []
    sent = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await accept(receive, send)
        try:
            while True:
                await say(send, "x")
                sent += 1
        except Exception as exc:
            errors.append(exc)

    async with listening(app) as server:
        for number in range(20):
            async with opened(server) as client:
                await client.hear()
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                await client.send(NORMAL)
                while not isinstance(await client.receive(), CloseConnection):
                    pass
    assert all(isinstance(error, OSError) for error in errors), errors
    assert len(errors) == 20


async def test_receive_after_the_disconnect_can_be_cancelled() -> None:
    """An app that never looks at what it receives is not to stop the whole server."""
    cancelled: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        with trio.CancelScope() as scope_:
            scope_.cancel()
            for _ in range(10):
                assert (await receive())["type"] == "websocket.disconnect"
        cancelled.append(scope_.cancelled_caught)

    async with listening(app) as server:
        async with opened(server):
            pass
    assert cancelled == [True]
