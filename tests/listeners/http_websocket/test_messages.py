"""Messages, backpressure, and several tasks."""

import ssl
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    TextMessage,
)

from trio_run import stopping
from trio_run._inside import place
from trio_run._listeners._http._incoming import Incoming

from ... import TIMEOUT
from ..serving import lines_of
from ..websocket_client import GOING_AWAY, NORMAL, WebSocketClient
from .helpers import (
    LOST,
    REQUEST,
    TOLD,
    Answering,
    Receive,
    Recording,
    Send,
    accept,
    echo,
    frame,
    listening,
    opened,
    say,
    tracebacks,
    visit,
)

# Messages.


async def test_messages_of_every_kind_and_size_come_and_go() -> None:
    texts = ["", "x", "é" * 63, "x" * 125, "x" * 126, "x" * 65_535, "€" * 65_536, "x" * 2**20]

    def talk(client: websockets.sync.client.ClientConnection) -> None:
        for text in texts:
            client.send(text)
            assert client.recv(TIMEOUT) == text
            data = text.encode()
            client.send(data)
            assert client.recv(TIMEOUT) == data
        client.send(iter(["frag", "", "mented ", "é"]))  # one message
        assert client.recv(TIMEOUT) == "fragmented é"
        client.send(iter([b"", b"\0", b"\xff"]))
        assert client.recv(TIMEOUT) == b"\0\xff"
        client.send(iter(["", ""]))
        assert client.recv(TIMEOUT) == ""
        for number in range(200):
            client.send(str(number))
        assert [client.recv(TIMEOUT) for _ in range(200)] == [str(number) for number in range(200)]

    async with listening(echo) as server:
        await visit(server, talk, max_size=None)


async def test_the_app_receives_plain_text_or_bytes() -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        await client.say("text")
        await client.send(BytesMessage(data=b"bytes"))
        await wait_all_tasks_blocked()
        assert app.seen == [
            {"type": "websocket.receive", "text": "text"},
            {"type": "websocket.receive", "bytes": b"bytes"},
        ]
        assert type(app.seen[1]["bytes"]) is bytes


async def test_fragments_with_other_frames_in_between() -> None:
    app = Recording()
    euro = "€".encode()
    async with listening(app) as server, opened(server) as client:
        data = frame(1, b"a" + euro[:1], fin=False) + frame(9, b"ping") + frame(10, b"pong")
        data += frame(0, euro[1:2], fin=False) + frame(0, b"", fin=False) + frame(0, euro[2:])
        for number in range(len(data)):
            await client.stream.send_all(data[number : number + 1])
        assert await client.receive() == Pong(payload=b"ping")
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "a€"}]


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"text": "a", "bytes": None}, TextMessage("a")),
        ({"text": None, "bytes": b"a"}, BytesMessage(b"a")),
        ({"bytes": bytearray(b"a")}, BytesMessage(b"a")),
        ({"bytes": memoryview(b"a")}, BytesMessage(b"a")),
        ({"text": ""}, TextMessage("")),
        ({"bytes": b""}, BytesMessage(b"")),
    ],
)
async def test_what_the_app_may_send(message: dict[str, Any], heard: Message) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", **message})

    async with listening(app) as server, opened(server) as client:
        event = await client.receive()
        assert type(event) is type(heard)
        assert isinstance(event, Message)
        assert event.data == heard.data


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "websocket.send"}, "neither text nor bytes"),
        ({"type": "websocket.send", "text": None, "bytes": None}, "neither text nor bytes"),
        ({"type": "websocket.accept"}, "websocket.accept"),
        ({"type": "websocket.http.response.start", "status": 404}, "websocket.http.response.start"),
        ({"type": "nonsense"}, "nonsense"),
    ],
)
async def test_what_the_app_may_not_send_is_a_clear_error(
    message: dict[str, Any], text: str
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(RuntimeError, match=text):
            await send(message)
        await say(send, "still open")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"


async def test_text_that_is_no_unicode_is_an_error_and_breaks_nothing() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(RuntimeError, match="surrogates not allowed"):
            await say(send, "\ud800")
        await say(send, "still open")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
async def test_a_message_over_the_limit_ends_it_with_1009(
    kind: type[Message], caplog: pytest.LogCaptureFixture
) -> None:
    def make(size: int) -> Any:
        return "x" * size if kind is TextMessage else b"x" * size

    app = Recording()
    async with listening(app, max_message_size=10) as server, opened(server) as client:
        await client.send(kind(data=make(10)))
        await client.send(kind(data=make(4), message_finished=False))
        await client.send(kind(data=make(6), message_finished=True))
        await client.send(kind(data=make(11)))
        await client.is_closed(CloseConnection(code=1009, reason=None))
        await app.ended.wait()
        assert len(app.seen) == 3
        assert app.seen[-1]["code"] == 1009
    assert not tracebacks(caplog)


async def test_the_limit_is_in_bytes() -> None:
    app = Recording()
    async with listening(app, max_message_size=10) as server, opened(server) as client:
        await client.say("é" * 5)
        await client.say("é" * 5 + "e")
        await client.is_closed(CloseConnection(code=1009, reason=None))
        assert app.seen[0]["text"] == "é" * 5


@pytest.mark.parametrize("fragments", [False, True])
async def test_a_message_over_the_limit_is_refused_before_it_is_whole(fragments: bool) -> None:
    """Its client hears of it with a gigabyte still to come; what it sends on is thrown away."""
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get().at_end.__self__)
        await app(scope, receive, send)

    async with listening(here, max_message_size=1000) as server:
        async with opened(server) as client:
            if fragments:
                await client.stream.send_all(
                    frame(2, b"x" * 100, fin=False) + frame(0, b"x" * 100, fin=False) * 10
                )
            else:
                huge = b"\x82\xff" + struct.pack("!Q", 2**30) + bytes(4)
                await client.stream.send_all(huge + bytes(1001))
            await client.is_told(CloseConnection(code=1009, reason=None))
            await app.ended.wait()
            if fragments:
                more = frame(0, b"x" * 100, fin=False) + frame(9, b"")
                await client.stream.send_all(more * 1000)
                await wait_all_tasks_blocked()
                assert len(connections[0]._parts) == 1000
        assert [message["code"] for message in app.seen] == [1009]


async def test_a_message_of_nothing_but_empty_fragments_takes_no_room() -> None:
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await app(scope, receive, send)

    async with listening(here, max_message_size=10) as server, opened(server) as client:
        await client.stream.send_all(frame(1, b"", fin=False) + frame(0, b"", fin=False) * 10_000)
        await client.stream.send_all(frame(9, b""))
        assert await client.receive() == Pong(payload=b"")
        websocket = connections[0].at_end.__self__
        assert len(websocket._parts) < 10
        await client.stream.send_all(frame(0, b"end"))
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "end"}]


async def test_a_message_of_tiny_fragments_takes_no_more_room_than_it_has_bytes() -> None:
    app = Recording()
    connections: list[Any] = []

    async def here(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get().at_end.__self__)
        await app(scope, receive, send)

    async with listening(here) as server, opened(server) as client:
        await client.stream.send_all(frame(1, b"a", fin=False) + frame(0, b"a", fin=False) * 9_999)
        await client.stream.send_all(frame(9, b""))
        assert await client.receive() == Pong(payload=b"")
        parts = connections[0]._parts
        assert len(parts) == 10_000
        assert sys.getsizeof(parts) < 20_000
        await client.stream.send_all(frame(0, b"b"))
        await wait_all_tasks_blocked()
        assert app.seen == [{"type": "websocket.receive", "text": "a" * 10_000 + "b"}]


async def test_a_ping_is_answered_and_a_pong_ignored() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.send(Ping(payload=b"idle"))
        assert await client.receive() == Pong(payload=b"idle")
        await client.send(Pong(payload=b"unasked"))
        await client.say("ask")
        assert await client.hear() == "begun"
        await client.send(Ping(payload=b"busy"))  # the app does not receive
        await client.send(Pong(payload=b"unasked"))
        assert await client.receive() == Pong(payload=b"busy")
        assert app.seen == ["ask"]
        app.go.set()


async def test_a_ping_behind_a_message_that_waits_is_answered() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        await client.say("next")
        await client.send(Ping(payload=b"busy"))
        assert await client.receive() == Pong(payload=b"busy")
        app.go.set()


async def test_another_librarys_keepalive_is_answered() -> None:
    def talk(client: websockets.sync.client.ClientConnection) -> bool:
        return client.ping().wait(TIMEOUT)

    async with listening(echo) as server:
        assert await visit(server, talk)


async def test_a_client_that_pings_while_it_closes_is_not_answered_after_the_close() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        await client.stream.send_all(frame(9, b"ping") + frame(1, b"text"))
        await client.is_closed(NORMAL)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"\xff"), 1007),
        (frame(1, b"\xc3", fin=False) + frame(0, b"x"), 1007),
        (frame(3, b"x"), 1002),
        (frame(1, b"x", mask=False), 1002),
        (frame(0, b"x"), 1002),
        (frame(1, b"x", fin=False) + frame(1, b"x"), 1002),
        (frame(9, b"x", fin=False), 1002),
        (b"\xc1\x81" + bytes(5), 1002),  # a reserved bit
        (b"\x82\xff" + b"\xff" * 12, 1009),  # a length that is negative
        (frame(8, b"x"), 1002),
        (frame(8, struct.pack("!H", 1006)), 1002),
        (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
@pytest.mark.parametrize("where", ["tcp", "unix"])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_what_makes_no_sense_ends_it_with_one_line(
    data: bytes,
    code: int,
    goes_on: bool,
    where: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recording()
    async with listening(app, **{"path": tmp_path / "socket"} if where == "unix" else {}) as server:
        async with opened(server) as client:
            await client.say("before")
            await client.stream.send_all(data + bytes(100_000 if goes_on else 0))
            await wait_all_tasks_blocked()
            await client.stream.send_all(bytes(100_000))  # it is not to be reset for that
            event = await client.receive()
            assert isinstance(event, CloseConnection)
            # Frames are looked at before texts.
            code = 1002 if goes_on and data[0] & 15 == 1 else code
            assert event.code == code
            assert await client.receive() is None
        await app.ended.wait()
        await wait_all_tasks_blocked()
        assert [message.get("text", message.get("code")) for message in app.seen] == [
            "before",
            code,
        ]
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, f"{code} for ")) == 1
    assert not tracebacks(caplog)


async def test_what_makes_no_sense_after_our_close_ends_it(clock: MockClock) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)

    async with listening(app) as server, opened(server) as client:
        began = trio.current_time()
        await client.is_told(NORMAL)
        await client.stream.send_all(frame(3, b"x"))
        assert await client.receive() is None
        assert trio.current_time() - began < 1


# Backpressure, and several tasks.


async def test_an_app_waits_for_a_client_that_does_not_read() -> None:
    sent = 0
    text = "x" * 100_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await accept(receive, send)
        while sent < 200:
            await say(send, text)
            sent += 1

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert sent < 200
        for _ in range(200):
            assert await client.hear() == text
        await client.is_closed(NORMAL)


async def test_a_client_that_does_not_read_for_idle_timeout_is_lost(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[OSError] = []
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(OSError, match="taken nothing") as caught:
            while True:
                await say(send, "x" * 100_000)
        errors.append(caught.value)
        seen.append(await receive())

    async with listening(app, idle_timeout=7) as server, opened(server):
        began = trio.current_time()
        while not seen:
            await trio.sleep(0.1)
        assert 6 < trio.current_time() - began < 12
        assert seen == [LOST]
        await trio.sleep(5)
        assert server.listener.status == "0 connections, 0 busy"
    assert not tracebacks(caplog)


async def test_a_silent_client_is_asked_whether_it_is_still_there(clock: MockClock) -> None:
    async with listening(echo, idle_timeout=1, header_timeout=1) as server:
        async with opened(server) as client:
            for _ in range(2):
                assert await client.receive() == Ping(payload=b"")
                await client.send(Pong(payload=b""))
            assert trio.current_time() == pytest.approx(40, abs=1)
            await client.say("hello")
            assert await client.hear() == "hello"


async def test_a_client_that_does_not_answer_is_given_up(clock: MockClock) -> None:
    app = Recording()
    async with listening(app) as server, opened(server) as client:
        assert await client.receive() == Ping(payload=b"")
        assert await client.receive() is None
        assert trio.current_time() == pytest.approx(40, abs=1)
        await app.ended.wait()
        assert app.seen == [LOST]


async def test_a_client_that_has_been_told_is_waited_for_without_asking(clock: MockClock) -> None:
    async with listening(echo, grace=100) as server, opened(server) as client:
        server.group.stop()
        await client.is_told(CloseConnection(code=1001, reason="going away"))
        await trio.sleep(50)
        await client.send(CloseConnection(code=1001))
        assert await client.receive() is None


@pytest.mark.parametrize(
    "change",
    [
        (b": websocket", b": websocket, h2c"),
        (b"Connection: Upgrade", b"Connection: Upgrade\r\nConnection: keep-alive"),
        (b"localhost", b"xn--fa-hia.de"),
    ],
)
async def test_an_odd_handshake_that_is_one(change: tuple[bytes, bytes]) -> None:
    async with listening(echo) as server, await server.connect() as stream:
        await stream.send_all(REQUEST.replace(*change))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "message",
    [
        {"text": b"a"},
        {"bytes": "a"},
        {},
        {"type": "websocket.close", "code": 70000},
    ],
)
async def test_what_the_app_may_not_send(message: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(RuntimeError, match="the app sent"):
            await send({"type": "websocket.send", **message})
        await say(send, "still here")

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still here"


async def test_a_client_waits_for_an_app_that_does_not_receive() -> None:
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await client.say("ask")
        assert await client.hear() == "begun"
        text = "x" * 100_000
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(200):
                await client.say(text)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await wait_all_tasks_blocked()
            assert sent < 200
            app.go.set()
            for _ in range(200):
                assert await client.hear() == "done"
                assert await client.hear() == "begun"
        assert app.seen == ["ask"] + [text] * 200


async def test_a_client_that_vanishes_while_the_app_waits_for_it() -> None:
    errors: list[BaseException] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with pytest.raises(OSError) as caught:
            while True:
                await say(send, "x" * 100_000)
        errors.append(caught.value)
        assert await receive() == LOST

    async with listening(app) as server:
        async with opened(server):
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert len(errors) == 1
        assert server.listener.status == "0 connections, 0 busy"


async def test_several_tasks_send_at_once_and_every_message_is_whole() -> None:
    async def push(send: Send, letter: str) -> None:
        for _ in range(20):
            await say(send, letter * 50_000)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for letter in "abcd":
                nursery.start_soon(push, send, letter)

    async with listening(app) as server, opened(server) as client:
        heard = sorted([await client.hear() for _ in range(80)])
        assert heard == [letter * 50_000 for letter in "abcd" for _ in range(20)]
        await client.is_closed(NORMAL)


async def test_several_tasks_receive_at_once_and_none_is_forgotten() -> None:
    seen: list[str] = []
    codes: list[int] = []

    async def take(receive: Receive) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message["text"])
        codes.append(message["code"])

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take, receive)

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        for text in "abc":  # one by one, and many
            await client.say(text)
            await wait_all_tasks_blocked()
        await client.say(*"defghi")
        await client.send(NORMAL)
        await client.is_told(NORMAL)
        await wait_all_tasks_blocked()
        assert seen == list("abcdefghi")
        assert codes == [1000] * 3


async def test_a_receive_that_is_cancelled_loses_no_message(clock: MockClock) -> None:
    seen: list[str] = []
    timeouts = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal timeouts
        await accept(receive, send)
        while True:
            with trio.move_on_after(1) as timeout:
                message = await receive()
            if timeout.cancelled_caught:
                timeouts += 1
            elif message["type"] == "websocket.receive":
                seen.append(message["text"])
            else:
                return

    async with listening(app) as server, opened(server) as client:
        for number in range(20):
            await client.say(str(number))
            await trio.sleep(number * 0.25)
    assert seen == [str(number) for number in range(20)]
    assert timeouts > 20


async def test_a_receive_cancelled_in_the_very_moment_leaves_the_message_and_is_not_busy() -> None:
    """A message and the cancel in one step of the scheduler: the app has not got it, so it is not
    in hand.
    """
    seen: list[Any] = []
    scopes: list[trio.CancelScope] = []
    connections: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        connections.append(place.get())
        await accept(receive, send)
        with trio.CancelScope() as cancelling:
            scopes.append(cancelling)
            seen.append(await receive())
        seen.append("cancelled")
        await trio.lowlevel.checkpoint()
        while not stopping():
            await say(send, "tick")
            await trio.sleep(0.001)
        with pytest.raises(OSError):
            while True:
                await say(send, "tick")
                await trio.sleep(0.001)
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        websocket = connections[0].at_end.__self__
        message = {"type": "websocket.receive", "text": "hello"}
        scopes[0].cancel()
        websocket._deliver(message)  # as when it comes, before the app's task runs
        while await client.hear() != "tick":
            pass
        server.group.stop()
        while isinstance(event := await client.receive(), TextMessage):
            pass
        assert event == GOING_AWAY
        await client.send(NORMAL)
        await server.stop()
    assert seen in (["cancelled", TOLD], [message, "cancelled", TOLD])


async def test_a_send_that_is_cancelled_midway_ends_the_connection() -> None:
    """What was sent is not the whole: nothing more can be sent after it."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.move_on_after(0.1):
            while True:
                await say(send, "x" * 1_000_000)
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await say(send, "more")
        seen.append(await receive())

    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked(0.3)
        assert seen == [LOST]
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            while True:
                await client.hear()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_send_that_is_cancelled_before_a_byte_is_out_does_not_lose_the_websocket(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    sent: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        async def say_one(text: str) -> None:
            await say(send, text)
            sent.append(text)

        await accept(receive, send)
        for number in range(100):  # which task is first is up to Trio
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say_one, str(number))
                for _ in range(number % 5):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await say_one("the end")

    async with listening(app, ssl_context=server_context if tls else None) as server:
        stream: Any = await server.connect()
        if tls:
            stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
        async with stream:
            client = WebSocketClient(stream)
            assert isinstance(await client.open(), AcceptConnection)
            heard = [await client.hear()]
            while heard[-1] != "the end":
                heard.append(await client.hear())
            await client.is_closed(NORMAL)
    assert heard == sent


async def test_what_it_says_of_itself() -> None:
    """An open WebSocket is idle, until the app has a message in hand."""
    app = Answering()
    async with listening(app) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"
        await client.say("ask")
        assert await client.hear() == "begun"
        assert server.listener.status == "1 connection, 1 busy"
        app.go.set()
        assert await client.hear() == "done"
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connection, 0 busy"


async def test_what_is_sent_after_the_client_has_closed_is_a_disconnect() -> None:
    """Its Close came with messages that the app has not received yet."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await wait_all_tasks_blocked()
        try:
            await say(send, "too late")
        except OSError as exc:
            raised.append(exc)

    async with listening(app) as server, opened(server) as client:
        await client.stream.send_all(frame(1, b"one") * 3 + frame(8, struct.pack("!H", 1000)))
        await wait_all_tasks_blocked()
    assert "has closed" in str(raised[0])


async def test_a_ping_that_comes_before_our_close_is_sent_is_not_answered_after_it(
    clock: MockClock,
) -> None:
    text = "x" * 50_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, send, text)
            await receive()
            await send({"type": "websocket.close"})

    async with listening(app) as server, opened(server) as client:
        await client.say("close it")
        await wait_all_tasks_blocked()
        await client.stream.send_all(frame(9, b"ping"))
        await wait_all_tasks_blocked()
        assert await client.hear() == text
        await client.is_closed(NORMAL)


async def test_what_fails_while_it_is_read_ends_that_websocket_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read in the task that serves all connections of the listener."""
    gather = Incoming._gather

    def gather_unless_huge(self: Incoming, frame: Frame) -> None:
        if frame.data == b"huge":
            raise MemoryError("no room for a message")
        gather(self, frame)

    monkeypatch.setattr(Incoming, "_gather", gather_unless_huge)
    app = Recording()
    async with listening(app) as server, opened(server) as other, opened(server) as client:
        await client.say("huge")
        assert await client.receive() is None
        await wait_all_tasks_blocked()
        assert app.seen == [LOST]
        assert "no room for a message" in caplog.text
        await other.say("still there")
        await wait_all_tasks_blocked()
        assert app.seen[1:] == [{"type": "websocket.receive", "text": "still there"}]


async def test_an_app_that_only_receives_gives_others_their_turn() -> None:
    """However fast its client sends."""
    many = 5000
    received = turns = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal received
        await accept(receive, send)
        while (await receive())["type"] == "websocket.receive":
            received += 1

    async with listening(app) as server, opened(server) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def take_turns() -> None:
            nonlocal turns
            while received < many:
                await trio.lowlevel.checkpoint()
                turns += 1

        await client.stream.send_all(frame(2, b"") * many)
    assert turns >= many


async def test_a_client_that_takes_no_answer_to_its_pings_is_read_no_further() -> None:
    """Else the answers would pile up here."""
    limit = 100 * 2**20
    pings = frame(9, b"p" * 125) * 1000
    sent = 0
    async with listening(echo) as server, opened(server) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def flood() -> None:
            nonlocal sent
            while sent < limit:
                await client.stream.send_all(pings)
                sent += len(pings)

        before = -1
        while before < sent < limit:
            before = sent
            await wait_all_tasks_blocked(0.05)
        assert sent < limit
        nursery.cancel_scope.cancel()
