"""What the tests of listeners share: a server in a group, its clients, and handlers."""

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_run import Event, Group, Report, TCPListener, busy
from trio_run._listeners._connection import Connection
from trio_run._listeners._stream import StreamListener
from trio_run.testing import connect, read_exactly, read_to_end, running, wait_stopped

from .. import TIMEOUT

HOST = "127.0.0.1"

Handler = Callable[[Any], Awaitable[object]]


class Server:
    """A listener in a group, and its clients."""

    def __init__(self, listener: StreamListener, group: Group) -> None:
        self.listener = listener
        self.group = group
        self.ended = trio.Event()
        self._clients: list[socket.socket] = []
        group.on_event(self._look)

    @property
    def address(self) -> Any:
        """(host, port), or where a Unix socket is."""
        address = self.listener.addresses[0]
        return address[:2] if isinstance(address, tuple) else address

    @property
    def report(self) -> Report:
        return self.group.report

    @property
    def detail(self) -> str:
        return self.report.actors[0].detail

    async def connect(self) -> trio.SocketStream:
        return await connect(self.listener)

    def connect_now(self, request: bytes = b"") -> trio.SocketStream:
        """Connect and send without a checkpoint, so that the listener has no chance to accept
        before.

        It is closed with the server at the latest.
        """
        client = connected_to(self.address)
        self._clients.append(client)
        client.sendall(request)
        client.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(client))

    async def stop(self) -> Report:
        self.group.stop()
        return await wait_stopped(self.group)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def _look(self, event: Event) -> None:
        if event.kind == "over":
            self.ended.set()


def connected_to(address: Any) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address)
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


@asynccontextmanager
async def serving(
    handler: Handler,
    *,
    kind: Callable[..., StreamListener] = TCPListener,
    grace: float = 30.0,
    **options: Any,
) -> AsyncIterator[Server]:
    """A server that listens; it is stopped at the end, if it still runs."""
    if kind is TCPListener and "sockets" not in options:
        options = {"port": 0, "host": HOST} | options
    listener = kind(handler, **options)
    server = Server(listener, Group(grace=grace))
    server.group.add(listener)
    with trio.fail_after(TIMEOUT):
        async with running(server.group):
            try:
                yield server
                await server.stop()
            finally:
                server.close_clients()


async def echo(stream: trio.abc.Stream) -> None:
    """As for trio.serve_tcp."""
    async for chunk in stream:
        await stream.send_all(chunk)


async def ask(client: trio.abc.Stream, request: bytes) -> bytes:
    """Send a request, and wait for a reply that is as long."""
    await client.send_all(request)
    return await read_exactly(client, len(request))


async def read_and_close(client: trio.abc.Stream) -> bytes:
    """As a client that hangs up at the end of the stream: the server need not linger for it."""
    async with client:
        return await read_to_end(client)


async def send_for_ever(client: trio.abc.Stream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await client.send_all(data)


def name_of(client: trio.SocketStream) -> str:
    host, port = client.socket.getsockname()
    return f"{host}:{port}"


def lines_of(caplog: pytest.LogCaptureFixture, text: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if text in record.getMessage()]


def listening_at(kind: type[socket.socket] = socket.socket) -> Any:
    bound = kind()
    bound.bind((HOST, 0))
    return bound


def slow_client(address: tuple[str, int]) -> trio.SocketStream:
    """One whose kernel takes little of a reply that it does not read."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(address)
    slow.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(slow))


def clog_stream(stream: Connection) -> int:
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as same:
        return clog(same)


def clog(sender: socket.socket) -> int:
    """Send until the kernel takes no more."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sender.send(bytes(65536))
    return sent


class Conversation:
    """A handler that answers "ask" in nested busy blocks, and what it has seen."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.go = trio.Event()

    async def __call__(self, stream: trio.abc.Stream) -> None:
        try:
            while True:
                chunk = await stream.receive_some(3)
                self.seen.append(bytes(chunk))
                if not chunk:
                    return
                with busy():
                    with busy():
                        await stream.send_all(b"begun ")
                        await self.go.wait()
                    self.seen.append(await stream.receive_some(4))  # not told yet: it reads on
                    await stream.send_all(b"done")
        except trio.Cancelled:
            self.seen.append("cancelled")
            raise


async def begin(client: trio.abc.Stream) -> None:
    await client.send_all(b"ask")
    assert await read_exactly(client, 6) == b"begun "


async def finish(client: trio.abc.Stream) -> None:
    await client.send_all(b"body")
    assert await read_exactly(client, 4) == b"done"


async def stuck(stream: trio.abc.Stream) -> None:
    with busy():
        await stream.send_all(b"begun ")
        await trio.sleep_forever()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
