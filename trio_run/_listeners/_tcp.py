"""TCPListener: where TCP is listened for. What happens to the connections is decided in _stream."""

from __future__ import annotations

import contextlib
import errno
import socket as stdlib_socket
import sys
from typing import TYPE_CHECKING

import trio

from ._stream import (
    CannotListen,
    Connection,
    Drain,
    StreamListener,
    TLSConnection,
    format_address,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

_FAMILIES = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)
_NOT_TCP = OSError(errno.EPROTOTYPE, "it is not a TCP socket")
_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class TCPListener(StreamListener):
    """An actor that serves TCP, or TLS over TCP, and drains when it is interrupted.

    ``handler(stream)`` is called for each client in a task of its own, and the stream closed when it returns: a
    handler for :func:`trio.serve_tcp` works unchanged. One that raises is logged with its client's address,
    and closes that connection only.

    Interrupted, the listener serves the clients that the kernel has already accepted, closes its sockets, tells
    every connection to end, and waits for the handlers, until its grace or its group's is over; the
    rest is cut. Told to end, by ``drain``:

    * "eof": the handler reads end of file, after what has already arrived, as if the client had hung up.
    * "wait": nothing; the handlers have until the grace is over.
    * "cancel": the handler is cancelled.

    A handler inside :class:`busy` is told when its block ends.

    Its status is "12 connections, 3 busy", and once it has stopped "12 drained, 0 cut".

    Args:
      handler: an async function of one stream.
      port: where to listen; 0 lets the kernel choose, and ``addresses`` tells what. None with ``sockets``.
      host: an address or a name to listen on, None for every interface.
      backlog: how many clients the kernel may hold for us, None for as many as it will.
      ssl_context: speak TLS. The handler's stream is then like a :class:`trio.SSLStream`, its handshake done.
      drain: see above.
      max_connections: how many to serve at once; further clients wait in the kernel's queue. None is no limit.
      reuse_port: share the port with other processes that do the same (SO_REUSEPORT).
      sockets: listen on these, already bound, instead. They are closed in the end.
      name: its name in logs and the report.
      grace: how many seconds it may drain; None for as long as the group's.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there: an OSError that names the address too.
    """

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[object]]
        | Callable[[TLSConnection], Awaitable[object]],
        port: int | None = None,
        *,
        host: str | bytes | None = None,
        backlog: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        drain: Drain = "eof",
        max_connections: int | None = None,
        reuse_port: bool = False,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        if (port is None) == (sockets is None):
            raise ValueError("TCPListener takes either a port or sockets")
        if port is not None and (not isinstance(port, int) or not 0 <= port <= 65535):
            raise ValueError(f"port must be a whole number from 0 to 65535, not {port!r}")
        if host is not None and not isinstance(host, (str, bytes)):
            raise TypeError(f"host must be a name or an address, or None, not {host!r}")
        if sockets is not None and (host is not None or reuse_port):
            raise ValueError("host and reuse_port are for a port: sockets are bound already")
        if reuse_port and not hasattr(
            stdlib_socket, "SO_REUSEPORT"
        ):  # pragma: no cover - not on Linux
            raise ValueError("reuse_port: this platform has no SO_REUSEPORT")
        super().__init__(
            handler,
            name=name or ("tls" if ssl_context else "tcp") + (f":{port}" if port else ""),
            backlog=backlog,
            ssl_context=ssl_context,
            drain=drain,
            max_connections=max_connections,
            sockets=sockets,
            grace=grace,
        )
        self._host = host
        self._port = port
        self._reuse_port = reuse_port

    async def _open(self) -> None:
        if not self._sockets:
            await self._bind()
        for bound in self._sockets:
            if bound.family not in _FAMILIES or bound.type != stdlib_socket.SOCK_STREAM:
                raise CannotListen(format_address(bound.getsockname()), _NOT_TCP)
            # As trio.SocketStream has them. What is accepted inherits them: that saves a system call each.
            bound.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError, AttributeError):
                bound.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NOTSENT_LOWAT, 2**14)

    async def _bind(self) -> None:
        host = self._host.decode() if isinstance(self._host, bytes) else self._host
        where = f"{'*' if host is None else host}:{self._port}"
        try:
            found = await trio.socket.getaddrinfo(
                self._host,
                self._port,
                type=stdlib_socket.SOCK_STREAM,
                flags=stdlib_socket.AI_PASSIVE,
            )
        except (OSError, UnicodeError) as exc:  # of the latter kind: a name that can't be one
            raise CannotListen(where, exc) from exc
        missing: OSError | None = None
        for family, kind, protocol, _, address in found:
            try:
                self._bind_one(family, kind, protocol, address)
            except OSError as exc:
                if exc.errno not in _UNAVAILABLE:
                    raise CannotListen(where, exc) from exc
                missing = exc  # IPv6 switched off, say
        if missing is not None and not self._sockets:
            raise CannotListen(where, missing) from missing

    def _bind_one(self, family: int, kind: int, protocol: int, address: object) -> None:
        bound = stdlib_socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it would let anyone take the port over
                bound.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                bound.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
            if family == stdlib_socket.AF_INET6:
                bound.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 1)
            bound.bind(address)  # type: ignore[arg-type]  # what getaddrinfo returned
        except BaseException:
            bound.close()
            raise
        self._sockets.append(bound)
