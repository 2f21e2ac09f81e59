"""HTTP requests that are not quite right: each has a tag in its path, and some have another request
in their body, with a tag of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_BYTES = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x80", b"\xff"]
_BYTES += [b"0", b"1", b"a", b"-", b"+", b"x", b'"', b"\r\n\r\n", b"\n\n", b"\r\r\n"]
_TRANSFER = [
    "chunked",
    "Chunked",
    " chunked",
    "chunked ",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "identity, chunked",
    "chunked, identity",
    "gzip, chunked",
    "xchunked",
    "chunked;q=1",
    "\x0bchunked",
    "chunked\x0b",
    '"chunked"',
    "chunked\r\n ",
    "\r\n chunked",
    "chu\r\n nked",
    "",
]
_LENGTHS = ["{}", "+{}", "-{}", "0{}", "{}, {}", "{} ", "0x{}", "{}.0", "{} {}", "{};", " {}", ""]
_OTHERS = [
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Content-Length",
    "Connection: Transfer-Encoding",
    "Connection: Upgrade\r\nUpgrade: h2c",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Expect: 100-continue",
    "Expect: nonsense",
    "TE: trailers",
    "Trailer: X-Tag",
    "Host: y",
    "X-Folded: a\r\n b",
    "X-Empty:",
    " X-Space: a",
    "X-Space : a",
    "X-Bare: a\rb",
    "X-Line: a\nX-Other: b",
    "X-Long: " + "a" * 3000,
    "Keep-Alive: 1",
    "Proxy-Connection: keep-alive",
    "Content-Type: text/plain",
]
_NAMES = ["Transfer-Encoding", "transfer-encoding", "Transfer_Encoding", "Transfer-Encoding "]
_VERSIONS = ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""]


def request(tag: str, body: bytes = b"") -> bytes:
    return b"POST /t/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        tag.encode(),
        len(body),
        body,
    )


def mutated(tag: str, rng: random.Random) -> bytes:
    """A request that has been changed here and there."""
    inner = rng.choice((b"", b"abc", request(f"{tag}s"), b"0\r\n\r\n" + request(f"{tag}s")))
    method = rng.choice(("POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "post", "PO ST"))
    version = rng.choice(_VERSIONS)
    lines = ["Host: x"]
    lines += rng.sample(_OTHERS, rng.choice((0, 0, 1, 2)))
    body = inner
    kind = rng.random()
    if kind < 0.6:
        lines.append(f"{rng.choice(_NAMES)}:{rng.choice(_TRANSFER)}")
        body = _chunks(inner, rng)
    if kind > 0.4:
        length = rng.choice((len(body), len(body), len(inner), 0, 1, len(body) + 1))
        form = rng.choice(_LENGTHS) if rng.random() < 0.4 else "{}"
        lines.append(f"Content-Length: {form.format(length, length)}")
    rng.shuffle(lines)
    if rng.random() < 0.1:
        lines.append(rng.choice(lines))
    end = rng.choice(("\r\n",) * 12 + ("\n", "\r\n\r\n"))
    head = "\r\n".join([f"{method} /t/{tag} {version}", *lines]) + "\r\n" + end
    data = head.encode("latin-1") + body
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        data = rng.choice(_CHANGES)(data, rng)
    return data


def _chunks(body: bytes, rng: random.Random) -> bytes:
    parts = []
    while body:
        at = rng.randint(1, len(body))
        size = rng.choice(("{:x}",) * 8 + ("0{:x}", "{:x} ", "{:x};a=b", "0x{:x}", "+{:x}", "{:X}"))
        end = rng.choice((b"\r\n",) * 12 + (b"\n", b"\r", b" \r\n", b";\n\r\n", b""))
        parts.append(size.format(at).encode() + end + body[:at] + b"\r\n")
        body = body[at:]
    last = (b"0\r\n\r\n",) * 8 + (
        b"0\r\nX-Tag: a\r\n\r\n",
        b"0\n\n",
        b"0;a\r\n\r\n",
        b"00\r\n\r\n",
        b"",
    )
    return b"".join(parts) + rng.choice(last)


def _place(data: bytes, size: int, rng: random.Random) -> int:
    """Where so many bytes may be changed: anywhere but in a path, which has the tag."""
    paths = [found.span() for found in _PATH.finditer(data)]
    while True:
        at = rng.randint(0, len(data))
        if not any(start - size < at < end for start, end in paths):
            return at


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, 1, rng)
    return data[:at] + rng.choice(_BYTES) + data[at:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    size = rng.randint(1, 3)
    at = _place(data, size, rng)
    return data[:at] + data[at + size :]


def _replace(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, 1, rng)
    return data[:at] + rng.choice(_BYTES) + data[at + 1 :]


_PATH = re.compile(rb" /t/\w+ ")
_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [_insert, _delete, _replace]
