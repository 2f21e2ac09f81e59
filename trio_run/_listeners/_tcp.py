"""TCPListener: where TCP is listened for. What happens to the connections is decided in _stream.

A client whose connection is made between the last accept() and the close of the listening socket
would be reset. So at the end a filter drops what begins a handshake. The handshakes that are under
way are finished, and their clients can still be accepted. A client whose handshake is dropped tries
again after a second, by itself, and is refused.
"""

from __future__ import annotations

import array
import math
import socket as stdlib_socket
import struct
import time
from typing import TYPE_CHECKING

from ._bind import Endpoint, bind_internet, check_internet, check_sockets, listen
from ._sending import LITTLE, hold_unsent
from ._stream import Drain, StreamListener, for_stream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from ._connection import Connection
    from ._tls import TLSConnection


HANDSHAKE = 0.002  # seconds, in which a handshake ends that is under way: on one machine it does

# A filter of classic BPF: (what to do, where to go on if so, where if not, with which number).
_ATTACH_FILTER = getattr(stdlib_socket, "SO_ATTACH_FILTER", 26)
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load a byte of the TCP header: its flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
)


class TCPEndpoint(Endpoint):
    """A TCP port, on one address or several."""

    def __init__(
        self,
        listener: str,
        host: str | bytes | None,
        port: int | None,
        sockets: Sequence[stdlib_socket.socket] | None,
        *,
        reuse_port: bool,
    ) -> None:
        check_internet(listener, host, port, sockets, reuse_port=reuse_port)
        super().__init__(sockets)
        self._host = host
        self._port = port
        self._reuse_port = reuse_port

    async def open(self, backlog: int) -> None:
        kind = stdlib_socket.SOCK_STREAM
        if not self.sockets:
            await bind_internet(
                self.sockets, self._host, self._port, kind, reuse_port=self._reuse_port
            )
        check_sockets(self.sockets, kind, "it is not a TCP socket")
        for bound in self.sockets:
            # As trio.SocketStream has them. What is accepted inherits them: that saves a system
            # call each.
            bound.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            hold_unsent(bound, LITTLE)
            listen(bound, backlog)

    def _turn_newcomers_away(self, listening: stdlib_socket.socket) -> None:
        turn_newcomers_away(listening)


def turn_newcomers_away(listening: stdlib_socket.socket) -> None:
    """Nobody can connect any more, and all who have can be accepted, in every process that has it.

    Raises:
      OSError: if the kernel has no such filters.
    """
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    address, _ = program.buffer_info()
    option = struct.pack("HP", len(_DROP_SYN), address)
    listening.setsockopt(stdlib_socket.SOL_SOCKET, _ATTACH_FILTER, option)
    # The kernel's time, not Trio's; and nobody is to find the port half closed.
    time.sleep(HANDSHAKE)


class TCPListener(StreamListener):
    """An actor that serves TCP, or TLS over TCP, and drains when it is interrupted.

    ``handler(stream)`` is called for each client in a task of its own, and the stream closed when
    it returns. A handler for :func:`trio.serve_tcp` works unchanged. One that raises is logged with
    its client's address, and closes that connection only.

    Interrupted, the listener serves the clients that the kernel has already accepted and closes its
    sockets. It drains every connection and waits for the handlers, until its grace or its group's
    is over. The rest is cut. What a handler sees of that depends on ``drain``:

    * "eof": it reads end of file, after what has already arrived, as if the client had hung up.
    * "wait": nothing. It has until the grace is over.
    * "cancel": it is cancelled.

    One that has only just come, and has sent nothing yet, has half a second for its first request.
    A connection whose handler is inside :class:`busy` drains when that block ends. Blocks may
    overlap, one in each of several tasks: then a task that is in no block sees the above at once,
    and the connection ends when the last block does.

    A connection whose block was cut, or left by an exception, ends in a reset, so that its client
    does not take half of a reply for the whole. So does one that was cut in the midst of a
    ``send_all``. The replies before that reach the client first, which may take two seconds. On a
    Unix socket, which has no reset, it ends as any other, and that is logged.

    Its status is "12 connections, 3 busy", and once it has stopped "12 drained, 0 cut".

    Args:
      handler: an async function of one stream.
      port: where to listen. With 0 the kernel chooses, and ``addresses`` says what. None with
        ``sockets``.
      host: an address or a name to listen on, None for every interface.
      backlog: how many clients the kernel may hold for us, None for as many as it will.
      ssl_context: speak TLS. The handler's stream is then like a :class:`trio.SSLStream`, its
        handshake done.
      proxy_protocol: each connection begins, before its TLS, with a header that says who the client
        is, as HAProxy's ``send-proxy`` and ``send-proxy-v2`` have it. It has ten seconds to come.
        The stream's ``peer`` and the log are then of the client. One without a right header is
        closed, which is logged once in a while. Give it only where nobody but the proxy can
        connect: whoever can may claim to be anybody.
      drain: see above.
      max_connections: how many to serve at once. Further clients wait in the kernel's queue. None
        is no limit.
      max_age: a connection that is so many seconds old drains, as at a stop, so that a client of a
        long life comes back to whomever a balancer chooses; up to a tenth earlier, so that those
        that came together do not come back together. What is busy is finished first.
      reuse_port: share the port with other processes that do the same (SO_REUSEPORT).
      sockets: listen on these, already bound, instead. They are closed in the end.
      name: its name in logs and the report.
      grace: how many seconds it may drain, None for as long as the group's.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there: an OSError that names the
        address too.
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
        proxy_protocol: bool = False,
        drain: Drain = "eof",
        max_connections: int | None = None,
        max_age: float = math.inf,
        reuse_port: bool = False,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        super().__init__(
            TCPEndpoint("TCPListener", host, port, sockets, reuse_port=reuse_port),
            for_stream(handler),
            name=name or ("tls" if ssl_context else "tcp") + (f":{port}" if port else ""),
            backlog=backlog,
            ssl_context=ssl_context,
            proxy_protocol=proxy_protocol,
            drain=drain,
            max_connections=max_connections,
            max_age=max_age,
            grace=grace,
        )
