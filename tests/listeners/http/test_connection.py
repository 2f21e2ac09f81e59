"""A connection: many requests, a client that leaves, an app that goes on."""

import contextlib
import logging
import socket
import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from ..http_serving import Client, answer, only_http, read_body, request, serving_app
from ..serving import (
    HOST,
    lines_of,
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
    reset_by,
    sending,
    start,
)

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


async def test_a_small_body_that_the_app_has_not_read_does_not_cost_the_connection() -> None:
    data = request("POST / HTTP/1.1", "Content-Length: 50000", body=bytes(50_000))
    async with client_of(hello) as client:
        for _ in range(3):
            await client.send(data[:1000])
            response = await client.read("POST")
            assert (response.body, response.headers.get("connection")) == (b"hello", None)
            await client.send(data[1000:])


@pytest.mark.parametrize("whole", [False, True])
async def test_chunks_that_the_app_has_not_read_cost_the_connection_if_nobody_knows_how_many(
    whole: bool,
) -> None:
    chunks = b"5\r\nhello\r\n" * 100 + b"0\r\n\r\n"
    data = request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunks)
    async with client_of(hello) as client:
        await client.send(data if whole else data[:-1])
        response = await client.read("POST")
        assert (response.body, response.headers.get("connection")) == (
            b"hello",
            None if whole else "close",
        )
        if whole:
            assert (await client.ask(request())).body == b"hello"


async def test_a_client_that_ends_within_a_body_that_nobody_reads_has_its_response() -> None:
    async with client_of(hello) as client:
        await client.send(request("POST / HTTP/1.1", "Content-Length: 100", body=b"some"))
        assert (await client.read("POST")).body == b"hello"
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_a_body_need_not_be_bytes(kind: Any) -> None:
    async with client_of(
        sending(start(), body(kind(b"hel"), more=True), body(kind(b"lo")))
    ) as client:
        assert (await client.ask(request())).body == b"hello"


async def test_headers_need_not_be_bytes() -> None:
    headers = (bytearray(b"X-Some"), bytearray(b"thing")), (b"x-more", memoryview(b"of it"))
    async with client_of(sending(start(200, *headers), body(b"hello"))) as client:
        response = await client.ask(request())
    assert (response.headers["x-some"], response.headers["x-more"]) == ("thing", "of it")


async def test_an_app_may_say_that_the_connection_is_kept() -> None:
    app = sending(start(200, (b"connection", b"keep-alive")), body(b"hello"))
    async with client_of(app) as client:
        for _ in range(2):
            response = await client.ask(request())
            assert (response.body, response.headers["connection"]) == (b"hello", "keep-alive")
        response = await client.ask(request("GET / HTTP/1.1", "Connection: close"))
        assert (response.body, response.headers["connection"]) == (b"hello", "close")


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


async def test_a_task_elsewhere_hears_that_what_it_sends_is_lost() -> None:
    """The app returns while another task is about to have sent the last of its response."""
    told: list[str] = []

    async def finish(send: Any, about_to: trio.Event) -> None:
        await send(start())
        await send(body(b"hello", more=True))
        about_to.set()
        try:
            await send(body())
            told.append("it is sent")
        except OSError:
            told.append("it is lost")

    async with trio.open_nursery() as nursery:

        @only_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            about_to = trio.Event()
            nursery.start_soon(finish, send, about_to)
            await about_to.wait()

        for _ in range(50):  # which task is first is up to Trio
            async with client_of(app) as client:
                await client.send(request("GET / HTTP/1.1", "Connection: close"))
                is_lost = await reset_by(client)
            assert told.pop() == ("it is lost" if is_lost else "it is sent")


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
        assert server.listener.status == "1 connection, 0 busy"
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


async def test_a_task_that_sends_the_rest_after_the_app_has_returned_does_not_keep_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is being reset, and what has come for it by then is not to be begun."""
    called = []

    async def send_rest(send: Any) -> None:
        with contextlib.suppress(OSError):  # the reset may be before its end
            await send(body(bytes(BIG)))

    async with trio.open_nursery() as elsewhere:

        @only_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            called.append(scope["path"])
            await send(start())
            elsewhere.start_soon(send_rest, send)
            await wait_all_tasks_blocked()  # it has sent as much as the client takes

        async with client_of(app) as client:
            await client.send(request("GET /1 HTTP/1.1") + request("GET /2 HTTP/1.1"))
            await wait_all_tasks_blocked(0.01)
            await reset_by(client)
    assert called == ["/1"]
    [failed] = failures(caplog)
    assert "without having finished its response" in failed


async def test_a_client_that_hangs_up_in_its_body_as_it_is_answered_gets_one_response() -> None:
    """Which of the two comes first is up to the scheduler: both do, in so many tries."""
    clients: list[trio.SocketStream] = []

    async def receive_all(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_all, receive)
            await wait_all_tasks_blocked()
            clients[-1].socket.shutdown(socket.SHUT_WR)
            await trio.lowlevel.checkpoint()  # now the reader may be woken before we go on
            await answer(send, b"whole")

    async with serving_app(app) as server:
        for _ in range(20):
            async with await server.connect() as stream:
                clients.append(stream)
                client = Client(stream)
                response = await client.ask(request("POST / HTTP/1.1", "Content-Length: 100000"))
                assert response.body == b"whole"
                assert await client.read_to_end() == b""
