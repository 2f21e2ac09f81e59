"""Keep-alive clients, each with one request after the other, while servers come and go.

Decides what a failure is. A request may be tried once more where nobody has answered it: on a
connection that was used before, and that ended before the first byte of an answer; or where a proxy
says 502 of such a connection of its own. What fails then has failed. What had to be tried again is
counted apart, for a client that would not do so.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from ._client import HOST

_PATIENCE = 10.0  # seconds for an answer
_PAUSE = 0.01  # seconds before the next request, where nobody listens
_EVENTS = 128
_OVER = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_BODY = b"." * 1000
METHODS = ("GET", "POST")  # of the even numbers, and of the odd ones


@dataclass
class Outcome:
    """What became of all requests."""

    answered: int = 0
    failed: set[int] = field(default_factory=set)  # though tried again, where that may be
    not_at_once: Counter[str] = field(default_factory=Counter)  # by the method
    reasons: Counter[str] = field(default_factory=Counter)  # why not
    seconds: float = 0.0


class _Client:
    """One client, and its connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket: socket.socket | None = None
        self.number = -1
        self.is_again = False
        self.is_used = False  # has anything been answered on the connection?
        self.received = b""
        self.sent_at = 0.0

    def connect(self, epoll: select.epoll) -> None:
        connection = socket.socket()
        try:
            connection.connect((HOST, self._port))
        except OSError:
            connection.close()
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        epoll.register(connection, select.EPOLLIN | select.EPOLLRDHUP)
        self.socket, self.is_used = connection, False

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def send(self) -> None:
        assert self.socket is not None
        self.received = b""
        self.sent_at = time.perf_counter()
        if self.number % 2:
            head = b"POST /%09d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            self.socket.send(head % self.number + _BODY)
        else:
            self.socket.send(b"GET /%09d HTTP/1.1\r\nHost: localhost\r\n\r\n" % self.number)


class _Clients:
    """All clients. ``run`` has so many requests answered."""

    def __init__(self, port: int, clients: int, requests: int) -> None:
        self._clients = [_Client(port) for _ in range(clients)]
        self._by_descriptor: dict[int, _Client] = {}
        self._left = requests
        self._next = 0
        self._paused: list[tuple[float, _Client]] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        began = time.perf_counter()
        next_look = began + 1.0
        with select.epoll() as self._epoll:
            for client in self._clients:
                self._begin(client)
            while self._by_descriptor or self._paused:
                events = self._epoll.poll(_PAUSE if self._paused else 1.0, _EVENTS)
                for descriptor, mask in events:
                    if (client := self._by_descriptor.get(descriptor)) is not None:
                        self._hear(client, over=bool(mask & _OVER))
                now = time.perf_counter()
                if self._paused:
                    self._resume(now)
                if now > next_look:
                    next_look = now + 1.0
                    self._look(now)
        self.outcome.seconds = time.perf_counter() - began
        return self.outcome

    def _begin(self, client: _Client) -> None:
        """Give it the next request."""
        if self._next == self._left:
            self._close(client)
            return
        client.number, client.is_again = self._next, False
        self._next += 1
        self._try(client)

    def _try(self, client: _Client) -> None:
        if client.socket is None:
            try:
                client.connect(self._epoll)
            except OSError as exc:
                self._failed(client, f"no connection: {exc.strerror}", again=False, pause=True)
                return
            assert client.socket is not None
            self._by_descriptor[client.socket.fileno()] = client
        try:
            client.send()
        except OSError as exc:
            self._failed(client, f"sending: {exc.strerror}", again=client.is_used)

    def _hear(self, client: _Client, *, over: bool) -> None:
        assert client.socket is not None
        try:
            data = client.socket.recv(65536)
        except OSError as exc:
            self._failed(client, f"{exc.strerror}", again=client.is_used and not client.received)
            return
        client.received += data
        if not data:
            why = "cut" if client.received else "ended before an answer"
            self._failed(client, why, again=client.is_used and not client.received)
        elif client.received.endswith(b"\r\n\r\n%09d" % client.number):
            client.is_used = True
            self.outcome.answered += 1
            if over or b"connection: close" in client.received.lower():
                self._close(client)
            self._begin(client)
        elif not client.received.startswith(b"HTTP/1.1 200 "[: len(client.received)]):
            status = client.received.split(b"\r\n")[0].decode(errors="replace")
            self._failed(client, status, again=" 502" in status, pause=" 503" in status)

    def _failed(self, client: _Client, why: str, *, again: bool, pause: bool = False) -> None:
        """Try it again, or go on with another."""
        self._close(client)
        if not client.is_again:
            self.outcome.not_at_once[METHODS[client.number % 2]] += 1
        where = "used" if client.is_used else "new"
        which = "again" if client.is_again else "first"
        self.outcome.reasons[f"{METHODS[client.number % 2]}, {which}, {where}: {why}"] += 1
        if again and not client.is_again:
            client.is_again = True
            self._try(client)
            return
        self.outcome.failed.add(client.number)
        if pause:
            self._paused.append((time.perf_counter() + _PAUSE, client))
        else:
            self._begin(client)

    def _resume(self, now: float) -> None:
        due = [client for when, client in self._paused if when <= now]
        self._paused = [(when, client) for when, client in self._paused if when > now]
        for client in due:
            self._begin(client)

    def _look(self, now: float) -> None:
        """Give up on what is not answered."""
        for client in list(self._by_descriptor.values()):
            if now > client.sent_at + _PATIENCE:
                self._failed(client, "no answer", again=False)

    def _close(self, client: _Client) -> None:
        if client.socket is not None:
            del self._by_descriptor[client.socket.fileno()]
            client.close()


def send_requests(port: int, clients: int, requests: int) -> Outcome:
    """Have so many requests answered, by so many clients at once."""
    return _Clients(port, clients, requests).run()
