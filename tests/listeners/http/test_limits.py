"""Timeouts, where it runs, and what is wrong from the beginning."""

import gc
import math
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run import Group, HTTPListener, cancel_on_stop
from trio_run._listeners._http._connection import HTTPConnection
from trio_run.testing import running

from ... import TIMEOUT
from ..http_serving import Client, answer, only_http, read_body, request, serving_app
from ..serving import HOST, lines_of, listening_at
from .helpers import BIG, body, client_of, echo, failures, hello, leave_at_once, reset_by, start

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


async def test_so_is_one_whose_app_goes_on_after_its_response(clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        await trio.sleep(20)

    async with client_of(only_http(app), idle_timeout=7) as client:
        await client.ask(request())
        assert await client.read_to_end() == b""
        assert 7 <= trio.current_time() < 8


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
        assert 5 <= trio.current_time() - began <= 20  # its kernel takes some at first
        assert await reset_by(client)
        await trio.aclose_forcefully(stream)
    (line,) = lines_of(caplog, HOST)
    assert "taken nothing of what is sent" in line.getMessage()
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
        async with running(group):
            await wait_all_tasks_blocked(0.02)
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                client = Client(stream)
                for _ in range(3):
                    assert (await client.ask(request())).body == b"hello"
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
        ({"port": 0, "idle_timeout": True}, ValueError, "idle_timeout must be a number"),
        ({"port": 0, "header_timeout": -1}, ValueError, "header_timeout must be a number"),
        (
            {"port": 0, "header_timeout": float("nan")},
            ValueError,
            "header_timeout must be a number",
        ),
        ({"port": 0, "max_message_size": "1"}, ValueError, "max_message_size must be a number"),
        ({"port": 0, "max_connections": 0}, ValueError, "max_connections must be"),
        ({"port": 0, "max_connections": True}, ValueError, "max_connections must be"),
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


async def test_a_request_that_comes_just_as_its_connection_is_given_up_is_answered(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up = HTTPConnection.give_up

    def give_up_too_late(self: HTTPConnection) -> None:
        sent.send(request())
        give_up(self)

    monkeypatch.setattr(HTTPConnection, "give_up", give_up_too_late)
    async with client_of(hello, idle_timeout=7) as client:
        sent = socket.socket(fileno=os.dup(client.stream.socket.fileno()))
        with sent:
            response = await client.read()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.read_to_end() == b""


async def test_a_request_that_began_with_the_one_before_is_not_idle(clock: MockClock) -> None:
    """Its app may take longer than the idle timeout, and so may its body."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    async with client_of(app, idle_timeout=5) as client:
        second = request("POST / HTTP/1.1", "Content-Length: 10")
        await client.send(request() + second[:20])
        await client.read()
        await client.send(second[20:])
        for _ in range(10):
            await trio.sleep(2)
            await client.send(b"x")
        assert (await client.read("POST")).body == b"x" * 10
