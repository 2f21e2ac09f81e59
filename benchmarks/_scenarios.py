"""The scenarios: what is measured, of whom, with how many connections; and the targets.

A scenario measures one turn: one server, started, used, stopped. Whose turn it is is decided in
_run, what the figures mean side by side in _results.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import _client
from ._client import Sockets, Stop, open_measured, open_served, watch_stop
from ._server import LeftOut, Server, python

_GRACE = 0.5  # seconds, where handlers never leave
_BLOCKS = 100_000  # with blocks in a row
_MEGABYTE = 1_000_000
_IN_USE = 50  # connections, where most are at rest


@dataclass(frozen=True)
class Figure:
    """One kind of number."""

    title: str
    unit: str  # "s", "B", "/s", "%", or "" for a count
    more_is_better: bool = False


FIGURES = {
    "exit": Figure("SIGTERM to exit", "s"),
    "refused": Figure("refused", "s"),
    "first_end": Figure("first end", "s"),
    "last_end": Figure("last end", "s"),
    "resets": Figure("reset", ""),
    "lost": Figure("lost", ""),
    "cpu": Figure("CPU", "s"),
    "peak": Figure("peak", "B"),
    "each": Figure("memory of one", "B"),
    "rate": Figure("rate", "/s", more_is_better=True),
    "cpu_each": Figure("CPU for one", "s"),
    "share": Figure("server's core in use", "%"),
    "time": Figure("time", "s"),
    "start": Figure("of it to start", "s"),
    "rest": Figure("CPU of a second at rest", "s"),
}

Sample = dict[str, float | None]


@dataclass
class Turn:
    """One server's turn: its scenario measures this peer, with so many connections."""

    peer: str
    count: int
    seconds: float  # where something is done for some time
    scratch: Path
    random: random.Random
    timeline: list[tuple[float, int]] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)  # that were started

    def server(self, what: str, *arguments: str) -> Server:
        server = Server([*_command(self.peer, self.scratch), what, *arguments])
        self.servers.append(server)
        return server

    def stopped(self, server: Server, stop: Stop, *, after: float = 0.0, **more: object) -> Sample:
        """The figures of a stop that is over.

        Its times are counted from so many seconds after the signal.
        """
        self.timeline[:] = stop.timeline
        times = {"first_end": stop.first_end, "last_end": stop.last_end, "exit": stop.exit}
        return {
            **{name: None if when is None else when - after for name, when in times.items()},
            "refused": stop.refused,
            "resets": stop.resets,
            "cpu": server.cpu - stop.cpu_before,
            "peak": server.peak,
            **more,  # type: ignore[dict-item]
        }


_PYTHON = {
    "trio-run": ("trio_run",),
    "status-page": ("trio_run", "status-page"),
    "plain-trio": ("plain_trio",),
    "asyncio": ("asyncio_streams", "asyncio"),
    "uvloop": ("asyncio_streams", "uvloop"),
    "close-loop": ("close_loop",),
    "trio-websocket": ("websocket", "trio-websocket"),
    "websockets": ("websocket", "websockets"),
    "hypercorn-trio": ("http", "hypercorn-trio"),
    "hypercorn-asyncio": ("http", "hypercorn-asyncio"),
    "uvicorn-h11": ("http", "uvicorn-h11"),
    "uvicorn-standard": ("http", "uvicorn-standard"),
    "granian": ("http", "granian"),
}
_GO = {"go-oklog": "oklog", "go-http": "nethttp"}


def _command(peer: str, scratch: Path) -> list[str]:
    return [str(_build_go(_GO[peer], scratch))] if peer in _GO else python(*_PYTHON[peer])


@functools.cache
def _build_go(name: str, scratch: Path) -> Path:
    go = shutil.which("go")
    if go is None:
        raise LeftOut("Go is not installed (Debian: golang-go and golang-github-oklog-run-dev)")
    source = Path(__file__).parent / "servers" / name / "main.go"
    built = subprocess.run(
        [go, "build", "-o", scratch / name, source],
        env={
            "GOCACHE": str(Path(tempfile.gettempdir()) / "trio-run-benchmarks-go"),
            **os.environ,
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise LeftOut(f"it does not build: {built.stderr.strip().splitlines()[-1]}")
    return scratch / name


def _certificate(scratch: Path) -> str:
    """The path of one, with its key, that every server of this run takes."""
    try:
        import trustme
    except ImportError as exc:
        raise LeftOut(str(exc)) from None
    certificate = scratch / "certificate.pem"
    if not certificate.exists():
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    return str(certificate)


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# What is measured in one turn.


def stop_idle(turn: Turn) -> Sample:
    with turn.server("echo") as server:
        connections, each = open_measured(server, turn.count, b"x", b"x")
        stop = watch_stop(server, connections, _client.read_nothing)
        server.collect()
    return turn.stopped(server, stop, each=each)


def stop_unix(turn: Turn) -> Sample:
    path = turn.scratch / "socket"
    path.unlink(missing_ok=True)
    with turn.server("unix", str(path)) as server:
        connections, each = open_measured(server, turn.count, b"x", b"x")
        stop = watch_stop(server, connections, _client.read_nothing)
        server.collect()
    return turn.stopped(server, stop, each=each)


def stop_working(turn: Turn) -> Sample:
    """Every connection has a request in work when the signal comes.

    Lost is a reply that never came.
    """
    with turn.server("work") as server:
        connections = open_served(server.first_line, turn.count, b"x", b"x")
        for connection in connections.values():
            connection.send(b"work")
        for connection in connections.values():
            connection.settimeout(30)
            if connection.recv(4) != b"work":
                raise RuntimeError("a request was not begun")
            connection.setblocking(False)
        lost = set(connections)

        def read(descriptor: int) -> bool:
            data = os.read(descriptor, 4096)
            if data == b"done":
                lost.discard(descriptor)
            return not data

        stop = watch_stop(server, connections, read, settle=False)
        server.collect()
    return turn.stopped(server, stop, lost=len(lost))


def stop_held(turn: Turn) -> Sample:
    """No handler leaves. Times are counted from the end of the grace.

    For a peer without a grace they are counted from the signal.
    """
    grace = _GRACE if turn.peer == "trio-run" else 0.0
    with turn.server("hold", str(grace)) as server:
        connections = open_served(server.first_line, turn.count, b"x", b"x")
        stop = watch_stop(server, connections, _client.read_nothing)
        server.collect()
    return turn.stopped(server, stop, after=grace)


def stop_tls(turn: Turn) -> Sample:
    """Lost is a client that was not told of the end by a close_notify."""
    context = _trusting()

    def open_tls(server: Server, count: int) -> Sockets:
        connections: Sockets = {}
        for _ in range(count):
            plain = _client.connect(server.first_line)
            connection = context.wrap_socket(plain, suppress_ragged_eofs=False)
            connection.sendall(b"x")
            _client.receive_until(connection, b"x")
            connection.setblocking(False)
            connections[connection.fileno()] = connection
        return connections

    with turn.server("tls", _certificate(turn.scratch)) as server:
        connections = open_tls(server, 1)
        before = server.memory()
        connections |= open_tls(server, turn.count - 1)
        each = (server.memory() - before) / turn.count if turn.count >= 500 else None
        not_told = set(connections)

        def read(descriptor: int) -> bool:
            try:
                ended = not connections[descriptor].recv(4096)
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLEOFError:
                return True
            not_told.discard(descriptor)
            return ended

        stop = watch_stop(server, connections, read)
        server.collect()
    return turn.stopped(server, stop, lost=len(not_told), each=each)


def stop_udp(turn: Turn) -> Sample:
    """The kernel's queue is full when the signal comes. Lost is a datagram without a reply."""
    with turn.server("udp") as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect((_client.HOST, int(server.first_line)))
        client.settimeout(30)
        client.send(b"first")
        client.recv(100)
        client.setblocking(False)
        os.kill(server.pid, signal.SIGSTOP)  # so that it is idle meanwhile
        for number in range(turn.count):
            client.send(str(number).encode())
        replies = 0

        def read(descriptor: int) -> bool:
            nonlocal replies
            with contextlib.suppress(ConnectionRefusedError):
                replies += bool(os.read(descriptor, 100))
            return False

        def resume() -> None:
            os.kill(server.pid, signal.SIGCONT)

        stop = watch_stop(server, {client.fileno(): client}, read, probe=False, then=resume)
        server.collect()
    return turn.stopped(server, stop, lost=turn.count - replies)


_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_BINARY = b"\x82"
_GOING_AWAY = (1001).to_bytes(2)


def stop_websocket(turn: Turn) -> Sample:
    """Lost is a client that was not told 1001, going away."""
    with turn.server("websocket") as server:
        connections, each = open_measured(server, turn.count, _UPGRADE, b"\r\n\r\n")
        not_told = set(connections)

        def read(descriptor: int) -> bool:
            data = os.read(descriptor, 4096)
            if data[:1] == b"\x88":
                if data[2:4] == _GOING_AWAY:
                    not_told.discard(descriptor)
                os.write(descriptor, b"\x88\x82\0\0\0\0" + data[2:4])  # masked with zeros
            return not data

        stop = watch_stop(server, connections, read)
        server.collect()
    return turn.stopped(server, stop, lost=len(not_told), each=each)


def _request(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def stop_http(turn: Turn) -> Sample:
    with turn.server("http") as server:
        connections, each = open_measured(server, turn.count, _request(), b"\r\n\r\nok")
        stop = watch_stop(server, connections, _client.read_nothing)
        server.collect()
    return turn.stopped(server, stop, each=each)


class _HTTPClient:
    """One request after the other, until it is told that the connection closes."""

    def __init__(self, descriptor: int, number: int, *, slow: bool) -> None:
        self._descriptor = descriptor
        self.name = str(number)
        self._path = f"/{'slow' if slow else 'fast'}/{number}/"
        self.answered = 0
        self._received = b""

    def send_next(self) -> None:
        with contextlib.suppress(OSError):  # that shows when it is read
            os.write(self._descriptor, _request(f"{self._path}{self.answered + 1}"))

    def read(self) -> bool:
        data = os.read(self._descriptor, 65536)
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        head = head.lower()
        if blank and len(body) == int(head.split(b"content-length:")[1].split()[0]):
            self._received = b""
            self.answered += 1
            if b"connection: close" not in head:
                self.send_next()
        return not data


def stop_loaded_http(turn: Turn) -> Sample:
    """Half of the clients have slow requests.

    Lost is a request that was begun and never answered whole.
    """
    with turn.server("http") as server:
        connections = open_served(server.first_line, turn.count, _request(), b"\r\n\r\nok")
        clients = {
            descriptor: _HTTPClient(descriptor, number, slow=number % 2 == 0)
            for number, descriptor in enumerate(connections)
        }
        for client in clients.values():
            client.send_next()
        after = turn.random.uniform(0.3, 0.5)
        stop = watch_stop(server, connections, lambda which: clients[which].read(), after=after)
        begun = json.loads(server.collect())
    lost = sum(begun.get(client.name, 0) > client.answered for client in clients.values())
    return turn.stopped(server, stop, lost=lost)


def measure_http(turn: Turn, *, path: str = "/", script: str | None = None) -> Sample:
    """What wrk counts, with requests as its script makes them."""
    with turn.server("http") as server:
        for connection in open_served(server.first_line, 1, _request(), b"\r\n\r\nok").values():
            connection.close()
        return _load(turn, server, f"http://{_client.HOST}:{server.first_line}{path}", script)


def measure_posts(turn: Turn) -> Sample:
    return measure_http(turn, path="/upload", script="post.lua")


def measure_https(turn: Turn) -> Sample:
    with turn.server("https", _certificate(turn.scratch)) as server:
        plain = _client.connect(server.first_line)
        with _trusting().wrap_socket(plain) as connection:
            connection.sendall(_request())
            _client.receive_until(connection, b"ok")
        return _load(turn, server, f"https://{_client.HOST}:{server.first_line}/", None)


def _load(turn: Turn, server: Server, address: str, script: str | None) -> Sample:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LeftOut("wrk is not installed")
    load = [wrk, "-t1", f"-c{turn.count}", f"-d{max(1, round(turn.seconds))}"]
    if script is not None:
        load += ["-s", str(Path(__file__).parent / script)]
    cpu = server.cpu_seconds()
    done = subprocess.run([*load, address], check=True, capture_output=True, text=True)
    cpu = server.cpu_seconds() - cpu
    server.terminate()
    server.collect()
    said = done.stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    found = re.search(r"(\d+) requests in ([\d.]+)s", said)
    assert found is not None
    requests, seconds = found.groups()
    rate = float(said.split("Requests/sec:")[1].split()[0])
    return {"rate": rate, "cpu_each": cpu / int(requests), "share": cpu / float(seconds)}


def measure_download(turn: Turn) -> Sample:
    size = turn.count * _MEGABYTE
    return _transferred(turn, _request(f"/download/{turn.count}"), 0, size)


def measure_upload(turn: Turn) -> Sample:
    size = turn.count * _MEGABYTE
    head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    return _transferred(turn, head.encode(), size, len(str(size)))


def _transferred(turn: Turn, request: bytes, body: int, reply: int) -> Sample:
    with turn.server("http") as server:
        (connection,) = open_served(server.first_line, 1, _request(), b"\r\n\r\nok").values()
        connection.settimeout(30)
        cpu = server.cpu_seconds()
        began = time.perf_counter()
        last = _client.transfer(connection, request, body, reply)
        took = time.perf_counter() - began
        cpu = server.cpu_seconds() - cpu
        server.memory()
        connection.close()
        server.terminate()
        server.collect()
    if body and not last.endswith(str(body).encode()):
        raise RuntimeError(f"it read less than {body:,} bytes: {last!r}")
    return {"time": took, "cpu": cpu, "peak": server.peak}


def measure_echo(turn: Turn) -> Sample:
    message = b"." * 64
    with turn.server("echo") as server:
        connections = open_served(server.first_line, turn.count, b"x", b"x")
        return _rounds(turn, server, connections, message, message)


def measure_messages(turn: Turn) -> Sample:
    """WebSocket messages."""
    message = b"." * 64
    length, masked = bytes([len(message)]), bytes([0x80 | len(message)])
    with turn.server("http" if turn.peer in _HTTP else "websocket") as server:
        connections = open_served(server.first_line, turn.count, _UPGRADE, b"\r\n\r\n")
        say = _BINARY + masked + bytes(4) + message  # masked with zeros
        return _rounds(turn, server, connections, say, _BINARY + length + message)


def _rounds(
    turn: Turn, server: Server, connections: Sockets, message: bytes, reply: bytes
) -> Sample:
    rate = _client.count_rounds(server, connections, turn.seconds, message, reply)
    server.terminate()
    for connection in connections.values():
        connection.close()
    server.collect()
    return {"rate": rate.each_second, "cpu_each": rate.cpu_each, "share": rate.share}


def measure_status(turn: Turn) -> Sample:
    """At rest, then some of the connections in use, then the stop."""
    with turn.server("echo") as server:
        connections, each = open_measured(server, turn.count, b"x", b"x")
        before = server.cpu_seconds()
        time.sleep(turn.seconds)
        rest = (server.cpu_seconds() - before) / turn.seconds
        some = dict(itertools.islice(connections.items(), _IN_USE))
        rate = _client.count_rounds(server, some, turn.seconds, b"x", b"x")
        stop = watch_stop(server, connections, _client.read_nothing)
        server.collect()
    return turn.stopped(server, stop, each=each, rate=rate.each_second, rest=rest)


def measure_accept(turn: Turn) -> Sample:
    with turn.server("reply") as server:
        rate = _client.count_connections(server, turn.count, turn.seconds)
        server.terminate()
        server.collect()
    return {"rate": rate.each_second, "cpu_each": rate.cpu_each, "share": rate.share}


def measure_busy(turn: Turn) -> Sample:
    """Timed by the handler itself: nothing else can see so little."""
    block = {"trio-run": "busy", "empty-with": "nothing"}[turn.peer]
    with Server(python("trio_run", "blocks")) as server:
        with _client.connect(server.first_line) as connection:
            connection.sendall(f"{block} {_BLOCKS}".encode())
            seconds = float(_client.receive_until(connection, b"\n"))
        server.terminate()
        server.collect()
    return {"time": seconds / _BLOCKS}


def measure_actors(turn: Turn) -> Sample:
    """Timed by the program itself: from the first actor to the end of all."""
    with Server(python("tasks", turn.peer, str(turn.count))) as server:
        server.collect()
        started, seconds = map(float, server.first_line.split())
    return {"time": seconds, "start": started}


# The list.

LARGEST = _client.largest(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_STREAMS = ("trio-run", "plain-trio", "asyncio", "uvloop")
_HTTP = (
    "trio-run",
    "hypercorn-trio",
    "hypercorn-asyncio",
    "uvicorn-h11",
    "uvicorn-standard",
    "granian",
    "go-http",
)
_OF_A_STOP = ("exit", "refused", "first_end", "last_end", "resets", "lost", "cpu", "peak", "each")
_OF_A_RATE = ("rate", "cpu_each", "share")
_OF_A_TRANSFER = ("time", "cpu", "peak")


@dataclass(frozen=True)
class Scenario:
    """Something to measure.

    The first of the peers is ours. The first of the figures is what it is about.
    """

    name: str
    about: str
    measure: Callable[[Turn], Sample]
    peers: tuple[str, ...]
    counts: tuple[int, ...]  # of what, is ``unit``
    quick: tuple[int, ...]
    figures: tuple[str, ...] = _OF_A_STOP
    unit: str = "connections"
    lost: str = ""  # what is


SCENARIOS = (
    Scenario(
        "idle-tcp",
        "idle TCP connections",
        stop_idle,
        (*_STREAMS, "go-oklog", "close-loop"),
        tuple(count for count in (100, 1000, 10_000, LARGEST) if count <= LARGEST),
        (1000, 5000),
    ),
    Scenario(
        "mid-request",
        "a request in work on every connection, 100 ms of it left",
        stop_working,
        (*_STREAMS, "go-oklog"),
        (100, 1000),
        (1000,),
        lost="replies",
    ),
    Scenario(
        "grace",
        "handlers that never leave, from the end of their grace on",
        stop_held,
        ("trio-run", "plain-trio"),
        (1000, 10_000),
        (1000,),
    ),
    Scenario(
        "idle-tls",
        "idle TLS connections",
        stop_tls,
        _STREAMS,
        (1000,),
        (500,),
        lost="clients without a close_notify",
    ),
    Scenario(
        "idle-unix", "idle connections on a Unix socket", stop_unix, _STREAMS, (10_000,), (1000,)
    ),
    Scenario(
        "udp",
        "a full queue of datagrams",
        stop_udp,
        _STREAMS,
        (250,),  # the kernel's default has room for some 270
        (250,),
        figures=("lost", "exit", "cpu", "peak"),
        unit="datagrams",
        lost="datagrams without a reply",
    ),
    Scenario(
        "websocket",
        "open WebSockets",
        stop_websocket,
        ("trio-run", "trio-websocket", "websockets"),
        (1000,),
        (500,),
        lost="clients that were not told 1001",
    ),
    Scenario("http-idle", "keep-alive connections at rest", stop_http, _HTTP, (1000,), (500,)),
    Scenario(
        "http-memory",
        "memory of a keep-alive connection at rest",
        stop_http,
        _HTTP,
        (2000,),
        (1000,),
        figures=("each", "peak"),
    ),
    Scenario(
        "http-load",
        "HTTP clients in a request loop, half of them slow",
        stop_loaded_http,
        _HTTP,
        (40,),
        (40,),
        lost="requests begun and not answered whole",
    ),
    Scenario(
        "http-rate",
        "HTTP requests per second, a two-byte reply (wrk)",
        measure_http,
        _HTTP,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-10k",
        "HTTP requests per second, a reply of 10 kB (wrk)",
        functools.partial(measure_http, path="/10k"),
        _HTTP,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-post",
        "HTTP requests per second, 10 kB sent with each (wrk)",
        measure_posts,
        _HTTP,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-tls",
        "HTTP requests per second over TLS, a two-byte reply (wrk)",
        measure_https,
        _HTTP,
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "http-download",
        "one big reply, which the app sends in parts of 1 MB",
        measure_download,
        _HTTP,
        (500,),
        (50,),
        figures=_OF_A_TRANSFER,
        unit="MB",
    ),
    Scenario(
        "http-upload",
        "one big request, which the client sends in parts of 1 MB",
        measure_upload,
        _HTTP,
        (500,),
        (50,),
        figures=_OF_A_TRANSFER,
        unit="MB",
    ),
    Scenario(
        "websocket-echo",
        "WebSocket messages per second, there and back, 64 bytes",
        measure_messages,
        (
            "trio-run",
            "hypercorn-trio",
            "uvicorn-standard",
            "granian",
            "trio-websocket",
            "websockets",
        ),
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "echo",
        "round trips per second, 64 bytes",
        measure_echo,
        (*_STREAMS, "go-oklog"),
        (50,),
        (50,),
        figures=_OF_A_RATE,
    ),
    Scenario(
        "status",
        "a status page at which nobody looks, beside none",
        measure_status,
        ("status-page", "trio-run"),
        (10_000,),
        (5000,),
        figures=("rate", "rest", "exit", "cpu", "peak", "each"),
    ),
    Scenario(
        "accept",
        "new connections per second, each served and closed",
        measure_accept,
        (*_STREAMS, "go-oklog"),
        (50,),
        (50,),
        figures=_OF_A_RATE,
        unit="at once",
    ),
    Scenario(
        "busy",
        "one `with busy():` in a connection's handler",
        measure_busy,
        ("trio-run", "empty-with"),
        (1,),
        (1,),
        figures=("time",),
        unit="handler",
    ),
    Scenario(
        "actors",
        "actors of one group, started and stopped",
        measure_actors,
        ("trio-run", "bare-nursery"),
        (10_000,),
        (10_000,),
        figures=("time", "start"),
        unit="actors",
    ),
)


@dataclass(frozen=True)
class Target:
    """What a figure of ours is to reach, and what we dream of.

    Both are ratios to a peer's, or numbers.
    """

    scenario: str
    figure: str
    against: str | None  # a peer
    reach: float  # at most; at least, where more is better
    dream: float
    count: int | None = None  # where it was not measured with so many, at the largest that was


TARGETS = (
    Target("idle-tcp", "exit", "plain-trio", 0.14, 0.10, 10_000),
    Target("idle-tcp", "exit", "asyncio", 0.65, 0.5, 10_000),
    Target("idle-tcp", "exit", "uvloop", 1.0, 0.8, 10_000),
    Target("idle-tcp", "exit", "go-oklog", 1.35, 1.1, 10_000),
    Target("idle-tcp", "exit", "asyncio", 1.2, 1.0, 100),
    Target("idle-tcp", "first_end", None, 0.020, 0.010, 10_000),
    Target("idle-tcp", "each", "plain-trio", 0.65, 0.5, 10_000),
    Target("echo", "rate", "plain-trio", 1.4, 1.7),
    Target("echo", "rate", "uvloop", 0.75, 0.9),
    Target("http-rate", "rate", "hypercorn-trio", 10, 15),
    Target("http-rate", "rate", "uvicorn-h11", 2.2, 3),
    Target("http-rate", "rate", "uvicorn-standard", 0.7, 1.0),
    Target("http-memory", "each", "uvicorn-standard", 1.0, 0.8),
    Target("http-load", "lost", None, 0, 0),
    Target("http-load", "resets", None, 0, 0),
    Target("websocket", "exit", "websockets", 1.2, 1.0),
    Target("idle-tls", "exit", "asyncio", 1.0, 0.8),
    Target("http-download", "time", "uvicorn-standard", 1.2, 1.0),
    Target("http-upload", "time", "uvicorn-standard", 1.2, 1.0),
    Target("websocket-echo", "rate", "uvicorn-standard", 0.7, 1.0),
)
