"""The request as the app sees it: its scope, its body, Expect."""

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, GroupFailed, HTTPListener

from ..http_serving import Client, answer, only_http, read_body, request, serving_app
from ..serving import (
    HOST,
    lines_of,
    listening_at,
)
from .helpers import (
    BIG,
    MIB,
    Scopes,
    body,
    client_of,
    echo,
    failures,
    hello,
    leave_at_once,
    sending,
    start,
)

# The scope.


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
            "asgi": {"version": "3.0", "spec_version": "2.3"},
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


@pytest.mark.parametrize("fill", [b"x", b"\r\n", b"0\r\n\r\n"])
async def test_long_chunks_are_read_wherever_they_are_split(fill: bytes) -> None:
    long = (fill * 5000)[:5000]
    line = b"\r\n%x\r\n" % len(long)
    chunks = line[2:] + long + line + long + b"\r\n5\r\nshort\r\n0\r\n\r\n"
    data = request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
    head = data.index(b"\r\n\r\n") + 4
    second = head + len(line) - 2 + len(long)
    places = [*range(head, head + 8), *range(second - 2, second + 12), len(data) - 3]
    async with client_of(echo) as client:
        for place in places:
            await client.send(data[:place])
            await wait_all_tasks_blocked()
            await client.send(data[place:])
            assert (await client.read("POST")).body == long + long + b"short"


@pytest.mark.parametrize(
    "line", [b"1000g\r\n", b"1000\n", b"\r\n1000\r\n", b"1000 \r\n", b"1000\rx"]
)
async def test_a_long_chunk_whose_line_is_wrong_is_refused(line: bytes) -> None:
    async with client_of(echo) as client:
        chunks = line + bytes(4096) + b"\r\n0\r\n\r\n"
        response = await client.ask(
            request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
        )
        assert response.status == 400


async def test_a_body_of_very_many_pieces_lets_the_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    chunk = b"\r\n" * 2000
    chunks = b"%x\r\n%b\r\n" % (len(chunk) - 1000, chunk[1000:]) * 10 + b"0\r\n\r\n"
    data = request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
    async with client_of(echo) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        before = turns
        assert (await client.ask(data)).body == chunk[1000:] * 10
        assert turns - before > 10
        nursery.cancel_scope.cancel()


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
                assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
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
        await wait_all_tasks_blocked(0.02)
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
