"""Listeners under load: stopped at a random moment, and what their clients then get, in real
processes.

Three loads: clients in a request-reply loop, a burst of connects, and clients that send without
pause. For the last two the same is done to a server of plain Trio, which stops in the usual way:
that shows that the load is one.

What is random comes from a seed, which is shown when a test fails. Set TEST_LOAD_SEED to it to have
the same again. TEST_LOAD_ROUNDS says how many times a server in a request-reply loop is stopped:
each time is another moment for each of 200 clients.
"""

import contextlib
import inspect
import os
import random
import signal
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
import trustme
import wsproto
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, CloseConnection, Message, Request

from trio_run.testing import Program, connect, open_program, read_to_end

from .. import TIMEOUT
from ..programs import python
from .serving import (
    HOST,
    connected_to,
    echo,
    serving,
)

CLIENTS = 200
ROUNDS = int(os.environ.get("TEST_LOAD_ROUNDS", "15"))
ROUNDS_OF = {"tcp": ROUNDS, "unix": ROUNDS, "websocket": ROUNDS, "tls": max(2, ROUNDS // 3)}
KINDS = list(ROUNDS_OF)
BURST = {"tcp": 900, "unix": 900, "websocket": 900, "tls": 600}
SIGNALLED_AFTER = 100, 300  # of them
BURST_ROUNDS = {"tcp": 10, "unix": 10, "websocket": 10, "tls": 2}
PIPELINING = 20
PIPELINING_ROUNDS = 5
SEED = int(os.environ.get("TEST_LOAD_SEED", random.randrange(2**32)))


def reply_to(request: str) -> bytes:
    """A request is the client's number, how many it has sent before, and filling; its reply is up
    to 20 kB.
    """
    client, number, *_ = request.split()
    return f"{client} {number};".encode() * (1 + int(number) % 8 * 300) + b"\n"


# It imports once, and then serves each round in a process of its own: a fork. A handler counts the
# requests that it has begun in a file that is mapped into memory. Descriptors are counted before
# and after; whatever is left to the garbage collector is an error said on stderr.
SERVER = """
import mmap, os, signal, socket, ssl, struct, sys
from contextlib import ExitStack

import trio, trio_websocket
from trio_run._listeners import _connection
from trio_run import Group, TCPListener, UnixListener, WebSocketListener, busy, run

library, kind, rounds, clients, directory = sys.argv[1:]

async def begin(request):
    client = int(request.split()[0])
    count, = struct.unpack_from("i", begun, client * 4)
    struct.pack_into("i", begun, client * 4, count + 1)
    await trio.sleep(0.001 * (client % 3))
    return reply_to(request)

async def answer(stream):
    received = bytearray()
    while True:
        while b"\\n" not in received:
            chunk = await stream.receive_some()
            if not chunk:
                return
            received += chunk
        request, _, received = received.partition(b"\\n")
        with busy():
            reply = await begin(request.decode())
            await stream.send_all(reply[:-1])
            await trio.lowlevel.checkpoint()
            await stream.send_all(reply[-1:])
        if stopped.is_set():
            return

async def answer_websocket(request):
    websocket = await request.accept()
    while True:
        request = await websocket.get_message()
        with busy():
            await websocket.send_message(await begin(request))
        if stopped.is_set():
            return

handler = answer_websocket if kind == "websocket" else answer
context = None
if kind == "tls":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{directory}/tls.pem")

# The clients of these tests are many, on the same machine, and none is silent: wait for them.
_connection.FIRST_REQUEST = 8

def tell(address):
    print(f"round {number}: serves at {address} as {os.getpid()}", flush=True)

def serve(path):
    if kind == "unix":
        listener = UnixListener(handler, path)
    elif kind == "websocket":
        listener = WebSocketListener(handler, 0, host="127.0.0.1")
    else:
        listener = TCPListener(handler, 0, host="127.0.0.1", ssl_context=context)

    async def announce():
        address = listener.addresses[0]
        tell(address if kind == "unix" else address[1])

    group = Group(grace=30)
    group.add(announce, needs=[group.add(listener)], on_return="ignore")
    return run(group)

async def serve_with_trio(path):
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as handlers, trio.open_nursery() as acceptor:
            if kind == "unix":
                bound = trio.socket.socket(socket.AF_UNIX)
                await bound.bind(path)
                bound.listen(4096)
                listeners = [trio.SocketListener(bound)]
            else:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            tell(path if kind == "unix" else listeners[0].socket.getsockname()[1])
            if kind == "tls":
                listeners = [trio.SSLListener(each, context) for each in listeners]

            async def logged(stream):
                try:
                    await handler(stream)
                except (trio.BrokenResourceError, trio_websocket.ConnectionClosed) as exc:
                    print("broken:", exc, flush=True)

            if kind == "websocket":
                acceptor.start_soon(trio_websocket.WebSocketServer(logged, listeners,
                    handler_nursery=handlers).run)
            else:
                async def serve_listeners():
                    await trio.serve_listeners(logged, listeners, handler_nursery=handlers)
                acceptor.start_soon(serve_listeners)
            async for _ in signals:
                break
            stopped.set()
            acceptor.cancel_scope.cancel()  # which closes its listening sockets
    return 0

for number in range(int(rounds)):
    child = os.fork()
    if child == 0:
        break
    _, status = os.waitpid(child, 0)
    print(f"round {number}: exited {os.waitstatus_to_exitcode(status)}", flush=True)
else:
    sys.exit()

signal.alarm(60)  # it does not outlive a test that failed
before = len(os.listdir("/proc/self/fd"))
stopped = trio.Event()
with open(f"{directory}/begun{number}", "w+b") as file:
    file.truncate(4 * int(clients))
    begun = mmap.mmap(file.fileno(), 0)
path = f"{directory}/socket{number}"
code = serve(path) if library == "trio_run" else trio.run(serve_with_trio, path)
begun.close()
after = len(os.listdir("/proc/self/fd"))
print(f"round {number}: descriptors {before} {after}", flush=True)
sys.exit(code)
"""


class Wire(Protocol):
    """How a client talks. A whole reply, or less of one at the end of the stream; an OSError if it
    is a reset.
    """

    async def send(self, requests: list[str]) -> None: ...
    async def receive(self, size: int) -> bytes: ...


class StreamWire:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send(self, requests: list[str]) -> None:
        await self._stream.send_all("".join(f"{request}\n" for request in requests).encode())

    async def receive(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size and (
            chunk := await self._stream.receive_some(size - len(received))
        ):
            received += chunk
        return bytes(received)


class WebSocketWire:
    """One that is not trio-websocket.

    Its end is clean if there was a Close 1001, and then the end of the stream.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._events: deque[Any] = deque()
        self._ended = False
        self._sending = trio.Lock()

    async def shake_hands(self) -> None:
        await self._stream.send_all(self._protocol.send(Request(host=HOST, target="/")))
        assert isinstance(await self._event(), AcceptConnection)

    async def send(self, requests: list[str]) -> None:
        async with self._sending:
            if self._protocol.state is not ConnectionState.OPEN:
                raise trio.BrokenResourceError("it is closed")
            frames = [self._protocol.send(Message(data=request)) for request in requests]
            await self._stream.send_all(b"".join(frames))

    async def receive(self, size: int) -> bytes:
        received = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, CloseConnection):
                assert event.code == 1001
                async with self._sending:
                    await self._stream.send_all(self._protocol.send(event.response()))
                assert await self._event() is None
                return bytes(received)
            assert isinstance(event, Message), f"{event} after {received!r}"
            received += event.data
            if event.message_finished:
                assert len(received) == size
                return bytes(received)

    async def _event(self) -> Any:
        while not self._events and not self._ended:
            chunk = await self._stream.receive_some()
            self._ended = not chunk
            if chunk:
                self._protocol.receive_data(bytes(chunk))
                self._events.extend(self._protocol.events())
        return self._events.popleft() if self._events else None


class Client:
    """Numbers its requests, and compares each reply with what it should be."""

    def __init__(self, number: int, kind: str, address: Any, context: ssl.SSLContext) -> None:
        self.number = number
        self.sent = self.replied = 0  # requests
        self.part = b""  # of a reply
        self.ended = "not at all"
        self.first_reply = trio.Event()
        self._kind = kind
        self._address = address
        self._context = context

    async def ask_without_end(self) -> None:
        """Send a request, wait for its reply, and so on."""
        async with self._connected() as wire:
            while not self.part and self.ended == "not at all":
                # It may be closed: what is read then tells whether that was a clean end.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._send(wire, 1)
                await self._receive(wire)

    async def pipeline(self) -> None:
        """Send requests without pause, and read the replies at the same time."""

        async def send() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await self._send(wire, 50, "." * 2000)

        async with self._connected() as wire, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while self.ended == "not at all":
                    await self._receive(wire)
            except trio.BrokenResourceError as exc:
                self._broke(exc)
            nursery.cancel_scope.cancel()

    def _broke(self, exc: trio.BrokenResourceError) -> None:
        self.ended = f"reset: {exc.__cause__ or exc}"

    async def _send(self, wire: Wire, count: int, filling: str = "") -> None:
        requests = [f"{self.number} {self.sent + index} {filling}" for index in range(count)]
        self.sent += count
        await wire.send(requests)

    async def _receive(self, wire: Wire) -> None:
        expected = reply_to(f"{self.number} {self.replied}")
        self.part = await wire.receive(len(expected))
        if self.part == expected:
            self.replied += 1
            self.part = b""
            self.first_reply.set()
        else:
            self.ended = "clean"

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Wire]:
        where = self._address if self._kind == "unix" else (HOST, int(self._address))
        context = self._context if self._kind == "tls" else None
        stream = await connect(where, ssl_context=context)
        try:
            if self._kind == "websocket":
                wire = WebSocketWire(stream)
                await wire.shake_hands()
                yield wire
            else:
                yield StreamWire(stream)
        except trio.BrokenResourceError as exc:
            self._broke(exc)
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def rounds_of(
    kind: str, rounds: int, clients: int, directory: Path, library: str = "trio_run"
) -> AsyncIterator[Program]:
    """The server, for so many rounds. In the end: there was no warning, and ours has cut nobody."""
    source = inspect.getsource(reply_to) + SERVER
    arguments = [library, kind, str(rounds), str(clients), str(directory)]
    async with open_program(python("-W", "error", "-c", source, *arguments)) as program:
        yield program
        assert await program.exit_code() == 0
    for sign in ("Warning", "Error", "Traceback", "handler failed"):
        assert sign not in program.output, program.output
    if library == "trio_run":
        assert program.output.count(" drained, 0 cut") == rounds


async def started(program: Program, number: int) -> tuple[str, int]:
    """Where it serves, and as which process."""
    *_, address, _, pid = (await program.line_with(f"round {number}: serves")).split()
    return address, int(pid)


async def ended(program: Program, number: int, directory: Path) -> list[int]:
    """See that it has ended well. How many requests the handlers began, for each client."""
    assert (await program.line_with(f"round {number}: exited")).endswith(" 0"), program.output
    *_, before, after = (await program.line_with(f"round {number}: descriptors")).split()
    assert before == after
    begun = (directory / f"begun{number}").read_bytes()
    return [client for (client,) in struct.iter_unpack("i", begun)]


def seeded(test: str) -> random.Random:
    print(f"TEST_LOAD_SEED={SEED}")  # shown if it fails
    return random.Random(f"{SEED} {test}")


def check(clients: list[Client], begun: list[int]) -> None:
    """Each request that was begun is answered whole, and no other is answered at all."""
    assert [client.replied for client in clients] == begun
    assert [client.part for client in clients] == [b""] * len(clients)
    # A reset is for a request that crossed with our end, and that nobody has looked at.
    assert all(client.ended == "clean" or client.sent > client.replied for client in clients)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA, tmp_path: Path) -> ssl.SSLContext:
    """A client's. The server finds its certificate in the directory."""
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "tls.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# Clients in a request-reply loop.


@pytest.mark.parametrize("kind", KINDS)
async def test_rule_05_no_request_that_was_begun_is_lost_at_a_stop_under_load(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    chance = seeded(kind)
    rounds = ROUNDS_OF[kind]
    async with rounds_of(kind, rounds, CLIENTS, tmp_path) as program:
        for number in range(rounds):
            address, pid = await started(program, number)
            clients = [Client(each, kind, address, context) for each in range(CLIENTS)]
            delay = chance.uniform(0, 0.15)
            print(f"round {number}: stopped after {delay} s")
            with trio.fail_after(TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(client.ask_without_end)
                    for client in clients:
                        await client.first_reply.wait()
                    await trio.sleep(delay)
                    os.kill(pid, signal.SIGTERM)
            begun = await ended(program, number, tmp_path)
            check(clients, begun)


# A burst of connects.


def burst(kind: str, address: str, pid: int, killed_at: int) -> tuple[list[socket.socket], int]:
    """Connect and send as fast as it goes, with a SIGTERM among it.

    Those that did, and how many of them before.
    """
    clients: list[socket.socket] = []
    before = 0
    opening = {
        "websocket": wsproto.WSConnection(wsproto.ConnectionType.CLIENT).send(
            Request(host=HOST, target="/")
        ),
        "tls": b"",
    }
    for number in range(BURST[kind]):
        if number == killed_at:
            os.kill(pid, signal.SIGTERM)
            before = len(clients)
        try:
            client = connected_to(address if kind == "unix" else (HOST, int(address)))
        except (ConnectionError, FileNotFoundError):
            break  # it no longer listens: that is no loss
        clients.append(client)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # seen when it is read
            client.sendall(opening.get(kind, b"%d 0\n" % number))
    for client in clients:
        client.setblocking(False)
    return clients, before


async def is_answered(
    number: int, client: socket.socket, kind: str, context: ssl.SSLContext
) -> bool:
    """Does it get a reply to its first request? A WebSocket: is it accepted, or told that this is
    no time?
    """
    stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    if kind == "tls":
        stream = trio.SSLStream(stream, context, server_hostname="localhost")
    wire = StreamWire(stream)
    try:
        if kind == "tls":
            await wire.send([f"{number} 0"])
        if kind == "websocket":
            return await wire.receive(12) in (b"HTTP/1.1 101", b"HTTP/1.1 503")
        expected = reply_to(f"{number} 0")
        return await wire.receive(len(expected)) == expected
    except trio.BrokenResourceError:
        return False
    finally:
        await trio.aclose_forcefully(stream)


async def look_at(clients: list[socket.socket], kind: str, context: ssl.SSLContext) -> list[bool]:
    answered = [False] * len(clients)

    async def look(index: int) -> None:
        answered[index] = await is_answered(index, clients[index], kind, context)

    async with trio.open_nursery() as nursery:
        for index in range(len(clients)):
            nursery.start_soon(look, index)
    return answered


async def lost_in_bursts(
    library: str, kind: str, directory: Path, context: ssl.SSLContext
) -> list[tuple[int, int]]:
    """For each round, how many clients connected and got no reply: those before the signal, and
    those after.
    """
    chance = seeded(kind)
    lost = []
    async with rounds_of(kind, BURST_ROUNDS[kind], BURST[kind], directory, library) as program:
        for number in range(BURST_ROUNDS[kind]):
            address, pid = await started(program, number)
            clients, before = burst(kind, address, pid, chance.randrange(*SIGNALLED_AFTER))
            with trio.fail_after(TIMEOUT):
                answered = await look_at(clients, kind, context)
            lost.append((answered[:before].count(False), answered[before:].count(False)))
            await ended(program, number, directory)
    print(f"{library}, {kind}: lost {lost}")
    return lost


@pytest.mark.parametrize("kind", KINDS)
async def test_rule_03_a_no_client_that_connected_is_lost_in_a_burst_of_connects(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    lost = await lost_in_bursts("trio_run", kind, tmp_path, context)
    assert lost == [(0, 0)] * BURST_ROUNDS[kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plain_close_of_the_listening_socket_loses_clients_in_such_a_burst(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    lost = await lost_in_bursts("trio", kind, tmp_path, context)
    assert sum(before for before, _ in lost) > 0


async def test_rule_03_a_tls_a_client_that_is_quick_is_served_however_slow_the_process_is(
    authority: trustme.CA, context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(arrived, leaving, server_hostname="localhost")
    async with serving(echo, ssl_context=server_context) as server:
        async with await server.connect() as client:
            await wait_all_tasks_blocked()
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            await client.send_all(leaving.read())
            server.group.stop()
            await wait_all_tasks_blocked()  # the listener waits for the rest of the handshake
            arrived.write(await client.receive_some())
            tls.do_handshake()
            with socket.socket(fileno=os.dup(client.socket.fileno())) as same:
                same.send(leaving.read())  # without a checkpoint
            mock_clock.jump(1)  # that is how long the rest of the process takes
            await wait_all_tasks_blocked()
            tls.write(b"hello")
            await client.send_all(leaving.read())
            arrived.write(await read_to_end(client))
            assert tls.read() == b"hello"


# Clients that send without pause.


async def pipelining(
    library: str, kind: str, directory: Path, context: ssl.SSLContext
) -> list[tuple[list[Client], list[int]]]:
    """For each round, the clients, and how many requests of each were begun."""
    chance = seeded(kind)
    results = []
    async with rounds_of(kind, PIPELINING_ROUNDS, PIPELINING, directory, library) as program:
        for number in range(PIPELINING_ROUNDS):
            address, pid = await started(program, number)
            clients = [Client(each, kind, address, context) for each in range(PIPELINING)]
            delay = chance.uniform(0, 0.1)
            with trio.fail_after(TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(client.pipeline)
                    for client in clients:
                        await client.first_reply.wait()
                    await trio.sleep(delay)
                    os.kill(pid, signal.SIGTERM)
            results.append((clients, await ended(program, number, directory)))
            print(f"round {number}: after {delay} s", Counter(each.ended for each in clients))
    return results


@pytest.mark.parametrize("kind", KINDS)
async def test_rule_05_clients_that_never_pause_get_every_reply_begun_and_a_clean_end(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    for clients, begun in await pipelining("trio_run", kind, tmp_path, context):
        check(clients, begun)
        assert [client.ended for client in clients] == ["clean"] * PIPELINING


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_a_plain_close_resets_clients_that_never_pause(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    """Its handlers end after a whole reply, too."""
    results = await pipelining("trio", kind, tmp_path, context)
    assert any(client.ended != "clean" for clients, _ in results for client in clients)
