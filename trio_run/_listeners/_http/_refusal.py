"""What a client is answered that can't be served: an error, with which its connection ends."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

Headers = Iterable[tuple[bytes, bytes]]

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Refusal(Exception):
    """The client did what can't be answered but by this status."""

    def __init__(self, status: int, reason: str, headers: Headers = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


@functools.lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()


def date_line() -> bytes:
    """The Date header of now."""
    return _date_of(int(time.time()))


def error_response(status: int, reason: str, headers: Headers = (), *, body: bool = True) -> bytes:
    """A whole response, with which the connection ends."""
    phrase = REASONS.get(status, b"")
    text = b"%d %b: %b\n" % (status, phrase, reason.encode())
    lines = [
        b"HTTP/1.1 %d %b" % (status, phrase),
        date_line() + b"server: trio-run",
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(text),
        b"connection: close",
        *(b"%b: %b" % header for header in headers),
        b"\r\n",
    ]
    return b"\r\n".join(lines) + (text if body else b"")
