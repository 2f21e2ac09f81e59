"""HTTPListener at a stop: what each client sees, whatever it is doing then, and what the app does.

Section 4, rules 3 to 6 and 10.
"""

import contextlib
import math
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, TextMessage
from wsproto.events import Request as Handshake

from trio_run import (
    Cause,
    Group,
    GroupFailed,
    HTTPListener,
    SignalReceiver,
    busy,
    stopping,
    wait_stopping,
)
from trio_run._listeners import _connection

from .http_serving import Client, answer, read_body, request, serving_app
from .serving import (
    HOST,
    TIMEOUT,
    Server,
    clog,
    lines_of,
    listening_at,
    open_descriptors,
)


class App:
    """With a lifespan. What it does with a request is in its path. It notes what it has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun = trio.Event()
        self.go = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        what = scope.get("path", "/lifespan")[1:]
        self.seen.append(f"{what} begins")
        end = "ends"
        try:
            await getattr(self, what)(receive, send)
        except trio.Cancelled:
            end = "is cancelled"
            raise
        except Exception as exc:
            end = f"raises {type(exc).__name__}"
            raise
        finally:
            self.seen.append(f"{what} {end}")

    async def lifespan(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.seen.append("shutdown")
        await trio.lowlevel.checkpoint()
        await send({"type": "lifespan.shutdown.complete"})

    async def _go_on(self) -> None:
        self.begun.set()
        await self.go.wait()

    # Requests.

    async def echo(self, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    async def ignore(self, _receive: Any, send: Any) -> None:
        await self._go_on()
        await answer(send, b"ignored")

    async def work(self, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        await self._go_on()
        await answer(send, b"done " + body)

    async def half(self, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await self._go_on()
        await send({"type": "http.response.body", "body": b"second"})

    async def after(self, _receive: Any, send: Any) -> None:
        await answer(send, b"soon")
        await self._go_on()

    async def hang_on(self, receive: Any, send: Any) -> None:
        """As frameworks do: one task answers, another one waits for the client to leave."""

        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            self.seen.append(message["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await self._go_on()
            await answer(send, b"done")

    async def ticks(self, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        self.begun.set()
        while not stopping():
            await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
            with trio.move_on_after(1):
                await wait_stopping()
        await send({"type": "http.response.body", "body": b"bye"})

    # WebSockets.

    async def chat(self, receive: Any, send: Any) -> None:
        """Answers a message when it may go on."""
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await self._go_on()
            await send({"type": "websocket.send", "text": message["text"] + "!"})
        self.seen.append(f"{message['code']} {message['reason']}")

    async def slow_accept(self, receive: Any, send: Any) -> None:
        await receive()
        await self._go_on()
        await send({"type": "websocket.accept"})

    async def news(self, _receive: Any, send: Any) -> None:
        """Receives nothing. It ends when it can't send any more."""
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "news"})
            await trio.sleep(1)

    async def busy_news(self, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        with busy():
            await self._go_on()
            await send({"type": "websocket.send", "text": "old news"})
        await receive()
        self.seen.append(f"{(await receive())['code']}")


class Where:
    """Over what a test is run."""

    def __init__(
        self, kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], path: Path
    ) -> None:
        self.kind = kind
        self._server_context, self._client_context = contexts
        self._path = path

    @property
    def options(self) -> dict[str, Any]:
        """For the listener."""
        if self.kind == "unix":
            return {"path": self._path}
        if self.kind == "sockets":
            return {"sockets": [listening_at()]}
        tls = {"ssl_context": self._server_context} if self.kind == "tls" else {}
        return {"port": 0, "host": HOST} | tls

    @asynccontextmanager
    async def serving(self, app: App, **options: Any) -> AsyncIterator[Server]:
        before = open_descriptors()
        async with serving_app(app, **self.options | options) as server:
            yield server
        # After the last app call has returned, and never before.
        assert app.seen[0] == "lifespan begins"
        assert app.seen[-2:] == ["shutdown", "lifespan ends"], app.seen
        assert app.seen.count("shutdown") == 1
        assert open_descriptors() == before

    def client(self, stream: trio.SocketStream) -> Client:
        if self.kind == "tls":
            return Client(trio.SSLStream(stream, self._client_context, server_hostname="localhost"))
        return Client(stream)

    @asynccontextmanager
    async def connected(self, server: Server) -> AsyncIterator[Client]:
        client = self.client(await server.connect())
        try:
            yield client
        finally:
            await trio.aclose_forcefully(client.stream)


@pytest.fixture(params=["tcp", "tls", "unix", "sockets"])
def where(
    request: pytest.FixtureRequest,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
) -> Where:
    return Where(request.param, contexts, tmp_path / "socket")


@pytest.fixture
def tcp(contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path) -> Where:
    return Where("tcp", contexts, tmp_path)


async def stopped(server: Server) -> None:
    """The stop has begun, and has come as far as it can by itself."""
    server.group.stop()
    await wait_all_tasks_blocked()
    assert not server.ended.is_set()


async def is_last(client: Client, body: bytes, *, told: bool = True) -> None:
    """It reads this response, whole, and then a clean end."""
    response = await client.read()
    assert (response.status, response.body) == (200, body)
    assert response.headers.get("connection") == ("close" if told else None)
    await is_ended(client)


async def is_ended(client: Client) -> None:
    """It sees a clean end, and hangs up, as clients do."""
    assert await client.read_to_end() == b""
    await trio.aclose_forcefully(client.stream)


def drained(server: Server, count: int) -> None:
    assert server.detail == f"{count} drained, 0 cut"
    assert server.report.actors[0].outcome == "returned"


# Idle.


async def test_rule_10_connected_and_silent_a_client_sees_the_end_at_once(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        if isinstance(client.stream, trio.SSLStream):
            await client.stream.do_handshake()
        await trio.sleep(1)
        began = trio.current_time()
        server.group.stop()
        await is_ended(client)
        await server.ended.wait()
        assert trio.current_time() == began
    drained(server, 1)


async def test_a_client_that_has_only_just_come_may_still_send_its_request(
    where: Where, clock: MockClock
) -> None:
    """It is on its way when the stop begins: clients that open a connection for each request do
    that.
    """
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        if isinstance(client.stream, trio.SSLStream):
            await client.stream.do_handshake()
        await wait_all_tasks_blocked()
        server.group.stop()
        await trio.sleep(0.3)
        assert (await client.ask(request("GET /echo HTTP/1.1"))).status == 200
        await is_ended(client)
        await server.ended.wait()
    drained(server, 1)


async def test_a_client_that_has_only_just_come_and_says_nothing_is_not_waited_for_long(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        if isinstance(client.stream, trio.SSLStream):
            await client.stream.do_handshake()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        server.group.stop()
        await is_ended(client)
        assert 0 < trio.current_time() - began <= 0.5
        await server.ended.wait()
    drained(server, 1)


async def test_rule_10_idle_between_requests_a_client_sees_the_end_at_once(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        for _ in range(2):
            response = await client.ask(request("GET /echo HTTP/1.1"))
            assert response.status == 200
            assert "connection" not in response.headers
        await wait_all_tasks_blocked()
        began = trio.current_time()
        server.group.stop()
        await is_ended(client)
        await server.ended.wait()
        assert trio.current_time() == began
    drained(server, 1)


async def test_rule_10_many_idle_and_one_in_flight(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(where.connected(server)) for _ in range(20)]
        for client in idle:
            await client.ask(request("GET /echo HTTP/1.1"))
        at_work = await stack.enter_async_context(where.connected(server))
        await at_work.send(request("GET /work HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        for client in idle:
            await is_ended(client)
        assert "shutdown" not in app.seen
        app.go.set()
        await is_last(at_work, b"done ")
    drained(server, 21)


# In flight.


async def test_rule_10_half_a_head_sent_it_is_read_and_answered(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        data = request("GET /echo HTTP/1.1")
        await client.send(data[:20])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(data[20:])
        await is_last(client, b"")
    drained(server, 1)


async def test_rule_10_one_byte_sent_it_is_read_and_answered(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        data = request("GET /echo HTTP/1.1")
        await client.send(data[:1])
        await wait_all_tasks_blocked()
        await stopped(server)
        for index in range(1, len(data)):
            await client.send(data[index : index + 1])
        await is_last(client, b"")
    drained(server, 1)


async def test_rule_10_an_upload_is_read_to_its_end_and_answered(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        body = os.urandom(300_000)
        data = request("POST /echo HTTP/1.1", f"Content-Length: {len(body)}", body=body)
        await client.send(data[:100_000])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(data[100_000:200_000])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data[200_000:])
            await is_last(client, body)
    drained(server, 1)


async def test_rule_10_a_chunked_upload_is_read_to_its_end_and_answered(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked"))
        await client.send(b"6\r\nfir")
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(b"st \r\n6\r\nsecond\r\n0\r\n\r\n")
        await is_last(client, b"first second")
    drained(server, 1)


async def test_rule_10_a_body_that_waits_for_100_continue_is_asked_for(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        head = request("POST /echo HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        await client.send(head[:-2])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(head[-2:])
        expected = b"HTTP/1.1 100 \r\n\r\n"
        received = b""
        while len(received) < len(expected):
            received += bytes(await client.stream.receive_some(len(expected) - len(received)))
        assert received == expected
        await client.send(b"hello")
        await is_last(client, b"hello")
    drained(server, 1)


async def test_rule_10_while_the_app_works_it_may_finish(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("POST /work HTTP/1.1", "Content-Length: 4", body=b"body"))
        await app.begun.wait()
        await stopped(server)
        assert app.seen[-1] == "work begins"
        app.go.set()
        await is_last(client, b"done body")
        await server.ended.wait()
        assert app.seen[2:] == ["work ends", "shutdown", "lifespan ends"]
    drained(server, 1)


async def test_rule_10_a_body_that_the_app_reads_only_after_the_stop(where: Where) -> None:
    app = App()

    async def late(receive: Any, send: Any) -> None:
        await app._go_on()
        await app.echo(receive, send)

    app.late = late  # type: ignore[attr-defined]
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("POST /late HTTP/1.1", "Content-Length: 10", body=b"hello"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        await wait_all_tasks_blocked()
        await client.send(b"world")
        await is_last(client, b"helloworld")
    drained(server, 1)


async def test_rule_10_half_a_response_is_finished(where: Where) -> None:
    """Its head is out, without Connection: close. The end of the stream says it instead."""
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /half HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        await is_last(client, b"first second", told=False)
    drained(server, 1)


async def test_rule_10_half_a_response_is_finished_and_a_pipelined_request_behind_is_not_begun(
    where: Where,
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /half HTTP/1.1") + request("GET /echo HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        await is_last(client, b"first second", told=False)
    drained(server, 1)
    assert "echo begins" not in app.seen


async def test_rule_10_a_client_that_takes_its_response_slowly_gets_it_whole(tcp: Where) -> None:
    app = App()
    size = 20_000_000  # more than the kernel takes

    async def big(receive: Any, send: Any) -> None:
        app.begun.set()
        await answer(send, bytes(size))

    app.big = big  # type: ignore[attr-defined]
    async with tcp.serving(app) as server, tcp.connected(server) as client:
        await client.send(request("GET /big HTTP/1.1"))
        await app.begun.wait()
        await wait_all_tasks_blocked()
        assert "big ends" not in app.seen
        await stopped(server)
        await is_last(client, bytes(size), told=False)
    drained(server, 1)


async def test_rule_10_an_app_that_waits_for_the_disconnect_is_told_after_its_response(
    where: Where,
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /hang_on HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        assert "http.disconnect" not in app.seen
        app.go.set()
        await is_last(client, b"done")
        await server.ended.wait()
        assert app.seen[2:4] == ["http.disconnect", "hang_on ends"]
    drained(server, 1)


async def test_rule_10_a_pipelined_request_behind_is_not_begun(where: Where) -> None:
    """The response before it says that there is no other."""
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /work HTTP/1.1") + request("GET /echo HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        await client.send(request("GET /echo HTTP/1.1") * 2)
        app.go.set()
        await is_last(client, b"done ")
    drained(server, 1)
    assert "echo begins" not in app.seen


async def test_rule_10_pipelined_requests_read_ahead_while_the_app_waits_are_not_begun(
    where: Where,
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /hang_on HTTP/1.1") + request("GET /echo HTTP/1.1"))
        await app.begun.wait()
        await client.send(request("GET /echo HTTP/1.1"))
        await stopped(server)
        await client.send(request("GET /echo HTTP/1.1"))
        app.go.set()
        await is_last(client, b"done")
    drained(server, 1)
    assert "echo begins" not in app.seen


async def test_rule_05_a_response_to_an_upload_that_nobody_reads_is_not_eaten(
    where: Where,
) -> None:
    """The client goes on sending what the app does not want: it is read and thrown away until the
    client has seen the response.
    """
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("POST /ignore HTTP/1.1", "Content-Length: 1000000"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        await wait_all_tasks_blocked()
        for _ in range(10):
            await client.send(bytes(100_000))
        await is_last(client, b"ignored")
    drained(server, 1)


async def test_rule_10_the_app_works_on_after_its_response(where: Where) -> None:
    """As for a background task: its client is not held up, the lifespan's shutdown is."""
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        assert (await client.ask(request("GET /after HTTP/1.1"))).body == b"soon"
        await app.begun.wait()
        await stopped(server)
        await is_ended(client)
        await wait_all_tasks_blocked()
        assert app.seen[-1] == "after begins"
        app.go.set()
        await server.ended.wait()
        assert app.seen[2:] == ["after ends", "shutdown", "lifespan ends"]
    drained(server, 1)


async def test_rule_10_a_client_that_leaves_during_the_stop_holds_up_nobody(where: Where) -> None:
    app = App()
    async with where.serving(app) as server:
        async with where.connected(server) as client:
            await client.send(request("GET /hang_on HTTP/1.1"))
            await app.begun.wait()
            await stopped(server)
        await wait_all_tasks_blocked()
        assert "http.disconnect" in app.seen
        app.go.set()
    drained(server, 1)


async def test_rule_10_an_app_that_fails_during_the_stop_is_answered_for(where: Where) -> None:
    app = App()

    async def fail(receive: Any, send: Any) -> None:
        await app._go_on()
        raise ValueError("no")

    app.fail = fail  # type: ignore[attr-defined]
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /fail HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (500, "close")
        await is_ended(client)
    assert server.detail == "1 drained, 0 cut, 1 failed"


async def test_rule_10_a_client_that_has_its_500_does_not_hold_up_the_stop(
    where: Where, clock: MockClock
) -> None:
    app = App()

    async def fail(receive: Any, send: Any) -> None:
        await app._go_on()
        raise ValueError("no")

    app.fail = fail  # type: ignore[attr-defined]
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /fail HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        assert (await client.read()).status == 500
        await server.ended.wait()  # though the client keeps its side open
        assert trio.current_time() == pytest.approx(0, abs=0.5)


async def test_rule_10_a_client_whose_upload_is_refused_is_not_reset(
    tcp: Where, clock: MockClock
) -> None:
    """Its body is still on its way."""
    app = App()
    head = request("POST /echo HTTP/1.1", "Content-Length: 200kB")
    async with tcp.serving(app) as server, tcp.connected(server) as client:
        await client.send(head[:-2])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(head[-2:])
        assert (await client.read("POST")).status == 400
        for _ in range(2):
            await trio.sleep(0.5)
            await client.send(bytes(100_000))
        await is_ended(client)


# In the accept queue.


@asynccontextmanager
async def serving_one(where: Where, app: App) -> AsyncIterator[Server]:
    """A server with room for one client, who is idle: the next ones wait in the kernel's queue."""
    async with where.serving(app, max_connections=1) as server, where.connected(server) as client:
        await client.ask(request("GET /echo HTTP/1.1"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(is_ended, client)
            yield server
            await server.stop()


async def test_rule_03_a_a_request_in_the_accept_queue_is_answered(where: Where) -> None:
    app = App()
    async with where.serving(app) as server:
        count = 1 if where.kind == "tls" else 50
        clients = []
        for _ in range(count):
            data = b"" if where.kind == "tls" else request("GET /echo HTTP/1.1")
            clients.append(where.client(server.connect_now(data)))
        server.group.stop()  # and up to here the listener has not run at all
        for client in clients:
            if where.kind == "tls":
                await client.send(request("GET /echo HTTP/1.1"))
            await is_last(client, b"")
    drained(server, count)
    assert app.seen.count("echo ends") == count


async def test_rule_03_a_half_a_request_in_the_accept_queue_is_read_whole(tcp: Where) -> None:
    app = App()
    async with tcp.serving(app) as server:
        data = request("POST /echo HTTP/1.1", "Content-Length: 5", body=b"hello")
        async with server.connect_now(data[:30]) as stream:
            client = Client(stream)
            await stopped(server)
            await client.send(data[30:-3])
            await wait_all_tasks_blocked()
            await client.send(data[-3:])
            await is_last(client, b"hello")
    drained(server, 1)


async def test_rule_03_a_a_client_in_the_accept_queue_may_still_send_its_request(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)
    app = App()
    async with serving_one(where, app) as server:
        client = where.client(server.connect_now())
        await stopped(server)
        await client.send(request("GET /echo HTTP/1.1"))
        await is_last(client, b"")
    drained(server, 2)


async def test_rule_03_a_a_silent_client_in_the_accept_queue_is_let_go(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with serving_one(where, app) as server:
        client = Client(server.connect_now())
        began = trio.current_time()
        server.group.stop()
        await is_ended(client)
        await server.ended.wait()
        assert trio.current_time() - began == pytest.approx(0.5)
    drained(server, 2)


async def test_rule_06_who_waits_for_room_is_served_at_the_stop(tcp: Where) -> None:
    app = App()
    async with tcp.serving(app, max_connections=1) as server, tcp.connected(server) as client:
        await client.send(request("GET /work HTTP/1.1"))
        await app.begun.wait()
        queued = [server.connect_now(request("GET /echo HTTP/1.1")) for _ in range(3)]
        await stopped(server)
        app.go.set()
        await is_last(client, b"done ")
        for stream in queued:
            await is_last(Client(stream), b"")
    drained(server, 4)


async def test_rule_03_b_new_clients_are_refused_while_the_old_are_served(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(request("GET /work HTTP/1.1"))
        await app.begun.wait()
        await stopped(server)
        with pytest.raises(OSError):
            await server.connect()
        app.go.set()
        await is_last(client, b"done ")


# TLS.


@pytest.fixture
def tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path) -> Where:
    return Where("tls", contexts, tmp_path)


class HalfShaken:
    """A TLS client in steps: it has sent its ClientHello."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self._stream = stream
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.hello = self._leaving.read()

    async def finish(self, data: bytes) -> bytes:
        """The rest of the handshake, a request, and all that comes until a close_notify."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
            self._arrived.write(await self._stream.receive_some())
        self._tls.write(data)
        await self._stream.send_all(self._leaving.read())
        received = b""
        while True:
            try:
                received += (piece := self._tls.read(65536))
                if not piece:
                    return received
            except ssl.SSLZeroReturnError:
                return received
            except ssl.SSLWantReadError:
                arrived = await self._stream.receive_some()
                assert arrived, f"an end without a close_notify after {received!r}"
                self._arrived.write(arrived)


async def test_rule_05_tls_a_handshake_half_done_at_the_stop_is_finished_and_answered(
    tls: Where, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "FIRST_REQUEST", TIMEOUT)
    app = App()
    async with tls.serving(app) as server, await server.connect() as stream:
        client = HalfShaken(stream, client_context)
        await stream.send_all(client.hello[:50])
        await wait_all_tasks_blocked()
        await stopped(server)
        await stream.send_all(client.hello[50:])
        reply = await client.finish(request("GET /echo HTTP/1.1"))
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nconnection: close\r\n" in reply.lower()
    drained(server, 1)


async def test_rule_05_tls_a_handshake_never_finished_does_not_hold_up_the_stop(
    tls: Where, client_context: ssl.SSLContext, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with tls.serving(app) as server, await server.connect() as stream:
        await stream.send_all(HalfShaken(stream, client_context).hello[:50])
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() - began <= 1
    assert len(lines_of(caplog, "no TLS handshake")) == 1
    drained(server, 1)


# Timeouts, and long responses.


async def test_rule_10_slow_headers_hold_up_a_stop_no_longer_than_their_timeout(
    where: Where, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with where.serving(app, header_timeout=8, grace=math.inf) as server:
        async with where.connected(server) as client:
            await client.send(b"G")
            await wait_all_tasks_blocked()
            await trio.sleep(3)
            server.group.stop()
            for _ in range(4):
                await trio.sleep(1)
                await client.send(b"E")
            response = await client.read()
            assert (response.status, response.headers["connection"]) == (408, "close")
            await is_ended(client)
            assert trio.current_time() == pytest.approx(8)
    drained(server, 1)
    assert len(lines_of(caplog, ": 408 for ")) == 1


async def test_rule_10_an_upload_that_stalls_holds_up_a_stop_no_longer_than_the_idle_timeout(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app, idle_timeout=20, grace=math.inf) as server:
        async with where.connected(server) as client:
            await client.send(request("POST /echo HTTP/1.1", "Content-Length: 10", body=b"hello"))
            await wait_all_tasks_blocked()
            server.group.stop()
            response = await client.read()
            assert (response.status, response.headers["connection"]) == (408, "close")
            await is_ended(client)
            assert trio.current_time() == pytest.approx(20)
    assert server.detail.startswith("1 drained, 0 cut")


async def test_rule_10_a_client_that_takes_nothing_holds_up_a_stop_no_longer_than_the_idle_timeout(
    tcp: Where, clock: MockClock
) -> None:
    app = App()

    async def big(receive: Any, send: Any) -> None:
        await answer(send, bytes(20_000_000))

    app.big = big  # type: ignore[attr-defined]
    async with tcp.serving(app, idle_timeout=20, grace=math.inf) as server:
        async with tcp.connected(server) as client:
            await client.send(request("GET /big HTTP/1.1"))
            await wait_all_tasks_blocked()
            await server.stop()
            assert trio.current_time() == pytest.approx(20)
    assert server.detail == "1 drained, 0 cut"
    assert "big raises ClientDisconnected" in app.seen


async def test_a_long_response_that_asks_whether_it_stops_ends_itself(
    where: Where, clock: MockClock
) -> None:
    app = App()
    async with where.serving(app, grace=math.inf) as server, where.connected(server) as client:
        await client.send(request("GET /ticks HTTP/1.1"))
        await trio.sleep(2.5)
        server.group.stop()
        await is_last(client, b"tick tick tick bye", told=False)
        assert trio.current_time() == pytest.approx(2.5)
    drained(server, 1)


# WebSockets.


class WebSocketClient:
    def __init__(self, client: Client, path: str) -> None:
        self._stream = client.stream
        self._path = path
        self._protocol = WSConnection(ConnectionType.CLIENT)

    async def open(self) -> None:
        await self.send(Handshake(host="localhost", target=self._path))
        assert isinstance(await self.receive(), AcceptConnection)

    async def send(self, event: Event) -> None:
        await self._stream.send_all(self._protocol.send(event))

    async def receive(self) -> Event | None:
        """The next event, or None for a clean end."""
        while True:
            for event in self._protocol.events():
                return event
            if not (data := await self._stream.receive_some()):
                return None
            self._protocol.receive_data(bytes(data))

    async def hears(self, text: str) -> None:
        event = await self.receive()
        assert isinstance(event, TextMessage), event
        assert event.data == text

    async def is_told(self) -> None:
        event = await self.receive()
        assert isinstance(event, CloseConnection), event
        assert (event.code, event.reason) == (1001, "going away")
        await self.send(event.response())
        assert await self.receive() is None
        await trio.aclose_forcefully(self._stream)


async def test_rule_10_a_websocket_that_waits_gets_1001_and_its_app_too(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = WebSocketClient(client, "/chat")
        await websocket.open()
        app.go.set()
        await websocket.send(TextMessage(data="hello"))
        await websocket.hears("hello!")
        await wait_all_tasks_blocked()
        await stopped(server)
        assert app.seen[-2:] == ["1001 going away", "chat ends"]
        await websocket.is_told()
    drained(server, 1)


async def test_rule_10_a_websocket_with_a_message_in_hand_answers_it_first(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = WebSocketClient(client, "/chat")
        await websocket.open()
        await websocket.send(TextMessage(data="one"))
        await websocket.send(TextMessage(data="two"))
        await app.begun.wait()
        await stopped(server)
        assert app.seen[-1] == "chat begins"
        app.go.set()
        await websocket.hears("one!")
        await websocket.is_told()
        await server.ended.wait()
        assert app.seen[2:4] == ["1001 going away", "chat ends"]
    drained(server, 1)


async def test_rule_10_a_websocket_whose_app_only_sends_is_closed(
    where: Where, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = WebSocketClient(client, "/news")
        await websocket.open()
        await websocket.hears("news")
        await trio.sleep(0.5)
        server.group.stop()
        await websocket.is_told()
        await server.ended.wait()
        assert app.seen[2] == "news raises ClientDisconnected"
        assert trio.current_time() == pytest.approx(1)
    drained(server, 1)
    assert not [record for record in caplog.records if record.exc_info]


async def test_rule_10_a_websocket_inside_busy_is_told_when_the_block_ends(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        websocket = WebSocketClient(client, "/busy_news")
        await websocket.open()
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        await websocket.hears("old news")
        await websocket.is_told()
        await server.ended.wait()
        assert app.seen[2:4] == ["1001", "busy_news ends"]
    drained(server, 1)


async def test_rule_09_a_websocket_handshake_in_progress_gets_503(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        await client.send(
            WSConnection(ConnectionType.CLIENT).send(
                Handshake(host="localhost", target="/slow_accept")
            )
        )
        await app.begun.wait()
        await stopped(server)
        app.go.set()
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (503, "close")
        await is_ended(client)
    drained(server, 1)


async def test_rule_09_a_websocket_handshake_half_sent_gets_503(where: Where) -> None:
    app = App()
    async with where.serving(app) as server, where.connected(server) as client:
        data = WSConnection(ConnectionType.CLIENT).send(Handshake(host="localhost", target="/chat"))
        await client.send(data[:-10])
        await wait_all_tasks_blocked()
        await stopped(server)
        await client.send(data[-10:])
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (503, "close")
        await is_ended(client)
    drained(server, 1)
    assert "chat begins" not in app.seen


async def test_rule_09_a_websocket_client_that_does_not_answer_the_close_is_cut_at_the_grace(
    tcp: Where, clock: MockClock
) -> None:
    app = App()
    async with serving_app(app, grace=50) as server, tcp.connected(server) as client:
        websocket = WebSocketClient(client, "/chat")
        await websocket.open()
        await server.stop()
        assert trio.current_time() == pytest.approx(50)
        assert server.detail == "0 drained, 1 cut"
        assert isinstance(await websocket.receive(), CloseConnection)
        assert await websocket.receive() is None


# Cut.


@pytest.fixture(
    params=["the grace ends", "a second stop", "a second signal", "grace 0", "from outside"]
)
def cut(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def cutting(app: App, cut: str, where: Where) -> AsyncIterator[Server]:
    """A server; in the end it is cut."""
    listener = HTTPListener(app, **where.options)
    server = Server(listener, Group(grace=5))  # type: ignore[arg-type]
    server.group.add(listener)
    server.group.add(SignalReceiver())
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            yield server
            if cut == "from outside":
                nursery.cancel_scope.cancel()
            elif cut == "grace 0":
                server.group.stop(grace=0)
            elif cut == "a second signal":
                for _ in range(2):
                    signal.raise_signal(signal.SIGTERM)
                    await wait_all_tasks_blocked()
            else:
                server.group.stop()
                await wait_all_tasks_blocked()
                if cut == "a second stop":
                    server.group.stop(grace=0)
            await server.ended.wait()
    if cut != "from outside":
        assert server.report.actors[0].outcome == "cut"


async def end_of(client: Client) -> tuple[bytes, bool]:
    """What it gets, and whether that ends cleanly."""
    received = b""
    try:
        while data := await client.stream.receive_some():
            received += bytes(data)
    except trio.BrokenResourceError:
        return received, False
    return received, True


async def test_cut_what_is_in_flight_is_cancelled_and_gets_no_byte(
    where: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, where) as server:
            client = await stack.enter_async_context(where.connected(server))
            await client.send(request("GET /work HTTP/1.1"))
            await app.begun.wait()
        assert (await end_of(client))[0] == b""
        if cut != "from outside":
            assert server.detail == "0 drained, 1 cut"
        assert sorted(app.seen[2:]) == ["lifespan is cancelled", "work is cancelled"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_cut_half_a_response_does_not_look_whole(
    where: Where, cut: str, version: str, clock: MockClock
) -> None:
    """The end of an HTTP/1.0 response may be that of its connection: there it must not be a clean
    one.
    """
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, where) as server:
            client = await stack.enter_async_context(where.connected(server))
            await client.send(request(f"GET /half HTTP/{version}"))
            await app.begun.wait()
        received, clean = await end_of(client)
        if version == "1.1" or where.kind == "unix":
            assert not received.endswith(b"0\r\n\r\n")
        if version == "1.0" and where.kind != "unix":
            assert not clean


async def test_cut_an_app_that_works_on_after_its_response_is_cancelled(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, tcp) as server:
            client = await stack.enter_async_context(tcp.connected(server))
            assert (await client.ask(request("GET /after HTTP/1.1"))).body == b"soon"
            await app.begun.wait()
        assert "after is cancelled" in app.seen


async def test_cut_a_websocket_with_a_message_in_hand_is_cancelled(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    app = App()
    async with contextlib.AsyncExitStack() as stack:
        async with cutting(app, cut, tcp) as server:
            client = await stack.enter_async_context(tcp.connected(server))
            websocket = WebSocketClient(client, "/chat")
            await websocket.open()
            await websocket.send(TextMessage(data="hello"))
            await app.begun.wait()
        assert "chat is cancelled" in app.seen


async def test_cut_a_lifespan_that_tells_of_it_has_not_failed(
    tcp: Where, cut: str, clock: MockClock
) -> None:
    """As frameworks do: whatever ends their lifespan, they say that it failed."""
    app = App()

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
            await trio.sleep_forever()
        except trio.Cancelled:
            await send({"type": "lifespan.shutdown.failed", "message": "Traceback: Cancelled"})
            raise

    app.lifespan = lifespan  # type: ignore[method-assign]
    async with cutting(app, cut, tcp):
        pass
    assert app.seen[-1] == "lifespan is cancelled"


async def test_cut_a_shutdown_that_hangs_is_cancelled(clock: MockClock) -> None:
    app = App()
    ended = []

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    app.lifespan = lifespan  # type: ignore[method-assign]
    async with serving_app(app, grace=5) as server:
        await server.stop()
    assert ended == [pytest.approx(5)]
    assert server.report.actors[0].outcome == "cut"
    assert server.detail == "0 drained, 0 cut"


# The app's lifespan fails while it serves: that is a stop of its actor.


class Failing(App):
    """Its lifespan fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = trio.Event()

    async def lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await self.fail.wait()
        raise ValueError("the pool is gone")


@pytest.fixture(params=["the listener", "a function"])
def actor(request: pytest.FixtureRequest) -> Callable[[HTTPListener], Any]:
    """The listener is the actor, or a part of one."""

    def a_function(listener: HTTPListener) -> Any:
        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            await listener.execute(task_status=task_status)

        return serve

    return a_function if request.param == "a function" else lambda listener: listener


@asynccontextmanager
async def failing(group: Group) -> AsyncIterator[list[BaseException]]:
    """A group that runs, and then fails: with what, is known afterwards."""
    errors: list[BaseException] = []

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        with pytest.raises(GroupFailed) as caught:
            await group.run(task_status=task_status)
        errors.extend(caught.value.exceptions)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield errors


async def test_a_lifespan_that_fails_stops_what_waits_for_the_stop(
    actor: Callable[[HTTPListener], Any], clock: MockClock
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    member = group.add(actor(listener))
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        client = Client(one)
        await client.send(request("GET /ticks HTTP/1.1"))
        await app.begun.wait()
        app.fail.set()
        assert (await client.read()).body == b"tick bye"
        await client.read_to_end()
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]
    assert member.outcome == "failed"
    assert trio.current_time() == pytest.approx(0, abs=0.5)


async def test_a_lifespan_that_fails_waits_for_a_client_no_longer_than_the_grace(
    actor: Callable[[HTTPListener], Any], clock: MockClock
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    group.add(actor(listener))
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        client = Client(one)
        await client.send(request("GET /work HTTP/1.1"))
        await app.begun.wait()
        app.fail.set()
        await trio.sleep(10)
        assert "work is cancelled" in app.seen
        assert listener.status == "0 drained, 1 cut"
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]


async def test_a_lifespan_that_fails_closes_a_websocket_whose_client_does_not_answer(
    clock: MockClock,
) -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(grace=5)
    member = group.add(listener)
    async with failing(group) as errors, await trio.open_tcp_stream(*listener.addresses[0]) as one:
        websocket = WebSocketClient(Client(one), "/chat")
        await websocket.open()
        app.fail.set()
        event = await websocket.receive()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1001, "going away")
        await member.wait_stopped()
        assert trio.current_time() == pytest.approx(5, abs=0.5)
        assert listener.status == "0 drained, 1 cut"
        assert app.seen[-1] == "chat ends"
    assert list(map(repr, errors)) == ["ValueError('the pool is gone')"]


async def test_in_plain_trio_a_lifespan_that_fails_interrupts_the_listener() -> None:
    app = Failing()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        with pytest.raises(ValueError, match="the pool is gone"):
            await listener.execute(task_status=task_status)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            async with await trio.open_tcp_stream(*address) as stream:
                client = Client(stream)
                await client.send(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                app.fail.set()
                await wait_all_tasks_blocked()
                app.go.set()
                await is_last(client, b"done ")
    assert listener.status == "1 drained, 0 cut"


# Where the listener runs.


async def works_like_any_other(
    server_address: Any, app: App, stop: Callable[[], object], ended: trio.Event
) -> None:
    """One is idle, one in flight, one in the accept queue, one a WebSocket."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect() -> Client:
            stream = await trio.open_tcp_stream(*server_address[:2])
            return Client(await stack.enter_async_context(stream))

        idle = await connect()
        await idle.ask(request("GET /echo HTTP/1.1"))
        at_work = await connect()
        await at_work.send(request("POST /work HTTP/1.1", "Content-Length: 4", body=b"bo"))
        half = await connect()
        await half.send(request("GET /half HTTP/1.1"))
        websocket = WebSocketClient(await connect(), "/chat")
        await websocket.open()
        await wait_all_tasks_blocked()
        queued = socket.create_connection(server_address[:2])
        queued.sendall(request("GET /echo HTTP/1.1"))
        queued.setblocking(False)
        in_queue = Client(trio.SocketStream(trio.socket.from_stdlib_socket(queued)))
        await stack.enter_async_context(in_queue.stream)

        stop()
        await is_ended(idle)
        await websocket.is_told()
        assert (
            await in_queue.read()
        ).status == 200  # it may still have been accepted like any other
        await is_ended(in_queue)
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        assert "shutdown" not in app.seen
        await at_work.send(b"dy")
        app.go.set()
        await is_last(at_work, b"done body")
        await is_last(half, b"first second", told=False)
        await ended.wait()
    assert app.seen[-2:] == ["shutdown", "lifespan ends"]
    assert not [what for what in app.seen if "cancelled" in what]


async def test_member_stop_stops_the_listener_alone(tcp: Where) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group()
    member = group.add(listener)
    other = group.add(trio.sleep_forever, name="other")
    stopped = trio.Event()

    async def wait_stopped() -> None:
        await member.wait_stopped()
        stopped.set()

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(group.run)
            nursery.start_soon(wait_stopped)
            await works_like_any_other(listener.addresses[0], app, member.stop, stopped)
            assert other.state.name == "RUNNING"
            group.stop()
    assert member.outcome == "returned"
    assert listener.status == "5 drained, 0 cut"


@pytest.mark.parametrize("who_stops", ["the inner group", "the outer group"])
async def test_rule_15_in_a_group_within_a_group(who_stops: str) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    inner, outer = Group(name="inner"), Group(name="outer")
    inner.add(listener)
    outer.add(inner)
    server = Server(listener, outer)  # type: ignore[arg-type]
    stop = inner.stop if who_stops == "the inner group" else outer.stop
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await works_like_any_other(listener.addresses[0], app, stop, server.ended)
    assert listener.status == "5 drained, 0 cut"


async def test_in_a_function_actor_what_is_in_flight_is_answered() -> None:
    """Such an actor has no interrupt: its stop is a soft cancel, which ends only what is idle."""
    app = App()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    server = Server(listener, Group())  # type: ignore[arg-type]
    server.group.add(serve)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            async with (
                await trio.open_tcp_stream(*listener.addresses[0]) as idle,
                await trio.open_tcp_stream(*listener.addresses[0]) as stream,
            ):
                await Client(idle).ask(request("GET /echo HTTP/1.1"))
                at_work = Client(stream)
                await at_work.send(request("POST /work HTTP/1.1", "Content-Length: 4", body=b"bo"))
                await wait_all_tasks_blocked()
                server.group.stop()
                assert await idle.receive_some() == b""
                await wait_all_tasks_blocked()
                assert "shutdown" not in app.seen
                await at_work.send(b"dy")
                app.go.set()
                await is_last(at_work, b"done body", told=False)
            await server.ended.wait()
    assert app.seen[-2:] == ["shutdown", "lifespan ends"]


async def test_in_a_function_actor_it_is_cut_at_the_grace(clock: MockClock) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)

    server = Server(listener, Group(grace=5))  # type: ignore[arg-type]
    server.group.add(serve)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            async with await trio.open_tcp_stream(*listener.addresses[0]) as stream:
                await stream.send_all(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                await server.stop()
                assert trio.current_time() == pytest.approx(5)
    assert server.report.actors[0].outcome == "cut"
    assert listener.status == "0 drained, 1 cut"


async def test_in_plain_trio_it_drains_when_it_is_interrupted() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    ended = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await listener.execute(task_status=task_status)
        ended.set()

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            await works_like_any_other(
                address, app, lambda: listener.interrupt(Cause(reason="enough")), ended
            )
    assert listener.status == "5 drained, 0 cut"


async def test_in_plain_trio_a_cancel_cuts_it() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                nursery.cancel_scope.cancel()
    assert sorted(app.seen[2:]) == ["lifespan is cancelled", "work is cancelled"]
    assert listener.status == "0 drained, 1 cut"


async def test_interrupted_twice_is_interrupted_once() -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(listener.execute)
            async with await trio.open_tcp_stream(*address) as stream:
                client = Client(stream)
                await client.send(request("GET /work HTTP/1.1"))
                await app.begun.wait()
                for _ in range(3):
                    listener.interrupt(Cause())
                    await wait_all_tasks_blocked()
                app.go.set()
                await is_last(client, b"done ")
    assert app.seen.count("shutdown") == 1


async def test_a_stop_while_the_app_starts_up_ends_it_at_once(clock: MockClock) -> None:
    seen = []
    starting = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        starting.set()
        try:
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    group = Group()
    group.add(HTTPListener(app, 0, host=HOST))
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            await starting.wait()
            group.stop()
    assert seen == ["ended"]
    assert trio.current_time() == 0


# Lame duck.


@pytest.mark.parametrize("whose", ["its own group's", "the outer group's"])
async def test_rule_10_while_its_group_is_a_lame_duck_responses_end_their_connections(
    whose: str, clock: MockClock
) -> None:
    app = App()
    listener = HTTPListener(app, 0, host=HOST)
    group = Group(lame_duck=10)
    if whose == "its own group's":
        group.add(listener)
    else:
        inner = Group(name="inner")
        inner.add(listener)
        group.add(inner)
    server = Server(listener, group)  # type: ignore[arg-type]
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
            await nursery.start(server.run)
            clients = []
            for _ in range(3):
                stream = await stack.enter_async_context(await server.connect())
                clients.append(Client(stream))
                response = await clients[-1].ask(request("GET /echo HTTP/1.1"))
                assert "connection" not in response.headers
            idle, asks, at_work = clients
            await at_work.send(request("GET /work HTTP/1.1"))
            await app.begun.wait()
            group.stop()
            await trio.sleep(5)
            assert not group.ready
            app.go.set()
            await is_last(at_work, b"done ")
            await asks.send(request("GET /echo HTTP/1.1"))
            await is_last(asks, b"")
            new = Client(await stack.enter_async_context(await server.connect()))
            await new.send(request("GET /echo HTTP/1.1"))
            await is_last(new, b"")
            assert "shutdown" not in app.seen
            await wait_all_tasks_blocked()
            assert listener.status == "1 connections, 0 busy"  # the idle one
            await is_ended(idle)
            assert trio.current_time() == pytest.approx(10)
            await server.ended.wait()
    assert listener.status == "1 drained, 0 cut"


# What a slow client has before it.


async def test_rule_05_a_response_still_in_the_kernel_is_not_lost_with_the_stop(
    tcp: Where, clock: MockClock
) -> None:
    """The client's window is full: the close lingers, and it gets what is left."""
    app = App()
    async with tcp.serving(app) as server, tcp.connected(server) as client:
        sender = socket.socket(fileno=os.dup(client.stream.socket.fileno()))
        with sender:
            await client.send(request("POST /ignore HTTP/1.1", "Content-Length: 100000000"))
            await app.begun.wait()
            clog(sender)  # it has sent all that it can, and reads nothing
            await stopped(server)
            app.go.set()
            await wait_all_tasks_blocked()
        await is_last(client, b"ignored")
    drained(server, 1)
