"""Responses: what an ASGI app of ours answers, and the headers that each answer has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Response:
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, send: Any) -> None:
        """Answer with this, by the ``send`` of an ASGI app."""
        headers = {
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **self.headers,
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": self.body})


def text(status: int, content: str, **headers: str) -> Response:
    """A line of text."""
    return Response(status, f"{content}\n".encode(), headers=headers)


def as_json(status: int, content: object) -> Response:
    """The content as JSON."""
    return Response(status, json.dumps(content).encode(), "application/json")
