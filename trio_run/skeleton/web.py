"""Web: the page and its data, health, and the quit, as a plain ASGI app for an HTTPListener.

Decides what each path answers, and to whom. ``/livez`` is 200 as long as we answer at all: restart
us if not. ``/readyz`` is 200 only while we should be sent work: 503 at the start, in the lame duck,
and after.

What others have sent us is text in JSON, and the page treats it as text. Beyond that its
Content-Security-Policy allows nothing but its own script and style, by their hashes, and the
connections that it makes.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .database import SearchTooLong

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_run import Group, WebSocketListener

    from .counts import Counts
    from .store import Store
    from .tail import Tail

_LONGEST_SEARCH = 1_000  # characters
_LINES, _MOST_LINES = 200, 1_000  # in an answer: if nothing is said, and at the most


@dataclass(frozen=True)
class Response:
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


def _text(status: int, text: str, **headers: str) -> Response:
    return Response(status, f"{text}\n".encode(), headers=headers)


def _json(status: int, content: object) -> Response:
    return Response(status, json.dumps(content).encode(), "application/json")


class Web:
    """The app."""

    def __init__(
        self,
        group: Group,
        store: Store,
        counts: Counts,
        tail: Tail,
        tail_listener: WebSocketListener,
    ) -> None:
        self._group = group
        self._store = store
        self._counts = counts
        self._tail = tail
        self._tail_listener = tail_listener
        page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        self._page = page.encode()
        self._policy = _policy(page)
        self._routes: dict[str, tuple[str, Callable[[Any], Awaitable[Response]]]] = {
            "/": ("GET", self._get_page),
            "/lines": ("GET", self._get_lines),
            "/counts": ("GET", self._get_counts),
            "/status": ("GET", self._get_status),
            "/livez": ("GET", self._get_livez),
            "/readyz": ("GET", self._get_readyz),
            "/quit": ("POST", self._post_quit),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which refuses it: the tail has its own port
        elif scope["type"] == "http":
            response = await self._answer(scope)
            headers = {
                "content-type": response.content_type,
                "content-length": str(len(response.body)),
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                **response.headers,
            }
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": response.status, "headers": raw})
            await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, scope: Any) -> Response:
        if scope["path"] not in self._routes:
            return _text(404, "not found")
        method, handler = self._routes[scope["path"]]
        allowed = {"GET": ["GET", "HEAD"]}.get(method, [method])
        if scope["method"] not in allowed:
            return _text(405, "method not allowed", allow=", ".join(allowed))
        return await handler(scope)

    async def _get_page(self, scope: Any) -> Response:  # noqa: ARG002
        policy = f"{self._policy} connect-src 'self' ws://*:{self._tail_port}"
        headers = {"content-security-policy": policy, "referrer-policy": "no-referrer"}
        return Response(200, self._page, "text/html; charset=utf-8", headers)

    async def _get_lines(self, scope: Any) -> Response:
        """The last lines, the newest first: ``?limit=20&search=text``."""
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        search = query.get("search", [""])[-1]
        if len(search) > _LONGEST_SEARCH or "\0" in search:
            return _json(
                400, {"error": "that is no text to search for: it is too long, or has a NUL"}
            )
        limit = query.get("limit", [str(_LINES)])[-1]
        if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= _MOST_LINES:
            return _json(400, {"error": f"limit must be a whole number from 1 to {_MOST_LINES}"})
        try:
            lines = await self._store.latest(int(limit), search)
        except SearchTooLong:
            return _json(503, {"error": "the search took too long"})
        return _json(200, {"lines": [line._asdict() for line in lines]})

    async def _get_counts(self, scope: Any) -> Response:  # noqa: ARG002
        return _json(200, {"sources": self._counts.by_source()})

    async def _get_status(self, scope: Any) -> Response:  # noqa: ARG002
        """What the page asks every few seconds. The path is for it alone: see tail.py."""
        tail = {"port": self._tail_port, "path": self._tail.path}
        status = {
            "state": self._group.state.value,
            "ready": self._group.ready,
            "trouble": self._store.trouble,
            "tail": tail,
        }
        return _json(200, status)

    async def _get_livez(self, scope: Any) -> Response:  # noqa: ARG002
        return _text(200, "alive")

    async def _get_readyz(self, scope: Any) -> Response:  # noqa: ARG002
        return _text(200 if self._group.ready else 503, self._group.state.value)

    async def _post_quit(self, scope: Any) -> Response:
        """Stop, for who is on this machine, and no browser: any site can have that send a POST,
        with its Origin.

        Behind a proxy on this machine everyone is: have it refuse the path.
        """
        client = scope["client"]
        headers = dict(scope["headers"])
        if (
            client is None
            or not ipaddress.ip_address(client[0]).is_loopback
            or b"origin" in headers
        ):
            return _text(403, "only from this machine, and not from a browser")
        self._group.stop(f"POST /quit from {client[0]}")
        return _text(202, "stopping")

    @property
    def _tail_port(self) -> int:
        return int(self._tail_listener.addresses[0][1])


def _policy(page: str) -> str:
    """The Content-Security-Policy of a page, but for what it may connect to.

    That can't be said as narrowly as one wishes: there is no word for "this host, another port".
    """
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "img-src data:;"
    )
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy += f" {tag}-src 'sha256-{digest}';"
    return policy
