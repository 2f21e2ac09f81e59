"""A response as it is written: its head, and how long its body is said to be.

What an app may send when, and what the connection does next, is decided in _exchange.
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ._refusal import REASONS, date_line

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

_WITHOUT_BODY = (204, 304)
_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_VALUE = re.compile(rb"[^\0\r\n]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")


_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in REASONS.items()
}
CONTINUE = _STATUS_LINES[100] + b"\r\n"


@functools.lru_cache(maxsize=1000)
def _kind(name: bytes) -> bytes | None:
    """The name of a header in small letters; None if it is none. An app has few of them."""
    return name.lower() if _NAME.fullmatch(name) else None


def is_header(name: bytes, value: bytes) -> bool:
    """Can these two be sent as a header?"""
    return _kind(bytes(name)) is not None and _VALUE.fullmatch(value) is not None


class Response:
    """What is written of one response.

    Args:
      start: the app's http.response.start.
      length: bytes of the body, if all of it is there.
      method, version: of the request.
      last: does the connection end with it?

    Raises:
      AttributeError, KeyError, TypeError, ValueError: if it is none that can be sent.
    """

    __slots__ = ("_has_body", "_is_chunked", "_left", "head", "is_last", "status")

    def __init__(
        self,
        start: MutableMapping[str, Any],
        length: int | None,
        *,
        method: str,
        version: str,
        last: bool,
    ) -> None:
        self.status: int = start["status"]
        if not 200 <= self.status <= 999:
            raise ValueError(f"{self.status} is no status of a response")
        self.is_last = last or version == "1.0"
        self._has_body = method != "HEAD" and self.status not in _WITHOUT_BODY
        lines = [_STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status]
        declared, is_chunked = self._take(start.get("headers", ()), lines)
        if self.status in _WITHOUT_BODY:
            is_chunked = False
            if self.status == HTTPStatus.NO_CONTENT:
                declared = None  # it must not say how long nothing is: RFC 9110, 8.6
        elif is_chunked:
            declared = None
        elif declared is None:
            if length or (length == 0 and method != "HEAD"):
                declared = length
            else:
                is_chunked = True
        is_chunked = is_chunked and version == "1.1"  # else it ends with the connection
        if declared is not None:
            lines.append(b"content-length: %d\r\n" % declared)
        if is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if self.is_last:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.head = b"".join(lines)
        self._is_chunked = is_chunked
        self._left = declared  # bytes of the body, where it has said how many

    def _take(
        self, headers: Iterable[tuple[bytes, bytes]], lines: list[bytes]
    ) -> tuple[int | None, bool]:
        """Take the app's headers, but those that frame the response, which is ours.

        Returns how long it says that the body is, and whether it wants chunks.
        """
        declared: int | None = None
        has_date = has_server = is_chunked = False
        for name, value in headers:
            kind = _kind(bytes(name))
            if kind is None or not _VALUE.fullmatch(value):
                raise ValueError(f"{name!r}: {value!r} is no header")
            if kind == b"content-length":
                if not _LENGTH.fullmatch(value) or declared not in (None, int(value)):
                    raise ValueError(f"{value!r} is no Content-Length")
                declared = int(value)
                continue
            if kind == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ValueError("there is no Transfer-Encoding but chunked")
                is_chunked = True
                continue
            if kind == b"connection":
                self.is_last = self.is_last or b"close" in value.lower()
                if self.is_last:
                    continue
            has_date = has_date or kind == b"date"
            has_server = has_server or kind == b"server"
            lines.append(b"%b: %b\r\n" % (name, value))
        if not has_date:
            lines.append(date_line())
        if not has_server:
            lines.append(b"server: trio-run\r\n")
        return declared, is_chunked

    def body(self, data: bytes, *, more: bool) -> bytes:
        """A piece of the body, as it is written.

        Raises:
          ValueError: if it is not as long as the response says.
        """
        size = len(data)
        if not self._has_body:
            if size and self.status in _WITHOUT_BODY:
                raise ValueError(f"a body with status {self.status}, which has none")
            return b""
        if self._left is not None:
            if size > self._left:
                raise ValueError("Too much data for declared Content-Length")
            if size < self._left and not more:
                raise ValueError("Too little data for declared Content-Length")
            self._left -= size
        elif self._is_chunked:
            end = b"" if more else b"0\r\n\r\n"
            # Formatting it would copy a large piece twice.
            return b"".join((b"%x\r\n" % size, data, b"\r\n", end)) if size else end
        return data
