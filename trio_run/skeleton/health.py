"""Health: what a load balancer, or who starts us again, is answered: an app for a port of its own.

Decides what counts as alive, and as ready. ``/livez`` is 200 as long as we answer, and know of no
damage to the database: restart us if not. ``/readyz`` is 200 only while we should be sent work: 503
at the start, in the lame duck, and after.

The port is its own, so that it answers when others are full of clients, and until all else has
stopped. It says nothing that a stranger may not know: so anybody may ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .responses import Response, text

if TYPE_CHECKING:
    from trio_run import Group

    from .store import Store


class Health:
    """The app."""

    def __init__(self, group: Group, store: Store) -> None:
        self._group = group
        self._store = store

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which refuses it
        elif scope["type"] == "http":
            await self._answer(scope["path"]).send(send)

    def _answer(self, path: str) -> Response:
        if path == "/livez":
            damage = self._store.damage
            return text(503, f"the database is damaged: {damage}") if damage else text(200, "alive")
        if path == "/readyz":
            return text(200 if self._group.ready else 503, self._group.state.value)
        return text(404, "there are /livez and /readyz")
