"""Clients of every kind, made at random: polite ones, pipeliners, half-closers, silent ones, slow
readers, resetters, and those that send junk.

Each of them is a task that writes, and one that reads. What it has seen is in its Account.
"""

from __future__ import annotations

import random
import socket as stdlib_socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from .dialects import Ask, Dialect, GarbledError, Reply
from .ledger import Account, Ledger

Connect = Callable[[], Awaitable[trio.SocketStream]]

KINDS = (
    ["polite"] * 3
    + ["pipeliner"] * 2
    + [
        "half-closer",
        "silent",
        "half a request",
        "slow reader",
        "late reader",
        "resetter",
        "leaver",
        "junk",
    ]
)
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class Clients:
    """Those of one server."""

    ledger: Ledger
    connect: Connect
    dialect: Callable[[], Dialect]
    rng: random.Random
    ssl_context: ssl.SSLContext | None = None
    can_half_close: bool = True
    most_pause: int = 60  # ms
    sizes: tuple[int, ...] = (0, 1, 100, 100, 5_000, 70_000, 600_000)

    async def run(self, number: int, over: float) -> None:
        """So many, that come within ``over`` seconds."""
        async with trio.open_nursery() as nursery:
            for index in range(number):
                rng = random.Random(self.rng.random())
                client = Client(self, Account(f"c{index}"), rng)
                self.ledger.accounts.append(client.account)
                nursery.start_soon(client.run, rng.uniform(0, over))


class Client:
    def __init__(self, all_of_them: Clients, account: Account, rng: random.Random) -> None:
        self._all = all_of_them
        self.account = account
        self._rng = rng
        self._dialect = all_of_them.dialect()
        self.kind = rng.choice(KINDS)
        if self.kind == "half-closer" and not all_of_them.can_half_close:
            self.kind = "pipeliner"
        account.kind = self.kind
        account.is_junk = self.kind in ("junk", "half a request")
        self._stream: trio.abc.Stream
        self._transport: trio.SocketStream
        self._news = trio.Event()
        self._is_over = False
        self._asked = 0

    async def run(self, delay: float) -> None:
        await trio.sleep(delay)
        try:
            self._stream = self._transport = await self._all.connect()
        except OSError:
            self.account.end = "refused"
            return
        if self.kind in ("slow reader", "late reader"):
            self._transport.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 65536)
        if self._all.ssl_context is not None:
            tls = trio.SSLStream(
                self._transport, self._all.ssl_context, server_hostname="localhost"
            )
            try:
                await tls.do_handshake()
            except trio.BrokenResourceError:
                self.account.end = "eof" if self._all.ledger.stop_came < trio.current_time() else ""
                await trio.aclose_forcefully(tls)
                return
            self._stream = tls
        rng = self._rng
        leaves = self.kind in ("resetter", "leaver", "half a request") or rng.random() < 0.1
        # One that does not answer a Close is waited for.
        leaves = leaves or (self.kind in ("silent", "junk") and bool(self._dialect.closing))
        life = rng.uniform(0, 0.6) if leaves else 20
        try:
            with trio.move_on_after(life) as living:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
            if leaves and living.cancel_called:
                self.account.end = "left"
        finally:
            if self.kind == "resetter":
                self._transport.setsockopt(
                    stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _RESET_AT_CLOSE
                )
            await trio.aclose_forcefully(self._stream)

    # What it reads.

    async def _read(self) -> None:
        buffer = bytearray()
        if self.kind == "late reader":
            await trio.sleep(self._rng.uniform(0, 1))
        while True:
            try:
                data = await self._stream.receive_some(
                    20_000 if self.kind == "slow reader" else 65536
                )
            except trio.BrokenResourceError:
                self.account.end = "reset"
                break
            if not data:
                self.account.end = "eof"
                break
            buffer += data
            self._take(buffer)
            if self.kind == "slow reader":
                await trio.sleep(0.001)
        self._is_over = True
        self.account.half = bytes(buffer)[:80]
        self._tell()

    def _take(self, buffer: bytearray) -> None:
        try:
            while (reply := self._dialect.read(buffer)) is not None:
                self.account.replies.append(reply)
                self._tell()
        except (GarbledError, ValueError) as exc:
            if not self.account.is_junk:
                self._all.ledger.wrong.append(f"{exc!r}: {self.account}")
            self.account.replies.append(Reply("", 999))
            buffer.clear()
        if self._dialect.is_closing:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # What it writes.

    async def _write(self) -> None:
        try:
            await self._send(self._dialect.greeting())
            await self._talk()
            while self._dialect.closing and not self._is_over:
                if self._dialect.is_closing:
                    return await self._send(self._dialect.closing)
                await self._news.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # What it can still read, it reads. The kernel tells of a reset but once.
            self.account.was_reset = True

    async def _talk(self) -> None:
        rng = self._rng
        if self.kind == "silent":
            return
        if self.kind == "junk":
            junk = rng.choice(
                (
                    rng.randbytes(rng.randint(1, 3000)),
                    self._request()[: rng.randint(1, 50)] + rng.randbytes(50),
                    b"\r\n" * 100,
                    b"\x16\x03\x01" * 20 + b"\n",
                )
            )
            await self._send(junk)
            return
        if self.kind == "half a request":
            whole = self._request()
            await self._send(whole[: rng.randint(1, len(whole) - 1)])
            return
        for _ in range(rng.randint(1, 6)):
            if self._dialect.is_last or self._is_over:
                return
            number = 1 if self.kind == "polite" else rng.randint(1, 5)
            first = self._asked
            data = b"".join(self._request() for _ in range(number))
            await self._send(data)
            now = trio.current_time()
            for at in range(first, self._asked):
                self.account.sent.append((f"{self.account.name}.{at}", now))
            if self.kind == "polite":
                while len(self.account.replies) < self._asked:
                    if self._dialect.is_last or self._is_over:
                        return
                    await self._news.wait()
            if rng.random() < 0.5:
                await trio.sleep(rng.uniform(0, 0.1))
        if self.kind == "half-closer" or (self._all.can_half_close and rng.random() < 0.1):
            await self._transport.send_eof()

    def _request(self) -> bytes:
        rng = self._rng
        ask = Ask(
            f"{self.account.name}.{self._asked}",
            rng.choice(self._all.sizes),
            rng.choice((0, 0, rng.randint(0, self._all.most_pause))),
            rng.randint(1, 3),
        )
        self._asked += 1
        return self._dialect.request(ask, rng)

    async def _send(self, data: bytes) -> None:
        """In one piece, or in some."""
        rng = self._rng
        while data:
            at = len(data) if rng.random() < 0.5 else rng.randint(1, len(data))
            self.account.wrote = trio.current_time()
            await self._stream.send_all(data[:at])
            self.account.wrote = trio.current_time()
            data = data[at:]
            if data and rng.random() < 0.5:
                await trio.sleep(rng.uniform(0, 0.01))
