"""HTTPListener: ASGI's scope, receive, send and lifespan, what a client sees on the wire, and when
it is timed out.
"""

import contextlib
import gc
import logging
import math
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_run import CannotStart, Group, GroupFailed, HTTPListener, cancel_on_stop

from .http_serving import App, Client, answer, only_http, read_body, request, serving_app
from .serving import (
    HOST,
    TIMEOUT,
    connected_to,
    lines_of,
    listening_at,
    name_of,
    read_to_end,
    serving,
)

BIG = 2**26  # bytes: more than the kernel keeps for a connection
MIB = 2**20


@only_http
async def hello(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"hello")


@only_http
async def echo(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await read_body(receive))


def start(status: Any = 200, *headers: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: dict[str, Any]) -> App:
    """An app that sends these."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


@pytest.fixture
def _access_log_off() -> Iterator[None]:
    logger = logging.getLogger("trio_run.access")
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(logging.NOTSET)


@asynccontextmanager
async def client_of(app: App, **options: Any) -> AsyncIterator[Client]:
    """A client that is connected to a server with this app."""
    async with serving_app(app, **options) as server:
        async with await server.connect() as stream:
            yield Client(stream)


async def reset_by(client: Client) -> bool:
    """Read to the end: is it a reset?"""
    try:
        await client.read_to_end()
    except trio.BrokenResourceError:
        return True
    return False


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What has been logged with a traceback, each with its error."""
    return [
        f"{record.getMessage()}: {record.exc_info[1]!r}"
        for record in caplog.records
        if record.exc_info and record.exc_info[1]
    ]


def leave_at_once(client: Client) -> None:
    """Reset the connection."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.stream.socket.close()


# The scope.


class Scopes:
    """An app that keeps its scopes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        assert (await receive())["type"] == "http.request"
        self.seen.append(scope)
        await answer(send)


async def test_the_scope_is_that_of_asgi_key_for_key() -> None:
    app = Scopes()
    async with serving_app(app) as server, await server.connect() as stream:
        await Client(stream).ask(
            b"PUT /a%20b%2Fc/%C3%A4?x=%20y&z HTTP/1.1\r\nHost: test\r\nX-Two: a\r\nx-two: "
            b"\xfc\r\n\r\n"
        )
        client = stream.socket.getsockname()
    assert app.seen == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": "/a b/c/ä",
            "raw_path": b"/a%20b%2Fc/%C3%A4",
            "query_string": b"x=%20y&z",
            "root_path": "",
            "headers": [(b"host", b"test"), (b"x-two", b"a"), (b"x-two", b"\xfc")],
            "client": client,
            "server": server.address,
        }
    ]


@pytest.mark.parametrize(
    ("start_line", "path", "raw_path", "query"),
    [
        ("GET / HTTP/1.1", "/", b"/", b""),
        ("GET /? HTTP/1.1", "/", b"/", b""),
        ("GET /a?b?c HTTP/1.1", "/a", b"/a", b"b?c"),
        ("GET //a//b HTTP/1.1", "//a//b", b"//a//b", b""),
        ("GET /%zz%f HTTP/1.1", "/%zz%f", b"/%zz%f", b""),
        ("GET /%ff HTTP/1.1", "/\ufffd", b"/%ff", b""),
        ("GET /a+b%2Bc HTTP/1.1", "/a+b+c", b"/a+b%2Bc", b""),
        ("GET http://other:81/a%20b?c HTTP/1.1", "/a b", b"/a%20b", b"c"),
        ("GET http://other HTTP/1.1", "/", b"/", b""),
        ("GET http://other?c=d HTTP/1.1", "/", b"/", b"c=d"),
        ("OPTIONS * HTTP/1.1", "*", b"*", b""),
    ],
)
async def test_a_target_is_taken_apart(
    start_line: str, path: str, raw_path: bytes, query: bytes
) -> None:
    app = Scopes()
    async with client_of(app) as client:
        assert (await client.ask(request(start_line))).status == 200
    (scope,) = app.seen
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


@pytest.mark.parametrize(
    ("start_line", "status"),
    [
        ("GET a HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET http:/a HTTP/1.1", 400),
        ("GET http://[::1/ HTTP/1.1", 400),
        ("CONNECT other:80 HTTP/1.1", 501),
        ("GET / HTTP/2.0", 505),
    ],
)
async def test_a_target_that_is_none_is_refused_before_the_app_hears_of_it(
    start_line: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = Scopes()
    async with client_of(app) as client:
        await client.send(request(start_line))
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert await client.read_to_end() == b""
    assert not app.seen
    assert len(lines_of(caplog, f"{status} for {HOST}")) == 1
    assert not failures(caplog)


async def test_the_scope_has_two_of_the_four_parts_of_an_ipv6_address() -> None:
    app = Scopes()
    async with serving_app(app, host="::1") as server, await server.connect() as stream:
        await Client(stream).ask(request())
        assert app.seen[0]["client"] == stream.socket.getsockname()[:2]
        assert app.seen[0]["server"] == ("::1", server.address[1])


async def test_the_scope_of_a_unix_socket_has_its_path_and_no_client(tmp_path: Path) -> None:
    app = Scopes()
    path = tmp_path / "socket"
    async with serving_app(app, path=path, mode=0o640) as server:
        assert path.stat().st_mode & 0o777 == 0o640
        async with await server.connect() as stream:
            await Client(stream).ask(request())
    assert (app.seen[0]["client"], app.seen[0]["server"]) == (None, (str(path), None))
    assert server.listener.name == f"http:{path}"
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
async def test_the_scope_of_an_abstract_socket_has_its_name(tmp_path: Path) -> None:
    app = Scopes()
    name = f"\0trio-run {tmp_path}"
    async with client_of(app, path=name) as client:
        await client.ask(request())
    assert app.seen[0]["server"] == ("@" + name[1:], None)


async def test_sockets_that_are_handed_over_are_listened_on(tmp_path: Path) -> None:
    app = Scopes()
    given = [listening_at(), listening_at()]
    async with serving_app(app, sockets=given) as server:
        for address in server.listener.addresses:
            async with await trio.open_tcp_stream(*address) as stream:
                await Client(stream).ask(request())
    assert [scope["server"] for scope in app.seen] == list(server.listener.addresses)
    assert [each.fileno() for each in given] == [-1, -1]


async def test_unix_sockets_that_are_handed_over_are_listened_on(tmp_path: Path) -> None:
    app = Scopes()
    given = []
    for name in "ab":
        given.append(socket.socket(socket.AF_UNIX))
        given[-1].bind(str(tmp_path / name))
    async with serving_app(app, sockets=given) as server:
        for name in "ab":
            async with await trio.open_unix_socket(tmp_path / name) as stream:
                await Client(stream).ask(request())
    assert [scope["server"] for scope in app.seen] == [
        (str(tmp_path / name), None) for name in "ab"
    ]
    assert server.listener.name == "http:unix"


async def test_with_tls_the_scheme_is_https(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    app = Scopes()
    async with serving_app(app, ssl_context=server_context) as server:
        async with trio.SSLStream(
            await server.connect(), client_context, server_hostname="localhost"
        ) as stream:
            client = Client(stream)
            for _ in range(2):
                assert (await client.ask(request())).status == 200
    assert [scope["scheme"] for scope in app.seen] == ["https", "https"]
    assert server.listener.name == "https"


# Bodies.


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 5 * MIB])
@pytest.mark.parametrize("chunked_up", [False, True])
@pytest.mark.parametrize("chunked_down", [False, True])
async def test_a_body_passes_whole_in_both_directions(
    size: int, chunked_up: bool, chunked_down: bool
) -> None:
    sent = bytes(range(256)) * (size // 256) + bytes(size % 256)

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = await read_body(receive)
        headers = [] if chunked_down else [(b"content-length", b"%d" % len(got))]
        await send(start(200, *headers))
        for at in range(0, len(got), 100_000):
            await send(body(got[at : at + 100_000], more=True))
        await send(body())

    if chunked_up:
        pieces = [sent[at : at + 30_000] for at in range(0, size, 30_000)]
        wire = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"
        data = request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=wire)
    else:
        data = request("POST / HTTP/1.1", f"Content-Length: {size}", body=sent)
    async with client_of(app) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, data)
        response = await client.read("POST")
        assert response.body == sent
        assert response.headers.get("content-length") == (
            None if chunked_down and size else f"{size}"
        )
        assert ("transfer-encoding" in response.headers) is (chunked_down and size > 0)


async def test_a_body_comes_in_pieces_of_a_bounded_size_as_it_arrives() -> None:
    pieces: list[bytes] = []
    arrived = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            pieces.append(message["body"])
            more = message["more_body"]
            arrived.set()
        await answer(send)

    async with client_of(app) as client:
        await client.send(request("POST / HTTP/1.1", f"Content-Length: {3 + MIB}", body=b"one"))
        await arrived.wait()
        assert pieces == [b"one"]
        await client.send(bytes(MIB))
        assert (await client.read("POST")).status == 200
    assert sum(map(len, pieces)) == 3 + MIB
    assert max(map(len, pieces)) <= 3 * 65536


async def test_a_client_that_reads_slowly_holds_up_the_app() -> None:
    sent = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(start())
        while sent < BIG:
            await send(body(bytes(65536), more=True))
            sent += 65536
        await send(body())

    async with client_of(app) as client:
        await client.send(request())
        await wait_all_tasks_blocked(0.1)
        assert 0 < sent < BIG
        assert len((await client.read()).body) == BIG


async def test_an_app_that_reads_slowly_holds_up_the_client() -> None:
    go = trio.Event()
    largest = size = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal largest, size
        await receive()
        await go.wait()
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            largest = max(largest, len(message["body"]))
            more = message["more_body"]
        await answer(send)

    sent = False

    async def upload(client: Client) -> None:
        nonlocal sent
        await client.send(request("POST / HTTP/1.1", f"Content-Length: {BIG}", body=b"x"))
        await client.send(bytes(BIG - 1))
        sent = True

    async with client_of(app) as client, trio.open_nursery() as nursery:
        nursery.start_soon(upload, client)
        await wait_all_tasks_blocked(0.1)
        assert not sent
        go.set()
        assert (await client.read("POST")).status == 200
    assert BIG - 65536 < size <= BIG
    assert largest <= 3 * 65536


@pytest.mark.parametrize(
    ("status", "headers", "data", "length"),
    [
        (200, [], b"hello", "5"),
        (200, [(b"content-length", b"100")], b"", "100"),
        (200, [(b"content-length", b"5")], b"hello", "5"),
        (200, [], b"", None),
        (304, [], b"", None),
        (204, [], b"", None),
    ],
)
async def test_head_gets_the_head_alone(
    status: int, headers: Any, data: bytes, length: str | None
) -> None:
    async with client_of(sending(start(status, *headers), body(data))) as client:
        for _ in range(2):
            response = await client.ask(request("HEAD / HTTP/1.1"))
            assert (response.status, response.body) == (status, b"")
            assert response.headers.get("content-length") == length
            assert "connection" not in response.headers


async def test_head_gets_no_body_of_an_app_that_streams() -> None:
    app = sending(start(), body(b"a", more=True), body(b"b", more=True), body(b"c"))
    async with client_of(app) as client:
        for _ in range(2):
            response = await client.ask(request("HEAD / HTTP/1.1"))
            assert (response.status, response.body) == (200, b"")
            assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_has_no_length_either(status: int) -> None:
    async with client_of(sending(start(status), body())) as client:
        for _ in range(2):
            response = await client.ask(request())
            assert (response.status, response.body) == (status, b"")
            assert not {"content-length", "transfer-encoding"} & set(response.headers)


@pytest.mark.parametrize("length", [[], [(b"content-length", b"2")]])
async def test_http_1_0_gets_a_body_until_the_end_of_the_stream(length: Any) -> None:
    app = sending(start(200, *length), body(b"a", more=True), body(b"b"))
    async with client_of(app) as client:
        response = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert response.body == b"ab"
        assert response.headers["connection"] == "close"
        assert "transfer-encoding" not in response.headers
        assert await client.read_to_end() == b""


async def test_an_empty_piece_sends_the_head_at_once() -> None:
    go = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(more=True))
        await go.wait()
        await send(body(b"data"))

    async with client_of(app) as client:
        await client.send(request())
        assert (await client.stream.receive_some()).endswith(b"\r\n\r\n")
        go.set()
        assert b"data" in await client.stream.receive_some()


async def test_a_response_of_one_piece_gets_its_length() -> None:
    async with client_of(sending(start(), body(b"hello"))) as client:
        response = await client.ask(request())
        assert response.headers["content-length"] == "5"
        assert "transfer-encoding" not in response.headers


async def test_an_app_that_asks_for_chunks_gets_no_length() -> None:
    app = sending(start(200, (b"Transfer-Encoding", b"chunked")), body(b"hello"))
    async with client_of(app) as client:
        response = await client.ask(request())
        assert (response.body, response.headers["transfer-encoding"]) == (b"hello", "chunked")
        assert "content-length" not in response.headers


async def test_date_and_server_are_there_once() -> None:
    async with client_of(hello) as client:
        headers = (await client.ask(request())).headers
    assert headers["server"] == "trio-run"
    assert parsedate_to_datetime(headers["date"]).year >= 2024


async def test_date_and_server_may_be_the_apps_own() -> None:
    app = sending(start(200, (b"Date", b"today"), (b"SERVER", b"mine")), body())
    async with client_of(app) as client:
        headers = (await client.ask(request())).headers
    assert (headers["date"], headers["server"]) == ("today", "mine")


async def test_messages_may_leave_out_what_has_a_default() -> None:
    app = sending({"type": "http.response.start", "status": 201}, {"type": "http.response.body"})
    async with client_of(app) as client:
        response = await client.ask(request())
        assert (response.status, response.body) == (201, b"")


# Expect: 100-continue.

EXPECTING = request("POST / HTTP/1.1", "Content-Length: 4", "Expect: 100-continue")


async def test_a_body_is_asked_for_when_the_app_reads() -> None:
    go = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await answer(send, await read_body(receive))

    async with client_of(app) as client:
        for _ in range(2):
            await client.send(EXPECTING)
            with trio.move_on_after(0.05) as waiting:
                await client.stream.receive_some()
            assert waiting.cancelled_caught or go.is_set()
            go.set()
            if waiting.cancelled_caught:
                assert await client.stream.receive_some() == b"HTTP/1.1 100 \r\n\r\n"
            await client.send(b"body")
            response = await client.read("POST")
            assert (response.status, response.body) == (200, b"body")
            assert "connection" not in response.headers


async def test_a_body_that_comes_unasked_is_not_asked_for() -> None:
    async with client_of(echo) as client:
        for _ in range(2):
            response = await client.ask(EXPECTING + b"body")
            assert (response.body, response.informational) == (b"body", [])


async def test_a_body_that_was_never_asked_for_ends_the_connection_after_the_response() -> None:
    async with client_of(hello) as client:
        response = await client.ask(EXPECTING)
        assert (response.body, response.informational) == (b"hello", [])
        assert response.headers["connection"] == "close"
        await client.send(b"body")  # it could not know
        await client.send(b"more")
        assert await client.read_to_end() == b""


async def test_a_body_is_not_asked_for_once_the_response_has_begun() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"early ", more=True))
        await send(body(await read_body(receive)))

    async with client_of(app) as client, trio.open_nursery() as nursery:
        await client.send(EXPECTING)
        await wait_all_tasks_blocked(0.02)
        nursery.start_soon(client.send, b"body")
        response = await client.read("POST")
        assert (response.body, response.informational) == (b"early body", [])
        assert response.headers["connection"] == "close"


async def test_a_receive_that_is_cancelled_before_it_asks_may_be_made_again() -> None:
    """Starlette's request.is_disconnected() calls receive() in a scope that is cancelled."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive()
        assert scope.cancelled_caught
        await answer(send, await read_body(receive))

    async with client_of(app) as client, trio.open_nursery() as nursery:
        await client.send(EXPECTING)
        nursery.start_soon(client.send, b"body")
        assert (await client.read("POST")).body == b"body"


async def test_a_client_that_leaves_before_it_is_asked_is_a_disconnect() -> None:
    go, got = trio.Event(), []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        got.append(await receive())

    async with serving_app(app) as server:
        client = Client(await server.connect())
        await client.send(EXPECTING)
        await wait_all_tasks_blocked(0.02)
        leave_at_once(client)
        await wait_all_tasks_blocked(0.02)
        go.set()
    assert got == [{"type": "http.disconnect"}]


async def hang_up(client: Client) -> None:
    await client.stream.aclose()


async def vanish(client: Client) -> None:
    leave_at_once(client)


@pytest.mark.parametrize("leave", [hang_up, vanish])
async def test_a_disconnect_is_known_without_waiting(
    leave: Callable[[Client], Awaitable[None]],
) -> None:
    """So Starlette's request.is_disconnected() tells: it does not wait for the answer."""
    gone, got = trio.Event(), []

    async def is_disconnected(receive: Any) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            got.append(await receive())
        return not scope.cancelled_caught

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert not await is_disconnected(receive)
        await send(start())
        await send(body(b"more", more=True))
        await gone.wait()
        assert await is_disconnected(receive)

    async with client_of(app) as client:
        await client.send(request("GET / HTTP/1.1"))
        await client.stream.receive_some()
        await leave(client)
        await wait_all_tasks_blocked(0.02)
        gone.set()
        await wait_all_tasks_blocked(0.02)
    assert got == [{"type": "http.disconnect"}]


async def test_what_a_lifespan_raises_in_its_cleanup_when_it_is_cut_is_not_lost(
    clock: MockClock,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise ValueError("the pool did not close")

    group = Group(grace=5)
    listener = group.add(HTTPListener(app, 0, host=HOST))

    async def stop() -> None:
        group.stop()

    group.add(stop, needs=[listener], on_return="ignore")
    with pytest.raises(GroupFailed) as caught:
        await group.run()
    [error] = caught.value.exceptions
    assert str(error) == "the pool did not close"


# One connection, many requests.


async def test_a_connection_is_kept() -> None:
    app = Scopes()
    async with client_of(app) as client:
        for _ in range(3):
            assert "connection" not in (await client.ask(request())).headers
    assert len({scope["client"] for scope in app.seen}) == 1


@pytest.mark.parametrize("rest", ["", "\r\n", "\n", "\r\n\r\n"])
async def test_requests_that_come_together_are_answered_in_order(rest: str) -> None:
    running = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        assert not running, "two at once"
        running += 1
        await trio.lowlevel.checkpoint()
        got = await read_body(receive)
        running -= 1
        await answer(send, scope["raw_path"] + got)

    requests = [
        request("GET /1 HTTP/1.1"),
        request("POST /2 HTTP/1.1", "Content-Length: 3", body=b"abc"),
        request("POST /3 HTTP/1.1", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
        request("GET /4 HTTP/1.1"),
    ]
    async with client_of(app) as client:
        await client.send(rest.encode().join(requests))
        assert [(await client.read()).body for _ in requests] == [b"/1", b"/2abc", b"/3x", b"/4"]
        assert (await client.ask(request("GET /5 HTTP/1.1"))).body == b"/5"


async def test_requests_that_come_while_the_app_waits_for_a_disconnect_are_answered() -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            got.append((await receive())["type"])

        await read_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked(0.02)
            await answer(send, scope["raw_path"])

    async with client_of(app) as client:
        await client.send(request("GET /0 HTTP/1.1"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                client.send, b"".join([request(f"GET /{n} HTTP/1.1") for n in range(1, 4)])
            )
            for n in range(4):
                assert (await client.read()).body == b"/%d" % n
    assert got == ["http.disconnect"] * 4


async def test_what_is_put_by_for_a_busy_client_is_bounded() -> None:
    go, got = trio.Event(), []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            got.append((await receive())["type"])

        await read_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await go.wait()
            await answer(send)

    sent = False

    async def send_all(client: Client) -> None:
        nonlocal sent
        await client.send(request() + request() + bytes(BIG))
        sent = True

    async with client_of(app) as client, trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client)
        await wait_all_tasks_blocked(0.1)
        assert not sent
        assert not got
        go.set()
        assert (await client.read()).status == 200
        assert (await client.read()).status == 200
        assert (await client.read()).status == 400
        nursery.cancel_scope.cancel()
    assert got == ["http.disconnect"] * 2


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_none(lines: bytes) -> None:
    async with client_of(echo) as client:
        assert (await client.ask(lines + request())).status == 200
        await client.send(lines)
        await wait_all_tasks_blocked(0.02)
        assert (await client.ask(request())).status == 200
        # As browsers of old did, after a body.
        posting = request("POST / HTTP/1.1", "Content-Length: 4", body=b"body")
        assert (await client.ask(posting + lines)).body == b"body"
        await wait_all_tasks_blocked(0.02)
        await client.send(lines)
        await wait_all_tasks_blocked(0.02)
        assert (await client.ask(posting)).body == b"body"


@pytest.mark.parametrize("side", ["client", "app", "both"])
async def test_connection_close_is_kept_by_both(side: str) -> None:
    app = sending(start(200, *[(b"connection", b"close")] * (side != "client")), body(b"hello"))
    async with client_of(app) as client:
        await client.send(request("GET / HTTP/1.1", *["Connection: close"] * (side != "app")))
        response = await client.read()
        assert (response.body, response.headers["connection"]) == (b"hello", "close")
        assert await client.read_to_end() == b""


async def test_a_request_to_upgrade_to_what_nobody_speaks_is_an_ordinary_one() -> None:
    async with client_of(hello) as client:
        for _ in range(2):
            asking = request(
                "GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"
            )
            assert (await client.ask(asking)).body == b"hello"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_small_body_that_the_app_has_not_read_does_not_cost_the_connection(
    chunked: bool,
) -> None:
    sent = bytes(50_000)
    wire = b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)
    data = (
        request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=wire)
        if chunked
        else request("POST / HTTP/1.1", "Content-Length: 50000", body=sent)
    )
    async with client_of(hello) as client:
        for _ in range(3):
            await client.send(data[:1000])
            assert (await client.read("POST")).body == b"hello"
            await client.send(data[1000:])


@pytest.mark.parametrize("close", [[], ["Connection: close"]])
async def test_a_large_body_that_the_app_has_not_read_costs_the_connection_not_the_reply(
    close: list[str],
) -> None:
    async with client_of(hello) as client:
        await client.send(request("POST / HTTP/1.1", f"Content-Length: {BIG}", *close))
        for _ in range(10):
            await client.send(bytes(MIB))
            await wait_all_tasks_blocked()
        assert (await client.read("POST")).body == b"hello"
        assert await client.read_to_end() == b""


async def test_a_client_that_sends_its_body_after_the_response_and_the_end_is_not_reset() -> None:
    async with client_of(hello) as client:
        await client.send(request("POST / HTTP/1.1", "Content-Length: 8", "Connection: close"))
        assert (await client.read("POST")).body == b"hello"
        for _ in range(2):
            await client.send(b"body")
            await wait_all_tasks_blocked(0.02)
        assert await client.read_to_end() == b""


async def test_a_body_that_is_bad_after_the_response_ends_the_connection() -> None:
    async with client_of(hello) as client:
        await client.send(request("POST / HTTP/1.1", "Transfer-Encoding: chunked"))
        assert (await client.read("POST")).body == b"hello"
        await client.send(b"no chunk\r\n")
        assert await client.read_to_end() == b""


async def test_a_body_that_does_not_come_after_the_response_ends_the_connection(
    clock: MockClock,
) -> None:
    async with client_of(hello) as client:
        await client.send(request("POST / HTTP/1.1", "Content-Length: 8"))
        assert (await client.read("POST")).body == b"hello"
        began = trio.current_time()
        assert await client.read_to_end() == b""
        assert 2 <= trio.current_time() - began < 5


# The client leaves.


async def test_a_client_that_leaves_in_the_midst_of_its_body_is_a_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        got.append(await receive())
        got.append(await receive())
        with pytest.raises(OSError, match="gone"):
            await send(start())

    async with serving_app(app) as server, await server.connect() as stream:
        await stream.send_all(request("POST / HTTP/1.1", "Content-Length: 8", body=b"half"))
        await wait_all_tasks_blocked(0.02)
    assert got == [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]
    assert len(lines_of(caplog, HOST)) == 1
    assert not failures(caplog)


@pytest.mark.usefixtures("_access_log_off")
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_is_one_line_in_the_log_whatever_the_app_makes_of_it(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        seen.set()
        raise ZeroDivisionError("it has left")

    async with serving_app(app) as server:
        client = Client(await server.connect())
        await client.send(request("POST / HTTP/1.1", "Content-Length: 8", body=b"half"))
        await wait_all_tasks_blocked(0.02)
        if reset:
            leave_at_once(client)
        else:
            await client.stream.aclose()
        await seen.wait()
    assert len(lines_of(caplog, HOST)) == 1, caplog.text
    assert not failures(caplog)


async def test_a_client_that_leaves_while_the_app_waits_is_a_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        got.append(await receive())

    async with serving_app(app) as server, await server.connect() as stream:
        await stream.send_all(request())
        await wait_all_tasks_blocked(0.02)
    assert got == [{"type": "http.disconnect"}]
    assert len(lines_of(caplog, "left during")) == 1
    assert not failures(caplog)


async def test_a_client_that_ends_its_side_alone_is_still_answered() -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        got.append((await receive())["type"])
        got.append((await receive())["type"])
        await answer(send, b"hello")

    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        await client.send(request())
        await stream.send_eof()
        assert (await client.read()).body == b"hello"
        assert await client.read_to_end() == b""
    assert got == ["http.disconnect"] * 2


async def test_requests_before_the_end_of_a_clients_side_are_answered() -> None:
    async with serving_app(hello) as server, await server.connect() as stream:
        client = Client(stream)
        await client.send(request() + request())
        await stream.send_eof()
        assert (await client.read()).body == b"hello"
        assert (await client.read()).body == b"hello"
        assert await client.read_to_end() == b""


async def test_after_the_response_there_is_a_disconnect() -> None:
    got = []
    done = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello")
        got.append(await receive())
        got.append(await receive())
        done.set()

    async with client_of(app) as client:
        # The body is not read by the app, but was not asked for either: it does not matter.
        await client.ask(request("POST / HTTP/1.1", "Content-Length: 4", body=b"body"))
        await done.wait()
        assert (await client.ask(request())).body == b"hello"
    assert got[:2] == [{"type": "http.disconnect"}] * 2


async def test_an_app_that_goes_on_receiving_when_all_is_over_stops_nobody_else() -> None:
    done = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        await receive()
        for _ in range(2):
            with assert_checkpoints():
                await receive()
        done.set()

    async with client_of(app) as client:
        await client.ask(request())
        await done.wait()


async def test_a_task_that_waits_for_the_body_hears_of_the_response() -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            got.extend([await receive(), await receive()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked(0.02)
            await answer(send, b"hello")

    async with client_of(app) as client:
        for _ in range(2):
            data = request("POST / HTTP/1.1", "Content-Length: 8", body=b"half")
            assert (await client.ask(data)).body == b"hello"
            await client.send(b"half")
    half = {"type": "http.request", "body": b"half", "more_body": True}
    assert got == [half, {"type": "http.disconnect"}] * 2


@pytest.mark.parametrize("tls", [False, True])
async def test_a_task_that_waits_for_the_disconnect_hears_of_the_response(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            got.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)
            await wait_all_tasks_blocked(0.02)
            await answer(send, b"hello")

    async with serving_app(app, ssl_context=server_context if tls else None) as server:
        stream: Any = await server.connect()
        if tls:
            stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
        async with stream:
            client = Client(stream)
            for _ in range(3):
                assert (await client.ask(request())).body == b"hello"
    messages = [message["type"] for message in got]
    assert sorted(messages) == ["http.disconnect"] * 3 + ["http.request"] * 3


async def test_a_task_elsewhere_that_still_waits_does_not_cost_the_connection() -> None:
    got = []

    async def listen(receive: Any) -> None:
        got.append((await receive())["type"])

    async with trio.open_nursery() as nursery:

        @only_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            nursery.start_soon(listen, receive)
            await wait_all_tasks_blocked()
            await answer(send, b"hello")

        async with client_of(app) as client:
            for _ in range(20):  # which task is first is up to Trio
                assert (await client.ask(request())).body == b"hello"
    assert got == ["http.disconnect"] * 20


async def test_a_task_elsewhere_that_still_waits_does_not_hold_up_a_500() -> None:
    got = []

    async def listen(receive: Any) -> None:
        got.append((await receive())["type"])

    async with trio.open_nursery() as nursery:

        @only_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            nursery.start_soon(listen, receive)
            await wait_all_tasks_blocked()

        async with client_of(app) as client:
            assert (await client.ask(request())).status == 500
    assert got == ["http.disconnect"]


async def test_two_tasks_that_wait_for_the_disconnect_both_hear_of_it() -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            got.append((await receive())["type"])

        await read_body(receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)

    async with serving_app(app) as server, await server.connect() as stream:
        await stream.send_all(request())
        await wait_all_tasks_blocked(0.02)
    assert got == ["http.disconnect"] * 2


@pytest.mark.usefixtures("_access_log_off")
async def test_to_send_to_a_client_that_is_gone_is_an_os_error_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(bytes(1000), more=True))
        except OSError as exc:
            errors.append(exc)
        await send(body())

    async with serving_app(app) as server:
        client = Client(await server.connect())
        await client.send(request())
        await client.stream.receive_some()
        await client.stream.aclose()
    assert len(errors) == 1
    assert len(lines_of(caplog, HOST)) == 1
    (line,) = lines_of(caplog, 'left during "GET /": ClientDisconnected')
    assert line.levelno == logging.INFO
    assert not failures(caplog)
    assert "failed" not in server.detail


# The app goes on.


async def test_work_after_the_response_does_not_hold_up_the_next_request() -> None:
    go, done = trio.Event(), []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["raw_path"])
        await go.wait()
        done.append(scope["raw_path"])

    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        assert (await client.ask(request("GET /1 HTTP/1.1"))).body == b"/1"
        assert (await client.ask(request("GET /2 HTTP/1.1"))).body == b"/2"
        await wait_all_tasks_blocked()
        assert server.listener.status == "1 connections, 0 busy"
        server.group.stop()
        assert await client.read_to_end() == b""
        await stream.aclose()
        await wait_all_tasks_blocked(0.02)
        assert not server.ended.is_set()  # a stop waits for it
        go.set()
        await server.ended.wait()
    assert sorted(done) == [b"/1", b"/2"]
    assert server.report.actors[0].outcome == "returned"


async def test_work_after_the_response_that_fails_is_logged_and_the_connection_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello")
        raise ZeroDivisionError("afterwards")

    async with client_of(app) as client:
        for _ in range(2):
            assert (await client.ask(request())).body == b"hello"
    assert len(failures(caplog)) == 2


async def test_a_send_after_the_response_is_an_error_that_does_not_touch_the_next_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello")
        await send(body(b"more"))

    async with client_of(app) as client:
        for _ in range(2):
            assert (await client.ask(request())).body == b"hello"
    assert len(failures(caplog)) == 2
    assert "sent 'http.response.body' after the end of its response" in failures(caplog)[0]


@pytest.mark.parametrize("framing", [(b"Content-Length", b"0"), (b"transfer-encoding", b"chunked")])
async def test_204_does_not_say_how_long_nothing_is(framing: tuple[bytes, bytes]) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(204, framing, (b"x-kept", b"yes")))
        await send(body())

    async with client_of(app) as client:
        headers = (await client.ask(request())).headers
        assert headers["x-kept"] == "yes"
        assert not headers.keys() & {"content-length", "transfer-encoding"}


# The access log.


async def test_each_request_is_logged_with_its_status_size_and_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving_app(echo) as server, await server.connect() as stream:
        client = Client(stream)
        name = name_of(stream)
        await client.ask(request("POST /%20a?b=c HTTP/1.1", "Content-Length: 4", body=b"body"))
        await client.ask(b"GET / HTTP/1.0\r\n\r\n")
    lines = [r.getMessage() for r in caplog.records if r.name == "trio_run.access"]
    assert [line.rpartition(" ")[0] for line in lines] == [
        f'{name} "POST /%20a?b=c HTTP/1.1" 200 4',
        f'{name} "GET / HTTP/1.0" 200 0',
    ]
    assert all(0 <= float(line.rpartition(" ")[2]) < TIMEOUT for line in lines)


@pytest.mark.usefixtures("_access_log_off")
async def test_an_access_log_that_is_off_is_not_even_formatted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access_logger = logging.getLogger("trio_run.access")
    called = []
    monkeypatch.setattr(access_logger, "info", lambda *args: called.append(args))
    async with client_of(hello) as client:
        await client.ask(request())
        await wait_all_tasks_blocked()
        access_logger.setLevel(logging.INFO)
        await client.ask(request())
    assert len(called) == 1


async def test_a_client_that_left_without_a_response_is_in_the_access_log_with_499(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError):
            await answer(send, b"x" * 2**24)

    async with serving_app(app) as server:
        client = Client(await server.connect())
        await client.send(request())
        await wait_all_tasks_blocked(0.02)
        leave_at_once(client)
    assert lines_of(caplog, '"GET / HTTP/1.1" 499 0')


async def test_a_client_that_hung_up_and_got_no_response_is_in_the_access_log_with_499(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    async with serving_app(app) as server, await server.connect() as stream:
        await stream.send_all(request())
        await stream.send_eof()
        await read_to_end(stream)
        name = name_of(stream)
    one, access = lines_of(caplog, name)
    assert (one.levelno, one.exc_info) == (logging.INFO, None)
    assert f"{name} left during" in one.getMessage()
    assert access.name == "trio_run.access"
    assert access.getMessage().startswith(f'{name} "GET / HTTP/1.1" 499 ')


async def test_a_quote_in_a_target_does_not_end_it_in_the_access_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(hello) as client:
        await client.ask(request('GET /"_200?a="b" HTTP/1.1'))
    assert lines_of(caplog, ' "GET /%22_200?a=%22b%22 HTTP/1.1" 200 5 ')


async def test_a_request_that_fails_is_in_the_access_log_with_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(sending()) as client:
        await client.ask(request())
    assert lines_of(caplog, '"GET / HTTP/1.1" 500 45')


# The app fails.


@only_http
async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("mine")


@only_http
async def raises_after_the_start(scope: Any, receive: Any, send: Any) -> None:
    await send(start(200, (b"content-length", b"5")))
    raise ZeroDivisionError("mine")


@only_http
async def raises_a_group(scope: Any, receive: Any, send: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, scope, receive, send)


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (raises, "ZeroDivisionError('mine')"),
        (raises_after_the_start, "ZeroDivisionError('mine')"),
        (raises_a_group, "ZeroDivisionError('mine')"),
        (sending(), "the app returned without a response"),
        (sending(start()), "the app returned without having finished its response"),
        (sending(start(), start()), "the app sent a second http.response.start"),
        (sending(body()), "the app sent http.response.body before http.response.start"),
        (sending({"type": "http.nonsense"}), "the app sent 'http.nonsense', which is no part"),
        (sending({"type": "websocket.accept"}), "the app sent 'websocket.accept', which is no"),
        (sending({}), "KeyError('type')"),
        (sending({"type": "http.response.start"}, body()), "status"),
        (sending(start(200, (b"content-length", b"3")), body(b"four")), "Too much data"),
        (sending(start(200, (b"content-length", b"5")), body(b"four")), "Too little data"),
        (sending(start(200, (b"content-length", b"x")), body(b"four")), "Content-Length"),
        (sending(start(200, (b"a b", b"c")), body()), "http.response.start can't be sent"),
        (sending(start(200, (b"a", b"b\r\nc: d")), body()), "http.response.start can't be sent"),
        (sending(start(200, (b"a", 1)), body()), "http.response.start can't be sent"),
        (sending(start(200, (b"a", None)), body()), "http.response.start can't be sent"),
        (sending(start(200, ("a", "\u20ac")), body()), "http.response.start can't be sent"),
        (sending(start(200, (b"a",)), body()), "http.response.start can't be sent"),
        (sending(start(200, 1), body()), "http.response.start can't be sent"),
        (sending(start("200"), body()), "http.response.start can't be sent"),
        (sending(start(None), body()), "http.response.start can't be sent"),
        (sending(start(100), body()), "http.response.start can't be sent"),
        (sending(start(101), body()), "http.response.start can't be sent"),
        (sending(start(20), body()), "http.response.start can't be sent"),
        (sending(start(1000), body()), "http.response.start can't be sent"),
        (sending(start(204), body(b"some")), "a body with status 204, which has none"),
        (sending(start(200, (None, b"a")), body()), "http.response.start can't be sent"),
        (sending(start(), body("text")), "a body of str, not bytes"),
        (sending(start(), body(None)), "a body of NoneType, not bytes"),
    ],
)
async def test_an_app_that_fails_before_it_has_sent_anything_gives_500_and_a_traceback(
    app: App, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        response = await client.ask(request())
        assert (response.status, response.headers["connection"]) == (500, "close")
        assert response.body == b"500 Internal Server Error: the server failed\n"
        assert await client.read_to_end() == b""
        (failure,) = failures(caplog)
        assert told in failure
        assert f'the app failed at "GET /" for {name_of(stream)}' in failure
    assert server.detail.endswith("1 failed")


async def test_a_failure_before_the_response_to_head_has_no_body() -> None:
    async with client_of(raises) as client:
        assert (await client.ask(request("HEAD / HTTP/1.1"))).status == 500
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("framing", ["chunked", "content-length", "HTTP/1.0", "HEAD"])
@pytest.mark.parametrize("how", ["raises", "returns", "sends too much", "sends a second start"])
async def test_an_app_that_fails_in_the_midst_of_its_body_ends_in_a_reset(
    framing: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"10")] if framing == "content-length" else []
        await send(start(200, *length))
        await send(body(b"half ", more=True))
        if how == "raises":
            raise ZeroDivisionError
        if how == "sends too much":
            await send(body(b"too much" if length else "", more=True))
        if how == "sends a second start":
            await send(start())

    data = request("GET / HTTP/1.1") if framing != "HTTP/1.0" else b"GET / HTTP/1.0\r\n\r\n"
    if framing == "HEAD":
        data = request("HEAD / HTTP/1.1")
    async with client_of(app) as client:
        await client.send(data)
        assert await reset_by(client)
    assert len(failures(caplog)) == 1


async def test_over_tls_an_app_that_fails_in_the_midst_of_its_body_leaves_no_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving_app(
        sending(start(), body(b"half", more=True)), ssl_context=server_context
    ) as server:
        stream = trio.SSLStream(await server.connect(), client_context, server_hostname="localhost")
        client = Client(stream)
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await reset_by(client)
        await trio.aclose_forcefully(stream)


async def test_sends_at_the_same_time_go_one_after_the_other() -> None:
    data = [bytes([n]) * MIB for n in range(8)]

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        async with trio.open_nursery() as nursery:
            for each in data:
                nursery.start_soon(send, body(each, more=True))
        await send(body())

    async with client_of(app) as client:
        await client.send(request())
        await wait_all_tasks_blocked(0.02)
        got = (await client.read()).body
        assert sorted(got[at : at + MIB] for at in range(0, len(got), MIB)) == data
        assert (await client.ask(request())).status == 200


async def test_a_send_that_waits_while_another_ends_the_response_does_not_touch_the_next_one() -> (
    None
):
    errors: list[Exception] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def send_late() -> None:
            try:
                await send(body(b"late"))
            except RuntimeError as exc:
                errors.append(exc)

        if scope["path"] != "/":
            return await answer(send, b"next")
        await send(start(200, (b"content-length", b"%d" % BIG)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, body(bytes(BIG)))
            await wait_all_tasks_blocked(0.02)
            nursery.start_soon(send_late)
        return None

    async with client_of(app) as client:
        await client.send(request() + request("GET /next HTTP/1.1"))
        await wait_all_tasks_blocked(0.1)
        assert len((await client.read()).body) == BIG
        assert (await client.read()).body == b"next"
        assert (await client.ask(request("GET /next HTTP/1.1"))).body == b"next"
    assert "after the end of its response" in str(errors[0])


async def test_a_task_that_the_app_leaves_behind_cannot_send_after_its_return() -> None:
    async def stray(send: Any) -> None:
        with pytest.raises(OSError, match="gone"):
            await answer(send, b"late")

    async with trio.open_nursery() as nursery:

        @only_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            nursery.start_soon(stray, send)

        async with client_of(app) as client:
            assert (await client.ask(request())).status == 500
            assert await client.read_to_end() == b""


async def test_a_send_that_the_app_cancels_midway_breaks_the_response_off() -> None:
    errors: list[Exception] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with trio.move_on_after(0.05) as sending:
            await answer(send, bytes(BIG))
        assert sending.cancelled_caught
        try:
            await send(body(b"more"))
        except OSError as exc:
            errors.append(exc)

    async with client_of(app) as client:
        await client.send(request())
        await wait_all_tasks_blocked(0.1)
        assert await reset_by(client)
    assert len(errors) == 1


async def test_after_a_send_that_is_cancelled_midway_another_task_sends_nothing() -> None:
    seen: list[str] = []
    scope = trio.CancelScope()

    @only_http
    async def app(scope_: Any, receive: Any, send: Any) -> None:
        async def send_half() -> None:
            with scope:
                await send(body(bytes(BIG), more=True))

        async def send_rest() -> None:
            with pytest.raises(OSError, match="gone"):
                await send(body(b"rest"))
            seen.append("not sent")

        await send(start(200, (b"content-length", b"%d" % (BIG + 4))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_body, receive)
            nursery.start_soon(receive)  # it waits for the client to leave
            nursery.start_soon(send_half)
            await wait_all_tasks_blocked(0.02)
            nursery.start_soon(send_rest)

    async with serving_app(app) as server:
        with connected_to(server.address) as client:
            client.sendall(request())
            await wait_all_tasks_blocked(0.1)
            # Make room for the rest. Nothing of the server runs before the other send is cancelled.
            client.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                while client.recv(MIB):
                    pass
            scope.cancel()
            await wait_all_tasks_blocked(0.02)
            with pytest.raises(ConnectionResetError):
                while client.recv(MIB):
                    pass
    assert seen == ["not sent"]


async def test_a_send_that_is_cancelled_before_it_begins_may_be_made_again() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await send(body(b"hello"))
        assert cancelled.cancelled_caught
        await send(body(b"hello"))

    async with client_of(app) as client:
        assert (await client.ask(request())).body == b"hello"


async def send_and_cancel(send: Callable[[bytes], Awaitable[None]]) -> bytes:
    """Many pieces, each cancelled sooner or later, or not at all: what has been sent."""
    sent = []

    async def send_one(piece: bytes) -> None:
        await send(piece)
        sent.append(piece)

    for number in range(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_one, b"%d " % number)
            for _ in range(number % 5):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    return b"".join(sent)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_send_that_is_cancelled_before_a_byte_is_out_breaks_nothing(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    sent = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        sent.append(await send_and_cancel(lambda piece: send(body(piece, more=True))))
        await send(body())

    async with serving_app(app, ssl_context=server_context if tls else None) as server:
        stream: Any = await server.connect()
        if tls:
            stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
        async with stream:
            assert [(await Client(stream).ask(request())).body] == sent
    assert sent[0]


async def test_over_tls_a_handler_whose_send_is_cancelled_before_a_byte_is_out_may_go_on(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    sent = []

    async def handler(stream: trio.abc.Stream) -> None:
        sent.append(await send_and_cancel(stream.send_all))

    async with serving(handler, ssl_context=server_context) as server:
        transport = await server.connect()
        async with trio.SSLStream(transport, client_context, server_hostname="localhost") as stream:
            assert [await read_to_end(stream)] == sent
    assert sent[0]


# Timeouts.


async def test_an_idle_connection_is_closed_after_idle_timeout(clock: MockClock) -> None:
    async with client_of(hello, idle_timeout=7) as client:
        await client.send(b"\r\n")  # no request
        assert await client.read_to_end() == b""
        assert 7 <= trio.current_time() < 8


async def test_a_kept_connection_is_closed_after_idle_timeout(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(hello, idle_timeout=7) as client:
        for _ in range(3):
            await client.ask(request())
            await trio.sleep(6)
        began = trio.current_time()
        assert await client.read_to_end() == b""
        assert 0.5 < trio.current_time() - began < 1.5
    assert not [r for r in caplog.records if r.name == "trio_run" and HOST in r.getMessage()]


async def test_a_head_that_comes_slowly_gets_408(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(hello, header_timeout=3, idle_timeout=50) as client:
        await trio.sleep(5)  # idle: that does not count
        for byte in b"GET":
            await client.send(bytes([byte]))
            await trio.sleep(0.9)
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert 8 <= trio.current_time() < 9
        assert await client.read_to_end() == b""
    assert len(lines_of(caplog, "408 for")) == 1
    assert not failures(caplog)


async def test_a_head_may_come_piece_by_piece() -> None:
    async with client_of(echo) as client:
        data = request("POST / HTTP/1.1", "Content-Length: 4", body=b"body")
        for byte in data:
            await client.send(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await client.read("POST")).body == b"body"


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_in_the_midst_of_a_head_is_at_most_one_line(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_app(hello) as server:
        client = Client(await server.connect())
        await client.send(b"GET / HT")
        await wait_all_tasks_blocked(0.02)
        if reset:
            leave_at_once(client)
        else:
            await client.stream.aclose()
        await wait_all_tasks_blocked(0.02)
    assert len(lines_of(caplog, HOST)) <= 1
    assert not failures(caplog)


async def test_a_body_that_does_not_come_gets_408_and_the_app_a_disconnect(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    got = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        got.append(await receive())
        got.append(await receive())
        with pytest.raises(OSError, match="gone"):
            await answer(send, b"late")

    async with client_of(app, idle_timeout=5) as client:
        await client.send(request("POST / HTTP/1.1", "Content-Length: 9", body=b"a"))
        await trio.sleep(4)
        await client.send(b"b")
        assert (await client.read("POST")).status == 408
        assert 9 <= trio.current_time() < 10
        assert await client.read_to_end() == b""
    assert [message["type"] for message in got] == [
        "http.request",
        "http.request",
        "http.disconnect",
    ]
    assert len(lines_of(caplog, "408 for")) == 1
    assert not failures(caplog)


async def test_a_body_that_does_not_come_once_the_response_has_begun_is_a_reset(
    clock: MockClock,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"half", more=True))
        await read_body(receive)

    async with client_of(app, idle_timeout=5) as client:
        await client.send(request("POST / HTTP/1.1", "Content-Length: 9"))
        assert await reset_by(client)
        assert 5 <= trio.current_time() < 6


async def test_an_app_may_take_longer_than_any_timeout(clock: MockClock) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        with trio.move_on_after(20):
            await receive()
        await trio.sleep(20)
        await answer(send, b"at last")

    async with client_of(app, idle_timeout=1, header_timeout=1) as client:
        assert (await client.ask(request())).body == b"at last"


@pytest.mark.usefixtures("_access_log_off")
@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_takes_nothing_of_its_response_is_given_up(
    tls: bool,
    clock: MockClock,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gave_up = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await answer(send, bytes(BIG))
        finally:
            gave_up.set()

    async with serving_app(
        app, idle_timeout=5, ssl_context=server_context if tls else None
    ) as server:
        stream: Any = await server.connect()
        if tls:
            stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
        client = Client(stream)
        await client.send(request())
        began = trio.current_time()
        await gave_up.wait()
        assert 5 <= trio.current_time() - began < 7
        assert await reset_by(client)
        await trio.aclose_forcefully(stream)
    (line,) = lines_of(caplog, HOST)
    assert "takes nothing of what is sent" in line.getMessage()
    assert not failures(caplog)


async def test_further_clients_wait_while_there_are_max_connections() -> None:
    async with serving_app(hello, max_connections=1) as server:
        async with await server.connect() as one, await server.connect() as two:
            assert (await Client(one).ask(request())).body == b"hello"
            await two.send_all(request())
            with trio.move_on_after(0.05) as waiting:
                await two.receive_some()
            assert waiting.cancelled_caught
            await one.aclose()
            assert (await Client(two).read()).body == b"hello"


# Where it runs.


def count_scopes() -> int:
    gc.collect()
    scopes = [each for each in gc.get_objects() if type(each) is trio.CancelScope]
    return sum(scope.deadline == math.inf for scope in scopes)  # Trio keeps timeouts for a while


async def test_it_runs_in_a_plain_nursery_too() -> None:
    listener = HTTPListener(hello, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            ((host, port),) = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(host, port) as stream:
                client = Client(stream)
                for _ in range(3):
                    assert (await client.ask(request())).body == b"hello"
                scopes = count_scopes()
                for _ in range(20):
                    await client.ask(request())
                assert count_scopes() - scopes < 10  # it leaves nothing behind with each request
            nursery.cancel_scope.cancel()


async def test_it_runs_inside_another_actor() -> None:
    listener = HTTPListener(hello, 0, host=HOST)
    group = Group()

    async def actor() -> None:
        await listener.execute()

    group.add(actor)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(group.run)
            await wait_all_tasks_blocked(0.02)
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                client = Client(stream)
                for _ in range(3):
                    assert (await client.ask(request())).body == b"hello"
            group.stop()
    assert group.members[0].outcome == "returned"


async def test_a_request_may_end_while_another_waits_for_the_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            with cancel_on_stop():
                await trio.sleep_forever()
        await answer(send, scope["raw_path"])

    async with serving_app(app) as server:
        async with await server.connect() as one, await server.connect() as two:
            waiting, other = Client(one), Client(two)
            await waiting.send(request("GET /wait HTTP/1.1"))
            await wait_all_tasks_blocked(0.02)
            for _ in range(3):
                assert (await other.ask(request())).body == b"/"
            server.group.stop()
            assert (await waiting.read()).body == b"/wait"
            assert await other.read_to_end() == b""
    assert not failures(caplog)


# The lifespan.


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


@asynccontextmanager
async def running(group: Group, failed: list[GroupFailed]) -> AsyncIterator[None]:
    """A group that fails in the end."""

    async def run(task_status: Any) -> None:
        try:
            await group.run(task_status=task_status)
        except GroupFailed as exc:
            failed.append(exc)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield


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


# What is wrong from the beginning.


def a_unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, ValueError, "either a port"),
        ({"port": -1}, ValueError, "port must be a whole number"),
        ({"port": "80"}, ValueError, "port must be a whole number"),
        ({"port": 0, "path": "/tmp/x"}, ValueError, "either a port, a path or sockets"),
        ({"host": HOST, "path": "/tmp/x"}, ValueError, "host and reuse_port go with a port"),
        ({"reuse_port": True, "path": "/tmp/x"}, ValueError, "host and reuse_port go with a port"),
        ({"path": ""}, ValueError, "can't be empty"),
        ({"path": 5}, TypeError, "path|str, bytes or os.PathLike"),
        ({"path": "/tmp/x", "mode": 0o1000}, ValueError, "mode must be permissions"),
        ({"port": 0, "host": 5}, TypeError, "host must be"),
        ({"port": 0, "backlog": 0}, ValueError, "backlog must be"),
        ({"port": 0, "ssl_context": "tls"}, TypeError, "ssl_context must be"),
        (
            {"port": 0, "idle_timeout": 0},
            ValueError,
            "idle_timeout must be a number greater than 0",
        ),
        ({"port": 0, "idle_timeout": None}, ValueError, "idle_timeout must be a number"),
        ({"port": 0, "header_timeout": -1}, ValueError, "header_timeout must be a number"),
        (
            {"port": 0, "header_timeout": float("nan")},
            ValueError,
            "header_timeout must be a number",
        ),
        ({"port": 0, "max_message_size": "1"}, ValueError, "max_message_size must be a number"),
        ({"port": 0, "max_connections": 0}, ValueError, "max_connections must be"),
        ({"sockets": []}, TypeError, "sockets must be a list of bound sockets"),
        ({"sockets": 5}, TypeError, "sockets must be a list of bound sockets"),
        ({"sockets": ["a"]}, TypeError, "sockets must be a list of bound sockets"),
        ({"sockets": [listening_at], "port": 0}, ValueError, "either a port"),
        ({"sockets": [a_unix_socket], "port": 0}, ValueError, "either a port"),
        (
            {"sockets": [a_unix_socket], "host": HOST},
            ValueError,
            "host and reuse_port go with a port",
        ),
        (
            {"sockets": [a_unix_socket], "path": "/tmp/x"},
            ValueError,
            "either a port, a path or sockets",
        ),
        (
            {"sockets": [listening_at], "host": HOST},
            ValueError,
            "host and reuse_port go with a port",
        ),
    ],
)
def test_an_argument_that_cannot_be_right_is_told_at_once(
    options: dict[str, Any], error: type[Exception], told: str
) -> None:
    given: list[Any] = []
    if isinstance(options.get("sockets"), list):
        given = [each() if callable(each) else each for each in options["sockets"]]
        options = options | {"sockets": given}
    try:
        with pytest.raises(error, match=told):
            HTTPListener(hello, **options)
    finally:
        for each in given:
            if isinstance(each, socket.socket):
                each.close()


def test_an_app_must_be_callable() -> None:
    with pytest.raises(TypeError, match="the app must be an ASGI app, not 'module:app'"):
        HTTPListener("module:app", 80)  # type: ignore[arg-type]


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_run._listeners._http._connection", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-run\[http\]'"):
        HTTPListener(hello, 80)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"port": 0}, "http"),
        ({"port": 8080}, "http:8080"),
        ({"path": "/tmp/x"}, "http:/tmp/x"),
        ({"path": b"/tmp/x"}, "http:/tmp/x"),
        ({"path": Path("/tmp/x")}, "http:/tmp/x"),
        ({"port": 0, "name": "api"}, "api"),
        ({"path": "/tmp/x", "name": "api"}, "api"),
    ],
)
def test_its_name_says_where_it_listens(options: dict[str, Any], name: str) -> None:
    listener = HTTPListener(hello, **options)
    assert listener.name == name
    assert listener.addresses == ()
    assert listener.status == "0 connections, 0 busy"
