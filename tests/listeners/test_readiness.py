"""Who may have input to read: the rules at the head of _readiness, and that nobody else suffers.

The rest of the tests of listeners says that connections work as before; here is what edges could
break.
"""

import array
import contextlib
import os
import queue
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_run import TCPListener, UnixListener
from trio_run._inside import Inside
from trio_run._listeners import _readiness
from trio_run._listeners._connection import Connection
from trio_run._listeners._readiness import Readiness
from trio_run.testing import connect, read_exactly, read_to_end, running

from .http_serving import Client, answer, only_http, request, serving_app
from .serving import HOST, ask, echo, listening_at, open_descriptors, serving

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="it is epoll's on Linux alone")


async def test_input_that_comes_while_nobody_reads_is_read_later() -> None:
    go = trio.Event()

    async def handler(stream: Any) -> None:
        await stream.send_all(await stream.receive_some())
        await go.wait()
        await stream.send_all(await stream.receive_some())

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"first") == b"first"
        await client.send_all(b"second")
        await wait_all_tasks_blocked()
        go.set()
        assert await read_to_end(client) == b"second"


@pytest.mark.parametrize("size", [1, 4, 5, 65536])
async def test_what_comes_with_the_end_of_the_input_is_read_and_then_the_end(size: int) -> None:
    got: list[bytes] = []

    async def handler(stream: Any) -> None:
        while chunk := await stream.receive_some(size):
            got.append(chunk)

    async with serving(handler) as server:
        for rest in (b"", b"1234", b"12345"):
            got.clear()
            async with await server.connect() as client:
                await wait_all_tasks_blocked()  # its reader waits
                await client.send_all(b"hello" + rest)
                await client.send_eof()
                assert await read_to_end(client) == b""
            assert b"".join(got) == b"hello" + rest


async def test_an_end_that_comes_after_a_short_read_is_read() -> None:
    async with serving(echo) as server, await server.connect() as client:
        for _ in range(3):
            assert await ask(client, b"hello") == b"hello"
            await wait_all_tasks_blocked()
        await client.send_eof()
        assert await read_to_end(client) == b""


async def test_a_read_of_a_unix_socket_that_stops_at_a_descriptor_is_not_the_last(
    tmp_path: Any,
) -> None:
    async with serving(echo, kind=UnixListener, path=tmp_path / "socket") as server:
        async with await server.connect() as client:
            await wait_all_tasks_blocked()
            with socket.socket(socket.AF_UNIX, fileno=os.dup(client.socket.fileno())) as same:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
                same.sendmsg([b"one"], rights)
                same.send(b"two")
            assert await read_exactly(client, 6) == b"onetwo"


async def test_a_read_that_stops_at_urgent_data_is_not_the_last() -> None:
    async with serving(echo) as server, await server.connect() as client:
        await wait_all_tasks_blocked()
        with socket.socket(fileno=os.dup(client.socket.fileno())) as same:
            same.send(b"one")
            same.send(b"!", socket.MSG_OOB)
            same.send(b"two")
        assert await read_exactly(client, 6) == b"onetwo"


async def test_an_event_for_a_predecessor_with_the_same_number_does_no_harm() -> None:
    readiness = Readiness()
    first, first_client = socket.socketpair()
    second, second_client = socket.socketpair()
    with first_client, second_client:
        async with readiness.running():
            number = first.fileno()
            readiness.watch(first)
            with first.dup():  # with this it stays in the epoll
                readiness.forget(first)
                first.close()
                os.dup2(second.fileno(), number)
                second.close()
                with socket.socket(fileno=number) as successor:
                    successor.setblocking(False)
                    watch = readiness.watch(successor)
                    first_client.send(b"to nobody")
                    await watch.wait()  # the event that is none
                    with pytest.raises(BlockingIOError):
                        successor.recv(10)
                    watch.found_nothing()
                    first_client.close()
                    await watch.wait()
                    watch.found_nothing()
                    second_client.send(b"hello")
                    await watch.wait()
                    assert successor.recv(10) == b"hello"
                    readiness.forget(successor)


async def test_to_forget_a_socket_that_was_closed_behind_our_back_forgets_no_other() -> None:
    readiness = Readiness()
    ours, other = socket.socketpair()
    async with readiness.running():
        with ours, other:
            watch = readiness.watch(ours)
            watch.found_nothing()
            closed = socket.socket()
            closed.close()
            readiness.forget(closed)
            other.send(b"hello")
            await watch.wait()
            assert ours.recv(10) == b"hello"
            readiness.forget(ours)


async def test_a_look_takes_all_events_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readiness, "_AT_ONCE", 2)
    readiness = Readiness()
    async with readiness.running():
        pairs = [socket.socketpair() for _ in range(5)]
        watches = [readiness.watch(ours) for ours, _ in pairs]
        for watch, (_, other) in zip(watches, pairs, strict=True):
            watch.found_nothing()
            other.send(b"hello")
        assert not any(watch.is_surely_empty() for watch in watches)
        for watch, pair in zip(watches, pairs, strict=True):
            watch.forget()
            for end in pair:
                end.close()


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async def handler(stream: Any) -> None:
        for _ in range(3):
            with trio.move_on_after(0):
                await stream.receive_some()
        await echo(stream)

    async with serving(handler) as server, await server.connect() as client:
        await wait_all_tasks_blocked()
        assert await ask(client, b"hello") == b"hello"


async def test_one_task_at_a_time_may_read() -> None:
    raised: list[BaseException] = []

    async def handler(stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await wait_all_tasks_blocked()
            try:
                await stream.receive_some()
            except trio.BusyResourceError as exc:
                raised.append(exc)

    async with serving(handler) as server, await server.connect() as client:
        await wait_all_tasks_blocked()
        await client.send_all(b"hello")
        assert await read_to_end(client) == b""
    assert len(raised) == 1


@pytest.mark.parametrize("when", ["before it reads", "while it reads"])
async def test_a_socket_that_is_closed_behind_our_back_is_noticed(when: str) -> None:
    raised: list[BaseException] = []

    async def handler(stream: Any) -> None:
        async def read() -> None:
            try:
                await stream.receive_some()
            except (trio.ClosedResourceError, trio.BrokenResourceError) as exc:
                raised.append(exc)

        if when == "before it reads":
            stream.socket.getsockname()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            stream.socket.close()

    async with serving(handler) as server, await server.connect() as client:
        with contextlib.suppress(trio.BrokenResourceError):
            await read_to_end(client)
    assert len(raised) == 1


async def test_a_handler_that_has_got_hold_of_its_socket_goes_on_reading_and_drains() -> None:
    async def handler(stream: Any) -> None:
        stream.socket.getsockname()
        await echo(stream)

    async with serving(handler) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
        server.group.stop()
        assert await read_to_end(client) == b""
    assert server.detail == "1 drained, 0 cut"


def no_epoll(_monkeypatch: pytest.MonkeyPatch) -> None:
    _monkeypatch.delattr(select, "epoll")


def no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(select, "epoll", fail)


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def register(self, *_: object) -> None:
            raise OSError("no space left on device")

        def __init__(self) -> None:
            self._epoll = original()
            self.fileno = self._epoll.fileno
            self.close = self._epoll.close
            self.poll = self._epoll.poll

    original = select.epoll
    monkeypatch.setattr(select, "epoll", Full)


@pytest.mark.parametrize("fail", [no_epoll, no_descriptor, no_room])
async def test_without_an_epoll_it_works_as_well(
    fail: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch)
    async with serving(echo) as server:
        async with await server.connect() as client, await server.connect() as idle:
            for _ in range(3):
                assert await ask(client, b"hello") == b"hello"
            server.group.stop()
            assert await read_to_end(client) == b""
            assert await read_to_end(idle) == b""
    assert server.detail == "2 drained, 0 cut"


async def test_without_an_epoll_an_app_that_goes_on_does_not_hold_up_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_epoll(monkeypatch)
    go = trio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/slow":
            await go.wait()

    async with serving_app(app) as server, await server.connect() as stream:
        client = Client(stream)
        for path in ("/slow", "/quick", "/slow", "/quick"):
            assert (await client.ask(request(f"GET {path} HTTP/1.1"))).body == path.encode()
        go.set()


async def test_nothing_is_left_of_it() -> None:
    before = open_descriptors()
    async with serving(echo) as server, await server.connect() as client:
        assert await ask(client, b"hello") == b"hello"
    assert open_descriptors() == before


async def test_it_serves_whoever_is_cancelled_until_the_last_handler_has_ended() -> None:
    """A handler that is cut may still need its client, in a shielded block of its own."""
    got: list[bytes] = []

    async def handler(stream: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await stream.send_all(b"last words?")
                got.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        listener = TCPListener(handler, 0, host=HOST)
        await nursery.start(listener.execute)
        async with await connect(listener) as client:
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await read_exactly(client, 11) == b"last words?"
                await client.send_all(b"yes")
                await trio.testing.wait_all_tasks_blocked()
    assert got == [b"yes"]


def test_it_works_in_guest_mode() -> None:
    """The loop of a host turns, and Trio waits for descriptors in a thread of its own."""
    turns: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    ended: list[Any] = []
    heard: list[bytes] = []

    async def main() -> None:
        listener = TCPListener(echo, 0, host=HOST)
        async with running(listener, grace=5):
            async with await connect(listener) as client:
                heard.append(await ask(client, b"one"))
                heard.append(await ask(client, b"two"))

    trio.lowlevel.start_guest_run(
        main, run_sync_soon_threadsafe=turns.put, done_callback=ended.append
    )
    assert threading.current_thread() is threading.main_thread()
    while not ended:
        turns.get(timeout=30)()
    ended[0].unwrap()
    assert heard == [b"one", b"two"]


# Fairness.


async def test_one_who_floods_does_not_keep_the_others_waiting() -> None:
    """While every polite client is answered once, the flood is read no more often than it has
    turns: a few for each batch of the scheduler.
    """
    floods = 0

    async def handler(stream: Any) -> None:
        nonlocal floods
        async for chunk in stream:
            if chunk.startswith(b"x"):
                floods += 1
                await stream.send_all(b"x")
            else:
                await stream.send_all(chunk)

    async def flood(client: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await client.send_all(b"x" * 2**20)

    async def swallow(client: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await client.receive_some():
                pass

    polite = 200
    async with serving(handler) as server, trio.open_nursery() as nursery:
        flooder = await server.connect()
        nursery.start_soon(flood, flooder)
        nursery.start_soon(swallow, flooder)
        clients = [await server.connect() for _ in range(polite)]
        for client in clients:
            assert await ask(client, b"hello") == b"hello"
        floods = 0
        async with trio.open_nursery() as asking:
            for client in clients:
                asking.start_soon(ask, client, b"hello")
        assert floods < 50
        for client in (flooder, *clients):
            await trio.aclose_forcefully(client)
        nursery.cancel_scope.cancel()


async def test_one_who_only_sends_lets_the_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def handler(stream: Any) -> None:
        await stream.receive_some()
        before = turns
        for _ in range(100):
            await stream.send_all(b"x")
        assert turns - before >= 98  # the first need not: its task has just waited

    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with await server.connect() as client:
            await client.send_all(b"go")
            assert await read_to_end(client) == b"x" * 100
        nursery.cancel_scope.cancel()
    assert "failed" not in server.detail


@pytest.mark.parametrize("how", ["nothing", "input", "its end", "a reset"])
async def test_a_look_at_what_may_be_there_does_not_wait(how: str) -> None:
    with listening_at() as listening:
        listening.listen()
        client = socket.create_connection(listening.getsockname())
        accepted, peer = listening.accept()
    accepted.setblocking(False)
    connection = Connection(accepted, peer, Inside())
    if how == "input":
        client.send(b"hello")
    elif how == "its end":
        client.shutdown(socket.SHUT_WR)
    elif how == "a reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    await trio.lowlevel.wait_writable(accepted)
    if how != "nothing":
        await trio.lowlevel.wait_readable(accepted)
    assert connection.has_input() is (how != "nothing")
    assert connection.hung_up is (how in ("its end", "a reset"))
    client.close()
    await connection.aclose()


async def test_what_wakes_a_task_is_an_outcome_that_may_be_used_again_and_again() -> None:
    def sends() -> Any:
        seen.append((yield))
        yield "sent"

    async def asends() -> Any:
        seen.append((yield))
        yield "sent"

    seen: list[object] = []
    for _ in range(2):
        next(gen := sends())
        assert _readiness.WOKEN.send(gen) == "sent"
        await anext(agen := asends())
        assert await _readiness.WOKEN.asend(agen) == "sent"
        await agen.aclose()
        assert outcome.capture(_readiness.WOKEN.unwrap) == outcome.Value(None)
    assert seen == [None] * 4
