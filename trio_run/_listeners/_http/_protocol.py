"""HTTP/1.1 as h11 speaks it, and stricter; and what is said to a client that is refused.

A proxy before us, and we, have to agree where each request ends, or a client can smuggle one past
it. So what another server might read in another way is refused here, where h11 is lenient.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

import h11
from h11 import _readers

Headers = Iterable[tuple[bytes, bytes]]
Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}

_MAX_HEAD = 65536  # bytes of a request line and its headers
_MAX_HEADERS = 1000  # each takes some 200 bytes of memory, however short it is
_CHUNKED_LAST = re.compile(rb"(?i)\ntransfer-encoding:[^\r\n]*,[ \t]*chunked[ \t]*\r")
_FIELD = (
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*+"
    rb"(?P<field_value>(?:[^\0\s]+(?:[ \t]+[^\0\s]+)*)?)[ \t]*+"
)
_CHUNK = rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})(?:[ \t]*+|;[^\r\n]*+)\r\n"
_TWO_LENGTHS = re.compile(rb"(?i)\ncontent-length:(?:[^\r]*,|(?s:.*)\ncontent-length:)")

# In h11 0.16 these two take quadratic time for a line of blanks that does not match: one of 64 kB
# would stop the process for eight seconds. Possessive, they take the same lines, but for a bare CR
# in a chunk extension.
_readers.header_field_re = re.compile(_FIELD)
_readers.chunk_header_re = re.compile(_CHUNK)


class Refusal(Exception):
    """The client did what can't be answered but by this status."""

    def __init__(self, status: int, reason: str, headers: Headers = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Protocol(h11.Connection):
    """The server's side of a connection. What it gives out ends where every other server says that
    it ends.

    ``next_event()`` raises Refusal, where h11 raises RemoteProtocolError and where it should. Give
    it data only when it needs some.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self.method = b""  # of the request, once it is known
        self._head = b""  # what has come of it, until it is whole
        self._chunks: bytes | None = None  # the last of them that have come

    @property
    def ahead(self) -> bytes:
        """What has come, and is not part of an event yet."""
        return self.trailing_data[0]

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data)
        if not self.method:
            self._head += data
        elif self._chunks is not None:
            self._chunks = self._chunks[-4:] + data

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self.method = b""
        self._head = self.ahead

    def next_event(self) -> Event:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as exc:
            status, reason = exc.error_status_hint, str(exc)
            if status == 501 and not _CHUNKED_LAST.search(self._head):
                status = 400  # nobody can tell where such a body ends: RFC 9112, 6.3
            # h11 quotes what it refuses: that may be long, and a secret.
            raise Refusal(status, reason.partition(": bytearray")[0]) from None
        if isinstance(event, h11.Request):
            self._check_head(event)
        elif self._chunks is not None and isinstance(event, h11.EndOfMessage):
            end = self._chunks[: len(self._chunks) - len(self.ahead)]
            self._chunks = None
            if not end.endswith(b"\r\n\r\n"):
                raise Refusal(400, "the chunks end with LF alone")
        return event

    def _check_head(self, request: h11.Request) -> None:
        ahead = self.ahead
        head = self._head[: len(self._head) - len(ahead)]
        self._head = b""
        self.method = request.method
        names = {name for name, _ in request.headers}
        if len(head) > _MAX_HEAD or len(request.headers) > _MAX_HEADERS:
            raise Refusal(431, "the headers are too long")
        if head.count(b"\n") != head.count(b"\r\n"):
            raise Refusal(400, "a line ends with LF alone")
        if b"\n " in head or b"\n\t" in head:
            raise Refusal(400, "a header goes on in the next line")
        if b"content-length" in names and _TWO_LENGTHS.search(head):
            raise Refusal(400, "more than one Content-Length")
        if b"transfer-encoding" in names:
            if b"content-length" in names or request.http_version == b"1.0":
                raise Refusal(400, "two ways to tell the length of the body")
            self._chunks = ahead


@functools.lru_cache(maxsize=1)
def date_of(second: int) -> bytes:
    """As a Date header has it."""
    return formatdate(second, usegmt=True).encode()


def error_response(status: int, reason: str, headers: Headers = (), *, body: bool = True) -> bytes:
    """A whole response, with which the connection ends.

    It does not depend on where the protocol stands.
    """
    phrase = REASONS.get(status, b"")
    text = b"%d %b: %b\n" % (status, phrase, reason.encode())
    lines = [
        b"HTTP/1.1 %d %b" % (status, phrase),
        b"date: %b" % date_of(int(time.time())),
        b"server: trio-run",
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(text),
        b"connection: close",
        *(b"%b: %b" % header for header in headers),
        b"\r\n",
    ]
    return b"\r\n".join(lines) + (text if body else b"")
