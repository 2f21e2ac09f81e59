"""HTTPListener under load: stopped at a random moment, and what its clients then get, in real
processes. Section 4, rules 5 and 10.

200 keep-alive clients ask without pause. Of half of them the app works 50 to 300 ms for each reply;
some upload 200 kB bit by bit, some download 500 kB, the rest asks for what is quick. The figures of
each round are printed: see them with -s.

What is random comes from a seed, as in test_load. TEST_LOAD_ROUNDS says how many rounds there are.
"""

import contextlib
import inspect
import os
import signal
import ssl
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from trio_run.testing import Program, connect, open_program

from .. import TIMEOUT
from ..programs import python
from .serving import HOST
from .test_load import ended, seeded, started

CLIENTS = 200
ROUNDS = int(os.environ.get("TEST_LOAD_ROUNDS", "4"))
ROUNDS_OF = {"tcp": ROUNDS, "unix": max(2, ROUNDS // 5), "tls": max(2, ROUNDS // 5)}
UPLOAD = bytes(range(250)) * 800
PIECE = 20_000  # bytes of it are sent at once, with a pause in between
PAUSE = 0.02
TOO_LONG = 20  # seconds for a stop on a busy machine: a bound for what hangs, not a measure


def what_asks(client: int) -> str:
    if client % 2:
        return "slow"
    return {0: "upload", 2: "download"}.get(client % 8, "quick")


def body_of(what: str, client: int, number: int, received: bytes = b"") -> bytes:
    """The body of a response: it can't be taken for that of another request."""
    size = {"download": 500_000, "quick": number % 8 * 2000}.get(what, 1000)
    text = f"{what} {client} {number} {len(received)} {zlib.crc32(received)};".encode()
    return text * (size // len(text) + 1)


# It imports once, and then serves each round in a process of its own: a fork. The app counts the
# requests that it has begun in a file that is mapped into memory. What is left to the garbage
# collector is an error said on stderr.
SERVER = """
import mmap, os, signal, ssl, struct, sys, time, zlib

import trio
from trio_run import Group, HTTPListener, run

kind, rounds, clients, directory = sys.argv[1:]
running = started = ended = 0

async def app(scope, receive, send):
    global running, started, ended
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["ready"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print(f"round {number}: shutdown: {running} {started} {ended}", flush=True)
        await trio.sleep(0.01)
        print(f"round {number}: then: {running} {started} {ended}", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["state"]["ready"]
    running += 1
    started += 1
    _, what, client, index = scope["path"].split("/")
    count, = struct.unpack_from("i", begun, int(client) * 4)
    struct.pack_into("i", begun, int(client) * 4, count + 1)
    await answer(what, int(client), int(index), receive, send)
    running -= 1
    ended += 1

async def answer(what, client, index, receive, send):
    received = b""
    if what == "upload":
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request", message
            received += message["body"]
            more = message["more_body"]
    body = body_of(what, client, index, received)
    headers = []
    pieces = [body]
    delay = 0
    if what == "slow":
        delay = 0.05 + (client * 7 + index * 11) % 26 / 100
        if index % 2:
            await trio.sleep(delay)
        else:  # half of it first, and no Content-Length
            pieces = [body[:500], body[500:]]
    elif what == "download":
        headers = [(b"content-length", b"%d" % len(body))]
        pieces = [body[at:at + 60_000] for at in range(0, len(body), 60_000)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await trio.sleep(delay)
    await send({"type": "http.response.body", "body": pieces[-1]})

context = None
if kind == "tls":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{directory}/tls.pem")

def serve():
    where = {"port": 0, "host": "127.0.0.1"}
    if kind == "unix":
        where = {"path": f"{directory}/socket{number}"}
    listener = HTTPListener(app, **where, ssl_context=context)

    async def announce():
        address = listener.addresses[0]
        place = address if kind == "unix" else address[1]
        print(f"round {number}: serves at {place} as {os.getpid()}", flush=True)

    group = Group(grace=30)
    group.add(announce, needs=[group.add(listener)], on_return="ignore")
    return run(group)

for number in range(int(rounds)):
    child = os.fork()
    if child == 0:
        break
    _, status = os.waitpid(child, 0)
    print(f"round {number}: over at {time.monotonic()}", flush=True)
    print(f"round {number}: exited {os.waitstatus_to_exitcode(status)}", flush=True)
else:
    sys.exit()

signal.alarm(120)  # it does not outlive a test that failed
before = len(os.listdir("/proc/self/fd"))
with open(f"{directory}/begun{number}", "w+b") as file:
    file.truncate(4 * int(clients))
    begun = mmap.mmap(file.fileno(), 0)
code = serve()
begun.close()
after = len(os.listdir("/proc/self/fd"))
print(f"round {number}: descriptors {before} {after}", flush=True)
sys.exit(code)
"""


class Ended(Exception):
    """The stream ended where a response was due: this much of it has come."""


class Client:
    """Asks, and compares each response with what it should be."""

    def __init__(self, number: int, kind: str, address: str, context: ssl.SSLContext) -> None:
        self.number = number
        self.what = what_asks(number)
        self.sent = self.replied = 0  # requests
        self.last = False  # has a response said that it is?
        self.ended = "not at all"
        self.part = b""  # of a response
        self.began_at = self.replied_at = 0.0  # of the last reply
        self.first_reply = trio.Event()
        self._kind = kind
        self._address = address
        self._context = context
        self._received = bytearray()

    async def ask_without_end(self) -> None:
        where = self._address if self._kind == "unix" else (HOST, int(self._address))
        context = self._context if self._kind == "tls" else None
        stream = await connect(where, ssl_context=context)
        try:
            while not self.last:
                began = time.monotonic()
                # It may be closed: what is read then tells whether that was a clean end.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._send(stream)
                body = await self._read(stream)
                expected = UPLOAD if self.what == "upload" else b""
                assert body == body_of(self.what, self.number, self.replied, expected)
                self.replied += 1
                self.began_at, self.replied_at = began, time.monotonic()
                self.first_reply.set()
            assert not await stream.receive_some()
            self.ended = "clean"
        except Ended as exc:
            (self.part,) = exc.args
            self.ended = "clean"
        except trio.BrokenResourceError as exc:
            self.part = bytes(self._received)
            self.ended = f"reset: {exc.__cause__ or exc}"
        finally:
            await trio.aclose_forcefully(stream)

    async def _send(self, stream: trio.abc.Stream) -> None:
        body = UPLOAD if self.what == "upload" else b""
        method = "POST" if body else "GET"
        head = f"{method} /{self.what}/{self.number}/{self.sent} HTTP/1.1\r\nHost: test\r\n"
        if body:
            head += f"Content-Length: {len(body)}\r\n"
        self.sent += 1
        await stream.send_all(f"{head}\r\n".encode())
        for at in range(0, len(body), PIECE):
            await trio.sleep(PAUSE)
            await stream.send_all(body[at : at + PIECE])

    # What is read is not much looked at: this process is not to be slower than the server.

    async def _read(self, stream: trio.abc.Stream) -> bytes:
        head = await self._until(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        self.last = headers.get(b"connection") == b"close"
        if b"content-length" in headers:
            return await self._exactly(stream, int(headers[b"content-length"]))
        assert headers[b"transfer-encoding"] == b"chunked"
        body = b""
        while size := int(await self._until(stream, b"\r\n"), 16):
            body += (await self._exactly(stream, size + 2))[:-2]
        assert await self._until(stream, b"\r\n") == b"\r\n"
        return body

    async def _until(self, stream: trio.abc.Stream, mark: bytes) -> bytes:
        while (at := self._received.find(mark)) < 0:
            await self._more(stream)
        return self._take(at + len(mark))

    async def _exactly(self, stream: trio.abc.Stream, size: int) -> bytes:
        while len(self._received) < size:
            await self._more(stream)
        return self._take(size)

    async def _more(self, stream: trio.abc.Stream) -> None:
        data = await stream.receive_some()
        if not data:
            raise Ended(bytes(self._received))
        self._received += data

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """A client's. The server finds its certificate in the directory."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "tls.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def rounds_of(kind: str, directory: Path) -> AsyncIterator[Program]:
    """The server, for all rounds. In the end: there was no warning, and it has cut nobody."""
    rounds = ROUNDS_OF[kind]
    source = "\n\n".join(["import zlib", inspect.getsource(body_of), SERVER])
    arguments = [kind, str(rounds), str(CLIENTS), str(directory)]
    async with open_program(python("-W", "error", "-c", source, *arguments)) as program:
        yield program
        assert await program.exit_code() == 0
    for sign in ("Warning", "Error", "Traceback", "the app failed", " left during "):
        assert sign not in program.output, program.output
    assert program.output.count(" drained, 0 cut") == rounds


def check(clients: list[Client], begun: list[int]) -> None:
    """Each request that the app began is answered whole, and no other is answered at all."""
    assert [client.replied for client in clients] == begun
    assert [client.part for client in clients] == [b""] * len(clients)
    for client in clients:
        # A reset is for a request that crossed with our end, and that nobody has looked at.
        assert client.ended == "clean" or client.sent > client.replied, client.ended
        assert not (client.last and client.sent > client.replied)


@pytest.mark.parametrize("kind", ROUNDS_OF)
async def test_rule_10_no_request_that_the_app_began_is_lost_at_a_stop_under_load(
    kind: str, tmp_path: Path, context: ssl.SSLContext
) -> None:
    chance = seeded(f"http {kind}")
    over = []
    async with rounds_of(kind, tmp_path) as program:
        for number in range(ROUNDS_OF[kind]):
            address, pid = await started(program, number)
            clients = [Client(each, kind, address, context) for each in range(CLIENTS)]
            delay = chance.uniform(0, 0.5)
            with trio.fail_after(TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(client.ask_without_end)
                    for client in clients:
                        await client.first_reply.wait()
                    await trio.sleep(delay)
                    signalled_at = time.monotonic()
                    os.kill(pid, signal.SIGTERM)
            begun = await ended(program, number, tmp_path)
            check(clients, begun)

            # The lifespan's shutdown came when no app call ran any more, and none came after.
            counts = f"0 {sum(begun)} {sum(begun)}"
            assert (await program.line_with(f"round {number}: shutdown:")).endswith(f": {counts}")
            assert (await program.line_with(f"round {number}: then:")).endswith(f": {counts}")

            ended_at = float((await program.line_with(f"round {number}: over at")).split()[-1])
            in_flight = [each for each in clients if each.replied_at > signalled_at]
            slowest = max((each.replied_at - each.began_at for each in in_flight), default=0.0)
            last = max((each.replied_at for each in in_flight), default=signalled_at)
            took = ended_at - signalled_at
            over.append(took - slowest)
            print(
                f"{kind} round {number}: SIGTERM after {delay:.3f} s: {sum(begun)} requests, "
                f"{len(in_flight)} in flight,"
                f" the slowest {slowest:.3f} s; the stop took {took:.3f} s, "
                f"{took - slowest:+.3f} s,"
                f" {ended_at - last:.3f} s after the last reply;"
                f" {sum(each.sent > each.replied for each in clients)} sent one too late;",
                dict(Counter(each.ended for each in clients)),
            )
            assert took < slowest + TOO_LONG
    print(f"{kind}: the stops took {min(over):+.3f} to {max(over):+.3f} s more than the slowest")
