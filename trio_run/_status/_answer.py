"""Answer: what a path answers in one piece, and the headers that each answer has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

COMMON = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, send: Any) -> None:
        """By the ``send`` of an ASGI app. The connection ends with it, and takes no place."""
        headers = {**length(self.body), "connection": "close", **self.headers}
        await send(start(self.status, self.content_type, headers))
        await send({"type": "http.response.body", "body": self.body})


def text(status: int, content: str, **headers: str) -> Answer:
    """A line of text."""
    return Answer(status, f"{content}\n".encode(errors="backslashreplace"), headers=headers)


def as_json(content: object) -> Answer:
    return Answer(200, f"{json.dumps(content)}\n".encode(), "application/json")


def start(status: int, content_type: str, headers: dict[str, str]) -> dict[str, Any]:
    """The message that begins a response."""
    raw = {"content-type": content_type, **COMMON, **headers}
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode()) for name, value in raw.items()],
    }


def length(body: bytes) -> dict[str, str]:
    return {"content-length": str(len(body))}
