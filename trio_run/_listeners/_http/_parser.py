"""Requests as httptools (llhttp) reads them, one at a time, and what is refused beside.

A proxy before us, and we, have to agree where each request ends, or a client can smuggle one past
it. llhttp is strict by itself. What it takes all the same, and another server might read in another
way, is refused here.

The parser is never given a byte beyond the request that it reads. A head, and a body in chunks, end
with an empty line: so it gets what has come up to the next empty line, and again, until it says
that this was the end. To look for that in a long chunk would take longer than all the rest: it is
given as a whole, as long as one long chunk follows another. A body of known length is not parsed,
but counted.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from ._refusal import Refusal

_MAX_HEAD = 65536  # bytes of a request line and its headers; of a chunk's line, or of trailers
_AT_ONCE = 500  # pieces of a body in chunks: then others get their turn
_MAX_HEADERS = 1000  # each takes some 200 bytes of memory, however short it is
_END = b"\r\n\r\n"
_VERSIONS = {b" HTTP/1.1": "1.1", b" HTTP/1.0": "1.0"}
_VERSION = re.compile(rb"[^\r\n]* HTTP/([0-9]\.[0-9])(?:\r|\Z)")
_SOME_METHOD = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+(?: |\Z)")
_CHUNKED_LAST = re.compile(rb".*,[ \t]*chunked")
_LONG_CHUNK = re.compile(rb"(?:\r\n)?([1-9A-Fa-f][0-9A-Fa-f]{3,7})\r\n")
_PART_OF_A_LINE = re.compile(rb"(?:\r(?:\n)?)?[0-9A-Fa-f]{0,8}\r?")
_NOTHING: Any = ()  # for the many connections that are idle
_CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


class Parser:
    """The requests of one connection.

    Its methods raise Refusal, and then it is of no more use.
    """

    __slots__ = (
        "_head",
        "_head_is_whole",
        "_is_before_chunk",
        "_is_chunked",
        "_left",
        "_llhttp",
        "_pieces",
        "_tail",
        "_without_body",
        "ahead",
        "expects_continue",
        "has_more",
        "headers",
        "is_whole",
        "keeps_alive",
        "method",
        "target",
        "upgrades",
        "version",
    )

    def __init__(self) -> None:
        self.ahead = b""  # what has come, and has not been read yet
        self._llhttp: httptools.HttpRequestParser | None = None
        self.begin()

    def begin(self) -> None:
        """The next request."""
        self.method = b""  # until the head is whole
        self.target = b""
        self.version = ""
        self.headers: list[tuple[bytes, bytes]] = _NOTHING  # until there is something
        self.keeps_alive = False  # may another request follow?
        self.upgrades = False  # does it ask for another protocol?
        self.expects_continue = False
        self.is_whole = False  # has all of it been read?
        self.has_more = False  # is there more of it to read at once?
        self._head = b""
        self._head_is_whole = False
        self._is_chunked = False
        self._left = 0  # bytes of a body of known length, or of a long chunk
        self._is_before_chunk = True  # is what comes next the line of a chunk, as far as is known?
        self._pieces: list[bytes] = _NOTHING  # of the body
        self._tail = b""  # what was read last: an empty line may have begun in it
        self._without_body = 0  # bytes that were read since the last piece

    def close(self) -> None:
        """It is done with. It and llhttp hold each other, and would keep each other alive."""
        self._llhttp = None

    # The head.

    @property
    def has_begun(self) -> bool:
        """Has anything of a request been read?"""
        return bool(self._head)

    def read_head(self) -> bool:
        """Read on in what has come. Returns whether the head is whole."""
        if not self._head:
            self.ahead = self.ahead.lstrip(b"\r\n")  # empty lines before a request are none
            self.headers, self._pieces = [], []
        while self.ahead and not self._head_is_whole:
            end = self._end_at_empty_line(self.ahead, 0)
            piece, self.ahead = self.ahead[:end], self.ahead[end:]
            self._head += piece
            if self._llhttp is None:
                self._llhttp = httptools.HttpRequestParser(self)
            self._feed(self._llhttp, piece)
            if len(self._head) > _MAX_HEAD:
                raise Refusal(431, "the headers are too long")
            if self._head_is_whole or not self._tail:
                # llhttp takes a line without a version for all there is, if it comes by itself.
                if self._tail or not self._head_is_whole:
                    raise Refusal(self._status(), "the head ends in its midst")
                self._check_line()
                self._check_headers()
        return self._head_is_whole

    def _check_line(self) -> None:
        line = self._head[: self._head.index(b"\r\n")]
        version = _VERSIONS.get(line[-9:])
        if version is None:
            raise Refusal(self._status(), "this is no HTTP/1.1")
        if line.count(b" ") != 2:
            raise Refusal(400, "the request line has a space too many")
        self.version = version
        self.keeps_alive = self.keeps_alive and version == "1.1"

    def _check_headers(self) -> None:
        if len(self.headers) > _MAX_HEADERS:
            raise Refusal(431, "there are too many headers")
        for name, value in self.headers:
            if name == b"transfer-encoding":
                if self.version == "1.0":
                    raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
                if value.lower() != b"chunked":
                    # Nobody can tell where a body ends whose last coding is another: RFC 9112, 6.3.
                    status = 501 if _CHUNKED_LAST.fullmatch(value.lower()) else 400
                    raise Refusal(status, "only chunked is understood as Transfer-Encoding")
                self._is_chunked = True
            elif name == b"content-length":
                self._left = int(value)
            elif name == b"expect":
                self.expects_continue = self.version == "1.1" and value.lower() == b"100-continue"
        if self._left or self.upgrades:
            self.is_whole = not (self._left or self._is_chunked)
            # llhttp takes what follows an Upgrade for another protocol, and so no body.
            self._llhttp = None

    # The body.

    @property
    def left(self) -> int | None:
        """How many bytes of the body are still to come. None if nobody knows."""
        return None if self._is_chunked and not self.is_whole else self._left

    def read_body(self) -> bytes:
        """Read on in what has come, and return what is there of the body.

        Where that takes long, ``has_more`` says that there is more: let the others run first.
        """
        data, at, pieces_at_most = self.ahead, 0, _AT_ONCE
        while at < len(data) and not self.is_whole and pieces_at_most:
            if self._is_chunked:
                end = self._read_chunks(data, at)
                if end == at:
                    break
                pieces_at_most -= 1
            else:
                end = min(len(data), at + self._left)
                self._pieces.append(data[at:end])
                self._left -= end - at
                self.is_whole = not self._left
            at = end
        self.has_more = not pieces_at_most
        self.ahead = data[at:]
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_chunks(self, data: bytes, at: int) -> int:
        """Read a piece from there on. Returns its end; the same if more has to come first."""
        if self._llhttp is None:
            self._llhttp = httptools.HttpRequestParser(self)
            self._llhttp.feed_data(_CHUNKED)
        end, before = self._end_in_chunks(data, at), len(self._pieces)
        self._feed(self._llhttp, data[at:end])
        self._without_body = 0 if len(self._pieces) > before else self._without_body + end - at
        if self._without_body > _MAX_HEAD:
            raise Refusal(431, "the line of a chunk, or the trailers, are too long")
        return end

    def _end_in_chunks(self, data: bytes, at: int) -> int:
        """Up to where it may be given: all of a long chunk, or to the next empty line."""
        if not self._left and self._is_before_chunk:
            line = _LONG_CHUNK.match(data, at)
            if not line and _PART_OF_A_LINE.fullmatch(data, at):
                return at
            self._is_before_chunk = line is not None
            if line:
                self._left = int(line[1], 16)
                return line.end()
        if not self._left:
            return self._end_at_empty_line(data, at)
        end = min(len(data), at + self._left)
        self._left -= end - at
        return end

    # What both have in common.

    def _end_at_empty_line(self, data: bytes, at: int) -> int:
        """Up to the end of the next empty line, or else of all."""
        tail = self._tail
        found = (tail + data[at : at + 3]).find(_END) if tail else -1
        if found >= 0:
            found += at - len(tail)
        else:
            found = data.find(_END, at)
            if found < 0:
                self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
                return len(data)
        self._tail = b""
        return found + len(_END)

    def _feed(self, llhttp: httptools.HttpRequestParser, data: bytes) -> None:
        try:
            llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # what follows is not given to it
        except httptools.HttpParserInvalidMethodError:
            status = 501 if _SOME_METHOD.match(self._head) else 400
            raise Refusal(status, "this is no method that is known here") from None
        except httptools.HttpParserError as exc:
            # Its words do not quote the client: what that sends may be long, and a secret.
            raise Refusal(self._status(), str(exc).replace("`", "")) from None

    def _status(self) -> int:
        """Of the refusal of what llhttp does not take."""
        if self.version:
            return 400  # the head was right
        spoken = _VERSION.match(self._head)
        return 505 if spoken and spoken[1] not in (b"1.0", b"1.1") else 400

    # What llhttp calls.

    def on_url(self, url: bytes) -> None:
        if not self._head_is_whole:
            self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_is_whole:  # else it is a trailer
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        llhttp = self._llhttp
        assert llhttp is not None
        if not self._head_is_whole:
            self._head_is_whole = True
            self.method = llhttp.get_method()
            self.keeps_alive = llhttp.should_keep_alive()
            self.upgrades = llhttp.should_upgrade()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.is_whole = True
