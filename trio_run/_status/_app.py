"""The app: what each path of a StatusPage answers, as ASGI has it.

Who may ask is decided in _guard, when a viewer sees more in _viewers.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._errors import one_line
from ._answer import Answer, as_json, start, text
from ._metrics import metrics
from ._news import News
from ._page import page
from ._snapshot import as_data, names_of_the_rest
from ._viewers import Viewers

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._group import Group
    from ._guard import Guard

_VIEWERS = 32
_MOST = 100  # actors of a group that the page shows
_NAMES = 10  # in the last line
_FOR_ANYBODY = frozenset({"/livez", "/readyz"})  # they say nothing that a stranger may not know


class App:
    """Answers for one group.

    Args:
      guard: who may ask.
      can_stop: may the page stop the group?
      check: see StatusPage.
    """

    def __init__(
        self, guard: Guard, *, can_stop: bool, check: Callable[[], str | None] | None
    ) -> None:
        self.viewers = Viewers(_VIEWERS)
        self._news = News(self.viewers.ring)
        self._guard = guard
        self._check = check
        self._can_stop = can_stop
        self._run = secrets.token_hex(4)  # so that the page knows when it is another process
        self._group: Group | None = None
        self._page: Answer | None = None
        self._get: dict[str, Callable[[Group], Answer]] = {
            "/": self._get_page,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/status": self._get_status,
            "/metrics": self._get_metrics,
        }

    def attach(self, group: Group) -> None:
        """Answer for this group, from now on."""
        self._group = group
        self._news.hear_of(group)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # which refuses it
        elif scope["type"] == "http":
            assert self._group is not None
            answer = self._answer(scope, self._group)
            if answer is not None:
                await answer.send(send)
            else:
                await self._stream(self._group, receive, send)

    def _answer(self, scope: Any, group: Group) -> Answer | None:
        """What is answered in one piece; None if it is to be the stream."""
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        (host, port) = scope["server"]
        if path not in _FOR_ANYBODY and not self._guard.is_asked_as_us(
            headers, None if port is None else host
        ):
            return text(403, "that is no name of this machine: ask by its address")
        if path == "/stop" and self._can_stop:
            if method != "POST":
                return text(405, "only a POST stops", allow="POST")
            return self._post_stop(scope, group, headers)
        if path != "/events" and path not in self._get:
            return text(404, "there are /, /livez, /readyz, /status, /metrics and /events")
        if method not in ("GET", "HEAD"):
            return text(405, "method not allowed", allow="GET, HEAD")
        if path in self._get:
            return self._get[path](group)
        if method == "HEAD":
            return Answer(200, b"", "text/event-stream")
        if self.viewers.are_too_many or self.viewers.is_over:
            return text(503, "there are too many viewers, or it is over")
        return None

    def _livez(self, group: Group) -> Answer:  # noqa: ARG002
        try:
            trouble = self._check() if self._check is not None else None
        except Exception as exc:  # who can't say that it is well is not
            trouble = f"the check raised {one_line(exc)}"
        return text(503, trouble) if trouble else text(200, "alive")

    def _readyz(self, group: Group) -> Answer:
        if group.ready:
            return text(200, "ready")
        state = group.state.value
        return text(503, "not ready" if state == "running" else state)

    def _get_status(self, group: Group) -> Answer:
        self._news.hear_of(group)  # there may be new groups inside it
        return as_json(as_data(group))

    def _get_metrics(self, group: Group) -> Answer:
        self._news.hear_of(group)
        return metrics(group, self._news.counts)

    def _get_page(self, group: Group) -> Answer:
        if self._page is None:
            self._page = page(group.name, self._guard.token if self._can_stop else None)
        return self._page

    def _post_stop(self, scope: Any, group: Group, headers: dict[bytes, bytes]) -> Answer:
        if not self._guard.may_stop(headers):
            return text(403, "only the page itself may stop the group")
        client = scope["client"]
        who = f" by {client[0]}" if client else ""
        group.stop(f"a stop was requested on the status page{who}")
        return text(202, "stopping")

    # The stream.

    async def _stream(self, group: Group, receive: Any, send: Any) -> None:
        """How it is, again and again, as server-sent events."""
        number, has_ended = 0, False

        async def show() -> None:
            nonlocal number, has_ended
            self._news.hear_of(group)
            is_last = self.viewers.is_over
            events, last = self._news.since(number)
            rest = names_of_the_rest(group) if is_last else []
            shown = as_data(group, _MOST)
            if rest:  # who may still fail
                shown["exit_code"] = None
            message = {
                "run": self._run,
                "group": shown,
                "events": events,
                "over": is_last,
                "rest": rest[:_NAMES],
                "rest_left_out": len(rest[_NAMES:]),
            }
            body = f"data: {json.dumps(message)}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            number, has_ended = last, is_last  # not where it was cut

        await receive()  # the request, which has no body
        await send(start(200, "text/event-stream", {}))
        try:
            await self.viewers.look(show, receive, lambda: not names_of_the_rest(group))
        except* OSError:
            pass  # he has left, in the midst of what he was sent
        if not has_ended:  # he has left, and by this the response is as it should be to the server
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b""})
