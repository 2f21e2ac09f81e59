"""What a request asks for, as ASGI puts it; or why it is refused."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ._refusal import Refusal

if TYPE_CHECKING:
    from ._parser import Parser

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ASGI = {"version": "3.0", "spec_version": "2.3"}


def read_scope(request: Parser, scheme: str, client: Any, server: Any) -> dict[str, Any]:
    """The scope of an exchange.

    Raises:
      Refusal: if it is none that this server can answer.
    """
    method = request.method.decode("ascii")
    headers = request.headers
    target = request.target
    host = None
    if b"#" in target:  # a proxy may cut off what follows, and think of another path
        raise Refusal(400, "the target of the request has a fragment")
    if target.startswith(b"/") and method != "CONNECT":
        raw_path, _, query = target.partition(b"?")
    else:
        host, raw_path, query = _split_target(method, target)
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise Refusal(400, "the Host is no host")
    if hosts != 1 and (hosts or request.version == "1.1"):
        raise Refusal(400, "there is no Host" if not hosts else "there is more than one Host")
    if host is not None:  # it counts, not the header: RFC 9112, 3.2.2
        headers = [(b"host", host), *(each for each in headers if each[0] != b"host")]
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": _ASGI.copy(),
        "http_version": request.version,
        "method": method,
        "scheme": scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": server,
    }


def _split_target(method: str, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """The host, where it says one, the path and the query string, of one that is no path."""
    if method == "CONNECT":
        raise Refusal(501, "this server is no proxy")
    if target == b"*" and method == "OPTIONS":
        return None, target, b""
    with contextlib.suppress(ValueError):
        parts = urlsplit(target)
        if parts.scheme and parts.netloc and _HOST.fullmatch(parts.netloc):
            return parts.netloc, parts.path or b"/", parts.query
    raise Refusal(400, "the target of the request is no path")


def wants_websocket(request: Parser) -> bool:
    """Is it to become a WebSocket?"""
    # HTTP/1.0 knows no Upgrade: RFC 9110, 7.8.
    return (
        request.upgrades
        and request.method == b"GET"
        and request.version == "1.1"
        and any(
            name == b"upgrade" and b"websocket" in map(bytes.strip, value.lower().split(b","))
            for name, value in request.headers
        )
    )
