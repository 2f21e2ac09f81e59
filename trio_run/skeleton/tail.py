"""Tail: the live tail, over WebSocket: who listens gets each line once it is committed.

Decides what a listener is sent, and what becomes of one that is too slow: it skips lines, the
oldest first, and is told how many. So it costs a bounded amount of memory, and holds up nobody.
Each message is JSON::

    {"lines": [{"id": 7, "received": "2026-01-31T12:00:00.000Z", "source": "127.0.0.1", "text":
    "hello"}], "skipped": 0}

where so many lines were skipped before these.

A browser lets a page of any site open a WebSocket to us, and tells us only that it is a page, and
which (Origin). So a page has to be one of ours (see hosts.py), and to know our secret path, which
it can get from our own page's host alone. A program, which sends no Origin, needs neither.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from typing import TYPE_CHECKING

import trio

from trio_run import busy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_websocket import WebSocketConnection, WebSocketRequest

    from .database import Line
    from .hosts import Hosts

_MOST_WAITING = 1_000  # lines for one listener; then it skips
_MOST_CHARACTERS_WAITING = 2**22
_MOST_IN_MESSAGE = 100  # lines
_MOST_CHARACTERS = 2**18  # in a message, and a line


class Tail:
    """Everyone who listens. :meth:`serve` is a handler for a WebSocketListener; ``path`` is for our
    own page.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.path = f"/{secrets.token_urlsafe()}"
        self._listeners: set[_Listener] = set()

    def publish(self, lines: Sequence[Line]) -> None:
        """Have these sent to whoever listens now."""
        for listener in self._listeners:
            listener.put(lines)

    async def serve(self, request: WebSocketRequest) -> None:
        """One listener. What it says is read, so that its leaving is noticed, and ignored."""
        origin = dict(request.headers).get(b"origin")
        address = getattr(request.local, "address", "")
        is_our_page = request.path == self.path and self._hosts.is_our_page(origin, address)
        if origin is not None and not is_our_page:
            await request.reject(403)
            return
        listener = _Listener()
        self._listeners.add(listener)  # before it is accepted: then it misses nothing
        try:
            websocket = await request.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.send_to, websocket)
                while True:
                    await websocket.get_message()  # raises ConnectionClosed in the end
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: deque[Line] = deque()
        self._characters = 0  # in those
        self._skipped = 0
        self._filled = trio.Event()

    def put(self, lines: Sequence[Line]) -> None:
        self._waiting.extend(lines)
        self._characters += sum(len(line.text) for line in lines)
        while len(self._waiting) > _MOST_WAITING or self._characters > _MOST_CHARACTERS_WAITING:
            self._pop()
            self._skipped += 1
        self._filled.set()

    def _pop(self) -> Line:
        line = self._waiting.popleft()
        self._characters -= len(line.text)
        return line

    async def send_to(self, websocket: WebSocketConnection) -> None:
        while True:
            await self._filled.wait()
            with busy():  # what was published before we stop is sent before we say goodbye
                while self._waiting:
                    await websocket.send_message(self._take())
            self._filled = trio.Event()

    def _take(self) -> str:
        lines: list[dict[str, object]] = []
        size = 0
        while self._waiting and len(lines) < _MOST_IN_MESSAGE and size < _MOST_CHARACTERS:
            line = self._pop()
            size += len(line.text)
            lines.append(line._asdict())
        skipped, self._skipped = self._skipped, 0
        return json.dumps({"lines": lines, "skipped": skipped})
