"""Web: the page and its data, and the quit, as a plain ASGI app for an HTTPListener.

Decides what each path answers, and to whom: which pages in a browser may ask is decided in
hosts.py.

What others have sent us is text in JSON, and the page treats it as text. Beyond that its
Content-Security-Policy allows nothing but its own script and style, by their hashes, and the
connections that it makes.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .database import Damaged, SearchTooLong
from .responses import Response, as_json, text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_run import Group, WebSocketListener

    from .counts import Counts
    from .hosts import Hosts
    from .store import Store
    from .tail import Tail

_LONGEST_SEARCH = 1_000  # characters
_LINES, _MOST_LINES = 200, 1_000  # in an answer: if nothing is said, and at the most


class Web:
    """The app."""

    def __init__(
        self,
        group: Group,
        store: Store,
        counts: Counts,
        tail: Tail,
        tail_listener: WebSocketListener,
        hosts: Hosts,
    ) -> None:
        self._group = group
        self._store = store
        self._counts = counts
        self._tail = tail
        self._tail_listener = tail_listener
        self._hosts = hosts
        page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        self._page = page.encode()
        self._policy = _policy(page)
        self._routes: dict[str, tuple[str, Callable[[Any], Awaitable[Response]]]] = {
            "/": ("GET", self._get_page),
            "/lines": ("GET", self._get_lines),
            "/counts": ("GET", self._get_counts),
            "/status": ("GET", self._get_status),
            "/quit": ("POST", self._post_quit),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which refuses it: the tail has its own port
        elif scope["type"] == "http":
            await (await self._answer(scope)).send(send)

    async def _answer(self, scope: Any) -> Response:
        headers = dict(scope["headers"])
        address = scope["server"][0]
        if not self._hosts.is_ours(headers.get(b"host"), address):
            return text(403, "that is no name of this server: see --names")
        if not self._hosts.is_our_page(headers.get(b"origin"), address):
            return text(403, "not for a page of another site")
        if scope["path"] not in self._routes:
            return text(404, "not found")
        method, handler = self._routes[scope["path"]]
        allowed = {"GET": ["GET", "HEAD"]}.get(method, [method])
        if scope["method"] not in allowed:
            return text(405, "method not allowed", allow=", ".join(allowed))
        return await handler(scope)

    async def _get_page(self, scope: Any) -> Response:  # noqa: ARG002
        port = self._tail_port
        policy = f"{self._policy} connect-src 'self' ws://*:{port} wss://*:{port}"
        headers = {"content-security-policy": policy, "referrer-policy": "no-referrer"}
        return Response(200, self._page, "text/html; charset=utf-8", headers)

    async def _get_lines(self, scope: Any) -> Response:
        """The last lines, the newest first: ``?limit=20&search=text``."""
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        search = query.get("search", [""])[-1]
        if len(search) > _LONGEST_SEARCH or "\0" in search:
            return as_json(
                400, {"error": "that is no text to search for: it is too long, or has a NUL"}
            )
        limit = query.get("limit", [str(_LINES)])[-1]
        if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= _MOST_LINES:
            return as_json(400, {"error": f"limit must be a whole number from 1 to {_MOST_LINES}"})
        try:
            lines = await self._store.latest(int(limit), search)
        except SearchTooLong:
            return as_json(503, {"error": "the search took too long"})
        except Damaged as exc:
            return as_json(503, {"error": f"the database is damaged: {exc}"})
        return as_json(200, {"lines": [line._asdict() for line in lines]})

    async def _get_counts(self, scope: Any) -> Response:  # noqa: ARG002
        return as_json(200, {"sources": self._counts.by_source()})

    async def _get_status(self, scope: Any) -> Response:  # noqa: ARG002
        """What the page asks every few seconds. The path is for it alone: see tail.py."""
        tail = {"port": self._tail_port, "path": self._tail.path}
        status = {
            "state": self._group.state.value,
            "ready": self._group.ready,
            "trouble": self._store.trouble,
            "damage": self._store.damage,
            "tail": tail,
        }
        return as_json(200, status)

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
            return text(403, "only from this machine, and not from a browser")
        self._group.stop(f"POST /quit from {client[0]}")
        return text(202, "stopping")

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
