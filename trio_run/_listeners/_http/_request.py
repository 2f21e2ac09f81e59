"""What a request asks for, as ASGI puts it; or why it is refused."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ._protocol import Refusal

if TYPE_CHECKING:
    import h11

_VERSIONS = (b"1.1", b"1.0")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")


def read_scope(request: h11.Request, scheme: str, addresses: dict[str, Any]) -> dict[str, Any]:
    """The scope of an exchange.

    Raises:
      Refusal: if it is none that this server can answer.
    """
    version = request.http_version
    if version not in _VERSIONS:
        raise Refusal(505, f"this is no HTTP/1.1: {version.decode('ascii')}")
    method = request.method.decode("ascii")
    headers = list(request.headers)
    host, raw_path, query = _split_target(method, request.target)
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            raise Refusal(400, "the Host is no host")
    if host is not None:  # it counts, not the header: RFC 9112, 3.2.2
        headers = [(b"host", host), *(each for each in headers if each[0] != b"host")]
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version.decode("ascii"),
        "method": method,
        "scheme": scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        **addresses,
    }


def _split_target(method: str, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """The host, where it says one, the path and the query string."""
    if method == "CONNECT":
        raise Refusal(501, "this server is no proxy")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return None, path, query
    if target == b"*" and method == "OPTIONS":
        return None, target, b""
    with contextlib.suppress(ValueError):
        parts = urlsplit(target)
        if parts.scheme and parts.netloc and _HOST.fullmatch(parts.netloc):
            return parts.netloc, parts.path or b"/", parts.query
    raise Refusal(400, "the target of the request is no path")


def wants_websocket(request: h11.Request) -> bool:
    """Is it to become a WebSocket?"""
    # HTTP/1.0 knows no Upgrade: RFC 9110, 7.8.
    if request.method != b"GET" or request.http_version == b"1.0":
        return False
    upgrade, connection = _tokens(request, b"upgrade"), _tokens(request, b"connection")
    return b"websocket" in upgrade and b"upgrade" in connection


def _tokens(request: h11.Request, wanted: bytes) -> list[bytes]:
    return [
        token.strip().lower()
        for name, value in request.headers
        if name == wanted
        for token in value.split(b",")
    ]
