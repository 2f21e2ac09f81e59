"""HTTPListener: an ASGI app over HTTP/1.1, from its start-up to its shutdown.

This file decides where it is listened for, and when the app starts up and shuts down. What happens
to connections in general is decided in _stream, to requests in _connection.
"""

from __future__ import annotations

import math
import os
import socket as stdlib_socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ..._actor import Cause
from .._bind import check_given, format_address
from .._stream import StreamListener
from .._tcp import TCPEndpoint
from .._unix import UnixEndpoint
from ._forwarded import Proxies
from ._letting_go import let_go
from ._lifespan import ASGIApp, Lifespan

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from .._bind import Endpoint
    from .._connection import Connection
    from .._tls import TLSConnection


class HTTPListener:
    """An actor that serves an ASGI app over HTTP/1.1 and WebSocket, and loses no request at a stop.

    It needs the extra ``http``, which is httptools and websockets. ``app`` is any ASGI 3 app that
    runs on Trio. Its lifespan, where it has one, starts up before the listener listens. A start-up
    that fails is a :class:`CannotStart` with the app's own message. One that raises later stops the
    listener, and is its failure.

    Interrupted, the listener serves the clients that the kernel has already accepted and closes its
    sockets. It closes idle connections at once (one that was only just opened has half a second for
    its first request), and answers the requests in flight whole, uploads included, with
    ``Connection: close``. An open WebSocket gets Close 1001 (going away), and its app
    ``websocket.disconnect`` with that code. If the app has a message in hand, both happen when it
    has answered that, which is when it calls ``receive()`` again. When the last connection has
    ended, and the app has returned from each, its lifespan shuts down. What still runs when the
    grace is over is cut. From the moment of the stop, and so while the group is a lame duck,
    responses say ``Connection: close``. In its second half idle connections are closed evenly, so
    that not all their clients come back elsewhere at once. Add the listener itself, not a function
    that runs it: to that a stop is a soft cancel, which lets requests in flight finish, and ends
    the rest without a word.

    A client that breaks the protocol gets its 4xx (or 501, 505), and one log line. An app that
    raises is logged with its traceback. Its client gets 500, or a reset if some of the response was
    already sent. Each answered request is logged on ``trio_run.access`` at INFO: client, request
    line, status, bytes of the body, seconds.

    A request's head may have 64 kB and 1,000 headers. How long a body may be is the app's business.
    ``Date`` and ``Server`` headers are added where the app has none. A WebSocket that is silent for
    20 seconds gets a Ping, and is given up after 20 more. Nothing is believed of
    ``X-Forwarded-For``, but from the proxies in ``forwarded_allow_ips``.

    Its status is "12 connections, 3 busy", and once it has stopped "12 drained, 0 cut".

    Args:
      app: the ASGI app.
      port: where to listen. With 0 the kernel chooses, and ``addresses`` says what.
      path: listen on a Unix socket there, instead of a port.
      mode: the permissions of that.
      sockets: listen on these, already bound, instead: TCP or Unix.
      idle_timeout: how many seconds a client may stay silent before a request and within a body, or
        take nothing of its response.
      header_timeout: how many seconds it may take for the head of a request, and a proxy for its
        header.
      max_message_size: how many bytes a WebSocket message may have. A longer one ends it with Close
        1009.
      max_age: a connection that is so many seconds old ends, up to a tenth earlier: an idle one at
        once, a WebSocket with Close 1001. A response that is under way is finished first, however
        long that takes. In the tenth before, responses say that they are the last, so that a client
        that asks often has no request on its way.
      max_requests: a connection ends with so many; with up to a tenth less. None is no limit.
      forwarded_allow_ips: the addresses and networks of proxies that are believed when they say, in
        X-Forwarded-For and X-Forwarded-Proto, whose request it is; "*" is whoever asks. The app's
        ``client`` and ``scheme`` and the access log are then of that. A single string may have
        several, with commas.
      host, backlog, ssl_context, proxy_protocol, max_connections, reuse_port, name, grace: as for
        :class:`TCPListener`.

    Raises:
      ImportError: if the extra is not installed.
      TypeError, ValueError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there, or the app can't start up.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int | None = None,
        *,
        host: str | bytes | None = None,
        path: str | bytes | os.PathLike[str] | None = None,
        mode: int = 0o600,
        backlog: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy_protocol: bool = False,
        idle_timeout: float = 75.0,
        header_timeout: float = 10.0,
        max_message_size: int = 2**24,
        max_requests: int | None = None,
        forwarded_allow_ips: str | Iterable[str] = (),
        max_connections: int | None = None,
        max_age: float = math.inf,
        reuse_port: bool = False,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        try:
            from ._connection import HTTPConnection
            from ._service import Service
        except ImportError as exc:
            raise ImportError(
                "HTTPListener needs httptools and websockets: pip install 'trio-run[http]'"
            ) from exc
        if not callable(app):
            raise TypeError(f"the app must be an ASGI app, not {app!r}")
        for what, number in (
            ("idle_timeout", idle_timeout),
            ("header_timeout", header_timeout),
            ("max_message_size", max_message_size),
        ):
            if isinstance(number, bool) or not (isinstance(number, (int, float)) and number > 0):
                raise ValueError(f"{what} must be a number greater than 0, not {number!r}")
        if max_requests is not None and (type(max_requests) is not int or max_requests < 1):
            raise ValueError(
                f"max_requests must be a positive whole number or None, not {max_requests!r}"
            )
        scheme = "https" if ssl_context else "http"
        if [port, path, sockets].count(None) != 2:
            raise ValueError("HTTPListener takes either a port, a path or sockets")
        if port is None and (host is not None or reuse_port):
            raise ValueError("host and reuse_port go with a port")
        check_given(sockets)
        endpoint: Endpoint
        if path is not None or (sockets is not None and _is_unix(sockets)):
            endpoint = UnixEndpoint("HTTPListener", path, sockets, mode=mode)
            name = name or f"{scheme}:{format_address(endpoint.path or 'unix')}"
        else:
            endpoint = TCPEndpoint("HTTPListener", host, port, sockets, reuse_port=reuse_port)
            name = name or scheme + (f":{port}" if port else "")
        self._listener = StreamListener(
            endpoint,
            self._converse,
            owner=self,
            name=name,
            backlog=backlog,
            ssl_context=ssl_context,
            proxy_protocol=proxy_protocol,
            max_connections=max_connections,
            max_age=max_age,
            grace=grace,
            header_within=header_timeout,
            let_go=self._let_go_idle,
        )
        self.name = name
        self.grace = grace
        self._app = app
        self._serve = HTTPConnection
        self._service = Service(
            app=app,
            listener=self._listener,
            scheme=scheme,
            idle_timeout=idle_timeout,
            header_timeout=header_timeout,
            max_message_size=max_message_size,
            max_requests=max_requests,
            proxies=Proxies(forwarded_allow_ips),
        )

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where it listens, once it does."""
        return self._listener.addresses

    @property
    def status(self) -> str:
        """As :attr:`TCPListener.status`."""
        return self._listener.status

    def interrupt(self, cause: Cause) -> None:
        """Begin to drain."""
        self._listener.interrupt(cause)

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the app up, listen, serve until interrupted and drained, and shut the app down.

        Started with its addresses when it listens.
        """
        lifespan = Lifespan(self._app, self.name)

        async def serve() -> None:
            self._service.state = lifespan.state
            await self._listener.execute(task_status=task_status)

        await lifespan.around(serve, partial(self.interrupt, Cause()))

    async def _let_go_idle(self, ends: float) -> None:
        await let_go(self._service.idle.connections, ends)

    async def _converse(self, connection: Connection, stream: Connection | TLSConnection) -> None:
        await self._serve(self._service, connection, stream).serve()


def _is_unix(sockets: Sequence[stdlib_socket.socket]) -> bool:
    unix = getattr(stdlib_socket, "AF_UNIX", None)
    return all(given.family == unix for given in sockets)
