"""HTTPListener and clients that break the protocol, by mistake or in order to smuggle requests in.

One table says what each malformed request gets. Every row is followed by a good request, NEXT:
where a row is refused that one is never served, and where a row is accepted it is found exactly
where RFC 9112 says. Where the RFCs leave a choice the rows say "strict" or "lenient" and which it
is; lenient is only what cannot change where a request ends.

TRIO_RUN_EXAMPLES says how many random requests to try, for a long run: 20000, say.
"""

import contextlib
import itertools
import logging
import os
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_run.testing import read_to_end

from .http_serving import serving_app
from .serving import Server, name_of

EXAMPLES = int(os.environ.get("TRIO_RUN_EXAMPLES", "300"))
MAX_HEAD = 65536  # bytes
LONGEST_LINE = 500  # characters that a client can make us log

NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nHost: other\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: good\r\n\r\n"  # of another client, all the while

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
WEBSOCKET = (*UPGRADE, b"Sec-WebSocket-Version: 13", KEY)

CLIENT_HELLO = bytes.fromhex("16030100c8010000c403035f") + bytes(range(190))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *headers, b"", body])


def get(*headers: bytes, target: bytes = b"/", method: bytes = b"GET") -> bytes:
    return request(method + b" " + target + b" HTTP/1.1", b"Host: h", *headers)


def post(*headers: bytes, body: bytes = b"hello") -> bytes:
    return request(b"POST / HTTP/1.1", b"Host: h", *headers, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def head_of(size: int) -> bytes:
    """A request that is all head, of so many bytes."""
    head = get(b"X: ")
    return head.replace(b"X: ", b"X: " + b"x" * (size - len(head)))


@dataclass(frozen=True)
class Row:
    what: str
    sent: bytes
    gets: int | tuple[int, ...]  # before the answer to NEXT, which comes where no refusal does
    app: str | None = None  # what the app was given: the request, with its body or LEFT
    ends: bool = False  # the connection ends with it, though it is accepted

    @property
    def statuses(self) -> list[int]:
        statuses = [self.gets] if isinstance(self.gets, int) else list(self.gets)
        return statuses + ([200] if self.goes_on else [])

    @property
    def refused(self) -> bool:
        return (self.gets if isinstance(self.gets, int) else self.gets[-1]) >= 400

    @property
    def goes_on(self) -> bool:
        return not (self.refused or self.ends)

    @property
    def seen(self) -> list[str]:
        return ([self.app] if self.app else []) + (["GET /next"] if self.goes_on else [])


LEFT = "POST / (left)"
HELLO = "POST / hello"

ROWS = [
    # The request line.
    Row("a space before the method", b" " + get(), 400),
    Row("a tab before the method", b"\t" + get(), 400),
    Row("no method", request(b"/ HTTP/1.1", b"Host: h"), 400),
    Row("no target", request(b"GET HTTP/1.1", b"Host: h"), 400),
    Row("no version (HTTP/0.9)", request(b"GET /"), 400),
    Row("no version, and a bare LF", b"GET /\n\r\n", 400),
    Row("two spaces after the method (strict)", request(b"GET  / HTTP/1.1", b"Host: h"), 400),
    Row("a tab after the method (strict)", request(b"GET\t/ HTTP/1.1", b"Host: h"), 400),
    Row("a space after the version (strict)", request(b"GET / HTTP/1.1 ", b"Host: h"), 400),
    Row("a space in the target", request(b"GET /a b HTTP/1.1", b"Host: h"), 400),
    Row("a NUL in the target", get(target=b"/a\0b"), 400),
    Row("a bare CR in the target", get(target=b"/a\rb"), 400),
    Row("a bare LF in the target", get(target=b"/a\nb"), 400),
    Row("bytes above ASCII in the target", get(target="/é".encode()), 400),
    Row("a delimiter in the method", get(method=b"G(T"), 400),
    Row("a method that nobody knows", get(method=b"BREW"), 501),
    Row("a method in small letters (it is another one)", get(method=b"get"), 501),
    Row("two empty lines before (a SHOULD)", b"\r\n\r\n" + get(), 200, "GET /"),
    Row("an empty line after (a SHOULD)", get() + b"\r\n", 200, "GET /"),
    Row("nonsense", b"\xff\xfe nonsense\r\n\r\n", 400),
    Row("a TLS ClientHello on a plain port", CLIENT_HELLO, 400),
    Row("an HTTP/2 preface", PREFACE, 505),
    # Versions.
    Row("HTTP/1.0 without Host", request(b"GET / HTTP/1.0"), 200, "GET /", ends=True),
    Row("HTTP/1.2 (strict)", request(b"GET / HTTP/1.2", b"Host: h"), 505),
    Row("HTTP/2.0", request(b"GET / HTTP/2.0", b"Host: h"), 505),
    Row("HTTP/0.9 spelled out", request(b"GET / HTTP/0.9", b"Host: h"), 505),
    Row("HTTP/1.10", request(b"GET / HTTP/1.10", b"Host: h"), 400),
    Row("HTTP/11", request(b"GET / HTTP/11", b"Host: h"), 400),
    Row("http/1.1 in small letters", request(b"GET / http/1.1", b"Host: h"), 400),
    Row("another protocol", request(b"GET / RTSP/1.0", b"Host: h"), 400),
    # Targets.
    Row("CONNECT", get(target=b"h:80", method=b"CONNECT"), 501),
    Row("CONNECT with a path", get(method=b"CONNECT"), 501),
    Row("OPTIONS *", get(target=b"*", method=b"OPTIONS"), 200, "OPTIONS *"),
    Row("GET *", get(target=b"*"), 400),
    Row("a target without a slash", get(target=b"a"), 400),
    Row("a fragment in the target (strict)", get(target=b"/a#b?c"), 400),
    Row("an absolute target", get(target=b"http://h/a?b"), 200, "GET /a?b"),
    Row("an absolute target without a path", get(target=b"http://h"), 200, "GET /"),
    Row("an absolute target without a host", get(target=b"http:///a"), 400),
    Row("an absolute target with a broken host", get(target=b"http://[::1/a"), 400),
    Row("two slashes are a path, no host", get(target=b"//h/a"), 200, "GET //h/a"),
    # Host.
    Row("no Host", request(b"GET / HTTP/1.1"), 400),
    Row("two Hosts", get(b"Host: other"), 400),
    Row("two equal Hosts", get(b"Host: h"), 400),
    Row("two Hosts in HTTP/1.0", request(b"GET / HTTP/1.0", b"Host: h", b"Host: h"), 400),
    Row("a space in Host", get().replace(b": h", b": h i"), 400),
    Row("a path in Host", get().replace(b": h", b": h/i"), 400),
    Row("a user in Host", get().replace(b": h", b": u@h"), 400),
    Row("bytes above ASCII in Host", get().replace(b": h", b": \xff"), 400),
    Row("a port that is none in Host", get().replace(b": h", b": h:port"), 400),
    Row("an empty Host (allowed)", get().replace(b": h", b":"), 200, "GET /"),
    Row("an IPv6 Host with a port", get().replace(b": h", b": [::1]:80"), 200, "GET /"),
    # Header lines.
    Row("a space before the colon", get(b"X : y"), 400),
    Row("a tab before the colon", get(b"X\t: y"), 400),
    Row("a space in the name", get(b"X Y: z"), 400),
    Row("no name", get(b": y"), 400),
    Row("no colon", get(b"X"), 400),
    Row("a delimiter in the name", get(b"X(y): z"), 400),
    Row("a NUL in the name", get(b"X\0: y"), 400),
    Row("a name above ASCII", get(b"\xc3\xa9: y"), 400),
    Row("a NUL in the value", get(b"X: a\0b"), 400),
    Row("a bare CR in the value (strict)", get(b"X: a\rb"), 400),
    Row("a CR too many at the end of a line (strict)", get(b"X: a\r"), 400),
    Row("a vertical tab in the value", get(b"X: a\x0bb"), 400),
    Row("other control characters in the value (strict)", get(b"X: a\x01\x7fb"), 400),
    Row("bytes above ASCII in the value", get(b"X: \xff"), 200, "GET /"),
    Row("an empty value", get(b"X:"), 200, "GET /"),
    Row("a bare LF instead of each CRLF (strict)", get(b"X: y").replace(b"\r\n", b"\n"), 400),
    Row("a bare LF after the request line (strict)", get().replace(b"1.1\r", b"1.1"), 400),
    Row("a bare LF after a header (strict)", get(b"X: y\nZ: z"), 400),
    Row("a bare LF that hides a length (strict)", post(b"X: y\nContent-Length: 5"), 400),
    Row("a bare LF for the empty line (strict)", get()[:-2] + b"\n", 400),
    Row("a first header that is folded, space", request(b"GET / HTTP/1.1", b" Host: h"), 400),
    Row("a first header that is folded, tab", request(b"GET / HTTP/1.1", b"\tHost: h"), 400),
    Row("a first header that goes on, space (strict)", get(b" X: y"), 400),
    Row("a later header that goes on, space (strict)", get(b"X: y", b" z"), 400),
    Row("a later header that goes on, tab (strict)", get(b"X: y", b"\tz"), 400),
    Row("a folded Content-Length (strict)", post(b"Content-Length:", b" 5"), 400),
    Row("a folded Transfer-Encoding (strict)", post(b"Transfer-Encoding:", b"\tchunked"), 400),
    Row("an empty header that is folded (strict)", get(b"X: y", b" "), 400),
    # Size.
    Row("a head as long as may be", head_of(MAX_HEAD), 200, "GET /"),
    Row("a head one byte too long", head_of(MAX_HEAD + 1), 431),
    Row("a head far too long", head_of(3 * MAX_HEAD), 431),
    Row("a request line that does not end", b"GET /" + b"a" * 3 * MAX_HEAD, 431),
    Row("a method that does not end", b"G" * 3 * MAX_HEAD, 501),
    Row("many headers", get(*[b"X: y"] * 900), 200, "GET /"),
    Row("five thousand short headers", get(*[b"X: y"] * 5000), 431),
    Row("a header whose name is followed by a secret", get(b"Authorization : Bearer secret"), 400),
    Row("too many headers", get(*[b"X: y"] * 20000), 431),
    Row("a long line that is wrong", get(b"x" * 60000), 400),
    # How long the body is.
    Row(
        "both lengths (strict)",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        400,
    ),
    Row(
        "both lengths, the other way round (strict)",
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
        400,
    ),
    Row("Content-Length: -5", post(b"Content-Length: -5"), 400),
    Row("Content-Length: +5", post(b"Content-Length: +5"), 400),
    Row("Content-Length: 0x5", post(b"Content-Length: 0x5"), 400),
    Row("Content-Length: 5.0", post(b"Content-Length: 5.0"), 400),
    Row("Content-Length: 5 5", post(b"Content-Length: 5 5"), 400),
    Row("Content-Length: 5_0", post(b"Content-Length: 5_0"), 400),
    Row("an empty Content-Length", post(b"Content-Length:"), 400),
    Row("Content-Length: 5, 5 (strict)", post(b"Content-Length: 5, 5"), 400),
    Row("Content-Length: 5,6", post(b"Content-Length: 5,6"), 400),
    Row("Content-Length: 5,", post(b"Content-Length: 5,"), 400),
    Row(
        "two equal Content-Lengths (strict)", post(b"Content-Length: 5", b"content-length: 5"), 400
    ),
    Row("two Content-Lengths", post(b"Content-Length: 5", b"Content-Length: 6"), 400),
    Row("Content-Length: 5 and 05", post(b"Content-Length: 5", b"Content-Length: 05"), 400),
    Row("a Content-Length of 21 digits", post(b"Content-Length: " + b"9" * 21), 400),
    Row("a Content-Length of 5000 digits", post(b"Content-Length: " + b"9" * 5000), 400),
    Row("Content-Length: 0005 (digits they are)", post(b"Content-Length: 0005"), 200, HELLO),
    Row("Content_Length is another header", get(b"Content_Length: 5"), 200, "GET /"),
    Row("a GET with a body", get(b"Content-Length: 5") + b"hello", 200, "GET / hello"),
    Row("a POST without a length has no body", post(body=b""), 200, "POST /"),
    Row(
        "a body longer than its length",
        post(b"Content-Length: 3", body=b"hel\x00lo"),
        (200, 400),
        "POST / hel",
    ),
    Row(
        "a body that looks like a request",
        post(b"Content-Length: %d" % len(OTHER), body=OTHER),
        200,
        "POST / " + OTHER.decode(),
    ),
    Row("Transfer-Encoding: chunked, chunked", post(b"Transfer-Encoding: chunked, chunked"), 400),
    Row(
        "two Transfer-Encodings (strict)",
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        400,
    ),
    Row("Transfer-Encoding: gzip, chunked", post(b"Transfer-Encoding: gzip, chunked"), 501),
    Row("Transfer-Encoding: chunked, gzip", post(b"Transfer-Encoding: chunked, gzip"), 400),
    Row("Transfer-Encoding: gzip", post(b"Transfer-Encoding: gzip"), 400),
    Row("Transfer-Encoding: identity", post(b"Transfer-Encoding: identity"), 400),
    Row("Transfer-Encoding: xchunked", post(b"Transfer-Encoding: xchunked"), 400),
    Row("Transfer-Encoding: chunked;a=b", post(b"Transfer-Encoding: chunked;a=b"), 400),
    Row('Transfer-Encoding: "chunked"', post(b'Transfer-Encoding: "chunked"'), 400),
    Row("an empty Transfer-Encoding", post(b"Transfer-Encoding:"), 400),
    Row("a vertical tab before chunked", post(b"Transfer-Encoding: \x0bchunked"), 400),
    Row("a space before the colon of Transfer-Encoding", post(b"Transfer-Encoding : chunked"), 400),
    Row(
        "xchunked and a Content-Length",
        post(b"Transfer-Encoding: xchunked", b"Content-Length: 5"),
        400,
    ),
    Row(
        "HTTP/1.0 with Transfer-Encoding (strict)",
        request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        400,
    ),
    Row(
        "Transfer-Encoding: CHUNKED",
        post(b"Transfer-Encoding:\t CHUNKED ", body=b"5\r\nhello\r\n0\r\n\r\n"),
        200,
        HELLO,
    ),
    # Chunks.
    Row("chunks", chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), 200, HELLO),
    Row(
        "a chunk size in capitals, with zeros",
        chunked(b"00A\r\n0123456789\r\n0\r\n\r\n"),
        200,
        "POST / 0123456789",
    ),
    Row("chunk extensions", chunked(b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n'), 200, HELLO),
    Row(
        "trailers are thrown away",
        chunked(b"5\r\nhello\r\n0\r\nX: y\r\nHost: other\r\n\r\n"),
        200,
        HELLO,
    ),
    Row("a space after the chunk size (strict)", chunked(b"5 \r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a chunk size of 0x5", chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a negative chunk size", chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a chunk size with a plus", chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a chunk size with an underscore", chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("an empty chunk size", chunked(b"\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a chunk size that is no number", chunked(b"five\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a space before the chunk size", chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row("a chunk size with 20 zeros", chunked(b"0" * 20 + b"5\r\nhello\r\n0\r\n\r\n"), 200, HELLO),
    Row("a chunk size of 17 digits", chunked(b"1" + b"0" * 15 + b"5\r\nhello\r\n"), 400, LEFT),
    Row("no CRLF after a chunk", chunked(b"5\r\nhello0\r\n\r\n"), 400, LEFT),
    Row("two other bytes after a chunk", chunked(b"5\r\nhelloXX0\r\n\r\n"), 400, LEFT),
    Row("a bare LF after a chunk", chunked(b"5\r\nhello\n0\r\n\r\n"), 400, LEFT),
    Row("a bare LF after a chunk size (strict)", chunked(b"5\nhello\r\n0\r\n\r\n"), 400, LEFT),
    Row(
        "a bare CR in a chunk extension (strict)",
        chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        400,
        LEFT,
    ),
    Row(
        "a bare LF in a chunk extension (strict)",
        chunked(b"5;\nxx\r\nhello\r\n0\r\n\r\n"),
        400,
        LEFT,
    ),
    Row("a bare LF that ends the trailers (strict)", chunked(b"5\r\nhello\r\n0\r\n\n"), 400, LEFT),
    Row(
        "a bare LF after a trailer that ends them (strict)",
        chunked(b"5\r\nhello\r\n0\r\nX: y\n\n"),
        400,
        LEFT,
    ),
    Row("a trailer that is no header", chunked(b"5\r\nhello\r\n0\r\nX y\r\n\r\n"), 400, LEFT),
    Row("a chunk extension too long", chunked(b"5;" + b"a" * 3 * MAX_HEAD), 431, LEFT),
    Row("trailers too long", chunked(b"5\r\nhello\r\n0\r\nX: " + b"y" * 3 * MAX_HEAD), 431, LEFT),
    # WebSocket handshakes.
    Row("a WebSocket without a version", get(*UPGRADE, KEY), 400),
    Row("a WebSocket of version 8", get(*UPGRADE, KEY, b"Sec-WebSocket-Version: 8"), 426),
    Row("a WebSocket without a key", get(*UPGRADE, b"Sec-WebSocket-Version: 13"), 400),
    Row(
        "a WebSocket with an empty key",
        get(*UPGRADE, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key:"),
        400,
    ),
    Row(
        "a WebSocket with a short key",
        get(*UPGRADE, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: c2hvcnQ="),
        400,
    ),
    Row(
        "a WebSocket with a key that is no base64",
        get(*UPGRADE, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="),
        400,
    ),
    Row("a WebSocket with two keys", get(*WEBSOCKET, KEY), 400),
    Row(
        "a WebSocket with a subprotocol above ASCII",
        get(*WEBSOCKET, b"Sec-WebSocket-Protocol: \xff"),
        400,
    ),
    Row(
        "a WebSocket with broken extensions",
        get(*WEBSOCKET, b"Sec-WebSocket-Extensions: ;"),
        400,
    ),
    Row("a WebSocket with a Content-Length", get(*WEBSOCKET, b"Content-Length: 5") + b"hello", 400),
    Row(
        "a WebSocket with chunks",
        get(*WEBSOCKET, b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    Row(
        "a WebSocket with chunks, but none",
        get(*WEBSOCKET, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    Row(
        "a WebSocket with bad chunks",
        get(*WEBSOCKET, b"Transfer-Encoding: chunked") + b"x\r\n",
        400,
    ),
    Row("a WebSocket without Connection is a plain GET", get(*WEBSOCKET[1:]), 200, "GET /"),
    Row("a WebSocket by POST is a plain POST", post(*WEBSOCKET, body=b""), 200, "POST /"),
    Row(
        "a WebSocket in HTTP/1.0 is a plain GET",
        request(b"GET / HTTP/1.0", *WEBSOCKET),
        200,
        "GET /",
        ends=True,
    ),
    Row(
        "an Upgrade to something else is a plain GET",
        get(b"Connection: Upgrade", b"Upgrade: h2c"),
        200,
        "GET /",
    ),
]


class App:
    """It reads the whole request, and answers with what it was. How, its path says; the rest does
    not matter.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.headers: dict[str, list[tuple[bytes, bytes]]] = {}
        self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.running += 1
        try:
            if scope["type"] == "websocket":
                await self._converse(receive, send)
            else:
                await self._answer(scope, receive, send)
        finally:
            self.running -= 1

    async def _converse(self, receive: Any, send: Any) -> None:
        self.seen.append("WebSocket")
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        line = f"{scope['method']} {scope['raw_path'].decode()}" + (f"?{query}" if query else "")
        seen = [] if line == "GET /good" else self.seen
        index = len(seen)
        seen.append(f"{line} (begun)")
        self.headers[line] = scope["headers"]
        body: bytes | None = b""
        if "early" in scope["path"]:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"early ", "more_body": True})
        if "ignore" not in scope["path"]:
            body = await self._read(receive)
        if body is None:
            seen[index] = f"{line} (left)"
            if "raise" in scope["path"]:
                raise OSError("the client is gone")
            return
        seen[index] = f"{line} {body.decode('latin-1')}".rstrip(" ")
        async with trio.open_nursery() as nursery:
            if "listen" in scope["path"]:
                nursery.start_soon(receive)
                await trio.lowlevel.checkpoint()
            answer = seen[index].encode("latin-1")
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send({**start, "headers": [(b"x-method", scope["method"].encode())]})
            if "stream" in scope["path"]:
                await send({"type": "http.response.body", "body": answer[:3], "more_body": True})
                answer = answer[3:]
            await send({"type": "http.response.body", "body": answer})

    async def _read(self, receive: Any) -> bytes | None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if not message["more_body"]:
                return body


@dataclass
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def parse(data: bytes) -> list[Response]:
    """The responses that a client got, one by one, to the last byte."""
    responses = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"a response without an end: {head!r}"
        line, *lines = head.split(b"\r\n")
        matched = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*", line)
        assert matched, f"no status line: {line!r}"
        headers = {name.lower(): value for name, value in (each.split(b": ", 1) for each in lines)}
        status = int(matched[1])
        body = b""
        if headers.get(b"x-method") == b"HEAD" or status in (100, 101):
            if status == 101:
                return [*responses, Response(status, headers, data)]
        elif status >= 400 and not data:
            pass  # refused, and in answer to HEAD
        elif headers.get(b"transfer-encoding") == b"chunked":
            body, data = unchunk(data)
        elif b"content-length" in headers:
            length = int(headers[b"content-length"])
            assert len(data) >= length, "a body that is not whole"
            body, data = data[:length], data[length:]
        else:
            assert headers[b"connection"] == b"close"
            body, data = data, b""
        responses.append(Response(status, headers, body))
    return responses


def unchunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, end, data = data.partition(b"\r\n")
        assert end
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        body += data[:length]
        data = data[length + 2 :]
        if not length:
            return body, data


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged on trio_run itself, not on its children."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.name == "trio_run")
    logger = logging.getLogger("trio_run")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@asynccontextmanager
async def guarded(
    app: App, *, lasting: bool = True, **options: Any
) -> AsyncIterator[tuple[Server, list[logging.LogRecord]]]:
    """A server with a good client; in the end that one, if it is to last, is still served, and
    nothing is left over.
    """
    with logged() as records:
        async with serving_app(app, **options) as server:
            async with await server.connect() as other:
                await check_served(other)
                if not lasting:
                    await other.aclose()
                yield server, records
                if lasting:
                    await check_served(other)
            async with await server.connect() as other:
                await check_served(other)
            while server.listener.status.split(",")[0] != "0 connections":
                await wait_all_tasks_blocked()
            assert server.listener.status == "0 connections, 0 busy"
            assert app.running == 0
            await server.stop()
    assert server.report.actors[0].outcome == "returned"
    for record in records:
        assert record.levelno <= logging.INFO, record.getMessage()
        assert record.exc_info is None
        assert len(record.getMessage()) <= LONGEST_LINE


async def check_served(client: trio.SocketStream) -> None:
    await client.send_all(GOOD)
    reply = b""
    while not reply.endswith(b"GET /good"):
        data = await client.receive_some()
        assert data
        reply += data


def lines_for(client: str, records: list[logging.LogRecord]) -> list[str]:
    texts = [record.getMessage() for record in records]
    return [text for text in texts if re.search(rf"{client}\b", text)]


def segments_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def send_slowly(client: trio.SocketStream, segments: list[bytes]) -> None:
    """Each segment is read before the next is sent."""
    for segment in segments:
        await client.send_all(segment)
        await wait_all_tasks_blocked()


# The table.


@pytest.mark.parametrize("how", ["in one piece", "byte by byte", "after a good one"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
async def test_what_a_malformed_request_gets(row: Row, how: str) -> None:
    app = App()
    before = get(target=b"/before") if how == "after a good one" else b""
    # One who sends to a connection that has ended sees a reset, and not what he is to see here.
    data = before + row.sent + (b"" if row.ends and how == "byte by byte" else NEXT)
    size = 1 + len(data) // 1000 if how == "byte by byte" else len(data)
    async with guarded(app) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            await send_slowly(client, segments_of(data, size))
            responses = parse(await read_to_end(client))
    statuses = [response.status for response in responses]
    assert statuses == ([200] if before else []) + row.statuses
    assert app.seen == (["GET /before"] if before else []) + row.seen
    lines = lines_for(who, records)
    assert len(lines) == (1 if row.refused else 0), lines
    if row.refused:
        assert f"{row.statuses[-1]} for {who}: " in lines[0]
        assert responses[-1].headers[b"connection"] == b"close"


@pytest.mark.parametrize(
    "sent",
    [
        get(b"X: y", b" z"),
        get(b"X: y", b"\tz"),
        get(b"X: y\nZ: z"),
        get(b"Content-Length: 0", b"Content-Length: 0"),
        request(b"GET / HTTP/1.1", b" Host: h"),
    ],
)
async def test_an_ambiguous_head_is_refused_wherever_it_is_split(sent: bytes) -> None:
    app = App()
    async with guarded(app) as (server, _records):
        for at in range(1, len(sent)):
            async with await server.connect() as client:
                await send_slowly(client, [sent[:at], sent[at:] + NEXT])
                assert [each.status for each in parse(await read_to_end(client))] == [400]
    assert app.seen == []


async def test_an_empty_line_that_comes_with_a_request_is_not_the_end() -> None:
    app = App()
    async with guarded(app) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            await send_slowly(client, [get() + b"\r\n", NEXT])
            assert [each.status for each in parse(await read_to_end(client))] == [200, 200]
        assert not lines_for(who, records)


# What a table can't show.


async def test_what_is_refused_in_answer_to_head_has_no_content() -> None:
    head = request(b"HEAD / HTTP/1.0", b"Host: h", b"Transfer-Encoding: chunked")
    async with guarded(App()) as (server, _records):
        async with await server.connect() as client:
            await client.send_all(head)
            reply = await read_to_end(client)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.partition(b"\r\n\r\n")[2] == b""


async def test_the_host_of_an_absolute_target_counts() -> None:
    app = App()
    async with guarded(app) as (server, _records):
        async with await server.connect() as client:
            await client.send_all(get(target=b"http://real:81/a") + NEXT)
            await read_to_end(client)
    hosts = [value for name, value in app.headers["GET /a"] if name == b"host"]
    assert hosts == [b"real:81"]


async def test_a_bad_body_that_the_app_does_not_want_ends_the_connection_after_the_response() -> (
    None
):
    app = App()
    async with guarded(app) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            bad = chunked(b"x\r\n").replace(b" / ", b" /ignore ")
            await client.send_all(bad + NEXT)
            assert [each.status for each in parse(await read_to_end(client))] == [200]
        assert not lines_for(who, records)
    assert app.seen == ["POST /ignore"]


async def test_a_bad_body_after_the_response_has_begun_is_a_reset() -> None:
    app = App()
    async with guarded(app) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            head = chunked(b"").replace(b" / ", b" /early ")
            await send_slowly(client, [head, b"x\r\n" + NEXT])
            with pytest.raises(trio.BrokenResourceError):
                await read_to_end(client)
        (line,) = lines_for(who, records)
        assert f"400 for {who}: " in line
    assert app.seen == ["POST /early (left)"]


async def test_an_app_that_raises_because_of_a_bad_body_adds_no_line() -> None:
    async with guarded(App()) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            await client.send_all(chunked(b"x\r\n").replace(b" / ", b" /raise "))
            assert [each.status for each in parse(await read_to_end(client))] == [400]
        (line,) = lines_for(who, records)
        assert f"400 for {who}: " in line


async def test_a_target_can_not_forge_a_log_line() -> None:
    async with guarded(App()) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            sent = post(b"Content-Length: 5", body=b"").replace(b" / ", b" /raise%0AERROR ")
            await send_slowly(client, [sent])
            reset(client)
        while server.listener.status.split(",")[0] != "1 connection":
            await wait_all_tasks_blocked()
        (line,) = lines_for(who, records)
        assert "\n" not in line
        assert "/raise%0AERROR" in line


@pytest.mark.parametrize(
    "sent",
    [
        get(b"Authorization : Bearer hunter2"),
        get(b"Authorization: Bearer \0hunter2"),
        get(b"Cookie hunter2"),
        request(b"GET /?password=hunter2 HTTP/1.1 ", b"Host: h"),
        post(b"Transfer-Encoding: hunter2"),
        post(b"Content-Length: hunter2"),
        chunked(b"hunter2\r\n"),
        chunked(b"0\r\nhunter2\r\n\r\n"),
    ],
)
async def test_why_something_is_refused_does_not_quote_it(sent: bytes) -> None:
    async with guarded(App()) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            await client.send_all(sent)
            (response,) = parse(await read_to_end(client))
    (line,) = lines_for(who, records)
    reason = response.body.decode().rstrip()
    assert re.fullmatch(r"400 Bad Request: [\w .:,'/-]+", reason)
    assert line.endswith(f" 400 for {who}: {reason.removeprefix('400 Bad Request: ')}")
    assert "hunter2" not in reason


BLANKS = b" " * 64000


@pytest.mark.parametrize("end", [b"\0", b"\x0b", b"\x0c", b"\r"], ids=repr)
@pytest.mark.parametrize(
    "sent",
    [
        get(b"X:" + BLANKS + b"END"),
        get(b"X: y" + BLANKS + b"END"),
        chunked(b"0\r\nX:" + BLANKS + b"END\r\n\r\n"),
        chunked(b"5" + BLANKS + b"END\r\n"),
        chunked(b"5;" + BLANKS + b"ENDa\n\r\n"),
    ],
    ids=["head", "head, after a value", "trailer", "chunk line", "chunk extension"],
)
async def test_a_line_of_blanks_does_not_take_the_process_away_from_the_others(
    sent: bytes, end: bytes
) -> None:
    async with guarded(App()) as (server, _records):
        async with await server.connect() as client:
            began = time.process_time()
            await client.send_all(sent.replace(b"END", end))
            (response,) = parse(await read_to_end(client))
            assert response.status == 400
            assert time.process_time() - began < 1  # seconds: it would be eight


async def test_many_lengths_of_the_body_do_not_take_the_process_away_from_the_others() -> None:
    lines = b"Transfer-Encoding:" + b"," * 18 + b"\n"
    async with guarded(App()) as (server, _records):
        async with await server.connect() as client:
            began = time.process_time()
            await send_slowly(client, segments_of(get(lines * 3500), 65000))
            (response,) = parse(await read_to_end(client))
            assert response.status == 400
            assert time.process_time() - began < 1


async def test_who_sends_a_body_that_nobody_wants_can_read_the_response() -> None:
    """A close while the body is still on its way would reset the connection."""
    async with guarded(App()) as (server, _records):
        async with await server.connect() as client:
            head = post(b"Connection: close", b"Content-Length: 100000", body=b"")
            await send_slowly(client, [head.replace(b" / ", b" /ignore "), b"x" * 50000])
            await send_slowly(client, [b"x" * 50000])
            assert [each.status for each in parse(await read_to_end(client))] == [200]


async def test_a_client_that_expects_100_gets_it_only_for_what_can_be_answered() -> None:
    expect = b"Expect: 100-continue"
    async with guarded(App()) as (server, records):
        for headers, body, statuses in [
            ((expect, b"Content-Length: 5"), [b"hello"], [100, 200]),
            ((expect, b"Content-Length: 5", b"Transfer-Encoding: chunked"), [], [400]),
            ((expect, b"Transfer-Encoding: chunked"), [b"x\r\n"], [100, 400]),
        ]:
            async with await server.connect() as client:
                who = name_of(client)
                await send_slowly(client, [post(*headers, body=b""), *body])
                await client.send_eof()
                assert [each.status for each in parse(await read_to_end(client))] == statuses
                assert len(lines_for(who, records)) == (400 in statuses)


# Clients that leave.


def reset(client: trio.SocketStream) -> None:
    """Close it so that the other side sees a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


@pytest.mark.parametrize("how", ["ends its side", "closes", "resets"])
@pytest.mark.parametrize(
    "sent",
    [
        post(b"Content-Length: 5"),
        chunked(b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n"),
    ],
    ids=["Content-Length", "chunked"],
)
async def test_a_client_may_leave_at_any_byte(sent: bytes, how: str) -> None:
    app = App()
    begins = sent.index(b"\r\n\r\n") + 4
    async with guarded(app) as (server, records):
        for length in range(len(sent) + 1):
            app.seen.clear()
            client = await server.connect()
            who = name_of(client)
            await send_slowly(client, [sent[:length]] if length else [])
            reply = b""
            if how == "ends its side":
                await client.send_eof()
                reply = await read_to_end(client)
            elif how == "resets":
                reset(client)
            await client.aclose()
            while server.listener.status.split(",")[0] != "1 connection":
                await wait_all_tasks_blocked()
            whole = length == len(sent)
            lines = lines_for(who, records)
            # In the midst of a body the app is told, and knows better what there is to say.
            silent = length == 0 or whole or (how == "resets" and length >= begins)
            assert len(lines) == (0 if silent else 1), (length, lines)
            assert app.seen == ([] if length < begins else [HELLO if whole else LEFT])
            if how == "ends its side":
                statuses = [each.status for each in parse(reply)]
                assert statuses == ([] if length == 0 else [200 if whole else 400])


# Clients that are slow.


async def send_each_second(client: trio.SocketStream, data: bytes) -> None:
    for byte in segments_of(data, 1):
        await client.send_all(byte)
        await trio.sleep(1)


async def begin_slowly(nursery: trio.Nursery, client: trio.SocketStream, data: bytes) -> None:
    nursery.start_soon(send_each_second, client, data)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("before", [b"", get(target=b"/before")], ids=["", "after a good one"])
@pytest.mark.parametrize("rest", ["nothing", "a byte a second"])
async def test_a_slow_head_is_cut_after_the_header_timeout(
    before: bytes, rest: str, clock: MockClock
) -> None:
    async with guarded(App(), header_timeout=10.0, idle_timeout=1000.0) as (server, records):
        async with await server.connect() as client, trio.open_nursery() as nursery:
            who = name_of(client)
            began = trio.current_time()
            await client.send_all(before + b"GET / HTTP")
            if rest != "nothing":
                await begin_slowly(nursery, client, get(b"X" * 100 + b": y")[len("GET / HTTP") :])
            responses = parse(await read_to_end(client))
            assert trio.current_time() - began == pytest.approx(10)
            nursery.cancel_scope.cancel()
        assert [each.status for each in responses] == ([200] if before else []) + [408]
        (line,) = lines_for(who, records)
        assert f"408 for {who}: " in line


async def test_a_slow_body_is_waited_for_as_long_as_it_goes_on(clock: MockClock) -> None:
    app = App()
    async with guarded(app, lasting=False, idle_timeout=20.0) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            await client.send_all(post(b"Content-Length: 40", b"Connection: close", body=b""))
            await send_each_second(client, b"x" * 40)
            assert [each.status for each in parse(await read_to_end(client))] == [200]
        assert not lines_for(who, records)
    assert app.seen == ["POST / " + "x" * 40]


@pytest.mark.parametrize(
    "begun", [post(b"Content-Length: 9"), chunked(b"5\r\nhe"), chunked(b"0\r\nX:")]
)
async def test_a_body_that_does_not_go_on_is_cut_after_the_idle_timeout(
    begun: bytes, clock: MockClock
) -> None:
    app = App()
    async with guarded(app, lasting=False, idle_timeout=20.0) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            began = trio.current_time()
            await client.send_all(begun)
            assert [each.status for each in parse(await read_to_end(client))] == [408]
            assert trio.current_time() - began == pytest.approx(20)
        (line,) = lines_for(who, records)
        assert f"408 for {who}: " in line
    assert app.seen == [LEFT]


@pytest.mark.parametrize("sent", [b"", b"\r\n" * 100], ids=["nothing", "empty lines"])
async def test_who_sends_no_request_is_closed_without_a_byte(sent: bytes, clock: MockClock) -> None:
    app = App()
    async with guarded(app, lasting=False, idle_timeout=20.0) as (server, records):
        async with await server.connect() as client, trio.open_nursery() as nursery:
            who = name_of(client)
            began = trio.current_time()
            await begin_slowly(nursery, client, sent)
            assert await read_to_end(client) == b""
            assert trio.current_time() - began == pytest.approx(20)
            nursery.cancel_scope.cancel()
        assert not lines_for(who, records)
    assert app.seen == []


# Random requests.

NASTY = [
    *[bytes([byte]) for byte in b"\r\n\0 \t:;,\x0b0x5-+aGHT/?#*\x80\xff"],
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"0\r\n\r\n",
    b"\r\nContent-Length: 5",
    b"\r\nContent-Length: 0",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nHost: other",
    b"\r\nConnection: close",
    OTHER,
]
PATHS = ["/", "/a?b=c", "/listen", "/stream", "/ignore", "/listen/stream", "/ignore/stream"]
HEADERS = [b"X: y", b"Accept: */*", b"Connection: keep-alive", b"Cookie: \xff", b"Upgrade: h2c"]


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE"]))
    line = f"{method} {draw(st.sampled_from(PATHS))} HTTP/1.1".encode()
    headers = [b"Host: h", *draw(st.lists(st.sampled_from(HEADERS), max_size=2, unique=True))]
    body = draw(st.sampled_from([b"", b"hello", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", OTHER]))
    how = draw(st.sampled_from(["none", "Content-Length", "chunked"]))
    if how == "Content-Length":
        return request(line, *headers, b"Content-Length: %d" % len(body), body=body)
    if how == "none":
        return request(line, *headers)
    size = draw(st.integers(1, 30))
    extension = draw(st.sampled_from([b"", b";a=b"]))
    chunks = [
        b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in segments_of(body, size)
    ]
    end = draw(st.sampled_from([b"0\r\n\r\n", b"00\r\nX: y\r\n\r\n"]))
    return request(line, *headers, b"Transfer-Encoding: chunked", body=b"".join([*chunks, end]))


@st.composite
def valid_sequences(draw: st.DrawFn) -> bytes:
    between = st.sampled_from([b"", b"", b"\r\n"])
    return b"".join(
        draw(between) + each for each in draw(st.lists(valid_requests(), min_size=1, max_size=4))
    )


@st.composite
def mutated_sequences(draw: st.DrawFn) -> bytes:
    data = draw(valid_sequences())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        kind = draw(
            st.sampled_from(["insert", "delete", "duplicate", "flip", "end of line", "cut"])
        )
        if kind == "insert":
            data = data[:start] + draw(st.sampled_from(NASTY)) + data[start:]
        elif kind == "delete":
            data = data[:start] + data[end:]
        elif kind == "duplicate":
            data = data[:end] + data[start:]
        elif kind == "flip" and start < len(data):
            flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif kind == "end of line":
            at = data.find(b"\r\n", start)
            data = data[: max(at, 0)] + draw(st.sampled_from([b"\n", b"\r"])) + data[at + 2 :]
        elif kind == "cut":
            data = data[:start]
    return data


@st.composite
def segmented(draw: st.DrawFn, sequences: st.SearchStrategy[bytes]) -> list[bytes]:
    """In pieces of random size; no more than a hundred."""
    data = draw(sequences)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=100, unique=True))
    edges = sorted({0, len(data), *cuts})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@dataclass
class Got:
    """What a client got and the app saw."""

    reply: bytes
    seen: list[str]
    lines: list[str]


async def converse(segments: list[bytes]) -> Got:
    app = App()
    async with guarded(app) as (server, records):
        async with await server.connect() as client:
            who = name_of(client)
            began = trio.current_time()
            reply = b""
            # Who goes on sending when the server has ended sees a reset after its responses.
            with contextlib.suppress(trio.BrokenResourceError):
                await send_slowly(client, segments)
                await client.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in client:
                    reply += data
            assert trio.current_time() - began < 1, "it waited for what can't come any more"
    return Got(reply, app.seen, lines_for(who, records))


def run(segments: list[bytes]) -> Got:
    return trio.run(converse, segments, clock=MockClock(autojump_threshold=0.05))


TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"


def reference(data: bytes) -> list[tuple[str, str | None]]:
    """The requests that RFC 9112 sees there, read strictly, and their bodies: to the first that is
    wrong, or not whole.
    """
    found: list[tuple[str, str | None]] = []
    while True:
        head, end, data = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        matched = re.fullmatch(rb"(%b) ([!-~]+) HTTP/1\.([01])" % TOKEN, line)
        fields = [re.fullmatch(rb"(%b):[ \t]*([^\r\n\0]*?)[ \t]*" % TOKEN, each) for each in lines]
        if not end or not matched or None in fields:
            return found
        values: dict[bytes, list[bytes]] = {}
        for field in fields:
            assert field
            values.setdefault(field[1].lower(), []).append(field[2].lower())
        lengths = values.get(b"content-length", [])
        codings = values.get(b"transfer-encoding", [])
        old = matched[3] == b"0"
        if (
            len(lengths) + len(codings) > 1
            or len(values.get(b"host", [])) not in ((0, 1) if old else (1,))
            or (codings and (old or codings != [b"chunked"]))
            or (lengths and not re.fullmatch(rb"[0-9]+", lengths[0]))
        ):
            return found
        body: bytes | None
        if codings:
            body, data = dechunk(data)
        else:
            length = int(lengths[0]) if lengths else 0
            body, data = (data[:length] if len(data) >= length else None), data[length:]
        text = None if body is None else body.decode("latin-1")
        found.append((f"{matched[1].decode()} {matched[2].decode().removesuffix('?')}", text))
        options = b",".join(values.get(b"connection", [])).split(b",")
        if body is None or old or b"close" in [each.strip() for each in options]:
            return found


def dechunk(data: bytes) -> tuple[bytes | None, bytes]:
    body = b""
    while matched := re.match(rb"([0-9A-Fa-f]+)[ \t]*(;[^\n]*)?\r\n", data):
        length = int(matched[1], 16)
        data = data[matched.end() :]
        if not length:
            trailers = re.match(rb"(?:%b:[^\r\n\0]*\r\n)*\r\n" % TOKEN, data)
            return (body, data[trailers.end() :]) if trailers else (None, b"")
        if len(data) < length + 2 or data[length : length + 2] != b"\r\n":
            return None, b""
        body += data[:length]
        data = data[length + 2 :]
    return None, b""


many = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@many
@hypothesis.given(segments=segmented(valid_sequences()))
def test_valid_requests_get_the_same_however_they_are_split(segments: list[bytes]) -> None:
    whole, split = run([b"".join(segments)]), run(segments)
    assert split.lines == whole.lines == []
    # Where nobody knows yet how long a body is that its app leaves, that request is the last.
    some = len(split.seen)
    assert split.seen == whole.seen[:some]
    assert some == len(whole.seen) or "ignore" in split.seen[-1]
    bodies = [each.body for each in parse(whole.reply)]
    *before, last = parse(split.reply) or [Response(200, {}, b"")]
    assert [each.body for each in (*before, last)][:some] == bodies[:some]
    assert all(b"connection" not in each.headers for each in before)
    assert some == len(whole.seen) or last.headers[b"connection"] == b"close"
    expected = reference(b"".join(segments))
    assert len(parse(whole.reply)) == len(whole.seen) == len(expected)
    for seen, (line, body) in zip(whole.seen, expected, strict=True):
        assert seen == (line if "ignore" in line else f"{line} {body}".rstrip(" "))


@many
@hypothesis.given(segments=segmented(mutated_sequences()))
def test_random_requests_are_answered_once_or_refused(segments: list[bytes]) -> None:
    got = run(segments)
    statuses = [each.status for each in parse(got.reply)]
    *answered, last = statuses or [200]
    assert set(answered) <= {200}
    assert last in (200, 101) or 400 <= last < 500 or last in (501, 505)
    whole = [each for each in got.seen if not each.endswith("(left)")]
    assert len(whole) == len([status for status in statuses if status < 400])
    assert len(got.lines) == (1 if last >= 400 else 0)
    # What has been accepted is what there is, and where it is.
    expected = reference(b"".join(segments))
    assert len(got.seen) <= len(expected)
    for seen, (line, body) in zip(got.seen, expected, strict=False):
        if "ignore" in line or seen.endswith("(left)"):
            assert seen.removesuffix(" (left)") == line
        else:
            assert body is not None
            assert seen == f"{line} {body}".rstrip(" ")
