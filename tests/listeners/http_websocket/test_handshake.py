"""The handshake: its scope, accepted, refused, bad."""

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio.testing import wait_all_tasks_blocked
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    RejectConnection,
    RejectData,
)

from trio_run.testing import read_to_end

from ... import TIMEOUT
from ..http_serving import serving_app
from ..serving import lines_of, name_of, read_and_close
from ..websocket_client import WebSocketClient
from .helpers import (
    LOST,
    REQUEST,
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
    refused,
    reset_on_close,
    say,
    tracebacks,
    visit,
)

# The scope.


async def test_the_scope_says_what_the_client_asked_for() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        return client.local_address

    async with listening(app) as server:
        local = await visit(
            server,
            talk,
            path="/caf%C3%A9?x=1&y",
            subprotocols=["chat", "superchat"],
            additional_headers={"X-Who": "me"},
            compression=None,
        )
    [scope] = scopes
    headers = dict(scope.pop("headers"))
    assert headers[b"x-who"] == b"me"
    assert headers[b"sec-websocket-version"] == b"13"
    assert headers[b"sec-websocket-protocol"] == b"chat, superchat"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"x=1&y",
        "root_path": "",
        "client": tuple(local),
        "server": tuple(server.address),
        "subprotocols": ["chat", "superchat"],
        "extensions": {"websocket.http.response": {}},
    }


async def test_the_scope_has_a_copy_of_the_lifespans_state() -> None:
    states: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["database"] = "open"
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        states.append(scope["state"].copy())
        scope["state"]["mine"] = True
        await echo(scope, receive, send)

    async with serving_app(app) as server:
        for _ in range(2):
            async with opened(server):
                pass
    assert states == [{"database": "open"}] * 2


async def test_over_tls_it_is_wss(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    schemes: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    def talk(client: websockets.sync.client.ClientConnection) -> Any:
        for message in ("hello", bytes(300_000)):
            client.send(message)
            assert client.recv(TIMEOUT) == message
        trio.from_thread.run_sync(server.group.stop)
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            client.recv(TIMEOUT)
        return caught.value.rcvd

    async with listening(app, ssl_context=server_context) as server:
        received = await visit(server, talk, ssl=client_context, server_hostname="localhost")
        assert str(received) == "1001 (going away) going away"
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert schemes == ["wss"]


@pytest.mark.parametrize("how", ["end", "reset", "torn"])
async def test_over_tls_a_client_that_vanishes_is_heard_of(
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recording()
    async with listening(app, ssl_context=server_context) as server:
        transport = await server.connect()
        stream = trio.SSLStream(transport, client_context, server_hostname="localhost")
        assert isinstance(await WebSocketClient(stream).open(), AcceptConnection)
        if how == "reset":
            reset_on_close(transport)
        # A torn one is without a close_notify.
        await (stream if how == "end" else transport).aclose()
        await app.ended.wait()
    assert app.seen == [LOST]
    assert not tracebacks(caplog)


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    scopes: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    def talk() -> None:
        with websockets.sync.client.unix_connect(str(path), "ws://localhost/") as client:
            client.send("hello")
            assert client.recv(TIMEOUT) == "hello"
            trio.from_thread.run_sync(server.group.stop)
            with pytest.raises(websockets.exceptions.ConnectionClosedOK):
                client.recv(TIMEOUT)

    async with listening(app, path=path) as server:
        await trio.to_thread.run_sync(talk)
        await server.stop()
        assert server.detail == "1 drained, 0 cut"
    assert scopes[0]["client"] is None
    assert scopes[0]["server"] == (str(path), None)


# The handshake: accepted.


async def test_accept_with_a_subprotocol_and_headers() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, subprotocol="chat", headers=[(b"X-Hello", b"you")])
        await receive()

    def talk(client: websockets.sync.client.ClientConnection) -> None:
        assert client.subprotocol == "chat"
        assert client.response is not None
        assert client.response.headers["x-hello"] == "you"

    async with listening(app) as server:
        await visit(server, talk, subprotocols=["superchat", "chat"])


@pytest.mark.parametrize("more", [{}, {"subprotocol": None, "headers": []}, {"headers": iter(())}])
async def test_accept_with_nothing(more: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, **more)
        await receive()

    async with listening(app) as server, await server.connect() as stream:
        accepted = await WebSocketClient(stream).open("chat")
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol is None
        assert accepted.extensions == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"subprotocol": "other"}, "does not speak the subprotocol"),
        ({"headers": [(b"bad name", b"x")]}, "can't be sent"),
        ({"headers": [(b"name", b"a\r\nb: c")]}, "can't be sent"),
    ],
)
async def test_an_accept_that_cannot_be_is_an_error_and_500(
    more: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await accept(receive, send, **more)

    async with listening(app) as server:
        response = await refused(server, subprotocols=["chat"])
        assert response.status_code == 500
        [record] = tracebacks(caplog)
        assert isinstance(error_of(record), RuntimeError)
        assert text in str(error_of(record))


async def test_after_an_accept_that_cannot_be_the_app_may_try_another() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="other"):
            await accept(receive, send, subprotocol="other")
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await receive()

    async with listening(app) as server, await server.connect() as stream:
        accepted = await WebSocketClient(stream).open("chat")
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "chat"


async def test_a_second_accept_is_an_error() -> None:
    errors: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()

        async def accept_it() -> None:
            try:
                await send({"type": "websocket.accept"})
            except RuntimeError as exc:
                errors.append(str(exc))

        async with trio.open_nursery() as nursery:  # at once, and later
            nursery.start_soon(accept_it)
            nursery.start_soon(accept_it)
        await accept_it()
        await say(send, "still open")
        await receive()

    async with listening(app) as server, opened(server) as client:
        assert await client.hear() == "still open"
        assert len(errors) == 2
        assert "websocket.accept" in errors[1]


async def test_data_right_behind_the_handshake_is_received() -> None:
    app = Recording()
    async with listening(app) as server, await server.connect() as stream:
        behind = frame(1, b"one") + frame(2, b"two") + frame(1, b"thr", fin=False) + b"\x80"
        client = WebSocketClient(stream)
        await client.ask(behind=behind)
        assert isinstance(await client.receive(), AcceptConnection)
        await wait_all_tasks_blocked()
        assert [message.get("text") or message.get("bytes") for message in app.seen] == [
            "one",
            b"two",
        ]
        await stream.send_all(frame(0, b"ee")[1:])
        await wait_all_tasks_blocked()
        assert app.seen[2] == {"type": "websocket.receive", "text": "three"}


async def test_data_that_comes_before_it_is_accepted_is_received() -> None:
    go = trio.Event()
    app = Recording()

    async def waiting(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await app(scope, receive, send)

    async with listening(waiting) as server, await server.connect() as stream:
        client = WebSocketClient(stream)
        await client.ask()
        await wait_all_tasks_blocked()
        await stream.send_all(frame(1, b"early") + frame(8, b""))
        await stream.send_eof()
        await wait_all_tasks_blocked()
        go.set()
        assert isinstance(await client.receive(), AcceptConnection)
        await client.is_told(CloseConnection(code=1005, reason=""))
        assert await client.receive() is None
        await app.ended.wait()
    assert [message.get("text", message.get("code")) for message in app.seen] == ["early", 1005]


async def test_it_is_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(echo) as server, opened(server) as client:
        await wait_all_tasks_blocked()
        assert isinstance(client.stream, trio.SocketStream)
        [record] = [record for record in caplog.records if record.name == "trio_run.access"]
        assert record.getMessage().startswith(
            f'{name_of(client.stream)} "GET /path HTTP/1.1" 101 0 '
        )
    caplog.clear()
    caplog.set_level(logging.WARNING, logger="trio_run.access")
    async with listening(echo) as server, opened(server):
        pass
    assert not [record for record in caplog.records if record.name == "trio_run.access"]


# The handshake: refused.


@pytest.mark.parametrize("reason", [None, "", "not you"])
async def test_a_close_before_the_accept_is_403(reason: str | None) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": reason})
        after.append(await receive())
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await send({"type": "websocket.accept"})
        after.append("refused")

    async with listening(app) as server, await server.connect() as stream:
        response = await refused(server)
        assert response.status_code == 403
        why = reason or "the server refuses this WebSocket"
        assert response.body.decode() == f"403 Forbidden: {why}\n"
        await stream.send_all(REQUEST)
        assert await is_refused(stream) == b"HTTP/1.1 403 Forbidden"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert after == [LOST, "refused"] * 2


async def test_a_denial_response_arrives_whole_and_the_connection_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    after: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        start = {"status": 451, "headers": [(b"content-type", b"text/x"), (b"X-Why", b"law")]}
        await send({"type": "websocket.http.response.start", **start})
        for number in range(3):
            body = b"%d" % number * 100_000
            await send({"type": "websocket.http.response.body", "body": body, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"end"})
        after.append(await receive())
        with pytest.raises(OSError, match="the WebSocket is closed"):
            await send({"type": "websocket.http.response.body", "body": b"more"})
        after.append("sent")

    async with listening(app) as server:
        async with await server.connect() as stream:
            client = WebSocketClient(stream)
            rejected = await client.open()
            assert isinstance(rejected, RejectConnection)
            assert rejected.status_code == 451
            headers = dict(rejected.headers)
            assert headers[b"content-type"] == b"text/x"
            assert headers[b"x-why"] == b"law"
            assert headers[b"connection"] == b"close"
            assert b"date" in headers
            body = b""
            while isinstance(event := await client.receive(), RejectData):
                body += event.data
            assert event is None
            assert body == b"".join(b"%d" % number * 100_000 for number in range(3)) + b"end"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert after == [LOST, "sent"]
    [record] = [record for record in caplog.records if record.name == "trio_run.access"]
    assert '"GET /path HTTP/1.1" 451 ' in record.getMessage()
    assert not tracebacks(caplog)


async def test_a_denial_response_in_one_piece() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"nothing here"})

    async with listening(app) as server:
        response = await refused(server)
        assert response.status_code == 404
        assert response.headers["content-length"] == "12"
        assert response.body == b"nothing here"


async def test_a_denial_response_that_is_only_begun_is_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        raise ValueError("no good")

    async with listening(app) as server:
        assert (await refused(server)).status_code == 500
        [record] = tracebacks(caplog)
        assert str(error_of(record)) == "no good"


@pytest.mark.parametrize("fails", [True, False])
async def test_a_denial_response_that_breaks_off_is_not_taken_for_the_whole(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        if fails:
            raise ValueError("no good")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        heard = b""
        with pytest.raises(trio.BrokenResourceError):  # a reset
            while data := await stream.receive_some():
                heard += data
        assert b"500" not in heard
        await wait_all_tasks_blocked()
        assert len(tracebacks(caplog)) == 1
        assert server.listener.status == "0 connections, 0 busy, 1 failed"


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.close"])
@pytest.mark.parametrize("body", [True, False])
async def test_a_denial_response_that_has_begun_is_the_only_answer(kind: str, body: bool) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404})
        if body:
            piece = {"body": b"no", "more_body": True}
            await send({"type": "websocket.http.response.body", **piece})
        with pytest.raises(RuntimeError, match=f"{kind}' after websocket.http.response.start"):
            await send({"type": kind})
        await send({"type": "websocket.http.response.body", "body": b"thing"})

    async with listening(app) as server:
        response = await refused(server)
        assert response.status_code == 404
        assert response.body == (b"nothing" if body else b"thing")


@pytest.mark.parametrize("lets_pass", [True, False])
async def test_a_client_that_leaves_during_a_denial_response_is_one_line(
    lets_pass: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ended = trio.Event()
    left = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        piece = {"type": "websocket.http.response.body", "body": bytes(65536), "more_body": True}
        try:
            await send({"type": "websocket.http.response.start", "status": 404})
            await send(piece)
            await left.wait()
            while True:
                await send(piece)
        except OSError:
            if lets_pass:
                raise
            seen.append(await receive())
        finally:
            ended.set()

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
            reset_on_close(stream)
        left.set()
        await ended.wait()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, "left during")) == lets_pass
    assert not tracebacks(caplog)
    assert seen == ([] if lets_pass else [LOST])


async def test_an_app_that_raises_before_it_accepts_is_logged_and_its_client_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("no good")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(REQUEST)
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"no good" not in answer
        [record] = tracebacks(caplog)
        assert record.levelno == logging.ERROR
        assert '"/path"' in record.getMessage()
        assert record.getMessage().endswith(f"for {name_of(stream)}")
        assert str(error_of(record)) == "no good"
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy, 1 failed"


async def test_an_app_that_returns_without_an_answer_is_logged_and_its_client_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()

    async with listening(app) as server:
        assert (await refused(server)).status_code == 500
        [record] = tracebacks(caplog)
        assert "without having accepted or refused" in str(error_of(record))


@pytest.mark.parametrize("kind", ["websocket.send", "http.response.start", "nonsense"])
async def test_what_is_not_due_before_the_accept_is_a_clear_error(kind: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=f"{kind}' before it accepted or refused"):
            await send({"type": kind, "text": "hello"})
        await echo(scope, receive, send)

    async with listening(app) as server, opened(server) as client:
        await client.say("hello")
        assert await client.hear() == "hello"


async def test_an_app_whose_client_has_left_before_the_accept_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = trio.Event()
    app = Recording()

    async def waiting(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        await app(scope, receive, send)

    async with listening(waiting) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
        go.set()
        await app.ended.wait()
    assert app.seen == [LOST]
    assert not tracebacks(caplog)


@pytest.mark.parametrize("how", ["accept", "accept and wait", "refuse", "fail"])
async def test_an_app_whose_client_has_reset_before_the_answer(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        if how == "refuse":
            await send({"type": "websocket.close"})
        elif how == "fail":
            raise ValueError("no good")
        elif how == "accept":
            await accept(receive, send)
        else:
            with pytest.raises(OSError, match="the client is gone"):
                await accept(receive, send)
            seen.append(await receive())
            seen.append(await receive())

    async with listening(app) as server:
        async with await server.connect() as stream:
            await stream.send_all(REQUEST)
            await wait_all_tasks_blocked()
            reset_on_close(stream)
        go.set()
        await wait_all_tasks_blocked()
        assert server.listener.status.startswith("0 connections, 0 busy")
    assert seen == ([LOST, LOST] if how == "accept and wait" else [])
    assert [str(error_of(record)) for record in tracebacks(caplog)] == (
        ["no good"] if how == "fail" else []
    )


# Bad handshakes.


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (REQUEST.replace(b"-Key:", b"-K:"), 400),
        (REQUEST.replace(b"-Version:", b"-V:"), 400),
        (REQUEST.replace(b"ub25jZQ==", b""), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n"), 400),
        (REQUEST.replace(b" 13", b" 12"), 426),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"), 400),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 400),
        (REQUEST.replace(b"localhost", b"\xff"), 400),
        (REQUEST.replace(b"localhost", b"xn--\xe9"), 400),
        (REQUEST.replace(b"Host: localhost\r\n", b""), 400),
    ],
)
async def test_a_bad_handshake_is_refused_with_one_line(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise AssertionError("it never comes to the app")

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(sent)
        answer = await read_and_close(stream)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert status != 426 or b"\r\nSec-WebSocket-Version: 13\r\n" in answer
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
    assert len(lines_of(caplog, f"{status} for ")) == 1
    assert not tracebacks(caplog)


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
        REQUEST.replace(b": Upgrade", b": keep-alive"),
        REQUEST.replace(b": websocket", b": h2c"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: localhost\r\n", b""),
    ],
)
async def test_what_asks_for_no_websocket_is_a_request_like_others(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        body = scope["type"].encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(sent)
        await stream.send_eof()
        answer = await read_to_end(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nhttp")
    assert not tracebacks(caplog)


async def test_a_handshake_behind_another_request() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        return None

    async with listening(app) as server, await server.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST + frame(1, b"hello"))
        heard = b""
        while not heard.endswith(b"\x81\x05hello"):
            heard += await stream.receive_some()
        assert heard.count(b"HTTP/1.1 204 ") == heard.count(b"HTTP/1.1 101 ") == 1


@pytest.mark.parametrize("how", ["ends its side", "closes"])
async def test_a_client_that_leaves_before_it_is_accepted_is_a_disconnect(how: str) -> None:
    heard = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        assert await receive() == LOST
        heard.set()

    async with listening(app) as server:
        stream = await server.connect()
        await stream.send_all(REQUEST)
        await wait_all_tasks_blocked()
        if how == "closes":
            await stream.aclose()
        else:
            await stream.send_eof()
        await heard.wait()
        await stream.aclose()
