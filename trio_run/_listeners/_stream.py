"""What every listener for streams does: who is accepted when, and how a listener drains.

Where it listens is its endpoint's business (_tcp, _unix). What a connection sees when it drains is
decided in _connection, what a client is answered by the function that a listener is given.
"""

from __future__ import annotations

import errno
import logging
import math
import ssl
import sys
from typing import TYPE_CHECKING, Any, Literal

import trio

from .._errors import split_cancelled
from .._inside import Inside, place
from ._age import Ages
from ._bind import has_clients, queue_length, turn_away
from ._connection import Connection
from ._linger import lingering
from ._proxy_protocol import HEADER_WITHIN, ProxyHeaders
from ._readiness import Readiness
from ._tls import TLSConnection

if TYPE_CHECKING:
    import socket as stdlib_socket
    from collections.abc import Awaitable, Callable, Sequence

    from .._actor import Cause
    from ._bind import Endpoint

logger = logging.getLogger("trio_run")

Drain = Literal["eof", "wait", "cancel"]

_TASK = "trio_run connection"  # one name for all: Trio would make a string for each
_ACCEPT_AT_ONCE = 100  # then others get their turn
_ACCEPT_GIVEN = 1  # of sockets that other workers may have too, so that each gets its share
_DRAIN_AT_ONCE = 100  # then these end: the first client need not wait for the last one's turn
_PAUSE = 0.1  # seconds without accepting when descriptors or memory have run out

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOT_LISTENING = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})


def for_stream(
    handler: Callable[[Any], Awaitable[object]],
) -> Callable[[Connection, Any], Awaitable[object]]:
    """A handler of one stream, as what a StreamListener calls.

    Raises:
      TypeError: if it can't be called.
    """
    if not callable(handler):
        raise TypeError(f"the handler must be an async function of one stream, not {handler!r}")
    return lambda _connection, stream: handler(stream)


class StreamListener:
    """What the listeners for streams share.

    ``converse(connection, stream)`` is called for each client. The stream is what is read and sent:
    the connection itself, or TLS over it. ``owner`` is the actor whose interrupt is this
    listener's, where that is not the listener itself. A header of the PROXY protocol may take
    ``header_within`` seconds. ``shields`` has busy blocks shield from
    every cancel of the handler's own at a stop. ``let_go(ends)`` may drain idle connections while
    the listener's group is a lame duck, until that ends.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        converse: Callable[[Connection, Any], Awaitable[object]],
        *,
        name: str,
        backlog: int | None,
        ssl_context: ssl.SSLContext | None,
        proxy_protocol: bool,
        max_connections: int | None,
        max_age: float,
        grace: float | None,
        drain: Drain = "eof",
        owner: object | None = None,
        header_within: float = HEADER_WITHIN,
        shields: bool = False,
        let_go: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        if drain not in ("eof", "wait", "cancel"):
            raise ValueError(f'drain must be "eof", "wait" or "cancel", not {drain!r}')
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
        if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "ssl_context is one for clients: make one for a server, with "
                "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            )
        for what, number in (("max_connections", max_connections), ("backlog", backlog)):
            if number is not None and (type(number) is not int or number < 1):
                raise ValueError(f"{what} must be a positive whole number or None, not {number!r}")
        if not isinstance(proxy_protocol, bool):
            raise TypeError(f"proxy_protocol must be True or False, not {proxy_protocol!r}")
        if isinstance(max_age, bool) or not (isinstance(max_age, (int, float)) and max_age > 0):
            raise ValueError(
                "max_age must be a number of seconds greater than 0, or math.inf for no limit, "
                f"not {max_age!r}"
            )
        if drain == "wait" and max_age < math.inf:
            raise ValueError('max_age has a connection drain: with drain="wait" none does')
        self.name = name
        self.grace = grace
        self.addresses: tuple[Any, ...] = ()
        self._endpoint = endpoint
        self._converse = converse
        self._owner = self if owner is None else owner
        self._backlog = 0xFFFF if backlog is None else backlog  # the kernel has a limit of its own
        self._ssl_context = ssl_context
        self._drain = drain
        self._headers = ProxyHeaders(name, within=header_within) if proxy_protocol else None
        self._shields = shields
        self._let_go = let_go
        self._most = sys.maxsize if max_connections is None else max_connections
        self._accepting = trio.CancelScope()
        self._connections: set[Connection] = set()
        self._ages = Ages(max_age, self.start_soon)
        self._readiness = Readiness()
        self._room = trio.Event()
        self._exhausted = False  # short of descriptors or memory, and has logged it
        self._was_interrupted = False
        self._lame_duck = trio.Event()
        self._lame_duck_ends = math.inf
        self._draining = False
        self._is_emptying_queues = False
        self._drained = self._cut = self._failed = 0

    @property
    def status(self) -> str:
        """How many connections, and how many of them busy; in the end how many drained and cut."""
        if self._draining and not self._connections:
            status = f"{self._drained:,} drained, {self._cut:,} cut"
        else:
            busy = sum(connection.busy for connection in self._connections)
            count = len(self._connections)
            status = f"{count:,} connection{'' if count == 1 else 's'}, {busy:,} busy"
        return status + (f", {self._failed:,} failed" if self._failed else "")

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def is_leaving(self) -> bool:
        """Will it drain soon, or does it? Some time lies between a stop and its first drain."""
        return self._was_interrupted or self._draining or self._inside.is_leaving()

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Begin to drain."""
        self._was_interrupted = True
        self._accepting.cancel("the listener was interrupted")

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen, and serve until interrupted and drained.

        Started with its addresses when it listens.
        """
        here = place.get()
        self._inside = Inside() if here is None else here.inside
        # Where we are the actor itself, nobody cancels a handler softly but we: by draining.
        ours = getattr(self._inside, "actor", None) is self._owner
        self._shielded = not ours or self._drain == "cancel" or self._shields
        try:
            await self._endpoint.open(self._backlog)
            self.addresses = self._endpoint.addresses
            async with self._readiness.running(), trio.open_nursery() as self._nursery:
                task_status.started(self.addresses)
                self._inside.call_at_lame_duck(self._begin_lame_duck)
                try:
                    with self._accepting:
                        async with trio.open_nursery() as acceptors:
                            acceptors.start_soon(self._let_go_in_time)
                            for listening in self._endpoint.sockets:
                                acceptors.start_soon(self._accept, listening)
                finally:
                    self._draining = True
                    self._inside.call_no_more(self._begin_lame_duck)
                await self._start_draining()
            # The handlers have kept their cancels to themselves.
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            self._disappear()
            if self._is_emptying_queues:
                self._cut += sum(map(turn_away, self._endpoint.sockets))
            self._endpoint.close()

    def _begin_lame_duck(self, ends: float) -> None:
        self._lame_duck_ends = ends
        self._lame_duck.set()

    async def _let_go_in_time(self) -> None:
        """Let idle connections go, where that is done, while our group is a lame duck."""
        while self._let_go is not None:
            await self._lame_duck.wait()
            self._lame_duck = trio.Event()
            await self._let_go(self._lame_duck_ends)

    async def _start_draining(self) -> None:
        self._disappear()
        self._is_emptying_queues = True
        for listening in self._endpoint.sockets:
            await self._accept_queued(listening)
            # Not before its queue is empty: who would have to wait for long had better be refused.
            if self._endpoint.turn_newcomers_away(listening):
                await self._accept_queued(listening)
            listening.close()
        self._is_emptying_queues = False
        await self._drain_all()

    def _disappear(self) -> None:
        try:
            self._endpoint.disappear()
        except OSError as exc:  # it has given up its rights, say: that is no reason to lose clients
            logger.warning("%s: cannot remove %s: %s", self.name, exc.filename, exc.strerror)

    async def _drain_all(self) -> None:
        """Drain all that are there. Who comes later drains from the beginning."""
        for number, connection in enumerate(list(self._connections), 1):
            if not connection.closed:
                self._drain_one(connection)
            if number % _DRAIN_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _drain_one(self, connection: Connection) -> None:
        connection.hurry()
        if self._drain != "wait" and not connection.draining:
            connection.drain()

    # Accepting.

    async def _accept(self, listening: stdlib_socket.socket) -> None:
        while True:
            while len(self._connections) >= self._most:
                await self._wait_for_room()
            await trio.lowlevel.wait_readable(listening)
            await self._accept_some(listening)

    async def _accept_some(self, listening: stdlib_socket.socket) -> None:
        """Accept what is there and there is room for."""
        shares = self._endpoint.are_given and not self._exhausted  # else it is to see the last
        for _ in range(_ACCEPT_GIVEN if shares else _ACCEPT_AT_ONCE):
            if len(self._connections) >= self._most:
                return
            try:
                if not self._accept_one(listening):
                    return
            except OSError as exc:
                self._pause(exc)
                await trio.sleep(_PAUSE)
                return

    async def _accept_queued(self, listening: stdlib_socket.socket) -> None:
        """Accept whoever has connected.

        What the kernel has accepted is a client's connection: closing the socket would reset it.
        Nobody is served meanwhile, or clients that come back at once would keep the queue full.
        Only where there is no room for all, others have to leave first: then those who are in the
        queue by then have their turn, and nobody who comes later.
        """
        tries = 0
        most = self._backlog
        has_waited = False
        while tries <= most:
            if len(self._connections) < self._most:
                try:
                    if not self._accept_one(listening):
                        return
                    tries += 1
                    continue
                except OSError as exc:
                    self._pause(exc)
            if not has_clients(listening):
                return
            if not has_waited:
                has_waited = True
                most = min(most, tries + queue_length(listening, self._backlog))
                await self._drain_all()
                continue  # there may be room by now
            # Where descriptors are short, others than we may make room too.
            with trio.move_on_after(_PAUSE if self._exhausted else math.inf):
                await self._wait_for_room()

    def _accept_one(self, listening: stdlib_socket.socket) -> bool:
        """Returns False if there was nobody."""
        try:
            accepted, peer = listening.accept()
        except BlockingIOError:
            self._exhausted = False  # all are in
            return False
        except OSError as exc:
            if exc.errno in _NOT_LISTENING or exc.errno in _EXHAUSTED:
                raise
            return True  # that client is gone already
        accepted.setblocking(False)
        connection = Connection(
            accepted,
            peer,
            self._inside,
            shielded=self._shielded,
            watch=self._readiness.watch(accepted),
        )
        self._connections.add(connection)
        self._ages.add(connection)
        if self._draining:
            self._drain_one(connection)
        self._nursery.start_soon(self._serve, connection, name=_TASK)
        return True

    def _pause(self, exc: OSError) -> None:
        """Accepting is to pause for a lack of descriptors or memory. Any other error is raised."""
        if exc.errno not in _EXHAUSTED:
            raise exc
        if not self._exhausted:
            self._exhausted = True
            logger.error("%s: accepting is paused: %s (%s)", self.name, exc.strerror, self.status)

    async def _wait_for_room(self) -> None:
        """Wait until a connection has ended."""
        if self._room.is_set():
            self._room = trio.Event()
        await self._room.wait()

    # Serving.

    # A connection at rest waits in each of these, and each frame is memory: so there are few.

    def _serve(self, connection: Connection) -> Awaitable[None]:
        """The task of one connection."""
        if self._headers is not None:
            return self._own(connection, self._serve_proxied(connection, self._headers))
        if self._ssl_context is None:
            return self._own(connection, self._converse_with(connection, connection, self._begin))
        return self._own(connection, self._serve_tls(connection, self._ssl_context))

    async def take_over(
        self,
        connection: Connection,
        stream: Connection | TLSConnection,
        converse: Callable[[], Awaitable[object]],
    ) -> None:
        """Serve it in this task from now on. In the task that did, nothing is done any more."""
        serving = self._converse_with(connection, stream, lambda *_: converse())
        await self._own(connection, serving)

    async def _own(self, connection: Connection, serving: Awaitable[None]) -> None:
        """What becomes of a connection, and when it is over, is decided in one task at a time."""
        task = connection.task = trio.lowlevel.current_task()
        cancelled = False
        try:
            try:
                await serving
            except BaseException as exc:  # an Ending would be memory of each connection at rest
                cancelled, error = split_cancelled(exc)
                if not (error is None or isinstance(error, Exception)):
                    raise
                if connection.task is task and error is not None:
                    self.log_failure(connection, error)
            if connection.task is task and connection.is_torn:
                await self._end_torn(connection)
        finally:
            if connection.task is task:
                connection.close()
                self._connections.discard(connection)
                self._ages.discard(connection)
                self._room.set()
                self._cut += cancelled
                self._drained += self._draining and not cancelled

    async def _end_torn(self, connection: Connection) -> None:
        """Its client did not get the whole of a reply, and is to see that."""
        await connection.finish()
        if connection.is_unix:
            logger.warning(
                "%s: %s got half a reply: a Unix socket has no reset",
                self.name,
                connection.who,
            )

    async def _serve_proxied(self, connection: Connection, headers: ProxyHeaders) -> None:
        """One that a proxy has made for its client, as the header says that comes first."""
        if not await headers.read(connection):
            return
        if self._ssl_context is None:
            await self._converse_with(connection, connection, self._begin)
        else:
            await self._serve_tls(connection, self._ssl_context)

    async def _serve_tls(self, connection: Connection, context: ssl.SSLContext) -> None:
        stream = TLSConnection(connection, context)
        if (reason := await stream.shake_hands()) is not None:
            logger.info("%s: no TLS handshake with %s: %s", self.name, connection.who, reason)
            return
        await self._converse_with(connection, stream, self._begin)

    def _begin(
        self, connection: Connection, stream: Connection | TLSConnection
    ) -> Awaitable[object]:
        """The handler's, from here on."""
        place.set(connection)
        connection.begin()
        return self._converse(connection, stream)

    async def _converse_with(
        self,
        connection: Connection,
        stream: Connection | TLSConnection,
        converse: Callable[[Connection, Any], Awaitable[object]],
    ) -> None:
        """Answer a client, and end the connection, unless it was taken over meanwhile."""
        task = connection.task
        has_failed = False
        try:
            if self._drain == "cancel":
                with trio.CancelScope() as connection.scope:
                    await converse(connection, stream)
            else:
                await converse(connection, stream)
        except Exception as exc:
            self.log_failure(connection, exc)
            has_failed = True
        if connection.task is not task:
            return
        if stream is connection or has_failed:
            # After a failure no close_notify: what was sent may not be the whole.
            await connection.finish()
        else:
            with lingering():
                await stream.aclose()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task that a stop waits for, as it does for handlers."""
        self._nursery.start_soon(function, *args)

    def count_failure(self) -> None:
        self._failed += 1

    def log_failure(self, connection: Connection, error: BaseException) -> None:
        self.count_failure()
        if isinstance(error, trio.BrokenResourceError):  # the client's doing, no mistake of ours
            logger.info("%s: the connection from %s broke: %s", self.name, connection.who, error)
        else:
            logger.error("%s: the handler failed for %s", self.name, connection.who, exc_info=error)
