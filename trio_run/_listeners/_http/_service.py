"""What the connections of one HTTPListener share: the app, the limits, the log."""

from __future__ import annotations

import dataclasses
import logging
import random
import sys
from typing import TYPE_CHECKING, Any

from ..._errors import one_line, unwrapped
from .._idle import IdleConnections

if TYPE_CHECKING:
    import contextvars

    from .._connection import Connection
    from .._stream import StreamListener
    from ._forwarded import Proxies
    from ._lifespan import ASGIApp

logger = logging.getLogger("trio_run")
_SILENT = 20.0  # seconds, until the client of a WebSocket is pinged; and again, given up

access_logger = logging.getLogger("trio_run.access")


@dataclasses.dataclass
class Service:
    app: ASGIApp
    listener: StreamListener
    scheme: str
    idle_timeout: float  # seconds
    header_timeout: float
    max_message_size: int  # bytes
    max_requests: int | None
    proxies: Proxies
    state: dict[str, Any] | None = None  # of the lifespan, where the app has one
    context: contextvars.Context | None = None  # of a connection's task, when it begins

    def __post_init__(self) -> None:
        self.idle = IdleConnections(self.idle_timeout, self.listener.start_soon)
        self.silent = IdleConnections(_SILENT, self.listener.start_soon)

    def how_many_requests(self) -> int:
        """So many a connection may bring: not all the same, so that not all end at once."""
        most = self.max_requests
        return sys.maxsize if most is None else most - random.randrange(most // 10 + 1)

    def log_failure(
        self, connection: Connection, what: str, error: Exception, *, left: str
    ) -> None:
        """The app failed, or gave up because of what its client did: "left during", say."""
        name = self.listener.name
        error = unwrapped(error)
        if left:
            logger.info("%s: %s %s %s: %s", name, connection.who, left, what, one_line(error))
        else:
            self.listener.count_failure()
            logger.error(
                "%s: the app failed at %s for %s", name, what, connection.who, exc_info=error
            )

    def log_open_scope(self, connection: Connection, scope: dict[str, Any]) -> None:
        """The app has left a cancel scope open, and a new task goes on."""
        target = scope["raw_path"].decode("ascii")
        logger.warning(
            "%s: the app left a cancel scope open at %r for %s",
            *(self.listener.name, target, connection.who),
        )

    def log_refusal(self, connection: Connection, status: int, reason: str) -> None:
        """A client got an error that is its own doing."""
        logger.info("%s: %d for %s: %s", self.listener.name, status, connection.who, reason)
