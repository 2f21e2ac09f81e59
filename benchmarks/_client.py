"""The client: it opens connections, has each served, sends SIGTERM, and watches how they end.

It must cost far less than any server. So it uses plain sockets and one epoll, on a core of its own.
All times are its own clock's, from the moment it sends the signal.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ._server import Server

HOST = "127.0.0.1"
_PATIENCE = 60.0
_AT_ONCE = 50  # below asyncio's backlog of 100, and Hypercorn's
_PER_ADDRESS = (
    10_000  # of 28,000 ports: beyond half of them the kernel searches long for a free one
)
_EVENTS = 128  # before we look at the clock again
_BIND_ADDRESS_NO_PORT = 24  # choose the port when connecting: one may then serve many addresses
_SETTLE = 0.1
_TICK = 0.001
_MEGABYTE = 1_000_000

Sockets = dict[int, socket.socket]  # by descriptor


def connect(address: str, number: int = 0) -> socket.socket:
    """One connection, to a port or to a path."""
    if "/" in address:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_PATIENCE)
        connection.connect(address)
        return connection
    connection = socket.socket()
    connection.settimeout(_PATIENCE)
    if number >= _PER_ADDRESS:
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.0.0.{1 + number // _PER_ADDRESS}", 0))
    connection.connect((HOST, int(address)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive_until(connection: socket.socket, ending: bytes) -> bytes:
    received = b""
    while not received.endswith(ending):
        chunk = connection.recv(65536)
        if not chunk:
            raise RuntimeError(f"a connection was not served: {received!r} instead of {ending!r}")
        received += chunk
    return received


def open_served(address: str, count: int, say: bytes, ending: bytes, first: int = 0) -> Sockets:
    """Open connections, say something on each, and wait until each has been answered."""
    connections = {}
    for numbers in batches(range(first, first + count)):
        batch = [connect(address, number) for number in numbers]
        for connection in batch:
            connection.sendall(say)
        for connection in batch:
            receive_until(connection, ending)
            connection.setblocking(False)
            connections[connection.fileno()] = connection
    return connections


def batches(numbers: range) -> Iterator[range]:
    return (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))


def open_measured(
    server: Server, count: int, say: bytes, ending: bytes
) -> tuple[Sockets, float | None]:
    """Open connections as open_served does, and look at the server's memory.

    The second figure is the bytes by which it grew for each, or None for too few connections.
    """
    connections = open_served(server.first_line, 1, say, ending)  # what is loaded for the first
    before = server.memory()
    connections |= open_served(server.first_line, count - 1, say, ending, first=1)
    grown = server.memory() - before
    return connections, grown / (count - 1) if count >= 500 else None


@dataclass
class Stop:
    """What the client saw of a stop. Times are seconds from the signal."""

    refused: float | None = None  # the first new connection that was
    first_end: float | None = None
    last_end: float | None = None
    exit: float | None = None
    resets: int = 0
    cpu_before: float = 0.0  # seconds that the server had used by then
    timeline: list[tuple[float, int]] = field(default_factory=list)  # how many are open when

    def note_end(self, now: float) -> None:
        if self.first_end is None:
            self.first_end = now
        self.last_end = now


def watch_stop(
    server: Server,
    connections: Sockets,
    read: Callable[[int], bool],
    *,
    after: float = 0.0,
    settle: bool = True,
    probe: bool = True,
    then: Callable[[], None] = lambda: None,
) -> Stop:
    """Send SIGTERM after so many seconds of talk, and watch until the server has exited.

    then() is called right after the signal. read(descriptor) takes what has arrived there, and
    returns whether that was the end. An OSError that it raises is a reset.
    """
    epoll = select.epoll()
    for descriptor in connections:
        epoll.register(descriptor, select.EPOLLIN)
    # Not in the epoll, where it would have to queue behind the connections.
    exited = select.poll()
    exited.register(server.ended, select.POLLIN)
    stop = Stop()
    ended: list[socket.socket] = []
    if settle:
        time.sleep(_SETTLE)
    server.memory()
    stop.cpu_before = server.cpu_seconds()
    gc.collect()
    gc.disable()
    try:
        if after:
            _converse(epoll, read, time.perf_counter() + after)
        stop.timeline.append((0.0, len(connections)))
        began = time.perf_counter()
        server.terminate()
        then()
        next_probe = 0.0 if probe else _PATIENCE
        while stop.exit is None or connections:
            now = time.perf_counter() - began
            if now > _PATIENCE:
                raise RuntimeError(f"{len(connections)} connections are open {now:.0f} s later")
            if now >= next_probe:
                if refuses(server.first_line):
                    stop.refused = time.perf_counter() - began
                    next_probe = _PATIENCE
                else:  # often enough for a precision of a tenth
                    next_probe = now + max(_TICK, now / 10)
            events = epoll.poll(_TICK if stop.exit is None else 0.2, _EVENTS)
            now = time.perf_counter() - began
            if stop.exit is None and exited.poll(0):
                stop.exit = now
            elif stop.exit is not None and not events:
                break  # what is left has no end (UDP)
            left = len(connections)
            for descriptor, _ in events:
                try:
                    over = read(descriptor)
                except OSError:
                    stop.resets += 1
                    over = True
                if over:
                    epoll.unregister(descriptor)
                    ended.append(connections.pop(descriptor))
            if len(connections) < left:
                stop.note_end(now)
                stop.timeline.append((now, len(connections)))
                if not connections:
                    server.memory()
            if len(events) < _EVENTS:  # there is time for it: closing costs more than all the rest
                for connection in ended[-_EVENTS:]:
                    connection.close()
                del ended[-_EVENTS:]
    finally:
        gc.enable()
        epoll.close()
        for connection in (*connections.values(), *ended):
            connection.close()
    stop.refused = stop.refused if stop.refused is not None or not probe else stop.exit
    return stop


def _converse(epoll: select.epoll, read: Callable[[int], bool], until: float) -> None:
    while (left := until - time.perf_counter()) > 0:
        for descriptor, _ in epoll.poll(left, _EVENTS):
            if read(descriptor):
                raise RuntimeError("the server ended a connection before it was told to stop")


def read_nothing(descriptor: int) -> bool:
    """An idle client: nothing is to come but the end."""
    return not os.read(descriptor, 4096)


def refuses(address: str) -> bool:
    """Does it refuse a new connection? One that it takes is closed at once."""
    path = "/" in address
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as probe:
        probe.setblocking(False)
        failed = probe.connect_ex(address if path else (HOST, int(address)))
        if failed == errno.EINPROGRESS:
            failed = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return failed in (errno.ECONNREFUSED, errno.ENOENT)


@dataclass
class Rate:
    """What a server did in some seconds."""

    each_second: float
    cpu_each: float  # seconds of the server's processor for one
    share: float  # of a core that the server used: below 1, we were the slower


def count_rounds(
    server: Server, connections: Sockets, seconds: float, message: bytes, reply: bytes
) -> Rate:
    """Request and reply, on all connections at once, for some seconds."""
    with select.epoll() as epoll:
        for descriptor in connections:
            epoll.register(descriptor, select.EPOLLIN)
            os.write(descriptor, message)
        for counted in (seconds / 5, seconds):  # first it warms up
            rounds, cpu = 0, server.cpu_seconds()
            began = now = time.perf_counter()
            while now < began + counted:
                for descriptor, _ in epoll.poll(_PATIENCE, _EVENTS):
                    if os.read(descriptor, len(reply) + 1) != reply:
                        raise RuntimeError("what came back is not what was sent")
                    rounds += 1
                    os.write(descriptor, message)
                now = time.perf_counter()
            cpu = server.cpu_seconds() - cpu
    return Rate(rounds / (now - began), cpu / rounds, cpu / (now - began))


def count_connections(server: Server, at_once: int, seconds: float) -> Rate:
    """Connect, say a byte, hear it back, hear the end: so many at once, for some seconds."""
    port = int(server.first_line)
    abort = b"\1\0\0\0\0\0\0\0"  # SO_LINGER for no seconds: nothing stays in TIME_WAIT
    opened = itertools.count()
    replied: set[int] = set()
    connections: Sockets = {}
    with select.epoll() as epoll:

        def begin() -> None:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{1 + next(opened) % 8}", 0))
            connection.connect((HOST, port))
            connection.send(b"x")
            epoll.register(connection, select.EPOLLIN)
            connections[connection.fileno()] = connection

        for _ in range(at_once):
            begin()
        for counted in (seconds / 5, seconds):
            served, cpu = 0, server.cpu_seconds()
            began = now = time.perf_counter()
            while now < began + counted:
                for descriptor, _ in epoll.poll(_PATIENCE, _EVENTS):
                    if os.read(descriptor, 64) == b"x":
                        replied.add(descriptor)
                    else:
                        replied.remove(descriptor)  # an end without a reply is an error
                        served += 1
                        connections.pop(descriptor).close()
                        begin()
                now = time.perf_counter()
            cpu = server.cpu_seconds() - cpu
        for connection in connections.values():
            connection.close()
    return Rate(served / (now - began), cpu / served, cpu / (now - began))


def transfer(connection: socket.socket, request: bytes, body: int, reply: int) -> bytes:
    """Send a request with so many bytes of body, a MB at a time, and read the reply to it.

    That has a head and so many bytes. Returns the end of it.
    """
    connection.sendall(request)
    piece = bytes(_MEGABYTE)
    for _ in range(body // _MEGABYTE):
        connection.sendall(piece)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    left = reply - len(received.partition(b"\r\n\r\n")[2])
    room = bytearray(_MEGABYTE)
    last = received
    while left > 0:
        size = connection.recv_into(room)
        if not size:
            raise RuntimeError(f"{left:,} bytes are missing")
        left -= size
        last = bytes(room[max(0, size - 100) : size])
    return last


def largest(limit: int) -> int:
    """How many connections the limit on descriptors allows, in round thousands."""
    allowed = limit if limit > 0 else int(Path("/proc/sys/fs/nr_open").read_text())
    return min((allowed - 200) // 1000 * 1000, 50_000)
