"""A stop: idle connections, requests in flight, clients in the accept queue."""

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run._listeners import _connection

from ... import TIMEOUT
from ..http_serving import Client, request
from ..serving import Server
from .helpers import App, Where, drained, is_ended, is_last, stopped

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
