"""What clients and servers of the hostile tests say to each other: requests that have a tag, and
replies that repeat it.

A reply repeats its tag in each part of its body, so that no piece of another can pass for it. What
clients do with this is decided in clients, what has to become of it in ledger.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Protocol

_TAG = re.compile(rb"tag: (\S+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"connection: close\r\n", re.IGNORECASE)


class GarbledError(Exception):
    """The server has sent what is no reply."""


@dataclass(frozen=True)
class Ask:
    """One request.

    The server waits for ``pause`` ms, and answers with ``size`` bytes in so many pieces.
    """

    tag: str
    size: int
    pause: int
    pieces: int

    def words(self) -> str:
        return f"{self.tag}/{self.size}/{self.pause}/{self.pieces}"


def ask_of(words: str) -> Ask:
    tag, *numbers = words.split("/")
    return Ask(tag, *map(int, numbers))


def pattern(tag: str, size: int) -> bytes:
    part = f"<{tag}>".encode()
    return (part * (size // len(part) + 1))[:size]


@dataclass(frozen=True)
class Reply:
    tag: str  # nothing for an error
    status: int = 200


class Dialect(Protocol):
    """How a client speaks. One of these for each connection."""

    closing: bytes  # what it has to send when ``is_closing``
    is_closing: bool  # the server has said that it ends the connection
    is_last: bool  # the server has said that there will be no further reply

    def greeting(self) -> bytes: ...
    def request(self, ask: Ask, rng: random.Random, /) -> bytes: ...
    def read(self, buffer: bytearray) -> Reply | None:
        """Take the next whole reply out of what has come. None if there is none.

        Raises:
          GarbledError: if this can't become one.
        """


def check(tag: str, body: bytes, size: int | None = None) -> Reply:
    if body != pattern(tag, len(body) if size is None else size):
        raise GarbledError(f"the reply to {tag} has another's body: {body[:80]!r}")
    return Reply(tag)


class Lines:
    """For TCP, TLS and Unix sockets: a line, and a line with a body."""

    closing = b""
    is_closing = is_last = False

    def greeting(self) -> bytes:
        return b""

    def request(self, ask: Ask, _rng: random.Random) -> bytes:
        return ask.words().encode() + b"\n"

    def read(self, buffer: bytearray) -> Reply | None:
        end = buffer.find(b"\n", 0, 100)
        if end < 0:
            return None
        tag, _, number = bytes(buffer[:end]).decode().partition(" ")
        size = int(number)
        if len(buffer) < end + 1 + size:
            return None
        body = bytes(buffer[end + 1 : end + 1 + size])
        del buffer[: end + 1 + size]
        return check(tag, body, size)


class HTTP:
    """HTTP/1.1, with and without a body, of known length and in chunks."""

    closing = b""
    is_closing = False

    def __init__(self) -> None:
        self.is_last = False

    def greeting(self) -> bytes:
        return b""

    def request(self, ask: Ask, rng: random.Random) -> bytes:
        start = f" /{ask.words()} HTTP/1.1\r\nHost: x\r\n".encode()
        size = rng.choice((0, 1, 100, 20_000, 100_000))
        kind = rng.random()
        if kind < 0.6:
            return b"GET" + start + b"\r\n"
        body = pattern(ask.tag, size)
        if kind < 0.8:
            return b"POST" + start + b"Content-Length: %d\r\n\r\n" % size + body
        chunks = [b"POST" + start + b"Transfer-Encoding: chunked\r\n\r\n"]
        while body:
            at = rng.randint(1, len(body))
            chunks.append(b"%x\r\n%b\r\n" % (at, body[:at]))
            body = body[at:]
        return b"".join(chunks) + b"0\r\n\r\n"

    def read(self, buffer: bytearray) -> Reply | None:
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            if buffer and not b"HTTP/1.1 ".startswith(buffer[:9]):
                raise GarbledError(f"this is no response: {bytes(buffer[:80])!r}")
            return None
        head = bytes(buffer[:end])
        if not head.startswith(b"HTTP/1.1 "):
            raise GarbledError(f"this is no response: {head[:80]!r}")
        if self.is_last:
            raise GarbledError(f"a response after Connection: close: {head[:80]!r}")
        status = int(head[9:12])
        if status < 200:
            del buffer[:end]
            return self.read(buffer)
        if length := _LENGTH.search(head):
            body, behind = bytes(buffer[end : end + int(length[1])]), end + int(length[1])
            if behind > len(buffer):
                return None
        else:
            pieces: list[bytes] = []
            behind = end
            while not pieces or pieces[-1]:
                line = buffer.find(b"\r\n", behind)
                if line < 0:
                    return None
                size = int(buffer[behind:line], 16)
                behind = line + 2 + size + 2
                if behind > len(buffer):
                    return None
                pieces.append(bytes(buffer[line + 2 : behind - 2]))
            body = b"".join(pieces)
        del buffer[:behind]
        self.is_last = bool(_CLOSE.search(head))
        if status != 200:
            return Reply("", status)
        tag = _TAG.search(head)
        if tag is None:
            raise GarbledError(f"a reply without a tag: {head!r}")
        return check(tag[1].decode(), body)


class WebSockets:
    """A message for each request and reply; no masks worth the name, no fragments."""

    def __init__(self) -> None:
        self.is_open = False
        self.is_closing = self.is_last = False
        self.closing = b"\x88\x80\0\0\0\0"

    def greeting(self) -> bytes:
        return (
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def request(self, ask: Ask, _rng: random.Random) -> bytes:
        words = ask.words().encode()
        return b"\x81%c\0\0\0\0%b" % (0x80 | len(words), words)

    def read(self, buffer: bytearray) -> Reply | None:
        if not self.is_open:
            end = buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return None
            status = int(buffer[9:12])
            if status != 101:
                if not (length := _LENGTH.search(buffer)):
                    raise GarbledError(f"a refusal without a length: {bytes(buffer)!r}")
                if len(buffer) < end + int(length[1]):
                    return None
                del buffer[: end + int(length[1])]
                self.is_last = True
                return Reply("", status)
            del buffer[:end]
            self.is_open = True
        if len(buffer) < 2:
            return None
        size, at = buffer[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:at], "big")
        if len(buffer) < at + size:
            return None
        kind, body = buffer[0], bytes(buffer[at : at + size])
        if self.is_last:
            raise GarbledError(f"a frame after Close: {kind:#x}")
        del buffer[: at + size]
        if kind == 0x88:
            self.is_closing = self.is_last = True
            return None
        if kind != 0x81:
            raise GarbledError(f"a frame of kind {kind:#x}")
        tag, _, rest = body.partition(b" ")
        return check(tag.decode(), rest)
