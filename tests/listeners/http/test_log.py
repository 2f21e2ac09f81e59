"""What is logged: the requests, and an app that fails."""

import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run.testing import read_to_end

from ... import TIMEOUT
from ..http_serving import App, Client, answer, only_http, read_body, request, serving_app
from ..serving import (
    connected_to,
    lines_of,
    name_of,
    serving,
)
from .helpers import (
    BIG,
    MIB,
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
        (sending(start(200, (b"transfer-encoding", b"gzip")), body()), "http.response.start can't"),
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
