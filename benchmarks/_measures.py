"""What is done in one turn: one server started, used, stopped, and what was measured of that.

Of whom it is measured, and with how many connections, is decided in _scenarios.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from . import _client
from ._client import Sockets, open_measured, open_served, watch_stop
from ._server import LeftOut, Server, python
from ._turn import HTTP_PEERS, Sample, Turn

_GRACE = 0.5  # seconds, where handlers never leave
_BLOCKS = 100_000  # with blocks in a row
_MEGABYTE = 1_000_000
_IN_USE = 50  # connections, where most are at rest


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
    with turn.server("http" if turn.peer in HTTP_PEERS else "websocket") as server:
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
