"""An app runs in the task of its connection: what it leaves there, and what it does afterwards."""

import contextlib
import contextvars
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ..http_serving import Client, answer, only_http, read_body, request, serving_app
from .helpers import body, client_of, echo, start

USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


async def test_what_one_request_leaves_in_a_context_variable_the_next_does_not_see() -> None:
    seen: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(USER.get())
        USER.set(scope["path"])
        await answer(send, await read_body(receive))

    async with client_of(app) as client:
        for path in ("/a", "/b"):
            await client.ask(request(f"GET {path} HTTP/1.1"))
        await client.send(request("GET /c HTTP/1.1") + request("GET /d HTTP/1.1"))
        for _ in range(2):
            await client.read()
    assert seen == ["nobody"] * 4


async def test_what_an_app_leaves_when_it_goes_on_the_next_request_does_not_see() -> None:
    seen: list[str] = []
    go = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(USER.get())
        USER.set(scope["path"])
        await answer(send)
        await go.wait()
        assert USER.get() == scope["path"]

    async with client_of(app) as client:
        for path in ("/a", "/b"):
            await client.ask(request(f"GET {path} HTTP/1.1"))
        await client.send(request("GET /c HTTP/1.1") + request("GET /d HTTP/1.1"))
        for _ in range(2):
            await client.read()
        go.set()
    assert seen == ["nobody"] * 4


async def test_what_is_set_around_the_listener_every_request_sees() -> None:
    seen: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(USER.get())
        await answer(send)
        await wait_all_tasks_blocked()

    USER.set("operator")
    async with client_of(app) as client:
        for _ in range(2):
            await client.ask(request())
        await client.send(request() + request())
        for _ in range(2):
            await client.read()
    assert seen == ["operator"] * 4


async def test_a_cancel_scope_that_an_app_leaves_open_cuts_nobody_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As a generator does that is left in the midst of a move_on_after()."""
    left: list[Any] = []

    async def parts() -> Any:
        with trio.move_on_after(5):
            yield 1
            yield 2

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/leaves":
            generator = parts()
            left.append(generator)
            async for _ in generator:
                break
        await answer(send, scope["path"].encode())
        if scope["path"] == "/slow":
            await trio.sleep(1)

    async with client_of(app) as client:
        for path in ("/a", "/leaves", "/b", "/leaves", "/slow"):
            assert (await client.ask(request(f"GET {path} HTTP/1.1"))).body == path.encode()
        await trio.sleep(10)
        assert (await client.ask(request("GET /c HTTP/1.1"))).body == b"/c"
        for generator in left:
            with contextlib.suppress(RuntimeError):
                await generator.aclose()
    assert caplog.text.count("left a cancel scope open at '/leaves'") == 2


# An app that goes on after its response.


class GoesOn:
    """It answers, and goes on until told; it counts how many requests are still with it."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.running = 0
        self.heard: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.running += 1
        data = await read_body(receive)
        last = [(b"connection", b"close")] if scope["path"] == "/last" else []
        await answer(send, data or b"-", 200, *last)
        if scope["path"] != "/quick":
            await self.go.wait()
            self.heard.append((await receive())["type"])
        self.running -= 1


async def test_the_next_request_is_served_while_the_app_goes_on() -> None:
    app = GoesOn()
    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        for number in range(1, 4):
            post = request("POST / HTTP/1.1", "Content-Length: 1", body=b"%d" % number)
            assert (await client.ask(post)).body == b"%d" % number
            assert app.running == number
        assert (await client.ask(request("GET /quick HTTP/1.1"))).body == b"-"
        await wait_all_tasks_blocked()
        assert app.running == 3
        assert server.listener.status == "1 connection, 0 busy"
        app.go.set()
        await wait_all_tasks_blocked()
        assert app.running == 0
        assert (await client.ask(request("GET /quick HTTP/1.1"))).body == b"-"
    assert app.heard == ["http.disconnect"] * 3


async def test_pipelined_requests_are_served_in_their_order_while_apps_go_on() -> None:
    app = GoesOn()
    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        posts = [
            request("POST / HTTP/1.1", "Content-Length: 1", body=b"%d" % number)
            for number in range(10)
        ]
        await client.send(b"".join(posts))
        assert [(await client.read("POST")).body for _ in posts] == [
            b"%d" % number for number in range(10)
        ]
        assert app.running == 10
        app.go.set()


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0", "the client ends", "a stop"])
async def test_the_connection_ends_while_the_app_goes_on(how: str) -> None:
    app = GoesOn()
    async with serving_app(app, grace=5) as server, await server.connect() as stream:
        client = Client(stream)
        if how == "Connection: close":
            await client.ask(request("GET /last HTTP/1.1"))
        elif how == "HTTP/1.0":
            await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        else:
            await client.ask(request())
            await wait_all_tasks_blocked()
            if how == "a stop":
                server.group.stop()
            else:
                await stream.send_eof()
        assert await client.read_to_end() == b""
        await stream.aclose()
        await wait_all_tasks_blocked()
        assert app.running == 1
        assert server.listener.status.split(",")[0] in ("0 connections", "1 drained")
        app.go.set()
        await server.stop()
    assert server.detail == ("1 drained, 0 cut" if how == "a stop" else "0 drained, 0 cut")


async def test_an_app_that_fails_after_its_response_costs_nobody_a_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello")
        if scope["path"] == "/fails":
            await go.wait()
            raise ZeroDivisionError

    async with client_of(app) as client:
        assert (await client.ask(request("GET /fails HTTP/1.1"))).body == b"hello"
        assert (await client.ask(request())).body == b"hello"
        go.set()
        await wait_all_tasks_blocked()
        assert (await client.ask(request())).body == b"hello"
    assert sum("ZeroDivisionError" in (record.exc_text or "") for record in caplog.records) == 1


async def test_an_app_that_is_cut_after_its_response_cuts_no_connection(
    autojump_clock: MockClock,
) -> None:
    app = GoesOn()
    async with serving_app(app, grace=5) as server, await server.connect() as stream:
        client = Client(stream)
        await client.ask(request())
        await server.stop()
        assert await client.read_to_end() == b""
    assert server.detail == "1 drained, 0 cut"
    assert app.running == 1


async def test_a_connection_that_broke_is_closed_while_its_app_goes_on() -> None:
    go, failed = trio.Event(), trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(bytes(2**20), more=True))
        except OSError:
            failed.set()
        await go.wait()

    async with serving_app(app) as server:
        stream = await server.connect()
        await stream.send_all(request())
        await wait_all_tasks_blocked()
        await stream.aclose()
        await failed.wait()
        await wait_all_tasks_blocked()
        assert server.listener.status == "0 connections, 0 busy"
        go.set()


# A failed response, and the one before it.


async def test_the_reset_after_a_failed_response_leaves_the_one_before_whole() -> None:
    size = 2_000_000

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"%d" % size)))
        if scope["path"] == "/fails":
            await send(body(b"half", more=True))
            raise ZeroDivisionError
        await send(body(bytes(size)))

    async with client_of(app) as client:
        await client.send(request() + request("GET /fails HTTP/1.1"))
        await trio.sleep(0.05)  # the client is slow to read, and the reset waits for it
        assert len((await client.read()).body) == size
        with pytest.raises((trio.BrokenResourceError, Exception)):
            await client.read()


async def test_a_body_whose_length_is_known_and_that_comes_with_an_upgrade_is_a_body() -> None:
    """llhttp takes what follows an Upgrade for another protocol."""
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")
    async with client_of(echo) as client:
        sized = request("POST / HTTP/1.1", *upgrade, "Content-Length: 5", body=b"hello")
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        chunked = request("POST / HTTP/1.1", *upgrade, "Transfer-Encoding: chunked", body=chunks)
        for data in (sized, chunked, sized + chunked + request()):
            await client.send(data)
        for wanted in (b"hello", b"hello", b"hello", b"hello", b""):
            assert (await client.read("POST")).body == wanted
